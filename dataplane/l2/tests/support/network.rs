//! Simulates several speakers on one network under a virtual clock, from one seed: heartbeats are lost, delayed,
//! duplicated and reordered, clocks drift, processes crash and restart, nodes lose power, and the network is
//! partitioned and heals.
//!
//! ```text
//! let mut lan = Network::new(seed, 3, 30, LOSSLESS);   // 3 nodes, 30 addresses; every speaker starts
//! lan.run(ms(2000));                                    // until all addresses have owners
//! let owners = lan.sole_owners();                       // asserts exactly one owner per address
//! lan.power_off(0);
//! lan.run(ms(250));                                     // the failure timeout
//! assert!(lan.sole_owners().values().all(|node| *node != 0));
//! ```
//!
//! Faults: `kill`, `leave` and `start_after`, `power_off` and `power_on`, `split` and `heal`, `link_down` and
//! `link_up`, `stun`, `lose_everything`, `delete_node`; the fields `conditions`, `drop_all_heartbeats`, `blocked`,
//! `stale_api`, `probe_loss`, `max_cpu_wait_ms` and `conflicting_hosts` change at any time.

#![allow(clippy::unwrap_used, reason = "a helper of a test fails the test")]

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use lb_l2::MacAddr;
use lb_l2::ownership::election::order;
use lb_l2::ownership::failure_detector::FailureDetectorConfig;
use lb_l2::ownership::{AcquireReason, ConflictPolicy, Coordinator, Output, PartitionPolicy, QueryTarget};
use lb_l2::wire::heartbeat::{Datagram, Message};

use super::support::epoch;

#[path = "api.rs"]
mod api;
#[path = "cpu_starvation.rs"]
mod cpu_starvation;
#[path = "frames.rs"]
mod frames;
#[path = "links.rs"]
mod links;
#[path = "network_conditions.rs"]
mod network_conditions;
#[path = "placement.rs"]
mod placement;
#[path = "processes.rs"]
mod processes;
pub(crate) use network_conditions::{LOSSLESS, NetworkConditions, Rng, ms};

struct Process {
    coordinator: Coordinator,
    run: u32,
    /// The addresses that it announces.
    answers: BTreeSet<IpAddr>,
    /// The probed addresses, and until when replies and announcements of others are received.
    watched: BTreeMap<IpAddr, Instant>,
}

struct Host {
    name: String,
    mac: MacAddr,
    powered: bool,
    /// Its side of a partition.
    side: u32,
    process: Option<Process>,
    started: u64,
    /// The speed of its clock, in millionths.
    pace: u64,
    wakes: Option<Instant>,
    /// The process waits for the CPU until this time, and handles nothing before it.
    cpu_wait_until: Option<Instant>,
    /// The virtual machine stands still until this time.
    stunned_until: Option<Instant>,
    inbox: Vec<Event>,
}

enum Event {
    Deliver {
        to: usize,
        datagram: Datagram,
    },
    Reply {
        to: usize,
        run: u32,
        address: IpAddr,
        mac: MacAddr,
    },
    NodeReply {
        to: usize,
        run: u32,
        node: usize,
    },
    /// The next announcement of a series.
    Gratuitous {
        node: usize,
        run: u32,
        address: IpAddr,
        sent: usize,
    },
    Wake(usize),
    CpuAvailable(usize),
    Start(usize),
}

/// Counts the ARP and NDP requests of a node.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Frames {
    /// Probes, which are broadcast.
    pub(crate) probes: u64,
    /// Unicast queries sent.
    pub(crate) node_queries: u64,
    pub(crate) address_queries: u64,
    /// Unicast queries received.
    pub(crate) received: u64,
}

/// An address was announced or withdrawn.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Change {
    pub(crate) at: Instant,
    pub(crate) node: usize,
    pub(crate) address: IpAddr,
    pub(crate) announced: bool,
}

