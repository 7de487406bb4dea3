//! Translation between the upgrade state machine and Kubernetes objects: snapshot in, desired objects out. Pure.

use lb_crds::load_balancer_stack::{Revision, Upgrade};
use serde_json::{Value, json};

use crate::desired::config::StackConfig;
use crate::desired::render::{Component, DesiredObject, MANAGED_BY, MANAGER, REVISION, digest, pre_pull};
use crate::drift::diff::Difference;
use crate::index::{Index, LiveObject};
use crate::object_id::{Kind, ObjectId};
use crate::observe::pods::{ImageCheck, PodFacts};
use crate::observe::workload_health::{StackHealth, is_observed, pods_of};
use crate::upgrade::observer::ServiceObserver;
use crate::upgrade::{
    ClusterSnapshot, ControllerSnapshot, PodSnapshot, PrePullSnapshot, RoleRules, SpeakerSnapshot,
    StepActions, TemplateSource, UpgradeSettings, UpgradeState,
};

/// Label of the ControllerRevisions that store a revision of the stack.
pub const REVISION_LABEL: &str = "lb-operator.io/snapshot";

/// The revision of rendered objects: a digest of the pod templates. Other changes restart nothing.
#[must_use]
pub fn revision(rendered: &[DesiredObject], version: &str) -> Revision {
    let of = |kind, component: Component| {
        let mut found = rendered.iter().filter(|wanted| is(&wanted.id, kind, component));
        let body = found.next().map(|wanted| &wanted.body);
        body.and_then(revision_of).unwrap_or_default()
    };
    let controller = of(Kind::Deployment, Component::Controller);
    let speaker = of(Kind::DaemonSet, Component::Speaker);
    Revision {
        version: version.to_owned(),
        revision: digest(&json!([controller, speaker])),
        controller,
        speaker,
    }
}

fn is(id: &ObjectId, kind: Kind, component: Component) -> bool {
    id.kind == kind && id.key.name() == component.name()
}

/// Revision of a workload's pod template.
fn revision_of(body: &Value) -> Option<String> {
    let label = body.pointer("/spec/template/metadata/labels")?.get(REVISION)?;
    Some(label.as_str()?.to_owned())
}

/// ID of the ControllerRevision that stores a revision.
#[must_use]
pub fn revision_object_id(namespace: &str, revision: &str) -> ObjectId {
    ObjectId::new(
        Kind::ControllerRevision,
        namespace,
        &format!("lb-operator-{revision}"),
    )
}

/// The ControllerRevision of a revision: both workloads, and the rules of the roles.
#[must_use]
pub fn revision_object(
    rendered: &[DesiredObject],
    config: &StackConfig,
    revision: &Revision,
) -> DesiredObject {
    let body = |kind, component: Component| {
        let mut found = rendered.iter().filter(|wanted| is(&wanted.id, kind, component));
        found.next().map_or(Value::Null, |wanted| wanted.body.clone())
    };
    let roles: Vec<_> = rendered
        .iter()
        .filter(|wanted| is_role(wanted.id.kind))
        .map(|wanted| json!({"kind": wanted.id.kind.to_string(), "name": wanted.id.key.name(), "rules": wanted.body["rules"]}))
        .collect();
    let id = revision_object_id(&config.namespace, &revision.revision);
    let body = json!({
        "apiVersion": "apps/v1",
        "kind": "ControllerRevision",
        "metadata": {
            "namespace": config.namespace,
            "name": id.key.name(),
            "labels": {
                "app.kubernetes.io/version": config.version,
                MANAGED_BY: MANAGER,
                REVISION_LABEL: "true",
            },
            "ownerReferences": [{
                "apiVersion": "lb-operator.io/v1alpha1",
                "kind": "LoadBalancerStack",
                "name": config.owner.name,
                "uid": config.owner.uid,
                "controller": true,
                "blockOwnerDeletion": true,
            }],
        },
        "revision": 1,
        "data": {
            "controller": body(Kind::Deployment, Component::Controller),
            "speaker": body(Kind::DaemonSet, Component::Speaker),
            "roles": roles,
        },
    });
    DesiredObject::seal(id, body)
}

fn is_role(kind: Kind) -> bool {
    matches!(kind, Kind::Role | Kind::ClusterRole)
}

