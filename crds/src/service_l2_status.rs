//! ServiceL2Status: which node answers for a Service's address. Written by the speakers, read by people.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::schema;

/// Nothing: all that this kind says is in its status.
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
    doc = "ServiceL2Status tells which node answers on the LAN for the address of a Service.\n\nThe speakers write it. To \
           find the one of a Service: kubectl get servicel2statuses -A -l metallb.io/service-name=NAME",
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
        description = "Whether another node got an answer for the address",
        priority = 1
    ),
    printcolumn(
        name = "Conflict",
        type_ = "string",
        json_path = ".status.conflictingMAC",
        description = "Hardware address of a host outside the cluster that answers for the address too",
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

/// Which node answers for which Service. Of a Service with two addresses, this is about the first.
#[derive(Clone, Debug, Default, Deserialize, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ServiceL2StatusStatus {
    // Not immutable, as it is in MetalLB: there, a new owner that met the status of the old one could never write its
    // own, and tried again for ever.
    /// The node that answers. Its machine gets the traffic from the LAN.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub node: String,

    /// Name of the Service. It never changes.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[x_kube(validation = ("self == oldSelf", "Value is immutable"))]
    pub service_name: String,

    /// Namespace of the Service. It never changes.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[x_kube(validation = ("self == oldSelf", "Value is immutable"))]
    pub service_namespace: String,

    /// The node's interfaces that the address is announced on. Empty: all interfaces that are on a LAN and not excluded.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub interfaces: Vec<InterfaceInfo>,

    // Not in MetalLB, as the conditions are not: without it nobody can tell, when a Service gets another address, whether
    // this is about the one or the other.
    /// The address that this is about: the first of the Service.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub address: String,

    /// The node that verified the address last: the condition Verified is its result.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verified_by: Option<String>,

    /// Hardware address of a host outside the cluster that answers for the address too: see the condition AddressConflict.
    /// Example: 02:00:00:00:00:05
    #[serde(default, rename = "conflictingMAC", skip_serializing_if = "Option::is_none")]
    pub conflicting_mac: Option<String>,

    /// Whether another node that asked the LAN for the address was answered (type Verified), and whether a host that is no
    /// node of the cluster answers for it too (type AddressConflict).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::conditions")]
    pub conditions: Vec<Condition>,
}

/// An interface of a node.
#[derive(Clone, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct InterfaceInfo {
    /// Its name on the node. Example: eth0
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub name: String,
}
