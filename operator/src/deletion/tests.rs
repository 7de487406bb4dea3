//! Each thing that can be seen, and the step that follows.

use super::*;
use crate::reasons::Reason;

fn mk_owned(kind: Kind, terminating: bool) -> Owned {
    Owned {
        id: ObjectId::new(kind, "metallb-system", "x"),
        uid: kind.to_string(),
        terminating,
    }
}

/// A stack that runs, is being deleted, and has two Services.
fn mk_seen(policy: DeletionPolicy) -> Seen {
    Seen {
        policy,
        deleting: true,
        held: true,
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
        ..Seen::default()
    }
}

fn kinds(step: &Step) -> Vec<Kind> {
    match step {
        Step::Delete(owned) => owned.iter().map(|owned| owned.id.kind).collect(),
        Step::Disown(ids) => ids.iter().map(|id| id.kind).collect(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_stack_is_held_before_anything_is_made_and_let_go_when_it_holds_nothing() {
    let table = [
        // deleting, held, paused
        ((false, false, false), Step::Hold),
        ((false, false, true), Step::Stay),
        ((false, true, false), Step::Stay),
        ((false, true, true), Step::Stay),
        ((true, false, false), Step::Gone),
        ((true, false, true), Step::Gone),
        ((true, true, true), Step::Blocked(Block::Paused)),
    ];
    for ((deleting, held, paused), wanted) in table {
        let seen = Seen {
            deleting,
            held,
            paused,
            ..mk_seen(DeletionPolicy::Withdraw)
        };
        assert_eq!(step(&seen), wanted, "{deleting} {held} {paused}");
    }
}

#[test]
fn services_hold_up_the_deletion_until_they_are_gone() {
    let mut seen = mk_seen(DeletionPolicy::BlockIfServicesExist);
    let blocked = step(&seen);
    assert_eq!(
        blocked,
        Step::Blocked(Block::Services(vec!["ns/a".to_owned(), "ns/b".to_owned()]))
    );
    let report = report(&blocked).unwrap();
    assert!(report.blocked);
    assert_eq!(report.reason, Reason::ServicesExist);
    assert!(report.message.starts_with("2 Services have addresses"));
    assert!(report.message.contains("ns/a, ns/b. Delete them"));
    seen.services = None;
    assert_eq!(step(&seen), Step::Wait(Wait::List, None), "not known is not none");
    seen.services = Some(Vec::new());
    assert_eq!(kinds(&step(&seen)), [Kind::Deployment]);
}

#[test]
fn the_first_ten_services_are_named_and_the_others_counted() {
    let services: Vec<_> = (0..13).map(|number| format!("ns/s{number:02}")).collect();
    let text = in_the_way(&services);
    assert!(text.starts_with("13 Services have addresses of this stack: ns/s00, "));
    assert!(text.contains("ns/s09 and 3 more."));
    assert!(!text.contains("ns/s10"));
    let one = in_the_way(&services[..1]);
    assert!(
        one.starts_with("Service has an address of this stack: ns/s00."),
        "{one}"
    );
}

#[test]
fn the_garbage_collector_is_stopped_where_objects_are_to_stay() {
    for policy in [DeletionPolicy::BlockIfServicesExist, DeletionPolicy::Orphan] {
        let mut seen = mk_seen(policy);
        seen.foreground = true;
        assert_eq!(step(&seen), Step::StopCollector, "{policy:?}");
    }
    let mut seen = mk_seen(DeletionPolicy::Withdraw);
    seen.foreground = true;
    assert_eq!(kinds(&step(&seen)), [Kind::Deployment], "it is to go anyway");
}

#[test]
fn an_orphaning_stack_gives_up_all_and_deletes_only_its_records() {
    let mut seen = mk_seen(DeletionPolicy::Orphan);
    seen.services = None;
    let runs = seen.owned.len();
    seen.owned.push(mk_owned(Kind::ControllerRevision, false));
    let first = step(&seen);
    assert!(matches!(first, Step::Disown(_)), "{first:?}");
    assert_eq!(kinds(&first).len(), runs);
    seen.owned.drain(..runs);
    let next = step(&seen);
    assert!(matches!(next, Step::Delete(_)), "{next:?}");
    assert_eq!(kinds(&next), [Kind::ControllerRevision]);
    seen.owned.clear();
    assert_eq!(step(&seen), Step::Release);
}

/// Follows a withdrawal from its first step to its last, with what each step brings about.
#[test]
fn a_withdrawal_takes_the_controller_the_addresses_the_speakers_and_the_roles_last() {
    let mut seen = mk_seen(DeletionPolicy::Withdraw);
    assert_eq!(kinds(&step(&seen)), [Kind::Deployment]);
    let set = |seen: &mut Seen, kind, terminating: Option<bool>| {
        seen.owned.retain(|owned| owned.id.kind != kind);
        seen.owned
            .extend(terminating.map(|terminating| mk_owned(kind, terminating)));
    };
    set(&mut seen, Kind::Deployment, Some(true));
    assert_eq!(step(&seen), Step::Wait(Wait::Controllers, None));
    set(&mut seen, Kind::Deployment, None);
    assert_eq!(
        step(&seen),
        Step::Wait(Wait::Controllers, None),
        "its pods still run"
    );
    seen.controllers = 0;
    assert_eq!(step(&seen), Step::Clear);
    seen.services = Some(Vec::new());
    seen.clear_for = Duration::from_secs(3);
    assert_eq!(
        step(&seen),
        Step::Wait(Wait::Withdrawal, Some(Duration::from_secs(7)))
    );
    let mut silent = seen.clone();
    silent.clear_for = WITHDRAWAL;
    assert_eq!(
        kinds(&step(&silent)),
        [Kind::DaemonSet],
        "one that is cut off never tells"
    );
    seen.announced = None;
    assert!(
        matches!(step(&seen), Step::Wait(Wait::Withdrawal, Some(_))),
        "not known is not none"
    );
    seen.announced = Some(0);
    assert_eq!(kinds(&step(&seen)), [Kind::DaemonSet]);
    set(&mut seen, Kind::DaemonSet, None);
    assert_eq!(step(&seen), Step::Wait(Wait::Speakers, None));
    seen.speakers = 0;
    assert_eq!(
        kinds(&step(&seen)),
        [
            Kind::Service,
            Kind::ClusterRoleBinding,
            Kind::ClusterRole,
            Kind::ServiceAccount
        ]
    );
    seen.owned.iter_mut().for_each(|owned| owned.terminating = true);
    assert_eq!(step(&seen), Step::Wait(Wait::Objects, None));
    seen.owned.clear();
    assert_eq!(step(&seen), Step::Release);
}

#[test]
fn an_address_given_in_the_last_moment_holds_up_the_deletion_again() {
    let mut seen = mk_seen(DeletionPolicy::BlockIfServicesExist);
    seen.owned.retain(|owned| owned.id.kind != Kind::Deployment);
    seen.controllers = 0;
    assert!(matches!(step(&seen), Step::Blocked(Block::Services(_))));
}

#[test]
fn every_step_of_a_deletion_has_something_to_say() {
    let going = [
        Step::StopCollector,
        Step::Disown(Vec::new()),
        Step::Delete(Vec::new()),
        Step::Clear,
        Step::Wait(Wait::Controllers, None),
        Step::Wait(Wait::Withdrawal, None),
        Step::Wait(Wait::Speakers, None),
        Step::Wait(Wait::Objects, None),
        Step::Release,
    ];
    for step in going {
        let report = report(&step).unwrap();
        assert!(!report.blocked);
        assert_eq!(report.reason, Reason::Deleting);
    }
    assert_eq!(report(&Step::Stay), None);
    assert_eq!(report(&Step::Wait(Wait::List, None)), None);
    assert!(report(&Step::Blocked(Block::Paused)).unwrap().blocked);
}

#[test]
fn a_stack_that_serves_nobody_takes_no_address_from_a_service_and_waits_for_none() {
    for policy in [DeletionPolicy::BlockIfServicesExist, DeletionPolicy::Withdraw] {
        let mut seen = mk_seen(policy);
        seen.owned.clear();
        (seen.controllers, seen.speakers) = (0, 0);
        assert_eq!(step(&seen), Step::Release, "{policy:?}");
        // What it has made besides goes.
        seen.owned = vec![mk_owned(Kind::ServiceAccount, false)];
        seen.services = None;
        assert_eq!(kinds(&step(&seen)), [Kind::ServiceAccount], "{policy:?}");
    }
}
