//! One interface that we announce on: its socket, the addresses that we answer for there, and the task that answers.
//!
//! What happens on one interface stays there: an error ends at most this task, never that of another.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use lb_net::socket::{FRAME_BUFFER, Fit};
use lb_net::{ArpSocket, SocketError};
use lb_proto::MacAddr;
use lb_proto::announcer::gratuitous;
use lb_proto::responder::{Responder, Verdict};
use tokio::task::JoinHandle;

use crate::metrics::{AddressCounters, Metrics};

/// Pause after an error that says neither "down" nor "gone", so that one that lasts does not keep us busy.
const PAUSE: Duration = Duration::from_secs(1);

/// An open interface. Dropping it ends its task and closes the socket.
#[derive(Debug)]
pub(crate) struct Port {
    shared: Arc<Shared>,
    task: JoinHandle<()>,
    name: String,
    /// The kernel's filter does not fit the addresses.
    stale: bool,
    coarse: bool,
}

#[derive(Debug)]
struct Shared {
    socket: ArpSocket,
    state: Mutex<State>,
    metrics: Metrics,
}

#[derive(Debug)]
struct State {
    mac: MacAddr,
    responder: Responder,
    counters: BTreeMap<Ipv4Addr, AddressCounters>,
}

impl Port {
    /// Opens the interface; nothing is answered yet. To be called within a tokio runtime.
    pub(crate) fn open(
        index: u32,
        name: String,
        mac: MacAddr,
        metrics: Metrics,
    ) -> Result<Self, SocketError> {
        let shared = Arc::new(Shared {
            socket: ArpSocket::open(index)?,
            state: Mutex::new(State {
                mac,
                responder: Responder::new(),
                counters: BTreeMap::new(),
            }),
            metrics,
        });
        let task = tokio::spawn(answer(shared.clone(), name.clone()));
        Ok(Self {
            shared,
            task,
            name,
            stale: false,
            coarse: false,
        })
    }

    /// Name of the interface.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Takes the name and the MAC that the interface has now; returns whether either is new.
    pub(crate) fn rename(&mut self, name: &str, mac: MacAddr) -> bool {
        let mut state = self.shared.lock();
        if self.name == name && state.mac == mac {
            return false;
        }
        state.mac = mac;
        name.clone_into(&mut self.name);
        true
    }

    /// Whether we answer for the address here.
    pub(crate) fn has(&self, address: Ipv4Addr) -> bool {
        self.shared.lock().responder.addresses().contains(&address)
    }

    /// Starts answering for the address, as soon as the filter is applied. Returns whether it is new here.
    pub(crate) fn insert(&mut self, address: Ipv4Addr) -> bool {
        let mut state = self.shared.lock();
        let new = state.responder.insert(address);
        if new {
            state
                .counters
                .insert(address, self.shared.metrics.address(address.into()));
            self.stale = true;
        }
        new
    }

    /// Stops answering for the address at once, also requests that the kernel has queued already.
    pub(crate) fn remove(&mut self, address: Ipv4Addr) {
        let mut state = self.shared.lock();
        if state.responder.remove(&address) {
            state.counters.remove(&address);
            self.stale = true;
        }
    }

    /// Brings the kernel's filter up to date. Returns whether it is.
    pub(crate) fn apply_filter(&mut self) -> bool {
        if !self.stale {
            return true;
        }
        let state = self.shared.lock();
        match self.shared.socket.set_addresses(state.responder.addresses()) {
            Ok(fit) => {
                self.stale = false;
                let coarse = match fit {
                    Fit::Exact => false,
                    Fit::Coarse { .. } => true,
                };
                if coarse && !self.coarse {
                    tracing::info!(
                        interface = self.name,
                        addresses = state.responder.addresses().len(),
                        "more addresses than a kernel filter holds: some requests for others wake the speaker up"
                    );
                }
                self.coarse = coarse;
                true
            }
            Err(error) => {
                tracing::warn!(
                    interface = self.name,
                    error = crate::chain(&error),
                    "packet filter not updated: trying again"
                );
                false
            }
        }
    }

    /// Sends one burst of gratuitous ARP.
    pub(crate) fn burst(&self, address: Ipv4Addr) {
        let state = self.shared.lock();
        let Some(counters) = state.counters.get(&address) else {
            return;
        };
        for frame in gratuitous(state.mac, address) {
            match self.shared.socket.send(&frame) {
                Ok(()) => counters.gratuitous.inc(),
                // The next burst of the series makes up for it; when the link comes back, a new series starts.
                Err(error) => {
                    tracing::debug!(interface = self.name, ip = %address, %error, "gratuitous ARP not sent");
                }
            }
        }
    }
}

impl Drop for Port {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn judge(&self, frame: &[u8]) {
        let state = self.lock();
        match state.responder.handle(state.mac, frame) {
            Verdict::Reply { frame, address } => {
                let Some(counters) = state.counters.get(&address) else {
                    return;
                };
                counters.requests.inc();
                match self.socket.send(&frame) {
                    Ok(()) => counters.responses.inc(),
                    // Who asked asks again.
                    Err(error) => tracing::debug!(ip = %address, %error, "answer not sent"),
                }
            }
            Verdict::Ignore(reason) => self.metrics.ignored(reason),
            Verdict::Malformed(error) => self.metrics.malformed(error),
        }
    }
}

async fn answer(shared: Arc<Shared>, name: String) {
    let mut buffer = [0; FRAME_BUFFER];
    loop {
        match shared.socket.recv(&mut buffer).await {
            Ok(len) => shared.judge(buffer.get(..len).unwrap_or_default()),
            // Told once; the socket works again when the interface does.
            Err(SocketError::InterfaceDown(_)) => tracing::debug!(interface = name, "interface is down"),
            // The link watcher says so as well, and then this port is dropped.
            Err(SocketError::InterfaceGone(_)) => return,
            Err(error) => {
                tracing::warn!(
                    interface = name,
                    error = crate::chain(&error),
                    "cannot receive ARP: trying again"
                );
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}
