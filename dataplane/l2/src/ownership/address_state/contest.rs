//! Two nodes whose views of the API differ ([`api_view`](crate::ownership::api_view)) about an address:
//!
//! | difference | result |
//! | --- | --- |
//! | the view of a candidate is old | it is passed over after a moment, because it may not know the address |
//! | the owner is no candidate in its own view | its entry is `Leaving`: the others need not know why |
//! | the owner is no candidate in the view of another node | that node claims the address and contests it with the version of its candidates; the greater version wins. The loser leaves the address to the winner until that withdraws, or until its own candidates change |
//! | an owner with a newer view is no candidate in ours | it keeps the address |
//! | the same, and it does not hear us | MetalLB's hash of the node names decides, as without heartbeats |

use std::net::IpAddr;
use std::time::Duration;

use super::{AddressState, Context, LOCAL_NODE};
use crate::ownership::decision::{Action, keeps};
use crate::ownership::failure_detector::NodeId;
use crate::wire::heartbeat::{Entry, EntryState};

/// How often a view is compared again that is older than that of an owner.
const RECHECK_INTERVAL: Duration = Duration::from_millis(250);

impl AddressState {
    /// The heard announcers that keep the address although they may be no candidates in our view, because theirs is newer.
    pub(super) fn owners_by_a_newer_view(
        &mut self,
        address: IpAddr,
        candidates: &[NodeId],
        announcers: &[NodeId],
        ctx: &mut Context,
    ) -> Vec<NodeId> {
        let still_announces = |id: &NodeId| {
            let peer = ctx.peers.get(id);
            peer.is_some_and(|peer| peer.announced.announces(address))
        };
        let mut overruled_by = self.overruled_by.filter(still_announces);
        let (mut owners, mut recheck) = (Vec::new(), false);
        for id in announcers.iter().copied().filter(|id| *id != LOCAL_NODE) {
            let Some(peer) = ctx.peers.get(&id) else {
                continue;
            };
            let health = ctx.health_for(address, None, id);
            if !health.is_heard() || !keeps(health) {
                continue;
            }
            let loses = self.wins_against(address, id, ctx) == Some(false);
            if loses && peer.announced.contested_with(address).is_some() {
                overruled_by = Some(id);
            }
            // It cannot hear that we contest, so both sides decide by what they see on the network.
            let is_deaf = !ctx.hear_each_other(id);
            let is_newer = peer.api_version > ctx.api_view.ours() && !candidates.contains(&id);
            recheck |= is_newer || is_deaf;
            let is_newer = is_newer && !ctx.announced.announces(address);
            if is_deaf && loses || is_newer || overruled_by == Some(id) {
                owners.push(id);
            }
        }
        if recheck {
            ctx.deadlines.insert((ctx.now + RECHECK_INTERVAL, address));
        }
        self.overruled_by = overruled_by;
        owners
    }

    /// Updates the entry of an address that we announce: whether we leave it, or contest that another node announces it.
    pub(super) fn update_entry(
        &self,
        address: IpAddr,
        action: Action,
        candidates: &[NodeId],
        ctx: &mut Context,
    ) {
        if !ctx.announced.announces(address) || ctx.announced.offered_to(address).is_some() {
            return;
        }
        let contests = |id: &NodeId| {
            let Some(peer) = ctx.peers.get(id).filter(|_| ctx.hear_each_other(*id)) else {
                return false;
            };
            let contested = peer.announced.contested_with(address).is_some();
            !peer.announced.leaves(address) && (contested || !candidates.contains(id))
        };
        let state = if !candidates.contains(&LOCAL_NODE) && action == Action::HandOver {
            EntryState::Leaving
        } else if ctx.announcers(address).iter().any(contests) {
            EntryState::Contested {
                version: self.version,
            }
        } else {
            EntryState::Announced
        };
        ctx.announced.insert(Entry { address, state });
    }
}
