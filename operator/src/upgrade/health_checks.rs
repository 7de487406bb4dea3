//! What has to hold while an upgrade is under way, from what the API shows. A proof that fails names pod, node and
//! reason.

use jiff::Timestamp;
use lb_crds::load_balancer_stack::{UpgradeStatus, UpgradeStep};

use super::snapshot::{Pod, Seen};
use super::state::seconds;

/// Seconds without progress after which what keeps a pod from running is taken for lasting. A registry may have a hiccup.
const PATIENCE: i64 = 30;
/// Services named in a message; the rest is counted.
const NAMED: usize = 3;

/// What has failed, if anything has.
#[must_use]
pub fn fault(upgrade: &UpgradeStatus, seen: &Seen, now: Timestamp) -> Option<String> {
    let stuck = seconds(upgrade.progress_time.0, now);
    let suspended = upgrade.suspended_time.is_some();
    if let Some(refused) = &seen.kinds_refused
        && upgrade.step == UpgradeStep::Crds
    {
        return Some(refused.clone());
    }
    if upgrade.step == UpgradeStep::PrePull
        && let Some(failed) = seen
            .pre_pull
            .as_ref()
            .and_then(|pre_pull| pre_pull.failed.as_ref())
        && stuck >= PATIENCE
    {
        return Some(format!("the images cannot be pulled: {failed}"));
    }
    if upgrade.step >= UpgradeStep::Controller {
        if let Some(fault) = new_pods(upgrade, seen).find_map(|pod| pod_fault(pod, stuck)) {
            return Some(fault);
        }
        if !seen.moved.is_empty() {
            return Some(format!("addresses have changed: {}", some(&seen.moved)));
        }
        let silent = unanswered(upgrade, seen);
        if !silent.is_empty() {
            return Some(some(&silent));
        }
    }
    let deadline = seen.settings.deadline;
    let waits = match upgrade.step {
        // Until then nothing has been touched, and what it waits for is said.
        UpgradeStep::Preflight => false,
        // Time is all that these wait for, while everything is ready.
        UpgradeStep::Soak | UpgradeStep::Verify => new_pods(upgrade, seen).any(|pod| !pod.ready),
        _ => true,
    };
    (waits && !suspended && stuck > deadline).then(|| {
        let first = new_pods(upgrade, seen).find(|pod| !pod.ready);
        let why = first.map_or_else(String::new, |pod| {
            let trouble = pod.trouble.as_deref().unwrap_or("not ready");
            format!(": {}: {trouble}", pod.describe())
        });
        format!(
            "no progress in step {} for {stuck} seconds{why}",
            upgrade.step.as_str()
        )
    })
}

/// The pods that are new by this upgrade, on nodes that answer.
fn new_pods<'a>(upgrade: &'a UpgradeStatus, seen: &'a Seen) -> impl Iterator<Item = &'a Pod> {
    let (from, to) = (&upgrade.from, &upgrade.to);
    let controllers = seen
        .controllers
        .pods
        .iter()
        .filter(move |pod| from.controller != to.controller && pod.revision == to.controller);
    let speakers = seen
        .speakers
        .pods
        .iter()
        .filter(move |pod| from.speaker != to.speaker && pod.revision == to.speaker);
    controllers.chain(speakers).filter(|pod| pod.counts())
}

fn pod_fault(pod: &Pod, stuck: i64) -> Option<String> {
    let lasting = pod.trouble.as_ref().filter(|_| stuck >= PATIENCE);
    if pod.restarts > 0 {
        let times = if pod.restarts == 1 {
            "once".to_owned()
        } else {
            format!("{} times", pod.restarts)
        };
        let why = pod
            .trouble
            .as_ref()
            .map_or_else(String::new, |why| format!(": {why}"));
        return Some(format!(
            "{} failed and was restarted {times}{why}",
            pod.describe()
        ));
    }
    lasting.map(|trouble| format!("{}: {trouble}", pod.describe()))
}

/// What new speakers do not answer for, and did before.
fn unanswered(upgrade: &UpgradeStatus, seen: &Seen) -> Vec<String> {
    let is_new = |node: &str| {
        new_pods(upgrade, seen).any(|pod| pod.node == node)
            && seen
                .speakers
                .pods
                .iter()
                .any(|pod| pod.node == node && pod.revision == upgrade.to.speaker)
    };
    let silent = seen
        .unanswered
        .iter()
        .filter(|silent| silent.since >= upgrade.started_time.0 && is_new(&silent.node));
    silent.map(|silent| silent.message.clone()).collect()
}

/// The first few, and how many more.
fn some(messages: &[String]) -> String {
    let mut text = messages
        .iter()
        .take(NAMED)
        .cloned()
        .collect::<Vec<_>>()
        .join("; ");
    if messages.len() > NAMED {
        text.push_str(&format!("; and {} more", messages.len() - NAMED));
    }
    text
}
