//! From a stack's spec to a plan: defaults filled in, every field checked. Pure.
//!
//! What the API server's schema cannot see is checked here, before anything is written: a stack that cannot be
//! carried out leaves what runs as it is, and says in a condition which field is wrong and what to do.

use kube::ResourceExt;
use lb_crds::load_balancer_stack::{
    ComponentImage, ConflictPolicy, Failback, Images, PartitionPolicy, Placement, Speaker,
};
use lb_crds::{LoadBalancerStack, Mode};
use semver::Version;

use crate::args::Config;
use crate::image::Image;
use crate::plan::{Owner, Plan, Workload};

/// API version of the stack's kind.
pub const API_VERSION: &str = "lb-operator.io/v1alpha1";
/// Replicas of the controller: one leads, one stands by.
const REPLICAS: i32 = 2;

/// What is wrong with a spec: which field, and what to do.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum SpecError {
    /// The version cannot be read.
    #[error(
        "spec.version: {0:?} is not a version: write it like 0.1.0, or remove the field to follow the operator"
    )]
    VersionSyntax(String),
    /// The version is newer than the operator.
    #[error(
        "spec.version: this operator is of version {own} and can not install {asked}: upgrade the operator first, or \
         remove the field to follow it"
    )]
    VersionTooNew {
        /// The version asked for.
        asked: Version,
        /// The operator's version.
        own: Version,
    },
    /// The version is older than the operator.
    #[error(
        "spec.version: this operator installs {own} and no longer {asked}: remove the field to follow the operator, or \
         go back to the operator of that version"
    )]
    VersionTooOld {
        /// The version asked for.
        asked: Version,
        /// The operator's version.
        own: Version,
    },
    /// A regular expression cannot be read.
    #[error("spec.speaker.excludedInterfaces[{index}]: {pattern:?} is not a regular expression: {error}")]
    Interfaces {
        /// Which entry.
        index: usize,
        /// The entry.
        pattern: String,
        /// What is wrong with it.
        error: String,
    },
}

/// The namespace of a stack, also when the rest of it cannot be carried out.
#[must_use]
pub fn namespace(stack: &LoadBalancerStack, config: &Config) -> String {
    stack.spec.namespace.as_ref().unwrap_or(&config.namespace).clone()
}

/// What the spec asks for and this cluster does not have.
#[must_use]
pub fn missing_prerequisite(stack: &LoadBalancerStack, monitors_exist: bool) -> Option<String> {
    (monitor_mode(stack) == Mode::Enabled && !monitors_exist).then(|| {
        "spec.monitoring.serviceMonitor.mode: it is Enabled and this cluster has no kind ServiceMonitor: install the \
         Prometheus Operator, or set it to Auto"
            .to_owned()
    })
}

/// The plan for a stack. `monitors_exist` tells whether the cluster has the kind ServiceMonitor.
///
/// # Errors
/// When a field cannot be carried out.
pub fn plan(stack: &LoadBalancerStack, config: &Config, monitors_exist: bool) -> Result<Plan, SpecError> {
    let spec = stack.spec.clone();
    let images = spec.images.unwrap_or_default();
    let controller = spec.controller.unwrap_or_default();
    let speaker = spec.speaker.unwrap_or_default();
    check_interfaces(speaker.excluded_interfaces.as_deref().unwrap_or_default())?;
    let speaker_settings = settings(&speaker);
    Ok(Plan {
        owner: Owner {
            name: stack.name_any(),
            uid: stack.uid().unwrap_or_default(),
        },
        namespace: namespace(stack, config),
        version: version(spec.version.as_deref(), config)?,
        log_level: spec.log_level.as_str().to_owned(),
        load_balancer_class: spec.load_balancer_class,
        pull_policy: images.pull_policy.as_str().to_owned(),
        controller_replicas: controller.replicas.unwrap_or(REPLICAS),
        controller: Workload {
            image: image(&config.controller_image, &images, images.controller.as_ref()),
            resources: controller.resources,
            priority_class: controller.priority_class_name,
            node_selector: controller.node_selector,
            tolerations: controller.tolerations,
            affinity: controller.affinity,
            pod_annotations: controller.pod_annotations,
        },
        speaker: Workload {
            image: image(&config.speaker_image, &images, images.speaker.as_ref()),
            resources: speaker.resources,
            priority_class: speaker.priority_class_name,
            node_selector: speaker.node_selector,
            tolerations: speaker.tolerations,
            affinity: speaker.affinity,
            pod_annotations: speaker.pod_annotations,
        },
        pull_secrets: images.pull_secrets,
        ignore_exclude_label: speaker.ignore_exclude_label,
        speaker_settings,
        excluded_interfaces: speaker.excluded_interfaces,
        crds: config.manage_crds,
        service_monitor: monitors_exist && monitor_mode(stack) != Mode::Disabled,
        network_policy: is_on(spec.network_policy.map(|policy| policy.mode)),
        pod_disruption_budget: is_on(spec.pod_disruption_budget.map(|budget| budget.mode)),
    })
}

