//! ConfigurationState: whether all pools and advertisements are valid, and what a speaker reports about its peers.
//! Written by the controller and the speakers, read by users and the operator.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::api_enum::api_enum;
use crate::schema;

/// Empty: this kind has only a status.
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
    doc = "ConfigurationState summarizes whether all pools and advertisements are valid.\n\nThe controller writes the object \
           named controller. Each invalid pool or advertisement also has the condition Valid. A speaker that does not \
           receive the heartbeats of another one writes the object speaker-NODE.",
    printcolumn(name = "Result", type_ = "string", json_path = ".status.result"),
    printcolumn(name = "ErrorSummary", type_ = "string", json_path = ".status.errorSummary"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
pub struct ConfigurationStateSpec {}

/// Validity of the configuration.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ConfigurationStateStatus {
    /// Whether all pools and advertisements are valid.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result: Option<ConfigurationResult>,

    /// Invalid objects with the reasons. Empty if the result is Valid.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub error_summary: String,

    /// The result as a condition. Its type is poolReconcilerValid.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::conditions")]
    pub conditions: Vec<Condition>,

    /// Written by the speaker of a node: other nodes whose speakers are ready and whose heartbeats it does not receive.
    /// At most 64 nodes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub unheard_peers: Vec<String>,
}

api_enum! {
    /// Validity of the configuration.
    pub enum ConfigurationResult {
        /// All objects are valid.
        Valid,
        /// At least one object is invalid and ignored; the valid objects are used.
        Invalid,
        /// The controller has not read the configuration yet.
        Unknown,
    }
}
