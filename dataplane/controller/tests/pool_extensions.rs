//! Features beyond MetalLB: condition AddressAssigned, hold-down, strategies, exclusions, quotas, and addresses in no pool.

mod support;

use std::time::Duration;

use lb_controller::target::WriteTarget;
use serde_json::{Value, json};
use support::{Cluster, annotated, mk_pool, mk_service, pool, service, showing};

fn lan(annotations: &[(&str, &str)]) -> (WriteTarget, Value) {
    mk_pool("lan", &["192.168.50.50-192.168.50.52"], annotated(annotations))
}

fn hold_down() -> (WriteTarget, Value) {
    lan(&[("lb-operator.io/hold-down", "10m")])
}

#[test]
fn address_assigned_follows_the_request() {
    let mut cluster = Cluster::new([mk_service("web", json!({}))]);
    cluster.settle();
    assert_eq!(
        cluster.condition(&service("web")),
        "lb-operator.io/AddressAssigned=False NoPool: no available IPs: there is no pool: create an IPAddressPool"
    );
    cluster.add(lan(&[]));
    assert_eq!(
        cluster.condition(&service("web")),
        "lb-operator.io/AddressAssigned=True Assigned: 192.168.50.50 from pool lan"
    );
    cluster.edit(
        &service("web"),
        annotated(&[("metallb.io/loadBalancerIPs", "192.168.50.")]),
    );
    cluster.settle();
    assert_eq!(
        cluster.condition(&service("web")),
        "lb-operator.io/AddressAssigned=False InvalidRequest: invalid metallb.io/loadBalancerIPs: \"192.168.50.\": write one IP \
         address, or one of each family separated by a comma; the Service keeps 192.168.50.50 from pool lan"
    );
    cluster.edit(&service("web"), json!({ "spec": { "type": "ClusterIP" } }));
    cluster.settle();
    let conditions = &cluster.objects[&service("web")]["status"]["conditions"];
    assert_eq!(conditions, &json!([]));
}

#[test]
fn new_leader_repeats_no_event() {
    let mut cluster = Cluster::new([mk_service("web", json!({}))]);
    cluster.settle();
    assert_eq!(cluster.events().len(), 1);
    let mut cluster = cluster.restarted();
    cluster.settle();
    assert_eq!((cluster.events(), cluster.writes()), (Vec::new(), Vec::new()));
    assert!(cluster.reason("web").is_some());
}

#[test]
fn foreign_conditions_are_preserved() {
    let theirs = json!({ "type": "example.com/Ready", "status": "True", "reason": "R", "message": "", "lastTransitionTime": "2023-11-14T22:13:20Z" });
    let mut cluster = Cluster::new([lan(&[])]);
    for name in ["a", "b", "c", "waiting"] {
        cluster.add(mk_service(name, json!({ "status": { "conditions": [theirs] } })));
    }
    let types = |cluster: &Cluster| {
        let list = cluster.objects[&service("waiting")]["status"]["conditions"]
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
fn waiting_service_gets_address_after_hold_down() {
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
        reason.contains("(2 of 3 in use, 1 in hold-down for another 600 s)"),
        "{reason}"
    );
    let due = cluster
        .leader
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
fn hold_down_survives_failover() {
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
    // A Service that requests it gets it in hold-down, too.
    cluster.add(mk_service(
        "d",
        annotated(&[("metallb.io/loadBalancerIPs", "192.168.50.50")]),
    ));
    assert_eq!(cluster.address("d"), "192.168.50.50");
}

#[test]
fn allocation_strategy_survives_restart() {
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
fn exclusion_moves_service_and_quota_blocks_new_ones() {
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
            .contains("for namespace default: quota of 1 addresses per IP family reached")
    );
    cluster.delete(&service("a"));
    cluster.settle();
    assert_eq!(cluster.address("b"), "192.168.50.51");
}

#[test]
fn invalid_annotation_makes_pool_invalid() {
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
    let state = &cluster.objects[&WriteTarget::ConfigurationState]["status"];
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
    let state = &cluster.objects[&WriteTarget::ConfigurationState]["status"];
    assert_eq!(
        (&state["result"], state.get("errorSummary")),
        (&json!("Valid"), None)
    );
    assert_eq!(state["conditions"][0]["reason"], "Reconciled");
}

#[test]
fn addresses_outside_pools_are_kept_on_adoption() {
    let mut adopted = showing("10.9.9.9");
    adopted["metadata"] = json!({ "annotations": { "metallb.io/ip-allocated-from-pool": "gone" } });
    let outside = mk_service("outside", adopted);
    let mut cluster = Cluster::new([lan(&[]), outside, mk_service("web", json!({}))]);
    cluster.settle();
    assert_eq!(
        (cluster.address("outside"), cluster.address("web")),
        ("10.9.9.9", "192.168.50.50")
    );
    let message = "no pool contains 10.9.9.9: kept but not announced: add it to an IPAddressPool, or request another \
                   address in metallb.io/loadBalancerIPs";
    assert!(
        cluster
            .events()
            .contains(&format!("outside Warning AddressOutsidePools: {message}"))
    );
    assert_eq!(
        cluster.condition(&service("outside")),
        format!("lb-operator.io/AddressAssigned=True OutsidePools: {message}")
    );
    // No new decision, failover or edit of a pool moves it.
    cluster.edit(&service("outside"), annotated(&[("unrelated", "1")]));
    cluster.edit(
        &pool("lan"),
        json!({ "spec": { "addresses": ["192.168.50.50-192.168.50.59"] } }),
    );
    cluster.settle();
    let mut cluster = cluster.restarted();
    cluster.settle();
    assert_eq!(cluster.address("outside"), "10.9.9.9");
    assert_eq!((cluster.events(), cluster.writes()), (Vec::new(), Vec::new()));
    cluster.add(mk_pool("old", &["10.9.9.0/24"], json!({})));
    assert_eq!(
        (cluster.address("outside"), cluster.pool_of("outside")),
        ("10.9.9.9", "old")
    );
    cluster.edit(
        &service("outside"),
        annotated(&[("metallb.io/address-pool", "lan")]),
    );
    cluster.settle();
    assert_eq!(cluster.address("outside"), "192.168.50.51");
}

#[test]
fn later_address_outside_pools_is_not_kept() {
    let mut cluster = Cluster::new([lan(&[("lb-operator.io/namespace-quota", "0")])]);
    cluster.add(mk_service("web", json!({})));
    cluster.edit(&service("web"), showing("10.9.9.9"));
    cluster.settle();
    assert_eq!(cluster.address("web"), "");
}
