//! The backup of MetalLB's manifests, created before the first change and used to restore MetalLB. Pure.
//!
//! It is a ControllerRevision, whose content is immutable, and has no owner, so that it outlives the stack.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value, json};

use super::{BACKUP_NAME, MetalLbWorkload};
use crate::desired::render::{APPLIED, MANAGED_BY, MANAGER};
use crate::object_id::{Kind, ObjectId};
use crate::upgrade::objects::REVISION_LABEL;

/// Annotations that the cluster writes.
const CLUSTER_ANNOTATIONS: [&str; 3] = [
    "deployment.kubernetes.io/revision",
    "deprecated.daemonset.template.generation",
    "kubectl.kubernetes.io/last-applied-configuration",
];

/// The saved manifests.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Backup {
    /// MetalLB's workloads, and other objects that the stack overwrites, in the order of their restore.
    objects: Vec<(ObjectId, Value)>,
    /// The uids of the saved workloads.
    uids: Vec<String>,
}

impl Backup {
    /// The ControllerRevision in a stack's namespace.
    #[must_use]
    pub fn id(namespace: &str) -> ObjectId {
        ObjectId::new(Kind::ControllerRevision, namespace, BACKUP_NAME)
    }

    /// The ControllerRevision. `overlaid` are existing objects that the stack overwrites.
    #[must_use]
    pub fn object(namespace: &str, workloads: &[MetalLbWorkload], overlaid: &[(ObjectId, Value)]) -> Value {
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
                "name": BACKUP_NAME,
                "labels": { MANAGED_BY: MANAGER, REVISION_LABEL: "true" },
            },
            "revision": 1,
            // A List for `kubectl apply`, to restore MetalLB without the operator.
            "data": {
                "apiVersion": "v1",
                "kind": "List",
                "items": overlaid.chain(workloads).collect::<Vec<_>>(),
                "uids": uids,
            },
        })
    }

    /// Reads a backup from the data of the ControllerRevision.
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

    /// Whether the workload of this uid was saved; a recreated one has another uid.
    #[must_use]
    pub fn contains_uid(&self, uid: &str) -> bool {
        self.uids.iter().any(|other| other == uid)
    }

    /// Whether the backup contains the object.
    #[must_use]
    pub fn has(&self, id: &ObjectId) -> bool {
        self.objects.iter().any(|(other, _)| other == id)
    }

    /// The objects in the order of their restore.
    pub fn objects(&self) -> impl Iterator<Item = (&ObjectId, &Value)> {
        self.objects.iter().map(|(id, body)| (id, body))
    }

    fn workloads(&self) -> impl Iterator<Item = &(ObjectId, Value)> {
        let is_workload = |id: &ObjectId| matches!(id.kind, Kind::Deployment | Kind::DaemonSet);
        self.objects.iter().filter(move |(id, _)| is_workload(id))
    }

    /// ServiceAccounts of the workloads' pods that the backup does not contain.
    #[must_use]
    pub fn service_accounts(&self) -> BTreeSet<ObjectId> {
        let accounts = self.workloads().map(|(id, body)| {
            let name = body["spec"]["template"]["spec"]["serviceAccountName"].as_str();
            ObjectId::new(
                Kind::ServiceAccount,
                id.key.namespace(),
                name.unwrap_or("default"),
            )
        });
        accounts.filter(|id| !self.has(id)).collect()
    }

    /// The workloads as `Kind namespace/name`.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        self.workloads().map(|(id, _)| id.to_string()).collect()
    }

    /// The Helm release of the workloads, as `namespace/name`.
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

/// An object without fields that the API server sets.
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
        annotations.retain(|name, _| !CLUSTER_ANNOTATIONS.contains(&name.as_str()));
    }
    // A null value cannot be applied.
    metadata.retain(|_, value| !value.is_null());
    body
}

/// The merge patch that restores an object that the stack overwrote. `labels` are its present labels.
#[must_use]
pub fn restore_patch(recorded: &Value, labels: &Value) -> Value {
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
