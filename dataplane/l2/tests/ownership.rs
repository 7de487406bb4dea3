//! Speakers among each other, on a simulated segment: who answers, when, and that nothing moves without a cause.

#[path = "support/balanced.rs"]
mod balanced;
#[path = "support/partition.rs"]
mod partition;
#[path = "support/segment.rs"]
mod segment;
mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use lb_l2::MacAddr;
use lb_l2::ownership::election::order;
use lb_l2::ownership::{ConflictPolicy, HeartbeatLoad, PartitionPolicy};
use segment::{FAIR, Segment, Weather, ms};

const SETTLED: u64 = 2000;

fn settled(seed: u64, nodes: usize, addresses: usize) -> Segment {
    let mut lan = Segment::new(seed, nodes, addresses, FAIR);
    lan.run(ms(SETTLED));
    lan.sole_owners();
    lan
}

/// The longest time for which an address has had no owner that is switched on, from here on.
fn outage(lan: &mut Segment, address: IpAddr, time: u64) -> u64 {
    let mut longest = 0;
    let mut silent = 0;
    for _ in 0..time {
        lan.run(ms(1));
        silent = if lan.owners(address).is_empty() {
            silent + 1
        } else {
            0
        };
        longest = longest.max(silent);
    }
    longest
}

#[test]
fn metallbs_order_picks_the_first_owners() {
    let lan = settled(1, 5, 40);
    for (address, owner) in lan.sole_owners() {
        let first = order(address, ["n0", "n1", "n2", "n3", "n4"])[0];
        assert_eq!(format!("n{owner}"), first);
    }
    assert!(lan.causes.iter().all(|(_, _, cause)| *cause == "initial"));
    assert_eq!(
        lan.causes.len(),
        40,
        "nobody had an address for a moment that was not its own"
    );
}

#[test]
fn a_node_without_power_is_replaced_within_a_quarter_of_a_second() {
    for seed in 0..40 {
        let mut lan = settled(seed, 3, 30);
        let address = lan.addresses[0];
        let owner = lan.owners(address)[0];
        let before = lan.sole_owners();
        let wait = lan.dice.roll(200);
        lan.run(ms(wait));
        lan.power_off(owner);
        let outage = outage(&mut lan, address, 1000);
        assert!(outage <= 250, "seed {seed}: {outage} ms");
        let after = lan.sole_owners();
        for (address, was) in before {
            assert!(was == owner || after[&address] == was, "only what it had moves");
        }
        // It returns, and takes nothing back.
        lan.power_on(owner);
        lan.run(ms(8000));
        assert!(lan.is_running(owner));
        assert_eq!(lan.sole_owners(), after, "seed {seed}");
    }
}

#[test]
fn two_failures_at_once_are_covered() {
    for seed in 0..40 {
        let mut lan = settled(seed, 6, 60);
        let address = lan.addresses[0];
        let owner = lan.owners(address)[0];
        let names: Vec<_> = (0..6).map(|n| format!("n{n}")).collect();
        let second: usize = order(address, names.iter().map(String::as_str))[1][1..]
            .parse()
            .unwrap();
        assert_ne!(owner, second);
        lan.power_off(owner);
        lan.power_off(second);
        let outage = outage(&mut lan, address, 1000);
        assert!(outage <= 250, "seed {seed}: {outage} ms");
        lan.sole_owners();
    }
}

#[test]
fn a_restarted_or_crashed_speaker_keeps_its_addresses() {
    for seed in 0..20 {
        let mut lan = settled(seed, 3, 30);
        let before = lan.sole_owners();
        for node in 0..3 {
            if seed % 2 == 0 {
                lan.leave(node);
            } else {
                lan.kill(node);
            }
            lan.start_after(node, ms(2500));
            lan.run(ms(1000));
            let stood_in = lan.stand_ins.len();
            let had = before.values().filter(|owner| **owner == node).count();
            assert_eq!(stood_in, had, "seed {seed}: others answer in its place");
            lan.run(ms(4000));
            assert!(lan.stand_ins.is_empty());
            assert_eq!(lan.sole_owners(), before, "seed {seed}, n{node}");
        }
        let moved = lan
            .causes
            .iter()
            .filter(|(_, _, cause)| *cause != "initial" && *cause != "restored");
        assert_eq!(moved.count(), 0, "seed {seed}");
    }
}

