//! A stack with validated fields and defaults: the input of rendering.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Affinity, ResourceRequirements, Toleration};
use k8s_openapi::api::networking::v1::NetworkPolicyPeer;

/// The configuration of a stack.
#[derive(Clone, Debug, PartialEq)]
pub struct StackConfig {
    /// Owner of the objects.
    pub owner: StackOwner,
    /// Namespace of the stack.
    pub namespace: String,
    /// Version to run.
    pub version: String,
    /// `LB_LOG_LEVEL` of both components.
    pub log_level: String,
    /// Load balancer class of the Services; `None` for Services without a class.
    pub load_balancer_class: Option<String>,
    /// Pull policy of both images.
    pub pull_policy: String,
    /// Pull secrets in the stack's namespace.
    pub pull_secrets: Vec<String>,
    /// Number of controllers.
    pub controller_replicas: i32,
    /// Pods of the controllers.
    pub controller: PodConfig,
    /// Pods of the speakers.
    pub speaker: PodConfig,
    /// Whether nodes with the label `node.kubernetes.io/exclude-from-external-load-balancers` announce.
    pub ignore_exclude_label: bool,
    /// Interfaces that never announce, as regular expressions; `None` for the speaker's default.
    pub excluded_interfaces: Option<Vec<String>>,
    /// Port of the speakers' metrics and probes on every node.
    pub metrics_port: i32,
    /// UDP port of the heartbeats on every node.
    pub heartbeat_port: i32,
    /// Environment variables for speaker settings in the spec; others have the speaker's default.
    pub speaker_settings: Vec<(&'static str, String)>,
    /// Whether the operator applies the metallb.io CRDs.
    pub crds: bool,
    /// Whether an existing MetalLB is adopted.
    pub adopt: bool,
    /// Settings of the ServiceMonitor; `None` for no ServiceMonitor.
    pub service_monitor: Option<MonitorConfig>,
    /// Whether to render a NetworkPolicy.
    pub network_policy: bool,
    /// Sources that the NetworkPolicy permits; `None` for all pods of the cluster.
    pub metrics_from: Option<Vec<NetworkPolicyPeer>>,
    /// `minAvailable` of the controllers' PodDisruptionBudget; `None` for no budget.
    pub controller_min_available: Option<i32>,
    /// The same for the speakers.
    pub speaker_min_available: Option<i32>,
}

/// Settings of the ServiceMonitor.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct MonitorConfig {
    /// Additional labels.
    pub labels: BTreeMap<String, String>,
    /// Scrape interval; `None` for the default of Prometheus.
    pub interval: Option<String>,
}

/// The stack that owns the objects.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct StackOwner {
    /// Name.
    pub name: String,
    /// UID.
    pub uid: String,
}

/// Settings of the pods of a component. Absent fields have the component's default.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PodConfig {
    /// Image.
    pub image: String,
    /// Requests and limits.
    pub resources: Option<ResourceRequirements>,
    /// Priority class.
    pub priority_class: Option<String>,
    /// Labels that a node must have, in addition to `kubernetes.io/os=linux`.
    pub node_selector: BTreeMap<String, String>,
    /// Taints to tolerate.
    pub tolerations: Option<Vec<Toleration>>,
    /// Node and pod affinity.
    pub affinity: Option<Affinity>,
    /// Annotations of the pods.
    pub pod_annotations: BTreeMap<String, String>,
}

impl PodConfig {
    /// Labels that a node must have, including `kubernetes.io/os=linux`.
    #[must_use]
    pub fn selector(&self) -> BTreeMap<String, String> {
        let mut selector = self.node_selector.clone();
        selector.insert("kubernetes.io/os".to_owned(), "linux".to_owned());
        selector
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::desired::render::PORT;

    /// The configuration of a stack with an empty spec, on a cluster with the CRD ServiceMonitor.
    pub(crate) fn mk_config() -> StackConfig {
        let workload = |name| PodConfig {
            image: format!("lb-operator.io/{name}:0.1.0"),
            ..PodConfig::default()
        };
        StackConfig {
            owner: StackOwner {
                name: "default".to_owned(),
                uid: "stack-uid".to_owned(),
            },
            namespace: "metallb-system".to_owned(),
            version: "0.1.0".to_owned(),
            log_level: "info".to_owned(),
            load_balancer_class: None,
            pull_policy: "IfNotPresent".to_owned(),
            pull_secrets: Vec::new(),
            controller_replicas: 2,
            controller: workload("controller"),
            speaker: workload("speaker"),
            ignore_exclude_label: false,
            excluded_interfaces: None,
            metrics_port: PORT,
            heartbeat_port: 7947,
            speaker_settings: Vec::new(),
            crds: true,
            adopt: false,
            service_monitor: Some(MonitorConfig::default()),
            network_policy: true,
            metrics_from: None,
            controller_min_available: Some(1),
            speaker_min_available: Some(1),
        }
    }
}
