//! DaemonSet of the speakers: host network, and NET_RAW as the only capability.

use k8s_openapi::api::apps::v1::{DaemonSet, DaemonSetSpec, DaemonSetUpdateStrategy, RollingUpdateDaemonSet};
use k8s_openapi::api::core::v1::{
    PodSecurityContext, PodSpec, Secret, SecretVolumeSource, Volume, VolumeMount,
};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::pod::{self, ContainerOptions, env, env_from};
use super::{Component, Objects, RenderError, named};
use crate::desired::config::StackConfig;
use crate::keys::secret;
use crate::object_id::Kind;

/// Name of the volume with the heartbeat keys.
const KEYS_VOLUME: &str = "heartbeat-keys";

pub(super) fn render(config: &StackConfig, objects: &mut Objects) -> Result<(), RenderError> {
    let component = Component::Speaker;
    // The keys are generated when the Secret is written: see `keys`.
    let keys = Secret {
        metadata: named(&config.namespace, secret::SECRET_NAME),
        type_: Some("Opaque".to_owned()),
        ..Secret::default()
    };
    objects.add(Kind::Secret, Some(component), &keys)?;
    let mut variables = vec![
        env_from("LB_NODE_NAME", "spec.nodeName"),
        env("LB_HEARTBEAT_KEYS", secret::MOUNT_PATH),
    ];
    if config.ignore_exclude_label {
        variables.push(env("LB_IGNORE_EXCLUDE_LB", "true"));
    }
    variables.extend(
        config
            .speaker_settings
            .iter()
            .map(|(name, value)| env(name, value)),
    );
    let options = ContainerOptions {
        component,
        port: config.metrics_port,
        args: excluded_interfaces(config),
        env: variables,
        capabilities: vec!["NET_RAW".to_owned()],
        priority_class: "system-node-critical",
    };
    let mut template = pod::template(config, &config.speaker, options);
    if let Some(spec) = &mut template.spec {
        spec.host_network = Some(true);
        mount_keys(spec);
        spec.dns_policy = Some("ClusterFirstWithHostNet".to_owned());
        // As in MetalLB, so that no node of a migrated cluster starts or stops announcing. Every DaemonSet tolerates
        // the taints of unhealthy and cordoned nodes.
        let own = config.speaker.tolerations.clone();
        spec.tolerations = Some(own.unwrap_or_else(pod::control_plane_tolerations));
        // Only processes of root receive an added capability; all other capabilities are dropped.
        spec.security_context = Some(PodSecurityContext {
            run_as_user: Some(0),
            run_as_group: Some(0),
            ..PodSecurityContext::default()
        });
    }
    let daemon_set = DaemonSet {
        metadata: named(&config.namespace, component.name()),
        spec: Some(DaemonSetSpec {
            selector: component.selector(),
            template,
            update_strategy: Some(DaemonSetUpdateStrategy {
                type_: Some("RollingUpdate".to_owned()),
                rolling_update: Some(RollingUpdateDaemonSet {
                    max_unavailable: Some(IntOrString::Int(1)),
                    // Two speakers on one node would conflict on the metrics port.
                    max_surge: Some(IntOrString::Int(0)),
                }),
            }),
            ..DaemonSetSpec::default()
        }),
        ..DaemonSet::default()
    };
    objects.add(Kind::DaemonSet, Some(component), &daemon_set)
}

/// Mounts the keys as files, which the kubelet updates. The speaker needs no permission to read Secrets.
fn mount_keys(spec: &mut PodSpec) {
    spec.volumes = Some(vec![Volume {
        name: KEYS_VOLUME.to_owned(),
        secret: Some(SecretVolumeSource {
            secret_name: Some(secret::SECRET_NAME.to_owned()),
            default_mode: Some(0o400),
            ..SecretVolumeSource::default()
        }),
        ..Volume::default()
    }]);
    for container in &mut spec.containers {
        container.volume_mounts = Some(vec![VolumeMount {
            name: KEYS_VOLUME.to_owned(),
            mount_path: secret::MOUNT_PATH.to_owned(),
            read_only: Some(true),
            ..VolumeMount::default()
        }]);
    }
}

/// Arguments instead of a variable, because a regular expression may contain any separator. An empty list becomes one
/// empty expression, which excludes nothing: without an argument the speaker would use its default.
fn excluded_interfaces(config: &StackConfig) -> Vec<String> {
    let argument = |pattern: &str| format!("--exclude-interfaces={pattern}");
    match config.excluded_interfaces.as_deref() {
        None => Vec::new(),
        Some([]) => vec![argument("")],
        Some(patterns) => patterns.iter().map(|pattern| argument(pattern)).collect(),
    }
}
