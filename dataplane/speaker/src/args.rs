//! Arguments of the speaker, and the configuration made of them once, at start.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, ValueEnum};
use lb_l2::ownership;
use lb_runtime::CommonArgs;

use crate::interface_selection::{Excluded, ExcludedError};

/// The version of this program.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Answers on the LAN for the addresses of Services that this node owns.
#[derive(Clone, Debug, Parser)]
#[command(name = "lb-speaker", version)]
pub struct Args {
    /// Arguments that all three programs take.
    #[command(flatten)]
    pub common: CommonArgs,

    /// Name of the Node that this speaker runs on.
    #[arg(long, env = "LB_NODE_NAME")]
    pub node_name: String,

    /// Announce only Services of this spec.loadBalancerClass. Without it: only Services without a class.
    #[arg(long, env = "LB_LOAD_BALANCER_CLASS")]
    pub load_balancer_class: Option<String>,

    /// Announce also from nodes with the label node.kubernetes.io/exclude-from-external-load-balancers.
    #[arg(long, env = "LB_IGNORE_EXCLUDE_LB")]
    pub ignore_exclude_lb: bool,

    /// Regular expression of interface names never to announce on; may be given several times, and then replaces the
    /// built-in list (docker, cni, cali, flannel, veth and the like). An empty one excludes nothing.
    #[arg(long = "exclude-interfaces", value_name = "REGEX")]
    pub exclude_interfaces: Option<Vec<String>>,

    /// Seconds that a node which lives keeps its addresses while its speaker restarts.
    #[arg(long, env = "LB_RESTART_GRACE", default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=300))]
    pub restart_grace: u64,

    /// Directory with the keys that authenticate heartbeats: `current` makes them, the other files are believed too.
    /// Without it speakers do not speak to each other, and failures are found out through the API server only.
    #[arg(long, env = "LB_HEARTBEAT_KEYS", value_name = "DIRECTORY")]
    pub heartbeat_keys: Option<PathBuf>,

    /// UDP port of the heartbeats, on every node.
    #[arg(long, env = "LB_HEARTBEAT_PORT", default_value_t = 7947)]
    pub heartbeat_port: u16,

    /// Milliseconds without a heartbeat after which a peer is suspected to have failed. HeartbeatTransport are sent every 4/5 of it.
    #[arg(long, env = "LB_FAILURE_TIMEOUT_MS", default_value_t = 250, value_parser = clap::value_parser!(u64).range(100..=5000))]
    pub failure_timeout_ms: u64,

    /// What to do when speakers cannot hear each other: each side announces (availability), or only one that sees the
    /// majority of the first candidates of an address does (majority).
    #[arg(
        long,
        env = "LB_PARTITION_POLICY",
        value_enum,
        ignore_case = true,
        default_value_t
    )]
    pub partition_policy: PartitionPolicy,

    /// Whether a node that returns takes its addresses back, which breaks their connections once more.
    #[arg(long, env = "LB_FAILBACK", value_enum, ignore_case = true, default_value_t)]
    pub failback: Failback,

    /// Which node an address goes to: the first in MetalLB's order (hash-order), or such that no node has more than the
    /// others (balanced).
    #[arg(long, env = "LB_PLACEMENT", value_enum, ignore_case = true, default_value_t)]
    pub placement: Placement,

    /// What to do when a stranger on the LAN answers for an address: tell it, also announce the address again, or leave
    /// it to the stranger.
    #[arg(
        long,
        env = "LB_CONFLICT_POLICY",
        value_enum,
        ignore_case = true,
        default_value_t
    )]
    pub conflict_policy: ConflictPolicy,

    /// Seconds between two announcements of an address that nothing has happened to; 0 for none.
    #[arg(long, env = "LB_ANNOUNCE_INTERVAL", default_value_t = 60, value_parser = clap::value_parser!(u64).range(0..=3600))]
    pub announce_interval: u64,
}

/// `--partition-policy`.
#[derive(Clone, Copy, Debug, Default, ValueEnum)]
pub enum PartitionPolicy {
    /// Each side serves.
    #[default]
    Availability,
    /// The majority serves.
    Majority,
}

/// `--failback`.
#[derive(Clone, Copy, Debug, Default, ValueEnum)]
pub enum Failback {
    /// Addresses stay where they are.
    #[default]
    Never,
    /// The first candidate takes them back.
    Immediate,
}

/// `--placement`.
#[derive(Clone, Copy, Debug, Default, ValueEnum)]
pub enum Placement {
    /// The first in the order.
    #[default]
    #[value(alias = "hashorder")]
    HashOrder,
    /// Each node as many as the others.
    Balanced,
}

/// `--conflict-policy`.
#[derive(Clone, Copy, Debug, Default, ValueEnum)]
pub enum ConflictPolicy {
    /// Tell it.
    #[default]
    Warn,
    /// Announce the address again.
    Defend,
    /// Leave the address to the stranger.
    Yield,
}

