//! Writes of the operator: server-side apply with one field manager, deletions, and the stack's status. Fields of other
//! managers, such as the annotation of `kubectl rollout restart`, are not changed.

use std::time::Duration;

use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::jiff::Timestamp;
use kube::api::{Api, ApiResource, DeleteParams, DynamicObject, Patch, PatchParams, Preconditions};
use kube::{Client, ResourceExt};
use lb_crds::condition::set_condition;
use lb_crds::{LoadBalancerStack, LoadBalancerStackStatus, names};
use lb_runtime::ObjectKey;
use serde_json::json;

use crate::desired::render::{DesiredObject, MANAGER};
use crate::desired::validation;
use crate::index::LiveObject;
use crate::keys::secret;
use crate::object_id::ObjectId;
use crate::ownership::{self, ForeignObject, TakeOver};
use crate::reasons::Reason;
use crate::upgrade::PodRestart;

mod deletion;
pub mod metallb;
pub mod retry;

/// Time limit of one request: an API server that hangs must not block the operator.
const TIMEOUT: Duration = Duration::from_secs(15);

/// Field manager of the conditions of a stack that cannot be decoded.
const UNDECODABLE_MANAGER: &str = "lb-operator-undecodable";

/// A failed request.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// An object was not applied.
    #[error("apply {id}: {}", explain(.source))]
    Apply {
        /// The object.
        id: ObjectId,
        /// Cause.
        source: Box<kube::Error>,
    },
    /// An object of another owner has the name of an object to create.
    #[error("{0}")]
    Foreign(ForeignObject),
    /// Heartbeat keys were not generated.
    #[error("create heartbeat keys: {source}")]
    Keys {
        /// Cause.
        source: secret::RandomnessError,
    },
    /// An object was not deleted.
    #[error("delete {id}: {}", explain(.source))]
    Delete {
        /// The object.
        id: ObjectId,
        /// Cause.
        source: Box<kube::Error>,
    },
    /// A pod was not deleted.
    #[error("delete pod {name}: {}", explain(.source))]
    Restart {
        /// The pod.
        name: String,
        /// Cause.
        source: Box<kube::Error>,
    },
    /// The leader of the controllers is unknown.
    #[error("read the controllers' Lease: {}", explain(.source))]
    Leader {
        /// Cause.
        source: Box<kube::Error>,
    },
    /// The stack's finalizers were not written.
    #[error("write the stack's finalizers: {}", explain(.source))]
    Finalizers {
        /// Cause.
        source: Box<kube::Error>,
    },
    /// An owner reference was not removed.
    #[error("remove the owner from {id}: {}", explain(.source))]
    Disown {
        /// The object.
        id: ObjectId,
        /// Cause.
        source: Box<kube::Error>,
    },
    /// The addresses of a Service were not cleared.
    #[error("clear the status of Service {service}: {}", explain(.source))]
    Clear {
        /// The Service.
        service: ObjectKey,
        /// Cause.
        source: Box<kube::Error>,
    },
    /// A request of an adoption failed.
    #[error("{what}: {}", explain(.source))]
    Adoption {
        /// The request.
        what: String,
        /// Cause.
        source: Box<kube::Error>,
    },
    /// The status was not written.
    #[error("write the stack's status: {}", explain(.source))]
    Status {
        /// Cause.
        source: Box<kube::Error>,
    },
    /// The API server did not answer.
    #[error("{what}: no answer from the API server for {} seconds", TIMEOUT.as_secs())]
    Timeout {
        /// The request.
        what: String,
    },
}

/// The API server's message without the client's prefix.
fn explain(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) => status.message.clone(),
        other => other.to_string(),
    }
}

/// Sends the requests.
#[derive(Clone)]
pub struct Writer {
    client: Client,
}

impl Writer {
    /// A writer.
    #[must_use]
    pub fn new(client: Client) -> Self {
        Self { client }
    }

