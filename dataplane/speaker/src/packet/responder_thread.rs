//! One protocol on one interface: its socket, the addresses that we answer for, and the thread that answers. ARP and
//! neighbour discovery differ in their frames; the rest is this.
//!
//! Who asks waits for the answer before it can send its first packet. A thread that does nothing else gives it sooner than a
//! task would: the way from the kernel through the runtime and back takes as long again as all the rest.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{PipeReader, PipeWriter};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use lb_l2::responder::{AddressResolution, FrameOutcome, Responder};
use lb_l2::{Arp, MacAddr, Ndp};
use lb_net::packet_socket::{FRAME_BUFFER_LEN, Fit};
use lb_net::{PacketSocket, SocketError};
use tokio::sync::mpsc;

use lb_runtime::error::chain;

use crate::metrics::{AddressCounters, Metrics};

/// Pause after an error that says neither "down" nor "gone", so that one that lasts does not keep us busy.
const PAUSE: Duration = Duration::from_secs(1);

/// A protocol with its packet socket.
pub(crate) trait Protocol: AddressResolution {
    /// Opens a packet socket that receives the protocol's frames.
    fn open(interface: u32) -> Result<PacketSocket, SocketError>;
}

impl Protocol for Arp {
    fn open(interface: u32) -> Result<PacketSocket, SocketError> {
        PacketSocket::arp(interface)
    }
}

impl Protocol for Ndp {
    fn open(interface: u32) -> Result<PacketSocket, SocketError> {
        PacketSocket::ndp(interface)
    }
}

/// Somebody was seen on the wire with an address.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ObservedReply {
    /// The interface that it was seen on.
    pub interface: String,
    /// The address.
    pub address: IpAddr,
    /// The hardware address of who has it.
    pub mac: MacAddr,
}

/// Where sightings go.
pub(crate) type ObservedReplies = mpsc::Sender<ObservedReply>;

/// Most sightings of one interface and protocol in a second: what is beyond is a flood, and says nothing new.
const MOST_SIGHTINGS: u32 = 2000;
const SECOND: Duration = Duration::from_secs(1);

/// Most frames taken in at a time by who has other things to do.
const UNREAD: usize = 64;
/// Bytes of a thread's stack: a frame, and what it takes to log an error.
const STACK: usize = 128 * 1024;

/// A protocol on an interface. Dropping it ends its answers at once, and then its thread, which closes the socket.
#[derive(Debug)]
pub(crate) struct ResponderThread<L: Protocol> {
    shared: Arc<Shared<L>>,
    /// The thread ends when this is closed.
    _alive: PipeWriter,
    /// The kernel's filter does not fit the addresses.
    stale: bool,
    coarse: bool,
}

#[derive(Debug)]
struct Shared<L: Protocol> {
    socket: PacketSocket,
    state: Mutex<State<L>>,
    metrics: Metrics,
    sightings: ObservedReplies,
}

#[derive(Debug)]
struct State<L: Protocol> {
    mac: MacAddr,
    responder: Responder<L>,
    /// Of each address that is answered for; none where we stand in.
    counters: BTreeMap<L::Address, Option<Arc<AddressCounters>>>,
    /// Addresses that were asked about.
    watched: BTreeSet<L::Address>,
    /// The questions to be sent once the filter lets the answers in.
    questions: Vec<L::Address>,
    /// Since when so many sightings were passed on.
    window: (Instant, u32),
}

