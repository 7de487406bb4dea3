//! Preflight checks that fail on a real cluster: before the first installation, and while a stack runs. Steps of the
//! operator's scenario.

use lb_e2e::harness::{Harness, SHORT_TIMEOUT, eventually};

const LABEL: &str = "node.kubernetes.io/exclude-from-external-load-balancers";
const PROXY: &str = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: kube-proxy, namespace: kube-system}\n\
                     data:\n  config.conf: |\n    apiVersion: kubeproxy.config.k8s.io/v1alpha1\n    \
                     kind: KubeProxyConfiguration\n    mode: ipvs\n    ipvs:\n      strictARP: false";
/// The operator's objects in the stack's namespace.
const OPERATOR_OBJECTS: &str = "kubectl get deployments,daemonsets,serviceaccounts,roles -n metallb-system \
                    -l app.kubernetes.io/managed-by=lb-operator -o name";

/// All nodes are excluded, a pool has the address of a node, kube-proxy is in IPVS mode without strictARP, and another
/// manager owns the CRDs: nothing is installed, and each problem is named. When they are fixed or skipped, the
/// installation continues.
pub(crate) fn failed_checks_block_installation(harness: &Harness) -> anyhow::Result<()> {
    harness.admin(&format!("kubectl label nodes --all {LABEL}="))?;
    harness.admin(
        "kubectl apply --server-side -f crds/metallb.io_ipaddresspools.yaml -f crds/metallb.io_l2advertisements.yaml \
         && kubectl wait crd/ipaddresspools.metallb.io crd/l2advertisements.metallb.io --for=condition=Established --timeout=30s \
         && kubectl create namespace metallb-system",
    )?;
    harness.apply_pool("nodes", "192.168.50.11-192.168.50.20")?;
    harness.apply(PROXY)?;
    harness.run_section("1.1")?;
    let said = results(
        harness,
        &[
            "ServerVersion=Passed",
            "Permissions=Passed",
            "CRDOwnership=Warning: ipaddresspools.metallb.io",
            "ConflictingLoadBalancer=Passed",
            "ObjectOwnership=Passed",
            "ExcludedNodes=Failed",
            "StrictArp=Failed",
            "PoolOverlap=Failed: pool nodes has the address 192.168.50.11 of node",
            "Images=Passed",
        ],
    )?;
    assert!(said.contains("written by kubectl"), "{said}");
    let passed = condition(harness, "PreflightPassed")?;
    for says in [
        "False PreflightFailed ExcludedNodes: ",
        "StrictArp: ",
        "PoolOverlap: ",
        "spec.preflight.skip",
    ] {
        assert!(passed.contains(says), "{says}: {passed}");
    }
    let degraded = condition(harness, "Degraded")?;
    assert!(degraded.starts_with("True PreflightFailed"), "{degraded}");
    assert_eq!(harness.admin(OPERATOR_OBJECTS)?, "", "nothing is installed");

    // Fixes are detected without a change of the stack.
    harness.admin(&format!("kubectl label nodes --all {LABEL}-"))?;
    harness.admin("kubectl delete ipaddresspool/nodes l2advertisement/nodes -n metallb-system")?;
    results(
        harness,
        &["ExcludedNodes=Passed", "PoolOverlap=Passed", "StrictArp=Failed"],
    )?;
    assert_eq!(harness.admin(OPERATOR_OBJECTS)?, "", "one check is enough");
    patch(harness, r#"{"preflight":{"skip":["StrictArp"]}}"#)?;
    results(harness, &["StrictArp=Skipped"])?;
    let overridden = "kubectl get loadbalancerstack default \
         -o jsonpath='{.status.preflight[?(@.name==\"StrictArp\")].overridden}'";
    assert_eq!(harness.admin(overridden)?, "true");
    harness.wait_for_event("LoadBalancerStack", "default", "PreflightSkipped")?;
    harness.run_section("1.2")?;
    let passed = condition(harness, "PreflightPassed")?;
    assert!(
        passed.starts_with("True") && passed.contains("skipped: StrictArp"),
        "{passed}"
    );
    harness.admin("kubectl delete configmap kube-proxy -n kube-system")?;
    patch(harness, r#"{"preflight":null}"#)?;
    results(harness, &["StrictArp=Unknown", "CRDOwnership=Passed"]).map(drop)
}

/// While a stack runs as specified, a failed check is only reported. A change of the workloads waits, repairs do not,
/// and reverting the change is not a change.
pub(crate) fn failed_check_blocks_changes_but_not_repairs(harness: &Harness) -> anyhow::Result<()> {
    let pods = "kubectl get pods -n metallb-system -l app=metallb -o jsonpath='{.items[*].metadata.uid}'";
    let before = harness.admin(pods)?;
    harness.apply(PROXY)?;
    patch(harness, r#"{"logLevel":"debug"}"#)?;
    results(harness, &["StrictArp=Failed"])?;
    let degraded = eventually("the change to wait", SHORT_TIMEOUT, || {
        let degraded = condition(harness, "Degraded")?;
        Ok(degraded.starts_with("True PreflightFailed").then_some(degraded))
    })?;
    assert!(degraded.contains("StrictArp"), "{degraded}");
    let uid = "kubectl get pdb/metallb-controller -n metallb-system -o jsonpath='{.metadata.uid}'";
    let budget = harness.admin(uid)?;
    harness.admin("kubectl delete pdb/metallb-controller -n metallb-system --wait=false")?;
    eventually("the PodDisruptionBudget to be made again", SHORT_TIMEOUT, || {
        Ok(harness.admin(uid).ok().filter(|now| *now != budget))
    })?;
    assert_eq!(harness.admin(pods)?, before, "no pod is replaced");
    patch(harness, r#"{"logLevel":null}"#)?;
    harness.admin("kubectl wait loadbalancerstack default --for=condition=Ready --timeout=30s")?;
    let passed = condition(harness, "PreflightPassed")?;
    assert!(passed.starts_with("False"), "still reported: {passed}");
    assert_eq!(harness.admin(pods)?, before, "no pod is replaced");
    harness.admin("kubectl delete configmap kube-proxy -n kube-system")?;
    // A change of the spec that changes no workload repeats the checks.
    patch(harness, r#"{"preflight":{"skip":[]}}"#)?;
    results(harness, &["StrictArp=Unknown"])?;
    patch(harness, r#"{"preflight":null}"#)
}

/// Pods that an admission policy refuses are reported with the words of the policy, until they exist.
pub(crate) fn refused_pods_are_reported(harness: &Harness) -> anyhow::Result<()> {
    harness.apply(
        "apiVersion: admissionregistration.k8s.io/v1\nkind: ValidatingAdmissionPolicy\nmetadata: {name: no-host-network}\n\
         spec:\n  failurePolicy: Fail\n  matchConstraints:\n    resourceRules:\n    \
         - {apiGroups: [''], apiVersions: [v1], operations: [CREATE], resources: [pods]}\n  validations:\n  \
         - {expression: '!has(object.spec.hostNetwork) || !object.spec.hostNetwork', message: the bank forbids it}\n---\n\
         apiVersion: admissionregistration.k8s.io/v1\nkind: ValidatingAdmissionPolicyBinding\n\
         metadata: {name: no-host-network}\nspec: {policyName: no-host-network, validationActions: [Deny], \
         matchResources: {namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: metallb-system}}}}",
    )?;
    let pod = "kubectl create --dry-run=server -n metallb-system -f - <<'EOF'\napiVersion: v1\nkind: Pod\n\
               metadata: {name: x}\nspec: {hostNetwork: true, containers: [{name: x, image: x}]}\nEOF";
    eventually("the policy to be in force", SHORT_TIMEOUT, || {
        Ok(harness.admin(pod).is_err().then_some(()))
    })?;
    let speaker =
        "kubectl get pods -n metallb-system -l component=speaker -o jsonpath='{.items[0].metadata.name}'";
    let speaker = harness.admin(speaker)?;
    harness.admin(&format!("kubectl delete pod {speaker} -n metallb-system"))?;
    eventually("the refusal to be reported", SHORT_TIMEOUT, || {
        let degraded = condition(harness, "Degraded")?;
        let is = degraded.starts_with("True PodsFailing speaker pods are refused")
            && degraded.contains("the bank forbids it");
        Ok(is.then_some(()))
    })?;
    harness.admin(
        "kubectl delete validatingadmissionpolicybinding/no-host-network validatingadmissionpolicy/no-host-network",
    )?;
    harness
        .admin("kubectl wait loadbalancerstack default --for=condition=Ready --timeout=120s")
        .map(drop)
}

/// Each check on one line: name, result and message.
fn checks(harness: &Harness) -> anyhow::Result<String> {
    harness.admin(
        "kubectl get loadbalancerstack default \
         -o jsonpath='{range .status.preflight[*]}{.name}={.result}: {.message}{\"\\n\"}{end}'",
    )
}

/// Waits until the checks have these results, and returns their lines.
fn results(harness: &Harness, wanted: &[&str]) -> anyhow::Result<String> {
    let mut last = String::new();
    let found = eventually(&format!("the checks to be {wanted:?}"), SHORT_TIMEOUT, || {
        last = checks(harness)?;
        let is = |line: &&str| last.lines().any(|other| other.starts_with(*line));
        Ok(wanted.iter().all(is).then(|| last.clone()))
    });
    found.map_err(|error| error.context(last))
}

/// Status, reason and message of a condition.
fn condition(harness: &Harness, type_: &str) -> anyhow::Result<String> {
    harness.admin(&format!(
        "kubectl get loadbalancerstack default \
         -o jsonpath='{{range .status.conditions[?(@.type==\"{type_}\")]}}{{.status}} {{.reason}} {{.message}}{{end}}'"
    ))
}

fn patch(harness: &Harness, spec: &str) -> anyhow::Result<()> {
    let patch = format!("kubectl patch loadbalancerstack default --type=merge -p '{{\"spec\":{spec}}}'");
    harness.admin(&patch).map(drop)
}
