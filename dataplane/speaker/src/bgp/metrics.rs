//! The metrics of BGP, with the names of MetalLB.

use lb_bgp::session::Counters;
use prometheus::{IntCounterVec, IntGaugeVec, Opts, Registry};

/// The name of the default VRF in metrics, as in FRR.
pub(crate) const DEFAULT_VRF: &str = "default";
const LABELS: [&str; 2] = ["peer", "vrf"];

/// The labels of a session.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct SessionLabels {
    peer: String,
    vrf: String,
}

impl SessionLabels {
    /// The labels of a session with a router.
    #[must_use]
    pub fn new(router: std::net::SocketAddr, vrf: Option<&str>) -> Self {
        Self {
            peer: router.to_string(),
            vrf: vrf.unwrap_or(DEFAULT_VRF).to_owned(),
        }
    }

    fn values(&self) -> [&str; 2] {
        [&self.peer, &self.vrf]
    }
}

/// The state of a session.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct SessionGauges {
    /// Whether it is established.
    pub up: bool,
    /// Prefixes that the router gets.
    pub announced: usize,
    /// Changes that were not sent yet.
    pub pending: usize,
}

type Select = fn(&Counters) -> u64;

const COUNTERS: [(&str, &str, Select); 10] = [
    ("opens_sent", "Number of BGP open messages sent", |counters| {
        counters.sent.opens
    }),
    (
        "opens_received",
        "Number of BGP open messages received",
        |counters| counters.received.opens,
    ),
    (
        "notifications_sent",
        "Number of BGP notification messages sent",
        |counters| counters.sent.notifications,
    ),
    (
        "updates_total",
        "Number of BGP UPDATE messages sent",
        |counters| counters.sent.updates,
    ),
    (
        "updates_total_received",
        "Number of BGP UPDATE messages received",
        |counters| counters.received.updates,
    ),
    (
        "keepalives_sent",
        "Number of BGP keepalive messages sent",
        |counters| counters.sent.keepalives,
    ),
    (
        "keepalives_received",
        "Number of BGP keepalive messages received",
        |counters| counters.received.keepalives,
    ),
    (
        "route_refresh_sent",
        "Number of BGP route refresh messages sent",
        |counters| counters.sent.route_refreshes,
    ),
    ("total_sent", "Number of total BGP messages sent", |counters| {
        counters.sent.total()
    }),
    (
        "total_received",
        "Number of total BGP messages received",
        |counters| counters.received.total(),
    ),
];

/// The metrics of BGP. Without a session there is no series.
#[derive(Clone, Debug)]
pub struct BgpMetrics {
    up: IntGaugeVec,
    announced: IntGaugeVec,
    pending: IntGaugeVec,
    flaps: IntCounterVec,
    counters: Vec<(IntCounterVec, Select)>,
}

impl BgpMetrics {
    /// Registers the metrics.
    ///
    /// # Errors
    /// If a metric of the same name is registered already.
    pub fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let gauge = |name: &str, help: &str| -> Result<IntGaugeVec, prometheus::Error> {
            let gauge = IntGaugeVec::new(Opts::new(name, help), &LABELS)?;
            registry.register(Box::new(gauge.clone()))?;
            Ok(gauge)
        };
        let counter = |name: &str, help: &str| -> Result<IntCounterVec, prometheus::Error> {
            let counter = IntCounterVec::new(Opts::new(name, help), &LABELS)?;
            registry.register(Box::new(counter.clone()))?;
            Ok(counter)
        };
        let counters = COUNTERS.into_iter().map(|(name, help, select)| {
            let counter = counter(&format!("metallb_bgp_{name}"), help)?;
            Ok((counter, select))
        });
        Ok(Self {
            up: gauge("metallb_bgp_session_up", "BGP session state (1 is up, 0 is down)")?,
            announced: gauge(
                "metallb_bgp_announced_prefixes_total",
                "Number of prefixes currently being advertised on the BGP session",
            )?,
            pending: gauge(
                "metallb_bgp_pending_prefixes_total",
                "Number of prefixes that should be advertised on the BGP session and were not sent yet",
            )?,
            flaps: counter(
                "lb_speaker_bgp_session_flaps_total",
                "Established BGP sessions that ended",
            )?,
            counters: counters.collect::<Result<_, prometheus::Error>>()?,
        })
    }

    /// Updates the series of a session: its gauges if they changed. `counters` are the messages since the last call.
    pub fn update(&self, labels: &SessionLabels, gauges: Option<SessionGauges>, counters: &Counters) {
        let labels = labels.values();
        if let Some(gauges) = gauges {
            let number = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
            self.up.with_label_values(&labels).set(gauges.up.into());
            self.announced
                .with_label_values(&labels)
                .set(number(gauges.announced));
            self.pending
                .with_label_values(&labels)
                .set(number(gauges.pending));
        }
        for (counter, select) in &self.counters {
            counter.with_label_values(&labels).inc_by(select(counters));
        }
    }

    /// An established session ended.
    pub fn flapped(&self, labels: &SessionLabels) {
        self.flaps.with_label_values(&labels.values()).inc();
    }

    /// Removes the series of a session.
    pub fn remove(&self, labels: &SessionLabels) {
        let labels = labels.values();
        let counters = self
            .counters
            .iter()
            .map(|(counter, _)| counter)
            .chain([&self.flaps]);
        // An error means that the series does not exist.
        for counter in counters {
            let _ = counter.remove_label_values(&labels);
        }
        for gauge in [&self.up, &self.announced, &self.pending] {
            let _ = gauge.remove_label_values(&labels);
        }
    }
}
