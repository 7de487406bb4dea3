//! What is written about owners: only differences, and never over what another node says of itself.

mod support;

use std::net::IpAddr;

use lb_speaker::k8s::l2_status::{DesiredStatus, StatusAction, action, applied_object, object_name};
use lb_speaker::k8s::objects::ReportedStatus;
use lb_speaker::verification::{AddressHealth, ConflictingHost, Verification};
use serde_json::json;
use support::{WEB, from, key, mk_record};

const ME: (&str, &str) = ("n1", "uid-n1");

fn web() -> IpAddr {
    IpAddr::from([192, 168, 50, 52])
}

fn says(interfaces: &[&str], health: AddressHealth) -> DesiredStatus {
    DesiredStatus {
        address: web(),
        interfaces: interfaces.iter().map(|name| (*name).into()).collect(),
        health,
    }
}

fn decide(wanted: Option<DesiredStatus>, records: &[(&str, ReportedStatus)]) -> Option<StatusAction> {
    let records = records.iter().map(|(name, record)| (*name, record));
    action(ME, &key("web"), wanted, records)
}

fn next(wanted: Option<&[&str]>, records: &[(&str, ReportedStatus)]) -> Option<StatusAction> {
    decide(wanted.map(|names| says(names, AddressHealth::default())), records)
}

fn write(interfaces: &[&str], alone: bool) -> Option<StatusAction> {
    let says = says(interfaces, AddressHealth::default());
    Some(StatusAction::Write { says, alone })
}

/// Our status of `web`, with what was said of it before.
fn shown(health: &AddressHealth) -> [(String, ReportedStatus); 1] {
    // Through the API and back.
    let object = applied_object("metallb-system", ME, &key("web"), &says(&[], health.clone()));
    [(object_name(&key("web")), ReportedStatus::read(from(object)))]
}

fn after(shown: &[(String, ReportedStatus)], health: AddressHealth) -> Option<AddressHealth> {
    let records: Vec<_> = shown
        .iter()
        .map(|(name, record)| (&**name, record.clone()))
        .collect();
    let action = decide(Some(says(&[], health)), &records);
    let alone = matches!(action, None | Some(StatusAction::Write { alone: true, .. }));
    assert!(alone, "the status alone is to be written: {action:?}");
    match action {
        Some(StatusAction::Write { says, .. }) => Some(says.health),
        Some(StatusAction::Delete { .. }) | None => None,
    }
}

fn seen(by: &str, answered: bool, since: i64) -> AddressHealth {
    AddressHealth {
        verification: Some(Verification {
            by: by.into(),
            answered,
            since,
        }),
        conflict: None,
    }
}

fn conflict(mac: u8, since: i64) -> AddressHealth {
    AddressHealth {
        verification: None,
        conflict: Some(ConflictingHost {
            mac: lb_l2::MacAddr([2, 0, 0, 0, 0, mac]),
            since,
        }),
    }
}

fn delete(name: &str) -> Option<StatusAction> {
    Some(StatusAction::Delete {
        name: name.to_owned(),
        version: "7".into(),
    })
}

#[test]
fn the_owner_writes_what_is_not_there_or_says_something_else() {
    let name = object_name(&key("web"));
    assert_eq!(next(Some(&[]), &[]), write(&[], false));
    assert_eq!(
        next(Some(&[]), &[(&name, mk_record("web", "n2", &[]))]),
        write(&[], false)
    );
    assert_eq!(
        next(Some(&["eth0"]), &[(&name, mk_record("web", "n1", &[]))]),
        write(&["eth0"], true)
    );
    let mut other = mk_record("web", "n1", &[]);
    other.address = Some([192, 168, 50, 60].into());
    assert_eq!(next(Some(&[]), &[(&name, other)]), write(&[], true));
    let mut reborn = mk_record("web", "n1", &[]);
    reborn.owner = Some("uid-of-a-former-n1".into());
    assert_eq!(next(Some(&[]), &[(&name, reborn)]), write(&[], false));
}

#[test]
fn nothing_is_written_when_it_says_so_already() {
    let name = object_name(&key("web"));
    assert_eq!(next(Some(&[]), &[(&name, mk_record("web", "n1", &[]))]), None);
    assert_eq!(
        next(Some(&["eth0"]), &[(&name, mk_record("web", "n1", &["eth0"]))]),
        None
    );
    assert_eq!(next(None, &[]), None);
}

#[test]
fn a_status_that_names_us_and_should_not_is_deleted_in_the_version_seen() {
    let name = object_name(&key("web"));
    assert_eq!(next(None, &[(&name, mk_record("web", "n1", &[]))]), delete(&name));
    // Beside our own, as MetalLB left it.
    let ours = mk_record("web", "n1", &[]);
    assert_eq!(
        next(Some(&[]), &[("l2-x7k2p", ours.clone()), (&name, ours)]),
        delete("l2-x7k2p")
    );
}

#[test]
fn what_another_node_says_of_itself_is_left_alone() {
    let name = object_name(&key("web"));
    assert_eq!(next(None, &[(&name, mk_record("web", "n2", &[]))]), None);
    let ours = mk_record("web", "n1", &[]);
    assert_eq!(
        next(
            Some(&[]),
            &[(&name, ours), ("l2-x7k2p", mk_record("web", "n2", &[]))]
        ),
        None
    );
}

