//! Which requests speakers send about the addresses of other nodes, and which replies they believe.

use lb_l2::MacAddr;

use super::network::{Frames, LOSSLESS, Network, ms};
use super::{converged, outage};

impl Network {
    /// The requests of all nodes since the last call.
    fn take_frames(&mut self) -> Vec<Frames> {
        let none = vec![Frames::default(); self.frames.len()];
        std::mem::replace(&mut self.frames, none)
    }
}

fn most(frames: &[Frames], count: impl Fn(&Frames) -> u64) -> u64 {
    frames.iter().map(count).max().unwrap_or_default()
}

#[test]
fn nodes_are_not_queried_while_heartbeats_arrive() {
    for seed in 0..5 {
        let mut lan = converged(seed, 10, 50);
        lan.take_frames();
        lan.run(ms(60_000));
        let frames = lan.take_frames();
        assert_eq!(most(&frames, |frames| frames.probes + frames.node_queries), 0);
        // The backup verifies each address about every 30 seconds.
        let verifications: u64 = frames.iter().map(|frames| frames.address_queries).sum();
        assert!((50..=200).contains(&verifications), "{verifications}");
    }
}

#[test]
fn late_heartbeats_cause_few_queries() {
    let mut lan = converged(1, 10, 50);
    lan.conditions.delay = 30_000;
    lan.run(ms(1000));
    lan.take_frames();
    lan.run(ms(60_000));
    let frames = lan.take_frames();
    let asked = most(&frames, |frames| frames.node_queries);
    println!("node queries of one node in a minute: {asked}");
    assert!(asked <= 60, "{asked} in a minute, to 9 peers");
}

/// Every heartbeat is lost for good: every peer is in doubt.
#[test]
fn queries_back_off_when_all_heartbeats_are_lost() {
    println!("nodes, second: most frames sent, received by one node");
    for nodes in [30_usize, 100] {
        let mut lan = Network::new(2, nodes, 2 * nodes, LOSSLESS);
        lan.run(ms(3000));
        let owners = lan.sole_owners();
        lan.drop_all_heartbeats = true;
        let peers = nodes as u64 - 1;
        for second in 1..=6 {
            lan.take_frames();
            lan.run(ms(1000));
            let frames = lan.take_frames();
            let sent = most(&frames, |frames| frames.node_queries + frames.address_queries);
            let received = most(&frames, |frames| frames.received);
            println!("{nodes}, {second}: {sent}, {received}");
            assert_eq!(most(&frames, |frames| frames.probes), 0, "no broadcast");
            // Two frames for each query: at first, four of each peer.
            let bound = if second <= 2 {
                16 * peers
            } else {
                2 * 60.max(peers)
            };
            assert!(sent <= bound && received <= bound, "{sent}, {received} > {bound}");
        }
        assert_eq!(lan.sole_owners(), owners, "all owners reply");
    }
}

const FORGER: MacAddr = MacAddr([2, 0xbb, 0, 0, 0, 1]);

/// A frame from a hardware address that the node never told is no sign of its life.
#[test]
fn forged_replies_do_not_delay_a_failover() {
    fail_over_despite_forgery(&mut converged(3, 3, 30));
}

/// Before the first heartbeat of a node, any hardware address may be its own.
#[test]
fn macs_seen_before_the_first_heartbeat_are_forgotten() {
    let mut lan = Network::new(4, 3, 30, LOSSLESS);
    lan.drop_all_heartbeats = true;
    lan.run(ms(500));
    for (to, node) in [(0, 1), (0, 2), (1, 0), (1, 2), (2, 0), (2, 1)] {
        lan.show_node(to, node, FORGER);
    }
    lan.drop_all_heartbeats = false;
    lan.run(ms(3000));
    fail_over_despite_forgery(&mut lan);
}

fn fail_over_despite_forgery(lan: &mut Network) {
    let address = lan.addresses[0];
    let owner = lan.sole_owners()[&address];
    lan.power_off(owner);
    let mut silent = 0;
    while lan.owners(address).is_empty() {
        for to in (0..3).filter(|to| *to != owner) {
            lan.show_node(to, owner, FORGER);
        }
        silent += outage(lan, address, 10);
        assert!(silent < super::MAX_FAILOVER_MS, "no failover");
    }
    assert!(!lan.owners(address).contains(&owner));
}
