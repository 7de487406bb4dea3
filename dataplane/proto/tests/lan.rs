//! A LAN of speakers under a virtual clock: election, membership, responder and announcement schedule
//! together, fed by an API whose news reaches each speaker at its own time.
//!
//! The real speaker does the same with sockets and watches; here the API is a log, the wire a function call,
//! and the client a cache that believes the last gratuitous ARP or answer it saw.

#![allow(clippy::unwrap_used, reason = "a helper of a test fails the test")]

mod support;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use lb_proto::MacAddr;
use lb_proto::announcer::{Announcer, gratuitous};
use lb_proto::arp::{ArpFrame, Operation};
use lb_proto::election::owner;
use lb_proto::membership::{Config, Membership};
use lb_proto::responder::{Responder, Verdict};
use proptest::prelude::*;
use support::epoch;

const GRACE: Duration = Duration::from_secs(10);
const CLIENT: MacAddr = MacAddr([2, 0xc1, 0, 0, 0, 1]);
const CLIENT_IP: Ipv4Addr = Ipv4Addr::new(192, 168, 50, 1);

fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

fn name(node: usize) -> String {
    format!("n{node}")
}

fn mac(node: usize) -> MacAddr {
    MacAddr([2, 0, 0, 0, 0, u8::try_from(node).unwrap()])
}

/// What the API says of a node's speaker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pod {
    Ready,
    Unready { node_ready: bool },
    Gone,
}

#[derive(Clone, Copy, Debug)]
enum Action {
    /// The API changes, and the news sets out to every running speaker.
    Publish(usize, Pod),
    /// The news arrives at the run `run` of the speaker on `at`.
    Deliver {
        at: usize,
        run: u32,
        about: usize,
        pod: Pod,
    },
    /// A speaker process ends without a word.
    Stop(usize),
    /// A speaker process starts; its lists are complete some time later.
    Start(usize),
    Sync(usize, u32),
    Wake(usize),
}

struct Process {
    run: u32,
    membership: Membership,
    responder: Responder,
    announcer: Announcer,
    synced: bool,
}

struct Lan {
    now: Instant,
    agenda: BTreeMap<(Instant, u64), Action>,
    planned: u64,
    pods: Vec<Pod>,
    processes: Vec<Option<Process>>,
    runs: u32,
    addresses: Vec<Ipv4Addr>,
    /// ServiceL2Status: the last owner of each address, as it wrote itself.
    records: BTreeMap<Ipv4Addr, usize>,
    /// What the client believes.
    cache: BTreeMap<Ipv4Addr, MacAddr>,
    /// Every claim: who, and what.
    claims: Vec<(usize, Ipv4Addr)>,
    /// Milliseconds that news takes, one after the other.
    delays: Vec<u64>,
    next_delay: usize,
    last_arrival: BTreeMap<usize, Instant>,
}

impl Lan {
    /// All speakers run and are ready.
    fn new(nodes: usize, addresses: u8, delays: Vec<u64>) -> Self {
        let mut lan = Self {
            now: epoch(),
            agenda: BTreeMap::new(),
            planned: 0,
            pods: vec![Pod::Unready { node_ready: true }; nodes],
            processes: (0..nodes).map(|_| None).collect(),
            runs: 0,
            addresses: (0..addresses)
                .map(|n| Ipv4Addr::new(192, 168, 50, 200 + n))
                .collect(),
            records: BTreeMap::new(),
            cache: BTreeMap::new(),
            claims: Vec::new(),
            delays,
            next_delay: 0,
            last_arrival: BTreeMap::new(),
        };
        for node in 0..nodes {
            lan.at(ms(0), Action::Start(node));
            lan.at(ms(5000), Action::Publish(node, Pod::Ready));
        }
        lan.settle();
        lan
    }

    fn at(&mut self, after: Duration, action: Action) {
        self.planned += 1;
        self.agenda.insert((self.now + after, self.planned), action);
    }

    fn delay(&mut self) -> Duration {
        self.next_delay += 1;
        ms(self.delays[self.next_delay % self.delays.len()])
    }

    /// Runs until nothing is left to happen.
    fn settle(&mut self) {
        while let Some(((when, _), action)) = self.agenda.pop_first() {
            self.now = when;
            self.act(action);
        }
    }

