//! One protocol on one interface: its socket, the addresses that we answer for, and the task that answers. ARP and
//! neighbour discovery differ in their frames; the rest is this.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use lb_net::socket::{FRAME_BUFFER, Fit};
use lb_net::{PacketSocket, SocketError};
use lb_proto::MacAddr;
use lb_proto::announcer::gratuitous;
use lb_proto::ndp::unsolicited;
use lb_proto::neighbour::{self, NeighbourResponder};
use lb_proto::responder::{self, IgnoreReason, Responder};
use tokio::task::JoinHandle;

use crate::metrics::{AddressCounters, Metrics};

/// Pause after an error that says neither "down" nor "gone", so that one that lasts does not keep us busy.
const PAUSE: Duration = Duration::from_secs(1);

/// What a protocol is to a voice.
pub(crate) trait Language: Debug + Default + Send + 'static {
    /// Its addresses.
    type Address: Copy + Debug + Ord + Into<IpAddr> + Send + 'static;
    /// A frame to send.
    type Frame: AsRef<[u8]>;
    /// Its name in logs.
    const NAME: &'static str;

    /// A socket for it.
    fn open(interface: u32) -> Result<PacketSocket, SocketError>;
    /// Starts answering for an address; whether it is new.
    fn insert(&mut self, address: Self::Address) -> bool;
    /// Stops answering for an address; whether it was answered for.
    fn remove(&mut self, address: &Self::Address) -> bool;
    /// The addresses that are answered for.
    fn addresses(&self) -> impl Iterator<Item = &Self::Address>;
    /// What to do with a frame.
    fn judge(&self, mac: MacAddr, frame: &[u8]) -> Judgement<Self>;
    /// What to send after a change of owner.
    fn burst(mac: MacAddr, address: Self::Address) -> impl IntoIterator<Item = Self::Frame>;
}

/// What to do with a received frame.
pub(crate) enum Judgement<L: Language> {
    Reply(L::Frame, L::Address),
    Ignore(IgnoreReason),
    Malformed(&'static str),
}

impl Language for Responder {
    type Address = Ipv4Addr;
    type Frame = [u8; lb_proto::arp::FRAME_LEN];
    const NAME: &'static str = "ARP";

    fn open(interface: u32) -> Result<PacketSocket, SocketError> {
        PacketSocket::arp(interface)
    }

    fn insert(&mut self, address: Ipv4Addr) -> bool {
        self.insert(address)
    }

    fn remove(&mut self, address: &Ipv4Addr) -> bool {
        self.remove(address)
    }

    fn addresses(&self) -> impl Iterator<Item = &Ipv4Addr> {
        self.addresses().iter()
    }

    fn judge(&self, mac: MacAddr, frame: &[u8]) -> Judgement<Self> {
        match self.handle(mac, frame) {
            responder::Verdict::Reply { frame, address } => Judgement::Reply(frame, address),
            responder::Verdict::Ignore(reason) => Judgement::Ignore(reason),
            responder::Verdict::Malformed(error) => Judgement::Malformed(error.as_str()),
        }
    }

    fn burst(mac: MacAddr, address: Ipv4Addr) -> impl IntoIterator<Item = Self::Frame> {
        gratuitous(mac, address)
    }
}

impl Language for NeighbourResponder {
    type Address = Ipv6Addr;
    type Frame = [u8; lb_proto::ndp::ADVERTISEMENT_LEN];
    const NAME: &'static str = "NDP";

    fn open(interface: u32) -> Result<PacketSocket, SocketError> {
        PacketSocket::ndp(interface)
    }

    fn insert(&mut self, address: Ipv6Addr) -> bool {
        self.insert(address)
    }

    fn remove(&mut self, address: &Ipv6Addr) -> bool {
        self.remove(address)
    }

    fn addresses(&self) -> impl Iterator<Item = &Ipv6Addr> {
        self.addresses().iter()
    }

    fn judge(&self, mac: MacAddr, frame: &[u8]) -> Judgement<Self> {
        match self.handle(mac, frame) {
            neighbour::Verdict::Reply { frame, address } => Judgement::Reply(frame, address),
            neighbour::Verdict::Ignore(reason) => Judgement::Ignore(reason),
            neighbour::Verdict::Malformed(error) => Judgement::Malformed(error.as_str()),
        }
    }

