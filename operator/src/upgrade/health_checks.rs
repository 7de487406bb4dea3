//! Health checks during an upgrade. A failed check names the pod, the node and the reason.

use jiff::Timestamp;
use lb_crds::load_balancer_stack::{UpgradeStatus, UpgradeStep};

use lb_runtime::text::list_first_clauses;

use super::snapshot::{ClusterSnapshot, PodSnapshot};
use super::state::seconds;

/// Seconds without progress after which a problem of a pod fails the upgrade: a registry may be unavailable for a
/// moment.
const POD_PROBLEM_GRACE_SECONDS: i64 = 30;
/// Services named in a message.
const LISTED_SERVICES: usize = 3;

/// The first health check that fails.
#[must_use]
pub fn failed_check(upgrade: &UpgradeStatus, snapshot: &ClusterSnapshot, now: Timestamp) -> Option<String> {
    let stalled_seconds = seconds(upgrade.progress_time.0, now);
    let suspended = upgrade.suspended_time.is_some();
    if let Some(refused) = &snapshot.crds_refused
        && upgrade.step == UpgradeStep::Crds
    {
        return Some(refused.clone());
    }
    if upgrade.step == UpgradeStep::PrePull
        && let Some(failed) = snapshot
            .pre_pull
            .as_ref()
            .and_then(|pre_pull| pre_pull.failed.as_ref())
        && stalled_seconds >= POD_PROBLEM_GRACE_SECONDS
    {
        return Some(format!("image pull failed: {failed}"));
    }
    if upgrade.step >= UpgradeStep::Controller {
        if let Some(failure) = new_pods(upgrade, snapshot).find_map(|pod| failed_pod(pod, stalled_seconds)) {
            return Some(failure);
        }
        if !snapshot.changed_addresses.is_empty() {
            return Some(format!(
                "addresses changed: {}",
                list_first_clauses(&snapshot.changed_addresses, LISTED_SERVICES)
            ));
        }
        let failed = failed_verifications(upgrade, snapshot);
        if !failed.is_empty() {
            return Some(list_first_clauses(&failed, LISTED_SERVICES));
        }
    }
    let deadline = snapshot.settings.progress_deadline_seconds;
    let waits = match upgrade.step {
        // Nothing has been changed yet, and the condition Progressing names the obstacle.
        UpgradeStep::Preflight => false,
        // These steps only wait for time to pass while all pods are ready.
        UpgradeStep::Soak | UpgradeStep::Verify => new_pods(upgrade, snapshot).any(|pod| !pod.ready),
        _ => true,
    };
    (waits && !suspended && stalled_seconds > deadline).then(|| {
        let first = new_pods(upgrade, snapshot).find(|pod| !pod.ready);
        let why = first.map_or_else(String::new, |pod| {
            let problem = pod.problem.as_deref().unwrap_or("not ready");
            format!(": {}: {problem}", pod.describe())
        });
        format!(
            "no progress in step {} for {stalled_seconds} s{why}",
            upgrade.step.as_str()
        )
    })
}

/// Pods of the target revision on reachable nodes.
fn new_pods<'a>(
    upgrade: &'a UpgradeStatus,
    snapshot: &'a ClusterSnapshot,
) -> impl Iterator<Item = &'a PodSnapshot> {
    let (from, to) = (&upgrade.from, &upgrade.to);
    let controllers = snapshot
        .controllers
        .pods
        .iter()
        .filter(move |pod| from.controller != to.controller && pod.revision == to.controller);
    let speakers = snapshot
        .speakers
        .pods
        .iter()
        .filter(move |pod| from.speaker != to.speaker && pod.revision == to.speaker);
    controllers.chain(speakers).filter(|pod| pod.is_active())
}

fn failed_pod(pod: &PodSnapshot, stalled_seconds: i64) -> Option<String> {
    let lasting = pod
        .problem
        .as_ref()
        .filter(|_| stalled_seconds >= POD_PROBLEM_GRACE_SECONDS);
    if pod.restarts > 0 {
        let times = if pod.restarts == 1 {
            "once".to_owned()
        } else {
            format!("{} times", pod.restarts)
        };
        let why = pod
            .problem
            .as_ref()
            .map_or_else(String::new, |why| format!(": {why}"));
        return Some(format!("{} failed and restarted {times}{why}", pod.describe()));
    }
    lasting.map(|problem| format!("{}: {problem}", pod.describe()))
}

/// Problems of new speakers that were first reported after the upgrade started.
fn failed_verifications(upgrade: &UpgradeStatus, snapshot: &ClusterSnapshot) -> Vec<String> {
    let is_new = |node: &str| {
        new_pods(upgrade, snapshot).any(|pod| pod.node == node)
            && snapshot
                .speakers
                .pods
                .iter()
                .any(|pod| pod.node == node && pod.revision == upgrade.to.speaker)
    };
    let failed = snapshot
        .failed_verifications
        .iter()
        .filter(|failed| failed.since >= upgrade.started_time.0 && is_new(&failed.node));
    failed.map(|failed| failed.message.clone()).collect()
}
