//! Arguments of the controller, and the configuration made of them once, at start.

use clap::Parser;
use lb_runtime::CommonArgs;

/// The version of this program.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Gives each Service of type LoadBalancer an address from a pool.
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

/// What the controller knows besides what it reads from the API.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Config {
    /// The class of Services to serve; none serves those without a class.
    pub class: Option<String>,
}

impl Args {
    /// The configuration. An empty class, as a chart may set it, is none.
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
    fn an_empty_class_is_none() {
        let class = |args: &[&str]| Args::parse_from(args).config().class;
        assert_eq!(class(&["lb-controller"]), None);
        assert_eq!(class(&["lb-controller", "--load-balancer-class", " "]), None);
        let given = class(&["lb-controller", "--load-balancer-class", "example.com/lan"]);
        assert_eq!(given.as_deref(), Some("example.com/lan"));
    }
}
