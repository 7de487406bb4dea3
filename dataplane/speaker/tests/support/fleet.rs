//! A speaker in a cluster of any size, without API server, peers and clock: the objects are made here, and every other speaker
//! is heard as idle.

#![allow(dead_code, reason = "each user needs a part of it")]
#![allow(clippy::expect_used, reason = "a helper of a test fails the test")]

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use clap::Parser;
use lb_l2::MacAddr;
use lb_l2::ownership::announced_set::AnnouncedSet;
use lb_l2::wire::heartbeat::{Datagram, Heartbeat, Message, SpeakerState};
use lb_net::{Link, LinkAddress, LinkWatcher, Snapshot};
use lb_runtime::ObjectKey;
use lb_speaker::args::Args;
use lb_speaker::k8s::index::{Kind, Update};
use lb_speaker::k8s::objects::{Advertisement, Node, Pool, Service, Slice, Speaker as SpeakerPod};
use lb_speaker::metrics::Metrics;
use lb_speaker::speaker::Speaker;
use nix::sched::{CloneFlags, unshare};
use prometheus::Registry;
use serde_json::json;

const INCARNATION: u64 = 1;

/// The speaker of the node `n0`.
pub(crate) struct Fleet {
    pub(crate) speaker: Speaker,
    pub(crate) registry: Registry,
    pub(crate) links: Snapshot,
    now: Instant,
    nodes: usize,
    sequence: u64,
}

impl Fleet {
    /// A speaker before its start.
    pub(crate) fn new(nodes: usize, links: Snapshot) -> Self {
        Self::with_arguments(nodes, links, &[])
    }

    /// A speaker with these arguments of its program.
    pub(crate) fn with_arguments(nodes: usize, links: Snapshot, arguments: &[&str]) -> Self {
        let args = ["lb-speaker", "--node-name", "n0"];
        let config = Args::try_parse_from(args.iter().chain(arguments))
            .expect("valid arguments")
            .config();
        let registry = Registry::new();
        let metrics = Metrics::new(&registry, "n0").expect("new metrics");
        let now = Instant::now();
        Self {
            speaker: Speaker::new(now, INCARNATION, config.expect("valid configuration"), metrics),
            registry,
            links,
            now,
            nodes,
            sequence: 0,
        }
    }

    /// All objects of the cluster: one pool, one advertisement, and a Service with an endpoint for each address.
    pub(crate) fn objects(nodes: usize, addresses: usize) -> Vec<Update> {
        let mut updates = vec![pool(), advertisement(&json!({}))];
        for at in 0..nodes {
            updates.extend([node(at, "a", false), speaker_pod(at, true)]);
        }
        for at in 0..addresses {
            updates.extend([service(at), slice(at, at % nodes)]);
        }
        updates
    }

    /// Starts the speaker: all lists are complete, and the other speakers are heard.
    pub(crate) fn start(&mut self, objects: Vec<Update>) {
        self.speaker.set_links(self.now, self.links.clone());
        for update in objects.into_iter().chain(Kind::ALL.map(Update::Synced)) {
            self.speaker.update(self.now, update);
        }
        self.settle();
        while !self.speaker.is_running() {
            self.hear_everybody();
            self.settle();
            self.now += Duration::from_millis(50);
        }
        self.hear_everybody();
        self.settle();
    }

    /// Applies a change, and lets the speaker work until nothing is left to decide. Returns the number of datagrams sent.
    pub(crate) fn update(&mut self, update: Update) -> usize {
        self.speaker.update(self.now, update);
        self.settle()
    }

    /// Applies a change of the links.
    pub(crate) fn set_links(&mut self, links: Snapshot) -> usize {
        self.speaker.set_links(self.now, links.clone());
        self.links = links;
        self.settle()
    }

    /// Lets time pass, in which heartbeats of these speakers arrive.
    pub(crate) fn run(&mut self, time: Duration, heard: &[usize]) {
        let end = self.now + time;
        while self.now < end {
            heard.iter().for_each(|at| self.hear(*at));
            self.settle();
            self.now += Duration::from_millis(500);
        }
    }

    /// The number of decisions about addresses since the start.
    pub(crate) fn decisions(&self) -> u64 {
        self.metric("lb_speaker_decisions_total") as u64
    }

    /// The value of a counter or gauge without labels.
    pub(crate) fn metric(&self, name: &str) -> f64 {
        let families = self.registry.gather();
        let family = families.iter().find(|family| family.name() == name);
        let metric = family.and_then(|family| family.get_metric().first());
        metric.map_or(0.0, |metric| {
            metric.get_counter().get_value() + metric.get_gauge().get_value()
        })
    }

    fn settle(&mut self) -> usize {
        let mut sent = 0;
        loop {
            let _ = self.speaker.step(self.now);
            sent += self.speaker.take_datagrams().len();
            if !self.speaker.is_busy() {
                return sent;
            }
        }
    }

    fn hear_everybody(&mut self) {
        (1..self.nodes).for_each(|at| self.hear(at));
    }

