//! The operator: applies events to the index, and while this process leads, reconciles the stack from the index.
//!
//! ```text
//! watches ──► Index ──► StackConfig ──► render ──► difference ──► preflight ──► apply, delete ──► Index
//!                └───────────► health ──► status ─────► patch, events
//! ```

use std::time::{Duration, Instant};

use jiff::Timestamp;
use lb_crds::LoadBalancerStack;
use lb_crds::load_balancer_stack::{Revision, UpgradeStatus, UpgradeStep};
use lb_runtime::events::Events;
use lb_runtime::watch::Change;
use serde_json::Value;

use crate::adoption::AllowedObjects;
use crate::apply::retry::{Failure, Retries, RetryKey};
use crate::apply::{WriteError, Writer};
use crate::args::OperatorConfig;
use crate::deletion::blockers::ServiceBlockers;
use crate::desired::config::StackConfig;
use crate::desired::render::{Component, DesiredObject, render};
use crate::desired::validation;
use crate::drift::attribution;
use crate::drift::diff::{self, ApplyReason, Difference, difference};
use crate::drift::limiter::DriftLimiter;
use crate::index::Index;
use crate::keys::rotation::KeyRotation;
use crate::metrics::Metrics;
use crate::object_id::{Kind, ObjectId};
use crate::observe::workload_health::{StackHealth, stack_health};
use crate::ownership::TakeOver;
use crate::reasons::{Reason, StackEvent};
use crate::status::{StatusInput, UpgradeInput};
use crate::upgrade::objects::{self, SnapshotInput};
use crate::upgrade::observer::ServiceObserver;
use crate::upgrade::plan::upgrade_plan;
use crate::upgrade::preconditions::{blocker, preflight_obstacle};
use crate::upgrade::{ClusterSnapshot, PodRestart, StepActions, UpgradeState, advance, step_actions};
use crate::watch::Event;

mod adoption;
mod deletion;
mod keys;
mod preflight;
mod status;

use deletion::Lifecycle;

/// Interval of reconciliations during an upgrade, because some of its steps only wait for time to pass.
const TICK: Duration = Duration::from_secs(1);

/// State of the operator.
pub struct Operator {
    operator_config: OperatorConfig,
    writer: Writer,
    events: Events,
    metrics: Metrics,
    index: Index,
    stack: Option<LoadBalancerStack>,
    /// Name of a stack that this version cannot decode, and the error, before it is reported on the object.
    undecodable: Option<(String, String)>,
    monitors_exist: bool,
    applied: diff::AppliedObjects,
    drift_limiter: DriftLimiter,
    retries: Retries,
    /// Exists during an upgrade.
    observer: Option<ServiceObserver>,
    /// Whether this process has taken over an upgrade that was already in progress.
    resumed: bool,
    rotation: KeyRotation,
    preflight: preflight::PreflightState,
    adoption: adoption::AdoptionMemory,
    /// Exists while the stack is being deleted.
    blockers: Option<ServiceBlockers>,
    /// Since when no Service has had an address of the stack that is being deleted.
    clear_since: Option<Instant>,
}

impl Operator {
    /// An operator with an empty index.
    #[must_use]
    pub fn new(operator_config: OperatorConfig, writer: Writer, events: Events, metrics: Metrics) -> Self {
        Self {
            operator_config,
            writer,
            events,
            metrics,
            index: Index::default(),
            stack: None,
            undecodable: None,
            monitors_exist: false,
            applied: diff::AppliedObjects::default(),
            observer: None,
            resumed: false,
            drift_limiter: DriftLimiter::default(),
            retries: Retries::default(),
            rotation: KeyRotation::default(),
            preflight: preflight::PreflightState::default(),
            adoption: adoption::AdoptionMemory::default(),
            blockers: None,
            clear_since: None,
        }
    }

