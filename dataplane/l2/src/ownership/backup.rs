//! The candidate that comes after the owner of an address: it looks after the owner, and answers in its place while that one
//! restarts.
//!
//! It tells the others in whose place it answers. They may not know that there is somebody to be waited for: who has just
//! started, or whose cable is back, has never heard of who is away in that moment, and would find an address without an owner.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use super::{Coordinator, ME, Output, Seat};
use crate::ownership::election::mark;
use crate::ownership::failure_detector::{NodeId, View};
use crate::wire::heartbeat::{Entry, EntryState, MAX_ENTRIES_LEN, Message};

/// How often a deputy asks the wire whether the owner answers, more or less by a quarter; and how long it waits.
const VERIFY: Duration = Duration::from_secs(30);
const FIRST_VERIFY: Duration = Duration::from_secs(2);
const ANSWER: Duration = Duration::from_millis(500);
/// Questions of deputies go together, at so many seconds' distance: each time that others are asked about, the kernel's
/// filter is made anew.
const ROUND: Duration = Duration::from_secs(3);
/// Who is up for so long has heard what the others have.
const ACQUAINTANCE: Duration = Duration::from_secs(1);
/// How often it asks in a row before it says that it was not answered: a single frame gets lost for no reason.
const ASKS: u8 = 3;

/// The duty of the candidate that comes after the owner: to see whether the owner answers.
#[derive(Clone, Copy, Debug)]
pub(super) struct Deputy {
    owner: NodeId,
    at: Instant,
    /// How often it has asked in this round.
    asked: u8,
}

impl Coordinator {
    /// Who restarts and is waited for, as a peer says that answers in its place. We may not know: who has just started, or was
    /// cut off, has never heard of it.
    pub(super) fn awaited(&self, address: IpAddr, seat: &Seat, candidates: &[NodeId]) -> Option<NodeId> {
        let told = |id: &NodeId| {
            let told = self.peers.get(id).filter(|_| self.view(*id) == View::Up)?;
            told.claims.stands_in(address)
        };
        let marks: Vec<_> = seat.council.iter().filter_map(told).collect();
        if marks.is_empty() {
            return None;
        }
        let is_meant = |id: &NodeId| {
            let told = self.peers.get(id);
            told.is_some_and(|told| marks.contains(&mark(address, &told.name)))
        };
        // Who lives speaks for itself.
        let silent = |id: &NodeId| !matches!(self.view(*id), View::Up | View::Draining);
        candidates.iter().copied().find(|id| is_meant(id) && silent(id))
    }

    /// What a peer is to us, if this one is waited for.
    pub(super) fn view_with(&self, awaited: Option<NodeId>, id: NodeId) -> View {
        match self.view(id) {
            View::Down | View::Unknown if awaited == Some(id) => View::Held { until: self.now },
            view => view,
        }
    }

    /// The candidate that is next looks after the owner: asks the wire whether it answers, and answers in its place while it
    /// restarts.
    pub(super) fn deputize(&mut self, address: IpAddr, owner: Option<NodeId>, candidates: &[NodeId]) {
        let deputy = owner.filter(|owner| self.is_deputy(address, *owner, candidates));
        let held =
            deputy.filter(|owner| matches!(self.view(*owner), View::Starting { .. } | View::Held { .. }));
        let now = self.now;
        let Some(seat) = self.seats.get_mut(&address) else {
            return;
        };
        if seat.stands_in != held {
            if seat.stands_in.is_some() {
                self.stand_down(address);
            }
            if let Some(owner) = held {
                self.stand_in(address, owner);
            }
        }
        let Some(seat) = self.seats.get_mut(&address) else {
            return;
        };
        let Some(owner) = deputy.filter(|_| held.is_none()) else {
            seat.deputy = None;
            return;
        };
        let next = match seat.deputy {
            Some(duty) if duty.owner == owner && now < duty.at => {
                self.deadlines.insert((duty.at, address));
                return;
            }
            Some(duty) if duty.owner == owner => {
                let since = duty.at.checked_sub(ANSWER).unwrap_or(duty.at);
                let answered = duty.asked > 0
                    && seat
                        .answered_to_us
                        .is_some_and(|(id, at)| id == owner && at >= since);
                if !answered && duty.asked < ASKS {
                    self.outputs.push_back(Output::AskAddress { address });
                    Deputy {
                        owner,
                        at: now + ANSWER,
                        asked: duty.asked + 1,
                    }
                } else {
                    self.reports.entry(owner).or_default().push((address, answered));
                    Deputy {
                        owner,
                        at: rounded(self.epoch, now + jitter(VERIFY, address)),
                        asked: 0,
                    }
                }
            }
            Some(_) | None => Deputy {
                owner,
                at: rounded(self.epoch, now + jitter(FIRST_VERIFY, address)),
                asked: 0,
            },
        };
        seat.deputy = Some(next);
        self.deadlines.insert((next.at, address));
    }

