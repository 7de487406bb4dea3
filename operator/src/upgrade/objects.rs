//! Between the machine of upgrades and the objects: what it sees of them, and what its orders make of them. Pure.

use lb_crds::load_balancer_stack::{Revision, Upgrade};
use serde_json::{Value, json};

use crate::desired::config::Plan;
use crate::desired::render::{Component, MANAGED_BY, MANAGER, REVISION, Wanted, digest, pre_pull};
use crate::drift::diff::Difference;
use crate::index::{Index, Live};
use crate::object_id::{Kind, ObjectId};
use crate::observe::pods::{PodFacts, Trial};
use crate::observe::workload_health::{Observed, is_observed, pods_of};
use crate::upgrade::observer::Witness;
use crate::upgrade::{Choice, Controllers, Memory, Orders, Pod, PrePull, Rules, Seen, Settings, Speakers};

/// Label of the ControllerRevisions that are ours.
pub const SNAPSHOT: &str = "lb-operator.io/snapshot";

/// What a rendered stack is made of, as far as a restart is needed to change it.
#[must_use]
pub fn revision(rendered: &[Wanted], version: &str) -> Revision {
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

/// Revision of a workload's template.
fn revision_of(body: &Value) -> Option<String> {
    let label = body.pointer("/spec/template/metadata/labels")?.get(REVISION)?;
    Some(label.as_str()?.to_owned())
}

/// Name of the object that keeps a revision.
#[must_use]
pub fn snapshot_id(namespace: &str, revision: &str) -> ObjectId {
    ObjectId::new(
        Kind::ControllerRevision,
        namespace,
        &format!("lb-operator-{revision}"),
    )
}

/// What is kept of a revision: the workloads as they are applied, and what roles grant.
#[must_use]
pub fn snapshot(rendered: &[Wanted], plan: &Plan, revision: &Revision) -> Wanted {
    let body = |kind, component: Component| {
        let mut found = rendered.iter().filter(|wanted| is(&wanted.id, kind, component));
        found.next().map_or(Value::Null, |wanted| wanted.body.clone())
    };
    let roles: Vec<_> = rendered
        .iter()
        .filter(|wanted| is_role(wanted.id.kind))
        .map(|wanted| json!({"kind": wanted.id.kind.to_string(), "name": wanted.id.key.name(), "rules": wanted.body["rules"]}))
        .collect();
    let id = snapshot_id(&plan.namespace, &revision.revision);
    let body = json!({
        "apiVersion": "apps/v1",
        "kind": "ControllerRevision",
        "metadata": {
            "namespace": plan.namespace,
            "name": id.key.name(),
            "labels": {
                "app.kubernetes.io/version": plan.version,
                MANAGED_BY: MANAGER,
                SNAPSHOT: "true",
            },
            "ownerReferences": [{
                "apiVersion": "lb-operator.io/v1alpha1",
                "kind": "LoadBalancerStack",
                "name": plan.owner.name,
                "uid": plan.owner.uid,
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
    Wanted::seal(id, body)
}

fn is_role(kind: Kind) -> bool {
    matches!(kind, Kind::Role | Kind::ClusterRole)
}

/// The objects that orders stand for. `rendered` is what the spec asks for.
#[must_use]
pub fn wanted(
    rendered: &[Wanted],
    plan: &Plan,
    target: &Revision,
    memory: &Memory,
    orders: &Orders,
    index: &Index,
) -> Vec<Wanted> {
    let former = former(memory, index, &plan.namespace);
    let mut all: Vec<_> = rendered
        .iter()
        .filter(|wanted| {
            orders.kinds
                || wanted.id.kind != Kind::CustomResourceDefinition
                || index.get(&wanted.id).is_none()
        })
        // Not even on the way back: objects that are stored in a version could not be read any more.
        .filter(|wanted| refusal(wanted, index).is_none())
        .map(|wanted| match wanted.id.kind {
            Kind::Deployment => workload(wanted, orders.controller, former.map(|f| &f["controller"]), index),
            Kind::DaemonSet => {
                let wanted = workload(wanted, orders.speaker, former.map(|f| &f["speaker"]), index);
                if orders.on_delete {
                    on_delete(wanted)
                } else {
                    wanted
                }
            }
            kind if is_role(kind) => role(wanted, orders.rules, former),
            _ => wanted.clone(),
        })
        .collect();
    if orders.pre_pull {
        all.extend(pre_pull::render(plan, &target.revision));
    }
    for revision in &orders.keep {
        let id = snapshot_id(&plan.namespace, revision);
        match index.get(&id) {
            // Its content cannot be changed, and is not to.
            Some(live) => all.push(as_it_is(id, live)),
            None if *revision == target.revision => all.push(snapshot(rendered, plan, target)),
            None => {}
        }
    }
    all.sort_by(|a, b| a.id.cmp(&b.id));
    all
}

/// What is kept of the last good revision.
fn former<'a>(memory: &Memory, index: &'a Index, namespace: &str) -> Option<&'a Value> {
    let good = memory.last_good.as_ref()?;
    let live = index.get(&snapshot_id(namespace, &good.revision))?;
    Some(&live.body["data"])
}

/// An object of which nothing is wanted but that it stays.
fn as_it_is(id: ObjectId, live: &Live) -> Wanted {
    Wanted {
        digest: live.applied().unwrap_or_default().to_owned(),
        id,
        body: json!({}),
    }
}

/// A workload with the template that is chosen. All else about it is as the spec asks: that restarts nothing.
fn workload(rendered: &Wanted, choice: Choice, former: Option<&Value>, index: &Index) -> Wanted {
    match (choice, former) {
        (Choice::Former, Some(former)) if former.is_object() => {
            let mut body = rendered.body.clone();
            body["spec"]["template"] = former["spec"]["template"].clone();
            body["metadata"]["labels"] = former["metadata"]["labels"].clone();
            Wanted::seal(rendered.id.clone(), body)
        }
        (Choice::Kept, _) | (Choice::Former, None | Some(_)) => match index.get(&rendered.id) {
            Some(live) => as_it_is(rendered.id.clone(), live),
            None => rendered.clone(),
        },
        (Choice::New, _) => rendered.clone(),
    }
}

fn on_delete(wanted: Wanted) -> Wanted {
    let Wanted { id, mut body, digest } = wanted;
    if body.get("spec").is_none() {
        return Wanted { id, body, digest };
    }
    body["spec"]["updateStrategy"] = json!({"type": "OnDelete"});
    Wanted::seal(id, body)
}

/// A role that grants what the one, the other or both need.
fn role(rendered: &Wanted, rules: Rules, former: Option<&Value>) -> Wanted {
    let kind = rendered.id.kind.to_string();
    let before = former.and_then(|former| {
        let mut roles = former["roles"].as_array()?.iter();
        let role = roles.find(|role| role["kind"] == kind && role["name"] == rendered.id.key.name())?;
        role["rules"].as_array()
    });
    let (Some(before), Some(now)) = (before, rendered.body["rules"].as_array()) else {
        return rendered.clone();
    };
    let mut granted = match rules {
        Rules::New => return rendered.clone(),
        Rules::Former => Vec::new(),
        Rules::Both => now.clone(),
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
    Wanted::seal(rendered.id.clone(), body)
}

/// Why a definition must not be applied: objects may be stored in a version that it does not have.
#[must_use]
pub fn refusal(wanted: &Wanted, index: &Index) -> Option<String> {
    if wanted.id.kind != Kind::CustomResourceDefinition {
        return None;
    }
    let stored = index.get(&wanted.id)?.body["status"]["storedVersions"].as_array()?;
    let versions = wanted.body["spec"]["versions"].as_array()?;
    let lost = stored
        .iter()
        .find(|stored| !versions.iter().any(|version| version["name"] == **stored))?;
    Some(format!(
        "{} would lose version {lost}, in which objects may be stored: migrate them, and remove it from status.storedVersions",
        wanted.id
    ))
}

/// What the machine looks at. `todo` is what differs from the present orders.
#[must_use]
pub fn seen(sight: &Sights<'_>, todo: &Difference<'_>) -> Seen {
    let namespace = &sight.plan.namespace;
    let index = sight.index;
    let pods = |component: &str| pods(sight, component);
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
    let kinds_refused = sight.rendered.iter().find_map(|wanted| refusal(wanted, index));
    let former_known = former(sight.memory, index, namespace).is_some();
    let revision = deployment.and_then(revision_of);
    let leads = sight.observed.controller.desired == 0
        || controllers.iter().any(|pod| {
            Some(&pod.revision) == revision.as_ref()
                && Some(pod.name.as_str()) == sight.leader
                && pod.counts()
        });
    let missing = "what ran before is not kept any more, so there is no way back: set spec.upgrade.onFailure to Pause to go on \
                   without one";
    let settings = Settings::of(sight.upgrade);
    Seen {
        target: sight.target.clone(),
        generation: sight.generation,
        operator_version: sight.operator_version.to_owned(),
        paused: sight.paused,
        obstacle: (!former_known && settings.rollback).then(|| missing.to_owned()),
        settings,
        ledger: sight.witness.and_then(Witness::ledger),
        moved: sight.witness.map(Witness::moved).unwrap_or_default(),
        unanswered: sight.witness.map(Witness::unanswered).unwrap_or_default(),
        kinds: !differs(&[Kind::CustomResourceDefinition]),
        kinds_refused,
        permissions: !differs(&[
            Kind::Role,
            Kind::ClusterRole,
            Kind::RoleBinding,
            Kind::ClusterRoleBinding,
        ]),
        former_known,
        controllers: Controllers {
            template: template(deployment),
            settled: sight.observed.controller.settled,
            leads,
            pods: controllers,
        },
        speakers: Speakers {
            template: template(daemon_set),
            on_delete: daemon_set.is_some_and(|body| body["spec"]["updateStrategy"]["type"] == "OnDelete"),
            observed: daemon_set.is_some_and(is_observed),
            settled: sight.observed.speaker.settled,
            desired: sight.observed.speaker.desired,
            pods: pods(Component::Speaker.name()),
        },
        pre_pull: pulling(index, sight.witness, namespace),
    }
}

/// Where everything is that the machine looks at.
#[derive(Clone, Copy)]
pub struct Sights<'a> {
    /// What is to run.
    pub plan: &'a Plan,
    /// The objects that the spec asks for.
    pub rendered: &'a [Wanted],
    /// Their revision.
    pub target: &'a Revision,
    /// What the machine remembers.
    pub memory: &'a Memory,
    /// `spec.upgrade`.
    pub upgrade: Option<&'a Upgrade>,
    /// The stack's generation.
    pub generation: i64,
    /// Whether the stack is paused.
    pub paused: bool,
    /// The operator's version.
    pub operator_version: &'a str,
    /// What exists.
    pub index: &'a Index,
    /// How the programs are doing.
    pub observed: &'a Observed,
    /// What the proofs are made of.
    pub witness: Option<&'a Witness>,
    /// The pod that holds the controllers' Lease.
    pub leader: Option<&'a str>,
}

fn pods(sight: &Sights<'_>, component: &str) -> Vec<Pod> {
    let lost = sight.witness.map(Witness::lost).unwrap_or_default();
    let owners = sight.witness.map(Witness::owners).unwrap_or_default();
    let of = sight
        .index
        .pods(&sight.plan.namespace)
        .filter(|(_, pod)| pod.component == component);
    of.map(|(key, pod)| Pod {
        name: key.name().to_owned(),
        uid: pod.uid.clone(),
        node: pod.node.clone(),
        revision: pod.revision.clone(),
        ready: pod.ready,
        ready_since: pod.ready_since,
        lost: pod.node_lost || lost.contains(pod.node.as_str()),
        terminating: pod.terminating,
        restarts: pod.restarts,
        trouble: pod.trouble.as_ref().map(|trouble| trouble.to_string()),
        control_plane: sight
            .witness
            .is_some_and(|witness| witness.is_control_plane(&pod.node)),
        owns: owners.get(pod.node.as_str()).copied().unwrap_or_default(),
    })
    .collect()
}

/// How far the images are. A node that does not answer, or has no room for the pod, is not waited for.
#[must_use]
pub fn pulling(index: &Index, witness: Option<&Witness>, namespace: &str) -> Option<PrePull> {
    let id = ObjectId::new(Kind::DaemonSet, namespace, pre_pull::NAME);
    let live = index.get(&id)?;
    let lost = witness.map(Witness::lost).unwrap_or_default();
    let skipped = |pod: &PodFacts| {
        let unscheduled = pod
            .trouble
            .as_ref()
            .is_some_and(|trouble| trouble.container.is_none());
        pod.node_lost || lost.contains(pod.node.as_str()) || unscheduled
    };
    let revision = revision_of(&live.body).unwrap_or_default();
    let pods: Vec<_> = pods_of(index, namespace, pre_pull::NAME)
        .filter(|(_, pod)| pod.revision == revision)
        .collect();
    let passed = pods
        .iter()
        .filter(|(_, pod)| !skipped(pod) && pod.trial == Trial::Passed)
        .count();
    let away = pods.iter().filter(|(_, pod)| skipped(pod)).count();
    let failed = pods
        .iter()
        .filter(|(_, pod)| !skipped(pod))
        .find_map(|(key, pod)| match &pod.trial {
            Trial::Failed(trouble) => Some(format!("{} on node {}: {trouble}", key.name(), pod.node)),
            Trial::Passed | Trial::Waits => None,
        });
    let number = |count: usize| i32::try_from(count).unwrap_or(i32::MAX);
    let there_are_to_be = live.body["status"]["desiredNumberScheduled"].as_i64();
    // Before its controller has counted them, none is done.
    let counted = there_are_to_be.filter(|_| is_observed(&live.body));
    let desired = counted
        .and_then(|desired| i32::try_from(desired).ok())
        .unwrap_or(i32::MAX);
    Some(PrePull {
        revision,
        desired: desired.saturating_sub(number(away)),
        done: number(passed),
        failed,
    })
}

#[cfg(test)]
#[path = "objects_tests.rs"]
mod tests;
