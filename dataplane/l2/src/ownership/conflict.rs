//! Address conflicts: hosts that are no nodes of the cluster and reply for an address (RFC 5227 section 2.4).

use std::net::IpAddr;
use std::time::{Duration, Instant};

use super::{AddressState, Coordinator, Output, QueryTarget, ReleaseReason, UnknownPolicy};
use crate::MacAddr;
use crate::ownership::failure_detector::NodeId;

/// How long an address is left alone after a conflicting host replied.
pub(super) const CONFLICT_RETRY_DELAY: Duration = Duration::from_secs(10);
/// A conflict is over when the host has not been seen for this long.
const CONFLICT_EXPIRY: Duration = Duration::from_secs(150);
/// How long a host may turn out to be a node: the heartbeats of a node arrive within two periods.
const IDENTIFICATION_TIMEOUT: Duration = Duration::from_secs(1);
/// `DEFEND_INTERVAL` of RFC 5227 section 1.1.
const DEFEND_INTERVAL: Duration = Duration::from_secs(10);

/// Hosts outside the cluster that replied for an address.
#[derive(Debug, Default)]
pub(super) struct ConflictState {
    conflicting: Option<ConflictingHost>,
    /// When the conflict is checked for expiry; in the past if no check is scheduled.
    expires_at: Option<Instant>,
    /// A host that may be a node or a conflicting host.
    unidentified: Option<UnidentifiedHost>,
    defended_at: Option<Instant>,
}

/// A host that is not a node and replies for the address.
#[derive(Clone, Copy, Debug)]
pub(super) struct ConflictingHost {
    mac: MacAddr,
    last_seen: Instant,
}

impl AddressState {
    pub(super) fn conflicting(&self) -> Option<ConflictingHost> {
        self.conflict.as_ref()?.conflicting
    }

    pub(super) fn unidentified(&self) -> Option<UnidentifiedHost> {
        self.conflict.as_ref()?.unidentified
    }

    fn conflict(&mut self) -> &mut ConflictState {
        self.conflict.get_or_insert_default()
    }
}

/// A host that may turn out to be a node that has not been heard yet.
#[derive(Clone, Copy, Debug)]
pub(super) struct UnidentifiedHost {
    pub(super) mac: MacAddr,
    since: Instant,
    /// Whether it has been probed again.
    reprobed: bool,
}

/// How to react when a conflicting host replies for an address.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum ConflictPolicy {
    /// Report it, and keep announcing.
    #[default]
    Warn,
    /// Report it, and announce the address again, at most once in ten seconds (RFC 5227 section 2.4 (b)).
    Defend,
    /// Report it, and withdraw the address until the conflicting host is gone (RFC 5227 section 2.4 (a)).
    Yield,
}

impl ConflictPolicy {
    /// All policies.
    pub const ALL: [Self; 3] = [Self::Warn, Self::Defend, Self::Yield];

    /// The word for a command line.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Warn => "warn",
            Self::Defend => "defend",
            Self::Yield => "yield",
        }
    }
}

impl std::str::FromStr for ConflictPolicy {
    type Err = UnknownPolicy;

    fn from_str(word: &str) -> Result<Self, UnknownPolicy> {
        let policy = Self::ALL
            .into_iter()
            .find(|policy| word.eq_ignore_ascii_case(policy.as_str()));
        policy.ok_or_else(|| UnknownPolicy(word.to_owned()))
    }
}

impl Coordinator {
    /// Whether the host may still turn out to be a node. A node whose link is up again replies for its addresses before
    /// its first heartbeat is accepted; and a speaker that has started since does not even know it as a candidate,
    /// because the API server has not noticed its return either.
    fn await_identification(&mut self, address: IpAddr, mac: MacAddr) -> bool {
        let now = self.now;
        let Some(state) = self.addresses.get_mut(&address) else {
            return false;
        };
        if state.conflicting().is_some() {
            return false;
        }
        if let Some(unidentified) = state.unidentified()
            && (unidentified.mac == mac || now < unidentified.since + IDENTIFICATION_TIMEOUT)
        {
            return now < unidentified.since + IDENTIFICATION_TIMEOUT;
        }
        state.conflict().unidentified = Some(UnidentifiedHost {
            mac,
            since: now,
            reprobed: false,
        });
        self.deadlines.insert((now + IDENTIFICATION_TIMEOUT, address));
        true
    }

    /// Notes that the hardware address belongs to a peer, and resolves conflicts in which it was taken for a foreign
    /// host.
    pub(super) fn set_peer_mac(&mut self, mac: MacAddr, id: NodeId) {
        self.peer_by_mac.insert(mac, id);
        for (address, state) in &mut self.addresses {
            let Some(conflict) = &mut state.conflict else {
                continue;
            };
            conflict
                .unidentified
                .take_if(|unidentified| unidentified.mac == mac);
            if conflict
                .conflicting
                .is_some_and(|conflicting| conflicting.mac == mac)
            {
                conflict.conflicting = None;
                self.outputs
                    .push_back(Output::ConflictResolved { address: *address });
                self.dirty.insert(*address);
            }
        }
    }

