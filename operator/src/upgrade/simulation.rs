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
//! `SimCluster` plays the Deployment and DaemonSet controllers, the kubelets and the API server, and has faults of nodes,
//! images, the registry, admission and the operator; [`tenants`] edit Services. After each second it checks that no more
//! than `maxUnavailable` speakers are down because of the operator, that every node that the spec serves has a ready
//! speaker unless something else than the operator is the cause, and that no speaker is newer than the controllers. A
//! failed assertion prints the history of the run.

mod cluster;
mod tenants;

use std::collections::BTreeSet;

use lb_crds::load_balancer_stack::{OnFailure, PauseReason, UpgradeOutcome, UpgradeStep as Step};

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
        for index in 0..cluster.nodes.len() {
            let name = cluster.nodes[index].name.clone();
            cluster.tenants.add_service(&name, cluster.now);
        }
        cluster.ask_for(1);
        cluster.run_until(MAX_DURATION, |cluster| !cluster.state.history.is_empty());
        cluster.run_until(100, SimCluster::is_at_rest);
        assert_eq!(cluster.outcomes(), [UpgradeOutcome::RolledBack], "{image:?}");
        assert_eq!(cluster.state.last_good, Some(revision(0)));
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

/// Runs in which random things happen. Other seeds: `LB_SIMULATION_SEEDS=0..10000`.
fn seeds(default: u64) -> std::ops::Range<u64> {
    let chosen = std::env::var("LB_SIMULATION_SEEDS").ok();
    let chosen = chosen.and_then(|range| {
        let (from, to) = range.split_once("..")?;
        Some(from.parse().ok()?..to.parse().ok()?)
    });
    chosen.unwrap_or(0..default)
}

fn paused(cluster: &SimCluster) -> Option<PauseReason> {
    cluster.state.upgrade.as_ref()?.paused
}

fn waiting_for(cluster: &SimCluster) -> Option<String> {
    cluster.state.upgrade.as_ref()?.waiting_for.clone()
}

fn step(cluster: &SimCluster) -> Option<Step> {
    cluster.state.upgrade.as_ref().map(|upgrade| upgrade.step)
}

fn succeed(cluster: &mut SimCluster, number: usize) {
    cluster.run_until(MAX_DURATION, |cluster| {
        cluster.state.last_good == Some(revision(number))
    });
    cluster.run_until(100, SimCluster::is_at_rest);
}

/// O-04: whatever tenants do with their Services, and in whatever order it is observed.
#[test]
fn tenants_can_neither_fail_nor_stall_an_upgrade() {
    for seed in seeds(60) {
        let duration = |with_tenants: bool| {
            let mut cluster = SimCluster::new(seed, 2 + seed % 4, &[Image::Good, Image::Good]);
            let names: Vec<_> = cluster.nodes.iter().map(|node| node.name.clone()).collect();
            for name in &names {
                cluster.tenants.add_service(name, cluster.now);
            }
            cluster.ask_for(1);
            let start = cluster.now;
            while cluster.state.last_good != Some(revision(1)) {
                if with_tenants {
                    cluster.tenants.act(&names, cluster.now);
                }
                cluster.advance_second();
                assert!(
                    cluster.now < start + 1000,
                    "seed {seed}\n{}",
                    cluster.history_text()
                );
                assert_eq!(paused(&cluster), None, "seed {seed}\n{}", cluster.history_text());
            }
            assert_eq!(cluster.outcomes(), [UpgradeOutcome::Succeeded], "seed {seed}");
            cluster.now - start
        };
        let (without, with) = (duration(false), duration(true));
        // More Services on a node mean more time to verify it, and nothing else.
        assert!(
            with <= without + 200,
            "seed {seed}: {without} s without tenants, {with} s with"
        );
    }
}

#[test]
fn crashing_image_is_rolled_back_in_spite_of_tenants() {
    for seed in seeds(30) {
        let mut cluster = SimCluster::new(seed, 3, &[Image::Good, Image::Crashes]);
        let names: Vec<_> = cluster.nodes.iter().map(|node| node.name.clone()).collect();
        cluster.tenants.add_service("n1", cluster.now);
        cluster.ask_for(1);
        while cluster.state.history.is_empty() {
            cluster.tenants.act(&names, cluster.now);
            cluster.advance_second();
            assert!(cluster.now < 2000, "{}", cluster.history_text());
        }
        assert_eq!(cluster.outcomes(), [UpgradeOutcome::RolledBack]);
    }
}

