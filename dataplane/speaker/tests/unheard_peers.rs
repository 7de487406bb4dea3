//! A speaker reports peers whose speakers are ready and whose heartbeats do not arrive, and the addresses that it does not
//! announce because of that.

#![allow(clippy::unwrap_used, reason = "a helper of a test fails the test")]

#[path = "support/fleet.rs"]
mod fleet;

use std::time::Duration;

use fleet::{Fleet, own_link, speaker_pod};
use lb_runtime::ObjectKey;
use lb_speaker::k8s::l2_status::Desired;

const ADDRESSES: usize = 20;
const ALL: [usize; 3] = [1, 2, 3];

#[tokio::test(flavor = "current_thread")]
async fn reports_peer_while_its_speaker_is_ready_and_not_heard() {
    let links = own_link().await.unwrap();
    assert!(!links.is_empty(), "not root: run the tests of lb-speaker as root");
    let mut fleet = Fleet::new(4, links);
    fleet.start(Fleet::objects(4, ADDRESSES));
    // At rest, only a report of an earlier process is cleared.
    fleet.run(Duration::from_secs(200), &ALL);
    assert_eq!(fleet.speaker.take_report().unwrap().unheard_peers, [""; 0]);
    assert_eq!(fleet.metric("lb_speaker_unheard_peers"), 0.0);
    // A node that fails: until Kubernetes notices it, its speaker counts as ready.
    fleet.run(Duration::from_secs(60), &[1, 3]);
    fleet.update(speaker_pod(2, false));
    fleet.run(Duration::from_secs(200), &[1, 3]);
    fleet.update(speaker_pod(2, true));
    fleet.run(Duration::from_secs(200), &ALL);
    assert_eq!(fleet.speaker.take_report(), None);
    // A blocked port.
    fleet.run(Duration::from_secs(200), &[1, 3]);
    assert_eq!(fleet.speaker.take_report().unwrap().unheard_peers, ["n2"]);
    assert_eq!(fleet.metric("lb_speaker_unheard_peers"), 1.0);
    fleet.run(Duration::from_secs(200), &[1, 3]);
    assert_eq!(fleet.speaker.take_report(), None);
    fleet.run(Duration::from_secs(60), &ALL);
    assert_eq!(fleet.speaker.take_report().unwrap().unheard_peers, [""; 0]);
}

#[tokio::test(flavor = "current_thread")]
async fn reports_address_without_a_majority_until_it_has_one() {
    let links = own_link().await.unwrap();
    assert!(!links.is_empty(), "not root: run the tests of lb-speaker as root");
    let mut fleet = Fleet::with_arguments(4, links, &["--partition-policy", "Majority"]);
    fleet.start(Fleet::objects(4, ADDRESSES));
    fleet.run(Duration::from_secs(60), &ALL);
    let reports = |fleet: &Fleet| -> Vec<String> {
        let services = (0..ADDRESSES).map(|at| ObjectKey::new("default", format!("s{at}")));
        let reports = services.filter_map(|service| match fleet.speaker.unannounced_status(&service) {
            Desired::Unannounced(status) => Some(format!("{}: {}", status.reason, status.message)),
            Desired::Announced(_) | Desired::Unchanged | Desired::Absent => None,
        });
        reports.collect()
    };
    assert_eq!(reports(&fleet), [""; 0]);
    // Two of four are no majority. Each step of the fleet looks like a stall of our speaker, so that only one heartbeat
    // period of it counts as silence of the peers.
    fleet.run(Duration::from_secs(120), &[1]);
    let without = reports(&fleet);
    assert!(!without.is_empty());
    for report in &without {
        assert!(
            report.starts_with("NoMajority: node n0 reaches no majority"),
            "{report}"
        );
        assert!(
            report.contains("no heartbeats of n2, n3:") || report.contains("no heartbeats of n3, n2:"),
            "{report}"
        );
    }
    // A decision about an address changes nothing.
    fleet.update(speaker_pod(2, false));
    fleet.update(speaker_pod(2, true));
    assert_eq!(reports(&fleet), without);
    fleet.run(Duration::from_secs(60), &ALL);
    assert_eq!(reports(&fleet), [""; 0]);
}
