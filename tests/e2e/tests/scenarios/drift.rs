//! Manual edits and deletions of each kind: how soon they are repaired, and how they are reported. Steps of the
//! operator's scenario.

use std::time::Instant;

use anyhow::{Context, ensure};
use k8s_openapi::api::core::v1::Pod;
use lb_e2e::harness::{Harness, SHORT_TIMEOUT, eventually};
use lb_e2e::process::Process;

/// Every object of a stack that can be deleted without users' objects.
const OBJECTS: &[&str] = &[
    "serviceaccount/controller",
    "serviceaccount/speaker",
    "secret/speaker-heartbeat-keys",
    "clusterrole/metallb-controller",
    "clusterrole/metallb-speaker",
    "clusterrolebinding/metallb-controller",
    "clusterrolebinding/metallb-speaker",
    "role/lb-controller",
    "role/lb-speaker",
    "rolebinding/lb-controller",
    "rolebinding/lb-speaker",
    "networkpolicy/metallb-controller",
    "pdb/metallb-controller",
    "pdb/metallb-speaker",
    "service/metallb-controller-monitoring",
    "service/metallb-speaker-monitoring",
    "deployment/controller",
    "daemonset/speaker",
];
/// Objects that outlive the stack.
const RETAINED_OBJECTS: &[&str] = &["namespace/metallb-system", "crd/ipaddresspools.metallb.io"];

/// Limit for a repair, in milliseconds: one second, and time for kubectl on a busy machine.
const LIMIT: u128 = 3000;

/// Makes a change, waits for its repair, and returns the milliseconds in between. A single shell does both, so that
/// only one query is counted on top.
fn milliseconds(harness: &Harness, change: &str, question: &str, answer: &str) -> anyhow::Result<u128> {
    let text = harness.admin(&format!(
        "{{ {change}; }} >/dev/null && start=$(date +%s%N); for try in $(seq 1000); do now=$({question} 2>/dev/null || true); \
         if {answer}; then echo $((($(date +%s%N) - start) / 1000000)); exit; fi; done; echo \"{change}: not repaired: $now\" >&2; exit 1"
    ))?;
    text.trim()
        .parse()
        .with_context(|| format!("{text:?} is no number"))
}

/// The duration of the repair of an edit in milliseconds, and its object.
fn edit(harness: &Harness, object: &str) -> anyhow::Result<(u128, String)> {
    let label = "{.metadata.labels.app\\.kubernetes\\.io/version}";
    let took = milliseconds(
        harness,
        &format!("kubectl label {object} -n metallb-system app.kubernetes.io/version=edited --overwrite"),
        &format!("kubectl get {object} -n metallb-system -o jsonpath='{label}'"),
        &format!("[ \"$now\" = {} ]", env!("CARGO_PKG_VERSION")),
    )?;
    Ok((took, format!("edit of {object}")))
}

/// The duration of the repair of a deletion in milliseconds, and its object.
fn delete(harness: &Harness, object: &str) -> anyhow::Result<(u128, String)> {
    let uid = format!("kubectl get {object} -n metallb-system -o jsonpath='{{.metadata.uid}}'");
    let before = harness.admin(&uid)?;
    let took = milliseconds(
        harness,
        &format!("kubectl delete {object} -n metallb-system --wait=false"),
        &uid,
        &format!("[ -n \"$now\" ] && [ \"$now\" != {before} ]"),
    )?;
    Ok((took, format!("deletion of {object}")))
}

/// The only kind that some clusters lack.
pub(crate) fn monitor_is_repaired(harness: &Harness) -> anyhow::Result<()> {
    for (took, what) in [
        edit(harness, "servicemonitor/metallb")?,
        delete(harness, "servicemonitor/metallb")?,
    ] {
        println!("drift: {what} repaired after {took} ms");
        assert!(took < LIMIT, "{what} took {took} ms");
    }
    harness.wait_for_event(
        "LoadBalancerStack",
        "default",
        "to remove it, set spec.monitoring.serviceMonitor.mode to Disabled",
    )?;
    Ok(())
}

