//! Who is to have which address: made from what all speakers see alike, in any order, and seldom.

mod support;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use lb_l2::ownership::election;
use lb_speaker::balance::Balance;
use lb_speaker::k8s::index::Update;
use support::{GRACE, World, cluster, mk_node_with, mk_service, mk_speaker, mk_status};

/// Six Services with an address in each family; the first is that of IPv4.
fn world() -> World {
    let mut updates = cluster();
    updates.extend((0..6).map(|at| {
        let (v4, v6) = addresses(at);
        mk_service(&format!("s{at}"), &[&v4, &v6], |_| {})
    }));
    updates.push(mk_service("web", &[], |_| {}));
    World::new(updates)
}

fn addresses(at: usize) -> (String, String) {
    (format!("192.168.50.6{at}"), format!("fd00:50::6{at}"))
}

/// What the speaker of a node makes of it, having learned of the addresses from the first on or from the last.
fn opinion(world: &World, backwards: bool) -> BTreeMap<IpAddr, String> {
    let mut balance = Balance::default();
    let mut all: Vec<_> = world.index.addresses().collect();
    if backwards {
        all.reverse();
    }
    for address in &all {
        let nodes = world.index.nodes.keys().map(String::as_str);
        let order = election::order(*address, nodes.filter(|node| world.peers.has_speaker(node)));
        balance.set_order(*address, &order);
    }
    balance.look(world.now, &world.index, &world.peers);
    let target = |address: &IpAddr| Some((*address, balance.target(*address)?.to_owned()));
    all.iter().filter_map(target).collect()
}

fn loads(opinion: &BTreeMap<IpAddr, String>) -> BTreeMap<&str, usize> {
    let mut loads = BTreeMap::new();
    for node in opinion.values() {
        *loads.entry(node.as_str()).or_default() += 1;
    }
    loads
}

#[test]
fn all_speakers_come_to_the_same_and_second_addresses_follow() {
    let mut world = world();
    for at in 0..5 {
        world.tell(mk_status(&format!("s{at}"), "n1"));
    }
    let first = opinion(&world, false);
    assert_eq!(loads(&first), BTreeMap::from([("n1", 4), ("n2", 4), ("n3", 4)]));
    for at in 0..6 {
        let (v4, v6) = addresses(at);
        let of = |text: &str| text.parse().ok().and_then(|address: IpAddr| first.get(&address));
        assert_eq!(of(&v4), of(&v6));
    }
    let kept = (0..5).filter(|at| {
        let address: Option<IpAddr> = addresses(*at).0.parse().ok();
        address
            .and_then(|address| first.get(&address))
            .is_some_and(|node| node == "n1")
    });
    assert_eq!(kept.count(), 2, "who has it keeps what balance allows");
    world.see_as("n3");
    assert_eq!(opinion(&world, true), first);
}

#[test]
fn who_is_drained_or_has_no_speaker_gets_nothing_and_who_restarts_keeps_its_place() {
    let mut world = world();
    let before = opinion(&world, false);
    world.tell(mk_speaker("n2", false));
    assert_eq!(opinion(&world, false), before, "it restarts");
    world.pass(GRACE + Duration::from_secs(1));
    assert_eq!(
        loads(&opinion(&world, false)),
        BTreeMap::from([("n1", 6), ("n3", 6)])
    );
    world.tell(mk_speaker("n2", true));
    let Update::Node(name, Some(mut node)) = mk_node_with(
        "n3",
        &serde_json::json!({}),
        &serde_json::json!([{"type": "Ready", "status": "True"}]),
    ) else {
        return;
    };
    node.leaving = true;
    world.tell(Update::Node(name, Some(node)));
    assert_eq!(
        loads(&opinion(&world, false)),
        BTreeMap::from([("n1", 6), ("n2", 6)])
    );
}

#[test]
fn it_is_looked_at_once_a_second_and_only_after_a_change() {
    let world = world();
    let mut balance = Balance::default();
    let address = addresses(0).0.parse().ok();
    let Some(address) = address else { return };
    balance.set_order(address, &["n2", "n1"]);
    assert_eq!(balance.look(world.now, &world.index, &world.peers), [address]);
    assert_eq!((balance.target(address), balance.due()), (Some("n2"), None));
    balance.set_order(address, &["n2", "n1"]);
    assert_eq!(balance.due(), None, "nothing has changed");
    balance.set_order(address, &["n1"]);
    let due = world.now + Duration::from_secs(1);
    assert_eq!(balance.due(), Some(due));
    let early = due - Duration::from_millis(1);
    assert!(balance.look(early, &world.index, &world.peers).is_empty());
    assert_eq!(balance.look(due, &world.index, &world.peers), [address]);
    assert_eq!(balance.target(address), Some("n1"));
}
