//! The state of one address: deciding about it, claiming it and withdrawing it.

use std::cmp::Reverse;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::backup::BackupState;
use super::conflict::ConflictState;
use super::evidence::NetworkEvidence;
use super::handover::PlacementState;
use super::probe::{PEER_REPLY_RETRY_DELAY, ProbePlan, ProbeResult};
use super::self_check::SelfCheck;
use super::{
    AcquireReason, ConflictPolicy, Coordinator, HAND_OVER_TIMEOUT, LOCAL_NODE, Output, PartitionPolicy,
    ReleaseReason,
};
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
    pub(super) order: Box<[NodeId]>,
    /// The nodes that may announce it by configuration, in election order; empty if not known.
    pub(super) voters: Box<[NodeId]>,
    /// The resource version at which the order changed last.
    pub(super) version: u64,
    /// The peer that overruled our candidates, until it withdraws or they change.
    pub(super) overruled_by: Option<NodeId>,
    pub(super) no_interface: bool,
    /// `None` if the election order alone decides.
    pub(super) placement: Option<Box<PlacementState>>,
    /// The peers whose heartbeats matter for the address.
    pub(super) monitored: Box<[NodeId]>,
    /// We owned it before our start and restore it.
    pub(super) resumes: bool,
    /// The failed or withdrawn owner, and when it was heard last.
    pub(super) predecessor: Option<(Arc<str>, Instant)>,
    /// Since when it has had no owner, as far as we know.
    pub(super) vacant_since: Option<Instant>,
    /// The candidates before us that were up and did not claim it in their time.
    pub(super) passive: Box<[NodeId]>,
    /// `None` if no peer whose heartbeats are lost was seen to announce it.
    pub(super) evidence: Option<Box<NetworkEvidence>>,
    /// The earliest time of a claim.
    pub(super) not_before: Option<Instant>,
    /// When we began to wait for the next owner to announce it.
    pub(super) handing_over_since: Option<Instant>,
    /// `None` if no foreign host has ever replied for it.
    pub(super) conflict: Option<Box<ConflictState>>,
    /// The peer that replied to our last probe, and when.
    pub(super) last_reply_from: Option<(NodeId, Instant)>,
    pub(super) self_check: Option<SelfCheck>,
    pub(super) backup: Option<BackupState>,
    /// The restarting owner for which we send proxy replies.
    pub(super) proxy_for: Option<NodeId>,
    /// Whether a backup got a reply from us; `None` before the first verification.
    pub(super) verified: Option<bool>,
}

