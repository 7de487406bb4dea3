//! A cluster that is upgraded by the machine, under a virtual clock, and a user who changes the spec. Many seeds, and what must
//! hold in each.

mod cluster;

use std::collections::BTreeSet;

use lb_crds::load_balancer_stack::UpgradeOutcome;

use cluster::{Image, Rng, SimCluster, revision};

const LONG: i64 = 5000;

#[test]
fn a_good_upgrade_restarts_each_node_once_and_runs_everywhere() {
    for seed in 0..60 {
        let mut cluster = SimCluster::new(seed, 1 + seed % 6, &[Image::Good, Image::Good]);
        cluster.settings.max_unavailable = 1 + i32::try_from(seed % 3).unwrap();
        cluster.ask_for(1);
        cluster.run_until(LONG, |cluster| cluster.state.last_good == Some(revision(1)));
        cluster.run_until(60, SimCluster::is_at_rest);
        let nodes: BTreeSet<_> = cluster.restarts.iter().map(|(node, _)| node.clone()).collect();
        assert_eq!(
            nodes.len(),
            cluster.nodes.len(),
            "seed {seed}\n{}",
            cluster.story()
        );
        assert_eq!(
            cluster.restarts.len(),
            cluster.nodes.len(),
            "seed {seed}\n{}",
            cluster.story()
        );
        assert_eq!(cluster.outcomes(), [UpgradeOutcome::Succeeded]);
    }
}

#[test]
fn a_downgrade_replaces_the_speakers_first() {
    for seed in 0..20 {
        let mut cluster = SimCluster::new(seed, 3, &[Image::Good, Image::Good]);
        cluster.ask_for(1);
        cluster.run_until(LONG, |cluster| cluster.state.last_good == Some(revision(1)));
        cluster.restarts.clear();
        cluster.ask_for(0);
        cluster.run_until(LONG, |cluster| cluster.state.last_good == Some(revision(0)));
        cluster.run_until(60, SimCluster::is_at_rest);
        assert_eq!(cluster.restarts.len(), 3);
    }
}

#[test]
fn each_broken_image_is_rolled_back_by_itself_and_not_tried_again() {
    let broken = [
        Image::CannotBePulled,
        Image::Crashes,
        Image::NeverAnswers,
        Image::DiesAfter(10),
        Image::DiesAfter(30),
        Image::NeverReady,
    ];
    for seed in 0..60 {
        let image = broken[usize::try_from(seed).unwrap() % broken.len()];
        let mut cluster = SimCluster::new(seed, 2 + seed % 4, &[Image::Good, image]);
        // Somebody announces; otherwise nobody could tell.
        cluster
            .nodes
            .iter_mut()
            .for_each(|node| node.announced_services = 1);
        cluster
            .speakers
            .iter_mut()
            .for_each(|pod| pod.pod.announced_services = 1);
        cluster.ask_for(1);
        cluster.run_until(LONG, |cluster| !cluster.state.history.is_empty());
        cluster.run_until(100, SimCluster::is_at_rest);
        assert_eq!(cluster.outcomes(), [UpgradeOutcome::RolledBack], "{image:?}");
        assert_eq!(cluster.state.last_good, Some(revision(0)));
        if image == Image::CannotBePulled {
            assert_eq!(cluster.restarts, [], "nothing was touched");
        }
        // Not again, until the spec changes.
        for _ in 0..300 {
            cluster.second();
            assert!(cluster.state.upgrade.is_none(), "{image:?}\n{}", cluster.story());
        }
        cluster.images[1] = Image::Good;
        cluster.generation += 1;
        cluster.run_until(LONG, |cluster| cluster.state.last_good == Some(revision(1)));
    }
}

#[test]
fn while_paused_nothing_happens_and_the_time_does_not_count() {
    for seed in 0..20 {
        let mut cluster = SimCluster::new(seed, 3, &[Image::Good, Image::Good]);
        cluster.ask_for(1);
        for _ in 0..20 + seed * 3 {
            cluster.second();
        }
        cluster.paused = true;
        cluster.generation += 1;
        let before = (cluster.restarts.len(), cluster.speaker_template.clone());
        for _ in 0..1000 {
            cluster.second();
        }
        assert_eq!((cluster.restarts.len(), cluster.speaker_template.clone()), before);
        cluster.paused = false;
        cluster.generation += 1;
        cluster.run_until(LONG, |cluster| cluster.state.last_good == Some(revision(1)));
    }
}

#[test]
fn whatever_happens_it_ends_with_the_wish_or_with_what_was_good() {
    let images = [
        Image::Good,
        Image::Crashes,
        Image::NeverAnswers,
        Image::DiesAfter(25),
        Image::NeverReady,
        Image::CannotBePulled,
    ];
    for seed in 0..400 {
        let mut pick = Rng(seed * 77 + 13);
        let one = images[usize::try_from(pick.roll(6)).unwrap()];
        let two = images[usize::try_from(pick.roll(9)).unwrap() % 6];
        let mut cluster = SimCluster::new(seed, 2 + seed % 5, &[Image::Good, one, two]);
        cluster.settings.max_unavailable = 1 + i32::try_from(seed % 2).unwrap();
        cluster.ask_for(1);
        cluster.chaos = true;
        let until = cluster.now + 400;
        while cluster.now < until {
            match pick.roll(400) {
                0..4 => {
                    let index = usize::try_from(pick.roll(20)).unwrap() % cluster.nodes.len();
                    cluster.nodes[index].up = !cluster.nodes[index].up;
                }
                4..6 => cluster.join(),
                6..8 => cluster.ask_for(usize::try_from(pick.roll(3)).unwrap()),
                8..10 => {
                    // Somebody deletes a speaker.
                    let index = usize::try_from(pick.roll(20)).unwrap() % cluster.speakers.len().max(1);
                    let now = cluster.now;
                    if let Some(pod) = cluster.speakers.get_mut(index) {
                        pod.gone_at.get_or_insert(now + 1);
                    }
                }
                _ => {}
            }
            cluster.second();
        }
        cluster.chaos = false;
        cluster.nodes.iter_mut().for_each(|node| node.up = true);
        cluster.run_until(LONG, |cluster| {
            let good = cluster.state.last_good.clone().unwrap_or_default();
            let wish = revision(cluster.target);
            let rejected = cluster.state.failed_revision(&cluster.snapshot()).is_some();
            cluster.is_at_rest() && (good == wish || rejected)
        });
        // And nothing more is done.
        let before = (cluster.state.clone(), cluster.restarts.len());
        for _ in 0..50 {
            cluster.second();
        }
        assert_eq!(
            (cluster.state.clone(), cluster.restarts.len()),
            before,
            "seed {seed}"
        );
    }
}
