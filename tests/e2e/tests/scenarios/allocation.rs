//! Features of pools on a real API server: two families; edits that grow, shrink, split and remove; strategies,
//! exclusions and quotas; the condition on a Service; invalid input of every kind.

use lb_e2e::harness::{Harness, SHORT_TIMEOUT, eventually};

#[test]
fn pools_apply_edits_strategies_exclusions_and_quotas() -> anyhow::Result<()> {
    let harness = Harness::start_lab_or_use_external("allocation", 1)?;
    harness.install()?;

    dual_stack_uses_two_pools_and_adds_a_family_later(&harness)?;
    kubectl_wait_works_for_a_service(&harness)?;
    pool_edit_moves_only_services_that_lose_their_address(&harness)?;
    pool_applies_hold_down_exclusions_and_quota(&harness)?;
    configuration_state_names_invalid_objects(&harness)?;
    invalid_input_is_reported_and_affects_no_other(&harness)?;
    object_in_another_namespace_is_refused(&harness)?;
    Ok(())
}

/// As MetalLB's webhook does, with its words.
fn object_in_another_namespace_is_refused(harness: &Harness) -> anyhow::Result<()> {
    for (kind, spec) in [
        ("IPAddressPool", "{addresses: [10.9.9.0/24]}"),
        ("L2Advertisement", "{}"),
    ] {
        let object = format!(
            "kubectl create -f - <<'EOF'\napiVersion: metallb.io/v1beta1\nkind: {kind}\n\
             metadata: {{name: astray, namespace: default}}\nspec: {spec}\nEOF"
        );
        let refused = harness.admin(&object).expect_err(kind).to_string();
        assert!(
            refused.contains("resource must be created in metallb-system namespace"),
            "{refused}"
        );
    }
    Ok(())
}

/// Applies a pool with annotations under `lb-operator.io/`, given as `key: value, …`.
fn pool(harness: &Harness, name: &str, addresses: &str, annotations: &str) -> anyhow::Result<()> {
    harness.apply(&format!(
        "apiVersion: metallb.io/v1beta1\nkind: IPAddressPool\nmetadata: {{name: {name}, namespace: metallb-system, \
         annotations: {{{annotations}}}}}\nspec: {{addresses: [{addresses}], autoAssign: false}}"
    ))?;
    Ok(())
}

/// Applies a Service that requests a pool.
fn from(harness: &Harness, name: &str, pool: &str) -> anyhow::Result<()> {
    harness.apply_service(name, "web", &format!("metallb.io/address-pool: {pool}"), "")
}

fn delete(harness: &Harness, services: &str, pools: &str) -> anyhow::Result<()> {
    harness.admin(&format!("kubectl delete service {services}"))?;
    harness.admin(&format!("kubectl delete ipaddresspool -n metallb-system {pools}"))?;
    Ok(())
}

/// Waits until a Service has these addresses.
fn wait_for_addresses(harness: &Harness, service: &str, addresses: &str) -> anyhow::Result<()> {
    eventually(&format!("{service} to have {addresses:?}"), SHORT_TIMEOUT, || {
        Ok((harness.current_address(service)? == addresses).then_some(()))
    })
}

/// The condition of a Service: status, reason and message.
fn condition(harness: &Harness, service: &str) -> anyhow::Result<String> {
    harness.admin(&format!(
        "kubectl get service {service} -o jsonpath='{{range .status.conditions[?(@.type==\"lb-operator.io/AddressAssigned\")]}}\
         {{.status}} {{.reason}}: {{.message}}{{end}}'"
    ))
}

