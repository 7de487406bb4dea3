//! Arguments of every program. Each can also be set by an environment variable.

use std::net::SocketAddr;

use clap::{Args, ValueEnum};

/// Arguments shared by the operator, the controller and the speaker.
#[derive(Args, Clone, Debug)]
pub struct CommonArgs {
    /// Address and port of the HTTP endpoints /metrics, /healthz and /readyz. An address of the host instead of `[::]`
    /// restricts who can reach them.
    #[arg(long, env = "LB_LISTEN", default_value = "[::]:7472")]
    pub listen: SocketAddr,

    /// Minimum severity of log lines.
    #[arg(long, env = "LB_LOG_LEVEL", default_value = "info")]
    pub log_level: LogLevel,

    /// Format of log lines; `auto` is text on a terminal and JSON otherwise.
    #[arg(long, env = "LB_LOG_FORMAT", default_value = "auto")]
    pub log_format: LogFormat,

    /// Namespace of the stack, its pools and its advertisements.
    #[arg(long, env = "LB_NAMESPACE", default_value = "metallb-system")]
    pub namespace: String,

    /// Name of this pod, used as identity in Leases and events [default: the host name].
    #[arg(long, env = "LB_POD_NAME")]
    pub pod_name: Option<String>,
}

/// Severity of log lines.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub enum LogLevel {
    /// Failures that need intervention.
    Error,
    /// Problems that the program handles itself.
    Warn,
    /// Changes of state.
    Info,
    /// Decisions and their reasons.
    Debug,
    /// Packets.
    Trace,
}

/// Format of log lines.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub enum LogFormat {
    /// Text on a terminal, JSON otherwise.
    Auto,
    /// One JSON object per line.
    Json,
    /// Plain text.
    Text,
}
