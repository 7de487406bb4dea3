//! The desired objects for the actions of the upgrade state machine. Pure.

use lb_crds::load_balancer_stack::Revision;
use lb_runtime::text::{LIST_LIMIT, list_first_clauses};
use serde_json::{Value, json};

use crate::desired::config::StackConfig;
use crate::desired::render::{
    Component, DesiredObject, MANAGED_BY, MANAGER, REVISION, digest, pre_pull, version_label,
};
use crate::index::{Index, LiveObject};
use crate::object_id::{Kind, ObjectId};
use crate::observe::nodes::ClusterNodes;
use crate::upgrade::coverage::served_nodes;
use crate::upgrade::{RoleRules, StepActions, TemplateSource, UpgradeState};

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
pub(super) fn revision_of(body: &Value) -> Option<String> {
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
                "app.kubernetes.io/version": version_label(&config.version),
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

pub(super) fn is_role(kind: Kind) -> bool {
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
pub(super) fn previous_revision<'a>(
    state: &UpgradeState,
    index: &'a Index,
    namespace: &str,
) -> Option<&'a Value> {
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
        (TemplateSource::Canary, Some(previous)) if previous.is_object() => {
            let mut body = rendered.body.clone();
            for field in SCHEDULING {
                body["spec"]["template"]["spec"][field] = previous["spec"]["template"]["spec"][field].clone();
            }
            drop_nulls(&mut body["spec"]["template"]["spec"]);
            DesiredObject::seal(rendered.id.clone(), body)
        }
        (TemplateSource::Target | TemplateSource::Canary, _) => rendered.clone(),
    }
}

/// Fields of a pod template that select nodes.
const SCHEDULING: [&str; 3] = ["nodeSelector", "affinity", "tolerations"];

fn drop_nulls(spec: &mut Value) {
    if let Some(fields) = spec.as_object_mut() {
        fields.retain(|_, field| !field.is_null());
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
pub(super) fn role(rendered: &DesiredObject, rules: RoleRules, previous: Option<&Value>) -> DesiredObject {
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

/// The DaemonSet of the speakers in rendered objects.
pub(super) fn speaker_template(rendered: &[DesiredObject]) -> &Value {
    let mut found = rendered
        .iter()
        .filter(|wanted| is(&wanted.id, Kind::DaemonSet, Component::Speaker));
    found
        .next()
        .map_or(&Value::Null, |wanted| &wanted.body["spec"]["template"])
}

/// Why no node would have a speaker; `None` if one has, or if the cluster has no nodes.
#[must_use]
pub fn empty_coverage(rendered: &[DesiredObject], nodes: &ClusterNodes) -> Option<String> {
    let (served, others) = served_nodes(speaker_template(rendered), nodes);
    (served.is_empty() && !others.is_empty()).then(|| {
        let reasons = others.iter().map(|(name, reason)| format!("{name} {reason}"));
        format!(
            "spec.speaker: no node would have a speaker, so no address would be announced: {}; correct nodeSelector, \
             affinity or tolerations, or the labels and taints of the nodes",
            list_first_clauses(reasons, LIST_LIMIT)
        )
    })
}

#[cfg(test)]
#[path = "objects_tests.rs"]
mod tests;
