//! Simulation of upgrades under a virtual clock, with many seeds.
//!
//! ```text
//! let mut cluster = SimCluster::new(seed, 3, &[Image::Good, Image::Crashes]);  // three nodes run image 0
//! cluster.ask_for(1);                                                         // the spec asks for image 1
//! cluster.chaos = true;                                                       // the operator is killed at random
//! cluster.nodes[0].up = false;                                                // a node is powered off
//! cluster.run_until(5000, |cluster| !cluster.state.history.is_empty());       // at most 5000 virtual seconds
//! assert_eq!(cluster.outcomes(), [UpgradeOutcome::RolledBack]);
//! ```
//!
//! `SimCluster` plays the Deployment and DaemonSet controllers, the kubelets and the API server. After each second it
//! checks that no more than `maxUnavailable` speakers are down because of the operator, and that no speaker is newer
//! than the controllers. A failed assertion prints the history of the run.

mod cluster;

use std::collections::BTreeSet;

use lb_crds::load_balancer_stack::UpgradeOutcome;

use cluster::{Image, Rng, SimCluster, revision};

/// Virtual seconds within which every upgrade ends.
const MAX_DURATION: i64 = 5000;

#[test]
fn upgrade_restarts_each_speaker_once() {
    for seed in 0..60 {
        let mut cluster = SimCluster::new(seed, 1 + seed % 6, &[Image::Good, Image::Good]);
        cluster.settings.max_unavailable = 1 + i32::try_from(seed % 3).unwrap();
        cluster.ask_for(1);
        cluster.run_until(MAX_DURATION, |cluster| {
            cluster.state.last_good == Some(revision(1))
        });
        cluster.run_until(60, SimCluster::is_at_rest);
        let nodes: BTreeSet<_> = cluster.restarts.iter().map(|(node, _)| node.clone()).collect();
        assert_eq!(
            nodes.len(),
            cluster.nodes.len(),
            "seed {seed}\n{}",
            cluster.history_text()
        );
        assert_eq!(
            cluster.restarts.len(),
            cluster.nodes.len(),
            "seed {seed}\n{}",
            cluster.history_text()
        );
        assert_eq!(cluster.outcomes(), [UpgradeOutcome::Succeeded]);
    }
}

#[test]
fn downgrade_restarts_each_speaker_once() {
    for seed in 0..20 {
        let mut cluster = SimCluster::new(seed, 3, &[Image::Good, Image::Good]);
        cluster.ask_for(1);
        cluster.run_until(MAX_DURATION, |cluster| {
            cluster.state.last_good == Some(revision(1))
        });
        cluster.restarts.clear();
        cluster.ask_for(0);
        cluster.run_until(MAX_DURATION, |cluster| {
            cluster.state.last_good == Some(revision(0))
        });
        cluster.run_until(60, SimCluster::is_at_rest);
        assert_eq!(cluster.restarts.len(), 3);
    }
}

#[test]
fn broken_image_is_rolled_back_and_not_retried() {
    let broken = [
        Image::CannotBePulled,
        Image::Crashes,
        Image::NeverReplies,
        Image::DiesAfter(10),
        Image::DiesAfter(30),
        Image::NeverReady,
    ];
    for seed in 0..60 {
        let image = broken[usize::try_from(seed).unwrap() % broken.len()];
        let mut cluster = SimCluster::new(seed, 2 + seed % 4, &[Image::Good, image]);
        // A speaker that does not reply is noticed only by its addresses.
        cluster
            .nodes
            .iter_mut()
            .for_each(|node| node.announced_services = 1);
        cluster
            .speakers
            .iter_mut()
            .for_each(|pod| pod.pod.announced_services = 1);
        cluster.ask_for(1);
        cluster.run_until(MAX_DURATION, |cluster| !cluster.state.history.is_empty());
        cluster.run_until(100, SimCluster::is_at_rest);
        assert_eq!(cluster.outcomes(), [UpgradeOutcome::RolledBack], "{image:?}");
        assert_eq!(cluster.state.last_good, Some(revision(0)));
        if image == Image::CannotBePulled {
            assert_eq!(cluster.restarts, [], "nothing was touched");
        }
        // No retry until the spec changes.
        for _ in 0..300 {
            cluster.advance_second();
            assert!(
                cluster.state.upgrade.is_none(),
                "{image:?}\n{}",
                cluster.history_text()
            );
        }
        cluster.images[1] = Image::Good;
        cluster.generation += 1;
        cluster.run_until(MAX_DURATION, |cluster| {
            cluster.state.last_good == Some(revision(1))
        });
    }
}

#[test]
fn pause_stops_the_upgrade_and_its_deadline() {
    for seed in 0..20 {
        let mut cluster = SimCluster::new(seed, 3, &[Image::Good, Image::Good]);
        cluster.ask_for(1);
        for _ in 0..20 + seed * 3 {
            cluster.advance_second();
        }
        cluster.paused = true;
        cluster.generation += 1;
        let before = (cluster.restarts.len(), cluster.speaker_template.clone());
        for _ in 0..1000 {
            cluster.advance_second();
        }
        assert_eq!((cluster.restarts.len(), cluster.speaker_template.clone()), before);
        cluster.paused = false;
        cluster.generation += 1;
        cluster.run_until(MAX_DURATION, |cluster| {
            cluster.state.last_good == Some(revision(1))
        });
    }
}

#[test]
fn chaos_ends_with_target_or_last_good_revision() {
    let images = [
        Image::Good,
        Image::Crashes,
        Image::NeverReplies,
        Image::DiesAfter(25),
        Image::NeverReady,
        Image::CannotBePulled,
    ];
    for seed in 0..400 {
        let mut pick = Rng(seed * 77 + 13);
        let one = images[usize::try_from(pick.below(6)).unwrap()];
        let two = images[usize::try_from(pick.below(9)).unwrap() % 6];
        let mut cluster = SimCluster::new(seed, 2 + seed % 5, &[Image::Good, one, two]);
        cluster.settings.max_unavailable = 1 + i32::try_from(seed % 2).unwrap();
        cluster.ask_for(1);
        cluster.chaos = true;
        let until = cluster.now + 400;
        while cluster.now < until {
            match pick.below(400) {
                0..4 => {
                    let index = usize::try_from(pick.below(20)).unwrap() % cluster.nodes.len();
                    cluster.nodes[index].up = !cluster.nodes[index].up;
                }
                4..6 => cluster.join(),
                6..8 => cluster.ask_for(usize::try_from(pick.below(3)).unwrap()),
                8..10 => {
                    // A user deletes a speaker.
                    let index = usize::try_from(pick.below(20)).unwrap() % cluster.speakers.len().max(1);
                    let now = cluster.now;
                    if let Some(pod) = cluster.speakers.get_mut(index) {
                        pod.gone_at.get_or_insert(now + 1);
                    }
                }
                _ => {}
            }
            cluster.advance_second();
        }
        cluster.chaos = false;
        cluster.nodes.iter_mut().for_each(|node| node.up = true);
        cluster.run_until(MAX_DURATION, |cluster| {
            let good = cluster.state.last_good.clone().unwrap_or_default();
            let target = revision(cluster.target);
            let rejected = cluster.state.failed_revision(&cluster.snapshot()).is_some();
            cluster.is_at_rest() && (good == target || rejected)
        });
        // Nothing changes from here on.
        let before = (cluster.state.clone(), cluster.restarts.len());
        for _ in 0..50 {
            cluster.advance_second();
        }
        assert_eq!(
            (cluster.state.clone(), cluster.restarts.len()),
            before,
            "seed {seed}"
        );
    }
}
