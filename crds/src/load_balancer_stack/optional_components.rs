//! What a stack says about the parts that can be left out.

use std::collections::BTreeMap;

use k8s_openapi::api::networking::v1::NetworkPolicyPeer;
use schemars::{JsonSchema, Schema};
use serde::{Deserialize, Serialize};

use super::plain_enum;
use crate::schema;

/// Whether something optional is there.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[schemars(transform = plain_enum)]
pub enum Mode {
    /// Where the cluster can use it.
    #[default]
    Auto,
    /// Always: it is an error if the cluster cannot have it.
    Enabled,
    /// Never.
    Disabled,
}

impl Mode {
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// Objects for the Prometheus Operator.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Monitoring {
    /// A ServiceMonitor, by which Prometheus finds the metrics of controller and speakers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service_monitor: Option<ServiceMonitor>,
}

/// Whether there is a ServiceMonitor, and what it is like.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ServiceMonitor {
    /// Auto: where the cluster has the kind ServiceMonitor, also when it comes later. Enabled, Disabled. Default: Auto.
    #[serde(default, skip_serializing_if = "Mode::is_default")]
    pub mode: Mode,

    /// Labels of the ServiceMonitor, besides those of every object of the stack: many a Prometheus takes only those that
    /// have one. Example: {release: kube-prometheus-stack}
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,

    /// How often Prometheus asks for metrics, as in 30s. Absent: as it is set up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(transform = duration)]
    pub interval: Option<String>,
}

/// Whether there is a NetworkPolicy, and whom it lets in.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct NetworkPolicy {
    /// Auto and Enabled: there is one. Disabled: there is none. Default: Auto.
    #[serde(default, skip_serializing_if = "Mode::is_default")]
    pub mode: Mode,

    /// Who reaches the controller's metrics, as the field `from` of a NetworkPolicy says it. Probes come from the node, which
    /// policies let through. Absent: every pod of the cluster.
    /// Example: [{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: monitoring}}}]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(transform = peers)]
    pub metrics_from: Option<Vec<NetworkPolicyPeer>>,
}

/// Whether there are PodDisruptionBudgets, and how many pods they keep.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PodDisruptionBudget {
    /// Auto and Enabled: one for the controller and one for the speakers. Disabled: none. Default: Auto.
    #[serde(default, skip_serializing_if = "Mode::is_default")]
    pub mode: Mode,

    /// Controllers that have to be left when a node is drained; fewer than spec.controller.replicas. Default: 1; with one replica
    /// there is no budget.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1000))]
    pub controller_min_available: Option<i32>,

    /// Speakers that have to be left when one is evicted; fewer than there are nodes with one, or none ever can be. kubectl drain
    /// leaves the pods of DaemonSets alone. Default: 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 10000))]
    pub speaker_min_available: Option<i32>,
}

/// A duration as Prometheus reads it.
fn duration(schema: &mut Schema) {
    schema::set(
        schema,
        "pattern",
        "^([0-9]+y)?([0-9]+w)?([0-9]+d)?([0-9]+h)?([0-9]+m)?([0-9]+s)?([0-9]+ms)?$",
    );
    schema::set(schema, "minLength", 2);
    schema::set(schema, "maxLength", 32);
}

/// An empty list would let everybody in, as NetworkPolicies have it, where its author means nobody.
fn peers(schema: &mut Schema) {
    schema::set(schema, "minItems", 1);
    schema::set(schema, "maxItems", 64);
    schema::set(schema, "x-kubernetes-list-type", "atomic");
}
