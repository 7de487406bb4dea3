//! Condition Announced of a Service: copied from the report of the speaker, written only on a change, and after
//! addresses.

mod support;

use std::time::Duration;

use serde_json::{Value, json};
use support::{Cluster, mk_pool, mk_service, service};

const FIRST: &str = "192.168.50.50";

fn cluster() -> Cluster {
    let pool = mk_pool(
        "lan",
        &["192.168.50.50-192.168.50.59", "fd00:50::/120"],
        json!({}),
    );
    let mut cluster = Cluster::new([pool]);
    cluster.list_announcers();
    cluster.add(mk_service("web", json!({})));
    cluster.writes();
    cluster
}

fn by(node: &str, address: &str) -> Value {
    json!({ "node": node, "interfaces": [{ "name": "eth0" }], "address": address })
}

fn with(mut status: Value, type_: &str, holds: &str, message: &str) -> Value {
    status["conditions"] = json!([{
        "type": type_, "status": holds, "reason": "R", "message": message,
        "lastTransitionTime": "2026-01-01T00:00:00Z",
    }]);
    status
}

/// A speaker writes a status, and the condition follows.
fn announce(cluster: &mut Cluster, status: Value) -> Option<String> {
    cluster.announce("web", status);
    cluster.settle();
    cluster.announcement("web")
}

#[test]
fn condition_names_owner_once_announced() {
    let mut cluster = cluster();
    let not_yet = Some(
        "False NotAnnounced: no node announces 192.168.50.50: see: kubectl describe service web -n default",
    );
    assert_eq!(
        cluster.announcement("web").as_deref(),
        not_yet,
        "written together with the address"
    );
    // A speaker creates the object before it can write its status.
    assert_eq!(announce(&mut cluster, json!({})).as_deref(), not_yet);
    assert_eq!(
        announce(&mut cluster, by("n2", FIRST)).as_deref(),
        Some("True Announced: node n2 announces 192.168.50.50 on eth0")
    );
    assert_eq!(cluster.writes().len(), 1);
    assert_eq!(
        announce(&mut cluster, by("n3", FIRST)).as_deref(),
        Some("True Announced: node n3 announces 192.168.50.50 on eth0")
    );
    assert_eq!(
        cluster.condition(&service("web")),
        "lb-operator.io/AddressAssigned=True Assigned: 192.168.50.50 from pool lan",
        "the other condition is left alone"
    );
}

#[test]
fn message_lists_interfaces_and_second_address() {
    let mut cluster = cluster();
    assert_eq!(
        announce(&mut cluster, json!({ "node": "n2" })).as_deref(),
        Some("True Announced: node n2 announces 192.168.50.50"),
        "as MetalLB's speakers write it"
    );
    let two =
        json!({ "node": "n2", "interfaces": [{ "name": "eth0" }, { "name": "eth1" }], "address": FIRST });
    assert_eq!(
        announce(&mut cluster, two).as_deref(),
        Some("True Announced: node n2 announces 192.168.50.50 on eth0, eth1")
    );
    cluster.edit(
        &service("web"),
        json!({ "spec": { "ipFamilyPolicy": "PreferDualStack", "clusterIPs": ["10.96.0.9", "fd00:96::9"] } }),
    );
    assert_eq!(
        announce(&mut cluster, by("n2", FIRST)).as_deref(),
        Some(
            "True Announced: node n2 announces 192.168.50.50 on eth0; for fd00:50::1 see: kubectl \
             describe service web -n default"
        )
    );
}

#[test]
fn conflict_and_missing_reply_make_condition_false() {
    let mut cluster = cluster();
    let unheard = with(by("n2", FIRST), "Verified", "False", "node n3 asked");
    assert_eq!(
        announce(&mut cluster, unheard).as_deref(),
        Some("False NoReply: node n3 asked")
    );
    let conflict = with(
        by("n2", FIRST),
        "AddressConflict",
        "True",
        "a host at 02:00:00:00:00:09",
    );
    assert_eq!(
        announce(&mut cluster, conflict).as_deref(),
        Some("False AddressConflict: a host at 02:00:00:00:00:09")
    );
    let watched_version = with(by("n2", FIRST), "Verified", "True", "node n3 asked");
    assert_eq!(
        announce(&mut cluster, watched_version).as_deref(),
        Some("True Announced: node n2 announces 192.168.50.50 on eth0")
    );
}

