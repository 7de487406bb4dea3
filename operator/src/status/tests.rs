//! Tables of inputs with their conditions and events.

use lb_crds::load_balancer_stack::{PreflightName, PreflightResult, StackPhase};

use super::*;
use crate::index::Index;
use crate::observe::workload_health::stack_health;
use crate::observe::workload_health::tests::{mk_controller, mk_pod, mk_speaker};
use crate::preflight::failures;
use crate::reasons::StackEvent;

pub(super) fn mk_input(index: &Index) -> StatusInput {
    StatusInput {
        generation: 3,
        operator_version: "0.1.0".to_owned(),
        target_version: Some("0.1.0".to_owned()),
        paused: false,
        invalid: None,
        failures: Vec::new(),
        pending: Vec::new(),
        health: stack_health(index, "metallb-system", false),
        preflight: Vec::new(),
        blocked: None,
        deletion: None,
        adoption: None,
        upgrade: UpgradeInput::default(),
    }
}

pub(super) fn mk_settled() -> Index {
    let mut index = Index::default();
    mk_controller(&mut index, 1, 1, [2, 2, 2, 2]);
    mk_speaker(&mut index, 1, 1, [3, 3, 3]);
    mk_pod(
        &mut index,
        "speaker-ready",
        serde_json::json!({"conditions": [{"type": "Ready", "status": "True"}]}),
    );
    mk_node(&mut index, &[]);
    index
}

/// Node n3, which has the ready speaker, with these labels.
fn mk_node(index: &mut Index, labels: &[&str]) {
    let labels: std::collections::BTreeMap<_, _> = labels.iter().map(|label| (*label, "")).collect();
    let node = serde_json::from_value(serde_json::json!({
        "metadata": {"name": "n3", "labels": labels},
        "status": {"conditions": [{"type": "Ready", "status": "True"}]},
    }));
    index.apply_node(lb_runtime::watch::Change::Apply(node.unwrap()));
}

/// O-09: `kubectl wait --for=condition=Ready` must not succeed while no address can be announced.
#[test]
fn stack_without_an_announcing_speaker_is_not_ready() {
    let mut none = Index::default();
    mk_controller(&mut none, 1, 1, [2, 2, 2, 2]);
    mk_speaker(&mut none, 1, 1, [0, 0, 0]);
    let mut excluded = mk_settled();
    mk_node(&mut excluded, &[lb_crds::names::LABEL_EXCLUDE]);
    for (index, counts) in [(none, "0/0"), (excluded, "3/3")] {
        let status = after(&mk_input(&index));
        let text = describe(&status);
        assert!(text.contains("Ready=False NoSpeaker"), "{text}");
        assert!(text.contains(&format!("Degraded=True NoSpeaker | no speaker is ready on a node that may announce addresses (speakers {counts})")), "{text}");
        assert_eq!(status.phase, Some(StackPhase::Degraded));
    }
    assert!(describe(&after(&mk_input(&mk_settled()))).contains("Ready=True"));
}

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

fn describe(status: &LoadBalancerStackStatus) -> String {
    let mut lines: Vec<_> = status
        .conditions
        .iter()
        .map(|c| format!("{}={} {} | {}", c.type_, c.status, c.reason, c.message))
        .collect();
    lines.push(format!(
        "phase {} version {} controller {} speakers {}",
        status.phase.map_or("-", StackPhase::as_str),
        status.version.as_deref().unwrap_or("-"),
        status.controller.as_deref().unwrap_or("-"),
        status.speakers.as_deref().unwrap_or("-"),
    ));
    lines.join("\n")
}

fn after(input: &StatusInput) -> LoadBalancerStackStatus {
    status(&LoadBalancerStackStatus::default(), input, at(1))
}

#[test]
fn lost_heartbeats_are_a_condition_and_one_event_until_they_arrive() {
    use crate::observe::heartbeats::tests::{mk_report, mk_speaker_on};
    let mut index = mk_settled();
    mk_speaker_on(&mut index, "n1", true);
    mk_report(&mut index, "n1", &["n3"]);
    let before = after(&mk_input(&mk_settled()));
    let lost = status(&before, &mk_input(&index), at(2));
    let text = describe(&lost);
    assert!(text.contains("HeartbeatsLost=True HeartbeatsLost | fast failover is off between n1 and n3: no heartbeats arrive; open UDP 7947"), "{text}");
    assert!(text.contains("Ready=True"), "{text}");
    assert_eq!(events(&before, &lost).len(), 1);
    assert!(events(&lost, &lost).is_empty());
    mk_report(&mut index, "n1", &[]);
    let mended = status(&lost, &mk_input(&index), at(3));
    assert!(!describe(&mended).contains("HeartbeatsLost"));
}

