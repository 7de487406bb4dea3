//! Upgrades that are interrupted: by the end of the operators at each step, a failure of the API server, and the loss
//! of the canary's node.

use std::collections::BTreeSet;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, bail};
use lb_tools::releases::CURRENT_VERSION;

use super::following::Statuses;
use super::{Place, UPGRADE_TIMEOUT, good};

/// Steps at which operators are killed; at all others they are terminated.
const STEPS_WITH_SIGKILL: [&str; 3] = ["Controller", "Canary", "Speakers"];

#[test]
fn upgrade_survives_operator_and_api_server_failures() -> anyhow::Result<()> {
    let place = Place::next("interrupted", CURRENT_VERSION)?;
    place.with_traffic_and_resolution("operators ended at every step", |place| {
        let past = place.past()?;
        let statuses = Statuses::follow(&place.harness)?;
        place.set(&format!("{{\"version\":\"{}\"}}", good()))?;
        let hit = end_operators_at_every_step(place, past, &statuses)?;
        for step in ["PrePull", "Controller", "Canary", "Soak", "Speakers"] {
            assert!(hit.contains(step), "none ended at {step}: {hit:?}");
        }
        place.wait_for_success(past, &good())
    })?;
    place.with_traffic_and_resolution("API server restarted in the middle", |place| {
        let past = place.past()?;
        place.set(&format!("{{\"version\":\"{CURRENT_VERSION}\"}}"))?;
        at(place, "Soak")?;
        let lab = place.harness.lab();
        lab.stop_api_server()?;
        std::thread::sleep(Duration::from_secs(5));
        lab.start_api_server()?;
        place.wait_for_success(past, CURRENT_VERSION)
    })?;
    Ok(())
}

#[test]
fn upgrade_continues_without_a_lost_node_and_updates_it_later() -> anyhow::Result<()> {
    let place = Place::next("cut", CURRENT_VERSION)?;
    place.with_traffic_and_resolution("node of the first new speaker cut", |place| {
        let past = place.past()?;
        place.set(&format!("{{\"version\":\"{}\"}}", good()))?;
        at(place, "Soak")?;
        let status = place.status()?;
        let node = status["upgrade"]["canaryNode"]
            .as_str()
            .context("no canary")?
            .to_owned();
        assert!(
            !place.owners.contains(&node),
            "the first new speaker is one that announces nothing: {node}"
        );
        let number: usize = node.trim_start_matches('n').parse()?;
        let lab = place.harness.lab();
        lab.cut(number)?;
        wait_for_node(place, number, "Unknown")?;
        let status = place.status()?;
        let rejected = status["failedRevisions"].as_array().is_none_or(Vec::is_empty);
        assert!(rejected, "a lost node is no failure: {status}");
        lab.join(number)?;
        wait_for_node(place, number, "True")?;
        place.wait_for_success(past, &good())
    })?;
    place.with_traffic_and_resolution("a node comes back while the owners' speakers restart", |place| {
        let nodes = place.harness.lab().nodes();
        let bystander = nodes.iter().position(|node| !place.owners.contains(node));
        let bystander = bystander.context("all nodes own something")? + 1;
        for owner in BTreeSet::from_iter(&place.owners) {
            restart_while_another_node_returns(place, owner, bystander)?;
        }
        Ok(())
    })?;
    Ok(())
}

/// The node that returns has never received a heartbeat, so it does not know that a speaker restarts.
fn restart_while_another_node_returns(place: &Place, owner: &str, bystander: usize) -> anyhow::Result<()> {
    let lab = place.harness.lab();
    lab.cut(bystander)?;
    wait_for_node(place, bystander, "Unknown")?;
    place.harness.admin(&format!(
        "kubectl delete pod -n metallb-system -l component=speaker --field-selector spec.nodeName={owner} --wait=false"
    ))?;
    lab.join(bystander)?;
    wait_for_node(place, bystander, "True")?;
    place
        .harness
        .admin("kubectl rollout status daemonset/speaker -n metallb-system --timeout=60s")?;
    Ok(())
}

/// Waits until the condition `Ready` of a node has this status.
fn wait_for_node(place: &Place, number: usize, ready: &str) -> anyhow::Result<()> {
    place.harness.admin(&format!(
        "kubectl wait node n{number} --for=condition=Ready={ready} --timeout=90s"
    ))?;
    Ok(())
}

/// Waits until the upgrade is at a step.
pub(super) fn at(place: &Place, step: &str) -> anyhow::Result<()> {
    place.harness.admin(&format!(
        "kubectl wait lbs default --for=jsonpath='{{.status.upgrade.step}}'={step} --timeout=120s"
    ))?;
    Ok(())
}

/// Ends both operators at the beginning of each step, so that neither continues it. Returns the steps. Rollbacks, and
/// operators that continue another's work, are tested in `broken`.
fn end_operators_at_every_step(
    place: &Place,
    past: usize,
    statuses: &Statuses,
) -> anyhow::Result<BTreeSet<String>> {
    let harness = &place.harness;
    let mut hit = BTreeSet::new();
    let mut renewals = Vec::new();
    loop {
        let status = statuses.next(UPGRADE_TIMEOUT)?;
        if status["history"][past].is_object() {
            break;
        }
        let step = status["upgrade"]["step"].as_str().unwrap_or_default();
        if step == "RollingBack" {
            bail!("it is rolled back: {}", status["upgrade"]["failure"]);
        }
        if step.is_empty() || hit.contains(step) {
            continue;
        }
        let lab = harness.lab();
        let ended = (1..=lab.nodes().len()).filter(|node| {
            let program = "lb-operator";
            let ended = if STEPS_WITH_SIGKILL.contains(&step) {
                lab.kill(*node, program)
            } else {
                lab.terminate(*node, program)
            };
            ended.is_ok()
        });
        if ended.count() > 0 {
            hit.insert(step.to_owned());
            // After a third exit, the kubelet would delay the restart of a container.
            let renew =
                "kubectl delete pod -n lb-operator-system --wait=false -l app.kubernetes.io/name=lb-operator";
            renewals.push(harness.admin_command(renew).stdout(Stdio::null()).spawn()?);
        }
    }
    for mut renewal in renewals {
        renewal.wait()?;
    }
    println!(
        "the operators were ended at {}",
        hit.iter().cloned().collect::<Vec<_>>().join(", ")
    );
    Ok(hit)
}
