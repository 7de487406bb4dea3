//! Address conflicts: hosts that reply for an address of a Service although they should not (RFC 5227 section 2.4). Either
//! they are no nodes of the cluster, or the kernel of a node has the address.
//!
//! The number of frames and of hardware addresses changes nothing about the number of outputs: a conflict names its first
//! [`MAX_CONFLICTING_HOSTS`] hosts and is reported when the list has grown, at most every [`CONFLICT_REPORT_INTERVAL`].

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{AddressState, Context, ReleaseReason, UnknownPolicy};
use crate::MacAddr;
use crate::ownership::output::{ConflictingHost, Output, QueryTarget};

/// How long an address is left alone after a conflicting host replied; it doubles up to the maximum. Longer than
/// `DEFEND_INTERVAL`: some hosts give an address up after the second probe within that time.
const CONFLICT_RETRY_DELAY: Duration = Duration::from_secs(15);
const MAX_CONFLICT_RETRY_DELAY: Duration = Duration::from_secs(60);
/// A conflict is over when no conflicting host has been seen for this long.
const CONFLICT_EXPIRY: Duration = Duration::from_secs(150);
/// Minimum time between two reports of a conflict.
const CONFLICT_REPORT_INTERVAL: Duration = Duration::from_secs(10);
/// The hosts that a conflict names.
const MAX_CONFLICTING_HOSTS: usize = 4;
/// The hosts that may turn out to be nodes. If there are more at a time, they are no nodes.
const MAX_UNIDENTIFIED_HOSTS: usize = 4;
/// How long a host may turn out to be a node: the heartbeats of a node arrive within two periods.
const IDENTIFICATION_TIMEOUT: Duration = Duration::from_secs(1);
/// How long a node may reply for an address that it does not announce as far as we know. During a hand-over its announced
/// set may be late.
const NODE_IDENTIFICATION_TIMEOUT: Duration = Duration::from_secs(10);
/// `DEFEND_INTERVAL` of RFC 5227 section 1.1.
const DEFEND_INTERVAL: Duration = Duration::from_secs(10);

/// Hosts that replied for an address that they should not have.
#[derive(Debug, Default)]
pub(super) struct ConflictState {
    /// The first hosts of the present conflict.
    hosts: Vec<ConflictingHost>,
    /// When one of them was seen last.
    last_seen: Option<Instant>,
    /// Whether the present conflict was reported.
    is_reported: bool,
    /// Whether a host was added since the last report.
    is_unreported: bool,
    reported_at: Option<Instant>,
    /// When the conflict is checked for expiry; in the past if no check is scheduled.
    expires_at: Option<Instant>,
    /// Hosts that may be nodes or conflicting hosts.
    unidentified: Vec<UnidentifiedHost>,
    /// Consecutive claims that a conflicting host prevented.
    prevented_claims: u32,
    defended_at: Option<Instant>,
}

/// A host that may turn out to be a node that has not been heard yet, or a node whose announced set is late.
#[derive(Clone, Copy, Debug)]
struct UnidentifiedHost {
    mac: MacAddr,
    is_node: bool,
    since: Instant,
    /// Whether it has been probed again.
    reprobed: bool,
}

impl UnidentifiedHost {
    fn identified_at(&self) -> Instant {
        self.since + identification_timeout(self.is_node)
    }
}

const fn identification_timeout(is_node: bool) -> Duration {
    if is_node {
        NODE_IDENTIFICATION_TIMEOUT
    } else {
        IDENTIFICATION_TIMEOUT
    }
}

/// A host that replies, as far as it is known.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Identity {
    /// It may still turn out to be a node, or to announce the address.
    Unknown {
        /// Whether this is its first frame.
        is_new: bool,
    },
    /// It is in conflict.
    Conflicting,
}

