//! Metrics of the operator.

use jiff::Timestamp;
use lb_crds::LoadBalancerStackStatus;
use lb_crds::condition::find_condition;
use lb_crds::load_balancer_stack::{UpgradeOutcome, UpgradeStep};
use prometheus::core::Collector;
use prometheus::{
    Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGaugeVec, Opts, Registry,
};

use crate::upgrade::UpgradeState;

/// Seconds: from a changed setting on one node to a new version on a hundred.
const UPGRADE_BUCKETS: [f64; 10] = [1.0, 3.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 7200.0];

/// Seconds: from a reconciliation without writes to one in which the API server does not answer.
const RECONCILE_BUCKETS: [f64; 8] = [0.0001, 0.001, 0.01, 0.03, 0.1, 0.3, 1.0, 15.0];

/// Metrics of the operator.
#[derive(Clone, Debug)]
pub struct Metrics {
    /// `lb_operator_reconcile_total`.
    pub reconciles: IntCounter,
    /// `lb_operator_reconcile_duration_seconds`.
    pub reconcile_seconds: Histogram,
    /// `lb_operator_reconcile_errors_total`.
    pub errors: IntCounter,
    /// `lb_operator_writes_total`, by kind. Constant while nothing changes.
    pub writes: IntCounterVec,
    /// `lb_operator_drift_corrections_total`, by kind and name.
    pub corrections: IntCounterVec,
    /// `lb_operator_condition`, by type.
    conditions: IntGaugeVec,
    /// `lb_operator_upgrade_step`, by step.
    step: IntGaugeVec,
    /// `lb_operator_upgrade_duration_seconds`, by outcome.
    pub upgrade_seconds: HistogramVec,
    /// `lb_operator_upgrade_step_duration_seconds`, by step.
    pub step_seconds: HistogramVec,
    /// `lb_operator_rollbacks_total`.
    pub rollbacks: IntCounter,
    /// `lb_operator_heartbeat_key_generation`.
    key_generation: IntGaugeVec,
    /// `lb_operator_heartbeat_key_since_timestamp_seconds`; the age of the key is `time()` minus this.
    key_since: IntGaugeVec,
}

