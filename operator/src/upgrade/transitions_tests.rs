//! Tables of steps and snapshots with the transitions that follow.

use jiff::Timestamp;
use lb_crds::load_balancer_stack::{OnFailure, PauseReason, Revision, UpgradeOutcome, UpgradeStep as Step};

use super::state::{UpgradeState, enter_step, start_upgrade};
use super::{
    ClusterSnapshot, ControllerSnapshot, FailedVerification, NodeSnapshot, PodSnapshot, PrePullSnapshot,
    RoleRules, SpeakerSnapshot, TemplateSource, UpgradeSettings, advance, step_actions,
};
use crate::reasons::Reason;

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

fn mk_speaker(node: &str, revision: &str) -> PodSnapshot {
    PodSnapshot {
        name: format!("speaker-{node}"),
        uid: format!("{node}-{revision}"),
        node: node.to_owned(),
        revision: revision.to_owned(),
        ready: true,
        ready_since: Some(at(-1000)),
        announced_services: 1,
        ..PodSnapshot::default()
    }
}

const NODE: NodeSnapshot = NodeSnapshot {
    reachable: true,
    served: true,
    served_before: true,
};

fn mk_pulled(nodes: &[&str], pending: &[(&str, Option<&str>)]) -> PrePullSnapshot {
    let pending = pending
        .iter()
        .map(|(node, why)| ((*node).to_owned(), why.map(str::to_owned)));
    PrePullSnapshot {
        revision: "new".to_owned(),
        done: i32::try_from(nodes.len()).unwrap(),
        pending: pending.collect(),
        ..PrePullSnapshot::default()
    }
}

/// Three nodes that run `old`, and a spec with `new`.
fn mk_snapshot() -> ClusterSnapshot {
    let controller = |name: &str| PodSnapshot {
        announced_services: 0,
        ..mk_speaker(name, "old-c")
    };
    ClusterSnapshot {
        target: mk_revision("new", "0.2.0"),
        generation: 2,
        operator_version: "0.2.0".to_owned(),
        paused: false,
        settings: UpgradeSettings::of(None),
        obstacle: None,
        observes: true,
        addresses_at_risk: Vec::new(),
        failing_writes: Vec::new(),
        refused_pods: Vec::new(),
        announces: true,
        nodes: ["n1", "n2", "n3"].map(|name| (name.to_owned(), NODE)).into(),
        changed_addresses: Vec::new(),
        failed_verifications: Vec::new(),
        crds_applied: true,
        crds_refused: None,
        rbac_applied: true,
        rollback_available: true,
        controllers: ControllerSnapshot {
            template: Some("old-c".to_owned()),
            version: Some("0.1.0".to_owned()),
            settled: true,
            has_leader: true,
            pods: vec![controller("n1"), controller("n2")],
        },
        speakers: SpeakerSnapshot {
            template: Some("old-s".to_owned()),
            on_delete: true,
            observed: true,
            desired: 3,
            pods: ["n1", "n2", "n3"].map(|node| mk_speaker(node, "old-s")).to_vec(),
        },
        pre_pull: None,
    }
}

fn mk_state(step: Step) -> UpgradeState {
    let old = mk_revision("old", "0.1.0");
    let mut upgrade = start_upgrade(&old, &mk_snapshot(), at(0));
    if step != Step::Preflight {
        upgrade.healthy_nodes = ["n1", "n2", "n3"].map(str::to_owned).to_vec();
        enter_step(&mut upgrade, step, "", at(0));
    }
    UpgradeState {
        last_good: Some(old),
        upgrade: Some(upgrade),
        ..UpgradeState::default()
    }
}

fn step_of(state: &UpgradeState) -> Option<Step> {
    state.upgrade.as_ref().map(|upgrade| upgrade.step)
}

/// The step after one transition.
fn leads(step: Step, change: impl FnOnce(&mut ClusterSnapshot), second: i64) -> (Option<Step>, UpgradeState) {
    let mut snapshot = mk_snapshot();
    change(&mut snapshot);
    let (next, _) = advance(&mk_state(step), &snapshot, at(second));
    (step_of(&next), next)
}

