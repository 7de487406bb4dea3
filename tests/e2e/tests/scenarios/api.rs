//! The API on a real API server: definitions and valid objects are accepted; invalid ones are rejected with a message
//! that names the field and the remedy.

use lb_e2e::harness::Harness;

#[test]
fn invalid_objects_are_rejected_by_field() -> anyhow::Result<()> {
    let harness = Harness::start_lab_or_use_external("api", 1)?;
    if harness.is_lab() {
        harness.admin("kubectl apply --server-side -f crds/")?;
    } else {
        // Helm does not adopt objects of others, and other scenarios install the chart on this cluster.
        harness.install()?;
    }
    harness.admin("kubectl wait crd --all --for=condition=Established --timeout=30s")?;
    harness.admin("kubectl create namespace metallb-system --dry-run=client -o yaml | kubectl apply -f -")?;

    valid_pools_are_accepted_with_their_defaults(&harness)?;
    invalid_pools_are_rejected(&harness)?;
    valid_advertisements_are_accepted(&harness)?;
    invalid_advertisements_are_rejected(&harness)?;
    service_of_a_status_is_immutable(&harness)?;
    stacks_are_checked(&harness)?;
    kubectl_explain_describes_fields(&harness)?;
    crate::api_bgp::bgp_objects_are_checked(&harness)?;
    harness.admin(
        "kubectl delete ipaddresspool/tried l2advertisement/tried l2advertisement/bare -n metallb-system",
    )?;
    Ok(())
}

fn pool(spec: &str) -> String {
    format!(
        "apiVersion: metallb.io/v1beta1\nkind: IPAddressPool\nmetadata: {{name: tried, namespace: metallb-system}}\nspec: {spec}"
    )
}

fn advertisement(spec: &str) -> String {
    format!(
        "apiVersion: metallb.io/v1beta1\nkind: L2Advertisement\nmetadata: {{name: tried, namespace: metallb-system}}\nspec: {spec}"
    )
}

fn stack(name: &str, spec: &str) -> String {
    format!(
        "apiVersion: lb-operator.io/v1alpha1\nkind: LoadBalancerStack\nmetadata: {{name: {name}}}\nspec: {spec}"
    )
}

/// The API server rejects it with a message that contains these words.
pub(crate) fn assert_rejected(harness: &Harness, manifest: &str, says: &[&str]) {
    let error = match harness.apply(manifest) {
        Ok(_) => panic!("accepted:\n{manifest}"),
        Err(error) => format!("{error:#}"),
    };
    for word in says {
        assert!(
            error.contains(word),
            "{word:?} is missing from the answer to\n{manifest}\n{error}"
        );
    }
}

fn valid_pools_are_accepted_with_their_defaults(harness: &Harness) -> anyhow::Result<()> {
    for addresses in [
        "[192.168.50.50-192.168.50.250]",
        "[192.168.50.0/24, 10.0.0.7/32]",
        "[' 192.168.50.10 - 192.168.50.20 ']",
        "[192.168.50.7-192.168.50.7]",
        "['fc00:50::100-fc00:50::1ff', 'fc00:51::/64']",
        // MetalLB's users write host bits: the network counts.
        "[192.168.50.77/24]",
    ] {
        harness.apply(&pool(&format!("{{addresses: {addresses}}}")))?;
        let text = harness.admin(
            "kubectl get ipaddresspool tried -n metallb-system -o jsonpath='{.spec.autoAssign} {.spec.avoidBuggyIPs}'",
        )?;
        assert_eq!(text, "true false", "defaults with {addresses}");
    }
    harness.apply(&pool(
        "{addresses: [10.0.0.0/24], autoAssign: false, avoidBuggyIPs: true, serviceAllocation: {priority: 50, namespaces: [a, b], \
         namespaceSelectors: [{matchLabels: {team: x}}], serviceSelectors: [{matchExpressions: [{key: app, operator: In, values: [web]}]}]}}",
    ))?;
    Ok(())
}

