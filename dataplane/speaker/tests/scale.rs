//! The number of decisions that a change costs, whatever the size of the cluster; and that every decision that is remembered
//! equals a new one.

#![allow(clippy::unwrap_used, reason = "a helper of a test fails the test")]

#[path = "support/fleet.rs"]
mod fleet;

use fleet::{Fleet, address, advertisement, link, name, node, pool, service, slice, speaker_pod};
use lb_net::Snapshot;
use lb_speaker::k8s::index::Update;
use serde_json::json;

const NODES: usize = 200;
const ADDRESSES: usize = 400;

fn fleet() -> Fleet {
    // No interface has this index, so none is opened.
    let links = Snapshot::from([(9_000, link(9_000, "lan0", Some((address(65_000), 16))))]);
    let mut fleet = Fleet::new(NODES, links);
    fleet.start(Fleet::objects(NODES, ADDRESSES));
    fleet
}

/// The decisions that a change causes.
fn decisions(fleet: &mut Fleet, change: impl FnOnce(&mut Fleet) -> usize) -> usize {
    let before = fleet.decisions();
    let _sent = change(fleet);
    usize::try_from(fleet.decisions() - before).unwrap()
}

#[test]
fn start_decides_each_address_once() {
    assert_eq!(fleet().decisions(), ADDRESSES as u64);
}

#[test]
fn links_of_pods_and_link_addresses_cost_no_decision() {
    let mut fleet = fleet();
    let mut links = fleet.links.clone();
    links.insert(9_001, link(9_001, "veth1a2b", None));
    assert_eq!(decisions(&mut fleet, |fleet| fleet.set_links(links.clone())), 0);
    links.insert(9_002, link(9_002, "eth7", Some((address(65_001), 32))));
    assert_eq!(decisions(&mut fleet, |fleet| fleet.set_links(links)), 0);
}

#[test]
fn status_of_a_node_and_short_unreadiness_cost_no_decision() {
    let mut fleet = fleet();
    for update in [node(9, "a", false), speaker_pod(9, false), speaker_pod(9, true)] {
        assert_eq!(decisions(&mut fleet, |fleet| fleet.update(update)), 0);
    }
    assert_eq!(
        decisions(&mut fleet, |fleet| fleet.update(node(9, "b", false))),
        0
    );
}

#[test]
fn node_affects_only_addresses_for_which_it_is_a_candidate() {
    let mut fleet = fleet();
    // 16 of 200 nodes are candidates: each for 32 of 400 addresses.
    for update in [
        node(9, "a", true),
        node(9, "a", false),
        Update::Node(name(9), None),
        node(9, "a", false),
    ] {
        let cost = decisions(&mut fleet, |fleet| fleet.update(update));
        assert!((10..80).contains(&cost), "{cost}");
    }
}

#[test]
fn objects_of_a_service_affect_its_address_only() {
    let mut fleet = fleet();
    assert_eq!(decisions(&mut fleet, |fleet| fleet.update(slice(3, 7))), 1);
    assert_eq!(decisions(&mut fleet, |fleet| fleet.update(service(3))), 0);
    let all = decisions(&mut fleet, |fleet| {
        fleet.update(advertisement(&json!({"nodeSelectors": []})))
    });
    assert_eq!(all, 0, "the same advertisement");
    let none = json!({"nodeSelectors": [{"matchLabels": {"rack": "b"}}]});
    assert_eq!(
        decisions(&mut fleet, |fleet| fleet.update(advertisement(&none))),
        ADDRESSES
    );
    assert_eq!(
        decisions(&mut fleet, |fleet| fleet.update(pool())),
        0,
        "the same pool"
    );
}
