//! What a stack says about the parts that can be left out.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::plain_enum;

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

/// Whether there is a ServiceMonitor.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ServiceMonitor {
    /// Auto: where the cluster has the kind ServiceMonitor, also when it comes later. Enabled, Disabled. Default: Auto.
    #[serde(default, skip_serializing_if = "Mode::is_default")]
    pub mode: Mode,
}

/// Whether there is a NetworkPolicy.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct NetworkPolicy {
    /// Auto and Enabled: there is one. Disabled: there is none. Default: Auto.
    #[serde(default, skip_serializing_if = "Mode::is_default")]
    pub mode: Mode,
}

/// Whether there are PodDisruptionBudgets.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PodDisruptionBudget {
    /// Auto and Enabled: one for the controller and one for the speakers. Disabled: none. Default: Auto.
    #[serde(default, skip_serializing_if = "Mode::is_default")]
    pub mode: Mode,
}