    /// Applies an object that is not known to exist. An object of another owner is changed only if `take_over` allows.
    ///
    /// # Errors
    /// If an object of another owner exists, or the API server refuses or does not answer.
    pub async fn create(
        &self,
        wanted: &DesiredObject,
        take_over: TakeOver,
    ) -> Result<LiveObject, WriteError> {
        let id = &wanted.id;
        let found = in_time(
            || format!("read {id}"),
            ownership::foreign_object(&self.client, id),
        )
        .await?;
        let found = found.map_err(|source| WriteError::Apply {
            id: id.clone(),
            source: Box::new(source),
        })?;
        match found {
            Some(foreign) if !take_over.allows(&foreign) => Err(WriteError::Foreign(foreign)),
            Some(_) | None => self.apply(wanted).await,
        }
    }

    /// Applies an object, takes over its fields from other managers, and returns the stored object.
    ///
    /// # Errors
    /// If the API server refuses or does not answer.
    pub async fn apply(&self, wanted: &DesiredObject) -> Result<LiveObject, WriteError> {
        let id = &wanted.id;
        let params = PatchParams::apply(MANAGER).force();
        let api = self.api(id);
        let patch = Patch::Apply(&wanted.body);
        let answer = in_time(
            || format!("apply {id}"),
            api.patch(id.key.name(), &params, &patch),
        )
        .await?
        .map_err(|source| WriteError::Apply {
            id: id.clone(),
            source: Box::new(source),
        })?;
        let live = LiveObject::new(id.kind, answer);
        match live.version() {
            Some(version) if live.lacks_key() => self.fill(id, version).await,
            Some(_) | None => Ok(live),
        }
    }

    /// Adds a key to a Secret unless it has changed since this version, which means that it already has one.
    async fn fill(&self, id: &ObjectId, version: u64) -> Result<LiveObject, WriteError> {
        let made = secret::first_key_patch(version).map_err(|source| WriteError::Keys { source })?;
        let params = PatchParams {
            field_manager: Some(secret::FIELD_MANAGER.to_owned()),
            ..PatchParams::default()
        };
        let api = self.api(id);
        let patch = Patch::Merge(&made);
        let answer = in_time(
            || format!("apply {id}"),
            api.patch(id.key.name(), &params, &patch),
        )
        .await?;
        let answer = answer.map_err(|source| WriteError::Apply {
            id: id.clone(),
            source: Box::new(source),
        })?;
        Ok(LiveObject::new(id.kind, answer))
    }

    /// Changes the keys in this version of the Secret. `None` if it has changed in between; the watch reports how.
    ///
    /// # Errors
    /// If no random numbers are available, or the API server refuses or does not answer.
    pub async fn change_keys(
        &self,
        id: &ObjectId,
        version: u64,
        change: &secret::KeyChange,
    ) -> Result<Option<LiveObject>, WriteError> {
        let patch = change
            .patch(version)
            .map_err(|source| WriteError::Keys { source })?;
        let params = PatchParams {
            field_manager: Some(secret::FIELD_MANAGER.to_owned()),
            ..PatchParams::default()
        };
        let api = self.api(id);
        let patch = Patch::Json::<()>(patch);
        let answer = in_time(
            || format!("change the keys in {id}"),
            api.patch(id.key.name(), &params, &patch),
        )
        .await?;
        match answer {
            Ok(object) => Ok(Some(LiveObject::new(id.kind, object))),
            Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => Ok(None),
            Err(source) => Err(WriteError::Apply {
                id: id.clone(),
                source: Box::new(source),
            }),
        }
    }

    /// Deletes the object with this UID; succeeds if it is already gone.
    ///
    /// # Errors
    /// If the API server refuses or does not answer.
    pub async fn delete(&self, id: &ObjectId, uid: &str) -> Result<(), WriteError> {
        let params = DeleteParams::background().preconditions(Preconditions {
            uid: Some(uid.to_owned()),
            resource_version: None,
        });
        let api = self.api(id);
        let answer = in_time(|| format!("delete {id}"), api.delete(id.key.name(), &params)).await?;
        match answer {
            Ok(_) => Ok(()),
            // 404: gone; 409: another object took its name, which the watch reports.
            Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => Ok(()),
            Err(source) => Err(WriteError::Delete {
                id: id.clone(),
                source: Box::new(source),
            }),
        }
    }

