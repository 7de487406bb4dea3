//! Assigned addresses stay through restarts, relists and changes of pools.

mod support;

use serde_json::json;
use support::{
    Cluster, advertisement, annotated, mk_advertisement, mk_pool, mk_service, pool, service, showing,
};

fn lan() -> (lb_controller::target::WriteTarget, serde_json::Value) {
    mk_pool("lan", &["192.168.50.50-192.168.50.59"], json!({}))
}

#[test]
fn restart_moves_no_address_and_writes_nothing() {
    let mut cluster = Cluster::new([lan()]);
    for name in ["c", "b", "a"] {
        cluster.add(mk_service(name, json!({})));
    }
    cluster.delete(&service("c"));
    cluster.settle();
    let mut cluster = cluster.restarted();
    cluster.settle();
    assert_eq!(
        (cluster.address("b"), cluster.address("a")),
        ("192.168.50.51", "192.168.50.52")
    );
    assert!(cluster.writes().is_empty() && cluster.events().is_empty());
}

#[test]
fn shown_addresses_are_adopted_before_any_is_assigned() {
    // The waiting Service is older, and its name comes first.
    let waiting = mk_service("a-waiting", json!({}));
    let has = mk_service("z-has", showing("192.168.50.50"));
    let mut cluster = Cluster::new([lan(), waiting, has]);
    cluster.settle();
    assert_eq!(
        (cluster.address("z-has"), cluster.address("a-waiting")),
        ("192.168.50.50", "192.168.50.51")
    );
}

#[test]
fn duplicate_address_kept_by_older_service() {
    let mut cluster = Cluster::new([
        lan(),
        mk_service("older", showing("192.168.50.50")),
        mk_service("younger", showing("192.168.50.50")),
    ]);
    cluster.settle();
    assert_eq!(
        (cluster.address("older"), cluster.address("younger")),
        ("192.168.50.50", "192.168.50.51")
    );
    let events = cluster.events();
    assert!(events[0].starts_with(
        "younger Normal ClearAssignment: current IP for \"default/younger\" not allowed by config, will attempt for new \
         IP assignment: can't assign \"192.168.50.50\", address also in use by default/older"
    ));
    assert_eq!(
        events[1],
        "younger Normal IPAllocated: Assigned IP [\"192.168.50.51\"]"
    );
}

#[test]
fn relist_without_service_releases_its_address() {
    use lb_runtime::watch::Change;
    let mut cluster = Cluster::new([lan(), mk_service("a", json!({})), mk_service("b", json!({}))]);
    cluster.settle();
    cluster.objects.remove(&service("a"));
    cluster.index.update_service(Change::Listing);
    cluster.edit(&service("b"), json!({}));
    let gone = cluster.index.update_service(Change::Synced);
    assert_eq!(gone.len(), 1);
    cluster.leader.as_mut().unwrap().services_changed(gone);
    cluster.add(mk_service("c", json!({})));
    assert_eq!(
        (cluster.address("b"), cluster.address("c")),
        ("192.168.50.51", "192.168.50.50")
    );
}

#[test]
fn undecodable_service_keeps_its_address() {
    use lb_runtime::ObjectKey;
    use lb_runtime::watch::Change;
    let mut cluster = Cluster::new([lan(), mk_service("a", json!({}))]);
    cluster.settle();
    let error = "spec.ports: invalid type".to_owned();
    let key = ObjectKey::new("default", "a");
    let changed = cluster.index.update_service(Change::Invalid { key, error });
    cluster.leader.as_mut().unwrap().services_changed(changed);
    cluster.add(mk_service("b", json!({})));
    assert_eq!(cluster.address("b"), "192.168.50.51");
}

#[test]
fn pool_edit_moves_only_services_of_removed_addresses() {
    let mut cluster = Cluster::new([lan(), mk_service("a", json!({})), mk_service("b", json!({}))]);
    cluster.settle();
    cluster.events();
    cluster.edit(
        &pool("lan"),
        json!({ "spec": { "addresses": ["192.168.50.51-192.168.50.59"] } }),
    );
    cluster.settle();
    assert_eq!(
        (cluster.address("a"), cluster.address("b")),
        ("192.168.50.52", "192.168.50.51")
    );
    let events = cluster.events();
    assert_eq!(events.len(), 2, "{events:?}");
    assert!(
        events[0].starts_with("a Normal ClearAssignment: current IP for \"default/a\" not allowed by config")
    );
    assert_eq!(events[1], "a Normal IPAllocated: Assigned IP [\"192.168.50.52\"]");
}

#[test]
fn deleted_pool_clears_its_services() {
    let mut cluster = Cluster::new([lan(), mk_service("a", json!({}))]);
    cluster.settle();
    cluster.events();
    cluster.delete(&pool("lan"));
    cluster.settle();
    assert_eq!((cluster.address("a"), cluster.pool_of("a")), ("", ""));
    let events = cluster.events();
    assert_eq!(events.len(), 2, "{events:?}");
    assert!(
        events[0].contains("ClearAssignment") && events[1].contains("AllocationFailed"),
        "{events:?}"
    );
    cluster.add(lan());
    assert_eq!(cluster.address("a"), "192.168.50.50");
}