    /// Applies an event to the index.
    pub fn handle(&mut self, event: Event) {
        match event {
            Event::Stack(change) => match *change {
                Change::Apply(stack) => {
                    self.stack = Some(stack);
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

    /// Reconciles the stack and updates its status. `leads` is checked before each write. Returns when to
    /// reconcile again even if nothing changes.
    pub async fn reconcile(&mut self, leads: impl Fn() -> bool) -> Option<Duration> {
        if let Some((name, error)) = self.undecodable.take() {
            self.report_undecodable(name, error, &leads).await;
            return self.undecodable.is_some().then_some(TICK);
        }
        let stack = self.stack.clone()?;
        let _timer = self.metrics.reconcile_seconds.start_timer();
        let mut outcome = ReconcileOutcome::default();
        let lifecycle = self
            .advance_lifecycle(
                &validation::namespace(&stack, &self.operator_config),
                &leads,
                &mut outcome,
            )
            .await;
        if matches!(lifecycle, Lifecycle::Gone) {
            return outcome.requeue_after;
        }
        self.metrics.reconciles.inc();
        let config = validation::stack_config(&stack, &self.operator_config, self.monitors_exist);
        let namespace = config.as_ref().map_or_else(
            |_| validation::namespace(&stack, &self.operator_config),
            |config| config.namespace.clone(),
        );
        let mut input = StatusInput {
            generation: stack.metadata.generation.unwrap_or_default(),
            operator_version: self.operator_config.version.clone(),
            target_version: config.as_ref().ok().map(|config| config.version.clone()),
            paused: stack.spec.paused,
            invalid: config.as_ref().err().map(ToString::to_string),
            failures: Vec::new(),
            pending: Vec::new(),
            health: self.stack_health(&stack, &namespace),
            preflight: Vec::new(),
            blocked: None,
            deletion: None,
            adoption: None,
            upgrade: UpgradeInput {
                state: stack
                    .status
                    .as_ref()
                    .map(UpgradeState::from_status)
                    .unwrap_or_default(),
                ..UpgradeInput::default()
            },
        };
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
                        self.reconcile_stack(config, &stack, &mut input, &leads, &mut outcome)
                            .await
                    }
                    Err(_) => input.upgrade.state.suspend(Timestamp::now()),
                }
            }
        }
        input.failures.append(&mut outcome.failures);
        input.health = self.stack_health(&stack, &namespace);
        // Before the preflight checks have run, the status remains that of the previous spec.
        let waits = input.blocked.is_some() && input.preflight.is_empty();
        if leads() && !waits {
            self.update_status(&input, &mut outcome).await;
        }
        if outcome.write_failed {
            self.metrics.errors.inc();
        }
        outcome.requeue_after
    }

    fn stack_health(&self, stack: &LoadBalancerStack, namespace: &str) -> StackHealth {
        let speaker = stack.spec.speaker.as_ref();
        let ignore_label = speaker.is_some_and(|speaker| speaker.ignore_exclude_label);
        stack_health(&self.index, namespace, ignore_label)
    }

    /// The desired objects for `actions`. The number of controllers is omitted if the spec does not set it and an
    /// autoscaler does.
    fn desired_objects(
        &self,
        rendered: &[DesiredObject],
        config: &StackConfig,
        target: &Revision,
        state: &UpgradeState,
        actions: &StepActions,
    ) -> Vec<DesiredObject> {
        let stack = self.stack.as_ref();
        let own = stack.and_then(|stack| stack.spec.controller.as_ref());
        let leaves = own.and_then(|own| own.replicas).is_none();
        let wanted = objects::desired_objects(rendered, config, target, state, actions, &self.index);
        let each = wanted.into_iter().map(|mut wanted| {
            let autoscaled = leaves
                && wanted.id.kind == Kind::Deployment
                && self.index.get(&wanted.id).is_some_and(attribution::is_autoscaled);
            match wanted.body.pointer_mut("/spec").and_then(Value::as_object_mut) {
                Some(spec) if autoscaled => {
                    spec.remove("replicas");
                    DesiredObject::seal(wanted.id, wanted.body)
                }
                _ => wanted,
            }
        });
        each.collect()
    }

    /// Applies the desired state.
    async fn reconcile_stack(
        &mut self,
        config: &StackConfig,
        stack: &LoadBalancerStack,
        input: &mut StatusInput,
        leads: &impl Fn() -> bool,
        outcome: &mut ReconcileOutcome,
    ) {
        let config = &self.without_blocking_budget(config);
        let rendered = match render(config) {
            Ok(rendered) => rendered,
            Err(error) => {
                outcome.failures.push((Reason::WriteFailed, error.to_string()));
                return;
            }
        };
        if let Some(missing) = validation::missing_prerequisite(stack, self.monitors_exist) {
            outcome.failures.push((Reason::MissingPrerequisite, missing));
        }
        if let Some(invalid) = self.empty_coverage(&rendered, config, &input.upgrade.state) {
            input.invalid = Some(invalid);
            input.upgrade.state.suspend(Timestamp::now());
            return;
        }
        self.run_preflight(stack, config);
        input.preflight.clone_from(&self.preflight.report.checks);
        let health = input.health.clone();
        let (allowed_objects, adoption) = self
            .adopt(stack, config, &rendered, &health, leads, outcome)
            .await;
        input.adoption = adoption;
        self.advance_upgrade(config, &rendered, allowed_objects, input, leads, outcome)
            .await;
        if !stack.spec.paused {
            self.rotate_keys(stack, &config.namespace, leads, outcome).await;
        }
        self.schedule_preflight(stack, config, &rendered, input.blocked.is_some(), outcome);
    }

