//! Preconditions of an upgrade, and the nodes by which it is judged.

use jiff::Timestamp;
use lb_crds::load_balancer_stack::{OnFailure, UpgradeStatus, UpgradeStep as Step};
use lb_runtime::text::{LIST_LIMIT, list_first, list_first_clauses};

use super::pod_selection::is_verified;
use super::snapshot::{ClusterSnapshot, PodSnapshot};
use super::state::seconds;

/// Seconds after which a speaker that failed before counts as healthy.
const STEADY_SECONDS: i64 = 60;
/// Addresses named in a message.
const LISTED_ADDRESSES: usize = 3;

/// Whether a speaker shows that its node is healthy.
fn is_steady(pod: &PodSnapshot, now: Timestamp) -> bool {
    let since = pod.ready_since.map_or(0, |since| seconds(since, now));
    is_verified(pod, now) && (pod.restarts == 0 || since >= STEADY_SECONDS)
}

/// Why the upgrade must not start, whatever time passes.
#[must_use]
pub fn blocker(upgrade: &UpgradeStatus, snapshot: &ClusterSnapshot) -> Option<String> {
    if let Some(obstacle) = &snapshot.obstacle {
        return Some(obstacle.clone());
    }
    if !snapshot.observes {
        return Some("Services, announcements, pools and namespaces are being listed".to_owned());
    }
    let lost = &snapshot.addresses_at_risk;
    let forced = snapshot.settings.on_failure == OnFailure::Continue;
    let narrows = snapshot
        .nodes
        .values()
        .any(|node| node.served_before && !node.served);
    (narrows && !lost.is_empty() && !forced && upgrade.from.speaker != upgrade.to.speaker).then(|| {
        let removed = snapshot.nodes.iter().filter(|(_, node)| node.served_before && !node.served);
        let removed: Vec<_> = removed.map(|(name, _)| name).collect();
        format!(
            "the new settings remove the speakers of {}, and no other node may announce {}: keep one of these nodes, or \
             change the L2Advertisements; spec.upgrade.onFailure: Continue overrides this",
            list_first(&removed, LIST_LIMIT),
            list_first_clauses(lost, LISTED_ADDRESSES)
        )
    })
}

/// Speakers that are not ready before the upgrade, on nodes that the new revision serves; not those that run another
/// revision or have a problem of their own, because the upgrade may be what mends them.
pub(super) fn unhealthy_speakers(upgrade: &UpgradeStatus, snapshot: &ClusterSnapshot) -> Vec<String> {
    let nodes = snapshot.nodes.iter().filter(|(name, node)| {
        node.served && node.served_before && node.reachable && !snapshot.settings.skip_nodes.contains(name)
    });
    let unhealthy = nodes.filter(|(name, _)| {
        let mut pods = snapshot.speakers.pods.iter().filter(|pod| pod.node == **name);
        !pods.any(|pod| pod.lost || pod.ready || pod.own_fault || pod.revision != upgrade.from.speaker)
    });
    unhealthy.map(|(name, _)| name.clone()).collect()
}

/// The reason for which the step Preflight waits; `None` if the upgrade may proceed.
#[must_use]
pub fn preflight_obstacle(
    upgrade: &UpgradeStatus,
    snapshot: &ClusterSnapshot,
    now: Timestamp,
) -> Option<String> {
    if let Some(blocker) = blocker(upgrade, snapshot) {
        return Some(blocker);
    }
    let unhealthy = unhealthy_speakers(upgrade, snapshot);
    let deadline = snapshot.settings.progress_deadline_seconds;
    let waited = seconds(upgrade.progress_time.0, now) > deadline || !snapshot.announces;
    (!unhealthy.is_empty() && !waited).then(|| {
        format!(
            "no speaker is ready on {}: they are waited for {deadline} s, then the upgrade proceeds without them",
            list_first(&unhealthy, LIST_LIMIT)
        )
    })
}

/// Keeps the list of nodes that can fail the upgrade. A node leaves it when it is unreachable, skipped, no longer served
/// by the revision of the step, or when its speaker has a problem before the upgrade touches it.
pub(super) fn update_healthy_nodes(upgrade: &mut UpgradeStatus, snapshot: &ClusterSnapshot, now: Timestamp) {
    if upgrade.step == Step::Preflight {
        return;
    }
    let step = upgrade.step;
    let may_count = |name: &str| {
        snapshot.nodes.get(name).is_some_and(|node| {
            node.reachable
                && match step {
                    Step::RollingBack => node.served_before,
                    step if step >= Step::Speakers => node.served,
                    _ => true,
                }
        }) && !snapshot.settings.skip_nodes.iter().any(|skipped| skipped == name)
    };
    let old = upgrade.from.speaker.clone();
    let lost = |name: &str| {
        let mut pods = snapshot.speakers.pods.iter().filter(|pod| pod.node == name);
        pods.any(|pod| {
            pod.lost || (pod.is_active() && !pod.ready && pod.problem.is_some() && pod.revision == old)
        })
    };
    let sick_before = old != upgrade.to.speaker;
    let mut healthy = std::mem::take(&mut upgrade.healthy_nodes);
    healthy.retain(|node| may_count(node) && !(sick_before && lost(node)));
    let ready = snapshot
        .speakers
        .pods
        .iter()
        .filter(|pod| pod.is_active() && is_steady(pod, now) && may_count(&pod.node));
    for pod in ready {
        if !healthy.contains(&pod.node) {
            healthy.push(pod.node.clone());
        }
    }
    healthy.sort();
    upgrade.healthy_nodes = healthy;
}
