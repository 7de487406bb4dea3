//! Validation of a stack's spec, and its defaults. Pure.
//!
//! Checks that the CRD's schema cannot express run here, before anything is written. An invalid spec changes no running
//! workload; a condition names the field, the reason and the remedy.

use std::cmp::Ordering;

use kube::ResourceExt;
use lb_crds::load_balancer_stack::{
    ConflictPolicy, Failback, Images, PartitionPolicy, Placement, PodDisruptionBudget, Speaker,
};
use lb_crds::{InstallMode, LoadBalancerStack, kebab_case};
use semver::Version;

use crate::args::OperatorConfig;
use crate::desired::config::{MonitorConfig, PodConfig, StackConfig, StackOwner};
use crate::desired::image::Image;
use crate::desired::render::{Component, PORT};

/// API version of LoadBalancerStack.
pub const API_VERSION: &str = "lb-operator.io/v1alpha1";
/// Default UDP port of the heartbeats.
const HEARTBEAT_PORT: i32 = 7947;
/// Default number of controllers: a leader and a standby.
const REPLICAS: i32 = 2;

/// An invalid field of the spec.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum SpecError {
    /// The version is not valid.
    #[error(
        "spec.version: {0:?} is not a version such as 0.1.0: correct it, or remove the field to follow the operator"
    )]
    VersionSyntax(String),
    /// The version is newer than the operator.
    #[error(
        "spec.version: operator version {own} cannot install the newer version {asked}: upgrade the operator first, or \
         remove the field to follow the operator"
    )]
    VersionTooNew {
        /// The desired version.
        asked: Version,
        /// The operator's version.
        own: Version,
    },
    /// The version is older than the previous minor version.
    #[error(
        "spec.version: operator version {own} installs {} but not {asked}: remove the field to follow the operator, \
         or install an operator of that version", installs(.own)
    )]
    VersionTooOld {
        /// The desired version.
        asked: Version,
        /// The operator's version.
        own: Version,
    },
    /// The image of another version cannot be derived from a digest.
    #[error(
        "spec.version: the operator's image of the {component} has the digest of version {own}: set \
         spec.images.{component}.digest to the digest of {asked}, or remove spec.version to follow the operator"
    )]
    Pinned {
        /// The component.
        component: &'static str,
        /// The desired version.
        asked: String,
        /// The operator's version.
        own: String,
    },
    /// A digest without the version that it contains.
    #[error(
        "spec.images.{component}.digest: a digest contains one version, and without spec.version the stack follows the \
         operator: set spec.version to the version of the digest, or remove the digest"
    )]
    DigestWithoutVersion {
        /// The component.
        component: &'static str,
    },
    /// The PodDisruptionBudget would block every eviction.
    #[error(
        "spec.podDisruptionBudget.controllerMinAvailable: {min_available} of {replicas} controllers permits no eviction \
         and blocks every drain of their nodes: set it below spec.controller.replicas, or remove it"
    )]
    Budget {
        /// Minimum of available controllers.
        min_available: i32,
        /// Number of controllers.
        replicas: i32,
    },
    /// A regular expression is not valid.
    #[error("spec.speaker.excludedInterfaces[{index}]: {pattern:?} is not a regular expression: {error}")]
    Interfaces {
        /// Index of the entry.
        index: usize,
        /// The entry.
        pattern: String,
        /// Error of the parser.
        error: String,
    },
}

/// The namespace of a stack, even if its spec is invalid.
#[must_use]
pub fn namespace(stack: &LoadBalancerStack, operator: &OperatorConfig) -> String {
    stack
        .spec
        .namespace
        .as_ref()
        .unwrap_or(&operator.namespace)
        .clone()
}

/// An API that the spec requires and the cluster does not have.
#[must_use]
pub fn missing_prerequisite(stack: &LoadBalancerStack, monitors_exist: bool) -> Option<String> {
    (monitor_mode(stack) == InstallMode::Enabled && !monitors_exist).then(|| {
        "spec.monitoring.serviceMonitor.mode: it is Enabled but the cluster has no CRD ServiceMonitor: install the \
         Prometheus Operator, or set it to Auto"
            .to_owned()
    })
}

