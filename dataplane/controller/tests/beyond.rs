//! Beyond MetalLB: conditions of Services, hold-down, strategies, exclusions, quotas, and addresses that no pool has.

mod support;

use std::time::Duration;

use lb_controller::write::Target;
use serde_json::{Value, json};
use support::{Cluster, annotated, mk_pool, mk_service, pool, service, showing};

fn lan(annotations: &[(&str, &str)]) -> (Target, Value) {
    mk_pool("lan", &["192.168.50.50-192.168.50.52"], annotated(annotations))
}

fn hold_down() -> (Target, Value) {
    lan(&[("lb-operator.io/hold-down", "10m")])
}

#[test]
fn the_condition_of_a_service_says_whether_it_is_satisfied_and_goes_with_its_address() {
    let mut cluster = Cluster::new([mk_service("web", json!({}))]);
    cluster.settle();
    assert_eq!(
        cluster.condition(&service("web")),
        "lb-operator.io/AddressAssigned=False NoPool: no available IPs: there is no pool: create an IPAddressPool"
    );
    cluster.add(lan(&[]));
    assert_eq!(
        cluster.condition(&service("web")),
        "lb-operator.io/AddressAssigned=True Assigned: 192.168.50.50 of pool lan"
    );
    cluster.edit(
        &service("web"),
        annotated(&[("metallb.io/loadBalancerIPs", "192.168.50.")]),
    );
    cluster.settle();
    assert_eq!(
        cluster.condition(&service("web")),
        "lb-operator.io/AddressAssigned=False InvalidRequest: invalid metallb.io/loadBalancerIPs: \"192.168.50.\": write one IP \
         address, or one of each family separated by a comma; 192.168.50.50 of pool lan is kept"
    );
    cluster.edit(&service("web"), json!({ "spec": { "type": "ClusterIP" } }));
    cluster.settle();
    let conditions = &cluster.objects[&service("web")]["status"]["conditions"];
    assert_eq!(conditions, &json!([]));
}

#[test]
fn another_leader_does_not_tell_those_who_wait_once_more() {
    let mut cluster = Cluster::new([mk_service("web", json!({}))]);
    cluster.settle();
    assert_eq!(cluster.events().len(), 1);
    let mut cluster = cluster.restarted();
    cluster.settle();
    assert_eq!((cluster.events(), cluster.writes()), (Vec::new(), Vec::new()));
    assert!(cluster.reason("web").is_some());
}

#[test]
fn conditions_of_others_are_left_alone_and_those_who_wait_are_not_written_again() {
    let theirs = json!({ "type": "example.com/Ready", "status": "True", "reason": "R", "message": "", "lastTransitionTime": "2023-11-14T22:13:20Z" });
    let mut cluster = Cluster::new([lan(&[])]);
    for name in ["a", "b", "c", "waits"] {
        cluster.add(mk_service(name, json!({ "status": { "conditions": [theirs] } })));
    }
    let types = |cluster: &Cluster| {
        let list = cluster.objects[&service("waits")]["status"]["conditions"]
            .as_array()
            .cloned();
        list.unwrap_or_default()
            .iter()
            .map(|condition| condition["type"].to_string())
            .collect::<Vec<_>>()
    };
    assert_eq!(
        types(&cluster),
        ["\"example.com/Ready\"", "\"lb-operator.io/AddressAssigned\""]
    );
    cluster.writes();
    cluster.edit(&pool("lan"), annotated(&[("unrelated", "1")]));
    cluster.edit(&service("a"), annotated(&[("unrelated", "1")]));
    cluster.settle();
    assert_eq!(cluster.writes(), Vec::<String>::new());
}

#[test]
fn a_released_address_is_held_back_and_then_given_to_who_waits() {
    let mut cluster = Cluster::new([hold_down()]);
    for name in ["a", "b", "c"] {
        cluster.add(mk_service(name, json!({})));
    }
    cluster.pass(Duration::from_secs(60));
    cluster.delete(&service("b"));
    cluster.add(mk_service("next", json!({})));
    assert_eq!(cluster.address("next"), "");
    let reason = cluster.reason("next").unwrap();
    assert!(
        reason.contains("(2 of 3 in use, 1 released too lately: lb-operator.io/hold-down)"),
        "{reason}"
    );
    let due = cluster
        .leading
        .as_ref()
        .unwrap()
        .next_timeout(cluster.now)
        .unwrap();
    assert_eq!(due - cluster.now, Duration::from_secs(600));
    cluster.pass(due - cluster.now);
    cluster.settle();
    assert_eq!(cluster.address("next"), "192.168.50.51");
}

#[test]
fn another_leader_holds_back_what_the_last_one_released() {
    let mut cluster = Cluster::new([hold_down()]);
    for name in ["a", "b"] {
        cluster.add(mk_service(name, json!({})));
    }
    cluster.delete(&service("a"));
    cluster.settle();
    let mut cluster = cluster.restarted();
    cluster.settle();
    assert_eq!(cluster.writes(), Vec::<String>::new());
    cluster.add(mk_service("c", json!({})));
    assert_eq!(cluster.address("c"), "192.168.50.52", "not 192.168.50.50");
    // Who asks for it gets it all the same.
    cluster.add(mk_service(
        "d",
        annotated(&[("metallb.io/loadBalancerIPs", "192.168.50.50")]),
    ));
    assert_eq!(cluster.address("d"), "192.168.50.50");
}

