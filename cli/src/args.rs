//! The command line.

use clap::{Args, Parser, Subcommand, ValueEnum};

/// Shows what the load balancer does and why, and what to change.
///
/// It reads the cluster with your own rights. Only upgrade approve, upgrade retry and upgrade abort change something.
///
/// Exit code 0: no problems, warnings perhaps. 1: problems. 2: could not look.
#[derive(Debug, Parser)]
#[command(name = "kubectl-lb", bin_name = "kubectl lb", version, max_term_width = 100)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Arguments of every command.
#[derive(Args, Clone, Debug)]
pub(crate) struct Global {
    /// Path of the kubeconfig
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) kubeconfig: Option<std::path::PathBuf>,
    /// Context of the kubeconfig
    #[arg(long, global = true, value_name = "NAME")]
    pub(crate) context: Option<String>,
    /// Namespace of the Service; by default that of the context
    #[arg(short, long, global = true, value_name = "NAME")]
    pub(crate) namespace: Option<String>,
    /// Services of all namespaces
    #[arg(short = 'A', long, global = true)]
    pub(crate) all_namespaces: bool,
    /// Act as this user
    #[arg(long = "as", global = true, value_name = "USER")]
    pub(crate) impersonate: Option<String>,
    /// Output format
    #[arg(short, long, global = true, value_enum, value_name = "FORMAT")]
    pub(crate) output: Option<Format>,
}

/// Output formats.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub(crate) enum Format {
    /// Text with more columns
    Wide,
    /// JSON
    Json,
    /// YAML
    Yaml,
    /// JUnit XML, for check
    Junit,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Explain a Service or an address: each step from the Service to the reply on the LAN
    #[command(visible_alias = "explain")]
    Why {
        /// NAME, NAMESPACE/NAME, service/NAME or an IP address
        target: String,
    },
    /// Show whether everything is all right, on one screen
    Status {
        /// Wait until the stack is ready and no problem is left
        #[arg(long)]
        wait: bool,
        /// Seconds to wait
        #[arg(long, default_value_t = 300, value_name = "SECONDS")]
        timeout: u64,
    },
    /// Check everything; each finding says what to do
    Check {
        /// Check the cluster before the installation
        #[arg(long)]
        pre: bool,
    },
    /// List the addresses with their Services and owners
    #[command(visible_alias = "ls")]
    Addresses {
        /// Only addresses with a problem
        #[arg(long)]
        problems: bool,
        /// Only addresses that this node announces
        #[arg(long, value_name = "NODE")]
        node: Option<String>,
        /// Only addresses of this pool
        #[arg(long, value_name = "POOL")]
        pool: Option<String>,
    },
    /// List the pools with their usage
    Pools,
    /// List the nodes with their speakers
    Nodes,
    /// Show what would move if a node were drained; changes nothing
    Drain {
        /// Name of the node
        node: String,
    },
    /// Show or steer an upgrade
    Upgrade {
        #[command(subcommand)]
        action: Option<UpgradeAction>,
    },
    /// Show a migration from MetalLB
    Adopt {
        #[command(subcommand)]
        action: Option<AdoptAction>,
    },
    /// Print changes of addresses, owners, conflicts and the stack as they happen
    Watch,
    /// Write objects, events and logs into an archive, for a report; Secrets are never read
    Sysdump {
        /// File to write
        #[arg(long, value_name = "FILE", default_value = "lb-sysdump.tar.gz")]
        file: std::path::PathBuf,
        /// Replace names of Services and namespaces, addresses and host names by placeholders
        #[arg(long)]
        redact: bool,
    },
    /// Print the versions of this program, the operator and the stack
    Version {
        /// Only the version of this program
        #[arg(long)]
        client: bool,
    },
    /// Print a completion script
    Completion {
        /// The shell
        #[arg(value_enum)]
        shell: Shell,
    },
}

/// The subcommands of `upgrade`.
#[derive(Clone, Copy, Debug, Subcommand)]
pub(crate) enum UpgradeAction {
    /// Show the upgrade in progress, or the last one
    Status,
    /// Show the upgrade that waits for approval
    Plan,
    /// Approve the plan
    Approve {
        /// Do not ask
        #[arg(short, long)]
        yes: bool,
    },
    /// Try a failed or paused upgrade again
    Retry {
        /// Do not ask
        #[arg(short, long)]
        yes: bool,
    },
    /// Return to the version that ran before
    Abort {
        /// Do not ask
        #[arg(short, long)]
        yes: bool,
    },
    /// List the last upgrades
    History,
}

/// The subcommands of `adopt`.
#[derive(Clone, Copy, Debug, Subcommand)]
pub(crate) enum AdoptAction {
    /// Show how far the migration is
    Status,
    /// Show what a migration would take over
    Preview,
}

/// Shells with completion.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum Shell {
    /// Bash
    Bash,
    /// Zsh
    Zsh,
    /// fish
    Fish,
}

impl From<Shell> for clap_complete::Shell {
    fn from(shell: Shell) -> Self {
        match shell {
            Shell::Bash => Self::Bash,
            Shell::Zsh => Self::Zsh,
            Shell::Fish => Self::Fish,
        }
    }
}