impl Metrics {
    /// Creates and registers the metrics.
    ///
    /// # Errors
    /// If a metric with the same name is already registered.
    pub fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let counter = |name, help| register(registry, IntCounter::new(name, help)?);
        let counters = |name, help, labels: &[&str]| {
            register(registry, IntCounterVec::new(Opts::new(name, help), labels)?)
        };
        let gauges = |name, help, labels: &[&str]| {
            register(registry, IntGaugeVec::new(Opts::new(name, help), labels)?)
        };
        let durations = |name, help, labels: &[&str]| {
            let opts = HistogramOpts::new(name, help).buckets(UPGRADE_BUCKETS.to_vec());
            register(registry, HistogramVec::new(opts, labels)?)
        };
        let reconcile_seconds = HistogramOpts::new(
            "lb_operator_reconcile_duration_seconds",
            "Duration of reconciliations, including their writes.",
        );
        let reconcile_seconds = reconcile_seconds.buckets(RECONCILE_BUCKETS.to_vec());
        Ok(Self {
            reconciles: counter("lb_operator_reconcile_total", "Reconciliations of the stack.")?,
            reconcile_seconds: register(registry, Histogram::with_opts(reconcile_seconds)?)?,
            errors: counter(
                "lb_operator_reconcile_errors_total",
                "Reconciliations with failed writes.",
            )?,
            writes: counters(
                "lb_operator_writes_total",
                "Objects that were written or deleted.",
                &["kind"],
            )?,
            corrections: counters(
                "lb_operator_drift_corrections_total",
                "Objects restored after another client changed or deleted them.",
                &["kind", "name"],
            )?,
            conditions: gauges(
                "lb_operator_condition",
                "1 if the condition of the stack is True, otherwise 0.",
                &["type"],
            )?,
            step: gauges(
                "lb_operator_upgrade_step",
                "1 for the current step of the upgrade, otherwise 0.",
                &["step"],
            )?,
            upgrade_seconds: durations(
                "lb_operator_upgrade_duration_seconds",
                "Duration of upgrades.",
                &["outcome"],
            )?,
            step_seconds: durations(
                "lb_operator_upgrade_step_duration_seconds",
                "Duration of the steps of upgrades.",
                &["step"],
            )?,
            rollbacks: counter("lb_operator_rollbacks_total", "Upgrades that were rolled back.")?,
            key_generation: gauges(
                "lb_operator_heartbeat_key_generation",
                "Number of the current heartbeat key; it increases with every rotation.",
                &[],
            )?,
            key_since: gauges(
                "lb_operator_heartbeat_key_since_timestamp_seconds",
                "Unix time at which the current heartbeat key was activated.",
                &[],
            )?,
        })
    }

    /// Removes the gauges that describe the stack: it is deleted, or this replica does not lead and would report an
    /// old state.
    pub fn clear_state(&self) {
        for gauges in [
            &self.conditions,
            &self.step,
            &self.key_generation,
            &self.key_since,
        ] {
            gauges.reset();
        }
    }

    /// Reports the conditions and the step of the upgrade. Conditions that the status no longer has are removed.
    pub fn set_state(&self, before: &LoadBalancerStackStatus, after: &LoadBalancerStackStatus) {
        for condition in &before.conditions {
            if find_condition(&after.conditions, &condition.type_).is_none() {
                // It is absent if this process has not reported it.
                let _ = self.conditions.remove_label_values(&[&condition.type_]);
            }
        }
        for condition in &after.conditions {
            self.conditions
                .with_label_values(&[&condition.type_])
                .set(i64::from(condition.status == "True"));
        }
        let step = after.upgrade.as_ref().map(|upgrade| upgrade.step);
        for any in UpgradeStep::ALL {
            let gauge = self.step.with_label_values(&[any.as_str()]);
            gauge.set(i64::from(step == Some(any)));
        }
    }

    /// Reports the current heartbeat key.
    pub fn set_key(&self, generation: u64, since: Timestamp) {
        let generation = i64::try_from(generation).unwrap_or(i64::MAX);
        let none: &[&str] = &[];
        self.key_generation.with_label_values(none).set(generation);
        self.key_since.with_label_values(none).set(since.as_second());
    }

    /// Records the difference between two states of an upgrade.
    pub fn upgraded(&self, before: &UpgradeState, after: &UpgradeState) {
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

fn register<C: Collector + Clone + 'static>(registry: &Registry, metric: C) -> prometheus::Result<C> {
    registry.register(Box::new(metric.clone()))?;
    Ok(metric)
}

#[cfg(test)]
mod tests {
    use lb_crds::condition::set_condition;

    use super::*;

    fn mk_status(types: &[&str]) -> LoadBalancerStackStatus {
        let mut status = LoadBalancerStackStatus::default();
        for type_ in types {
            set_condition(
                &mut status.conditions,
                type_,
                true,
                "It",
                "",
                1,
                Timestamp::UNIX_EPOCH,
            );
        }
        status
    }

    fn gauges(registry: &Registry, name: &str) -> usize {
        let families = registry.gather();
        let family = families.iter().find(|family| family.name() == name);
        family.map_or(0, |family| family.get_metric().len())
    }

    #[test]
    fn gauges_of_removed_conditions_and_former_leaders_disappear() {
        let registry = Registry::new();
        let metrics = Metrics::new(&registry).unwrap();
        let both = mk_status(&["Ready", "Paused"]);
        metrics.set_state(&LoadBalancerStackStatus::default(), &both);
        metrics.set_key(3, Timestamp::UNIX_EPOCH);
        assert_eq!(gauges(&registry, "lb_operator_condition"), 2);
        metrics.set_state(&both, &mk_status(&["Ready"]));
        assert_eq!(gauges(&registry, "lb_operator_condition"), 1);
        assert_eq!(gauges(&registry, "lb_operator_heartbeat_key_generation"), 1);
        metrics.clear_state();
        for name in [
            "lb_operator_condition",
            "lb_operator_upgrade_step",
            "lb_operator_heartbeat_key_generation",
            "lb_operator_heartbeat_key_since_timestamp_seconds",
        ] {
            assert_eq!(gauges(&registry, name), 0, "{name}");
        }
    }
}
