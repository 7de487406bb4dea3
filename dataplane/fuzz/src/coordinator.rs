//! The coordinator of one speaker. The bytes are settings and a sequence of inputs: datagrams of authentic peers with
//! any content, ARP and NDP replies from any host, node states of the API server, and time.
//!
//! A small model of the inputs and outputs must agree with the coordinator.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use lb_l2::MacAddr;
use lb_l2::ownership::announced_set::AnnouncedSet;
use lb_l2::ownership::election::short_hash;
use lb_l2::ownership::failure_detector::FailureDetectorConfig;
use lb_l2::ownership::{
    AcquireReason, ApiState, Candidates, ConflictPolicy, Coordinator, CoordinatorConfig, NodeInfo, Output,
    PartitionPolicy, QueryTarget,
};
use lb_l2::wire::heartbeat::{
    Datagram, Entry, EntryState, Fragment, Heartbeat, HeartbeatKeys, MAX_DATAGRAM_LEN, Message, SetChange,
    SpeakerState,
};

use crate::bytes::Bytes;

const ME: &str = "n0";
const NAMES: [&str; 5] = [ME, "n1", "n2", "n3", "n4"];
const MY_MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
/// More addresses than are probed at once.
const MANY_ADDRESSES: u32 = 300;
/// Similar inputs in a flood.
const FLOOD_LEN: u16 = 400;
/// Maximum consecutive timeouts at the same time.
const MAX_TIMEOUTS: usize = 64;
/// Maximum length of the coordinator's state as text, besides that of its addresses and the peers' announced sets.
const MAX_STATE_LEN: usize = 48 << 10;
/// The same, per address.
const MAX_ADDRESS_STATE_LEN: usize = 1500;
/// Maximum outputs after one input.
const MAX_OUTPUTS: usize = 2000;

/// The coordinator never panics, repeats no output, announces only eligible and probed addresses, sets its timeouts in
/// the future, and has bounded state.
pub fn target(bytes: &[u8]) {
    let mut bytes = Bytes(bytes);
    let mut world = World::new(bytes.u8());
    while !bytes.is_empty() {
        world.step(&mut bytes);
    }
    world.end();
}

struct World {
    coordinator: Coordinator,
    now: Instant,
    keys: HeartbeatKeys,
    incarnation: u64,
    /// The last sequence number of each peer.
    numbers: BTreeMap<&'static str, u64>,
    nodes: BTreeSet<&'static str>,
    /// The addresses with candidates, and whether we have no interface for them.
    candidates: BTreeMap<IpAddr, bool>,
    announced: BTreeSet<IpAddr>,
    proxied: BTreeSet<IpAddr>,
    conflicts: BTreeSet<IpAddr>,
    /// The probes for each address since it was last withdrawn, and the addresses with a reply since then.
    asked: BTreeMap<IpAddr, u32>,
    seen: BTreeSet<IpAddr>,
    /// Maximum entries that the peers have sent.
    received_entries: usize,
    number: u64,
}

impl World {
    fn new(settings: u8) -> Self {
        let now = Instant::now();
        let config = CoordinatorConfig {
            node: ME.to_owned(),
            version: "1.0.0".to_owned(),
            failure_detector: FailureDetectorConfig {
                max_rate: if settings & 32 == 0 { 450 } else { 5 },
                ..FailureDetectorConfig::default()
            },
            partition_policy: if settings & 1 == 0 {
                PartitionPolicy::Availability
            } else {
                PartitionPolicy::Majority
            },
            failback: settings & 2 != 0,
            conflict_policy: match settings >> 2 & 3 {
                0 => ConflictPolicy::Warn,
                1 => ConflictPolicy::Defend,
                _ => ConflictPolicy::Yield,
            },
        };
        let mut world = Self {
            coordinator: Coordinator::new(now, 1000, config),
            now,
            keys: HeartbeatKeys::new([[7; 32].as_slice()]).expect("it is long enough"),
            incarnation: 1000,
            numbers: BTreeMap::new(),
            nodes: BTreeSet::new(),
            candidates: BTreeMap::new(),
            announced: BTreeSet::new(),
            proxied: BTreeSet::new(),
            conflicts: BTreeSet::new(),
            asked: BTreeMap::new(),
            seen: BTreeSet::new(),
            received_entries: 0,
            number: 0,
        };
        world.coordinator.set_macs(now, vec![MY_MAC]);
        // Most sequences begin with a speaker that runs.
        if settings & 16 == 0 {
            let mut nodes = Bytes(&[0x1e, 0, 0, 0, 0]);
            world.set_nodes(&mut nodes);
            world.coordinator.start(now);
            for _ in 0..12 {
                world.pass(100);
            }
        }
        world
    }

