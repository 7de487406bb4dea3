//! What the controller writes, as patches, and the sending of them.
//!
//! Each patch carries the version of the object that the decision was based on: if the object has changed since, the
//! API server refuses it, and the decision is made again.

use std::fmt;
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

use crate::condition;
use crate::report::Report;

/// How long one write may take. Shorter than the time between the last moment at which a leader may write and the first
/// at which another may, so that no write of an old leader lands after a new one has listed.
const TIMEOUT: Duration = Duration::from_secs(4);

/// An object that the controller writes.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Target {
    /// A Service.
    Service(ObjectKey),
    /// An IPAddressPool, by name.
    Pool(String),
    /// An L2Advertisement.
    Advertisement(ObjectKey),
    /// Our ConfigurationState.
    State,
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Service(key) => write!(f, "service {key}"),
            Self::Pool(name) => write!(f, "pool {name}"),
            Self::Advertisement(key) => write!(f, "l2advertisement {key}"),
            Self::State => write!(f, "configurationstate {CONFIGURATION_STATE}"),
        }
    }
}

/// A write.
#[derive(Clone, Debug, PartialEq)]
pub enum Write {
    /// Addresses of a Service.
    Service(ServiceWrite),
    /// Status of a pool or an advertisement.
    Verdict(VerdictWrite),
    /// Our ConfigurationState.
    State(StateWrite),
}

/// Status, condition and annotation of a Service, in one patch: there is no moment at which one is written and another
/// is not.
#[derive(Clone, Debug, PartialEq)]
pub struct ServiceWrite {
    /// Which Service.
    pub key: ObjectKey,
    /// Version that this is based on.
    pub version: String,
    /// The addresses that it showed before.
    pub before: Addresses,
    /// The addresses to show, or to show none; absent leaves them, and what else is in the status, alone.
    pub status: Option<Addresses>,
    /// The pool to name, or to name none; absent leaves it alone.
    pub pool: Option<Option<String>>,
    /// Whether the deprecated form of the annotation has to go.
    pub deprecated_pool: bool,
    /// What becomes of its condition of addresses; absent leaves it alone.
    pub condition: Option<condition::Change>,
    /// What becomes of its condition of their announcement; absent leaves it alone.
    pub announced: Option<condition::Change>,
}

/// What is to be known about a pool or an advertisement.
#[derive(Clone, Debug, PartialEq)]
pub struct VerdictWrite {
    /// Which object.
    pub target: Target,
    /// Version that this is based on.
    pub version: String,
    /// The conditions, all of them.
    pub conditions: Vec<Condition>,
    /// Of a pool: IPv4 and IPv6 assigned, IPv4 and IPv6 available.
    pub counts: Option<[i64; 4]>,
    /// Of a pool: the addresses that were released lately, and when.
    pub released: Vec<(IpAddr, i64)>,
    /// What to tell the object's owner once it is written.
    pub report: Option<Report>,
}

/// What is to be known about the configuration as a whole.
#[derive(Clone, Debug, PartialEq)]
pub struct StateWrite {
    /// Version that this is based on; none when the object has to be created first.
    pub version: Option<String>,
    /// The status, all of it.
    pub status: ConfigurationStateStatus,
}

/// What came of a write.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Outcome {
    /// It is stored; this is the object's version now.
    Written {
        /// The version.
        version: String,
    },
    /// The object has changed meanwhile, or is gone: the watch will tell.
    Outdated,
    /// It failed, or nobody knows.
    Failed {
        /// What the API server said.
        error: String,
    },
}

impl Write {
    /// Which object it is about.
    #[must_use]
    pub fn target(&self) -> Target {
        match self {
            Self::Service(write) => Target::Service(write.key.clone()),
            Self::Verdict(write) => write.target.clone(),
            Self::State(_) => Target::State,
        }
    }

    /// The patch of the object's status subresource: a strategic merge patch for a Service, whose conditions others
    /// write too, and a merge patch for the others.
    #[must_use]
    pub fn patch(&self) -> Value {
        match self {
            Self::Service(write) => write.patch(),
            Self::Verdict(write) => write.patch(),
            Self::State(write) => write.patch(),
        }
    }
}

