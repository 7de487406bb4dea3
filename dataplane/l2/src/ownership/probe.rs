//! Probes an address before it is claimed for the first time (RFC 5227 section 2.1.1, RFC 4862 section 5.4).
//!
//! RFC 5227 waits four to seven seconds for three probes, because it covers slow links and hosts that are just starting.
//! In a data center a reply takes less than a millisecond, so three probes in less than a fifth of a second suffice.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use super::{Coordinator, Output};
use crate::MacAddr;
use crate::ownership::failure_detector::{Evidence, NodeId};

/// How an address is probed before a claim.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct ProbePlan {
    count: u8,
    /// How long each probe waits for a reply.
    interval: Duration,
}

impl ProbePlan {
    /// Before a first claim.
    pub(super) const FIRST: Self = Self {
        count: 3,
        interval: Duration::from_millis(60),
    };
    /// Before the address of a failed owner is claimed: it did not reply to the failure detector either.
    pub(super) const FAILOVER: Self = Self {
        count: 2,
        interval: Duration::from_millis(30),
    };
}

/// Upper bound of the addresses that are probed at a time, so that the driver can send the frames within the interval.
const MAX_CONCURRENT_PROBES: usize = 512;
/// How long an address is left alone after a peer that has not announced it replied.
pub(super) const PEER_REPLY_RETRY_DELAY: Duration = Duration::from_secs(1);

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum ProbeResult {
    Pending,
    NoReply,
    PeerReplied,
    UnknownHostReplied,
}

#[derive(Debug)]
struct Probe {
    plan: ProbePlan,
    sent: u8,
    at: Instant,
    found: ProbeResult,
}

/// The running and waiting probes.
#[derive(Debug, Default)]
pub(super) struct ProbeQueue {
    running: BTreeMap<IpAddr, Probe>,
    due: BTreeSet<(Instant, IpAddr)>,
    waiting: VecDeque<(IpAddr, ProbePlan)>,
}

impl ProbeQueue {
    /// Returns the result of probing the address; starts to probe if necessary.
    pub(super) fn result_or_start(&mut self, now: Instant, address: IpAddr, plan: ProbePlan) -> ProbeResult {
        if let Some(probe) = self.running.get(&address) {
            return probe.found;
        }
        if self.due.len() >= MAX_CONCURRENT_PROBES {
            if !self.waiting.iter().any(|(waiting, _)| *waiting == address) {
                self.waiting.push_back((address, plan));
            }
            return ProbeResult::Pending;
        }
        self.running.insert(
            address,
            Probe {
                plan,
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
    /// Takes in an ARP or NDP packet from `mac` that shows `address` as the sender's.
    pub fn handle_reply(&mut self, now: Instant, address: IpAddr, mac: MacAddr) {
        self.now = self.now.max(now);
        if self.macs.contains(&mac) {
            return;
        }
        let peer = self.peer_by_mac.get(&mac).copied();
        // A proxy reply is no sign of life of the owner.
        if let Some(id) = peer.filter(|_| !self.is_proxied(address)) {
            self.failure_detector
                .handle_probe_reply(self.now, id, Evidence::Speaker);
            self.note_seen_announcer(address, id);
        }
        self.handle_reply_from(address, peer, mac);
    }

    /// Sends the probes that are due, ends those without a reply, and starts waiting ones.
    pub(super) fn send_due_probes(&mut self) {
        while let Some((at, address)) = self.probes.due.first().copied()
            && at <= self.now
        {
            self.probes.due.remove(&(at, address));
            let Some(probe) = self.probes.running.get_mut(&address) else {
                continue;
            };
            if probe.sent == probe.plan.count {
                probe.found = ProbeResult::NoReply;
                self.dirty.insert(address);
                continue;
            }
            probe.sent += 1;
            probe.at = self.now + probe.plan.interval;
            self.probes.due.insert((probe.at, address));
            self.outputs.push_back(Output::ProbeAddress { address });
        }
        while self.probes.due.len() < MAX_CONCURRENT_PROBES
            && let Some((address, plan)) = self.probes.waiting.pop_front()
        {
            // Without candidates nobody would take the result, and a later claim would rely on an outdated one.
            if self.addresses.contains_key(&address) {
                self.dirty.insert(address);
                self.probes.result_or_start(self.now, address, plan);
            }
        }
    }

    /// Whether a peer sends proxy replies for the owner of the address.
    fn is_proxied(&self, address: IpAddr) -> bool {
        let mut peers = self.peers.values();
        peers.any(|peer| peer.announced.proxied_for(address).is_some())
    }

    /// Notes that a peer, or a foreign host if `peer` is `None`, replied for the address.
    pub(super) fn handle_reply_from(&mut self, address: IpAddr, peer: Option<NodeId>, mac: MacAddr) {
        if let Some(id) = peer
            && let Some(state) = self.addresses.get_mut(&address)
        {
            state.last_reply_from = Some((id, self.now));
        }
        let found = match peer {
            Some(_) => ProbeResult::PeerReplied,
            None => ProbeResult::UnknownHostReplied,
        };
        let probed = self.probes.found(address, found);
        if probed {
            self.dirty.insert(address);
        }
        // A node that announces the address, or for which a proxy replies, is no conflict.
        let node = peer.and_then(|id| self.peers.get(&id));
        if node.is_some_and(|node| node.announced.announces(address) || self.is_proxied(address)) {
            return;
        }
        let node = node.map(|node| node.name.clone());
        let state = self.addresses.get(&address);
        let is_unidentified = state.is_some_and(|state| state.is_unidentified(mac));
        // During a hand-over, the frames of a node come before its announced set. A node whose kernel has the address
        // answers also later.
        let counts = node.is_none() || state.is_some_and(|state| state.awaits_self_check_reply(self.now));
        if probed || is_unidentified || (counts && self.announced.announces(address)) {
            self.handle_conflict(address, mac, node);
        }
    }
}