    fn hear(&mut self, at: usize) {
        self.sequence += 1;
        let datagram = Datagram {
            node: name(at),
            incarnation: 1,
            sequence: self.sequence,
            echo: INCARNATION,
            message: Message::Heartbeat(Heartbeat {
                state: SpeakerState::Up,
                reply_requested: false,
                hears_receiver: true,
                was_cut_off: false,
                interval: Duration::from_secs(3),
                version: "test".to_owned(),
                api_version: 0,
                announced_digest: AnnouncedSet::default().digest(),
                known_digest: AnnouncedSet::default().digest(),
                macs: Vec::new(),
            }),
        };
        let _ = self.speaker.handle_datagram(self.now, datagram);
    }
}

/// A link in a network namespace of our own; none without the right to make one.
pub(crate) async fn own_link() -> anyhow::Result<Snapshot> {
    if unshare(CloneFlags::CLONE_NEWNET).is_err() {
        return Ok(Snapshot::new());
    }
    for arguments in [
        "link add lan0 type veth peer name far0",
        "address add 10.0.255.254/16 dev lan0",
        "link set lan0 up",
        "link set far0 up",
    ] {
        let status = std::process::Command::new("ip")
            .args(arguments.split(' '))
            .status()?;
        anyhow::ensure!(status.success(), "ip {arguments}");
    }
    let mut links = LinkWatcher::new()?.next().await?;
    while !links.values().any(|link| link.name == "lan0" && link.carrier) {
        links = LinkWatcher::new()?.next().await?;
    }
    Ok(links)
}

pub(crate) fn name(at: usize) -> String {
    format!("n{at}")
}

/// The address with this number, in 10.0.0.0/16.
pub(crate) fn address(at: usize) -> IpAddr {
    let at = u32::try_from(at).expect("an address of the pool");
    Ipv4Addr::from_bits(0x0a00_0001 + at).into()
}

pub(crate) fn pool() -> Update {
    let object = json!({"metadata": {"name": "lan"}, "spec": {"addresses": ["10.0.0.0/16"]}});
    let object = serde_json::from_value(object).expect("valid object");
    Update::Pool("lan".to_owned(), Some(Pool::read(object)))
}

pub(crate) fn advertisement(spec: &serde_json::Value) -> Update {
    let object = json!({"metadata": {"name": "lan"}, "spec": spec});
    let object = serde_json::from_value(object).expect("valid object");
    Update::Advertisement("lan".to_owned(), Some(Advertisement::read(object)))
}

/// A Node with a label; `excluded` from load balancers or not.
pub(crate) fn node(at: usize, label: &str, excluded: bool) -> Update {
    let mut labels = json!({"kubernetes.io/hostname": name(at), "rack": label});
    if excluded {
        labels["node.kubernetes.io/exclude-from-external-load-balancers"] = "".into();
    }
    let object = json!({
        "metadata": {"name": name(at), "uid": format!("uid-{at}"), "labels": labels},
        "status": {
            "conditions": [{"type": "Ready", "status": "True"}],
            "addresses": [{"type": "InternalIP", "address": address(60_000 + at)}],
        },
    });
    let object = serde_json::from_value(object).expect("valid object");
    Update::Node(name(at), Some(Node::read(object)))
}

pub(crate) fn speaker_pod(at: usize, ready: bool) -> Update {
    Update::Speaker(
        format!("speaker-{at}"),
        Some(SpeakerPod {
            node: name(at),
            ready,
        }),
    )
}

fn key(at: usize) -> ObjectKey {
    ObjectKey::new("default", format!("s{at}"))
}

pub(crate) fn service(at: usize) -> Update {
    let object = json!({
        "metadata": {"namespace": "default", "name": format!("s{at}"), "uid": format!("uid-s{at}")},
        "spec": {"type": "LoadBalancer"},
        "status": {"loadBalancer": {"ingress": [{"ip": address(at)}]}},
    });
    let object = serde_json::from_value(object).expect("valid object");
    Update::Service(key(at), Service::read(object, None))
}

/// The slice of the Service: one endpoint, on this node.
pub(crate) fn slice(at: usize, node: usize) -> Update {
    let slice = Slice {
        service: format!("s{at}"),
        serving: true,
        nodes: BTreeSet::from([name(node)]),
    };
    Update::Slice(ObjectKey::new("default", format!("s{at}-abc")), Some(slice))
}

/// A link that is up, with this address if there is one.
pub(crate) fn link(index: u32, name: &str, address: Option<(IpAddr, u8)>) -> Link {
    let [_, _, high, low] = index.to_be_bytes();
    Link {
        index,
        name: name.to_owned(),
        mac: Some(MacAddr([2, 0, 0, 0, high, low])),
        up: true,
        carrier: true,
        loopback: false,
        broadcast: true,
        noarp: false,
        enslaved: false,
        addresses: address
            .map(|(address, prefix_len)| LinkAddress {
                address,
                prefix_len,
                tentative: false,
            })
            .into_iter()
            .collect(),
    }
}
