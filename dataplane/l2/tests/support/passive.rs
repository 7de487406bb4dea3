//! Candidates that are up and do not claim an address: they delay the next one by seconds, and once only.

use lb_l2::MacAddr;

use super::network::{LOSSLESS, Network, ms};
use super::{assert_at_most_one_owner, converged, outage};

/// Four seconds for a candidate that is up, 250 ms, and the probes.
const MAX_PASSIVE_MS: u64 = 4500;

/// The first two candidates of a new address do not know of it.
#[test]
fn passive_candidate_delays_a_claim_by_seconds_and_once() {
    for seed in 0..10 {
        let mut lan = converged(seed, 4, 4);
        let address = lan.addresses[0];
        let [first, second, third, fourth] = [0, 1, 2, 3].map(|position| lan.candidate(address, position));
        lan.release(address);
        lan.stale_api.extend([first, second]);
        lan.create(address);
        let gap = outage(&mut lan, address, 2 * MAX_PASSIVE_MS + 1000);
        println!("seed {seed}: {gap} ms");
        assert!(gap <= 2 * MAX_PASSIVE_MS, "seed {seed}: {gap} ms");
        assert_eq!(lan.sole_owners()[&address], third, "seed {seed}");
        lan.power_off(third);
        let gap = outage(&mut lan, address, 2000);
        assert!(
            gap <= 900,
            "seed {seed}: {gap} ms, the passive candidates are known"
        );
        assert_eq!(lan.sole_owners()[&address], fourth, "seed {seed}");
        // They learn of it, and take nothing.
        lan.stale_api.clear();
        lan.create(address);
        assert_at_most_one_owner(seed, &mut lan, 10_000);
        assert_eq!(lan.sole_owners()[&address], fourth, "seed {seed}");
        // A candidate that is not passive any longer goes first.
        lan.power_off(fourth);
        assert_at_most_one_owner(seed, &mut lan, 2000);
        assert_eq!(lan.sole_owners()[&address], first, "seed {seed}");
    }
}

/// The next owner does not know of the address: the present owner continues until another candidate has waited.
#[test]
fn hand_over_past_a_passive_candidate_leaves_no_gap() {
    for seed in 0..10 {
        let mut lan = converged(seed, 4, 4);
        let address = lan.addresses[0];
        let [owner, next, last] = [0, 1, 2].map(|position| lan.candidate(address, position));
        lan.release(address);
        lan.stale_api.insert(next);
        lan.create(address);
        lan.run(ms(1000));
        lan.exclude(owner, address);
        assert_eq!(outage(&mut lan, address, 8000), 0, "seed {seed}");
        assert_eq!(lan.sole_owners()[&address], last, "seed {seed}");
    }
}

/// The first candidate finds the host, and says so: nobody else probes it, for however long.
#[test]
fn host_that_has_the_address_is_probed_by_one_node() {
    let mut lan = Network::new(5, 4, 1, LOSSLESS);
    let address = lan.addresses[0];
    lan.conflicting_hosts
        .insert(address, MacAddr([2, 0xbb, 0, 0, 0, 1]));
    lan.run(ms(60_000));
    let probing = lan.frames.iter().filter(|frames| frames.probes > 0);
    assert_eq!(probing.count(), 1);
    assert_eq!(lan.conflicts.len(), 1, "reported once");
    // It fails, and the next one finds the host.
    lan.power_off(lan.first_candidate(address));
    lan.run(ms(60_000));
    assert!(lan.owners(address).is_empty());
    assert_eq!(lan.conflicts.len(), 2);
    lan.conflicting_hosts.clear();
    lan.run(ms(61_000));
    lan.sole_owners();
}

/// The node is on another network and was never heard, so nothing contradicts the API server, which is late.
#[test]
fn assumed_candidate_is_waited_for_with_a_bound() {
    let mut lan = Network::new(6, 3, 3, LOSSLESS);
    lan.off_link = true;
    lan.drop_all_heartbeats = true;
    lan.run(ms(15_000));
    let address = lan.addresses[0];
    let owner = lan.sole_owners()[&address];
    lan.power_off(owner);
    let gap = outage(&mut lan, address, 30_000);
    assert!(gap <= 10_000, "{gap} ms");
    lan.sole_owners();
}
