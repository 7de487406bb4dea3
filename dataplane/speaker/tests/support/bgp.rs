//! A router and a node with BGP in network namespaces: the routers are BIRD, or sockets of the test. The test supplies the
//! objects of Kubernetes.

#![allow(dead_code, reason = "each test file uses a part of it")]
#![allow(clippy::expect_used, reason = "a helper of a test fails the test")]

use std::net::IpAddr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use futures::StreamExt;
use futures::stream::LocalBoxStream;
use lb_net::{LinkWatcher, Snapshot};
use lb_speaker::bgp::bfd::metrics::BfdMetrics;
use lb_speaker::bgp::configuration::{Kind, Update};
use lb_speaker::bgp::drain::{DrainSettings, OnCordon};
use lb_speaker::bgp::metrics::BgpMetrics;
use lb_speaker::bgp::{Bgp, Settings};
use lb_speaker::k8s::index::{self, Index};
use lb_speaker::metrics::Metrics;
use prometheus::Registry;
use tokio::sync::mpsc;

use crate::lan::{Lan, within};
use crate::support::{mk_node_at, mk_pool, mk_service, mk_slice};

/// How long a test waits for the router.
const TIMEOUT: Duration = Duration::from_secs(20);
/// How often the router is asked.
const POLL_INTERVAL: Duration = Duration::from_millis(50);
/// A key of heartbeats.
pub(crate) const KEY: &[u8] = b"a key of the cluster";
/// How long routers with BFD wait for the next process.
const BFD_RESTART_BUDGET: Duration = Duration::from_secs(10);
/// How long a node that leaves announces with the community.
pub(crate) const DRAIN_DELAY: Duration = Duration::from_secs(2);
pub(crate) const NODE: &str = "192.168.50.21";
pub(crate) const NODE_V6: &str = "fd00:50::21";
pub(crate) const ROUTER: &str = "192.168.50.10";
pub(crate) const ROUTER_V6: &str = "fd00:50::10";

/// A cluster of one node, a pool, and the Service `web` with an address of each family.
pub(crate) fn bgp_cluster() -> Vec<index::Update> {
    let addresses: [IpAddr; 2] = [NODE, NODE_V6].map(|address| address.parse().expect("an address"));
    vec![
        mk_node_at("n1", &addresses),
        mk_pool("lan", &["203.0.113.0/24", "2001:db8:113::/120"]),
        mk_service("web", &["203.0.113.7", "2001:db8:113::7"], |_| {}),
        mk_slice("web", &["n1"]),
    ]
}

/// A node with BGP, without an API server.
pub(crate) struct Node {
    pub(crate) lan: Lan,
    pub(crate) bgp: Bgp,
    pub(crate) index: Index,
    updates: mpsc::Sender<Update>,
    links: LocalBoxStream<'static, Snapshot>,
    known_links: Snapshot,
    registry: Registry,
    listed: bool,
}

impl Node {
    /// Runs a test on a LAN.
    pub(crate) fn run<F, T>(test: T) -> Result<()>
    where
        F: Future<Output = Result<()>>,
        T: FnOnce(Self) -> F + Send,
    {
        let lan = Lan::new()?;
        lan.node_ip(&format!("address add {NODE_V6}/64 dev lan0 nodad"))?;
        lan.client_ip(&format!("address add {ROUTER_V6}/64 dev lan0 nodad"))?;
        let namespace = lan.node.clone();
        within(&namespace, async || test(Self::new(lan)?).await)
    }

    fn new(lan: Lan) -> Result<Self> {
        let (updates, receiver) = mpsc::channel(64);
        let mut node = Self {
            lan,
            bgp: Self::bgp(&Registry::new(), receiver)?,
            index: Index::default(),
            updates,
            links: links()?,
            known_links: Snapshot::new(),
            registry: Registry::new(),
            listed: false,
        };
        node.restart()?;
        Ok(node)
    }

