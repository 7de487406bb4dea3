//! Balanced placement: the same result on all speakers, in any order of updates, and computed at most once a second.

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

/// The preferred owners, with the addresses added in order or backwards.
fn targets(world: &World, backwards: bool) -> BTreeMap<IpAddr, String> {
    let mut balance = Balance::default();
    let mut all: Vec<_> = world.index.addresses().collect();
    if backwards {
        all.reverse();
    }
    for address in &all {
        let nodes = world.index.nodes.keys().map(String::as_str);
        let order = election::order(*address, nodes.filter(|node| world.peers.has_speaker(node)));
        balance.set_candidates(*address, &order);
    }
    balance.recompute(world.now, &world.index, &world.peers);
    let target = |address: &IpAddr| Some((*address, balance.target(*address)?.to_owned()));
    all.iter().filter_map(target).collect()
}

fn loads(targets: &BTreeMap<IpAddr, String>) -> BTreeMap<&str, usize> {
    let mut loads = BTreeMap::new();
    for node in targets.values() {
        *loads.entry(node.as_str()).or_default() += 1;
    }
    loads
}

#[test]
fn all_speakers_agree_and_second_addresses_follow() {
    let mut world = world();
    for at in 0..5 {
        world.update(mk_status(&format!("s{at}"), "n1"));
    }
    let first = targets(&world, false);
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
    assert_eq!(kept.count(), 2, "owners keep as many as balance allows");
    world.switch_to("n3");
    assert_eq!(targets(&world, true), first);
}

#[test]
fn only_draining_nodes_and_nodes_without_speaker_lose_addresses() {
    let mut world = world();
    let before = targets(&world, false);
    world.update(mk_speaker("n2", false));
    assert_eq!(targets(&world, false), before, "it restarts");
    world.advance(GRACE + Duration::from_secs(1));
    assert_eq!(
        loads(&targets(&world, false)),
        BTreeMap::from([("n1", 6), ("n3", 6)])
    );
    world.update(mk_speaker("n2", true));
    let Update::Node(name, Some(mut node)) = mk_node_with(
        "n3",
        &serde_json::json!({}),
        &serde_json::json!([{"type": "Ready", "status": "True"}]),
    ) else {
        return;
    };
    node.draining = true;
    world.update(Update::Node(name, Some(node)));
    assert_eq!(
        loads(&targets(&world, false)),
        BTreeMap::from([("n1", 6), ("n2", 6)])
    );
}

#[test]
fn targets_are_computed_once_a_second_after_a_change() {
    let world = world();
    let mut balance = Balance::default();
    let address = addresses(0).0.parse().ok();
    let Some(address) = address else { return };
    balance.set_candidates(address, &["n2", "n1"]);
    assert_eq!(
        balance.recompute(world.now, &world.index, &world.peers),
        [address]
    );
    assert_eq!(
        (balance.target(address), balance.poll_timeout()),
        (Some("n2"), None)
    );
    balance.set_candidates(address, &["n2", "n1"]);
    assert_eq!(balance.poll_timeout(), None, "nothing has changed");
    balance.set_candidates(address, &["n1"]);
    let due = world.now + Duration::from_secs(1);
    assert_eq!(balance.poll_timeout(), Some(due));
    let early = due - Duration::from_millis(1);
    assert!(balance.recompute(early, &world.index, &world.peers).is_empty());
    assert_eq!(balance.recompute(due, &world.index, &world.peers), [address]);
    assert_eq!(balance.target(address), Some("n1"));
}
