//! Arguments and configuration of the controller.

use clap::Parser;
use lb_runtime::CommonArgs;

/// The version of this program.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Assigns addresses from pools to Services of type LoadBalancer.
#[derive(Clone, Debug, Parser)]
#[command(name = "lb-controller", version)]
pub struct Args {
    /// Arguments that all three programs take.
    #[command(flatten)]
    pub common: CommonArgs,

    /// Serve only Services of this spec.loadBalancerClass. Without it: only Services without a class.
    #[arg(long, env = "LB_LOAD_BALANCER_CLASS")]
    pub load_balancer_class: Option<String>,
}

/// Configuration of the controller.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Config {
    /// The `loadBalancerClass` of its Services; `None` for Services without a class.
    pub class: Option<String>,
}

impl Args {
    /// The configuration. An empty class, as a chart may set it, counts as none.
    #[must_use]
    pub fn config(&self) -> Config {
        let class = self.load_balancer_class.as_deref().map(str::trim);
        Config {
            class: class.filter(|class| !class.is_empty()).map(str::to_owned),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn empty_class_counts_as_none() {
        let class = |args: &[&str]| Args::parse_from(args).config().class;
        assert_eq!(class(&["lb-controller"]), None);
        assert_eq!(class(&["lb-controller", "--load-balancer-class", " "]), None);
        let trimmed = class(&["lb-controller", "--load-balancer-class", "example.com/lan"]);
        assert_eq!(trimmed.as_deref(), Some("example.com/lan"));
    }
}
