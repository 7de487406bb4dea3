//! The arguments every program takes. Each is also an environment variable, so that a manifest can set it without
//! rewriting the command line.

use std::net::SocketAddr;

use clap::{Args, ValueEnum};

/// Arguments shared by the operator, the controller and the speaker.
#[derive(Args, Clone, Debug)]
pub struct CommonArgs {
    /// Address and port of the HTTP endpoints /metrics, /healthz and /readyz.
    #[arg(long, env = "LB_LISTEN", default_value = "[::]:7472")]
    pub listen: SocketAddr,

    /// The least severe level that is logged.
    #[arg(long, env = "LB_LOG_LEVEL", default_value = "info")]
    pub log_level: LogLevel,

    /// Shape of the log lines; `auto` is text on a terminal and JSON elsewhere.
    #[arg(long, env = "LB_LOG_FORMAT", default_value = "auto")]
    pub log_format: LogFormat,

    /// Namespace that the stack runs in, and that pools and advertisements are read from.
    #[arg(long, env = "LB_NAMESPACE", default_value = "metallb-system")]
    pub namespace: String,

    /// Name of this pod: the identity in Leases and events. The host name when absent.
    #[arg(long, env = "LB_POD_NAME")]
    pub pod_name: Option<String>,
}

/// Severity of log lines.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub enum LogLevel {
    /// Something failed and needs a person.
    Error,
    /// Something is wrong, and the program goes on.
    Warn,
    /// A change that an operator of the cluster acts on.
    Info,
    /// A decision with its reason.
    Debug,
    /// Packets.
    Trace,
}

/// Shape of log lines.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub enum LogFormat {
    /// Text on a terminal, JSON elsewhere.
    Auto,
    /// One JSON object a line.
    Json,
    /// For people.
    Text,
}
