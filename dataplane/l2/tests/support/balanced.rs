//! Balanced placement: addresses move to their preferred nodes without a gap, and only if both sides agree.

use std::net::IpAddr;

use super::network::{LOSSLESS, Network, NetworkConditions, ms};

/// No node owns two more addresses than another.
fn assert_balanced(lan: &Network, nodes: &[usize], seed: u64) {
    let loads = lan.loads();
    let most = nodes.iter().map(|node| loads[*node]).max().unwrap_or(0);
    let fewest = nodes.iter().map(|node| loads[*node]).min().unwrap_or(0);
    assert!(most <= fewest + 1, "seed {seed}: {loads:?}");
}

fn balanced(seed: u64, nodes: usize, addresses: usize, conditions: NetworkConditions) -> Network {
    let mut lan = Network::new(seed, nodes, addresses, conditions);
    lan.run(ms(1500));
    lan.balance(25);
    assert_balanced(&lan, &(0..nodes).collect::<Vec<_>>(), seed);
    lan
}

fn moves(lan: &Network) -> usize {
    let moved = |(_, _, cause): &&(usize, IpAddr, &str)| *cause != "initial" && *cause != "restored";
    lan.causes.iter().filter(moved).count()
}

/// Runs and asserts that every address always has a powered owner, and exactly one at the end.
fn run_without_gap(lan: &mut Network, seconds: u64, seed: u64) {
    for _ in 0..seconds {
        lan.balance(0);
        lan.record();
        lan.look(&(0..lan.sent.len()).collect::<Vec<_>>());
        for _ in 0..500 {
            lan.run(ms(2));
            for address in lan.addresses.clone() {
                assert!(!lan.owners(address).is_empty(), "seed {seed}: {address}");
            }
        }
    }
    lan.sole_owners();
}

#[test]
fn balanced_addresses_do_not_move() {
    for seed in 0..10 {
        let mut lan = balanced(seed, 5, 43, LOSSLESS);
        let (before, moved) = (lan.sole_owners(), moves(&lan));
        lan.balance(60);
        assert_eq!(lan.sole_owners(), before, "seed {seed}");
        assert_eq!(moves(&lan), moved, "seed {seed}");
    }
}

#[test]
fn returning_node_gets_its_share_slowly_and_without_gap() {
    for seed in 0..8 {
        let conditions = if seed % 2 == 0 {
            LOSSLESS
        } else {
            NetworkConditions {
                loss: 50,
                duplicated: 50,
                delay: 5000,
                drift: 1,
            }
        };
        let mut lan = balanced(seed, 4, 80, conditions);
        lan.power_off(0);
        lan.balance(20);
        assert_balanced(&lan, &[1, 2, 3], seed);
        lan.power_on(0);
        lan.run(ms(6000));
        let moved = moves(&lan);
        run_without_gap(&mut lan, 6, seed);
        // Three nodes, eight offers per second, after a delay of five seconds.
        assert!(moves(&lan) - moved <= 2 * 3 * 8, "seed {seed}");
        run_without_gap(&mut lan, 30, seed);
        assert_balanced(&lan, &[0, 1, 2, 3], seed);
        if conditions.loss == 0 {
            assert_eq!(
                moves(&lan) - moved,
                20,
                "seed {seed}: its share, and no other move"
            );
        }
    }
}

#[test]
fn restart_moves_no_balanced_address() {
    for seed in 0..10 {
        let mut lan = balanced(seed, 3, 31, LOSSLESS);
        let before = lan.sole_owners();
        let moved = moves(&lan);
        for node in 0..3 {
            lan.leave(node);
            lan.start_after(node, ms(2500));
            lan.balance(15);
            assert_eq!(lan.sole_owners(), before, "seed {seed}, n{node}");
        }
        assert_eq!(moves(&lan), moved, "seed {seed}");
    }
}

#[test]
fn balanced_failover_takes_less_than_300_milliseconds() {
    for seed in 0..20 {
        let mut lan = balanced(seed, 4, 40, LOSSLESS);
        let address = lan.addresses[0];
        let owner = lan.owners(address)[0];
        lan.power_off(owner);
        let outage = super::outage(&mut lan, address, 1000);
        assert!(outage < super::MAX_FAILOVER_MS, "seed {seed}: {outage} ms");
        lan.sole_owners();
    }
}

/// Without the API server preferences stay as they were, possibly different on each speaker.
#[test]
fn speakers_with_different_preferences_agree_on_one_owner() {
    for seed in 0..20 {
        let mut lan = Network::new(seed, 5, 30, LOSSLESS);
        lan.run(ms(1500));
        for address in lan.addresses.clone() {
            for node in 0..5 {
                let target = usize::try_from(lan.rng.below(5)).unwrap_or_default();
                lan.set_preferred(node, address, target);
            }
        }
        let started = moves(&lan);
        for _ in 0..120 {
            for _ in 0..500 {
                lan.run(ms(2));
                for address in lan.addresses.clone() {
                    assert!(!lan.owners(address).is_empty(), "seed {seed}: {address}");
                }
            }
        }
        lan.sole_owners();
        // Each address moves only between nodes that agree.
        assert!(moves(&lan) - started <= 30, "seed {seed}");
        let before = lan.sole_owners();
        lan.run(ms(60_000));
        assert_eq!(lan.sole_owners(), before, "seed {seed}");
        // A failed owner is replaced in time, whatever the preferences.
        let address = lan.addresses[0];
        lan.power_off(before[&address]);
        let outage = super::outage(&mut lan, address, 2000);
        assert!(outage <= 500, "seed {seed}: {outage} ms");
        lan.sole_owners();
    }
}

#[test]
fn partition_during_hand_over_heals_to_one_owner() {
    for seed in 0..20 {
        let mut lan = balanced(seed, 5, 50, LOSSLESS);
        lan.power_off(1);
        lan.balance(10);
        lan.power_on(1);
        lan.balance(9);
        // Offers are open now.
        let wait = lan.rng.below(3000);
        lan.look(&[0, 1, 2, 3, 4]);
        lan.run(ms(wait));
        lan.split(&[1, 2], 1);
        lan.balance(3);
        lan.heal();
        lan.run(ms(1500));
        lan.sole_owners();
        lan.balance(40);
        assert_balanced(&lan, &[0, 1, 2, 3, 4], seed);
    }
}
