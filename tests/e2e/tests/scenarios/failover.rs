//! Nodes that fail or are disconnected: another node answers for the address, and once the cluster has noticed, at most
//! one.

use std::time::{Duration, Instant};

use lb_e2e::harness::{Harness, LONG_TIMEOUT, SHORT_TIMEOUT, eventually};

#[test]
fn addresses_of_a_failed_node_move_to_one_owner() -> anyhow::Result<()> {
    let harness = Harness::start_lab("failover", 3)?;
    harness.install()?;
    harness.apply_pool("lan", "192.168.50.50-192.168.50.99")?;
    harness.apply_backend("web", 3)?;
    let mut addresses = Vec::new();
    for i in 0..6 {
        let name = format!("web-{i}");
        harness.apply_service(&name, "web", "", "")?;
        addresses.push(harness.wait_for_address(&name)?);
    }
    let unique: std::collections::BTreeSet<_> = addresses.iter().collect();
    assert_eq!(unique.len(), addresses.len(), "one address each: {addresses:?}");

    // An unplugged cable.
    let address = &addresses[0];
    let owner = harness.wait_for_owner(address, SHORT_TIMEOUT)?;
    let number = number(&owner);
    let start = Instant::now();
    harness.lab().cut(number)?;
    let next = another_owner(&harness, address, &owner)?;
    println!(
        "cable cut: {address} moved from {owner} to {next} after {:.1} s",
        start.elapsed().as_secs_f64()
    );
    harness.wait_for_answer(address, "web")?;
    harness.lab().join(number)?;
    wait_until_settled(&harness, &addresses)?;

    // Power off, and on again.
    let owner = harness.wait_for_owner(address, SHORT_TIMEOUT)?;
    let number = self::number(&owner);
    let start = Instant::now();
    harness.lab().crash(number)?;
    let next = another_owner(&harness, address, &owner)?;
    println!(
        "power off: {address} moved from {owner} to {next} after {:.1} s",
        start.elapsed().as_secs_f64()
    );
    harness.wait_for_answer(address, "web")?;
    harness.lab().start(number)?;
    wait_until_settled(&harness, &addresses)?;

    // No Service has changed its address.
    for (i, address) in addresses.iter().enumerate() {
        assert_eq!(&harness.current_address(&format!("web-{i}"))?, address);
    }
    Ok(())
}

fn number(node: &str) -> usize {
    node.trim_start_matches('n')
        .parse()
        .expect("nodes are named n1, n2, …")
}

fn another_owner(harness: &Harness, address: &str, than: &str) -> anyhow::Result<String> {
    eventually(
        &format!("another owner than {than} for {address}"),
        LONG_TIMEOUT,
        || {
            let owners = harness.owners(address)?;
            Ok(owners.into_iter().find(|owner| owner != than))
        },
    )
}

/// All nodes are ready, and every address has exactly one owner, several times in a row.
fn wait_until_settled(harness: &Harness, addresses: &[String]) -> anyhow::Result<()> {
    harness.admin("kubectl wait node --all --for=condition=Ready --timeout=120s")?;
    for workload in ["daemonset/speaker", "deployment/controller"] {
        harness.admin(&format!(
            "kubectl rollout status {workload} -n metallb-system --timeout=120s"
        ))?;
    }
    let mut good = 0;
    eventually("one owner for each address", Duration::from_secs(60), || {
        let owners = harness.owners_of(addresses)?;
        if owners.len() < addresses.len() || owners.values().any(|owners| owners.len() > 1) {
            good = 0;
            return Ok(None);
        }
        good += 1;
        Ok((good == 3).then_some(()))
    })?;
    for address in addresses {
        harness.wait_for_answer(address, "web")?;
    }
    Ok(())
}