/// The desired objects for `actions`. `rendered` are the objects of the spec.
#[must_use]
pub fn desired_objects(
    rendered: &[DesiredObject],
    config: &StackConfig,
    target: &Revision,
    state: &UpgradeState,
    actions: &StepActions,
    index: &Index,
) -> Vec<DesiredObject> {
    let previous = previous_revision(state, index, &config.namespace);
    let mut all: Vec<_> = rendered
        .iter()
        .filter(|wanted| {
            actions.apply_crds
                || wanted.id.kind != Kind::CustomResourceDefinition
                || index.get(&wanted.id).is_none()
        })
        // Not even in a rollback: objects stored in a dropped version would become unreadable.
        .filter(|wanted| crd_refusal(wanted, index).is_none())
        .map(|wanted| match wanted.id.kind {
            Kind::Deployment => workload(
                wanted,
                actions.controller,
                previous.map(|f| &f["controller"]),
                index,
            ),
            Kind::DaemonSet => {
                let wanted = workload(wanted, actions.speaker, previous.map(|f| &f["speaker"]), index);
                if actions.on_delete {
                    on_delete(wanted)
                } else {
                    wanted
                }
            }
            kind if is_role(kind) => role(wanted, actions.rules, previous),
            _ => wanted.clone(),
        })
        .collect();
    if actions.pre_pull {
        all.extend(pre_pull::render(config, &target.revision));
    }
    for revision in &actions.keep {
        let id = revision_object_id(&config.namespace, revision);
        match index.get(&id) {
            // The data of a ControllerRevision is immutable.
            Some(live) => all.push(unchanged(id, live)),
            None if *revision == target.revision => all.push(revision_object(rendered, config, target)),
            None => {}
        }
    }
    all.sort_by(|a, b| a.id.cmp(&b.id));
    all
}

/// The stored data of the last good revision.
fn previous_revision<'a>(state: &UpgradeState, index: &'a Index, namespace: &str) -> Option<&'a Value> {
    let good = state.last_good.as_ref()?;
    let live = index.get(&revision_object_id(namespace, &good.revision))?;
    Some(&live.body["data"])
}

/// An object that is kept without changes.
fn unchanged(id: ObjectId, live: &LiveObject) -> DesiredObject {
    DesiredObject {
        digest: live.applied().unwrap_or_default().to_owned(),
        id,
        body: json!({}),
    }
}

/// A workload with the selected pod template. Its other fields follow the spec, because they restart nothing.
fn workload(
    rendered: &DesiredObject,
    source: TemplateSource,
    previous: Option<&Value>,
    index: &Index,
) -> DesiredObject {
    match (source, previous) {
        (TemplateSource::Previous, Some(previous)) if previous.is_object() => {
            let mut body = rendered.body.clone();
            body["spec"]["template"] = previous["spec"]["template"].clone();
            body["metadata"]["labels"] = previous["metadata"]["labels"].clone();
            DesiredObject::seal(rendered.id.clone(), body)
        }
        (TemplateSource::Current, _) | (TemplateSource::Previous, None | Some(_)) => {
            match index.get(&rendered.id) {
                Some(live) => unchanged(rendered.id.clone(), live),
                None => rendered.clone(),
            }
        }
        (TemplateSource::Target, _) => rendered.clone(),
    }
}

fn on_delete(wanted: DesiredObject) -> DesiredObject {
    let DesiredObject { id, mut body, digest } = wanted;
    if body.get("spec").is_none() {
        return DesiredObject { id, body, digest };
    }
    body["spec"]["updateStrategy"] = json!({"type": "OnDelete"});
    DesiredObject::seal(id, body)
}

/// A role with the selected rules.
fn role(rendered: &DesiredObject, rules: RoleRules, previous: Option<&Value>) -> DesiredObject {
    let kind = rendered.id.kind.to_string();
    let before = previous.and_then(|previous| {
        let mut roles = previous["roles"].as_array()?.iter();
        let role = roles.find(|role| role["kind"] == kind && role["name"] == rendered.id.key.name())?;
        role["rules"].as_array()
    });
    let (Some(before), Some(now)) = (before, rendered.body["rules"].as_array()) else {
        return rendered.clone();
    };
    let mut granted = match rules {
        RoleRules::Target => return rendered.clone(),
        RoleRules::Previous => Vec::new(),
        RoleRules::Both => now.clone(),
    };
    granted.extend(
        before
            .iter()
            .filter(|rule| !granted.contains(rule))
            .cloned()
            .collect::<Vec<_>>(),
    );
    if granted == *now {
        return rendered.clone();
    }
    let mut body = rendered.body.clone();
    body["rules"] = Value::Array(granted);
    DesiredObject::seal(rendered.id.clone(), body)
}

/// Why a CRD must not be applied: objects may be stored in a version that it drops.
#[must_use]
pub fn crd_refusal(wanted: &DesiredObject, index: &Index) -> Option<String> {
    if wanted.id.kind != Kind::CustomResourceDefinition {
        return None;
    }
    let stored = index.get(&wanted.id)?.body["status"]["storedVersions"].as_array()?;
    let versions = wanted.body["spec"]["versions"].as_array()?;
    let lost = stored
        .iter()
        .find(|stored| !versions.iter().any(|version| version["name"] == **stored))?;
    Some(format!(
        "{} drops version {lost}, in which objects may be stored: migrate them and remove {lost} from status.storedVersions",
        wanted.id
    ))
}

