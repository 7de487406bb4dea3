//! Structured log lines on standard error: JSON in a pod, text on a terminal.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

use crate::args::{CommonArgs, LogFormat, LogLevel};

/// Starts logging. A second call, as in tests, has no effect.
pub(crate) fn init(args: &CommonArgs) {
    let level = match args.log_level {
        LogLevel::Error => "error",
        LogLevel::Warn => "warn",
        LogLevel::Info => "info",
        LogLevel::Debug => "debug",
        LogLevel::Trace => "trace",
    };
    // The client libraries log each request and each retry at lower levels.
    let filter = format!(
        "{level},hyper=warn,hyper_util=warn,kube_client=error,kube_runtime=error,rustls=warn,tower=warn"
    );
    let text = match args.log_format {
        LogFormat::Text => true,
        LogFormat::Json => false,
        LogFormat::Auto => std::io::stderr().is_terminal(),
    };
    let builder = tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::new(filter))
        .with_writer(std::io::stderr);
    let _already_set = if text {
        builder.with_target(false).try_init()
    } else {
        builder
            .json()
            .flatten_event(true)
            .with_current_span(false)
            .with_span_list(false)
            .try_init()
    };
}