/// O-02 and O-12: a node whose speaker cannot run blocks neither an upgrade nor a rollback.
#[test]
fn node_that_was_broken_before_blocks_nothing() {
    for seed in seeds(30) {
        for image in [Image::Good, Image::Crashes, Image::NeverReady] {
            let mut cluster = SimCluster::new(seed, 3, &[Image::Good, image]);
            cluster.nodes[2].broken = true;
            cluster.run_until(60, |cluster| cluster.speakers.iter().any(|pod| !pod.pod.ready));
            cluster.ask_for(1);
            cluster.run_until(MAX_DURATION, |cluster| !cluster.state.history.is_empty());
            cluster.run_until(100, SimCluster::is_at_rest);
            let expected = if image == Image::Good {
                UpgradeOutcome::Succeeded
            } else {
                UpgradeOutcome::RolledBack
            };
            assert_eq!(
                cluster.outcomes(),
                [expected],
                "{image:?}\n{}",
                cluster.history_text()
            );
        }
    }
}

/// O-12: a registry that does not answer is no failed revision.
#[test]
fn unpullable_image_pauses_before_anything_restarts_and_continues() {
    for seed in seeds(20) {
        let mut cluster = SimCluster::new(seed, 3, &[Image::Good, Image::CannotBePulled]);
        cluster.ask_for(1);
        cluster.run_until(400, |cluster| {
            paused(cluster) == Some(PauseReason::Infrastructure)
        });
        let waits = waiting_for(&cluster).unwrap();
        assert!(
            waits.contains("node n0 cannot pull the images: ErrImagePull"),
            "{waits}"
        );
        assert_eq!(
            (cluster.restarts.len(), cluster.state.failed_revisions.len()),
            (0, 0)
        );
        cluster.images[1] = Image::Good;
        succeed(&mut cluster, 1);
    }
}

/// The network suppresses the replies of a node, beginning with its new speaker.
#[test]
fn node_that_gets_no_reply_with_either_speaker_does_not_fail_the_revision() {
    for seed in seeds(30) {
        let mut cluster = SimCluster::new(seed, 2 + seed % 4, &[Image::Good, Image::Good]);
        let names: Vec<_> = cluster.nodes.iter().map(|node| node.name.clone()).collect();
        for name in &names {
            cluster.tenants.add_service(name, cluster.now);
        }
        cluster.ask_for(1);
        cluster.run_until(400, |cluster| step(cluster) == Some(Step::Soak));
        let (canary, _) = cluster.restarts[0].clone();
        let mut nodes = cluster.nodes.iter_mut();
        nodes.find(|node| node.name == canary).unwrap().muted = true;
        succeed(&mut cluster, 1);
        assert_eq!(
            cluster.outcomes(),
            [UpgradeOutcome::RolledBack, UpgradeOutcome::Succeeded],
            "{}",
            cluster.history_text()
        );
        assert_eq!(cluster.state.failed_revisions, []);
    }
}

/// O-24 and O-12: admission refuses pods, or the registry is down, from any moment of the upgrade on.
#[test]
fn infrastructure_faults_pause_and_end_by_themselves() {
    for seed in seeds(60) {
        let mut cluster = SimCluster::new(seed, 3, &[Image::Good, Image::Good]);
        cluster.ask_for(1);
        for _ in 0..20 + (seed * 2) % 400 {
            cluster.advance_second();
        }
        if cluster.state.upgrade.is_none() {
            continue;
        }
        if seed % 2 == 0 {
            cluster.refuses_pods = true;
        } else {
            cluster.registry_down = true;
        }
        for _ in 0..600 {
            cluster.advance_second();
        }
        assert_eq!(cluster.state.failed_revisions, [], "{}", cluster.history_text());
        assert!(
            cluster.state.upgrade.is_none() || paused(&cluster) == Some(PauseReason::Infrastructure),
            "seed {seed}\n{}",
            cluster.history_text()
        );
        (cluster.refuses_pods, cluster.registry_down) = (false, false);
        cluster.disturb_all();
        succeed(&mut cluster, 1);
    }
}