    /// Probes for an unidentified host once more when a node would have been heard. A host that does not reply is
    /// remembered until the conflict would expire, because it may send only gratuitous packets.
    pub(super) fn reprobe_unidentified(&mut self, address: IpAddr) {
        let now = self.now;
        let Some(conflict) = self
            .addresses
            .get_mut(&address)
            .and_then(|state| state.conflict.as_mut())
        else {
            return;
        };
        let Some(unidentified) = &mut conflict.unidentified else {
            return;
        };
        if conflict.conflicting.is_some() || unidentified.since + CONFLICT_EXPIRY <= now {
            conflict.unidentified = None;
        } else if !unidentified.reprobed && unidentified.since + IDENTIFICATION_TIMEOUT <= now {
            unidentified.reprobed = true;
            self.deadlines
                .insert((unidentified.since + CONFLICT_EXPIRY, address));
            let to = QueryTarget::Host(unidentified.mac);
            self.outputs.push_back(Output::QueryAddress { address, to });
        }
    }

    /// Handles a reply of a foreign host for an address that we own or would claim. A conflict is reported when the
    /// host is seen twice, at least [`IDENTIFICATION_TIMEOUT`] apart.
    pub(super) fn handle_conflict(&mut self, address: IpAddr, mac: MacAddr) {
        let now = self.now;
        if self.await_identification(address, mac) {
            return self.defend(address);
        }
        let Some(state) = self.addresses.get_mut(&address) else {
            return;
        };
        let conflict = state.conflict();
        conflict.unidentified = None;
        let known = conflict
            .conflicting
            .replace(ConflictingHost { mac, last_seen: now });
        if known.is_none_or(|before| before.mac != mac) {
            self.outputs.push_back(Output::ConflictDetected { address, mac });
        }
        self.expire_conflict(address);
        if !self.announced.announces(address) {
            return;
        }
        let Some(state) = self.addresses.get_mut(&address) else {
            return;
        };
        match self.config.conflict_policy {
            ConflictPolicy::Warn => {}
            ConflictPolicy::Defend => self.defend(address),
            ConflictPolicy::Yield => {
                state.not_before = Some(now + CONFLICT_RETRY_DELAY);
                self.deadlines.insert((now + CONFLICT_RETRY_DELAY, address));
                self.withdraw(address, ReleaseReason::Conflict);
                self.dirty.insert(address);
            }
        }
    }

    /// Announces an address again, if the policy says so and the last time is long enough ago.
    fn defend(&mut self, address: IpAddr) {
        let now = self.now;
        if self.config.conflict_policy == ConflictPolicy::Defend
            && self.announced.announces(address)
            && let Some(conflict) = self.addresses.get_mut(&address).map(|state| state.conflict())
            && conflict.defended_at.is_none_or(|at| at + DEFEND_INTERVAL <= now)
        {
            conflict.defended_at = Some(now);
            self.outputs.push_back(Output::Reannounce { address });
        }
    }