#[test]
fn not_announced_points_to_events() {
    let mut cluster = cluster();
    announce(&mut cluster, by("n2", FIRST));
    cluster.withdraw("web");
    cluster.settle();
    assert_eq!(
        cluster.announcement("web").as_deref(),
        Some(
            "False NotAnnounced: no node announces 192.168.50.50: see: kubectl describe service web -n default"
        )
    );
}

#[test]
fn reason_of_a_speaker_is_shown_for_an_address_that_was_never_announced() {
    let mut cluster = cluster();
    let message = "no eligible node for 192.168.50.50: n1, n2 excluded by label X; n3 speaker not ready";
    let report = |reason: &str| {
        let mut report = with(json!({ "address": FIRST }), "Announced", "False", message);
        report["conditions"][0]["reason"] = json!(reason);
        report
    };
    assert_eq!(
        announce(&mut cluster, report("NoEligibleNode")),
        Some(format!("False NoEligibleNode: {message}"))
    );
    assert_eq!(cluster.writes().len(), 1);
    assert_eq!(
        announce(&mut cluster, report("NoEligibleNode")),
        Some(format!("False NoEligibleNode: {message}"))
    );
    assert_eq!(cluster.writes().len(), 0);
    assert_eq!(
        announce(&mut cluster, report("of a later version")),
        Some(format!("False NotAnnounced: {message}"))
    );
    assert_eq!(
        announce(&mut cluster, by("n2", FIRST)).as_deref(),
        Some("True Announced: node n2 announces 192.168.50.50 on eth0")
    );
}

#[test]
fn record_of_a_speaker_that_is_gone_is_not_repeated() {
    let mut cluster = cluster();
    for node in ["n1", "n2"] {
        cluster.speaker(node, true);
    }
    cluster.list_speakers();
    let announced = Some("True Announced: node n2 announces 192.168.50.50 on eth0");
    assert_eq!(announce(&mut cluster, by("n2", FIRST)).as_deref(), announced);
    cluster.speaker("n2", false);
    cluster.pass(Duration::from_secs(119));
    cluster.end_grace();
    cluster.settle();
    assert_eq!(
        cluster.announcement("web").as_deref(),
        announced,
        "it may be restarting"
    );
    cluster.pass(Duration::from_secs(1));
    cluster.end_grace();
    cluster.settle();
    let condition = cluster.announcement("web").unwrap();
    assert!(
        condition.starts_with(
            "Unknown SpeakerNotReady: node n2 announced 192.168.50.50, but its speaker is not ready"
        ),
        "{condition}"
    );
    cluster.speaker("n2", true);
    cluster.settle();
    assert_eq!(cluster.announcement("web").as_deref(), announced);
}

#[test]
fn without_a_ready_speaker_the_condition_says_so() {
    let mut cluster = cluster();
    cluster.speaker("n1", false);
    cluster.list_speakers();
    cluster.settle();
    assert_eq!(
        cluster.announcement("web").as_deref(),
        Some(
            "False NoSpeaker: no node announces 192.168.50.50: no speaker is ready: see: kubectl get pods -A -l \
             component=speaker"
        )
    );
    cluster.speaker("n1", true);
    cluster.settle();
    assert!(
        cluster
            .announcement("web")
            .unwrap()
            .starts_with("False NotAnnounced")
    );
}

#[test]
fn condition_is_removed_with_the_address() {
    let mut cluster = cluster();
    announce(&mut cluster, by("n2", FIRST));
    cluster.withdraw("web");
    cluster.settle();
    cluster.edit(&service("web"), json!({ "spec": { "type": "ClusterIP" } }));
    cluster.settle();
    assert_eq!(cluster.announcement("web"), None);
    let of_service = |write: &&String| write.starts_with("service ");
    assert_eq!(cluster.writes().iter().filter(of_service).count(), 3);
}