impl ConflictState {
    /// Whether the host may still turn out to be a node that may have the address. A node whose link is up again replies
    /// for its addresses before its first heartbeat is accepted; and a speaker that has started since does not even know
    /// it as a candidate, because the API server has not noticed its return either.
    fn identify(&mut self, now: Instant, mac: MacAddr, is_node: bool) -> Identity {
        if self.hosts.iter().any(|host| host.mac == mac) {
            return Identity::Conflicting;
        }
        self.unidentified
            .retain(|host| host.mac == mac || now < host.since + CONFLICT_EXPIRY);
        if let Some(at) = self.unidentified.iter().position(|host| host.mac == mac)
            && let Some(host) = self.unidentified.get(at)
        {
            if now < host.identified_at() {
                return Identity::Unknown { is_new: false };
            }
            self.unidentified.remove(at);
            return Identity::Conflicting;
        }
        if self.unidentified.len() >= MAX_UNIDENTIFIED_HOSTS {
            let some_are_identified = self.unidentified.iter().any(|host| host.identified_at() <= now);
            return if some_are_identified && !is_node {
                Identity::Conflicting
            } else {
                Identity::Unknown { is_new: false }
            };
        }
        self.unidentified.push(UnidentifiedHost {
            mac,
            is_node,
            since: now,
            reprobed: false,
        });
        Identity::Unknown { is_new: true }
    }

    /// Ends the conflict.
    fn resolve(&mut self, address: IpAddr, ctx: &mut Context) {
        self.hosts.clear();
        self.is_unreported = false;
        if std::mem::take(&mut self.is_reported) {
            ctx.outputs.push_back(Output::ConflictResolved { address });
        }
    }

    /// Announces an address again, if the policy says so and the last time is long enough ago.
    fn defend(&mut self, address: IpAddr, ctx: &mut Context) {
        if ctx.config.conflict_policy == ConflictPolicy::Defend
            && ctx.announced.announces(address)
            && self.defended_at.is_none_or(|at| at + DEFEND_INTERVAL <= ctx.now)
        {
            self.defended_at = Some(ctx.now);
            ctx.outputs.push_back(Output::Reannounce { address });
        }
    }

    /// Reports a conflict that has more hosts, and resolves one whose hosts have not been seen for [`CONFLICT_EXPIRY`].
    /// At most one check is scheduled at a time, however often the hosts are seen.
    fn update(&mut self, address: IpAddr, ctx: &mut Context) {
        let now = ctx.now;
        let Some(last_seen) = self.last_seen.filter(|_| !self.hosts.is_empty()) else {
            return;
        };
        let over = last_seen + CONFLICT_EXPIRY;
        if over <= now {
            return self.resolve(address, ctx);
        }
        if self.expires_at.is_none_or(|at| at <= now) {
            self.expires_at = Some(over);
            ctx.deadlines.insert((over, address));
        }
        if !self.is_unreported {
            return;
        }
        let report_at = self.reported_at.map(|at| at + CONFLICT_REPORT_INTERVAL);
        if let Some(at) = report_at.filter(|at| now < *at) {
            ctx.deadlines.insert((at, address));
            return;
        }
        self.reported_at = Some(now);
        self.is_reported = true;
        self.is_unreported = false;
        let hosts = self.hosts.clone().into();
        ctx.outputs.push_back(Output::ConflictDetected { address, hosts });
    }
}

/// How to react when a conflicting host replies for an address.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum ConflictPolicy {
    /// Report it. Do not start to announce an address that another host has, but keep announcing one of ours.
    #[default]
    Warn,
    /// Report it, take the address, and announce it again, at most once in ten seconds (RFC 5227 section 2.4 (b)).
    Defend,
    /// Report it, and do not announce the address until the conflicting host is gone (RFC 5227 section 2.4 (a)).
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

impl AddressState {
    /// Whether a conflict was reported and is not over.
    pub(super) fn has_reported_conflict(&self) -> bool {
        self.conflict
            .as_ref()
            .is_some_and(|conflict| conflict.is_reported)
    }

