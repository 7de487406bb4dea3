//! A new leader: it ends where its predecessor would have ended, whatever changed while nobody led.

#![allow(clippy::unwrap_used, reason = "a missing object fails the test")]

mod support;

use lb_controller::target::WriteTarget;
use lb_runtime::ObjectKey;
use lb_runtime::watch::Change;
use serde_json::{Value, json};
use support::{Cluster, annotated, mk_pool, mk_service, pool, service, showing};

fn from_pool(address: &str, pool: &str) -> Value {
    let mut object = showing(address);
    object["metadata"] = json!({ "annotations": { "metallb.io/ip-allocated-from-pool": pool } });
    object
}

fn old() -> (WriteTarget, Value) {
    mk_pool("a", &["192.168.50.100-192.168.50.199"], json!({}))
}

fn new() -> (WriteTarget, Value) {
    mk_pool("b", &["192.168.50.60-192.168.50.99"], json!({}))
}

/// The cluster after an edit with a leader, and after the same edit without one.
fn with_and_without_leader(edit: impl Fn(&mut Cluster)) -> [Cluster; 2] {
    [true, false].map(|led| {
        let mut cluster = Cluster::new([old()]);
        for name in ["x", "y"] {
            cluster.add(mk_service(name, json!({})));
        }
        cluster.add(new());
        edit(&mut cluster);
        if led {
            cluster.settle();
        }
        let mut cluster = cluster.restarted();
        cluster.settle();
        cluster
    })
}

fn addresses(cluster: &Cluster) -> [String; 2] {
    ["x", "y"].map(|name| {
        format!(
            "{} {}",
            cluster.addresses(name),
            cluster.condition(&service(name))
        )
    })
}

#[test]
fn pool_edit_without_a_leader_ends_like_one_with_a_leader() {
    let edits: [fn(&mut Cluster); 4] = [
        |cluster| cluster.delete(&pool("a")),
        |cluster| {
            let spec = json!({ "spec": { "addresses": ["192.168.50.101-192.168.50.110"] } });
            cluster.edit(&pool("a"), spec);
        },
        |cluster| {
            let excluded = [("lb-operator.io/excluded-addresses", "192.168.50.100/32")];
            cluster.edit(&pool("a"), annotated(&excluded));
        },
        |cluster| {
            cluster.delete(&pool("a"));
            cluster.delete(&pool("b"));
        },
    ];
    for edit in edits {
        let [with, without] = with_and_without_leader(edit).map(|cluster| addresses(&cluster));
        assert_eq!(with, without);
        assert!(
            !with[0].contains("192.168.50.100") && !with[0].contains("OutsidePools"),
            "{with:?}"
        );
    }
}

#[test]
fn address_outside_pools_survives_a_later_problem_and_a_restart() {
    let mut cluster = Cluster::new([new(), mk_service("web", from_pool("10.9.9.9", "gone"))]);
    cluster.settle();
    assert_eq!(cluster.address("web"), "10.9.9.9");
    cluster.edit(
        &service("web"),
        annotated(&[("metallb.io/loadBalancerIPs", "10.9.9.")]),
    );
    cluster.settle();
    assert!(
        cluster.condition(&service("web")).starts_with(
            "lb-operator.io/AddressAssigned=False OutsidePools: invalid metallb.io/loadBalancerIPs"
        ),
        "{}",
        cluster.condition(&service("web"))
    );
    let mut cluster = cluster.restarted();
    cluster.settle();
    assert_eq!(cluster.address("web"), "10.9.9.9");
    assert_eq!(cluster.writes(), Vec::<String>::new());
}

#[test]
fn metallb_address_outside_an_existing_pool_is_replaced() {
    // As MetalLB does after a restart.
    let mut cluster = Cluster::new([new(), mk_service("web", from_pool("10.9.9.9", "b"))]);
    cluster.settle();
    assert_eq!(cluster.address("web"), "192.168.50.60");
}

#[test]
fn status_of_another_load_balancer_is_replaced() {
    let ingress = |entries: Value| json!({ "status": { "loadBalancer": { "ingress": entries } } });
    let nodes = json!([{ "ip": "192.168.50.11" }, { "ip": "192.168.50.12" }, { "ip": "192.168.50.13" }]);
    let mut cluster = Cluster::new([
        new(),
        mk_service("k3s", ingress(nodes.clone())),
        mk_service("k3s-too", ingress(nodes)),
        mk_service("one-node", ingress(json!([{ "ip": "192.168.50.11" }]))),
        mk_service("cloud", ingress(json!([{ "hostname": "lb.example.com" }]))),
        mk_service(
            "both",
            ingress(json!([{ "ip": "192.168.50.90" }, { "hostname": "lb.example.com" }])),
        ),
    ]);
    cluster.settle();
    let given = ["k3s", "k3s-too", "one-node", "cloud", "both"].map(|name| cluster.addresses(name));
    assert_eq!(
        given,
        [
            "192.168.50.60",
            "192.168.50.61",
            "192.168.50.62",
            "192.168.50.63",
            "192.168.50.64"
        ]
    );
    // Without a pool they are cleared.
    let mut cluster = Cluster::new([mk_service("k3s", ingress(json!([{ "ip": "192.168.50.11" }])))]);
    cluster.settle();
    assert_eq!(cluster.addresses("k3s"), "");
}

