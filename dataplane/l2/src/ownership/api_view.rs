//! Differences between the views that speakers have of the API: a watch may be stale for minutes, and a node may have
//! lost the API server. Heartbeats carry the newest resource version that the sender has received. Resource versions of
//! one cluster are comparable.
//!
//! | difference | result |
//! | --- | --- |
//! | the view of a candidate is old | it is passed over after a moment, because it may not know the address |
//! | the owner is no candidate in its own view | its entry is `Leaving`: the others need not know why |
//! | the owner is no candidate in the view of another node | that node claims the address and contests it with the version of its candidates; the greater version wins. The loser leaves the address to the winner until that withdraws, or until its own candidates change |
//! | an owner with a newer view is no candidate in ours | it keeps the address |
//! | the same, and it does not hear us | MetalLB's hash of the node names decides, as without heartbeats |

use std::net::IpAddr;
use std::time::{Duration, Instant};

use super::{Coordinator, LOCAL_NODE};
use crate::ownership::decision::{Action, keeps};
use crate::ownership::failure_detector::NodeId;
use crate::wire::heartbeat::{Entry, EntryState};

/// A view that lacks an object that others received this long ago is old.
const MAX_API_LAG: Duration = Duration::from_secs(5);
/// How often a view is compared again that is older than that of an owner.
const RECHECK_INTERVAL: Duration = Duration::from_millis(250);

/// The resource versions that this node and its peers have received.
#[derive(Debug, Default)]
pub(super) struct ApiView {
    ours: u64,
    /// The newest version of any node.
    newest: u64,
    /// The newest version at a time, and the one before that: each view should have that one by now.
    sample: Option<(Instant, u64)>,
    expected: u64,
}

impl ApiView {
    pub(super) const fn ours(&self) -> u64 {
        self.ours
    }

    fn note(&mut self, now: Instant, version: u64) {
        self.newest = self.newest.max(version);
        match self.sample {
            Some((at, _)) if now < at + MAX_API_LAG => {}
            sample => {
                self.expected = sample.map_or(0, |(_, version)| version);
                self.sample = Some((now, self.newest));
            }
        }
    }
}

impl Coordinator {
    /// Notes the newest resource version that was received from the API server.
    pub fn set_api_version(&mut self, now: Instant, version: u64) {
        self.now = self.now.max(now);
        self.api_view.ours = self.api_view.ours.max(version);
        self.api_view.note(self.now, version);
    }

    /// The newest resource version that this node or a peer has received from the API server.
    #[must_use]
    pub const fn newest_api_version(&self) -> u64 {
        self.api_view.newest
    }

    /// Whether peers received objects from the API server seconds ago that we have not received.
    #[must_use]
    pub fn is_api_view_old(&self) -> bool {
        self.api_view.ours < self.api_view.expected
    }

    pub(super) fn note_api_version(&mut self, id: NodeId, version: u64) {
        let now = self.now;
        if let Some(peer) = self.peers.get_mut(&id) {
            peer.api_version = version;
            self.api_view.note(now, version);
        }
    }

    /// Whether the view of a peer that is heard lacks objects that others received seconds ago.
    pub(super) fn has_old_api_view(&self, id: NodeId) -> bool {
        let heard = self.failure_detector.health(id).is_heard();
        let peer = self.peers.get(&id).filter(|_| heard);
        peer.is_some_and(|peer| peer.api_version < self.api_view.expected)
    }

    /// The heard announcers that keep the address although they may be no candidates in our view, because theirs is newer.
    pub(super) fn owners_by_a_newer_view(
        &mut self,
        address: IpAddr,
        candidates: &[NodeId],
        announcers: &[NodeId],
    ) -> Vec<NodeId> {
        let Some(state) = self.addresses.get(&address) else {
            return Vec::new();
        };
        let still_announces = |id: &NodeId| {
            let peer = self.peers.get(id);
            peer.is_some_and(|peer| peer.announced.announces(address))
        };
        let mut overruled_by = state.overruled_by.filter(still_announces);
        let (mut owners, mut recheck) = (Vec::new(), false);
        for id in announcers.iter().copied().filter(|id| *id != LOCAL_NODE) {
            let Some(peer) = self.peers.get(&id) else {
                continue;
            };
            let health = self.health_for(address, None, id);
            if !health.is_heard() || !keeps(health) {
                continue;
            }
            let contests = peer.announced.contested_with(address).is_some();
            if contests && self.wins_against(address, id) == Some(false) {
                overruled_by = Some(id);
            }
            // It cannot hear that we contest, so both sides decide by what they see on the network.
            let is_deaf = !self.hear_each_other(id);
            let is_stronger = is_deaf && self.wins_against(address, id) == Some(false);
            let is_newer = peer.api_version > self.api_view.ours && !candidates.contains(&id);
            recheck |= is_newer || is_deaf;
            let is_newer = is_newer && !self.announced.announces(address);
            if is_stronger || is_newer || overruled_by == Some(id) {
                owners.push(id);
            }
        }
        if recheck {
            self.deadlines.insert((self.now + RECHECK_INTERVAL, address));
        }
        if let Some(state) = self.addresses.get_mut(&address) {
            state.overruled_by = overruled_by;
        }
        owners
    }

    /// Updates the entry of an address that we announce: whether we leave it, or contest that another node announces it.
    pub(super) fn update_entry(&mut self, address: IpAddr, action: Action, candidates: &[NodeId]) {
        let Some(state) = self
            .addresses
            .get(&address)
            .filter(|_| self.announced.announces(address))
        else {
            return;
        };
        if self.announced.offered_to(address).is_some() {
            return;
        }
        let contests = |id: &NodeId| {
            let Some(peer) = self.peers.get(id).filter(|_| self.hear_each_other(*id)) else {
                return false;
            };
            let contested = peer.announced.contested_with(address).is_some();
            !peer.announced.leaves(address) && (contested || !candidates.contains(id))
        };
        let state = if !candidates.contains(&LOCAL_NODE) && action == Action::HandOver {
            EntryState::Leaving
        } else if self.announcers(address).iter().any(contests) {
            EntryState::Contested {
                version: state.version,
            }
        } else {
            EntryState::Announced
        };
        self.announced.insert(Entry { address, state });
    }
}
