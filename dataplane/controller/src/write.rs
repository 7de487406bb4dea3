//! The writes of the controller as patches, and how they are sent.
//!
//! Each patch carries the version of the object that the decision was based on: if the object has changed since, the
//! API server rejects it, and the controller decides again.

use std::net::IpAddr;
use std::time::Duration;

use k8s_openapi::api::core::v1::Service;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client, ResourceExt};
use lb_crds::names::{
    ADDRESS_ASSIGNED, ANNOUNCED, CONFIGURATION_STATE, CONTROLLER, DEPRECATED_IP_ALLOCATED_FROM_POOL,
    IP_ALLOCATED_FROM_POOL, LABEL_COMPONENT_TYPE,
};
use lb_crds::{
    ConfigurationState, ConfigurationStateSpec, ConfigurationStateStatus, IPAddressPool, L2Advertisement,
};
use lb_ipam::Addresses;
use lb_runtime::ObjectKey;
use serde_json::{Map, Value, json};

use crate::condition::ConditionChange;
use crate::events::ObjectEvent;
use crate::objects::PoolCounts;
use crate::target::WriteTarget;

/// Timeout of one write. Shorter than the time between the last moment at which a leader may write and the first at
/// which another may, so that no write of an old leader takes effect after a new one has listed.
const WRITE_TIMEOUT: Duration = Duration::from_secs(4);

/// A write.
#[derive(Clone, Debug, PartialEq)]
pub enum ObjectWrite {
    /// Status, conditions and annotation of a Service.
    Service(ServiceWrite),
    /// Status of a pool or an advertisement.
    ConfigStatus(ConfigStatusWrite),
    /// The controller's ConfigurationState.
    ConfigurationState(ConfigurationStateWrite),
}

/// Status, conditions and annotation of a Service in one patch, so that they change at the same time.
#[derive(Clone, Debug, PartialEq)]
pub struct ServiceWrite {
    /// Key of the Service.
    pub key: ObjectKey,
    /// Version that this write is based on.
    pub version: String,
    /// The addresses in the status before.
    pub before: Addresses,
    /// The new addresses, possibly none; `None` leaves `status.loadBalancer` unchanged.
    pub status: Option<Addresses>,
    /// The new annotation of recorded pools, or its removal; `None` leaves it unchanged.
    pub pool: Option<Option<String>>,
    /// Whether the deprecated form of the annotation is removed.
    pub deprecated_pool: bool,
    /// Change of condition AddressAssigned.
    pub address_assigned: Option<ConditionChange>,
    /// Change of condition Announced.
    pub announced: Option<ConditionChange>,
}

/// Status of a pool or an advertisement.
#[derive(Clone, Debug, PartialEq)]
pub struct ConfigStatusWrite {
    /// The object.
    pub target: WriteTarget,
    /// Version that this write is based on.
    pub version: String,
    /// All conditions.
    pub conditions: Vec<Condition>,
    /// Counts of a pool.
    pub counts: Option<PoolCounts>,
    /// Recently released addresses of a pool with their times.
    pub released: Vec<(IpAddr, i64)>,
    /// The event to publish after a successful write.
    pub event: Option<ObjectEvent>,
}

/// Status of the ConfigurationState.
#[derive(Clone, Debug, PartialEq)]
pub struct ConfigurationStateWrite {
    /// Version that this write is based on; `None` if the object has to be created first.
    pub version: Option<String>,
    /// The whole status.
    pub status: ConfigurationStateStatus,
}

/// The outcome of a write.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum WriteOutcome {
    /// The API server has stored it.
    Written {
        /// The new version of the object.
        version: String,
    },
    /// The object has changed or is gone; the watch will deliver that.
    Outdated,
    /// It failed, or its outcome is unknown.
    Failed {
        /// The error.
        error: String,
    },
}

impl ObjectWrite {
    /// The written object.
    #[must_use]
    pub fn target(&self) -> WriteTarget {
        match self {
            Self::Service(write) => WriteTarget::Service(write.key.clone()),
            Self::ConfigStatus(write) => write.target.clone(),
            Self::ConfigurationState(_) => WriteTarget::ConfigurationState,
        }
    }