/// Where owners are not the first in their order, because they took over or were handed addresses, a restart still moves
/// nothing: the first would be ready to take whatever a starting speaker seemed not to have.
#[test]
fn a_restarted_speaker_keeps_what_it_has_taken_over() {
    for seed in 0..20 {
        let mut lan = settled(seed, 3, 30);
        lan.drain(0, true);
        lan.run(ms(500));
        lan.drain(0, false);
        lan.run(ms(500));
        let before = lan.sole_owners();
        assert!(before.values().all(|owner| *owner != 0));
        for node in [1, 2, 0] {
            lan.leave(node);
            let after = lan.dice.roll(2000);
            lan.start_after(node, ms(100 + after));
            lan.run(ms(4000));
            assert_eq!(lan.sole_owners(), before, "seed {seed}, n{node}");
        }
    }
}

/// One is always there, so that somebody remembers what each has had.
#[test]
fn speakers_that_restart_at_the_same_time_keep_their_addresses() {
    for seed in 0..40 {
        let mut lan = settled(seed, 4, 40);
        lan.hunger = [0, 40, 160][seed as usize % 3];
        let before = lan.sole_owners();
        let stays = lan.dice.roll(4) as usize;
        for node in (0..4).filter(|node| *node != stays) {
            let (pause, away) = (lan.dice.roll(1500), 500 + lan.dice.roll(3000));
            lan.run(ms(pause));
            if lan.dice.roll(3) == 0 {
                lan.kill(node);
            } else {
                lan.leave(node);
            }
            lan.start_after(node, ms(away));
        }
        lan.run(ms(10_000));
        let moved = |(node, address, _): &&(usize, IpAddr, _)| before[address] != *node;
        let moved: Vec<_> = lan.causes.iter().filter(moved).collect();
        assert!(moved.is_empty(), "seed {seed}, all but n{stays}: {moved:?}");
        assert_eq!(lan.sole_owners(), before, "seed {seed}, all but n{stays}");
    }
}

/// Records are written after the fact, and where the API server was away perhaps not at all.
#[test]
fn a_record_that_is_behind_the_times_takes_nothing_from_who_has_it() {
    for seed in 0..40 {
        let weather = Weather {
            loss: 20 * (seed % 4),
            ..FAIR
        };
        let mut lan = Segment::new(seed, 3, 30, weather);
        lan.run(ms(SETTLED));
        let before = lan.sole_owners();
        for node in 0..3 {
            lan.leave(node);
            lan.stale.insert(node, lan.addresses.clone());
            lan.start_after(node, ms(500));
            one_at_most(seed, &mut lan, 3000);
            assert_eq!(lan.sole_owners(), before, "seed {seed}, n{node}");
        }
    }
}

#[test]
fn who_does_not_come_back_loses_its_addresses_when_the_grace_ends() {
    let mut lan = settled(3, 3, 30);
    let address = lan.addresses[0];
    let owner = lan.owners(address)[0];
    lan.leave(owner);
    lan.run(ms(59_900));
    assert!(lan.owners(address).is_empty(), "held");
    lan.run(ms(400));
    assert_ne!(lan.sole_owners()[&address], owner);
    // A node that dies meanwhile costs no more than usual.
    let mut lan = settled(4, 3, 30);
    let owner = lan.owners(address)[0];
    lan.leave(owner);
    lan.run(ms(1000));
    lan.power_off(owner);
    assert!(outage(&mut lan, address, 1000) <= 250);
}

#[test]
fn lost_heartbeats_alone_move_nothing() {
    for seed in 0..20 {
        let mut lan = settled(seed, 5, 50);
        let before = lan.sole_owners();
        // A fifth of them, for half a minute.
        lan.weather = Weather {
            loss: 200,
            doubled: 100,
            delay: 20_000,
            drift: 0,
        };
        lan.run(ms(30_000));
        assert_eq!(lan.sole_owners(), before, "seed {seed}");
        // All of them: the wire says who lives.
        lan.walled = true;
        lan.run(ms(5000));
        assert_eq!(lan.sole_owners(), before, "seed {seed}");
        lan.walled = false;
        lan.run(ms(2000));
        assert_eq!(lan.sole_owners(), before, "seed {seed}");
        assert_eq!(lan.causes.len(), 50, "seed {seed}");
    }
}

/// Their nodes live, so nothing may move: neither at rest nor when they restart, which then takes its time as well.
#[test]
fn speakers_that_wait_for_a_processor_move_nothing() {
    for seed in 0..60 {
        let mut lan = settled(seed, 4, 40);
        let before = lan.sole_owners();
        lan.hunger = 20 << (seed % 5);
        lan.run(ms(30_000));
        assert_eq!(lan.causes.len(), 40, "seed {seed}: {:?}", &lan.causes[40..]);
        for node in 0..4 {
            if seed % 2 == 0 {
                lan.leave(node);
            } else {
                lan.kill(node);
            }
            let after = lan.dice.roll(3000);
            lan.start_after(node, ms(100 + after));
            lan.run(ms(8000));
            let moved = |(node, address, _): &&(usize, IpAddr, _)| before[address] != *node;
            let moved: Vec<_> = lan.causes.iter().filter(moved).collect();
            assert!(moved.is_empty(), "seed {seed}, n{node}: {moved:?}");
            assert_eq!(lan.sole_owners(), before, "seed {seed}, n{node}");
        }
    }
}