/// Every object is edited and, if it belongs to the stack, deleted.
pub(crate) fn every_kind_is_repaired(harness: &Harness) -> anyhow::Result<()> {
    let start = Instant::now();
    harness.admin("kubectl get networkpolicy metallb-controller -n metallb-system -o name")?;
    let asking = start.elapsed().as_millis();
    let mut slowest = (0, String::new());
    let mut all = Vec::new();
    for object in OBJECTS {
        all.extend([edit(harness, object)?, delete(harness, object)?]);
    }
    for object in RETAINED_OBJECTS {
        all.push(edit(harness, object)?);
    }
    for (took, what) in &all {
        if *took > slowest.0 {
            slowest = (*took, what.clone());
        }
    }
    let (took, what) = slowest;
    println!(
        "drift: {} changes repaired, the slowest, {what}, after {took} ms, in which kubectl was run (about {asking} ms each time)",
        all.len()
    );
    assert!(took < LIMIT, "{what} took {took} ms");
    let reported = harness.events("LoadBalancerStack", "default")?;
    for what in [
        "DriftCorrected ClusterRole metallb-controller: metadata.labels.app.kubernetes.io/version was changed by kubectl-label",
        "DriftCorrected PodDisruptionBudget metallb-system/metallb-speaker was deleted by another client; recreated; \
         to remove it, set spec.podDisruptionBudget.mode to Disabled",
    ] {
        assert!(reported.contains(what), "{what:?} is not among\n{reported}");
    }
    counted(harness)
}

/// The pod of the leading operator.
fn leader(harness: &Harness) -> anyhow::Result<String> {
    harness.admin("kubectl get lease lb-operator -n lb-operator-system -o jsonpath='{.spec.holderIdentity}'")
}

fn metrics(harness: &Harness, pod: &str) -> anyhow::Result<String> {
    harness.admin(&format!(
        "kubectl get --raw /api/v1/namespaces/lb-operator-system/pods/{pod}:7472/proxy/metrics"
    ))
}

/// The metric counts every repaired kind.
fn counted(harness: &Harness) -> anyhow::Result<()> {
    let text = metrics(harness, &leader(harness)?)?;
    for kind in [
        "ClusterRole",
        "ClusterRoleBinding",
        "CustomResourceDefinition",
        "DaemonSet",
        "Deployment",
        "Namespace",
        "NetworkPolicy",
        "PodDisruptionBudget",
        "Role",
        "RoleBinding",
        "Secret",
        "Service",
        "ServiceAccount",
    ] {
        assert!(
            text.contains(&format!("lb_operator_drift_corrections_total{{kind=\"{kind}\"")),
            "{kind} is not counted:\n{text}"
        );
    }
    for name in [
        "lb_operator_reconcile_total",
        "lb_operator_reconcile_duration_seconds_count",
    ] {
        assert!(text.lines().any(|line| line.starts_with(name)), "{name}:\n{text}");
    }
    Ok(())
}

/// `kubectl scale` is reverted, and the event names the field to set.
pub(crate) fn scaling_is_reverted(harness: &Harness) -> anyhow::Result<()> {
    harness.admin("kubectl scale deployment controller -n metallb-system --replicas=3")?;
    harness.wait_for_event(
        "LoadBalancerStack",
        "default",
        "Deployment metallb-system/controller: spec.replicas was changed by kubectl (scale); restored; set \
         spec.controller.replicas of the stack instead",
    )?;
    Ok(())
}

/// Unless the stack sets the number of controllers, an autoscaler does.
pub(crate) fn replicas_of_an_autoscaler_are_left_alone(harness: &Harness) -> anyhow::Result<()> {
    let get = |field: &str| {
        harness.admin(&format!(
            "kubectl get deployment controller -n metallb-system -o jsonpath='{{{field}}}'"
        ))
    };
    let applied = ".metadata.annotations.lb-operator\\.io/applied";
    let before = get(applied)?;
    // As the autoscaler of kube-controller-manager writes it.
    harness.admin(
        "kubectl patch deployment controller -n metallb-system --subresource=scale --type=merge \
         --field-manager=kube-controller-manager -p '{\"spec\":{\"replicas\":3}}'",
    )?;
    eventually("the operator to give up the field", SHORT_TIMEOUT, || {
        Ok((get(applied)? != before).then_some(()))
    })?;
    assert_eq!(get(".spec.replicas")?, "3");
    let patch = |value: &str| {
        harness.admin(&format!(
            "kubectl patch loadbalancerstack default --type=merge -p '{{\"spec\":{{\"controller\":{value}}}}}'"
        ))
    };
    let becomes = |wanted: &str| {
        eventually(&format!("{wanted} controllers"), SHORT_TIMEOUT, || {
            Ok((get(".spec.replicas")? == wanted).then_some(()))
        })
    };
    patch("{\"replicas\":1}")?;
    becomes("1")?;
    patch("null")?;
    becomes("2")
}

