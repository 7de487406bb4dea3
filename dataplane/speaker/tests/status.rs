//! Writes of ServiceL2Statuses: only differences, and never over the status of another owner.

mod support;

use std::net::IpAddr;

use lb_speaker::k8s::l2_status::{DesiredStatus, StatusAction, applied_object, next_action, object_name};
use lb_speaker::k8s::objects::ReportedStatus;
use lb_speaker::k8s::unannounced::UnannouncedStatus;
use lb_speaker::verification::{AddressHealth, ConflictingHost, Verification};
use serde_json::json;
use support::{WEB, from, key, mk_reported_status};

const ME: (&str, &str) = ("n1", "uid-n1");

fn web() -> IpAddr {
    IpAddr::from([192, 168, 50, 52])
}

fn desired(interfaces: &[&str], health: AddressHealth) -> DesiredStatus {
    DesiredStatus {
        address: web(),
        interfaces: interfaces.iter().map(|name| (*name).into()).collect(),
        health,
    }
}

fn action(
    desired_status: Option<DesiredStatus>,
    statuses: &[(&str, ReportedStatus)],
) -> Option<StatusAction> {
    let statuses = statuses.iter().map(|(name, record)| (*name, record));
    next_action(ME, &key("web"), desired_status, statuses)
}

fn next(desired_status: Option<&[&str]>, statuses: &[(&str, ReportedStatus)]) -> Option<StatusAction> {
    action(
        desired_status.map(|names| desired(names, AddressHealth::default())),
        statuses,
    )
}

fn write(interfaces: &[&str], status_only: bool) -> Option<StatusAction> {
    let desired = desired(interfaces, AddressHealth::default());
    Some(StatusAction::Write { desired, status_only })
}

/// Our status of `web` with this health.
fn shown(health: &AddressHealth) -> [(String, ReportedStatus); 1] {
    // Through the API and back.
    let object = applied_object("metallb-system", ME, &key("web"), &desired(&[], health.clone()));
    [(object_name(&key("web")), ReportedStatus::read(from(object)))]
}