    fn step(&mut self, bytes: &mut Bytes<'_>) {
        match bytes.u8() % 20 {
            0 => self.set_nodes(bytes),
            1 | 2 => {
                let (address, order, flags) = (bytes.address(), bytes.u8(), bytes.u8());
                self.set_candidates(address, order, flags);
            }
            3 => self.coordinator.start(self.now),
            4 | 5 => {
                let millis = u64::from(bytes.u8());
                self.pass(millis * if millis < 128 { 1 } else { 200 });
            }
            6 | 7 => self.heartbeat(bytes),
            8 | 9 => self.claims(bytes),
            10 => {
                let part = self.part(bytes);
                self.receive(bytes, Message::Restore(part));
            }
            11 => {
                let (answered, unanswered) = (vec![bytes.address()], vec![bytes.address()]);
                self.receive(bytes, Message::Verification { answered, unanswered });
            }
            12 => self.sighted(bytes),
            13 => self.node_sighted(bytes),
            14 => self.coordinator.set_draining(bytes.u8().is_multiple_of(2)),
            15 => {
                let address = bytes.address();
                self.coordinator.restore_owned(address);
            }
            16 if bytes.u8().is_multiple_of(16) => self.coordinator.prepare_restart(self.now),
            17 => {
                let (order, flags) = (bytes.u8(), bytes.u8());
                for number in 0..MANY_ADDRESSES {
                    let address = Ipv4Addr::from(0x0a00_0000 + number).into();
                    self.set_candidates(address, order, flags);
                }
            }
            18 => {
                let part = self.part(bytes);
                self.receive(bytes, Message::Announced(part));
            }
            19 => {
                let (address, node) = (bytes.address(), usize::from(bytes.u8()));
                self.coordinator
                    .set_preferred(address, NAMES.get(node % 8).copied());
            }
            _ => self.pass(1),
        }
        self.drain();
    }

    fn set_nodes(&mut self, bytes: &mut Bytes<'_>) {
        let which = bytes.u8();
        let chosen = (0..).zip(NAMES).filter(|(bit, _)| which >> bit & 1 == 1);
        let nodes: Vec<_> = chosen
            .map(|(_, name)| {
                let what = bytes.u8();
                NodeInfo {
                    name,
                    api: match what % 4 {
                        0 | 1 => ApiState::Ready,
                        2 => ApiState::Restarting { until: self.now },
                        _ => ApiState::Absent,
                    },
                    on_link: what & 4 == 0,
                }
            })
            .collect();
        self.nodes = nodes.iter().map(|node| node.name).collect();
        self.nodes.remove(ME);
        self.coordinator.set_nodes(self.now, nodes);
    }

    fn set_candidates(&mut self, address: IpAddr, order: u8, flags: u8) {
        self.coordinator.set_api_version(self.now, u64::from(order >> 3));
        if flags % 4 == 3 {
            self.candidates.remove(&address);
            self.forget(address);
            self.coordinator.set_candidates(address, None);
            return;
        }
        let mut names = NAMES.to_vec();
        names.rotate_left(usize::from(flags >> 2) % NAMES.len());
        names.retain(|name| {
            NAMES
                .iter()
                .position(|other| other == name)
                .is_some_and(|bit| order >> bit & 1 == 0)
        });
        let declined = flags % 4 == 2;
        let candidates = Candidates {
            order: &names,
            voters: &[],
            no_interface: declined,
            preferred: (flags & 128 != 0).then(|| NAMES[usize::from(order) % NAMES.len()]),
        };
        self.coordinator.set_candidates(address, Some(candidates));
        self.candidates.insert(address, declined);
    }

    fn heartbeat(&mut self, bytes: &mut Bytes<'_>) {
        let what = bytes.u8();
        let grace = Duration::from_millis(u64::from(bytes.u16()) << (what >> 4));
        let message = Message::Heartbeat(Heartbeat {
            state: match what % 8 {
                0..=3 => SpeakerState::Up,
                4 => SpeakerState::Draining,
                5 => SpeakerState::Restarting { grace },
                _ => SpeakerState::Starting { grace },
            },
            reply_requested: what & 16 != 0,
            hears_receiver: true,
            was_cut_off: false,
            interval: Duration::from_millis(match what & 8 {
                0 => 100,
                _ => u64::from(bytes.u16()),
            }),
            version: "2".to_owned(),
            api_version: what.into(),
            announced_digest: u64::from(bytes.u8()),
            known_digest: u64::from(bytes.u8()),
            macs: (0..bytes.u8() % 4)
                .map(|_| MacAddr([2, 0, 0, 0, 0, bytes.u8() % 8]))
                .collect(),
        });
        self.receive(bytes, message);
    }