    /// Deletes the pod with this UID so that its workload replaces it; succeeds if it is already gone.
    ///
    /// # Errors
    /// If the API server refuses or does not answer.
    pub async fn restart(&self, namespace: &str, pod: &PodRestart) -> Result<(), WriteError> {
        let params = DeleteParams::default().preconditions(Preconditions {
            uid: Some(pod.uid.clone()),
            resource_version: None,
        });
        let api: Api<Pod> = Api::namespaced(self.client.clone(), namespace);
        let what = || format!("delete pod {namespace}/{}", pod.name);
        match in_time(what, api.delete(&pod.name, &params)).await? {
            Ok(_) => Ok(()),
            Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => Ok(()),
            Err(source) => Err(WriteError::Restart {
                name: pod.name.clone(),
                source: Box::new(source),
            }),
        }
    }

    /// The pod that holds the controllers' Lease.
    ///
    /// # Errors
    /// If the API server refuses or does not answer.
    pub async fn leader(&self, namespace: &str) -> Result<Option<String>, WriteError> {
        let api: Api<Lease> = Api::namespaced(self.client.clone(), namespace);
        let what = || "read the controllers' Lease".to_owned();
        let lease = in_time(what, api.get_opt(names::CONTROLLER_LEASE)).await?;
        let lease = lease.map_err(|source| WriteError::Leader {
            source: Box::new(source),
        })?;
        Ok(lease.and_then(|lease| lease.spec?.holder_identity))
    }

    /// Writes the stack's status if the stack has not changed, and returns the stored stack.
    ///
    /// # Errors
    /// If the API server refuses or does not answer.
    pub async fn status(
        &self,
        stack: &LoadBalancerStack,
        status: &LoadBalancerStackStatus,
    ) -> Result<LoadBalancerStack, WriteError> {
        let name = stack.name_any();
        let api: Api<LoadBalancerStack> = Api::all(self.client.clone());
        let body = json!({
            "apiVersion": "lb-operator.io/v1alpha1",
            "kind": "LoadBalancerStack",
            // Another operator may have advanced the upgrade: its state must not be overwritten.
            "metadata": { "name": name, "resourceVersion": stack.resource_version() },
            "status": status,
        });
        let params = PatchParams::apply(MANAGER).force();
        in_time(
            || "write the stack's status".to_owned(),
            api.patch_status(&name, &params, &Patch::Apply(&body)),
        )
        .await?
        .map_err(|source| WriteError::Status {
            source: Box::new(source),
        })
    }

    /// Reports in the status of a stack that it cannot be decoded, under a field manager of its own, which leaves the
    /// rest of the status as it is.
    ///
    /// # Errors
    /// If the API server refuses or does not answer.
    pub async fn undecodable(&self, name: &str, message: &str, now: Timestamp) -> Result<(), WriteError> {
        let mut conditions = Vec::new();
        for (type_, status) in [("Ready", false), ("Degraded", true)] {
            set_condition(
                &mut conditions,
                type_,
                status,
                Reason::InvalidSpec.as_str(),
                message,
                0,
                now,
            );
        }
        conditions
            .iter_mut()
            .for_each(|condition| condition.observed_generation = None);
        let body = json!({
            "apiVersion": validation::API_VERSION,
            "kind": "LoadBalancerStack",
            "metadata": { "name": name },
            "status": { "conditions": conditions },
        });
        let resource = ApiResource::erase::<LoadBalancerStack>(&());
        let api: Api<DynamicObject> = Api::all_with(self.client.clone(), &resource);
        let params = PatchParams::apply(UNDECODABLE_MANAGER).force();
        let patch = Patch::Apply(&body);
        let answer = in_time(
            || "write the stack's status".to_owned(),
            api.patch_status(name, &params, &patch),
        )
        .await?;
        answer.map(drop).map_err(|source| WriteError::Status {
            source: Box::new(source),
        })
    }

    fn api(&self, id: &ObjectId) -> Api<DynamicObject> {
        id.api(&self.client)
    }
}

async fn in_time<T>(
    what: impl FnOnce() -> String,
    write: impl Future<Output = Result<T, kube::Error>>,
) -> Result<Result<T, kube::Error>, WriteError> {
    tokio::time::timeout(TIMEOUT, write)
        .await
        .map_err(|_| WriteError::Timeout { what: what() })
}