#[test]
fn interface_name_with_comma_is_shown_unchanged() {
    let mut cluster = cluster();
    let status = json!({
        "node": "n2", "interfaces": [{ "name": "lan,1" }, { "name": "eth1" }], "address": FIRST,
    });
    assert_eq!(
        announce(&mut cluster, status).as_deref(),
        Some("True Announced: node n2 announces 192.168.50.50 on lan,1, eth1")
    );
}

#[test]
fn record_of_previous_address_is_ignored() {
    let mut cluster = cluster();
    announce(&mut cluster, by("n2", FIRST));
    let other = json!({ "metadata": { "annotations": { "metallb.io/loadBalancerIPs": "192.168.50.55" } } });
    cluster.edit(&service("web"), other);
    cluster.settle();
    assert_eq!(cluster.address("web"), "192.168.50.55");
    cluster.writes();
    cluster.settle();
    assert_eq!(cluster.writes().len(), 0, "the new owner has not reported yet");
    assert_eq!(
        announce(&mut cluster, by("n3", "192.168.50.55")).as_deref(),
        Some("True Announced: node n3 announces 192.168.50.55 on eth0")
    );
}

#[test]
fn restart_relist_and_repeated_status_write_nothing() {
    let mut cluster = cluster();
    cluster.add(mk_service("gone", json!({})));
    cluster.announce("gone", by("n1", "192.168.50.51"));
    announce(&mut cluster, by("n2", FIRST));
    cluster.withdraw("gone");
    cluster.settle();
    cluster.writes();
    announce(&mut cluster, by("n2", FIRST));
    cluster.list_announcers();
    cluster.settle();
    assert_eq!(cluster.writes(), Vec::<String>::new());
    let mut cluster = cluster.restarted();
    cluster.settle();
    assert_eq!(cluster.writes(), Vec::<String>::new());
}

#[test]
fn condition_waits_for_complete_list() {
    let mut cluster = cluster();
    announce(&mut cluster, by("n2", FIRST));
    // Another controller has seen the Service, and no status yet.
    let mut cluster = Cluster::new(cluster.objects);
    cluster.settle();
    assert_eq!(cluster.writes(), Vec::<String>::new());
    cluster.list_announcers();
    cluster.settle();
    assert!(
        cluster
            .announcement("web")
            .unwrap()
            .starts_with("False NotAnnounced")
    );
}

#[test]
fn addresses_are_written_before_announcements() {
    let mut cluster = cluster();
    for number in 0..9 {
        cluster.create_service(&format!("old-{number}"));
    }
    cluster.settle();
    cluster.writes();
    for number in 0..9 {
        let address = cluster.address(&format!("old-{number}")).to_owned();
        cluster.announce(&format!("old-{number}"), by("n1", &address));
    }
    cluster.create_service("new");
    // Both are due: the address is written first, and alone.
    cluster.decide();
    assert_eq!(cluster.in_flight.len(), 1);
    cluster.answer();
    assert!(cluster.writes()[0].contains("default/new"));
    cluster.decide();
    let announcement_writes = cluster
        .in_flight
        .iter()
        .filter(|write| write.patch()["status"]["conditions"][0]["type"] == "lb-operator.io/Announced");
    assert_eq!(announcement_writes.count(), 8, "up to the limit");
    // A new Service does not wait for them.
    cluster.create_service("newer");
    cluster.decide();
    let last = cluster.in_flight.back().map(|write| write.target());
    assert_eq!(last, Some(service("newer")));
    cluster.settle();
    assert!(cluster.announcement("old-8").is_some());
}

#[test]
fn failed_or_conflicting_write_is_retried() {
    let mut cluster = cluster();
    cluster.announce("web", by("n2", FIRST));
    cluster.decide();
    cluster.fail();
    cluster.decide();
    assert!(cluster.in_flight.is_empty(), "not before the delay ends");
    cluster.pass(Duration::from_secs(1));
    cluster.watching = false;
    cluster.edit(&service("web"), json!({ "metadata": { "labels": { "a": "b" } } }));
    cluster.settle();
    let shown = |cluster: &Cluster| cluster.announcement("web").unwrap().starts_with("True Announced");
    assert!(!shown(&cluster), "the Service has changed");
    cluster.catch_up();
    cluster.settle();
    assert!(shown(&cluster));
}
