//! What the speaker counts, under MetalLB's names where it has them.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use lb_l2::ownership::AcquireReason;
use lb_l2::responder::IgnoreReason;
use lb_l2::wire::heartbeat::DatagramError;
use lb_runtime::ObjectKey;
use prometheus::core::Collector;
use prometheus::{
    Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
};

use crate::address_metrics::AddressMetrics;

pub use crate::address_metrics::{AddressCounters, PROTOCOL};

/// The metrics of the speaker. Clones share them.
#[derive(Clone, Debug)]
pub struct Metrics {
    counts: AddressMetrics,
    malformed: IntCounterVec,
    ignored: IntCounterVec,
    gained: IntCounterVec,
    takeover: Histogram,
    conflicts: IntCounterVec,
    conflicting: IntGaugeVec,
    verifications: IntCounterVec,
    sent: IntCounter,
    received: IntCounter,
    keys: IntGauge,
    refused: IntCounterVec,
    dropped: IntCounter,
}

/// Seconds; the goal is a quarter of one.
const TAKEOVER_BUCKETS: [f64; 10] = [0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.5, 1.0, 5.0, 30.0];

impl Metrics {
    /// Makes and registers the metrics of the speaker on this node.
    ///
    /// # Errors
    /// When a metric of the same name is registered already.
    pub fn new(registry: &Registry, node: &str) -> Result<Self, prometheus::Error> {
        let counters = |name, help, label| -> Result<IntCounterVec, prometheus::Error> {
            let counters = IntCounterVec::new(Opts::new(name, help), &[label])?;
            registry.register(Box::new(counters.clone()))?;
            Ok(counters)
        };
        let counts = AddressMetrics::new(node)?;
        registry.register(Box::new(counts.clone()))?;
        let takeover = Histogram::with_opts(
            HistogramOpts::new(
                "lb_speaker_failover_duration_seconds",
                "Time from the last sign of life of the node that had an address to its announcement from this node",
            )
            .buckets(TAKEOVER_BUCKETS.to_vec()),
        )?;
        let conflicting = IntGaugeVec::new(
            Opts::new(
                "lb_speaker_address_conflict",
                "1 while a stranger on the LAN answers for the address too",
            ),
            &["ip"],
        )?;
        let sent = IntCounter::new(
            "lb_speaker_heartbeats_sent_total",
            "Datagrams sent to other speakers",
        )?;
        let received = IntCounter::new(
            "lb_speaker_heartbeats_received_total",
            "Authentic datagrams received from other speakers",
        )?;
        let dropped = IntCounter::new(
            "lb_speaker_sightings_dropped_total",
            "Answers and announcements of other hosts that came too fast to be looked at",
        )?;
        let keys = IntGauge::new(
            "lb_speaker_heartbeat_keys",
            "Keys by which datagrams of other speakers are believed: one, or two while it is being replaced. With none \
             nothing is sent or believed",
        )?;
        let all: [Box<dyn Collector>; 6] = [
            Box::new(keys.clone()),
            Box::new(dropped.clone()),
            Box::new(takeover.clone()),
            Box::new(conflicting.clone()),
            Box::new(sent.clone()),
            Box::new(received.clone()),
        ];
        for collector in all {
            registry.register(collector)?;
        }
        Ok(Self {
            gained: counters(
                "lb_speaker_failovers_total",
                "Addresses that came to this node, by cause: first, resumed, take_over or hand_over",
                "cause",
            )?,
            takeover,
            conflicts: counters(
                "lb_speaker_conflicts_total",
                "Times that a stranger on the LAN was seen to answer for the address",
                "ip",
            )?,
            conflicting,
            verifications: counters(
                "lb_speaker_verifications_total",
                "Times that another node asked the wire for an address of this node, by whether it was answered",
                "answered",
            )?,
            sent,
            received,
            keys,
            dropped,
            refused: counters(
                "lb_speaker_heartbeats_refused_total",
                "Datagrams that were not believed, by reason",
                "reason",
            )?,
            counts,
            malformed: counters(
                "lb_speaker_malformed_frames_total",
                "Frames that are neither ARP nor neighbour discovery as it should be, by what is wrong with them",
                "reason",
            )?,
            ignored: counters(
                "lb_speaker_ignored_frames_total",
                "Well-formed frames that got no answer, by reason",
                "reason",
            )?,
        })
    }

    /// The counters of an address.
    #[must_use]
    pub fn address(&self, address: IpAddr) -> Arc<AddressCounters> {
        self.counts.address(address)
    }

    /// We announce the address of a Service.
    pub fn announced(&self, service: &ObjectKey, address: IpAddr) {
        self.counts.set_announced(service, address, true);
    }

    /// We announce it no longer.
    pub fn withdrawn(&self, service: &ObjectKey, address: IpAddr) {
        self.counts.set_announced(service, address, false);
    }

    /// An address came to us.
    pub fn gained(&self, cause: &AcquireReason, now: Instant) {
        self.gained.with_label_values(&[cause.as_str()]).inc();
        if let AcquireReason::Failover { last_heard, .. } = cause {
            self.takeover
                .observe(now.saturating_duration_since(*last_heard).as_secs_f64());
        }
    }

    /// A stranger answers for an address.
    pub fn conflict(&self, address: IpAddr) {
        let ip = &[&*address.to_string()];
        self.conflicts.with_label_values(ip).inc();
        self.conflicting.with_label_values(ip).set(1);
    }

    /// The stranger is gone.
    pub fn conflict_over(&self, address: IpAddr) {
        // It fails when there was no such series, which is as well.
        let _ = self.conflicting.remove_label_values(&[&*address.to_string()]);
    }

    /// Another node has asked the wire for an address of ours.
    pub fn verified(&self, answered: bool) {
        let answered = if answered { "true" } else { "false" };
        self.verifications.with_label_values(&[answered]).inc();
    }

    /// Somebody seen on the wire was not looked at.
    pub fn sighting_dropped(&self) {
        self.dropped.inc();
    }

    /// A datagram was sent to another speaker.
    pub fn heartbeat_sent(&self) {
        self.sent.inc();
    }

    /// An authentic datagram was received.
    pub fn heartbeat_received(&self) {
        self.received.inc();
    }

    /// There are so many keys.
    pub fn keys(&self, keys: usize) {
        self.keys.set(i64::try_from(keys).unwrap_or(i64::MAX));
    }

    /// A datagram was not believed.
    pub fn heartbeat_refused(&self, refused: DatagramError) {
        self.refused.with_label_values(&[refused.as_str()]).inc();
    }

    /// A frame could not be read.
    pub fn malformed(&self, reason: &str) {
        self.malformed.with_label_values(&[reason]).inc();
    }

    /// A frame got no answer.
    pub fn ignored(&self, reason: IgnoreReason) {
        self.ignored.with_label_values(&[reason.as_str()]).inc();
    }
}
