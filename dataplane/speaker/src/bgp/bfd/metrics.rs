//! The metrics of BFD, with the names of MetalLB.

use prometheus::{IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry};

use crate::bgp::bfd::Target;
use crate::bgp::metrics::DEFAULT_VRF;

const LABELS: [&str; 2] = ["peer", "vrf"];

/// The metrics of BFD. Without a session there is no series.
#[derive(Clone, Debug)]
pub struct BfdMetrics {
    up: IntGaugeVec,
    input: IntCounterVec,
    output: IntCounterVec,
    echo_input: IntCounterVec,
    echo_output: IntCounterVec,
    ups: IntCounterVec,
    downs: IntCounterVec,
    notifications: IntCounterVec,
    late: IntCounter,
}

/// The series of one session.
#[derive(Clone, Debug)]
pub(super) struct SessionMetrics {
    pub(super) up: IntGauge,
    pub(super) input: IntCounter,
    pub(super) output: IntCounter,
    pub(super) ups: IntCounter,
    pub(super) downs: IntCounter,
    /// Changes of the state that BGP was told.
    pub(super) notifications: IntCounter,
}

impl BfdMetrics {
    /// Registers the metrics.
    ///
    /// # Errors
    /// If a metric of the same name is registered already.
    pub fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let counter = |name: &str, help: &str| -> Result<IntCounterVec, prometheus::Error> {
            let counter = IntCounterVec::new(Opts::new(format!("metallb_bfd_{name}"), help), &LABELS)?;
            registry.register(Box::new(counter.clone()))?;
            Ok(counter)
        };
        let up = IntGaugeVec::new(
            Opts::new("metallb_bfd_session_up", "BFD session state (1 is up, 0 is down)"),
            &LABELS,
        )?;
        registry.register(Box::new(up.clone()))?;
        let late = IntCounter::new(
            "lb_speaker_bfd_late_total",
            "Number of times that the BFD thread ran more than 5 ms too late",
        )?;
        registry.register(Box::new(late.clone()))?;
        Ok(Self {
            up,
            input: counter("control_packet_input", "Number of received BFD control packets")?,
            output: counter("control_packet_output", "Number of sent BFD control packets")?,
            echo_input: counter("echo_packet_input", "Number of received BFD echo packets")?,
            echo_output: counter("echo_packet_output", "Number of sent BFD echo packets")?,
            ups: counter("session_up_events", "Number of BFD session up events")?,
            downs: counter("session_down_events", "Number of BFD session down events")?,
            notifications: counter("zebra_notifications", "Number of BFD state changes told to BGP")?,
            late,
        })
    }

    /// The series of a session, which begin here.
    pub(super) fn session(&self, target: &Target) -> SessionMetrics {
        let (peer, vrf) = labels(target);
        let labels = [peer.as_str(), vrf];
        for counter in [&self.echo_input, &self.echo_output] {
            let _ = counter.with_label_values(&labels);
        }
        SessionMetrics {
            up: self.up.with_label_values(&labels),
            input: self.input.with_label_values(&labels),
            output: self.output.with_label_values(&labels),
            ups: self.ups.with_label_values(&labels),
            downs: self.downs.with_label_values(&labels),
            notifications: self.notifications.with_label_values(&labels),
        }
    }

    /// Counts the times that the thread was late.
    pub(super) const fn late(&self) -> &IntCounter {
        &self.late
    }

    /// Removes the series of a session.
    pub(super) fn remove(&self, target: &Target) {
        let (peer, vrf) = labels(target);
        let labels = [peer.as_str(), vrf];
        let counters = [
            &self.input,
            &self.output,
            &self.echo_input,
            &self.echo_output,
            &self.ups,
            &self.downs,
            &self.notifications,
        ];
        // An error means that the series does not exist.
        for counter in counters {
            let _ = counter.remove_label_values(&labels);
        }
        let _ = self.up.remove_label_values(&labels);
    }
}

fn labels(target: &Target) -> (String, &str) {
    let vrf = target.vrf.as_deref().unwrap_or(DEFAULT_VRF);
    (target.router.to_string(), vrf)
}
