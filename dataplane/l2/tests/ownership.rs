//! Several speakers on a simulated network: who announces an address, when, and that no address moves without a cause.

#[path = "support/balanced.rs"]
mod balanced;
#[path = "support/lost_heartbeats.rs"]
mod lost_heartbeats;
#[path = "support/network.rs"]
mod network;
#[path = "support/partition.rs"]
mod partition;
#[path = "support/passive.rs"]
mod passive;
#[path = "support/query.rs"]
mod query;
#[path = "support/stale_api.rs"]
mod stale_api;
mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use lb_l2::MacAddr;
use lb_l2::ownership::election::order;
use lb_l2::ownership::{ConflictPolicy, HeartbeatLoad, PartitionPolicy};
use network::{LOSSLESS, Network, NetworkConditions, ms};

const CONVERGENCE_MS: u64 = 2000;
/// The failure timeout of 280 ms, and the time to act.
const MAX_FAILOVER_MS: u64 = 300;

fn converged(seed: u64, nodes: usize, addresses: usize) -> Network {
    let mut lan = Network::new(seed, nodes, addresses, LOSSLESS);
    lan.run(ms(CONVERGENCE_MS));
    lan.sole_owners();
    lan
}

/// The longest time in milliseconds without a powered owner of the address, during the next `time` milliseconds.
fn outage(lan: &mut Network, address: IpAddr, time: u64) -> u64 {
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
fn initial_owners_follow_metallbs_election_order() {
    let lan = converged(1, 5, 40);
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
fn failover_takes_less_than_300_milliseconds() {
    for seed in 0..40 {
        let mut lan = converged(seed, 3, 30);
        let address = lan.addresses[0];
        let owner = lan.owners(address)[0];
        let before = lan.sole_owners();
        let wait = lan.rng.below(200);
        lan.run(ms(wait));
        lan.power_off(owner);
        let outage = outage(&mut lan, address, 1000);
        assert!(outage < MAX_FAILOVER_MS, "seed {seed}: {outage} ms");
        let after = lan.sole_owners();
        for (address, was) in before {
            assert!(was == owner || after[&address] == was, "only what it had moves");
        }
        // It returns and takes nothing back.
        lan.power_on(owner);
        lan.run(ms(8000));
        assert!(lan.is_running(owner));
        assert_eq!(lan.sole_owners(), after, "seed {seed}");
    }
}

#[test]
fn median_failover_takes_at_most_250_milliseconds() {
    let outage_of = |seed| {
        let mut lan = converged(seed, 3, 2);
        let address = lan.addresses[0];
        let wait = lan.rng.below(280);
        lan.run(ms(wait));
        lan.power_off(lan.owners(address)[0]);
        outage(&mut lan, address, 600)
    };
    let mut outages: Vec<_> = (0..100).map(outage_of).collect();
    outages.sort_unstable();
    println!("median {} ms, at most {} ms", outages[50], outages[99]);
    assert!(outages[50] <= 250 && outages[99] < MAX_FAILOVER_MS);
}

#[test]
fn two_failures_at_once_are_covered() {
    for seed in 0..40 {
        let mut lan = converged(seed, 6, 60);
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
        assert!(outage < MAX_FAILOVER_MS, "seed {seed}: {outage} ms");
        lan.sole_owners();
    }
}

/// The owner and its next candidates lose power together: nodes on one machine or one power strip.
#[test]
fn failures_of_all_but_one_node_are_covered() {
    for seed in 0..20 {
        for dead in 3..=5 {
            let mut lan = converged(seed, 6, 2);
            let address = lan.addresses[0];
            for position in 0..dead {
                lan.power_off(lan.candidate(address, position));
            }
            let outage = outage(&mut lan, address, 2000);
            // Most peers are silent at once, so they get 210 ms more.
            let max = MAX_FAILOVER_MS + 210;
            assert!(outage < max, "seed {seed}, {dead} nodes: {outage} ms");
            assert_eq!(lan.sole_owners()[&address], lan.candidate(address, dead));
        }
    }
}

/// In a large cluster only a few candidates monitor an address. No node sees the API.
#[test]
fn failure_of_the_owner_and_the_next_two_is_covered_in_a_large_cluster() {
    for seed in 0..10 {
        let mut lan = converged(seed, 24, 3);
        let address = lan.addresses[0];
        lan.stale_api = (0..24).collect();
        for position in 0..3 {
            lan.power_off(lan.candidate(address, position));
        }
        let outage = outage(&mut lan, address, 2000);
        assert!(outage < MAX_FAILOVER_MS + 210, "seed {seed}: {outage} ms");
        assert_eq!(
            lan.sole_owners()[&address],
            lan.candidate(address, 3),
            "seed {seed}"
        );
    }
}

#[test]
fn speaker_keeps_addresses_across_restart_and_crash() {
    for seed in 0..20 {
        let mut lan = converged(seed, 3, 30);
        let before = lan.sole_owners();
        for node in 0..3 {
            if seed % 2 == 0 {
                lan.leave(node);
            } else {
                lan.kill(node);
            }
            lan.start_after(node, ms(2500));
            lan.run(ms(1000));
            let stood_in = lan.proxies.len();
            let had = before.values().filter(|owner| **owner == node).count();
            assert_eq!(stood_in, had, "seed {seed}: others answer in its place");
            lan.run(ms(4000));
            assert!(lan.proxies.is_empty());
            assert_eq!(lan.sole_owners(), before, "seed {seed}, n{node}");
        }
        let moved = lan
            .causes
            .iter()
            .filter(|(_, _, cause)| *cause != "initial" && *cause != "restored");
        assert_eq!(moved.count(), 0, "seed {seed}");
    }
}

/// Here the owners are not the first in election order, so the first candidate would take any address that a starting
/// speaker seemed not to own.
#[test]
fn restart_keeps_addresses_acquired_by_failover() {
    for seed in 0..20 {
        let mut lan = converged(seed, 3, 30);
        lan.drain(0, true);
        lan.run(ms(500));
        lan.drain(0, false);
        lan.run(ms(500));
        let before = lan.sole_owners();
        assert!(before.values().all(|owner| *owner != 0));
        for node in [1, 2, 0] {
            lan.leave(node);
            let after = lan.rng.below(2000);
            lan.start_after(node, ms(100 + after));
            lan.run(ms(4000));
            assert_eq!(lan.sole_owners(), before, "seed {seed}, n{node}");
        }
    }
}

/// One speaker always runs, and remembers the addresses of the others.
#[test]
fn simultaneous_restarts_keep_addresses() {
    for seed in 0..40 {
        let mut lan = converged(seed, 4, 40);
        lan.max_cpu_wait_ms = [0, 40, 160][seed as usize % 3];
        let before = lan.sole_owners();
        let stays = lan.rng.below(4) as usize;
        for node in (0..4).filter(|node| *node != stays) {
            let (pause, away) = (lan.rng.below(1500), 500 + lan.rng.below(3000));
            lan.run(ms(pause));
            if lan.rng.below(3) == 0 {
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

/// Records are written after the fact, or not at all while the API server is away.
#[test]
fn outdated_record_takes_no_address_from_its_owner() {
    for seed in 0..40 {
        let conditions = NetworkConditions {
            loss: 20 * (seed % 4),
            ..LOSSLESS
        };
        let mut lan = Network::new(seed, 3, 30, conditions);
        lan.run(ms(CONVERGENCE_MS));
        let before = lan.sole_owners();
        for node in 0..3 {
            lan.leave(node);
            lan.outdated_records.insert(node, lan.addresses.clone());
            lan.start_after(node, ms(500));
            assert_at_most_one_owner(seed, &mut lan, 3000);
            assert_eq!(lan.sole_owners(), before, "seed {seed}, n{node}");
        }
    }
}

#[test]
fn absent_speaker_loses_addresses_after_grace_period() {
    let mut lan = converged(3, 3, 30);
    let address = lan.addresses[0];
    let owner = lan.owners(address)[0];
    lan.leave(owner);
    lan.run(ms(59_900));
    assert!(lan.owners(address).is_empty(), "held");
    // Its node lives, so it may be alive: the others wait for a claim of it.
    lan.run(ms(700));
    assert_ne!(lan.sole_owners()[&address], owner);
    // A node that fails during the restart is found by queries, at most 250 ms apart.
    let mut lan = converged(4, 3, 30);
    let owner = lan.owners(address)[0];
    lan.leave(owner);
    lan.run(ms(1000));
    lan.power_off(owner);
    assert!(outage(&mut lan, address, 1000) <= 600);
}

#[test]
fn lost_heartbeats_alone_move_no_address() {
    for seed in 0..20 {
        let mut lan = converged(seed, 5, 50);
        let before = lan.sole_owners();
        // 20 % loss for 30 seconds.
        lan.conditions = NetworkConditions {
            loss: 200,
            duplicated: 100,
            delay: 20_000,
            drift: 0,
        };
        lan.run(ms(30_000));
        assert_eq!(lan.sole_owners(), before, "seed {seed}");
        // Without any heartbeat, probe replies show which peers are alive.
        lan.drop_all_heartbeats = true;
        lan.run(ms(5000));
        assert_eq!(lan.sole_owners(), before, "seed {seed}");
        lan.drop_all_heartbeats = false;
        lan.run(ms(2000));
        assert_eq!(lan.sole_owners(), before, "seed {seed}");
        assert_eq!(lan.causes.len(), 50, "seed {seed}");
    }
}

/// The nodes are alive, so no address may move, neither at rest nor during a slow restart.
#[test]
fn cpu_starvation_moves_no_address() {
    for seed in 0..60 {
        let mut lan = converged(seed, 4, 40);
        let before = lan.sole_owners();
        lan.max_cpu_wait_ms = 20 << (seed % 5);
        lan.run(ms(30_000));
        assert_eq!(lan.causes.len(), 40, "seed {seed}: {:?}", &lan.causes[40..]);
        for node in 0..4 {
            if seed % 2 == 0 {
                lan.leave(node);
            } else {
                lan.kill(node);
            }
            let after = lan.rng.below(3000);
            lan.start_after(node, ms(100 + after));
            lan.run(ms(8000));
            let moved = |(node, address, _): &&(usize, IpAddr, _)| before[address] != *node;
            let moved: Vec<_> = lan.causes.iter().filter(moved).collect();
            assert!(moved.is_empty(), "seed {seed}, n{node}: {moved:?}");
            assert_eq!(lan.sole_owners(), before, "seed {seed}, n{node}");
        }
    }
}

/// During a restart a client gets a reply within a second, from the owner or from its backup.
#[test]
fn restart_under_cpu_starvation_leaves_short_gaps_only() {
    for seed in 0..20 {
        let mut lan = converged(seed, 3, 30);
        lan.max_cpu_wait_ms = 160;
        for node in 0..3 {
            lan.leave(node);
            lan.start_after(node, ms(800));
            let mut silent = BTreeMap::<IpAddr, u64>::new();
            for _ in 0..3000 {
                lan.run(ms(1));
                let stood_in: BTreeSet<_> = lan.proxies.keys().map(|(_, address)| *address).collect();
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
fn unheard_speakers_elect_by_api_state_and_probes() {
    let mut lan = Network::new(5, 4, 40, LOSSLESS);
    lan.drop_all_heartbeats = true;
    lan.run(ms(3000));
    for (address, owner) in lan.sole_owners() {
        assert_eq!(format!("n{owner}"), order(address, ["n0", "n1", "n2", "n3"])[0]);
    }
    assert!(lan.conflicts.is_empty());
}

#[test]
fn hand_over_always_leaves_an_owner() {
    for seed in 0..20 {
        let mut lan = converged(seed, 4, 40);
        lan.conditions.loss = 100;
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
fn address_stays_when_all_nodes_drain() {
    let mut lan = converged(8, 3, 30);
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
fn excluded_owner_hands_its_address_over() {
    let mut lan = converged(9, 3, 3);
    let address = lan.addresses[0];
    for _ in 0..2 {
        let owner = lan.owners(address)[0];
        lan.exclude(owner, address);
        assert_eq!(outage(&mut lan, address, 500), 0);
        assert_ne!(lan.sole_owners()[&address], owner);
    }
    let last = lan.owners(address)[0];
    lan.exclude(last, address);
    lan.run(ms(2500));
    assert!(lan.owners(address).is_empty(), "nobody may have it");
}

/// Runs for `time` milliseconds and asserts that no address ever has two owners.
fn assert_at_most_one_owner(seed: u64, lan: &mut Network, time: u64) {
    for _ in 0..time {
        lan.run(ms(1));
        for address in lan.addresses.clone() {
            let owners = lan.owners(address);
            assert!(owners.len() <= 1, "seed {seed}: {address} has {owners:?}");
        }
    }
}

#[test]
fn failback_leaves_no_gap() {
    let mut lan = Network::with(11, 3, 30, LOSSLESS, PartitionPolicy::Availability, true);
    lan.run(ms(CONVERGENCE_MS));
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
fn failback_waits_until_the_network_is_stable() {
    for seed in 0..10 {
        let mut lan = Network::with(seed, 3, 30, LOSSLESS, PartitionPolicy::Majority, true);
        lan.run(ms(CONVERGENCE_MS));
        let before = lan.sole_owners();
        for calm in [1000, 2000, 4000] {
            lan.split(&[0], 1);
            lan.run(ms(1500));
            let apart = lan.sole_owners();
            assert_ne!(apart, before);
            lan.heal();
            // Two peers return together to the isolated node: it waits one second, and twice as long each further time.
            assert_at_most_one_owner(seed, &mut lan, calm - 200);
            assert_eq!(lan.sole_owners(), apart, "seed {seed}: before {calm} ms");
            // Peers that are down get a heartbeat every 280 ms, so they hear each other by then.
            lan.run(ms(1200));
            assert_eq!(lan.sole_owners(), before, "seed {seed}: after {calm} ms");
        }
    }
}

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

/// The node that takes the address came up just before, so another one is the backup of the restarting owner.
#[test]
fn proxy_replies_end_when_another_node_announces() {
    for wait in (0..2000).step_by(100) {
        let mut lan = Network::new(19, 4, 1, LOSSLESS);
        lan.run(ms(3000));
        let address = lan.addresses[0];
        let owner = lan.sole_owners()[&address];
        let next = lan.candidate(address, 1);
        lan.leave(next);
        lan.start_after(next, ms(300));
        lan.run(ms(300 + wait));
        lan.leave(owner);
        lan.run(ms(100));
        lan.exclude(owner, address);
        lan.run(ms(3000));
        let owners = lan.owners(address);
        assert!(
            owners.is_empty() || lan.proxies.is_empty(),
            "after {wait} ms, while {owners:?} announce: {:?}",
            lan.proxies
        );
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
fn backup_verifies_every_address() {
    let mut lan = converged(13, 3, 30);
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
fn verification_tolerates_lost_frames_but_not_silence() {
    let mut lan = converged(15, 3, 30);
    lan.run(ms(6000));
    let silent = |lan: &Network| lan.verified.iter().filter(|(_, _, answered)| !answered).count();
    // 10 % probe loss would fail about 30 of 300 verifications if each had a single probe.
    lan.probe_loss = 100;
    lan.run(ms(300_000));
    assert!(silent(&lan) <= 3, "{} of 30 addresses", silent(&lan));
    // Clear the failed ones, so that the next result of every address is reported.
    lan.probe_loss = 0;
    lan.run(ms(45_000));
    lan.verified.clear();
    lan.probe_loss = 1000;
    lan.run(ms(45_000));
    assert_eq!(silent(&lan), 30);
    lan.verified.clear();
    lan.probe_loss = 0;
    lan.run(ms(45_000));
    assert_eq!((lan.verified.len(), silent(&lan)), (30, 0));
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

/// Ten addresses per node, as in a cluster of 1,000 nodes and 10,000 addresses; the load of a node depends on this
/// ratio alone.
#[test]
fn two_hundred_nodes_stay_within_the_heartbeat_rate() {
    const NODES: usize = 200;
    let mut lan = Network::new(14, NODES, 10 * NODES, LOSSLESS);
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
    // A failed node is still replaced in time.
    let address = lan.addresses[0];
    lan.power_off(owners[&address]);
    let outage = outage(&mut lan, address, 1500);
    println!("outage {outage} ms");
    assert!(outage <= 500, "{outage} ms");
}

#[test]
fn change_of_one_address_costs_one_datagram_per_peer() {
    let mut lan = converged(91, 4, 2_000);
    let address = lan.addresses[0];
    let owner = lan.sole_owners()[&address];
    lan.set_messages = (0, 0);
    lan.exclude(owner, address);
    lan.run(ms(2_000));
    assert_ne!(lan.sole_owners()[&address], owner);
    let (fragments, changes) = lan.set_messages;
    assert_eq!(fragments, 0, "no whole set is sent");
    // The hand-over has a few steps: offered, taken, withdrawn.
    assert!((6..=24).contains(&changes), "{changes}");
}

#[test]
fn speakers_that_do_not_know_differences_get_whole_sets() {
    let mut lan = converged(92, 3, 30);
    lan.reject_changes = true;
    let address = lan.addresses[0];
    let owner = lan.sole_owners()[&address];
    lan.exclude(owner, address);
    lan.run(ms(2_000));
    assert_ne!(lan.sole_owners()[&address], owner);
    assert!(lan.set_messages.0 > 0);
}

#[test]
fn differences_and_lost_datagrams_lead_to_the_same_sets() {
    for seed in 0..8 {
        let mut lan = converged(seed, 4, 40);
        lan.conditions.loss = 200;
        for number in 0..20 {
            let address = lan.addresses[number];
            let owners = lan.owners(address);
            if let [owner] = owners[..] {
                lan.exclude(owner, address);
            }
            lan.run(ms(100));
        }
        lan.conditions.loss = 0;
        lan.run(ms(5_000));
        lan.sole_owners();
    }
}

#[test]
fn broadcasts_at_rest_are_one_per_second() {
    let mut lan = converged(93, 4, 200);
    lan.run(ms(10_000));
    lan.broadcasts = 0;
    lan.run(ms(100_000));
    assert!(lan.verified.len() >= 200, "the owners were verified, by unicast");
    assert!(lan.broadcasts <= 135, "{}", lan.broadcasts);
}
