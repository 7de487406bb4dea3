//! LoadBalancerStack: an installation of controller and speakers.

use kube::{CustomResource, KubeSchema};
use schemars::Schema;
use serde::{Deserialize, Serialize};

use crate::api_enum::api_enum;
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
pub use optional_components::{InstallMode, Monitoring, NetworkPolicy, PodDisruptionBudget, ServiceMonitor};
pub use preflight::{Preflight, PreflightCheck, PreflightName, PreflightResult};
pub use status::{ComponentStatus, LoadBalancerStackStatus, OperatorLease, StackPhase, VersionCount};
pub use upgrade::{
    Approval, FailedRevision, MAX_FAILED_REVISIONS, MAX_HISTORY, OnFailure, PauseReason, PlanStatus,
    PlannedChange, Revision, StepStatus, Upgrade, UpgradeOutcome, UpgradeRecord, UpgradeStatus, UpgradeStep,
};
pub use workloads::{Controller, Speaker, SpeakerBgp};

/// Desired installation. Every field is optional; an empty spec is suitable for production.
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
    doc = "LoadBalancerStack is an installation of the load balancer: a controller, which assigns addresses to Services of \
           type LoadBalancer, and a speaker on each node, which announces these addresses on the LAN.\n\nA cluster has one \
           LoadBalancerStack, named default; spec: {} is complete. Next, create an IPAddressPool and an L2Advertisement.",
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
        description = "Version of the running components"
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
        description = "Current step of the upgrade",
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
#[x_kube(validation = Rule::new(LOAD_BALANCER_CLASS_IS_IMMUTABLE).message(
    "spec.loadBalancerClass cannot be changed: every Service would lose its address. Delete the stack and create a new one"
))]
pub struct LoadBalancerStackSpec {
    /// Version of controller and speakers. Absent: the version of the operator, so an upgrade of the operator upgrades
    /// them, too. Example: 0.1.0
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(transform = version_schema)]
    pub version: Option<String>,

    /// Namespace of controller, speakers, pools and advertisements. Immutable. Default: metallb-system.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(transform = namespace_schema)]
    #[x_kube(validation = Rule::new("self == oldSelf").message(
        "spec.namespace cannot be changed: it contains pools and advertisements. Delete the stack and create a new one"
    ))]
    pub namespace: Option<String>,

    /// The spec.loadBalancerClass of the Services to serve. Absent: Services without a class. Immutable.
    /// Example: example.com/lan
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(transform = load_balancer_class_schema)]
    pub load_balancer_class: Option<String>,

    /// Minimum severity of the log lines of controller and speakers. Default: info.
    #[serde(default, skip_serializing_if = "is_default")]
    pub log_level: LogLevel,

    /// Images of controller and speakers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub images: Option<Images>,

    /// The controller, which assigns addresses to Services.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub controller: Option<Controller>,

    /// The speakers, which announce the addresses on the LAN, one per node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub speaker: Option<Speaker>,

    /// Objects for the Prometheus Operator.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub monitoring: Option<Monitoring>,

    /// NetworkPolicy of the controller. It allows only metrics and probes as ingress. Egress is not restricted,
    /// because the address of the API server differs between clusters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network_policy: Option<NetworkPolicy>,

    /// PodDisruptionBudgets of controller and speakers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod_disruption_budget: Option<PodDisruptionBudget>,

    /// Preflight checks, which run before an installation or a change. See status.preflight for the results.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preflight: Option<Preflight>,

    /// Whether to migrate from a MetalLB in the namespace of the stack that serves the same Services. Services keep
    /// their addresses; on each node, the speaker of the stack replaces MetalLB's speaker. status.adoption shows the
    /// progress.
    ///
    /// A migration that has begun is completed even if this field is removed: see restore. With false, nothing is
    /// installed beside a MetalLB. Default: false.
    #[serde(default, skip_serializing_if = "is_default")]
    pub adopt: bool,

    /// Whether to end the stack and restore the MetalLB that it replaced. This is possible while the ControllerRevision
    /// metallb-before-adoption exists, at most seven days after the migration, and only if the ServiceAccounts of
    /// MetalLB still exist. It takes precedence over adopt. Deleting the stack restores MetalLB only if this field is
    /// true or the migration is not complete. Default: false.
    #[serde(default, skip_serializing_if = "is_default")]
    pub restore: bool,

    /// How changes that restart controller or speakers are rolled out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upgrade: Option<Upgrade>,

    /// Effect of deleting the stack. Pools and advertisements are always kept. Default: BlockIfServicesExist.
    #[serde(default, skip_serializing_if = "is_default")]
    pub deletion_policy: DeletionPolicy,

    /// Pauses reconciliation: the operator changes no objects of the stack. Controller and speakers keep running.
    /// Default: false.
    #[serde(default, skip_serializing_if = "is_default")]
    pub paused: bool,
}

const LOAD_BALANCER_CLASS_IS_IMMUTABLE: &str = "has(self.loadBalancerClass) == has(oldSelf.loadBalancerClass) && \
     (!has(self.loadBalancerClass) || self.loadBalancerClass == oldSelf.loadBalancerClass)";

api_enum! {
    /// Minimum severity of log lines.
    #[derive(Default)]
    pub enum LogLevel {
        /// Failures that need intervention.
        Error = "error",
        /// Also problems that the program handles itself.
        Warn = "warn",
        /// Also changes of state.
        #[default]
        Info = "info",
        /// Also decisions and their reasons.
        Debug = "debug",
        /// Also every packet.
        Trace = "trace",
    }
}

/// Whether a field has its default, and is omitted.
fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
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
