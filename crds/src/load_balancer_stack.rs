//! LoadBalancerStack: the one object that an administrator writes to have load balancing.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Affinity, ResourceRequirements, Toleration};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use schemars::{JsonSchema, Schema};
use serde::{Deserialize, Serialize};

use crate::schema;

mod announcing;

pub use announcing::{ConflictPolicy, Failback, Heartbeat, PartitionPolicy, Placement};

/// What to run, and how. Every field is optional: with none, it is an installation fit for production.
#[derive(Clone, CustomResource, Debug, Default, Deserialize, KubeSchema, PartialEq, Serialize)]
#[kube(
    group = "lb-operator.io",
    version = "v1alpha1",
    kind = "LoadBalancerStack",
    plural = "loadbalancerstacks",
    shortname = "lbs",
    status = "LoadBalancerStackStatus",
    derive = "PartialEq",
    derive = "Default",
    doc = "LoadBalancerStack is an installation of the load balancer: a controller, which gives Services of type \
           LoadBalancer their addresses, and a speaker on each node, which answer for them on the LAN.\n\nThere is one in a \
           cluster, named default. spec: {} is a complete one. Next, make an IPAddressPool and an L2Advertisement.",
    validation = Rule::new("self.metadata.name == 'default'")
        .message("metadata.name must be default: there is one LoadBalancerStack in a cluster"),
    printcolumn(
        name = "Ready",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].status",
        description = "Whether all of it runs as the spec says"
    ),
    printcolumn(
        name = "Version",
        type_ = "string",
        json_path = ".status.version",
        description = "The version that runs"
    ),
    printcolumn(
        name = "Progressing",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Progressing\")].reason",
        description = "What it is doing"
    ),
    printcolumn(
        name = "Controller",
        type_ = "string",
        json_path = ".status.controller",
        description = "Controllers that are ready, of those there are to be"
    ),
    printcolumn(
        name = "Speakers",
        type_ = "string",
        json_path = ".status.speakers",
        description = "Speakers that are ready, of those there are to be"
    ),
    printcolumn(
        name = "Message",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].message",
        description = "Why it is ready or not",
        priority = 1
    ),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new(LOAD_BALANCER_CLASS_STAYS).message(
    "spec.loadBalancerClass cannot be changed: every Service would lose its address. Delete the stack and make a new one"
))]
pub struct LoadBalancerStackSpec {
    /// The version of controller and speakers. Absent: the operator's own, so that upgrading the operator upgrades them.
    /// Example: 0.1.0
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(transform = version_schema)]
    pub version: Option<String>,

    /// Where controller and speakers run, and where pools and advertisements are looked for. It cannot be changed.
    /// Default: metallb-system.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(transform = namespace_schema)]
    #[x_kube(validation = Rule::new("self == oldSelf").message(
        "spec.namespace cannot be changed: pools and advertisements live there. Delete the stack and make a new one"
    ))]
    pub namespace: Option<String>,

    /// Serve the Services with this spec.loadBalancerClass, and no others. Absent: the Services without one. It cannot be
    /// changed. Example: example.com/lan
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(transform = load_balancer_class_schema)]
    pub load_balancer_class: Option<String>,

    /// How much controller and speakers log: error, warn, info, debug or trace. Default: info.
    #[serde(default, skip_serializing_if = "LogLevel::is_default")]
    pub log_level: LogLevel,

    /// Where images come from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub images: Option<Images>,

    /// The controller: gives Services their addresses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub controller: Option<Controller>,

    /// The speakers: answer for the addresses on the LAN, one on each node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub speaker: Option<Speaker>,

    /// Objects for the Prometheus Operator.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub monitoring: Option<Monitoring>,

    /// A NetworkPolicy that lets the controller talk to the API server and be asked for metrics, and nothing else.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network_policy: Option<NetworkPolicy>,

    /// PodDisruptionBudgets of controller and speakers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod_disruption_budget: Option<PodDisruptionBudget>,

    /// Write nothing, for as long as it is true: what runs goes on running, and the status is kept. Default: false.
    #[serde(default, skip_serializing_if = "is_false")]
    pub paused: bool,
}

const LOAD_BALANCER_CLASS_STAYS: &str = "has(self.loadBalancerClass) == has(oldSelf.loadBalancerClass) && \
     (!has(self.loadBalancerClass) || self.loadBalancerClass == oldSelf.loadBalancerClass)";

/// How much is logged.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
#[schemars(transform = plain_enum)]
pub enum LogLevel {
    /// What failed.
    Error,
    /// What may be wrong.
    Warn,
    /// What changed.
    #[default]
    Info,
    /// Why things were decided.
    Debug,
    /// Every packet.
    Trace,
}

impl LogLevel {
    /// The word for it, as `--log-level` takes it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warn => "warn",
            Self::Info => "info",
            Self::Debug => "debug",
            Self::Trace => "trace",
        }
    }

    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// Where images come from.
