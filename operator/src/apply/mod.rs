//! The operator's writes: server-side apply under one field manager, deletion, and the stack's status. Fields that
//! others own, such as the annotation of `kubectl rollout restart`, are never touched.

use std::time::Duration;

use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, DeleteParams, DynamicObject, Patch, PatchParams, Preconditions};
use kube::{Client, ResourceExt};
use lb_crds::{LoadBalancerStack, LoadBalancerStackStatus, names};
use lb_runtime::ObjectKey;
use serde_json::json;

use crate::desired::render::{MANAGER, Wanted};
use crate::index::Live;
use crate::keys::secret;
use crate::object_id::ObjectId;
use crate::upgrade::PodRestart;

mod deletion;
pub mod metallb;
pub mod retry;

/// How long one write may take: an API server that hangs must not keep the operator from its other work.
const TIMEOUT: Duration = Duration::from_secs(15);

/// A write that did not succeed.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// An object could not be applied.
    #[error("apply {id}: {}", explain(.source))]
    Apply {
        /// Which object.
        id: ObjectId,
        /// Why not.
        source: Box<kube::Error>,
    },
    /// No keys could be made.
    #[error("create heartbeat keys: {source}")]
    Keys {
        /// Why not.
        source: secret::RandomnessError,
    },
    /// An object could not be deleted.
    #[error("delete {id}: {}", explain(.source))]
    Delete {
        /// Which object.
        id: ObjectId,
        /// Why not.
        source: Box<kube::Error>,
    },
    /// A pod could not be replaced.
    #[error("delete pod {name}: {}", explain(.source))]
    Restart {
        /// Which pod.
        name: String,
        /// Why not.
        source: Box<kube::Error>,
    },
    /// Nobody can tell which controller leads.
    #[error("read the controllers' Lease: {}", explain(.source))]
    Leader {
        /// Why not.
        source: Box<kube::Error>,
    },
    /// The stack's finalizers could not be written.
    #[error("write the stack's finalizers: {}", explain(.source))]
    Finalizers {
        /// Why not.
        source: Box<kube::Error>,
    },
    /// An object could not be given up.
    #[error("remove the owner from {id}: {}", explain(.source))]
    Disown {
        /// Which object.
        id: ObjectId,
        /// Why not.
        source: Box<kube::Error>,
    },
    /// A Service's addresses could not be taken from it.
    #[error("clear the status of Service {service}: {}", explain(.source))]
    Clear {
        /// Which Service.
        service: ObjectKey,
        /// Why not.
        source: Box<kube::Error>,
    },
    /// Something about MetalLB could not be done.
    #[error("{what}: {}", explain(.source))]
    Adoption {
        /// What was tried.
        what: String,
        /// Why not.
        source: Box<kube::Error>,
    },
    /// The status could not be written.
    #[error("write the stack's status: {}", explain(.source))]
    Status {
        /// Why not.
        source: Box<kube::Error>,
    },
    /// No answer came.
    #[error("{what}: no answer from the API server for {} seconds", TIMEOUT.as_secs())]
    Timeout {
        /// What was tried.
        what: String,
    },
}

/// The API server's own words, without the frame around them.
fn explain(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) => status.message.clone(),
        other => other.to_string(),
    }
}

/// Makes the writes.
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

    /// Applies an object, taking its fields from whoever else may own them, and returns how it is stored.
    ///
    /// # Errors
    /// When the API server refuses, or does not answer.
    pub async fn apply(&self, wanted: &Wanted) -> Result<Live, WriteError> {
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
        let live = Live::new(id.kind, answer);
        match live.version() {
            Some(version) if live.lacks_its_key() => self.fill(id, version).await,
            Some(_) | None => Ok(live),
        }
    }

    /// Gives a Secret a key. Not if it has changed since it had this version: somebody else has given it one.
    async fn fill(&self, id: &ObjectId, version: u64) -> Result<Live, WriteError> {
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
        Ok(Live::new(id.kind, answer))
    }

    /// Changes the keys in the Secret of this version. `None`: it has changed meanwhile, which the watch will tell.
    ///
    /// # Errors
    /// When there is no randomness, or the API server refuses or does not answer.
    pub async fn change_keys(
        &self,
        id: &ObjectId,
        version: u64,
        change: &secret::KeyChange,
    ) -> Result<Option<Live>, WriteError> {
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
            Ok(object) => Ok(Some(Live::new(id.kind, object))),
            Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => Ok(None),
            Err(source) => Err(WriteError::Apply {
                id: id.clone(),
                source: Box::new(source),
            }),
        }
    }

    /// Deletes the object of this uid; that it is gone already is as good.
    ///
    /// # Errors
    /// When the API server refuses, or does not answer.
    pub async fn delete(&self, id: &ObjectId, uid: &str) -> Result<(), WriteError> {
        let params = DeleteParams::background().preconditions(Preconditions {
            uid: Some(uid.to_owned()),
            resource_version: None,
        });
        let api = self.api(id);
        let answer = in_time(|| format!("delete {id}"), api.delete(id.key.name(), &params)).await?;
        match answer {
            Ok(_) => Ok(()),
            // 404: gone; 409: a namesake of another uid took its place, which the watch will tell about.
            Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => Ok(()),
            Err(source) => Err(WriteError::Delete {
                id: id.clone(),
                source: Box::new(source),
            }),
        }
    }

    /// Deletes the pod of this uid, so that its workload makes another; that it is gone already is as good.
    ///
    /// # Errors
    /// When the API server refuses, or does not answer.
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

    /// The pod that holds the controllers' Lease, if one does.
    ///
    /// # Errors
    /// When the API server refuses, or does not answer.
    pub async fn leader(&self, namespace: &str) -> Result<Option<String>, WriteError> {
        let api: Api<Lease> = Api::namespaced(self.client.clone(), namespace);
        let what = || "read the controllers' Lease".to_owned();
        let lease = in_time(what, api.get_opt(names::CONTROLLER_LEASE)).await?;
        let lease = lease.map_err(|source| WriteError::Leader {
            source: Box::new(source),
        })?;
        Ok(lease.and_then(|lease| lease.spec?.holder_identity))
    }

    /// Writes the stack's status, if the stack is still as it was seen, and returns the stack as it is stored.
    ///
    /// # Errors
    /// When the API server refuses, or does not answer.
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
            // An upgrade's state must not be overwritten by who has not seen the present one.
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

    fn api(&self, id: &ObjectId) -> Api<DynamicObject> {
        let resource = id.kind.api_resource();
        if id.key.namespace().is_empty() {
            Api::all_with(self.client.clone(), &resource)
        } else {
            Api::namespaced_with(self.client.clone(), id.key.namespace(), &resource)
        }
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