    /// The patch of the object's status subresource: a strategic merge patch for a Service, whose conditions others
    /// write too, and a merge patch for the others.
    #[must_use]
    pub fn patch(&self) -> Value {
        match self {
            Self::Service(write) => write.patch(),
            Self::ConfigStatus(write) => write.patch(),
            Self::ConfigurationState(write) => write.patch(),
        }
    }
}

impl ServiceWrite {
    /// Whether it changes more than condition Announced.
    #[must_use]
    pub fn changes_addresses(&self) -> bool {
        self.status.is_some() || self.pool.is_some() || self.address_assigned.is_some()
    }

    fn patch(&self) -> Value {
        let mut patch = json!({ "metadata": { "resourceVersion": self.version } });
        if let Some(pool) = &self.pool {
            let mut annotations = Map::new();
            annotations.insert(IP_ALLOCATED_FROM_POOL.to_owned(), json!(pool));
            if self.deprecated_pool {
                annotations.insert(DEPRECATED_IP_ALLOCATED_FROM_POOL.to_owned(), Value::Null);
            }
            patch["metadata"]["annotations"] = Value::Object(annotations);
        }
        if let Some(addresses) = &self.status {
            let ingress: Vec<_> = addresses.iter().map(|address| json!({ "ip": address })).collect();
            let ingress = if ingress.is_empty() {
                Value::Null
            } else {
                json!(ingress)
            };
            patch["status"] = json!({ "loadBalancer": { "ingress": ingress } });
        }
        let changes = [
            (ADDRESS_ASSIGNED, &self.address_assigned),
            (ANNOUNCED, &self.announced),
        ];
        let changes = changes
            .into_iter()
            .filter_map(|(type_, change)| Some(change.as_ref()?.patch(type_)));
        let changes: Vec<_> = changes.collect();
        if !changes.is_empty() {
            patch["status"]["conditions"] = Value::Array(changes);
        }
        patch
    }
}

impl ConfigurationStateWrite {
    fn patch(&self) -> Value {
        let mut patch = json!({
            "metadata": { "resourceVersion": self.version },
            "status": self.status,
        });
        // A merge patch keeps absent fields.
        if self.status.error_summary.is_empty() {
            patch["status"]["errorSummary"] = Value::Null;
        }
        patch
    }
}

impl ConfigStatusWrite {
    fn patch(&self) -> Value {
        let mut status = json!({ "conditions": self.conditions });
        if let Some(counts) = self.counts {
            status["assignedIPv4"] = json!(counts.assigned_ipv4);
            status["assignedIPv6"] = json!(counts.assigned_ipv6);
            status["availableIPv4"] = json!(counts.available_ipv4);
            status["availableIPv6"] = json!(counts.available_ipv6);
            let released = self.released.iter();
            status["released"] = released
                .map(|(address, since)| json!({ "address": address, "since": since }))
                .collect();
        }
        json!({ "metadata": { "resourceVersion": self.version }, "status": status })
    }
}

/// Sends writes to the API server.
#[derive(Clone)]
pub struct ObjectWriter {
    client: Client,
    namespace: String,
}

impl ObjectWriter {
    /// A writer; pools and advertisements are in `namespace`.
    #[must_use]
    pub fn new(client: Client, namespace: &str) -> Self {
        Self {
            client,
            namespace: namespace.to_owned(),
        }
    }

    /// Sends a write and returns it with its outcome.
    pub async fn send(self, write: ObjectWrite) -> (ObjectWrite, WriteOutcome) {
        let outcome = match tokio::time::timeout(WRITE_TIMEOUT, self.request(&write)).await {
            Ok(Ok(version)) => WriteOutcome::Written { version },
            Ok(Err(error)) => outcome_of(&error),
            Err(_) => WriteOutcome::Failed {
                error: format!(
                    "no answer from the API server for {} seconds",
                    WRITE_TIMEOUT.as_secs()
                ),
            },
        };
        (write, outcome)
    }