    /// The announced set of a peer, as a speaker sends it.
    fn claims(&mut self, bytes: &mut Bytes<'_>) {
        let first = bytes.u8();
        let entry = |_| {
            let address = bytes.address();
            let state = match bytes.u8() {
                byte if byte % 8 == 7 => EntryState::Declined,
                byte if byte % 8 == 6 => EntryState::Offered {
                    to: short_hash(address, NAMES[usize::from(byte >> 3) % NAMES.len()]),
                },
                byte if byte % 8 == 4 => EntryState::Withheld,
                byte if byte % 8 == 3 => EntryState::Leaving,
                byte if byte % 8 == 2 => EntryState::Contested {
                    version: u64::from(byte >> 3),
                },
                byte if byte % 8 == 5 => EntryState::Proxied {
                    owner: short_hash(address, NAMES[usize::from(byte >> 3) % NAMES.len()]),
                },
                _ => EntryState::Announced,
            };
            Entry { address, state }
        };
        let claims: AnnouncedSet = (0..first % 8).map(entry).collect();
        if first >= 128 {
            let entries: Vec<_> = claims.entries().collect();
            self.received_entries += entries.len();
            let change = SetChange {
                from: AnnouncedSet::default().digest(),
                to: claims.digest(),
                entries,
                removed: Vec::new(),
            };
            return self.receive(bytes, Message::Change(change));
        }
        for part in claims.parts() {
            self.received_entries += part.entries.len();
            self.receive(bytes, Message::Announced(part));
        }
    }

    /// A fragment as a speaker of another version may send it.
    fn part(&mut self, bytes: &mut Bytes<'_>) -> Fragment {
        let of = bytes.u16().max(1);
        let number = bytes.u16() % of;
        let entries: Vec<_> = (0..bytes.u8() % 8)
            .map(|_| Entry::announced(bytes.address()))
            .collect();
        self.received_entries += entries.len() + 1;
        let set: AnnouncedSet = entries.iter().copied().collect();
        let digest = if bytes.u8().is_multiple_of(2) {
            set.digest()
        } else {
            u64::from(bytes.u8() % 2)
        };
        Fragment {
            digest,
            index: number,
            count: of,
            entries,
        }
    }

    /// Receives a datagram from a peer through the wire format, usually a fresh one.
    fn receive(&mut self, bytes: &mut Bytes<'_>, message: Message) {
        let (from, how) = (bytes.u8(), bytes.u8());
        let node = NAMES[usize::from(from) % NAMES.len()];
        let last = self.numbers.entry(node).or_default();
        *last += 1;
        let datagram = Datagram {
            node: if from == 255 { "other" } else { node }.to_owned(),
            incarnation: if how < 240 { 5 } else { u64::from(how & 7) },
            sequence: if how == 239 { 1 } else { *last },
            echo: if how < 250 {
                self.incarnation
            } else {
                bytes.u64() >> (8 * (how & 7))
            },
            message,
        };
        let opened = self.keys.open(&self.keys.seal(&datagram));
        assert_eq!(
            opened.as_ref(),
            Ok(&datagram),
            "messages within the limits round-trip"
        );
        let result = self.coordinator.handle_datagram(self.now, datagram);
        assert!(
            result.is_err() || self.nodes.contains(node),
            "datagrams of unknown senders are rejected"
        );
    }

    fn mac(bytes: &mut Bytes<'_>) -> MacAddr {
        match bytes.u8() {
            255 => MacAddr(bytes.array()),
            byte => MacAddr([2, 0, 0, 0, 0, byte % 16]),
        }
    }

    fn sighted(&mut self, bytes: &mut Bytes<'_>) {
        let (address, mut mac, how) = (bytes.address(), Self::mac(bytes), bytes.u8());
        self.seen.insert(address);
        for time in 0..if how == 255 { FLOOD_LEN } else { 1 } {
            self.coordinator.handle_reply(self.now, address, mac);
            mac.0[3..5].copy_from_slice(&(time + 1).to_be_bytes());
        }
    }