/// O-03: nodes that the new settings exclude keep their speaker until the canary has passed.
#[test]
fn nodes_lose_their_speaker_only_after_the_canary() {
    for seed in seeds(30) {
        let mut cluster = SimCluster::new(seed, 4, &[Image::Good, Image::Good, Image::Crashes]);
        cluster.unserved[1].insert("n0".to_owned());
        cluster.ask_for(1);
        while step(&cluster).is_none_or(|step| step < Step::Speakers) {
            cluster.advance_second();
            let keeps = cluster
                .speakers
                .iter()
                .any(|pod| pod.pod.node == "n0" && pod.pod.ready);
            assert!(
                keeps || step(&cluster) >= Some(Step::Speakers),
                "seed {seed}\n{}",
                cluster.history_text()
            );
            assert_ne!(
                cluster.restarts.first().map(|(node, _)| node.as_str()),
                Some("n0")
            );
        }
        succeed(&mut cluster, 1);
        // A failed upgrade that would have widened them again.
        cluster.ask_for(2);
        cluster.run_until(MAX_DURATION, |cluster| cluster.state.history.len() == 2);
        cluster.run_until(100, SimCluster::is_at_rest);
        assert_eq!(cluster.state.last_good, Some(revision(1)));
        // To another set of nodes altogether.
        cluster.images[2] = Image::Good;
        cluster.unserved[2] = ["n1", "n2", "n3"].map(str::to_owned).into();
        cluster.generation += 1;
        succeed(&mut cluster, 2);
    }
}

/// O-02, O-39: a rollback that cannot finish says so, keeps what runs, and obeys a new spec.
#[test]
fn incomplete_rollback_keeps_what_runs_and_obeys_a_new_spec() {
    for seed in seeds(30) {
        let mut cluster = SimCluster::new(seed, 3, &[Image::Good, Image::Good, Image::Good]);
        cluster.ask_for(1);
        cluster.run_until(500, |cluster| step(cluster) == Some(Step::Soak));
        // The registry has lost the previous image, and the new one turns out not to become ready.
        cluster.images[0] = Image::CannotBePulled;
        cluster.images[1] = Image::NeverReady;
        cluster.run_until(1000, |cluster| {
            paused(cluster) == Some(PauseReason::RollbackIncomplete)
        });
        let ready = cluster.speakers.iter().filter(|pod| pod.pod.ready).count();
        assert_eq!(ready, 2, "{}", cluster.history_text());
        let waits = waiting_for(&cluster).unwrap();
        assert!(waits.contains("on node n"), "{waits}");
        cluster.disturb_all();
        cluster.ask_for(2);
        succeed(&mut cluster, 2);
    }
}

#[test]
fn new_spec_is_obeyed_in_every_step() {
    let images = [
        Image::Good,
        Image::NeverReady,
        Image::Crashes,
        Image::CannotBePulled,
    ];
    for seed in seeds(120) {
        let image = images[usize::try_from(seed).unwrap() % images.len()];
        let mut cluster = SimCluster::new(seed, 3, &[Image::Good, image, Image::Good]);
        cluster.ask_for(1);
        for _ in 0..(seed * 3) % 330 {
            cluster.advance_second();
        }
        cluster.ask_for(2);
        succeed(&mut cluster, 2);
        assert!(cluster.now < 2000, "seed {seed}\n{}", cluster.history_text());
    }
}

