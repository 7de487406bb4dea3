//! Dual stack: pairs of addresses, and a second address that is added or removed later.

mod support;

use serde_json::{Value, json};
use support::{Cluster, annotated, mk_pool, mk_service, pool, service};

fn families(policy: &str, list: &[&str]) -> Value {
    json!({ "spec": { "ipFamilyPolicy": policy, "clusterIPs": list } })
}

fn dual(policy: &str) -> Value {
    families(policy, &["10.96.0.9", "fd00:96::9"])
}

fn single() -> Value {
    families("SingleStack", &["10.96.0.9"])
}

fn v4() -> (lb_controller::target::WriteTarget, Value) {
    mk_pool("four", &["192.168.50.50-192.168.50.59"], json!({}))
}

fn v6() -> (lb_controller::target::WriteTarget, Value) {
    mk_pool("six", &["fd00:50::1-fd00:50::f"], json!({}))
}

#[test]
fn pair_of_two_pools_records_both() {
    let mut cluster = Cluster::new([v4(), v6(), mk_service("web", dual("RequireDualStack"))]);
    cluster.settle();
    assert_eq!(
        (cluster.addresses("web").as_str(), cluster.pool_of("web")),
        ("192.168.50.50,fd00:50::1", "four,six")
    );
    assert_eq!(
        cluster.events(),
        ["web Normal IPAllocated: Assigned IP [\"192.168.50.50\" \"fd00:50::1\"]"]
    );
    assert_eq!(
        cluster.condition(&service("web")),
        "lb-operator.io/AddressAssigned=True Assigned: 192.168.50.50 from pool four, fd00:50::1 from pool six"
    );
    let mut cluster = cluster.restarted();
    cluster.settle();
    assert!(cluster.writes().is_empty(), "a restart writes nothing");
}

#[test]
fn second_address_is_added_and_removed_alone() {
    for policy in ["PreferDualStack", "RequireDualStack"] {
        let mut cluster = Cluster::new([v4(), v6()]);
        cluster.add(mk_service("other", single()));
        cluster.add(mk_service("web", single()));
        cluster.delete(&service("other"));
        cluster.settle();
        cluster.events();
        cluster.edit(&service("web"), dual(policy));
        cluster.settle();
        assert_eq!(cluster.addresses("web"), "192.168.50.51,fd00:50::1", "{policy}");
        assert_eq!(
            cluster.events(),
            ["web Normal IPAllocated: Assigned additional IP \"fd00:50::1\""]
        );
        cluster.edit(&service("web"), single());
        cluster.settle();
        assert_eq!(cluster.addresses("web"), "192.168.50.51");
        assert!(cluster.events().is_empty());
    }
}

#[test]
fn preferred_second_address_is_added_when_available() {
    let mut cluster = Cluster::new([v4(), mk_service("web", dual("PreferDualStack"))]);
    cluster.settle();
    assert_eq!(cluster.addresses("web"), "192.168.50.50");
    let events = cluster.events();
    let failed = "cannot assign additional IP in PreferDualStack: no available IPs: no pool with autoAssign has addresses \
                  for ipv6 IPFamily: add some to a pool";
    assert_eq!(events[0], format!("web Normal AdditionalAssignFailed: {failed}"));
    assert_eq!(events.len(), 2);
    let condition = cluster.condition(&service("web"));
    assert!(
        condition.starts_with(
            "lb-operator.io/AddressAssigned=True Assigned: 192.168.50.50 from pool four; no second address: "
        ),
        "{condition}"
    );
    // Other changes publish no second event.
    cluster.add(mk_service("unrelated", single()));
    cluster.delete(&service("unrelated"));
    cluster.edit(&service("web"), annotated(&[("unrelated", "1")]));
    cluster.edit(&pool("four"), annotated(&[("unrelated", "1")]));
    cluster.settle();
    assert!(!cluster.events().iter().any(|event| event.starts_with("web")));
    cluster.add(v6());
    assert_eq!(cluster.addresses("web"), "192.168.50.50,fd00:50::1");
    assert!(cluster.condition(&service("web")).ends_with("from pool six"));
}

#[test]
fn required_second_address_missing_keeps_the_first() {
    let mut cluster = Cluster::new([v4(), mk_service("web", single())]);
    cluster.settle();
    cluster.events();
    cluster.edit(&service("web"), dual("RequireDualStack"));
    cluster.settle();
    assert_eq!(cluster.addresses("web"), "192.168.50.50");
    let events = cluster.events();
    assert!(
        events.len() == 1 && events[0].starts_with("web Warning AllocationFailed"),
        "{events:?}"
    );
    let condition = cluster.condition(&service("web"));
    assert!(
        condition.starts_with("lb-operator.io/AddressAssigned=False NoPoolOfFamily:")
            && condition.ends_with("; the Service keeps 192.168.50.50 from pool four"),
        "{condition}"
    );
    cluster.add(v6());
    assert_eq!(cluster.addresses("web"), "192.168.50.50,fd00:50::1");
}

#[test]
fn pool_edit_moves_only_the_removed_address() {
    let mut cluster = Cluster::new([v4(), v6(), mk_service("web", dual("RequireDualStack"))]);
    cluster.settle();
    cluster.events();
    cluster.edit(
        &pool("six"),
        json!({ "spec": { "addresses": ["fd00:51::/124"] } }),
    );
    cluster.settle();
    assert_eq!(cluster.addresses("web"), "192.168.50.50,fd00:51::1");
    let events = cluster.events();
    assert!(
        events[0].starts_with("web Normal ClearAssignment")
            && events[0].contains("\"fd00:50::1\" is not allowed in config"),
        "{events:?}"
    );
    assert_eq!(
        events[1],
        "web Normal IPAllocated: Assigned additional IP \"fd00:51::1\""
    );
}

#[test]
fn released_address_completes_a_pair() {
    let tiny = mk_pool("six", &["fd00:50::1/128"], json!({}));
    let mut cluster = Cluster::new([v4(), tiny]);
    cluster.add(mk_service("first", families("SingleStack", &["fd00:96::9"])));
    cluster.add(mk_service("web", dual("PreferDualStack")));
    assert_eq!(cluster.addresses("web"), "192.168.50.50");
    cluster.delete(&service("first"));
    cluster.settle();
    assert_eq!(cluster.addresses("web"), "192.168.50.50,fd00:50::1");
}
