//! Bringing addresses to where [`crate::ownership::placement`] wants them: planned, a few at a time, and only when both sides agree.
//!
//! Who is to have an address is an opinion, made from what the API server shows, and speakers may be shown different things.
//! So it moves nothing by itself. Who has an address that another is to have offers it to that one, by name; that one takes
//! it if it is of the same opinion; the first lets go when it hears the claim. If it is not taken in time, the offer is
//! taken back, and made again after a pause that grows. An address can go round in circles only as fast as opinions change.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use super::quorum::MONITORING_CANDIDATES;
use super::{Coordinator, HAND_OVER_TIMEOUT, LOCAL_NODE};
use crate::ownership::decision::{Action, HandOverOffer};
use crate::ownership::election::short_hash;
use crate::ownership::failure_detector::{NodeId, PeerHealth};
use crate::wire::heartbeat::{Entry, EntryState};

/// How long another has to be wanted for an address, and has to be up, before it is offered the address. A node that comes
/// and goes has gone by then, and the opinions of all speakers have followed the same changes of the API's objects.
const OFFER_DELAY: Duration = Duration::from_secs(5);
/// Most addresses that are offered within [`OFFER_WINDOW`]: each is a burst on the wire, two writes to the API server and an event.
const MAX_RECENT_OFFERS: usize = 8;
const OFFER_WINDOW: Duration = Duration::from_secs(1);
/// The first pause after an offer that was not taken, and the longest.
const OFFER_RETRY_DELAY: Duration = Duration::from_secs(10);
const MAX_OFFER_RETRY_DELAY: Duration = Duration::from_secs(300);
/// By how much who is preferred goes before the first in the order, where nobody has an address: it has to ask the wire
/// first. After that the first in the order takes it, since the other may be of another opinion.
const PREFERRED_HEAD_START: Duration = Duration::from_millis(240);
/// How long an address that was offered, and let go, is left to whom it was offered to, whose claim may be on its way.
const OFFERED_HOLD_TIME: Duration = Duration::from_millis(500);

/// Who is to have an address, and what has come of it.
#[derive(Debug, Default)]
pub(super) struct PlacementState {
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
    pub fn set_preferred(&mut self, address: IpAddr, node: Option<&str>) {
        let preferred = node.and_then(|name| self.node_ids.get(name).copied());
        let Some(state) = self.addresses.get_mut(&address) else {
            return;
        };
        let before = state.placement.as_ref().and_then(|placement| placement.preferred);
        if before == preferred {
            return;
        }
        state.placement.get_or_insert_default().preferred = preferred;
        self.dirty.insert(address);
    }

    /// The offer of the address that we make, or that is made to us and that we agree with.
    pub(super) fn current_offer(
        &self,
        address: IpAddr,
        state: &super::AddressState,
        announcers: &[NodeId],
    ) -> HandOverOffer<NodeId> {
        let Some(placement) = &state.placement else {
            return HandOverOffer::None;
        };
        if let Some((heir, _)) = placement.offer {
            return HandOverOffer::To(heir);
        }
        if placement.preferred != Some(LOCAL_NODE) || self.draining {
            return HandOverOffer::None;
        }
        let us = short_hash(address, &self.config.node);
        // One that restarts meanwhile resumes what it had: to it there is no offer any more.
        let offers = |id: &NodeId| {
            let peer = self.peers.get(id);
            let offered = peer.is_some_and(|peer| peer.announced.offered_to(address) == Some(us));
            offered && self.health(*id) == PeerHealth::Up
        };
        announcers
            .iter()
            .copied()
            .find(offers)
            .map_or(HandOverOffer::None, HandOverOffer::From)
    }

