//! Arguments of the speaker, and the configuration made of them once, at start.

use std::time::Duration;

use clap::Parser;
use lb_daemon::CommonArgs;

use crate::interfaces::{Excluded, ExcludedError};

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

    /// Seconds that a node keeps its addresses while its speaker restarts.
    #[arg(long, env = "LB_RESTART_GRACE", default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=300))]
    pub restart_grace: u64,
}

/// What the speaker knows besides what it reads from the API.
#[derive(Clone, Debug)]
pub struct Config {
    /// Name of our Node.
    pub node: String,
    /// The class of Services to announce; none announces those without a class.
    pub class: Option<String>,
    /// Whether the exclude label of nodes has no meaning.
    pub ignore_exclude_label: bool,
    /// Interfaces never to announce on.
    pub excluded: Excluded,
    /// How long a node stays a candidate while its speaker is away.
    pub grace: Duration,
}

impl Args {
    /// The configuration. An empty class, as a chart may set it, is none.
    ///
    /// # Errors
    /// When one of the regular expressions is none.
    pub fn config(&self) -> Result<Config, ExcludedError> {
        let class = self.load_balancer_class.as_deref().map(str::trim);
        Ok(Config {
            node: self.node_name.clone(),
            class: class.filter(|class| !class.is_empty()).map(str::to_owned),
            ignore_exclude_label: self.ignore_exclude_lb,
            excluded: match &self.exclude_interfaces {
                Some(patterns) => Excluded::new(patterns)?,
                None => Excluded::usual()?,
            },
            grace: Duration::from_secs(self.restart_grace),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(args: &[&str]) -> Result<Config, ExcludedError> {
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
    fn a_wrong_expression_is_an_error_that_names_it() {
        let error = config(&["--exclude-interfaces=eth(", "--exclude-interfaces=^lo$"]).unwrap_err();
        assert!(error.to_string().contains("\"eth(\""), "{error}");
    }
}
