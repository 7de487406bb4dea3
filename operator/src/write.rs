//! The operator's writes: server-side apply under one field manager, deletion, and the stack's status. Fields that
//! others own, such as the annotation of `kubectl rollout restart`, are never touched.

use std::time::Duration;

use kube::Client;
use kube::api::{Api, DeleteParams, DynamicObject, Patch, PatchParams, Preconditions};
use lb_crds::{LoadBalancerStack, LoadBalancerStackStatus};
use serde_json::json;

use crate::index::Live;
use crate::keys;
use crate::object::ObjectId;
use crate::render::{MANAGER, Wanted};

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
    #[error("make the keys of the heartbeats: {source}")]
    Keys {
        /// Why not.
        source: keys::NoRandomness,
    },
    /// An object could not be deleted.
    #[error("delete {id}: {}", explain(.source))]
    Delete {
        /// Which object.
        id: ObjectId,
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
        let answer = in_time(|| format!("apply {id}"), api.patch(&id.key.name, &params, &patch))
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
        let made = keys::make(version).map_err(|source| WriteError::Keys { source })?;
        let params = PatchParams {
            field_manager: Some(keys::KEYS_MANAGER.to_owned()),
            ..PatchParams::default()
        };
        let api = self.api(id);
        let patch = Patch::Merge(&made);
        let answer = in_time(|| format!("apply {id}"), api.patch(&id.key.name, &params, &patch)).await?;
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
        change: &keys::Change,
    ) -> Result<Option<Live>, WriteError> {
        let patch = change
            .patch(version)
            .map_err(|source| WriteError::Keys { source })?;
        let params = PatchParams {
            field_manager: Some(keys::KEYS_MANAGER.to_owned()),
            ..PatchParams::default()
        };
        let api = self.api(id);
        let patch = Patch::Json::<()>(patch);
        let answer = in_time(
            || format!("change the keys in {id}"),
            api.patch(&id.key.name, &params, &patch),
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
        let answer = in_time(|| format!("delete {id}"), api.delete(&id.key.name, &params)).await?;
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

    /// Writes the stack's status and returns the stack as it is stored.
    ///
    /// # Errors
    /// When the API server refuses, or does not answer.
    pub async fn status(
        &self,
        name: &str,
        status: &LoadBalancerStackStatus,
    ) -> Result<LoadBalancerStack, WriteError> {
        let api: Api<LoadBalancerStack> = Api::all(self.client.clone());
        let body = json!({
            "apiVersion": "lb-operator.io/v1alpha1",
            "kind": "LoadBalancerStack",
            "metadata": { "name": name },
            "status": status,
        });
        let params = PatchParams::apply(MANAGER).force();
        in_time(
            || "write the stack's status".to_owned(),
            api.patch_status(name, &params, &Patch::Apply(&body)),
        )
        .await?
        .map_err(|source| WriteError::Status {
            source: Box::new(source),
        })
    }

    fn api(&self, id: &ObjectId) -> Api<DynamicObject> {
        let resource = id.kind.api_resource();
        if id.key.namespace.is_empty() {
            Api::all_with(self.client.clone(), &resource)
        } else {
            Api::namespaced_with(self.client.clone(), &id.key.namespace, &resource)
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
