//! The operator's own metrics.

use prometheus::{IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry};

/// What the operator counts.
#[derive(Clone, Debug)]
pub struct Metrics {
    /// `lb_operator_reconcile_total`: times that the stack was compared with what exists.
    pub reconciles: IntCounter,
    /// `lb_operator_reconcile_errors_total`: those in which something could not be written.
    pub errors: IntCounter,
    /// `lb_operator_writes_total`: writes, by kind. Constant while nothing changes.
    pub writes: IntCounterVec,
    /// `lb_operator_drift_corrections_total`: objects put back, by kind and name.
    pub corrections: IntCounterVec,
    /// `lb_operator_condition`: 1 while a condition of the stack is True, by type.
    pub conditions: IntGaugeVec,
    /// `lb_operator_heartbeat_key_generation`: how many keys of the heartbeats there have been.
    pub key_generation: IntGauge,
    /// `lb_operator_heartbeat_key_since_timestamp_seconds`: since when the present one is in use; its age is `time()` less this.
    pub key_since: IntGauge,
}

impl Metrics {
    /// Makes and registers the metrics.
    ///
    /// # Errors
    /// When a metric of the same name is registered already.
    pub fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let metrics = Self {
            reconciles: IntCounter::new(
                "lb_operator_reconcile_total",
                "Times that the stack was compared with what exists.",
            )?,
            errors: IntCounter::new(
                "lb_operator_reconcile_errors_total",
                "Comparisons after which something could not be written.",
            )?,
            writes: IntCounterVec::new(
                Opts::new("lb_operator_writes_total", "Objects written or deleted."),
                &["kind"],
            )?,
            corrections: IntCounterVec::new(
                Opts::new(
                    "lb_operator_drift_corrections_total",
                    "Objects put back after somebody changed or deleted them.",
                ),
                &["kind", "name"],
            )?,
            conditions: IntGaugeVec::new(
                Opts::new(
                    "lb_operator_condition",
                    "1 while the condition of the stack is True.",
                ),
                &["type"],
            )?,
            key_generation: IntGauge::new(
                "lb_operator_heartbeat_key_generation",
                "How many keys of the heartbeats there have been, the present one included.",
            )?,
            key_since: IntGauge::new(
                "lb_operator_heartbeat_key_since_timestamp_seconds",
                "When the present key of the heartbeats came into use, in seconds since 1970.",
            )?,
        };
        registry.register(Box::new(metrics.reconciles.clone()))?;
        registry.register(Box::new(metrics.errors.clone()))?;
        registry.register(Box::new(metrics.writes.clone()))?;
        registry.register(Box::new(metrics.corrections.clone()))?;
        registry.register(Box::new(metrics.conditions.clone()))?;
        registry.register(Box::new(metrics.key_generation.clone()))?;
        registry.register(Box::new(metrics.key_since.clone()))?;
        Ok(metrics)
    }
}