#[test]
fn every_service_has_one_name_for_its_status_that_is_a_valid_one() {
    let name = object_name(&key("web"));
    assert_eq!(name, object_name(&key("web")));
    assert_ne!(name, object_name(&lb_runtime::ObjectKey::new("other", "web")));
    // Fixed for ever: speakers of different versions must agree.
    assert_eq!(name, "l2-82b3ade9d00cd1642a4d");
}

#[test]
fn a_verification_is_rewritten_only_when_its_result_changes() {
    let first = after(&shown(&AddressHealth::default()), seen("n2", true, 100)).expect("it is new");
    assert_eq!(first, seen("n2", true, 100));
    let shown = shown(&first);
    assert_eq!(
        after(&shown, seen("n3", true, 200)),
        None,
        "another node sees the same"
    );
    assert_eq!(
        after(&shown, AddressHealth::default()),
        None,
        "a restarted speaker has no result yet"
    );
    assert_eq!(
        after(&shown, seen("n3", false, 300)),
        Some(seen("n3", false, 300))
    );
}

#[test]
fn a_new_owner_or_address_starts_without_health() {
    let [(name, record)] = shown(&seen("n2", false, 100));
    let mut of_another = record.clone();
    of_another.node = "n3".into();
    assert_eq!(next(Some(&[]), &[(&name, of_another)]), write(&[], false));
    let mut of_another_address = record;
    of_another_address.address = Some([192, 168, 50, 60].into());
    assert_eq!(next(Some(&[]), &[(&name, of_another_address)]), write(&[], true));
}

#[test]
fn a_conflict_is_written_once_and_cleared_when_over() {
    let first = after(&shown(&AddressHealth::default()), conflict(1, 100)).expect("it is new");
    let shown = shown(&first);
    assert_eq!(after(&shown, conflict(1, 200)), None);
    assert_eq!(
        after(&shown, conflict(2, 200)),
        Some(conflict(2, 100)),
        "another host, and one uninterrupted conflict"
    );
    assert_eq!(
        after(&shown, AddressHealth::default()),
        Some(AddressHealth::default())
    );
}

#[test]
fn health_without_its_typed_fields_is_rewritten() {
    let health = AddressHealth {
        conflict: conflict(1, 100).conflict,
        ..seen("n2", true, 100)
    };
    for field in ["verifiedBy", "conflictingMAC"] {
        let mut object = applied_object("metallb-system", ME, &key("web"), &says(&[], health.clone()));
        object["status"]
            .as_object_mut()
            .unwrap()
            .remove(field)
            .expect("it is written");
        let record = ReportedStatus::read(from(object));
        assert_eq!(record.health, None);
        assert_eq!(
            next(Some(&[]), &[(&object_name(&key("web")), record)]),
            write(&[], true)
        );
    }
}

#[test]
fn typed_fields_are_read_whatever_the_messages_say() {
    let health = AddressHealth {
        conflict: conflict(1, 100).conflict,
        ..seen("n2", false, 100)
    };
    let mut object = applied_object("metallb-system", ME, &key("web"), &says(&[], health.clone()));
    assert_eq!(object["status"]["verifiedBy"], json!("n2"));
    assert_eq!(object["status"]["conflictingMAC"], json!("02:00:00:00:00:01"));
    for condition in object["status"]["conditions"].as_array_mut().unwrap() {
        condition["message"] = json!("node n9 saw 02:00:00:00:00:99");
    }
    assert_eq!(ReportedStatus::read(from(object)).health, Some(health));
}

#[test]
fn fields_of_a_conflict_that_is_over_are_left_out() {
    let object = applied_object(
        "metallb-system",
        ME,
        &key("web"),
        &says(&[], AddressHealth::default()),
    );
    let status = object["status"].as_object().unwrap();
    assert!(!status.contains_key("verifiedBy") && !status.contains_key("conflictingMAC"));
    assert_eq!(status["conditions"], json!([]));
}

#[test]
fn conditions_name_the_verifier_the_host_and_the_remedy() {
    let words = |health: &AddressHealth, address: &str| {
        let conditions = health.conditions(address.parse().unwrap());
        let [condition] = &conditions[..] else {
            panic!("one of them")
        };
        format!(
            "{}={} {}: {}",
            condition.type_, condition.status, condition.reason, condition.message
        )
    };
    assert_eq!(
        words(&seen("n2", true, 100), WEB),
        "Verified=True Answered: node n2 received an ARP reply for 192.168.50.52"
    );
    assert_eq!(
        words(&seen("n2", false, 100), "fd00:50::1"),
        "Verified=False NoReply: node n2 received no NDP reply for fd00:50::1: check that switches and firewalls let \
         neighbor discovery (ICMPv6) pass between the nodes"
    );
    assert_eq!(
        words(&conflict(9, 100), WEB),
        "AddressConflict=True ConflictingHost: host 02:00:00:00:00:09 outside the cluster also answers for 192.168.50.52: \
         remove the address from that host or exclude it from its pool"
    );
}