/// Whoever asks while an owner restarts is answered within a second, by it or by who stands in.
#[test]
fn a_restart_of_speakers_that_wait_for_a_processor_leaves_no_long_gap() {
    for seed in 0..20 {
        let mut lan = settled(seed, 3, 30);
        lan.hunger = 160;
        for node in 0..3 {
            lan.leave(node);
            lan.start_after(node, ms(800));
            let mut silent = BTreeMap::<IpAddr, u64>::new();
            for _ in 0..3000 {
                lan.run(ms(1));
                let stood_in: BTreeSet<_> = lan.stand_ins.keys().map(|(_, address)| *address).collect();
                for address in lan.addresses.clone() {
                    let answered = stood_in.contains(&address) || !lan.owners(address).is_empty();
                    let gap = silent.entry(address).or_default();
                    *gap = if answered { 0 } else { *gap + 1 };
                    assert!(*gap <= 1000, "seed {seed}, n{node}: {address}, {gap} ms");
                }
            }
        }
    }
}

#[test]
fn speakers_that_never_hear_each_other_elect_by_the_api_and_the_wire() {
    let mut lan = Segment::new(5, 4, 40, FAIR);
    lan.walled = true;
    lan.run(ms(3000));
    for (address, owner) in lan.sole_owners() {
        assert_eq!(format!("n{owner}"), order(address, ["n0", "n1", "n2", "n3"])[0]);
    }
    assert!(lan.conflicts.is_empty());
}

#[test]
fn a_hand_over_never_leaves_an_address_without_an_owner() {
    for seed in 0..20 {
        let mut lan = settled(seed, 4, 40);
        lan.weather.loss = 100;
        for node in 0..4 {
            lan.drain(node, true);
            for _ in 0..1500 {
                lan.run(ms(1));
                for address in lan.addresses.clone() {
                    assert!(
                        !lan.owners(address).is_empty(),
                        "seed {seed}: {address} while n{node} drains"
                    );
                }
            }
            let owners = lan.sole_owners();
            assert!(owners.values().all(|owner| *owner != node), "seed {seed}");
            lan.drain(node, false);
            lan.run(ms(500));
        }
    }
}

#[test]
fn an_address_on_nodes_that_all_drain_stays() {
    let mut lan = settled(8, 3, 30);
    for node in 0..3 {
        lan.drain(node, true);
        lan.run(ms(500));
    }
    let owners = lan.sole_owners();
    lan.power_off(2);
    lan.run(ms(1000));
    let after = lan.sole_owners();
    for (address, owner) in owners {
        assert!(owner == 2 || after[&address] == owner);
    }
}

#[test]
fn a_node_that_may_not_have_an_address_any_more_hands_it_over() {
    let mut lan = settled(9, 3, 3);
    let address = lan.addresses[0];
    for _ in 0..2 {
        let owner = lan.owners(address)[0];
        lan.bar(owner, address);
        assert_eq!(outage(&mut lan, address, 500), 0);
        assert_ne!(lan.sole_owners()[&address], owner);
    }
    let last = lan.owners(address)[0];
    lan.bar(last, address);
    lan.run(ms(2500));
    assert!(lan.owners(address).is_empty(), "nobody may have it");
}

/// For so many milliseconds no address has two owners.
fn one_at_most(seed: u64, lan: &mut Segment, time: u64) {
    for _ in 0..time {
        lan.run(ms(1));
        for address in lan.addresses.clone() {
            let owners = lan.owners(address);
            assert!(owners.len() <= 1, "seed {seed}: {address} has {owners:?}");
        }
    }
}

#[test]
fn with_failback_a_node_takes_its_addresses_back_without_a_gap() {
    let mut lan = Segment::with(11, 3, 30, FAIR, PartitionPolicy::Availability, true);
    lan.run(ms(SETTLED));
    let before = lan.sole_owners();
    let address = lan.addresses[0];
    let owner = before[&address];
    lan.power_off(owner);
    lan.run(ms(1000));
    assert_ne!(lan.sole_owners()[&address], owner);
    lan.power_on(owner);
    assert_eq!(outage(&mut lan, address, 9000), 0);
    assert_eq!(lan.sole_owners(), before);
}

