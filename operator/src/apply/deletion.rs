//! Writes of a stack's deletion. Each names the resource version that was observed: if the object has changed since,
//! nothing is written and the watch reports the change.

use k8s_openapi::api::core::v1::Service;
use kube::api::{Api, Patch, PatchParams};
use kube::{Resource, ResourceExt};
use lb_crds::LoadBalancerStack;
use lb_crds::names::{DEPRECATED_IP_ALLOCATED_FROM_POOL, IP_ALLOCATED_FROM_POOL};
use lb_runtime::ObjectKey;
use serde_json::{Value, json};

use super::{WriteError, Writer, in_time};
use crate::desired::render::MANAGER;
use crate::index::LiveObject;
use crate::object_id::ObjectId;

fn params() -> PatchParams {
    PatchParams {
        field_manager: Some(MANAGER.to_owned()),
        ..PatchParams::default()
    }
}

/// The answer; `None` if the object has changed or is gone.
fn unless_outdated<T>(answer: Result<T, kube::Error>) -> Result<Option<T>, Box<kube::Error>> {
    match answer {
        Ok(stored) => Ok(Some(stored)),
        Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => Ok(None),
        Err(source) => Err(Box::new(source)),
    }
}

impl Writer {
    /// Sets the stack's finalizers and returns the stored stack.
    ///
    /// # Errors
    /// If the API server refuses or does not answer.
    pub async fn set_finalizers(
        &self,
        stack: &LoadBalancerStack,
        finalizers: &[String],
    ) -> Result<Option<LoadBalancerStack>, WriteError> {
        let api: Api<LoadBalancerStack> = Api::all(self.client.clone());
        let metadata = json!({ "resourceVersion": stack.resource_version(), "finalizers": finalizers });
        let patch = Patch::Merge(json!({ "metadata": metadata }));
        let what = || "write the stack's finalizers".to_owned();
        let name = stack.name_any();
        let params = params();
        let answer = in_time(what, api.patch(&name, &params, &patch)).await?;
        unless_outdated(answer).map_err(|source| WriteError::Finalizers { source })
    }

    /// Removes an owner from an object and returns the stored object.
    ///
    /// # Errors
    /// If the API server refuses or does not answer.
    pub async fn remove_owner(
        &self,
        id: &ObjectId,
        live: &LiveObject,
        owner: &str,
    ) -> Result<Option<LiveObject>, WriteError> {
        let others: Vec<Value> = live
            .owners()
            .iter()
            .filter(|other| other["uid"] != owner)
            .cloned()
            .collect();
        let mut metadata = json!({ "ownerReferences": others });
        if let Some(version) = live.version() {
            metadata["resourceVersion"] = json!(version.to_string());
        }
        let patch = Patch::Merge(json!({ "metadata": metadata }));
        let api = self.api(id);
        let what = || format!("remove the owner from {id}");
        let params = params();
        let answer = in_time(what, api.patch(id.key.name(), &params, &patch)).await?;
        let stored = unless_outdated(answer).map_err(|source| WriteError::Disown {
            id: id.clone(),
            source,
        })?;
        Ok(stored.map(|object| LiveObject::new(id.kind, object)))
    }

    /// Removes the addresses from the status of a Service of this version, as the controller does when it releases
    /// them. Returns whether they were removed.
    ///
    /// # Errors
    /// If the API server refuses or does not answer.
    pub async fn clear_service(&self, service: &ObjectKey, version: &str) -> Result<bool, WriteError> {
        let api: Api<Service> = Api::namespaced(self.client.clone(), service.namespace());
        let annotations = json!({ IP_ALLOCATED_FROM_POOL: null, DEPRECATED_IP_ALLOCATED_FROM_POOL: null });
        let patch = Patch::Merge(json!({
            "apiVersion": Service::api_version(&()),
            "kind": Service::kind(&()),
            "metadata": { "resourceVersion": version, "annotations": annotations },
            "status": { "loadBalancer": { "ingress": null } },
        }));
        let what = || format!("clear the status of Service {service}");
        let params = params();
        let answer = in_time(what, api.patch_status(service.name(), &params, &patch)).await?;
        let stored = unless_outdated(answer).map_err(|source| WriteError::Clear {
            service: service.clone(),
            source,
        })?;
        Ok(stored.is_some())
    }
}