#[test]
fn settled_stack_is_ready() {
    insta::assert_snapshot!(describe(&after(&mk_input(&mk_settled()))));
}

#[test]
fn installation_is_progressing_without_version() {
    let mut index = Index::default();
    mk_controller(&mut index, 1, 1, [2, 2, 2, 1]);
    mk_speaker(&mut index, 1, 0, [0, 0, 0]);
    insta::assert_snapshot!(describe(&after(&mk_input(&index))));
}

#[test]
fn image_pull_failure_degrades_stack() {
    let mut index = mk_settled();
    mk_speaker(&mut index, 2, 2, [3, 1, 2]);
    mk_pod(
        &mut index,
        "speaker-x",
        serde_json::json!({"containerStatuses": [{
            "name": "speaker", "image": "", "imageID": "", "restartCount": 0, "ready": false,
            "state": {"waiting": {"reason": "ErrImagePull", "message": "no such image"}},
        }]}),
    );
    insta::assert_snapshot!(describe(&after(&mk_input(&index))));
}

#[test]
fn invalid_spec_keeps_running_version() {
    let before = after(&mk_input(&mk_settled()));
    let input = StatusInput {
        invalid: Some("spec.speaker.excludedInterfaces[0]: bad".to_owned()),
        target_version: None,
        ..mk_input(&mk_settled())
    };
    insta::assert_snapshot!(describe(&status(&before, &input, at(2))));
}

#[test]
fn paused_condition_exists_only_while_paused() {
    let before = after(&mk_input(&mk_settled()));
    let input = StatusInput {
        paused: true,
        ..mk_input(&mk_settled())
    };
    let paused = status(&before, &input, at(2));
    insta::assert_snapshot!(describe(&paused));
    let resumed = status(&paused, &mk_input(&mk_settled()), at(3));
    assert!(
        resumed
            .conditions
            .iter()
            .all(|condition| condition.type_ != "Paused")
    );
}

#[test]
fn paused_stack_with_drift_is_not_ready() {
    let input = StatusInput {
        paused: true,
        pending: vec!["Deployment metallb-system/controller".to_owned()],
        ..mk_input(&mk_settled())
    };
    insta::assert_snapshot!(describe(&after(&input)));
}

#[test]
fn failures_beyond_the_third_are_counted() {
    let failure = |number| (Reason::WriteFailed, format!("apply object {number}: refused"));
    let input = StatusInput {
        failures: (0..5).map(failure).collect(),
        ..mk_input(&mk_settled())
    };
    insta::assert_snapshot!(describe(&after(&input)));
}

#[test]
fn long_failure_is_truncated() {
    let input = StatusInput {
        failures: vec![(Reason::WriteFailed, "refused ".repeat(1000))],
        ..mk_input(&mk_settled())
    };
    let text = describe(&after(&input));
    assert!(text.len() < 2000 && text.contains('…'), "{text}");
}

#[test]
fn unchanged_input_gives_equal_status() {
    let input = mk_input(&mk_settled());
    let first = status(&LoadBalancerStackStatus::default(), &input, at(1));
    let second = status(&first, &input, at(1000));
    assert_eq!(first, second, "reconciling twice writes nothing");
}

#[test]
fn transition_time_changes_only_with_status() {
    let settled = mk_input(&mk_settled());
    let first = status(&LoadBalancerStackStatus::default(), &settled, at(1));
    let mut index = mk_settled();
    mk_speaker(&mut index, 1, 1, [3, 3, 2]);
    let second = status(&first, &mk_input(&index), at(2));
    let third = status(&second, &settled, at(3));
    let times = |status: &LoadBalancerStackStatus| {
        let time = |type_| {
            let condition = status.conditions.iter().find(|c| c.type_ == type_).unwrap();
            condition.last_transition_time.0.as_second()
        };
        (time("Ready"), time("Progressing"), time("Degraded"))
    };
    assert_eq!(times(&first), (1, 1, 1));
    assert_eq!(times(&second), (2, 2, 1));
    assert_eq!(times(&third), (3, 3, 1));
}

