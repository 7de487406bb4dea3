//! Selection of the next speaker to replace, and the question whether all that count are new and ready.
//!
//! Only nodes count whose speaker ran without problems before it was replaced ([`UpgradeStatus::healthy_nodes`]). The
//! speakers of other nodes are replaced as well, but nothing waits for them.

use std::collections::BTreeSet;

use jiff::Timestamp;
use lb_crds::load_balancer_stack::UpgradeStatus;

use super::snapshot::{ClusterSnapshot, PodSnapshot};
use super::state::seconds;

/// Seconds that a new speaker with addresses has to be ready before the next one is replaced. Other nodes verify its
/// addresses within seven seconds (`ownership::MAX_VERIFICATION_DELAY` of `lb-l2`), their result takes about a second to
/// reach the API, and counts after [`SETTLE_SECONDS`](super::observer::SETTLE_SECONDS). The test
/// `upgrade_waits_longer_than_a_verification_takes` compares them.
pub const VERIFICATION_SECONDS: i64 = 14;
/// The same for a speaker without addresses, for which there is nothing to verify.
const SETTLE_SECONDS: i64 = 2;

/// Whether a speaker has been ready for long enough.
#[must_use]
pub fn is_verified(pod: &PodSnapshot, now: Timestamp) -> bool {
    let wait = if pod.announced_services > 0 {
        VERIFICATION_SECONDS
    } else {
        SETTLE_SECONDS
    };
    pod.ready && pod.ready_since.is_some_and(|since| seconds(since, now) >= wait)
}

/// Whether the node counts.
pub(super) fn counts(upgrade: &UpgradeStatus, node: &str) -> bool {
    upgrade.healthy_nodes.iter().any(|healthy| healthy == node)
}

/// The canary: a speaker on a node that the new revision serves. Preferably its node is healthy, it announces nothing
/// and does not belong to the control plane.
#[must_use]
pub fn canary<'a>(upgrade: &UpgradeStatus, snapshot: &'a ClusterSnapshot) -> Option<&'a PodSnapshot> {
    let fits = |pod: &&PodSnapshot| {
        let node = snapshot.nodes.get(&pod.node);
        is_old(snapshot, pod, &upgrade.to.speaker) && node.is_some_and(|node| node.served)
    };
    let rank = |pod: &&PodSnapshot| {
        let healthy = counts(upgrade, &pod.node);
        (
            !healthy,
            !pod.ready,
            pod.control_plane,
            pod.announced_services,
            pod.node.clone(),
        )
    };
    snapshot.speakers.pods.iter().filter(fits).min_by_key(rank)
}

/// Whether a pod is to be replaced by one of `revision`.
fn is_old(snapshot: &ClusterSnapshot, pod: &PodSnapshot, revision: &str) -> bool {
    pod.is_active() && pod.revision != revision && !snapshot.settings.skip_nodes.contains(&pod.node)
}

/// The speakers to replace now by ones of `revision`, with at most `maxUnavailable` of the nodes that count unavailable
/// at the same time. Speakers that are not ready come first, but as few at a time, because they may still announce; one
/// of the last good revision is not touched, because it is not the upgrade that broke it. Of the other nodes, only
/// speakers that are not ready are replaced: a ready one counts soon. With `verified`, new speakers count as unavailable
/// until they are verified.
#[must_use]
pub fn next<'a>(
    upgrade: &UpgradeStatus,
    snapshot: &'a ClusterSnapshot,
    revision: &str,
    verified: bool,
    now: Timestamp,
) -> Vec<&'a PodSnapshot> {
    let pods = &snapshot.speakers.pods;
    let (mut old, mut others): (Vec<_>, Vec<_>) = pods
        .iter()
        .filter(|pod| is_old(snapshot, pod, revision))
        .partition(|pod| counts(upgrade, &pod.node));
    old.retain(|pod| pod.ready || pod.revision != upgrade.from.speaker);
    old.sort_by_key(|pod| (pod.ready, pod.control_plane, pod.announced_services, &pod.node));
    let away = away(upgrade, snapshot, revision, verified, now);
    let idle = count_i32(old.iter().filter(|pod| !pod.ready).count());
    let limit = snapshot.settings.max_unavailable;
    let mut room = limit.saturating_sub(away);
    let mut room_for_idle = limit.saturating_sub(away.saturating_sub(idle));
    others.retain(|pod| !pod.ready);
    let take = |pod: &&PodSnapshot| {
        let room = if pod.ready { &mut room } else { &mut room_for_idle };
        *room = room.saturating_sub(1);
        *room >= 0
    };
    old.into_iter().filter(take).chain(others).collect()
}

/// Speakers of nodes that count and are missing or not ready, or with `verified` of `revision` and not verified yet.
#[must_use]
pub fn away(
    upgrade: &UpgradeStatus,
    snapshot: &ClusterSnapshot,
    revision: &str,
    verified: bool,
    now: Timestamp,
) -> i32 {
    let is_away = |pod: &&PodSnapshot| {
        let unproven = verified && pod.revision == revision && !is_verified(pod, now);
        !pod.lost && counts(upgrade, &pod.node) && (pod.terminating || !pod.ready || unproven)
    };
    let away = snapshot.speakers.pods.iter().filter(is_away).count();
    count_i32(missing(upgrade, snapshot).len()).saturating_add(count_i32(away))
}

/// Nodes that count and have no speaker.
#[must_use]
pub fn missing<'a>(upgrade: &'a UpgradeStatus, snapshot: &ClusterSnapshot) -> Vec<&'a str> {
    let pods = snapshot.speakers.pods.iter();
    let with_pod: BTreeSet<_> = pods.map(|pod| pod.node.as_str()).collect();
    let nodes = upgrade.healthy_nodes.iter().map(String::as_str);
    nodes.filter(|node| !with_pod.contains(node)).collect()
}

/// Whether all speakers have `revision`. Nothing waits for unreachable and skipped nodes, nor for a missing or stopping
/// speaker of a node that does not count.
#[must_use]
pub fn all_of(upgrade: &UpgradeStatus, snapshot: &ClusterSnapshot, revision: &str) -> bool {
    missing(upgrade, snapshot).is_empty()
        && snapshot.speakers.pods.iter().all(|pod| {
            pod.lost
                || snapshot.settings.skip_nodes.contains(&pod.node)
                || if counts(upgrade, &pod.node) {
                    !pod.terminating && pod.revision == revision
                } else {
                    pod.terminating || pod.revision == revision
                }
        })
}

pub(super) fn count_i32(count: usize) -> i32 {
    i32::try_from(count).unwrap_or(i32::MAX)
}