fn with_new_controllers(snapshot: &mut ClusterSnapshot) {
    snapshot.controllers.template = Some("new-c".to_owned());
    for pod in &mut snapshot.controllers.pods {
        pod.revision = "new-c".to_owned();
    }
}

fn with_new_speakers(snapshot: &mut ClusterSnapshot, ready_at: i64) {
    with_new_controllers(snapshot);
    snapshot.speakers.template = Some("new-s".to_owned());
    for pod in &mut snapshot.speakers.pods {
        pod.revision = "new-s".to_owned();
        pod.ready_since = Some(at(ready_at));
    }
}

/// The canary runs on n2; `by` receives no reply from `node`.
fn with_failed_verification(snapshot: &mut ClusterSnapshot, node: &str, by: &str, message: &str) {
    snapshot.speakers.pods[1].revision = "new-s".to_owned();
    snapshot.speakers.pods[1].ready_since = Some(at(0));
    snapshot.failed_verifications = vec![FailedVerification {
        node: node.to_owned(),
        verified_by: by.to_owned(),
        message: message.to_owned(),
        since: at(5),
    }];
}

#[test]
fn step_ends_only_when_complete() {
    type Change = fn(&mut ClusterSnapshot);
    let cases: [(Step, Change, i64, Step); 15] = [
        (Step::Preflight, |_| {}, 1, Step::PrePull),
        (
            Step::Preflight,
            |snapshot| snapshot.observes = false,
            1,
            Step::Preflight,
        ),
        (
            Step::Preflight,
            |snapshot| snapshot.obstacle = Some("no".to_owned()),
            9999,
            Step::Preflight,
        ),
        (Step::PrePull, |_| {}, 1, Step::PrePull),
        (
            Step::PrePull,
            |snapshot| {
                snapshot.pre_pull = Some(mk_pulled(&["n1", "n2", "n3"], &[]));
            },
            1,
            Step::Crds,
        ),
        (Step::Crds, |_| {}, 1, Step::Rbac),
        (
            Step::Crds,
            |snapshot| snapshot.crds_applied = false,
            1,
            Step::Crds,
        ),
        (Step::Rbac, |_| {}, 1, Step::Controller),
        (Step::Controller, |_| {}, 1, Step::Controller),
        (Step::Controller, with_new_controllers, 1, Step::Canary),
        (
            Step::Controller,
            |snapshot| {
                with_new_controllers(snapshot);
                snapshot.controllers.has_leader = false;
            },
            1,
            Step::Controller,
        ),
        (
            Step::Speakers,
            |snapshot| with_new_speakers(snapshot, 1),
            20,
            Step::Verify,
        ),
        (
            Step::Speakers,
            |snapshot| with_new_speakers(snapshot, 15),
            20,
            Step::Speakers,
        ),
        (
            Step::Verify,
            |snapshot| with_new_speakers(snapshot, 1),
            59,
            Step::Verify,
        ),
        (
            Step::Verify,
            |snapshot| with_new_speakers(snapshot, 1),
            60,
            Step::Finish,
        ),
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
fn failed_health_check_rolls_back_with_reason() {
    type Change = fn(&mut ClusterSnapshot);
    let cases: [(Step, Change, i64, &str); 8] = [
        (
            Step::PrePull,
            |snapshot| {
                let mut pulled = mk_pulled(&[], &[("n3", Some("exec format error"))]);
                pulled.unusable = [("n3".to_owned(), "exec format error".to_owned())].into();
                snapshot.pre_pull = Some(pulled);
            },
            40,
            "image does not run on node n3: exec format error",
        ),
        (
            Step::Crds,
            |snapshot| snapshot.crds_refused = Some("it would drop v1".to_owned()),
            1,
            "drop v1",
        ),
        (
            Step::Controller,
            |snapshot| {
                with_new_controllers(snapshot);
                snapshot.controllers.pods[0].restarts = 1;
                snapshot.controllers.pods[0].restarted_at = Some(at(1));
            },
            1,
            "pod speaker-n1 on node n1 failed",
        ),
        (
            Step::Controller,
            |snapshot| snapshot.changed_addresses = vec!["web had a".to_owned()],
            1,
            "web had a",
        ),
        (
            Step::Soak,
            |snapshot| with_failed_verification(snapshot, "n2", "n3", "web is not answered"),
            6,
            "web is not answered",
        ),
        // The canary is deaf: it receives no reply from a speaker that others could reach.
        (
            Step::Soak,
            |snapshot| with_failed_verification(snapshot, "n1", "n2", "node n2 received no reply"),
            6,
            "node n2 received no reply",
        ),
        (
            Step::Speakers,
            |snapshot| {
                with_new_speakers(snapshot, 1);
                snapshot.speakers.pods[2].restarts = 1;
                snapshot.speakers.pods[2].restarted_at = Some(at(10));
                snapshot.speakers.pods[2].problem = Some("CrashLoopBackOff".to_owned());
                snapshot.speakers.pods[2].ready = false;
            },
            31,
            "node n3 failed and restarted once: CrashLoopBackOff",
        ),
        (
            Step::Canary,
            |snapshot| {
                snapshot.speakers.pods[1].revision = "new-s".to_owned();
                snapshot.speakers.pods[1].ready = false;
            },
            700,
            "no progress in step Canary for 700 s: pod speaker-n2 on node n2: not ready",
        ),
    ];
    for (step, change, second, expected) in cases {
        let (now, next) = leads(step, change, second);
        assert_eq!(now, Some(Step::RollingBack), "{step:?}");
        let failure = next.upgrade.unwrap().failure.unwrap();
        assert!(failure.contains(expected), "{failure}");
    }
}

#[test]
fn earlier_or_unrelated_failures_are_ignored() {
    for (node, since) in [("n2", -5), ("n1", 5)] {
        let (now, _) = leads(
            Step::Soak,
            |snapshot| {
                snapshot.speakers.pods[1].revision = "new-s".to_owned();
                snapshot.speakers.pods[1].ready_since = Some(at(0));
                snapshot.failed_verifications = vec![FailedVerification {
                    node: node.to_owned(),
                    verified_by: "n3".to_owned(),
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
fn paused_upgrade_waits_for_spec_change() {
    let mut snapshot = mk_snapshot();
    snapshot.settings.on_failure = OnFailure::Pause;
    snapshot.changed_addresses = vec!["web had a".to_owned()];
    let (next, _) = advance(&mk_state(Step::Controller), &snapshot, at(1));
    let held = next.upgrade.clone().unwrap();
    assert_eq!(
        (held.paused, held.step),
        (Some(PauseReason::HealthCheckFailed), Step::Controller)
    );
    assert_eq!(next.history.last().unwrap().outcome, UpgradeOutcome::Paused);
    let (same, events) = advance(&next, &snapshot, at(9999));
    assert_eq!((same, events), (next.clone(), Vec::new()));
    assert_eq!(step_actions(&next, &snapshot, at(2)).restarts, []);
    snapshot.generation += 1;
    snapshot.changed_addresses.clear();
    let (resumed, _) = advance(&next, &snapshot, at(9999));
    assert_eq!(resumed.upgrade.unwrap().paused, None);
}

/// A pause that was lifted at each pass would begin again after each deadline, with an event each time.
#[test]
fn pause_lasts_until_its_cause_is_over() {
    let refused = "controller pods are refused: exceeded quota";
    for (cause, reason) in [
        (vec![], PauseReason::NoProgress),
        (vec![refused.to_owned()], PauseReason::Infrastructure),
    ] {
        let mut snapshot = mk_snapshot();
        snapshot.refused_pods = cause;
        let (mut state, events) = advance(&mk_state(Step::Controller), &snapshot, at(700));
        assert_eq!(events.len(), 1);
        let waits = state.upgrade.clone().unwrap().waiting_for.unwrap();
        assert_eq!(
            waits.contains(refused),
            !snapshot.refused_pods.is_empty(),
            "{waits}"
        );
        for second in 701..2000 {
            let (next, events) = advance(&state, &snapshot, at(second));
            assert_eq!(next.upgrade.as_ref().unwrap().paused, Some(reason));
            assert_eq!(events, []);
            state = next;
        }
        snapshot.refused_pods.clear();
        with_new_controllers(&mut snapshot);
        let (next, _) = advance(&state, &snapshot, at(2000));
        assert_eq!(next.upgrade.unwrap().paused, None);
    }
}

#[test]
fn only_the_canary_gets_the_new_template() {
    let mut state = mk_state(Step::Canary);
    let mut snapshot = mk_snapshot();
    with_new_controllers(&mut snapshot);
    // The first speaker that announces nothing.
    snapshot.speakers.pods[1].announced_services = 0;
    state = advance(&state, &snapshot, at(1)).0;
    assert_eq!(state.upgrade.as_ref().unwrap().canary_node.as_deref(), Some("n2"));
    let now = step_actions(&state, &snapshot, at(1));
    assert_eq!(
        (now.speaker, now.on_delete, now.restarts.len()),
        (TemplateSource::Canary, true, 0)
    );
    // The DaemonSet has the template, and its controller has observed it.
    snapshot.speakers.template = Some("new-s".to_owned());
    let restart = step_actions(&state, &snapshot, at(2)).restarts;
    assert_eq!(
        restart.iter().map(|pod| pod.node.as_str()).collect::<Vec<_>>(),
        ["n2"]
    );
    // Its replacement exists: the template is the previous one again.
    snapshot.speakers.pods[1] = PodSnapshot {
        ready: false,
        ready_since: None,
        ..mk_speaker("n2", "new-s")
    };
    let now = step_actions(&state, &snapshot, at(3));
    assert_eq!((now.speaker, now.restarts.len()), (TemplateSource::Previous, 0));
    snapshot.speakers.template = Some("old-s".to_owned());
    assert_eq!(step_of(&advance(&state, &snapshot, at(3)).0), Some(Step::Canary));
    snapshot.speakers.pods[1].ready = true;
    snapshot.speakers.pods[1].ready_since = Some(at(4));
    state = advance(&state, &snapshot, at(4)).0;
    assert_eq!(step_of(&state), Some(Step::Soak));
    assert_eq!(step_of(&advance(&state, &snapshot, at(63)).0), Some(Step::Soak));
    assert_eq!(
        step_of(&advance(&state, &snapshot, at(64)).0),
        Some(Step::Speakers)
    );
    // Its node fails: another canary is selected.
    snapshot.speakers.pods[1].lost = true;
    state = advance(&state, &snapshot, at(63)).0;
    assert_eq!(step_of(&state), Some(Step::Canary));
    state = advance(&state, &snapshot, at(63)).0;
    assert_eq!(state.upgrade.unwrap().canary_node.as_deref(), Some("n1"));
}

#[test]
fn spec_change_supersedes_upgrade() {
    let mut snapshot = mk_snapshot();
    snapshot.target = mk_revision("old", "0.1.0");
    let (back, _) = advance(&mk_state(Step::Speakers), &snapshot, at(5));
    let upgrade = back.upgrade.clone().unwrap();
    assert!(upgrade.step == Step::RollingBack && upgrade.superseded);
    snapshot.speakers.on_delete = false;
    let (over, _) = advance(&back, &snapshot, at(6));
    assert_eq!(over.upgrade, None);
    assert_eq!(over.history.last().unwrap().outcome, UpgradeOutcome::Superseded);
    assert_eq!(over.failed_revisions, [], "it has not failed");

    snapshot.target = mk_revision("third", "0.2.1");
    let (third, _) = advance(&mk_state(Step::Speakers), &snapshot, at(5));
    let upgrade = third.upgrade.unwrap();
    assert_eq!(
        (upgrade.step, upgrade.from.revision.as_str()),
        (Step::Preflight, "old")
    );
    assert_eq!(upgrade.to.revision, "third");
}

#[test]
fn unapproved_plan_changes_nothing() {
    let mut snapshot = mk_snapshot();
    snapshot.settings.needs_approval = true;
    let state = UpgradeState {
        last_good: Some(mk_revision("old", "0.1.0")),
        ..UpgradeState::default()
    };
    let (waits, _) = advance(&state, &snapshot, at(1));
    assert_eq!(waits, state);
    let now = step_actions(&waits, &snapshot, at(1));
    assert!(
        now.needs_approval
            && !now.apply_crds
            && now.rules == RoleRules::Previous
            && now.speaker == TemplateSource::Previous
    );
    snapshot.settings.approved_plan = Some(state.plan_hash(&snapshot));
    assert_eq!(
        step_of(&advance(&state, &snapshot, at(1)).0),
        Some(Step::Preflight)
    );
    snapshot.target = mk_revision("other", "0.2.1");
    assert_eq!(
        step_of(&advance(&state, &snapshot, at(1)).0),
        None,
        "another config"
    );
}

#[test]
fn rollback_restores_speakers_first() {
    let mut state = mk_state(Step::RollingBack);
    state.upgrade.as_mut().unwrap().failure = Some("it broke".to_owned());
    let mut snapshot = mk_snapshot();
    with_new_speakers(&mut snapshot, 1);
    let now = step_actions(&state, &snapshot, at(2));
    assert_eq!(
        (now.speaker, now.controller, now.restarts.len()),
        (TemplateSource::Previous, TemplateSource::Current, 0)
    );
    snapshot.speakers.template = Some("old-s".to_owned());
    assert_eq!(step_actions(&state, &snapshot, at(2)).restarts.len(), 1);
    for pod in &mut snapshot.speakers.pods {
        pod.revision = "old-s".to_owned();
    }
    let now = step_actions(&state, &snapshot, at(3));
    assert_eq!((now.controller, now.on_delete), (TemplateSource::Previous, true));
    snapshot.controllers = mk_snapshot().controllers;
    assert!(!step_actions(&state, &snapshot, at(4)).on_delete);
    snapshot.speakers.on_delete = false;
    let (over, events) = advance(&state, &snapshot, at(5));
    assert_eq!(over.upgrade, None);
    assert_eq!(events[0].reason, Reason::RolledBack);
    assert!(over.failed_revision(&snapshot).is_some());
    assert_eq!(advance(&over, &snapshot, at(6)).0, over, "it is not tried again");
    assert_eq!(
        step_actions(&over, &snapshot, at(6)).speaker,
        TemplateSource::Previous
    );
    snapshot.generation += 1;
    assert_eq!(
        step_of(&advance(&over, &snapshot, at(7)).0),
        Some(Step::Preflight)
    );
}

/// O-14: one node of three is ready for as long as the stack exists; later changes are upgrades all the same.
#[test]
fn first_installation_is_good_with_one_ready_speaker() {
    for (ready, good) in [(1, true), (0, false)] {
        let mut snapshot = mk_snapshot();
        with_new_speakers(&mut snapshot, 1);
        for pod in &mut snapshot.speakers.pods[ready..] {
            pod.ready = false;
        }
        let (next, _) = advance(&UpgradeState::default(), &snapshot, at(10));
        assert_eq!(next.last_good.is_some(), good, "{ready} ready");
    }
}

/// A controller that waits for a node has nothing to do with the speakers that are rolled back.
#[test]
fn pending_controller_does_not_block_the_rollback_of_speakers() {
    for (version, controller, waits) in [
        ("0.1.0", "old-c", false),
        ("0.0.9", "old-c", false),
        ("0.0.9", "new-c", true),
    ] {
        let mut snapshot = mk_snapshot();
        snapshot.controllers.settled = false;
        snapshot.controllers.pods[1].ready = false;
        snapshot.controllers.pods[0].revision = controller.to_owned();
        snapshot.speakers.pods[1].revision = "new-s".to_owned();
        let mut state = mk_state(Step::RollingBack);
        version.clone_into(&mut state.upgrade.as_mut().unwrap().to.version);
        let restarts = step_actions(&state, &snapshot, at(1)).restarts;
        assert_eq!(restarts.is_empty(), waits, "{version} {controller}: {restarts:?}");
    }
}