    fn bgp(registry: &Registry, updates: mpsc::Receiver<Update>) -> Result<Bgp> {
        let metrics = Metrics::new(registry, "n1")?;
        let settings = Settings {
            node: "n1".to_owned(),
            ignore_exclude_label: false,
            bfd_restart_budget: BFD_RESTART_BUDGET,
            drain: DrainSettings {
                on_cordon: OnCordon::Deprioritize,
                delay: DRAIN_DELAY,
            },
        };
        let mut bgp = Bgp::new(
            Instant::now(),
            settings,
            updates,
            metrics,
            BgpMetrics::new(registry)?,
            BfdMetrics::new(registry)?,
        );
        bgp.set_heartbeat_keys(&[KEY.to_vec()]);
        Ok(bgp)
    }

    /// Begins a new process that knows nothing.
    pub(crate) fn restart(&mut self) -> Result<()> {
        let (updates, receiver) = mpsc::channel(64);
        self.registry = Registry::new();
        self.bgp = Self::bgp(&self.registry, receiver)?;
        self.updates = updates;
        self.index = Index::default();
        self.links = links()?;
        self.listed = false;
        Ok(())
    }

    /// Supplies the objects, and the end of the lists.
    pub(crate) async fn start(
        &mut self,
        cluster: Vec<index::Update>,
        configuration: Vec<Update>,
    ) -> Result<()> {
        self.objects(cluster);
        self.configure(configuration).await?;
        self.configure(Kind::ALL.map(Update::Synced)).await?;
        self.listed = true;
        Ok(())
    }

    /// Changes objects of Kubernetes.
    pub(crate) fn objects(&mut self, updates: impl IntoIterator<Item = index::Update>) {
        for update in updates {
            let affected = self.index.update(update);
            self.bgp.note(&self.index, &affected);
        }
    }

    /// Changes the configuration of BGP.
    pub(crate) async fn configure(&mut self, updates: impl IntoIterator<Item = Update>) -> Result<()> {
        for update in updates {
            self.updates.send(update).await?;
        }
        Ok(())
    }

    /// Works until the condition holds.
    pub(crate) async fn until(
        &mut self,
        what: &str,
        mut holds: impl FnMut(&Self) -> Result<bool>,
    ) -> Result<()> {
        let end = Instant::now() + TIMEOUT;
        let mut check_at = Instant::now();
        loop {
            if check_at <= Instant::now() {
                if holds(self)? {
                    return Ok(());
                }
                ensure!(Instant::now() < end, "timeout: {what}");
                check_at = Instant::now() + POLL_INTERVAL;
            }
            self.turn(check_at).await;
        }
    }

    /// Works for a time.
    pub(crate) async fn during(&mut self, time: Duration) {
        let end = Instant::now() + time;
        while Instant::now() < end {
            self.turn(end).await;
        }
    }

    /// One turn of the event loop, at most until a time.
    async fn turn(&mut self, end: Instant) {
        self.bgp.step(Instant::now(), &self.index, self.listed);
        if self.bgp.is_busy() {
            tokio::task::yield_now().await;
            return;
        }
        let timeout = self.bgp.poll_timeout().map_or(end, |at| at.min(end));
        tokio::select! {
            () = self.bgp.wait() => {}
            Some(links) = self.links.next() => {
                self.bgp.set_links(&links);
                self.known_links = links;
            }
            () = tokio::time::sleep_until(timeout.into()) => {}
        }
    }

    /// The value of the metric for a router, or the sum over all.
    pub(crate) fn metric(&self, name: &str) -> Option<f64> {
        let families = self.registry.gather();
        let family = families.iter().find(|family| family.name() == name)?;
        let values = family.get_metric().iter().map(|metric| {
            if metric.get_counter().get_value() > 0.0 {
                metric.get_counter().get_value()
            } else {
                metric.get_gauge().get_value()
            }
        });
        Some(values.sum())
    }

    /// Whether BGP knows a link-local address of `lan0` that may be used.
    pub(crate) fn has_link_local(&self) -> bool {
        let lan = self.known_links.values().find(|link| link.name == "lan0");
        lan.into_iter()
            .flat_map(|link| &link.addresses)
            .any(|own| match own.address {
                IpAddr::V6(address) => address.is_unicast_link_local() && !own.tentative,
                IpAddr::V4(_) => false,
            })
    }

    pub(crate) fn is_up(&self) -> bool {
        self.metric("metallb_bgp_session_up") == Some(1.0)
    }
}