/// Validates a stack and fills in the defaults. `monitors_exist`: whether the cluster has the CRD ServiceMonitor.
///
/// # Errors
/// If a field is not valid.
pub fn stack_config(
    stack: &LoadBalancerStack,
    operator: &OperatorConfig,
    monitors_exist: bool,
) -> Result<StackConfig, SpecError> {
    let spec = stack.spec.clone();
    let images = spec.images.unwrap_or_default();
    let controller = spec.controller.unwrap_or_default();
    let speaker = spec.speaker.unwrap_or_default();
    let monitor = spec.monitoring.and_then(|monitoring| monitoring.service_monitor);
    let monitor = monitor.unwrap_or_default();
    let policy = spec.network_policy.unwrap_or_default();
    let budget = spec.pod_disruption_budget.unwrap_or_default();
    check_interfaces(speaker.excluded_interfaces.as_deref().unwrap_or_default())?;
    let speaker_settings = settings(&speaker);
    // All supported versions have the same objects. A version that needs others is recognized by
    // `StackConfig::version`.
    let version = version(spec.version.as_deref(), operator)?;
    for (component, image) in [
        (Component::Controller, &images.controller),
        (Component::Speaker, &images.speaker),
    ] {
        if spec.version.is_none() && image.as_ref().is_some_and(|image| image.digest.is_some()) {
            let component = component.name();
            return Err(SpecError::DigestWithoutVersion { component });
        }
    }
    let image = |component| image(component, &version, operator, &images);
    let (controller_image, speaker_image) = (image(Component::Controller)?, image(Component::Speaker)?);
    let controller_replicas = controller.replicas.unwrap_or(REPLICAS);
    let [controller_min_available, speaker_min_available] = min_available(&budget, controller_replicas)?;
    Ok(StackConfig {
        owner: StackOwner {
            name: stack.name_any(),
            uid: stack.uid().unwrap_or_default(),
        },
        namespace: namespace(stack, operator),
        version,
        log_level: spec.log_level.as_str().to_owned(),
        load_balancer_class: spec.load_balancer_class,
        pull_policy: images.pull_policy.as_str().to_owned(),
        controller_replicas,
        controller: PodConfig {
            image: controller_image,
            resources: controller.resources,
            priority_class: controller.priority_class_name,
            node_selector: controller.node_selector,
            tolerations: controller.tolerations,
            affinity: controller.affinity,
            pod_annotations: controller.pod_annotations,
        },
        speaker: PodConfig {
            image: speaker_image,
            resources: speaker.resources,
            priority_class: speaker.priority_class_name,
            node_selector: speaker.node_selector,
            tolerations: speaker.tolerations,
            affinity: speaker.affinity,
            pod_annotations: speaker.pod_annotations,
        },
        pull_secrets: images.pull_secrets,
        ignore_exclude_label: speaker.ignore_exclude_label,
        metrics_port: speaker.metrics_port.unwrap_or(PORT),
        heartbeat_port: speaker
            .heartbeat
            .and_then(|heartbeat| heartbeat.port)
            .unwrap_or(HEARTBEAT_PORT),
        speaker_settings,
        excluded_interfaces: speaker.excluded_interfaces,
        crds: operator.manage_crds,
        adopt: spec.adopt && !spec.restore,
        service_monitor: (monitors_exist && monitor_mode(stack) != InstallMode::Disabled).then_some(
            MonitorConfig {
                labels: monitor.labels,
                interval: monitor.interval,
            },
        ),
        network_policy: policy.mode != InstallMode::Disabled,
        metrics_from: policy.metrics_from,
        controller_min_available,
        speaker_min_available,
    })
}

/// `minAvailable` of the PodDisruptionBudgets of controllers and speakers.
fn min_available(budget: &PodDisruptionBudget, replicas: i32) -> Result<[Option<i32>; 2], SpecError> {
    if budget.mode == InstallMode::Disabled {
        return Ok([None; 2]);
    }
    let controllers = match budget.controller_min_available {
        Some(min_available) if min_available >= replicas => {
            return Err(SpecError::Budget {
                min_available,
                replicas,
            });
        }
        Some(min_available) => Some(min_available),
        // With a single replica, a budget would block every drain of its node.
        None => (replicas > 1).then_some(1),
    };
    Ok([controllers, Some(budget.speaker_min_available.unwrap_or(1))])
}

