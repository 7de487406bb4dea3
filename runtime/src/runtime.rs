//! Start and end of a program: logging, Tokio runtime, signals, API client, HTTP endpoints.

use anyhow::Context as _;
use prometheus::Registry;

use crate::args::CommonArgs;
use crate::{Health, Shutdown, client, http, logging, metrics};

/// Input of a program: API client, identity, metrics, readiness and shutdown.
#[derive(Clone)]
pub struct Context {
    /// Client of the Kubernetes API.
    pub client: kube::Client,
    /// Namespace of the stack.
    pub namespace: String,
    /// Name of this pod.
    pub pod_name: String,
    /// Metrics served at /metrics.
    pub registry: Registry,
    /// Liveness and readiness, served at /healthz and /readyz.
    pub health: Health,
    /// Request to stop.
    pub shutdown: Shutdown,
}

/// Runs a program until it returns, on a single-threaded Tokio runtime. `version` is the version of the program.
///
/// # Errors
/// If the program fails, if the address or the credentials of the API are missing, or if the HTTP address is in use.
pub fn run<F, R>(args: &CommonArgs, version: &str, program: F) -> anyhow::Result<()>
where
    F: FnOnce(Context) -> R,
    R: Future<Output = anyhow::Result<()>>,
{
    logging::init(args);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("start the runtime")?;
    runtime.block_on(async {
        let shutdown = Shutdown::on_signals().context("install signal handlers")?;
        let client = client::connect().await?;
        let context = Context {
            client,
            namespace: args.namespace.clone(),
            pod_name: args.pod_name.clone().unwrap_or_else(host_name),
            registry: Registry::new(),
            health: Health::default(),
            shutdown,
        };
        metrics::register_program(&context.registry, version).context("register metrics")?;
        let listener = http::bind(args.listen)
            .with_context(|| format!("listen on {} for metrics and probes: set --listen", args.listen))?;
        http::spawn(listener, context.health.clone(), context.registry.clone())
            .context("serve metrics and probes")?;
        tracing::info!(version, listen = %args.listen, "started");
        program(context).await
    })
}

fn host_name() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname")
        .map(|name| name.trim().to_owned())
        .unwrap_or_else(|_| "unknown".to_owned())
}
