//! What MetalLB was made of, as it is written down before the first change and made again on the way back. Pure.
//!
//! The record is a ControllerRevision: its content cannot be changed. It has no owner, so that it outlives the stack.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::{RECORD, Workload};
use crate::desired::render::{APPLIED, MANAGED_BY, MANAGER};
use crate::object_id::{Kind, ObjectId};
use crate::upgrade::objects::REVISION_LABEL;

/// Annotations that the cluster itself writes.
const CLUSTERS_OWN: [&str; 3] = [
    "deployment.kubernetes.io/revision",
    "deprecated.daemonset.template.generation",
    "kubectl.kubernetes.io/last-applied-configuration",
];

/// What was recorded.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Record {
    /// MetalLB's workloads, and the objects of others that ours go over, as they are to be made again.
    objects: Vec<(ObjectId, Value)>,
    /// The uids of the workloads when they were recorded.
    uids: Vec<String>,
}

impl Record {
    /// The name of the record in a stack's namespace.
    #[must_use]
    pub fn id(namespace: &str) -> ObjectId {
        ObjectId::new(Kind::ControllerRevision, namespace, RECORD)
    }

    /// The object to make. `overlaid` are objects of the names of ours that are not ours.
    #[must_use]
    pub fn object(namespace: &str, workloads: &[Workload], overlaid: &[(ObjectId, Value)]) -> Value {
        let uids: Vec<_> = workloads.iter().map(|found| &found.uid).collect();
        let entry = |id: &ObjectId, body: &Value| {
            let (group, version, kind, _) = id.kind.names();
            let mut body = clean(body);
            body["apiVersion"] = match group {
                "" => json!(version),
                group => json!(format!("{group}/{version}")),
            };
            body["kind"] = json!(kind);
            body["metadata"]["name"] = json!(id.key.name());
            if !id.key.namespace().is_empty() {
                body["metadata"]["namespace"] = json!(id.key.namespace());
            }
            body
        };
        let overlaid = overlaid.iter().map(|(id, body)| entry(id, body));
        let workloads = workloads.iter().map(|found| entry(&found.id, &found.body));
        json!({
            "apiVersion": "apps/v1",
            "kind": "ControllerRevision",
            "metadata": {
                "namespace": namespace,
                "name": RECORD,
                "labels": { MANAGED_BY: MANAGER, REVISION_LABEL: "true" },
            },
            "revision": 1,
            // As `kubectl apply` takes it, for whoever has no operator any more.
            "data": {
                "apiVersion": "v1",
                "kind": "List",
                "items": overlaid.chain(workloads).collect::<Vec<_>>(),
                "uids": uids,
            },
        })
    }

    /// Reads a record. `data` is that of the ControllerRevision.
    #[must_use]
    pub fn read(data: &Value) -> Self {
        let items = data["items"].as_array().into_iter().flatten();
        let objects = items.filter_map(|item| {
            let kind = Kind::ALL
                .into_iter()
                .find(|kind| item["kind"] == kind.names().2)?;
            let text = |field: &str| item["metadata"][field].as_str().unwrap_or_default();
            Some((ObjectId::new(kind, text("namespace"), text("name")), item.clone()))
        });
        let uids = data["uids"].as_array().into_iter().flatten();
        Self {
            objects: objects.collect(),
            uids: uids.filter_map(|uid| Some(uid.as_str()?.to_owned())).collect(),
        }
    }

    /// Whether a workload is one of those that were recorded, and not a namesake that came later.
    #[must_use]
    pub fn knows(&self, uid: &str) -> bool {
        self.uids.iter().any(|other| other == uid)
    }

    /// Whether the object is one of the record's.
    #[must_use]
    pub fn has(&self, id: &ObjectId) -> bool {
        self.objects.iter().any(|(other, _)| other == id)
    }

    /// The objects, in the order in which they are to be made again.
    pub fn objects(&self) -> impl Iterator<Item = (&ObjectId, &Value)> {
        self.objects.iter().map(|(id, body)| (id, body))
    }

    fn workloads(&self) -> impl Iterator<Item = &(ObjectId, Value)> {
        let is_workload = |id: &ObjectId| matches!(id.kind, Kind::Deployment | Kind::DaemonSet);
        self.objects.iter().filter(move |(id, _)| is_workload(id))
    }

    /// The workloads, by name.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        self.workloads().map(|(id, _)| id.to_string()).collect()
    }

    /// The Helm release that the workloads belong to, as `namespace/name`.
    #[must_use]
    pub fn release(&self) -> Option<String> {
        self.workloads().find_map(|(_, body)| {
            let annotations = &body["metadata"]["annotations"];
            let text = |field: &str| annotations[field].as_str();
            let release = text("meta.helm.sh/release-name")?;
            let namespace = text("meta.helm.sh/release-namespace").unwrap_or_default();
            Some(format!("{namespace}/{release}"))
        })
    }
}

/// An object without what the API server writes into it.
fn clean(body: &Value) -> Value {
    let mut body = body.clone();
    if let Some(fields) = body.as_object_mut() {
        fields.remove("status");
    }
    let Some(metadata) = body["metadata"].as_object_mut() else {
        return body;
    };
    metadata.retain(|field, _| matches!(field.as_str(), "labels" | "annotations" | "ownerReferences"));
    if let Some(annotations) = metadata.get_mut("annotations").and_then(Value::as_object_mut) {
        annotations.retain(|name, _| !CLUSTERS_OWN.contains(&name.as_str()));
    }
    // What is null cannot be applied.
    metadata.retain(|_, value| !value.is_null());
    body
}

/// The merge patch that makes an object of ours what it was before. `labels` are those that it has now.
#[must_use]
pub fn undo(recorded: &Value, labels: &Value) -> Value {
    let mut patch = recorded.clone();
    let metadata = &mut patch["metadata"];
    let names = labels
        .as_object()
        .into_iter()
        .flatten()
        .map(|(name, _)| name.clone());
    let mut all: BTreeMap<String, Value> = names.map(|name| (name, Value::Null)).collect();
    let before = metadata["labels"].as_object().cloned().unwrap_or_default();
    all.extend(before);
    metadata["labels"] = Value::Object(all.into_iter().collect::<Map<_, _>>());
    if !metadata["annotations"].is_object() {
        metadata["annotations"] = json!({});
    }
    metadata["annotations"][APPLIED] = Value::Null;
    if !metadata["ownerReferences"].is_array() {
        metadata["ownerReferences"] = Value::Null;
    }
    patch
}
