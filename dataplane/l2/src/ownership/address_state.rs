//! One address: what is to be done about it, and doing it.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::backup::BackupState;
use super::handover::PlacementState;
use super::probe::{CONFLICT_RETRY_DELAY, ConflictState, PEER_REPLY_RETRY_DELAY, ProbeResult};
use super::{
    AcquireReason, ConflictPolicy, Coordinator, HAND_OVER_TIMEOUT, LOCAL_NODE, Output, PartitionPolicy,
    ReleaseReason,
};
use crate::ownership::decision::{Action, HandOverOffer, OwnershipInput, keeps};
use crate::ownership::failure_detector::{NodeId, PeerHealth};
use crate::wire::heartbeat::{Entry, EntryState};

/// Who may answer for an address.
#[derive(Clone, Copy, Debug)]
pub struct Candidates<'a> {
    /// The nodes that may, in the order of [`crate::ownership::election::order`]: all, or the first dozens, and we ourselves if we may.
    pub order: &'a [&'a str],
    /// Whether we could not, because we have no interface for it.
    pub no_interface: bool,
    /// Who is to have it for the sake of balance ([`crate::ownership::placement`]); none leaves it to the order.
    pub preferred: Option<&'a str>,
}

/// What is known of an address. There may be tens of thousands: what few of them have is in a box.
#[derive(Debug, Default)]
pub(super) struct AddressState {
    pub(super) order: Box<[NodeId]>,
    pub(super) no_interface: bool,
    /// Who is to have it, and what has come of it. There is none where the order alone decides.
    pub(super) placement: Option<Box<PlacementState>>,
    /// The peers that we need to hear on its account.
    pub(super) monitored: Box<[NodeId]>,
    /// It was ours before we started, and is to stay so.
    pub(super) resumes: bool,
    /// Who had it and is down, or let go; and when that was heard last.
    pub(super) predecessor: Option<(Arc<str>, Instant)>,
    /// It is not to be claimed before.
    pub(super) not_before: Option<Instant>,
    /// Since when it waits for another owner.
    pub(super) handing_over_since: Option<Instant>,
    /// What is known of hosts that are no nodes and answer for it, if there ever was one.
    pub(super) conflict: Option<Box<ConflictState>>,
    /// The peer that answered for it last when we asked, and when.
    pub(super) last_reply_from: Option<(NodeId, Instant)>,
    /// As deputy: whose, when the wire was or is to be asked, and what was found last.
    pub(super) backup: Option<BackupState>,
    /// The peer in whose place we answer.
    pub(super) proxy_for: Option<NodeId>,
    /// What a deputy has told of our answers.
    pub(super) verified: Option<bool>,
}

impl Coordinator {
    /// Does what is to be done about an address.
    pub(super) fn update_address(&mut self, address: IpAddr) {
        self.expire_conflict(address);
        self.reprobe_unidentified(address);
        self.update_monitored_peers(address);
        let Some(state) = self.addresses.get(&address) else {
            return;
        };
        let candidates = self.candidates(address, state);
        let mut announcers = self.announcers(address);
        let awaited = self.awaited_owner(address, state, &candidates);
        announcers.extend(awaited.filter(|id| !announcers.contains(id)));
        // A record, or who remembers, may be behind the times: what another has by now is not ours to resume.
        let owner = announcers
            .iter()
            .copied()
            .find(|id| keeps(self.health_or_awaited(awaited, *id)));
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
        };
        if state.placement.is_some() {
            input.offer = self.current_offer(address, state, &announcers);
            let kept = input.has_owner(|id| self.health_or_awaited(awaited, id));
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
        let mut action = input.decide(|id| self.health_or_awaited(awaited, id));
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
            // Who succeeds to it now, or will once there is a majority, does not succeed to that one.
            state.predecessor = None;
        }
        if !matches!(action, Action::Claim { probe: true }) {
            self.probes.remove(address);
        }
        match action {
            Action::Keep => self.keep_announcing(address),
            Action::Claim { probe } => self.claim_address(address, probe, &announcers),
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
        self.update_offer(address, action, &candidates);
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
        let owner = owner.filter(|_| action == Action::None);
        self.update_backup_role(address, owner, &candidates);
    }

    /// Who had an address has it no more.
    pub(super) fn owner_lost(&mut self, address: IpAddr, from: Arc<str>, heard: Option<Instant>) {
        if let Some(state) = self.addresses.get_mut(&address) {
            state.predecessor = heard.map(|heard| (from, heard));
            if self.config.partition_policy == PartitionPolicy::Majority {
                // It withdraws when it has not heard the majority for as long as it waits for each, which is longer for those
                // that were late before. It may have heard later than we did, by the time between two heartbeats, and needs
                // time to act. Who has many peers speaks less often, and is waited for longer: so the slowest of all that we
                // know counts.
                let config = &self.config.failure_detector;
                let slowest = self.failure_detector.longest_period();
                let longest = config.timeout_after(slowest) + config.max_extension(slowest);
                let wait = longest + slowest / 2 - config.min_request_window();
                state.not_before = Some(self.now + wait);
                self.deadlines.insert((self.now + wait, address));
            }
        }
        self.dirty.insert(address);
    }