#[test]
fn events_report_transitions_only() {
    let none = LoadBalancerStackStatus::default();
    let ready = after(&mk_input(&mk_settled()));
    let reasons = |before, after| -> Vec<String> {
        events(before, after)
            .into_iter()
            .map(|event| event.reason.to_string())
            .collect()
    };
    assert_eq!(reasons(&none, &ready), ["Ready"]);
    assert!(reasons(&ready, &ready).is_empty());
    let input = StatusInput {
        failures: vec![(Reason::WriteFailed, "refused".to_owned())],
        ..mk_input(&mk_settled())
    };
    let degraded = status(&ready, &input, at(2));
    assert_eq!(reasons(&ready, &degraded), ["WriteFailed"]);
    assert!(reasons(&degraded, &degraded).is_empty());
    assert_eq!(reasons(&degraded, &ready), ["Ready"]);
}

fn mk_check(name: PreflightName, result: PreflightResult, message: &str) -> PreflightCheck {
    PreflightCheck {
        name,
        result,
        overridden: false,
        message: message.to_owned(),
    }
}

#[test]
fn failed_check_degrades_only_blocked_stack() {
    let mut input = mk_input(&mk_settled());
    input.preflight = vec![mk_check(
        PreflightName::StrictArp,
        PreflightResult::Failed,
        "no strictARP",
    )];
    let runs = after(&input);
    insta::assert_snapshot!("failed_check_without_blocked_change", describe(&runs));
    let published = events(&LoadBalancerStackStatus::default(), &runs);
    assert!(published.contains(&StackEvent::warning(
        Reason::PreflightFailed,
        "StrictArp: no strictARP"
    )));
    assert!(
        !events(&runs, &runs).iter().any(|event| event.warning),
        "published once"
    );

    input.blocked = failures(&input.preflight);
    let waits = after(&input);
    insta::assert_snapshot!("failed_check_with_blocked_change", describe(&waits));
    let published = events(&LoadBalancerStackStatus::default(), &waits);
    assert_eq!(
        published.iter().filter(|event| event.warning).count(),
        1,
        "{published:?}"
    );
}

#[test]
fn only_overridden_checks_are_events() {
    let mut input = mk_input(&mk_settled());
    input.preflight = vec![
        PreflightCheck {
            overridden: true,
            ..mk_check(PreflightName::StrictArp, PreflightResult::Skipped, "no strictARP")
        },
        mk_check(
            PreflightName::PoolOverlap,
            PreflightResult::Skipped,
            "no pool overlaps",
        ),
        mk_check(
            PreflightName::CrdOwnership,
            PreflightResult::Warning,
            "a release's",
        ),
    ];
    let status = after(&input);
    let published = events(&LoadBalancerStackStatus::default(), &status);
    let skipped: Vec<_> = published
        .iter()
        .filter(|event| event.reason == Reason::PreflightSkipped)
        .collect();
    assert_eq!(skipped.len(), 1);
    assert!(
        skipped[0]
            .note
            .contains("overrides the failed check StrictArp: no strictARP"),
        "{skipped:?}"
    );
    let passed = status
        .conditions
        .iter()
        .find(|c| c.type_ == "PreflightPassed")
        .unwrap();
    assert_eq!(passed.status, "True");
    assert_eq!(
        passed.message,
        "no check failed; warnings: CRDOwnership; skipped: StrictArp, PoolOverlap"
    );
}