#[test]
fn shared_address_survives_an_invalid_request_and_a_restart() {
    let dns = |protocol: &str| {
        json!({
            "metadata": { "annotations": {
                "metallb.io/allow-shared-ip": "dns",
                "metallb.io/loadBalancerIPs": "192.168.50.60",
            } },
            "spec": { "ports": [{ "port": 53, "protocol": protocol }] },
        })
    };
    for broken in ["dns-tcp", "dns-udp"] {
        let mut cluster = Cluster::new([new()]);
        cluster.add(mk_service("dns-udp", dns("UDP")));
        cluster.add(mk_service("dns-tcp", dns("TCP")));
        cluster.edit(
            &service(broken),
            json!({ "spec": { "loadBalancerIP": "192.168.50.60" } }),
        );
        cluster.settle();
        let mut cluster = cluster.restarted();
        cluster.settle();
        assert_eq!(
            (cluster.address("dns-udp"), cluster.address("dns-tcp")),
            ("192.168.50.60", "192.168.50.60")
        );
        assert_eq!((cluster.events(), cluster.writes()), (Vec::new(), Vec::new()));
    }
}

#[test]
fn long_sharing_key_is_rejected() {
    let key = "k".repeat(254);
    let mut cluster = Cluster::new([new()]);
    cluster.add(mk_service(
        "web",
        annotated(&[("metallb.io/allow-shared-ip", &key)]),
    ));
    assert_eq!(cluster.address("web"), "");
    assert_eq!(
        cluster.reason("web").unwrap(),
        "invalid metallb.io/allow-shared-ip: 254 bytes long: write at most 253 bytes"
    );
}

#[test]
fn unknown_namespace_costs_no_address() {
    let spec = json!({ "spec": { "serviceAllocation": { "namespaceSelectors": [{ "matchLabels": { "team": "x" } }] } } });
    let selecting = mk_pool("mine", &["10.0.0.1-10.0.0.9"], spec);
    let mut cluster = Cluster::new([new(), selecting]);
    let namespace = |team: &str| {
        let object = json!({ "metadata": { "name": "default", "labels": { "team": team } } });
        Change::Apply(serde_json::from_value(object).unwrap())
    };
    cluster.index.update_namespace(namespace("x"));
    cluster.leader.as_mut().unwrap().pools_changed();
    cluster.add(mk_service("web", json!({})));
    assert_eq!(cluster.address("web"), "10.0.0.1");
    // A successor whose watch of namespaces lags: it neither takes nor assigns an address.
    let mut cluster = cluster.restarted();
    cluster
        .index
        .update_namespace(Change::Delete(ObjectKey::new("", "default")));
    cluster.add(mk_service("next", json!({})));
    assert_eq!(
        (cluster.address("web"), cluster.address("next")),
        ("10.0.0.1", "")
    );
    assert_eq!(cluster.events(), Vec::<String>::new());
    cluster.index.update_namespace(namespace("x"));
    cluster.leader.as_mut().unwrap().pools_changed();
    cluster.settle();
    assert_eq!(
        (cluster.address("web"), cluster.address("next")),
        ("10.0.0.1", "10.0.0.2")
    );
}

#[test]
fn namesake_is_another_service() {
    let mut cluster = Cluster::new([mk_pool("one", &["10.0.0.1/32"], json!({}))]);
    cluster.add(mk_service("web", json!({})));
    cluster.add(mk_service("waiting", json!({})));
    cluster.events();
    // Deletion and creation arrive as one change.
    cluster.watching = false;
    cluster.delete(&service("web"));
    let (target, object) = mk_service("web", json!({ "metadata": { "uid": "uid-2" } }));
    cluster.create(target, object);
    cluster.catch_up();
    cluster.settle();
    assert_eq!(
        (cluster.address("waiting"), cluster.address("web")),
        ("10.0.0.1", "")
    );
    let events = cluster.events();
    assert!(
        events
            .iter()
            .any(|event| event.starts_with("web Warning AllocationFailed")),
        "{events:?}"
    );
}

#[test]
fn service_of_another_class_loses_our_conditions_and_keeps_its_status() {
    let mut cluster = Cluster::new([new()]);
    cluster.add(mk_service("web", json!({})));
    cluster.watching = false;
    let mut theirs = showing("172.16.0.1");
    theirs["spec"] = json!({ "loadBalancerClass": "example.com/other" });
    cluster.edit(&service("web"), theirs);
    cluster.catch_up();
    cluster.settle();
    let object = &cluster.objects[&service("web")];
    assert_eq!(cluster.address("web"), "172.16.0.1");
    assert_eq!(object["status"]["conditions"], json!([]));
    cluster.writes();
    cluster.add(mk_service("next", json!({})));
    assert_eq!(cluster.address("next"), "192.168.50.60");
    let mut cluster = cluster.restarted();
    cluster.settle();
    assert_eq!(cluster.writes(), Vec::<String>::new());
}
