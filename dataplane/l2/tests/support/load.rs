//! Datagrams and frames: how many, and how they grow.

use lb_l2::ownership::HeartbeatLoad;

use super::network::{LOSSLESS, Network, ms};
use super::{converged, outage};

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