pub(crate) struct Network {
    pub(crate) now: Instant,
    pub(crate) start: Instant,
    events: BTreeMap<(Instant, u64), Event>,
    planned: u64,
    hosts: Vec<Host>,
    pub(crate) addresses: Vec<IpAddr>,
    /// The election order of each address.
    orders: Vec<Vec<usize>>,
    names: Vec<String>,
    pub(crate) conditions: NetworkConditions,
    pub(crate) rng: Rng,
    pub(crate) changes: Vec<Change>,
    pub(crate) causes: Vec<(usize, IpAddr, &'static str)>,
    pub(crate) conflicts: Vec<(usize, IpAddr, MacAddr)>,
    pub(crate) over: Vec<(usize, IpAddr)>,
    /// Repeated announcements: when, by which node, of which address.
    pub(crate) reannounced: Vec<(Instant, usize, IpAddr)>,
    pub(crate) verified: Vec<(usize, IpAddr, bool)>,
    /// ARP and NDP requests of each node.
    pub(crate) frames: Vec<Frames>,
    /// Lost probes and queries about addresses, per thousand.
    pub(crate) probe_loss: u64,
    /// The restarting owner, by the node that sends proxy replies and the address.
    pub(crate) proxies: BTreeMap<(usize, IpAddr), usize>,
    /// Datagrams sent by each node.
    pub(crate) sent: Vec<u64>,
    /// Fragments of whole announced sets, and differences, sent by all nodes.
    pub(crate) set_messages: (u64, u64),
    /// Probes and queries that every host receives, sent by all nodes.
    pub(crate) broadcasts: u64,
    /// Speakers do not know differences of announced sets, as those of an earlier version.
    pub(crate) reject_changes: bool,
    /// Conflicting hosts on the network.
    pub(crate) conflicting_hosts: BTreeMap<IpAddr, MacAddr>,
    /// Pairs of a node and an address that its kernel replies for.
    pub(crate) kernel_addresses: BTreeSet<(usize, IpAddr)>,
    /// Questions of owners for their own addresses.
    pub(crate) self_checks: usize,
    /// Nodes whose kernel has an address: the reporting node, the address and the node.
    pub(crate) node_conflicts: Vec<(usize, IpAddr, usize)>,
    /// Pairs of a node and an address that it may not own.
    pub(crate) excluded: BTreeSet<(usize, IpAddr)>,
    /// Nodes whose link is down.
    unplugged: BTreeSet<usize>,
    /// The preferred owner of each address, as each node sees it.
    preferences: BTreeMap<(usize, IpAddr), usize>,
    /// The owner of each address, according to the API server.
    records: BTreeMap<IpAddr, usize>,
    /// Addresses that outdated records still assign to a node.
    pub(crate) outdated_records: BTreeMap<usize, Vec<IpAddr>>,
    /// Every heartbeat is lost.
    pub(crate) drop_all_heartbeats: bool,
    /// The pairs of sender and receiver between which every heartbeat is lost.
    pub(crate) blocked: BTreeSet<(usize, usize)>,
    /// Every frame and every heartbeat is lost until this time.
    lost_until: Option<Instant>,
    /// Nodes whose API server does not answer: their view stays as it was.
    pub(crate) stale_api: BTreeSet<usize>,
    /// The newest resource version of the API server.
    pub(crate) api_version: u64,
    pub(crate) counts_versions: bool,
    /// Deleted Node objects.
    pub(crate) deleted: BTreeSet<usize>,
    /// The addresses of the nodes are on another network.
    pub(crate) off_link: bool,
    /// Upper bound of the time that a process waits for the CPU, again and again.
    pub(crate) max_cpu_wait_ms: u64,
    policy: PartitionPolicy,
    failback: bool,
    conflicts_policy: ConflictPolicy,
    heartbeats: FailureDetectorConfig,
}

impl Network {
    pub(crate) fn new(seed: u64, nodes: usize, addresses: usize, conditions: NetworkConditions) -> Self {
        Self::with(
            seed,
            nodes,
            addresses,
            conditions,
            PartitionPolicy::Availability,
            false,
        )
    }

