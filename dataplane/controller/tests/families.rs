//! Two families: what a Service gets, and what becomes of it when it wants one more or one less.

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

fn v4() -> (lb_controller::write::Target, Value) {
    mk_pool("four", &["192.168.50.50-192.168.50.59"], json!({}))
}

fn v6() -> (lb_controller::write::Target, Value) {
    mk_pool("six", &["fd00:50::/124"], json!({}))
}

#[test]
fn a_pair_of_two_pools_names_both() {
    let mut cluster = Cluster::new([v4(), v6(), mk_service("web", dual("RequireDualStack"))]);
    cluster.settle();
    assert_eq!(
        (cluster.addresses("web").as_str(), cluster.pool_of("web")),
        ("192.168.50.50,fd00:50::", "four,six")
    );
    assert_eq!(
        cluster.events(),
        ["web Normal IPAllocated: Assigned IP [\"192.168.50.50\" \"fd00:50::\"]"]
    );
    assert_eq!(
        cluster.condition(&service("web")),
        "lb-operator.io/AddressAssigned=True Assigned: 192.168.50.50 of pool four, fd00:50:: of pool six"
    );
    let mut cluster = cluster.restarted();
    cluster.settle();
    assert!(cluster.writes().is_empty(), "a restart writes nothing");
}

#[test]
fn the_second_address_comes_later_and_the_first_stays() {
    for policy in ["PreferDualStack", "RequireDualStack"] {
        let mut cluster = Cluster::new([v4(), v6()]);
        cluster.add(mk_service("other", single()));
        cluster.add(mk_service("web", single()));
        cluster.delete(&service("other"));
        cluster.settle();
        cluster.events();
        cluster.edit(&service("web"), dual(policy));
        cluster.settle();
        assert_eq!(cluster.addresses("web"), "192.168.50.51,fd00:50::", "{policy}");
        assert_eq!(
            cluster.events(),
            ["web Normal IPAllocated: Assigned additional IP [\"fd00:50::\"]"]
        );
        cluster.edit(&service("web"), single());
        cluster.settle();
        assert_eq!(cluster.addresses("web"), "192.168.50.51");
        assert!(cluster.events().is_empty());
    }
}

#[test]
fn who_prefers_two_has_one_is_told_once_and_gets_the_other_when_there_is_one() {
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
            "lb-operator.io/AddressAssigned=True Assigned: 192.168.50.50 of pool four; no second address: "
        ),
        "{condition}"
    );
    // Whatever else happens, it is not told again.
    cluster.add(mk_service("witness", single()));
    cluster.delete(&service("witness"));
    cluster.edit(&service("web"), annotated(&[("unrelated", "1")]));
    cluster.edit(&pool("four"), annotated(&[("unrelated", "1")]));
    cluster.settle();
    assert!(!cluster.events().iter().any(|event| event.starts_with("web")));
    cluster.add(v6());
    assert_eq!(cluster.addresses("web"), "192.168.50.50,fd00:50::");
    assert!(cluster.condition(&service("web")).ends_with("of pool six"));
}

#[test]
fn who_requires_two_and_had_one_keeps_it_and_is_told() {
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
            && condition.ends_with("; 192.168.50.50 of pool four is kept"),
        "{condition}"
    );
    cluster.add(v6());
    assert_eq!(cluster.addresses("web"), "192.168.50.50,fd00:50::");
}

#[test]
fn a_pool_edit_moves_only_the_address_that_it_takes_away() {
    let mut cluster = Cluster::new([v4(), v6(), mk_service("web", dual("RequireDualStack"))]);
    cluster.settle();
    cluster.events();
    cluster.edit(
        &pool("six"),
        json!({ "spec": { "addresses": ["fd00:51::/124"] } }),
    );
    cluster.settle();
    assert_eq!(cluster.addresses("web"), "192.168.50.50,fd00:51::");
    let events = cluster.events();
    assert!(
        events[0].starts_with("web Normal ClearAssignment")
            && events[0].contains("\"fd00:50::\" is not allowed in config"),
        "{events:?}"
    );
    assert_eq!(
        events[1],
        "web Normal IPAllocated: Assigned additional IP [\"fd00:51::\"]"
    );
}

#[test]
fn an_exhausted_family_is_completed_when_an_address_of_it_is_released() {
    let tiny = mk_pool("six", &["fd00:50::/128"], json!({}));
    let mut cluster = Cluster::new([v4(), tiny]);
    cluster.add(mk_service("first", families("SingleStack", &["fd00:96::9"])));
    cluster.add(mk_service("web", dual("PreferDualStack")));
    assert_eq!(cluster.addresses("web"), "192.168.50.50");
    cluster.delete(&service("first"));
    cluster.settle();
    assert_eq!(cluster.addresses("web"), "192.168.50.50,fd00:50::");
}
