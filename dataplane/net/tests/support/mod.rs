//! A node and a client in network namespaces, connected by a veth.

use std::fs::File;
use std::future::Future;
use std::process::{Command, Output};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lb_net::{Link, LinkWatcher, Snapshot};
use nix::sched::{CloneFlags, setns};

/// The interface in both namespaces.
pub(crate) const INTERFACE: &str = "lan0";

/// Deletes the namespaces, and with them the veth, on drop.
pub(crate) struct Segment {
    pub(crate) node: String,
    pub(crate) client: String,
}

impl Segment {
    pub(crate) fn new() -> Result<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        ensure!(
            nix::unistd::geteuid().is_root(),
            "the tests of lb-net create network namespaces: run them as root"
        );
        let prefix = format!(
            "lb-net-{}-{}",
            std::process::id(),
            COUNT.fetch_add(1, Ordering::Relaxed)
        );
        let segment = Self {
            node: format!("{prefix}-node"),
            client: format!("{prefix}-client"),
        };
        let (node, client) = (&segment.node, &segment.client);
        ip(&format!("netns add {node}"))?;
        ip(&format!("netns add {client}"))?;
        ip(&format!(
            "link add {INTERFACE} netns {node} type veth peer name {INTERFACE} netns {client}"
        ))?;
        for (namespace, address) in [(node, "192.168.50.21/24"), (client, "192.168.50.10/24")] {
            ip(&format!("-n {namespace} link set lo up"))?;
            ip(&format!("-n {namespace} address add {address} dev {INTERFACE}"))?;
            ip(&format!("-n {namespace} link set {INTERFACE} up"))?;
        }
        Ok(segment)
    }

    /// Runs `ip` in the node's namespace.
    pub(crate) fn node_ip(&self, arguments: &str) -> Result<()> {
        ip(&format!("-n {} {arguments}", self.node))
    }

    /// Runs `ip` in the client's namespace.
    pub(crate) fn client_ip(&self, arguments: &str) -> Result<()> {
        ip(&format!("-n {} {arguments}", self.client))
    }
}

impl Drop for Segment {
    fn drop(&mut self) {
        for namespace in [&self.node, &self.client] {
            // A leftover namespace can be identified by its name.
            let _ = ip(&format!("netns delete {namespace}"));
        }
    }
}

/// Runs `ip`.
pub(crate) fn run(arguments: &str) -> Result<Output> {
    Command::new("ip")
        .args(arguments.split_whitespace())
        .output()
        .with_context(|| format!("run ip {arguments}"))
}

fn ip(arguments: &str) -> Result<()> {
    let output = run(arguments)?;
    ensure!(
        output.status.success(),
        "ip {arguments}: {}",
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(())
}

/// Runs `work` in a network namespace, on a new thread with a single-threaded runtime as in the speaker.
pub(crate) fn within<T, F, W>(namespace: &str, work: W) -> Result<T>
where
    T: Send + 'static,
    F: Future<Output = Result<T>>,
    W: FnOnce() -> F + Send,
{
    let enter = || {
        setns(
            File::open(format!("/run/netns/{namespace}"))?,
            CloneFlags::CLONE_NEWNET,
        )?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        runtime.block_on(async { tokio::time::timeout(Duration::from_secs(60), work()).await })?
    };
    std::thread::scope(|scope| match scope.spawn(enter).join() {
        Ok(result) => result,
        Err(panic) => std::panic::resume_unwind(panic),
    })
}

/// Waits for a snapshot that satisfies `wanted`.
pub(crate) async fn until(watcher: &mut LinkWatcher, wanted: impl Fn(&Snapshot) -> bool) -> Result<Snapshot> {
    let search = async {
        loop {
            let snapshot = watcher.next().await?;
            if wanted(&snapshot) {
                return anyhow::Ok(snapshot);
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(10), search)
        .await
        .context("no matching snapshot within 10 s")?
}

/// The link with this name.
pub(crate) fn named<'a>(snapshot: &'a Snapshot, name: &str) -> Option<&'a Link> {
    snapshot.values().find(|link| link.name == name)
}

/// The segment's interface in the namespace of the calling thread, once it has carrier.
pub(crate) async fn interface() -> Result<Link> {
    let has_carrier = |snapshot: &Snapshot| named(snapshot, INTERFACE).is_some_and(|link| link.carrier);
    let snapshot = until(&mut LinkWatcher::new()?, has_carrier).await?;
    named(&snapshot, INTERFACE)
        .cloned()
        .context("the interface is gone")
}
