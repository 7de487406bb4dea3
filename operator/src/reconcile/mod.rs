//! The operator: applies events to the index, and while this process leads, reconciles the stack from the index.
//!
//! ```text
//! watches ──► Index ──► StackConfig ──► render ──► difference ──► preflight ──► apply, delete ──► Index
//!                └───────────► health ──► status ─────► patch, events
//! ```

use std::time::{Duration, Instant};

use jiff::Timestamp;
use kube::{CustomResourceExt, ResourceExt};
use lb_crds::load_balancer_stack::UpgradeStep;
use lb_crds::{ConfigurationState, LoadBalancerStack};
use lb_runtime::watch::Change;

use crate::apply::executor::Executor;
use crate::args::OperatorConfig;
use crate::deletion::blockers::ServiceBlockers;
use crate::desired::config::StackConfig;
use crate::desired::render::render;
use crate::desired::validation;
use crate::drift::diff;
use crate::drift::limiter::DriftLimiter;
use crate::index::Index;
use crate::keys::rotation::KeyRotation;
use crate::metrics::Metrics;
use crate::object_id::{Kind, ObjectId};
use crate::observe::workload_health::{StackHealth, stack_health};
use crate::other_operator::OtherOperator;
use crate::reasons::Reason;
use crate::status::StatusInput;
use crate::upgrade::observer::ServiceObserver;
use crate::watch::Event;

mod actions;
mod adoption;
mod budget;
mod claim;
mod deletion;
mod keys;
mod preflight;
mod status;
mod upgrade;

use budget::without_blocking_budget;
use deletion::Lifecycle;

/// Interval of reconciliations during an upgrade, because some of its steps only wait for time to pass.
const TICK: Duration = Duration::from_secs(1);

/// State of the operator.
pub struct Operator {
    operator_config: OperatorConfig,
    executor: Executor,
    metrics: Metrics,
    index: Index,
    stack: Option<LoadBalancerStack>,
    /// Name of a stack that this version cannot decode, and the error, before it is reported on the object.
    undecodable: Option<(String, String)>,
    monitors_exist: bool,
    applied: diff::AppliedObjects,
    drift_limiter: DriftLimiter,
    /// Exists during an upgrade.
    observer: Option<ServiceObserver>,
    /// Whether this process has taken over an upgrade that was already in progress.
    resumed: bool,
    rotation: KeyRotation,
    preflight: preflight::PreflightState,
    adoption: adoption::AdoptionMemory,
    other_operator: OtherOperator,
    /// Exists while the stack is being deleted.
    blockers: Option<ServiceBlockers>,
    /// Since when no Service has had an address of the stack that is being deleted.
    clear_since: Option<Instant>,
}

impl Operator {
    /// An operator with an empty index.
    #[must_use]
    pub fn new(operator_config: OperatorConfig, executor: Executor, metrics: Metrics) -> Self {
        Self {
            operator_config,
            executor,
            metrics,
            index: Index::default(),
            stack: None,
            undecodable: None,
            monitors_exist: false,
            applied: diff::AppliedObjects::default(),
            observer: None,
            resumed: false,
            drift_limiter: DriftLimiter::default(),
            rotation: KeyRotation::default(),
            preflight: preflight::PreflightState::default(),
            adoption: adoption::AdoptionMemory::default(),
            other_operator: OtherOperator::default(),
            blockers: None,
            clear_since: None,
        }
    }