/// The four ways out by hand.
#[test]
fn break_glass_abort_retry_skip_and_force() {
    for seed in seeds(20) {
        // Abort: the previous spec.
        let mut cluster = SimCluster::new(seed, 3, &[Image::Good, Image::CannotBePulled]);
        cluster.ask_for(1);
        cluster.run_until(400, |cluster| paused(cluster).is_some());
        cluster.ask_for(0);
        cluster.run_until(60, SimCluster::is_at_rest);
        // Retry: only the generation of the spec changes.
        let mut cluster = SimCluster::new(seed, 3, &[Image::Good, Image::Crashes]);
        cluster.settings.on_failure = OnFailure::Pause;
        cluster.ask_for(1);
        cluster.run_until(400, |cluster| {
            paused(cluster) == Some(PauseReason::HealthCheckFailed)
        });
        cluster.images[1] = Image::Good;
        cluster.disturb_all();
        cluster.generation += 1;
        succeed(&mut cluster, 1);
        // Skip: a node that nobody waits for, not even in Preflight.
        let mut cluster = SimCluster::new(seed, 3, &[Image::Good, Image::Good]);
        cluster.nodes[1].broken = true;
        cluster.run_until(60, |cluster| cluster.speakers.iter().any(|pod| !pod.pod.ready));
        cluster.settings.skip_nodes = vec!["n1".to_owned()];
        cluster.ask_for(1);
        let start = cluster.now;
        succeed(&mut cluster, 1);
        assert!(cluster.now - start < 220, "{}", cluster.history_text());
        // Force: failed health checks are reported only.
        let mut cluster = SimCluster::new(seed, 3, &[Image::Good, Image::NeverReplies]);
        for node in ["n0", "n1", "n2"] {
            cluster.tenants.add_service(node, cluster.now);
        }
        cluster.settings.on_failure = OnFailure::Continue;
        cluster.ask_for(1);
        succeed(&mut cluster, 1);
        assert_eq!(cluster.outcomes(), [UpgradeOutcome::Succeeded]);
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
    for seed in seeds(300) {
        let mut pick = Rng(seed * 77 + 13);
        let one = images[usize::try_from(pick.below(6)).unwrap()];
        let two = images[usize::try_from(pick.below(9)).unwrap() % 6];
        let mut cluster = SimCluster::new(seed, 2 + seed % 5, &[Image::Good, one, two]);
        cluster.settings.max_unavailable = 1 + i32::try_from(seed % 2).unwrap();
        for unserved in &mut cluster.unserved[1..] {
            if pick.below(3) == 0 {
                unserved.insert("n0".to_owned());
            }
        }
        cluster.ask_for(1);
        cluster.chaos = true;
        let until = cluster.now + 400;
        while cluster.now < until {
            let names: Vec<_> = cluster.nodes.iter().map(|node| node.name.clone()).collect();
            let index = usize::try_from(pick.below(20)).unwrap() % names.len();
            match pick.below(400) {
                0..4 => cluster.toggle(index),
                4..6 => cluster.join(),
                6..8 => cluster.ask_for(usize::try_from(pick.below(3)).unwrap()),
                8..10 => cluster.delete_speaker(index),
                10 => cluster.break_or_mend(index),
                11..13 => {
                    cluster.refuses_pods = !cluster.refuses_pods;
                    cluster.disturb_all();
                }
                13..15 => {
                    cluster.registry_down = !cluster.registry_down;
                    cluster.disturb_all();
                }
                15 => cluster.generation += 1,
                20..80 => cluster.tenants.act(&names, cluster.now),
                _ => {}
            }
            cluster.advance_second();
        }
        cluster.chaos = false;
        (cluster.refuses_pods, cluster.registry_down) = (false, false);
        for node in &mut cluster.nodes {
            (node.up, node.broken) = (true, false);
        }
        cluster.disturb_all();
        cluster.run_until(MAX_DURATION, |cluster| {
            let good = cluster.state.last_good.clone().unwrap_or_default();
            let target = revision(cluster.target);
            let rejected = cluster.state.failed_revision(&cluster.snapshot()).is_some();
            (cluster.is_at_rest() && (good == target || rejected)) || paused(cluster).is_some()
        });
        if paused(&cluster).is_some() {
            // It says what it waits for, and the previous spec ends it.
            let text = cluster.history_text();
            let upgrade = cluster.state.upgrade.as_ref().unwrap();
            assert!(upgrade.waiting_for.is_some(), "seed {seed}\n{text}");
            let from = upgrade.from.clone();
            cluster.ask_for(usize::from(from == revision(1)) + 2 * usize::from(from == revision(2)));
            cluster.run_until(MAX_DURATION, |cluster| {
                cluster.is_at_rest() && cluster.state.last_good.as_ref() == Some(&from)
            });
        }
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
