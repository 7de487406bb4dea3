//! Addresses to announcements: which addresses this node owns, and answering for them on the LAN.
//!
//! The way of a change: [`k8s`] → [`k8s::index`] → [`decide`] (who may have the address) → the coordinator of
//! lb-l2, with the [`transport`] of the other speakers (who has it) → [`packet`] (ARP and NDP) → [`k8s`]. [`speaker`] holds them together, without I/O of its own; [`run`] connects it to the API server, to the other
//! speakers and to the kernel.
//!
//! With the API server gone everything goes on with what was known last. A speaker that is asked to stop tells the others
//! to wait: it answers to its end, and the next one on this node goes on where it left off.

pub mod address_metrics;
mod announcements;
pub mod args;
pub mod balance;
pub mod decide;
pub mod delay_queue;
pub mod interface_selection;
pub mod intern;
pub mod k8s;
pub mod metrics;
pub mod node_macs;
pub mod packet;
pub mod peers;
pub mod reasons;
pub mod small_map;
pub mod speaker;
pub mod transport;
pub mod verification;

use std::collections::BTreeMap;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::Context as _;
use futures::{Stream, StreamExt};
use lb_net::{PacketSocket, Snapshot, SocketError, TimerFd};
use lb_runtime::metrics::ClientMetrics;
use lb_runtime::watch::Refresh;
use lb_runtime::{Context, ReadinessGate};

use crate::args::Config;
use crate::k8s::events::EventPublisher;
use crate::k8s::index::{Kind, Update};
use crate::k8s::l2_status::StatusWriter;
use crate::metrics::Metrics;
use crate::speaker::Speaker;
use crate::transport::HeartbeatTransport;

/// Most updates taken in before they are acted upon.
const BATCH: usize = 512;
/// Datagrams looked at before they are acted upon.
const DATAGRAMS: usize = 64;
/// How often the others are told that this process ends, and the time in between: one datagram may get lost.
const FAREWELLS: u32 = 3;
const FAREWELL: Duration = Duration::from_millis(15);
/// Least time between two new listings on account of links that came up.
const REFRESH: Duration = Duration::from_secs(10);

/// Memory that was needed for some work is given back this time after the work began, and again while it goes on.
const TIDY: Duration = Duration::from_secs(5);

/// Runs the speaker until it is asked to stop.
///
/// # Errors
/// When metrics cannot be registered, links cannot be watched, or packet sockets are not permitted; everything else is
/// retried.
pub async fn run(context: Context, config: Config) -> anyhow::Result<()> {
    lb_runtime::malloc::limit_free_memory();
    let links = packet::links().context("watch network interfaces")?;
    run_on(context, config, links).await
}

/// The same on links of the caller's: a snapshot of all of them at the start, and another after each change.
///
/// # Errors
/// As [`run`].
pub async fn run_on(
    context: Context,
    config: Config,
    mut links: impl Stream<Item = Snapshot> + Unpin,
) -> anyhow::Result<()> {
    let metrics = Metrics::new(&context.registry, &config.node).context("register metrics")?;
    let mut gates = Gates::new(&context).context("register metrics")?;
    let refresh = Refresh::default();
    let mut refreshed: Option<Instant> = None;
    let mut refresh_at: Option<Instant> = None;
    let mut updates = k8s::watch::updates(
        &context.client,
        &context.namespace,
        config.class.clone(),
        &refresh,
    );
    let mut links_known = false;
    let reporter = EventPublisher::new(context.client.clone(), &context.pod_name, &config.node);
    let mut statuses = StatusWriter::new(context.client.clone(), &context.namespace, &config.node);
    let mut heartbeats = match &config.keys {
        Some(keys) => Some(HeartbeatTransport::open(
            config.heartbeat_port,
            keys,
            metrics.clone(),
        )?),
        None => {
            tracing::warn!(
                "no keys for heartbeats: nodes that fail are found out through the API server only"
            );
            None
        }
    };
    let mut look_at = next_look(heartbeats.as_ref());
    let mut tidy_at: Option<Instant> = None;
    let mut speaker = Speaker::new(Instant::now(), incarnation(), config, metrics);
    let mut sightings = speaker.sightings();
    let mut timer = TimerFd::new()?;
    loop {
        let now = Instant::now();
        // On a busy machine it is not only us who are late: what has arrived by now speaks for those who would be taken for
        // dead otherwise. Whatever has woken us.
        if speaker.poll_timeout().is_some_and(|at| at <= now) {
            receive(now, heartbeats.as_ref(), &mut speaker);
            speaker.listen();
            while let Ok(sighting) = sightings.try_recv() {
                speaker.sighted(now, &sighting);
            }
        }
        for news in speaker.step(now) {
            reporter.publish(news);
        }
        send(heartbeats.as_ref(), &mut speaker);
        statuses.step(now, &mut speaker);
        gates.look(&speaker);
        if speaker.is_busy() {
            tidy_at.get_or_insert(now + TIDY);
            // More decisions are to be made; the interfaces' tasks answer in between.
            tokio::task::yield_now().await;
            continue;
        }
        let record = speaker.next_record().filter(|_| statuses.has_room());
        let due = [speaker.poll_timeout(), record, refresh_at, look_at, tidy_at]
            .into_iter()
            .flatten()
            .min();
        timer.set(due)?;
        loop {
            tokio::select! {
                () = context.shutdown.requested() => {
                    handoff(heartbeats.as_ref(), &mut speaker).await;
                    return Ok(());
                }
                () = readable(heartbeats.as_ref()) => {
                    receive(Instant::now(), heartbeats.as_ref(), &mut speaker);
                    // Most bring no news, and some dozens come in a second. What is due is done while we are awake.
                    if speaker.is_quiet()
                        && speaker
                            .poll_timeout()
                            .is_none_or(|at| due.is_some_and(|due| due <= at) && Instant::now() < at)
                    {
                        continue;
                    }
                }
                told = changed(heartbeats.as_ref()) => {
                    if let Some(heartbeats) = &mut heartbeats {
                        heartbeats.told(told);
                    }
                    look_at = next_look(heartbeats.as_ref());
                }
                Some(sighting) = sightings.recv() => {
                    speaker.sighted(Instant::now(), &sighting);
                    while let Ok(sighting) = sightings.try_recv() {
                        speaker.sighted(Instant::now(), &sighting);
                    }
                }
                Some(update) = updates.recv() => {
                    let now = Instant::now();
                    tidy_at.get_or_insert(now + TIDY);
                    gates.see(&update);
                    speaker.update(now, update);
                    // What else has arrived belongs to the same decisions.
                    for _ in 1..BATCH {
                        let Ok(update) = updates.try_recv() else {
                            break;
                        };
                        gates.see(&update);
                        speaker.update(now, update);
                    }
                }
                Some(snapshot) = links.next() => {
                    if !links_known {
                        permitted(&snapshot)?;
                    }
                    let came = speaker.set_links(Instant::now(), snapshot);
                    // The connections to the API server may have gone with the link, and TCP would take its time to notice.
                    if came && links_known {
                        let now = Instant::now();
                        refresh_at = Some(refreshed.map_or(now, |last| (last + REFRESH).max(now)));
                    }
                    links_known = true;
                }
                update = statuses.landed(&mut speaker) => {
                    if let Some(update) = update {
                        speaker.update(Instant::now(), update);
                    }
                }
                () = timer.expired() => {}
            }
            break;
        }
        if look_at.is_some_and(|at| at <= Instant::now()) {
            if let Some(heartbeats) = &mut heartbeats {
                heartbeats.look();
            }
            look_at = next_look(heartbeats.as_ref());
        }
        if tidy_at.is_some_and(|at| at <= Instant::now()) {
            tidy_at = None;
            lb_runtime::malloc::trim();
        }
        if refresh_at.is_some_and(|at| at <= Instant::now()) {
            refresh_at = None;
            refreshed = Some(Instant::now());
            refresh.now();
        }
    }
}

