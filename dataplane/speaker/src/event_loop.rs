//! The event loop: waits for inputs, passes them to the [`Speaker`], and sends its outputs.

use std::collections::BTreeMap;
use std::hash::{BuildHasher, RandomState};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::Context as _;
use futures::{Stream, StreamExt};
use k8s_openapi::jiff::Timestamp;
use lb_net::{PacketSocket, Snapshot, SocketError, TimerFd};
use lb_runtime::metrics::ClientMetrics;
use lb_runtime::watch::Refresh;
use lb_runtime::{Context, ReadinessGate};
use tokio::sync::mpsc;

use crate::args::Config;
use crate::bgp::bfd::metrics::BfdMetrics;
use crate::bgp::metrics::BgpMetrics;
use crate::bgp::{self, Bgp};
use crate::k8s;
use crate::k8s::events::EventPublisher;
use crate::k8s::index::{Kind, Update};
use crate::k8s::l2_status::{Desired, StatusWriter, WriteResult};
use crate::k8s::speaker_state::SpeakerStateWriter;
use crate::k8s::watch::VersionedUpdate;
use crate::metrics::Metrics;
use crate::packet::ObservedReply;
use crate::relist::RelistSchedule;
use crate::speaker::Speaker;
use crate::transport::HeartbeatTransport;

/// Maximum number of object updates handled before the next step.
const MAX_UPDATES_PER_STEP: usize = 512;
/// Maximum number of datagrams handled before the next step.
const MAX_DATAGRAMS_PER_STEP: usize = 64;
/// How often the peers are asked to keep our addresses at shutdown: a datagram may be lost.
const RESTART_NOTICES: u32 = 3;
const RESTART_NOTICE_INTERVAL: Duration = Duration::from_millis(15);
/// Time over which the nodes spread these lists: a switch brings the links of all of them up at the same moment.
const RELIST_SPREAD: Duration = Duration::from_secs(5);
/// Delay after which memory for a burst of work is returned to the system.
const MALLOC_TRIM_DELAY: Duration = Duration::from_secs(5);

/// Why the loop woke up.
enum Wakeup {
    /// A step is due.
    Step,
    /// An input that needs no step.
    Nothing,
    /// Shutdown was requested.
    Shutdown,
}

/// The speaker with its inputs and outputs.
pub(crate) struct EventLoop<L> {
    context: Context,
    speaker: Speaker,
    bgp: Bgp,
    updates: mpsc::Receiver<VersionedUpdate>,
    replies: mpsc::Receiver<ObservedReply>,
    links: L,
    links_known: bool,
    transport: Option<HeartbeatTransport>,
    events: EventPublisher,
    statuses: StatusWriter,
    speaker_state: SpeakerStateWriter,
    readiness: Readiness,
    /// Wakes all watches up.
    refresh: Refresh,
    relist: RelistSchedule,
    read_keys_at: Option<Instant>,
    trim_at: Option<Instant>,
}

impl<L: Stream<Item = Snapshot> + Unpin> EventLoop<L> {
    pub(crate) fn new(context: Context, config: Config, links: L) -> anyhow::Result<Self> {
        let metrics = Metrics::new(&context.registry, &config.node).context("register metrics")?;
        let readiness = Readiness::new(&context).context("register metrics")?;
        let refresh = Refresh::default();
        let updates = k8s::watch::updates(
            &context.client,
            &context.namespace,
            config.class.clone(),
            &refresh,
        );
        let transport = match &config.heartbeat_keys {
            Some(keys) => Some(HeartbeatTransport::open(
                config.heartbeat_port,
                keys,
                metrics.clone(),
            )?),
            None => {
                tracing::warn!(
                    "no heartbeat keys configured; detecting node failures through the API server only"
                );
                None
            }
        };
        let events = EventPublisher::new(context.client.clone(), &context.pod_name, &config.node);
        let statuses = StatusWriter::new(context.client.clone(), &context.namespace, &config.node);
        let speaker_state =
            SpeakerStateWriter::start(context.client.clone(), &context.namespace, &config.node);
        let bgp = Bgp::new(
            Instant::now(),
            bgp::Settings {
                node: config.node.clone(),
                ignore_exclude_label: config.ignore_exclude_label,
                bfd_restart_budget: config.bfd_restart_budget,
                drain: config.drain,
            },
            bgp::watch::updates(&context.client, &context.namespace, &refresh),
            metrics.clone(),
            BgpMetrics::new(&context.registry).context("register metrics")?,
            BfdMetrics::new(&context.registry).context("register metrics")?,
        );
        let mut speaker = Speaker::new(Instant::now(), incarnation(), config, metrics);
        Ok(Self {
            replies: speaker.replies(),
            speaker,
            bgp,
            updates,
            links,
            links_known: false,
            read_keys_at: next_key_poll(transport.as_ref()),
            transport,
            events,
            statuses,
            speaker_state,
            readiness,
            refresh,
            relist: RelistSchedule::default(),
            trim_at: None,
            context,
        })
    }

