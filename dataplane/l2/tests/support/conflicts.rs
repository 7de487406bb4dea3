//! Hosts that have the address of a Service.

use lb_l2::MacAddr;
use lb_l2::ownership::ConflictPolicy;

use super::converged;
use super::network::{LOSSLESS, Network, ms};

#[test]
fn only_defend_takes_an_address_from_its_holder() {
    let foreign_mac = MacAddr([2, 0xbb, 0, 0, 0, 1]);
    for (policy, owners) in [
        (ConflictPolicy::Warn, 0),
        (ConflictPolicy::Defend, 1),
        (ConflictPolicy::Yield, 0),
    ] {
        let mut lan = Network::new(12, 3, 3, LOSSLESS);
        lan.set_conflicts(policy);
        let address = lan.addresses[0];
        lan.conflicting_hosts.insert(address, foreign_mac);
        lan.run(ms(120_000));
        assert_eq!(lan.owners(address).len(), owners, "{policy:?}");
        assert!(
            lan.conflicts
                .iter()
                .all(|(_, at, mac)| (*at, *mac) == (address, foreign_mac))
        );
        assert_eq!(lan.conflicts.len(), 1, "{policy:?}: reported once");
        // The longest pause between two attempts is a minute.
        lan.conflicting_hosts.clear();
        lan.run(ms(61_000));
        lan.sole_owners();
        // An owner asks every 30 s, and a conflict is over 150 s after the last answer.
        let over = usize::from(policy != ConflictPolicy::Defend);
        assert_eq!(lan.over.len(), over, "{policy:?}");
    }
}

#[test]
fn conflict_after_a_claim_is_handled_by_policy() {
    let foreign_mac = MacAddr([2, 0xbb, 0, 0, 0, 1]);
    for (policy, owners) in [
        (ConflictPolicy::Warn, 1),
        (ConflictPolicy::Defend, 1),
        (ConflictPolicy::Yield, 0),
    ] {
        let mut lan = Network::new(12, 3, 3, LOSSLESS);
        lan.set_conflicts(policy);
        lan.run(ms(3000));
        let owner = lan.sole_owners()[&lan.addresses[0]];
        let address = lan.addresses[0];
        lan.conflicting_hosts.insert(address, foreign_mac);
        for _ in 0..10 {
            lan.show_binding(owner, address, foreign_mac);
            lan.run(ms(500));
        }
        assert_eq!(lan.owners(address).len(), owners, "{policy:?}");
        assert_eq!(lan.conflicts, [(owner, address, foreign_mac)], "{policy:?}");
        assert_eq!(lan.reannounced.is_empty(), policy != ConflictPolicy::Defend);
        lan.conflicting_hosts.clear();
        lan.run(ms(40_000));
        lan.sole_owners();
    }
}

/// A host that adds an address without announcing it, and the kernel of a node. The owner asks, once per 30 s at most.
#[test]
fn silent_holder_is_reported_within_a_minute() {
    let mut lan = converged(18, 3, 12);
    lan.run(ms(60_000));
    let before = lan.self_checks;
    lan.run(ms(60_000));
    let asked = lan.self_checks - before;
    assert!(
        (18..=40).contains(&asked),
        "{asked} questions about 12 addresses in 60 s"
    );
    let foreign_mac = MacAddr([2, 0xbb, 0, 0, 0, 1]);
    let owners = lan.sole_owners();
    let (foreign, of_node) = (lan.addresses[0], lan.addresses[1]);
    lan.conflicting_hosts.insert(foreign, foreign_mac);
    let other = (owners[&of_node] + 1) % 3;
    lan.kernel_addresses.insert((other, of_node));
    lan.run(ms(60_000));
    assert_eq!(lan.conflicts, [(owners[&foreign], foreign, foreign_mac)]);
    assert_eq!(lan.node_conflicts, [(owners[&of_node], of_node, other)]);
    assert_eq!(lan.sole_owners(), owners, "Warn keeps both");
    // It is over two and a half minutes after the host was seen last.
    lan.conflicting_hosts.clear();
    lan.kernel_addresses.clear();
    lan.run(ms(190_000));
    assert_eq!(lan.over.len(), 2);
}

/// For example `kube-ipvs0` without `strictARP`, or an address that is left on an interface of a node.
#[test]
fn node_whose_kernel_has_the_address_is_reported() {
    let mut lan = Network::new(17, 3, 1, LOSSLESS);
    let address = lan.addresses[0];
    let first = lan.first_candidate(address);
    let other = (first + 1) % 3;
    lan.kernel_addresses.insert((other, address));
    lan.run(ms(15_000));
    assert!(lan.owners(address).is_empty());
    assert_eq!(
        lan.node_conflicts,
        [(first, address, other)],
        "reported within 15 s"
    );
    lan.run(ms(120_000));
    assert_eq!(lan.node_conflicts.len(), 1);
    lan.kernel_addresses.clear();
    lan.run(ms(61_000));
    assert_eq!(lan.sole_owners()[&address], first);
    assert_eq!(lan.over, [(first, address)]);
}

#[test]
fn releasing_an_address_resolves_its_conflict() {
    let mut lan = Network::new(16, 3, 1, LOSSLESS);
    let address = lan.addresses[0];
    lan.conflicting_hosts
        .insert(address, MacAddr([2, 0xbb, 0, 0, 0, 1]));
    lan.run(ms(15_000));
    assert!(!lan.conflicts.is_empty() && lan.over.is_empty());
    lan.release(address);
    let told: Vec<_> = lan
        .conflicts
        .iter()
        .map(|(node, address, _)| (*node, *address))
        .collect();
    assert_eq!(lan.over, told);
}
