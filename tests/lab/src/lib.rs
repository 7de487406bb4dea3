//! A real Kubernetes cluster on one machine, without Docker: every node is a set of namespaces with its own containerd,
//! kubelet and kube-proxy, and has a cable to one Ethernet segment.
//!
//! ```text
//!    host ─── 198.18.<k>.0/30 ─── <name>-cp       etcd, API server, controller manager, scheduler
//!                                    │ .5
//!   ═════ <name>-lan: the LAN 192.168.50.0/24, fc00:50::/64 on eth0; a second one, 192.168.51.0/24, fc00:51::/64, on eth1
//!      │ .20              │ .11              │ .12             …
//!  <name>-client       <name>-n1          <name>-n2
//! ```
//!
//! All parts of a lab are found by its name, so [`Lab::down`] works after a crash at any point, also without the lab's
//! files:
//!
//! | part | place |
//! | --- | --- |
//! | network namespaces | `<name>-lan`, `<name>-cp`, `<name>-client`, `<name>-n1`, …; with a router `<name>-wan` |
//! | processes | in these namespaces; all others are their children and end with them |
//! | control groups | `lab-<name>-n1`, … in every hierarchy |
//! | mounts | inside the nodes' mount namespaces, which end with their processes |
//! | files | `target/<name>`: `kubeconfig`, `logs/`, and a directory for each machine |
//!
//! The process that starts a lab holds one end of a pipe, and a janitor process holds the other. When the first ends
//! without [`Lab::leave_up`], by Ctrl-C or a crash, the janitor takes the lab down.

// Support for tests and for people at a terminal: output goes to the terminal.
#![allow(clippy::expect_used, clippy::print_stdout)]

mod cgroup;
mod cleanup;
mod janitor;
mod layout;
mod machine;
pub mod metallb;
mod network;
mod node;
mod pki;
mod router;
mod server;

use std::fs::File;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

use nix::sched::{CloneFlags, setns};
use nix::sys::signal::Signal;

use janitor::Janitor;
pub use janitor::program;
use layout::{Layout, Machine};
pub use layout::{PROGRAMS, cache, cached_images, operator_images, repository};
pub use router::Router;

/// Limit for the API server and the nodes to become ready; on an idle machine they take seconds.
const BOOT_TIMEOUT: Duration = Duration::from_secs(180);

/// Options of a new lab.
#[derive(Clone, Debug)]
pub struct LabConfig {
    /// 1 to 20 lower-case letters, digits and dashes, a letter first. Labs with different names can run at the same
    /// time.
    pub name: String,
    /// 1 to 29.
    pub nodes: usize,
    /// Archives of container images that every node has from the start.
    pub images: Vec<PathBuf>,
    /// How often kubelets check each pod and the Secrets mounted into it; the kubelet's default, one minute, if `None`.
    pub kubelet_sync_period: Option<Duration>,
}

impl LabConfig {
    /// A lab of three nodes without images.
    #[must_use]
    pub fn named(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            nodes: 3,
            images: Vec::new(),
            kubelet_sync_period: None,
        }
    }
}

/// A running lab. Dropping it takes the lab down, except after [`Lab::running`].
#[derive(Debug)]
pub struct Lab {
    layout: Layout,
    janitor: Option<Janitor>,
}

impl Lab {
    /// Starts a lab, replacing one of the same name, and waits until its nodes are ready.
    ///
    /// # Errors
    /// When `make setup` has not been run, or a part does not start; the error names its log.
    pub fn up(config: LabConfig) -> anyhow::Result<Self> {
        let layout = Layout::new(&config)?;
        check_prerequisites()?;
        // Starting a cluster takes both processors for many seconds, and the scenarios that run meanwhile measure times.
        let _one_at_a_time = layout::lock(layout::START_LOCK)?;
        let lock = layout::lock(&layout.name)?;
        cleanup::down(&layout.name)?;
        layout.create()?;
        let janitor = Janitor::watch(&layout)?;
        drop(lock);
        let mut lab = Self {
            layout,
            janitor: Some(janitor),
        };
        lab.boot(&config.images)
            .with_context(|| format!("start lab {}", lab.name()))?;
        Ok(lab)
    }

