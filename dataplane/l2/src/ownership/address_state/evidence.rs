//! Evidence from the network: peers that were seen to answer for an address, or to announce it, although no heartbeat
//! says so. It stands in for heartbeats that are lost, and expires.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use super::{AddressState, Context, LOCAL_NODE, Output};
use crate::ownership::election;
use crate::ownership::failure_detector::NodeId;

/// How long a peer counts as an announcer after it was seen; doubled as long as it is seen again and again, up to
/// [`MAX_EXPIRY`]. Then the address is probed again.
const EXPIRY: Duration = Duration::from_secs(1);
const MAX_EXPIRY: Duration = Duration::from_secs(8);
/// Minimum time between two announcements that tell a peer that its claim loses.
const ANSWER_INTERVAL: Duration = Duration::from_secs(1);
/// How long heartbeats may take to pass in both directions once a peer is seen again; each side sends one at once.
const RETURN_TIME: Duration = Duration::from_millis(300);
/// The same for a peer whose node cannot be queried: it may have been up, and only its heartbeats lost.
const UNQUERIED_RETURN_TIME: Duration = Duration::from_millis(80);

/// The peers that were seen to announce one address.
#[derive(Debug, Default)]
pub(super) struct NetworkEvidence {
    seen: Vec<SeenAnnouncer>,
    answered_at: Option<Instant>,
}

#[derive(Debug)]
struct SeenAnnouncer {
    id: NodeId,
    until: Instant,
    expiry: Duration,
}

impl NetworkEvidence {
    fn note(&mut self, now: Instant, id: NodeId) {
        if let Some(seen) = self.seen.iter_mut().find(|seen| seen.id == id) {
            if seen.until <= now {
                seen.expiry = (seen.expiry * 2).min(MAX_EXPIRY);
            }
            seen.until = now + seen.expiry;
            return;
        }
        self.seen.push(SeenAnnouncer {
            id,
            until: now + EXPIRY,
            expiry: EXPIRY,
        });
    }

    /// The peers that count as announcers now.
    fn announcers(&self, now: Instant) -> impl Iterator<Item = NodeId> {
        self.seen
            .iter()
            .filter(move |seen| now < seen.until)
            .map(|seen| seen.id)
    }

    /// When the next of them expires.
    fn next_expiry(&self, now: Instant) -> Option<Instant> {
        self.seen
            .iter()
            .map(|seen| seen.until)
            .filter(|until| now < *until)
            .min()
    }

    /// Forgets all peers, because the network was probed and nobody replied.
    pub(super) fn clear(&mut self) {
        self.seen.clear();
    }

    fn may_answer(&mut self, now: Instant) -> bool {
        if self.answered_at.is_some_and(|at| now < at + ANSWER_INTERVAL) {
            return false;
        }
        self.answered_at = Some(now);
        true
    }
}

/// The announcers of an address besides us, and who wins the tie if we announce it too.
#[derive(Debug, Default)]
pub(super) struct Rivals {
    /// Known only from the network, or owners by a newer view of the API than ours.
    pub(super) seen: Vec<NodeId>,
    pub(super) stronger: Vec<NodeId>,
    pub(super) weaker: Vec<NodeId>,
}

impl Context {
    /// Whether the heartbeats of a peer say which addresses it announces.
    fn hears_announcements(&self, id: NodeId) -> bool {
        self.failure_detector.health(id).is_heard()
    }

    /// Whether heartbeats pass in both directions, so that both sides know the same.
    pub(super) fn hear_each_other(&self, id: NodeId) -> bool {
        self.hears_announcements(id) && self.peers.get(&id).is_some_and(|peer| peer.hears_us)
    }

    /// Whether the peer was down until a moment ago, and heartbeats do not pass in both directions yet: the tie is decided
    /// when both sides know the same.
    fn has_just_returned(&self, id: NodeId) -> bool {
        !self.hear_each_other(id) && self.tie_opens_at(id).is_some_and(|at| self.now < at)
    }

