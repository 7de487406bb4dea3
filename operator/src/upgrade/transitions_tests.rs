//! A table of cases: in which step, what is seen, and what follows.

use jiff::Timestamp;
use lb_crds::load_balancer_stack::{Revision, UpgradeOutcome, UpgradeStep as Step};

use super::state::{Memory, begin, enter};
use super::{
    Choice, Controllers, Pod, PrePull, Rules, Seen, Settings, Speakers, Unanswered, advance, orders,
};

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_000_000 + second).unwrap()
}

fn mk_revision(name: &str, version: &str) -> Revision {
    Revision {
        version: version.to_owned(),
        revision: name.to_owned(),
        controller: format!("{name}-c"),
        speaker: format!("{name}-s"),
    }
}

fn mk_speaker(node: &str, revision: &str) -> Pod {
    Pod {
        name: format!("speaker-{node}"),
        uid: format!("{node}-{revision}"),
        node: node.to_owned(),
        revision: revision.to_owned(),
        ready: true,
        ready_since: Some(at(-1000)),
        owns: 1,
        ..Pod::default()
    }
}

/// Three nodes that run `old`, and a spec that asks for `new`.
fn mk_seen() -> Seen {
    let controller = |name: &str| Pod {
        owns: 0,
        ..mk_speaker(name, "old-c")
    };
    Seen {
        target: mk_revision("new", "0.2.0"),
        generation: 2,
        operator_version: "0.2.0".to_owned(),
        paused: false,
        settings: Settings::of(None),
        obstacle: None,
        ledger: Some("l".to_owned()),
        moved: Vec::new(),
        unanswered: Vec::new(),
        kinds: true,
        kinds_refused: None,
        permissions: true,
        former_known: true,
        controllers: Controllers {
            template: Some("old-c".to_owned()),
            settled: true,
            leads: true,
            pods: vec![controller("n1"), controller("n2")],
        },
        speakers: Speakers {
            template: Some("old-s".to_owned()),
            on_delete: true,
            observed: true,
            settled: true,
            desired: 3,
            pods: ["n1", "n2", "n3"].map(|node| mk_speaker(node, "old-s")).to_vec(),
        },
        pre_pull: None,
    }
}

fn mk_memory(step: Step) -> Memory {
    let old = mk_revision("old", "0.1.0");
    let mut upgrade = begin(&old, &mk_seen(), at(0));
    if step != Step::Preflight {
        enter(&mut upgrade, step, "", at(0));
    }
    Memory {
        last_good: Some(old),
        upgrade: Some(upgrade),
        ..Memory::default()
    }
}

fn step_of(memory: &Memory) -> Option<Step> {
    memory.upgrade.as_ref().map(|upgrade| upgrade.step)
}

/// Where one call leads from a step.
fn leads(step: Step, change: impl FnOnce(&mut Seen), second: i64) -> (Option<Step>, Memory) {
    let mut seen = mk_seen();
    change(&mut seen);
    let (next, _) = advance(&mk_memory(step), &seen, at(second));
    (step_of(&next), next)
}

fn with_new_controllers(seen: &mut Seen) {
    seen.controllers.template = Some("new-c".to_owned());
    for pod in &mut seen.controllers.pods {
        pod.revision = "new-c".to_owned();
    }
}

fn with_new_speakers(seen: &mut Seen, ready_at: i64) {
    with_new_controllers(seen);
    seen.speakers.template = Some("new-s".to_owned());
    for pod in &mut seen.speakers.pods {
        pod.revision = "new-s".to_owned();
        pod.ready_since = Some(at(ready_at));
    }
}

#[test]
fn each_step_is_left_for_the_next_when_it_is_done_and_not_before() {
    type Change = fn(&mut Seen);
    let cases: [(Step, Change, i64, Step); 15] = [
        (Step::Preflight, |_| {}, 1, Step::PrePull),
        (Step::Preflight, |seen| seen.ledger = None, 1, Step::Preflight),
        (
            Step::Preflight,
            |seen| seen.obstacle = Some("no".to_owned()),
            9999,
            Step::Preflight,
        ),
        (Step::PrePull, |_| {}, 1, Step::PrePull),
        (
            Step::PrePull,
            |seen| {
                seen.pre_pull = Some(PrePull {
                    revision: "new".to_owned(),
                    desired: 3,
                    done: 3,
                    failed: None,
                });
            },
            1,
            Step::Crds,
        ),
        (Step::Crds, |_| {}, 1, Step::Rbac),
        (Step::Crds, |seen| seen.kinds = false, 1, Step::Crds),
        (Step::Rbac, |_| {}, 1, Step::Controller),
        (Step::Controller, |_| {}, 1, Step::Controller),
        (Step::Controller, with_new_controllers, 1, Step::Canary),
        (
            Step::Controller,
            |seen| {
                with_new_controllers(seen);
                seen.controllers.leads = false;
            },
            1,
            Step::Controller,
        ),
        (
            Step::Speakers,
            |seen| with_new_speakers(seen, 1),
            20,
            Step::Verify,
        ),
        (
            Step::Speakers,
            |seen| with_new_speakers(seen, 15),
            20,
            Step::Speakers,
        ),
        (Step::Verify, |seen| with_new_speakers(seen, 1), 59, Step::Verify),
        (Step::Verify, |seen| with_new_speakers(seen, 1), 60, Step::Finish),
    ];
    for (number, (step, change, second, expected)) in cases.into_iter().enumerate() {
        assert_eq!(
            leads(step, change, second).0,
            Some(expected),
            "case {number}: {step:?}"
        );
    }
}

