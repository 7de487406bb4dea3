//! Candidates that are up and do not claim an address without an owner: passive ones are passed over, and those that leave
//! the address to another host are waited for.

use std::net::IpAddr;

use super::{AddressState, Context, LOCAL_NODE};
use crate::ownership::decision::CLAIM_PATIENCE;
use crate::ownership::failure_detector::{NodeId, PeerHealth};
use crate::wire::heartbeat::{Entry, EntryState};

impl AddressState {
    /// Notes that the next candidate has not claimed a vacant address in its time. The one after it gets the same time.
    pub(super) fn update_passive(&mut self, address: IpAddr, candidates: &[NodeId], ctx: &mut Context) {
        let Some(vacant_since) = self.vacant_since else {
            return;
        };
        let up_since = |id: &NodeId| match ctx.health(*id) {
            PeerHealth::Up => ctx.peers.get(id)?.up_since,
            PeerHealth::Assumed => Some(vacant_since),
            _ => None,
        };
        let mut before = candidates.iter().take_while(|id| **id != LOCAL_NODE);
        let turn = before.find_map(|id| {
            let up_since = up_since(id).filter(|_| !self.passive.contains(id))?;
            Some((*id, up_since))
        });
        let Some((id, up_since)) = turn else {
            return;
        };
        let over = vacant_since.max(up_since) + CLAIM_PATIENCE;
        if ctx.now < over {
            ctx.deadlines.insert((over, address));
            return;
        }
        self.passive = self.passive.iter().copied().chain([id]).collect();
        self.vacant_since = Some(ctx.now);
    }

    /// The peer announces the address, or has restarted: it is no longer passive.
    pub(in crate::ownership) fn not_passive(&mut self, id: NodeId) {
        if self.passive.contains(&id) {
            self.passive = self
                .passive
                .iter()
                .copied()
                .filter(|other| *other != id)
                .collect();
        }
    }
}

impl Context {
    /// The candidates that do not claim the address because another host has it.
    pub(super) fn withheld(&self, address: IpAddr, candidates: &[NodeId]) -> Vec<NodeId> {
        let withholds = |id: &NodeId| {
            let peer = self.peers.get(id);
            peer.is_some_and(|peer| peer.announced.withholds(address))
        };
        candidates.iter().copied().filter(withholds).collect()
    }

    /// Tells the peers whether we leave the address to another host.
    pub(super) fn set_withheld(&mut self, address: IpAddr, withheld: bool) {
        if withheld {
            self.announced.insert(Entry {
                address,
                state: EntryState::Withheld,
            });
        } else if self.announced.withholds(address) {
            self.announced.remove(address);
        }
    }
}
