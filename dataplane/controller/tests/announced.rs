//! What a Service's condition says of who announces its address: what the speakers say, once, and never before an address
//! that is to be given.

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

/// A speaker says something, and the condition follows.
fn says(cluster: &mut Cluster, status: Value) -> Option<String> {
    cluster.announce("web", status);
    cluster.settle();
    cluster.announcement("web")
}

#[test]
fn it_names_the_owner_as_soon_as_there_is_one_and_not_before() {
    let mut cluster = cluster();
    assert_eq!(cluster.announcement("web"), None);
    // A speaker makes the object before it can write its status.
    assert_eq!(says(&mut cluster, json!({})), None);
    assert_eq!(
        says(&mut cluster, by("n2", FIRST)).as_deref(),
        Some("True Announced: node n2 announces 192.168.50.50 on eth0")
    );
    assert_eq!(cluster.writes().len(), 1);
    assert_eq!(
        says(&mut cluster, by("n3", FIRST)).as_deref(),
        Some("True Announced: node n3 announces 192.168.50.50 on eth0")
    );
    assert_eq!(
        cluster.condition(&service("web")),
        "lb-operator.io/AddressAssigned=True Assigned: 192.168.50.50 of pool lan",
        "the other condition is left alone"
    );
}

#[test]
fn all_interfaces_several_and_a_second_address_have_words() {
    let mut cluster = cluster();
    assert_eq!(
        says(&mut cluster, json!({ "node": "n2" })).as_deref(),
        Some("True Announced: node n2 announces 192.168.50.50"),
        "as MetalLB's speakers say it"
    );
    let two =
        json!({ "node": "n2", "interfaces": [{ "name": "eth0" }, { "name": "eth1" }], "address": FIRST });
    assert_eq!(
        says(&mut cluster, two).as_deref(),
        Some("True Announced: node n2 announces 192.168.50.50 on eth0, eth1")
    );
    cluster.edit(
        &service("web"),
        json!({ "spec": { "ipFamilyPolicy": "PreferDualStack", "clusterIPs": ["10.96.0.9", "fd00:96::9"] } }),
    );
    assert_eq!(
        says(&mut cluster, by("n2", FIRST)).as_deref(),
        Some(
            "True Announced: node n2 announces 192.168.50.50 on eth0; fd00:50:: has an owner of its own, which the \
             events of the Service name"
        )
    );
}

#[test]
fn a_conflict_and_a_question_without_an_answer_are_repeated_as_the_speaker_says_them() {
    let mut cluster = cluster();
    let unheard = with(by("n2", FIRST), "Verified", "False", "node n3 asked");
    assert_eq!(
        says(&mut cluster, unheard).as_deref(),
        Some("False NoReply: node n3 asked")
    );
    let stranger = with(
        by("n2", FIRST),
        "AddressConflict",
        "True",
        "a host at 02:00:00:00:00:09",
    );
    assert_eq!(
        says(&mut cluster, stranger).as_deref(),
        Some("False AddressConflict: a host at 02:00:00:00:00:09")
    );
    let heard = with(by("n2", FIRST), "Verified", "True", "node n3 asked");
    assert_eq!(
        says(&mut cluster, heard).as_deref(),
        Some("True Announced: node n2 announces 192.168.50.50 on eth0")
    );
}

#[test]
fn when_nobody_announces_it_any_more_it_says_where_to_look_and_when_its_address_goes_it_goes() {
    let mut cluster = cluster();
    says(&mut cluster, by("n2", FIRST));
    cluster.withdraw("web");
    cluster.settle();
    assert_eq!(
        cluster.announcement("web").as_deref(),
        Some(
            "False NotAnnounced: no node announces 192.168.50.50 any more: for the reason see the events of the \
             Service, kubectl describe service web -n default"
        )
    );
    cluster.edit(&service("web"), json!({ "spec": { "type": "ClusterIP" } }));
    cluster.settle();
    assert_eq!(cluster.announcement("web"), None);
    let of_service = |write: &&String| write.starts_with("service ");
    assert_eq!(cluster.writes().iter().filter(of_service).count(), 3);
}

#[test]
fn what_is_said_of_an_address_that_it_had_before_says_nothing_of_the_new_one() {
    let mut cluster = cluster();
    says(&mut cluster, by("n2", FIRST));
    let other = json!({ "metadata": { "annotations": { "metallb.io/loadBalancerIPs": "192.168.50.55" } } });
    cluster.edit(&service("web"), other);
    cluster.settle();
    assert_eq!(cluster.address("web"), "192.168.50.55");
    cluster.writes();
    cluster.settle();
    assert_eq!(cluster.writes().len(), 0, "its owner is still to be found");
    assert_eq!(
        says(&mut cluster, by("n3", "192.168.50.55")).as_deref(),
        Some("True Announced: node n3 announces 192.168.50.55 on eth0")
    );
}

#[test]
fn a_restart_a_relist_and_the_same_said_again_write_nothing() {
    let mut cluster = cluster();
    cluster.add(mk_service("gone", json!({})));
    cluster.announce("gone", by("n1", "192.168.50.51"));
    says(&mut cluster, by("n2", FIRST));
    cluster.withdraw("gone");
    cluster.settle();
    cluster.writes();
    says(&mut cluster, by("n2", FIRST));
    cluster.list_announcers();
    cluster.settle();
    assert_eq!(cluster.writes(), Vec::<String>::new());
    let mut cluster = cluster.restarted();
    cluster.settle();
    assert_eq!(cluster.writes(), Vec::<String>::new());
}

#[test]
fn nothing_is_said_before_all_has_been_listed() {
    let mut cluster = cluster();
    says(&mut cluster, by("n2", FIRST));
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
fn addresses_are_given_before_anything_is_said_of_who_announces_them() {
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
    // Both are there to be done: the address is given first, and alone.
    cluster.decide();
    assert_eq!(cluster.under_way.len(), 1);
    cluster.answer();
    assert!(cluster.writes()[0].contains("default/new"));
    cluster.decide();
    let repeats = cluster
        .under_way
        .iter()
        .filter(|write| write.patch()["status"]["conditions"][0]["type"] == "lb-operator.io/Announced");
    assert_eq!(repeats.count(), 8, "a few at a time");
    // A new Service does not wait for them.
    cluster.create_service("newer");
    cluster.decide();
    let last = cluster.under_way.back().map(|write| write.target());
    assert_eq!(last, Some(service("newer")));
    cluster.settle();
    assert!(cluster.announcement("old-8").is_some());
}

#[test]
fn a_write_that_fails_or_is_refused_is_made_again() {
    let mut cluster = cluster();
    cluster.announce("web", by("n2", FIRST));
    cluster.decide();
    cluster.fail();
    cluster.decide();
    assert!(cluster.under_way.is_empty(), "after a pause");
    cluster.pass(Duration::from_secs(1));
    cluster.watching = false;
    cluster.edit(&service("web"), json!({ "metadata": { "labels": { "a": "b" } } }));
    cluster.settle();
    assert_eq!(
        cluster.announcement("web"),
        None,
        "the Service has changed meanwhile"
    );
    cluster.catch_up();
    cluster.settle();
    assert!(cluster.announcement("web").is_some());
}