    /// Answers for the address no more, if we do.
    pub(super) fn withdraw(&mut self, address: IpAddr, reason: ReleaseReason) {
        if self.announced.announces(address) && self.announced.remove(address) {
            self.outputs.push_back(Output::Withdraw { address, reason });
        }
        if let Some(state) = self.addresses.get_mut(&address) {
            state.resumes = false;
            state.handing_over_since = None;
        }
    }

    /// We have no interface for the address, or have one again.
    pub(super) fn set_no_interface(&mut self, address: IpAddr, declined: bool) {
        if declined {
            self.withdraw(address, ReleaseReason::NoInterface);
            self.announced.insert(Entry {
                address,
                state: EntryState::Declined,
            });
        } else if self.announced.declines(address) {
            self.announced.remove(address);
            // Nobody could be heard meanwhile, so their silence said nothing: the wire is asked before it is taken.
            if let Some(state) = self.addresses.get_mut(&address) {
                state.predecessor = None;
            }
        }
    }

    /// A peer has asked the wire about addresses of ours.
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

    /// Asks the wire about a peer: whether its node, and its speaker, are there.
    pub(super) fn probe_peer(&mut self, id: NodeId) {
        let Some(peer) = self.peers.get(&id) else {
            return;
        };
        if peer.on_link {
            self.outputs.push_back(Output::ProbeNode {
                node: peer.name.clone(),
            });
        }
        // Two, should one of them be on an interface that we do not have.
        let mut owned = peer.announced.announced();
        for address in [owned.next(), owned.next_back()].into_iter().flatten() {
            self.outputs.push_back(Output::ProbeAddress { address });
        }
    }

    /// From when on we take an address from a candidate behind us: not while the network, or we, come and go.
    fn failback_allowed_at(&self) -> Option<Instant> {
        let pause = Duration::from_secs(1 << self.flap_count.saturating_sub(1));
        self.last_flap.map(|last| last + pause)
    }

    /// Answers for an address that is ours, from now on or as before.
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
        // Who had it is down: the wire has been asked about that.
        let reason = match state.predecessor.take() {
            Some((from, heard)) if probe => AcquireReason::Failover {
                from,
                last_heard: heard,
            },
            None if probe => match self.probes.result_or_start(now, address) {
                ProbeResult::Pending => return,
                ProbeResult::NoReply if self.has_unknown_candidate(address) => return,
                ProbeResult::NoReply => AcquireReason::Initial,
                ProbeResult::PeerReplied => return self.retry_claim_after(address, PEER_REPLY_RETRY_DELAY),
                ProbeResult::ConflictingHost(_) if self.config.conflict_policy == ConflictPolicy::Yield => {
                    return self.retry_claim_after(address, CONFLICT_RETRY_DELAY);
                }
                ProbeResult::ConflictingHost(_) => AcquireReason::Initial,
            },
            Some(_) | None => {
                let has = announcers.first().and_then(|id| self.peers.get(id));
                has.map_or(AcquireReason::Initial, |peer| AcquireReason::HandOver {
                    from: peer.name.clone(),
                })
            }
        };
        self.probes.remove(address);
        self.announced.insert(Entry::announced(address));
        self.outputs.push_back(Output::Announce { address, reason });
    }

    /// Whether some candidate still has time to be heard: it may have the address, or know who does.
    fn has_unknown_candidate(&self, address: IpAddr) -> bool {
        let unknown = |id: &NodeId| self.failure_detector.health(*id) == PeerHealth::Unknown;
        let state = self.addresses.get(&address);
        state.is_some_and(|state| state.order.iter().any(unknown))
    }

    fn retry_claim_after(&mut self, address: IpAddr, pause: Duration) {
        self.probes.remove(address);
        let at = self.now + pause;
        if let Some(state) = self.addresses.get_mut(&address) {
            state.not_before = Some(at);
        }
        self.deadlines.insert((at, address));
    }

    /// We may not keep the address: another has to take it in time, if there is one that can.
    fn hand_over(&mut self, address: IpAddr, candidates: &[NodeId]) {
        if candidates.contains(&LOCAL_NODE) {
            return;
        }
        let can_take = |id: &NodeId| {
            matches!(
                self.health(*id),
                PeerHealth::Up | PeerHealth::Unknown | PeerHealth::Draining
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
    fn what_another_node_has_by_a_record_is_left_to_it_for_a_while_and_not_for_ever() {
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
