//! A real Kubernetes cluster on one machine, without Docker: every node is a set of namespaces with a containerd, kubelet
//! and kube-proxy of its own, and hangs by a cable on one Ethernet segment.
//!
//! ```text
//!    host ─── 198.18.<k>.0/30 ─── <name>-cp       etcd, API server, controller manager, scheduler
//!                                    │ .5
//!   ═════ <name>-lan: the LAN 192.168.50.0/24, fc00:50::/64 on eth0; a second one, 192.168.51.0/24, fc00:51::/64, on eth1
//!      │ .20              │ .11              │ .12             …
//!  <name>-client       <name>-n1          <name>-n2
//! ```
//!
//! Everything a lab makes is found again by its name, so [`Lab::down`] works after a crash at any point, also without the
//! files of whoever started it:
//!
//! | what | where |
//! | --- | --- |
//! | network namespaces | `<name>-lan`, `<name>-cp`, `<name>-client`, `<name>-n1`, … |
//! | processes | those that live in these namespaces; all others are their children and end with them |
//! | control groups | `lab-<name>-n1`, … in every hierarchy |
//! | mounts | inside the nodes' own mount namespaces, which end with their processes |
//! | files | `target/<name>`: `kubeconfig`, `logs/`, and a directory for each machine |
//!
//! Whoever brings a lab up holds one end of a pipe, and a janitor process holds the other. When the holder ends without
//! having said that the lab stays, by Ctrl-C or worse, the janitor takes the lab down.

// Support for tests and for people at a terminal: the output goes to the terminal.
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

/// How long the API server and the nodes may take to become ready; seconds on an idle machine.
const BOOT: Duration = Duration::from_secs(180);

/// What a lab is to be like.
#[derive(Clone, Debug)]
pub struct LabConfig {
    /// Its name: 1 to 20 lower-case letters, digits and dashes. Labs of different names stand side by side.
    pub name: String,
    /// Number of nodes, 1 to 29.
    pub nodes: usize,
    /// Archives of container images that every node has from the start.
    pub images: Vec<PathBuf>,
    /// How often the kubelets look at each pod, and so at the Secrets that are mounted into it; `None`: as often as a kubelet
    /// does unless it is told otherwise, every minute.
    pub sync: Option<Duration>,
}

impl LabConfig {
    /// A lab of three nodes without images.
    #[must_use]
    pub fn named(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            nodes: 3,
            images: Vec::new(),
            sync: None,
        }
    }
}

/// A running lab. It is taken down when this is dropped, unless it was told to stay.
#[derive(Debug)]
pub struct Lab {
    layout: Layout,
    janitor: Option<Janitor>,
}

