//! A speaker reports peers whose speakers are ready and whose heartbeats do not arrive.

#![allow(clippy::unwrap_used, reason = "a helper of a test fails the test")]

#[path = "support/fleet.rs"]
mod fleet;

use std::time::Duration;

use fleet::{Fleet, own_link, speaker_pod};

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