fn links() -> Result<LocalBoxStream<'static, Snapshot>> {
    let watcher = LinkWatcher::new()?;
    let next = |mut watcher: LinkWatcher| async {
        let snapshot = watcher.next().await.ok()?;
        Some((snapshot, watcher))
    };
    Ok(futures::stream::unfold(watcher, next).boxed_local())
}

/// BIRD on the client, which ends when this is dropped.
pub(crate) struct Bird {
    child: Child,
    directory: PathBuf,
}

impl Bird {
    /// Starts BIRD with this protocol section for `n1`.
    pub(crate) fn start(lan: &Lan, protocols: &str) -> Result<Self> {
        ensure!(
            Command::new("bird").arg("--version").output().is_ok(),
            "bird is missing: run `make setup`"
        );
        let directory = std::env::temp_dir().join(&lan.client);
        std::fs::create_dir_all(&directory)?;
        std::fs::write(
            directory.join("bird.conf"),
            format!("log stderr all;\nrouter id {ROUTER};\nprotocol device {{}}\n{protocols}\n"),
        )?;
        let log = std::fs::File::create(directory.join("log"))?;
        let child = Command::new("ip")
            .args(["netns", "exec", &lan.client, "bird", "-f", "-c"])
            .arg(directory.join("bird.conf"))
            .arg("-s")
            .arg(directory.join("ctl"))
            .arg("-P")
            .arg(directory.join("pid"))
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .context("start bird")?;
        let bird = Self { child, directory };
        let end = Instant::now() + TIMEOUT;
        while bird.ask("show status").is_err() {
            ensure!(Instant::now() < end, "bird does not start: {}", bird.log());
            std::thread::sleep(POLL_INTERVAL);
        }
        Ok(bird)
    }

    /// The answer to a command of birdc.
    pub(crate) fn ask(&self, command: &str) -> Result<String> {
        let output = Command::new("birdc")
            .arg("-s")
            .arg(self.directory.join("ctl"))
            .args(command.split_whitespace())
            .output()
            .context("run birdc")?;
        // Its exit code is an error if there is no route.
        let answer = String::from_utf8(output.stdout)?;
        ensure!(answer.contains(" ready."), "birdc does not connect");
        Ok(answer)
    }

    /// The routes to a prefix with all attributes.
    pub(crate) fn route(&self, prefix: &str) -> Result<String> {
        self.ask(&format!("show route all {prefix}"))
    }

    /// Whether it has a route to a prefix.
    pub(crate) fn has(&self, prefix: &str) -> Result<bool> {
        Ok(self.route(prefix)?.contains("BGP.origin"))
    }

    /// Stops it for a time, as a machine that fails would, or lets it go on.
    pub(crate) fn signal(&self, signal: nix::sys::signal::Signal) -> Result<()> {
        let process = nix::unistd::Pid::from_raw(i32::try_from(self.child.id())?);
        Ok(nix::sys::signal::kill(process, signal)?)
    }

    /// The changes of the state of its BFD session, as in "Init to Up".
    pub(crate) fn bfd_changes(&self) -> Vec<String> {
        let log = self.log();
        let changes = log
            .lines()
            .filter_map(|line| line.split_once("changed state from "));
        changes.map(|(_, change)| change.to_owned()).collect()
    }

    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.directory.join("log")).unwrap_or_default()
    }
}

impl Drop for Bird {
    fn drop(&mut self) {
        // `ip netns exec` becomes bird itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

/// A protocol section of BIRD for one neighbor.
pub(crate) fn bird_protocol(local: &str, neighbor: &str, more: &str) -> String {
    format!(
        "protocol bgp n1 {{\n  local {local};\n  neighbor {neighbor};\n  passive;\n  hold time 30;\n  error wait time 1, 3;\n  \
         ipv4 {{ import all; export none; }};\n  ipv6 {{ import all; export none; }};\n  {more}\n}}"
    )
}

/// The section of BIRD for BFD with these intervals, in milliseconds.
pub(crate) fn bird_bfd(interval: u32) -> String {
    let values = format!(
        "min rx interval {interval} ms; min tx interval {interval} ms; idle tx interval 1 s; multiplier 3;"
    );
    format!(
        "protocol bfd {{ debug {{ states, events }}; interface \"*\" {{ {values} }}; multihop {{ {values} }}; }}\n"
    )
}