impl Lab {
    /// Starts a lab from nothing, in place of one of the same name, and waits until its nodes are ready.
    ///
    /// # Errors
    /// When something that set-up provides is missing, or a part does not start; the error names its log.
    pub fn up(config: LabConfig) -> anyhow::Result<Self> {
        let layout = Layout::new(&config)?;
        check_prerequisites()?;
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

    /// A lab that somebody else has started. Dropping this changes nothing.
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

    /// Removes all that a lab of this name has made, as far as it is there.
    ///
    /// # Errors
    /// When something of it resists.
    pub fn down(name: &str) -> anyhow::Result<()> {
        remove(name, None)
    }

    /// The same, unless the lab of this name is another one by now.
    ///
    /// # Errors
    /// As [`Lab::down`].
    pub fn down_if(name: &str, token: &str) -> anyhow::Result<()> {
        remove(name, Some(token))
    }

    /// Lets the lab stand when this process ends.
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

    /// Whether the API server answers and no machine is without power.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        let has_power = |number| machine::init(&self.layout, Machine::Node(number)).is_ok();
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

    /// The directory of the logs, a file for each program of each machine.
    #[must_use]
    pub fn logs(&self) -> PathBuf {
        self.layout.logs()
    }

    /// The names of the nodes.
    #[must_use]
    pub fn nodes(&self) -> Vec<String> {
        (1..=self.layout.nodes)
            .map(|number| Machine::Node(number).name())
            .collect()
    }

    /// A command on one of the lab's machines: `client`, `cp`, `n1`, …
    ///
    /// # Errors
    /// When there is no such machine, or it has no power.
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
    pub fn hardware_address(&self, machine: &str) -> anyhow::Result<[u8; 6]> {
        Ok(network::hardware_address(self.layout.machine(machine)?, 0))
    }

    /// Does work in the client's network, on a thread of its own that ends with it.
    ///
    /// # Errors
    /// When the client's network is not there.
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

    /// Pulls a node's cables out.
    ///
    /// # Errors
    /// When there is no such node.
    pub fn cut(&self, node: usize) -> anyhow::Result<()> {
        network::set_cables(&self.layout, self.node(node)?, network::Cable::Out)
    }

    /// Puts a node's cables back.
    ///
    /// # Errors
    /// When there is no such node.
    pub fn join(&self, node: usize) -> anyhow::Result<()> {
        network::set_cables(&self.layout, self.node(node)?, network::Cable::In)
    }

    /// Divides the first LAN. These nodes are on a side of their own, where the client has its second interface; all else
    /// stays on the other side. Nobody loses carrier.
    ///
    /// # Errors
    /// When there is no such node.
    pub fn divide(&self, apart: &[usize]) -> anyhow::Result<()> {
        let apart: Vec<_> = apart
            .iter()
            .map(|node| self.node(*node))
            .collect::<anyhow::Result<_>>()?;
        network::divide(&self.layout, &apart)
    }

    /// Makes the first LAN one again, and puts the client's second interface back on the second.
    ///
    /// # Errors
    /// When the switches do not answer.
    pub fn unite(&self) -> anyhow::Result<()> {
        network::divide(&self.layout, &[])
    }

    /// Ends the API server, until it is started again.
    ///
    /// # Errors
    /// When it does not run.
    pub fn stop_api_server(&self) -> anyhow::Result<()> {
        let gate = self.layout.disk(Machine::Server).join(server::STOPPED);
        std::fs::write(&gate, "").with_context(|| format!("write {}", gate.display()))?;
        machine::signal(
            &self.layout,
            Machine::Server,
            "kube-apiserver",
            nix::sys::signal::Signal::SIGKILL,
        )?;
        Ok(())
    }

    /// Starts the API server again, and waits until it answers.
    ///
    /// # Errors
    /// When it does not.
    pub fn start_api_server(&self) -> anyhow::Result<()> {
        let gate = self.layout.disk(Machine::Server).join(server::STOPPED);
        std::fs::remove_file(&gate).with_context(|| format!("remove {}", gate.display()))?;
        wait_for("the API server", &self.layout.log("apiserver"), || {
            self.kubectl(&["get", "--raw", "/readyz"]).is_ok()
        })
    }

    /// Takes a node's power away: all its processes end at once and nothing in it answers or forwards any more.
    ///
    /// # Errors
    /// When there is no such node.
    pub fn crash(&self, node: usize) -> anyhow::Result<()> {
        let machine = self.node(node)?;
        cleanup::power_off(&self.layout.namespace(machine))
    }

    /// Gives a node its power back; it boots from its disk. Does nothing when it is running.
    ///
    /// # Errors
    /// When there is no such node, or it does not start.
    pub fn start(&self, node: usize) -> anyhow::Result<()> {
        let machine = self.node(node)?;
        if machine::init(&self.layout, machine).is_ok() {
            return Ok(());
        }
        cleanup::power_off(&self.layout.namespace(machine))?;
        network::plug_in(&self.layout, machine)?;
        node::start(&self.layout, node, &[])
    }

    /// Stops every process of this program on a node where it stands, without ending it. Returns how many.
    ///
    /// # Errors
    /// When no such program runs there.
    pub fn freeze(&self, node: usize, program: &str) -> anyhow::Result<usize> {
        self.signal(node, program, Signal::SIGSTOP)
    }

    /// Lets stopped processes go on. Returns how many.
    ///
    /// # Errors
    /// When no such program runs there.
    pub fn thaw(&self, node: usize, program: &str) -> anyhow::Result<usize> {
        self.signal(node, program, Signal::SIGCONT)
    }

    /// Asks every process of this program on a node to end. Returns how many.
    ///
    /// # Errors
    /// When no such program runs there.
    pub fn terminate(&self, node: usize, program: &str) -> anyhow::Result<usize> {
        self.signal(node, program, Signal::SIGTERM)
    }

    /// Ends every process of this program on a node at once, as a crash of it does. Returns how many.
    ///
    /// # Errors
    /// When no such program runs there.
    pub fn kill(&self, node: usize, program: &str) -> anyhow::Result<usize> {
        self.signal(node, program, Signal::SIGKILL)
    }

    fn signal(&self, node: usize, program: &str, signal: Signal) -> anyhow::Result<usize> {
        machine::signal(&self.layout, self.node(node)?, program, signal)
    }

    /// The processes of a container on one of the lab's nodes, as the host numbers them.
    ///
    /// # Errors
    /// When there is no such node, or it has no power.
    pub fn container(&self, node: &str, id: &str) -> anyhow::Result<Vec<i32>> {
        machine::container(&self.layout, self.layout.machine(node)?, id)
    }

    /// Gives every running node a container image.
    ///
    /// # Errors
    /// When the archive cannot be read.
    pub fn load(&self, image: &Path) -> anyhow::Result<()> {
        let image = image
            .canonicalize()
            .with_context(|| format!("find the image {}", image.display()))?;
        for number in 1..=self.layout.nodes {
            if machine::init(&self.layout, Machine::Node(number)).is_ok() {
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
            "lab {} has no node {number}: its nodes are 1 to {}",
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

/// What must be there before anything is changed, with the command that provides it.
fn check_prerequisites() -> anyhow::Result<()> {
    if !nix::unistd::geteuid().is_root() {
        bail!("the lab makes network namespaces and mounts: run it as root");
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
        if start.elapsed() > BOOT {
            bail!("waited {BOOT:?} in vain for {what}; see {}", log.display());
        }
        std::thread::sleep(Duration::from_millis(200));
    }
    Ok(())
}

/// Runs a command to its end and returns what it printed.
fn run(command: &mut Command) -> anyhow::Result<String> {
    let output = command.output().with_context(|| format!("start {command:?}"))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let printed = String::from_utf8_lossy(&output.stderr);
    bail!("{command:?}: {}: {}", output.status, printed.trim())
}

/// How a tool ends: with nothing, or with one line that says what went wrong.
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
