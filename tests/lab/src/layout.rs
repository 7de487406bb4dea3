//! Names, addresses and files of a lab. All follow from its name, its number of nodes and the number of its host link.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use serde::{Deserialize, Serialize};

use crate::LabConfig;

/// More nodes do not fit into the LAN below the address pool of the guide.
const MAX_NODES: usize = 29;

/// A machine of the lab.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Machine {
    /// The control plane.
    ControlPlane,
    /// A machine on the LAN that is not part of the cluster.
    Client,
    /// A node, counted from 1.
    Node(usize),
}

impl Machine {
    pub(super) fn name(self) -> String {
        match self {
            Self::ControlPlane => "cp".to_owned(),
            Self::Client => "client".to_owned(),
            Self::Node(number) => format!("n{number}"),
        }
    }

    /// The last part of its addresses on both LANs.
    pub(super) fn host_number(self) -> usize {
        match self {
            Self::ControlPlane => 5,
            Self::Client => 20,
            // .11 to .19 for the first nine nodes, .30 and up for the others: around the client, below the guide's
            // pool.
            Self::Node(number) if number < 10 => 10 + number,
            Self::Node(number) => 20 + number,
        }
    }

    pub(super) fn address(self) -> String {
        format!("192.168.50.{}", self.host_number())
    }

    pub(super) fn address6(self) -> String {
        format!("fc00:50::{}", self.host_number())
    }
}

/// The description of a lab, saved as `lab.json` for later commands.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(super) struct Layout {
    pub(super) name: String,
    pub(super) nodes: usize,
    /// Holds all files of the lab.
    directory: PathBuf,
    /// Distinguishes this lab from earlier ones of the same name.
    pub(super) token: String,
    /// Number of the link to the host: the first free one when the lab was started.
    pub(super) link: u8,
    /// See [`LabConfig::kubelet_sync_period`].
    pub(super) kubelet_sync_period: Option<Duration>,
}

impl Layout {
    pub(super) fn new(config: &LabConfig) -> anyhow::Result<Self> {
        check_name(&config.name)?;
        if !(1..=MAX_NODES).contains(&config.nodes) {
            bail!("a lab has 1 to {MAX_NODES} nodes, not {}", config.nodes);
        }
        Ok(Self {
            name: config.name.clone(),
            nodes: config.nodes,
            directory: directory(&config.name),
            token: token(),
            link: 0,
            kubelet_sync_period: config.kubelet_sync_period,
        })
    }

    pub(super) fn of_running(name: &str) -> anyhow::Result<Self> {
        check_name(name)?;
        let file = directory(name).join("lab.json");
        let text = std::fs::read(&file)
            .with_context(|| format!("lab {name} is not running: start it with `lab up --name {name}`"))?;
        serde_json::from_slice(&text).with_context(|| format!("read {}", file.display()))
    }

    /// Replaces its directories by empty ones and saves the layout.
    pub(super) fn create(&self) -> anyhow::Result<()> {
        remove_files(&self.name)?;
        for directory in [self.logs(), self.pki()] {
            std::fs::create_dir_all(&directory).with_context(|| format!("create {}", directory.display()))?;
        }
        self.save()
    }

    pub(super) fn save(&self) -> anyhow::Result<()> {
        self.write("lab.json", &serde_json::to_string_pretty(self)?)?;
        Ok(())
    }

    pub(super) fn namespace(&self, machine: Machine) -> String {
        format!("{}-{}", self.name, machine.name())
    }

    /// The namespace of the switches.
    pub(super) fn lan(&self) -> String {
        format!("{}-lan", self.name)
    }

    pub(super) fn machines(&self) -> impl Iterator<Item = Machine> {
        [Machine::ControlPlane, Machine::Client]
            .into_iter()
            .chain((1..=self.nodes).map(Machine::Node))
    }

    pub(super) fn machine(&self, name: &str) -> anyhow::Result<Machine> {
        let names: Vec<_> = self.machines().map(Machine::name).collect();
        self.machines()
            .find(|machine| machine.name() == name)
            .with_context(|| {
                format!(
                    "lab {} has no machine {name:?}: use one of {}",
                    self.name,
                    names.join(", ")
                )
            })
    }

    /// The control group of a node, below every hierarchy's root.
    pub(super) fn cgroup(&self, number: usize) -> String {
        format!("{}{number}", cgroup_prefix(&self.name))
    }

    pub(super) fn kubeconfig(&self) -> PathBuf {
        self.directory.join("kubeconfig")
    }

    pub(super) fn logs(&self) -> PathBuf {
        self.directory.join("logs")
    }

    pub(super) fn log(&self, program: &str) -> PathBuf {
        self.logs().join(format!("{program}.log"))
    }

    pub(super) fn pki(&self) -> PathBuf {
        self.directory.join("pki")
    }

    /// How nodes reach registries, as containerd's `certs.d`: read at each pull.
    pub(super) fn registries(&self) -> PathBuf {
        self.directory.join("certs.d")
    }

