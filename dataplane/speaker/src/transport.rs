//! Transport of heartbeats: authenticated UDP datagrams.
//!
//! The keys are files in a directory, as in a mounted Secret: `current` authenticates our datagrams, and the others (`next`,
//! `previous`) are accepted as well. Changes are read at runtime, so keys can be rotated. Without a valid key nothing is sent
//! or accepted: unauthenticated heartbeats do not exist.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use lb_l2::wire::heartbeat::{Datagram, DatagramError, HeartbeatKeys, MAX_DATAGRAM_LEN, MIN_KEY_LEN};
use lb_net::{DirectoryWatch, UdpPort};

use crate::metrics::Metrics;

/// How often the keys are read when the kernel does not report changes.
pub const KEY_POLL_INTERVAL: Duration = Duration::from_secs(10);
/// The file with the key that authenticates our datagrams.
const CURRENT_KEY: &str = "current";
/// The symbolic link to the present files, which the kubelet replaces when a Secret changes.
const DATA_LINK: &str = "..data";
/// How often reading is tried while that link changes.
const MAX_READ_TRIES: usize = 3;
/// Maximum length of a key.
const MAX_KEY_LEN: u64 = 4096;

/// Datagrams after which other tasks run: a flood must not keep them from running.
const DATAGRAMS_PER_YIELD: usize = 64;
/// Maximum rate of datagrams that are verified although they echo another incarnation than ours. Only first contacts do, and
/// without having heard from us nobody can do otherwise, so a flood of them costs no HMAC.
const MAX_FIRST_CONTACTS: u32 = 2000;
const FIRST_CONTACT_WINDOW: Duration = Duration::from_secs(1);

/// The socket and the keys.
#[derive(Debug)]
pub struct HeartbeatTransport {
    socket: UdpPort,
    port: u16,
    directory: PathBuf,
    /// Reports changes of the files.
    watch: Option<DirectoryWatch>,
    keys: Option<HeartbeatKeys>,
    /// The keys as last read.
    read: Vec<Vec<u8>>,
    read_failed: bool,
    /// Datagrams received since other tasks could run.
    unyielded: Cell<usize>,
    /// Start of the present window, and the first contacts in it.
    first_contacts: Option<(Instant, u32)>,
    metrics: Metrics,
}

impl HeartbeatTransport {
    /// Opens the port. Call within a Tokio runtime.
    ///
    /// # Errors
    /// If the port is in use or not permitted.
    pub fn open(port: u16, directory: &Path, metrics: Metrics) -> anyhow::Result<Self> {
        let socket = UdpPort::bind(port).with_context(|| format!("open UDP port {port} for heartbeats"))?;
        let mut transport = Self {
            socket,
            port,
            directory: directory.to_owned(),
            // Before the first read, so that no change is missed.
            watch: watch_directory(directory),
            keys: None,
            read: Vec::new(),
            read_failed: false,
            unyielded: Cell::new(0),
            first_contacts: None,
            metrics,
        };
        transport.read_keys();
        Ok(transport)
    }

    /// Whether [`keys_changed`](Self::keys_changed) reports changes. If not, call [`read_keys`](Self::read_keys) every
    /// [`KEY_POLL_INTERVAL`].
    #[must_use]
    pub fn watches_keys(&self) -> bool {
        self.watch.is_some()
    }

    /// Waits until the key files change. Cancel safe.
    ///
    /// # Errors
    /// If the watch has ended.
    pub async fn keys_changed(&self) -> io::Result<()> {
        match &self.watch {
            Some(watch) => watch.changed().await,
            None => std::future::pending().await,
        }
    }

    /// Handles the result of [`keys_changed`](Self::keys_changed).
    pub fn handle_key_change(&mut self, result: io::Result<()>) {
        if let Err(error) = result {
            tracing::debug!(%error, "watch of the key directory ended; watching again");
            self.watch = watch_directory(&self.directory);
        }
        self.read_keys();
    }

    /// Reads the keys, and uses them if they changed.
    pub fn read_keys(&mut self) {
        match read_keys(&self.directory) {
            Ok(read) if read == self.read => {}
            Ok(read) => match HeartbeatKeys::new(read.iter().map(Vec::as_slice)) {
                Some(keys) => {
                    tracing::info!(keys = read.len(), "loaded heartbeat keys");
                    self.metrics.keys(read.len());
                    (self.keys, self.read, self.read_failed) = (Some(keys), read, false);
                }
                None => self.report_failure("no valid key"),
            },
            Err(error) => self.report_failure(&error.to_string()),
        }
    }

    /// The keys as last read, the present one first.
    #[must_use]
    pub fn keys(&self) -> &[Vec<u8>] {
        &self.read
    }

    /// Logs the first of a series of failures. The previous keys stay in use.
    fn report_failure(&mut self, error: &str) {
        if !std::mem::replace(&mut self.read_failed, true) {
            let directory = self.directory.display();
            tracing::warn!(%directory, error, "failed to read heartbeat keys; using the previous ones");
        }
    }

