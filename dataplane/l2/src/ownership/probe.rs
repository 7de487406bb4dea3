//! Asking the wire before an address is claimed that nobody is known to have had, and watching for strangers afterwards
//! (RFC 5227).
//!
//! RFC 5227 takes four to seven seconds for three probes, with every host in mind that was ever switched on. Between
//! machines of one data centre an answer takes less than a millisecond, so three probes take less than a fifth of a second
//! here.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use super::{AddressState, Coordinator, Output, ReleaseReason};
use crate::MacAddr;
use crate::ownership::failure_detector::{Evidence, NodeId};
use crate::wire::heartbeat::MAX_MACS;

/// ProbeQueue before a first claim, and the time that each waits for an answer.
const PROBE_COUNT: u8 = 3;
const PROBE_INTERVAL: Duration = Duration::from_millis(60);
/// Most addresses that are probed at the same time: as many frames as the driver can send in the meantime.
const MAX_CONCURRENT_PROBES: usize = 256;
/// How long an address is left alone that a stranger, or a peer that has not told it, was found to answer for.
pub(super) const CONFLICT_RETRY_DELAY: Duration = Duration::from_secs(10);
pub(super) const PEER_REPLY_RETRY_DELAY: Duration = Duration::from_secs(1);
/// How long a stranger is remembered that was seen no more.
const CONFLICT_EXPIRY: Duration = Duration::from_secs(150);
/// How long a host that may be a node is given to be heard as one: it is heard within two intervals of its heartbeats.
const IDENTIFICATION_TIMEOUT: Duration = Duration::from_secs(1);
/// Least time between two defences of an address (`DEFEND_INTERVAL` of RFC 5227).
const DEFEND_INTERVAL: Duration = Duration::from_secs(10);

/// What is known of hosts that answer for an address and are no nodes.
#[derive(Debug, Default)]
pub(super) struct ConflictState {
    /// A stranger that answers for it, and when it was seen last.
    conflicting: Option<(MacAddr, Instant)>,
    /// When it is looked whether the stranger is gone; passed, when nobody will look.
    look: Option<Instant>,
    /// A host that may be a stranger or a node that is not known yet.
    unidentified: Option<UnidentifiedHost>,
    /// When the address was defended last.
    defended: Option<Instant>,
}

impl AddressState {
    /// The stranger that answers for the address, and when it was seen last.
    pub(super) fn conflicting(&self) -> Option<(MacAddr, Instant)> {
        self.conflict.as_ref()?.conflicting
    }

    fn unidentified(&self) -> Option<UnidentifiedHost> {
        self.conflict.as_ref()?.unidentified
    }

    fn conflict(&mut self) -> &mut ConflictState {
        self.conflict.get_or_insert_default()
    }
}

/// A host that seems a stranger, and may be a node that was not heard since we are here.
#[derive(Clone, Copy, Debug)]
pub(super) struct UnidentifiedHost {
    mac: MacAddr,
    since: Instant,
    /// Whether it was asked for again.
    asked: bool,
}

/// What to do when a stranger answers for an address.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum ConflictPolicy {
    /// Tell it, and go on.
    #[default]
    Warn,
    /// Tell it, and announce the address again, at most once in ten seconds.
    Defend,
    /// Tell it, and leave the address to the stranger until that is gone.
    Yield,
}

/// What a probe has found.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum ProbeResult {
    Pending,
    NoReply,
    PeerReplied,
    ConflictingHost(MacAddr),
}

#[derive(Debug)]
struct Probe {
    sent: u8,
    at: Instant,
    found: ProbeResult,
}

/// The probes under way.
#[derive(Debug, Default)]
pub(super) struct ProbeQueue {
    running: BTreeMap<IpAddr, Probe>,
    due: BTreeSet<(Instant, IpAddr)>,
    waiting: VecDeque<IpAddr>,
}

