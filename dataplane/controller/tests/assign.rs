//! Who gets which address: each rule by name.

mod support;

use std::time::Duration;

use serde_json::json;
use support::{Cluster, annotated, mk_pool, mk_service, pool, service, showing};

fn lan() -> (lb_controller::write::Target, serde_json::Value) {
    mk_pool("lan", &["192.168.50.50-192.168.50.59"], json!({}))
}

#[test]
fn a_service_gets_the_first_free_address_the_pools_name_and_one_event() {
    let mut cluster = Cluster::new([lan(), mk_service("web", json!({}))]);
    cluster.settle();
    assert_eq!(
        (cluster.address("web"), cluster.pool_of("web")),
        ("192.168.50.50", "lan")
    );
    assert_eq!(
        cluster.events(),
        ["web Normal IPAllocated: Assigned IP [\"192.168.50.50\"]"]
    );
}

#[test]
fn at_rest_nothing_is_written_or_said() {
    let mut cluster = Cluster::new([lan(), mk_service("web", json!({}))]);
    cluster.settle();
    let (_, _) = (cluster.writes(), cluster.events());
    cluster.edit(&service("web"), annotated(&[("unrelated", "1")]));
    cluster.edit(&pool("lan"), annotated(&[("unrelated", "1")]));
    cluster.settle();
    assert!(cluster.writes().is_empty() && cluster.events().is_empty());
}

#[test]
fn every_spelling_of_a_wish_is_honoured() {
    let manual = mk_pool(
        "manual",
        &["192.168.50.80/29"],
        json!({ "spec": { "autoAssign": false } }),
    );
    let mut cluster = Cluster::new([lan(), manual]);
    for (name, patch, address) in [
        (
            "a",
            annotated(&[("metallb.io/address-pool", "manual")]),
            "192.168.50.80",
        ),
        (
            "b",
            annotated(&[("metallb.universe.tf/address-pool", "manual")]),
            "192.168.50.81",
        ),
        (
            "c",
            annotated(&[("metallb.io/loadBalancerIPs", "192.168.50.84")]),
            "192.168.50.84",
        ),
        (
            "d",
            annotated(&[("metallb.universe.tf/loadBalancerIPs", "192.168.50.85")]),
            "192.168.50.85",
        ),
        (
            "e",
            json!({ "spec": { "loadBalancerIP": "192.168.50.86" } }),
            "192.168.50.86",
        ),
        ("f", json!({}), "192.168.50.50"),
    ] {
        cluster.add(mk_service(name, patch));
        assert_eq!(cluster.address(name), address, "{name}");
    }
    let events = cluster.events();
    let deprecated: Vec<_> = events
        .iter()
        .filter(|event| event.contains("deprecated"))
        .collect();
    assert_eq!(
        deprecated,
        [
            "b Warning deprecatedAnnotation: Service uses deprecated annotation metallb.universe.tf/address-pool",
            "d Warning deprecatedAnnotation: Service uses deprecated annotation metallb.universe.tf/loadBalancerIPs",
        ]
    );
}

#[test]
fn each_impossible_wish_gets_one_event_that_says_what_to_change() {
    let mut cluster = Cluster::new([lan(), mk_service("first", json!({}))]);
    cluster.settle();
    cluster.events();
    for (name, patch, says) in [
        (
            "pool",
            annotated(&[("metallb.io/address-pool", "nowhere")]),
            "unknown pool \"nowhere\": create",
        ),
        (
            "outside",
            annotated(&[("metallb.io/loadBalancerIPs", "10.1.2.3")]),
            "\"10.1.2.3\" is not allowed in config",
        ),
        (
            "taken",
            json!({ "spec": { "loadBalancerIP": "192.168.50.50" } }),
            "address also in use by default/first",
        ),
        (
            "nonsense",
            annotated(&[("metallb.io/loadBalancerIPs", "nonsense")]),
            "invalid metallb.io/loadBalancerIPs: \"nonsense\"",
        ),
        (
            "twice",
            json!({
                "metadata": { "annotations": { "metallb.io/loadBalancerIPs": "192.168.50.57" } },
                "spec": { "loadBalancerIP": "192.168.50.57" },
            }),
            "service can not have both metallb.io/loadBalancerIPs and svc.Spec.LoadBalancerIP",
        ),
        (
            "family",
            annotated(&[("metallb.io/loadBalancerIPs", "fd00::1")]),
            "does not match the ipFamily of the service",
        ),
    ] {
        cluster.add(mk_service(name, patch));
        let events = cluster.events();
        let begins =
            format!("{name} Warning AllocationFailed: Failed to allocate IP for \"default/{name}\": ");
        assert!(
            events.len() == 1 && events[0].starts_with(&begins) && events[0].contains(says),
            "{events:?}"
        );
        // Everything that makes a waiting Service be tried again, and none of it changes the reason.
        cluster.edit(&service(name), annotated(&[("unrelated", "1")]));
        cluster.add(mk_service("witness", json!({})));
        cluster.delete(&service("witness"));
        cluster.edit(
            &pool("lan"),
            json!({ "spec": { "addresses": ["192.168.50.50-192.168.50.58"] } }),
        );
        cluster.settle();
        cluster.edit(
            &pool("lan"),
            json!({ "spec": { "addresses": ["192.168.50.50-192.168.50.59"] } }),
        );
        cluster.settle();
        let events = cluster.events();
        assert!(
            !events.iter().any(|event| event.starts_with(&format!("{name} "))),
            "{events:?}"
        );
    }
}