/// The snapshot for the state machine. `todo` is the difference between the objects and the current actions.
#[must_use]
pub fn snapshot(input: &SnapshotInput<'_>, todo: &Difference<'_>) -> ClusterSnapshot {
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
    let differs = |kinds: &[Kind]| {
        todo.apply
            .iter()
            .any(|(wanted, _)| kinds.contains(&wanted.id.kind))
    };
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
    ClusterSnapshot {
        target: input.target.clone(),
        generation: input.generation,
        operator_version: input.operator_version.to_owned(),
        paused: input.paused,
        obstacle: (!rollback_available && settings.rollback).then(|| missing.to_owned()),
        settings,
        ledger: input.observer.and_then(ServiceObserver::address_hash),
        changed_addresses: input
            .observer
            .map(ServiceObserver::changed_addresses)
            .unwrap_or_default(),
        failed_verifications: input
            .observer
            .map(ServiceObserver::failed_verifications)
            .unwrap_or_default(),
        crds_applied: !differs(&[Kind::CustomResourceDefinition]),
        crds_refused,
        rbac_applied: !differs(&[
            Kind::Role,
            Kind::ClusterRole,
            Kind::RoleBinding,
            Kind::ClusterRoleBinding,
        ]),
        rollback_available,
        controllers: ControllerSnapshot {
            template: template(deployment),
            settled: input.health.controller.settled,
            has_leader,
            pods: controllers,
        },
        speakers: SpeakerSnapshot {
            template: template(daemon_set),
            on_delete: daemon_set.is_some_and(|body| body["spec"]["updateStrategy"]["type"] == "OnDelete"),
            observed: daemon_set.is_some_and(is_observed),
            settled: input.health.speaker.settled,
            desired: input.health.speaker.desired,
            pods: pods(Component::Speaker.name()),
        },
        pre_pull: pre_pull_progress(index, input.observer, namespace),
    }
}

/// Input of [`snapshot`].
#[derive(Clone, Copy)]
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
    /// Health of both workloads.
    pub health: &'a StackHealth,
    /// Observed Services and nodes.
    pub observer: Option<&'a ServiceObserver>,
    /// The pod that holds the controllers' Lease.
    pub leader: Option<&'a str>,
}

fn pods(input: &SnapshotInput<'_>, component: &str) -> Vec<PodSnapshot> {
    let lost = input
        .observer
        .map(ServiceObserver::unreachable_nodes)
        .unwrap_or_default();
    let services = input
        .observer
        .map(ServiceObserver::announced_services)
        .unwrap_or_default();
    let of = input
        .index
        .pods(&input.config.namespace)
        .filter(|(_, pod)| pod.component == component);
    of.map(|(key, pod)| PodSnapshot {
        name: key.name().to_owned(),
        uid: pod.uid.clone(),
        node: pod.node.clone(),
        revision: pod.revision.clone(),
        ready: pod.ready,
        ready_since: pod.ready_since,
        lost: pod.node_lost || lost.contains(pod.node.as_str()),
        terminating: pod.terminating,
        restarts: pod.restarts,
        problem: pod.problem.as_ref().map(|problem| problem.to_string()),
        control_plane: input
            .observer
            .is_some_and(|observer| observer.is_control_plane(&pod.node)),
        announced_services: services.get(pod.node.as_str()).copied().unwrap_or_default(),
    })
    .collect()
}

/// Progress of pulling the images. Unreachable nodes, and nodes without room for the pod, do not count.
#[must_use]
pub fn pre_pull_progress(
    index: &Index,
    observer: Option<&ServiceObserver>,
    namespace: &str,
) -> Option<PrePullSnapshot> {
    let id = ObjectId::new(Kind::DaemonSet, namespace, pre_pull::NAME);
    let live = index.get(&id)?;
    let lost = observer
        .map(ServiceObserver::unreachable_nodes)
        .unwrap_or_default();
    let skipped = |pod: &PodFacts| {
        let unscheduled = pod
            .problem
            .as_ref()
            .is_some_and(|problem| problem.container.is_none());
        pod.node_lost || lost.contains(pod.node.as_str()) || unscheduled
    };
    let revision = revision_of(&live.body).unwrap_or_default();
    let pods: Vec<_> = pods_of(index, namespace, pre_pull::NAME)
        .filter(|(_, pod)| pod.revision == revision)
        .collect();
    let passed = pods
        .iter()
        .filter(|(_, pod)| !skipped(pod) && pod.image_check == ImageCheck::Passed)
        .count();
    let away = pods.iter().filter(|(_, pod)| skipped(pod)).count();
    let failed = pods
        .iter()
        .filter(|(_, pod)| !skipped(pod))
        .find_map(|(key, pod)| match &pod.image_check {
            ImageCheck::Failed(problem) => Some(format!("{} on node {}: {problem}", key.name(), pod.node)),
            ImageCheck::Passed | ImageCheck::Pending => None,
        });
    let count_i32 = |count: usize| i32::try_from(count).unwrap_or(i32::MAX);
    let desired_number = live.body["status"]["desiredNumberScheduled"].as_i64();
    // Before the DaemonSet controller has counted the nodes, the number is unknown.
    let counted = desired_number.filter(|_| is_observed(&live.body));
    let desired = counted
        .and_then(|desired| i32::try_from(desired).ok())
        .unwrap_or(i32::MAX);
    Some(PrePullSnapshot {
        revision,
        desired: desired.saturating_sub(count_i32(away)),
        done: count_i32(passed),
        failed,
    })
}

#[cfg(test)]
#[path = "objects_tests.rs"]
mod tests;
