//! One protocol on one interface: its socket, the addresses it answers for, and the thread that answers.
//!
//! A dedicated thread, because a host that resolves an address sends no packet before the reply arrives: the way through
//! the async runtime would double the latency.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{PipeReader, PipeWriter};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use lb_l2::responder::{AddressResolution, FrameOutcome, Responder};
use lb_l2::{Arp, MacAddr, Ndp};
use lb_net::packet_socket::{FRAME_BUFFER_LEN, Fit};
use lb_net::{PacketSocket, SocketError};
use lb_runtime::error::chain;
use tokio::sync::mpsc;

use crate::metrics::{AddressCounters, Metrics};

/// Delay before a failed receive is retried.
const RECEIVE_RETRY_DELAY: Duration = Duration::from_secs(1);

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

/// A reply or an announcement of another host was received.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ObservedReply {
    /// The interface that received it.
    pub interface: String,
    /// The address.
    pub address: IpAddr,
    /// The hardware address that it gives for the address.
    pub mac: MacAddr,
}

/// Channel to the speaker.
pub(crate) type ReplySender = mpsc::Sender<ObservedReply>;

/// Maximum rate of replies passed on, per interface and protocol. A flood adds no information.
const MAX_REPLIES_PER_WINDOW: u32 = 2000;
/// Maximum rate of replies about one address: a flood about one hides nothing about the others.
const MAX_REPLIES_PER_ADDRESS: u32 = 50;
const REPLY_WINDOW: Duration = Duration::from_secs(1);

/// Maximum number of frames that the speaker reads at a time.
const MAX_PENDING_FRAMES: usize = 64;
/// Stack size in bytes: enough for a frame and for logging an error.
const STACK_SIZE: usize = 128 * 1024;

/// A protocol on an interface. Dropping it stops the replies at once, then ends the thread, which closes the socket.
#[derive(Debug)]
pub(crate) struct ResponderThread<P: Protocol> {
    shared: Arc<Shared<P>>,
    /// The thread ends when this is closed.
    _stop: PipeWriter,
    /// Whether the kernel filter is out of date.
    stale: bool,
    coarse: bool,
}

#[derive(Debug)]
struct Shared<P: Protocol> {
    socket: PacketSocket,
    state: Mutex<State<P>>,
    metrics: Metrics,
    replies: ReplySender,
}

#[derive(Debug)]
struct State<P: Protocol> {
    mac: MacAddr,
    responder: Responder<P>,
    /// By address that is answered for; `None` for proxy replies.
    counters: BTreeMap<P::Address, Option<Arc<AddressCounters>>>,
    /// Addresses that were asked for.
    watched: BTreeSet<P::Address>,
    /// Questions to send once the filter accepts the replies.
    questions: Vec<Question<P>>,
    budget: ReplyBudget<P::Address>,
}

/// Limits the replies that are passed on.
#[derive(Debug)]
struct ReplyBudget<A> {
    window_start: Instant,
    total: u32,
    by_address: BTreeMap<A, u32>,
}

impl<A: Ord> ReplyBudget<A> {
    fn new(now: Instant) -> Self {
        Self {
            window_start: now,
            total: 0,
            by_address: BTreeMap::new(),
        }
    }

    /// Whether another reply about the address may be passed on.
    fn admit(&mut self, now: Instant, address: A) -> bool {
        if self.window_start + REPLY_WINDOW <= now {
            *self = Self::new(now);
        }
        // Only addresses that are announced or probed come here, so the map is bounded.
        let of_address = self.by_address.entry(address).or_default();
        if *of_address >= MAX_REPLIES_PER_ADDRESS || self.total >= MAX_REPLIES_PER_WINDOW {
            return false;
        }
        *of_address += 1;
        self.total += 1;
        true
    }
}

/// A question about an address.
#[derive(Clone, Copy, Debug)]
enum Question<P: Protocol> {
    /// A duplicate address probe.
    Probe(P::Address),
    /// An ordinary request from our address `source`.
    Request {
        source: P::Address,
        to: Option<MacAddr>,
        target: P::Address,
    },
}