fn after(shown: &[(String, ReportedStatus)], health: AddressHealth) -> Option<AddressHealth> {
    let statuses: Vec<_> = shown
        .iter()
        .map(|(name, record)| (&**name, record.clone()))
        .collect();
    let action = action(Some(desired(&[], health)), &statuses);
    let status_only = matches!(
        action,
        None | Some(StatusAction::Write {
            status_only: true,
            ..
        })
    );
    assert!(status_only, "only the status should be written: {action:?}");
    match action {
        Some(StatusAction::Write { desired, .. }) => Some(desired.health),
        Some(StatusAction::Report(_) | StatusAction::Delete { .. }) | None => None,
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
            node: None,
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
fn owner_writes_missing_and_different_statuses() {
    let name = object_name(&key("web"));
    assert_eq!(next(Some(&[]), &[]), write(&[], false));
    assert_eq!(
        next(Some(&[]), &[(&name, mk_reported_status("web", "n2", &[]))]),
        write(&[], false)
    );
    assert_eq!(
        next(Some(&["eth0"]), &[(&name, mk_reported_status("web", "n1", &[]))]),
        write(&["eth0"], true)
    );
    let mut other = mk_reported_status("web", "n1", &[]);
    other.address = Some([192, 168, 50, 60].into());
    assert_eq!(next(Some(&[]), &[(&name, other)]), write(&[], true));
    let mut reborn = mk_reported_status("web", "n1", &[]);
    reborn.owner = Some("uid-of-a-former-n1".into());
    assert_eq!(next(Some(&[]), &[(&name, reborn)]), write(&[], false));
}

#[test]
fn unchanged_status_is_not_written() {
    let name = object_name(&key("web"));
    assert_eq!(
        next(Some(&[]), &[(&name, mk_reported_status("web", "n1", &[]))]),
        None
    );
    assert_eq!(
        next(
            Some(&["eth0"]),
            &[(&name, mk_reported_status("web", "n1", &["eth0"]))]
        ),
        None
    );
    assert_eq!(next(None, &[]), None);
}

#[test]
fn stale_status_is_deleted_in_the_known_version() {
    let name = object_name(&key("web"));
    assert_eq!(
        next(None, &[(&name, mk_reported_status("web", "n1", &[]))]),
        delete(&name)
    );
    // In addition to our own, left by MetalLB.
    let ours = mk_reported_status("web", "n1", &[]);
    assert_eq!(
        next(Some(&[]), &[("l2-x7k2p", ours.clone()), (&name, ours)]),
        delete("l2-x7k2p")
    );
}

#[test]
fn status_of_another_node_is_kept() {
    let name = object_name(&key("web"));
    assert_eq!(next(None, &[(&name, mk_reported_status("web", "n2", &[]))]), None);
    let ours = mk_reported_status("web", "n1", &[]);
    assert_eq!(
        next(
            Some(&[]),
            &[(&name, ours), ("l2-x7k2p", mk_reported_status("web", "n2", &[]))]
        ),
        None
    );
}

#[test]
fn object_name_is_stable_and_unique_per_service() {
    let name = object_name(&key("web"));
    assert_eq!(name, object_name(&key("web")));
    assert_ne!(name, object_name(&lb_runtime::ObjectKey::new("other", "web")));
    // Fixed: speakers of different versions must agree.
    assert_eq!(name, "l2-82b3ade9d00cd1642a4d");
}

#[test]
fn verification_is_rewritten_only_when_its_result_changes() {
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
fn new_owner_or_address_starts_without_health() {
    let [(name, record)] = shown(&seen("n2", false, 100));
    let mut of_another = record.clone();
    of_another.node = "n3".into();
    assert_eq!(next(Some(&[]), &[(&name, of_another)]), write(&[], false));
    let mut of_another_address = record;
    of_another_address.address = Some([192, 168, 50, 60].into());
    assert_eq!(next(Some(&[]), &[(&name, of_another_address)]), write(&[], true));
}

#[test]
fn conflict_is_written_once_and_cleared_when_over() {
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
        let mut object = applied_object("metallb-system", ME, &key("web"), &desired(&[], health.clone()));
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
    let mut object = applied_object("metallb-system", ME, &key("web"), &desired(&[], health.clone()));
    assert_eq!(object["status"]["verifiedBy"], json!("n2"));
    assert_eq!(object["status"]["conflictingMAC"], json!("02:00:00:00:00:01"));
    assert!(
        !object["status"]
            .as_object()
            .unwrap()
            .contains_key("conflictingNode")
    );
    for condition in object["status"]["conditions"].as_array_mut().unwrap() {
        condition["message"] = json!("node n9 observe 02:00:00:00:00:99");
    }
    assert_eq!(ReportedStatus::read(from(object)).health, Some(health));
}

#[test]
fn fields_of_a_conflict_that_is_over_are_left_out() {
    let object = applied_object(
        "metallb-system",
        ME,
        &key("web"),
        &desired(&[], AddressHealth::default()),
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
    let mut of_node = conflict(9, 100);
    if let Some(host) = &mut of_node.conflict {
        host.node = Some("n2".into());
    }
    assert_eq!(
        words(&of_node, WEB),
        "AddressConflict=True ConflictingNode: node n2 (02:00:00:00:00:09) answers for 192.168.50.52 without announcing it: \
         set strictARP: true in kube-proxy's IPVS mode, or remove the address from the interfaces of that node"
    );
    let object = applied_object("metallb-system", ME, &key("web"), &desired(&[], of_node.clone()));
    assert_eq!(object["status"]["conflictingNode"], json!("n2"));
    assert_eq!(ReportedStatus::read(from(object)).health, Some(of_node));
}

fn report() -> UnannouncedStatus {
    UnannouncedStatus {
        address: web(),
        reason: "NoEligibleNode".into(),
        message: "no eligible node".into(),
    }
}

/// The report of a node, through the API and back.
fn shown_report(node: (&str, &str)) -> ReportedStatus {
    let time = k8s_openapi::jiff::Timestamp::UNIX_EPOCH;
    ReportedStatus::read(from(report().applied_object(
        "metallb-system",
        node,
        &key("web"),
        time,
    )))
}

/// The action of n1, which reports; n1 and n2 have speakers.
fn next_report(statuses: &[(&str, ReportedStatus)]) -> Option<StatusAction> {
    let statuses = statuses.iter().map(|(name, record)| (*name, record));
    report().next_action(ME.1, &key("web"), statuses, |node| ["n1", "n2"].contains(&node))
}

#[test]
fn unannounced_address_is_reported_once_and_over_no_living_owner() {
    let name = object_name(&key("web"));
    let write = Some(StatusAction::Report(report()));
    assert_eq!(next_report(&[]), write);
    assert_eq!(next_report(&[(&name, shown_report(ME))]), None);
    let mut other_cause = shown_report(ME);
    other_cause.unannounced.as_mut().unwrap().reason = "NoEndpoint".into();
    assert_eq!(next_report(&[(&name, other_cause)]), write);
    assert_eq!(
        next_report(&[(&name, shown_report(("n3", "uid-n3")))]),
        write,
        "of a former reporter"
    );
    assert_eq!(
        next_report(&[(&name, mk_reported_status("web", "n2", &[]))]),
        None,
        "n2 withdraws its status itself"
    );
    assert_eq!(
        next_report(&[(&name, mk_reported_status("web", "n3", &[]))]),
        write,
        "n3 has no speaker"
    );
}

#[test]
fn report_is_replaced_by_an_owner_and_deleted_by_its_reporter() {
    let name = object_name(&key("web"));
    let object = report().applied_object(
        "metallb-system",
        ME,
        &key("web"),
        k8s_openapi::jiff::Timestamp::UNIX_EPOCH,
    );
    assert_eq!(object["status"]["node"], json!(null));
    assert_eq!(object["metadata"]["labels"]["metallb.io/node"], json!(null));
    let mut shown = shown_report(ME);
    assert_eq!(shown.unannounced.as_deref(), Some(&report()));
    assert_eq!(next(Some(&[]), &[(&name, shown.clone())]), write(&[], false));
    shown.version = "7".into();
    assert_eq!(next(None, &[(&name, shown)]), delete(&name));
    assert_eq!(
        next(None, &[(&name, shown_report(("n2", "uid-n2")))]),
        None,
        "of another reporter"
    );
}
