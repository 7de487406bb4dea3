//! Partitions and restored links.

use std::collections::BTreeMap;
use std::net::IpAddr;

use lb_l2::ownership::PartitionPolicy;
use lb_l2::ownership::election::order;

use super::network::{LOSSLESS, Network, NetworkConditions, ms};
use super::{CONVERGENCE_MS, assert_at_most_one_owner, converged};

/// The owner of each address on both sides; asserts that there are two.
fn owners_on_both_sides(seed: u64, lan: &Network) -> BTreeMap<IpAddr, [usize; 2]> {
    let owners = |address: &IpAddr| {
        let owners = lan.owners(*address);
        assert_eq!(owners.len(), 2, "seed {seed}: {address} has {owners:?}");
        (*address, [owners[0], owners[1]])
    };
    lan.addresses.iter().map(owners).collect()
}

/// Which of two nodes is the first in the election order of an address.
fn first_of(address: IpAddr, nodes: usize, [one, other]: &[usize; 2]) -> usize {
    let names: Vec<_> = (0..nodes).map(|node| format!("n{node}")).collect();
    let order = order(address, names.iter().map(String::as_str));
    let place = |node: usize| order.iter().position(|name| *name == names[node]);
    if place(*one) < place(*other) { *one } else { *other }
}

#[test]
fn both_partition_sides_announce_and_one_owner_remains() {
    for seed in 0..30 {
        let mut lan = converged(seed, 5, 50);
        lan.split(&[3, 4], 1);
        lan.run(ms(1000));
        let both = owners_on_both_sides(seed, &lan);
        lan.heal();
        let healed = lan.now;
        lan.run(ms(600));
        for (address, owner) in lan.sole_owners() {
            let again = |(at, node, which): &(_, _, _)| *at >= healed && (*node, *which) == (owner, address);
            assert!(
                lan.reannounced.iter().any(again),
                "seed {seed}: whoever believed the other owner of {address} is told"
            );
            // The side of three served more clients.
            assert!(
                owner < 3 && both[&address].contains(&owner),
                "seed {seed}: {address}"
            );
        }
        lan.changes.clear();
        lan.run(ms(15_000));
        assert_eq!(lan.changes, [], "seed {seed}: settled");
    }
}

/// Neither half reached most nodes: the first in the election order remains.
#[test]
fn election_order_decides_after_an_even_split() {
    for seed in 0..20 {
        let mut lan = converged(seed, 4, 20);
        lan.split(&[2, 3], 1);
        lan.run(ms(2000));
        let both = owners_on_both_sides(seed, &lan);
        lan.heal();
        lan.run(ms(600));
        for (address, owner) in lan.sole_owners() {
            assert_eq!(
                owner,
                first_of(address, 4, &both[&address]),
                "seed {seed}: {address}"
            );
        }
    }
}

/// The port of a switch is isolated for a while, and the carrier stays: the node goes on announcing what it had, and served
/// nobody.
#[test]
fn isolated_node_takes_nothing_back() {
    for seed in 0..30 {
        let mut lan = converged(seed, 3 + seed as usize % 3, 20);
        lan.conditions.loss = 20 * (seed % 3);
        let node = lan.first_candidate(lan.addresses[0]);
        lan.split(&[node], 1);
        let pause = lan.rng.below(20_000);
        lan.run(ms(1000 + pause));
        let both = owners_on_both_sides(seed, &lan);
        lan.heal();
        lan.run(ms(1000));
        for (address, owner) in lan.sole_owners() {
            assert!(
                owner != node && both[&address].contains(&owner),
                "seed {seed}: {address}"
            );
        }
    }
}

#[test]
fn minority_withdraws_before_majority_claims() {
    for seed in 0..30 {
        let conditions = NetworkConditions { drift: 2, ..LOSSLESS };
        let mut lan = Network::with(seed, 5, 50, conditions, PartitionPolicy::Majority, false);
        lan.run(ms(CONVERGENCE_MS));
        lan.sole_owners();
        lan.split(&[1, 3], 1);
        assert_at_most_one_owner(seed, &mut lan, 1500);
        for (address, owner) in lan.sole_owners() {
            assert!(
                ![1, 3].contains(&owner),
                "seed {seed}: {address} is on the side of two"
            );
        }
        let before = lan.sole_owners();
        lan.heal();
        assert_at_most_one_owner(seed, &mut lan, 1000);
        assert_eq!(lan.sole_owners(), before);
    }
}

