//! Planned hand-over of addresses to the nodes that [`crate::ownership::placement`] prefers: a few at a time, and only
//! if both nodes agree.
//!
//! Each speaker computes placement from the API server's objects, and speakers may see different versions of them. A
//! preference therefore moves nothing by itself. The owner offers the address to the preferred node by name; that node
//! announces it if its own placement agrees; the owner withdraws when it hears the announcement. An offer that is not
//! accepted in time is taken back and repeated after a growing delay.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use super::{AddressState, Context, LOCAL_NODE};
use crate::ownership::decision::{Action, HandOverOffer};
use crate::ownership::election::short_hash;
use crate::ownership::failure_detector::{NodeId, PeerHealth};
use crate::wire::heartbeat::{Entry, EntryState};

/// How long another node must be preferred and up before the first offer. By then a flapping node is gone, and all
/// speakers have seen the same API objects.
const OFFER_DELAY: Duration = Duration::from_secs(5);
/// Upper bound of the offers within [`OFFER_WINDOW`]: each hand-over costs gratuitous packets, two API writes and an
/// event.
const MAX_RECENT_OFFERS: usize = 8;
const OFFER_WINDOW: Duration = Duration::from_secs(1);
/// How long an offer is open.
const OFFER_TIMEOUT: Duration = Duration::from_secs(2);
/// The delay after an offer that was not accepted; it doubles up to the maximum.
const OFFER_RETRY_DELAY: Duration = Duration::from_secs(10);
const MAX_OFFER_RETRY_DELAY: Duration = Duration::from_secs(300);
/// How long the preferred node goes before the election order when an address has no owner: it has to probe first.
/// Afterwards the election order decides, because the preferred node may disagree.
const PREFERRED_HEAD_START: Duration = Duration::from_millis(240);
/// The same after a failure: the probes have begun before.
const PREFERRED_FAILOVER_HEAD_START: Duration = Duration::from_millis(100);
/// How long an offered and withdrawn address is left to the node that it was offered to, whose announcement may be on
/// its way.
const OFFERED_HOLD_TIME: Duration = Duration::from_millis(500);

/// The preferred node of an address, and the state of offers to it.
#[derive(Debug, Default)]
pub(super) struct PlacementState {
    preferred: Option<NodeId>,
    /// Since when the address has no owner.
    vacant: Option<Instant>,
    /// Since when another node is preferred for an address of ours.
    elsewhere: Option<Instant>,
    /// The node with an open offer, and when the offer ends.
    offer: Option<(NodeId, Instant)>,
    /// The earliest time of the next offer.
    not_before: Option<Instant>,
    /// Consecutive offers that were not accepted.
    refused: u32,
}

impl AddressState {
    /// Sets the node that should own the address; `None` if the election order decides.
    pub(in crate::ownership) fn set_preferred(
        &mut self,
        address: IpAddr,
        node: Option<&str>,
        ctx: &mut Context,
    ) {
        let preferred = node.and_then(|name| ctx.node_ids.get(name).copied());
        if self.preferred() != preferred {
            self.placement.get_or_insert_default().preferred = preferred;
            ctx.dirty.insert(address);
        }
    }

    /// The node that should own the address.
    pub(super) fn preferred(&self) -> Option<NodeId> {
        self.placement.as_ref()?.preferred
    }

    /// The open offer of ours, or an offer to us that our placement agrees with.
    pub(super) fn current_offer(
        &self,
        address: IpAddr,
        announcers: &[NodeId],
        ctx: &Context,
    ) -> HandOverOffer<NodeId> {
        let Some(placement) = &self.placement else {
            return HandOverOffer::None;
        };
        if let Some((heir, _)) = placement.offer {
            return HandOverOffer::To(heir);
        }
        if placement.preferred != Some(LOCAL_NODE) || ctx.draining {
            return HandOverOffer::None;
        }
        let us = short_hash(address, &ctx.config.node);
        // An owner that restarts restores its addresses; its offer is void.
        let offers = |id: &NodeId| {
            let peer = ctx.peers.get(id);
            let offered = peer.is_some_and(|peer| peer.announced.offered_to(address) == Some(us));
            offered && ctx.health(*id) == PeerHealth::Up
        };
        let offering = announcers.iter().copied().find(offers);
        offering.map_or(HandOverOffer::None, HandOverOffer::From)
    }

