//! The way from MetalLB to this project and back: every Service keeps its address, even when pools get other names and
//! another order, and when one address is in no pool.

use std::process::Command;

use lb_e2e::harness::{Harness, LONG_TIMEOUT, eventually};

const ADDRESSES: &str = "kubectl get services -o jsonpath='{range .items[?(@.spec.type==\"LoadBalancer\")]}{.metadata.name}={.status.loadBalancer.ingress[*].ip} {end}'";

#[test]
fn services_keep_their_address_from_metallb_and_back() -> anyhow::Result<()> {
    let harness = Harness::start_lab("metallb", 2)?;
    metallb(&harness)?;
    harness.apply_backend("web", 2)?;
    // MetalLB accepts pools only when its webhook is ready.
    eventually("MetalLB to accept a pool", LONG_TIMEOUT, || {
        Ok(harness.apply_pool("lan", "192.168.50.50-192.168.50.99").ok())
    })?;
    for (name, annotations) in [
        ("one", ""),
        ("two", "metallb.universe.tf/loadBalancerIPs: 192.168.50.77"),
        ("three", ""),
        ("stray", "metallb.universe.tf/loadBalancerIPs: 192.168.50.98"),
    ] {
        harness.apply_service(name, "web", annotations, "")?;
        harness.wait_for_address(name)?;
    }
    serves(&harness)?;
    let before = harness.admin(ADDRESSES)?;

    // MetalLB is removed; its CRDs and their objects stay. Pools are divided differently before our installation.
    harness.admin(
        "kubectl delete -n metallb-system deployment/controller daemonset/speaker service/metallb-webhook-service \
         serviceaccount/controller serviceaccount/speaker --wait \
         && kubectl delete -n metallb-system role,rolebinding -l app=metallb \
         && kubectl delete clusterrole,clusterrolebinding -l app=metallb \
         && kubectl delete validatingwebhookconfiguration metallb-webhook-configuration",
    )?;
    harness.admin("kubectl delete ipaddresspool,l2advertisement --all -n metallb-system")?;
    harness.apply_pool("a-first", "192.168.50.200-192.168.50.209")?;
    harness.apply_pool("z-lan", "192.168.50.50-192.168.50.97")?;
    harness.admin("kubectl annotate service stray metallb.universe.tf/loadBalancerIPs-")?;
    harness.install()?;
    serves(&harness)?;
    harness.apply_service("four", "web", "", "")?;
    assert_eq!(harness.wait_for_address("four")?, "192.168.50.200");
    harness.wait_for_event(
        "Service",
        "stray",
        "AddressOutsidePools no pool contains 192.168.50.98",
    )?;
    harness.admin("kubectl delete service four")?;
    assert_eq!(
        harness.admin(ADDRESSES)?,
        before,
        "every Service keeps its address"
    );
    let pools = "kubectl get services one two three stray -o jsonpath='{.items[*].metadata.annotations.metallb\\.io/ip-allocated-from-pool}'";
    assert_eq!(harness.admin(pools)?, "z-lan z-lan z-lan lan");
    harness.admin("kubectl rollout restart deployment/controller -n metallb-system && kubectl rollout status deployment/controller -n metallb-system --timeout=120s")?;
    harness.apply_pool("z-lan", "192.168.50.50-192.168.50.99")?;
    harness.admin("kubectl wait service/stray --for=jsonpath='{.metadata.annotations.metallb\\.io/ip-allocated-from-pool}'=z-lan --timeout=30s")?;

    // And back.
    let before = harness.admin(ADDRESSES)?;
    metallb(&harness)?;
    serves(&harness)?;
    assert_eq!(harness.admin(ADDRESSES)?, before);
    Ok(())
}

/// Installs MetalLB.
pub(crate) fn metallb(harness: &Harness) -> anyhow::Result<()> {
    let output = Command::new(lb_lab::program()?)
        .args(["install", "metallb", "--name", harness.lab().name()])
        .output()?;
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}

fn serves(harness: &Harness) -> anyhow::Result<()> {
    for name in ["one", "two", "three"] {
        let address = harness.wait_for_address(name)?;
        harness.wait_for_owner(&address, LONG_TIMEOUT)?;
        harness.wait_for_answer(&address, "web")?;
    }
    Ok(())
}