#[test]
fn each_failed_proof_leads_back_and_says_why() {
    type Change = fn(&mut Seen);
    let cases: [(Step, Change, i64, &str); 7] = [
        (
            Step::PrePull,
            |seen| {
                seen.pre_pull = Some(PrePull {
                    revision: "new".to_owned(),
                    desired: 3,
                    done: 0,
                    failed: Some("node n3: ErrImagePull".to_owned()),
                });
            },
            40,
            "node n3: ErrImagePull",
        ),
        (
            Step::Crds,
            |seen| seen.kinds_refused = Some("it would drop v1".to_owned()),
            1,
            "drop v1",
        ),
        (
            Step::Controller,
            |seen| {
                with_new_controllers(seen);
                seen.controllers.pods[0].restarts = 1;
            },
            1,
            "pod speaker-n1 on node n1 failed",
        ),
        (
            Step::Controller,
            |seen| seen.moved = vec!["web had a".to_owned()],
            1,
            "web had a",
        ),
        (
            Step::Soak,
            |seen| {
                seen.speakers.pods[1].revision = "new-s".to_owned();
                seen.unanswered = vec![Unanswered {
                    node: "n2".to_owned(),
                    message: "web is not answered".to_owned(),
                    since: at(5),
                }];
            },
            6,
            "web is not answered",
        ),
        (
            Step::Speakers,
            |seen| {
                with_new_speakers(seen, 1);
                seen.speakers.pods[2].restarts = 1;
                seen.speakers.pods[2].trouble = Some("CrashLoopBackOff".to_owned());
                seen.speakers.pods[2].ready = false;
            },
            31,
            "node n3 failed and was restarted once: CrashLoopBackOff",
        ),
        (Step::Canary, |_| {}, 700, "no progress in step Canary"),
    ];
    for (step, change, second, expected) in cases {
        let (now, next) = leads(step, change, second);
        assert_eq!(now, Some(Step::RollingBack), "{step:?}");
        let failure = next.upgrade.unwrap().failure.unwrap();
        assert!(failure.contains(expected), "{failure}");
    }
}

#[test]
fn what_was_silent_before_or_runs_what_ran_before_is_not_held_against_the_upgrade() {
    for (node, since) in [("n2", -5), ("n1", 5)] {
        let (now, _) = leads(
            Step::Soak,
            |seen| {
                seen.speakers.pods[1].revision = "new-s".to_owned();
                seen.unanswered = vec![Unanswered {
                    node: node.to_owned(),
                    message: String::new(),
                    since: at(since),
                }];
            },
            6,
        );
        assert_ne!(now, Some(Step::RollingBack), "{node} {since}");
    }
}

#[test]
fn an_upgrade_that_is_to_pause_stays_as_it_is_until_the_spec_changes() {
    let mut seen = mk_seen();
    seen.settings.rollback = false;
    seen.moved = vec!["web had a".to_owned()];
    let (next, _) = advance(&mk_memory(Step::Controller), &seen, at(1));
    let held = next.upgrade.clone().unwrap();
    assert!(held.paused && held.step == Step::Controller);
    assert_eq!(next.history.last().unwrap().outcome, UpgradeOutcome::Paused);
    let (same, news) = advance(&next, &seen, at(9999));
    assert_eq!((same, news), (next.clone(), Vec::new()));
    assert_eq!(orders(&next, &seen, at(2)).restart, []);
    seen.generation += 1;
    seen.moved.clear();
    let (resumed, _) = advance(&next, &seen, at(9999));
    assert!(!resumed.upgrade.unwrap().paused);
}

