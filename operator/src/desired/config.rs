//! What a stack comes to once every default is filled in and every field is checked: all that rendering needs.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Affinity, ResourceRequirements, Toleration};
use k8s_openapi::api::networking::v1::NetworkPolicyPeer;

/// A checked stack.
#[derive(Clone, Debug, PartialEq)]
pub struct StackConfig {
    /// The stack that owns the objects.
    pub owner: StackOwner,
    /// Namespace that everything runs in.
    pub namespace: String,
    /// Version to run.
    pub version: String,
    /// `LB_LOG_LEVEL` of both programs.
    pub log_level: String,
    /// The class of Services to serve; `None` serves Services without a class.
    pub load_balancer_class: Option<String>,
    /// How images are pulled.
    pub pull_policy: String,
    /// Secrets, in the stack's namespace, to pull them with.
    pub pull_secrets: Vec<String>,
    /// Replicas of the controller.
    pub controller_replicas: i32,
    /// The controller's pods.
    pub controller: PodConfig,
    /// The speaker's pods.
    pub speaker: PodConfig,
    /// Whether nodes with the exclude label announce all the same.
    pub ignore_exclude_label: bool,
    /// Interfaces never announced on, as regular expressions; `None` leaves it to the speaker's own list.
    pub excluded_interfaces: Option<Vec<String>>,
    /// Settings of the speaker that the stack names, as environment variables; it has its own defaults for the others.
    pub speaker_settings: Vec<(&'static str, String)>,
    /// Whether the metallb.io kinds are among the objects; somebody else installs them otherwise.
    pub crds: bool,
    /// Whether a running MetalLB is to be replaced.
    pub adopt: bool,
    /// The ServiceMonitor, if there is to be one.
    pub service_monitor: Option<MonitorConfig>,
    /// Whether there is to be a NetworkPolicy.
    pub network_policy: bool,
    /// Whom it lets in; `None` lets in every pod of the cluster.
    pub metrics_from: Option<Vec<NetworkPolicyPeer>>,
    /// How many controllers their PodDisruptionBudget keeps; `None` for no budget.
    pub controller_min_available: Option<i32>,
    /// The same for the speakers.
    pub speaker_min_available: Option<i32>,
}

/// What can be set about the ServiceMonitor.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct MonitorConfig {
    /// Labels besides those of every object.
    pub labels: BTreeMap<String, String>,
    /// Time between two questions for metrics; `None` leaves it to Prometheus.
    pub interval: Option<String>,
}

/// The stack that owns what is rendered.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct StackOwner {
    /// Its name.
    pub name: String,
    /// Its uid.
    pub uid: String,
}

/// What can be set about the pods of both programs. What is absent takes the options's own default.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PodConfig {
    /// The image to run.
    pub image: String,
    /// Requests and limits.
    pub resources: Option<ResourceRequirements>,
    /// Priority class.
    pub priority_class: Option<String>,
    /// Labels that a node must have, besides running Linux.
    pub node_selector: BTreeMap<String, String>,
    /// Taints to tolerate.
    pub tolerations: Option<Vec<Toleration>>,
    /// Node and pod affinity.
    pub affinity: Option<Affinity>,
    /// Annotations of the pods.
    pub pod_annotations: BTreeMap<String, String>,
}

impl PodConfig {
    /// Labels that a node must have for a pod to run there.
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

    /// The config of a stack without a field set, on a cluster with the ServiceMonitor kind.
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
