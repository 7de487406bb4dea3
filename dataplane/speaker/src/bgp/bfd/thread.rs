//! The thread that sends and receives the packets of all BFD sessions.
//!
//! It has no other work: the API thread may decode a list of thousands of objects for longer than a router waits.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::mpsc::{self, TryRecvError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use lb_bfd::session::{Output, Resume};
use lb_bfd::sessions::{SessionId, Sessions};
use lb_bfd::wire::{Packet, State};
use lb_net::bfd::{BfdReceiver, BfdSender, Hops, Neighbor, Waker, wait};
use prometheus::IntCounter;
use tokio::sync::mpsc::UnboundedSender;
use tokio::sync::oneshot;

use crate::bgp::bfd::discriminator::DiscriminatorKeys;
use crate::bgp::bfd::metrics::SessionMetrics;
use crate::bgp::bfd::{BfdEvent, BfdProfile, Target};

/// Packets read from a socket in one turn. After more than that, the thread pauses.
const MAX_PACKETS_PER_TURN: usize = 64;
/// That pause: with it, a flood takes a few percent of a core.
const FLOOD_PAUSE: Duration = Duration::from_millis(5);
/// Packets read from a socket before a router is declared dead: more than its queue has room for.
const MAX_PACKETS_PER_DRAIN: usize = 4096;
/// How often the path of a session that is not up is looked up: the node's addresses may have changed.
const PATH_CHECK_INTERVAL: Duration = Duration::from_secs(5);
/// Stack size in bytes.
const STACK_SIZE: usize = 256 * 1024;
/// Longer than a packet without authentication; the rest of a longer one does not matter.
const BUFFER_LEN: usize = 64;

/// A request to the thread.
pub(super) enum Command {
    Start(SessionId, Box<NewSession>),
    SetProfile(SessionId, BfdProfile),
    Stop(SessionId),
    /// Tells the routers of these sessions to wait this long for the next process, then answers.
    SlowDown(BTreeSet<SessionId>, Duration, oneshot::Sender<()>),
}

/// A session to start.
pub(super) struct NewSession {
    pub(super) target: Target,
    pub(super) profile: BfdProfile,
    pub(super) keys: Arc<DiscriminatorKeys>,
    /// Until then a session of an earlier process may be resumed.
    pub(super) resume_until: Instant,
    pub(super) metrics: SessionMetrics,
}

/// The reports to BGP. A session that flaps is held down, so they are few.
pub(super) type EventSender = UnboundedSender<(SessionId, BfdEvent)>;

/// The thread. It ends without a word to the routers when this is dropped.
#[derive(Debug)]
pub(super) struct BfdThread {
    /// `None` only while it is dropped.
    commands: Option<mpsc::Sender<Command>>,
    waker: Waker,
    thread: Option<JoinHandle<()>>,
}

impl BfdThread {
    /// Starts the thread in the network namespace of the caller.
    pub(super) fn start(events: EventSender, late: IntCounter) -> io::Result<Self> {
        let (sender, commands) = mpsc::channel();
        let waker = Waker::new()?;
        let worker = Worker {
            commands,
            waker: waker.clone(),
            events,
            late,
            sessions: Sessions::default(),
            paths: BTreeMap::new(),
            receivers: BTreeMap::new(),
            pause_until: None,
            slowing_down: None,
        };
        let thread = std::thread::Builder::new()
            .name("bfd".to_owned())
            .stack_size(STACK_SIZE)
            .spawn(move || worker.run())?;
        Ok(Self {
            commands: Some(sender),
            waker,
            thread: Some(thread),
        })
    }

    pub(super) fn send(&self, command: Command) {
        // It ends only after this.
        if let Some(commands) = &self.commands {
            let _ = commands.send(command);
        }
        self.waker.wake();
    }
}