/// What the stack says about announcing, as the speaker's variables.
fn settings(speaker: &Speaker) -> Vec<(&'static str, String)> {
    let heartbeat = speaker.heartbeat.clone().unwrap_or_default();
    let policy = speaker.partition_policy.map(|policy| match policy {
        PartitionPolicy::Availability => "availability",
        PartitionPolicy::Fenced => "fenced",
    });
    let failback = speaker.failback.map(|failback| match failback {
        Failback::Never => "never",
        Failback::Immediate => "immediate",
    });
    // Not told where it is what the speaker does anyway.
    let placement = speaker.placement.and_then(|placement| match placement {
        Placement::HashOrder => None,
        Placement::Balanced => Some("balanced"),
    });
    let conflicts = speaker.conflict_policy.map(|policy| match policy {
        ConflictPolicy::Warn => "warn",
        ConflictPolicy::Defend => "defend",
        ConflictPolicy::Yield => "yield",
    });
    let number = |number: Option<i32>| number.map(|number| number.to_string());
    let word = |word: Option<&str>| word.map(str::to_owned);
    let settings = [
        (
            "LB_HEARTBEAT_INTERVAL_MS",
            number(heartbeat.interval_milliseconds),
        ),
        ("LB_HEARTBEAT_MISSES", number(heartbeat.misses)),
        ("LB_HEARTBEAT_PORT", number(heartbeat.port)),
        ("LB_PARTITION_POLICY", word(policy)),
        ("LB_FAILBACK", word(failback)),
        ("LB_PLACEMENT", word(placement)),
        ("LB_CONFLICT_POLICY", word(conflicts)),
        ("LB_ANNOUNCE_INTERVAL", number(speaker.announce_interval_seconds)),
        ("LB_RESTART_GRACE", number(speaker.restart_grace_seconds)),
    ];
    let named = settings.into_iter();
    named.filter_map(|(name, value)| Some((name, value?))).collect()
}

/// One operator installs one version: its own.
fn version(asked: Option<&str>, config: &Config) -> Result<String, SpecError> {
    let Some(asked) = asked else {
        return Ok(config.version.clone());
    };
    let parse = |text: &str| Version::parse(text).map_err(|_| SpecError::VersionSyntax(text.to_owned()));
    let (asked, own) = (parse(asked)?, parse(&config.version)?);
    match asked.cmp_precedence(&own) {
        std::cmp::Ordering::Equal => Ok(config.version.clone()),
        std::cmp::Ordering::Greater => Err(SpecError::VersionTooNew { asked, own }),
        std::cmp::Ordering::Less => Err(SpecError::VersionTooOld { asked, own }),
    }
}

/// A speaker given an expression that it cannot read does not start, on any node: that must not get as far.
fn check_interfaces(patterns: &[String]) -> Result<(), SpecError> {
    for (index, pattern) in patterns.iter().enumerate() {
        if let Err(error) = regex::Regex::new(pattern) {
            // The crate draws a picture of several lines; its last line says what is wrong.
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

fn image(default: &str, images: &Images, own: Option<&ComponentImage>) -> String {
    let mut image = Image::parse(default);
    if let Some(registry) = &images.registry {
        image = image.from_registry(registry);
    }
    if let Some(repository) = own.and_then(|own| own.repository.as_ref()) {
        image = image.from_repository(repository);
    }
    if let Some(digest) = own.and_then(|own| own.digest.as_ref()) {
        image = image.pinned(digest);
    }
    image.to_string()
}

fn monitor_mode(stack: &LoadBalancerStack) -> Mode {
    let monitoring = stack.spec.monitoring.as_ref();
    let monitor = monitoring.and_then(|monitoring| monitoring.service_monitor.as_ref());
    monitor.map_or(Mode::Auto, |monitor| monitor.mode)
}

fn is_on(mode: Option<Mode>) -> bool {
    mode != Some(Mode::Disabled)
}
