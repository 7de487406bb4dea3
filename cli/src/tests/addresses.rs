//! `why` about Services without an address, or with a wrong request.

use insta::assert_snapshot;

use super::fixture::*;
use crate::snapshot::Unread;

#[test]
fn other_class_is_named_with_the_way_to_change_it() {
    let mut snapshot = cluster();
    service(
        &mut snapshot,
        "default/web",
        None,
        "",
        ", loadBalancerClass: example.com/other",
    );
    assert_snapshot!(why_text(&snapshot, "default/web"));
}

#[test]
fn pool_in_another_namespace_has_no_effect() {
    let mut snapshot = cluster();
    add(
        &mut snapshot,
        "kind: IPAddressPool\nmetadata: {name: lan, namespace: default}\nspec: {addresses: [192.168.50.50/32]}",
    );
    service(&mut snapshot, "default/web", None, "", "");
    assert_snapshot!(why_text(&snapshot, "default/web"));
}

#[test]
fn exhausted_pool_names_the_other_pools_and_idle_services() {
    let mut snapshot = cluster();
    pool(&mut snapshot, "web", "192.168.50.50/32", "");
    pool(
        &mut snapshot,
        "db",
        "192.168.50.60-192.168.50.70",
        ", serviceAllocation: {namespaceSelectors: [{matchLabels: {team: db}}]}",
    );
    pool(&mut snapshot, "spare", "192.168.60.0/24", ", autoAssign: false");
    service(&mut snapshot, "qa/tmp", Some("192.168.50.50"), "", "");
    service(&mut snapshot, "shop/checkout", None, "", "");
    assert_snapshot!(why_text(&snapshot, "shop/checkout"));
}

#[test]
fn namespace_that_no_pool_selects_gets_a_label() {
    let mut snapshot = cluster();
    pool(
        &mut snapshot,
        "db",
        "192.168.50.60-192.168.50.70",
        ", serviceAllocation: {namespaceSelectors: [{matchLabels: {team: db}}]}",
    );
    service(&mut snapshot, "shop/checkout", None, "", "");
    assert_snapshot!(why_text(&snapshot, "shop/checkout"));
}

#[test]
fn pool_without_auto_assign_must_be_requested() {
    let mut snapshot = cluster();
    pool(&mut snapshot, "spare", "192.168.60.0/24", ", autoAssign: false");
    service(&mut snapshot, "default/web", None, "", "");
    assert_snapshot!(why_text(&snapshot, "default/web"));
}

#[test]
fn requested_address_outside_every_pool_is_removed() {
    let mut snapshot = cluster();
    pool(&mut snapshot, "lan", "192.168.50.50-192.168.50.60", "");
    let annotations = ", annotations: {metallb.io/loadBalancerIPs: 10.9.9.9}";
    service(&mut snapshot, "default/web", None, annotations, "");
    assert_snapshot!(why_text(&snapshot, "default/web"));
}

#[test]
fn sharing_keys_that_differ_are_made_equal() {
    let mut snapshot = cluster();
    pool(&mut snapshot, "lan", "192.168.50.50/32", "");
    let dns = ", annotations: {metallb.io/allow-shared-ip: dns}";
    service(&mut snapshot, "default/dns-tcp", Some("192.168.50.50"), dns, "");
    let other = ", annotations: {metallb.io/allow-shared-ip: nds, metallb.io/loadBalancerIPs: 192.168.50.50}";
    service(&mut snapshot, "default/dns-udp", None, other, "");
    assert_snapshot!(why_text(&snapshot, "default/dns-udp"));
}

#[test]
fn failed_preflight_explains_that_nothing_is_installed() {
    let mut snapshot = cluster();
    snapshot.pods.clear();
    snapshot.stacks.clear();
    add(
        &mut snapshot,
        "
kind: LoadBalancerStack
metadata: {name: default}
spec: {}
status:
  phase: Blocked
  preflight:
  - name: ConflictingLoadBalancer
    result: Failed
    message: \"k3s' ServiceLB serves Services without a class too: start k3s with --disable=servicelb\"
  - {name: StrictArp, result: Passed, message: fine}
",
    );
    service(&mut snapshot, "default/web", None, "", "");
    assert_snapshot!(why_text(&snapshot, "default/web"));
}

#[test]
fn cluster_without_the_operator_or_a_stack_says_so() {
    let mut snapshot = cluster();
    service(&mut snapshot, "default/web", None, "", "");
    snapshot.stacks.clear();
    let without_stack = why_text(&snapshot, "default/web");
    snapshot.absent.push("LoadBalancerStack");
    let without_operator = why_text(&snapshot, "default/web");
    assert_snapshot!(format!("{without_stack}\n{without_operator}"));
}

#[test]
fn unread_pools_are_not_called_missing() {
    let mut snapshot = cluster();
    service(&mut snapshot, "default/web", None, "", "");
    snapshot.unread.push(Unread::new(
        "IPAddressPool",
        "IPAddressPool: forbidden".to_owned(),
    ));
    assert_snapshot!(why_text(&snapshot, "default/web"));
}

#[test]
fn user_of_one_namespace_reads_what_the_programs_have_written() {
    let mut snapshot = cluster();
    service(&mut snapshot, "shop/web", None, "", "");
    snapshot.services[0].status = serde_json::from_value(serde_json::json!({"conditions": [{
        "type": "lb-operator.io/AddressAssigned", "status": "False", "reason": "NoPool", "lastTransitionTime": EARLIER,
        "message": "no available IPs: there is no pool: create an IPAddressPool",
    }]}))
    .unwrap();
    snapshot.stacks.clear();
    snapshot.pods.clear();
    for kind in ["LoadBalancerStack", "Service", "IPAddressPool", "Pod", "Node"] {
        snapshot
            .unread
            .push(Unread::new(kind, format!("{kind}: forbidden")));
    }
    assert_snapshot!(why_text(&snapshot, "shop/web"));
}

/// One kind's name may begin with another's.
#[test]
fn unread_statuses_do_not_make_services_unread() {
    let mut snapshot = cluster();
    let text = "ServiceL2Status: forbidden".to_owned();
    snapshot.unread.push(Unread::new("ServiceL2Status", text));
    assert!(!snapshot.is_unread("Service"));
}