#[test]
fn the_canary_gets_the_new_template_alone() {
    let mut memory = mk_memory(Step::Canary);
    let mut seen = mk_seen();
    with_new_controllers(&mut seen);
    // The first that announces nothing.
    seen.speakers.pods[1].owns = 0;
    memory = advance(&memory, &seen, at(1)).0;
    assert_eq!(
        memory.upgrade.as_ref().unwrap().canary_node.as_deref(),
        Some("n2")
    );
    let now = orders(&memory, &seen, at(1));
    assert_eq!(
        (now.speaker, now.on_delete, now.restart.len()),
        (Choice::New, true, 0)
    );
    // The DaemonSet has the template, and its controller knows.
    seen.speakers.template = Some("new-s".to_owned());
    let restart = orders(&memory, &seen, at(2)).restart;
    assert_eq!(
        restart.iter().map(|pod| pod.node.as_str()).collect::<Vec<_>>(),
        ["n2"]
    );
    // Its successor exists: the template is the former one again.
    seen.speakers.pods[1] = Pod {
        ready: false,
        ready_since: None,
        ..mk_speaker("n2", "new-s")
    };
    let now = orders(&memory, &seen, at(3));
    assert_eq!((now.speaker, now.restart.len()), (Choice::Former, 0));
    seen.speakers.template = Some("old-s".to_owned());
    assert_eq!(step_of(&advance(&memory, &seen, at(3)).0), Some(Step::Canary));
    seen.speakers.pods[1].ready = true;
    seen.speakers.pods[1].ready_since = Some(at(4));
    memory = advance(&memory, &seen, at(4)).0;
    assert_eq!(step_of(&memory), Some(Step::Soak));
    assert_eq!(step_of(&advance(&memory, &seen, at(63)).0), Some(Step::Soak));
    assert_eq!(step_of(&advance(&memory, &seen, at(64)).0), Some(Step::Speakers));
    // Its node dies: another one is chosen.
    seen.speakers.pods[1].lost = true;
    memory = advance(&memory, &seen, at(63)).0;
    assert_eq!(step_of(&memory), Some(Step::Canary));
    memory = advance(&memory, &seen, at(63)).0;
    assert_eq!(memory.upgrade.unwrap().canary_node.as_deref(), Some("n1"));
}

#[test]
fn the_spec_changes_in_the_middle() {
    let mut seen = mk_seen();
    seen.target = mk_revision("old", "0.1.0");
    let (back, _) = advance(&mk_memory(Step::Speakers), &seen, at(5));
    let upgrade = back.upgrade.clone().unwrap();
    assert!(upgrade.step == Step::RollingBack && upgrade.superseded);
    seen.speakers.on_delete = false;
    let (over, _) = advance(&back, &seen, at(6));
    assert_eq!(over.upgrade, None);
    assert_eq!(over.history.last().unwrap().outcome, UpgradeOutcome::Superseded);
    assert_eq!(over.failed_revisions, [], "it has not failed");

    seen.target = mk_revision("third", "0.2.1");
    let (third, _) = advance(&mk_memory(Step::Speakers), &seen, at(5));
    let upgrade = third.upgrade.unwrap();
    assert_eq!(
        (upgrade.step, upgrade.from.revision.as_str()),
        (Step::Preflight, "old")
    );
    assert_eq!(upgrade.to.revision, "third");
}

#[test]
fn a_plan_waits_for_approval_and_changes_nothing() {
    let mut seen = mk_seen();
    seen.settings.manual = true;
    let memory = Memory {
        last_good: Some(mk_revision("old", "0.1.0")),
        ..Memory::default()
    };
    let (waits, _) = advance(&memory, &seen, at(1));
    assert_eq!(waits, memory);
    let now = orders(&waits, &seen, at(1));
    assert!(now.waits && !now.kinds && now.rules == Rules::Former && now.speaker == Choice::Former);
    seen.settings.approved_plan = Some(memory.plan_hash(&seen));
    assert_eq!(step_of(&advance(&memory, &seen, at(1)).0), Some(Step::Preflight));
    seen.target = mk_revision("other", "0.2.1");
    assert_eq!(step_of(&advance(&memory, &seen, at(1)).0), None, "another plan");
}

#[test]
fn the_way_back_begins_with_the_speakers_and_ends_with_a_rejection() {
    let mut memory = mk_memory(Step::RollingBack);
    memory.upgrade.as_mut().unwrap().failure = Some("it broke".to_owned());
    let mut seen = mk_seen();
    with_new_speakers(&mut seen, 1);
    let now = orders(&memory, &seen, at(2));
    assert_eq!(
        (now.speaker, now.controller, now.restart.len()),
        (Choice::Former, Choice::Kept, 0)
    );
    seen.speakers.template = Some("old-s".to_owned());
    assert_eq!(orders(&memory, &seen, at(2)).restart.len(), 1);
    for pod in &mut seen.speakers.pods {
        pod.revision = "old-s".to_owned();
    }
    let now = orders(&memory, &seen, at(3));
    assert_eq!((now.controller, now.on_delete), (Choice::Former, true));
    seen.controllers = mk_seen().controllers;
    assert!(!orders(&memory, &seen, at(4)).on_delete);
    seen.speakers.on_delete = false;
    let (over, news) = advance(&memory, &seen, at(5));
    assert_eq!(over.upgrade, None);
    assert_eq!(news[0].reason, "RolledBack");
    assert!(over.rejects(&seen).is_some());
    assert_eq!(advance(&over, &seen, at(6)).0, over, "it is not tried again");
    assert_eq!(orders(&over, &seen, at(6)).speaker, Choice::Former);
    seen.generation += 1;
    assert_eq!(step_of(&advance(&over, &seen, at(7)).0), Some(Step::Preflight));
}