    /// Whether the host was seen, and may be a node or a conflicting host.
    pub(super) fn is_unidentified(&self, mac: MacAddr) -> bool {
        let conflict = self.conflict.as_ref();
        conflict.is_some_and(|conflict| conflict.unidentified.iter().any(|host| host.mac == mac))
    }

    /// Resolves a conflict in which the hardware address, which belongs to a peer, was taken for a foreign host.
    pub(in crate::ownership) fn identify_node(&mut self, address: IpAddr, mac: MacAddr, ctx: &mut Context) {
        let Some(conflict) = &mut self.conflict else {
            return;
        };
        conflict
            .unidentified
            .retain(|host| host.mac != mac || host.is_node);
        let count = conflict.hosts.len();
        conflict
            .hosts
            .retain(|host| host.mac != mac || host.node.is_some());
        if conflict.hosts.is_empty() && count > 0 {
            conflict.resolve(address, ctx);
            ctx.dirty.insert(address);
        }
    }

    /// Probes for an unidentified host once more when a node would have been heard. A host that does not reply is
    /// remembered until the conflict would expire, because it may send only gratuitous packets.
    pub(super) fn reprobe_unidentified(&mut self, address: IpAddr, ctx: &mut Context) {
        let now = ctx.now;
        let Some(conflict) = &mut self.conflict else {
            return;
        };
        conflict
            .unidentified
            .retain(|host| now < host.since + CONFLICT_EXPIRY);
        for host in &mut conflict.unidentified {
            if !host.reprobed && host.identified_at() <= now {
                host.reprobed = true;
                ctx.deadlines.insert((host.since + CONFLICT_EXPIRY, address));
                let to = QueryTarget::Host(host.mac);
                ctx.outputs.push_back(Output::QueryAddress { address, to });
            }
        }
    }

    /// Handles a reply for an address that we own or would claim, from a foreign host or from a node that does not
    /// announce it. The host is in conflict when it is seen twice, the second time after it can be identified.
    pub(super) fn handle_conflict(
        &mut self,
        address: IpAddr,
        mac: MacAddr,
        node: Option<Arc<str>>,
        ctx: &mut Context,
    ) {
        let is_node = node.is_some();
        let conflict = self.conflict.get_or_insert_default();
        match conflict.identify(ctx.now, mac, is_node) {
            Identity::Unknown { is_new } => {
                if is_new {
                    let at = ctx.now + identification_timeout(is_node);
                    ctx.deadlines.insert((at, address));
                }
                if !is_node {
                    conflict.defend(address, ctx);
                }
                return;
            }
            Identity::Conflicting => {}
        }
        conflict.last_seen = Some(ctx.now);
        if conflict.hosts.len() < MAX_CONFLICTING_HOSTS && conflict.hosts.iter().all(|host| host.mac != mac) {
            conflict.hosts.push(ConflictingHost { mac, node });
            conflict.is_unreported = true;
        }
        conflict.update(address, ctx);
        if !ctx.announced.announces(address) || is_node {
            return;
        }
        conflict.defend(address, ctx);
        if ctx.config.conflict_policy == ConflictPolicy::Yield {
            self.withdraw(address, ReleaseReason::Conflict, ctx);
            self.retry_claim_after(address, CONFLICT_RETRY_DELAY, ctx);
            ctx.dirty.insert(address);
        }
    }

    /// A conflicting host has an address that we would claim: tries again later.
    pub(super) fn retry_claim_after_conflict(&mut self, address: IpAddr, ctx: &mut Context) {
        let conflict = self.conflict.get_or_insert_default();
        let delay = CONFLICT_RETRY_DELAY * (1 << conflict.prevented_claims.min(4));
        conflict.prevented_claims = conflict.prevented_claims.saturating_add(1);
        self.retry_claim_after(address, delay.min(MAX_CONFLICT_RETRY_DELAY), ctx);
    }