    pub(crate) async fn run(mut self) -> anyhow::Result<()> {
        let mut alarm = TimerFd::new()?;
        loop {
            let now = Instant::now();
            self.step(now);
            if self.speaker.is_busy() || self.bgp.is_busy() {
                self.trim_at.get_or_insert(now + MALLOC_TRIM_DELAY);
                // More to decide; other tasks run in between.
                tokio::task::yield_now().await;
                continue;
            }
            let deadline = self.deadline();
            alarm.set(deadline)?;
            loop {
                match self.wait(&mut alarm, deadline).await? {
                    Wakeup::Nothing => {}
                    Wakeup::Step => break,
                    Wakeup::Shutdown => {
                        self.notify_restart().await;
                        self.bgp.shut_down().await;
                        self.events.flush().await;
                        return Ok(());
                    }
                }
            }
            self.handle_timers();
        }
    }

    /// Lets the speaker work, and sends its outputs.
    fn step(&mut self, now: Instant) {
        // On a busy host this process is late too: a peer that seems to have timed out may have sent in time.
        if self.speaker.poll_timeout().is_some_and(|at| at <= now) {
            self.receive_datagrams(now);
            self.speaker.read_pending();
            self.receive_replies(now);
        }
        for event in self.speaker.step(now) {
            self.events.publish(event);
        }
        let is_stale = self.speaker.is_api_view_old();
        self.relist.set_stale(now, is_stale, relist_jitter);
        self.send_datagrams();
        if let Some(report) = self.speaker.take_report() {
            self.speaker_state.set(report);
        }
        while self.statuses.has_room()
            && let Some(service) = self.speaker.pop_due_status(now)
        {
            let desired = match self.speaker.desired_status(&service, now, Timestamp::now()) {
                Some(desired) => Desired::Announced(desired),
                None => self.speaker.unannounced_status(&service),
            };
            let (index, peers) = (self.speaker.index(), self.speaker.peers());
            let is_candidate = |node: &str| peers.has_speaker(node);
            if let Some(at) = self
                .statuses
                .write(now, service.clone(), desired, index, is_candidate)
            {
                self.speaker.schedule_status(service, at);
            }
        }
        if let Some(transport) = &self.transport {
            self.bgp.set_heartbeat_keys(transport.keys());
        }
        self.bgp
            .step(now, self.speaker.index(), self.speaker.has_listed());
        for event in self.bgp.take_session_events() {
            let node = self.speaker.index().nodes.get(self.bgp.node());
            self.events
                .publish_session(&event, node.map(|node| node.uid.as_str()));
        }
        self.speaker.set_bgp_advertisements(self.bgp.advertisements());
        self.readiness.update(&self.speaker);
    }

