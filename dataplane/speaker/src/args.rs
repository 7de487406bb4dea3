//! Command line of the speaker, and its configuration.

use std::error::Error;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};
use clap::{ArgAction, Parser};
use lb_l2::ownership::{ConflictPolicy, PartitionPolicy};
use lb_runtime::CommonArgs;

use crate::bgp::drain::{DrainSettings, OnCordon};
use crate::interface_selection::{ExcludedInterfaces, ExcludedInterfacesError};

/// The version of this program.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Announces the addresses of Services that this node owns, by ARP and NDP.
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

    /// Also announce from nodes with the label node.kubernetes.io/exclude-from-external-load-balancers.
    #[arg(long, env = "LB_IGNORE_EXCLUDE_LB")]
    pub ignore_exclude_lb: bool,

    /// Regular expression of interface names to exclude; may be repeated. Replaces the built-in list (docker, cni, cali, flannel,
    /// veth and others). An empty expression excludes nothing.
    #[arg(long = "exclude-interfaces", value_name = "REGEX")]
    pub exclude_interfaces: Option<Vec<String>>,

    /// Seconds that a live node keeps its addresses while its speaker restarts.
    #[arg(long, env = "LB_RESTART_GRACE", default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=300))]
    pub restart_grace: u64,

    /// Seconds that routers with BFD and graceful restart wait for the next speaker when this one restarts.
    #[arg(long, env = "LB_BFD_RESTART_BUDGET", default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=60))]
    pub bfd_restart_budget: u64,

    /// How a cordoned node announces by BGP: with the community GRACEFUL_SHUTDOWN, so that routers prefer other nodes
    /// (deprioritize), so and then no longer (withdraw), or as before (ignore).
    #[arg(long, env = "LB_BGP_ON_CORDON", ignore_case = true, default_value = OnCordon::default().as_str(),
          value_parser = policy_parser::<OnCordon>(OnCordon::ALL.map(OnCordon::as_str)))]
    pub bgp_on_cordon: OnCordon,

    /// Seconds that a node which leaves announces with that community before it withdraws its routes.
    #[arg(long, env = "LB_BGP_DRAIN_DELAY", default_value_t = 10, value_parser = clap::value_parser!(u64).range(0..=300))]
    pub bgp_drain_delay: u64,

    /// Directory with the keys that authenticate heartbeats: `current` for those sent, all files for those received. Without it
    /// there are no heartbeats, and node failures are detected through the API server only.
    #[arg(long, env = "LB_HEARTBEAT_KEYS", value_name = "DIRECTORY")]
    pub heartbeat_keys: Option<PathBuf>,

    /// UDP port of the heartbeats, the same on every node.
    #[arg(long, env = "LB_HEARTBEAT_PORT", default_value_t = 7947)]
    pub heartbeat_port: u16,

    /// Milliseconds without a heartbeat after which a peer is suspected to have failed. Heartbeats are sent every sixth of it.
    #[arg(long, env = "LB_FAILURE_TIMEOUT_MS", default_value_t = 245, value_parser = clap::value_parser!(u64).range(100..=5000))]
    pub failure_timeout_ms: u64,

    /// Which side of a network partition announces: every side (availability), or only the side that sees a majority of the
    /// first candidates of an address (majority).
    #[arg(long, env = "LB_PARTITION_POLICY", ignore_case = true, default_value = PartitionPolicy::default().as_str(),
          value_parser = policy_parser::<PartitionPolicy>(PartitionPolicy::ALL.map(PartitionPolicy::as_str)))]
    pub partition_policy: PartitionPolicy,

    /// Whether a node that returns takes its addresses back, which breaks their connections once more.
    #[arg(long, env = "LB_FAILBACK", ignore_case = true, default_value = "never", action = ArgAction::Set,
          value_parser = choice_parser("never", "immediate"))]
    pub failback: bool,

    /// The node that an address is placed on: the first in MetalLB's order (hash-order), or so that all nodes have the same
    /// number of addresses (balanced).
    #[arg(long = "placement", env = "LB_PLACEMENT", ignore_case = true, default_value = "hash-order", action = ArgAction::Set,
          value_parser = placement_parser())]
    pub balanced: bool,

    /// How to react when a host outside the cluster answers for an address: report it (warn), also announce the address again
    /// (defend), or withdraw the address while the conflict lasts (yield).
    #[arg(long, env = "LB_CONFLICT_POLICY", ignore_case = true, default_value = ConflictPolicy::default().as_str(),
          value_parser = policy_parser::<ConflictPolicy>(ConflictPolicy::ALL.map(ConflictPolicy::as_str)))]
    pub conflict_policy: ConflictPolicy,

    /// Seconds between two periodic announcements of an address; 0 to disable them. All hosts of the network receive each of
    /// them.
    #[arg(long, env = "LB_ANNOUNCE_INTERVAL", default_value_t = 2400, value_parser = clap::value_parser!(u64).range(0..=3600))]
    pub announce_interval: u64,
}