    fn act(&mut self, action: Action) {
        match action {
            Action::Publish(about, pod) => {
                self.pods[about] = pod;
                for at in 0..self.processes.len() {
                    let Some(run) = self.processes[at].as_ref().map(|process| process.run) else {
                        continue;
                    };
                    // A watch keeps its order: no news overtakes earlier news.
                    let arrival =
                        (self.now + self.delay()).max(*self.last_arrival.get(&at).unwrap_or(&self.now));
                    self.last_arrival.insert(at, arrival);
                    self.at(arrival - self.now, Action::Deliver { at, run, about, pod });
                }
            }
            Action::Deliver { at, run, about, pod } => {
                if self.processes[at]
                    .as_ref()
                    .is_some_and(|process| process.run == run && process.synced)
                {
                    self.tell(at, about, pod);
                    self.drive(at);
                }
            }
            Action::Stop(node) => self.processes[node] = None,
            Action::Start(node) => {
                self.runs += 1;
                let run = self.runs;
                self.processes[node] = Some(Process {
                    run,
                    membership: Membership::new(name(node), Config { grace: GRACE }),
                    responder: Responder::new(),
                    announcer: Announcer::new(),
                    synced: false,
                });
                let after = self.delay();
                self.at(after, Action::Sync(node, run));
            }
            Action::Sync(node, run) => {
                if self.processes[node]
                    .as_ref()
                    .is_none_or(|process| process.run != run)
                {
                    return;
                }
                for about in 0..self.pods.len() {
                    self.tell(node, about, self.pods[about]);
                }
                let (now, owners) = (self.now, self.records.values().copied().collect::<Vec<_>>());
                if let Some(process) = &mut self.processes[node] {
                    owners
                        .into_iter()
                        .for_each(|owner| process.membership.hold(now, &name(owner)));
                    process.synced = true;
                }
                self.drive(node);
            }
            Action::Wake(node) => self.drive(node),
        }
    }

    fn tell(&mut self, at: usize, about: usize, pod: Pod) {
        let now = self.now;
        let Some(Process { membership, .. }) = &mut self.processes[at] else {
            return;
        };
        match pod {
            Pod::Ready => membership.speaker_ready(now, &name(about)),
            Pod::Unready { node_ready } => membership.speaker_unready(now, &name(about), node_ready),
            Pod::Gone => membership.speaker_gone(now, &name(about)),
        }
    }

    /// One turn of a speaker: time, election, bursts, next timer.
    fn drive(&mut self, node: usize) {
        let now = self.now;
        let nodes: Vec<String> = (0..self.pods.len()).map(name).collect();
        let Some(process) = self.processes[node].as_mut().filter(|process| process.synced) else {
            return;
        };
        process.membership.handle_timeout(now);
        process.announcer.handle_timeout(now);
        if process.membership.take_rejoined() {
            process.announcer.again_all(now);
        }
        for address in &self.addresses {
            let candidates = nodes
                .iter()
                .map(String::as_str)
                .filter(|node| process.membership.is_candidate(node));
            if owner(IpAddr::V4(*address), candidates) == Some(name(node).as_str()) {
                if process.responder.insert(*address) {
                    process.announcer.claim(now, IpAddr::V4(*address));
                    self.records.insert(*address, node);
                    self.claims.push((node, *address));
                }
            } else if process.responder.remove(address) {
                process.announcer.withdraw(IpAddr::V4(*address));
            }
        }
        while let Some(IpAddr::V4(address)) = process.announcer.poll_output() {
            for frame in gratuitous(mac(node), address) {
                let frame = ArpFrame::decode(&frame).unwrap();
                self.cache.insert(frame.sender_ip, frame.sender_mac);
            }
        }
        let wake = [
            process.membership.poll_timeout(),
            process.announcer.poll_timeout(),
        ];
        if let Some(wake) = wake.into_iter().flatten().min() {
            self.at(wake.saturating_duration_since(now), Action::Wake(node));
        }
    }

    /// Who answers a broadcast request for `address`.
    fn answers(&self, address: Ipv4Addr) -> Vec<usize> {
        let request = ArpFrame {
            dst: MacAddr::BROADCAST,
            src: CLIENT,
            operation: Operation::Request,
            sender_mac: CLIENT,
            sender_ip: CLIENT_IP,
            target_mac: MacAddr::ZERO,
            target_ip: address,
        };
        let replies = |node: &usize| {
            self.processes[*node].as_ref().is_some_and(|process| {
                matches!(
                    process.responder.handle(mac(*node), &request.encode()),
                    Verdict::Reply { .. }
                )
            })
        };
        (0..self.processes.len()).filter(replies).collect()
    }

    fn owners(&self) -> BTreeMap<Ipv4Addr, Vec<usize>> {
        self.addresses
            .iter()
            .map(|address| (*address, self.answers(*address)))
            .collect()
    }