fn dual_stack_uses_two_pools_and_adds_a_family_later(harness: &Harness) -> anyhow::Result<()> {
    harness.apply(
        "apiVersion: metallb.io/v1beta1\nkind: IPAddressPool\nmetadata: {name: four, namespace: metallb-system}\n\
         spec: {addresses: [192.168.50.60-192.168.50.69]}\n---\n\
         apiVersion: metallb.io/v1beta1\nkind: IPAddressPool\nmetadata: {name: six, namespace: metallb-system}\n\
         spec: {addresses: ['fc00:50::60-fc00:50::69']}",
    )?;
    harness.apply_service("pair", "web", "", "  ipFamilyPolicy: RequireDualStack\n")?;
    wait_for_addresses(harness, "pair", "192.168.50.60 fc00:50::60")?;
    let names = harness.admin(
        "kubectl get service pair -o jsonpath='{.metadata.annotations.metallb\\.io/ip-allocated-from-pool}'",
    )?;
    assert_eq!(names, "four,six");

    harness.apply_service("later", "web", "", "  ipFamilyPolicy: SingleStack\n")?;
    wait_for_addresses(harness, "later", "192.168.50.61")?;
    harness.admin("kubectl delete service pair")?;
    harness.admin(
        "kubectl patch service later --type=merge -p '{\"spec\":{\"ipFamilyPolicy\":\"PreferDualStack\"}}'",
    )?;
    wait_for_addresses(harness, "later", "192.168.50.61 fc00:50::60")?;
    harness.wait_for_event("Service", "later", "Assigned additional IP \"fc00:50::60\"")?;
    harness.admin(
        "kubectl patch service later --type=merge -p '{\"spec\":{\"ipFamilyPolicy\":\"SingleStack\",\"ipFamilies\":[\"IPv4\"]}}'",
    )?;
    wait_for_addresses(harness, "later", "192.168.50.61")?;

    harness.admin("kubectl delete ipaddresspool six -n metallb-system")?;
    harness.admin(
        "kubectl patch service later --type=merge -p '{\"spec\":{\"ipFamilyPolicy\":\"PreferDualStack\"}}'",
    )?;
    harness.wait_for_event(
        "Service",
        "later",
        "AdditionalAssignFailed cannot assign additional IP in PreferDualStack",
    )?;
    assert_eq!(harness.current_address("later")?, "192.168.50.61");
    delete(harness, "later", "four")
}

fn kubectl_wait_works_for_a_service(harness: &Harness) -> anyhow::Result<()> {
    let wait = "kubectl wait service/awaited --for=condition=lb-operator.io/AddressAssigned";
    from(harness, "awaited", "awaited")?;
    harness.admin(&format!("{wait}=false --timeout=30s"))?;
    assert_eq!(
        condition(harness, "awaited")?,
        "False NoMatchingPool: unknown pool \"awaited\": create that IPAddressPool, or request another pool"
    );
    pool(harness, "awaited", "192.168.50.70/32", "")?;
    harness.admin(&format!("{wait} --timeout=30s"))?;
    assert_eq!(
        condition(harness, "awaited")?,
        "True Assigned: 192.168.50.70 from pool awaited"
    );
    harness.admin("kubectl patch service awaited --type=merge -p '{\"spec\":{\"type\":\"ClusterIP\"}}'")?;
    eventually("the condition to go", SHORT_TIMEOUT, || {
        Ok(condition(harness, "awaited")?.is_empty().then_some(()))
    })?;
    delete(harness, "awaited", "awaited")
}

fn pool_edit_moves_only_services_that_lose_their_address(harness: &Harness) -> anyhow::Result<()> {
    pool(harness, "edited", "192.168.50.71-192.168.50.73", "")?;
    for (name, address) in [
        ("e1", "192.168.50.71"),
        ("e2", "192.168.50.72"),
        ("e3", "192.168.50.73"),
    ] {
        from(harness, name, "edited")?;
        wait_for_addresses(harness, name, address)?;
    }
    let versions =
        || harness.admin("kubectl get service e2 e3 -o jsonpath='{.items[*].metadata.resourceVersion}'");
    let before = versions()?;
    // It grows by one address at the end and shrinks by one at the beginning.
    pool(harness, "edited", "192.168.50.72-192.168.50.74", "")?;
    wait_for_addresses(harness, "e1", "192.168.50.74")?;
    harness.wait_for_event(
        "Service",
        "e1",
        "ClearAssignment current IP for \"default/e1\" not allowed by config",
    )?;
    assert_eq!(versions()?, before, "the others were not touched");

    // It is split: a part moves to another pool, which becomes valid as soon as the first has released it.
    harness.admin("kubectl annotate service e3 metallb.io/address-pool-")?;
    pool(harness, "split", "192.168.50.73/32", "")?;
    pool(harness, "edited", "192.168.50.72/32, 192.168.50.74/32", "")?;
    let named = || {
        harness.admin("kubectl get service e3 -o jsonpath='{.metadata.annotations.metallb\\.io/ip-allocated-from-pool}'")
    };
    eventually("e3 to belong to the other pool", SHORT_TIMEOUT, || {
        Ok((named()? == "split").then_some(()))
    })?;
    assert_eq!(harness.current_address("e3")?, "192.168.50.73");
    assert!(!harness.events("Service", "e3")?.contains("ClearAssignment"));

    // It is removed.
    harness.admin("kubectl delete ipaddresspool edited -n metallb-system")?;
    wait_for_addresses(harness, "e2", "")?;
    harness.wait_for_event("Service", "e2", "unknown pool \"edited\"")?;
    assert_eq!(harness.current_address("e3")?, "192.168.50.73");
    delete(harness, "e1 e2 e3", "split")
}

