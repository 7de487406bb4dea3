//! Optional objects: ServiceMonitor, NetworkPolicy and PodDisruptionBudgets.

use std::collections::BTreeMap;

use k8s_openapi::api::networking::v1::NetworkPolicyPeer;
use schemars::{JsonSchema, Schema};
use serde::{Deserialize, Serialize};

use super::is_default;
use crate::api_enum::api_enum;
use crate::schema;

api_enum! {
    /// Whether optional objects are created.
    #[derive(Default)]
    pub enum InstallMode {
        /// The objects are created if the cluster supports them.
        #[default]
        Auto,
        /// The objects are created. If the cluster does not support them, the stack is Degraded.
        Enabled,
        /// The objects are not created.
        Disabled,
    }
}

/// Objects for the Prometheus Operator.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Monitoring {
    /// ServiceMonitor for the metrics of controller and speakers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service_monitor: Option<ServiceMonitor>,
}

/// Settings of the ServiceMonitor.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ServiceMonitor {
    /// Whether the ServiceMonitor is created. With Auto it is also created when the CRD is installed later. Default:
    /// Auto.
    #[serde(default, skip_serializing_if = "is_default")]
    pub mode: InstallMode,

    /// Additional labels of the ServiceMonitor. A Prometheus may select ServiceMonitors by label.
    /// Example: {release: kube-prometheus-stack}
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,

    /// Scrape interval. Absent: the default of the Prometheus. Example: 30s
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(transform = prometheus_duration)]
    pub interval: Option<String>,
}

/// Settings of the NetworkPolicy.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct NetworkPolicy {
    /// Whether the NetworkPolicy is created. Every cluster supports it. Default: Auto.
    #[serde(default, skip_serializing_if = "is_default")]
    pub mode: InstallMode,

    /// Peers that may read the controller's metrics, as in the field from of a NetworkPolicy. Probes come from the
    /// node and are always allowed. Absent: every pod of the cluster.
    /// Example: [{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: monitoring}}}]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(transform = peers)]
    pub metrics_from: Option<Vec<NetworkPolicyPeer>>,
}

/// Settings of the PodDisruptionBudgets.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PodDisruptionBudget {
    /// Whether the PodDisruptionBudgets of controller and speakers are created. Every cluster supports them. Default:
    /// Auto.
    #[serde(default, skip_serializing_if = "is_default")]
    pub mode: InstallMode,

    /// minAvailable of the controller's budget; less than spec.controller.replicas. With one replica there is no
    /// budget. Default: 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1000))]
    pub controller_min_available: Option<i32>,

    /// minAvailable of the speakers' budget; less than the number of speakers, or no speaker can be evicted. kubectl
    /// drain ignores the pods of DaemonSets. Default: 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 10000))]
    pub speaker_min_available: Option<i32>,
}

/// The Prometheus duration format.
fn prometheus_duration(schema: &mut Schema) {
    schema::set(
        schema,
        "pattern",
        "^([0-9]+y)?([0-9]+w)?([0-9]+d)?([0-9]+h)?([0-9]+m)?([0-9]+s)?([0-9]+ms)?$",
    );
    schema::set(schema, "minLength", 2);
    schema::set(schema, "maxLength", 32);
}

/// An empty list is rejected: a NetworkPolicy would allow every peer, and its author means no peer.
fn peers(schema: &mut Schema) {
    schema::set(schema, "minItems", 1);
    schema::set(schema, "maxItems", 64);
    schema::set(schema, "x-kubernetes-list-type", "atomic");
}