    /// Applies an event to the index.
    pub fn handle(&mut self, event: Event) {
        match event {
            Event::Stack(change) => match *change {
                Change::Apply(stack) => {
                    if self.stack.as_ref().is_none_or(|known| !is_older(&stack, known)) {
                        self.stack = Some(stack);
                    }
                    self.undecodable = None;
                }
                Change::Delete(key) => {
                    self.undecodable = None;
                    if self.stack.take().is_some() {
                        tracing::info!(stack = %key, "stack deleted");
                        self.metrics.clear_state();
                    }
                }
                // Only a newer version of the API could cause this. Running workloads are not changed.
                Change::Invalid { key, error } => {
                    tracing::error!(stack = %key, error, "cannot decode LoadBalancerStack; ignored until the operator is upgraded");
                    self.undecodable = Some((key.name().to_owned(), error));
                }
                Change::Listing | Change::Synced => {}
            },
            Event::Applied(id, live) => self.index.apply(id, *live),
            Event::Deleted(id, uid) => self.index.delete(&id, &uid),
            Event::Listed(kind, listed) => self.index.reset(kind, listed),
            Event::Refusal(change) => match *change {
                Change::Apply(event) => self.index.apply_refusal(&event),
                Change::Delete(key) | Change::Invalid { key, .. } => self.index.delete_refusal(&key),
                Change::Listing | Change::Synced => {}
            },
            Event::Pod(change) => match *change {
                Change::Apply(pod) => self.index.apply_pod(&pod, Timestamp::now()),
                Change::Delete(key) | Change::Invalid { key, .. } => self.index.delete_pod(&key),
                Change::Listing | Change::Synced => {}
            },
            Event::SpeakerReport(change) => self.index.apply_speaker_report(*change),
            Event::Node(change) => self.index.apply_node(*change),
            Event::Blocker(event) => {
                if let Some(blockers) = &mut self.blockers {
                    blockers.handle(*event);
                }
            }
            Event::Observation(observation) => {
                if let Some(observer) = &mut self.observer {
                    observer.handle(*observation, Timestamp::now());
                }
            }
            Event::Monitors(exist) => {
                self.monitors_exist = exist;
                if !exist {
                    self.index.reset(Kind::ServiceMonitor, Vec::new());
                }
            }
        }
    }

    /// Reconciles the stack and updates its status. Returns when to reconcile again even if nothing changes.
    pub async fn reconcile(&mut self) -> Option<Duration> {
        self.executor.begin(self.stack.as_ref());
        if let Some((name, error)) = self.undecodable.take() {
            self.report_undecodable(name, error).await;
        } else if let Some(stack) = self.stack.clone()
            && self.claims(&stack).await
        {
            let _timer = self.metrics.reconcile_seconds.start_timer();
            let stack = self.stack.clone().unwrap_or(stack);
            self.reconcile_stack(&stack).await;
        }
        let outcome = self.executor.outcome();
        if outcome.write_failed {
            self.metrics.errors.inc();
        }
        outcome.requeue_after
    }

    async fn reconcile_stack(&mut self, stack: &LoadBalancerStack) {
        let namespace = validation::namespace(stack, &self.operator_config);
        let lifecycle = self.advance_lifecycle(&namespace).await;
        if matches!(lifecycle, Lifecycle::Gone) {
            return;
        }
        self.metrics.reconciles.inc();
        let config = validation::stack_config(stack, &self.operator_config, self.monitors_exist);
        let mut input = self.status_input(stack, &namespace, &config);
        match lifecycle {
            Lifecycle::Gone => {}
            // Correcting drift would delay the deletion.
            Lifecycle::Deleting(report) => input.deletion = Some(report),
            Lifecycle::Restoring(report) => {
                // The next rollout is a first installation.
                input.upgrade.state = input.upgrade.state.uninstalled();
                input.adoption = Some(report);
            }
            Lifecycle::Active(report) => {
                input.deletion = report;
                match &config {
                    Ok(config) => {
                        let nodes = self.preflight.nodes();
                        let config = without_blocking_budget(config, &self.index, nodes);
                        self.reconcile_objects(&config, stack, &mut input).await;
                    }
                    Err(_) => input.upgrade.state.suspend(Timestamp::now()),
                }
            }
        }
        input.failures.append(&mut self.executor.outcome().failures);
        // Workloads that were just applied have not been rolled out.
        input.health = self.stack_health(stack, &namespace);
        // Before the preflight checks have run, the status remains that of the previous spec.
        if input.blocked.is_none() || !input.preflight.is_empty() {
            self.update_status(&input, Vec::new()).await;
        }
    }

    fn stack_health(&self, stack: &LoadBalancerStack, namespace: &str) -> StackHealth {
        let speaker = stack.spec.speaker.as_ref();
        let ignore_label = speaker.is_some_and(|speaker| speaker.ignore_exclude_label);
        stack_health(&self.index, namespace, ignore_label)
    }

