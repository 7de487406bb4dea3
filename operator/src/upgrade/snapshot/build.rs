//! Builds the snapshot from the index. Pure.

use std::collections::BTreeMap;

use jiff::Timestamp;
use lb_crds::load_balancer_stack::{Revision, Upgrade};
use lb_runtime::text::truncate;
use semver::Version;
use serde_json::Value;

use super::{
    ClusterSnapshot, ControllerSnapshot, NodeSnapshot, PodSnapshot, PrePullSnapshot, SpeakerSnapshot,
    UpgradeSettings,
};
use crate::desired::config::StackConfig;
use crate::desired::render::{Component, DesiredObject, pre_pull};
use crate::drift::diff::{AppliedObjects, difference};
use crate::index::Index;
use crate::object_id::{Kind, ObjectId};
use crate::observe::nodes::ClusterNode;
use crate::observe::pods::{ImageCheck, PodProblem};
use crate::observe::workload_health::{StackHealth, is_observed, pods_of, refused_pods};
use crate::upgrade::coverage::served_nodes;
use crate::upgrade::objects::{crd_refusal, is_role, previous_revision, revision_of, role, speaker_template};
use crate::upgrade::observer::ServiceObserver;
use crate::upgrade::{RoleRules, UpgradeState, role_rules};

/// Longest problem of a pod in the status, in bytes.
const PROBLEM_LIMIT: usize = 300;

/// Input of [`build`].
pub struct SnapshotInput<'a> {
    /// Configuration of the stack.
    pub config: &'a StackConfig,
    /// Objects of the spec.
    pub rendered: &'a [DesiredObject],
    /// Revision of `rendered`.
    pub target: &'a Revision,
    /// Stored state of the state machine.
    pub state: &'a UpgradeState,
    /// `spec.upgrade`.
    pub upgrade: Option<&'a Upgrade>,
    /// `metadata.generation` of the stack.
    pub generation: i64,
    /// `spec.paused`.
    pub paused: bool,
    /// The operator's version.
    pub operator_version: &'a str,
    /// Existing objects.
    pub index: &'a Index,
    /// Answers to earlier applications.
    pub applied: &'a AppliedObjects,
    /// Health of both workloads.
    pub health: &'a StackHealth,
    /// Observed Services and nodes.
    pub observer: Option<&'a ServiceObserver>,
    /// The pod that holds the controllers' Lease.
    pub leader: Option<&'a str>,
    /// Messages of writes that fail.
    pub failing_writes: Vec<String>,
    /// Time of the snapshot.
    pub now: Timestamp,
}

/// The snapshot for the state machine.
#[must_use]
pub fn build(input: &SnapshotInput<'_>) -> ClusterSnapshot {
    let namespace = &input.config.namespace;
    let index = input.index;
    let pods = |component: &str| pods(input, component);
    let controllers = pods(Component::Controller.name());
    let body = |kind, component: Component| {
        let id = ObjectId::new(kind, namespace, component.name());
        index.get(&id).map(|live| &live.body)
    };
    let deployment = body(Kind::Deployment, Component::Controller);
    let daemon_set = body(Kind::DaemonSet, Component::Speaker);
    let template = |body: Option<&Value>| body.map(|body| revision_of(body).unwrap_or_default());
    let crds_refused = input
        .rendered
        .iter()
        .find_map(|wanted| crd_refusal(wanted, index));
    let rollback_available = previous_revision(input.state, index, namespace).is_some();
    let revision = deployment.and_then(revision_of);
    let has_leader = input.health.controller.desired == 0
        || controllers.iter().any(|pod| {
            Some(&pod.revision) == revision.as_ref()
                && Some(pod.name.as_str()) == input.leader
                && pod.is_active()
        });
    let missing = "rollback is impossible: the ControllerRevision of the last good revision is missing: set \
                   spec.upgrade.onFailure to Pause to upgrade without rollback";
    let settings = UpgradeSettings::of(input.upgrade);
    let no_rollback = (!rollback_available && settings.rolls_back()).then(|| missing.to_owned());
    let nodes = node_snapshots(input);
    ClusterSnapshot {
        target: input.target.clone(),
        generation: input.generation,
        operator_version: input.operator_version.to_owned(),
        paused: input.paused,
        obstacle: no_rollback.or_else(|| skipped_minor(input.state.last_good.as_ref(), input.target)),
        settings,
        observes: input.observer.is_some_and(ServiceObserver::is_complete),
        addresses_at_risk: addresses_at_risk(input, &nodes),
        changed_addresses: input
            .observer
            .map(|observer| observer.changed_addresses(input.now))
            .unwrap_or_default(),
        failed_verifications: input
            .observer
            .map(|observer| observer.failed_verifications(input.now))
            .unwrap_or_default(),
        failing_writes: input.failing_writes.clone(),
        refused_pods: refused_pods(index, namespace),
        announces: input.health.announcing_nodes > 0,
        nodes,
        crds_applied: are_applied(input, &crds(input)),
        crds_refused,
        rbac_applied: are_applied(input, &rbac_objects(input)),
        rollback_available,
        controllers: ControllerSnapshot {
            template: template(deployment),
            version: input.health.controller.version.clone(),
            settled: input.health.controller.settled,
            has_leader,
            pods: controllers,
        },
        speakers: SpeakerSnapshot {
            template: template(daemon_set),
            on_delete: daemon_set.is_some_and(|body| body["spec"]["updateStrategy"]["type"] == "OnDelete"),
            observed: daemon_set.is_some_and(is_observed),
            desired: input.health.speaker.desired,
            pods: pods(Component::Speaker.name()),
        },
        pre_pull: pre_pull_progress(index, input.rendered, input.config),
    }
}