impl ProbeQueue {
    /// What is known of the address; begins to probe it if it is not being probed.
    pub(super) fn result_or_start(&mut self, now: Instant, address: IpAddr) -> ProbeResult {
        if let Some(probe) = self.running.get(&address) {
            return probe.found;
        }
        if self.due.len() >= MAX_CONCURRENT_PROBES {
            if !self.waiting.contains(&address) {
                self.waiting.push_back(address);
            }
            return ProbeResult::Pending;
        }
        self.running.insert(
            address,
            Probe {
                sent: 0,
                at: now,
                found: ProbeResult::Pending,
            },
        );
        self.due.insert((now, address));
        ProbeResult::Pending
    }

    pub(super) fn remove(&mut self, address: IpAddr) {
        if let Some(probe) = self.running.remove(&address) {
            self.due.remove(&(probe.at, address));
        }
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.due.first().map(|(at, _)| *at)
    }

    fn found(&mut self, address: IpAddr, found: ProbeResult) -> bool {
        let Some(probe) = self.running.get_mut(&address) else {
            return false;
        };
        if probe.found != ProbeResult::Pending {
            return false;
        }
        probe.found = found;
        self.due.remove(&(probe.at, address));
        true
    }
}

impl Coordinator {
    /// The wire showed that somebody at `mac` answers for the address.
    pub fn handle_reply(&mut self, now: Instant, address: IpAddr, mac: MacAddr) {
        self.now = self.now.max(now);
        if self.macs.contains(&mac) {
            return;
        }
        let peer = self.peer_by_mac.get(&mac).copied();
        let stood_in_for = || {
            let mut peer = self.peers.values();
            peer.any(|peer| peer.announced.proxied_for(address).is_some())
        };
        if let Some(id) = peer
            && self.peers.get(&id).is_some_and(|peer| peer.announced.announces(address))
            // Such an answer is not its own.
            && !stood_in_for()
        {
            self.failure_detector
                .handle_probe_reply(self.now, id, Evidence::Speaker);
        }
        self.handle_reply_from(address, peer, mac);
    }

    /// The wire showed that the node lives, and its hardware address.
    pub fn handle_node_reply(&mut self, now: Instant, name: &str, mac: MacAddr) {
        self.now = self.now.max(now);
        if let Some(id) = self.node_ids.get(name).copied()
            && let Some(peer) = self.peers.get_mut(&id)
        {
            // Of a peer that is never heard this is the only way to know it from a stranger.
            if self.failure_detector.last_heard(id).is_none() && !peer.macs.contains(&mac) {
                // Anybody on the LAN can answer for it, from as many as they like: the last few count.
                if peer.macs.len() >= MAX_MACS {
                    let oldest = peer.macs.remove(0);
                    if self.peer_by_mac.get(&oldest) == Some(&id) {
                        self.peer_by_mac.remove(&oldest);
                    }
                }
                peer.macs.push(mac);
                // What a peer has told itself is worth more than what the wire shows.
                if !self.peer_by_mac.contains_key(&mac) {
                    self.set_peer_mac(mac, id);
                }
            }
            self.failure_detector
                .handle_probe_reply(self.now, id, Evidence::Node);
        }
    }

    /// Sends the probes that are due, and ends those that found nobody.
    pub(super) fn send_due_probes(&mut self) {
        while let Some((at, address)) = self.probes.due.first().copied()
            && at <= self.now
        {
            self.probes.due.remove(&(at, address));
            let Some(probe) = self.probes.running.get_mut(&address) else {
                continue;
            };
            if probe.sent == PROBE_COUNT {
                probe.found = ProbeResult::NoReply;
                self.dirty.insert(address);
                continue;
            }
            probe.sent += 1;
            probe.at = self.now + PROBE_INTERVAL;
            self.probes.due.insert((probe.at, address));
            self.outputs.push_back(Output::ProbeAddress { address });
        }
        while self.probes.due.len() < MAX_CONCURRENT_PROBES
            && let Some(address) = self.probes.waiting.pop_front()
        {
            // It may have lost its candidates while it waited: nobody would take what its probe finds, until it is claimed on
            // the strength of that later.
            if self.addresses.contains_key(&address) {
                self.dirty.insert(address);
                self.probes.result_or_start(self.now, address);
            }
        }
    }