/// Greater than at any start before, unless the clock was set back; then the other speakers help.
fn incarnation() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

/// Takes in the datagrams that have arrived.
fn receive(now: Instant, heartbeats: Option<&HeartbeatTransport>, speaker: &mut Speaker) {
    let Some(heartbeats) = heartbeats else { return };
    for datagram in heartbeats.receive(DATAGRAMS) {
        if let Err(refused) = speaker.receive(now, datagram) {
            heartbeats.refuse(refused);
        }
    }
}

fn send(heartbeats: Option<&HeartbeatTransport>, speaker: &mut Speaker) {
    for (addresses, datagram) in speaker.take_datagrams() {
        if let Some(heartbeats) = heartbeats {
            heartbeats.send(&addresses, &datagram);
        }
    }
}

/// Tells the other speakers to wait for the next process on this node.
async fn handoff(heartbeats: Option<&HeartbeatTransport>, speaker: &mut Speaker) {
    if heartbeats.is_none() {
        return;
    }
    for _ in 0..FAREWELLS {
        let now = Instant::now();
        speaker.leave(now);
        // Nobody is told anything else any more.
        let _ = speaker.step(now);
        send(heartbeats, speaker);
        tokio::time::sleep(FAREWELL).await;
    }
}

async fn readable(heartbeats: Option<&HeartbeatTransport>) {
    match heartbeats {
        Some(heartbeats) => heartbeats.readable().await,
        None => std::future::pending().await,
    }
}

async fn changed(heartbeats: Option<&HeartbeatTransport>) -> std::io::Result<()> {
    match heartbeats {
        Some(heartbeats) => heartbeats.changed().await,
        None => std::future::pending().await,
    }
}

/// When to look at the keys, where the kernel does not tell of changes.
fn next_look(heartbeats: Option<&HeartbeatTransport>) -> Option<Instant> {
    heartbeats
        .filter(|heartbeats| !heartbeats.is_told())
        .map(|_| Instant::now() + transport::LOOK)
}

/// Without the right to open packet sockets nothing would ever be announced: better not to start.
fn permitted(links: &Snapshot) -> Result<(), SocketError> {
    match links.keys().next().map(|index| PacketSocket::arp(*index)) {
        Some(Err(error @ SocketError::NotPermitted(_))) => Err(error),
        // Any other error is that of one interface.
        Some(Ok(_) | Err(_)) | None => Ok(()),
    }
}

/// Readiness, and the metrics of the watches.
struct Gates {
    metrics: ClientMetrics,
    unlisted: BTreeMap<Kind, ReadinessGate>,
    decided: ReadinessGate,
}

impl Gates {
    fn new(context: &Context) -> Result<Self, prometheus::Error> {
        let gate = |kind: Kind| (kind, context.health.gate(kind.as_str()));
        Ok(Self {
            metrics: ClientMetrics::new(&context.registry)?,
            unlisted: Kind::ALL.into_iter().map(gate).collect(),
            decided: context.health.gate("addresses"),
        })
    }

    fn see(&mut self, update: &Update) {
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

    fn look(&self, speaker: &Speaker) {
        self.metrics
            .config_stale
            .set(speaker.index().has_wrong_configuration().into());
        if speaker.is_running() {
            self.decided.open();
        }
    }
}
