//! Bringing addresses to where [`crate::ownership::placement`] wants them: planned, a few at a time, and only when both sides agree.
//!
//! Who is to have an address is an opinion, made from what the API server shows, and speakers may be shown different things.
//! So it moves nothing by itself. Who has an address that another is to have offers it to that one, by name; that one takes
//! it if it is of the same opinion; the first lets go when it hears the claim. If it is not taken in time, the offer is
//! taken back, and made again after a pause that grows. An address can go round in circles only as fast as opinions change.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use super::quorum::WATCHERS;
use super::{Coordinator, HAND_OVER, ME};
use crate::ownership::decision::{Action, Offer};
use crate::ownership::election::mark;
use crate::ownership::failure_detector::{NodeId, View};
use crate::wire::heartbeat::{Entry, EntryState};

/// How long another has to be wanted for an address, and has to be up, before it is offered the address. A node that comes
/// and goes has gone by then, and the opinions of all speakers have followed the same changes of the API's objects.
const SETTLING: Duration = Duration::from_secs(5);
/// Most addresses that are offered within [`PACE`]: each is a burst on the wire, two writes to the API server and an event.
const MOST_OFFERS: usize = 8;
const PACE: Duration = Duration::from_secs(1);
/// The first pause after an offer that was not taken, and the longest.
const PAUSE: Duration = Duration::from_secs(10);
const LONGEST_PAUSE: Duration = Duration::from_secs(300);
/// By how much who is preferred goes before the first in the order, where nobody has an address: it has to ask the wire
/// first. After that the first in the order takes it, since the other may be of another opinion.
const HEAD_START: Duration = Duration::from_millis(240);
/// How long an address that was offered, and let go, is left to whom it was offered to, whose claim may be on its way.
const PASSING: Duration = Duration::from_millis(500);

/// Who is to have an address, and what has come of it.
#[derive(Debug, Default)]
pub(super) struct Placing {
    pub(super) preferred: Option<NodeId>,
    /// Since when nobody has it.
    vacant: Option<Instant>,
    /// Since when another is to have what is ours.
    elsewhere: Option<Instant>,
    /// Whom it is offered to, and until when.
    offer: Option<(NodeId, Instant)>,
    /// It is not to be offered before.
    not_before: Option<Instant>,
    /// Offers in a row that nobody took.
    refused: u32,
}

impl Coordinator {
    /// This node is to have the address; none leaves it to the order.
    pub fn prefer(&mut self, address: IpAddr, node: Option<&str>) {
        let preferred = node.and_then(|name| self.ids.get(name).copied());
        let Some(seat) = self.seats.get_mut(&address) else {
            return;
        };
        let before = seat.placing.as_ref().and_then(|placing| placing.preferred);
        if before == preferred {
            return;
        }
        seat.placing.get_or_insert_default().preferred = preferred;
        self.dirty.insert(address);
    }

    /// The offer of the address that we make, or that is made to us and that we agree with.
    pub(super) fn concerning(
        &self,
        address: IpAddr,
        seat: &super::Seat,
        claimants: &[NodeId],
    ) -> Offer<NodeId> {
        let Some(placing) = &seat.placing else {
            return Offer::None;
        };
        if let Some((heir, _)) = placing.offer {
            return Offer::To(heir);
        }
        if placing.preferred != Some(ME) || self.draining {
            return Offer::None;
        }
        let us = mark(address, &self.config.me);
        // One that restarts meanwhile resumes what it had: to it there is no offer any more.
        let offers = |id: &NodeId| {
            let told = self.peers.get(id);
            let offered = told.is_some_and(|told| told.claims.offered(address) == Some(us));
            offered && self.view(*id) == View::Up
        };
        claimants
            .iter()
            .copied()
            .find(offers)
            .map_or(Offer::None, Offer::By)
    }