/// What the speaker knows besides what it reads from the API.
#[derive(Clone, Debug)]
pub struct Config {
    /// Version of this speaker, which its heartbeats tell the others.
    pub version: String,
    /// Name of our Node.
    pub node: String,
    /// The class of Services to announce; none announces those without a class.
    pub class: Option<String>,
    /// Whether the exclude label of nodes has no meaning.
    pub ignore_exclude_label: bool,
    /// InterfaceSelection never to announce on.
    pub excluded: Excluded,
    /// How long a node keeps its addresses while its speaker is away.
    pub grace: Duration,
    /// The directory of the heartbeats' keys; none for no heartbeats.
    pub keys: Option<PathBuf>,
    /// UDP port of the heartbeats.
    pub heartbeat_port: u16,
    /// Time without a heartbeat after which a peer is suspected to have failed.
    pub failure_timeout: Duration,
    /// What to do in a partition.
    pub policy: ownership::PartitionPolicy,
    /// Whether a node that returns takes its addresses back.
    pub failback: bool,
    /// Whether addresses are spread evenly.
    pub balanced: bool,
    /// What to do when a stranger answers for an address.
    pub conflicts: ownership::ConflictPolicy,
    /// Time between two announcements of an address at rest; none for no such announcements.
    pub refresh: Option<Duration>,
}

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A regular expression is none.
    #[error(transparent)]
    Excluded(#[from] ExcludedError),
    /// The first in the order would take back what balance gives to others.
    #[error("--placement=balanced and --failback=immediate contradict each other: give one of them only")]
    BalancedFailback,
}

impl Args {
    /// The configuration. An empty class, as a chart may set it, is none.
    ///
    /// # Errors
    /// When one of the regular expressions is none, or the arguments contradict each other.
    pub fn config(&self) -> Result<Config, ConfigError> {
        let balanced = match self.placement {
            Placement::HashOrder => false,
            Placement::Balanced => true,
        };
        let failback = match self.failback {
            Failback::Never => false,
            Failback::Immediate => true,
        };
        if balanced && failback {
            return Err(ConfigError::BalancedFailback);
        }
        let class = self.load_balancer_class.as_deref().map(str::trim);
        Ok(Config {
            version: VERSION.to_owned(),
            node: self.node_name.clone(),
            class: class.filter(|class| !class.is_empty()).map(str::to_owned),
            ignore_exclude_label: self.ignore_exclude_lb,
            excluded: match &self.exclude_interfaces {
                Some(patterns) => Excluded::new(patterns)?,
                None => Excluded::usual()?,
            },
            grace: Duration::from_secs(self.restart_grace),
            keys: self.heartbeat_keys.clone(),
            heartbeat_port: self.heartbeat_port,
            failure_timeout: Duration::from_millis(self.failure_timeout_ms),
            policy: match self.partition_policy {
                PartitionPolicy::Availability => ownership::PartitionPolicy::Availability,
                PartitionPolicy::Majority => ownership::PartitionPolicy::Majority,
            },
            failback,
            balanced,
            conflicts: match self.conflict_policy {
                ConflictPolicy::Warn => ownership::ConflictPolicy::Warn,
                ConflictPolicy::Defend => ownership::ConflictPolicy::Defend,
                ConflictPolicy::Yield => ownership::ConflictPolicy::Yield,
            },
            refresh: (self.announce_interval > 0).then(|| Duration::from_secs(self.announce_interval)),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(args: &[&str]) -> Result<Config, ConfigError> {
        let args = ["lb-speaker", "--node-name", "n1"].iter().chain(args);
        Args::parse_from(args).config()
    }

    #[test]
    fn an_empty_class_is_none() {
        assert_eq!(config(&["--load-balancer-class", " "]).unwrap().class, None);
        let given = config(&["--load-balancer-class", "example.com/lan"])
            .unwrap()
            .class;
        assert_eq!(given.as_deref(), Some("example.com/lan"));
    }

    #[test]
    fn the_usual_virtual_interfaces_are_excluded_unless_others_are_named() {
        let usual = config(&[]).unwrap().excluded;
        assert!(usual.contains("lo") && usual.contains("cni0") && !usual.contains("eth0"));
        let own = config(&[
            "--exclude-interfaces=^eth[0-9]{1,2}$",
            "--exclude-interfaces=^tap",
        ])
        .unwrap();
        assert!(own.excluded.contains("eth12") && own.excluded.contains("tap3"));
        assert!(!own.excluded.contains("cni0"), "the built-in list is replaced");
        assert!(
            !config(&["--exclude-interfaces="])
                .unwrap()
                .excluded
                .contains("cni0")
        );
    }

    #[test]
    fn balance_and_failback_contradict_each_other() {
        assert!(!config(&["--failback=immediate"]).unwrap().balanced);
        assert!(config(&["--placement=Balanced"]).unwrap().balanced);
        let error = config(&["--placement=balanced", "--failback=immediate"]).unwrap_err();
        assert!(error.to_string().contains("--failback"), "{error}");
    }

    #[test]
    fn a_wrong_expression_is_an_error_that_names_it() {
        let error = config(&["--exclude-interfaces=eth(", "--exclude-interfaces=^lo$"]).unwrap_err();
        assert!(error.to_string().contains("\"eth(\""), "{error}");
    }
}
