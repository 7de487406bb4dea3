use std::time::{Duration, Instant};

use lb_runtime::ObjectKey;
use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::decide::{Decided, Decision, DecisionInput, decide};
use crate::k8s::index::Update;
use crate::k8s::objects::{Advertisement, Node, Pool, Service, Slice, Speaker};

const LOCAL_NODE: &str = "n0";
const NODES: u8 = 24;
const ADDRESSES: u8 = 6;

/// The inputs, and the decisions that are remembered.
struct World {
    index: Index,
    peers: Peers,
    now: Instant,
    decisions: Decisions,
}

impl World {
    fn new() -> Self {
        let mut world = Self {
            index: Index::default(),
            peers: Peers::new(LOCAL_NODE, Duration::from_secs(10)),
            now: Instant::now(),
            decisions: Decisions::new(LOCAL_NODE, false),
        };
        let pool = json!({"metadata": {"name": "lan"}, "spec": {"addresses": ["10.0.0.0/24"]}});
        let pool = Pool::read(serde_json::from_value(pool).unwrap());
        world.update(Update::Pool("lan".to_owned(), Some(pool)));
        world.update(advertisement("a", 0));
        for at in 0..NODES {
            world.update(node(at, 0));
            world.update(speaker(at, true));
        }
        for at in 0..ADDRESSES {
            world.update(service(at, 0));
            world.update(slice(at, u32::MAX));
        }
        world.decide();
        world
    }

    fn update(&mut self, update: Update) {
        let affected = self.index.update(update);
        self.decisions.note(&affected);
        if let Some(node) = &affected.peer {
            self.peers.update(self.now, &self.index, node);
        }
        if self.peers.take_changed() {
            self.decisions.speakers_changed();
        }
    }

    fn pass(&mut self, seconds: u64) {
        self.now += Duration::from_secs(seconds);
        self.peers.handle_timeout(self.now);
        if self.peers.take_changed() {
            self.decisions.speakers_changed();
        }
    }

    /// Decides as the speaker does. Returns the number of decisions.
    fn decide(&mut self) -> usize {
        self.decisions.refresh(&self.index, &self.peers);
        let mut count = 0;
        while let Some(address) = self.decisions.pop_dirty() {
            let known = decided(&self.index, self.decisions.nodes(), address);
            self.decisions.remember(address, known);
            count += 1;
        }
        count
    }
}

fn decided(index: &Index, nodes: &NodeTable, address: IpAddr) -> Option<Known> {
    let input = DecisionInput {
        local_node: LOCAL_NODE,
        index,
        nodes,
    };
    let Decided { decision, horizon } = decide(&input, address);
    match decision {
        Decision::Candidates { order, local } => Some(Known {
            is_first: order.first() == Some(&LOCAL_NODE),
            outcome: match local {
                Ok(announcement) => Outcome::Eligible(announcement.into()),
                Err(reason) => Outcome::Ineligible(reason),
            },
            horizon,
            no_interface: false,
        }),
        Decision::NoCandidates { reason, .. } => Some(Known::no_candidates(reason, horizon)),
        Decision::Unused => None,
    }
}

fn address(at: u8) -> IpAddr {
    [10, 0, 0, at].into()
}

fn advertisement(name: &str, kind: u8) -> Update {
    let preference = |weight| json!([{"weight": weight, "preference": {"matchLabels": {"kind": "1"}}}]);
    let spec = match kind % 5 {
        0 => json!({}),
        1 => json!({"nodeSelectors": [{"matchLabels": {"kind": "1"}}]}),
        2 => json!({"preferredNodeSelectors": preference(10)}),
        3 => json!({"interfaces": ["eth0"], "nodeSelectors": [{"matchLabels": {"kind": "2"}}]}),
        _ => return Update::Advertisement(name.to_owned(), None),
    };
    let object = json!({"metadata": {"name": name}, "spec": spec});
    let object = serde_json::from_value(object).unwrap();
    Update::Advertisement(name.to_owned(), Some(Advertisement::read(object)))
}

fn node(at: u8, kind: u8) -> Update {
    let mut node = Node {
        ready: true,
        ..Node::default()
    };
    node.labels.insert("kind".to_owned(), (kind % 3).to_string());
    match kind % 16 {
        11 => drop(
            node.labels
                .insert(lb_crds::names::LABEL_EXCLUDE.to_owned(), String::new()),
        ),
        12 => node.network_unavailable = true,
        13 => node.ready = false,
        14 => drop(node.held_addresses.insert(address(at % ADDRESSES))),
        15 => return Update::Node(format!("n{at}"), None),
        _ => {}
    }
    Update::Node(format!("n{at}"), Some(node))
}

