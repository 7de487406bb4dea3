//! The election order: equality with MetalLB's, and stability when nodes change.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use lb_l2::ownership::election::{order, order_weighted, owner};
use proptest::prelude::*;

/// Computed with coreutils: `printf '%s' "$node#$address" | sha256sum | sort`.
const VECTORS: &[(&str, [&str; 6])] = &[
    (
        "192.168.50.200",
        ["n1", "n2", "node-b", "node-a", "n3", "worker-1.example.com"],
    ),
    (
        "192.168.50.201",
        ["node-b", "node-a", "n3", "worker-1.example.com", "n2", "n1"],
    ),
    (
        "fd00:50::c8",
        ["worker-1.example.com", "node-a", "node-b", "n3", "n1", "n2"],
    ),
    (
        "2001:db8::1:0:0:1",
        ["n3", "worker-1.example.com", "n1", "node-a", "node-b", "n2"],
    ),
    (
        "::1",
        ["n1", "n2", "node-a", "worker-1.example.com", "n3", "node-b"],
    ),
];

#[test]
fn order_equals_metallbs() {
    for (address, nodes) in VECTORS {
        let mut sorted = *nodes;
        sorted.sort_unstable();
        assert_eq!(order(address.parse().unwrap(), sorted), nodes, "{address}");
        assert_eq!(
            owner(address.parse().unwrap(), sorted),
            Some(nodes[0]),
            "{address}"
        );
    }
}

#[test]
fn ipv6_address_is_hashed_as_canonical_text() {
    let long: IpAddr = "2001:0DB8:0:0:1:0:0:0001".parse().unwrap();
    assert_eq!(order(long, ["n1", "n2", "n3"]), ["n3", "n1", "n2"]);
}

#[test]
fn ipv4_mapped_address_has_the_order_of_ipv4() {
    // Go has one representation for both and prints it as IPv4.
    let mapped: IpAddr = "::ffff:192.168.50.200".parse().unwrap();
    assert_eq!(order(mapped, ["n3", "n2", "n1"]), ["n1", "n2", "n3"]);
}

#[test]
fn no_candidates_means_no_owner() {
    assert_eq!(owner(IpAddr::V4(Ipv4Addr::LOCALHOST), []), None);
}

#[test]
fn duplicate_names_count_once() {
    assert_eq!(
        order("192.168.50.200".parse().unwrap(), ["n2", "n1", "n2"]),
        ["n1", "n2"]
    );
}

#[test]
fn greater_weight_precedes_the_hash() {
    let weighted =
        |weights: [(&'static str, u32); 3]| order_weighted("192.168.50.200".parse().unwrap(), weights);
    assert_eq!(weighted([("n1", 0), ("n2", 0), ("n3", 0)]), ["n1", "n2", "n3"]);
    assert_eq!(weighted([("n1", 0), ("n2", 30), ("n3", 100)]), ["n3", "n2", "n1"]);
    assert_eq!(
        weighted([("n1", 1), ("n2", 30), ("n3", 30)]),
        ["n2", "n3", "n1"],
        "the hash decides ties"
    );
}

fn address() -> impl Strategy<Value = IpAddr> {
    prop_oneof![
        any::<u32>().prop_map(|bits| Ipv4Addr::from(bits).into()),
        any::<u128>().prop_map(|bits| Ipv6Addr::from(bits).into()),
    ]
}

fn nodes() -> impl Strategy<Value = Vec<String>> {
    prop::collection::btree_set("[a-z]{1,3}-[0-9]{1,2}", 1..12)
        .prop_map(|set| set.into_iter().collect::<Vec<_>>())
        .prop_shuffle()
}

fn names(nodes: &[String]) -> impl Iterator<Item = &str> {
    nodes.iter().map(String::as_str)
}

proptest! {
    #[test]
    fn order_is_independent_of_input_order(address in address(), nodes in nodes()) {
        let sorted: BTreeSet<&str> = names(&nodes).collect();
        let ordered = order(address, names(&nodes));
        prop_assert_eq!(&ordered, &order(address, sorted.iter().copied()));
        prop_assert_eq!(ordered.iter().copied().collect::<BTreeSet<_>>(), sorted);
        prop_assert_eq!(owner(address, names(&nodes)), ordered.first().copied());
    }

    #[test]
    fn leaving_non_owner_moves_nothing(
        address in address(),
        nodes in nodes(),
        pick in any::<prop::sample::Index>(),
    ) {
        let winner = owner(address, names(&nodes)).unwrap();
        let leaver = pick.get(&nodes).as_str();
        prop_assume!(leaver != winner);
        prop_assert_eq!(owner(address, names(&nodes).filter(|node| *node != leaver)), Some(winner));
    }

    #[test]
    fn second_candidate_replaces_a_leaving_owner(address in address(), nodes in nodes()) {
        let ordered = order(address, names(&nodes));
        let left = ordered.iter().copied().skip(1);
        prop_assert_eq!(owner(address, left.clone()), ordered.get(1).copied());
        prop_assert_eq!(order(address, left), &ordered[1..]);
    }
}