impl<L: Protocol> ResponderThread<L> {
    /// Opens a socket; nothing is answered yet.
    pub(crate) fn open(
        index: u32,
        name: &str,
        mac: MacAddr,
        metrics: Metrics,
        sightings: ObservedReplies,
    ) -> Result<Self, SocketError> {
        let shared = Arc::new(Shared {
            socket: L::open(index)?,
            state: Mutex::new(State {
                mac,
                responder: Responder::new(),
                counters: BTreeMap::new(),
                watched: BTreeSet::new(),
                questions: Vec::new(),
                window: (Instant::now(), 0),
            }),
            metrics,
            sightings,
        });
        let failed = |action| move |source| SocketError::Failed { action, source };
        let (end, alive) = std::io::pipe().map_err(failed("make a pipe"))?;
        let (answering, interface) = (shared.clone(), name.to_owned());
        std::thread::Builder::new()
            .name(format!("{} {name}", L::NAME))
            .stack_size(STACK)
            .spawn(move || answer(&answering, &end, &interface))
            .map_err(failed("start a thread"))?;
        Ok(Self {
            shared,
            _alive: alive,
            stale: false,
            coarse: false,
        })
    }

    /// The interface has this MAC from now on.
    pub(crate) fn set_mac(&self, mac: MacAddr) {
        self.shared.lock().mac = mac;
    }

    /// Whether we answer for the address here, as its owner.
    pub(crate) fn has(&self, address: L::Address) -> bool {
        matches!(self.shared.lock().counters.get(&address), Some(Some(_)))
    }

    /// Starts answering for the address, as soon as the filter is applied. Returns whether it is new here.
    pub(crate) fn insert(&mut self, address: L::Address) -> bool {
        let mut state = self.shared.lock();
        self.stale |= state.responder.insert(address);
        if matches!(state.counters.get(&address), Some(Some(_))) {
            return false;
        }
        let counters = self.shared.metrics.address(address.into());
        state.counters.insert(address, Some(counters));
        true
    }

    /// Starts answering for the address with the hardware address of its owner, unless it is our own.
    pub(crate) fn stand_in(&mut self, address: L::Address, owner: MacAddr) {
        let mut state = self.shared.lock();
        if state.responder.insert_proxy(address, owner) {
            state.counters.insert(address, None);
            self.stale = true;
        }
    }

    /// Stops answering for the address if we only stand in.
    pub(crate) fn stand_down(&mut self, address: L::Address) {
        let mut state = self.shared.lock();
        if matches!(state.counters.get(&address), Some(None)) {
            state.responder.remove(&address);
            state.counters.remove(&address);
            self.stale = true;
        }
    }

    /// Stops answering for the address at once, also requests that the kernel has queued already.
    pub(crate) fn remove(&mut self, address: L::Address) {
        let mut state = self.shared.lock();
        if state.responder.remove(&address) {
            state.counters.remove(&address);
            self.stale = true;
        }
    }

    /// Asks who has the address, as soon as the filter lets the answers in.
    pub(crate) fn ask(&mut self, address: L::Address) {
        let mut state = self.shared.lock();
        state.questions.push(address);
        self.stale |= state.watched.insert(address) && !state.counters.contains_key(&address);
    }

    /// Nobody waits for answers about these addresses any more.
    pub(crate) fn unwatch(&mut self, address: L::Address) {
        let mut state = self.shared.lock();
        self.stale |= state.watched.remove(&address) && !state.counters.contains_key(&address);
    }

    /// Sends the questions.
    pub(crate) fn send_questions(&self, name: &str) {
        let mut state = self.shared.lock();
        let mac = state.mac;
        for address in std::mem::take(&mut state.questions) {
            if let Err(error) = self.shared.socket.send(L::probe(mac, address).as_ref()) {
                let ip: IpAddr = address.into();
                tracing::debug!(interface = name, %ip, %error, "question not sent");
            }
        }
    }