    /// Resolves a conflict whose host has not been seen for [`CONFLICT_EXPIRY`]. At most one check is scheduled at a
    /// time, however often the host is seen.
    pub(super) fn expire_conflict(&mut self, address: IpAddr) {
        let now = self.now;
        let Some(conflict) = self
            .addresses
            .get_mut(&address)
            .and_then(|state| state.conflict.as_mut())
        else {
            return;
        };
        if let Some(conflicting) = conflict.conflicting {
            let over = conflicting.last_seen + CONFLICT_EXPIRY;
            if over <= now {
                conflict.conflicting = None;
                self.outputs.push_back(Output::ConflictResolved { address });
            } else if conflict.expires_at.is_none_or(|at| at <= now) {
                conflict.expires_at = Some(over);
                self.deadlines.insert((over, address));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{ApiState, Candidates, CoordinatorConfig, NodeInfo, PartitionPolicy};
    use super::*;
    use crate::ownership::failure_detector::FailureDetectorConfig;

    const STRANGER: MacAddr = MacAddr([2, 0xbb, 0, 0, 0, 1]);

    fn mk_config() -> CoordinatorConfig {
        CoordinatorConfig {
            node: "n1".to_owned(),
            version: String::new(),
            failure_detector: FailureDetectorConfig::default(),
            partition_policy: PartitionPolicy::Availability,
            failback: false,
            conflict_policy: ConflictPolicy::Warn,
        }
    }

    /// A speaker that owns an address, with a node `n2` that is no candidate of it.
    #[allow(clippy::disallowed_methods, reason = "where time begins")]
    fn mk_owner(address: IpAddr) -> (Coordinator, Instant) {
        let start = Instant::now();
        let mut speaker = Coordinator::new(start, 1, mk_config());
        let other = NodeInfo {
            name: "n2",
            api: ApiState::Absent,
            on_link: true,
        };
        speaker.set_nodes(start, [other]);
        let candidates = Candidates {
            order: &["n1"],
            no_interface: false,
            preferred: None,
        };
        speaker.set_candidates(address, Some(candidates));
        speaker.start(start);
        let mut now = start;
        while !speaker.announced.announces(address) {
            now = speaker.poll_timeout().unwrap().max(now);
            speaker.handle_timeout(now, 64);
            assert!(now < start + Duration::from_secs(60), "it claims it");
        }
        while speaker.poll_output().is_some() {}
        (speaker, now)
    }

    #[test]
    fn unidentified_host_is_probed_again_before_a_conflict() {
        let address: IpAddr = [192, 0, 2, 1].into();
        // Seconds until the host is known as a node.
        for (known_after, asks, tells) in [(Some(0), 0, [0, 0]), (Some(3), 1, [1, 1]), (None, 1, [1, 0])] {
            let (mut speaker, seen) = mk_owner(address);
            speaker.handle_reply(seen, address, STRANGER);
            let known_at = known_after.map(|after| seen + Duration::from_secs(after));
            let (mut asked, mut peer) = (0, [0, 0]);
            let mut now = seen;
            while now < seen + Duration::from_secs(5) {
                if known_at.is_some_and(|at| at <= now) {
                    speaker.handle_node_reply(now, "n2", STRANGER);
                }
                now += Duration::from_millis(50);
                speaker.handle_timeout(now, 64);
                while let Some(output) = speaker.poll_output() {
                    match output {
                        Output::QueryAddress { to, .. } => {
                            assert_eq!(to, QueryTarget::Host(STRANGER));
                            asked += 1;
                            speaker.handle_reply(now, address, STRANGER);
                        }
                        Output::ConflictDetected { mac, .. } => {
                            assert!(now >= seen + IDENTIFICATION_TIMEOUT);
                            assert_eq!(mac, STRANGER);
                            peer[0] += 1;
                        }
                        Output::ConflictResolved { .. } => peer[1] += 1,
                        _ => {}
                    }
                }
            }
            assert_eq!((asked, peer), (asks, tells), "known after {known_after:?} s");
            assert!(speaker.addresses[&address].unidentified().is_none());
        }
    }

    #[test]
    #[allow(clippy::disallowed_methods, reason = "where time begins")]
    fn persistent_conflict_uses_one_deadline_and_expires() {
        let start = Instant::now();
        let address: IpAddr = [192, 0, 2, 1].into();
        let mut speaker = Coordinator::new(start, 1, mk_config());
        speaker.set_nodes(start, []);
        let candidates = Candidates {
            order: &["n1"],
            no_interface: false,
            preferred: None,
        };
        speaker.set_candidates(address, Some(candidates));
        speaker.start(start);
        let mut now = start;
        while !speaker.announced.announces(address) {
            now = speaker.poll_timeout().unwrap().max(now);
            speaker.handle_timeout(now, 64);
            assert!(now < start + Duration::from_secs(60), "it claims it");
        }
        let mut strangers = Vec::new();
        let seen_until = now + 4 * CONFLICT_EXPIRY;
        while now < seen_until {
            now += Duration::from_secs(1);
            speaker.handle_reply(now, address, STRANGER);
            // Decide about the address again and again.
            speaker.dirty.insert(address);
            speaker.handle_timeout(now, 64);
            strangers.extend(std::iter::from_fn(|| speaker.poll_output()));
            let pending = speaker.deadlines.iter().filter(|(_, other)| *other == address);
            assert!(pending.count() <= 1);
        }
        let peer = |outputs: &[Output], over: bool| {
            let matching = outputs.iter().filter(|output| match output {
                Output::ConflictDetected { .. } => !over,
                Output::ConflictResolved { .. } => over,
                _ => false,
            });
            matching.count()
        };
        assert_eq!((peer(&strangers, false), peer(&strangers, true)), (1, 0));
        let mut after = Vec::new();
        while let Some(due) = speaker.poll_timeout() {
            now = due.max(now);
            speaker.handle_timeout(now, 64);
            after.extend(std::iter::from_fn(|| speaker.poll_output()));
            if peer(&after, true) > 0 {
                break;
            }
        }
        assert_eq!(peer(&after, true), 1);
        assert_eq!(now, seen_until + CONFLICT_EXPIRY);
    }
}
