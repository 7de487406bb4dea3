//! The stack on a real cluster: the objects that the operator creates, repairs and leaves alone, and its reports.

use lb_e2e::harness::{Harness, LONG_TIMEOUT, SHORT_TIMEOUT, eventually};

use crate::drift;
use crate::netpol::policies_allow_exactly_the_expected_flows;

#[test]
fn operator_creates_repairs_and_reports_the_stack() -> anyhow::Result<()> {
    let harness = Harness::start_lab_or_use_external("operator", 2)?;
    if harness.is_lab() {
        crate::preflight::failed_checks_block_installation(&harness)?;
    } else {
        harness.install()?;
    }

    // `kubectl get` shows whether it is up, and its version.
    let line = harness.admin("kubectl get loadbalancerstack default --no-headers")?;
    assert!(
        line.contains("True") && line.contains(env!("CARGO_PKG_VERSION")),
        "{line}"
    );
    let generations = "kubectl get loadbalancerstack default -o jsonpath='{.metadata.generation} {.status.observedGeneration}'";
    let text = harness.admin(generations)?;
    let (wanted, observed) = text.split_once(' ').unwrap_or_default();
    assert_eq!(wanted, observed);

    policies_allow_exactly_the_expected_flows(&harness)?;
    edits_and_deletions_are_repaired(&harness)?;
    drift::scaling_is_reverted(&harness)?;
    drift::replicas_of_an_autoscaler_are_left_alone(&harness)?;
    drift::disabled_components_are_removed(&harness)?;
    fields_of_other_managers_are_left_alone(&harness)?;
    nothing_is_written_at_rest(&harness)?;
    spec_change_rolls_out_and_is_reported(&harness)?;
    impossible_stack_is_rejected_with_a_reason(&harness)?;
    if harness.is_lab() {
        crate::preflight::failed_check_blocks_changes_but_not_repairs(&harness)?;
        crate::preflight::refused_pods_are_reported(&harness)?;
    }
    yaml_of_the_guide_does_no_harm(&harness)?;
    if harness.is_lab() {
        // Neither is done on an external cluster.
        monitors_are_created_once_prometheus_is_there(&harness)?;
        drift::monitor_is_repaired(&harness)?;
        drift::memory_is_small(&harness)?;
        drift::standby_repairs_after_the_leader_hangs(&harness)?;
        crate::permissions::editor_gets_no_power_over_nodes(&harness)?;
        crate::two_operators::second_operator_waits_for_the_first(&harness)?;
        stack_outlives_the_operator(&harness)?;
        crate::two_operators::second_operator_takes_over(&harness)?;
    }
    Ok(())
}

fn monitors_are_created_once_prometheus_is_there(harness: &Harness) -> anyhow::Result<()> {
    let monitor = "kubectl get servicemonitor metallb -n metallb-system -o jsonpath='{.spec.selector.matchLabels.app} {.spec.endpoints[*].port}'";
    assert!(
        harness.admin(monitor).is_err(),
        "the cluster does not know the kind yet"
    );
    harness.apply(
        "apiVersion: apiextensions.k8s.io/v1\nkind: CustomResourceDefinition\nmetadata: {name: servicemonitors.monitoring.coreos.com}\n\
         spec:\n  group: monitoring.coreos.com\n  scope: Namespaced\n  \
         names: {kind: ServiceMonitor, listKind: ServiceMonitorList, plural: servicemonitors, singular: servicemonitor}\n  \
         versions: [{name: v1, served: true, storage: true, schema: {openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true}}}]",
    )?;
    let selected = eventually("a ServiceMonitor", SHORT_TIMEOUT, || {
        Ok(harness.admin(monitor).ok())
    })?;
    assert_eq!(selected, "metallb monitoring");
    // It selects a Service for each program, with that port.
    let services = harness.admin(
        "kubectl get services -n metallb-system -l app=metallb -o jsonpath='{.items[*].spec.ports[*].name}'",
    )?;
    assert_eq!(services, "monitoring monitoring");
    harness.admin("kubectl wait loadbalancerstack default --for=condition=Ready --timeout=60s")?;
    Ok(())
}