#[test]
fn with_failback_a_node_takes_its_addresses_back_as_soon_as_the_network_is_calm() {
    for seed in 0..10 {
        let mut lan = Segment::with(seed, 3, 30, FAIR, PartitionPolicy::Majority, true);
        lan.run(ms(SETTLED));
        let before = lan.sole_owners();
        for calm in [1000, 2000, 4000] {
            lan.split(&[0], 1);
            lan.run(ms(1500));
            let apart = lan.sole_owners();
            assert_ne!(apart, before);
            lan.heal();
            // Two peers return together to the node that was alone: it waits a second, and each time twice as long.
            one_at_most(seed, &mut lan, calm - 200);
            assert_eq!(lan.sole_owners(), apart, "seed {seed}: before {calm} ms");
            // Who is down is spoken to each 800 ms, so that they hear each other by then.
            lan.run(ms(1200));
            assert_eq!(lan.sole_owners(), before, "seed {seed}: after {calm} ms");
        }
    }
}

#[test]
fn a_stranger_is_told_and_left_alone_or_not() {
    let stranger = MacAddr([2, 0xbb, 0, 0, 0, 1]);
    for (policy, owners) in [
        (ConflictPolicy::Warn, 1),
        (ConflictPolicy::Defend, 1),
        (ConflictPolicy::Yield, 0),
    ] {
        let mut lan = Segment::new(12, 3, 3, FAIR);
        lan.set_conflicts(policy);
        let address = lan.addresses[0];
        lan.strangers.insert(address, stranger);
        lan.run(ms(15_000));
        assert_eq!(lan.owners(address).len(), owners, "{policy:?}");
        assert!(
            lan.conflicts
                .iter()
                .all(|(_, at, mac)| (*at, *mac) == (address, stranger))
        );
        assert!(!lan.conflicts.is_empty());
        lan.strangers.clear();
        lan.run(ms(12_000));
        lan.sole_owners();
    }
}

#[test]
fn another_speaker_sees_whether_the_owner_answers() {
    let mut lan = settled(13, 3, 30);
    lan.run(ms(40_000));
    let verified: std::collections::BTreeSet<_> = lan
        .verified
        .iter()
        .map(|(_, address, ok)| (*address, *ok))
        .collect();
    assert_eq!(verified.len(), 30, "each address, once, answered");
    assert!(lan.verified.iter().all(|(_, _, ok)| *ok));
}

#[test]
fn a_lost_frame_says_nothing_of_the_owner_and_silence_does_until_it_is_heard_again() {
    let mut lan = settled(15, 3, 30);
    lan.run(ms(6000));
    let silent = |lan: &Segment| lan.verified.iter().filter(|(_, _, answered)| !answered).count();
    // One question of ten: of some three hundred that are asked alone, thirty would go unanswered.
    lan.lost_questions = 100;
    lan.run(ms(300_000));
    assert!(silent(&lan) <= 3, "{} of 30 addresses", silent(&lan));
    // Those are told once; what comes now is told of all.
    lan.lost_questions = 0;
    lan.run(ms(45_000));
    lan.verified.clear();
    lan.lost_questions = 1000;
    lan.run(ms(45_000));
    assert_eq!(silent(&lan), 30);
    lan.verified.clear();
    lan.lost_questions = 0;
    lan.run(ms(45_000));
    assert_eq!((lan.verified.len(), silent(&lan)), (30, 0));
}

#[test]
fn a_conflict_is_over_when_the_address_is_none_of_ours_any_more() {
    let mut lan = Segment::new(16, 3, 1, FAIR);
    let address = lan.addresses[0];
    lan.strangers.insert(address, MacAddr([2, 0xbb, 0, 0, 0, 1]));
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

/// Ten addresses a node, as with a thousand nodes and ten thousand addresses: what a node sends depends on that alone.
#[test]
fn many_nodes_send_no_more_than_five_hundred_heartbeats_a_second_each() {
    const NODES: usize = 200;
    let mut lan = Segment::new(14, NODES, 10 * NODES, FAIR);
    lan.run(ms(2000));
    let owners = lan.sole_owners();
    lan.sent.fill(0);
    lan.run(ms(1000));
    let (most, total) = (lan.sent.iter().max().unwrap(), lan.sent.iter().sum::<u64>());
    let HeartbeatLoad {
        peers,
        period: slowest,
    } = (0..NODES).map(|node| lan.heartbeat_load(node)).max().unwrap();
    println!(
        "datagrams a second: {most} at most, {} on average; {peers} peers, each {slowest:?}, at most",
        total / NODES as u64
    );
    assert!(*most <= 500, "{most}");
    // And a node that dies is replaced in time all the same.
    let address = lan.addresses[0];
    lan.power_off(owners[&address]);
    let outage = outage(&mut lan, address, 1500);
    println!("outage {outage} ms");
    assert!(outage <= 500, "{outage} ms");
}
