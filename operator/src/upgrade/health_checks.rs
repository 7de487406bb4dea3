//! Health checks during an upgrade. They judge the upgrade and nothing else:
//!
//! | verdict | when |
//! | --- | --- |
//! | `Failed` | a pod of the new revision on a node that was healthy before crashes, never becomes ready, or announces or verifies an address that was answered before and is not now; the new controllers change an address |
//! | `Sick` | a speaker that the upgrade has not touched is not ready: its node does not count from now on |
//! | `Held` | nothing progresses for another reason, such as a registry or an admission plugin |
//!
//! Everything else is not counted: conflicts with other hosts, Services and pools that users create or edit, nodes that
//! were broken before, that join, leave or restart. Each verdict names node, pod and reason.

use std::collections::BTreeMap;

use jiff::Timestamp;
use lb_crds::load_balancer_stack::{UpgradeStatus, UpgradeStep as Step};
use lb_runtime::text::{LIST_LIMIT, list_first, list_first_clauses};

use super::pod_selection::{counts, missing};
use super::snapshot::{ClusterSnapshot, PodSnapshot};
use super::state::{seconds, step_began};

/// Seconds without progress after which a problem of a pod counts.
const POD_PROBLEM_GRACE_SECONDS: i64 = 30;
/// Services named in a message.
const LISTED_SERVICES: usize = 3;

/// The result of the health checks.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Verdict {
    /// Nothing is wrong, or its deadline is not over.
    Healthy,
    /// The upgrade failed.
    Failed(Failure),
    /// Speakers on these nodes are not ready, and it is not the upgrade that broke them.
    Sick(Vec<String>),
    /// The upgrade cannot progress, for a reason outside of it.
    Held(String),
}

/// A failed health check.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Failure {
    /// The reason.
    pub reason: String,
    /// The node of the speaker, if only that failed.
    pub node: Option<String>,
    /// Whether it failed only because other nodes and it do not receive each other's replies: the cause may be the
    /// network.
    pub is_unanswered: bool,
}

/// Runs the health checks.
#[must_use]
pub fn verdict(upgrade: &UpgradeStatus, snapshot: &ClusterSnapshot, now: Timestamp) -> Verdict {
    if upgrade.step == Step::Preflight {
        return Verdict::Healthy;
    }
    let stalled_seconds = seconds(upgrade.progress_time.0, now);
    let failed = |reason: String| {
        Verdict::Failed(Failure {
            reason,
            ..Failure::default()
        })
    };
    if let Some(refused) = &snapshot.crds_refused
        && upgrade.step == Step::Crds
    {
        return failed(refused.clone());
    }
    if upgrade.step == Step::PrePull
        && stalled_seconds >= POD_PROBLEM_GRACE_SECONDS
        && let Some(reason) = unusable_image(upgrade, snapshot)
    {
        return failed(reason);
    }
    if upgrade.step >= Step::Controller && upgrade.step != Step::RollingBack {
        if let Some(pod) = new_pods(upgrade, snapshot).find(|pod| is_broken(upgrade, pod, stalled_seconds)) {
            return failed_pod(upgrade, pod, describe_failure(pod));
        }
        if upgrade.from.controller != upgrade.to.controller && !snapshot.changed_addresses.is_empty() {
            let changed = list_first_clauses(&snapshot.changed_addresses, LISTED_SERVICES);
            return failed(format!("addresses changed: {changed}"));
        }
        if let Some(failed) = failed_verification(upgrade, snapshot) {
            return failed;
        }
    }
    let waits = match upgrade.step {
        Step::Soak | Step::Verify => snapshot.settings.soak_seconds,
        _ => 0,
    };
    let deadline = snapshot.settings.progress_deadline_seconds + waits;
    if upgrade.suspended_time.is_some() || stalled_seconds <= deadline {
        return Verdict::Healthy;
    }
    late(upgrade, snapshot, stalled_seconds)
}

