//! ARP and NDP frames: probes, replies, and gratuitous announcements that other owners and probing nodes see; and the
//! ways in which frames and heartbeats get lost.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use lb_l2::MacAddr;
use lb_l2::gratuitous::SERIES_OFFSETS;

use super::{Event, Network, ms};

/// How long a speaker receives replies and announcements for an address that it has probed.
const WATCH_TIME: Duration = Duration::from_secs(3);

impl Network {
    /// Stops a virtual machine for `time`: it sends and answers nothing; what arrives is handled afterwards.
    pub(crate) fn stun(&mut self, node: usize, time: Duration) {
        let until = self.now + time;
        let host = &mut self.hosts[node];
        host.stunned_until = Some(until);
        host.cpu_wait_until = Some(host.cpu_wait_until.map_or(until, |at| at.max(until)));
        self.plan(time, Event::CpuAvailable(node));
    }

    /// Loses every frame and every heartbeat of all nodes for `time`.
    pub(crate) fn lose_everything(&mut self, time: Duration) {
        self.lost_until = Some(self.now + time);
    }

    pub(super) fn loses_heartbeat(&self, from: usize, to: usize) -> bool {
        self.drop_all_heartbeats || self.blocked.contains(&(from, to)) || self.loses_everything()
    }

    fn loses_everything(&self) -> bool {
        self.lost_until.is_some_and(|until| self.now < until)
    }

    fn loses_frame(&mut self) -> bool {
        self.loses_everything() || (self.probe_loss > 0 && self.rng.below(1000) < self.probe_loss)
    }

    /// How long the kernel of a node answers nothing.
    fn stun_left(&self, node: usize) -> Duration {
        let until = self.hosts[node].stunned_until;
        until.map_or(Duration::ZERO, |until: Instant| {
            until.saturating_duration_since(self.now)
        })
    }

    /// Delivers a question about an address to the hosts that get it, and their replies.
    pub(super) fn ask(&mut self, node: usize, address: IpAddr, gets: impl Fn(MacAddr) -> bool) {
        let until = self.now + WATCH_TIME;
        if let Some(process) = &mut self.hosts[node].process {
            process.watched.insert(address, until);
        }
        if self.loses_frame() {
            return;
        }
        let answering: Vec<_> = (0..self.hosts.len())
            .filter(|other| *other != node && self.connected(node, *other))
            .filter(|other| gets(self.hosts[*other].mac))
            .filter_map(|other| {
                let waits = self.waits(other).max(self.stun_left(other));
                Some((self.answers_as(other, address)?, waits))
            })
            .collect();
        let foreign = self.conflicting_hosts.get(&address).copied();
        let foreign = foreign.filter(|mac| gets(*mac)).map(|mac| (mac, Duration::ZERO));
        let run = self.run_of(node);
        for (mac, waits) in answering.into_iter().chain(foreign) {
            let after = self.delay() + waits + self.delay();
            self.plan(
                after,
                Event::Reply {
                    to: node,
                    run,
                    address,
                    mac,
                },
            );
        }
    }

    /// Delivers a question about a node's own address to it, and the reply of its kernel.
    pub(super) fn query_node(&mut self, node: usize, other: usize) {
        self.frames[node].node_queries += 1;
        if !self.connected(node, other) || self.off_link || self.loses_frame() {
            return;
        }
        self.frames[other].received += 1;
        let run = self.run_of(node);
        let after = self.delay() + self.stun_left(other) + self.delay();
        self.plan(
            after,
            Event::NodeReply {
                to: node,
                run,
                node: other,
            },
        );
    }

    /// Sends an announcement of a series, and plans the next one.
    pub(super) fn send_gratuitous(&mut self, node: usize, address: IpAddr, sent: usize) {
        if !self.answers(node, address) {
            return;
        }
        if self.stun_left(node) > Duration::ZERO {
            return;
        }
        if let Some(next) = SERIES_OFFSETS.get(sent + 1) {
            let run = self.run_of(node);
            let event = Event::Gratuitous {
                node,
                run,
                address,
                sent: sent + 1,
            };
            self.plan(*next - SERIES_OFFSETS[sent], event);
        }
        let mac = self.hosts[node].mac;
        for to in (0..self.hosts.len()).filter(|to| *to != node) {
            if self.connected(node, to) && self.receives(to, address) && !self.loses_frame() {
                let (run, after) = (self.run_of(to), self.delay());
                self.plan(
                    after,
                    Event::Reply {
                        to,
                        run,
                        address,
                        mac,
                    },
                );
            }
        }
    }

    /// Whether the kernel filter of a speaker passes frames about the address.
    fn receives(&self, node: usize, address: IpAddr) -> bool {
        let Some(process) = &self.hosts[node].process else {
            return false;
        };
        let proxied = self.proxies.contains_key(&(node, address));
        let watched = process.watched.get(&address);
        process.answers.contains(&address) || proxied || watched.is_some_and(|until| self.now < *until)
    }

    pub(super) fn run_of(&self, node: usize) -> u32 {
        self.hosts[node].process.as_ref().map_or(0, |process| process.run)
    }

    pub(super) fn answers(&self, node: usize, address: IpAddr) -> bool {
        let process = self.hosts[node].process.as_ref();
        process.is_some_and(|process| process.answers.contains(&address))
    }

    /// The hardware address with which a node replies for an address.
    fn answers_as(&self, node: usize, address: IpAddr) -> Option<MacAddr> {
        let own = self.answers(node, address) || self.kernel_addresses.contains(&(node, address));
        let own = own.then_some(node);
        let stood_in_for = self.proxies.get(&(node, address)).copied();
        Some(self.hosts[own.or(stood_in_for)?].mac)
    }

    /// Whether a node sends proxy replies for an owner that is there.
    pub(crate) fn is_proxied(&self, address: IpAddr) -> bool {
        let mut proxies = self.proxies.iter();
        proxies.any(|((node, proxied), owner)| *proxied == address && self.connected(*node, *owner))
    }

    /// Whether clients get the hardware addresses of two nodes: a proxy replies for one node while another announces.
    pub(crate) fn is_proxied_beside(&self, address: IpAddr, owners: &[usize]) -> bool {
        let mut proxies = self.proxies.iter();
        proxies.any(|((node, proxied), proxied_owner)| {
            let other = |owner: &usize| *owner != *proxied_owner && self.connected(*node, *owner);
            *proxied == address && owners.iter().any(other)
        })
    }

    /// Whether frames pass between two of these nodes.
    pub(crate) fn any_connected(&self, nodes: &[usize]) -> bool {
        let mut pairs = nodes
            .iter()
            .enumerate()
            .flat_map(|(at, a)| nodes[at + 1..].iter().map(move |b| (*a, *b)));
        pairs.any(|(a, b)| {
            self.connected(a, b)
                && self.stun_left(a) == Duration::ZERO
                && self.stun_left(b) == Duration::ZERO
                && !self.loses_everything()
        })
    }

    /// Whether the node runs: powered, with a speaker, and not stunned.
    pub(crate) fn is_active(&self, node: usize) -> bool {
        self.hosts[node].powered && self.is_running(node) && self.stun_left(node) == ms(0)
    }
}