    fn burst(mac: MacAddr, address: Ipv6Addr) -> impl IntoIterator<Item = Self::Frame> {
        [unsolicited(mac, address)]
    }
}

/// A protocol on an interface. Dropping it ends its task and closes the socket.
#[derive(Debug)]
pub(crate) struct Voice<L: Language> {
    shared: Arc<Shared<L>>,
    task: JoinHandle<()>,
    /// The kernel's filter does not fit the addresses.
    stale: bool,
    coarse: bool,
}

#[derive(Debug)]
struct Shared<L: Language> {
    socket: PacketSocket,
    state: Mutex<State<L>>,
    metrics: Metrics,
}

#[derive(Debug)]
struct State<L: Language> {
    mac: MacAddr,
    responder: L,
    counters: BTreeMap<L::Address, AddressCounters>,
}

impl<L: Language> Voice<L> {
    /// Opens a socket; nothing is answered yet. To be called within a tokio runtime.
    pub(crate) fn open(index: u32, name: &str, mac: MacAddr, metrics: Metrics) -> Result<Self, SocketError> {
        let shared = Arc::new(Shared {
            socket: L::open(index)?,
            state: Mutex::new(State {
                mac,
                responder: L::default(),
                counters: BTreeMap::new(),
            }),
            metrics,
        });
        let task = tokio::spawn(answer(shared.clone(), name.to_owned()));
        Ok(Self {
            shared,
            task,
            stale: false,
            coarse: false,
        })
    }

    /// The interface has this MAC from now on.
    pub(crate) fn set_mac(&self, mac: MacAddr) {
        self.shared.lock().mac = mac;
    }

    /// Whether we answer for the address here.
    pub(crate) fn has(&self, address: L::Address) -> bool {
        self.shared.lock().counters.contains_key(&address)
    }

    /// Starts answering for the address, as soon as the filter is applied. Returns whether it is new here.
    pub(crate) fn insert(&mut self, address: L::Address) -> bool {
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
    pub(crate) fn remove(&mut self, address: L::Address) {
        let mut state = self.shared.lock();
        if state.responder.remove(&address) {
            state.counters.remove(&address);
            self.stale = true;
        }
    }

    /// Brings the kernel's filter up to date. Returns whether it is.
    pub(crate) fn apply_filter(&mut self, name: &str) -> bool {
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
                        interface = name,
                        protocol = L::NAME,
                        addresses = state.counters.len(),
                        "more addresses than a kernel filter holds: some requests for others wake the speaker up"
                    );
                }
                self.coarse = coarse;
                true
            }
            Err(error) => {
                tracing::warn!(
                    interface = name,
                    protocol = L::NAME,
                    error = crate::chain(&error),
                    "packet filter not updated: trying again"
                );
                false
            }
        }
    }

    /// Sends one burst for the address.
    pub(crate) fn burst(&self, name: &str, address: L::Address) {
        let state = self.shared.lock();
        let Some(counters) = state.counters.get(&address) else {
            return;
        };
        for frame in L::burst(state.mac, address) {
            match self.shared.socket.send(frame.as_ref()) {
                Ok(()) => counters.gratuitous.inc(),
                // The next burst of the series makes up for it; when the link comes back, a new series starts.
                Err(error) => {
                    let ip: IpAddr = address.into();
                    tracing::debug!(interface = name, %ip, %error, "announcement not sent");
                }
            }
        }
    }
}

impl<L: Language> Drop for Voice<L> {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl<L: Language> Shared<L> {
    fn lock(&self) -> MutexGuard<'_, State<L>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn judge(&self, frame: &[u8]) {
        let state = self.lock();
        match state.responder.judge(state.mac, frame) {
            Judgement::Reply(frame, address) => {
                let Some(counters) = state.counters.get(&address) else {
                    return;
                };
                counters.requests.inc();
                match self.socket.send(frame.as_ref()) {
                    Ok(()) => counters.responses.inc(),
                    // Who asked asks again.
                    Err(error) => {
                        let ip: IpAddr = address.into();
                        tracing::debug!(%ip, %error, "answer not sent");
                    }
                }
            }
            Judgement::Ignore(reason) => self.metrics.ignored(reason),
            Judgement::Malformed(reason) => self.metrics.malformed(reason),
        }
    }
}

async fn answer<L: Language>(shared: Arc<Shared<L>>, name: String) {
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
                    protocol = L::NAME,
                    error = crate::chain(&error),
                    "cannot receive: trying again"
                );
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}
