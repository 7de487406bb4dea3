//! The operator's own metrics.

use lb_crds::load_balancer_stack::{UpgradeOutcome, UpgradeStep};
use prometheus::{
    Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
};

use crate::upgrade::UpgradeState;

/// Seconds that upgrades and their steps take, from a setting on one node to a version on a hundred.
const BUCKETS: [f64; 10] = [1.0, 3.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 7200.0];

/// Seconds that a comparison takes, from one that writes nothing to one in which an API server does not answer.
const RECONCILE_BUCKETS: [f64; 8] = [0.0001, 0.001, 0.01, 0.03, 0.1, 0.3, 1.0, 15.0];

/// What the operator counts.
#[derive(Clone, Debug)]
pub struct Metrics {
    /// `lb_operator_reconcile_total`: times that the stack was compared with what exists.
    pub reconciles: IntCounter,
    /// `lb_operator_reconcile_duration_seconds`: how long a comparison took, with the writes that it led to.
    pub reconcile_seconds: Histogram,
    /// `lb_operator_reconcile_errors_total`: those in which something could not be written.
    pub errors: IntCounter,
    /// `lb_operator_writes_total`: writes, by kind. Constant while nothing changes.
    pub writes: IntCounterVec,
    /// `lb_operator_drift_corrections_total`: objects put back, by kind and name.
    pub corrections: IntCounterVec,
    /// `lb_operator_condition`: 1 while a condition of the stack is True, by type.
    pub conditions: IntGaugeVec,
    /// `lb_operator_upgrade_step`: 1 for the step of the upgrade that is under way.
    pub step: IntGaugeVec,
    /// `lb_operator_upgrade_duration_seconds`: how long upgrades took, by outcome.
    pub upgrade_seconds: HistogramVec,
    /// `lb_operator_upgrade_step_duration_seconds`: how long their steps took, by step.
    pub step_seconds: HistogramVec,
    /// `lb_operator_rollbacks_total`: upgrades that failed and were rolled back.
    pub rollbacks: IntCounter,
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
            reconcile_seconds: Histogram::with_opts(
                HistogramOpts::new(
                    "lb_operator_reconcile_duration_seconds",
                    "How long a comparison took, with the writes that it led to.",
                )
                .buckets(RECONCILE_BUCKETS.to_vec()),
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
            step: IntGaugeVec::new(
                Opts::new(
                    "lb_operator_upgrade_step",
                    "1 for the step of the upgrade that is under way.",
                ),
                &["step"],
            )?,
            upgrade_seconds: HistogramVec::new(
                HistogramOpts::new("lb_operator_upgrade_duration_seconds", "How long upgrades took.")
                    .buckets(BUCKETS.to_vec()),
                &["outcome"],
            )?,
            step_seconds: HistogramVec::new(
                HistogramOpts::new(
                    "lb_operator_upgrade_step_duration_seconds",
                    "How long steps of upgrades took.",
                )
                .buckets(BUCKETS.to_vec()),
                &["step"],
            )?,
            rollbacks: IntCounter::new(
                "lb_operator_rollbacks_total",
                "Upgrades that failed and were rolled back.",
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
        registry.register(Box::new(metrics.step.clone()))?;
        registry.register(Box::new(metrics.upgrade_seconds.clone()))?;
        registry.register(Box::new(metrics.step_seconds.clone()))?;
        registry.register(Box::new(metrics.rollbacks.clone()))?;
        registry.register(Box::new(metrics.reconciles.clone()))?;
        registry.register(Box::new(metrics.reconcile_seconds.clone()))?;
        registry.register(Box::new(metrics.errors.clone()))?;
        registry.register(Box::new(metrics.writes.clone()))?;
        registry.register(Box::new(metrics.corrections.clone()))?;
        registry.register(Box::new(metrics.conditions.clone()))?;
        registry.register(Box::new(metrics.key_generation.clone()))?;
        registry.register(Box::new(metrics.key_since.clone()))?;
        Ok(metrics)
    }

    /// Counts what has happened between two states of the machine of upgrades.
    pub fn upgraded(&self, before: &UpgradeState, after: &UpgradeState) {
        let step = after.upgrade.as_ref().map(|upgrade| upgrade.step);
        for any in UpgradeStep::ALL {
            let gauge = self.step.with_label_values(&[any.as_str()]);
            gauge.set(i64::from(step == Some(any)));
        }
        let last = |memory: &UpgradeState| memory.history.last().cloned();
        if let Some(over) = last(after).filter(|over| last(before).as_ref() != Some(over)) {
            let seconds = over.finished_time.0.as_second() - over.started_time.0.as_second();
            let histogram = self.upgrade_seconds.with_label_values(&[over.outcome.as_str()]);
            histogram.observe(seconds as f64);
            if over.outcome == UpgradeOutcome::RolledBack {
                self.rollbacks.inc();
            }
        }
        let (Some(before), Some(after)) = (&before.upgrade, &after.upgrade) else {
            return;
        };
        if before.started_time == after.started_time
            && before.step != after.step
            && let [.., done, _] = after.steps.as_slice()
            && let Some(finished) = &done.finished_time
        {
            let seconds = finished.0.as_second() - done.started_time.0.as_second();
            self.step_seconds
                .with_label_values(&[done.name.as_str()])
                .observe(seconds as f64);
        }
    }
}