/// The progress deadline is over.
fn late(upgrade: &UpgradeStatus, snapshot: &ClusterSnapshot, stalled_seconds: i64) -> Verdict {
    let step = upgrade.step.as_str();
    if upgrade.step >= Step::Controller && upgrade.step != Step::RollingBack {
        let unready = new_pods(upgrade, snapshot).find(|pod| !pod.ready && !is_pulling(pod));
        if let Some(pod) = unready {
            let problem = pod.describe_problem();
            return failed_pod(
                upgrade,
                pod,
                format!("no progress in step {step} for {stalled_seconds} s: {problem}"),
            );
        }
        if upgrade.step == Step::Controller
            && snapshot.controllers.settled
            && !snapshot.controllers.has_leader
        {
            return Verdict::Failed(Failure {
                reason: format!("no new controller became the leader within {stalled_seconds} s"),
                ..Failure::default()
            });
        }
        let sick = untouched_sick_nodes(upgrade, snapshot);
        if !sick.is_empty() {
            return Verdict::Sick(sick);
        }
    }
    Verdict::Held(format!("step {step}: {}", obstacles(upgrade, snapshot)))
}

/// The refusal of a registry, an admission plugin or the API server.
#[must_use]
pub fn infrastructure_faults(upgrade: &UpgradeStatus, snapshot: &ClusterSnapshot) -> Vec<String> {
    let mut reasons = [
        snapshot.failing_writes.as_slice(),
        snapshot.refused_pods.as_slice(),
    ]
    .concat();
    if let Some(pre_pull) = snapshot
        .pre_pull
        .as_ref()
        .filter(|_| upgrade.step == Step::PrePull)
    {
        let pending = pre_pull.pending.iter().filter(|(node, _)| counts(upgrade, node));
        reasons.extend(pending.map(|(node, why)| match why {
            Some(why) => format!("node {node} cannot pull the images: {why}"),
            None => format!("node {node} has not pulled the images"),
        }));
    }
    let missing = missing(upgrade, snapshot);
    if !missing.is_empty() && upgrade.step >= Step::Controller {
        let nodes = list_first(&missing, LIST_LIMIT);
        reasons.push(format!(
            "no speaker pod is created on {nodes}: see the events of DaemonSet speaker"
        ));
    }
    let pulling = all_pods(snapshot).filter(|pod| is_pulling(pod));
    reasons.extend(pulling.map(PodSnapshot::describe_problem));
    reasons
}

fn all_pods(snapshot: &ClusterSnapshot) -> impl Iterator<Item = &PodSnapshot> {
    let pods = snapshot.controllers.pods.iter().chain(&snapshot.speakers.pods);
    pods.filter(|pod| pod.is_active() && !pod.ready)
}

/// Whether a pod waits for a registry.
fn is_pulling(pod: &PodSnapshot) -> bool {
    pod.problem.is_some() && !pod.own_fault && !pod.unscheduled
}

/// The pods and nodes that the step waits for.
fn obstacles(upgrade: &UpgradeStatus, snapshot: &ClusterSnapshot) -> String {
    let mut reasons = infrastructure_faults(upgrade, snapshot);
    let others = all_pods(snapshot).filter(|pod| !is_pulling(pod));
    reasons.extend(others.map(PodSnapshot::describe_problem));
    if reasons.is_empty() {
        return "the controllers of Kubernetes do not report progress".to_owned();
    }
    list_first_clauses(&reasons, LISTED_SERVICES)
}

/// Nodes that count, whose speaker is of the last good revision and not ready.
pub(super) fn untouched_sick_nodes(upgrade: &UpgradeStatus, snapshot: &ClusterSnapshot) -> Vec<String> {
    let sick = snapshot.speakers.pods.iter().filter(|pod| {
        pod.is_active()
            && !pod.ready
            && pod.revision == upgrade.from.speaker
            && upgrade.from.speaker != upgrade.to.speaker
            && counts(upgrade, &pod.node)
    });
    sick.map(|pod| pod.node.clone()).collect()
}