#[test]
fn the_strategy_of_a_pool_survives_a_restart() {
    let mut cluster = Cluster::new([lan(&[(
        "lb-operator.io/allocation-strategy",
        "leastRecentlyUsed",
    )])]);
    for name in ["a", "b", "c"] {
        cluster.add(mk_service(name, json!({})));
    }
    for name in ["c", "a"] {
        cluster.pass(Duration::from_secs(1));
        cluster.delete(&service(name));
        cluster.settle();
    }
    let mut cluster = cluster.restarted();
    cluster.settle();
    for (name, address) in [("d", "192.168.50.52"), ("e", "192.168.50.50")] {
        cluster.add(mk_service(name, json!({})));
        assert_eq!(cluster.address(name), address);
    }
}

#[test]
fn an_exclusion_moves_who_is_on_it_and_a_quota_holds_new_ones_back() {
    let mut cluster = Cluster::new([lan(&[])]);
    cluster.add(mk_service("a", json!({})));
    cluster.edit(
        &pool("lan"),
        annotated(&[
            ("lb-operator.io/excluded-addresses", "192.168.50.50/32"),
            ("lb-operator.io/namespace-quota", "1"),
        ]),
    );
    cluster.settle();
    assert_eq!(cluster.address("a"), "192.168.50.51");
    cluster.add(mk_service("b", json!({})));
    assert!(
        cluster
            .reason("b")
            .unwrap()
            .contains("for namespace default: it has the 1 that its quota allows")
    );
    cluster.delete(&service("a"));
    cluster.settle();
    assert_eq!(cluster.address("b"), "192.168.50.51");
}

#[test]
fn an_annotation_that_cannot_be_read_makes_the_pool_invalid_and_moves_nobody() {
    let mut cluster = Cluster::new([lan(&[]), mk_service("a", json!({}))]);
    cluster.settle();
    cluster.edit(&pool("lan"), annotated(&[("lb-operator.io/hold-down", "soon")]));
    cluster.settle();
    assert_eq!(cluster.address("a"), "192.168.50.50");
    assert_eq!(
        cluster.condition(&pool("lan")),
        "Valid=False InvalidAnnotation: metadata.annotations[lb-operator.io/hold-down]: \"soon\": write a time from 0s to \
         720h, such as 90s, 10m or 1h"
    );
    let state = &cluster.objects[&Target::State]["status"];
    assert_eq!(state["result"], "Invalid");
    assert!(
        state["errorSummary"]
            .as_str()
            .unwrap()
            .starts_with("IPAddressPool lan: metadata.annotations["),
        "{state}"
    );
    cluster.edit(&pool("lan"), annotated(&[("lb-operator.io/hold-down", "10s")]));
    cluster.settle();
    let state = &cluster.objects[&Target::State]["status"];
    assert_eq!(
        (&state["result"], state.get("errorSummary")),
        (&json!("Valid"), None)
    );
    assert_eq!(state["conditions"][0]["reason"], "Reconciled");
}

#[test]
fn who_takes_over_keeps_addresses_of_no_pool_and_says_so_once() {
    let strange = mk_service("strange", showing("10.9.9.9"));
    let mut cluster = Cluster::new([lan(&[]), strange, mk_service("web", json!({}))]);
    cluster.settle();
    assert_eq!(
        (cluster.address("strange"), cluster.address("web")),
        ("10.9.9.9", "192.168.50.50")
    );
    let says = "10.9.9.9 of no pool: it was there before and is kept, but no node announces what is of no pool: add it to an \
                IPAddressPool, or ask for another in metallb.io/loadBalancerIPs";
    assert!(
        cluster
            .events()
            .contains(&format!("strange Warning AddressOutsidePools: {says}"))
    );
    assert_eq!(
        cluster.condition(&service("strange")),
        format!("lb-operator.io/AddressAssigned=True OutsidePools: {says}")
    );
    // Neither a look at it, nor another leader, nor an edit of a pool is a reason to move it.
    cluster.edit(&service("strange"), annotated(&[("unrelated", "1")]));
    cluster.edit(
        &pool("lan"),
        json!({ "spec": { "addresses": ["192.168.50.50-192.168.50.59"] } }),
    );
    cluster.settle();
    let mut cluster = cluster.restarted();
    cluster.settle();
    assert_eq!(cluster.address("strange"), "10.9.9.9");
    assert_eq!((cluster.events(), cluster.writes()), (Vec::new(), Vec::new()));
    cluster.add(mk_pool("old", &["10.9.9.0/24"], json!({})));
    assert_eq!(
        (cluster.address("strange"), cluster.pool_of("strange")),
        ("10.9.9.9", "old")
    );
    cluster.edit(
        &service("strange"),
        annotated(&[("metallb.io/address-pool", "lan")]),
    );
    cluster.settle();
    assert_eq!(cluster.address("strange"), "192.168.50.51");
}

#[test]
fn what_somebody_writes_into_a_status_later_is_not_kept_if_no_pool_has_it() {
    let mut cluster = Cluster::new([lan(&[("lb-operator.io/namespace-quota", "0")])]);
    cluster.add(mk_service("web", json!({})));
    cluster.edit(&service("web"), showing("10.9.9.9"));
    cluster.settle();
    assert_eq!(cluster.address("web"), "");
}
