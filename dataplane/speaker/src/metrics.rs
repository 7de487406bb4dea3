//! The metrics of the speaker: MetalLB's names where it has them, otherwise with the prefix `lb_speaker_`.

use std::collections::BTreeMap;
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

use crate::address_metrics::{AddressMetrics, BGP};

pub use crate::address_metrics::{AddressCounters, PROTOCOL};

/// The metrics of the speaker. Clones share them.
#[derive(Clone, Debug)]
pub struct Metrics {
    addresses: AddressMetrics,
    decisions: IntCounter,
    malformed: IntCounterVec,
    ignored: IntCounterVec,
    acquired: IntCounterVec,
    failover: Histogram,
    conflicts: IntCounterVec,
    conflicting: IntGaugeVec,
    unannounced: IntGaugeVec,
    unheard_peers: IntGauge,
    verifications: IntCounterVec,
    sent: IntCounter,
    received: IntCounter,
    keys: IntGauge,
    refused: IntCounterVec,
    dropped: IntCounter,
}

/// In seconds. The goal of a failover is 0.25 s.
const FAILOVER_BUCKETS: [f64; 10] = [0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.5, 1.0, 5.0, 30.0];

impl Metrics {
    /// Registers the metrics of the speaker on this node.
    ///
    /// # Errors
    /// If a metric of the same name is registered already.
    pub fn new(registry: &Registry, node: &str) -> Result<Self, prometheus::Error> {
        let counters = |name, help, label| -> Result<IntCounterVec, prometheus::Error> {
            let counters = IntCounterVec::new(Opts::new(name, help), &[label])?;
            registry.register(Box::new(counters.clone()))?;
            Ok(counters)
        };
        let addresses = AddressMetrics::new(node)?;
        registry.register(Box::new(addresses.clone()))?;
        let failover = Histogram::with_opts(
            HistogramOpts::new(
                "lb_speaker_failover_duration_seconds",
                "Time from the last heartbeat of a failed owner to the announcement of its address by this node, in seconds",
            )
            .buckets(FAILOVER_BUCKETS.to_vec()),
        )?;
        let conflicting = IntGaugeVec::new(
            Opts::new(
                "lb_speaker_address_conflict",
                "1 while a host outside the cluster answers for the address too",
            ),
            &["ip"],
        )?;
        let unannounced = IntGaugeVec::new(
            Opts::new(
                "lb_speaker_unannounced_addresses",
                "Addresses that no node announces, by reason. Each is counted by one speaker",
            ),
            &["reason"],
        )?;
        registry.register(Box::new(unannounced.clone()))?;
        for reason in lb_crds::names::UNANNOUNCED_REASONS {
            unannounced.with_label_values(&[reason]).set(0);
        }
        let sent = IntCounter::new(
            "lb_speaker_heartbeats_sent_total",
            "Heartbeat datagrams sent to other speakers",
        )?;
        let received = IntCounter::new(
            "lb_speaker_heartbeats_received_total",
            "Authentic heartbeat datagrams received from other speakers",
        )?;
        let dropped = IntCounter::new(
            "lb_speaker_observed_replies_dropped_total",
            "ARP and NDP replies of other hosts that exceeded the rate limit",
        )?;
        let keys = IntGauge::new(
            "lb_speaker_heartbeat_keys",
            "Valid heartbeat keys: one, or two during a rotation. Without a key no heartbeats are sent or accepted",
        )?;
        let unheard_peers = IntGauge::new(
            "lb_speaker_unheard_peers",
            "Monitored peers whose speakers are ready and whose heartbeats do not arrive: their failures are detected late",
        )?;
        let decisions = IntCounter::new(
            "lb_speaker_decisions_total",
            "Decisions about the candidates of an address",
        )?;
        let all: [Box<dyn Collector>; 8] = [
            Box::new(unheard_peers.clone()),
            Box::new(decisions.clone()),
            Box::new(keys.clone()),
            Box::new(dropped.clone()),
            Box::new(failover.clone()),
            Box::new(conflicting.clone()),
            Box::new(sent.clone()),
            Box::new(received.clone()),
        ];
        for collector in all {
            registry.register(collector)?;
        }
        let metrics = Self {
            decisions,
            acquired: counters(
                "lb_speaker_failovers_total",
                "Addresses acquired by this node, by cause: initial, restored, failover or hand_over",
                "cause",
            )?,
            failover,
            conflicts: counters(
                "lb_speaker_conflicts_total",
                "Conflicts detected: a host outside the cluster answered for the address",
                "ip",
            )?,
            conflicting,
            unannounced,
            unheard_peers,
            verifications: counters(
                "lb_speaker_verifications_total",
                "Verifications of addresses of this node by other nodes, by whether they received a reply",
                "answered",
            )?,
            sent,
            received,
            keys,
            dropped,
            refused: counters(
                "lb_speaker_heartbeats_refused_total",
                "Rejected heartbeat datagrams, by reason",
                "reason",
            )?,
            addresses,
            malformed: counters(
                "lb_speaker_malformed_frames_total",
                "Malformed ARP and NDP frames, by reason",
                "reason",
            )?,
            ignored: counters(
                "lb_speaker_ignored_frames_total",
                "Well-formed ARP and NDP frames without a reply, by reason",
                "reason",
            )?,
        };
        // Prometheus sees no increase in a series that begins with 1.
        for refused in DatagramError::ALL {
            metrics.refused.with_label_values(&[refused.as_str()]);
        }
        for answered in ["true", "false"] {
            metrics.verifications.with_label_values(&[answered]);
        }
        for cause in ["initial", "restored", "failover", "hand_over"] {
            metrics.acquired.with_label_values(&[cause]);
        }
        Ok(metrics)
    }

