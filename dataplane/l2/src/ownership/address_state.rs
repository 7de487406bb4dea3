//! The state of one address: deciding about it, claiming it and withdrawing it.
//!
//! [`AddressState`] alone changes its fields. Each method is an input: it reads the [`Context`], and puts the actions and
//! timers that follow into its queues. A timer only says when to decide again ([`AddressState::update`]), so no input and
//! no timer needs to know what else has happened.

mod backup;
mod conflict;
mod contest;
mod evidence;
mod handover;
mod passive;
mod quorum;
mod self_check;

use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use self::backup::BackupState;
pub use self::backup::MAX_VERIFICATION_DELAY;
pub use self::conflict::ConflictPolicy;
use self::conflict::ConflictState;
use self::evidence::NetworkEvidence;
use self::handover::PlacementState;
pub use self::quorum::{PartitionPolicy, UnknownPolicy};
use self::self_check::SelfCheck;
pub(super) use self::self_check::self_check_interval;
use super::probe::{PEER_REPLY_RETRY_DELAY, ProbePlan, ProbeResult};
use super::{AcquireReason, Context, HAND_OVER_TIMEOUT, LOCAL_NODE, Output, ReleaseReason};
use crate::MacAddr;
use crate::ownership::decision::{Action, CLAIM_PATIENCE, HandOverOffer, OwnershipInput, keeps};
use crate::ownership::failure_detector::{NodeId, PeerHealth};
use crate::wire::heartbeat::{Entry, EntryState};

/// The candidates of an address, as the API server's objects give them.
#[derive(Clone, Copy, Debug)]
pub struct Candidates<'a> {
    /// The candidates in [election order](crate::ownership::election::order): all or the first few dozen, and our node
    /// if it is one.
    pub order: &'a [&'a str],
    /// The nodes that may announce the address by configuration, in election order, whether they live or not. The first
    /// five vote with [`PartitionPolicy::Majority`]. Without any, the candidates vote; but a candidate that fails is
    /// removed by the API server, which may be on the side of a minority.
    pub voters: &'a [&'a str],
    /// Whether our node has no interface for the address.
    pub no_interface: bool,
    /// The node that should own the address for balance ([`crate::ownership::placement`]); `None` if the election order
    /// decides.
    pub preferred: Option<&'a str>,
}

/// The state of one address. Tens of thousands may exist, so rare parts are boxed.
#[derive(Debug, Default)]
pub(super) struct AddressState {
    order: Box<[NodeId]>,
    /// The nodes that may announce it by configuration, in election order; empty if not known.
    voters: Box<[NodeId]>,
    /// The resource version at which the order changed last.
    version: u64,
    /// The peer that overruled our candidates, until it withdraws or they change.
    overruled_by: Option<NodeId>,
    no_interface: bool,
    /// `None` if the election order alone decides.
    placement: Option<Box<PlacementState>>,
    /// The peers whose heartbeats matter for the address.
    monitored: Box<[NodeId]>,
    /// We owned it before our start and restore it.
    resumes: bool,
    /// The failed or withdrawn owner, and when it was heard last.
    predecessor: Option<(Arc<str>, Instant)>,
    /// Since when it has had no owner, as far as we know.
    vacant_since: Option<Instant>,
    /// The candidates before us that were up and did not claim it in their time.
    passive: Box<[NodeId]>,
    /// `None` if no peer whose heartbeats are lost was seen to announce it.
    evidence: Option<Box<NetworkEvidence>>,
    /// The earliest time of a claim.
    not_before: Option<Instant>,
    /// When we began to wait for the next owner to announce it.
    handing_over_since: Option<Instant>,
    /// `None` if no foreign host has ever replied for it.
    conflict: Option<Box<ConflictState>>,
    /// The peer that replied to our last probe, and when.
    last_reply_from: Option<(NodeId, Instant)>,
    self_check: Option<SelfCheck>,
    backup: Option<BackupState>,
    /// The restarting owner for which we send proxy replies.
    proxy_for: Option<NodeId>,
    /// Whether a backup got a reply from us; `None` before the first verification.
    verified: Option<bool>,
}