    /// Why the spec must not be applied: no node would have a speaker. A spec that was applied before is only reported.
    fn empty_coverage(
        &self,
        rendered: &[DesiredObject],
        config: &StackConfig,
        state: &UpgradeState,
    ) -> Option<String> {
        let target = objects::revision(rendered, &config.version);
        let runs = |known: &Revision| known.revision == target.revision;
        let under_way = |upgrade: &UpgradeStatus| upgrade.step > UpgradeStep::Preflight && runs(&upgrade.to);
        if state.last_good.as_ref().is_some_and(runs) || state.upgrade.as_ref().is_some_and(under_way) {
            return None;
        }
        objects::empty_coverage(rendered, self.index.nodes())
    }

    /// The configuration without the controllers' PodDisruptionBudget where it would block every drain: with one node,
    /// evicted controllers cannot run elsewhere; an autoscaler may leave no more than the minimum.
    fn without_blocking_budget(&self, config: &StackConfig) -> StackConfig {
        let mut config = config.clone();
        let id = |kind, name: &str| ObjectId::new(kind, &config.namespace, name);
        let deployment = self
            .index
            .get(&id(Kind::Deployment, Component::Controller.name()));
        let budget = self
            .index
            .get(&id(Kind::PodDisruptionBudget, "metallb-controller"));
        let replicas = deployment
            .filter(|live| attribution::is_autoscaled(live))
            .and_then(|live| live.body["spec"]["replicas"].as_i64());
        let has_one_node = match self.preflight.nodes() {
            Some(nodes) => nodes == 1,
            // Not known yet: no change.
            None => deployment.is_some() && budget.is_none(),
        };
        config.controller_min_available = config.controller_min_available.filter(|minimum| {
            !has_one_node && replicas.is_none_or(|replicas| replicas > i64::from(*minimum))
        });
        config
    }

    /// Advances the upgrade, if there is one, and applies its actions.
    async fn advance_upgrade(
        &mut self,
        config: &StackConfig,
        rendered: &[DesiredObject],
        allowed_objects: AllowedObjects,
        input: &mut StatusInput,
        leads: &impl Fn() -> bool,
        outcome: &mut ReconcileOutcome,
    ) {
        let target = objects::revision(rendered, &config.version);
        let before = input.upgrade.state.clone();
        let leader = match self.controller_leader(config, &before, input).await {
            Ok(leader) => leader,
            Err(error) => return outcome.record_failure(error.to_string(), TICK),
        };
        let now = Timestamp::now();
        let snapshot = self.snapshot(config, rendered, &target, &before, input, leader.as_deref());
        let mut state = before.clone();
        if !std::mem::replace(&mut self.resumed, true) {
            state.resume(now);
        }
        let (state, events) = advance(&state, &snapshot, now);
        let actions = step_actions(&state, &snapshot, now);
        input.upgrade = UpgradeInput {
            plan: actions.needs_approval.then(|| {
                let hash = state.plan_hash(&snapshot);
                let (health, settings) = (&input.health, &snapshot.settings);
                upgrade_plan(hash, &config.version, rendered, &self.index, health, settings)
            }),
            rejected: state
                .failed_revision(&snapshot)
                .map(|rejected| rejected.reason.clone()),
            start_blocked: state
                .upgrade
                .as_ref()
                .is_some_and(|upgrade| snapshot.observes && blocker(upgrade, &snapshot).is_some()),
            obstacle: state
                .upgrade
                .as_ref()
                .and_then(|upgrade| preflight_obstacle(upgrade, &snapshot, now)),
            state,
        };
        let state = input.upgrade.state.clone();
        input.blocked = self.blocks_upgrade(&state);
        if state != before {
            // The state is written before anything is applied: another operator may have to continue from it.
            if !leads() || !self.update_status(input, outcome).await {
                input.upgrade.state = before;
                return;
            }
            self.metrics.upgraded(&before, &state);
            self.publish_all(events);
        }
        if actions.polls {
            outcome.requeue_in(TICK);
        }
        if let Some(refused) = snapshot.crds_refused.filter(|_| actions.apply_crds) {
            outcome.failures.push((Reason::WriteFailed, refused));
        }
        let mut wanted = self.desired_objects(rendered, config, &target, &state, &actions);
        let adoption = input.adoption.as_ref();
        wanted.extend(adoption::pre_pull_workload(
            allowed_objects,
            adoption,
            config,
            &target.revision,
        ));
        if snapshot.paused {
            input.pending = self.pending(&wanted, config);
            input.blocked = None;
            return;
        }
        self.apply(&wanted, config, allowed_objects, leads, outcome).await;
        input.blocked = input.blocked.take().or(outcome.blocked.take());
        self.restart(&config.namespace, &actions.restarts, leads, outcome)
            .await;
    }

