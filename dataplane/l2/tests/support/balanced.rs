//! Balance among speakers: addresses go where they are to be, without a gap, and only when both sides agree.

use std::net::IpAddr;

use super::segment::{FAIR, Segment, Weather, ms};

/// No node has two more than another.
fn assert_balanced(lan: &Segment, nodes: &[usize], seed: u64) {
    let loads = lan.loads();
    let most = nodes.iter().map(|node| loads[*node]).max().unwrap_or(0);
    let fewest = nodes.iter().map(|node| loads[*node]).min().unwrap_or(0);
    assert!(most <= fewest + 1, "seed {seed}: {loads:?}");
}

fn balanced(seed: u64, nodes: usize, addresses: usize, weather: Weather) -> Segment {
    let mut lan = Segment::new(seed, nodes, addresses, weather);
    lan.run(ms(1500));
    lan.balance(25);
    assert_balanced(&lan, &(0..nodes).collect::<Vec<_>>(), seed);
    lan
}

fn moves(lan: &Segment) -> usize {
    let moved = |(_, _, cause): &&(usize, IpAddr, &str)| *cause != "initial" && *cause != "restored";
    lan.causes.iter().filter(moved).count()
}

/// Runs, and sees that at every moment somebody that is switched on has each address, and at the end only one.
fn without_a_gap(lan: &mut Segment, seconds: u64, seed: u64) {
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
fn addresses_are_spread_and_then_rest() {
    for seed in 0..10 {
        let mut lan = balanced(seed, 5, 43, FAIR);
        let (before, moved) = (lan.sole_owners(), moves(&lan));
        lan.balance(60);
        assert_eq!(lan.sole_owners(), before, "seed {seed}");
        assert_eq!(moves(&lan), moved, "seed {seed}");
    }
}

#[test]
fn a_node_that_returns_gets_its_share_without_a_gap_and_slowly() {
    for seed in 0..8 {
        let weather = if seed % 2 == 0 {
            FAIR
        } else {
            Weather {
                loss: 50,
                doubled: 50,
                delay: 5000,
                drift: 1,
            }
        };
        let mut lan = balanced(seed, 4, 80, weather);
        lan.power_off(0);
        lan.balance(20);
        assert_balanced(&lan, &[1, 2, 3], seed);
        lan.power_on(0);
        lan.run(ms(6000));
        let moved = moves(&lan);
        without_a_gap(&mut lan, 6, seed);
        // Three nodes, eight a second at most, after five seconds.
        assert!(moves(&lan) - moved <= 2 * 3 * 8, "seed {seed}");
        without_a_gap(&mut lan, 30, seed);
        assert_balanced(&lan, &[0, 1, 2, 3], seed);
        if weather.loss == 0 {
            assert_eq!(
                moves(&lan) - moved,
                20,
                "seed {seed}: its share, and no other move"
            );
        }
    }
}

#[test]
fn a_restart_moves_nothing_in_balance_either() {
    for seed in 0..10 {
        let mut lan = balanced(seed, 3, 31, FAIR);
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
fn failover_is_as_fast_as_in_the_order() {
    for seed in 0..20 {
        let mut lan = balanced(seed, 4, 40, FAIR);
        let address = lan.addresses[0];
        let owner = lan.owners(address)[0];
        lan.power_off(owner);
        let outage = super::outage(&mut lan, address, 1000);
        assert!(outage <= 250, "seed {seed}: {outage} ms");
        lan.sole_owners();
    }
}

/// With the API server gone the opinions are what they were, and each speaker may have stopped at another moment.
#[test]
fn speakers_of_different_opinions_never_stay_two_owners_and_do_not_flap() {
    for seed in 0..20 {
        let mut lan = Segment::new(seed, 5, 30, FAIR);
        lan.run(ms(1500));
        for address in lan.addresses.clone() {
            for node in 0..5 {
                let target = usize::try_from(lan.dice.roll(5)).unwrap_or_default();
                lan.persuade(node, address, target);
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
        // From each to another that is of the same opinion: that one is where it ends.
        assert!(moves(&lan) - started <= 30, "seed {seed}");
        let before = lan.sole_owners();
        lan.run(ms(60_000));
        assert_eq!(lan.sole_owners(), before, "seed {seed}");
        // And when one dies, another has it in time, whatever who thinks.
        let address = lan.addresses[0];
        lan.power_off(before[&address]);
        let outage = super::outage(&mut lan, address, 2000);
        assert!(outage <= 500, "seed {seed}: {outage} ms");
        lan.sole_owners();
    }
}

#[test]
fn a_split_in_the_middle_of_a_move_heals_to_one_owner() {
    for seed in 0..20 {
        let mut lan = balanced(seed, 5, 50, FAIR);
        lan.power_off(1);
        lan.balance(10);
        lan.power_on(1);
        lan.balance(9);
        // Offers are under way now.
        let wait = lan.dice.roll(3000);
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