impl AddressState {
    /// Sets the candidates.
    pub(super) fn set_candidates(&mut self, address: IpAddr, candidates: &Candidates<'_>, ctx: &mut Context) {
        let ids = |names: &[&str]| names.iter().map(|name| ctx.node_id(name)).collect();
        let (order, voters): (Box<[_]>, Box<[_]>) = (ids(candidates.order), ids(candidates.voters));
        if self.order != order {
            (self.version, self.overruled_by) = (ctx.api_view.ours(), None);
        }
        let same =
            self.order == order && self.voters == voters && self.no_interface == candidates.no_interface;
        (self.order, self.voters) = (order, voters);
        self.set_preferred(address, candidates.preferred, ctx);
        if !same {
            self.no_interface = candidates.no_interface;
            self.apply_interface(address, ctx);
        }
    }

    /// Sets whether our node has no interface for the address.
    pub(super) fn set_no_interface(&mut self, address: IpAddr, no_interface: bool, ctx: &mut Context) {
        if std::mem::replace(&mut self.no_interface, no_interface) != no_interface {
            self.apply_interface(address, ctx);
        }
    }

    /// Tells the peers whether our node has an interface for the address.
    fn apply_interface(&mut self, address: IpAddr, ctx: &mut Context) {
        ctx.dirty.insert(address);
        if self.no_interface {
            self.withdraw(address, ReleaseReason::NoInterface, ctx);
            ctx.announced.insert(Entry {
                address,
                state: EntryState::Declined,
            });
        } else if ctx.announced.declines(address) {
            ctx.announced.remove(address);
            // Without the interface we heard nobody, so silence proves nothing: the address is probed before it is
            // claimed.
            self.predecessor = None;
        }
    }

    /// Restores the address, which we owned before our start, unless we have no interface for it.
    pub(super) fn resume(&mut self) {
        self.resumes = !self.no_interface;
    }

    /// Whether we restore the address or are a candidate.
    pub(super) fn concerns_us(&self) -> bool {
        self.resumes || self.is_candidate(LOCAL_NODE)
    }

    /// Whether the node is a candidate.
    pub(super) fn is_candidate(&self, id: NodeId) -> bool {
        self.order.contains(&id)
    }

    /// Whether one of the peers is a candidate or monitored.
    pub(super) fn depends_on(&self, peers: &BTreeSet<NodeId>) -> bool {
        self.order
            .iter()
            .chain(&self.monitored)
            .any(|id| peers.contains(id))
    }

    /// Waits until `until` before the address is claimed.
    pub(super) fn defer_claim(&mut self, address: IpAddr, until: Instant, ctx: &mut Context) {
        self.not_before = Some(until);
        ctx.deadlines.insert((until, address));
    }

    /// Ends our part in the address, which has no candidates any longer.
    pub(super) fn end(mut self, address: IpAddr, ctx: &mut Context) {
        ctx.release_monitor(&self.monitored);
        self.stop_proxy(address, ctx);
        if self.has_reported_conflict() {
            ctx.outputs.push_back(Output::ConflictResolved { address });
        }
    }

