//! What comes in between of an upgrade: the end of its operator at each step, the end of the API server, the loss of the
//! node with the first new speaker.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context, bail};
use lb_e2e::releases::PRESENT;
use lb_e2e::stage::{EVENTUALLY, SOON, eventually};

use super::{Place, good};

/// Steps whose operator ends without a word, by SIGKILL; at all others its pod is deleted. The way back is the matter of
/// `broken`.
const KILLED: [&str; 3] = ["Controller", "Canary", "Speakers"];

/// How an operator ends.
pub(super) enum End {
    /// Without a word.
    Killed,
    /// In good order, with its pod.
    Deleted,
}

#[test]
fn an_upgrade_outlives_its_operator_and_the_api_server() -> anyhow::Result<()> {
    let place = Place::next("interrupted", PRESENT)?;
    place.under_traffic("operator ended at every step", |place| {
        let past = place.past()?;
        place.set(&format!("{{\"version\":\"{}\"}}", good()))?;
        let hit = hit_the_operator_at_every_step(place, past)?;
        for step in ["PrePull", "Controller", "Canary", "Soak", "Speakers"] {
            assert!(hit.contains(step), "none ended at {step}: {hit:?}");
        }
        place.arrives(past, &good())
    })?;
    place.under_traffic("API server restarted in the middle", |place| {
        let past = place.past()?;
        place.set(&format!("{{\"version\":\"{PRESENT}\"}}"))?;
        at(place, "Soak")?;
        let lab = place.stage.the_lab();
        lab.stop_api_server()?;
        std::thread::sleep(Duration::from_secs(5));
        lab.start_api_server()?;
        place.arrives(past, PRESENT)
    })?;
    Ok(())
}

#[test]
fn an_upgrade_goes_on_around_a_node_that_is_lost_and_takes_it_in_when_it_is_back() -> anyhow::Result<()> {
    let place = Place::next("cut", PRESENT)?;
    place.under_traffic("node of the first new speaker cut", |place| {
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
        let lab = place.stage.the_lab();
        lab.cut(number)?;
        place.stage.admin(&format!(
            "kubectl wait node {node} --for=condition=Ready=Unknown --timeout=90s"
        ))?;
        let status = place.status()?;
        let rejected = status["rejected"].as_array().is_none_or(Vec::is_empty);
        assert!(rejected, "a lost node is no failure: {status}");
        lab.join(number)?;
        place.stage.admin(&format!(
            "kubectl wait node {node} --for=condition=Ready --timeout=90s"
        ))?;
        place.arrives(past, &good())
    })?;
    Ok(())
}

/// Waits until the upgrade is at a step.
pub(super) fn at(place: &Place, step: &str) -> anyhow::Result<()> {
    place.stage.admin(&format!(
        "kubectl wait lbs default --for=jsonpath='{{.status.upgrade.step}}'={step} --timeout=120s"
    ))?;
    Ok(())
}

/// Ends the operator that leads each time that a step begins. Returns the steps that it was seen at.
fn hit_the_operator_at_every_step(place: &Place, past: usize) -> anyhow::Result<BTreeSet<String>> {
    let mut hit = BTreeSet::new();
    eventually("the upgrade to be over", 2 * EVENTUALLY, || {
        let status = place.status()?;
        if status["history"][past].is_object() {
            return Ok(Some(()));
        }
        let step = status["upgrade"]["step"].as_str().unwrap_or_default().to_owned();
        if step == "RollingBack" {
            bail!("it is rolled back: {}", status["upgrade"]["failure"]);
        }
        if !step.is_empty() && !hit.contains(&step) {
            let how = if KILLED.contains(&step.as_str()) {
                End::Killed
            } else {
                End::Deleted
            };
            // Where nobody was ended, it is tried again: the step may go on for long enough.
            if let Some(leader) = leader(place)?
                && end(place, &leader, how)?
            {
                hit.insert(step);
            }
        }
        Ok(None)
    })?;
    println!(
        "the operator was ended at {}",
        hit.iter().cloned().collect::<Vec<_>>().join(", ")
    );
    Ok(hit)
}

/// An operator that leads.
#[derive(Debug)]
pub(super) struct Leader {
    pod: String,
    /// The number of its node.
    node: usize,
}

/// The operator that leads; none when it is gone already, because of the step before.
pub(super) fn leader(place: &Place) -> anyhow::Result<Option<Leader>> {
    let stage = &place.stage;
    // For a moment nobody may lead.
    let pod = eventually("an operator to lead", SOON, || {
        let holder = stage.admin("kubectl get lease lb-operator -o jsonpath='{.spec.holderIdentity}'")?;
        Ok((!holder.is_empty()).then_some(holder))
    })?;
    let node = stage.admin(&format!(
        "kubectl get pod {pod} -o jsonpath='{{.spec.nodeName}}' --ignore-not-found"
    ))?;
    let number = node.trim_start_matches('n').parse().ok();
    Ok(number.map(|node| Leader { pod, node }))
}

/// Ends an operator. Returns whether it was still there.
pub(super) fn end(place: &Place, leader: &Leader, end: End) -> anyhow::Result<bool> {
    let Leader { pod, node } = leader;
    match end {
        End::Deleted => place
            .stage
            .admin(&format!(
                "kubectl delete pod {pod} --wait=false --ignore-not-found"
            ))
            .map(|told| !told.is_empty()),
        End::Killed => Ok(place.stage.the_lab().kill(*node, "lb-operator").is_ok()),
    }
}