impl<P: Protocol> ResponderThread<P> {
    /// Opens the socket and starts the thread, without any address.
    pub(crate) fn open(
        index: u32,
        name: &str,
        mac: MacAddr,
        metrics: Metrics,
        replies: ReplySender,
    ) -> Result<Self, SocketError> {
        let shared = Arc::new(Shared {
            socket: P::open(index)?,
            state: Mutex::new(State {
                mac,
                responder: Responder::new(),
                counters: BTreeMap::new(),
                watched: BTreeSet::new(),
                questions: Vec::new(),
                budget: ReplyBudget::new(Instant::now()),
            }),
            metrics,
            replies,
        });
        let failed = |action| move |source| SocketError::Failed { action, source };
        let (stopped, stop) = std::io::pipe().map_err(failed("make a pipe"))?;
        let (thread_shared, interface) = (shared.clone(), name.to_owned());
        std::thread::Builder::new()
            .name(format!("{} {name}", P::NAME))
            .stack_size(STACK_SIZE)
            .spawn(move || run(&thread_shared, &stopped, &interface))
            .map_err(failed("start a thread"))?;
        Ok(Self {
            shared,
            _stop: stop,
            stale: false,
            coarse: false,
        })
    }

    pub(crate) fn set_mac(&self, mac: MacAddr) {
        self.shared.lock().mac = mac;
    }

    /// Whether the address is announced here.
    pub(crate) fn has(&self, address: P::Address) -> bool {
        matches!(self.shared.lock().counters.get(&address), Some(Some(_)))
    }

    /// Whether any address is announced here.
    pub(crate) fn has_any(&self) -> bool {
        self.shared.lock().counters.values().any(Option::is_some)
    }

    /// Starts answering for the address once the filter is applied. Returns whether it is new here.
    pub(crate) fn insert(&mut self, address: P::Address) -> bool {
        let mut state = self.shared.lock();
        self.stale |= state.responder.insert(address);
        if matches!(state.counters.get(&address), Some(Some(_))) {
            return false;
        }
        let counters = self.shared.metrics.address(address.into());
        state.counters.insert(address, Some(counters));
        true
    }

    /// Starts proxy replies with the hardware address of the owner, unless the address is announced here.
    pub(crate) fn start_proxy(&mut self, address: P::Address, owner: MacAddr) {
        let mut state = self.shared.lock();
        if state.responder.insert_proxy(address, owner) {
            state.counters.insert(address, None);
            self.stale = true;
        }
    }

    /// Stops proxy replies for the address.
    pub(crate) fn stop_proxy(&mut self, address: P::Address) {
        let mut state = self.shared.lock();
        if matches!(state.counters.get(&address), Some(None)) {
            state.responder.remove(&address);
            state.counters.remove(&address);
            self.stale = true;
        }
    }

    /// Stops answering for the address at once, including requests that the kernel has queued.
    pub(crate) fn remove(&mut self, address: P::Address) {
        let mut state = self.shared.lock();
        if state.responder.remove(&address) {
            state.counters.remove(&address);
            self.stale = true;
        }
    }

    /// Sends a probe for the address once the filter accepts the replies.
    pub(crate) fn probe(&mut self, address: P::Address) {
        self.ask(address, Question::Probe(address));
    }

    /// Sends an ordinary request for the address once the filter accepts the reply.
    pub(crate) fn query(&mut self, source: P::Address, to: Option<MacAddr>, target: P::Address) {
        self.ask(target, Question::Request { source, to, target });
    }

    fn ask(&mut self, address: P::Address, question: Question<P>) {
        let mut state = self.shared.lock();
        state.questions.push(question);
        self.stale |= state.watched.insert(address) && !state.counters.contains_key(&address);
    }

    /// Stops receiving replies to questions about the address.
    pub(crate) fn stop_watching(&mut self, address: P::Address) {
        let mut state = self.shared.lock();
        self.stale |= state.watched.remove(&address) && !state.counters.contains_key(&address);
    }

    /// Sends the queued questions.
    pub(crate) fn send_questions(&self, name: &str) {
        let mut state = self.shared.lock();
        let mac = state.mac;
        for question in std::mem::take(&mut state.questions) {
            let socket = &self.shared.socket;
            let (address, sent) = match question {
                Question::Probe(address) => (address, socket.send(P::probe(mac, address).as_ref())),
                Question::Request { source, to, target } => {
                    let frame = P::request((mac, source), to, target);
                    (target, socket.send(frame.as_ref()))
                }
            };
            if let Err(error) = sent {
                let ip: IpAddr = address.into();
                tracing::debug!(interface = name, %ip, %error, "failed to send probe or query");
            }
        }
    }