#[test]
fn blocked_deletion_keeps_stack_ready() {
    let index = mk_settled();
    let report = |blocked, reason, message: &str| DeletionReport {
        blocked,
        reason,
        message: message.to_owned(),
    };
    let before = after(&mk_input(&index));
    let blocked = StatusInput {
        deletion: Some(report(true, Reason::ServicesExist, "ns/a is in the way")),
        ..mk_input(&index)
    };
    let waits = status(&before, &blocked, at(2));
    let find = |status: &LoadBalancerStackStatus, type_: &str| {
        let found = status.conditions.iter().find(|found| found.type_ == type_);
        found.map(|found| format!("{} {}", found.status, found.reason))
    };
    assert_eq!(
        find(&waits, "DeletionBlocked").as_deref(),
        Some("True ServicesExist")
    );
    assert_eq!(find(&waits, "Ready"), find(&before, "Ready"));
    assert_eq!(
        find(&waits, "Progressing").as_deref(),
        Some("False ServicesExist"),
        "a column of `kubectl get`"
    );
    let expected = StackEvent::warning(Reason::DeletionBlocked, "ns/a is in the way");
    assert_eq!(events(&before, &waits), [expected]);
    assert_eq!(events(&waits, &waits), [], "published once");
    let goes = StatusInput {
        deletion: Some(report(false, Reason::Deleting, "the speakers end")),
        ..mk_input(&index)
    };
    let goes = status(&waits, &goes, at(3));
    assert_eq!(find(&goes, "DeletionBlocked").as_deref(), Some("False Deleting"));
    assert_eq!(find(&goes, "Progressing").as_deref(), Some("True Deleting"));
    let published: Vec<_> = events(&waits, &goes)
        .into_iter()
        .map(|event| event.reason.to_string())
        .collect();
    assert_eq!(published, ["Deleting"]);
    let stays = status(&waits, &mk_input(&index), at(4));
    assert_eq!(find(&stays, "DeletionBlocked"), None);
}

#[test]
fn adoption_steps_set_conditions_and_events() {
    let index = mk_settled();
    let mut input = mk_input(&index);
    let now = Timestamp::UNIX_EPOCH;
    let report = |step, blocked| {
        Some(AdoptionReport {
            step,
            blocked,
            message: "said".to_owned(),
        })
    };
    let of = |status: &LoadBalancerStackStatus, type_: &str| {
        let mut conditions = status.conditions.iter();
        let found = conditions.find(|condition| condition.type_ == type_);
        found.map(|found| format!("{} {}", found.status, found.reason))
    };
    let mut before = LoadBalancerStackStatus::default();
    // Report, condition Adopted, conditions Progressing, Degraded and Ready, reason of the event.
    let cases = [
        (
            report(AdoptionStep::Controller, false),
            Some("False Adopting"),
            ["True Adopting", "False AsExpected", "False Adopting"],
            Some("Adopting"),
        ),
        (
            report(AdoptionStep::Controller, true),
            Some("False AdoptionBlocked"),
            [
                "False AdoptionBlocked",
                "True AdoptionBlocked",
                "False AdoptionBlocked",
            ],
            Some("AdoptionBlocked"),
        ),
        (
            report(AdoptionStep::Adopted, false),
            Some("True AsExpected"),
            ["False AsExpected", "False AsExpected", "True AsExpected"],
            Some("Adopted"),
        ),
        (
            report(AdoptionStep::Restoring, false),
            Some("False Restoring"),
            ["True Restoring", "False AsExpected", "False Restoring"],
            Some("Restoring"),
        ),
        (
            None,
            None,
            ["False AsExpected", "False AsExpected", "True AsExpected"],
            Some("Restored"),
        ),
    ];
    for (adoption, adopted, others, event) in cases {
        input.adoption = adoption;
        let after = status(&before, &input, now);
        assert_eq!(of(&after, "Adopted").as_deref(), adopted);
        let actual = ["Progressing", "Degraded", "Ready"].map(|type_| of(&after, type_).unwrap());
        assert_eq!(actual, others);
        let events = events(&before, &after);
        let reasons: Vec<_> = events.iter().map(|event| event.reason.as_str()).collect();
        assert!(event.is_none_or(|event| reasons.contains(&event)), "{reasons:?}");
        before = after;
    }
}

/// O-19: the next operator would reject the version of this stack.
#[test]
fn operator_is_not_upgradeable_with_a_stack_of_the_previous_minor_version() {
    for (operator, target, upgradeable) in [("0.2.0", "0.1.0", "False"), ("0.1.3", "0.1.0", "True")] {
        let mut input = mk_input(&mk_settled());
        operator.clone_into(&mut input.operator_version);
        input.target_version = Some(target.to_owned());
        let status = status(&LoadBalancerStackStatus::default(), &input, Timestamp::UNIX_EPOCH);
        let mut conditions = status.conditions.iter();
        let condition = conditions
            .find(|condition| condition.type_ == "Upgradeable")
            .unwrap();
        assert_eq!(
            condition.status, upgradeable,
            "{operator} {target}: {}",
            condition.message
        );
    }
}