    /// A lab that another process has started. Dropping it changes nothing.
    ///
    /// # Errors
    /// When there is no lab of this name.
    pub fn running(name: &str) -> anyhow::Result<Self> {
        let layout = Layout::of_running(name)?;
        Ok(Self {
            layout,
            janitor: None,
        })
    }

    /// Removes everything that belongs to a lab of this name.
    ///
    /// # Errors
    /// When a part cannot be removed.
    pub fn down(name: &str) -> anyhow::Result<()> {
        remove(name, None)
    }

    /// The same, if the token of the lab is this one.
    ///
    /// # Errors
    /// As [`Lab::down`].
    pub fn down_if(name: &str, token: &str) -> anyhow::Result<()> {
        remove(name, Some(token))
    }

    /// Keeps the lab running after this process.
    ///
    /// # Errors
    /// When the janitor is gone.
    pub fn leave_up(mut self) -> anyhow::Result<()> {
        match self.janitor.take() {
            Some(janitor) => janitor.dismiss(),
            None => Ok(()),
        }
    }

    fn boot(&mut self, images: &[PathBuf]) -> anyhow::Result<()> {
        self.layout.link = network::create(&self.layout)?;
        self.layout.save()?;
        let layout = &self.layout;
        pki::create(layout)?;
        server::start(layout)?;
        for number in 1..=layout.nodes {
            node::start(layout, number, images)?;
        }
        let kubectl = |args: &[&str]| self.kubectl(args);
        wait_for("the API server", &layout.log("apiserver"), || {
            kubectl(&["get", "--raw", "/readyz"]).is_ok()
        })?;
        wait_for("the nodes", &layout.log("n1-kubelet"), || {
            kubectl(&["get", "nodes", "--no-headers"]).is_ok_and(|text| {
                text.lines().filter(|line| line.contains(" Ready ")).count() == layout.nodes
            })
        })
    }