    /// Decides about the address again, and acts on the decision.
    pub(super) fn update(&mut self, address: IpAddr, self_check_interval: Duration, ctx: &mut Context) {
        self.update_conflict(address, ctx);
        self.reprobe_unidentified(address, ctx);
        self.update_monitored_peers(address, ctx);
        let candidates = self.candidates(address, ctx);
        self.update_passive(address, &candidates, ctx);
        let mut passive = self.passive.to_vec();
        passive.extend(candidates.iter().filter(|id| ctx.has_old_api_view(**id)));
        let withheld = ctx.withheld(address, &candidates);
        let mut announcers = ctx.announcers(address);
        let awaited = self.awaited_owner(address, &candidates, ctx);
        announcers.extend(awaited.filter(|id| !announcers.contains(id)));
        let rivals = self.rivals(address, &candidates, &mut announcers, ctx);
        // A record and a peer's memory may be outdated: an address that another node owns by now is not restored.
        // A restarting owner that is no candidate any longer gets no proxy replies once a candidate announces the address.
        let owners = announcers.iter().copied();
        let position = |id: &NodeId| candidates.iter().position(|candidate| candidate == id);
        // One that neither heartbeats nor the network show may have withdrawn: it gets no proxy replies beside another.
        let certainty = |id: &NodeId| (ctx.health(*id).is_heard(), rivals.seen.contains(id));
        let owner = owners
            .filter(|id| rivals.seen.contains(id) || keeps(ctx.health_for(address, awaited, *id)))
            .min_by_key(|id| (Reverse(certainty(id)), position(id).unwrap_or(usize::MAX)));
        let failback_at = ctx.failback_allowed_at().filter(|at| *at > ctx.now);
        let mut input = OwnershipInput {
            me: LOCAL_NODE,
            draining: ctx.draining,
            mine: ctx.announced.announces(address) || (self.resumes && owner.is_none()),
            failback: ctx.config.failback && failback_at.is_none(),
            candidates: &candidates,
            announcers: &announcers,
            preferred: None,
            offer: HandOverOffer::None,
            seen: &rivals.seen,
            passive: &passive,
            withheld: &withheld,
            stronger: &rivals.stronger,
            weaker: &rivals.weaker,
        };
        if self.placement.is_some() {
            input.offer = self.current_offer(address, &announcers, ctx);
            let kept = input.has_owner(|id| ctx.health_for(address, awaited, id));
            input.preferred = match input.offer {
                HandOverOffer::From(_) => Some(LOCAL_NODE),
                HandOverOffer::None | HandOverOffer::To(_) => {
                    self.preferred_for_vacancy(address, kept, &candidates, ctx)
                }
            };
        }
        let mut action = input.decide(|id| ctx.health_for(address, awaited, id));
        let has_quorum = self.has_quorum(ctx);
        if !has_quorum {
            if ctx.announced.announces(address) {
                self.withdraw(address, ReleaseReason::NoQuorum, ctx);
            }
            action = Action::None;
        }
        if owner.is_some() || input.mine || !has_quorum {
            // The address has an owner, or gets one after a quorum returns; its next move is no failover from this
            // predecessor.
            self.predecessor = None;
        }
        action = self.wait_for_turn(address, action, ctx);
        let is_suspected = |id: &NodeId| ctx.failure_detector.is_suspected(*id);
        let suspected = action == Action::None
            && !input.mine
            && self.monitored.iter().any(is_suspected)
            && matches!(
                input.decide(|id| match is_suspected(&id) {
                    true => PeerHealth::Down,
                    false => ctx.health_for(address, awaited, id),
                }),
                Action::Claim {
                    probe: true,
                    after: Duration::ZERO
                }
            );
        if suspected {
            // So that the result is known when the owner times out.
            ctx.probes.result_or_start(ctx.now, address, ProbePlan::FAILOVER);
        } else if !matches!(action, Action::Claim { probe: true, .. }) {
            ctx.probes.remove(address);
            ctx.set_withheld(address, false);
        }
        match action {
            Action::Keep => ctx.keep_announcing(address),
            Action::Claim { probe, .. } => self.claim(address, probe, &announcers, ctx),
            Action::HandOver => {
                ctx.keep_announcing(address);
                self.hand_over(address, &candidates, ctx);
            }
            Action::Withdraw => {
                let to = owner
                    .and_then(|id| ctx.peers.get(&id))
                    .map(|peer| peer.name.clone());
                let reason = to.map_or(ReleaseReason::NotCandidate, |to| ReleaseReason::Moved { to });
                self.withdraw(address, reason, ctx);
            }
            Action::Wait | Action::None => {}
        }
        self.answer_weaker_rivals(address, &rivals, ctx);
        self.update_offer(address, action, &candidates, ctx);
        self.update_entry(address, action, &candidates, ctx);
        let mine = ctx.announced.announces(address);
        if let Some(at) = failback_at.filter(|_| ctx.config.failback && !mine) {
            ctx.deadlines.insert((at, address));
        }
        self.resumes = false;
        if action != Action::HandOver {
            self.handing_over_since = None;
        }
        if !mine {
            self.verified = None;
        }
        self.update_self_check(address, self_check_interval, ctx);
        let owner = owner.filter(|_| action == Action::None);
        self.update_backup_role(address, owner, &candidates, ctx);
    }

    /// Replaces a claim by waiting until the candidates that go first have had their time.
    fn wait_for_turn(&mut self, address: IpAddr, action: Action, ctx: &mut Context) -> Action {
        let Action::Claim { after, .. } = action else {
            if action != Action::Wait {
                self.vacant_since = None;
            }
            return action;
        };
        // If we do not monitor the address, we do not know whether it has an owner.
        if self.monitored.is_empty() && after >= CLAIM_PATIENCE {
            self.vacant_since = None;
            return Action::None;
        }
        let at = *self.vacant_since.get_or_insert(ctx.now) + after;
        if at <= ctx.now {
            return action;
        }
        ctx.deadlines.insert((at, address));
        Action::None
    }