fn stack_outlives_the_operator(harness: &Harness) -> anyhow::Result<()> {
    harness.admin("helm uninstall lb-operator -n lb-operator-system --wait")?;
    harness
        .admin("kubectl get loadbalancerstack default && kubectl get daemonset speaker -n metallb-system")?;
    Ok(())
}

fn edits_and_deletions_are_repaired(harness: &Harness) -> anyhow::Result<()> {
    drift::every_kind_is_repaired(harness)?;
    harness.admin(
        "kubectl label namespace metallb-system pod-security.kubernetes.io/enforce=restricted --overwrite",
    )?;
    eventually("the namespace label to be repaired", SHORT_TIMEOUT, || {
        let label = harness.admin("kubectl get namespace metallb-system -o jsonpath='{.metadata.labels.pod-security\\.kubernetes\\.io/enforce}'")?;
        Ok((label == "privileged").then_some(()))
    })?;
    harness.admin("kubectl patch daemonset speaker -n metallb-system --type=json -p '[{\"op\":\"replace\",\"path\":\"/spec/template/spec/hostNetwork\",\"value\":false}]'")?;
    eventually("the speaker's host network to be repaired", SHORT_TIMEOUT, || {
        let value = harness.admin(
            "kubectl get daemonset speaker -n metallb-system -o jsonpath='{.spec.template.spec.hostNetwork}'",
        )?;
        Ok((value == "true").then_some(()))
    })?;
    replicas_are_repaired(harness)?;
    harness.admin("kubectl wait loadbalancerstack default --for=condition=Ready --timeout=120s")?;
    Ok(())
}

/// A replica is taken away, and the operator restores it.
pub(crate) fn replicas_are_repaired(harness: &Harness) -> anyhow::Result<()> {
    harness.admin("kubectl scale deployment controller -n metallb-system --replicas=1")?;
    eventually("the replicas to be repaired", SHORT_TIMEOUT, || {
        let value = harness
            .admin("kubectl get deployment controller -n metallb-system -o jsonpath='{.spec.replicas}'")?;
        Ok((value == "2").then_some(()))
    })
}

fn fields_of_other_managers_are_left_alone(harness: &Harness) -> anyhow::Result<()> {
    harness.admin("kubectl label deployment controller -n metallb-system team=network")?;
    harness.admin("kubectl rollout restart deployment controller -n metallb-system")?;
    harness.admin("kubectl rollout restart daemonset speaker -n metallb-system")?;
    harness.admin("kubectl rollout status deployment controller -n metallb-system --timeout=120s")?;
    harness.admin("kubectl rollout status daemonset speaker -n metallb-system --timeout=120s")?;
    // An edit makes the operator apply again; fields that it does not own must survive.
    harness.admin("kubectl annotate loadbalancerstack default touched=1 --overwrite")?;
    replicas_are_repaired(harness)?;
    assert_eq!(
        harness.admin(
            "kubectl get deployment controller -n metallb-system -o jsonpath='{.metadata.labels.team}'"
        )?,
        "network"
    );
    for workload in ["deployment/controller", "daemonset/speaker"] {
        let annotation = "{.spec.template.metadata.annotations.kubectl\\.kubernetes\\.io/restartedAt}";
        let value = harness.admin(&format!(
            "kubectl get {workload} -n metallb-system -o jsonpath='{annotation}'"
        ))?;
        assert!(!value.is_empty(), "the restart of {workload} was undone");
    }
    Ok(())
}

