//! Who has to know of each other because of an address, and whether they are enough to decide.

use std::net::IpAddr;

use super::{Coordinator, ME, Seat};
use crate::ownership::failure_detector::{NodeId, View};

/// Candidates of an address that watch its owner. With two beside it, a second failure at the same time is covered.
pub(super) const WATCHERS: usize = 3;
/// With [`PartitionPolicy::Majority`]: so many candidates vote, whether they live or not.
const ELECTORATE: usize = 5;

/// What to do when the speakers cannot hear each other.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum PartitionPolicy {
    /// Each side serves what it can see it should, as with MetalLB.
    #[default]
    Availability,
    /// Only a side with the majority of the first candidates of an address serves it.
    Majority,
}

impl Coordinator {
    /// Finds out anew who is in the council of an address, and so whom we need to hear.
    pub(super) fn convene(&mut self, address: IpAddr) {
        let Some(seat) = self.seats.get(&address) else {
            return;
        };
        let council = self.council(address, seat);
        if council == seat.council {
            return;
        }
        for id in &council {
            *self.needed.entry(*id).or_default() += 1;
        }
        self.needs_changed = true;
        if let Some(seat) = self.seats.get_mut(&address) {
            let before = std::mem::replace(&mut seat.council, council);
            self.unneed(&before);
        }
    }

    pub(super) fn unneed(&mut self, council: &[NodeId]) {
        for id in council {
            if let Some(count) = self.needed.get_mut(id) {
                *count -= 1;
                if *count == 0 {
                    self.needed.remove(id);
                    self.needs_changed = true;
                }
            }
        }
    }

    /// The peers in the council of an address; none when we are not in it ourselves.
    fn council(&self, address: IpAddr, seat: &Seat) -> Box<[NodeId]> {
        let mut council = Vec::new();
        let mut living = 0;
        let majority = self.config.policy == PartitionPolicy::Majority;
        for (place, id) in self.candidates(address, seat).into_iter().enumerate() {
            let enough = !majority || place >= ELECTORATE;
            if living >= WATCHERS && enough {
                break;
            }
            council.push(id);
            living += usize::from(id == ME || self.view(id) != View::Down);
        }
        let mine = self.claims.has(address) || seat.resumes;
        let preferred = seat.placing.as_ref().and_then(|placing| placing.preferred);
        if !mine && !council.contains(&ME) && preferred != Some(ME) {
            return Box::default();
        }
        // Who has it and who is to have it have to hear each other, wherever in the order they are.
        council.extend(preferred.filter(|_| mine));
        council.extend(self.claimants(address));
        council.extend(self.awaited(address, seat, &seat.order));
        council.retain(|id| self.peers.contains_key(id));
        council.sort_unstable();
        council.dedup();
        council.into()
    }

    /// The candidates that can announce the address, in order.
    pub(super) fn candidates(&self, address: IpAddr, seat: &Seat) -> Vec<NodeId> {
        let declines = |id: NodeId| {
            if id == ME {
                seat.declined
            } else {
                self.peers
                    .get(&id)
                    .is_some_and(|told| told.claims.declines(address))
            }
        };
        let order = seat.order.iter().copied();
        order.filter(|id| !declines(*id)).collect()
    }

    /// The peers that claim the address.
    pub(super) fn claimants(&self, address: IpAddr) -> Vec<NodeId> {
        self.claimants.get(&address).cloned().unwrap_or_default()
    }

    /// Whether we hear enough of those who vote on an address. What the API says of them does not count: it may be as far
    /// away as they are.
    pub(super) fn has_quorum(&self, seat: &Seat) -> bool {
        match self.config.policy {
            PartitionPolicy::Availability => true,
            PartitionPolicy::Majority => {
                let voters: Vec<_> = seat.order.iter().take(ELECTORATE).collect();
                let seen = voters.iter().filter(|id| {
                    ***id == ME
                        || matches!(
                            self.failure_detector.view(***id),
                            View::Up | View::Draining | View::Starting { .. } | View::Held { .. }
                        )
                });
                seen.count() * 2 > voters.len()
            }
        }
    }
}
