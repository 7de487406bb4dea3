//! The rules of assignment.

mod support;

use std::time::Duration;

use lb_runtime::ObjectKey;
use lb_runtime::watch::Change;
use serde_json::json;
use support::{Cluster, annotated, mk_pool, mk_service, pool, service, showing};

fn lan() -> (lb_controller::target::WriteTarget, serde_json::Value) {
    mk_pool("lan", &["192.168.50.50-192.168.50.59"], json!({}))
}

#[test]
fn assigns_first_free_address_with_pool_and_one_event() {
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
fn unrelated_changes_write_nothing() {
    let mut cluster = Cluster::new([lan(), mk_service("web", json!({}))]);
    cluster.settle();
    let (_, _) = (cluster.writes(), cluster.events());
    cluster.edit(&service("web"), annotated(&[("unrelated", "1")]));
    cluster.edit(&pool("lan"), annotated(&[("unrelated", "1")]));
    cluster.settle();
    assert!(cluster.writes().is_empty() && cluster.events().is_empty());
}

#[test]
fn every_form_of_request_is_honored() {
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
fn each_rejected_request_gets_one_event() {
    let mut cluster = Cluster::new([lan(), mk_service("first", json!({}))]);
    cluster.settle();
    cluster.events();
    for (name, patch, expected) in [
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
            events.len() == 1 && events[0].starts_with(&begins) && events[0].contains(expected),
            "{events:?}"
        );
        // Each of these causes a new attempt, but no other rejection.
        cluster.edit(&service(name), annotated(&[("unrelated", "1")]));
        cluster.add(mk_service("unrelated", json!({})));
        cluster.delete(&service("unrelated"));
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
fn waiting_service_gets_address_of_new_pool() {
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
        "the condition has the same reason"
    );
    cluster.add(lan());
    assert_eq!(cluster.address("web"), "192.168.50.50");
}

#[test]
fn oldest_waiting_service_is_served_first() {
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
fn serves_only_its_load_balancer_class() {
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
fn ignores_other_load_balancer_class() {
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
fn former_load_balancer_releases_its_address() {
    let request = annotated(&[("metallb.io/loadBalancerIPs", "192.168.50.58")]);
    let mut cluster = Cluster::new([
        lan(),
        mk_service("web", request.clone()),
        mk_service("next", request),
    ]);
    cluster.settle();
    assert_eq!(cluster.address("next"), "");
    cluster.edit(&service("web"), json!({ "spec": { "type": "ClusterIP" } }));
    cluster.settle();
    assert_eq!((cluster.address("web"), cluster.pool_of("web")), ("", ""));
    assert_eq!(cluster.address("next"), "192.168.50.58");
}

#[test]
fn changed_request_moves_the_service() {
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

    // A rejected request for another address does not keep the previous one.
    cluster.edit(
        &service("web"),
        annotated(&[("metallb.io/loadBalancerIPs", "10.9.9.9")]),
    );
    cluster.settle();
    assert_eq!((cluster.address("web"), cluster.pool_of("web")), ("", ""));
    assert_eq!(cluster.events().len(), 1);
}

#[test]
fn invalid_request_keeps_the_address() {
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
    // The same after a restart.
    let mut cluster = cluster.restarted();
    cluster.settle();
    assert_eq!(cluster.address("web"), "192.168.50.50");
}

#[test]
fn shown_address_is_not_assigned_to_another_service() {
    let mut cluster = Cluster::new([lan(), mk_service("old", json!({}))]);
    cluster.settle();
    // One requests another address, another the first one: no write has an outcome yet.
    cluster.edit(
        &service("old"),
        annotated(&[("metallb.io/loadBalancerIPs", "192.168.50.51")]),
    );
    cluster.decide();
    let request = annotated(&[("metallb.io/loadBalancerIPs", "192.168.50.50")]);
    let (target, object) = mk_service("new", request);
    cluster.objects.insert(target.clone(), object);
    cluster.edit(&target, json!({}));
    cluster.decide();
    let written = |name: &str| {
        cluster.in_flight.iter().any(|write| {
            write.target() == service(name) && write.patch().pointer("/status/loadBalancer").is_some()
        })
    };
    assert!(written("old") && !written("new"), "the second waits");
    cluster.settle();
    assert_eq!(
        (cluster.address("old"), cluster.address("new")),
        ("192.168.50.51", "192.168.50.50")
    );
}

#[test]
fn foreign_change_of_status_is_corrected() {
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
fn ip_mode_of_kept_address_is_preserved() {
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
fn conflict_waits_for_newer_object() {
    let mut cluster = Cluster::new([lan(), mk_service("web", json!({}))]);
    cluster.decide();
    // Somebody edits the Service, and the watch is late.
    cluster.watching = false;
    cluster.edit(&service("web"), annotated(&[("unrelated", "1")]));
    while !cluster.in_flight.is_empty() {
        cluster.answer();
    }
    cluster.decide();
    assert!(
        !cluster
            .in_flight
            .iter()
            .any(|write| write.target() == service("web")),
        "another write would conflict again"
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
fn late_watch_causes_no_second_write() {
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
fn failed_write_is_retried_after_delay() {
    let mut cluster = Cluster::new([lan(), mk_service("web", json!({}))]);
    cluster.decide();
    while !cluster.in_flight.is_empty() {
        cluster.fail();
    }
    cluster.decide();
    assert!(cluster.in_flight.is_empty());
    let due = cluster
        .leader
        .as_ref()
        .unwrap()
        .next_timeout(cluster.now)
        .unwrap();
    cluster.pass(due - cluster.now);
    cluster.settle();
    assert_eq!(cluster.address("web"), "192.168.50.50");
    assert_eq!(cluster.leader.as_ref().unwrap().next_timeout(cluster.now), None);
}

/// Created one after the other, each assignment has ended before the next begins.
#[test]
fn thousand_assignments_write_each_service_once_and_the_pool_once_a_second() {
    let mut cluster = Cluster::new([mk_pool("big", &["10.0.0.0/16"], json!({}))]);
    cluster.settle();
    cluster.writes();
    for number in 0..1000 {
        cluster.create_service(&format!("s{number}"));
        cluster.pass(Duration::from_millis(10));
        cluster.decide();
        while !cluster.in_flight.is_empty() {
            cluster.answer();
            cluster.decide();
        }
    }
    cluster.settle();
    assert_eq!(
        cluster.objects[&pool("big")]["status"]["assignedIPv4"],
        json!(1000)
    );
    let writes = cluster.writes();
    let of = |kind: &str| writes.iter().filter(|write| write.starts_with(kind)).count();
    assert_eq!(of("service"), 1000);
    let of_pool = writes.len() - of("service");
    assert!(
        (10..=12).contains(&of_pool),
        "{of_pool} writes of the pool in ten seconds"
    );
    assert_eq!(cluster.events().len(), 1000);
}

/// A pool that becomes invalid says so at once.
#[test]
fn condition_of_a_pool_is_not_delayed() {
    let mut cluster = Cluster::new([mk_pool("big", &["10.0.0.0/16"], json!({}))]);
    cluster.settle();
    cluster.create_service("web");
    cluster.edit(&pool("big"), json!({ "spec": { "addresses": ["10.0.0.0"] } }));
    let before = cluster.now;
    cluster.decide();
    while !cluster.in_flight.is_empty() {
        cluster.answer();
        cluster.decide();
    }
    assert_eq!(cluster.now, before);
    let condition = cluster.condition(&pool("big"));
    assert!(
        condition.starts_with("Valid=False InvalidAddresses"),
        "{condition}"
    );
}

#[test]
fn thousand_services_need_few_pool_writes() {
    let services = (0..1000).map(|i| mk_service(&format!("s{i}"), json!({})));
    let mut cluster = Cluster::new(services);
    cluster.settle();
    // All of them wait, and their conditions say why.
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
fn dual_stack_service_gets_pair_of_one_pool() {
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
fn address_of_timed_out_write_is_not_reassigned() {
    let request = annotated(&[("metallb.io/loadBalancerIPs", "192.168.50.50")]);
    let mut cluster = Cluster::new([lan(), mk_service("first", request.clone())]);
    cluster.decide();
    while !cluster.in_flight.is_empty() {
        cluster.delay();
    }
    // The watch is late: the controller sees the new request, but not the outcome of the write.
    cluster.edit(
        &service("first"),
        annotated(&[("metallb.io/loadBalancerIPs", "192.168.50.51")]),
    );
    cluster.add(mk_service("second", request));
    cluster.land_delayed();
    cluster.settle();
    assert_eq!(
        (cluster.address("first"), cluster.address("second")),
        ("192.168.50.51", "192.168.50.50")
    );
}

#[test]
fn node_address_is_not_assigned_by_itself() {
    let mut cluster = Cluster::new([lan()]);
    let node = |addresses: &[&str]| {
        let addresses: Vec<_> = addresses
            .iter()
            .map(|address| json!({ "type": "InternalIP", "address": address }))
            .collect();
        let object = json!({ "metadata": { "name": "n1" }, "status": { "addresses": addresses } });
        Change::Apply(serde_json::from_value(object).unwrap())
    };
    assert!(cluster.index.update_node(node(&["192.168.50.50", "fd00:50::1"])));
    assert!(
        !cluster.index.update_node(node(&["192.168.50.50", "fd00:50::1"])),
        "a heartbeat of the node"
    );
    cluster.add(mk_service("web", json!({})));
    assert_eq!(cluster.address("web"), "192.168.50.51");
    cluster
        .index
        .update_node(Change::Delete(ObjectKey::new("", "n1")));
    cluster.leader.as_mut().unwrap().nodes_changed();
    cluster.add(mk_service("next", json!({})));
    assert_eq!(cluster.address("next"), "192.168.50.50");
}

#[test]
fn pool_names_the_nodes_whose_addresses_it_contains() {
    let mut cluster = Cluster::new([mk_pool("lan", &["192.168.50.8/29"], json!({}))]);
    cluster.settle();
    assert!(cluster.condition(&pool("lan")).contains("Valid=True Accepted"));
    let node = json!({
        "metadata": { "name": "n3" },
        "status": { "addresses": [{ "type": "InternalIP", "address": "192.168.50.13" }] },
    });
    let node = Change::Apply(serde_json::from_value(node).unwrap());
    assert!(cluster.index.update_node(node));
    cluster.leader.as_mut().unwrap().nodes_changed();
    cluster.settle();
    let text = cluster.condition(&pool("lan"));
    assert!(
        text.contains("Valid=True ContainsNodeAddresses: Services can use this pool")
            && text.contains("192.168.50.13 (node n3): "),
        "{text}"
    );
    assert_eq!(cluster.events(), Vec::<String>::new());
    cluster.edit(
        &pool("lan"),
        annotated(&[("lb-operator.io/excluded-addresses", "192.168.50.13/32")]),
    );
    cluster.settle();
    assert!(cluster.condition(&pool("lan")).contains("Valid=True Accepted"));
}