fn pool_applies_hold_down_exclusions_and_quota(harness: &Harness) -> anyhow::Result<()> {
    pool(
        harness,
        "rules",
        "192.168.50.75-192.168.50.79",
        "lb-operator.io/excluded-addresses: 192.168.50.75-192.168.50.76, lb-operator.io/namespace-quota: '2', \
         lb-operator.io/allocation-strategy: leastRecentlyUsed, lb-operator.io/hold-down: 5s",
    )?;
    from(harness, "r1", "rules")?;
    wait_for_addresses(harness, "r1", "192.168.50.77")?;
    from(harness, "r2", "rules")?;
    wait_for_addresses(harness, "r2", "192.168.50.78")?;
    from(harness, "r3", "rules")?;
    harness.wait_for_event(
        "Service",
        "r3",
        "for namespace default: quota of 2 addresses per IP family reached",
    )?;
    let counts = "kubectl get ipaddresspool rules -n metallb-system -o jsonpath='{.status.assignedIPv4} {.status.availableIPv4}'";
    eventually("the counts", SHORT_TIMEOUT, || {
        Ok((harness.admin(counts)? == "2 1").then_some(()))
    })?;
    // An unused address comes first, and the quota has room again.
    harness.admin("kubectl delete service r1")?;
    wait_for_addresses(harness, "r3", "192.168.50.79")?;
    harness.admin("kubectl delete service r2")?;
    let released =
        "kubectl get ipaddresspool rules -n metallb-system -o jsonpath='{.status.released[*].address}'";
    eventually("the released addresses", SHORT_TIMEOUT, || {
        Ok((harness.admin(released)? == "192.168.50.78 192.168.50.77").then_some(()))
    })?;
    // Of two released addresses, the first released is assigned first, once its hold-down is over.
    from(harness, "r4", "rules")?;
    wait_for_addresses(harness, "r4", "192.168.50.77")?;
    delete(harness, "r3 r4", "rules")
}

fn configuration_state_names_invalid_objects(harness: &Harness) -> anyhow::Result<()> {
    let state = || {
        harness.admin(
            "kubectl get configurationstates -n metallb-system -l metallb.io/component-type=controller -o jsonpath='{range .items[*]}\
             {.metadata.name} {.status.result} {.status.conditions[?(@.type==\"poolReconcilerValid\")].reason} {.status.errorSummary}{end}'",
        )
    };
    let becomes = |wanted: &str| {
        eventually(&format!("the state {wanted:?}"), SHORT_TIMEOUT, || {
            Ok(state()?.starts_with(wanted).then_some(()))
        })
    };
    becomes("controller Valid Reconciled ")?;
    pool(
        harness,
        "wrong",
        "192.168.50.80/29",
        "lb-operator.io/hold-down: soon",
    )?;
    becomes(
        "controller Invalid ConfigurationError IPAddressPool wrong: metadata.annotations[lb-operator.io/hold-down]: \"soon\"",
    )?;
    harness.admin("kubectl delete ipaddresspool wrong -n metallb-system")?;
    becomes("controller Valid Reconciled ")
}