    /// The directory that holds a machine's files.
    pub(super) fn disk(&self, machine: Machine) -> PathBuf {
        self.directory.join(machine.name())
    }

    /// Writes a file below the lab's directory and returns its path.
    pub(super) fn write(&self, name: &str, text: &str) -> anyhow::Result<PathBuf> {
        let path = self.directory.join(name);
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent).with_context(|| format!("create {}", parent.display()))?;
        }
        std::fs::write(&path, text).with_context(|| format!("write {}", path.display()))?;
        Ok(path)
    }
}

/// Unique among all labs: a process number alone may be reused.
fn token() -> String {
    let time = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap_or_default();
    format!("{}-{}", std::process::id(), time.as_nanos())
}

/// The lock that holds off the start of other labs; no lab can have this name.
pub(super) const START_LOCK: &str = "_start";

/// Waits for other processes that hold the lock of this name, and holds it until the file is dropped. A lab's own lock
/// holds off processes that start or remove a lab of its name.
pub(super) fn lock(name: &str) -> anyhow::Result<File> {
    let path = repository().join("target").join(format!(".lab-{name}.lock"));
    let failed = || format!("lock {}", path.display());
    std::fs::create_dir_all(repository().join("target")).with_context(failed)?;
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .with_context(failed)?;
    file.lock().with_context(failed)?;
    Ok(file)
}

/// Addresses of the host's end and the control plane's end of a host link.
pub(super) fn link_addresses(link: u8) -> (String, String) {
    (format!("198.18.{link}.1"), format!("198.18.{link}.2"))
}

/// A name becomes part of namespaces, control groups and files.
pub(super) fn check_name(name: &str) -> anyhow::Result<()> {
    let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    if name.is_empty()
        || name.len() > 20
        || !name.chars().all(allowed)
        || !name.starts_with(|c: char| c.is_ascii_lowercase())
    {
        bail!(
            "{name:?} is not a valid lab name: use 1 to 20 lower-case letters, digits and dashes, a letter first"
        );
    }
    Ok(())
}

pub(super) fn cgroup_prefix(name: &str) -> String {
    format!("lab-{name}-n")
}

fn directory(name: &str) -> PathBuf {
    repository().join("target").join(name)
}

/// Removes a lab's files, except its logs, which explain a failure.
pub(super) fn remove_files(name: &str) -> anyhow::Result<()> {
    let directory = directory(name);
    // Never one of cargo's own directories.
    if !directory.join("lab.json").exists() {
        if directory.exists() && !directory.join("logs").exists() {
            bail!(
                "{} exists and is not a lab: choose another name",
                directory.display()
            );
        }
        return Ok(());
    }
    for entry in std::fs::read_dir(&directory).with_context(|| format!("read {}", directory.display()))? {
        let entry = entry?;
        // `lab.json` is removed last, so that an interrupted removal can be repeated.
        if entry.file_name() == "logs" || entry.file_name() == "lab.json" {
            continue;
        }
        let path = entry.path();
        let removed = if entry.file_type()?.is_dir() {
            std::fs::remove_dir_all(&path)
        } else {
            std::fs::remove_file(&path)
        };
        removed.with_context(|| format!("remove {}", path.display()))?;
    }
    std::fs::remove_file(directory.join("lab.json")).context("remove lab.json")?;
    Ok(())
}

/// The directory of everything that `make setup` builds: `LB_CACHE`, or `lb-operator` in the user's cache directory.
#[must_use]
pub fn cache() -> PathBuf {
    let set = |name: &str| {
        std::env::var_os(name)
            .filter(|value| !value.is_empty())
            .map(PathBuf::from)
    };
    set("LB_CACHE").unwrap_or_else(|| {
        let home = || {
            set("HOME")
                .unwrap_or_else(|| PathBuf::from("/root"))
                .join(".cache")
        };
        set("XDG_CACHE_HOME").unwrap_or_else(home).join("lb-operator")
    })
}

/// A program that `make setup` has built.
pub(super) fn binary(name: &str) -> PathBuf {
    cache().join("bin").join(name)
}

/// The images of the sandbox and of the test backends.
///
/// # Errors
/// When `make setup` has not been run.
pub fn cached_images() -> anyhow::Result<Vec<PathBuf>> {
    ["pause", "agnhost", "nginx"]
        .into_iter()
        .map(|name| {
            let path = cache().join("images").join(format!("{name}.tar"));
            if !Path::new(&path).exists() {
                bail!("{} is missing: run `make setup`", path.display());
            }
            Ok(path)
        })
        .collect()
}

/// The programs of this project, each with an image of its own.
pub const PROGRAMS: [&str; 3] = ["operator", "controller", "speaker"];

/// The images of this project that `make image` has written.
#[must_use]
pub fn operator_images() -> Vec<PathBuf> {
    let path = |program: &str| repository().join(format!("target/images/{program}.tar"));
    PROGRAMS
        .into_iter()
        .map(path)
        .filter(|path| path.exists())
        .collect()
}

/// The root of the repository.
#[must_use]
pub fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .ancestors()
        .nth(2)
        .expect("this crate is two directories below the root")
}