/// Whether objects are applied as wanted.
fn are_applied(input: &SnapshotInput<'_>, wanted: &[DesiredObject]) -> bool {
    let owner = &input.config.owner.uid;
    difference(wanted, input.index, input.applied, owner)
        .apply
        .is_empty()
}

/// The CRDs that may be applied.
fn crds(input: &SnapshotInput<'_>) -> Vec<DesiredObject> {
    let all = input.rendered.iter();
    all.filter(|wanted| wanted.id.kind == Kind::CustomResourceDefinition)
        .filter(|wanted| crd_refusal(wanted, input.index).is_none())
        .cloned()
        .collect()
}

/// The roles with the rules of the current step, and their bindings.
fn rbac_objects(input: &SnapshotInput<'_>) -> Vec<DesiredObject> {
    let step = input.state.upgrade.as_ref().map(|upgrade| upgrade.step);
    let rules = step.map_or(RoleRules::Target, role_rules);
    let previous = previous_revision(input.state, input.index, &input.config.namespace);
    let of = |wanted: &DesiredObject| match wanted.id.kind {
        kind if is_role(kind) => Some(role(wanted, rules, previous)),
        Kind::RoleBinding | Kind::ClusterRoleBinding => Some(wanted.clone()),
        _ => None,
    };
    input.rendered.iter().filter_map(of).collect()
}

fn node_snapshots(input: &SnapshotInput<'_>) -> BTreeMap<String, NodeSnapshot> {
    let nodes = input.index.nodes();
    let (served, _) = served_nodes(speaker_template(input.rendered), nodes);
    let previous = previous_revision(input.state, input.index, &input.config.namespace);
    let before = previous.map(|previous| served_nodes(&previous["speaker"]["spec"]["template"], nodes).0);
    let of = |(name, node): (&String, &ClusterNode)| {
        let snapshot = NodeSnapshot {
            reachable: node.is_ready(),
            served: served.contains(name.as_str()),
            served_before: before
                .as_ref()
                .is_none_or(|before| before.contains(name.as_str())),
        };
        (name.clone(), snapshot)
    };
    nodes.iter().map(of).collect()
}

/// Announced addresses that no node may announce after the change; only computed if a node loses its speaker.
fn addresses_at_risk(input: &SnapshotInput<'_>, nodes: &BTreeMap<String, NodeSnapshot>) -> Vec<String> {
    let narrows = nodes.values().any(|node| node.served_before && !node.served);
    let Some(observer) = input.observer.filter(|_| narrows) else {
        return Vec::new();
    };
    let left = input.index.nodes().iter().filter(|(name, node)| {
        let served = nodes.get(*name).is_some_and(|node| node.served && node.reachable);
        served && node.may_announce(input.config.ignore_exclude_label)
    });
    let left: Vec<_> = left.map(|(_, node)| node).collect();
    observer.addresses_without_node(&left)
}

/// Versions are upgraded one minor version at a time, so that neighbors understand each other's objects.
fn skipped_minor(good: Option<&Revision>, target: &Revision) -> Option<String> {
    let (from, to) = (
        Version::parse(&good?.version).ok()?,
        Version::parse(&target.version).ok()?,
    );
    (from.major == to.major && to.minor > from.minor + 1).then(|| {
        format!(
            "version {to} cannot follow {from}, because upgrades go one minor version at a time: install an operator of \
             version {}.{} first",
            from.major,
            from.minor + 1
        )
    })
}