/// The resource versions of all written objects stay the same while nothing changes.
fn nothing_is_written_at_rest(harness: &Harness) -> anyhow::Result<()> {
    harness.admin("kubectl wait loadbalancerstack default --for=condition=Ready --timeout=120s")?;
    let versions = "kubectl get loadbalancerstack,serviceaccounts,services,pdb,networkpolicies,roles,rolebindings,clusterroles,clusterrolebindings,crds \
         -n metallb-system -o jsonpath='{range .items[*]}{.kind}/{.metadata.name}={.metadata.resourceVersion}{\"\\n\"}{end}'";
    let mut last = String::new();
    eventually("ten seconds without a write", LONG_TIMEOUT, || {
        let now = harness.admin(versions)?;
        let quiet = now == last;
        last = now;
        if quiet {
            return Ok(Some(()));
        }
        // The test is that nothing happens, so there is no event to wait for.
        std::thread::sleep(std::time::Duration::from_secs(10));
        Ok(None)
    })
}

fn spec_change_rolls_out_and_is_reported(harness: &Harness) -> anyhow::Result<()> {
    harness.admin("kubectl patch loadbalancerstack default --type=merge -p '{\"spec\":{\"controller\":{\"replicas\":1}}}'")?;
    eventually("one controller", LONG_TIMEOUT, || {
        let ready = harness.admin("kubectl get deployment controller -n metallb-system -o jsonpath='{.spec.replicas} {.status.readyReplicas}'")?;
        Ok((ready == "1 1").then_some(()))
    })?;
    harness.admin(
        "kubectl patch loadbalancerstack default --type=merge -p '{\"spec\":{\"controller\":null}}'",
    )?;
    harness.admin("kubectl rollout status deployment controller -n metallb-system --timeout=120s")?;
    harness.admin("kubectl wait loadbalancerstack default --for=condition=Ready --timeout=120s")?;
    Ok(())
}

fn impossible_stack_is_rejected_with_a_reason(harness: &Harness) -> anyhow::Result<()> {
    let refused = harness.apply(
        "apiVersion: lb-operator.io/v1alpha1\nkind: LoadBalancerStack\nmetadata: {name: second}\nspec: {}",
    );
    let message = refused.expect_err("a second stack is refused").to_string();
    assert!(message.contains("default"), "{message}");
    // Errors that only the operator detects: the condition names the field, and the running stack is left alone.
    let workloads = "kubectl get deployment/controller daemonset/speaker -n metallb-system \
                     -o jsonpath='{range .items[*]}{.metadata.uid} {.metadata.generation} {end}'";
    let before = harness.admin(workloads)?;
    for (spec, undo, field, says) in [
        (
            r#"{"version":"99.0.0"}"#,
            r#"{"version":null}"#,
            "spec.version",
            "99.0.0",
        ),
        (
            r#"{"speaker":{"excludedInterfaces":["^eth0$","("]}}"#,
            r#"{"speaker":null}"#,
            "spec.speaker.excludedInterfaces[1]",
            "regular expression",
        ),
    ] {
        harness.admin(&patch(spec))?;
        let message = "kubectl get loadbalancerstack default -o jsonpath='{.status.conditions[?(@.type==\"Degraded\")].message}'";
        let condition = eventually(&format!("a condition about {spec}"), SHORT_TIMEOUT, || {
            let text = harness.admin(message)?;
            Ok(text.contains(says).then_some(text))
        })?;
        assert!(
            condition.contains(field),
            "it names the field {field}: {condition}"
        );
        assert_eq!(
            harness.admin(workloads)?,
            before,
            "the running stack is left alone: {spec}"
        );
        harness.admin(&patch(undo))?;
    }
    harness.admin("kubectl wait loadbalancerstack default --for=condition=Ready --timeout=60s")?;
    Ok(())
}

fn patch(spec: &str) -> String {
    format!("kubectl patch loadbalancerstack default --type=merge -p '{{\"spec\":{spec}}}'")
}

fn yaml_of_the_guide_does_no_harm(harness: &Harness) -> anyhow::Result<()> {
    harness.run_section("P4")?;
    harness.run_section("P6")?;
    let pdb = harness
        .admin("kubectl get pdb metallb-speaker -n metallb-system -o jsonpath='{.spec.minAvailable}'")?;
    assert_eq!(pdb, "1");
    nothing_is_written_at_rest(harness)
}
