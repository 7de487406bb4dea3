//! Each observable state and the action that follows.

use super::*;
use crate::reasons::Reason;

fn mk_owned(kind: Kind, terminating: bool) -> OwnedObject {
    OwnedObject {
        id: ObjectId::new(kind, "metallb-system", "x"),
        uid: kind.to_string(),
        terminating,
    }
}

/// A stack that runs, is being deleted, and has two Services.
fn mk_input(policy: DeletionPolicy) -> DeletionInput {
    DeletionInput {
        policy,
        deleting: true,
        has_finalizer: true,
        services: Some(vec!["ns/a".to_owned(), "ns/b".to_owned()]),
        announced: Some(2),
        owned: [
            Kind::ServiceAccount,
            Kind::ClusterRole,
            Kind::ClusterRoleBinding,
            Kind::Service,
            Kind::Deployment,
            Kind::DaemonSet,
        ]
        .map(|kind| mk_owned(kind, false))
        .to_vec(),
        controllers: 2,
        speakers: 3,
        ..DeletionInput::default()
    }
}

fn kinds(action: &DeletionAction) -> Vec<Kind> {
    match action {
        DeletionAction::Delete(owned) => owned.iter().map(|owned| owned.id.kind).collect(),
        DeletionAction::RemoveOwner(ids) => ids.iter().map(|id| id.kind).collect(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn finalizer_is_added_before_any_object_is_created() {
    let table = [
        // deleting, has_finalizer, paused
        ((false, false, false), DeletionAction::AddFinalizer),
        ((false, false, true), DeletionAction::Keep),
        ((false, true, false), DeletionAction::Keep),
        ((false, true, true), DeletionAction::Keep),
        ((true, false, false), DeletionAction::Ignore),
        ((true, false, true), DeletionAction::Ignore),
        (
            (true, true, true),
            DeletionAction::Blocked(DeletionBlocker::Paused),
        ),
    ];
    for ((deleting, has_finalizer, paused), wanted) in table {
        let input = DeletionInput {
            deleting,
            has_finalizer,
            paused,
            ..mk_input(DeletionPolicy::Withdraw)
        };
        assert_eq!(next_action(&input), wanted, "{deleting} {has_finalizer} {paused}");
    }
}

#[test]
fn services_block_deletion_until_they_are_gone() {
    let mut input = mk_input(DeletionPolicy::BlockIfServicesExist);
    let blocked = next_action(&input);
    assert_eq!(
        blocked,
        DeletionAction::Blocked(DeletionBlocker::Services(vec![
            "ns/a".to_owned(),
            "ns/b".to_owned()
        ]))
    );
    let report = report(&blocked).unwrap();
    assert!(report.blocked);
    assert_eq!(report.reason, Reason::ServicesExist);
    assert!(report.message.starts_with("2 Services have addresses"));
    assert!(report.message.contains("ns/a, ns/b; delete them"));
    input.services = None;
    assert_eq!(
        next_action(&input),
        DeletionAction::Wait(DeletionWait::ServiceList, None),
        "unknown is not empty"
    );
    input.services = Some(Vec::new());
    assert_eq!(kinds(&next_action(&input)), [Kind::Deployment]);
}

#[test]
fn blocked_deletion_names_the_first_services() {
    let services: Vec<_> = (0..13).map(|number| format!("ns/s{number:02}")).collect();
    let text = blocked_by_services(&services);
    assert!(text.starts_with("13 Services have addresses of this stack: ns/s00, "));
    assert!(text.contains("ns/s04 and 8 more;"), "{text}");
    assert!(!text.contains("ns/s05"));
    let one = blocked_by_services(&services[..1]);
    assert!(
        one.starts_with("1 Service has an address of this stack: ns/s00;"),
        "{one}"
    );
}

#[test]
fn foreground_finalizer_is_removed_if_objects_must_stay() {
    for policy in [DeletionPolicy::BlockIfServicesExist, DeletionPolicy::Orphan] {
        let mut input = mk_input(policy);
        input.foreground = true;
        assert_eq!(
            next_action(&input),
            DeletionAction::RemoveForegroundFinalizer,
            "{policy:?}"
        );
    }
    let mut input = mk_input(DeletionPolicy::Withdraw);
    input.foreground = true;
    assert_eq!(
        kinds(&next_action(&input)),
        [Kind::Deployment],
        "its objects are deleted anyway"
    );
}

#[test]
fn orphan_deletes_only_the_controller_revisions() {
    let mut input = mk_input(DeletionPolicy::Orphan);
    input.services = None;
    let runs = input.owned.len();
    input.owned.push(mk_owned(Kind::ControllerRevision, false));
    let first = next_action(&input);
    assert!(matches!(first, DeletionAction::RemoveOwner(_)), "{first:?}");
    assert_eq!(kinds(&first).len(), runs);
    input.owned.drain(..runs);
    let next = next_action(&input);
    assert!(matches!(next, DeletionAction::Delete(_)), "{next:?}");
    assert_eq!(kinds(&next), [Kind::ControllerRevision]);
    input.owned.clear();
    assert_eq!(next_action(&input), DeletionAction::RemoveFinalizer);
}

/// Follows a withdrawal from its first action to its last.
#[test]
fn withdraw_deletes_controller_then_speakers_and_roles_last() {
    let mut input = mk_input(DeletionPolicy::Withdraw);
    assert_eq!(kinds(&next_action(&input)), [Kind::Deployment]);
    let set = |input: &mut DeletionInput, kind, terminating: Option<bool>| {
        input.owned.retain(|owned| owned.id.kind != kind);
        input
            .owned
            .extend(terminating.map(|terminating| mk_owned(kind, terminating)));
    };
    set(&mut input, Kind::Deployment, Some(true));
    assert_eq!(
        next_action(&input),
        DeletionAction::Wait(DeletionWait::Controllers, None)
    );
    set(&mut input, Kind::Deployment, None);
    assert_eq!(
        next_action(&input),
        DeletionAction::Wait(DeletionWait::Controllers, None),
        "its pods still run"
    );
    input.controllers = 0;
    assert_eq!(next_action(&input), DeletionAction::ClearServices);
    input.services = Some(Vec::new());
    input.clear_for = Duration::from_secs(3);
    assert_eq!(
        next_action(&input),
        DeletionAction::Wait(DeletionWait::Withdrawal, Some(Duration::from_secs(7)))
    );
    let mut silent = input.clone();
    silent.clear_for = WITHDRAWAL_TIMEOUT;
    assert_eq!(
        kinds(&next_action(&silent)),
        [Kind::DaemonSet],
        "a speaker that is cut off never reports"
    );
    input.announced = None;
    assert!(
        matches!(
            next_action(&input),
            DeletionAction::Wait(DeletionWait::Withdrawal, Some(_))
        ),
        "unknown is not empty"
    );
    input.announced = Some(0);
    assert_eq!(kinds(&next_action(&input)), [Kind::DaemonSet]);
    set(&mut input, Kind::DaemonSet, None);
    assert_eq!(
        next_action(&input),
        DeletionAction::Wait(DeletionWait::Speakers, None)
    );
    input.speakers = 0;
    assert_eq!(
        kinds(&next_action(&input)),
        [
            Kind::Service,
            Kind::ClusterRoleBinding,
            Kind::ClusterRole,
            Kind::ServiceAccount
        ]
    );
    input.owned.iter_mut().for_each(|owned| owned.terminating = true);
    assert_eq!(
        next_action(&input),
        DeletionAction::Wait(DeletionWait::Objects, None)
    );
    input.owned.clear();
    assert_eq!(next_action(&input), DeletionAction::RemoveFinalizer);
}

#[test]
fn address_assigned_late_blocks_deletion_again() {
    let mut input = mk_input(DeletionPolicy::BlockIfServicesExist);
    input.owned.retain(|owned| owned.id.kind != Kind::Deployment);
    input.controllers = 0;
    assert!(matches!(
        next_action(&input),
        DeletionAction::Blocked(DeletionBlocker::Services(_))
    ));
}

#[test]
fn every_action_of_a_deletion_has_a_report() {
    let deleting = [
        DeletionAction::RemoveForegroundFinalizer,
        DeletionAction::RemoveOwner(Vec::new()),
        DeletionAction::Delete(Vec::new()),
        DeletionAction::ClearServices,
        DeletionAction::Wait(DeletionWait::Controllers, None),
        DeletionAction::Wait(DeletionWait::Withdrawal, None),
        DeletionAction::Wait(DeletionWait::Speakers, None),
        DeletionAction::Wait(DeletionWait::Objects, None),
        DeletionAction::RemoveFinalizer,
    ];
    for action in deleting {
        let report = report(&action).unwrap();
        assert!(!report.blocked);
        assert_eq!(report.reason, Reason::Deleting);
    }
    assert_eq!(report(&DeletionAction::Keep), None);
    assert_eq!(
        report(&DeletionAction::Wait(DeletionWait::ServiceList, None)),
        None
    );
    assert!(
        report(&DeletionAction::Blocked(DeletionBlocker::Paused))
            .unwrap()
            .blocked
    );
}

#[test]
fn stack_without_workloads_ignores_services() {
    for policy in [DeletionPolicy::BlockIfServicesExist, DeletionPolicy::Withdraw] {
        let mut input = mk_input(policy);
        input.owned.clear();
        (input.controllers, input.speakers) = (0, 0);
        assert_eq!(next_action(&input), DeletionAction::RemoveFinalizer, "{policy:?}");
        // Its other objects are deleted.
        input.owned = vec![mk_owned(Kind::ServiceAccount, false)];
        input.services = None;
        assert_eq!(kinds(&next_action(&input)), [Kind::ServiceAccount], "{policy:?}");
    }
}
