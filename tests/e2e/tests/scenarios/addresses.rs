//! Which Service gets which address, on a real API server: every wish, and every reason to wait.

use lb_e2e::stage::{SOON, Stage, eventually};

#[test]
fn services_get_what_they_ask_for_or_are_told_why_not() -> anyhow::Result<()> {
    let stage = Stage::cluster("addresses", 1)?;
    stage.install()?;

    a_pending_service_is_told_why_and_served_once_a_pool_appears(&stage)?;
    explicit_wishes_are_honoured_under_every_spelling(&stage)?;
    impossible_wishes_get_one_event_that_says_what_to_change(&stage)?;
    an_exhausted_pool_says_so_and_a_released_address_is_given_on(&stage)?;
    a_service_of_another_class_or_type_is_left_alone_or_released(&stage)?;
    pools_are_for_those_that_they_choose(&stage)?;
    invalid_pools_carry_a_condition_and_disturb_nobody(&stage)?;
    Ok(())
}

fn a_pending_service_is_told_why_and_served_once_a_pool_appears(stage: &Stage) -> anyhow::Result<()> {
    stage.apply_service("early", "web", "", "")?;
    stage.event("Service", "early", "AllocationFailed")?;
    assert_eq!(stage.address_now("early")?, "");
    let log = stage.admin("kubectl logs -n metallb-system -l component=controller --tail=-1")?;
    assert!(log.contains("default/early"), "the log says it too:\n{log}");
    stage.apply_pool("lan", "192.168.50.50-192.168.50.59")?;
    assert_eq!(stage.address("early")?, "192.168.50.50");
    Ok(())
}

fn explicit_wishes_are_honoured_under_every_spelling(stage: &Stage) -> anyhow::Result<()> {
    stage.apply(
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
        stage.apply_service(name, "web", annotation, spec)?;
        assert_eq!(stage.address(name)?, wanted, "{name}");
    }
    // As in MetalLB, an empty annotation asks for nothing.
    stage.apply_service("ip-empty", "web", "'metallb.io/loadBalancerIPs': ''", "")?;
    assert_eq!(stage.address("ip-empty")?, "192.168.50.51");
    let pool = stage.admin("kubectl get service ip-spec -o jsonpath='{.metadata.annotations.metallb\\.io/ip-allocated-from-pool}'")?;
    assert_eq!(pool, "manual", "the pool is written on the Service");
    stage
        .event("Service", "pool-old", "deprecatedAnnotation")
        .or_else(|_| stage.event("Service", "ip-old", "deprecatedAnnotation"))?;
    Ok(())
}

fn impossible_wishes_get_one_event_that_says_what_to_change(stage: &Stage) -> anyhow::Result<()> {
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
        stage.apply_service(name, "web", annotation, spec)?;
        let events = stage.event("Service", name, says)?;
        // Something unrelated changes: the reason stays the same, so no second event.
        stage.admin(&format!("kubectl annotate service {name} touched=1"))?;
        stage.apply_service(
            &format!("{name}-witness"),
            "web",
            "metallb.io/address-pool: lan",
            "",
        )?;
        stage.address(&format!("{name}-witness"))?;
        let warnings = stage.events("Service", name)?.matches("Warning").count();
        assert_eq!(warnings, 1, "{name}: {events}");
        stage.admin(&format!("kubectl delete service {name} {name}-witness"))?;
    }
    Ok(())
}

fn an_exhausted_pool_says_so_and_a_released_address_is_given_on(stage: &Stage) -> anyhow::Result<()> {
    stage.apply(
        "apiVersion: metallb.io/v1beta1\nkind: IPAddressPool\nmetadata: {name: tiny, namespace: metallb-system}\n\
         spec: {addresses: [192.168.50.90-192.168.50.91], autoAssign: false}",
    )?;
    for name in ["tiny-a", "tiny-b"] {
        stage.apply_service(name, "web", "metallb.io/address-pool: tiny", "")?;
        stage.address(name)?;
    }
    stage.apply_service("tiny-c", "web", "metallb.io/address-pool: tiny", "")?;
    let events = stage.event("Service", "tiny-c", "no available IPs")?;
    assert!(events.contains("tiny"), "{events}");
    let freed = stage.address_now("tiny-a")?;
    stage.admin("kubectl delete service tiny-a")?;
    assert_eq!(stage.address("tiny-c")?, freed);
    Ok(())
}