    /// Updates the kernel filter. Returns whether it is up to date.
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
                        protocol = P::NAME,
                        addresses = state.counters.len(),
                        "too many addresses for an exact BPF filter; using a coarse filter"
                    );
                }
                self.coarse = coarse;
                true
            }
            Err(error) => {
                tracing::warn!(
                    interface = name,
                    protocol = P::NAME,
                    error = chain(&error),
                    "failed to update the BPF filter; retrying"
                );
                false
            }
        }
    }

    /// Handles frames that have arrived: on a busy host the thread may not have run yet.
    pub(crate) fn read_pending(&self, name: &str) {
        let mut buffer = [0; FRAME_BUFFER_LEN];
        // Errors are handled by the thread.
        let mut left = MAX_PENDING_FRAMES;
        while left > 0 && matches!(self.shared.handle_next(name, &mut buffer), Ok(true)) {
            left -= 1;
        }
    }

    /// Sends one gratuitous burst for the address.
    pub(crate) fn send_gratuitous(&self, name: &str, address: P::Address) {
        let state = self.shared.lock();
        let Some(Some(counters)) = state.counters.get(&address) else {
            return;
        };
        for frame in P::announcement(state.mac, address) {
            match self.shared.socket.send(frame.as_ref()) {
                Ok(()) => counters.gratuitous.inc(),
                // The next burst of the series follows; when the link comes back, a new series starts.
                Err(error) => {
                    let ip: IpAddr = address.into();
                    tracing::debug!(interface = name, %ip, %error, "failed to send gratuitous packet");
                }
            }
        }
    }
}

impl<P: Protocol> Drop for ResponderThread<P> {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        state.responder = Responder::new();
        state.counters.clear();
        state.watched.clear();
    }
}

impl<P: Protocol> Shared<P> {
    fn lock(&self) -> MutexGuard<'_, State<P>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads and handles one frame. Returns whether there was one. Both happen under the lock: when this returns `false`,
    /// every frame that had arrived is handled, whichever thread has read it.
    fn handle_next(&self, name: &str, buffer: &mut [u8]) -> Result<bool, SocketError> {
        let mut state = self.lock();
        let Some(len) = self.socket.recv(buffer)? else {
            return Ok(false);
        };
        self.handle_frame(&mut state, name, buffer.get(..len).unwrap_or_default());
        Ok(true)
    }

    fn handle_frame(&self, state: &mut State<P>, name: &str, frame: &[u8]) {
        match state.responder.handle(state.mac, frame) {
            FrameOutcome::Reply { frame, address } => {
                // First of all: the requesting host waits for it.
                let sent = self.socket.send(frame.as_ref());
                if let Some(Some(counters)) = state.counters.get(&address) {
                    counters.requests.inc();
                    if sent.is_ok() {
                        counters.responses.inc();
                    }
                }
                if let Err(error) = sent {
                    let ip: IpAddr = address.into();
                    tracing::debug!(%ip, %error, "failed to send reply");
                }
            }
            FrameOutcome::ReplySeen { address, mac } => {
                // A coarse filter accepts other addresses too.
                if !state.counters.contains_key(&address) && !state.watched.contains(&address) {
                    return;
                }
                let admitted = state.budget.admit(Instant::now(), address);
                let reply = ObservedReply {
                    interface: name.to_owned(),
                    address: address.into(),
                    mac,
                };
                if !admitted || self.replies.try_send(reply).is_err() {
                    self.metrics.reply_dropped();
                }
            }
            FrameOutcome::Ignore(reason) => self.metrics.ignored(reason),
            FrameOutcome::Malformed(error) => self.metrics.malformed(P::error_label(error)),
        }
    }
}

fn run<P: Protocol>(shared: &Shared<P>, stopped: &PipeReader, name: &str) {
    let mut buffer = [0; FRAME_BUFFER_LEN];
    loop {
        let received = match shared.socket.wait_readable(stopped) {
            Ok(true) => shared.handle_next(name, &mut buffer),
            Ok(false) => return,
            Err(error) => Err(error),
        };
        match received {
            Ok(_) => {}
            // The kernel reports it once; the socket works again when the interface does.
            Err(SocketError::InterfaceDown(_)) => tracing::debug!(interface = name, "interface is down"),
            // The link watcher reports it too, and then this interface is dropped.
            Err(SocketError::InterfaceGone(_)) => return,
            Err(error) => {
                tracing::warn!(
                    interface = name,
                    protocol = P::NAME,
                    error = chain(&error),
                    "failed to receive; retrying"
                );
                std::thread::sleep(RECEIVE_RETRY_DELAY);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flood_about_one_address_leaves_room_for_others() {
        let now = Instant::now();
        let mut budget = ReplyBudget::new(now);
        let admitted = (0..100_000).filter(|_| budget.admit(now, 1)).count();
        assert_eq!(admitted, MAX_REPLIES_PER_ADDRESS as usize);
        assert!(budget.admit(now, 2));
        let all = (3..1_000).flat_map(|address| [address; 10]);
        let all = all.filter(|address| budget.admit(now, *address)).count();
        assert_eq!(all + admitted + 1, MAX_REPLIES_PER_WINDOW as usize);
        assert!(budget.admit(now + REPLY_WINDOW, 1));
    }
}