    /// Who goes before the first in the order, where nobody keeps the address: who is preferred, for a moment, and only if
    /// it is one of those who watch over the address. Others may not have heard of who has it.
    pub(super) fn preferred_for_vacancy(
        &mut self,
        address: IpAddr,
        kept: bool,
        candidates: &[NodeId],
    ) -> Option<NodeId> {
        let now = self.now;
        let preferred = self.addresses.get(&address)?.placement.as_ref()?.preferred;
        let living = candidates.iter().copied();
        let mut watching = living
            .filter(|id| *id == LOCAL_NODE || self.health(*id) != PeerHealth::Down)
            .take(MONITORING_CANDIDATES);
        let watches = preferred.filter(|preferred| watching.any(|id| id == *preferred));
        let placement = self.addresses.get_mut(&address)?.placement.as_mut()?;
        if kept {
            placement.vacant = None;
            return None;
        }
        let until = *placement.vacant.get_or_insert(now) + PREFERRED_HEAD_START;
        if now >= until {
            return None;
        }
        self.deadlines.insert((until, address));
        watches
    }

    /// A peer has let go what it had offered to another: that one is about to tell that it has it.
    pub(super) fn handed_over(&mut self, address: IpAddr) {
        let at = self.now + OFFERED_HOLD_TIME;
        if let Some(state) = self.addresses.get_mut(&address) {
            state.not_before = Some(state.not_before.map_or(at, |before| before.max(at)));
            self.deadlines.insert((at, address));
        }
    }

    /// After the decision about an address: offers it to another, or takes the offer back.
    pub(super) fn update_offer(&mut self, address: IpAddr, action: Action, candidates: &[NodeId]) {
        let now = self.now;
        let ours = action == Action::Keep && self.announced.announces(address) && !self.restarting;
        let Some(placement) = self
            .addresses
            .get(&address)
            .and_then(|state| state.placement.as_ref())
        else {
            return;
        };
        let heir = placement.preferred.filter(|id| {
            let up = self.health(*id) == PeerHealth::Up && candidates.contains(id);
            ours && *id != LOCAL_NODE && up
        });
        // One that was never heard would not hear of the offer.
        let up_since = heir.and_then(|id| self.peers.get(&id)?.up_since);
        let full = self.offer_limit_reached();
        let Some(placement) = self
            .addresses
            .get_mut(&address)
            .and_then(|state| state.placement.as_mut())
        else {
            return;
        };
        let elsewhere = ours && placement.preferred.is_some_and(|id| id != LOCAL_NODE);
        let (Some(heir), Some(up_since), true) = (heir, up_since, elsewhere) else {
            if !elsewhere {
                (placement.elsewhere, placement.not_before, placement.refused) = (None, None, 0);
            }
            if placement.offer.take().is_some() && self.announced.announces(address) {
                self.announced.insert(Entry::announced(address));
            }
            return;
        };
        if let Some((to, until)) = placement.offer {
            if to == heir && now < until {
                self.deadlines.insert((until, address));
                return;
            }
            placement.offer = None;
            if to == heir {
                let pause = OFFER_RETRY_DELAY * (1 << placement.refused.min(5));
                placement.not_before = Some(now + pause.min(MAX_OFFER_RETRY_DELAY));
                placement.refused = placement.refused.saturating_add(1);
            }
            self.announced.insert(Entry::announced(address));
        }
        let since = *placement.elsewhere.get_or_insert(now);
        let settled = since.max(up_since) + OFFER_DELAY;
        let at = placement.not_before.map_or(settled, |before| before.max(settled));
        if now < at {
            self.deadlines.insert((at, address));
        } else if full {
            placement.not_before = Some(now + OFFER_WINDOW);
            self.deadlines.insert((now + OFFER_WINDOW, address));
        } else if let Some(to) = self.peers.get(&heir).map(|peer| short_hash(address, &peer.name)) {
            let until = now + HAND_OVER_TIMEOUT;
            placement.offer = Some((heir, until));
            self.recent_offers.insert(address, now + OFFER_WINDOW);
            self.deadlines.insert((until, address));
            self.announced.insert(Entry {
                address,
                state: EntryState::Offered { to },
            });
        }
    }

    /// Whether no more may be offered for the moment.
    fn offer_limit_reached(&mut self) -> bool {
        let (now, claims) = (self.now, &self.announced);
        self.recent_offers
            .retain(|address, until| now < *until || claims.offered_to(*address).is_some());
        self.recent_offers.len() >= MAX_RECENT_OFFERS
    }
}
