//! Writes of a stack's finalizers, deletion and heartbeat keys. Each names the resource version that was observed: if
//! the object has changed since, nothing is written and the watch reports the change.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Service;
use kube::{Resource, ResourceExt};
use lb_crds::LoadBalancerStack;
use lb_crds::condition::set_condition;
use lb_crds::names::{DEPRECATED_IP_ALLOCATED_FROM_POOL, IP_ALLOCATED_FROM_POOL};
use lb_runtime::ObjectKey;
use serde_json::{Value, json};

use super::write::{Request, Write, WriteId};
use crate::desired::validation;
use crate::index::LiveObject;
use crate::keys::secret::{self, KeyChange, RandomnessError};
use crate::object_id::ObjectId;
use crate::reasons::Reason;

/// Field manager of the conditions of a stack that cannot be decoded.
const UNDECODABLE_MANAGER: &str = "lb-operator-undecodable";

impl Write {
    /// Reports in the status of a stack that it cannot be decoded, under a field manager of its own, which leaves the
    /// rest of the status as it is.
    #[must_use]
    pub fn undecodable(name: &str, message: &str, now: Timestamp) -> Self {
        let mut conditions = Vec::new();
        let reason = Reason::InvalidSpec.as_str();
        for (type_, status) in [("Ready", false), ("Degraded", true)] {
            set_condition(&mut conditions, type_, status, reason, message, 0, now);
        }
        conditions
            .iter_mut()
            .for_each(|condition| condition.observed_generation = None);
        let request = Request::Apply(json!({
            "apiVersion": validation::API_VERSION,
            "kind": "LoadBalancerStack",
            "metadata": { "name": name },
            "status": { "conditions": conditions },
        }));
        Self::new(WriteId::Status(name.to_owned()), message, request).by(UNDECODABLE_MANAGER)
    }

    /// Sets the stack's finalizers.
    #[must_use]
    pub fn finalizers(stack: &LoadBalancerStack, finalizers: &[String]) -> Self {
        let metadata = json!({ "resourceVersion": stack.resource_version(), "finalizers": finalizers });
        let request = Request::Merge(json!({ "metadata": metadata }));
        Self::new(
            WriteId::Finalizers(stack.name_any()),
            finalizers.join(","),
            request,
        )
    }

    /// Removes an owner from an object.
    #[must_use]
    pub fn remove_owner(id: &ObjectId, live: &LiveObject, owner: &str) -> Self {
        let others = live.owners().iter().filter(|other| other["uid"] != owner);
        let others: Vec<&Value> = others.collect();
        let mut metadata = json!({ "ownerReferences": others });
        if let Some(version) = live.version() {
            metadata["resourceVersion"] = json!(version.to_string());
        }
        let request = Request::Merge(json!({ "metadata": metadata }));
        Self::new(WriteId::RemoveOwner(id.clone()), owner, request)
    }

    /// Removes the addresses from the status of a Service of this version, as the controller does when it releases
    /// them.
    #[must_use]
    pub fn clear_service(service: &ObjectKey, version: &str) -> Self {
        let annotations = json!({ IP_ALLOCATED_FROM_POOL: null, DEPRECATED_IP_ALLOCATED_FROM_POOL: null });
        let request = Request::Merge(json!({
            "apiVersion": Service::api_version(&()),
            "kind": Service::kind(&()),
            "metadata": { "resourceVersion": version, "annotations": annotations },
            "status": { "loadBalancer": { "ingress": null } },
        }));
        Self::new(WriteId::ClearService(service.clone()), version, request)
    }

    /// Adds a key to a Secret that has none.
    ///
    /// # Errors
    /// If the host provides no random bytes.
    pub fn first_key(id: &ObjectId, version: u64) -> Result<Self, RandomnessError> {
        let request = Request::Merge(secret::first_key_patch(version)?);
        Ok(Self::new(WriteId::Keys(id.clone()), "", request).by(secret::FIELD_MANAGER))
    }

    /// Changes the keys in this version of the Secret.
    ///
    /// # Errors
    /// If the host provides no random bytes.
    pub fn change_keys(id: &ObjectId, version: u64, change: &KeyChange) -> Result<Self, RandomnessError> {
        let request = Request::Json(change.patch(version)?);
        Ok(Self::new(WriteId::Keys(id.clone()), "", request).by(secret::FIELD_MANAGER))
    }
}
