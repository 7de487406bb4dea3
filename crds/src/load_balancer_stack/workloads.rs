//! What a stack says about how controller and speakers run, and what they do.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Affinity, ResourceRequirements, Toleration};
use kube::KubeSchema;
use schemars::{JsonSchema, Schema};
use serde::{Deserialize, Serialize};

use super::{ConflictPolicy, Failback, Heartbeat, PartitionPolicy, Placement, is_false};
use crate::schema;

/// How the controller runs.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Controller {
    /// How many there are, at least one. One leads; another takes over when it fails. Default: 2.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 32))]
    pub replicas: Option<i32>,

    /// CPU and memory to reserve, and limits. Absent: a small request and no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<ResourceRequirements>,

    /// The pods' PriorityClass. Default: system-cluster-critical.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub priority_class_name: Option<String>,

    /// Labels that a node must have for a controller to run there. Absent: any node that runs Linux.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub node_selector: BTreeMap<String, String>,

    /// Taints of nodes that a controller may run on all the same. Absent: those of the control plane.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tolerations: Option<Vec<Toleration>>,

    /// Affinity to nodes and pods. Absent: controllers prefer different nodes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub affinity: Option<Affinity>,

    /// Annotations of the pods.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub pod_annotations: BTreeMap<String, String>,
}

/// How the speakers run, and what they do.
#[derive(Clone, Debug, Default, Deserialize, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new(
    "!has(self.placement) || self.placement != 'Balanced' || !has(self.failback) || self.failback != 'Immediate'"
).message(
    "placement: Balanced and failback: Immediate contradict each other, because the first node in the order would take \
     back what balance gives to others: remove one of them"
))]
pub struct Speaker {
    /// CPU and memory to reserve, and limits. Absent: a small request and no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<ResourceRequirements>,

    /// The pods' PriorityClass. Default: system-node-critical.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub priority_class_name: Option<String>,

    /// Labels that a node must have for a speaker to run there. Absent: every node that runs Linux. Nodes without a
    /// speaker announce nothing.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub node_selector: BTreeMap<String, String>,

    /// Taints of nodes that a speaker runs on all the same. Absent: those of the control plane.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tolerations: Option<Vec<Toleration>>,

    /// Affinity to nodes and pods.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub affinity: Option<Affinity>,

    /// Annotations of the pods.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub pod_annotations: BTreeMap<String, String>,

    /// Announce also from nodes with the label node.kubernetes.io/exclude-from-external-load-balancers, which kubeadm
    /// gives to nodes of the control plane. Default: false.
    #[serde(default, skip_serializing_if = "is_false")]
    pub ignore_exclude_label: bool,

    /// Interfaces never to announce on, as regular expressions that a part of the name has to match. An empty list
    /// excludes none. Absent: those that containers, bridges and virtual networks make (^docker.* ^cbr.* ^dummy.* ^virbr.*
    /// ^lxcbr.* ^veth.* ^lo$ ^cali.* ^tunl.* ^flannel.* ^kube-ipvs.* ^cni.* ^nodelocaldns.* ^lxc.*).
    ///
    /// Example: ["^wlan.*", "^lo$"]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(transform = excluded_interfaces_schema)]
    pub excluded_interfaces: Option<Vec<String>>,

    /// How the speakers watch each other.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub heartbeat: Option<Heartbeat>,

    /// What to do when nodes cannot hear each other. Availability: each side announces what it can see it should. Majority:
    /// only a side that sees the majority of the first five nodes that may have an address announces it, and a minority
    /// withdraws it before. Default: Availability.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub partition_policy: Option<PartitionPolicy>,

    /// Whether a node that returns takes its addresses back. Never: they stay where they are, because each move breaks
    /// established connections. Immediate: it does, as with MetalLB. Default: Never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failback: Option<Failback>,

    /// Which node announces an address. HashOrder: the first in MetalLB's order that lives. Balanced: no node has more
    /// addresses than the average, rounded up, where all may have them; when nodes come or go, as few addresses move as
    /// that takes, a few at a time, and each move breaks the established connections of that address. Balanced and failback:
    /// Immediate exclude each other. Default: HashOrder.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub placement: Option<Placement>,

    /// What to do when a host that is no node answers for an address. Warn: an event, and a metric. Defend: the address is
    /// announced again too, at most every ten seconds. Yield: the address is left to that host until it is gone. Default:
    /// Warn.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub conflict_policy: Option<ConflictPolicy>,

    /// Seconds between two announcements of an address that nothing has happened to, more or less by a quarter; 0 for none.
    /// Default: 60.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 3600))]
    pub announce_interval_seconds: Option<i32>,

    /// Seconds that a node which lives keeps its addresses while its speaker restarts; another speaker answers for them
    /// meanwhile, in its place. Default: 60.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 300))]
    pub restart_grace_seconds: Option<i32>,
}

fn excluded_interfaces_schema(schema: &mut Schema) {
    schema::set(schema, "maxItems", 256);
    schema::items(schema, |pattern| {
        schema::set(pattern, "minLength", 1);
        schema::set(pattern, "maxLength", 256);
    });
}