    /// Notes that the owner of the address failed or withdrew.
    pub(super) fn owner_lost(
        &mut self,
        address: IpAddr,
        from: Arc<str>,
        heard: Option<Instant>,
        ctx: &mut Context,
    ) {
        self.predecessor = heard.map(|heard| (from, heard));
        if ctx.config.partition_policy == PartitionPolicy::Majority {
            // The minority withdraws when it has not heard the majority for the failure timeout, which is longer for
            // peers that were late before. It may have heard its last heartbeat up to a period after us, and needs time
            // to act. A node with many peers has a longer period, so the longest known period counts.
            let config = &ctx.config.failure_detector;
            let slowest = ctx.failure_detector.longest_period();
            let longest = config.timeout_after(slowest) + config.max_extension(slowest) + config.hold();
            let wait = longest + slowest / 2 - config.min_request_window();
            self.defer_claim(address, ctx.now + wait, ctx);
            ctx.probes.remove(address);
        }
    }

    /// Stops announcing the address, if we do.
    fn withdraw(&mut self, address: IpAddr, reason: ReleaseReason, ctx: &mut Context) {
        ctx.withdraw(address, reason);
        self.resumes = false;
        self.handing_over_since = None;
    }

    /// Notes whether a backup got a reply from us.
    pub(super) fn set_verified(&mut self, address: IpAddr, by: &Arc<str>, answered: bool, ctx: &mut Context) {
        if ctx.announced.announces(address) && self.verified.replace(answered) != Some(answered) {
            ctx.outputs.push_back(Output::Verified {
                address,
                by: by.clone(),
                answered,
            });
        }
    }

    /// Takes in an ARP or NDP packet that shows the address as the sender's, from a peer, or from a foreign host if `peer`
    /// is `None`.
    pub(super) fn handle_reply(
        &mut self,
        address: IpAddr,
        peer: Option<NodeId>,
        mac: MacAddr,
        ctx: &mut Context,
    ) {
        let is_proxied = ctx.is_proxied(address);
        let mut found = ProbeResult::UnknownHostReplied;
        if let Some(id) = peer {
            // A proxy reply is no sign of life of the owner.
            if !is_proxied {
                self.note_seen_announcer(address, id, ctx);
            }
            self.last_reply_from = Some((id, ctx.now));
            found = ProbeResult::PeerReplied;
        }
        let probed = ctx.probes.found(address, found);
        if probed {
            ctx.dirty.insert(address);
        }
        // A node that announces the address, or for which a proxy replies, is no conflict.
        let node = peer.and_then(|id| ctx.peers.get(&id));
        if node.is_some_and(|node| node.announced.announces(address) || is_proxied) {
            return;
        }
        let node = node.map(|node| node.name.clone());
        // During a hand-over, the frames of a node come before its announced set. A node whose kernel has the address
        // answers also later.
        let counts = node.is_none() || self.awaits_self_check_reply(ctx.now);
        if probed || self.is_unidentified(mac) || (counts && ctx.announced.announces(address)) {
            self.handle_conflict(address, mac, node, ctx);
        }
    }

    fn claim(&mut self, address: IpAddr, probe: bool, announcers: &[NodeId], ctx: &mut Context) {
        if let Some(at) = self.not_before {
            if ctx.now < at {
                ctx.deadlines.insert((at, address));
                return;
            }
            self.not_before = None;
        }
        let plan = match &self.predecessor {
            Some(_) => ProbePlan::FAILOVER,
            None => ProbePlan::FIRST,
        };
        let found = probe.then(|| ctx.probes.result_or_start(ctx.now, address, plan));
        let reason = match found {
            Some(ProbeResult::Pending) => return,
            Some(ProbeResult::NoReply) if self.has_unknown_candidate(ctx) => return,
            Some(ProbeResult::NoReply) => {
                self.end_conflict(address, ctx);
                self.claim_reason()
            }
            Some(ProbeResult::PeerReplied) if !self.has_reported_conflict() => {
                return self.retry_claim_after(address, PEER_REPLY_RETRY_DELAY, ctx);
            }
            // An announcement would take the address from its holder, for example the gateway.
            Some(ProbeResult::UnknownHostReplied) if ctx.config.conflict_policy == ConflictPolicy::Defend => {
                self.claim_reason()
            }
            Some(ProbeResult::PeerReplied | ProbeResult::UnknownHostReplied) => {
                return self.retry_claim_after_conflict(address, ctx);
            }
            None => {
                let has = announcers.first().and_then(|id| ctx.peers.get(id));
                has.map_or(AcquireReason::Initial, |peer| AcquireReason::HandOver {
                    from: peer.name.clone(),
                })
            }
        };
        ctx.probes.remove(address);
        (self.predecessor, self.vacant_since) = (None, None);
        if let Some(evidence) = &mut self.evidence {
            evidence.clear();
        }
        ctx.announce(address, reason);
    }