    fn tie_opens_at(&self, id: NodeId) -> Option<Instant> {
        let peer = self.peers.get(&id)?;
        let time = if peer.on_link {
            RETURN_TIME
        } else {
            UNQUERIED_RETURN_TIME
        };
        Some(peer.returned_at? + time)
    }
}

impl AddressState {
    /// Notes that a peer answers for the address or announces it.
    pub(super) fn note_seen_announcer(&mut self, address: IpAddr, id: NodeId, ctx: &mut Context) {
        if !ctx.hears_announcements(id) {
            self.evidence.get_or_insert_default().note(ctx.now, id);
            ctx.dirty.insert(address);
        }
    }

    /// Forgets that a peer was seen; its next sighting counts like the first.
    pub(in crate::ownership) fn forget_seen(&mut self, id: NodeId) {
        if let Some(evidence) = &mut self.evidence {
            evidence.seen.retain(|seen| seen.id != id);
        }
    }

    /// The announcers of the address according to heartbeats and to the network, ranked for the case that we announce it
    /// too.
    pub(super) fn rivals(
        &mut self,
        address: IpAddr,
        candidates: &[NodeId],
        announcers: &mut Vec<NodeId>,
        ctx: &mut Context,
    ) -> Rivals {
        let mut rivals = Rivals {
            seen: self.owners_by_a_newer_view(address, candidates, announcers, ctx),
            ..Rivals::default()
        };
        if let Some(evidence) = &self.evidence {
            let seen = evidence.announcers(ctx.now);
            rivals
                .seen
                .extend(seen.filter(|id| !ctx.hears_announcements(*id)));
            if let Some(at) = evidence.next_expiry(ctx.now) {
                ctx.deadlines.insert((at, address));
            }
        }
        let mut new = rivals.seen.clone();
        new.retain(|id| !announcers.contains(id));
        announcers.extend(new);
        if ctx.announced.announces(address) {
            for id in announcers.iter().copied().filter(|id| *id != LOCAL_NODE) {
                if let Some(at) = ctx.tie_opens_at(id).filter(|at| ctx.now < *at) {
                    ctx.deadlines.insert((at, address));
                }
                match self.wins_against(address, id, ctx) {
                    Some(true) => rivals.weaker.push(id),
                    Some(false) => rivals.stronger.push(id),
                    None => {}
                }
            }
        }
        rivals
    }

    /// Whether we win the tie against another announcer; `None` if the election order decides.
    pub(super) fn wins_against(&self, address: IpAddr, id: NodeId, ctx: &Context) -> Option<bool> {
        let peer = ctx.peers.get(&id)?;
        let us = ctx.config.node.as_str();
        let goes_first = election::owner(address, [us, &peer.name]) == Some(us);
        if !ctx.hear_each_other(id) {
            return Some(goes_first || ctx.has_just_returned(id));
        }
        if let Some(theirs) = peer.announced.contested_with(address) {
            return Some(self.version > theirs || self.version == theirs && goes_first);
        }
        if ctx.config.failback {
            return None;
        }
        (peer.was_cut_off != ctx.failure_detector.was_cut_off()).then_some(peer.was_cut_off)
    }

    /// Tells announcers that lose the tie and do not hear us that we announce the address.
    pub(super) fn answer_weaker_rivals(&mut self, address: IpAddr, rivals: &Rivals, ctx: &mut Context) {
        let is_deaf = |id: &NodeId| !ctx.hear_each_other(*id) && !ctx.has_just_returned(*id);
        if rivals.weaker.iter().any(is_deaf) && ctx.announced.announces(address) {
            if self.evidence.get_or_insert_default().may_answer(ctx.now) {
                ctx.outputs.push_back(Output::Reannounce { address });
            }
            ctx.deadlines.insert((ctx.now + ANSWER_INTERVAL, address));
        }
    }
}
