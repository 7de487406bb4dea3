//! The address of each Service on a real API server: every way to request one, and every reason for none.

use lb_e2e::harness::{Harness, SHORT_TIMEOUT, eventually};

#[test]
fn services_get_requested_addresses_or_a_reason() -> anyhow::Result<()> {
    let harness = Harness::start_lab_or_use_external("addresses", 1)?;
    harness.install()?;

    pending_service_gets_a_reason_and_then_a_new_pool(&harness)?;
    requests_work_in_every_spelling(&harness)?;
    impossible_requests_get_one_event_with_the_remedy(&harness)?;
    exhausted_pool_is_reported_and_reuses_released_addresses(&harness)?;
    other_class_is_left_alone_and_other_type_released(&harness)?;
    pools_serve_only_selected_services(&harness)?;
    invalid_pools_get_a_condition_and_affect_no_other(&harness)?;
    Ok(())
}

fn pending_service_gets_a_reason_and_then_a_new_pool(harness: &Harness) -> anyhow::Result<()> {
    harness.apply_service("early", "web", "", "")?;
    harness.wait_for_event("Service", "early", "AllocationFailed")?;
    assert_eq!(harness.current_address("early")?, "");
    let log = harness.admin("kubectl logs -n metallb-system -l component=controller --tail=-1")?;
    assert!(log.contains("default/early"), "the log says it too:\n{log}");
    harness.apply_pool("lan", "192.168.50.50-192.168.50.59")?;
    assert_eq!(harness.wait_for_address("early")?, "192.168.50.50");
    Ok(())
}

fn requests_work_in_every_spelling(harness: &Harness) -> anyhow::Result<()> {
    harness.apply(
        "apiVersion: metallb.io/v1beta1\nkind: IPAddressPool\nmetadata: {name: manual, namespace: metallb-system}\n\
         spec: {addresses: [192.168.50.80/29], autoAssign: false}",
    )?;
    for (name, annotation, spec, wanted) in [
        ("pool-new", "metallb.io/address-pool: manual", "", "192.168.50.80"),
        (
            "pool-old",
            "metallb.universe.tf/address-pool: manual",
            "",
            "192.168.50.81",
        ),
        (
            "ip-new",
            "metallb.io/loadBalancerIPs: 192.168.50.84",
            "",
            "192.168.50.84",
        ),
        (
            "ip-old",
            "metallb.universe.tf/loadBalancerIPs: 192.168.50.85",
            "",
            "192.168.50.85",
        ),
        (
            "ip-spec",
            "",
            "  loadBalancerIP: 192.168.50.86\n",
            "192.168.50.86",
        ),
    ] {
        harness.apply_service(name, "web", annotation, spec)?;
        assert_eq!(harness.wait_for_address(name)?, wanted, "{name}");
    }
    // As in MetalLB, an empty annotation requests nothing.
    harness.apply_service("ip-empty", "web", "'metallb.io/loadBalancerIPs': ''", "")?;
    assert_eq!(harness.wait_for_address("ip-empty")?, "192.168.50.51");
    let pool = harness.admin("kubectl get service ip-spec -o jsonpath='{.metadata.annotations.metallb\\.io/ip-allocated-from-pool}'")?;
    assert_eq!(pool, "manual", "the pool is written on the Service");
    harness
        .wait_for_event("Service", "pool-old", "deprecatedAnnotation")
        .or_else(|_| harness.wait_for_event("Service", "ip-old", "deprecatedAnnotation"))?;
    Ok(())
}

fn impossible_requests_get_one_event_with_the_remedy(harness: &Harness) -> anyhow::Result<()> {
    for (name, annotation, spec, says) in [
        (
            "no-pool",
            "metallb.io/address-pool: nowhere",
            "",
            "unknown pool \"nowhere\"",
        ),
        (
            "outside",
            "metallb.io/loadBalancerIPs: 10.1.2.3",
            "",
            "\"10.1.2.3\" is not allowed in config",
        ),
        (
            "taken",
            "",
            "  loadBalancerIP: 192.168.50.86\n",
            "default/ip-spec",
        ),
        (
            "nonsense",
            "metallb.io/loadBalancerIPs: not-an-address",
            "",
            "not-an-address",
        ),
        (
            "both",
            "metallb.io/loadBalancerIPs: 192.168.50.87",
            "  loadBalancerIP: 192.168.50.87\n",
            "can not have both",
        ),
    ] {
        harness.apply_service(name, "web", annotation, spec)?;
        let events = harness.wait_for_event("Service", name, says)?;
        // An unrelated change leaves the reason as it is, so there is no second event.
        harness.admin(&format!("kubectl annotate service {name} touched=1"))?;
        harness.apply_service(
            &format!("{name}-observer"),
            "web",
            "metallb.io/address-pool: lan",
            "",
        )?;
        harness.wait_for_address(&format!("{name}-observer"))?;
        let warnings = harness.events("Service", name)?.matches("Warning").count();
        assert_eq!(warnings, 1, "{name}: {events}");
        harness.admin(&format!("kubectl delete service {name} {name}-observer"))?;
    }
    Ok(())
}