    /// Nobody has replied to the probes for the address.
    pub(super) fn end_conflict(&mut self, address: IpAddr, ctx: &mut Context) {
        if let Some(conflict) = &mut self.conflict {
            conflict.prevented_claims = 0;
            conflict.unidentified.clear();
            conflict.resolve(address, ctx);
        }
    }

    /// Reports a conflict that has more hosts, and resolves one that is over.
    pub(super) fn update_conflict(&mut self, address: IpAddr, ctx: &mut Context) {
        if let Some(conflict) = &mut self.conflict {
            conflict.update(address, ctx);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ownership::failure_detector::FailureDetectorConfig;
    use crate::ownership::{ApiState, Candidates, Coordinator, CoordinatorConfig, NodeInfo, PartitionPolicy};

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
            voters: &[],
            no_interface: false,
            preferred: None,
        };
        speaker.set_candidates(address, Some(candidates));
        speaker.start(start);
        let mut now = start;
        while !speaker.ctx.announced.announces(address) {
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
                        Output::ConflictDetected { hosts, .. } => {
                            assert!(now >= seen + IDENTIFICATION_TIMEOUT);
                            assert_eq!(hosts.len(), 1);
                            assert_eq!(hosts[0].mac, STRANGER);
                            peer[0] += 1;
                        }
                        Output::ConflictResolved { .. } => peer[1] += 1,
                        _ => {}
                    }
                }
            }
            assert_eq!((asked, peer), (asks, tells), "known after {known_after:?} s");
            assert!(!speaker.addresses[&address].is_unidentified(STRANGER));
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
            voters: &[],
            no_interface: false,
            preferred: None,
        };
        speaker.set_candidates(address, Some(candidates));
        speaker.start(start);
        let mut now = start;
        while !speaker.ctx.announced.announces(address) {
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
            speaker.ctx.dirty.insert(address);
            speaker.handle_timeout(now, 64);
            strangers.extend(std::iter::from_fn(|| speaker.poll_output()));
            let pending = speaker
                .ctx
                .deadlines
                .iter()
                .filter(|(_, other)| *other == address);
            // One of the conflict, one of the self-check.
            assert!(pending.count() <= 2);
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

    /// The outputs of an owner for two hosts that send 50 frames a second in turn, or for hosts with a new address in
    /// each frame.
    fn flood(mac_of: impl Fn(u32) -> MacAddr) -> Vec<Output> {
        let address: IpAddr = [192, 0, 2, 1].into();
        let (mut speaker, mut now) = mk_owner(address);
        let mut outputs = Vec::new();
        for frame in 0..1000 {
            now += Duration::from_millis(20);
            speaker.handle_reply(now, address, mac_of(frame));
            speaker.handle_timeout(now, 64);
            outputs.extend(std::iter::from_fn(|| speaker.poll_output()));
            assert!(
                speaker.ctx.deadlines.len() <= 16,
                "{} deadlines",
                speaker.ctx.deadlines.len()
            );
        }
        outputs
    }

    #[test]
    fn reports_do_not_grow_with_frames_and_hosts() {
        let two = |frame: u32| MacAddr([2, 0xbb, 0, 0, 0, u8::from(frame.is_multiple_of(2))]);
        let new = |frame: u32| {
            let [_, _, high, low] = frame.to_be_bytes();
            MacAddr([2, 0xbb, 0, 0, high, low])
        };
        for (name, outputs, named) in [("two hosts", flood(two), 2), ("new hosts", flood(new), 4)] {
            let reports: Vec<_> = outputs
                .iter()
                .filter_map(|output| match output {
                    Output::ConflictDetected { hosts, .. } => Some(hosts.len()),
                    _ => None,
                })
                .collect();
            assert!(
                reports.len() <= 3 && reports.last() == Some(&named),
                "{name}: {reports:?}"
            );
            let is_probe = |output: &&Output| {
                matches!(output, Output::ProbeAddress { .. } | Output::QueryAddress { .. })
            };
            let probes = outputs.iter().filter(is_probe).count();
            assert!(probes <= 4, "{name}: {probes} probes");
        }
    }
}
