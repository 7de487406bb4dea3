//! Speakers whose watches are stale, or which have lost the API server, beside speakers that see every change.

use std::net::IpAddr;

use super::converged;
use super::network::{LOSSLESS, Network, NetworkConditions, ms};

/// The longest time with two owners, and the longest time without one.
fn observe(lan: &mut Network, address: IpAddr, time: u64) -> (u64, u64) {
    let (mut two, mut none) = (0, 0);
    let (mut most_two, mut most_none) = (0, 0);
    for _ in 0..time {
        lan.run(ms(1));
        let owners = lan.owners(address).len();
        two = if owners > 1 { two + 1 } else { 0 };
        none = if owners == 0 { none + 1 } else { 0 };
        (most_two, most_none) = (most_two.max(two), most_none.max(none));
    }
    (most_two, most_none)
}

fn network(seed: u64) -> Network {
    let conditions = NetworkConditions {
        loss: 50 * (seed % 3),
        delay: 300 + 3000 * (seed % 2),
        ..LOSSLESS
    };
    let mut lan = Network::new(seed, 4, 6, conditions);
    lan.run(ms(3000));
    lan
}

/// In the old view of the owner, it is still the first in the order.
#[test]
fn owner_that_does_not_see_its_exclusion_yields() {
    for seed in 0..40 {
        let mut lan = network(seed);
        let address = lan.addresses[0];
        let [owner, next] = [0, 1].map(|position| lan.candidate(address, position));
        lan.stale_api.insert(owner);
        lan.exclude(owner, address);
        let (two, none) = observe(&mut lan, address, 3000);
        assert!(
            two <= 300 && none == 0,
            "seed {seed}: two {two} ms, none {none} ms"
        );
        assert_eq!(lan.sole_owners()[&address], next, "seed {seed}");
        // It may be the owner again, and does not see that either. The new owner fails.
        lan.changes.clear();
        lan.run(ms(20_000));
        assert_eq!(lan.changes, [], "seed {seed}: settled");
        lan.power_off(next);
        let (two, none) = observe(&mut lan, address, 8000);
        assert!(
            two <= 300 && none <= 1200,
            "seed {seed}: two {two} ms, none {none} ms"
        );
        lan.sole_owners();
    }
}

/// A node whose view is old believes that the owner may not announce the address, and that it may.
#[test]
fn claim_by_an_old_view_is_taken_back() {
    for seed in 0..40 {
        let mut lan = network(seed);
        let address = lan.addresses[0];
        let order = [0, 1, 2, 3].map(|position| lan.candidate(address, position));
        let [owner, stale] = [order[0], order[3]];
        // Only the stale node may announce it at first, then all others.
        lan.exclude(owner, address);
        lan.exclude(order[1], address);
        lan.exclude(order[2], address);
        lan.run(ms(2000));
        assert_eq!(lan.sole_owners()[&address], stale);
        lan.stale_api.insert(stale);
        for node in [owner, order[1], order[2]] {
            lan.include(node, address);
        }
        lan.exclude(stale, address);
        let (two, none) = observe(&mut lan, address, 10_000);
        assert!(
            two <= 300 && none == 0,
            "seed {seed}: two {two} ms, none {none} ms"
        );
        assert_ne!(lan.sole_owners()[&address], stale, "seed {seed}");
        lan.changes.clear();
        lan.run(ms(20_000));
        assert_eq!(lan.changes, [], "seed {seed}: settled");
        // Its speaker restarts, and lists the objects.
        lan.stale_api.clear();
        lan.leave(stale);
        lan.start_after(stale, ms(500));
        let (two, none) = observe(&mut lan, address, 5000);
        assert!(
            two <= 300 && none == 0,
            "seed {seed}: two {two} ms, none {none} ms"
        );
        assert_ne!(lan.sole_owners()[&address], stale, "seed {seed}");
    }
}