fn invalid_pools_are_rejected(harness: &Harness) -> anyhow::Result<()> {
    let form = "must be a CIDR";
    for (addresses, says) in [
        ("[]", "at least 1 items"),
        ("['']", "spec.addresses[0]"),
        ("[192.168.50.300/24]", form),
        ("[192.168.50.0/33]", form),
        ("[192.168.50.1]", form),
        ("[somewhere]", form),
        ("[192.168.50.1-192.168.50.2-192.168.50.3]", form),
        ("[192.168.50.20-192.168.50.10]", "write the lower address first"),
        ("['192.168.50.10-fc00::1']", "one family"),
        ("['::ffff:192.168.50.1-::ffff:192.168.50.9']", form),
    ] {
        assert_rejected(
            harness,
            &pool(&format!("{{addresses: {addresses}}}")),
            &["spec.addresses", says],
        );
    }
    assert_rejected(harness, &pool("{}"), &["spec.addresses"]);
    assert_rejected(
        harness,
        &pool("{addresses: [10.0.0.0/24], autoAssign: maybe}"),
        &["spec.autoAssign"],
    );
    assert_rejected(
        harness,
        &pool("{addresses: [10.0.0.0/24], serviceAllocation: {namespaces: [a, a]}}"),
        &["spec.serviceAllocation.namespaces", "duplicates"],
    );
    assert_rejected(
        harness,
        &pool(
            "{addresses: [10.0.0.0/24], serviceAllocation: {serviceSelectors: [{matchExpressions: [{key: a, operator: In}]}]}}",
        ),
        &[
            "spec.serviceAllocation.serviceSelectors[0].matchExpressions[0]",
            "need values",
        ],
    );
    // Unknown fields are reported to clients that request it, as kubectl does.
    assert_rejected(
        harness,
        &pool("{addresses: [10.0.0.0/24], autoassign: true}"),
        &["spec.autoassign"],
    );
    Ok(())
}

fn valid_advertisements_are_accepted(harness: &Harness) -> anyhow::Result<()> {
    for spec in [
        "{}",
        "{ipAddressPools: [a, b], interfaces: [eth0]}",
        "{ipAddressPoolSelectors: [{matchLabels: {zone: a}}], nodeSelectors: [{matchExpressions: [{key: x, operator: Exists}]}]}",
        "{serviceSelectors: [{matchLabels: {app: web}}]}",
        "{preferredNodeSelectors: [{weight: 100, preference: {matchLabels: {zone: a}}}, {weight: 1, preference: {}}]}",
    ] {
        harness.apply(&advertisement(spec))?;
    }
    // MetalLB accepts it without a spec.
    harness.apply("apiVersion: metallb.io/v1beta1\nkind: L2Advertisement\nmetadata: {name: bare, namespace: metallb-system}")?;
    Ok(())
}

fn invalid_advertisements_are_rejected(harness: &Harness) -> anyhow::Result<()> {
    for (spec, says) in [
        ("{ipAddressPools: [a, a]}", ["spec.ipAddressPools", "duplicates"]),
        ("{ipAddressPools: a}", ["spec.ipAddressPools", "array"]),
        (
            "{preferredNodeSelectors: [{weight: 101, preference: {}}]}",
            [
                "spec.preferredNodeSelectors[0].weight",
                "less than or equal to 100",
            ],
        ),
        (
            "{nodeSelectors: [{matchExpressions: [{key: x, operator: Is}]}]}",
            ["spec.nodeSelectors[0]", "Unsupported value"],
        ),
        (
            "{nodeSelectors: [{matchExpressions: [{key: x, operator: Exists, values: [z]}]}]}",
            ["spec.nodeSelectors[0]", "take no values"],
        ),
        (
            "{nodeSelectors: [{matchExpressions: [{key: '', operator: Exists}]}]}",
            ["spec.nodeSelectors[0]", "key"],
        ),
    ] {
        assert_rejected(harness, &advertisement(spec), &says);
    }
    Ok(())
}

