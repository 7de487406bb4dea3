//! `serviceAllocation`: which Services may use a pool, and in which order pools are tried.

#![allow(clippy::unwrap_used, reason = "a missing object fails the test")]

mod support;

use k8s_openapi::api::core::v1::Namespace;
use lb_runtime::ObjectKey;
use lb_runtime::watch::Change;
use serde_json::{Value, json};
use support::{Cluster, annotated, mk_pool, mk_service, pool, service};

fn allocated(allocation: Value) -> Value {
    json!({ "spec": { "serviceAllocation": allocation } })
}

fn labelled(labels: Value) -> Value {
    json!({ "metadata": { "labels": labels } })
}

/// The namespace of all Services here gets labels.
fn label_namespace(cluster: &mut Cluster, labels: Value) {
    let object = json!({ "metadata": { "name": "default", "labels": labels } });
    let change = Change::Apply(serde_json::from_value::<Namespace>(object).unwrap());
    if cluster.index.update_namespace(change)
        && let Some(leader) = &mut cluster.leader
    {
        leader.pools_changed();
    }
    cluster.settle();
}

#[test]
fn pool_of_namespace_comes_first_and_serves_no_other() {
    let mut cluster = Cluster::new([
        mk_pool("a-general", &["10.0.0.0/30"], json!({})),
        mk_pool(
            "b-mine",
            &["10.0.1.0/30"],
            allocated(json!({ "namespaces": ["default"] })),
        ),
        mk_pool(
            "c-theirs",
            &["10.0.2.0/30"],
            allocated(json!({ "namespaces": ["other"] })),
        ),
        mk_service("any", json!({})),
    ]);
    cluster.settle();
    assert_eq!(
        (cluster.address("any"), cluster.pool_of("any")),
        ("10.0.1.0", "b-mine")
    );
    cluster.add(mk_service(
        "asks",
        annotated(&[("metallb.io/address-pool", "c-theirs")]),
    ));
    assert_eq!(cluster.address("asks"), "");
    assert!(
        cluster
            .reason("asks")
            .unwrap()
            .starts_with("pool c-theirs not compatible for ip assignment")
    );
    cluster.add(mk_service(
        "insists",
        annotated(&[("metallb.io/loadBalancerIPs", "10.0.2.1")]),
    ));
    assert_eq!(cluster.address("insists"), "");
}

#[test]
fn service_selector_follows_labels() {
    let selector = json!({ "serviceSelectors": [{ "matchLabels": { "tier": "web" } }] });
    let mut cluster = Cluster::new([mk_pool("web", &["10.0.0.0/30"], allocated(selector))]);
    cluster.add(mk_service("plain", json!({})));
    cluster.add(mk_service("fits", labelled(json!({ "tier": "web" }))));
    assert_eq!(
        (cluster.address("plain"), cluster.address("fits")),
        ("", "10.0.0.0")
    );
    assert!(cluster.reason("plain").unwrap().contains("serviceAllocation"));
    cluster.edit(&service("plain"), labelled(json!({ "tier": "web" })));
    cluster.settle();
    assert_eq!(cluster.address("plain"), "10.0.0.1");
}

#[test]
fn namespace_selector_follows_labels() {
    let selector = json!({ "namespaceSelectors": [{ "matchLabels": { "team": "x" } }] });
    let mut cluster = Cluster::new([mk_pool("x", &["10.0.0.0/30"], allocated(selector))]);
    cluster.add(mk_service("a", json!({})));
    assert_eq!(cluster.address("a"), "");
    label_namespace(&mut cluster, json!({ "team": "x" }));
    assert_eq!(cluster.address("a"), "10.0.0.0");
    // CompactLabels that no pool selects change nothing.
    cluster.writes();
    label_namespace(&mut cluster, json!({ "team": "x", "more": "1" }));
    assert!(cluster.writes().is_empty());
}

#[test]
fn unselected_service_moves_with_one_event() {
    let mut cluster = Cluster::new([
        mk_pool("general", &["10.0.0.0/30"], json!({})),
        mk_pool(
            "mine",
            &["10.0.1.0/30"],
            allocated(json!({ "namespaces": ["default"] })),
        ),
    ]);
    cluster.add(mk_service("a", json!({})));
    assert_eq!(cluster.address("a"), "10.0.1.0");
    cluster.events();
    cluster.edit(&pool("mine"), allocated(json!({ "namespaces": ["other"] })));
    cluster.settle();
    assert_eq!(cluster.address("a"), "10.0.0.0");
    let events = cluster.events();
    let cleared = events
        .iter()
        .filter(|event| event.contains("ClearAssignment"))
        .count();
    assert_eq!(cleared, 1, "{events:?}");
    assert!(events[0].contains("serviceAllocation"), "{events:?}");
}

#[test]
fn better_pool_moves_no_service() {
    let mut cluster = Cluster::new([mk_pool("general", &["10.0.0.0/30"], json!({}))]);
    cluster.add(mk_service("a", json!({})));
    cluster.add(mk_pool(
        "mine",
        &["10.0.1.0/30"],
        allocated(json!({ "namespaces": ["default"], "priority": 1 })),
    ));
    assert_eq!(cluster.address("a"), "10.0.0.0");
    let mut cluster = cluster.restarted();
    cluster.settle();
    assert_eq!(cluster.address("a"), "10.0.0.0", "nor does a restart");
    assert!(cluster.writes().is_empty());
}

#[test]
fn invalid_selector_is_named_and_affects_no_service() {
    let nonsense = json!({ "serviceSelectors": [{ "matchLabels": { "not a key!": "x" } }] });
    let mut cluster = Cluster::new([
        mk_pool("bad", &["10.0.1.0/30"], allocated(nonsense)),
        mk_pool("good", &["10.0.0.0/30"], json!({})),
        mk_service("a", json!({})),
    ]);
    cluster.settle();
    assert_eq!(cluster.address("a"), "10.0.0.0");
    let condition = cluster.condition(&pool("bad"));
    assert!(
        condition.starts_with("Valid=False InvalidSelector: spec.serviceAllocation.serviceSelectors[0]"),
        "{condition}"
    );
    assert!(
        cluster
            .index
            .services
            .contains_key(&ObjectKey::new("default", "a"))
    );
}