    /// Whether the API server answers and every node is running.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        let has_power = |number| machine::init_process(&self.layout, Machine::Node(number)).is_ok();
        (1..=self.layout.nodes).all(has_power) && self.kubectl(&["get", "--raw", "/readyz"]).is_ok()
    }

    fn kubectl(&self, args: &[&str]) -> anyhow::Result<String> {
        let mut command = Command::new(layout::binary("kubectl"));
        command
            .arg("--kubeconfig")
            .arg(self.kubeconfig())
            .arg("--request-timeout=5s")
            .args(args);
        run(&mut command)
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.layout.name
    }

    /// The administrator's kubeconfig, usable from the host.
    #[must_use]
    pub fn kubeconfig(&self) -> PathBuf {
        self.layout.kubeconfig()
    }

    /// The directory of the logs, one file for each program of each machine.
    #[must_use]
    pub fn logs(&self) -> PathBuf {
        self.layout.logs()
    }

    /// The directory in which `HOST/hosts.toml` tells the nodes how to reach a registry.
    #[must_use]
    pub fn registries(&self) -> PathBuf {
        self.layout.registries()
    }

    /// The names of the nodes.
    #[must_use]
    pub fn nodes(&self) -> Vec<String> {
        (1..=self.layout.nodes)
            .map(|number| Machine::Node(number).name())
            .collect()
    }

    /// A command on a machine of the lab: `client`, `cp`, `n1`, …
    ///
    /// # Errors
    /// When there is no such machine, or it is switched off.
    pub fn command(&self, machine: &str, argv: &[&str]) -> anyhow::Result<Command> {
        let machine = self.layout.machine(machine)?;
        machine::command(&self.layout, machine, argv)
    }

    /// The IPv4 address of a machine's first interface.
    ///
    /// # Errors
    /// When there is no such machine.
    pub fn address(&self, machine: &str) -> anyhow::Result<Ipv4Addr> {
        let address = self.layout.machine(machine)?.address();
        address.parse().with_context(|| format!("read {address}"))
    }

    /// The hardware address of a machine's first interface.
    ///
    /// # Errors
    /// When there is no such machine.
    pub fn mac_address(&self, machine: &str) -> anyhow::Result<[u8; 6]> {
        Ok(network::mac_address(self.layout.machine(machine)?, 0))
    }

    /// Runs `work` in the client's network namespace, on a thread of its own.
    ///
    /// # Errors
    /// When the client's network namespace does not exist.
    pub fn on_client<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> anyhow::Result<T> + Send + 'static,
    ) -> anyhow::Result<JoinHandle<anyhow::Result<T>>> {
        let path = Path::new("/run/netns").join(self.layout.namespace(Machine::Client));
        let namespace = File::open(&path).with_context(|| format!("open {}", path.display()))?;
        Ok(std::thread::spawn(move || {
            setns(namespace, CloneFlags::CLONE_NEWNET).context("enter the client's network")?;
            work()
        }))
    }

    /// Unplugs a node's cables.
    ///
    /// # Errors
    /// When there is no such node.
    pub fn cut(&self, node: usize) -> anyhow::Result<()> {
        network::set_cables(&self.layout, self.node(node)?, network::Cable::Unplugged)
    }

    /// Plugs a node's cables in again.
    ///
    /// # Errors
    /// When there is no such node.
    pub fn join(&self, node: usize) -> anyhow::Result<()> {
        network::set_cables(&self.layout, self.node(node)?, network::Cable::Plugged)
    }

    /// Partitions the first LAN: these nodes share a segment with the client's second interface, all others stay on the
    /// first segment. No interface loses its carrier.
    ///
    /// # Errors
    /// When there is no such node.
    pub fn partition(&self, minority: &[usize]) -> anyhow::Result<()> {
        let minority: Vec<_> = minority
            .iter()
            .map(|node| self.node(*node))
            .collect::<anyhow::Result<_>>()?;
        network::partition(&self.layout, &minority)
    }

    /// Ends a partition, and moves the client's second interface back to the second LAN.
    ///
    /// # Errors
    /// When the switches cannot be configured.
    pub fn heal_partition(&self) -> anyhow::Result<()> {
        network::partition(&self.layout, &[])
    }

    /// Kills the API server and keeps it stopped.
    ///
    /// # Errors
    /// When it is not running.
    pub fn stop_api_server(&self) -> anyhow::Result<()> {
        let gate = self
            .layout
            .disk(Machine::ControlPlane)
            .join(server::API_SERVER_STOPPED_FILE);
        std::fs::write(&gate, "").with_context(|| format!("write {}", gate.display()))?;
        machine::signal(
            &self.layout,
            Machine::ControlPlane,
            "kube-apiserver",
            nix::sys::signal::Signal::SIGKILL,
        )?;
        Ok(())
    }

    /// Starts the API server and waits until it answers.
    ///
    /// # Errors
    /// When it does not answer in time.
    pub fn start_api_server(&self) -> anyhow::Result<()> {
        let gate = self
            .layout
            .disk(Machine::ControlPlane)
            .join(server::API_SERVER_STOPPED_FILE);
        std::fs::remove_file(&gate).with_context(|| format!("remove {}", gate.display()))?;
        wait_for("the API server", &self.layout.log("apiserver"), || {
            self.kubectl(&["get", "--raw", "/readyz"]).is_ok()
        })
    }

    /// Switches a node off: kills all its processes at once; it neither answers nor forwards.
    ///
    /// # Errors
    /// When there is no such node.
    pub fn crash(&self, node: usize) -> anyhow::Result<()> {
        let machine = self.node(node)?;
        cleanup::power_off(&self.layout.namespace(machine))
    }

    /// Switches a node on; it boots from its disk. Does nothing when it is running.
    ///
    /// # Errors
    /// When there is no such node, or it does not start.
    pub fn start(&self, node: usize) -> anyhow::Result<()> {
        let machine = self.node(node)?;
        if machine::init_process(&self.layout, machine).is_ok() {
            return Ok(());
        }
        cleanup::power_off(&self.layout.namespace(machine))?;
        network::plug_in(&self.layout, machine)?;
        network::wait_for_addresses(&self.layout, machine)?;
        node::start(&self.layout, node, &[])
    }

    /// Stops every process of a program on a node with SIGSTOP. Returns their number.
    ///
    /// # Errors
    /// When no such program runs there.
    pub fn freeze(&self, node: usize, program: &str) -> anyhow::Result<usize> {
        self.signal(node, program, Signal::SIGSTOP)
    }

    /// Continues stopped processes with SIGCONT. Returns their number.
    ///
    /// # Errors
    /// When no such program runs there.
    pub fn thaw(&self, node: usize, program: &str) -> anyhow::Result<usize> {
        self.signal(node, program, Signal::SIGCONT)
    }

    /// Sends SIGTERM to every process of a program on a node. Returns their number.
    ///
    /// # Errors
    /// When no such program runs there.
    pub fn terminate(&self, node: usize, program: &str) -> anyhow::Result<usize> {
        self.signal(node, program, Signal::SIGTERM)
    }

    /// Sends SIGKILL to every process of a program on a node. Returns their number.
    ///
    /// # Errors
    /// When no such program runs there.
    pub fn kill(&self, node: usize, program: &str) -> anyhow::Result<usize> {
        self.signal(node, program, Signal::SIGKILL)
    }

    fn signal(&self, node: usize, program: &str, signal: Signal) -> anyhow::Result<usize> {
        machine::signal(&self.layout, self.node(node)?, program, signal)
    }

    /// Process numbers, as on the host, of a container on a node.
    ///
    /// # Errors
    /// When there is no such node, or it is switched off.
    pub fn container(&self, node: &str, id: &str) -> anyhow::Result<Vec<i32>> {
        machine::container(&self.layout, self.layout.machine(node)?, id)
    }

    /// Imports a container image on every running node.
    ///
    /// # Errors
    /// When the archive cannot be read.
    pub fn load(&self, image: &Path) -> anyhow::Result<()> {
        let image = image
            .canonicalize()
            .with_context(|| format!("find the image {}", image.display()))?;
        for number in 1..=self.layout.nodes {
            if machine::init_process(&self.layout, Machine::Node(number)).is_ok() {
                node::load(&self.layout, number, &image)?;
            }
        }
        Ok(())
    }

    fn node(&self, number: usize) -> anyhow::Result<Machine> {
        if (1..=self.layout.nodes).contains(&number) {
            return Ok(Machine::Node(number));
        }
        bail!(
            "lab {} has no node {number}: use 1 to {}",
            self.name(),
            self.layout.nodes
        )
    }
}