fn speaker(at: u8, ready: bool) -> Update {
    let node = format!("n{at}");
    Update::Speaker(format!("speaker-{at}"), Some(Speaker { node, ready }))
}

fn service(at: u8, kind: u8) -> Update {
    let service = (kind % 4 != 3).then(|| Service {
        addresses: [address(at)].into(),
        local: kind % 4 == 2,
        ..Service::default()
    });
    Update::Service(ObjectKey::new("default", format!("s{at}")), service)
}

/// Endpoints on the nodes of this bit set.
fn slice(at: u8, nodes: u32) -> Update {
    let on = (0..NODES).filter(|node| nodes & (1 << node) != 0);
    let slice = Slice {
        service: format!("s{at}"),
        serving: nodes != 0,
        nodes: on.map(|node| format!("n{node}")).collect(),
    };
    Update::Slice(ObjectKey::new("default", format!("s{at}-1")), Some(slice))
}

fn changes() -> impl Strategy<Value = Option<Update>> {
    prop_oneof![
        4 => (0..NODES, any::<u8>()).prop_map(|(at, kind)| Some(node(at, kind))),
        4 => (0..NODES, any::<bool>()).prop_map(|(at, ready)| Some(speaker(at, ready))),
        1 => (0..2_u8, any::<u8>()).prop_map(|(at, kind)| Some(advertisement(["a", "b"][usize::from(at)], kind))),
        2 => (0..ADDRESSES, any::<u8>()).prop_map(|(at, kind)| Some(service(at, kind))),
        2 => (0..ADDRESSES, any::<u32>()).prop_map(|(at, nodes)| Some(slice(at, nodes))),
        1 => Just(None),
    ]
}

proptest! {
    /// Whatever changes, and however many changes are decided together.
    #[test]
    fn remembered_decisions_equal_new_ones(
        steps in proptest::collection::vec(proptest::collection::vec(changes(), 1..4), 1..40)
    ) {
        let mut world = World::new();
        for step in steps {
            for change in step {
                match change {
                    Some(update) => world.update(update),
                    None => world.pass(11),
                }
            }
            world.decide();
            let mut nodes = NodeTable::new(false);
            nodes.rebuild(&world.index, &world.peers);
            for at in 0..ADDRESSES {
                let fresh = decided(&world.index, &nodes, address(at));
                let known = world.decisions.get(address(at));
                let visible = |known: &Known| (known.outcome.clone(), known.is_first, known.no_interface);
                prop_assert_eq!(known.map(visible), fresh.as_ref().map(visible), "{}", address(at));
                // With one candidate less than before, a remembered horizon may be nearer than needed: as many
                // candidates as count are still before it.
                let (known, fresh) = (known.and_then(|known| known.horizon), fresh.and_then(|fresh| fresh.horizon));
                prop_assert!(known == fresh || fresh.is_none(), "{}: {known:?}, {fresh:?}", address(at));
            }
        }
    }
}

#[test]
fn node_behind_the_horizon_costs_no_decision() {
    let mut world = World::new();
    let beyond = |world: &World, at: u8| {
        let known = world.decisions.get(address(0)).unwrap();
        known.horizon.unwrap() < Election::new(address(0)).rank(&format!("n{at}"), 0)
    };
    for at in 0..ADDRESSES {
        world.update(service(at, if at == 0 { 0 } else { 3 }));
    }
    world.decide();
    for at in 1..NODES {
        let expected = usize::from(!beyond(&world, at));
        world.update(node(at, 12));
        assert_eq!(world.decide(), expected, "n{at}");
        world.update(node(at, 0));
        world.decide();
    }
}

/// A node that has failed votes as long as it has a speaker pod.
#[test]
fn speaker_pod_that_is_not_ready_is_decided_about() {
    let mut world = World::new();
    for at in 0..NODES {
        world.update(node(at, if at < 3 { 0 } else { 15 }));
    }
    world.update(Update::Speaker("speaker-2".to_owned(), None));
    world.pass(60);
    world.decide();
    world.update(speaker(2, false));
    assert_ne!(world.decide(), 0, "it votes");
    world.update(Update::Speaker("speaker-2".to_owned(), None));
    assert_ne!(world.decide(), 0, "it does not");
}
