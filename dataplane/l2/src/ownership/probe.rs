//! Probes an address before it is claimed for the first time (RFC 5227 section 2.1.1, RFC 4862 section 5.4).
//!
//! RFC 5227 waits four to seven seconds for three probes, because it covers slow links and hosts that are just starting.
//! In a data center a reply takes less than a millisecond, so three probes in less than a fifth of a second suffice.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use super::{Context, Coordinator, Output};
use crate::MacAddr;
use crate::ownership::failure_detector::Evidence;

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

    pub(super) fn found(&mut self, address: IpAddr, found: ProbeResult) -> bool {
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
        self.ctx.now = self.ctx.now.max(now);
        if self.ctx.macs.contains(&mac) {
            return;
        }
        let peer = self.ctx.peer_by_mac.get(&mac).copied();
        // A proxy reply is no sign of life of the owner.
        if let Some(id) = peer.filter(|_| !self.ctx.is_proxied(address)) {
            self.ctx
                .failure_detector
                .handle_probe_reply(self.ctx.now, id, Evidence::Speaker);
        }
        self.with_state(address, |state, ctx| state.handle_reply(address, peer, mac, ctx));
    }

    /// Sends the probes that are due, ends those without a reply, and starts waiting ones.
    pub(super) fn send_due_probes(&mut self) {
        while let Some((at, address)) = self.ctx.probes.due.first().copied()
            && at <= self.ctx.now
        {
            self.ctx.probes.due.remove(&(at, address));
            let Some(probe) = self.ctx.probes.running.get_mut(&address) else {
                continue;
            };
            if probe.sent == probe.plan.count {
                probe.found = ProbeResult::NoReply;
                self.ctx.dirty.insert(address);
                continue;
            }
            probe.sent += 1;
            probe.at = self.ctx.now + probe.plan.interval;
            self.ctx.probes.due.insert((probe.at, address));
            self.ctx.outputs.push_back(Output::ProbeAddress { address });
        }
        while self.ctx.probes.due.len() < MAX_CONCURRENT_PROBES
            && let Some((address, plan)) = self.ctx.probes.waiting.pop_front()
        {
            // Without candidates nobody would take the result, and a later claim would rely on an outdated one.
            if self.addresses.contains_key(&address) {
                self.ctx.dirty.insert(address);
                self.ctx.probes.result_or_start(self.ctx.now, address, plan);
            }
        }
    }
}

impl Context {
    /// Whether a peer sends proxy replies for the owner of the address.
    pub(super) fn is_proxied(&self, address: IpAddr) -> bool {
        let mut peers = self.peers.values();
        peers.any(|peer| peer.announced.proxied_for(address).is_some())
    }
}