    /// Sends a datagram to the first reachable address. A lost one is not sent again.
    pub fn send(&self, addresses: &[IpAddr], datagram: &Datagram) {
        let Some(keys) = &self.keys else { return };
        let bytes = keys.seal(datagram);
        for address in addresses {
            match self.socket.send(&bytes, SocketAddr::new(*address, self.port)) {
                Ok(()) => {
                    self.metrics.heartbeat_sent();
                    return;
                }
                Err(error) => tracing::trace!(%address, %error, "failed to send datagram"),
            }
        }
    }

    /// Waits for datagrams. Cancel safe.
    pub async fn readable(&self) {
        if self.unyielded.get() >= DATAGRAMS_PER_YIELD {
            tokio::task::yield_now().await;
            self.unyielded.set(0);
        }
        self.socket.readable().await;
    }

    /// Receives at most `limit` datagrams, and returns the authentic ones: a flood must not keep this process busy for ever.
    /// Datagrams should echo `incarnation`.
    pub fn receive(&mut self, now: Instant, incarnation: u64, limit: usize) -> Vec<Datagram> {
        let mut datagrams = Vec::new();
        let mut buffer = [0; MAX_DATAGRAM_LEN + 1];
        for _ in 0..limit {
            let len = match self.socket.try_receive(&mut buffer) {
                Ok(len) => len,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                // For example "port unreachable" for a datagram that we sent.
                Err(error) => {
                    tracing::trace!(%error, "failed to receive datagram");
                    continue;
                }
            };
            let bytes = buffer.get(..len).unwrap_or_default();
            self.unyielded.set(self.unyielded.get() + 1);
            let opened = match HeartbeatKeys::peek_echo(bytes) {
                Ok(echo) if echo != incarnation && !self.admit_first_contact(now) => Err(DatagramError::Echo),
                Ok(_) => match &self.keys {
                    Some(keys) => keys.open(bytes),
                    None => Err(DatagramError::Authentication),
                },
                Err(error) => Err(error),
            };
            match opened {
                Ok(datagram) => {
                    self.metrics.heartbeat_received();
                    datagrams.push(datagram);
                }
                Err(error) => self.count_rejected(error),
            }
        }
        datagrams
    }

    fn admit_first_contact(&mut self, now: Instant) -> bool {
        let window = self
            .first_contacts
            .filter(|(start, _)| now < *start + FIRST_CONTACT_WINDOW);
        let (start, count) = window.unwrap_or((now, 0));
        self.first_contacts = Some((start, count.saturating_add(1)));
        count < MAX_FIRST_CONTACTS
    }

    /// Counts a rejected datagram.
    pub fn count_rejected(&self, error: DatagramError) {
        self.metrics.heartbeat_refused(error);
    }
}

fn watch_directory(directory: &Path) -> Option<DirectoryWatch> {
    DirectoryWatch::open(directory)
        .inspect_err(|error| {
            let (directory, every) = (directory.display(), KEY_POLL_INTERVAL);
            tracing::info!(%directory, %error, ?every, "inotify unavailable on key directory; polling");
        })
        .ok()
}

/// The keys in order, all from the same version of the Secret.
fn read_keys(directory: &Path) -> io::Result<Vec<Vec<u8>>> {
    let link = directory.join(DATA_LINK);
    let mut version = link.read_link().ok();
    for _ in 1..MAX_READ_TRIES {
        let keys = read_version(directory, version.as_deref());
        let now = link.read_link().ok();
        if now == version {
            return keys;
        }
        version = now;
    }
    read_version(directory, version.as_deref())
}

/// The keys of one version: the files behind the link, or without a link those of the directory, with the current key first.
/// Other keys that are invalid are ignored.
fn read_version(directory: &Path, version: Option<&Path>) -> io::Result<Vec<Vec<u8>>> {
    let directory = &version.map_or_else(|| directory.to_owned(), |version| directory.join(version));
    let mut names = BTreeSet::new();
    for entry in directory.read_dir()? {
        let name = entry?.file_name();
        // The kubelet keeps the files in hidden directories, with links to them.
        if !name.to_string_lossy().starts_with('.') && name != CURRENT_KEY {
            names.insert(name);
        }
    }
    let mut keys = vec![read_key(&directory.join(CURRENT_KEY))?];
    for name in names {
        match read_key(&directory.join(name)) {
            Ok(key) => keys.push(key),
            Err(error) => tracing::debug!(%error, "ignoring invalid key"),
        }
    }
    Ok(keys)
}

fn read_key(path: &Path) -> io::Result<Vec<u8>> {
    let invalid = |what| io::Error::other(format!("{} is too {what}", path.display()));
    if path.metadata()?.len() > MAX_KEY_LEN {
        return Err(invalid("long"));
    }
    let key = std::fs::read(path)?;
    if key.len() < MIN_KEY_LEN {
        return Err(invalid("short"));
    }
    Ok(key)
}

#[cfg(test)]
#[path = "transport_tests.rs"]
mod tests;
