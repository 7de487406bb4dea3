//! ServiceL2Status: which node announces the address of a Service. Written by the speakers, read by users.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::schema;

/// Empty: this kind has only a status.
#[derive(Clone, CustomResource, Debug, Default, Deserialize, JsonSchema, PartialEq, Serialize)]
#[kube(
    group = "metallb.io",
    version = "v1beta1",
    kind = "ServiceL2Status",
    plural = "servicel2statuses",
    namespaced,
    status = "ServiceL2StatusStatus",
    derive = "PartialEq",
    derive = "Default",
    doc = "ServiceL2Status shows which node announces the address of a Service on the LAN.\n\nThe speakers write it. To find \
           the object of a Service: kubectl get servicel2statuses -A -l metallb.io/service-name=NAME",
    printcolumn(name = "Allocated Node", type_ = "string", json_path = ".status.node"),
    printcolumn(name = "Service Name", type_ = "string", json_path = ".status.serviceName"),
    printcolumn(
        name = "Service Namespace",
        type_ = "string",
        json_path = ".status.serviceNamespace"
    ),
    printcolumn(
        name = "Address",
        type_ = "string",
        json_path = ".status.address",
        priority = 1
    ),
    printcolumn(
        name = "Verified",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Verified\")].status",
        description = "Whether another node received a reply for the address",
        priority = 1
    ),
    printcolumn(
        name = "Conflict",
        type_ = "string",
        json_path = ".status.conflictingMAC",
        description = "MAC address of a host outside of the cluster that also answers for the address",
        priority = 1
    ),
    printcolumn(
        name = "Age",
        type_ = "date",
        json_path = ".metadata.creationTimestamp",
        priority = 1
    )
)]
#[serde(rename_all = "camelCase")]
pub struct ServiceL2StatusSpec {}

/// Node that announces the address of a Service. For a Service with two addresses: the first one.
#[derive(Clone, Debug, Default, Deserialize, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ServiceL2StatusStatus {
    // Immutable in MetalLB, where a new owner fails forever to update the status of the previous owner.
    /// Node that announces the address and receives its traffic. Empty while no node does: see the condition Announced.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub node: String,

    /// Name of the Service. Immutable.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[x_kube(validation = ("self == oldSelf", "Value is immutable"))]
    pub service_name: String,

    /// Namespace of the Service. Immutable.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[x_kube(validation = ("self == oldSelf", "Value is immutable"))]
    pub service_namespace: String,

    /// Interfaces of the node that announce the address. Empty: all LAN interfaces that are not excluded.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub interfaces: Vec<InterfaceInfo>,

    // This field and the following ones extend MetalLB.
    /// The announced address: the first one of the Service. Example: 192.168.50.50
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub address: String,

    /// Node that verified the address last. The condition Verified is the result.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verified_by: Option<String>,

    /// MAC address of another host that also answers for the address. See the condition AddressConflict.
    /// Example: 02:00:00:00:00:05
    #[serde(default, rename = "conflictingMAC", skip_serializing_if = "Option::is_none")]
    pub conflicting_mac: Option<String>,

    /// Node that also answers for the address although it does not announce it; absent if the host is outside of the
    /// cluster. See the condition AddressConflict.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub conflicting_node: Option<String>,

    /// Conditions by type. Verified: another node sent a request for the address and received a reply.
    /// AddressConflict: another host also answers for the address. Announced: False while no node announces the
    /// address, with the reason.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::conditions")]
    pub conditions: Vec<Condition>,
}

/// Interface of a node.
#[derive(Clone, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct InterfaceInfo {
    /// Name of the interface. Example: eth0
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub name: String,
}