impl Coordinator {
    /// Decides about an address again, and acts on the decision.
    pub(super) fn update_address(&mut self, address: IpAddr) {
        self.update_conflict(address);
        self.reprobe_unidentified(address);
        self.update_monitored_peers(address);
        let Some(state) = self.addresses.get(&address) else {
            return;
        };
        let candidates = self.candidates(address, state);
        self.update_passive(address, &candidates);
        let Some(state) = self.addresses.get(&address) else {
            return;
        };
        let mut passive = state.passive.to_vec();
        passive.extend(candidates.iter().filter(|id| self.has_old_api_view(**id)));
        let withheld = self.withheld(address, &candidates);
        let mut announcers = self.announcers(address);
        let awaited = self.awaited_owner(address, state, &candidates);
        announcers.extend(awaited.filter(|id| !announcers.contains(id)));
        let rivals = self.rivals(address, &candidates, &mut announcers);
        let Some(state) = self.addresses.get(&address) else {
            return;
        };
        // A record and a peer's memory may be outdated: an address that another node owns by now is not restored.
        // A restarting owner that is no candidate any longer gets no proxy replies once a candidate announces the address.
        let owners = announcers.iter().copied();
        let position = |id: &NodeId| candidates.iter().position(|candidate| candidate == id);
        // One that neither heartbeats nor the network show may have withdrawn: it gets no proxy replies beside another.
        let certainty = |id: &NodeId| (self.health(*id).is_heard(), rivals.seen.contains(id));
        let owner = owners
            .filter(|id| rivals.seen.contains(id) || keeps(self.health_for(address, awaited, *id)))
            .min_by_key(|id| (Reverse(certainty(id)), position(id).unwrap_or(usize::MAX)));
        let failback_at = self.failback_allowed_at().filter(|at| *at > self.now);
        let mut input = OwnershipInput {
            me: LOCAL_NODE,
            draining: self.draining,
            mine: self.announced.announces(address) || (state.resumes && owner.is_none()),
            failback: self.config.failback && failback_at.is_none(),
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
        if state.placement.is_some() {
            input.offer = self.current_offer(address, state, &announcers);
            let kept = input.has_owner(|id| self.health_for(address, awaited, id));
            input.preferred = match input.offer {
                HandOverOffer::From(_) => Some(LOCAL_NODE),
                HandOverOffer::None | HandOverOffer::To(_) => {
                    self.preferred_for_vacancy(address, kept, &candidates)
                }
            };
        }
        let Some(state) = self.addresses.get(&address) else {
            return;
        };
        let mut action = input.decide(|id| self.health_for(address, awaited, id));
        let mine = input.mine;
        let has_quorum = self.has_quorum(state);
        if !has_quorum {
            if self.announced.announces(address) {
                self.withdraw(address, ReleaseReason::NoQuorum);
            }
            action = Action::None;
        }
        if let Some(state) = self.addresses.get_mut(&address)
            && (owner.is_some() || mine || !has_quorum)
        {
            // The address has an owner, or gets one after a quorum returns; its next move is no failover from this
            // predecessor.
            state.predecessor = None;
        }
        action = self.wait_for_turn(address, action);
        let suspected = action == Action::None
            && !mine
            && self.addresses.get(&address).is_some_and(|state| {
                state
                    .monitored
                    .iter()
                    .any(|id| self.failure_detector.is_suspected(*id))
            })
            && matches!(
                input.decide(|id| match self.failure_detector.is_suspected(id) {
                    true => PeerHealth::Down,
                    false => self.health_for(address, awaited, id),
                }),
                Action::Claim {
                    probe: true,
                    after: Duration::ZERO
                }
            );
        if suspected {
            // So that the result is known when the owner times out.
            self.probes
                .result_or_start(self.now, address, ProbePlan::FAILOVER);
        } else if !matches!(action, Action::Claim { probe: true, .. }) {
            self.probes.remove(address);
            self.set_withheld(address, false);
        }
        match action {
            Action::Keep => self.keep_announcing(address),
            Action::Claim { probe, .. } => self.claim_address(address, probe, &announcers),
            Action::HandOver => {
                self.keep_announcing(address);
                self.hand_over(address, &candidates);
            }
            Action::Withdraw => {
                let to = owner
                    .and_then(|id| self.peers.get(&id))
                    .map(|peer| peer.name.clone());
                self.withdraw(
                    address,
                    to.map_or(ReleaseReason::NotCandidate, |to| ReleaseReason::Moved { to }),
                );
            }
            Action::Wait | Action::None => {}
        }
        self.answer_weaker_rivals(address, &rivals);
        self.update_offer(address, action, &candidates);
        self.update_entry(address, action, &candidates);
        let mine = self.announced.announces(address);
        if let Some(at) = failback_at.filter(|_| self.config.failback && !mine) {
            self.deadlines.insert((at, address));
        }
        if let Some(state) = self.addresses.get_mut(&address) {
            state.resumes = false;
            if action != Action::HandOver {
                state.handing_over_since = None;
            }
            if !mine {
                state.verified = None;
            }
        }
        self.update_self_check(address);
        let owner = owner.filter(|_| action == Action::None);
        self.update_backup_role(address, owner, &candidates);
    }

    /// Replaces a claim by waiting until the candidates that go first have had their time.
    fn wait_for_turn(&mut self, address: IpAddr, action: Action) -> Action {
        let now = self.now;
        let Some(state) = self.addresses.get_mut(&address) else {
            return action;
        };
        let Action::Claim { after, .. } = action else {
            if action != Action::Wait {
                state.vacant_since = None;
            }
            return action;
        };
        // If we do not monitor the address, we do not know whether it has an owner.
        if state.monitored.is_empty() && after >= CLAIM_PATIENCE {
            state.vacant_since = None;
            return Action::None;
        }
        let at = *state.vacant_since.get_or_insert(now) + after;
        if at <= now {
            return action;
        }
        self.deadlines.insert((at, address));
        Action::None
    }

    /// Notes that the owner of the address failed or withdrew.
    pub(super) fn owner_lost(&mut self, address: IpAddr, from: Arc<str>, heard: Option<Instant>) {
        if let Some(state) = self.addresses.get_mut(&address) {
            state.predecessor = heard.map(|heard| (from, heard));
            if self.config.partition_policy == PartitionPolicy::Majority {
                // The minority withdraws when it has not heard the majority for the failure timeout, which is longer
                // for peers that were late before. It may have heard its last heartbeat up to a period after us, and
                // needs time to act. A node with many peers has a longer period, so the longest known period counts.
                let config = &self.config.failure_detector;
                let slowest = self.failure_detector.longest_period();
                let longest = config.timeout_after(slowest) + config.max_extension(slowest) + config.hold();
                let wait = longest + slowest / 2 - config.min_request_window();
                state.not_before = Some(self.now + wait);
                self.deadlines.insert((self.now + wait, address));
                self.probes.remove(address);
            }
        }
        self.dirty.insert(address);
    }

    /// Stops announcing the address, if we do.
    pub(super) fn withdraw(&mut self, address: IpAddr, reason: ReleaseReason) {
        if self.announced.announces(address) && self.announced.remove(address) {
            self.outputs.push_back(Output::Withdraw { address, reason });
        }
        if let Some(state) = self.addresses.get_mut(&address) {
            state.resumes = false;
            state.handing_over_since = None;
        }
    }

    /// Tells the peers that our node has no interface for the address, or has one again.
    pub(super) fn decline(&mut self, address: IpAddr, declined: bool) {
        if declined {
            self.withdraw(address, ReleaseReason::NoInterface);
            self.announced.insert(Entry {
                address,
                state: EntryState::Declined,
            });
        } else if self.announced.declines(address) {
            self.announced.remove(address);
            // Without the interface we heard nobody, so silence proves nothing: the address is probed before it is
            // claimed.
            if let Some(state) = self.addresses.get_mut(&address) {
                state.predecessor = None;
            }
        }
    }

    /// Takes in the result of a backup's probes of our addresses.
    pub(super) fn handle_verification(&mut self, id: NodeId, answered: &[IpAddr], silent: &[IpAddr]) {
        let Some(by) = self.peers.get(&id).map(|peer| peer.name.clone()) else {
            return;
        };
        let seen = |answered: bool| move |address: &IpAddr| (*address, answered);
        for (address, answered) in answered
            .iter()
            .map(seen(true))
            .chain(silent.iter().map(seen(false)))
        {
            if !self.announced.announces(address) {
                continue;
            }
            if let Some(state) = self.addresses.get_mut(&address)
                && state.verified.replace(answered) != Some(answered)
            {
                self.outputs.push_back(Output::Verified {
                    address,
                    by: by.clone(),
                    answered,
                });
            }
        }
    }

    /// When failback may begin: a delay after the last flap, doubled with each flap.
    fn failback_allowed_at(&self) -> Option<Instant> {
        let pause = Duration::from_secs(1 << self.flap_count.saturating_sub(1));
        self.last_flap.map(|last| last + pause)
    }

    /// Announces an address that we own or restore.
    fn keep_announcing(&mut self, address: IpAddr) {
        if !self.announced.announces(address) {
            self.announced.insert(Entry::announced(address));
            self.outputs.push_back(Output::Announce {
                address,
                reason: AcquireReason::Restored,
            });
        }
    }

    fn claim_address(&mut self, address: IpAddr, probe: bool, announcers: &[NodeId]) {
        let now = self.now;
        let Some(state) = self.addresses.get_mut(&address) else {
            return;
        };
        if let Some(at) = state.not_before {
            if now < at {
                self.deadlines.insert((at, address));
                return;
            }
            state.not_before = None;
        }
        let plan = match &state.predecessor {
            Some(_) => ProbePlan::FAILOVER,
            None => ProbePlan::FIRST,
        };
        let reason = match probe {
            true => match self.probes.result_or_start(now, address, plan) {
                ProbeResult::Pending => return,
                ProbeResult::NoReply if self.has_unknown_candidate(address) => return,
                ProbeResult::NoReply => {
                    self.end_conflict(address);
                    self.claim_reason(address)
                }
                ProbeResult::PeerReplied if self.has_reported_conflict(address) => {
                    return self.retry_claim_after_conflict(address);
                }
                ProbeResult::PeerReplied => return self.retry_claim_after(address, PEER_REPLY_RETRY_DELAY),
                // An announcement would take the address from its holder, for example the gateway.
                ProbeResult::UnknownHostReplied => match self.config.conflict_policy {
                    ConflictPolicy::Warn | ConflictPolicy::Yield => {
                        return self.retry_claim_after_conflict(address);
                    }
                    ConflictPolicy::Defend => self.claim_reason(address),
                },
            },
            false => {
                let has = announcers.first().and_then(|id| self.peers.get(id));
                has.map_or(AcquireReason::Initial, |peer| AcquireReason::HandOver {
                    from: peer.name.clone(),
                })
            }
        };
        self.probes.remove(address);
        if let Some(state) = self.addresses.get_mut(&address) {
            state.predecessor = None;
            state.vacant_since = None;
            if let Some(evidence) = &mut state.evidence {
                evidence.clear();
            }
        }
        self.announced.insert(Entry::announced(address));
        self.outputs.push_back(Output::Announce { address, reason });
    }

    fn claim_reason(&mut self, address: IpAddr) -> AcquireReason {
        let state = self.addresses.get_mut(&address);
        match state.and_then(|state| state.predecessor.take()) {
            Some((from, last_heard)) => AcquireReason::Failover { from, last_heard },
            None => AcquireReason::Initial,
        }
    }

    /// Whether some candidate may still be heard: it may own the address, or know the owner.
    fn has_unknown_candidate(&self, address: IpAddr) -> bool {
        let unknown = |id: &NodeId| self.failure_detector.health(*id) == PeerHealth::Unknown;
        let state = self.addresses.get(&address);
        state.is_some_and(|state| state.order.iter().any(unknown))
    }

    /// Claims the address later, because a host replied for it.
    pub(super) fn retry_claim_after(&mut self, address: IpAddr, pause: Duration) {
        self.probes.remove(address);
        self.set_withheld(address, true);
        let at = self.now + pause;
        if let Some(state) = self.addresses.get_mut(&address) {
            state.not_before = Some(at);
        }
        self.deadlines.insert((at, address));
    }

    /// Waits for another candidate to announce an address for which we are no candidate, and withdraws at the latest
    /// after [`HAND_OVER_TIMEOUT`].
    fn hand_over(&mut self, address: IpAddr, candidates: &[NodeId]) {
        if candidates.contains(&LOCAL_NODE) {
            return;
        }
        let can_take = |id: &NodeId| {
            matches!(
                self.health(*id),
                PeerHealth::Up
                    | PeerHealth::Assumed
                    | PeerHealth::HeartbeatLost
                    | PeerHealth::NodeOnly { .. }
                    | PeerHealth::Unknown
                    | PeerHealth::Draining
            )
        };
        let can_be_taken = candidates.iter().any(can_take);
        let now = self.now;
        let Some(state) = self.addresses.get_mut(&address) else {
            return;
        };
        let until = *state.handing_over_since.get_or_insert(now) + HAND_OVER_TIMEOUT;
        if can_be_taken && now < until {
            self.deadlines.insert((until, address));
        } else {
            self.withdraw(address, ReleaseReason::NotCandidate);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{ApiState, CoordinatorConfig, NodeInfo};
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
