//! The operator's one task: events into the index, and, while this process leads, from the index to writes.
//!
//! ```text
//! watches ──► Index ──► Plan ──► render ──► difference ──► apply, delete ──► Index
//!                └───────────► observe ──► status ──────► patch, events
//! ```

use std::time::{Duration, Instant};

use jiff::Timestamp;
use kube::ResourceExt;
use lb_crds::{LoadBalancerStack, LoadBalancerStackStatus};
use lb_daemon::Key;
use lb_daemon::events::{EventKind, Events, reference};
use lb_daemon::watch::Change;

use crate::args::Config;
use crate::conflict::Conflicts;
use crate::diff::{Cause, Memory, difference};
use crate::index::Index;
use crate::metrics::Metrics;
use crate::object::Kind;
use crate::observe::observe;
use crate::plan::Plan;
use crate::render::{Wanted, render};
use crate::retry::Retries;
use crate::rotation::Rotation;
use crate::stack;
use crate::status::{Reason, Situation, news, status};
use crate::watch::{Event, STACK};
use crate::write::{WriteError, Writer};

mod keys;

/// Under which the retries of the status are kept.
const STATUS: &str = "status";

/// The state of the operator.
pub struct Operator {
    config: Config,
    writer: Writer,
    events: Events,
    metrics: Metrics,
    index: Index,
    stack: Option<LoadBalancerStack>,
    monitors_exist: bool,
    memory: Memory,
    conflicts: Conflicts,
    retries: Retries,
    rotation: Rotation,
}

/// What came of one comparison.
#[derive(Debug, Default, Eq, PartialEq)]
pub struct Outcome {
    /// When to try again even if nothing changes.
    pub again_in: Option<Duration>,
}

impl Operator {
    /// An operator that knows nothing yet.
    #[must_use]
    pub fn new(config: Config, writer: Writer, events: Events, metrics: Metrics) -> Self {
        Self {
            config,
            writer,
            events,
            metrics,
            index: Index::default(),
            stack: None,
            monitors_exist: false,
            memory: Memory::default(),
            conflicts: Conflicts::default(),
            retries: Retries::default(),
            rotation: Rotation::default(),
        }
    }

    /// Takes in an event.
    pub fn handle(&mut self, event: Event) {
        match event {
            Event::Stack(change) => match *change {
                Change::Apply(stack) => self.stack = Some(stack),
                Change::Delete(key) => {
                    if self.stack.take().is_some() {
                        tracing::info!(stack = %key, "stack deleted: its objects are garbage-collected");
                    }
                }
                // Only a newer version of the API could bring this about: what runs is left alone.
                Change::Invalid { key, error } => {
                    tracing::error!(stack = %key, error, "stack not understood and ignored: upgrade the operator");
                }
                Change::Listing | Change::Synced => {}
            },
            Event::Applied(id, live) => self.index.apply(id, *live),
            Event::Deleted(id, uid) => self.index.delete(&id, &uid),
            Event::Listed(kind, listed) => self.index.reset(kind, listed),
            Event::Pod(change) => match *change {
                Change::Apply(pod) => self.index.apply_pod(&pod),
                Change::Delete(key) | Change::Invalid { key, .. } => self.index.delete_pod(&key),
                Change::Listing | Change::Synced => {}
            },
            Event::Monitors(exist) => {
                self.monitors_exist = exist;
                if !exist {
                    self.index.reset(Kind::ServiceMonitor, Vec::new());
                }
            }
        }
    }

    /// Brings about what the stack asks for, as far as it is not so already, and tells about it in the status.
    /// `leads` is asked before each write.
    pub async fn reconcile(&mut self, leads: impl Fn() -> bool) -> Outcome {
        let Some(stack) = self.stack.clone() else {
            return Outcome::default();
        };
        // On its way out, and its objects with it: to put them back would hold up the deletion.
        if stack.metadata.deletion_timestamp.is_some() {
            return Outcome::default();
        }
        self.metrics.reconciles.inc();
        let paused = stack.spec.paused;
        let mut work = Work::default();
        let plan = stack::plan(&stack, &self.config, self.monitors_exist);
        if let Ok(plan) = &plan {
            if let Some(missing) = stack::missing_prerequisite(&stack, self.monitors_exist) {
                work.failures.push((Reason::MissingPrerequisite, missing));
            }
            match render(plan) {
                Ok(wanted) if paused => work.pending = self.pending(&wanted, plan),
                Ok(wanted) => self.carry_out(&wanted, &stack, &leads, &mut work).await,
                Err(error) => work.failures.push((Reason::WriteFailed, error.to_string())),
            }
            if !paused {
                self.rotate(&stack, &plan.namespace, &leads, &mut work).await;
            }
        }
        let namespace = plan.as_ref().map_or_else(
            |_| stack::namespace(&stack, &self.config),
            |plan| plan.namespace.clone(),
        );
        let situation = Situation {
            generation: stack.metadata.generation.unwrap_or_default(),
            operator_version: self.config.version.clone(),
            target_version: plan.as_ref().ok().map(|plan| plan.version.clone()),
            paused,
            invalid: plan.as_ref().err().map(ToString::to_string),
            failures: std::mem::take(&mut work.failures),
            pending: std::mem::take(&mut work.pending),
            observed: observe(&self.index, &namespace),
        };
        if leads() {
            self.tell(&stack, &situation, &mut work).await;
        }
        if work.write_failed {
            self.metrics.errors.inc();
        }
        Outcome {
            again_in: work.again_in,
        }
    }

    /// What differs from the spec and is left so.
    fn pending(&self, wanted: &[Wanted], plan: &Plan) -> Vec<String> {
        let todo = difference(wanted, &self.index, &self.memory, &plan.owner.uid);
        let apply = todo.apply.iter().map(|(wanted, _)| wanted.id.to_string());
        apply
            .chain(todo.prune.iter().map(|(id, _)| id.to_string()))
            .collect()
    }