fn pods(input: &SnapshotInput<'_>, component: &str) -> Vec<PodSnapshot> {
    let services = input
        .observer
        .map(ServiceObserver::announced_services)
        .unwrap_or_default();
    let nodes = input.index.nodes();
    let of = input
        .index
        .pods(&input.config.namespace)
        .filter(|(_, pod)| pod.component == component && !pod.ended);
    of.map(|(key, pod)| {
        let node = nodes.get(&pod.node);
        PodSnapshot {
            name: key.name().to_owned(),
            uid: pod.uid.clone(),
            node: pod.node.clone(),
            revision: pod.revision.clone(),
            ready: pod.ready,
            ready_since: pod.ready_since,
            lost: pod.node_lost || node.is_some_and(|node| !node.is_ready()),
            terminating: pod.terminating,
            restarts: pod.restarts,
            restarted_at: pod.restarted_at,
            unscheduled: pod
                .problem
                .as_ref()
                .is_some_and(|problem| problem.container.is_none()),
            own_fault: pod.problem.as_ref().is_some_and(PodProblem::is_own_fault),
            problem: pod
                .problem
                .as_ref()
                .map(|problem| truncate(problem.to_string(), PROBLEM_LIMIT)),
            control_plane: node.is_some_and(ClusterNode::is_control_plane),
            announced_services: services.get(pod.node.as_str()).copied().unwrap_or_default(),
        }
    })
    .collect()
}

/// Progress of pulling the images, on the reachable nodes that the desired revision serves.
#[must_use]
pub fn pre_pull_progress(
    index: &Index,
    rendered: &[DesiredObject],
    config: &StackConfig,
) -> Option<PrePullSnapshot> {
    let (namespace, wanted) = (&config.namespace, &config.version);
    let id = ObjectId::new(Kind::DaemonSet, namespace, pre_pull::NAME);
    let live = index.get(&id)?;
    let revision = revision_of(&live.body).unwrap_or_default();
    let pods: BTreeMap<_, _> = pods_of(index, namespace, pre_pull::NAME)
        .filter(|(_, pod)| pod.revision == revision)
        .map(|(_, pod)| (pod.node.as_str(), pod))
        .collect();
    let mut progress = PrePullSnapshot {
        revision,
        ..PrePullSnapshot::default()
    };
    let (served, _) = served_nodes(speaker_template(rendered), index.nodes());
    let reachable = |node: &&str| index.nodes().get(*node).is_some_and(ClusterNode::is_ready);
    // A node without room for the pod is not waited for.
    let has_room = |node: &&str| {
        let problem = pods.get(*node).and_then(|pod| pod.problem.as_ref());
        problem.is_none_or(|problem| problem.container.is_some())
    };
    for node in served.into_iter().filter(reachable).filter(has_room) {
        let check = pods.get(node).map(|pod| &pod.image_check);
        let wrong = match check {
            Some(ImageCheck::Passed(versions)) => {
                let mut versions = versions.iter();
                versions.find(|version| *version != wanted)
            }
            _ => None,
        };
        let problem = |problem: &PodProblem| truncate(problem.to_string(), PROBLEM_LIMIT);
        match check {
            Some(ImageCheck::Passed(_)) => match wrong {
                None => progress.done += 1,
                Some(version) => {
                    let message = format!("it contains version {version} instead of {wanted}");
                    progress.unusable.insert(node.to_owned(), message.clone());
                    progress.pending.insert(node.to_owned(), Some(message));
                }
            },
            Some(ImageCheck::Failed(failed)) => {
                if failed.is_own_fault() {
                    progress.unusable.insert(node.to_owned(), problem(failed));
                }
                progress.pending.insert(node.to_owned(), Some(problem(failed)));
            }
            Some(ImageCheck::Pending) | None => {
                progress.pending.insert(node.to_owned(), None);
            }
        }
    }
    Some(progress)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// O-19: an operator that was upgraded by two minor versions.
    #[test]
    fn minor_versions_are_not_skipped() {
        let revision = |version: &str| Revision {
            version: version.to_owned(),
            ..Revision::default()
        };
        for (from, to, skips) in [
            ("0.1.0", "0.1.9", false),
            ("0.1.9", "0.2.0", false),
            ("0.1.0", "0.3.0", true),
            ("0.3.0", "0.1.0", false),
            ("0.9.0", "1.0.0", false),
            ("1.0.0", "1.2.0", true),
        ] {
            let obstacle = skipped_minor(Some(&revision(from)), &revision(to));
            assert_eq!(obstacle.is_some(), skips, "{from} {to}: {obstacle:?}");
        }
        assert_eq!(
            skipped_minor(None, &revision("0.3.0")),
            None,
            "a first installation"
        );
    }
}