    /// The input of the upgrade state machine.
    fn snapshot(
        &self,
        config: &StackConfig,
        rendered: &[DesiredObject],
        target: &Revision,
        state: &UpgradeState,
        input: &StatusInput,
        leader: Option<&str>,
    ) -> ClusterSnapshot {
        let failing_writes = self.retries.messages();
        let snapshot_input = SnapshotInput {
            config,
            rendered,
            target,
            state,
            upgrade: self.stack.as_ref().and_then(|stack| stack.spec.upgrade.as_ref()),
            generation: input.generation,
            paused: input.paused,
            operator_version: &self.operator_config.version,
            index: &self.index,
            health: &input.health,
            observer: self.observer.as_ref(),
            leader,
            failing_writes: &failing_writes,
            now: Timestamp::now(),
        };
        let first = objects::snapshot(&snapshot_input, &Difference::default());
        // Whether everything is applied is a question about the current step, not about the target.
        let present = step_actions(state, &first, Timestamp::now());
        let wanted = self.desired_objects(rendered, config, target, state, &present);
        let todo = difference(&wanted, &self.index, &self.applied, &config.owner.uid);
        let mut snapshot = objects::snapshot(&snapshot_input, &todo);
        snapshot.obstacle = snapshot
            .obstacle
            .or_else(|| self.preflight.report.blocked_by.clone());
        snapshot
    }

    /// The pod that leads the controllers, read only while an upgrade waits for a new leader.
    async fn controller_leader(
        &self,
        config: &StackConfig,
        state: &UpgradeState,
        input: &StatusInput,
    ) -> Result<Option<String>, WriteError> {
        let step = state.upgrade.as_ref().map(|upgrade| upgrade.step);
        if step == Some(UpgradeStep::Controller) && input.health.controller.settled {
            self.writer.leader(&config.namespace).await
        } else {
            Ok(None)
        }
    }

    /// Deletes pods so that their workloads replace them.
    async fn restart(
        &mut self,
        namespace: &str,
        pods: &[PodRestart],
        leads: &impl Fn() -> bool,
        outcome: &mut ReconcileOutcome,
    ) {
        for pod in pods {
            if !leads() {
                return;
            }
            let key = RetryKey::RestartPod(pod.name.clone());
            if let Some((message, wait)) = self.retries.waits(Instant::now(), &key, &pod.uid) {
                outcome.record_failure(message.to_owned(), wait);
                continue;
            }
            match self.writer.restart(namespace, pod).await {
                Ok(()) => {
                    self.metrics.writes.with_label_values(&["Pod"]).inc();
                    self.index.mark_deleted(&pod.uid);
                    self.retries.record_success(&key);
                    tracing::info!(pod = pod.name, node = pod.node, "speaker replaced");
                }
                Err(error) => self.failed(key, &pod.uid, &error, outcome),
            }
        }
    }