    /// The speaker Pod is replaced, as by a rolling restart: `away` from the end of the old process to the
    /// new one's start.
    fn plan_restart(&mut self, start: Duration, node: usize, away: Duration) {
        self.at(start, Action::Publish(node, Pod::Unready { node_ready: true }));
        self.at(start + ms(50), Action::Stop(node));
        self.at(start + ms(100), Action::Publish(node, Pod::Gone));
        self.at(
            start + ms(200),
            Action::Publish(node, Pod::Unready { node_ready: true }),
        );
        self.at(start + away, Action::Start(node));
        self.at(start + away + ms(2500), Action::Publish(node, Pod::Ready));
    }
}

/// Something that happens to a node.
#[derive(Clone, Copy, Debug)]
enum Trouble {
    /// Power off; the API notices after 40 s. It comes back, or not.
    Crash { back: bool },
    /// The speaker Pod is replaced.
    Restart { away: u64 },
    /// The API believes the speaker unready for a while, but it runs on: a cut in the management network.
    Slander { node_ready: bool, lasts: u64 },
}

fn trouble() -> impl Strategy<Value = Trouble> {
    prop_oneof![
        any::<bool>().prop_map(|back| Trouble::Crash { back }),
        (250..20_000_u64).prop_map(|away| Trouble::Restart { away }),
        (any::<bool>(), 10..60_000_u64)
            .prop_map(|(node_ready, lasts)| Trouble::Slander { node_ready, lasts }),
    ]
}

fn delays() -> impl Strategy<Value = Vec<u64>> {
    prop::collection::vec(0..2000_u64, 1..17)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn once_the_news_has_arrived_each_address_has_one_owner_and_clients_know_it(
        nodes in 1..7_usize,
        delays in delays(),
        troubles in prop::collection::vec((trouble(), 0..7_usize, 0..20_000_u64), 0..8),
    ) {
        let mut lan = Lan::new(nodes, 6, delays);
        let mut dead = vec![false; nodes];
        // Troubles of different nodes overlap; those of one node follow one another.
        let mut free = vec![ms(0); nodes];
        for (trouble, node, start) in troubles {
            let node = node % nodes;
            if dead[node] {
                continue;
            }
            let start = free[node] + ms(start);
            free[node] = start + match trouble {
                Trouble::Crash { back } => {
                    lan.at(start, Action::Stop(node));
                    lan.at(start + ms(40_000), Action::Publish(node, Pod::Unready { node_ready: false }));
                    dead[node] = !back;
                    if back {
                        lan.at(start + ms(60_000), Action::Start(node));
                        lan.at(start + ms(63_000), Action::Publish(node, Pod::Ready));
                    }
                    ms(70_000)
                }
                Trouble::Restart { away } => {
                    lan.plan_restart(start, node, ms(away));
                    ms(away + 5000)
                }
                Trouble::Slander { node_ready, lasts } => {
                    lan.at(start, Action::Publish(node, Pod::Unready { node_ready }));
                    lan.at(start + ms(lasts), Action::Publish(node, Pod::Ready));
                    ms(lasts + 5000)
                }
            };
        }
        lan.settle();
        for (address, owners) in lan.owners() {
            let alive = dead.iter().any(|dead| !dead);
            prop_assert_eq!(owners.len(), usize::from(alive), "{}: {:?}", address, owners);
            if let [owner] = owners[..] {
                let believed = lan.cache.get(&address);
                prop_assert_eq!(believed, Some(&mac(owner)), "the client's cache for {}", address);
            }
        }
    }

    #[test]
    fn a_rolling_restart_of_all_speakers_moves_no_address(
        nodes in 1..7_usize,
        delays in delays(),
        // From one after the other to all at the same time.
        gap in 0..15_000_u64,
        away in 250..4000_u64,
    ) {
        let mut lan = Lan::new(nodes, 6, delays);
        let before = lan.owners();
        lan.claims.clear();
        for (node, start) in (0..nodes).zip((0..).map(|n| n * gap)) {
            lan.plan_restart(ms(start), node, ms(away));
        }
        lan.settle();
        prop_assert_eq!(lan.owners(), before.clone());
        for (node, address) in &lan.claims {
            prop_assert_eq!(&before[address], &vec![*node], "{} was claimed by n{}", address, node);
        }
    }
}

#[test]
fn the_addresses_of_a_dead_node_are_answered_by_another() {
    let mut lan = Lan::new(3, 6, vec![100]);
    let before = lan.owners();
    let victim = before[&lan.addresses[0]][0];
    lan.at(ms(0), Action::Stop(victim));
    lan.at(
        ms(40_000),
        Action::Publish(victim, Pod::Unready { node_ready: false }),
    );
    lan.settle();
    for (address, owners) in lan.owners() {
        assert_eq!(owners.len(), 1);
        assert_ne!(owners, [victim]);
        assert!(
            before[&address] == [victim] || before[&address] == owners,
            "addresses of others stay"
        );
    }
}