    /// Applies what is missing or different, and deletes what is no longer wanted.
    async fn carry_out(
        &mut self,
        wanted: &[Wanted],
        stack: &LoadBalancerStack,
        leads: &impl Fn() -> bool,
        work: &mut Work,
    ) {
        let owner = stack.uid().unwrap_or_default();
        let todo = difference(wanted, &self.index, &self.memory, &owner);
        for (wanted, cause) in todo.apply {
            if !leads() {
                return;
            }
            let id = &wanted.id;
            let what = id.to_string();
            if let Some((message, wait)) = self.retries.waits(Instant::now(), &what, &wanted.digest) {
                work.waits(message.to_owned(), wait);
                continue;
            }
            if cause == Cause::Drift
                && let Err(wait) = self.conflicts.correct(Instant::now(), id)
            {
                work.again_in(wait);
                work.failures.push((
                    Reason::DriftConflict,
                    format!(
                        "{id} is changed again and again by somebody else: see its managedFields for whom, and stop them"
                    ),
                ));
                continue;
            }
            match self.writer.apply(wanted).await {
                Ok(live) => {
                    self.metrics.writes.with_label_values(&[id.kind.names().2]).inc();
                    self.memory.remember(wanted, &live);
                    self.index.apply(id.clone(), live);
                    self.retries.succeeded(&what);
                    tracing::info!(object = %id, cause = ?cause, "applied");
                    if cause == Cause::Drift {
                        let labels = [id.kind.names().2, &id.key.name];
                        self.metrics.corrections.with_label_values(&labels).inc();
                        let note =
                            format!("{id} was changed or deleted by somebody else and has been put back");
                        self.publish(stack, EventKind::Normal, "DriftCorrected", note);
                    }
                }
                Err(error) => {
                    self.failed(&what, &wanted.digest, &error, work);
                    // Without its namespace nothing else can succeed: one message says more than twenty.
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
            let what = format!("deletion of {id}");
            if let Some((message, wait)) = self.retries.waits(Instant::now(), &what, &uid) {
                work.waits(message.to_owned(), wait);
                continue;
            }
            match self.writer.delete(&id, &uid).await {
                Ok(()) => {
                    self.metrics.writes.with_label_values(&[id.kind.names().2]).inc();
                    self.memory.forget(&id);
                    self.index.discard(&id);
                    self.retries.succeeded(&what);
                    tracing::info!(object = %id, "removed: no longer wanted");
                }
                Err(error) => self.failed(&what, &uid, &error, work),
            }
        }
    }

    fn failed(&mut self, what: &str, wish: &str, error: &WriteError, work: &mut Work) {
        let message = error.to_string();
        let wait = self.retries.failed(Instant::now(), what, wish, &message);
        tracing::warn!(error = message, again_in = ?wait, "write failed");
        work.write_failed = true;
        work.waits(message, wait);
    }

    /// Writes the status if it says something new, and tells in events what changed.
    async fn tell(&mut self, stack: &LoadBalancerStack, situation: &Situation, work: &mut Work) {
        let before = stack.status.clone().unwrap_or_default();
        let after = status(&before, situation, Timestamp::now());
        for condition in &after.conditions {
            self.metrics
                .conditions
                .with_label_values(&[&condition.type_])
                .set(i64::from(condition.status == "True"));
        }
        if stack.status.is_some() && before == after {
            return;
        }
        if let Some((message, wait)) = self.retries.waits(Instant::now(), STATUS, "") {
            work.waits(message.to_owned(), wait);
            return;
        }
        match self.writer.status(STACK, &after).await {
            Ok(stored) => {
                self.retries.succeeded(STATUS);
                self.announce(stack, &before, &after);
                // The watch may be behind: the next comparison starts from what was just written.
                let same = self
                    .stack
                    .as_ref()
                    .is_some_and(|known| known.uid() == stored.uid());
                if same {
                    self.stack = Some(stored);
                }
            }
            // Deleted in between; the watch will tell.
            Err(WriteError::Status { source }) if matches!(&*source, kube::Error::Api(s) if s.code == 404) => {
            }
            Err(error) => self.failed(STATUS, "", &error, work),
        }
    }

    fn announce(
        &self,
        stack: &LoadBalancerStack,
        before: &LoadBalancerStackStatus,
        after: &LoadBalancerStackStatus,
    ) {
        for (warning, reason, note) in news(before, after) {
            if warning {
                tracing::warn!(reason, "{note}");
                self.publish(stack, EventKind::Warning, &reason, note);
            } else {
                tracing::info!(reason, "{note}");
                self.publish(stack, EventKind::Normal, &reason, note);
            }
        }
    }

    fn publish(&self, stack: &LoadBalancerStack, kind: EventKind, reason: &str, note: String) {
        let regarding = reference(
            &Key::of(stack),
            stack::API_VERSION,
            "LoadBalancerStack",
            stack.uid(),
        );
        self.events.publish(regarding, kind, reason, "Reconcile", note);
    }
}

/// What went wrong in one comparison, and when to try again.
#[derive(Debug, Default)]
struct Work {
    failures: Vec<(Reason, String)>,
    pending: Vec<String>,
    write_failed: bool,
    again_in: Option<Duration>,
}

impl Work {
    /// A write failed, now or before, and its time has not come.
    fn waits(&mut self, message: String, wait: Duration) {
        self.failures.push((Reason::WriteFailed, message));
        self.again_in(wait);
    }

    fn again_in(&mut self, wait: Duration) {
        self.again_in = Some(self.again_in.map_or(wait, |other| other.min(wait)));
    }
}