    /// Brings the kernel's filter up to date. Returns whether it is.
    pub(crate) fn apply_filter(&mut self, name: &str) -> bool {
        if !self.stale {
            return true;
        }
        let state = self.shared.lock();
        let socket = &self.shared.socket;
        match socket.set_addresses(state.responder.addresses(), &state.watched) {
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
                    error = chain(&error),
                    "packet filter not updated: trying again"
                );
                false
            }
        }
    }

    /// Takes in what has arrived and was not looked at yet, some frames of it: the thread may not have had its turn.
    pub(crate) fn listen(&self, name: &str) {
        let mut buffer = [0; FRAME_BUFFER_LEN];
        // An error is found again when sending, and told by the link watcher.
        let mut left = UNREAD;
        while left > 0 && matches!(self.shared.next(name, &mut buffer), Ok(true)) {
            left -= 1;
        }
    }

    /// Sends one burst for the address.
    pub(crate) fn burst(&self, name: &str, address: L::Address) {
        let state = self.shared.lock();
        let Some(Some(counters)) = state.counters.get(&address) else {
            return;
        };
        for frame in L::announcement(state.mac, address) {
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

impl<L: Protocol> Drop for ResponderThread<L> {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        state.responder = Responder::new();
        state.counters.clear();
        state.watched.clear();
    }
}

impl<L: Protocol> Shared<L> {
    fn lock(&self) -> MutexGuard<'_, State<L>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes in the next frame that is there; whether there was one. No frame is ever in between, read and not taken in:
    /// after this has said that there is none, all that had arrived counts, whichever thread has read it, and however long
    /// that one has waited for a processor since.
    fn next(&self, name: &str, buffer: &mut [u8]) -> Result<bool, SocketError> {
        let mut state = self.lock();
        let Some(len) = self.socket.recv(buffer)? else {
            return Ok(false);
        };
        self.judge(&mut state, name, buffer.get(..len).unwrap_or_default());
        Ok(true)
    }

    fn judge(&self, state: &mut State<L>, name: &str, frame: &[u8]) {
        match state.responder.handle(state.mac, frame) {
            FrameOutcome::Reply { frame, address } => {
                // Who asked waits for it: everything else comes later.
                let sent = self.socket.send(frame.as_ref());
                if let Some(Some(counters)) = state.counters.get(&address) {
                    counters.requests.inc();
                    if sent.is_ok() {
                        counters.responses.inc();
                    }
                }
                if let Err(error) = sent {
                    let ip: IpAddr = address.into();
                    tracing::debug!(%ip, %error, "answer not sent");
                }
            }
            FrameOutcome::ReplySeen { address, mac } => {
                // A filter that is too coarse lets others in as well.
                if !state.counters.contains_key(&address) && !state.watched.contains(&address) {
                    return;
                }
                let now = Instant::now();
                if state.window.0 + SECOND <= now {
                    state.window = (now, 0);
                }
                state.window.1 += 1;
                let sighting = ObservedReply {
                    interface: name.to_owned(),
                    address: address.into(),
                    mac,
                };
                if state.window.1 > MOST_SIGHTINGS || self.sightings.try_send(sighting).is_err() {
                    self.metrics.sighting_dropped();
                }
            }
            FrameOutcome::Ignore(reason) => self.metrics.ignored(reason),
            FrameOutcome::Malformed(error) => self.metrics.malformed(L::error_label(error)),
        }
    }
}

fn answer<L: Protocol>(shared: &Shared<L>, end: &PipeReader, name: &str) {
    let mut buffer = [0; FRAME_BUFFER_LEN];
    loop {
        let received = match shared.socket.wait_readable(end) {
            Ok(true) => shared.next(name, &mut buffer),
            Ok(false) => return,
            Err(error) => Err(error),
        };
        match received {
            Ok(_) => {}
            // Told once; the socket works again when the interface does.
            Err(SocketError::InterfaceDown(_)) => tracing::debug!(interface = name, "interface is down"),
            // The link watcher says so as well, and then this port is dropped.
            Err(SocketError::InterfaceGone(_)) => return,
            Err(error) => {
                tracing::warn!(
                    interface = name,
                    protocol = L::NAME,
                    error = chain(&error),
                    "cannot receive: trying again"
                );
                std::thread::sleep(PAUSE);
            }
        }
    }
}
