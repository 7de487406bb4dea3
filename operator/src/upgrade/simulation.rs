//! A cluster that is upgraded by the machine, under a virtual clock, and a user who changes the spec. Many seeds, and what must
//! hold in each.

mod world;

use std::collections::BTreeSet;

use lb_crds::load_balancer_stack::UpgradeOutcome;

use world::{Dice, Image, World, revision};

const LONG: i64 = 5000;

#[test]
fn a_good_upgrade_restarts_each_node_once_and_runs_everywhere() {
    for seed in 0..60 {
        let mut world = World::new(seed, 1 + seed % 6, &[Image::Good, Image::Good]);
        world.settings.max_unavailable = 1 + i32::try_from(seed % 3).unwrap();
        world.ask_for(1);
        world.run_until(LONG, |world| world.memory.last_good == Some(revision(1)));
        world.run_until(60, World::is_at_rest);
        let nodes: BTreeSet<_> = world.restarts.iter().map(|(node, _)| node.clone()).collect();
        assert_eq!(nodes.len(), world.nodes.len(), "seed {seed}\n{}", world.story());
        assert_eq!(
            world.restarts.len(),
            world.nodes.len(),
            "seed {seed}\n{}",
            world.story()
        );
        assert_eq!(world.outcomes(), [UpgradeOutcome::Succeeded]);
    }
}

#[test]
fn a_downgrade_replaces_the_speakers_first() {
    for seed in 0..20 {
        let mut world = World::new(seed, 3, &[Image::Good, Image::Good]);
        world.ask_for(1);
        world.run_until(LONG, |world| world.memory.last_good == Some(revision(1)));
        world.restarts.clear();
        world.ask_for(0);
        world.run_until(LONG, |world| world.memory.last_good == Some(revision(0)));
        world.run_until(60, World::is_at_rest);
        assert_eq!(world.restarts.len(), 3);
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
        let mut world = World::new(seed, 2 + seed % 4, &[Image::Good, image]);
        // Somebody announces; otherwise nobody could tell.
        world.nodes.iter_mut().for_each(|node| node.owns = 1);
        world.speakers.iter_mut().for_each(|pod| pod.pod.owns = 1);
        world.ask_for(1);
        world.run_until(LONG, |world| !world.memory.history.is_empty());
        world.run_until(100, World::is_at_rest);
        assert_eq!(world.outcomes(), [UpgradeOutcome::RolledBack], "{image:?}");
        assert_eq!(world.memory.last_good, Some(revision(0)));
        if image == Image::CannotBePulled {
            assert_eq!(world.restarts, [], "nothing was touched");
        }
        // Not again, until the spec changes.
        for _ in 0..300 {
            world.second();
            assert!(world.memory.upgrade.is_none(), "{image:?}\n{}", world.story());
        }
        world.images[1] = Image::Good;
        world.generation += 1;
        world.run_until(LONG, |world| world.memory.last_good == Some(revision(1)));
    }
}

#[test]
fn while_paused_nothing_happens_and_the_time_does_not_count() {
    for seed in 0..20 {
        let mut world = World::new(seed, 3, &[Image::Good, Image::Good]);
        world.ask_for(1);
        for _ in 0..20 + seed * 3 {
            world.second();
        }
        world.paused = true;
        world.generation += 1;
        let before = (world.restarts.len(), world.speaker_template.clone());
        for _ in 0..1000 {
            world.second();
        }
        assert_eq!((world.restarts.len(), world.speaker_template.clone()), before);
        world.paused = false;
        world.generation += 1;
        world.run_until(LONG, |world| world.memory.last_good == Some(revision(1)));
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
        let mut pick = Dice(seed * 77 + 13);
        let one = images[usize::try_from(pick.roll(6)).unwrap()];
        let two = images[usize::try_from(pick.roll(9)).unwrap() % 6];
        let mut world = World::new(seed, 2 + seed % 5, &[Image::Good, one, two]);
        world.settings.max_unavailable = 1 + i32::try_from(seed % 2).unwrap();
        world.ask_for(1);
        world.chaos = true;
        let until = world.now + 400;
        while world.now < until {
            match pick.roll(400) {
                0..4 => {
                    let index = usize::try_from(pick.roll(20)).unwrap() % world.nodes.len();
                    world.nodes[index].up = !world.nodes[index].up;
                }
                4..6 => world.join(),
                6..8 => world.ask_for(usize::try_from(pick.roll(3)).unwrap()),
                8..10 => {
                    // Somebody deletes a speaker.
                    let index = usize::try_from(pick.roll(20)).unwrap() % world.speakers.len().max(1);
                    let now = world.now;
                    if let Some(pod) = world.speakers.get_mut(index) {
                        pod.gone_at.get_or_insert(now + 1);
                    }
                }
                _ => {}
            }
            world.second();
        }
        world.chaos = false;
        world.nodes.iter_mut().for_each(|node| node.up = true);
        world.run_until(LONG, |world| {
            let good = world.memory.last_good.clone().unwrap_or_default();
            let wish = revision(world.target);
            let rejected = world.memory.rejects(&world.seen()).is_some();
            world.is_at_rest() && (good == wish || rejected)
        });
        // And nothing more is done.
        let before = (world.memory.clone(), world.restarts.len());
        for _ in 0..50 {
            world.second();
        }
        assert_eq!(
            (world.memory.clone(), world.restarts.len()),
            before,
            "seed {seed}"
        );
    }
}