fn exhausted_pool_is_reported_and_reuses_released_addresses(harness: &Harness) -> anyhow::Result<()> {
    harness.apply(
        "apiVersion: metallb.io/v1beta1\nkind: IPAddressPool\nmetadata: {name: tiny, namespace: metallb-system}\n\
         spec: {addresses: [192.168.50.90-192.168.50.91], autoAssign: false}",
    )?;
    for name in ["tiny-a", "tiny-b"] {
        harness.apply_service(name, "web", "metallb.io/address-pool: tiny", "")?;
        harness.wait_for_address(name)?;
    }
    harness.apply_service("tiny-c", "web", "metallb.io/address-pool: tiny", "")?;
    let events = harness.wait_for_event("Service", "tiny-c", "no available IPs")?;
    assert!(events.contains("tiny"), "{events}");
    let freed = harness.current_address("tiny-a")?;
    harness.admin("kubectl delete service tiny-a")?;
    assert_eq!(harness.wait_for_address("tiny-c")?, freed);
    Ok(())
}

fn other_class_is_left_alone_and_other_type_released(harness: &Harness) -> anyhow::Result<()> {
    harness.apply_service("classed", "web", "", "  loadBalancerClass: example.com/other\n")?;
    harness.apply_service("changes", "web", "metallb.io/loadBalancerIPs: 192.168.50.58", "")?;
    assert_eq!(harness.wait_for_address("changes")?, "192.168.50.58");
    assert_eq!(
        harness.current_address("classed")?,
        "",
        "another class is not ours"
    );
    harness.admin("kubectl patch service changes --type=merge -p '{\"spec\":{\"type\":\"ClusterIP\"}}'")?;
    eventually("the status to be cleared", SHORT_TIMEOUT, || {
        Ok(harness.current_address("changes")?.is_empty().then_some(()))
    })?;
    harness.apply_service(
        "successor",
        "web",
        "metallb.io/loadBalancerIPs: 192.168.50.58",
        "",
    )?;
    assert_eq!(harness.wait_for_address("successor")?, "192.168.50.58");
    harness.admin("kubectl delete service classed changes successor")?;
    Ok(())
}

fn pools_serve_only_selected_services(harness: &Harness) -> anyhow::Result<()> {
    harness.apply(
        "apiVersion: metallb.io/v1beta1\nkind: IPAddressPool\nmetadata: {name: team, namespace: metallb-system}\nspec:\n  \
         addresses: [192.168.50.92-192.168.50.93]\n  serviceAllocation: {priority: 1, namespaceSelectors: [{matchLabels: {team: blue}}]}",
    )?;
    harness.apply_service("blue", "web", "metallb.io/address-pool: team", "")?;
    harness.wait_for_event("Service", "blue", "pool team not compatible for ip assignment")?;
    assert_eq!(harness.current_address("blue")?, "");
    harness.admin("kubectl label namespace default team=blue")?;
    assert_eq!(harness.wait_for_address("blue")?, "192.168.50.92");
    // Without a request, a pool reserved for the Service comes before one for all.
    harness.apply_service("blue-too", "web", "", "")?;
    assert_eq!(harness.wait_for_address("blue-too")?, "192.168.50.93");
    harness.admin("kubectl delete service blue blue-too && kubectl delete ipaddresspool team -n metallb-system && kubectl label namespace default team-")?;
    Ok(())
}

fn invalid_pools_get_a_condition_and_affect_no_other(harness: &Harness) -> anyhow::Result<()> {
    let before = harness.current_address("early")?;
    harness.apply(
        "apiVersion: metallb.io/v1beta1\nkind: IPAddressPool\nmetadata: {name: overlapping, namespace: metallb-system}\n\
         spec: {addresses: [192.168.50.55-192.168.50.70]}",
    )?;
    let condition = eventually("a condition on the overlapping pool", SHORT_TIMEOUT, || {
        let text = harness.admin(
            "kubectl get ipaddresspool overlapping -n metallb-system \
             -o jsonpath='{range .status.conditions[*]}{.type}={.status} {.reason}: {.message}{end}'",
        )?;
        Ok(text.contains("Valid=False").then_some(text))
    })?;
    assert!(
        condition.contains("spec.addresses") && condition.contains("lan"),
        "it names the field and the other pool: {condition}"
    );
    harness.apply_service("undisturbed", "web", "", "")?;
    harness.wait_for_address("undisturbed")?;
    assert_eq!(harness.current_address("early")?, before);
    harness.admin("kubectl delete ipaddresspool overlapping -n metallb-system")?;
    Ok(())
}
