//! MetalLB itself in the lab, and the way from it to us: its pools, advertisements and Services stay as they are, and so
//! does every address.

use std::process::Command;

use lb_e2e::stage::{EVENTUALLY, Stage, eventually};

const ADDRESSES: &str = "kubectl get services -o jsonpath='{range .items[?(@.spec.type==\"LoadBalancer\")]}{.metadata.name}={.status.loadBalancer.ingress[*].ip} {end}'";

#[test]
fn services_of_metallb_keep_their_addresses_when_we_take_over_and_when_it_comes_back() -> anyhow::Result<()> {
    let stage = Stage::lab("peer", 2)?;
    metallb(&stage)?;
    stage.apply_backend("web", 2)?;
    // Its webhook has to be up before it takes pools.
    eventually("MetalLB to take a pool", EVENTUALLY, || {
        Ok(stage.apply_pool("lan", "192.168.50.50-192.168.50.99").ok())
    })?;
    for (name, annotations) in [
        ("one", ""),
        ("two", "metallb.universe.tf/loadBalancerIPs: 192.168.50.77"),
        ("three", ""),
    ] {
        stage.apply_service(name, "web", annotations, "")?;
        stage.address(name)?;
    }
    serves(&stage)?;
    let before = stage.admin(ADDRESSES)?;

    // Out with it, in with us. Its kinds and their objects stay.
    stage.admin(
        "kubectl delete -n metallb-system deployment/controller daemonset/speaker service/metallb-webhook-service --wait \
         && kubectl delete validatingwebhookconfiguration metallb-webhook-configuration",
    )?;
    stage.install()?;
    serves(&stage)?;
    assert_eq!(stage.admin(ADDRESSES)?, before, "every Service keeps its address");
    stage.apply_service("four", "web", "", "")?;
    let fresh = stage.address("four")?;
    assert!(
        !before.contains(&format!("={fresh} ")),
        "{fresh} was taken: {before}"
    );

    // And back.
    let before = stage.admin(ADDRESSES)?;
    metallb(&stage)?;
    serves(&stage)?;
    assert_eq!(stage.admin(ADDRESSES)?, before);
    Ok(())
}

fn metallb(stage: &Stage) -> anyhow::Result<()> {
    let output = Command::new(env!("CARGO_BIN_EXE_lab"))
        .args(["peer", "metallb", "--name", stage.the_lab().name()])
        .output()?;
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}

fn serves(stage: &Stage) -> anyhow::Result<()> {
    for name in ["one", "two", "three"] {
        let address = stage.address(name)?;
        stage.owner(&address, EVENTUALLY)?;
        stage.answers(&address, "web")?;
    }
    Ok(())
}