impl Drop for BfdThread {
    fn drop(&mut self) {
        self.commands = None;
        self.waker.wake();
        // Its ports are free when this returns.
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Identifies a receiving socket.
type ReceiverKey = (IpAddr, Option<String>, Hops);

struct Receiver {
    socket: BfdReceiver,
    routers: BTreeMap<IpAddr, SessionId>,
}

/// A session with its sockets.
struct Path {
    new: NewSession,
    /// `None` while there is no route, or no socket.
    open: Option<(BfdSender, ReceiverKey)>,
    check_at: Option<Instant>,
    /// The failure was reported.
    reported: bool,
}

struct Worker {
    commands: mpsc::Receiver<Command>,
    waker: Waker,
    events: EventSender,
    late: IntCounter,
    sessions: Sessions,
    paths: BTreeMap<SessionId, Path>,
    receivers: BTreeMap<ReceiverKey, Receiver>,
    /// Nothing is read before, because of a flood.
    pause_until: Option<Instant>,
    /// The sessions whose routers have not confirmed the slow interval.
    slowing_down: Option<(BTreeSet<SessionId>, oneshot::Sender<()>)>,
}

impl Worker {
    fn run(mut self) {
        while self.handle_commands() {
            let now = Instant::now();
            self.check_paths(now);
            if self.sessions.is_any_silent(now) {
                self.receive(now, MAX_PACKETS_PER_DRAIN);
            }
            if self.sessions.handle_timeout(now) {
                self.late.inc();
            }
            self.handle_outputs(now);
            self.wait();
            let now = Instant::now();
            if self.pause_until.is_none_or(|until| until <= now) {
                let is_flood = self.receive(now, MAX_PACKETS_PER_TURN);
                self.pause_until = is_flood.then(|| now + FLOOD_PAUSE);
            }
        }
    }

    /// Returns false when the thread ends.
    fn handle_commands(&mut self) -> bool {
        loop {
            let command = match self.commands.try_recv() {
                Ok(command) => command,
                Err(TryRecvError::Empty) => return true,
                Err(TryRecvError::Disconnected) => return false,
            };
            let now = Instant::now();
            match command {
                Command::Start(id, new) => {
                    self.stop(now, id);
                    let path = Path {
                        new: *new,
                        open: None,
                        check_at: Some(now),
                        reported: false,
                    };
                    self.paths.insert(id, path);
                }
                Command::SetProfile(id, profile) => {
                    self.sessions.set_config(now, id, profile.config);
                    let Some(path) = self.paths.get_mut(&id) else {
                        continue;
                    };
                    path.new.profile = profile;
                    if let Some((_, key)) = &path.open {
                        let key = key.clone();
                        self.update_filter(&key);
                    }
                }
                Command::Stop(id) => self.stop(now, id),
                Command::SlowDown(ids, budget, done) => {
                    let slow = |id: &SessionId| self.sessions.slow_down(now, *id, budget);
                    let waiting: BTreeSet<_> = ids.into_iter().filter(slow).collect();
                    self.slowing_down = Some((waiting, done));
                    self.finish_slowing_down(None);
                }
            }
        }
    }

    fn wait(&self) {
        let now = Instant::now();
        let paused = self.pause_until.filter(|until| now < *until);
        let checks = self.paths.values().filter_map(|path| path.check_at);
        let timers = checks.chain(self.sessions.poll_timeout()).chain(paused);
        let timeout = timers.min().map(|at| at.saturating_duration_since(now));
        let receivers = self
            .receivers
            .values()
            .filter(|_| paused.is_none())
            .map(|receiver| &receiver.socket);
        if let Err(error) = wait(receivers, &self.waker, timeout) {
            tracing::warn!(%error, "failed to wait for BFD packets");
            std::thread::sleep(FLOOD_PAUSE);
        }
    }

    /// Takes in packets that have arrived, at most `limit` of each socket. Returns whether there are more.
    fn receive(&mut self, now: Instant, limit: usize) -> bool {
        let mut is_flood = false;
        for receiver in self.receivers.values() {
            let mut buffer = [0; BUFFER_LEN];
            let mut left = limit;
            while left > 0 {
                left -= 1;
                let (from, len) = match receiver.socket.receive(&mut buffer) {
                    Ok(Some(received)) => received,
                    Ok(None) => break,
                    Err(error) => {
                        tracing::debug!(%error, "failed to receive BFD packet");
                        continue;
                    }
                };
                let packet = Packet::decode(buffer.get(..len).unwrap_or_default());
                if let Some(id) = receiver.routers.get(&from)
                    && let Ok(packet) = packet
                {
                    if let Some(path) = self.paths.get(id) {
                        path.new.metrics.input.inc();
                    }
                    self.sessions.handle_packet(now, *id, &packet);
                }
            }
            is_flood |= left == 0;
        }
        is_flood
    }

    fn handle_outputs(&mut self, now: Instant) {
        while let Some((id, output)) = self.sessions.poll_output() {
            let Some(path) = self.paths.get_mut(&id) else {
                continue;
            };
            let metrics = &path.new.metrics;
            let event = match output {
                Output::Send(packet) => {
                    let Some((sender, _)) = &path.open else { continue };
                    match sender.send(&packet) {
                        Ok(()) => metrics.output.inc(),
                        // For example while the router refuses them, or without a route.
                        Err(error) => tracing::trace!(%error, "failed to send BFD packet"),
                    }
                    continue;
                }
                Output::Up => {
                    path.check_at = None;
                    metrics.ups.inc();
                    metrics.up.set(1);
                    BfdEvent::Up
                }
                Output::Down(diagnostic) => {
                    path.check_at = Some(now);
                    metrics.downs.inc();
                    metrics.up.set(0);
                    BfdEvent::Down(diagnostic)
                }
                Output::RemoteAdminDown => {
                    path.check_at = Some(now);
                    metrics.downs.inc();
                    metrics.up.set(0);
                    BfdEvent::RemoteAdminDown
                }
                Output::SlowedDown => {
                    self.finish_slowing_down(Some(id));
                    continue;
                }
            };
            // An error means that the process ends.
            let _ = self.events.send((id, event));
        }
    }

    fn finish_slowing_down(&mut self, confirmed: Option<SessionId>) {
        if let Some((waiting, _)) = &mut self.slowing_down {
            if let Some(id) = confirmed {
                waiting.remove(&id);
            }
            if waiting.is_empty()
                && let Some((_, done)) = self.slowing_down.take()
            {
                let _ = done.send(());
            }
        }
    }

    /// Looks up the paths of sessions that are not up, and opens their sockets.
    fn check_paths(&mut self, now: Instant) {
        let due = self
            .paths
            .iter()
            .filter(|(_, path)| path.check_at.is_some_and(|at| at <= now));
        for id in due.map(|(id, _)| *id).collect::<Vec<_>>() {
            let result = self.check_path(now, id);
            let is_up = self.sessions.state(id) == Some(State::Up);
            let Some(path) = self.paths.get_mut(&id) else {
                continue;
            };
            path.check_at = (!is_up).then(|| now + PATH_CHECK_INTERVAL);
            match result {
                Ok(()) => path.reported = false,
                Err(error) => {
                    if !std::mem::replace(&mut path.reported, true) {
                        let _ = self.events.send((id, BfdEvent::NoPath(error.to_string())));
                    }
                }
            }
        }
    }

    /// Starts a session again if the node has another address towards the router than before.
    fn check_path(&mut self, now: Instant, id: SessionId) -> io::Result<()> {
        let Some(Path { new, open, .. }) = self.paths.get(&id) else {
            return Ok(());
        };
        let target = &new.target;
        let sender = BfdSender::connect(target.router, target.source, target.vrf.as_deref(), target.hops)?;
        let key: ReceiverKey = (sender.local(), target.vrf.clone(), target.hops);
        if open.as_ref().is_some_and(|(_, present)| *present == key) {
            return Ok(());
        }
        let (router, config) = (target.router, new.profile.config);
        let discriminators = new.keys.derive(sender.local(), target);
        let resume = Resume {
            within: match discriminators.earlier {
                Some(_) => new.resume_until.saturating_duration_since(now),
                None => Duration::ZERO,
            },
            discriminators: discriminators.earlier.unwrap_or_default(),
        };
        self.close(id);
        if !self.receivers.contains_key(&key) {
            let (local, device, hops) = &key;
            let socket = BfdReceiver::bind(*local, device.as_deref(), *hops)?;
            let routers = BTreeMap::new();
            self.receivers.insert(key.clone(), Receiver { socket, routers });
        }
        if let Some(receiver) = self.receivers.get_mut(&key) {
            receiver.routers.insert(router, id);
        }
        self.sessions.start(now, id, config, discriminators.own, resume);
        if let Some(path) = self.paths.get_mut(&id) {
            path.open = Some((sender, key.clone()));
        }
        self.update_filter(&key);
        Ok(())
    }

    fn update_filter(&self, key: &ReceiverKey) {
        let Some(receiver) = self.receivers.get(key) else {
            return;
        };
        let neighbors: Vec<_> = receiver
            .routers
            .iter()
            .filter_map(|(router, id)| {
                Some(Neighbor {
                    address: *router,
                    min_ttl: match key.2 {
                        Hops::Single => u8::MAX,
                        Hops::Multi => self.paths.get(id)?.new.profile.min_ttl,
                    },
                    discriminators: self.sessions.discriminators(*id).collect(),
                })
            })
            .collect();
        // Without the filter nothing arrives, and BGP is not affected.
        if let Err(error) = receiver.socket.set_neighbors(&neighbors) {
            tracing::warn!(%error, "failed to set the filter of BFD packets");
        }
    }

    /// Ends a session, and tells the router that this is no failure.
    fn stop(&mut self, now: Instant, id: SessionId) {
        self.sessions.switch_off(now, id);
        self.handle_outputs(now);
        self.close(id);
        self.paths.remove(&id);
        self.finish_slowing_down(Some(id));
    }

    /// Ends a session without a word, and closes its sockets.
    fn close(&mut self, id: SessionId) {
        self.sessions.remove(id);
        let Some(path) = self.paths.get_mut(&id) else {
            return;
        };
        let Some((_, key)) = path.open.take() else {
            return;
        };
        if let Some(receiver) = self.receivers.get_mut(&key) {
            receiver.routers.remove(&path.new.target.router);
            if receiver.routers.is_empty() {
                self.receivers.remove(&key);
            }
        }
        self.update_filter(&key);
    }
}
