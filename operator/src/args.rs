//! Command-line arguments and the configuration derived from them.

use clap::{ArgAction, Parser};
use lb_runtime::CommonArgs;

/// Version of this operator and of the stacks that it installs.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Installs, upgrades and repairs the load balancer that a LoadBalancerStack describes
#[derive(Clone, Debug, Parser)]
#[command(name = "lb-operator", version)]
pub struct Args {
    /// Arguments of all programs.
    #[command(flatten)]
    pub common: CommonArgs,

    /// Image of the controller
    #[arg(long, env = "RELATED_IMAGE_CONTROLLER")]
    pub controller_image: String,

    /// Image of the speaker
    #[arg(long, env = "RELATED_IMAGE_SPEAKER")]
    pub speaker_image: String,

    /// Namespace of the operator and its Lease
    #[arg(long, env = "LB_OPERATOR_NAMESPACE", default_value = "default")]
    pub operator_namespace: String,

    /// Name of the Lease for leader election
    #[arg(long, env = "LB_LEASE_NAME", default_value = "lb-operator")]
    pub lease_name: String,

    /// Install and update the metallb.io CRDs; false if OLM installs them with the operator
    #[arg(long, env = "LB_MANAGE_CRDS", default_value_t = true, action = ArgAction::Set)]
    pub manage_crds: bool,
}

/// Configuration of the operator.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct OperatorConfig {
    /// Version of this operator, and of a stack without `spec.version`.
    pub version: String,
    /// Image of the controller at that version.
    pub controller_image: String,
    /// Image of the speaker at that version.
    pub speaker_image: String,
    /// Namespace of a stack without `spec.namespace`.
    pub namespace: String,
    /// Namespace of the operator's Lease.
    pub operator_namespace: String,
    /// Name of the operator's Lease.
    pub lease_name: String,
    /// Whether the operator installs and updates the metallb.io CRDs.
    pub manage_crds: bool,
}

impl Args {
    /// Derives the configuration.
    #[must_use]
    pub fn config(&self) -> OperatorConfig {
        OperatorConfig {
            version: VERSION.to_owned(),
            controller_image: self.controller_image.clone(),
            speaker_image: self.speaker_image.clone(),
            namespace: self.common.namespace.clone(),
            operator_namespace: self.operator_namespace.clone(),
            lease_name: self.lease_name.clone(),
            manage_crds: self.manage_crds,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const IMAGES: [&str; 5] = [
        "lb-operator",
        "--controller-image",
        "localhost/c:1",
        "--speaker-image",
        "localhost/s:1",
    ];

    /// A default would be a name in a registry that somebody else may own.
    #[test]
    fn images_have_no_default() {
        assert!(Args::try_parse_from(&IMAGES[..1]).is_err());
        let config = Args::parse_from(IMAGES).config();
        assert_eq!(config.controller_image, "localhost/c:1");
        assert_eq!(config.speaker_image, "localhost/s:1");
        assert_eq!(config.namespace, "metallb-system");
    }

    #[test]
    fn crds_are_managed_by_default() {
        assert!(Args::parse_from(IMAGES).config().manage_crds);
        let told = Args::parse_from([&IMAGES[..], &["--manage-crds", "false"]].concat());
        assert!(!told.config().manage_crds);
    }
}
