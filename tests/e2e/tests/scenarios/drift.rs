//! What somebody edits or deletes by hand, kind by kind; who is told, and how soon it is repaired. Steps of the scenario of
//! the operator.

use std::time::Instant;

use anyhow::{Context, ensure};
use k8s_openapi::api::core::v1::Pod;
use lb_e2e::harness::{Harness, SHORT_TIMEOUT, eventually};
use lb_e2e::process::Process;

/// Every object of a stack that may be deleted without taking what users wrote with it.
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
/// Those that outlive it.
const KEPT: &[&str] = &["namespace/metallb-system", "crd/ipaddresspools.metallb.io"];

/// Longest repair in milliseconds: a second, and what it takes kubectl to see it on a machine that does other things.
const LIMIT: u128 = 3000;

/// Changes a thing, waits until it is put right, and returns how long that took in milliseconds, with what it takes to ask
/// once. One shell does it, so that no more than that is counted.
fn milliseconds(harness: &Harness, change: &str, question: &str, answer: &str) -> anyhow::Result<u128> {
    let text = harness.admin(&format!(
        "{{ {change}; }} >/dev/null && start=$(date +%s%N); for try in $(seq 1000); do now=$({question} 2>/dev/null || true); \
         if {answer}; then echo $((($(date +%s%N) - start) / 1000000)); exit; fi; done; echo \"{change}: not repaired: $now\" >&2; exit 1"
    ))?;
    text.trim()
        .parse()
        .with_context(|| format!("{text:?} is no number"))
}

/// How long the repair of an edit took in milliseconds, and of what.
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

/// How long the repair of a deletion took in milliseconds, and of what.
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

/// The one kind that not every cluster has, once it is there.
pub(crate) fn a_monitor_is_repaired(harness: &Harness) -> anyhow::Result<()> {
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
        "to be without it, set spec.monitoring.serviceMonitor.mode to Disabled",
    )?;
    Ok(())
}

/// Each object is edited and, if it goes with the stack, deleted.
pub(crate) fn every_kind_is_repaired(harness: &Harness) -> anyhow::Result<()> {
    let start = Instant::now();
    harness.admin("kubectl get networkpolicy metallb-controller -n metallb-system -o name")?;
    let asking = start.elapsed().as_millis();
    let mut slowest = (0, String::new());
    let mut all = Vec::new();
    for object in OBJECTS {
        all.extend([edit(harness, object)?, delete(harness, object)?]);
    }
    for object in KEPT {
        all.push(edit(harness, object)?);
    }
    for (took, what) in &all {
        if *took > slowest.0 {
            slowest = (*took, what.clone());
        }
    }
    let (took, what) = slowest;
    println!(
        "drift: {} changes repaired, the slowest, {what}, after {took} ms, in which kubectl was asked (about {asking} ms each time)",
        all.len()
    );
    assert!(took < LIMIT, "{what} took {took} ms");
    let told = harness.events("LoadBalancerStack", "default")?;
    for what in [
        "DriftCorrected ClusterRole metallb-controller: metadata.labels.app.kubernetes.io/version was changed by kubectl-label",
        "DriftCorrected PodDisruptionBudget metallb-system/metallb-speaker was deleted by another client; recreated; \
         to remove it, set spec.podDisruptionBudget.mode to Disabled",
    ] {
        assert!(told.contains(what), "{what:?} is not among\n{told}");
    }
    counted(harness)
}

/// The pod of the operator that leads.
fn leader(harness: &Harness) -> anyhow::Result<String> {
    harness.admin("kubectl get lease lb-operator -o jsonpath='{.spec.holderIdentity}'")
}

fn metrics(harness: &Harness, pod: &str) -> anyhow::Result<String> {
    harness.admin(&format!(
        "kubectl get --raw /api/v1/namespaces/default/pods/{pod}:7472/proxy/metrics"
    ))
}

/// Each kind that was repaired has been counted.
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

/// `kubectl scale` is undone, and answered with the field that says it.
pub(crate) fn scaling_is_answered(harness: &Harness) -> anyhow::Result<()> {
    harness.admin("kubectl scale deployment controller -n metallb-system --replicas=3")?;
    harness.wait_for_event(
        "LoadBalancerStack",
        "default",
        "Deployment metallb-system/controller: spec.replicas was changed by kubectl (scale); restored; set \
         spec.controller.replicas of the stack instead",
    )?;
    Ok(())
}

/// The number of controllers is an autoscaler's as long as the stack does not say one.
pub(crate) fn an_autoscalers_number_is_left_alone(harness: &Harness) -> anyhow::Result<()> {
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

/// What is turned off goes, and comes back.
pub(crate) fn what_is_turned_off_is_pruned(harness: &Harness) -> anyhow::Result<()> {
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

/// Each operator takes less than 20 MB.
pub(crate) fn memory_is_small(harness: &Harness) -> anyhow::Result<()> {
    let text = harness.admin("kubectl get pods -l app.kubernetes.io/name=lb-operator -o json")?;
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

/// The operator that leads stops where it stands, and an object is edited: the other one repairs it, once it may take the
/// lead. The first then goes on as if nothing had been, and does no harm.
pub(crate) fn another_operator_repairs_what_the_first_did_not(harness: &Harness) -> anyhow::Result<()> {
    let first = leader(harness)?;
    let node = harness.admin(&format!(
        "kubectl get pod {first} -o jsonpath='{{.spec.nodeName}}'"
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
    let told = "kubectl get events -A --field-selector involvedObject.kind=LoadBalancerStack,reason=DriftCorrected \
                -o jsonpath='{range .items[*]}{.reportingInstance} {.message}{\"\\n\"}{end}'";
    let expected = format!("{second} Role metallb-system/lb-speaker: metadata.labels.component was changed");
    eventually("an event of the second operator", SHORT_TIMEOUT, || {
        Ok(harness.admin(told)?.contains(&expected).then_some(()))
    })?;
    harness.lab().thaw(node, "lb-operator")?;
    component_edit(harness)?;
    harness.admin("kubectl rollout status deployment/lb-operator --timeout=120s")?;
    assert_eq!(leader(harness)?, second, "the first one has lost the lead");
    Ok(())
}

/// How long the repair of a label took in milliseconds.
fn component_edit(harness: &Harness) -> anyhow::Result<u128> {
    milliseconds(
        harness,
        "kubectl label role lb-speaker -n metallb-system component=edited --overwrite",
        "kubectl get role lb-speaker -n metallb-system -o jsonpath='{.metadata.labels.component}'",
        "[ \"$now\" = speaker ]",
    )
}
