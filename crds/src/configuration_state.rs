//! ConfigurationState: whether what users have written can be used, at one look. Written by the programs, read by people.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::schema;

/// Nothing: all that this kind says is in its status.
#[derive(Clone, CustomResource, Debug, Default, Deserialize, JsonSchema, PartialEq, Serialize)]
#[kube(
    group = "metallb.io",
    version = "v1beta1",
    kind = "ConfigurationState",
    plural = "configurationstates",
    namespaced,
    status = "ConfigurationStateStatus",
    derive = "PartialEq",
    derive = "Default",
    doc = "ConfigurationState tells whether the pools and advertisements can be used as they are written.\n\nThe controller \
           writes the one named controller. Each invalid object carries a condition of its own as well.",
    printcolumn(name = "Result", type_ = "string", json_path = ".status.result"),
    printcolumn(name = "ErrorSummary", type_ = "string", json_path = ".status.errorSummary"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
pub struct ConfigurationStateSpec {}

/// What a program makes of the configuration.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ConfigurationStateStatus {
    /// Valid, Invalid, or Unknown as long as the program has not looked. Invalid: one object at least cannot be used; all
    /// others are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result: Option<ConfigurationResult>,

    /// Which objects are invalid, and why. Empty when the result is Valid.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub error_summary: String,

    /// The same as a condition. Its type is the controller's poolReconcilerValid.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::conditions")]
    pub conditions: Vec<Condition>,
}

/// Whether the configuration can be used.
#[derive(Clone, Copy, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub enum ConfigurationResult {
    /// All of it.
    Valid,
    /// Not all of it.
    Invalid,
    /// Nobody has looked yet.
    Unknown,
}