    /// The time at which the next step is due without any input.
    fn deadline(&self) -> Option<Instant> {
        let status = self
            .speaker
            .next_status_due()
            .filter(|_| self.statuses.has_room());
        [
            self.speaker.poll_timeout(),
            self.bgp.poll_timeout(),
            status,
            self.relist.poll_timeout(),
            self.read_keys_at,
            self.trim_at,
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// Waits for an input or the deadline, and handles it.
    async fn wait(&mut self, alarm: &mut TimerFd, deadline: Option<Instant>) -> anyhow::Result<Wakeup> {
        tokio::select! {
            () = self.context.shutdown.requested() => return Ok(Wakeup::Shutdown),
            () = self.context.health.turn() => return Ok(Wakeup::Nothing),
            () = datagram_readable(self.transport.as_ref()) => {
                self.receive_datagrams(Instant::now());
                // Dozens arrive in a second, and most change nothing.
                let nothing_due = self
                    .speaker
                    .poll_timeout()
                    .is_none_or(|at| deadline.is_some_and(|deadline| deadline <= at) && Instant::now() < at);
                if self.speaker.is_idle() && nothing_due {
                    return Ok(Wakeup::Nothing);
                }
            }
            result = keys_changed(self.transport.as_ref()) => {
                if let Some(transport) = &mut self.transport {
                    transport.handle_key_change(result);
                }
                self.read_keys_at = next_key_poll(self.transport.as_ref());
            }
            Some(reply) = self.replies.recv() => {
                let now = Instant::now();
                self.speaker.handle_reply(now, &reply);
                self.receive_replies(now);
            }
            Some(update) = self.updates.recv() => self.handle_updates(update),
            Some(snapshot) = self.links.next() => self.handle_links(snapshot)?,
            WriteResult { service, check_at, update } = self.statuses.completed() => {
                self.speaker.schedule_status(service, check_at);
                if let Some(update) = update {
                    self.update(Instant::now(), update);
                }
            }
            () = self.bgp.wait() => {}
            () = alarm.expired() => {}
        }
        Ok(Wakeup::Step)
    }

    /// Handles an update, and the others that have arrived: they are decided together.
    fn handle_updates(&mut self, first: VersionedUpdate) {
        let now = Instant::now();
        self.trim_at.get_or_insert(now + MALLOC_TRIM_DELAY);
        let mut next = Some(first);
        for remaining in (0..MAX_UPDATES_PER_STEP).rev() {
            let Some((version, update)) = next else { break };
            let listed = match update {
                Update::Synced(kind) => self.relist.synced(kind),
                _ => None,
            };
            self.speaker
                .set_api_version(now, version.max(listed.unwrap_or_default()));
            self.readiness.handle_update(&update);
            self.update(now, update);
            next = if remaining > 0 {
                self.updates.try_recv().ok()
            } else {
                None
            };
        }
    }

    fn update(&mut self, now: Instant, update: Update) {
        let affected = self.speaker.update(now, update);
        self.bgp.note(self.speaker.index(), &affected);
    }

    fn handle_links(&mut self, snapshot: Snapshot) -> Result<(), SocketError> {
        if !self.links_known {
            check_permission(&snapshot)?;
        }
        let now = Instant::now();
        self.bgp.set_links(&snapshot);
        let opened = self.speaker.set_links(now, snapshot);
        // The link may have taken connections to the API server with it, which TCP notices late.
        if opened && self.links_known {
            self.relist.handle_link(now, relist_jitter());
        }
        self.links_known = true;
        Ok(())
    }

    /// Does the work of timers that have expired.
    fn handle_timers(&mut self) {
        let now = Instant::now();
        let is_due = |at: Option<Instant>| at.is_some_and(|at| at <= now);
        if is_due(self.read_keys_at) {
            if let Some(transport) = &mut self.transport {
                transport.read_keys();
            }
            self.read_keys_at = next_key_poll(self.transport.as_ref());
        }
        if is_due(self.trim_at) {
            self.trim_at = None;
            lb_runtime::malloc::trim();
        }
        if self.relist.begin_if_due(now, self.speaker.newest_api_version()) {
            self.refresh.now();
        }
    }

    fn receive_datagrams(&mut self, now: Instant) {
        let Some(transport) = &mut self.transport else {
            return;
        };
        for datagram in transport.receive(now, self.speaker.incarnation(), MAX_DATAGRAMS_PER_STEP) {
            if let Err(error) = self.speaker.handle_datagram(now, datagram) {
                transport.count_rejected(error);
            }
        }
    }

    fn receive_replies(&mut self, now: Instant) {
        while let Ok(reply) = self.replies.try_recv() {
            self.speaker.handle_reply(now, &reply);
        }
    }

    fn send_datagrams(&mut self) {
        for (addresses, datagram) in self.speaker.take_datagrams() {
            if let Some(transport) = &self.transport {
                transport.send(&addresses, &datagram);
            }
        }
    }

    /// Asks the peers to keep our addresses for the next process on this node.
    async fn notify_restart(&mut self) {
        if self.transport.is_none() {
            return;
        }
        for _ in 0..RESTART_NOTICES {
            let now = Instant::now();
            self.speaker.prepare_restart(now);
            // Events of a process that ends are not published.
            let _ = self.speaker.step(now);
            self.send_datagrams();
            tokio::time::sleep(RESTART_NOTICE_INTERVAL).await;
        }
    }
}

/// Increases with each start, unless the clock was set back; then the peers correct it.
fn incarnation() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

/// A delay below [`RELIST_SPREAD`] that differs between the nodes.
fn relist_jitter() -> Duration {
    let random = RandomState::new().hash_one(()) % 1024;
    RELIST_SPREAD * u32::try_from(random).unwrap_or_default() / 1024
}

async fn datagram_readable(transport: Option<&HeartbeatTransport>) {
    match transport {
        Some(transport) => transport.readable().await,
        None => std::future::pending().await,
    }
}

async fn keys_changed(transport: Option<&HeartbeatTransport>) -> std::io::Result<()> {
    match transport {
        Some(transport) => transport.keys_changed().await,
        None => std::future::pending().await,
    }
}

/// The time to read the keys again if the kernel does not report changes.
fn next_key_poll(transport: Option<&HeartbeatTransport>) -> Option<Instant> {
    transport
        .filter(|transport| !transport.watches_keys())
        .map(|_| Instant::now() + crate::transport::KEY_POLL_INTERVAL)
}

/// Fails without the right to open packet sockets, because nothing could be announced.
fn check_permission(links: &Snapshot) -> Result<(), SocketError> {
    match links.keys().next().map(|index| PacketSocket::arp(*index)) {
        Some(Err(error @ SocketError::NotPermitted(_))) => Err(error),
        // Other errors are those of one interface.
        Some(Ok(_) | Err(_)) | None => Ok(()),
    }
}

/// Readiness, and the metrics of the watches.
struct Readiness {
    metrics: ClientMetrics,
    unlisted: BTreeMap<Kind, ReadinessGate>,
    decided: ReadinessGate,
}

impl Readiness {
    fn new(context: &Context) -> Result<Self, prometheus::Error> {
        let gate = |kind: Kind| (kind, context.health.gate(kind.as_str()));
        Ok(Self {
            metrics: ClientMetrics::new(&context.registry)?,
            unlisted: Kind::ALL.into_iter().map(gate).collect(),
            decided: context.health.gate("addresses"),
        })
    }

    fn handle_update(&mut self, update: &Update) {
        match update {
            Update::Synced(kind) => {
                if let Some(gate) = self.unlisted.remove(kind) {
                    gate.open();
                }
                let configuration = [Kind::Pools, Kind::Advertisements];
                if configuration.iter().all(|kind| !self.unlisted.contains_key(kind)) {
                    self.metrics.config_loaded.set(1);
                }
            }
            Update::Invalid(..) => {
                self.metrics.updates.inc();
                self.metrics.update_errors.inc();
            }
            Update::Service(..)
            | Update::Slice(..)
            | Update::Node(..)
            | Update::Pool(..)
            | Update::Advertisement(..)
            | Update::Speaker(..)
            | Update::Status(..) => self.metrics.updates.inc(),
        }
    }

    fn update(&self, speaker: &Speaker) {
        self.metrics
            .config_stale
            .set(speaker.index().has_invalid_configuration().into());
        if speaker.is_running() {
            self.decided.open();
        }
    }
}