    fn node_sighted(&mut self, bytes: &mut Bytes<'_>) {
        let name = NAMES[usize::from(bytes.u8()) % NAMES.len()];
        let (mut mac, how) = (Self::mac(bytes), bytes.u8());
        for time in 0..if how == 255 { FLOOD_LEN } else { 1 } {
            self.coordinator.handle_node_reply(self.now, name, mac);
            mac.0[3..5].copy_from_slice(&(time + 1).to_be_bytes());
        }
    }

    fn pass(&mut self, millis: u64) {
        self.now += Duration::from_millis(millis);
        for _ in 0..MAX_TIMEOUTS {
            self.coordinator.handle_timeout(self.now, 16);
            self.drain();
            if self.coordinator.poll_timeout().is_none_or(|at| at > self.now) {
                return;
            }
        }
        panic!("timeouts at the same time do not end");
    }

    fn forget(&mut self, address: IpAddr) {
        self.asked.remove(&address);
        self.seen.remove(&address);
    }

    fn drain(&mut self) {
        let mut count = 0;
        while let Some(output) = self.coordinator.poll_output() {
            count += 1;
            self.check(output);
        }
        assert!(count <= MAX_OUTPUTS, "{count} outputs after one input");
        for address in self.candidates.keys().chain(&self.announced) {
            let (is_mine, announced) = (
                self.coordinator.announces(*address),
                self.announced.contains(address),
            );
            assert_eq!(is_mine, announced, "{address}");
        }
    }

    fn check(&mut self, output: Output) {
        match output {
            Output::Send { to, datagram } => {
                assert!(self.nodes.contains(&*to) && datagram.node == ME);
                assert!(datagram.sequence > self.number, "sequence numbers increase");
                self.number = datagram.sequence;
                self.incarnation = datagram.incarnation;
                let sealed = self.keys.seal(&datagram);
                assert!(sealed.len() <= MAX_DATAGRAM_LEN);
                assert_eq!(self.keys.open(&sealed), Ok(datagram));
            }
            Output::Announce { address, reason } => {
                assert!(self.announced.insert(address), "{address} is announced once");
                let declined = self.candidates.get(&address);
                assert_eq!(
                    declined,
                    Some(&false),
                    "{address} has candidates and an interface"
                );
                assert!(!self.proxied.contains(&address) || !matches!(reason, AcquireReason::Restored));
                if reason == AcquireReason::Initial {
                    let asked = self.asked.get(&address).is_some_and(|asked| *asked >= 3);
                    assert!(
                        asked || self.seen.contains(&address),
                        "{address} is probed before it is announced"
                    );
                }
            }
            Output::Withdraw { address, .. } => {
                assert!(self.announced.remove(&address), "{address} was announced");
                self.forget(address);
            }
            Output::Reannounce { address } | Output::Verified { address, .. } => {
                assert!(self.announced.contains(&address), "{address} is announced here");
            }
            Output::ProbeAddress { address } => *self.asked.entry(address).or_default() += 1,
            Output::QueryNode { node } => assert!(self.nodes.contains(&*node)),
            Output::QueryAddress { address, to } => match to {
                QueryTarget::Node(node) => assert!(self.nodes.contains(&*node)),
                QueryTarget::Everyone => assert!(self.announced.contains(&address)),
                QueryTarget::Host(mac) => {
                    assert_ne!(mac, MY_MAC, "we do not query ourselves");
                    assert!(self.candidates.contains_key(&address));
                }
            },
            Output::ConflictDetected { address, hosts } => {
                assert!(!hosts.is_empty(), "a conflict has a host");
                assert!(
                    hosts.iter().all(|host| host.mac != MY_MAC),
                    "our own MAC is no conflict"
                );
                self.conflicts.insert(address);
            }
            Output::ConflictResolved { address } => {
                assert!(self.conflicts.remove(&address), "{address} had a conflict");
            }
            Output::StartProxy { address, node } => {
                assert!(
                    self.proxied.insert(address),
                    "proxy replies for {address} start once"
                );
                assert!(self.nodes.contains(&*node));
            }
            Output::StopProxy { address } => {
                assert!(
                    self.proxied.remove(&address),
                    "proxy replies for {address} had started"
                );
            }
        }
    }

    fn end(&mut self) {
        self.pass(1);
        let addresses = self.candidates.len() + self.received_entries;
        let max = MAX_STATE_LEN + MAX_ADDRESS_STATE_LEN * addresses;
        let state = format!("{:?}", self.coordinator).len();
        assert!(state <= max, "state of {state} bytes exceeds {max}");
    }
}