#[test]
fn a_service_without_a_pool_waits_and_is_served_when_one_appears() {
    let mut cluster = Cluster::new([mk_service("web", json!({}))]);
    cluster.settle();
    assert_eq!(
        cluster.events(),
        [
            "web Warning AllocationFailed: Failed to allocate IP for \"default/web\": no available IPs: there is no pool: create an IPAddressPool"
        ]
    );
    assert!(
        cluster
            .condition(&service("web"))
            .starts_with("lb-operator.io/AddressAssigned=False NoPool: no available IPs"),
        "its condition says so as well"
    );
    cluster.add(lan());
    assert_eq!(cluster.address("web"), "192.168.50.50");
}

#[test]
fn of_several_that_wait_the_oldest_is_served_first() {
    let mut cluster = Cluster::new([
        mk_service("z-oldest", json!({})),
        mk_service("b-younger", json!({})),
        mk_service("a-youngest", json!({})),
    ]);
    cluster.settle();
    cluster.add(mk_pool("tiny", &["10.0.0.1/32"], json!({})));
    assert_eq!(cluster.address("z-oldest"), "10.0.0.1");
    cluster.delete(&service("z-oldest"));
    cluster.settle();
    assert_eq!(cluster.address("b-younger"), "10.0.0.1");
    cluster.edit(
        &pool("tiny"),
        json!({ "spec": { "addresses": ["10.0.0.1-10.0.0.2"] } }),
    );
    cluster.settle();
    assert_eq!(cluster.address("a-youngest"), "10.0.0.2");
}

#[test]
fn a_service_of_another_class_is_not_ours() {
    let classed = json!({ "spec": { "loadBalancerClass": "example.com/other" } });
    let mut cluster = Cluster::new([
        lan(),
        mk_service("other", classed.clone()),
        mk_service("ours", json!({})),
    ]);
    cluster.settle();
    assert_eq!(
        (cluster.address("other"), cluster.address("ours")),
        ("", "192.168.50.50")
    );

    let objects = [
        lan(),
        mk_service("classed", classed),
        mk_service("plain", json!({})),
    ];
    let mut cluster = Cluster::of_class(Some("example.com/other"), objects);
    cluster.settle();
    assert_eq!(
        (cluster.address("classed"), cluster.address("plain")),
        ("192.168.50.50", "")
    );
}

#[test]
fn what_another_class_carries_is_never_touched() {
    let mut theirs = mk_service("theirs", showing("192.168.50.50"));
    theirs.1["spec"]["loadBalancerClass"] = json!("example.com/other");
    theirs.1["metadata"]["annotations"] = json!({ "metallb.io/ip-allocated-from-pool": "lan" });
    let mut cluster = Cluster::new([lan(), theirs]);
    cluster.settle();
    let written = cluster.writes();
    assert!(
        written.iter().all(|write| !write.starts_with("service")),
        "{written:?}"
    );
}

#[test]
fn a_service_that_is_no_load_balancer_any_more_is_cleared_and_its_address_given_on() {
    let wish = annotated(&[("metallb.io/loadBalancerIPs", "192.168.50.58")]);
    let mut cluster = Cluster::new([lan(), mk_service("web", wish.clone()), mk_service("next", wish)]);
    cluster.settle();
    assert_eq!(cluster.address("next"), "");
    cluster.edit(&service("web"), json!({ "spec": { "type": "ClusterIP" } }));
    cluster.settle();
    assert_eq!((cluster.address("web"), cluster.pool_of("web")), ("", ""));
    assert_eq!(cluster.address("next"), "192.168.50.58");
}

