//! Addresses to announcements: which addresses this node owns, and answering for them on the LAN.
//!
//! The way of a change: [`watch`] → [`objects`] → [`index`] → [`decide`] (who owns the address) → [`announce`] (ARP) →
//! [`status`] and [`news`]. [`speaker`] holds them together, without I/O of its own; [`run`] connects it to the API
//! server and to the kernel.
//!
//! With the API server gone everything goes on with what was known last. A speaker that is asked to stop says no
//! goodbye: it answers to its end, and the next one on this node goes on where it left off.

pub mod agenda;
pub mod announce;
pub mod args;
pub mod decide;
pub mod index;
pub mod interfaces;
pub mod metrics;
pub mod news;
pub mod objects;
pub mod peers;
mod port;
pub mod reasons;
pub mod speaker;
pub mod status;
mod voice;
pub mod watch;

use std::collections::BTreeMap;
use std::error::Error;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use futures::StreamExt;
use lb_daemon::metrics::ClientMetrics;
use lb_daemon::watch::Refresh;
use lb_daemon::{Context, Gate};
use lb_net::{PacketSocket, Snapshot, SocketError};

use crate::args::Config;
use crate::index::{Kind, Update};
use crate::metrics::Metrics;
use crate::news::Reporter;
use crate::speaker::Speaker;
use crate::status::Statuses;

/// Most updates taken in before they are acted upon.
const BATCH: usize = 512;
/// Least time between two new listings on account of links that came up.
const REFRESH: Duration = Duration::from_secs(10);

/// Runs the speaker until it is asked to stop.
///
/// # Errors
/// When metrics cannot be registered, links cannot be watched, or packet sockets are not permitted; everything else is
/// retried.
pub async fn run(context: Context, config: Config) -> anyhow::Result<()> {
    let metrics = Metrics::new(&context.registry).context("register metrics")?;
    let mut gates = Gates::new(&context).context("register metrics")?;
    let refresh = Refresh::default();
    let mut refreshed: Option<Instant> = None;
    let mut refresh_at: Option<Instant> = None;
    let mut updates = watch::updates(
        &context.client,
        &context.namespace,
        config.class.clone(),
        &refresh,
    );
    let mut links_known = false;
    let mut links = watch::links().context("watch network interfaces")?;
    let reporter = Reporter::new(context.client.clone(), &context.pod_name, &config.node);
    let mut statuses = Statuses::new(context.client.clone(), &context.namespace, &config.node);
    let mut speaker = Speaker::new(config, metrics);
    loop {
        let now = Instant::now();
        for news in speaker.step(now) {
            reporter.publish(news);
        }
        statuses.step(now, &mut speaker);
        gates.look(&speaker);
        if speaker.is_busy() {
            // More decisions are to be made; the interfaces' tasks answer in between.
            tokio::task::yield_now().await;
            continue;
        }
        let record = speaker.next_record().filter(|_| statuses.has_room());
        let due = [speaker.poll_timeout(), record, refresh_at]
            .into_iter()
            .flatten()
            .min();
        tokio::select! {
            Some(update) = updates.recv() => {
                let now = Instant::now();
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
            () = sleep_until(due) => {}
            () = context.shutdown.requested() => return Ok(()),
        }
        if refresh_at.is_some_and(|at| at <= Instant::now()) {
            refresh_at = None;
            refreshed = Some(Instant::now());
            refresh.now();
        }
    }
}

async fn sleep_until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due.into()).await,
        None => std::future::pending().await,
    }
}

/// Without the right to open packet sockets nothing would ever be announced: better not to start.
fn permitted(links: &Snapshot) -> Result<(), SocketError> {
    match links.keys().next().map(|index| PacketSocket::arp(*index)) {
        Some(Err(error @ SocketError::NotPermitted(_))) => Err(error),
        // Any other error is that of one interface.
        Some(Ok(_) | Err(_)) | None => Ok(()),
    }
}

/// An error with its causes, for the log.
pub(crate) fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

/// Readiness, and the metrics of the watches.
struct Gates {
    metrics: ClientMetrics,
    unlisted: BTreeMap<Kind, Gate>,
    decided: Gate,
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