    /// The namespace of the stack, if it exists.
    #[must_use]
    pub fn stack_namespace(&self) -> Option<String> {
        let stack = self.stack.as_ref()?;
        Some(validation::namespace(stack, &self.operator_config))
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

    /// Objects that differ from the spec while the stack is paused.
    fn pending(&self, wanted: &[DesiredObject], config: &StackConfig) -> Vec<String> {
        let todo = difference(wanted, &self.index, &self.applied, &config.owner.uid);
        let apply = todo.apply.iter().map(|(wanted, _)| wanted.id.to_string());
        apply
            .chain(todo.prune.iter().map(|(id, _)| id.to_string()))
            .collect()
    }

    /// Applies objects that are missing or different, and deletes obsolete ones.
    async fn apply(
        &mut self,
        wanted: &[DesiredObject],
        config: &StackConfig,
        allowed_objects: AllowedObjects,
        leads: &impl Fn() -> bool,
        outcome: &mut ReconcileOutcome,
    ) {
        let todo = difference(wanted, &self.index, &self.applied, &config.owner.uid);
        // An adoption that has begun is completed: MetalLB's controller is gone, and no other assigns addresses.
        let todo = if self.adoption_has_begun(&config.namespace) {
            todo
        } else {
            self.hold_first_installation(todo, outcome)
        };
        let todo = adoption::retain_allowed(todo, allowed_objects);
        let backup = self.backup(&config.namespace);
        for (wanted, cause) in todo.apply {
            if !leads() {
                return;
            }
            let id = &wanted.id;
            let key = RetryKey::Apply(id.clone());
            if let Some((message, wait)) = self.retries.waits(Instant::now(), &key, &wanted.digest) {
                outcome.record_failure(message.to_owned(), wait);
                continue;
            }
            if cause == ApplyReason::Drift
                && let Err(wait) = self.drift_limiter.try_correct(Instant::now(), id)
            {
                outcome.requeue_in(wait);
                outcome.failures.push((
                    Reason::DriftConflict,
                    attribution::conflict_message(wanted, self.index.get(id)),
                ));
                continue;
            }
            let note = attribution::drift_message(wanted, self.index.get(id));
            let applied = match self.index.get(id) {
                Some(_) => self.writer.apply(wanted).await,
                None => {
                    let take_over = TakeOver {
                        adopt: config.adopt,
                        is_saved: backup.as_ref().is_some_and(|backup| backup.has(id)),
                    };
                    self.writer.create(wanted, take_over).await
                }
            };
            match applied {
                Ok(live) => {
                    self.metrics.writes.with_label_values(&[id.kind.names().2]).inc();
                    self.applied.record(wanted, &live);
                    self.index.apply(id.clone(), live);
                    self.retries.record_success(&key);
                    tracing::info!(object = %id, cause = ?cause, "applied");
                    if cause == ApplyReason::Drift {
                        let labels = [id.kind.names().2, id.key.name()];
                        self.metrics.corrections.with_label_values(&labels).inc();
                        self.publish(StackEvent {
                            related: Some(id.clone()),
                            ..StackEvent::normal(Reason::DriftCorrected, note)
                        });
                    }
                }
                Err(error) => {
                    self.failed(key, &wanted.digest, &error, outcome);
                    // Without its namespace no other object can be created: one error is enough.
                    if id.kind == Kind::Namespace {
                        return;
                    }
                }
            }
        }
        for (id, uid) in todo.prune {
            if !leads() {
                return;
            }
            let key = RetryKey::Delete(id.clone());
            if let Some((message, wait)) = self.retries.waits(Instant::now(), &key, &uid) {
                outcome.record_failure(message.to_owned(), wait);
                continue;
            }
            match self.writer.delete(&id, &uid).await {
                Ok(()) => {
                    self.metrics.writes.with_label_values(&[id.kind.names().2]).inc();
                    self.applied.forget(&id);
                    self.index.remove_deleted(&id);
                    self.retries.record_success(&key);
                    tracing::info!(object = %id, "deleted obsolete object");
                }
                Err(error) => self.failed(key, &uid, &error, outcome),
            }
        }
    }

    fn failed(&mut self, key: RetryKey, target: &str, error: &WriteError, outcome: &mut ReconcileOutcome) {
        let message = error.to_string();
        let wait = self
            .retries
            .record_failure(Instant::now(), key, target, Failure::of(error));
        tracing::warn!(error = message, retry_in = ?wait, "write failed");
        outcome.write_failed = true;
        outcome.record_failure(message, wait);
    }
}

/// Errors of a reconciliation, and when to retry.
#[derive(Debug, Default)]
struct ReconcileOutcome {
    failures: Vec<(Reason, String)>,
    /// Why the installation is blocked.
    blocked: Option<String>,
    write_failed: bool,
    requeue_after: Option<Duration>,
}

impl ReconcileOutcome {
    /// Records a write that failed and is not due for a retry yet.
    fn record_failure(&mut self, message: String, wait: Duration) {
        self.failures.push((Reason::WriteFailed, message));
        self.requeue_in(wait);
    }

    fn requeue_in(&mut self, wait: Duration) {
        self.requeue_after = Some(self.requeue_after.map_or(wait, |other| other.min(wait)));
    }
}