    async fn request(&self, write: &ObjectWrite) -> Result<String, kube::Error> {
        let patch = Patch::Merge(write.patch());
        let params = PatchParams::default();
        let client = self.client.clone();
        if let ObjectWrite::ConfigurationState(ConfigurationStateWrite { version: None, .. }) = write {
            return self.create_state().await;
        }
        let version = match write.target() {
            WriteTarget::Service(key) => {
                let api: Api<Service> = Api::namespaced(client, key.namespace());
                api.patch_status(key.name(), &params, &Patch::Strategic(write.patch()))
                    .await?
                    .resource_version()
            }
            WriteTarget::Pool(name) => {
                let api: Api<IPAddressPool> = Api::namespaced(client, &self.namespace);
                api.patch_status(&name, &params, &patch).await?.resource_version()
            }
            WriteTarget::Advertisement(key) => {
                let api: Api<L2Advertisement> = Api::namespaced(client, key.namespace());
                api.patch_status(key.name(), &params, &patch)
                    .await?
                    .resource_version()
            }
            WriteTarget::ConfigurationState => {
                let api: Api<ConfigurationState> = Api::namespaced(client, &self.namespace);
                api.patch_status(CONFIGURATION_STATE, &params, &patch)
                    .await?
                    .resource_version()
            }
        };
        Ok(version.unwrap_or_default())
    }

    /// Creates the ConfigurationState with an empty status, which a second write fills.
    async fn create_state(&self) -> Result<String, kube::Error> {
        let mut state = ConfigurationState::new(CONFIGURATION_STATE, ConfigurationStateSpec {});
        let labels = [(LABEL_COMPONENT_TYPE.to_owned(), CONTROLLER.to_owned())];
        state.metadata.labels = Some(labels.into());
        let api: Api<ConfigurationState> = Api::namespaced(self.client.clone(), &self.namespace);
        let state = api.create(&PostParams::default(), &state).await?;
        Ok(state.resource_version().unwrap_or_default())
    }
}

fn outcome_of(error: &kube::Error) -> WriteOutcome {
    match error {
        kube::Error::Api(status) if matches!(status.code, 404 | 409) => WriteOutcome::Outdated,
        kube::Error::Api(status) => WriteOutcome::Failed {
            error: status.message.clone(),
        },
        other => WriteOutcome::Failed {
            error: other.to_string(),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(status: Option<&[&str]>, pool: Option<Option<&str>>) -> Value {
        let addresses = |list: &[&str]| list.iter().map(|text| text.parse().unwrap()).collect();
        ObjectWrite::Service(ServiceWrite {
            key: ObjectKey::new("ns", "web"),
            version: "7".to_owned(),
            before: Addresses::default(),
            status: status.map(addresses),
            pool: pool.map(|pool| pool.map(str::to_owned)),
            deprecated_pool: false,
            address_assigned: None,
            announced: None,
        })
        .patch()
    }

    #[test]
    fn one_patch_sets_status_and_annotation() {
        assert_eq!(
            write(Some(&["192.168.50.50"]), Some(Some("lan"))),
            json!({
                "metadata": {
                    "resourceVersion": "7",
                    "annotations": { "metallb.io/ip-allocated-from-pool": "lan" },
                },
                "status": { "loadBalancer": { "ingress": [{ "ip": "192.168.50.50" }] } },
            })
        );
    }

    #[test]
    fn release_removes_addresses_and_annotation() {
        let patch = write(Some(&[]), Some(None));
        assert_eq!(patch["status"], json!({ "loadBalancer": { "ingress": null } }));
        assert_eq!(
            patch["metadata"]["annotations"]["metallb.io/ip-allocated-from-pool"],
            Value::Null
        );
    }

    #[test]
    fn unchanged_addresses_are_not_written() {
        // An `ipMode` that somebody set stays.
        assert_eq!(write(None, Some(Some("lan"))).get("status"), None);
    }
}