/// The only node that may announce the address does not see that the owner may not: the owner tells it.
#[test]
fn owner_that_may_not_announce_hands_over_to_a_stale_node() {
    for seed in 0..20 {
        let mut lan = network(seed);
        let address = lan.addresses[0];
        let [owner, next] = [0, 1].map(|position| lan.candidate(address, position));
        for position in 2..4 {
            let other = lan.candidate(address, position);
            lan.exclude(other, address);
        }
        lan.run(ms(1000));
        lan.stale_api.insert(next);
        lan.exclude(owner, address);
        let (two, none) = observe(&mut lan, address, 8000);
        assert!(
            two <= 300 && none == 0,
            "seed {seed}: two {two} ms, none {none} ms"
        );
        assert_eq!(lan.sole_owners()[&address], next, "seed {seed}");
    }
}

/// A candidate that has missed a change for some time is not waited for.
#[test]
fn candidate_with_an_old_view_delays_no_claim() {
    for seed in 0..10 {
        let mut lan = converged(seed, 4, 2);
        let (address, other) = (lan.addresses[0], lan.addresses[1]);
        let [first, second] = [0, 1].map(|position| lan.candidate(address, position));
        lan.release(address);
        lan.stale_api.insert(first);
        let excluded = lan.candidate(other, 3);
        lan.exclude(excluded, other);
        lan.run(ms(12_000));
        lan.create(address);
        let (two, none) = observe(&mut lan, address, 3000);
        assert!(
            two == 0 && none <= 500,
            "seed {seed}: two {two} ms, none {none} ms"
        );
        assert_eq!(lan.sole_owners()[&address], second, "seed {seed}");
    }
}

/// Resource versions say nothing, as with an API server that does not count them. The second candidate loses a contest
/// against the first by the election order. Later, its view and that of an owner behind it differ: it wins.
#[test]
fn contest_ends_with_its_cause() {
    for seed in 0..20 {
        let mut lan = network(seed);
        lan.counts_versions = false;
        let address = lan.addresses[0];
        let [first, second, third] = [0, 1, 2].map(|position| lan.candidate(address, position));
        lan.stale_api.insert(first);
        lan.exclude(first, address);
        lan.run(ms(3000));
        assert_eq!(lan.sole_owners()[&address], first, "seed {seed}");
        // The first candidate lists the objects, and hands over.
        lan.stale_api.clear();
        lan.exclude(first, address);
        lan.run(ms(3000));
        assert_eq!(lan.sole_owners()[&address], second, "seed {seed}");
        lan.exclude(second, address);
        lan.run(ms(3000));
        assert_eq!(lan.sole_owners()[&address], third, "seed {seed}");
        lan.include(second, address);
        lan.run(ms(3000));
        assert_eq!(lan.sole_owners()[&address], third, "seed {seed}: sticky");
        lan.stale_api.insert(third);
        lan.exclude(third, address);
        let (two, none) = observe(&mut lan, address, 3000);
        assert!(
            two <= 300 && none == 0,
            "seed {seed}: two {two} ms, none {none} ms"
        );
        assert_eq!(lan.sole_owners()[&address], second, "seed {seed}");
    }
}

/// After a restore of etcd, versions begin again at a low number, and a speaker that starts then has never seen a high one.
#[test]
fn versions_that_go_back_move_nothing() {
    for seed in 0..20 {
        let mut lan = network(seed);
        let address = lan.addresses[0];
        let [owner, next, third] = [0, 1, 2].map(|position| lan.candidate(address, position));
        lan.api_version = 1_000_000;
        lan.include(owner, address);
        lan.run(ms(12_000));
        lan.api_version = 1000;
        for node in [owner, next] {
            lan.leave(node);
            lan.start_after(node, ms(500));
            let (two, none) = observe(&mut lan, address, 12_000);
            assert!(
                two == 0 && none <= 1500,
                "seed {seed}: two {two} ms, none {none} ms"
            );
            assert_eq!(lan.sole_owners()[&address], owner, "seed {seed}");
        }
        // All see that the owner may not announce the address.
        lan.exclude(owner, address);
        let (two, none) = observe(&mut lan, address, 8000);
        assert!(
            two <= 300 && none == 0,
            "seed {seed}: two {two} ms, none {none} ms"
        );
        lan.power_off(lan.owners(address)[0]);
        let (two, none) = observe(&mut lan, address, 8000);
        assert!(
            two <= 300 && none <= 1200,
            "seed {seed}: two {two} ms, none {none} ms"
        );
        assert!(
            [next, third].contains(&lan.sole_owners()[&address]),
            "seed {seed}"
        );
    }
}