#[test]
fn node_with_restored_link_takes_no_address() {
    for seed in 0..10 {
        let mut lan = converged(seed, 3, 30);
        let node = lan.sole_owners()[&lan.addresses[0]];
        lan.link_down(node);
        lan.run(ms(2000 + 700 * seed));
        let before = lan.sole_owners();
        assert!(
            before.values().all(|owner| *owner != node),
            "seed {seed}: others have what it had"
        );
        lan.link_up(node);
        assert_at_most_one_owner(seed, &mut lan, 5000);
        assert_eq!(lan.sole_owners(), before, "seed {seed}");
    }
}

/// The returning node does not know of the restart and hears nothing of the restarting owner: it learns it from the
/// backup.
#[test]
fn returning_node_takes_nothing_from_a_restarting_owner() {
    for seed in 0..80 {
        let mut lan = converged(seed, 3 + seed as usize % 2, 30);
        lan.max_cpu_wait_ms = [0, 0, 40, 160][seed as usize % 4];
        lan.conditions.loss = 20 * (seed % 3);
        let node = lan.sole_owners()[&lan.addresses[0]];
        lan.link_down(node);
        lan.run(ms(2000));
        let before = lan.sole_owners();
        let other = before[&lan.addresses[0]];
        let (leaves, returns) = (lan.rng.below(1500), lan.rng.below(1500));
        lan.run(ms(leaves));
        lan.leave(other);
        lan.start_after(other, ms(3000));
        lan.run(ms(returns));
        lan.link_up(node);
        assert_at_most_one_owner(seed, &mut lan, 6000);
        assert_eq!(lan.sole_owners(), before, "seed {seed}");
    }
}

/// At the end of the partition the isolated node owns all addresses; the owners on the other side remain, whether or not one
/// restarts.
#[test]
fn partition_heals_normally_while_an_owner_restarts() {
    for seed in 0..60 {
        let mut lan = converged(seed, 4, 40);
        lan.max_cpu_wait_ms = [0, 0, 40, 160][seed as usize % 4];
        let node = lan.sole_owners()[&lan.addresses[0]];
        lan.split(&[node], 1);
        lan.run(ms(2000));
        let both = owners_on_both_sides(seed, &lan);
        let other_side = |[one, other]: &[usize; 2]| if *one == node { *other } else { *one };
        let expected: BTreeMap<_, _> = both
            .iter()
            .map(|(address, owners)| (*address, other_side(owners)))
            .collect();
        let other = expected[&lan.addresses[0]];
        lan.leave(other);
        lan.start_after(other, ms(3000));
        let returns = lan.rng.below(2000);
        lan.run(ms(returns));
        lan.heal();
        lan.run(ms(8000));
        for (address, owner) in lan.sole_owners() {
            // The restarting owner may find that the isolated node announces its address by now.
            let is_expected = owner == expected[&address] || (owner, expected[&address]) == (node, other);
            assert!(is_expected, "seed {seed}: {address}");
        }
    }
}

/// The API server is on the side of the minority, and removes the majority's nodes after a while.
#[test]
fn minority_gets_no_majority_from_the_api() {
    for seed in 0..20 {
        let mut lan = Network::with(seed, 5, 10, LOSSLESS, PartitionPolicy::Majority, false);
        lan.run(ms(CONVERGENCE_MS));
        lan.sole_owners();
        lan.split(&[0, 1], 1);
        lan.stale_api.extend([2, 3, 4]);
        assert_at_most_one_owner(seed, &mut lan, 2000);
        let before = lan.sole_owners();
        for node in 2..5 {
            for address in lan.addresses.clone() {
                lan.exclude(node, address);
            }
        }
        assert_at_most_one_owner(seed, &mut lan, 6000);
        assert_eq!(lan.sole_owners(), before, "seed {seed}");
        assert_eq!(
            lan.missing_majority(0, lan.addresses[0]),
            Some(vec![2, 3, 4]),
            "seed {seed}"
        );
        assert_eq!(lan.missing_majority(2, lan.addresses[0]), None, "seed {seed}");
    }
}

/// Nobody announces while the halves are apart, or while one of two candidates is down.
#[test]
fn half_of_the_voters_is_no_majority() {
    for (nodes, apart) in [(4, vec![0, 1]), (2, vec![0])] {
        let mut lan = Network::with(3, nodes, 10, LOSSLESS, PartitionPolicy::Majority, false);
        lan.run(ms(CONVERGENCE_MS));
        let before = lan.sole_owners();
        lan.split(&apart, 1);
        lan.run(ms(5000));
        assert!(
            lan.addresses
                .iter()
                .all(|address| lan.owners(*address).is_empty())
        );
        lan.heal();
        lan.run(ms(2000));
        assert_eq!(lan.sole_owners().len(), before.len());
    }
}