impl ServiceWrite {
    /// Whether it says more than who announces the addresses.
    #[must_use]
    pub fn is_about_addresses(&self) -> bool {
        self.status.is_some() || self.pool.is_some() || self.condition.is_some()
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
        let changes = [(ADDRESS_ASSIGNED, &self.condition), (ANNOUNCED, &self.announced)];
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

impl StateWrite {
    fn patch(&self) -> Value {
        let mut patch = json!({
            "metadata": { "resourceVersion": self.version },
            "status": self.status,
        });
        // What is absent from a merge patch stays.
        if self.status.error_summary.is_empty() {
            patch["status"]["errorSummary"] = Value::Null;
        }
        patch
    }
}

impl VerdictWrite {
    fn patch(&self) -> Value {
        let mut status = json!({ "conditions": self.conditions });
        if let Some([assigned_v4, assigned_v6, available_v4, available_v6]) = self.counts {
            status["assignedIPv4"] = json!(assigned_v4);
            status["assignedIPv6"] = json!(assigned_v6);
            status["availableIPv4"] = json!(available_v4);
            status["availableIPv6"] = json!(available_v6);
            let released = self.released.iter();
            status["released"] = released
                .map(|(address, since)| json!({ "address": address, "since": since }))
                .collect();
        }
        json!({ "metadata": { "resourceVersion": self.version }, "status": status })
    }
}

/// Sends writes.
#[derive(Clone)]
pub struct Writer {
    client: Client,
    namespace: String,
}

impl Writer {
    /// A writer; pools and advertisements are in `namespace`.
    #[must_use]
    pub fn new(client: Client, namespace: &str) -> Self {
        Self {
            client,
            namespace: namespace.to_owned(),
        }
    }

    /// Sends one write and tells what came of it.
    pub async fn send(self, write: Write) -> (Write, Outcome) {
        let outcome = match tokio::time::timeout(TIMEOUT, self.request(&write)).await {
            Ok(Ok(version)) => Outcome::Written { version },
            Ok(Err(error)) => outcome_of(&error),
            Err(_) => Outcome::Failed {
                error: format!("no answer from the API server for {} seconds", TIMEOUT.as_secs()),
            },
        };
        (write, outcome)
    }

    async fn request(&self, write: &Write) -> Result<String, kube::Error> {
        let patch = Patch::Merge(write.patch());
        let params = PatchParams::default();
        let client = self.client.clone();
        if let Write::State(StateWrite { version: None, .. }) = write {
            return self.create_state().await;
        }
        let version = match write.target() {
            Target::Service(key) => {
                let api: Api<Service> = Api::namespaced(client, key.namespace());
                api.patch_status(key.name(), &params, &Patch::Strategic(write.patch()))
                    .await?
                    .resource_version()
            }
            Target::Pool(name) => {
                let api: Api<IPAddressPool> = Api::namespaced(client, &self.namespace);
                api.patch_status(&name, &params, &patch).await?.resource_version()
            }
            Target::Advertisement(key) => {
                let api: Api<L2Advertisement> = Api::namespaced(client, key.namespace());
                api.patch_status(key.name(), &params, &patch)
                    .await?
                    .resource_version()
            }
            Target::State => {
                let api: Api<ConfigurationState> = Api::namespaced(client, &self.namespace);
                api.patch_status(CONFIGURATION_STATE, &params, &patch)
                    .await?
                    .resource_version()
            }
        };
        Ok(version.unwrap_or_default())
    }

    /// Creates the ConfigurationState, empty: its status is a write of its own.
    async fn create_state(&self) -> Result<String, kube::Error> {
        let mut state = ConfigurationState::new(CONFIGURATION_STATE, ConfigurationStateSpec {});
        let labels = [(LABEL_COMPONENT_TYPE.to_owned(), CONTROLLER.to_owned())];
        state.metadata.labels = Some(labels.into());
        let api: Api<ConfigurationState> = Api::namespaced(self.client.clone(), &self.namespace);
        let state = api.create(&PostParams::default(), &state).await?;
        Ok(state.resource_version().unwrap_or_default())
    }
}

fn outcome_of(error: &kube::Error) -> Outcome {
    match error {
        kube::Error::Api(status) if matches!(status.code, 404 | 409) => Outcome::Outdated,
        kube::Error::Api(status) => Outcome::Failed {
            error: status.message.clone(),
        },
        other => Outcome::Failed {
            error: other.to_string(),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(status: Option<&[&str]>, pool: Option<Option<&str>>) -> Value {
        let addresses = |list: &[&str]| list.iter().map(|text| text.parse().unwrap()).collect();
        Write::Service(ServiceWrite {
            key: ObjectKey::new("ns", "web"),
            version: "7".to_owned(),
            before: Addresses::default(),
            status: status.map(addresses),
            pool: pool.map(|pool| pool.map(str::to_owned)),
            deprecated_pool: false,
            condition: None,
            announced: None,
        })
        .patch()
    }

    #[test]
    fn status_and_annotation_go_in_one_patch_with_a_precondition() {
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
    fn a_release_removes_addresses_and_annotation() {
        let patch = write(Some(&[]), Some(None));
        assert_eq!(patch["status"], json!({ "loadBalancer": { "ingress": null } }));
        assert_eq!(
            patch["metadata"]["annotations"]["metallb.io/ip-allocated-from-pool"],
            Value::Null
        );
    }

    #[test]
    fn addresses_that_stay_are_not_written_again() {
        // Their ipMode, if someone set it, stays with them.
        assert_eq!(write(None, Some(Some("lan"))).get("status"), None);
    }
}