    /// Makes the cluster match the configuration: snapshot, transition, actions, writes.
    async fn reconcile_objects(
        &mut self,
        config: &StackConfig,
        stack: &LoadBalancerStack,
        input: &mut StatusInput,
    ) {
        let rendered = match render(config) {
            Ok(rendered) => rendered,
            Err(error) => {
                let failures = &mut self.executor.outcome().failures;
                return failures.push((Reason::WriteFailed, error.to_string()));
            }
        };
        if let Some(missing) = validation::missing_prerequisite(stack, self.monitors_exist) {
            let failures = &mut self.executor.outcome().failures;
            failures.push((Reason::MissingPrerequisite, missing));
        }
        if let Some(invalid) = self.empty_coverage(&rendered, config, &input.upgrade.state) {
            input.invalid = Some(invalid);
            input.upgrade.state.suspend(Timestamp::now());
            return;
        }
        self.run_preflight(stack, config);
        input.preflight.clone_from(&self.preflight.report.checks);
        let health = input.health.clone();
        let (allowed_objects, adoption) = self.adopt(stack, config, &rendered, &health).await;
        input.adoption = adoption;
        if let Some(actions) = self.advance_upgrade(config, &rendered, input).await {
            self.perform_actions(config, &rendered, &actions, allowed_objects, input)
                .await;
        }
        if !stack.spec.paused {
            self.rotate_keys(stack, &config.namespace).await;
        }
        self.schedule_preflight(stack, config, &rendered, input.blocked.is_some());
    }

    /// The namespace of the stack, if it exists.
    #[must_use]
    pub fn stack_namespace(&self) -> Option<String> {
        let stack = self.stack.as_ref()?;
        Some(validation::namespace(stack, &self.operator_config))
    }

    /// The namespace of the speakers' reports, if the stack and their CRD exist.
    #[must_use]
    pub fn speaker_report_namespace(&self) -> Option<String> {
        let crd = ObjectId::new(Kind::CustomResourceDefinition, "", ConfigurationState::crd_name());
        self.index.get(&crd).and_then(|_| self.stack_namespace())
    }

    /// The namespace to observe for the health checks of an upgrade; `None` without an upgrade.
    #[must_use]
    pub fn observed_namespace(&mut self) -> Option<String> {
        let stack = self.stack.as_ref()?;
        let is_under_way = stack
            .status
            .as_ref()
            .is_some_and(|status| status.upgrade.is_some());
        if !is_under_way {
            self.observer = None;
            return None;
        }
        let class = stack.spec.load_balancer_class.clone();
        let observer = self.observer.get_or_insert_with(|| ServiceObserver::new(class));
        let upgrade = stack.status.as_ref().and_then(|status| status.upgrade.as_ref());
        if upgrade.is_some_and(|upgrade| upgrade.step <= UpgradeStep::Rbac) && observer.is_complete() {
            observer.set_baseline();
        }
        Some(validation::namespace(stack, &self.operator_config))
    }
}

/// Whether this is an earlier state of the same stack: an event that was sent before the answer to the last write.
fn is_older(stack: &LoadBalancerStack, known: &LoadBalancerStack) -> bool {
    let version = |stack: &LoadBalancerStack| stack.resource_version()?.parse::<u64>().ok();
    stack.uid() == known.uid()
        && version(stack)
            .zip(version(known))
            .is_some_and(|(version, known)| version < known)
}

#[cfg(test)]
mod tests {
    use lb_crds::LoadBalancerStackSpec;

    use super::*;

    #[test]
    fn earlier_state_of_the_stack_is_older() {
        let stack = |uid: &str, version: &str| {
            let mut stack = LoadBalancerStack::new("default", LoadBalancerStackSpec::default());
            stack.metadata.uid = Some(uid.to_owned());
            stack.metadata.resource_version = Some(version.to_owned());
            stack
        };
        let known = stack("a", "10");
        for (uid, version, older) in [
            ("a", "9", true),
            ("a", "10", false),
            ("a", "11", false),
            ("b", "9", false),
        ] {
            assert_eq!(is_older(&stack(uid, version), &known), older, "{uid} {version}");
        }
    }
}