    /// Somebody answers for the address: a peer, or a stranger.
    pub(super) fn handle_reply_from(&mut self, address: IpAddr, peer: Option<NodeId>, mac: MacAddr) {
        if let Some(id) = peer
            && let Some(state) = self.addresses.get_mut(&address)
        {
            state.last_reply_from = Some((id, self.now));
        }
        let found = match peer {
            Some(_) => ProbeResult::PeerReplied,
            None => ProbeResult::ConflictingHost(mac),
        };
        let probed = self.probes.found(address, found);
        if probed {
            self.dirty.insert(address);
        }
        let unidentified = self
            .addresses
            .get(&address)
            .and_then(|state| state.unidentified());
        let is_unidentified = unidentified.is_some_and(|unidentified| unidentified.mac == mac);
        if peer.is_none() && (probed || is_unidentified || self.announced.announces(address)) {
            self.handle_conflict(address, mac);
        }
    }

    /// Whether a host that seems a stranger may yet turn out to be a node. A node whose cable is back answers for what it had
    /// before its first heartbeat is believed; and who has started meanwhile does not even take it for a candidate, because
    /// the API has not noticed its return either.
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
            asked: false,
        });
        self.deadlines.insert((now + IDENTIFICATION_TIMEOUT, address));
        true
    }

    /// Answers from this hardware address are the peer's; so none of them was a stranger's.
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
                .is_some_and(|(conflicting, _)| conflicting == mac)
            {
                conflict.conflicting = None;
                self.outputs
                    .push_back(Output::ConflictResolved { address: *address });
                self.dirty.insert(*address);
            }
        }
    }

    /// Asks for a suspect once more, when a node would have been heard. Who does not answer then is remembered for as long as
    /// strangers are: who only ever announces does it again.
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
        } else if !unidentified.asked && unidentified.since + IDENTIFICATION_TIMEOUT <= now {
            unidentified.asked = true;
            self.deadlines
                .insert((unidentified.since + CONFLICT_EXPIRY, address));
            self.outputs.push_back(Output::ProbeAddress { address });
        }
    }

    /// A stranger answers for an address that is ours, or that we would take. It is told when it was seen twice, a second apart.
    fn handle_conflict(&mut self, address: IpAddr, mac: MacAddr) {
        let now = self.now;
        if self.await_identification(address, mac) {
            return self.defend(address);
        }
        let Some(state) = self.addresses.get_mut(&address) else {
            return;
        };
        let conflict = state.conflict();
        conflict.unidentified = None;
        let known = conflict.conflicting.replace((mac, now));
        if known.is_none_or(|(before, _)| before != mac) {
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

    /// Announces an address of ours again, if that is what is wanted.
    fn defend(&mut self, address: IpAddr) {
        let now = self.now;
        if self.config.conflict_policy == ConflictPolicy::Defend
            && self.announced.announces(address)
            && let Some(conflict) = self.addresses.get_mut(&address).map(|state| state.conflict())
            && conflict.defended.is_none_or(|at| at + DEFEND_INTERVAL <= now)
        {
            conflict.defended = Some(now);
            self.outputs.push_back(Output::Reannounce { address });
        }
    }

    /// Forgets a stranger that was not seen for a while. One look is pending at a time, however often it is seen: it finds when
    /// it was seen last.
    pub(super) fn expire_conflict(&mut self, address: IpAddr) {
        let now = self.now;
        let Some(conflict) = self
            .addresses
            .get_mut(&address)
            .and_then(|state| state.conflict.as_mut())
        else {
            return;
        };
        if let Some((_, seen)) = conflict.conflicting {
            let over = seen + CONFLICT_EXPIRY;
            if over <= now {
                conflict.conflicting = None;
                self.outputs.push_back(Output::ConflictResolved { address });
            } else if conflict.look.is_none_or(|look| look <= now) {
                conflict.look = Some(over);
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

    /// A speaker that has an address, and knows nothing of another node, not even that it might have it.
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
    fn who_may_be_a_node_is_asked_for_again_before_it_is_called_a_stranger() {
        let address: IpAddr = [192, 0, 2, 1].into();
        // When the host is known as a node, if ever.
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
                        Output::ProbeAddress { .. } => {
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
    fn a_stranger_that_stays_is_looked_after_by_one_deadline_and_forgotten_when_it_is_gone() {
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
            // Something else is to be done about the address, over and over.
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
