//! `allow-shared-ip`: Services that share an address.

mod support;

use lb_controller::target::WriteTarget;
use lb_runtime::ObjectKey;
use serde_json::{Value, json};
use support::{Cluster, mk_pool, mk_service, pool, service};

fn sharing(key: &str, protocol: &str, port: u16) -> Value {
    json!({
        "metadata": { "annotations": { "metallb.io/allow-shared-ip": key } },
        "spec": { "ports": [{ "protocol": protocol, "port": port }] },
    })
}

fn at(address: &str, mut patch: Value) -> Value {
    patch["metadata"]["annotations"]["metallb.io/loadBalancerIPs"] = json!(address);
    patch
}

fn cluster() -> Cluster {
    Cluster::new([mk_pool("lan", &["10.0.0.0/29"], json!({}))])
}

#[test]
fn tcp_and_udp_share_a_port_under_both_prefixes() {
    let mut cluster = cluster();
    cluster.add(mk_service("tcp", sharing("dns", "TCP", 53)));
    let mut old = sharing("dns", "UDP", 53);
    old["metadata"]["annotations"] = json!({ "metallb.universe.tf/allow-shared-ip": "dns" });
    cluster.add(mk_service("udp", old));
    assert_eq!(
        (cluster.address("tcp"), cluster.address("udp")),
        ("10.0.0.0", "10.0.0.0")
    );
    let status = &cluster.objects[&pool("lan")]["status"];
    assert_eq!(status["assignedIPv4"], json!(1), "it counts once");
}

#[test]
fn changed_key_moves_only_that_service() {
    let mut cluster = cluster();
    for (name, port) in [("a", 80), ("b", 81), ("c", 82)] {
        cluster.add(mk_service(name, sharing("k", "TCP", port)));
    }
    cluster.events();
    cluster.edit(
        &service("b"),
        json!({ "metadata": { "annotations": { "metallb.io/allow-shared-ip": "other" } } }),
    );
    cluster.settle();
    assert_eq!(
        (cluster.address("a"), cluster.address("b"), cluster.address("c")),
        ("10.0.0.0", "10.0.0.1", "10.0.0.0")
    );
    let events = cluster.events();
    assert!(
        events[0].contains("ClearAssignment") && events[0].contains("under another key"),
        "{events:?}"
    );
}

#[test]
fn port_conflict_moves_the_changed_service() {
    let mut cluster = cluster();
    cluster.add(mk_service("a", sharing("k", "TCP", 80)));
    cluster.add(mk_service("b", sharing("k", "TCP", 81)));
    cluster.edit(
        &service("b"),
        json!({ "spec": { "ports": [{ "protocol": "TCP", "port": 80 }] } }),
    );
    cluster.settle();
    assert_eq!(
        (cluster.address("a"), cluster.address("b")),
        ("10.0.0.0", "10.0.0.1")
    );
}

#[test]
fn local_policy_shares_only_with_same_selector() {
    let mut cluster = cluster();
    let local = |port, app: &str| {
        let mut patch = at("10.0.0.5", sharing("k", "TCP", port));
        patch["spec"]["externalTrafficPolicy"] = json!("Local");
        patch["spec"]["selector"] = json!({ "app": app });
        patch
    };
    cluster.add(mk_service("a", local(80, "x")));
    cluster.add(mk_service("b", local(81, "x")));
    cluster.add(mk_service("c", local(82, "y")));
    cluster.add(mk_service("d", at("10.0.0.5", sharing("k", "TCP", 83))));
    assert_eq!(
        (cluster.address("a"), cluster.address("b")),
        ("10.0.0.5", "10.0.0.5")
    );
    for name in ["c", "d"] {
        assert_eq!(cluster.address(name), "");
        assert!(
            cluster
                .reason(name)
                .unwrap()
                .contains("externalTrafficPolicy Local")
        );
    }
    // The policy changes: now it fits.
    cluster.edit(&service("c"), json!({ "spec": { "selector": { "app": "x" } } }));
    cluster.settle();
    assert_eq!(cluster.address("c"), "10.0.0.5");
}