    fn claim_reason(&mut self) -> AcquireReason {
        match self.predecessor.take() {
            Some((from, last_heard)) => AcquireReason::Failover { from, last_heard },
            None => AcquireReason::Initial,
        }
    }

    /// Whether some candidate may still be heard: it may own the address, or know the owner.
    fn has_unknown_candidate(&self, ctx: &Context) -> bool {
        let unknown = |id: &NodeId| ctx.failure_detector.health(*id) == PeerHealth::Unknown;
        self.order.iter().any(unknown)
    }

    /// Claims the address later, because a host replied for it.
    fn retry_claim_after(&mut self, address: IpAddr, pause: Duration, ctx: &mut Context) {
        ctx.probes.remove(address);
        ctx.set_withheld(address, true);
        self.defer_claim(address, ctx.now + pause, ctx);
    }

    /// Waits for another candidate to announce an address for which we are no candidate, and withdraws at the latest
    /// after [`HAND_OVER_TIMEOUT`].
    fn hand_over(&mut self, address: IpAddr, candidates: &[NodeId], ctx: &mut Context) {
        if candidates.contains(&LOCAL_NODE) {
            return;
        }
        let can_take = |id: &NodeId| {
            matches!(
                ctx.health(*id),
                PeerHealth::Up
                    | PeerHealth::Assumed
                    | PeerHealth::HeartbeatLost
                    | PeerHealth::NodeOnly { .. }
                    | PeerHealth::Unknown
                    | PeerHealth::Draining
            )
        };
        let can_be_taken = candidates.iter().any(can_take);
        let until = *self.handing_over_since.get_or_insert(ctx.now) + HAND_OVER_TIMEOUT;
        if can_be_taken && ctx.now < until {
            ctx.deadlines.insert((until, address));
        } else {
            self.withdraw(address, ReleaseReason::NotCandidate, ctx);
        }
    }
}

#[cfg(test)]
mod transition_tests;

#[cfg(test)]
mod tests {
    use super::super::{ApiState, Coordinator, CoordinatorConfig, NodeInfo};
    use super::*;
    use crate::ownership::failure_detector::FailureDetectorConfig;

    #[test]
    #[allow(clippy::disallowed_methods, reason = "where time begins")]
    fn deferred_claim_waits_until_its_deadline_only() {
        let start = Instant::now();
        let [ours, other]: [IpAddr; 2] = [[192, 0, 2, 1].into(), [192, 0, 2, 2].into()];
        let config = CoordinatorConfig {
            node: "n1".to_owned(),
            version: String::new(),
            failure_detector: FailureDetectorConfig::default(),
            partition_policy: PartitionPolicy::Availability,
            failback: false,
            conflict_policy: ConflictPolicy::Warn,
        };
        let mut speaker = Coordinator::new(start, 1, config);
        let node = NodeInfo {
            name: "n2",
            api: ApiState::Absent,
            on_link: true,
        };
        speaker.set_nodes(start, [node]);
        for address in [ours, other] {
            let candidates = Candidates {
                order: &["n1"],
                voters: &[],
                no_interface: false,
                preferred: None,
            };
            speaker.set_candidates(address, Some(candidates));
        }
        let until = start + Duration::from_secs(30);
        speaker.defer_claim(other, until);
        speaker.start(start);
        let mut now = start;
        while !speaker.announces(other) {
            now = speaker.poll_timeout().unwrap().max(now);
            speaker.handle_timeout(now, 64);
            while speaker.poll_output().is_some() {}
            assert!(
                now < until + Duration::from_secs(5),
                "who does not come is not waited for"
            );
            assert!(
                now < start + Duration::from_secs(5) || speaker.announces(ours),
                "others are not left alone"
            );
        }
        assert!(now >= until);
    }
}