/// Disabled components are removed, and created again when enabled.
pub(crate) fn disabled_components_are_removed(harness: &Harness) -> anyhow::Result<()> {
    let patch = |mode: &str| {
        harness.admin(&format!(
            "kubectl patch loadbalancerstack default --type=merge -p '{{\"spec\":{{\"podDisruptionBudget\":{mode},\"networkPolicy\":{mode}}}}}'"
        ))
    };
    let count = |wanted: usize| {
        eventually(&format!("{wanted} budgets and policies"), SHORT_TIMEOUT, || {
            let names = harness.admin("kubectl get pdb,networkpolicies -n metallb-system -o name")?;
            Ok((names.lines().count() == wanted).then_some(()))
        })
    };
    count(3)?;
    patch("{\"mode\":\"Disabled\"}")?;
    count(0)?;
    patch("null")?;
    count(3)
}

/// Each operator uses less than 20 MB.
pub(crate) fn memory_is_small(harness: &Harness) -> anyhow::Result<()> {
    let text = harness
        .admin("kubectl get pods -n lb-operator-system -l app.kubernetes.io/name=lb-operator -o json")?;
    let mut list: serde_json::Value = serde_json::from_str(&text)?;
    let pods: Vec<Pod> = serde_json::from_value(list["items"].take())?;
    assert_eq!(pods.len(), 2);
    for pod in &pods {
        let memory = Process::of(harness.lab(), pod)?.memory()?;
        let mb = |bytes: u64| bytes as f64 / 1e6;
        println!(
            "operator: {:.1} MB resident, {:.1} MB at most",
            mb(memory.now),
            mb(memory.peak)
        );
        assert!(memory.now < 20_000_000, "{} bytes", memory.now);
    }
    Ok(())
}

/// The leading operator is stopped, and an object is edited: the other operator repairs it after the Lease has expired.
/// The first continues later and does no harm.
pub(crate) fn standby_repairs_after_the_leader_hangs(harness: &Harness) -> anyhow::Result<()> {
    let first = leader(harness)?;
    let node = harness.admin(&format!(
        "kubectl get pod {first} -n lb-operator-system -o jsonpath='{{.spec.nodeName}}'"
    ))?;
    let node = node.trim_start_matches('n').parse()?;
    let stopped = harness.lab().freeze(node, "lb-operator")?;
    ensure!(
        stopped == 1,
        "{stopped} operators on one node: none is left to repair"
    );
    let took = component_edit(harness)?;
    println!("drift: repaired {took} ms after the operator that led stopped and an object was edited");
    let second = leader(harness)?;
    assert_ne!(second, first);
    let reported = "kubectl get events -A --field-selector involvedObject.kind=LoadBalancerStack,reason=DriftCorrected \
                -o jsonpath='{range .items[*]}{.reportingInstance} {.message}{\"\\n\"}{end}'";
    let expected = format!("{second} Role metallb-system/lb-speaker: metadata.labels.component was changed");
    eventually("an event of the second operator", SHORT_TIMEOUT, || {
        Ok(harness.admin(reported)?.contains(&expected).then_some(()))
    })?;
    harness.lab().thaw(node, "lb-operator")?;
    component_edit(harness)?;
    harness.admin("kubectl rollout status deployment/lb-operator -n lb-operator-system --timeout=120s")?;
    assert_eq!(leader(harness)?, second, "the first operator no longer leads");
    Ok(())
}

/// The duration of the repair of a label in milliseconds.
fn component_edit(harness: &Harness) -> anyhow::Result<u128> {
    milliseconds(
        harness,
        "kubectl label role lb-speaker -n metallb-system component=edited --overwrite",
        "kubectl get role lb-speaker -n metallb-system -o jsonpath='{.metadata.labels.component}'",
        "[ \"$now\" = speaker ]",
    )
}