#[derive(Clone, Debug, Default, Deserialize, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Images {
    /// A registry of your own, with a path if it has one, in place of the host of every image. Absent: the images' own.
    /// Example: registry.example.com/mirror
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 255))]
    #[x_kube(validation = ("!self.contains('://') && !self.endsWith('/')",
        "spec.images.registry is a host with an optional port and path, as in registry.example.com:5000/mirror"))]
    pub registry: Option<String>,

    /// When nodes pull images: Always, IfNotPresent or Never. Default: IfNotPresent.
    #[serde(default, skip_serializing_if = "PullPolicy::is_default")]
    pub pull_policy: PullPolicy,

    /// Names of Secrets to pull images with. They have to be in the stack's namespace. Example: ["registry-example"]
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(transform = schema::names)]
    pub pull_secrets: Vec<String>,

    /// The controller's image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub controller: Option<ComponentImage>,

    /// The speaker's image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub speaker: Option<ComponentImage>,
}

/// The image of one program.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ComponentImage {
    /// The image without tag and digest, in place of the default. Example: registry.example.com/lb/speaker
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 255))]
    pub repository: Option<String>,

    /// Pins the image, whatever its tag comes to mean. Example: sha256: and 64 hexadecimal digits
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = "^sha256:[0-9a-f]{64}$"))]
    pub digest: Option<String>,
}

/// When nodes pull images.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[schemars(transform = plain_enum)]
pub enum PullPolicy {
    /// Before every start of a container.
    Always,
    /// When the node does not have it.
    #[default]
    IfNotPresent,
    /// Never: somebody else puts it there.
    Never,
}

impl PullPolicy {
    /// The word for it, as a container's `imagePullPolicy`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Always => "Always",
            Self::IfNotPresent => "IfNotPresent",
            Self::Never => "Never",
        }
    }

    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// How the controller runs.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Controller {
    /// How many there are. One leads; another takes over when it fails. With 0, Services get no addresses, and keep those
    /// they have. Default: 2.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 32))]
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

    /// What to do when nodes cannot hear each other. Availability: each side announces what it can see it should. Fenced:
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

    /// Seconds that a node keeps its addresses while its speaker restarts. Default: 10.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 300))]
    pub restart_grace_seconds: Option<i32>,
}

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

/// How the stack is doing. Written by the operator.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct LoadBalancerStackStatus {
    /// The metadata.generation that this status is about. Lower than the object's: not yet looked at.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,

    /// The version that controller and speakers run. It changes when all of them run the new one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,

    /// The version that they are to run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target_version: Option<String>,

    /// The operator's own version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub operator_version: Option<String>,

    /// Controllers that are ready, of those there are to be. Example: 2/2
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub controller: Option<String>,

    /// Speakers that are ready, of those there are to be. Example: 3/3
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub speakers: Option<String>,

    /// The programs, one by one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub components: Vec<ComponentStatus>,

    /// Ready: all of it runs as the spec says. Progressing: pods are being created or replaced. Degraded: something failed
    /// and needs a person. Paused: spec.paused is set.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::conditions")]
    pub conditions: Vec<Condition>,
}

/// How one program is doing.
#[derive(Clone, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ComponentStatus {
    /// controller or speaker.
    pub name: String,

    /// Pods that there are to be.
    #[serde(default)]
    #[schemars(transform = without_default)]
    pub desired: i32,

    /// Pods that are ready.
    #[serde(default)]
    #[schemars(transform = without_default)]
    pub ready: i32,

    /// Pods that run the target version with the present settings.
    #[serde(default)]
    #[schemars(transform = without_default)]
    pub updated: i32,

    /// The version that the pods are to run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
}

/// For serde, which wants a reference.
fn is_false(value: &bool) -> bool {
    !*value
}

/// The derived schema of an enum with comments is a list of alternatives; Kubernetes wants one list of words.
fn plain_enum(schema: &mut Schema) {
    let Some(alternatives) = schema.get("oneOf").and_then(|list| list.as_array()) else {
        return;
    };
    let words: Vec<_> = alternatives
        .iter()
        .flat_map(|alternative| {
            alternative
                .get("const")
                .cloned()
                .or_else(|| alternative.pointer("/enum/0").cloned())
        })
        .collect();
    schema.remove("oneOf");
    schema::set(schema, "type", "string");
    schema::set(schema, "enum", words);
}

fn without_default(schema: &mut Schema) {
    schema.remove("default");
}

fn version_schema(schema: &mut Schema) {
    schema::set(schema, "maxLength", 64);
    schema::rule(
        schema,
        "self.matches('^[0-9]+[.][0-9]+[.][0-9]+(-[0-9A-Za-z.-]+)?([+][0-9A-Za-z.-]+)?$')",
        "spec.version must be a version such as 0.1.0; remove it to follow the operator",
    );
}

fn namespace_schema(schema: &mut Schema) {
    schema::set(schema, "default", crate::names::NAMESPACE);
    schema::set(schema, "minLength", 1);
    schema::set(schema, "maxLength", 63);
    schema::set(schema, "pattern", "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$");
}

fn load_balancer_class_schema(schema: &mut Schema) {
    schema::set(schema, "maxLength", 317);
    schema::set(schema, "minLength", 1);
    schema::set(
        schema,
        "pattern",
        "^([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]$",
    );
}

fn excluded_interfaces_schema(schema: &mut Schema) {
    schema::set(schema, "maxItems", 256);
    schema::items(schema, |pattern| {
        schema::set(pattern, "minLength", 1);
        schema::set(pattern, "maxLength", 256);
    });
}