/// Environment variables for the announcement settings of the speakers.
fn settings(speaker: &Speaker) -> Vec<(&'static str, String)> {
    let heartbeat = speaker.heartbeat.clone().unwrap_or_default();
    let bgp = speaker.bgp.clone().unwrap_or_default();
    // The speaker's own default.
    let placement = speaker
        .placement
        .filter(|placement| *placement != Placement::HashOrder);
    let number = |number: Option<i32>| number.map(|number| number.to_string());
    let word = |word: Option<&str>| word.map(kebab_case);
    let settings = [
        (
            "LB_LISTEN",
            speaker.metrics_port.map(|port| format!("[::]:{port}")),
        ),
        (
            "LB_FAILURE_TIMEOUT_MS",
            number(heartbeat.failure_timeout_milliseconds),
        ),
        ("LB_HEARTBEAT_PORT", number(heartbeat.port)),
        (
            "LB_PARTITION_POLICY",
            word(speaker.partition_policy.map(PartitionPolicy::as_str)),
        ),
        ("LB_FAILBACK", word(speaker.failback.map(Failback::as_str))),
        ("LB_PLACEMENT", word(placement.map(Placement::as_str))),
        (
            "LB_CONFLICT_POLICY",
            word(speaker.conflict_policy.map(ConflictPolicy::as_str)),
        ),
        ("LB_ANNOUNCE_INTERVAL", number(speaker.announce_interval_seconds)),
        ("LB_RESTART_GRACE", number(speaker.restart_grace_seconds)),
        ("LB_BFD_RESTART_BUDGET", number(bgp.bfd_restart_budget_seconds)),
    ];
    let named = settings.into_iter();
    named.filter_map(|(name, value)| Some((name, value?))).collect()
}

/// An operator installs versions up to its own, of its minor version and the previous one.
fn version(asked: Option<&str>, operator: &OperatorConfig) -> Result<String, SpecError> {
    let Some(asked) = asked else {
        return Ok(operator.version.clone());
    };
    let parse = |text: &str| Version::parse(text).map_err(|_| SpecError::VersionSyntax(text.to_owned()));
    let (asked, own) = (parse(asked)?, parse(&operator.version)?);
    match asked.cmp_precedence(&own) {
        Ordering::Equal => Ok(operator.version.clone()),
        Ordering::Greater => Err(SpecError::VersionTooNew { asked, own }),
        Ordering::Less if asked.major == own.major && asked.minor + 1 >= own.minor => Ok(asked.to_string()),
        Ordering::Less => Err(SpecError::VersionTooOld { asked, own }),
    }
}

/// The minor versions that an operator installs.
fn installs(own: &Version) -> String {
    let (major, minor) = (own.major, own.minor);
    match minor.checked_sub(1) {
        Some(before) => format!("{major}.{before} and {major}.{minor}"),
        None => format!("{major}.{minor}"),
    }
}

/// A speaker with an invalid expression does not start, on any node.
fn check_interfaces(patterns: &[String]) -> Result<(), SpecError> {
    for (index, pattern) in patterns.iter().enumerate() {
        if let Err(error) = regex::Regex::new(pattern) {
            // The error of the crate spans several lines; the last one has the reason.
            let error = error.to_string();
            let error = error.lines().last().unwrap_or_default();
            return Err(SpecError::Interfaces {
                index,
                pattern: pattern.clone(),
                error: error.trim_start_matches("error: ").to_owned(),
            });
        }
    }
    Ok(())
}

/// The image of a component. Another version than the operator's has the same repository and another tag, and only a
/// digest from the spec.
fn image(
    component: Component,
    version: &str,
    operator: &OperatorConfig,
    images: &Images,
) -> Result<String, SpecError> {
    let (default, own) = match component {
        Component::Controller => (&operator.controller_image, images.controller.as_ref()),
        Component::Speaker => (&operator.speaker_image, images.speaker.as_ref()),
    };
    let mut image = Image::parse(default);
    if let Some(registry) = &images.registry {
        image = image.from_registry(registry);
    }
    if let Some(repository) = own.and_then(|own| own.repository.as_ref()) {
        image = image.from_repository(repository);
    }
    let digest = own.and_then(|own| own.digest.as_ref());
    if version != operator.version {
        if image.is_pinned() && digest.is_none() {
            return Err(SpecError::Pinned {
                component: component.name(),
                asked: version.to_owned(),
                own: operator.version.clone(),
            });
        }
        image = image.tagged(version);
    }
    if let Some(digest) = digest {
        image = image.pinned(digest);
    }
    Ok(image.to_string())
}

fn monitor_mode(stack: &LoadBalancerStack) -> InstallMode {
    let monitoring = stack.spec.monitoring.as_ref();
    let monitor = monitoring.and_then(|monitoring| monitoring.service_monitor.as_ref());
    monitor.map_or(InstallMode::Auto, |monitor| monitor.mode)
}
