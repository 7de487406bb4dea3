//! Deletion of a stack: what blocks it, what keeps running until then, and what remains.

use std::collections::BTreeMap;
use std::time::Instant;

use lb_e2e::documents::check_sample;
use lb_e2e::harness::{Harness, LONG_TIMEOUT, SHORT_TIMEOUT, eventually};

const POLICY: &str =
    "kubectl patch loadbalancerstack default --type=merge -p '{\"spec\":{\"deletionPolicy\":\"POLICY\"}}'";

#[test]
fn stack_deletion_follows_its_policy() -> anyhow::Result<()> {
    let harness = Harness::start_lab("deletion", 2)?;
    harness.install()?;
    harness.apply_pool("kept", "192.168.50.50-192.168.50.59")?;
    harness.apply_backend("web", 1)?;
    for service in ["one", "two"] {
        harness.apply_service(service, "web", "", "")?;
    }
    let addresses = [harness.wait_for_address("one")?, harness.wait_for_address("two")?];
    for address in &addresses {
        harness.wait_for_answer(address, "web")?;
    }
    services_block_deletion(&harness, &addresses)?;
    orphaned_stack_keeps_serving_and_is_taken_over(&harness, &addresses)?;
    withdrawn_stack_leaves_objects_of_users(&harness, &addresses)?;
    deletion_without_services_completes(&harness)
}

fn condition(harness: &Harness) -> anyhow::Result<String> {
    let filter = "{.status.conditions[?(@.type==\"DeletionBlocked\")]}";
    let field = |name: &str| filter.replace(")]}", &format!(")].{name}}}"));
    harness.admin(&format!(
        "kubectl get loadbalancerstack default -o jsonpath='{} {}: {}'",
        field("status"),
        field("reason"),
        field("message")
    ))
}

fn uids(harness: &Harness) -> anyhow::Result<BTreeMap<String, String>> {
    let text = harness.admin(
        "kubectl get deployments,daemonsets,pods,secrets,serviceaccounts -n metallb-system \
         -l app.kubernetes.io/managed-by=lb-operator \
         -o jsonpath='{range .items[*]}{.kind}/{.metadata.name} {.metadata.uid}{\"\\n\"}{end}'",
    )?;
    let pairs = text.lines().filter_map(|line| line.split_once(' '));
    Ok(pairs
        .map(|(name, uid)| (name.to_owned(), uid.to_owned()))
        .collect())
}

fn is_gone(harness: &Harness) -> anyhow::Result<()> {
    eventually("the stack to be gone", LONG_TIMEOUT, || {
        let left = harness.admin("kubectl get loadbalancerstacks -o name")?;
        Ok(left.is_empty().then_some(()))
    })
}

/// By default the deletion waits and names the Services, and workloads are kept as before.
fn services_block_deletion(harness: &Harness, addresses: &[String; 2]) -> anyhow::Result<()> {
    harness.admin("kubectl delete loadbalancerstack default --wait=false")?;
    let said = eventually("a condition that names the Services", SHORT_TIMEOUT, || {
        Ok(Some(condition(harness)?).filter(|said| said.starts_with("True ServicesExist")))
    })?;
    assert!(
        said.contains("2 Services have addresses of this stack: default/one, default/two"),
        "{said}"
    );
    assert!(said.contains("spec.deletionPolicy"), "it says what to do: {said}");
    for command in [
        "kubectl get lbs",
        "kubectl get lbs default -o jsonpath='{.status.conditions[?(@.type==\"DeletionBlocked\")].message}'",
    ] {
        check_sample(harness, "docs/uninstall.md", command)?;
    }
    harness.wait_for_event("LoadBalancerStack", "default", "DeletionBlocked")?;
    // They are still repaired, and addresses are still assigned.
    harness.admin("kubectl delete networkpolicy metallb-controller -n metallb-system --wait=false")?;
    eventually("the NetworkPolicy to be made again", SHORT_TIMEOUT, || {
        Ok(harness
            .admin("kubectl get networkpolicy metallb-controller -n metallb-system")
            .ok()
            .map(drop))
    })?;
    harness.apply_service("three", "web", "", "")?;
    harness.wait_for_answer(&harness.wait_for_address("three")?, "web")?;
    harness.admin("kubectl delete service three")?;
    harness.wait_for_answer(&addresses[0], "web")?;
    // A paused stack is left alone during its deletion too.
    harness
        .admin("kubectl patch loadbalancerstack default --type=merge -p '{\"spec\":{\"paused\":true}}'")?;
    eventually("a condition that says paused", SHORT_TIMEOUT, || {
        Ok(condition(harness)?.starts_with("True Paused").then_some(()))
    })?;
    Ok(())
}