/// The Pods of one selector in two namespaces are on different nodes, and only one node announces the address.
#[test]
fn local_policy_shares_only_within_a_namespace() {
    let mut cluster = cluster();
    let local = |port, selector: Value| {
        let mut patch = at("10.0.0.5", sharing("k", "TCP", port));
        patch["spec"]["externalTrafficPolicy"] = json!("Local");
        patch["spec"]["selector"] = selector;
        patch
    };
    cluster.add(mk_service("a", local(80, json!({ "app": "x" }))));
    let mut other = local(81, json!({ "app": "x" }));
    other["metadata"]["namespace"] = json!("green");
    let key = ObjectKey::new("green", "b");
    cluster.add((WriteTarget::Service(key.clone()), mk_service("b", other).1));
    let reason = cluster.leader.as_ref().unwrap().rejection(&key);
    let reason = reason.map(ToString::to_string);
    assert!(
        reason.is_some_and(|reason| reason.contains("the same namespace")),
        "refused"
    );
    // Without a selector, each Service has endpoints of its own.
    cluster.add(mk_service("c", at("10.0.0.4", local(82, json!({})))));
    cluster.add(mk_service("d", at("10.0.0.4", local(83, json!({})))));
    assert_eq!((cluster.address("c"), cluster.address("d")), ("10.0.0.4", ""));
}

/// MetalLB compares selectors without their namespaces. An upgrade takes no address away.
#[test]
fn services_of_two_namespaces_that_share_an_address_keep_it() {
    let local = |namespace: &str, name: &str, port, selector: Value| {
        let mut patch = sharing("k", "TCP", port);
        support::merge(&mut patch, &support::showing("10.0.0.5"));
        support::merge(
            &mut patch,
            &json!({
                "metadata": { "namespace": namespace, "annotations": { "metallb.io/ip-allocated-from-pool": "lan" } },
                "spec": { "externalTrafficPolicy": "Local", "selector": selector },
            }),
        );
        let key = ObjectKey::new(namespace, name);
        (WriteTarget::Service(key), mk_service(name, patch).1)
    };
    for selector in [json!({ "app": "x" }), json!({})] {
        let services = [
            local("default", "a", 80, selector.clone()),
            local("green", "b", 81, selector.clone()),
        ];
        let targets = services.clone().map(|(target, _)| target);
        let pool = mk_pool("lan", &["10.0.0.0/29"], json!({}));
        let mut cluster = Cluster::new([pool].into_iter().chain(services));
        cluster.settle();
        let shown = |cluster: &Cluster, target: &WriteTarget| {
            cluster.objects[target]["status"]["loadBalancer"]["ingress"][0]["ip"].clone()
        };
        for target in &targets {
            assert_eq!(shown(&cluster, target), "10.0.0.5", "{target} keeps its address");
        }
        // Another port is no reason to take it away; another Service does not come to share it.
        cluster.edit(
            &targets[1],
            json!({ "spec": { "ports": [{ "protocol": "TCP", "port": 82 }] } }),
        );
        cluster.settle();
        assert_eq!(shown(&cluster, &targets[1]), "10.0.0.5");
        let mut third = local("blue", "c", 83, selector);
        third.1["status"] = json!({});
        third.1["metadata"]["annotations"]["metallb.io/loadBalancerIPs"] = json!("10.0.0.5");
        let target = third.0.clone();
        cluster.add(third);
        assert_eq!(shown(&cluster, &target), Value::Null);
    }
}

#[test]
fn waiting_service_gets_port_once_released() {
    let mut cluster = cluster();
    cluster.add(mk_service("a", at("10.0.0.5", sharing("k", "TCP", 80))));
    cluster.add(mk_service("b", at("10.0.0.5", sharing("k", "TCP", 80))));
    assert!(
        cluster
            .reason("b")
            .unwrap()
            .starts_with("port TCP/80 is already in use on \"10.0.0.5\" by default/a")
    );
    cluster.edit(
        &service("a"),
        json!({ "spec": { "ports": [{ "protocol": "TCP", "port": 81 }] } }),
    );
    cluster.settle();
    assert_eq!(cluster.address("b"), "10.0.0.5");
}

#[test]
fn restart_keeps_shared_addresses() {
    let mut cluster = cluster();
    for (name, port) in [("a", 80), ("b", 81)] {
        cluster.add(mk_service(name, sharing("k", "TCP", port)));
    }
    cluster.add(mk_service("alone", json!({})));
    let mut cluster = cluster.restarted();
    cluster.settle();
    assert_eq!(
        (
            cluster.address("a"),
            cluster.address("b"),
            cluster.address("alone")
        ),
        ("10.0.0.0", "10.0.0.0", "10.0.0.1")
    );
    assert!(cluster.writes().is_empty() && cluster.events().is_empty());
}

#[test]
fn empty_key_counts_as_no_key() {
    let mut cluster = cluster();
    cluster.add(mk_service("a", sharing("", "TCP", 80)));
    cluster.add(mk_service("b", sharing("", "TCP", 81)));
    assert_ne!(cluster.address("a"), cluster.address("b"));
}