#[test]
fn a_service_that_asks_for_something_else_is_moved() {
    let other = mk_pool("other", &["10.0.0.0/30"], json!({}));
    let mut cluster = Cluster::new([lan(), other, mk_service("web", json!({}))]);
    cluster.settle();
    cluster.edit(
        &service("web"),
        annotated(&[("metallb.io/address-pool", "other")]),
    );
    cluster.settle();
    assert_eq!(
        (cluster.address("web"), cluster.pool_of("web")),
        ("10.0.0.0", "other")
    );
    cluster.edit(
        &service("web"),
        annotated(&[("metallb.io/loadBalancerIPs", "10.0.0.2")]),
    );
    cluster.settle();
    assert_eq!(cluster.address("web"), "10.0.0.2");
    cluster.events();

    // It asks for what it cannot have: the address it no longer asks for is not kept either.
    cluster.edit(
        &service("web"),
        annotated(&[("metallb.io/loadBalancerIPs", "10.9.9.9")]),
    );
    cluster.settle();
    assert_eq!((cluster.address("web"), cluster.pool_of("web")), ("", ""));
    assert_eq!(cluster.events().len(), 1);
}

#[test]
fn a_wish_that_cannot_be_understood_costs_no_address() {
    let mut cluster = Cluster::new([lan(), mk_service("web", json!({}))]);
    cluster.settle();
    cluster.events();
    for _ in 0..3 {
        cluster.edit(
            &service("web"),
            annotated(&[("metallb.io/loadBalancerIPs", "192.168.50.")]),
        );
        cluster.settle();
    }
    assert_eq!(cluster.address("web"), "192.168.50.50");
    let events = cluster.events();
    assert_eq!(events.len(), 1);
    assert!(events[0].starts_with(
        "web Warning LoadBalancerFailed: invalid requested loadbalancer IPs: invalid metallb.io/loadBalancerIPs: \"192.168.50.\""
    ));
    // Nor does it after a restart.
    let mut cluster = cluster.restarted();
    cluster.settle();
    assert_eq!(cluster.address("web"), "192.168.50.50");
}

#[test]
fn an_address_that_is_still_shown_is_given_to_nobody_else() {
    let mut cluster = Cluster::new([lan(), mk_service("old", json!({}))]);
    cluster.settle();
    // One asks for something else, another for the address: nothing of the first has been written yet.
    cluster.edit(
        &service("old"),
        annotated(&[("metallb.io/loadBalancerIPs", "192.168.50.51")]),
    );
    cluster.decide();
    let wish = annotated(&[("metallb.io/loadBalancerIPs", "192.168.50.50")]);
    let (target, object) = mk_service("new", wish);
    cluster.objects.insert(target.clone(), object);
    cluster.edit(&target, json!({}));
    cluster.decide();
    let written = |name: &str| {
        cluster.under_way.iter().any(|write| {
            write.target() == service(name) && write.patch().pointer("/status/loadBalancer").is_some()
        })
    };
    assert!(written("old") && !written("new"), "the second has nothing yet");
    cluster.settle();
    assert_eq!(
        (cluster.address("old"), cluster.address("new")),
        ("192.168.50.51", "192.168.50.50")
    );
}

#[test]
fn a_status_that_somebody_else_changed_is_put_right() {
    let mut cluster = Cluster::new([lan(), mk_service("a", json!({})), mk_service("b", json!({}))]);
    cluster.settle();
    cluster.edit(
        &service("a"),
        json!({ "status": { "loadBalancer": { "ingress": null } } }),
    );
    cluster.settle();
    assert_eq!(cluster.address("a"), "192.168.50.50");
    cluster.edit(&service("a"), showing("192.168.50.51"));
    cluster.settle();
    assert_eq!(
        (cluster.address("a"), cluster.address("b")),
        ("192.168.50.50", "192.168.50.51")
    );
}

#[test]
fn the_mode_of_an_address_that_stays_is_left_alone() {
    let mut cluster = Cluster::new([lan()]);
    let proxied = json!({ "status": { "loadBalancer": { "ingress": [{ "ip": "192.168.50.53", "ipMode": "Proxy" }] } } });
    cluster.add(mk_service("web", proxied));
    assert_eq!(
        (cluster.address("web"), cluster.pool_of("web")),
        ("192.168.50.53", "lan")
    );
    let object = &cluster.objects[&service("web")];
    assert_eq!(object["status"]["loadBalancer"]["ingress"][0]["ipMode"], "Proxy");
}