fn a_service_of_another_class_or_type_is_left_alone_or_released(stage: &Stage) -> anyhow::Result<()> {
    stage.apply_service("classed", "web", "", "  loadBalancerClass: example.com/other\n")?;
    stage.apply_service("changes", "web", "metallb.io/loadBalancerIPs: 192.168.50.58", "")?;
    assert_eq!(stage.address("changes")?, "192.168.50.58");
    assert_eq!(stage.address_now("classed")?, "", "another class is not ours");
    stage.admin("kubectl patch service changes --type=merge -p '{\"spec\":{\"type\":\"ClusterIP\"}}'")?;
    eventually("the status to be cleared", SOON, || {
        Ok(stage.address_now("changes")?.is_empty().then_some(()))
    })?;
    stage.apply_service(
        "successor",
        "web",
        "metallb.io/loadBalancerIPs: 192.168.50.58",
        "",
    )?;
    assert_eq!(stage.address("successor")?, "192.168.50.58");
    stage.admin("kubectl delete service classed changes successor")?;
    Ok(())
}

fn pools_are_for_those_that_they_choose(stage: &Stage) -> anyhow::Result<()> {
    stage.apply(
        "apiVersion: metallb.io/v1beta1\nkind: IPAddressPool\nmetadata: {name: team, namespace: metallb-system}\nspec:\n  \
         addresses: [192.168.50.92-192.168.50.93]\n  serviceAllocation: {priority: 1, namespaceSelectors: [{matchLabels: {team: blue}}]}",
    )?;
    stage.apply_service("blue", "web", "metallb.io/address-pool: team", "")?;
    stage.event("Service", "blue", "pool team not compatible for ip assignment")?;
    assert_eq!(stage.address_now("blue")?, "");
    stage.admin("kubectl label namespace default team=blue")?;
    assert_eq!(stage.address("blue")?, "192.168.50.92");
    // Who asks for nothing gets an address of the pool that is for it before one that is for everybody.
    stage.apply_service("blue-too", "web", "", "")?;
    assert_eq!(stage.address("blue-too")?, "192.168.50.93");
    stage.admin("kubectl delete service blue blue-too && kubectl delete ipaddresspool team -n metallb-system && kubectl label namespace default team-")?;
    Ok(())
}

fn invalid_pools_carry_a_condition_and_disturb_nobody(stage: &Stage) -> anyhow::Result<()> {
    let before = stage.address_now("early")?;
    stage.apply(
        "apiVersion: metallb.io/v1beta1\nkind: IPAddressPool\nmetadata: {name: overlapping, namespace: metallb-system}\n\
         spec: {addresses: [192.168.50.55-192.168.50.70]}",
    )?;
    let condition = eventually("a condition on the overlapping pool", SOON, || {
        let text = stage.admin(
            "kubectl get ipaddresspool overlapping -n metallb-system \
             -o jsonpath='{range .status.conditions[*]}{.type}={.status} {.reason}: {.message}{end}'",
        )?;
        Ok(text.contains("Valid=False").then_some(text))
    })?;
    assert!(
        condition.contains("spec.addresses") && condition.contains("lan"),
        "it names the field and the other pool: {condition}"
    );
    stage.apply_service("undisturbed", "web", "", "")?;
    stage.address("undisturbed")?;
    assert_eq!(stage.address_now("early")?, before);
    stage.admin("kubectl delete ipaddresspool overlapping -n metallb-system")?;
    Ok(())
}
