//! Settings of controller and speakers.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Affinity, ResourceRequirements, Toleration};
use kube::KubeSchema;
use schemars::{JsonSchema, Schema};
use serde::{Deserialize, Serialize};

use super::{ConflictPolicy, Failback, Heartbeat, PartitionPolicy, Placement, is_default};
use crate::schema;

/// Settings of the controller.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Controller {
    /// Number of replicas. One of them leads; the others are standbys. Default: 2.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 32))]
    pub replicas: Option<i32>,

    /// Resource requests and limits. Absent: small requests and no limits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<ResourceRequirements>,

    /// PriorityClass of the pods. Default: system-cluster-critical.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub priority_class_name: Option<String>,

    /// Labels of the nodes that may run a controller. Absent: all Linux nodes.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub node_selector: BTreeMap<String, String>,

    /// Taints that controllers tolerate. Absent: the taints of control-plane nodes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tolerations: Option<Vec<Toleration>>,

    /// Affinity of the pods. Absent: controllers prefer different nodes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub affinity: Option<Affinity>,

    /// Annotations of the pods.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub pod_annotations: BTreeMap<String, String>,
}

/// Settings of the speakers.
#[derive(Clone, Debug, Default, Deserialize, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new(
    "!has(self.placement) || self.placement != 'Balanced' || !has(self.failback) || self.failback != 'Immediate'"
).message(
    "placement: Balanced and failback: Immediate contradict each other, because the first node of the election order would \
     take back the addresses that balancing moves to others: remove one of them"
))]
pub struct Speaker {
    /// Resource requests and limits. Absent: small requests and no limits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<ResourceRequirements>,

    /// PriorityClass of the pods. Default: system-node-critical.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub priority_class_name: Option<String>,

    /// Labels of the nodes that run a speaker. Absent: all Linux nodes. Nodes without a speaker announce no addresses.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub node_selector: BTreeMap<String, String>,

    /// Taints that speakers tolerate. Absent: the taints of control-plane nodes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tolerations: Option<Vec<Toleration>>,

    /// Affinity of the pods.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub affinity: Option<Affinity>,

    /// Annotations of the pods.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub pod_annotations: BTreeMap<String, String>,

    /// Whether nodes with the label node.kubernetes.io/exclude-from-external-load-balancers announce addresses, too.
    /// kubeadm and Talos set this label on control-plane nodes. Default: false.
    #[serde(default, skip_serializing_if = "is_default")]
    pub ignore_exclude_label: bool,

    /// Interfaces that never announce addresses: regular expressions that match any part of the name. Empty: no
    /// interface is excluded. Absent: interfaces of containers, bridges and virtual networks (^docker.* ^cbr.*
    /// ^dummy.* ^virbr.* ^lxcbr.* ^veth.* ^lo$ ^cali.* ^tunl.* ^flannel.* ^kube-ipvs.* ^cni.* ^nodelocaldns.* ^lxc.*).
    ///
    /// Example: ["^wlan.*", "^lo$"]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(transform = excluded_interfaces_schema)]
    pub excluded_interfaces: Option<Vec<String>>,

    /// TCP port of metrics and probes on every node. Default: 7472.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1024, max = 65535))]
    pub metrics_port: Option<i32>,

    /// Heartbeats between speakers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub heartbeat: Option<Heartbeat>,

    /// Which nodes announce an address while the network is partitioned. Default: Availability.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub partition_policy: Option<PartitionPolicy>,

    /// Whether addresses move back to a node that returns. Default: Never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failback: Option<Failback>,

    /// How addresses are distributed over nodes. Balanced cannot be combined with failback: Immediate. Default:
    /// HashOrder.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub placement: Option<Placement>,

    /// Reaction to an address conflict: a host outside of the cluster answers for an address. Default: Warn.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub conflict_policy: Option<ConflictPolicy>,

    /// Seconds between gratuitous announcements of an address without changes, with a jitter of 25 percent; 0 disables
    /// them. Every host of the network receives them. Default: 2400.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 3600))]
    pub announce_interval_seconds: Option<i32>,

    /// Seconds that a reachable node keeps its addresses while its speaker restarts. Until the speaker is back, another
    /// speaker answers for the addresses with the node's MAC address. Default: 60.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 300))]
    pub restart_grace_seconds: Option<i32>,

    /// Sessions with routers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bgp: Option<SpeakerBgp>,
}

/// Sessions with routers: BGP and BFD.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SpeakerBgp {
    /// Seconds that routers with BFD and graceful restart wait for the next speaker when a speaker restarts. A node
    /// whose speaker does not come back is left out after this time. Default: 10.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 60))]
    pub bfd_restart_budget_seconds: Option<i32>,
}

fn excluded_interfaces_schema(schema: &mut Schema) {
    schema::set(schema, "maxItems", 256);
    schema::items(schema, |pattern| {
        schema::set(pattern, "minLength", 1);
        schema::set(pattern, "maxLength", 256);
    });
}