/// An image that was pulled and does not run, on a node that counts.
fn unusable_image(upgrade: &UpgradeStatus, snapshot: &ClusterSnapshot) -> Option<String> {
    let unusable: &BTreeMap<_, _> = &snapshot.pre_pull.as_ref()?.unusable;
    let (node, problem) = unusable.iter().find(|(node, _)| counts(upgrade, node))?;
    Some(format!("image does not run on node {node}: {problem}"))
}

/// Pods of the new revision that can fail the upgrade.
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
    controllers
        .chain(new_speakers(upgrade, snapshot))
        .filter(|pod| pod.is_active())
}

fn new_speakers<'a>(
    upgrade: &'a UpgradeStatus,
    snapshot: &'a ClusterSnapshot,
) -> impl Iterator<Item = &'a PodSnapshot> {
    let (from, to) = (&upgrade.from.speaker, &upgrade.to.speaker);
    let is_new = move |pod: &&PodSnapshot| from != to && pod.revision == *to && counts(upgrade, &pod.node);
    snapshot.speakers.pods.iter().filter(is_new)
}

/// A failure before the step began does not count: it was decided about, and somebody has asked to try again.
fn is_broken(upgrade: &UpgradeStatus, pod: &PodSnapshot, stalled_seconds: i64) -> bool {
    let lasting = stalled_seconds >= POD_PROBLEM_GRACE_SECONDS;
    let began = step_began(upgrade);
    pod.restarted_at.is_some_and(|restarted| restarted >= began)
        || (pod.own_fault && pod.problem.is_some() && lasting)
}

fn describe_failure(pod: &PodSnapshot) -> String {
    let times = match pod.restarts {
        0 => return pod.describe_problem(),
        1 => "once".to_owned(),
        times => format!("{times} times"),
    };
    let why = pod.problem.as_ref();
    let why = why.map_or_else(String::new, |why| format!(": {why}"));
    format!("{} failed and restarted {times}{why}", pod.describe())
}

fn failed_pod(upgrade: &UpgradeStatus, pod: &PodSnapshot, reason: String) -> Verdict {
    Verdict::Failed(Failure {
        reason,
        node: (pod.revision == upgrade.to.speaker).then(|| pod.node.clone()),
        is_unanswered: false,
    })
}

/// Addresses that are not answered since a new speaker is ready: the one that announces them, or the one that verifies
/// them. The second may be deaf instead, which is as bad: it would not announce what it should.
fn failed_verification(upgrade: &UpgradeStatus, snapshot: &ClusterSnapshot) -> Option<Verdict> {
    let is_new = |node: &str, since: Timestamp| {
        new_speakers(upgrade, snapshot)
            .filter(|pod| pod.is_active())
            .any(|pod| pod.node == node && pod.ready_since.is_some_and(|ready| since >= ready))
    };
    let failed = snapshot.failed_verifications.iter().filter_map(|failed| {
        let blamed = [&failed.node, &failed.verified_by]
            .into_iter()
            .find(|node| is_new(node, failed.since))?;
        Some((blamed, failed.message.as_str()))
    });
    let failed: Vec<_> = failed.collect();
    let (node, _) = failed.first()?;
    Some(Verdict::Failed(Failure {
        reason: list_first_clauses(failed.iter().map(|(_, message)| *message), LISTED_SERVICES),
        node: Some((*node).clone()),
        is_unanswered: true,
    }))
}

/// The previous speaker on the node that got no reply, if it is ready and gets none either.
#[must_use]
pub fn still_unanswered<'a>(
    upgrade: &UpgradeStatus,
    snapshot: &'a ClusterSnapshot,
) -> Option<&'a PodSnapshot> {
    let node = upgrade.unanswered_node.as_ref()?;
    let mut failed = snapshot.failed_verifications.iter();
    failed.find(|failed| failed.node == *node || failed.verified_by == *node)?;
    let mut pods = snapshot.speakers.pods.iter();
    pods.find(|pod| pod.node == *node && pod.is_active() && pod.ready && pod.revision == upgrade.from.speaker)
}
