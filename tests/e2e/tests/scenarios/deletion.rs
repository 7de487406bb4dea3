//! The end of a stack: what holds it up, what goes on meanwhile, and what is left.

use std::collections::BTreeMap;
use std::time::Instant;

use lb_e2e::stage::{EVENTUALLY, SOON, Stage, eventually};

const POLICY: &str =
    "kubectl patch loadbalancerstack default --type=merge -p '{\"spec\":{\"deletionPolicy\":\"POLICY\"}}'";

#[test]
fn a_stack_ends_as_its_policy_says() -> anyhow::Result<()> {
    let stage = Stage::lab("deletion", 2)?;
    stage.install()?;
    stage.apply_pool("kept", "192.168.50.50-192.168.50.59")?;
    stage.apply_backend("web", 1)?;
    for service in ["one", "two"] {
        stage.apply_service(service, "web", "", "")?;
    }
    let addresses = [stage.address("one")?, stage.address("two")?];
    for address in &addresses {
        stage.answers(address, "web")?;
    }
    services_hold_it_up(&stage, &addresses)?;
    an_orphaned_stack_serves_on_and_is_taken_over(&stage, &addresses)?;
    a_withdrawn_stack_leaves_what_users_wrote(&stage, &addresses)?;
    without_services_nothing_holds_it_up(&stage)
}

fn condition(stage: &Stage) -> anyhow::Result<String> {
    let filter = "{.status.conditions[?(@.type==\"DeletionBlocked\")]}";
    let field = |name: &str| filter.replace(")]}", &format!(")].{name}}}"));
    stage.admin(&format!(
        "kubectl get loadbalancerstack default -o jsonpath='{} {}: {}'",
        field("status"),
        field("reason"),
        field("message")
    ))
}

fn uids(stage: &Stage) -> anyhow::Result<BTreeMap<String, String>> {
    let text = stage.admin(
        "kubectl get deployments,daemonsets,pods,secrets,serviceaccounts -n metallb-system \
         -l app.kubernetes.io/managed-by=lb-operator \
         -o jsonpath='{range .items[*]}{.kind}/{.metadata.name} {.metadata.uid}{\"\\n\"}{end}'",
    )?;
    let pairs = text.lines().filter_map(|line| line.split_once(' '));
    Ok(pairs
        .map(|(name, uid)| (name.to_owned(), uid.to_owned()))
        .collect())
}

fn is_gone(stage: &Stage) -> anyhow::Result<()> {
    eventually("the stack to be gone", EVENTUALLY, || {
        let left = stage.admin("kubectl get loadbalancerstacks -o name")?;
        Ok(left.is_empty().then_some(()))
    })
}

/// The default: the deletion waits, says for what, and what runs is kept as before.
fn services_hold_it_up(stage: &Stage, addresses: &[String; 2]) -> anyhow::Result<()> {
    stage.admin("kubectl delete loadbalancerstack default --wait=false")?;
    let said = eventually("a condition that names the Services", SOON, || {
        Ok(Some(condition(stage)?).filter(|said| said.starts_with("True ServicesExist")))
    })?;
    assert!(
        said.contains("2 Services have addresses of this stack: default/one, default/two"),
        "{said}"
    );
    assert!(said.contains("spec.deletionPolicy"), "it says what to do: {said}");
    stage.event("LoadBalancerStack", "default", "DeletionBlocked")?;
    // It is still repaired, and still gives addresses.
    stage.admin("kubectl delete networkpolicy metallb-controller -n metallb-system --wait=false")?;
    eventually("the NetworkPolicy to be made again", SOON, || {
        Ok(stage
            .admin("kubectl get networkpolicy metallb-controller -n metallb-system")
            .ok()
            .map(drop))
    })?;
    stage.apply_service("three", "web", "", "")?;
    stage.answers(&stage.address("three")?, "web")?;
    stage.admin("kubectl delete service three")?;
    stage.answers(&addresses[0], "web")?;
    // A stack that is paused is left alone in its end as in its life.
    stage.admin("kubectl patch loadbalancerstack default --type=merge -p '{\"spec\":{\"paused\":true}}'")?;
    eventually("a condition that says that it is paused", SOON, || {
        Ok(condition(stage)?.starts_with("True Paused").then_some(()))
    })?;
    Ok(())
}

/// The policy may be changed while the deletion waits: the objects stay, and a new stack owns them.
fn an_orphaned_stack_serves_on_and_is_taken_over(
    stage: &Stage,
    addresses: &[String; 2],
) -> anyhow::Result<()> {
    let before = uids(stage)?;
    stage.admin(
        "kubectl patch loadbalancerstack default --type=merge -p '{\"spec\":{\"deletionPolicy\":\"Orphan\",\"paused\":false}}'",
    )?;
    is_gone(stage)?;
    stage.event("LoadBalancerStack", "default", "what it made stays")?;
    assert_eq!(uids(stage)?, before, "nothing is deleted, and no pod restarts");
    let owners = "kubectl get deployments,daemonsets,secrets,serviceaccounts,roles,rolebindings,services,pdb,networkpolicies,clusterroles,clusterrolebindings \
         -n metallb-system -l app.kubernetes.io/managed-by=lb-operator -o jsonpath='{.items[*].metadata.ownerReferences[*].KIND}'";
    assert_eq!(stage.admin(&owners.replace("KIND", "kind"))?, "");
    for address in addresses {
        stage.answers(address, "web")?;
    }
    // A new stack takes over what is there.
    stage.install_stack()?;
    assert_eq!(uids(stage)?, before, "it adopts, and restarts nothing");
    let uid = stage.admin("kubectl get loadbalancerstack default -o jsonpath='{.metadata.uid}'")?;
    let owned = stage.admin(&owners.replace("KIND", "uid"))?;
    let all: Vec<_> = owned.split_whitespace().collect();
    assert!(all.len() > 15 && all.iter().all(|owner| *owner == uid), "{owned}");
    at_rest(stage)?;
    stage.admin("kubectl wait loadbalancerstack default --for=condition=Ready --timeout=30s")?;
    assert_eq!([stage.address_now("one")?, stage.address_now("two")?], *addresses);
    Ok(())
}