fn invalid_input_is_reported_and_affects_no_other(harness: &Harness) -> anyhow::Result<()> {
    pool(harness, "good", "192.168.50.90-192.168.50.94", "")?;
    from(harness, "undisturbed", "good")?;
    wait_for_addresses(harness, "undisturbed", "192.168.50.90")?;
    let long = "x".repeat(10_000);
    for (name, annotation, says) in [
        (
            "three",
            "metallb.io/loadBalancerIPs: '192.168.50.91,fc00:50::1,192.168.50.92'",
            "more than two addresses",
        ),
        (
            "same",
            "metallb.io/loadBalancerIPs: '192.168.50.91,192.168.50.92'",
            "has the same family",
        ),
        (
            "mapped",
            "metallb.io/loadBalancerIPs: '::ffff:10.1.2.3'",
            "\"10.1.2.3\" is not allowed in config",
        ),
        (
            "other-family",
            "metallb.io/loadBalancerIPs: 'fc00:50::1'",
            "does not match the ipFamily of the service",
        ),
        (
            "unknown",
            "metallb.io/address-pool: nowhere",
            "unknown pool \"nowhere\"",
        ),
        (
            "long-list",
            &format!("metallb.io/loadBalancerIPs: '{long}'"),
            "invalid metallb.io/loadBalancerIPs: \"xxx",
        ),
        (
            "long-pool",
            &format!("metallb.io/address-pool: '{long}'"),
            "unknown pool \"xxx",
        ),
        (
            "long-key",
            &format!("metallb.io/allow-shared-ip: '{long}', metallb.io/address-pool: nowhere"),
            "invalid metallb.io/allow-shared-ip: 10000 bytes long",
        ),
    ] {
        harness.apply_service(name, "web", annotation, "")?;
        harness.wait_for_event("Service", name, says)?;
        let condition = eventually("a condition", SHORT_TIMEOUT, || {
            Ok(Some(condition(harness, name)?).filter(|text| !text.is_empty()))
        })?;
        assert!(
            condition.starts_with("False ") && condition.len() < 1200,
            "{name}: {condition}"
        );
        harness.admin(&format!("kubectl delete service {name}"))?;
    }
    // Bytes that are not UTF-8: the API server replaces them.
    harness.admin(
        "printf '{\"apiVersion\":\"v1\",\"kind\":\"Service\",\"metadata\":{\"name\":\"bytes\",\"annotations\":\
         {\"metallb.io/loadBalancerIPs\":\"\\xff\\xfe\"}},\"spec\":{\"type\":\"LoadBalancer\",\"ports\":[{\"port\":80}]}}' \
         | kubectl create --raw /api/v1/namespaces/default/services -f -",
    )?;
    harness.wait_for_event("Service", "bytes", "invalid metallb.io/loadBalancerIPs")?;
    harness.admin("kubectl delete service bytes")?;

    // Pools: errors that the schema cannot detect become a condition, and other pools keep working.
    for (name, addresses, says) in [
        (
            "reversed",
            "'fc00:50::9-fc00:50::1'",
            "InvalidAddresses: spec.addresses[0]",
        ),
        (
            "overlapping",
            "192.168.50.92/32",
            "OverlappingAddresses: spec.addresses[0]",
        ),
        (
            "twice",
            "192.168.50.96/31, 192.168.50.97/32",
            "OverlappingAddresses: spec.addresses[1]",
        ),
    ] {
        pool(harness, name, addresses, "")?;
        eventually(&format!("a condition of pool {name}"), SHORT_TIMEOUT, || {
            let text = harness.admin(&format!(
                "kubectl get ipaddresspool {name} -n metallb-system -o jsonpath='{{range .status.conditions[*]}}\
                 {{.status}} {{.reason}}: {{.message}}{{end}}'"
            ))?;
            Ok(text.starts_with(&format!("False {says}")).then_some(()))
        })?;
        harness.wait_for_event("IPAddressPool", name, says.split(':').next().unwrap_or_default())?;
    }
    // Host bits are accepted: the network counts, as in MetalLB.
    pool(harness, "host-bits", "192.168.50.99/31", "")?;
    from(harness, "of-host-bits", "host-bits")?;
    wait_for_addresses(harness, "of-host-bits", "192.168.50.98")?;
    from(harness, "still-served", "good")?;
    wait_for_addresses(harness, "still-served", "192.168.50.91")?;
    assert_eq!(harness.current_address("undisturbed")?, "192.168.50.90");
    delete(
        harness,
        "undisturbed of-host-bits still-served",
        "good reversed overlapping twice host-bits",
    )
}