fn remove(name: &str, token: Option<&str>) -> anyhow::Result<()> {
    layout::check_name(name)?;
    let _lock = layout::lock(name)?;
    if let Some(token) = token
        && Layout::of_running(name).is_ok_and(|layout| layout.token != token)
    {
        return Ok(());
    }
    cleanup::down(name)?;
    layout::remove_files(name)
}

fn check_prerequisites() -> anyhow::Result<()> {
    if !nix::unistd::geteuid().is_root() {
        bail!("not root: the lab creates network namespaces and mounts: run it with sudo");
    }
    for program in ["kube-apiserver", "kubelet", "kubectl"] {
        let path = layout::binary(program);
        if !path.exists() {
            bail!("{} is missing: run `make setup`", path.display());
        }
    }
    for program in [
        "/usr/bin/etcd",
        "/usr/bin/containerd",
        "/usr/sbin/runc",
        "/usr/lib/cni/bridge",
    ] {
        if !Path::new(program).exists() {
            bail!("{program} is missing: run `make setup`");
        }
    }
    Ok(())
}

fn wait_for(what: &str, log: &Path, ready: impl Fn() -> bool) -> anyhow::Result<()> {
    let start = Instant::now();
    while !ready() {
        if start.elapsed() > BOOT_TIMEOUT {
            bail!("{what} not ready after {BOOT_TIMEOUT:?}: see {}", log.display());
        }
        std::thread::sleep(Duration::from_millis(200));
    }
    Ok(())
}

/// Runs a command and returns its standard output.
fn run(command: &mut Command) -> anyhow::Result<String> {
    let output = command.output().with_context(|| format!("start {command:?}"))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let printed = String::from_utf8_lossy(&output.stderr);
    bail!("{command:?}: {}: {}", output.status, printed.trim())
}

/// Exit code of a tool; an error is printed on one line.
#[must_use]
pub fn exit(program: &str, outcome: anyhow::Result<()>) -> std::process::ExitCode {
    match outcome {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{program}: {error:#}");
            std::process::ExitCode::FAILURE
        }
    }
}