    /// Whether we look after this owner of an address.
    fn is_deputy(&self, address: IpAddr, owner: NodeId, candidates: &[NodeId]) -> bool {
        let up = |id: &NodeId| (*id == ME && !self.draining) || self.view(*id) == View::Up;
        let stands_in = |id: &NodeId| {
            let claims = match self.peers.get(id) {
                Some(told) => &told.claims,
                None => &self.claims,
            };
            up(id) && claims.stands_in(address).is_some()
        };
        let next = |id: &NodeId| up(id) && self.knows_of(*id, owner);
        let mut others = candidates.iter().copied().filter(|id| *id != owner);
        // Who answers in its place goes on until it is back, whoever comes meanwhile.
        others.clone().find(stands_in).or_else(|| others.find(next)) == Some(ME)
    }

    /// Whether a candidate must have heard what an owner has, that restarts now: not who was away itself, or never was heard,
    /// and cannot have.
    fn knows_of(&self, id: NodeId, owner: NodeId) -> bool {
        let away = self.peers.get(&owner).and_then(|told| told.away_since);
        match (self.peers.get(&id), away) {
            (Some(told), Some(away)) => told.up_since.is_some_and(|up| up + ACQUAINTANCE <= away),
            (None, _) | (_, None) => true,
        }
    }

    fn stand_in(&mut self, address: IpAddr, owner: NodeId) {
        let (Some(seat), Some(told)) = (self.seats.get_mut(&address), self.peers.get(&owner)) else {
            return;
        };
        seat.stands_in = Some(owner);
        self.claims.insert(Entry {
            address,
            state: EntryState::Proxied {
                owner: mark(address, &told.name),
            },
        });
        self.outputs.push_back(Output::StandIn {
            address,
            node: told.name.clone(),
        });
    }

    pub(super) fn stand_down(&mut self, address: IpAddr) {
        if let Some(seat) = self.seats.get_mut(&address) {
            seat.stands_in = None;
        }
        if self.claims.stands_in(address).is_some() {
            self.claims.remove(address);
        }
        self.outputs.push_back(Output::StandDown { address });
    }

    /// Tells owners what the wire said of them.
    pub(super) fn report(&mut self) {
        for (id, seen) in std::mem::take(&mut self.reports) {
            // As many as fit into a datagram, whatever their family.
            for seen in seen.chunks(MAX_ENTRIES_LEN / Entry::MAX_ENCODED_LEN) {
                let of = |wanted: bool| {
                    let of = seen.iter().filter(move |(_, answered)| *answered == wanted);
                    of.map(|(address, _)| *address).collect()
                };
                let (answered, unanswered) = (of(true), of(false));
                self.send(id, Message::Verification { answered, unanswered });
            }
        }
    }
}

/// The end of the round that a time falls into.
fn rounded(epoch: Instant, at: Instant) -> Instant {
    let rounds = at
        .saturating_duration_since(epoch)
        .as_millis()
        .div_ceil(ROUND.as_millis());
    epoch + ROUND * u32::try_from(rounds).unwrap_or(u32::MAX)
}

/// More or less by a quarter, differently for each address and the same for each run.
fn jitter(time: Duration, address: IpAddr) -> Duration {
    let low = match address {
        IpAddr::V4(v4) => v4.to_bits(),
        IpAddr::V6(v6) => v6.to_bits() as u32,
    };
    let spread = low.wrapping_mul(0x9e37_79b9) >> 16;
    time * 3 / 4 + time / 2 * spread / 0x1_0000
}
