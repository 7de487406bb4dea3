//! Common parts of the pods of both components: environment, probes, port, image, security and priority.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    Capabilities, Container, ContainerPort, EnvVar, EnvVarSource, HTTPGetAction, LocalObjectReference,
    ObjectFieldSelector, PodSpec, PodTemplateSpec, Probe, ResourceRequirements, SeccompProfile,
    SecurityContext, Toleration,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::{Component, PORT_NAME};
use crate::desired::config::{PodConfig, StackConfig};

/// Options that differ between the containers of the components.
pub(super) struct ContainerOptions {
    pub(super) component: Component,
    /// Port of metrics and probes.
    pub(super) port: i32,
    pub(super) args: Vec<String>,
    pub(super) env: Vec<EnvVar>,
    /// Capabilities to add; all others are dropped.
    pub(super) capabilities: Vec<String>,
    /// Priority class unless the spec sets one.
    pub(super) priority_class: &'static str,
}

/// The pod template of a component. The caller adds fields that only this component has.
pub(super) fn template(
    config: &StackConfig,
    workload: &PodConfig,
    options: ContainerOptions,
) -> PodTemplateSpec {
    let component = options.component;
    let mut node_selector = workload.node_selector.clone();
    node_selector.insert("kubernetes.io/os".to_owned(), "linux".to_owned());
    let pull_secrets: Vec<_> = config
        .pull_secrets
        .iter()
        .map(|name| LocalObjectReference { name: name.clone() })
        .collect();
    let priority_class = workload
        .priority_class
        .clone()
        .unwrap_or_else(|| options.priority_class.to_owned());
    PodTemplateSpec {
        metadata: Some(ObjectMeta {
            labels: Some(component.labels(&config.version)),
            annotations: Some(annotations(&workload.pod_annotations, component)),
            ..ObjectMeta::default()
        }),
        spec: Some(PodSpec {
            service_account_name: Some(component.name().to_owned()),
            priority_class_name: Some(priority_class),
            node_selector: Some(node_selector),
            affinity: workload.affinity.clone(),
            // With 0, the API server would remove the pod at once, and a second one could start beside it.
            termination_grace_period_seconds: Some(10),
            enable_service_links: Some(false),
            image_pull_secrets: (!pull_secrets.is_empty()).then_some(pull_secrets),
            containers: vec![container(config, workload, options)],
            ..PodSpec::default()
        }),
    }
}

fn annotations(own: &BTreeMap<String, String>, component: Component) -> BTreeMap<String, String> {
    let mut annotations = own.clone();
    annotations
        .entry("kubectl.kubernetes.io/default-container".to_owned())
        .or_insert_with(|| component.name().to_owned());
    annotations
}

fn container(config: &StackConfig, workload: &PodConfig, options: ContainerOptions) -> Container {
    let mut env = vec![
        env("LB_LOG_LEVEL", &config.log_level),
        env_from("LB_NAMESPACE", "metadata.namespace"),
        env_from("LB_POD_NAME", "metadata.name"),
    ];
    if let Some(class) = &config.load_balancer_class {
        env.push(self::env("LB_LOAD_BALANCER_CLASS", class));
    }
    env.extend(options.env);
    let add = (!options.capabilities.is_empty()).then_some(options.capabilities);
    Container {
        name: options.component.name().to_owned(),
        image: Some(workload.image.clone()),
        image_pull_policy: Some(config.pull_policy.clone()),
        args: (!options.args.is_empty()).then_some(options.args),
        env: Some(env),
        ports: Some(vec![ContainerPort {
            name: Some(PORT_NAME.to_owned()),
            container_port: options.port,
            protocol: Some("TCP".to_owned()),
            ..ContainerPort::default()
        }]),
        resources: Some(workload.resources.clone().unwrap_or_else(default_resources)),
        // The last line of a program that cannot start, such as "address already in use", is its termination message.
        termination_message_policy: Some("FallbackToLogsOnError".to_owned()),
        // Restarts late: a program that is slow on a busy node must not lose its addresses.
        liveness_probe: Some(probe("/healthz", 10, 6, 5)),
        // Becomes ready quickly, and loses it more slowly.
        readiness_probe: Some(probe("/readyz", 2, 5, 2)),
        security_context: Some(SecurityContext {
            allow_privilege_escalation: Some(false),
            capabilities: Some(Capabilities {
                add,
                drop: Some(vec!["ALL".to_owned()]),
            }),
            read_only_root_filesystem: Some(true),
            seccomp_profile: Some(SeccompProfile {
                type_: "RuntimeDefault".to_owned(),
                ..SeccompProfile::default()
            }),
            ..SecurityContext::default()
        }),
        ..Container::default()
    }
}

/// Requests without limits: the data plane must not be killed or throttled during a load peak.
fn default_resources() -> ResourceRequirements {
    ResourceRequirements {
        requests: Some(BTreeMap::from([
            ("cpu".to_owned(), Quantity("10m".to_owned())),
            ("memory".to_owned(), Quantity("32Mi".to_owned())),
        ])),
        ..ResourceRequirements::default()
    }
}

fn probe(path: &str, period: i32, failures: i32, timeout: i32) -> Probe {
    Probe {
        http_get: Some(HTTPGetAction {
            path: Some(path.to_owned()),
            port: IntOrString::String(PORT_NAME.to_owned()),
            scheme: Some("HTTP".to_owned()),
            ..HTTPGetAction::default()
        }),
        period_seconds: Some(period),
        failure_threshold: Some(failures),
        timeout_seconds: Some(timeout),
        ..Probe::default()
    }
}

pub(super) fn env(name: &str, value: &str) -> EnvVar {
    EnvVar {
        name: name.to_owned(),
        value: Some(value.to_owned()),
        ..EnvVar::default()
    }
}

pub(super) fn env_from(name: &str, field: &str) -> EnvVar {
    EnvVar {
        name: name.to_owned(),
        value_from: Some(EnvVarSource {
            field_ref: Some(ObjectFieldSelector {
                api_version: Some("v1".to_owned()),
                field_path: field.to_owned(),
            }),
            ..EnvVarSource::default()
        }),
        ..EnvVar::default()
    }
}

/// Tolerates control-plane nodes with any taint effect, by the current label and its predecessor.
pub(super) fn control_plane_tolerations() -> Vec<Toleration> {
    ["control-plane", "master"]
        .map(|role| Toleration {
            key: Some(format!("node-role.kubernetes.io/{role}")),
            operator: Some("Exists".to_owned()),
            ..Toleration::default()
        })
        .to_vec()
}
