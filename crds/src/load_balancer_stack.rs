//! LoadBalancerStack: the one object that an administrator writes to have load balancing.

use kube::{CustomResource, KubeSchema};
use schemars::{JsonSchema, Schema};
use serde::{Deserialize, Serialize};

use crate::schema;

mod adoption;
mod deletion;
mod images;
mod l2;
mod optional_components;
mod preflight;
mod status;
mod upgrade;
mod workloads;

pub use adoption::{AdoptionStatus, AdoptionStep};
pub use deletion::DeletionPolicy;
pub use images::{ComponentImage, Images, PullPolicy};
pub use l2::{ConflictPolicy, Failback, Heartbeat, PartitionPolicy, Placement};
pub use optional_components::{Mode, Monitoring, NetworkPolicy, PodDisruptionBudget, ServiceMonitor};
pub use preflight::{Preflight, PreflightCheck, PreflightName, PreflightResult};
pub use status::{ComponentStatus, LoadBalancerStackStatus, StackPhase, VersionCount};
pub use upgrade::{
    Approval, FailedRevision, HISTORY, MAX_FAILED_REVISIONS, OnFailure, PlanStatus, PlannedChange, Revision,
    StepStatus, Upgrade, UpgradeOutcome, UpgradeRecord, UpgradeStatus, UpgradeStep,
};
pub use workloads::{Controller, Speaker};

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
        description = "Whether every component runs as specified"
    ),
    printcolumn(
        name = "Version",
        type_ = "string",
        json_path = ".status.version",
        description = "The version of the running components"
    ),
    printcolumn(
        name = "Status",
        type_ = "string",
        json_path = ".status.phase",
        description = "Ready, Installing, Upgrading, RollingBack, Paused, Blocked or Degraded"
    ),
    printcolumn(
        name = "Controller",
        type_ = "string",
        json_path = ".status.controller",
        description = "Ready/desired controllers"
    ),
    printcolumn(
        name = "Speakers",
        type_ = "string",
        json_path = ".status.speakers",
        description = "Ready/desired speakers"
    ),
    printcolumn(
        name = "Step",
        type_ = "string",
        json_path = ".status.upgrade.step",
        description = "The current step of the upgrade",
        priority = 1
    ),
    printcolumn(
        name = "Message",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].message",
        description = "Message of the condition Ready",
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

    /// A NetworkPolicy by which pods of the cluster reach the controller's metrics and probes, and nobody reaches anything
    /// else of it. What it sends is not restricted: where the API server is, no policy can say for every cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network_policy: Option<NetworkPolicy>,

    /// PodDisruptionBudgets of controller and speakers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod_disruption_budget: Option<PodDisruptionBudget>,

    /// The checks before an installation or a change: see status.preflight.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preflight: Option<Preflight>,

    /// Take over from a MetalLB in the stack's namespace that serves the same Services: they keep their addresses, and on
    /// each node the speaker of the stack takes the place of MetalLB's. See status.adoption for how far it is. To false, or by
    /// deleting the stack, everything goes back: MetalLB runs again as it did. The way back is the ControllerRevision
    /// metallb-before-adoption; it ends when that is deleted. While it is false, nothing is installed beside MetalLB.
    /// Default: false.
    #[serde(default, skip_serializing_if = "is_false")]
    pub adopt: bool,

    /// How changes that restart controller or speakers are carried out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upgrade: Option<Upgrade>,

    /// What deleting the stack does. BlockIfServicesExist: nothing, for as long as Services have addresses of it; condition
    /// DeletionBlocked names them. Orphan: the stack goes, and what it made stays and goes on serving. Withdraw: the Services
    /// lose their addresses, and what it made goes. Pools and advertisements stay in any case. Default: BlockIfServicesExist.
    #[serde(default, skip_serializing_if = "DeletionPolicy::is_default")]
    pub deletion_policy: DeletionPolicy,

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