fn service_of_a_status_is_immutable(harness: &Harness) -> anyhow::Result<()> {
    // Not in the stack's namespace, where speakers remove status objects without a Service.
    harness.apply("apiVersion: metallb.io/v1beta1\nkind: ServiceL2Status\nmetadata: {name: l2-tried, namespace: default}\nspec: {}")?;
    let patch = |status: &str| {
        harness.admin(&format!(
            "kubectl patch servicel2status l2-tried -n default --subresource=status --type=merge -p '{{\"status\":{status}}}'"
        ))
    };
    patch(r#"{"node":"n1","serviceName":"web","serviceNamespace":"default"}"#)?;
    patch(r#"{"node":"n2"}"#)?;
    let error = patch(r#"{"serviceName":"other"}"#).expect_err("another Service is refused");
    assert!(format!("{error:#}").contains("immutable"), "{error:#}");
    harness.admin("kubectl delete servicel2status l2-tried -n default")?;
    Ok(())
}

fn stacks_are_checked(harness: &Harness) -> anyhow::Result<()> {
    assert_rejected(
        harness,
        &stack("second", "{}"),
        &["metadata.name must be default"],
    );
    for (spec, says) in [
        ("{version: latest}", ["spec.version", "0.1.0"]),
        ("{logLevel: loud}", ["spec.logLevel", "Unsupported value"]),
        (
            "{images: {registry: 'https://mirror/'}}",
            ["spec.images.registry", "host"],
        ),
        (
            "{images: {speaker: {digest: abc}}}",
            ["spec.images.speaker.digest", "sha256"],
        ),
        ("{controller: {replicas: -1}}", ["spec.controller.replicas", "1"]),
        ("{controller: {replicas: 0}}", ["spec.controller.replicas", "1"]),
        (
            "{controller: {replicas: many}}",
            ["spec.controller.replicas", "integer"],
        ),
        (
            "{images: {speaker: {repository: 'r.example.com:5000/lb/speaker:0.1.0'}}}",
            ["spec.images.speaker.repository", "without a tag"],
        ),
        (
            "{images: {controller: {repository: 'r.example.com/lb/controller@sha256:0000'}}}",
            ["spec.images.controller.repository", "without a digest"],
        ),
        (
            "{images: {speaker: {repository: 'r.example.com/lb/speaker:0.1.0', \
             digest: 'sha256:0000000000000000000000000000000000000000000000000000000000000000'}}}",
            ["spec.images.speaker.repository", "without a tag"],
        ),
        (
            "{images: {speaker: {repository: 'https://r.example.com/speaker'}}}",
            ["spec.images.speaker.repository", "a host and a path"],
        ),
        (
            "{speaker: {announceIntervalSeconds: -1}}",
            ["spec.speaker.announceIntervalSeconds", "0"],
        ),
        (
            "{speaker: {restartGraceSeconds: -10}}",
            ["spec.speaker.restartGraceSeconds", "1"],
        ),
        (
            "{speaker: {heartbeat: {failureTimeoutMilliseconds: -50}}}",
            ["spec.speaker.heartbeat.failureTimeoutMilliseconds", "100"],
        ),
        (
            "{speaker: {heartbeat: {keyRotationDays: -1}}}",
            ["spec.speaker.heartbeat.keyRotationDays", "0"],
        ),
        (
            "{speaker: {heartbeat: {keyPropagationSeconds: -1}}}",
            ["spec.speaker.heartbeat.keyPropagationSeconds", "10"],
        ),
        (
            "{preflight: {skip: [Everything]}}",
            ["spec.preflight.skip[0]", "Unsupported value"],
        ),
        (
            "{preflight: {skip: [StrictArp, StrictArp]}}",
            ["spec.preflight.skip", "duplicates"],
        ),
        (
            "{monitoring: {serviceMonitor: {interval: often}}}",
            ["spec.monitoring.serviceMonitor.interval", "match"],
        ),
        (
            "{networkPolicy: {metricsFrom: []}}",
            ["spec.networkPolicy.metricsFrom", "at least 1"],
        ),
        ("{namespace: Upper}", ["spec.namespace", "match"]),
        (
            "{speaker: {excludedInterfaces: ['']}}",
            ["spec.speaker.excludedInterfaces[0]", "1"],
        ),
    ] {
        assert_rejected(harness, &stack("default", spec), &says);
    }
    if !harness.is_lab() {
        // An external cluster's stack is not changed.
        return Ok(());
    }
    harness.apply(&stack("default", "{loadBalancerClass: example.com/lan}"))?;
    assert_rejected(
        harness,
        &stack("default", "{loadBalancerClass: example.com/other}"),
        &["spec.loadBalancerClass cannot be changed"],
    );
    assert_rejected(
        harness,
        &stack(
            "default",
            "{loadBalancerClass: example.com/lan, namespace: other}",
        ),
        &["spec.namespace cannot be changed"],
    );
    harness.admin("kubectl delete loadbalancerstack default")?;
    Ok(())
}

fn kubectl_explain_describes_fields(harness: &Harness) -> anyhow::Result<()> {
    for (path, says) in [
        ("ipaddresspool.spec.addresses", "192.168.50.50-192.168.50.250"),
        ("l2advertisement.spec.interfaces", "eth0"),
        ("servicel2status.status.node", "Node that announces"),
        ("lbs.spec.controller.replicas", "Default: 2"),
        ("lbs", "LoadBalancerStack is an installation"),
    ] {
        let text = harness.admin(&format!("kubectl explain {path}"))?;
        // kubectl breaks lines.
        let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(
            text.contains(says),
            "{says:?} is missing from `kubectl explain {path}`:\n{text}"
        );
    }
    Ok(())
}