#[test]
fn a_conflict_waits_for_the_newer_object_and_changes_nothing_else() {
    let mut cluster = Cluster::new([lan(), mk_service("web", json!({}))]);
    cluster.decide();
    // Somebody edits the Service, and the watch is late.
    cluster.watching = false;
    cluster.edit(&service("web"), annotated(&[("unrelated", "1")]));
    while !cluster.under_way.is_empty() {
        cluster.answer();
    }
    cluster.decide();
    assert!(
        !cluster
            .under_way
            .iter()
            .any(|write| write.target() == service("web")),
        "it would conflict again"
    );
    assert_eq!(cluster.events().len(), 0, "nothing has been assigned yet");
    cluster.catch_up();
    cluster.settle();
    assert_eq!(cluster.address("web"), "192.168.50.50");
    assert_eq!(
        cluster.events(),
        ["web Normal IPAllocated: Assigned IP [\"192.168.50.50\"]"]
    );
}

#[test]
fn a_late_watch_causes_no_second_decision() {
    let mut cluster = Cluster::new([lan(), mk_service("web", json!({}))]);
    cluster.decide();
    cluster.watching = false;
    cluster.settle();
    cluster.pass(Duration::from_secs(3600));
    cluster.settle();
    cluster.catch_up();
    cluster.settle();
    assert_eq!(
        cluster.events(),
        ["web Normal IPAllocated: Assigned IP [\"192.168.50.50\"]"]
    );
    let writes = cluster.writes();
    assert_eq!(
        writes.iter().filter(|write| write.starts_with("service")).count(),
        1,
        "{writes:?}"
    );
}

#[test]
fn a_write_that_failed_is_tried_again_after_a_pause() {
    let mut cluster = Cluster::new([lan(), mk_service("web", json!({}))]);
    cluster.decide();
    while !cluster.under_way.is_empty() {
        cluster.fail();
    }
    cluster.decide();
    assert!(cluster.under_way.is_empty());
    let due = cluster
        .leading
        .as_ref()
        .unwrap()
        .next_timeout(cluster.now)
        .unwrap();
    cluster.pass(due - cluster.now);
    cluster.settle();
    assert_eq!(cluster.address("web"), "192.168.50.50");
    assert_eq!(cluster.leading.as_ref().unwrap().next_timeout(cluster.now), None);
}

#[test]
fn a_thousand_services_have_a_thousand_addresses_and_few_writes_beyond() {
    let services = (0..1000).map(|i| mk_service(&format!("s{i}"), json!({})));
    let mut cluster = Cluster::new(services);
    cluster.settle();
    // All of them wait, and their conditions say so.
    assert_eq!((cluster.events().len(), cluster.writes().len()), (1000, 1001));
    cluster.add(mk_pool("big", &["10.0.0.0/16"], json!({})));
    assert_eq!(cluster.address("s0"), "10.0.0.0");
    assert_eq!(cluster.address("s999"), "10.0.3.231");
    assert_eq!(cluster.events().len(), 1000);
    let writes = cluster.writes();
    let others = writes
        .iter()
        .filter(|write| !write.starts_with("service"))
        .count();
    assert!(
        writes.len() - others == 1000 && others < 50,
        "{others} writes of the pool"
    );
}

#[test]
fn a_dual_stack_service_gets_both_addresses_of_one_pool() {
    let spec = json!({ "spec": {
        "ipFamilyPolicy": "RequireDualStack",
        "clusterIPs": ["10.96.0.9", "fd00:96::9"],
    } });
    let both = mk_pool(
        "two",
        &["192.168.60.1-192.168.60.9", "fd00:60::1-fd00:60::9"],
        json!({}),
    );
    let mut cluster = Cluster::new([lan(), both, mk_service("web", spec)]);
    cluster.settle();
    assert_eq!(
        cluster.events(),
        ["web Normal IPAllocated: Assigned IP [\"192.168.60.1\" \"fd00:60::1\"]"]
    );
}

#[test]
fn an_address_that_a_lost_write_may_still_show_is_given_to_nobody_else() {
    let wish = annotated(&[("metallb.io/loadBalancerIPs", "192.168.50.50")]);
    let mut cluster = Cluster::new([lan(), mk_service("first", wish.clone())]);
    cluster.decide();
    while !cluster.under_way.is_empty() {
        cluster.delay();
    }
    // The watch is late as well: the controller learns of the new wish, and not of what becomes of the write.
    cluster.edit(
        &service("first"),
        annotated(&[("metallb.io/loadBalancerIPs", "192.168.50.51")]),
    );
    cluster.add(mk_service("second", wish));
    cluster.land_delayed();
    cluster.settle();
    assert_eq!(
        (cluster.address("first"), cluster.address("second")),
        ("192.168.50.51", "192.168.50.50")
    );
}