    /// Schedules the start of all speakers.
    pub(crate) fn with(
        seed: u64,
        nodes: usize,
        addresses: usize,
        conditions: NetworkConditions,
        policy: PartitionPolicy,
        failback: bool,
    ) -> Self {
        let mut rng = Rng::new(seed);
        let start = epoch();
        let names: Vec<_> = (0..nodes).map(|node| format!("n{node}")).collect();
        let addresses: Vec<_> = (0..addresses)
            .map(|n| IpAddr::from(Ipv4Addr::from_bits(0x0a00_0001 + u32::try_from(n).unwrap())))
            .collect();
        let numbers: BTreeMap<_, _> = names.iter().map(String::as_str).zip(0..).collect();
        let in_order = |address: &IpAddr| {
            let order = order(*address, names.iter().map(String::as_str));
            order.into_iter().map(|name| numbers[name]).collect()
        };
        let orders = addresses.iter().map(in_order).collect();
        let mut segment = Self {
            now: start,
            start,
            events: BTreeMap::new(),
            planned: 0,
            hosts: (0..nodes)
                .map(|node| Host {
                    name: format!("n{node}"),
                    mac: mac(node),
                    powered: true,
                    side: 0,
                    process: None,
                    started: 0,
                    pace: 1_000_000 + rng.below(2 * conditions.drift * 1000 + 1) - conditions.drift * 1000,
                    wakes: None,
                    cpu_wait_until: None,
                    stunned_until: None,
                    inbox: Vec::new(),
                })
                .collect(),
            addresses,
            orders,
            names,
            conditions,
            rng,
            changes: Vec::new(),
            causes: Vec::new(),
            conflicts: Vec::new(),
            over: Vec::new(),
            reannounced: Vec::new(),
            verified: Vec::new(),
            frames: vec![Frames::default(); nodes],
            probe_loss: 0,
            proxies: BTreeMap::new(),
            sent: vec![0; nodes],
            set_messages: (0, 0),
            broadcasts: 0,
            reject_changes: false,
            conflicting_hosts: BTreeMap::new(),
            kernel_addresses: BTreeSet::new(),
            node_conflicts: Vec::new(),
            self_checks: 0,
            excluded: BTreeSet::new(),
            unplugged: BTreeSet::new(),
            preferences: BTreeMap::new(),
            records: BTreeMap::new(),
            outdated_records: BTreeMap::new(),
            drop_all_heartbeats: false,
            blocked: BTreeSet::new(),
            lost_until: None,
            stale_api: BTreeSet::new(),
            api_version: 1,
            counts_versions: true,
            deleted: BTreeSet::new(),
            off_link: false,
            max_cpu_wait_ms: 0,
            policy,
            failback,
            conflicts_policy: ConflictPolicy::Warn,
            heartbeats: FailureDetectorConfig::default(),
        };
        for node in 0..nodes {
            let at = ms(segment.rng.below(50));
            segment.plan(at, Event::Start(node));
        }
        segment
    }

    pub(crate) fn set_conflicts(&mut self, policy: ConflictPolicy) {
        self.conflicts_policy = policy;
    }

    fn plan(&mut self, after: Duration, event: Event) {
        self.planned += 1;
        self.events.insert((self.now + after, self.planned), event);
    }

    /// Advances the clock.
    pub(crate) fn run(&mut self, time: Duration) {
        let end = self.now + time;
        while let Some(entry) = self.events.first_entry()
            && entry.key().0 <= end
        {
            let ((at, _), event) = entry.remove_entry();
            self.now = self.now.max(at);
            self.handle(event);
        }
        self.now = end;
    }

    fn handle(&mut self, event: Event) {
        let now = self.now;
        match event {
            Event::Start(node) => self.boot(node),
            Event::Wake(node) => {
                if self.hosts[node].wakes.is_some_and(|at| at > now) {
                    return;
                }
                self.hosts[node].wakes = None;
                self.turn(node);
            }
            Event::CpuAvailable(node) => {
                if self.is_starving(node) {
                    return;
                }
                self.hosts[node].cpu_wait_until = None;
                self.turn(node);
            }
            Event::Gratuitous {
                node,
                run,
                address,
                sent,
            } => {
                if self.run_of(node) == run {
                    self.send_gratuitous(node, address, sent);
                }
            }
            Event::Deliver { to, .. } | Event::Reply { to, .. } | Event::NodeReply { to, .. } => {
                self.hosts[to].inbox.push(event);
                self.turn(to);
            }
        }
    }