/// What a takeover writes, it writes once.
fn at_rest(stage: &Stage) -> anyhow::Result<()> {
    let versions = "kubectl get loadbalancerstack,deployments,daemonsets,secrets,serviceaccounts,roles,clusterroles -n metallb-system \
         -o jsonpath='{.items[*].metadata.resourceVersion}'";
    let mut last = String::new();
    eventually("three seconds without a write", EVENTUALLY, || {
        let now = stage.admin(versions)?;
        let quiet = now == last;
        last = now;
        if !quiet {
            // The thing under test is that nothing happens: there is no event to wait for.
            std::thread::sleep(std::time::Duration::from_secs(3));
        }
        Ok(quiet.then_some(()))
    })
}

/// Everything goes but what users wrote, and nobody announces or keeps an address.
fn a_withdrawn_stack_leaves_what_users_wrote(stage: &Stage, addresses: &[String; 2]) -> anyhow::Result<()> {
    // An address that is from elsewhere is none of ours to take.
    stage.apply("apiVersion: v1\nkind: Service\nmetadata: {name: foreign}\nspec:\n  type: LoadBalancer\n  loadBalancerClass: example.com/other\n  ports: [{port: 80}]")?;
    stage.admin("kubectl patch service foreign --subresource=status --type=merge -p '{\"status\":{\"loadBalancer\":{\"ingress\":[{\"ip\":\"203.0.113.9\"}]}}}'")?;
    stage.admin(&POLICY.replace("POLICY", "Withdraw"))?;
    let start = Instant::now();
    stage.admin("kubectl delete loadbalancerstack default --timeout=120s")?;
    println!(
        "withdrawn, with everything gone, after {:.1} s",
        start.elapsed().as_secs_f64()
    );
    for (service, address) in ["one", "two"].into_iter().zip(addresses) {
        assert_eq!(stage.address_now(service)?, "", "{service}");
        let annotations = stage.admin(&format!(
            "kubectl get service {service} -o jsonpath='{{.metadata.annotations}}'"
        ))?;
        assert!(!annotations.contains("ip-allocated-from-pool"), "{annotations}");
        let owners = stage.owners(address)?;
        assert!(owners.is_empty(), "{owners:?} still answer for {address}");
    }
    assert_eq!(stage.address_now("foreign")?, "203.0.113.9");
    // What the DaemonSet and the Deployment made goes with them, by Kubernetes' own hand.
    eventually("nothing of the stack's own to be left", SOON, || {
        let left = stage.admin(
            "kubectl get clusterroles,clusterrolebindings -o name -l app.kubernetes.io/managed-by=lb-operator; \
             kubectl get deployments,daemonsets,replicasets,pods,serviceaccounts,roles,rolebindings,secrets,services,pdb,networkpolicies,controllerrevisions \
             -n metallb-system -o name -l app.kubernetes.io/managed-by=lb-operator; kubectl get servicel2statuses -n metallb-system -o name",
        )?;
        anyhow::ensure!(left.is_empty(), "left: {left}");
        Ok(Some(()))
    })?;
    stage.admin("kubectl get ipaddresspool/kept l2advertisement/kept -n metallb-system")?;
    // And back: the addresses are given anew.
    stage.install_stack()?;
    for service in ["one", "two"] {
        stage.answers(&stage.address(service)?, "web")?;
    }
    Ok(())
}

/// A deletion that waits goes on by itself once the Services are gone.
fn without_services_nothing_holds_it_up(stage: &Stage) -> anyhow::Result<()> {
    stage.admin("kubectl delete loadbalancerstack default --wait=false")?;
    eventually("the deletion to wait", SOON, || {
        Ok(condition(stage)?.starts_with("True ServicesExist").then_some(()))
    })?;
    stage.admin("kubectl delete service one two")?;
    is_gone(stage)?;
    // Without an operator, one command lets a stack go.
    stage.admin("kubectl apply -f charts/lb-operator/examples/stack.yaml")?;
    eventually("the stack to be held", SOON, || {
        let held =
            stage.admin("kubectl get loadbalancerstack default -o jsonpath='{.metadata.finalizers}'")?;
        Ok(held.contains("lb-operator.io/stack").then_some(()))
    })?;
    stage.admin("helm uninstall lb-operator --wait")?;
    stage.admin("kubectl delete loadbalancerstack default --wait=false")?;
    stage.admin(
        "kubectl patch loadbalancerstack default --type=merge -p '{\"metadata\":{\"finalizers\":null}}'",
    )?;
    is_gone(stage)
}