    /// The node that goes before the election order while the address has no owner: the preferred node, for a short
    /// time, and only if it monitors the address. Other nodes may not have heard of an owner.
    pub(super) fn preferred_for_vacancy(
        &mut self,
        address: IpAddr,
        kept: bool,
        candidates: &[NodeId],
        ctx: &mut Context,
    ) -> Option<NodeId> {
        let preferred = self.preferred();
        let living = candidates.iter().copied();
        let mut watching = living
            .filter(|id| *id == LOCAL_NODE || ctx.health(*id) != PeerHealth::Down)
            .take(ctx.monitoring_candidates());
        let watches = preferred.filter(|preferred| watching.any(|id| id == *preferred));
        let head_start = match self.predecessor {
            Some(_) => PREFERRED_FAILOVER_HEAD_START,
            None => PREFERRED_HEAD_START,
        };
        let placement = self.placement.as_mut()?;
        if kept {
            placement.vacant = None;
            return None;
        }
        let until = *placement.vacant.get_or_insert(ctx.now) + head_start;
        if ctx.now >= until {
            return None;
        }
        ctx.deadlines.insert((until, address));
        watches
    }

    /// Notes that a peer withdrew an address that it had offered to another node, which is about to announce it.
    pub(in crate::ownership) fn handed_over(&mut self, address: IpAddr, ctx: &mut Context) {
        let at = ctx.now + OFFERED_HOLD_TIME;
        self.not_before = self.not_before.max(Some(at));
        ctx.deadlines.insert((at, address));
    }

    /// Makes, keeps or takes back an offer, after a decision about the address.
    pub(super) fn update_offer(
        &mut self,
        address: IpAddr,
        action: Action,
        candidates: &[NodeId],
        ctx: &mut Context,
    ) {
        let now = ctx.now;
        let ours = action == Action::Keep && ctx.announced.announces(address) && !ctx.restarting;
        let Some(placement) = &mut self.placement else {
            return;
        };
        let heir = placement.preferred.filter(|id| {
            let up = ctx.health(*id) == PeerHealth::Up && candidates.contains(id);
            ours && *id != LOCAL_NODE && up
        });
        // A peer that was never heard would not hear the offer.
        let up_since = heir.and_then(|id| ctx.peers.get(&id)?.up_since);
        let full = ctx.offer_limit_reached();
        let elsewhere = ours && placement.preferred.is_some_and(|id| id != LOCAL_NODE);
        let (Some(heir), Some(up_since), true) = (heir, up_since, elsewhere) else {
            if !elsewhere {
                (placement.elsewhere, placement.not_before, placement.refused) = (None, None, 0);
            }
            if placement.offer.take().is_some() && ctx.announced.announces(address) {
                ctx.announced.insert(Entry::announced(address));
            }
            return;
        };
        if let Some((to, until)) = placement.offer {
            if to == heir && now < until {
                ctx.deadlines.insert((until, address));
                return;
            }
            placement.offer = None;
            if to == heir {
                let pause = OFFER_RETRY_DELAY * (1 << placement.refused.min(5));
                placement.not_before = Some(now + pause.min(MAX_OFFER_RETRY_DELAY));
                placement.refused = placement.refused.saturating_add(1);
            }
            ctx.announced.insert(Entry::announced(address));
        }
        let since = *placement.elsewhere.get_or_insert(now);
        let settled = since.max(up_since) + OFFER_DELAY;
        let at = placement.not_before.map_or(settled, |before| before.max(settled));
        if now < at {
            ctx.deadlines.insert((at, address));
        } else if full {
            placement.not_before = Some(now + OFFER_WINDOW);
            ctx.deadlines.insert((now + OFFER_WINDOW, address));
        } else if let Some(to) = ctx.peers.get(&heir).map(|peer| short_hash(address, &peer.name)) {
            let until = now + OFFER_TIMEOUT;
            placement.offer = Some((heir, until));
            ctx.recent_offers.insert(address, now + OFFER_WINDOW);
            ctx.deadlines.insert((until, address));
            ctx.announced.insert(Entry {
                address,
                state: EntryState::Offered { to },
            });
        }
    }
}

impl Context {
    fn offer_limit_reached(&mut self) -> bool {
        let (now, claims) = (self.now, &self.announced);
        self.recent_offers
            .retain(|address, until| now < *until || claims.offered_to(*address).is_some());
        self.recent_offers.len() >= MAX_RECENT_OFFERS
    }
}