#[test]
fn invalid_pool_keeps_services_and_publishes_one_event() {
    let other = mk_pool("other", &["10.0.0.0/30"], json!({}));
    let mut cluster = Cluster::new([lan(), other, mk_service("a", json!({}))]);
    cluster.add(mk_service(
        "b",
        annotated(&[("metallb.io/address-pool", "other")]),
    ));
    cluster.events();
    cluster.edit(
        &pool("lan"),
        json!({ "spec": { "addresses": ["192.168.50.50-192.168.50.5x"] } }),
    );
    cluster.settle();
    assert_eq!(
        (cluster.address("a"), cluster.pool_of("a")),
        ("192.168.50.50", "lan")
    );
    assert_eq!(cluster.address("b"), "10.0.0.0");
    let condition = cluster.condition(&pool("lan"));
    assert_eq!(
        condition,
        "Valid=False InvalidAddresses: spec.addresses[0] \"192.168.50.5x\" is not an IP address"
    );
    let events = cluster.events();
    assert_eq!(
        events,
        ["lan Warning InvalidAddresses: spec.addresses[0] \"192.168.50.5x\" is not an IP address"]
    );

    // A restart changes nothing, and publishes no second event.
    let mut cluster = cluster.restarted();
    cluster.settle();
    assert_eq!(
        (cluster.address("a"), cluster.pool_of("a")),
        ("192.168.50.50", "lan")
    );
    assert!(cluster.events().is_empty() && cluster.writes().is_empty());

    cluster.edit(
        &pool("lan"),
        json!({ "spec": { "addresses": ["192.168.50.50-192.168.50.55"] } }),
    );
    cluster.settle();
    assert_eq!(cluster.address("a"), "192.168.50.50");
    assert!(cluster.condition(&pool("lan")).starts_with("Valid=True Accepted"));
    assert_eq!(cluster.events(), ["lan Normal Accepted: valid again"]);
}

#[test]
fn overlapping_pool_is_invalid_and_names_the_other() {
    let mut cluster = Cluster::new([lan(), mk_service("a", json!({}))]);
    cluster.settle();
    cluster.add(mk_pool(
        "a-overlapping",
        &["10.0.0.0/30", "192.168.50.55-192.168.50.70"],
        json!({}),
    ));
    let condition = cluster.condition(&pool("a-overlapping"));
    assert!(
        condition.starts_with("Valid=False OverlappingAddresses: spec.addresses[1]"),
        "{condition}"
    );
    assert!(condition.contains("of pool \"lan\""), "{condition}");
    assert!(cluster.condition(&pool("lan")).starts_with("Valid=True"));
    cluster.add(mk_service("b", json!({})));
    assert_eq!(
        (cluster.address("a"), cluster.address("b")),
        ("192.168.50.50", "192.168.50.51")
    );
}

#[test]
fn renamed_pool_keeps_its_services() {
    let mut cluster = Cluster::new([lan(), mk_service("a", json!({}))]);
    cluster.settle();
    cluster.events();
    cluster.add(mk_pool("renamed", &["192.168.50.0/24"], json!({})));
    assert!(cluster.condition(&pool("renamed")).starts_with("Valid=False"));
    cluster.delete(&pool("lan"));
    cluster.settle();
    assert_eq!(
        (cluster.address("a"), cluster.pool_of("a")),
        ("192.168.50.50", "renamed")
    );
    let events = cluster.events();
    assert!(
        !events.iter().any(|event| event.starts_with("a ")),
        "the Service has no event: {events:?}"
    );
}

#[test]
fn pool_status_counts_assigned_and_available() {
    let mut cluster = Cluster::new([mk_pool("p", &["10.0.0.0/30", "fd00::/64"], json!({}))]);
    cluster.add(mk_service("a", json!({})));
    let status = |cluster: &Cluster| {
        let status = &cluster.objects[&pool("p")]["status"];
        ["assignedIPv4", "assignedIPv6", "availableIPv4", "availableIPv6"].map(|field| status[field].as_i64())
    };
    assert_eq!(status(&cluster), [Some(1), Some(0), Some(3), Some(i64::MAX)]);
    cluster.delete(&service("a"));
    cluster.settle();
    assert_eq!(status(&cluster), [Some(0), Some(0), Some(4), Some(i64::MAX)]);
}

#[test]
fn advertisement_of_unknown_pool_is_invalid() {
    let mut cluster = Cluster::new([mk_advertisement("l2", json!({ "ipAddressPools": ["lan"] }))]);
    cluster.settle();
    assert_eq!(
        cluster.condition(&advertisement("l2")),
        "Valid=False UnknownPool: spec.ipAddressPools[0]: there is no IPAddressPool \"lan\": create it, or correct the name"
    );
    cluster.add(lan());
    assert!(cluster.condition(&advertisement("l2")).starts_with("Valid=True"));
    let selector =
        json!({ "nodeSelectors": [{ "matchExpressions": [{ "key": "zone", "operator": "Is" }] }] });
    cluster.edit(&advertisement("l2"), json!({ "spec": selector }));
    cluster.settle();
    let condition = cluster.condition(&advertisement("l2"));
    assert!(
        condition.starts_with("Valid=False InvalidSelector: spec.nodeSelectors[0]: operator \"Is\""),
        "{condition}"
    );
}

#[test]
fn deprecated_pool_annotation_is_replaced() {
    let mut old = mk_service("web", showing("192.168.50.55"));
    old.1["metadata"]["annotations"] = json!({ "metallb.universe.tf/ip-allocated-from-pool": "lan" });
    let mut cluster = Cluster::new([lan(), old]);
    cluster.settle();
    assert_eq!(
        (cluster.address("web"), cluster.pool_of("web")),
        ("192.168.50.55", "lan")
    );
    let annotations = &cluster.objects[&service("web")]["metadata"]["annotations"];
    assert_eq!(annotations.as_object().map(serde_json::Map::len), Some(1));
    assert!(cluster.events().is_empty(), "the Service has no event");
}
