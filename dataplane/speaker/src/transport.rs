//! The channel between speakers: authenticated datagrams over UDP.
//!
//! The keys are files in a directory, as a mounted Secret has them: `current` makes datagrams, and every other file
//! (`next`, `previous`) is believed too. They are read again when the Secret changes, so keys can be rotated under way.
//! Without a usable key nothing is sent and nothing believed: there is no way to speak unauthenticated.

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use lb_l2::wire::heartbeat::{Datagram, DatagramError, HeartbeatKeys, MAX_DATAGRAM_LEN, MIN_KEY_LEN};
use lb_net::{DirectoryWatch, UdpPort};

use crate::metrics::Metrics;

/// How often the keys are looked at where the kernel does not tell of changes.
pub const LOOK: Duration = Duration::from_secs(10);
/// The file with the key that makes datagrams.
const CURRENT: &str = "current";
/// The link to the present files that the kubelet replaces when a Secret changes.
const DATA: &str = "..data";
/// How often reading is tried when that link changes under way.
const TRIES: usize = 3;
/// The longest key that is read.
const MAX_KEY: u64 = 4096;

/// The socket and the keys.
#[derive(Debug)]
pub struct HeartbeatTransport {
    socket: UdpPort,
    port: u16,
    directory: PathBuf,
    /// What tells that the files have changed.
    watch: Option<DirectoryWatch>,
    keys: Option<HeartbeatKeys>,
    /// What was read last, so that only a change is told.
    read: Vec<Vec<u8>>,
    failed: bool,
    metrics: Metrics,
}

impl HeartbeatTransport {
    /// Opens the port. To be called within a tokio runtime.
    ///
    /// # Errors
    /// When the port cannot be had.
    pub fn open(port: u16, directory: &Path, metrics: Metrics) -> anyhow::Result<Self> {
        let socket = UdpPort::bind(port).with_context(|| format!("open UDP port {port} for heartbeats"))?;
        let mut heartbeats = Self {
            socket,
            port,
            directory: directory.to_owned(),
            // Before the first look: nothing is missed in between.
            watch: watch(directory),
            keys: None,
            read: Vec::new(),
            failed: false,
            metrics,
        };
        heartbeats.look();
        Ok(heartbeats)
    }

    /// Whether [`HeartbeatTransport::changed`] tells when to look; if not, look every [`LOOK`].
    #[must_use]
    pub fn is_told(&self) -> bool {
        self.watch.is_some()
    }

    /// Waits until the files with the keys change. May be cancelled without loss.
    ///
    /// # Errors
    /// When that will not be told any more.
    pub async fn changed(&self) -> io::Result<()> {
        match &self.watch {
            Some(watch) => watch.changed().await,
            None => std::future::pending().await,
        }
    }

    /// The files have changed, or nothing will be told of them any more.
    pub fn told(&mut self, told: io::Result<()>) {
        if let Err(error) = told {
            tracing::debug!(%error, "the directory with the keys is watched anew");
            self.watch = watch(&self.directory);
        }
        self.look();
    }

    /// Reads the keys again, if they have changed.
    pub fn look(&mut self) {
        match read(&self.directory) {
            Ok(read) if read == self.read => {}
            Ok(read) => match HeartbeatKeys::new(read.iter().map(Vec::as_slice)) {
                Some(keys) => {
                    tracing::info!(keys = read.len(), "keys of the heartbeats read");
                    self.metrics.keys(read.len());
                    (self.keys, self.read, self.failed) = (Some(keys), read, false);
                }
                None => self.fail("there is no key that can be used"),
            },
            Err(error) => self.fail(&error.to_string()),
        }
    }

    /// Those of before stay in force.
    fn fail(&mut self, error: &str) {
        if !std::mem::replace(&mut self.failed, true) {
            let directory = self.directory.display();
            tracing::warn!(%directory, error, "keys of the heartbeats cannot be read");
        }
    }