    /// The time on the clock of a node.
    fn local(&self, node: usize) -> Instant {
        let true_time = u64::try_from((self.now - self.start).as_micros()).unwrap();
        self.start + Duration::from_micros(true_time * self.hosts[node].pace / 1_000_000)
    }

    /// The time at which the clock of a node shows `local`.
    fn global(&self, node: usize, local: Instant) -> Instant {
        let micros = u64::try_from((local - self.start).as_micros()).unwrap();
        self.start + Duration::from_micros(micros * 1_000_000 / self.hosts[node].pace + 1)
    }

    fn number(&self, name: &str) -> usize {
        name[1..].parse().unwrap()
    }

    fn connected(&self, a: usize, b: usize) -> bool {
        let (a, b) = (&self.hosts[a], &self.hosts[b]);
        a.powered && b.powered && a.side == b.side
    }

    fn work(&mut self, node: usize) {
        let local = self.local(node);
        let Some(process) = &mut self.hosts[node].process else {
            return;
        };
        process.coordinator.handle_timeout(local, 1_000_000);
        let mut outputs = Vec::new();
        while let Some(output) = process.coordinator.poll_output() {
            outputs.push(output);
        }
        let due = process.coordinator.poll_timeout();
        for output in outputs {
            self.apply(node, output);
        }
        if let Some(due) = due {
            // Wake-ups are late by up to a millisecond.
            let late = Duration::from_micros(self.rng.below(1000));
            let at = self.global(node, due).max(self.now) + late;
            if self.hosts[node].wakes.is_none_or(|wakes| at < wakes) {
                self.hosts[node].wakes = Some(at);
                self.plan(at - self.now, Event::Wake(node));
            }
        }
    }

    fn delay(&mut self) -> Duration {
        Duration::from_micros(50 + self.rng.below(self.conditions.delay + 1))
    }

    fn apply(&mut self, node: usize, output: Output) {
        let now = self.now;
        match output {
            Output::Send { to, datagram } => {
                self.sent[node] += 1;
                self.set_messages.0 += u64::from(matches!(datagram.message, Message::Announced(_)));
                self.set_messages.1 += u64::from(matches!(datagram.message, Message::Change(_)));
                if self.reject_changes && matches!(datagram.message, Message::Change(_)) {
                    return;
                }
                let to = self.number(&to);
                let times = match self.rng.below(1000) {
                    roll if roll < self.conditions.loss || self.loses_heartbeat(node, to) => 0,
                    roll if roll >= 1000 - self.conditions.duplicated => 2,
                    _ => 1,
                };
                for _ in 0..times {
                    let after = self.delay();
                    if self.connected(node, to) {
                        self.plan(
                            after,
                            Event::Deliver {
                                to,
                                datagram: datagram.clone(),
                            },
                        );
                    }
                }
            }
            Output::Announce { address, reason } => {
                self.causes.push((node, address, reason.as_str()));
                if let AcquireReason::Failover { last_heard, .. } = reason {
                    assert!(last_heard <= self.local(node));
                }
                self.change(node, address, true);
            }
            Output::Withdraw { address, .. } => self.change(node, address, false),
            Output::ProbeAddress { address } => {
                self.broadcasts += 1;
                self.frames[node].probes += 1;
                self.ask(node, address, |_| true);
            }
            Output::QueryAddress {
                address,
                to: QueryTarget::Everyone,
            } => {
                self.self_checks += 1;
                self.ask(node, address, |_| true);
            }
            Output::QueryAddress { address, to } => {
                self.frames[node].address_queries += 1;
                let to = match to {
                    QueryTarget::Everyone => {
                        self.broadcasts += 1;
                        return;
                    }
                    QueryTarget::Node(name) => mac(self.number(&name)),
                    QueryTarget::Host(mac) => mac,
                };
                if let Some(other) = self.hosts.iter().position(|host| host.mac == to) {
                    self.frames[other].received += u64::from(self.connected(node, other));
                }
                self.ask(node, address, |host| host == to);
            }
            Output::QueryNode { node: name } => self.query_node(node, self.number(&name)),
            Output::ConflictDetected { address, hosts } => {
                for host in hosts {
                    match host.node {
                        Some(name) => self.node_conflicts.push((node, address, self.number(&name))),
                        None => self.conflicts.push((node, address, host.mac)),
                    }
                }
            }
            Output::Verified {
                address, answered, ..
            } => self.verified.push((node, address, answered)),
            Output::StartProxy { address, node: owner } => {
                let owner = self.number(&owner);
                self.proxies.insert((node, address), owner);
            }
            Output::StopProxy { address } => {
                self.proxies.remove(&(node, address));
            }
            Output::ConflictResolved { address } => self.over.push((node, address)),
            Output::Reannounce { address } => {
                self.reannounced.push((now, node, address));
                self.send_gratuitous(node, address, 0);
            }
        }
    }