    /// Who goes before the first in the order, where nobody keeps the address: who is preferred, for a moment, and only if
    /// it is one of those who watch over the address. Others may not have heard of who has it.
    pub(super) fn goes_first(
        &mut self,
        address: IpAddr,
        kept: bool,
        candidates: &[NodeId],
    ) -> Option<NodeId> {
        let now = self.now;
        let preferred = self.seats.get(&address)?.placing.as_ref()?.preferred;
        let living = candidates.iter().copied();
        let mut watching = living
            .filter(|id| *id == ME || self.view(*id) != View::Down)
            .take(WATCHERS);
        let watches = preferred.filter(|preferred| watching.any(|id| id == *preferred));
        let placing = self.seats.get_mut(&address)?.placing.as_mut()?;
        if kept {
            placing.vacant = None;
            return None;
        }
        let until = *placing.vacant.get_or_insert(now) + HEAD_START;
        if now >= until {
            return None;
        }
        self.deadlines.insert((until, address));
        watches
    }

    /// A peer has let go what it had offered to another: that one is about to tell that it has it.
    pub(super) fn passed_on(&mut self, address: IpAddr) {
        let at = self.now + PASSING;
        if let Some(seat) = self.seats.get_mut(&address) {
            seat.not_before = Some(seat.not_before.map_or(at, |before| before.max(at)));
            self.deadlines.insert((at, address));
        }
    }

    /// After the decision about an address: offers it to another, or takes the offer back.
    pub(super) fn place(&mut self, address: IpAddr, step: Action, candidates: &[NodeId]) {
        let now = self.now;
        let ours = step == Action::Own && self.claims.has(address) && !self.leaving;
        let Some(placing) = self.seats.get(&address).and_then(|seat| seat.placing.as_ref()) else {
            return;
        };
        let heir = placing.preferred.filter(|id| {
            let up = self.view(*id) == View::Up && candidates.contains(id);
            ours && *id != ME && up
        });
        // One that was never heard would not hear of the offer.
        let up_since = heir.and_then(|id| self.peers.get(&id)?.up_since);
        let full = self.are_many_offered();
        let Some(placing) = self
            .seats
            .get_mut(&address)
            .and_then(|seat| seat.placing.as_mut())
        else {
            return;
        };
        let elsewhere = ours && placing.preferred.is_some_and(|id| id != ME);
        let (Some(heir), Some(up_since), true) = (heir, up_since, elsewhere) else {
            if !elsewhere {
                (placing.elsewhere, placing.not_before, placing.refused) = (None, None, 0);
            }
            if placing.offer.take().is_some() && self.claims.has(address) {
                self.claims.insert(Entry::announced(address));
            }
            return;
        };
        if let Some((to, until)) = placing.offer {
            if to == heir && now < until {
                self.deadlines.insert((until, address));
                return;
            }
            placing.offer = None;
            if to == heir {
                let pause = PAUSE * (1 << placing.refused.min(5));
                placing.not_before = Some(now + pause.min(LONGEST_PAUSE));
                placing.refused = placing.refused.saturating_add(1);
            }
            self.claims.insert(Entry::announced(address));
        }
        let since = *placing.elsewhere.get_or_insert(now);
        let settled = since.max(up_since) + SETTLING;
        let at = placing.not_before.map_or(settled, |before| before.max(settled));
        if now < at {
            self.deadlines.insert((at, address));
        } else if full {
            placing.not_before = Some(now + PACE);
            self.deadlines.insert((now + PACE, address));
        } else if let Some(to) = self.peers.get(&heir).map(|told| mark(address, &told.name)) {
            let until = now + HAND_OVER;
            placing.offer = Some((heir, until));
            self.offers.insert(address, now + PACE);
            self.deadlines.insert((until, address));
            self.claims.insert(Entry {
                address,
                state: EntryState::Offered { to },
            });
        }
    }

    /// Whether no more may be offered for the moment.
    fn are_many_offered(&mut self) -> bool {
        let (now, claims) = (self.now, &self.claims);
        self.offers
            .retain(|address, until| now < *until || claims.offered(*address).is_some());
        self.offers.len() >= MOST_OFFERS
    }
}