    /// Sends a datagram to the first of the addresses that can be reached. One that is lost is made up for by the next.
    pub fn send(&self, addresses: &[IpAddr], datagram: &Datagram) {
        let Some(keys) = &self.keys else { return };
        let bytes = keys.seal(datagram);
        for address in addresses {
            match self.socket.send(&bytes, SocketAddr::new(*address, self.port)) {
                Ok(()) => {
                    self.metrics.heartbeat_sent();
                    return;
                }
                Err(error) => tracing::trace!(%address, %error, "datagram not sent"),
            }
        }
    }

    /// Waits for datagrams to read. May be cancelled without loss.
    pub async fn readable(&self) {
        self.socket.readable().await;
    }

    /// Reads what has arrived: those datagrams that a key of ours has made. So many are looked at and no more, because
    /// whoever can send to the port could keep us here for ever.
    pub fn receive(&self, most: usize) -> Vec<Datagram> {
        let mut datagrams = Vec::new();
        let mut buffer = [0; MAX_DATAGRAM_LEN + 1];
        for _ in 0..most {
            let len = match self.socket.try_receive(&mut buffer) {
                Ok(len) => len,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                // Such as "port unreachable" for a datagram that was sent before.
                Err(error) => {
                    tracing::trace!(%error, "datagram not received");
                    continue;
                }
            };
            let bytes = buffer.get(..len).unwrap_or_default();
            let opened = match &self.keys {
                Some(keys) => keys.open(bytes),
                None => Err(DatagramError::Authentication),
            };
            match opened {
                Ok(datagram) => {
                    self.metrics.heartbeat_received();
                    datagrams.push(datagram);
                }
                Err(refused) => self.refuse(refused),
            }
        }
        datagrams
    }

    /// Counts a datagram that is not to be believed.
    pub fn refuse(&self, refused: DatagramError) {
        self.metrics.heartbeat_refused(refused);
    }
}

fn watch(directory: &Path) -> Option<DirectoryWatch> {
    DirectoryWatch::open(directory)
        .inspect_err(|error| {
            let (directory, every) = (directory.display(), LOOK);
            tracing::info!(%directory, %error, ?every, "changes of the keys are not told by the kernel: looking for them");
        })
        .ok()
}

/// The keys in their order, all from the same version of the Secret: half of the one before and half of the next could lack
/// one that is in both.
fn read(directory: &Path) -> io::Result<Vec<Vec<u8>>> {
    let link = directory.join(DATA);
    let mut version = link.read_link().ok();
    for _ in 1..TRIES {
        let keys = read_version(directory, version.as_deref());
        let now = link.read_link().ok();
        if now == version {
            return keys;
        }
        version = now;
    }
    read_version(directory, version.as_deref())
}

/// The keys in the directory that the link names, or, if there is no link, in this one: the current one first. Another one
/// that cannot be used is told and left out: it must not cost the use of those that can.
fn read_version(directory: &Path, version: Option<&Path>) -> io::Result<Vec<Vec<u8>>> {
    let directory = &version.map_or_else(|| directory.to_owned(), |version| directory.join(version));
    let mut names = BTreeSet::new();
    for entry in directory.read_dir()? {
        let name = entry?.file_name();
        // The kubelet keeps the files in hidden directories, and links to them.
        if !name.to_string_lossy().starts_with('.') && name != CURRENT {
            names.insert(name);
        }
    }
    let mut keys = vec![key(&directory.join(CURRENT))?];
    for name in names {
        match key(&directory.join(name)) {
            Ok(key) => keys.push(key),
            Err(error) => tracing::debug!(%error, "key left out"),
        }
    }
    Ok(keys)
}

fn key(path: &Path) -> io::Result<Vec<u8>> {
    let wrong = |what| io::Error::other(format!("{} is too {what}", path.display()));
    if path.metadata()?.len() > MAX_KEY {
        return Err(wrong("long"));
    }
    let key = std::fs::read(path)?;
    if key.len() < MIN_KEY_LEN {
        return Err(wrong("short"));
    }
    Ok(key)
}

#[cfg(test)]
#[path = "transport_tests.rs"]
mod tests;
