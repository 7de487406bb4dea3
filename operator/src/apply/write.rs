//! Writes as values: what is written, under which field manager, and on which condition. Pure.

use std::fmt;

use json_patch::Patch;
use k8s_openapi::api::core::v1::{Pod, Service};
use kube::ResourceExt;
use kube::api::{ApiResource, DeleteParams, Preconditions, PropagationPolicy};
use lb_crds::{L2Advertisement, LoadBalancerStack, LoadBalancerStackStatus};
use lb_runtime::ObjectKey;
use serde_json::{Value, json};

use crate::adoption::observe::{WEBHOOK, webhook_configurations};
use crate::desired::render::{DesiredObject, MANAGER};
use crate::desired::validation;
use crate::object_id::ObjectId;
use crate::ownership::TakeOver;
use crate::reasons::StackEvent;
use crate::upgrade::PodRestart;

/// Identifies a write: a change of an object.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum WriteId {
    /// Apply an object.
    Apply(ObjectId),
    /// Delete an object.
    Delete(ObjectId),
    /// Remove the stack from an object's owner references.
    RemoveOwner(ObjectId),
    /// Change the heartbeat keys in a Secret.
    Keys(ObjectId),
    /// Restore an object of MetalLB.
    Restore(ObjectId),
    /// Remove the addresses from a Service's status.
    ClearService(ObjectKey),
    /// Delete the pod with this UID, so that its workload replaces it.
    DeletePod(ObjectKey, String),
    /// Change the labels of a pod of MetalLB.
    LabelPod(ObjectKey),
    /// Change the node selectors of an L2Advertisement.
    SelectNodes(ObjectKey),
    /// Change the failurePolicy of MetalLB's webhook.
    Webhook,
    /// Write the finalizers of the stack of this name.
    Finalizers(String),
    /// Write the status of the stack of this name.
    Status(String),
}

impl fmt::Display for WriteId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Apply(id) => write!(f, "apply {id}"),
            Self::Delete(id) => write!(f, "delete {id}"),
            Self::RemoveOwner(id) => write!(f, "remove the owner from {id}"),
            Self::Keys(id) => write!(f, "change the keys in {id}"),
            Self::Restore(id) => write!(f, "restore {id}"),
            Self::ClearService(key) => write!(f, "clear the status of Service {key}"),
            Self::DeletePod(key, _) => write!(f, "delete pod {key}"),
            Self::LabelPod(key) => write!(f, "label pod {key}"),
            Self::SelectNodes(key) => write!(f, "change nodeSelectors of L2Advertisement {key}"),
            Self::Webhook => write!(f, "set failurePolicy in ValidatingWebhookConfiguration {WEBHOOK}"),
            Self::Finalizers(_) => f.write_str("write the stack's finalizers"),
            Self::Status(_) => f.write_str("write the stack's status"),
        }
    }
}

impl WriteId {
    /// The API resource, and the key of the object.
    #[must_use]
    pub fn resource(&self) -> (ApiResource, ObjectKey) {
        match self {
            Self::Apply(id)
            | Self::Delete(id)
            | Self::RemoveOwner(id)
            | Self::Keys(id)
            | Self::Restore(id) => (id.kind.api_resource(), id.key.clone()),
            Self::ClearService(key) => (ApiResource::erase::<Service>(&()), key.clone()),
            Self::DeletePod(key, _) | Self::LabelPod(key) => (ApiResource::erase::<Pod>(&()), key.clone()),
            Self::SelectNodes(key) => (ApiResource::erase::<L2Advertisement>(&()), key.clone()),
            Self::Webhook => (webhook_configurations(), ObjectKey::new("", WEBHOOK)),
            Self::Finalizers(name) | Self::Status(name) => (
                ApiResource::erase::<LoadBalancerStack>(&()),
                ObjectKey::new("", name),
            ),
        }
    }

    /// Whether the subresource `status` is written.
    #[must_use]
    pub fn is_status(&self) -> bool {
        matches!(self, Self::Status(_) | Self::ClearService(_))
    }
}

/// The request of a write.
#[derive(Clone, Debug)]
pub enum Request {
    /// Server-side apply that takes over the fields of other managers.
    Apply(Value),
    /// Merge patch.
    Merge(Value),
    /// JSON patch.
    Json(Patch),
    /// Deletion.
    Delete(DeleteParams),
}

/// A write of one object.
#[derive(Clone, Debug)]
pub struct Write {
    /// Its identity.
    pub id: WriteId,
    /// Identifies the state to write. A write whose last attempt was for another state is not delayed.
    pub target: String,
    /// The request.
    pub request: Request,
    /// Field manager.
    pub manager: &'static str,
    /// Whether an object of another owner may be changed. Asked only of an object that is not known to exist.
    pub take_over: Option<TakeOver>,
    /// Published once it is done.
    pub events: Vec<StackEvent>,
}

impl Write {
    /// A write under the operator's field manager.
    #[must_use]
    pub fn new(id: WriteId, target: impl Into<String>, request: Request) -> Self {
        Self {
            id,
            target: target.into(),
            request,
            manager: MANAGER,
            take_over: None,
            events: Vec::new(),
        }
    }

    /// The same under another field manager.
    #[must_use]
    pub fn by(self, manager: &'static str) -> Self {
        Self { manager, ..self }
    }

    /// The same with events to publish once it is done.
    #[must_use]
    pub fn with_events(self, events: Vec<StackEvent>) -> Self {
        Self { events, ..self }
    }

    /// Applies an object.
    #[must_use]
    pub fn apply(wanted: &DesiredObject) -> Self {
        let request = Request::Apply(wanted.body.clone());
        Self::new(WriteId::Apply(wanted.id.clone()), &wanted.digest, request)
    }

    /// Deletes the object with this UID.
    #[must_use]
    pub fn delete(id: &ObjectId, uid: &str) -> Self {
        let params = DeleteParams::background().preconditions(with_uid(uid));
        Self::new(WriteId::Delete(id.clone()), uid, Request::Delete(params))
    }

    /// Deletes the DaemonSet with this UID and orphans its pods.
    #[must_use]
    pub fn orphan(id: &ObjectId, uid: &str) -> Self {
        let params = DeleteParams {
            propagation_policy: Some(PropagationPolicy::Orphan),
            preconditions: Some(with_uid(uid)),
            ..DeleteParams::default()
        };
        Self::new(WriteId::Delete(id.clone()), uid, Request::Delete(params))
    }

    /// Deletes a pod.
    #[must_use]
    pub fn delete_pod(namespace: &str, pod: &PodRestart) -> Self {
        let params = DeleteParams::default().preconditions(with_uid(&pod.uid));
        let id = WriteId::DeletePod(ObjectKey::new(namespace, &pod.name), pod.uid.clone());
        Self::new(id, &pod.uid, Request::Delete(params))
    }

    /// Writes the stack's status if the stack has not changed: another operator may have advanced the upgrade.
    #[must_use]
    pub fn status(stack: &LoadBalancerStack, status: &LoadBalancerStackStatus) -> Self {
        let name = stack.name_any();
        let body = json!({
            "apiVersion": validation::API_VERSION,
            "kind": "LoadBalancerStack",
            "metadata": { "name": name, "resourceVersion": stack.resource_version() },
            "status": status,
        });
        Self::new(WriteId::Status(name), "", Request::Apply(body))
    }
}

fn with_uid(uid: &str) -> Preconditions {
    Preconditions {
        uid: Some(uid.to_owned()),
        resource_version: None,
    }
}
