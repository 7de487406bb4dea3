//! The frame of a program: runtime, logging, signals, API client, HTTP endpoints.

use anyhow::Context as _;
use prometheus::Registry;

use crate::args::CommonArgs;
use crate::{Health, Shutdown, http, logging};

/// What a program is handed when it starts.
#[derive(Clone)]
pub struct Context {
    /// Client of the Kubernetes API.
    pub client: kube::Client,
    /// Namespace that the stack runs in.
    pub namespace: String,
    /// Name of this pod.
    pub pod_name: String,
    /// Where metrics are registered; served at /metrics.
    pub registry: Registry,
    /// Readiness gates; served at /readyz.
    pub health: Health,
    /// Tells when to stop.
    pub shutdown: Shutdown,
}

/// Runs a program until it returns: logging, one thread with one runtime, signals, API client and HTTP endpoints.
/// `version` is the program's own.
///
/// One thread is enough for all three programs, and keeps memory and locking small.
///
/// # Errors
/// When the program fails, when the API's address or credentials are missing, or when the HTTP address is taken.
pub fn run<F, R>(args: &CommonArgs, version: &str, program: F) -> anyhow::Result<()>
where
    F: FnOnce(Context) -> R,
    R: Future<Output = anyhow::Result<()>>,
{
    logging::init(args);
    // Two providers could be compiled in by dependencies; the choice is made here, once. It fails only if made before.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("start the runtime")?;
    runtime.block_on(async {
        let shutdown = Shutdown::on_signals().context("install signal handlers")?;
        let client = kube::Client::try_default()
            .await
            .context("find the Kubernetes API: run in a pod, or set KUBECONFIG")?;
        let context = Context {
            client,
            namespace: args.namespace.clone(),
            pod_name: args.pod_name.clone().unwrap_or_else(host_name),
            registry: Registry::new(),
            health: Health::default(),
            shutdown,
        };
        let listener = http::bind(args.listen)
            .await
            .with_context(|| format!("listen on {} for metrics and probes: set --listen", args.listen))?;
        // A task of its own: what the program waits for, dozens of times in a second, wakes up the program alone.
        let server = tokio::spawn(http::serve(
            listener,
            context.health.clone(),
            context.registry.clone(),
        ));
        tracing::info!(version, listen = %args.listen, "started");
        tokio::select! {
            result = program(context) => result,
            result = server => result.unwrap_or_else(|error| Err(error.into())).context("serve metrics and probes"),
        }
    })
}

fn host_name() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname")
        .map(|name| name.trim().to_owned())
        .unwrap_or_else(|_| "unknown".to_owned())
}