    /// A frame arrives that shows an address of `node` with this hardware address.
    pub(crate) fn show_node(&mut self, to: usize, node: usize, mac: MacAddr) {
        let (local, name) = (self.local(to), self.hosts[node].name.clone());
        if let Some(process) = &mut self.hosts[to].process {
            process.coordinator.handle_node_reply(local, &name, mac);
        }
    }

    fn change(&mut self, node: usize, address: IpAddr, announced: bool) {
        if let Some(process) = &mut self.hosts[node].process {
            if announced {
                assert!(
                    process.answers.insert(address),
                    "n{node} announces {address} twice"
                );
            } else {
                assert!(
                    process.answers.remove(&address),
                    "n{node} does not have {address}"
                );
            }
        }
        self.changes.push(Change {
            at: self.now,
            node,
            address,
            announced,
        });
        if announced {
            self.send_gratuitous(node, address, 0);
        }
    }

    /// The first node in the election order of the address.
    pub(crate) fn first_candidate(&self, address: IpAddr) -> usize {
        self.candidate(address, 0)
    }

    /// The node at a position in the election order of the address.
    pub(crate) fn candidate(&self, address: IpAddr, position: usize) -> usize {
        let at = self.addresses.iter().position(|other| *other == address).unwrap();
        self.orders[at][position]
    }

    /// A node receives a packet that shows the address as that of this host.
    pub(crate) fn show_binding(&mut self, to: usize, address: IpAddr, mac: MacAddr) {
        let run = self.run_of(to);
        self.plan(
            Duration::ZERO,
            Event::Reply {
                to,
                run,
                address,
                mac,
            },
        );
    }

    /// The powered nodes that announce the address.
    pub(crate) fn owners(&self, address: IpAddr) -> Vec<usize> {
        (0..self.hosts.len())
            .filter(|node| self.hosts[*node].powered && self.answers(*node, address))
            .collect()
    }

    /// The owner of the address, or its first candidate, and the next two candidates.
    pub(crate) fn first_of(&self, address: IpAddr) -> [usize; 3] {
        let at = self.addresses.iter().position(|other| *other == address).unwrap();
        let owner = self
            .owners(address)
            .first()
            .copied()
            .unwrap_or(self.orders[at][0]);
        let mut others = self.orders[at].iter().copied().filter(|node| *node != owner);
        [owner, others.next().unwrap(), others.next().unwrap()]
    }

    /// The owner of each address; asserts that it is the only one.
    pub(crate) fn sole_owners(&self) -> BTreeMap<IpAddr, usize> {
        let owner = |address: &IpAddr| {
            let owners = self.owners(*address);
            assert_eq!(owners.len(), 1, "{address} is answered for by {owners:?}");
            (*address, owners[0])
        };
        self.addresses.iter().map(owner).collect()
    }
}

fn mac(node: usize) -> MacAddr {
    let [high, low] = u16::try_from(node).unwrap().to_be_bytes();
    MacAddr([2, 0, 0, 0, high, low])
}