    /// The counters of an address.
    #[must_use]
    pub fn address(&self, address: IpAddr) -> Arc<AddressCounters> {
        self.addresses.address(address)
    }

    /// Removes the series of an address that no Service has.
    pub fn forget(&self, address: IpAddr) {
        self.addresses.forget(address);
        // An error means that the series does not exist.
        let _ = self.conflicts.remove_label_values(&[&*address.to_string()]);
    }

    /// The address of a Service is announced.
    pub fn announced(&self, service: &ObjectKey, address: IpAddr) {
        self.addresses.set_announced(PROTOCOL, service, address, true);
    }

    /// The address of a Service is not announced any longer.
    pub fn withdrawn(&self, service: &ObjectKey, address: IpAddr) {
        self.addresses.set_announced(PROTOCOL, service, address, false);
    }

    /// Sets whether the address of a Service is announced by BGP.
    pub fn bgp_announced(&self, service: &ObjectKey, address: IpAddr, announced: bool) {
        self.addresses.set_announced(BGP, service, address, announced);
    }

    /// The candidates of an address were decided.
    pub fn decided(&self) {
        self.decisions.inc();
    }

    /// This node acquired an address.
    pub fn acquired(&self, cause: &AcquireReason, now: Instant) {
        self.acquired.with_label_values(&[cause.as_str()]).inc();
        if let AcquireReason::Failover { last_heard, .. } = cause {
            self.failover
                .observe(now.saturating_duration_since(*last_heard).as_secs_f64());
        }
    }

    /// A conflict was detected.
    pub fn conflict(&self, address: IpAddr) {
        let ip = &[&*address.to_string()];
        self.conflicts.with_label_values(ip).inc();
        self.conflicting.with_label_values(ip).set(1);
    }

    /// A conflict was resolved.
    pub fn conflict_over(&self, address: IpAddr) {
        // An error means that the series does not exist.
        let _ = self.conflicting.remove_label_values(&[&*address.to_string()]);
    }

    /// Sets how many addresses are not announced, by reason.
    pub fn unannounced(&self, counts: &BTreeMap<&str, i64>) {
        for reason in lb_crds::names::UNANNOUNCED_REASONS {
            let count = counts.get(reason).copied().unwrap_or_default();
            self.unannounced.with_label_values(&[reason]).set(count);
        }
    }

    /// Sets the number of peers whose heartbeats do not arrive.
    pub fn unheard_peers(&self, peers: usize) {
        self.unheard_peers.set(i64::try_from(peers).unwrap_or(i64::MAX));
    }

    /// Another node verified an address of this node.
    pub fn verified(&self, answered: bool) {
        let answered = if answered { "true" } else { "false" };
        self.verifications.with_label_values(&[answered]).inc();
    }

    /// A reply exceeded the rate limit.
    pub fn reply_dropped(&self) {
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

    /// Sets the number of keys.
    pub fn keys(&self, keys: usize) {
        self.keys.set(i64::try_from(keys).unwrap_or(i64::MAX));
    }

    /// A datagram was rejected.
    pub fn heartbeat_refused(&self, refused: DatagramError) {
        self.refused.with_label_values(&[refused.as_str()]).inc();
    }

    /// A malformed frame was received.
    pub fn malformed(&self, reason: &str) {
        self.malformed.with_label_values(&[reason]).inc();
    }

    /// A well-formed frame was ignored.
    pub fn ignored(&self, reason: IgnoreReason) {
        self.ignored.with_label_values(&[reason.as_str()]).inc();
    }
}