/// Parses one of the words of a policy, and lists them in `--help`.
fn policy_parser<P>(words: impl IntoIterator<Item = &'static str>) -> impl TypedValueParser<Value = P>
where
    P: FromStr<Err: Error + Send + Sync> + Clone + Send + Sync + 'static,
{
    PossibleValuesParser::new(words).try_map(|word| word.parse::<P>())
}

/// Parses `--placement` to whether it is balanced. The alias is the word of the API.
fn placement_parser() -> impl TypedValueParser<Value = bool> {
    let words = [
        PossibleValue::new("hash-order").alias("hashorder"),
        PossibleValue::new("balanced"),
    ];
    PossibleValuesParser::new(words).map(|word| word.eq_ignore_ascii_case("balanced"))
}

/// Parses one of two words, and lists them in `--help`.
fn choice_parser(no: &'static str, yes: &'static str) -> impl TypedValueParser<Value = bool> {
    PossibleValuesParser::new([no, yes]).map(move |word| word.eq_ignore_ascii_case(yes))
}

/// The configuration of the speaker.
#[derive(Clone, Debug)]
pub struct Config {
    /// Version of this speaker, for its heartbeats.
    pub version: String,
    /// Name of this node.
    pub node: String,
    /// The class of Services to announce; `None` for those without a class.
    pub class: Option<String>,
    /// Whether the exclude label of nodes is ignored.
    pub ignore_exclude_label: bool,
    /// Interfaces that are never announced on.
    pub excluded: ExcludedInterfaces,
    /// How long a live node keeps its addresses while its speaker restarts.
    pub restart_grace: Duration,
    /// How long routers with BFD and graceful restart wait for the next process.
    pub bfd_restart_budget: Duration,
    /// How a node is drained that announces by BGP.
    pub drain: DrainSettings,
    /// The directory of the heartbeat keys; `None` for no heartbeats.
    pub heartbeat_keys: Option<PathBuf>,
    /// UDP port of the heartbeats.
    pub heartbeat_port: u16,
    /// Time without a heartbeat after which a peer is suspected to have failed.
    pub failure_timeout: Duration,
    /// Which side of a network partition announces.
    pub partition_policy: PartitionPolicy,
    /// Whether a node that returns takes its addresses back.
    pub failback: bool,
    /// Whether addresses are spread evenly.
    pub balanced: bool,
    /// How to react to an address conflict.
    pub conflict_policy: ConflictPolicy,
    /// Time between two periodic announcements of an address; `None` for none.
    pub announce_interval: Option<Duration>,
}

/// Invalid arguments.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A regular expression is invalid.
    #[error(transparent)]
    Excluded(#[from] ExcludedInterfacesError),
    /// The first candidate would take back the addresses that are balanced to others.
    #[error("--placement=balanced and --failback=immediate contradict each other: use only one of them")]
    BalancedFailback,
}

impl Args {
    /// The configuration. An empty class, as a chart may set it, counts as no class.
    ///
    /// # Errors
    /// If a regular expression is invalid, or the arguments contradict each other.
    pub fn config(&self) -> Result<Config, ConfigError> {
        if self.balanced && self.failback {
            return Err(ConfigError::BalancedFailback);
        }
        let class = self.load_balancer_class.as_deref().map(str::trim);
        Ok(Config {
            version: VERSION.to_owned(),
            node: self.node_name.clone(),
            class: class.filter(|class| !class.is_empty()).map(str::to_owned),
            ignore_exclude_label: self.ignore_exclude_lb,
            excluded: match &self.exclude_interfaces {
                Some(patterns) => ExcludedInterfaces::new(patterns)?,
                None => ExcludedInterfaces::built_in()?,
            },
            restart_grace: Duration::from_secs(self.restart_grace),
            bfd_restart_budget: Duration::from_secs(self.bfd_restart_budget),
            drain: DrainSettings {
                on_cordon: self.bgp_on_cordon,
                delay: Duration::from_secs(self.bgp_drain_delay),
            },
            heartbeat_keys: self.heartbeat_keys.clone(),
            heartbeat_port: self.heartbeat_port,
            failure_timeout: Duration::from_millis(self.failure_timeout_ms),
            partition_policy: self.partition_policy,
            failback: self.failback,
            balanced: self.balanced,
            conflict_policy: self.conflict_policy,
            announce_interval: (self.announce_interval > 0)
                .then(|| Duration::from_secs(self.announce_interval)),
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
    fn empty_class_counts_as_no_class() {
        assert_eq!(config(&["--load-balancer-class", " "]).unwrap().class, None);
        let given = config(&["--load-balancer-class", "example.com/lan"])
            .unwrap()
            .class;
        assert_eq!(given.as_deref(), Some("example.com/lan"));
    }

    #[test]
    fn given_patterns_replace_the_built_in_list() {
        let built_in = config(&[]).unwrap().excluded;
        assert!(built_in.contains("lo") && built_in.contains("cni0") && !built_in.contains("eth0"));
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
    fn balanced_placement_excludes_failback() {
        assert!(!config(&["--failback=immediate"]).unwrap().balanced);
        assert!(config(&["--placement=Balanced"]).unwrap().balanced);
        let error = config(&["--placement=balanced", "--failback=immediate"]).unwrap_err();
        assert!(error.to_string().contains("--failback"), "{error}");
    }

    #[test]
    fn policies_are_parsed_in_any_case() {
        let policies = config(&["--partition-policy=Majority", "--conflict-policy=Yield"]).unwrap();
        assert_eq!(policies.partition_policy, PartitionPolicy::Majority);
        assert_eq!(policies.conflict_policy, ConflictPolicy::Yield);
        let default = config(&["--placement=HashOrder", "--failback=Never"]).unwrap();
        assert!(!default.balanced && !default.failback);
        assert_eq!(default.partition_policy, PartitionPolicy::Availability);
        let unknown = ["lb-speaker", "--node-name=n1", "--conflict-policy=ignore"];
        let error = Args::try_parse_from(unknown).unwrap_err().to_string();
        assert!(error.contains("warn, defend, yield"), "{error}");
    }

    #[test]
    fn invalid_expression_is_named_in_the_error() {
        let error = config(&["--exclude-interfaces=eth(", "--exclude-interfaces=^lo$"]).unwrap_err();
        assert!(error.to_string().contains("\"eth(\""), "{error}");
    }

    #[test]
    fn periodic_announcements_of_a_thousand_addresses_are_one_frame_a_second_at_most() {
        let interval = config(&[]).unwrap().announce_interval.unwrap();
        let frames =
            lb_l2::wire::arp::gratuitous(lb_l2::MacAddr([2; 6]), std::net::Ipv4Addr::LOCALHOST).len();
        assert!((1_000 * frames) as f64 / interval.as_secs_f64() <= 1.0);
    }
}