/// The policy can be changed while the deletion waits: the objects stay, and a new stack owns them.
fn orphaned_stack_keeps_serving_and_is_taken_over(
    harness: &Harness,
    addresses: &[String; 2],
) -> anyhow::Result<()> {
    let before = uids(harness)?;
    harness.admin(
        "kubectl patch loadbalancerstack default --type=merge -p '{\"spec\":{\"deletionPolicy\":\"Orphan\",\"paused\":false}}'",
    )?;
    is_gone(harness)?;
    harness.wait_for_event("LoadBalancerStack", "default", "its workloads stay")?;
    assert_eq!(uids(harness)?, before, "nothing is deleted, and no pod restarts");
    let owners = "kubectl get deployments,daemonsets,secrets,serviceaccounts,roles,rolebindings,services,pdb,networkpolicies,clusterroles,clusterrolebindings \
         -n metallb-system -l app.kubernetes.io/managed-by=lb-operator -o jsonpath='{.items[*].metadata.ownerReferences[*].KIND}'";
    assert_eq!(harness.admin(&owners.replace("KIND", "kind"))?, "");
    for address in addresses {
        harness.wait_for_answer(address, "web")?;
    }
    // A new stack takes over the existing objects.
    harness.install_stack()?;
    assert_eq!(uids(harness)?, before, "it adopts, and restarts nothing");
    let uid = harness.admin("kubectl get loadbalancerstack default -o jsonpath='{.metadata.uid}'")?;
    let owned = harness.admin(&owners.replace("KIND", "uid"))?;
    let all: Vec<_> = owned.split_whitespace().collect();
    assert!(all.len() > 15 && all.iter().all(|owner| *owner == uid), "{owned}");
    at_rest(harness)?;
    harness.admin("kubectl wait loadbalancerstack default --for=condition=Ready --timeout=30s")?;
    assert_eq!(
        [harness.current_address("one")?, harness.current_address("two")?],
        *addresses
    );
    Ok(())
}

/// Everything that taking over writes is written once.
fn at_rest(harness: &Harness) -> anyhow::Result<()> {
    let versions = "kubectl get loadbalancerstack,deployments,daemonsets,secrets,serviceaccounts,roles,clusterroles -n metallb-system \
         -o jsonpath='{.items[*].metadata.resourceVersion}'";
    let mut last = String::new();
    eventually("three seconds without a write", LONG_TIMEOUT, || {
        let now = harness.admin(versions)?;
        let quiet = now == last;
        last = now;
        if !quiet {
            // The test is that nothing happens, so there is no event to wait for.
            std::thread::sleep(std::time::Duration::from_secs(3));
        }
        Ok(quiet.then_some(()))
    })
}

/// Everything except users' objects is deleted, and no address is announced or kept.
fn withdrawn_stack_leaves_objects_of_users(harness: &Harness, addresses: &[String; 2]) -> anyhow::Result<()> {
    // An address from elsewhere is not ours to release.
    harness.apply("apiVersion: v1\nkind: Service\nmetadata: {name: foreign}\nspec:\n  type: LoadBalancer\n  loadBalancerClass: example.com/other\n  ports: [{port: 80}]")?;
    harness.admin("kubectl patch service foreign --subresource=status --type=merge -p '{\"status\":{\"loadBalancer\":{\"ingress\":[{\"ip\":\"203.0.113.9\"}]}}}'")?;
    harness.admin(&POLICY.replace("POLICY", "Withdraw"))?;
    let start = Instant::now();
    harness.admin("kubectl delete loadbalancerstack default --timeout=120s")?;
    println!(
        "withdrawn, with everything gone, after {:.1} s",
        start.elapsed().as_secs_f64()
    );
    for (service, address) in ["one", "two"].into_iter().zip(addresses) {
        assert_eq!(harness.current_address(service)?, "", "{service}");
        let annotations = harness.admin(&format!(
            "kubectl get service {service} -o jsonpath='{{.metadata.annotations}}'"
        ))?;
        assert!(!annotations.contains("ip-allocated-from-pool"), "{annotations}");
        let owners = harness.owners(address)?;
        assert!(owners.is_empty(), "{owners:?} still answer for {address}");
    }
    assert_eq!(harness.current_address("foreign")?, "203.0.113.9");
    // Kubernetes deletes what the DaemonSet and the Deployment created.
    eventually("deletion of the stack's objects", SHORT_TIMEOUT, || {
        let left = harness.admin(
            "kubectl get clusterroles,clusterrolebindings -o name -l app.kubernetes.io/managed-by=lb-operator; \
             kubectl get deployments,daemonsets,replicasets,pods,serviceaccounts,roles,rolebindings,secrets,services,pdb,networkpolicies,controllerrevisions \
             -n metallb-system -o name -l app.kubernetes.io/managed-by=lb-operator; kubectl get servicel2statuses -n metallb-system -o name",
        )?;
        anyhow::ensure!(left.is_empty(), "left: {left}");
        Ok(Some(()))
    })?;
    harness.admin("kubectl get ipaddresspool/kept l2advertisement/kept -n metallb-system")?;
    // And back: addresses are assigned again.
    harness.install_stack()?;
    for service in ["one", "two"] {
        harness.wait_for_answer(&harness.wait_for_address(service)?, "web")?;
    }
    Ok(())
}

/// A waiting deletion continues when the Services are gone.
fn deletion_without_services_completes(harness: &Harness) -> anyhow::Result<()> {
    harness.admin("kubectl delete loadbalancerstack default --wait=false")?;
    eventually("the deletion to wait", SHORT_TIMEOUT, || {
        Ok(condition(harness)?
            .starts_with("True ServicesExist")
            .then_some(()))
    })?;
    harness.admin("kubectl delete service one two")?;
    is_gone(harness)?;
    // Without an operator, one command completes the deletion.
    harness.admin("kubectl apply -f charts/lb-operator/examples/stack.yaml")?;
    eventually("the stack to be held", SHORT_TIMEOUT, || {
        let held =
            harness.admin("kubectl get loadbalancerstack default -o jsonpath='{.metadata.finalizers}'")?;
        Ok(held.contains("lb-operator.io/stack").then_some(()))
    })?;
    harness.admin("helm uninstall lb-operator -n lb-operator-system --wait")?;
    harness.admin("kubectl delete loadbalancerstack default --wait=false")?;
    harness.admin(
        "kubectl patch loadbalancerstack default --type=merge -p '{\"metadata\":{\"finalizers\":null}}'",
    )?;
    is_gone(harness)
}
