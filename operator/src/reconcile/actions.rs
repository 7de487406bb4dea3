//! Performs the actions of a step: applies objects, deletes obsolete ones, and replaces pods.

use std::time::Instant;

use kube::api::DynamicObject;
use lb_crds::LoadBalancerStack;
use serde_json::Value;

use super::{Operator, adoption};
use crate::adoption::AllowedObjects;
use crate::apply::executor::Written;
use crate::apply::write::{Write, WriteId};
use crate::desired::config::StackConfig;
use crate::desired::render::DesiredObject;
use crate::drift::attribution;
use crate::drift::diff::{ApplyReason, Difference, difference};
use crate::index::LiveObject;
use crate::object_id::{Kind, ObjectId};
use crate::ownership::TakeOver;
use crate::reasons::{Reason, StackEvent};
use crate::status::StatusInput;
use crate::upgrade::{StepActions, objects};

impl Operator {
    /// Performs a write and updates the index by its answer. Returns whether it is done.
    pub(super) async fn write(&mut self, write: Write) -> bool {
        let id = write.id.clone();
        let written = self.executor.write(write).await;
        self.absorb(&id, written)
    }

    /// Performs writes one after the other. Returns whether all of them are done.
    pub(super) async fn write_in_order(&mut self, writes: Vec<Write>) -> bool {
        let mut done = true;
        for write in writes {
            done &= self.write(write).await;
        }
        done
    }

    /// Performs writes whose order does not matter. Returns whether all of them are done.
    pub(super) async fn write_all(&mut self, writes: Vec<Write>) -> bool {
        let answers = self.executor.write_all(writes).await;
        let done: Vec<_> = answers
            .into_iter()
            .map(|(id, written)| self.absorb(&id, written))
            .collect();
        done.into_iter().all(|done| done)
    }

    /// Updates the index by the answer to a write: the watch may lag behind.
    pub(super) fn absorb(&mut self, write: &WriteId, written: Written) -> bool {
        match (write, written) {
            (_, Written::NotWritten) | (_, Written::Outdated) => return false,
            (WriteId::Apply(id) | WriteId::Keys(id), Written::Stored(object)) => self.store(id, *object),
            (WriteId::RemoveOwner(id), Written::Stored(object)) => {
                self.applied.forget(id);
                self.store(id, *object);
            }
            (WriteId::Delete(id), Written::Deleted) | (WriteId::Restore(id), _) => {
                self.applied.forget(id);
                self.index.remove_deleted(id);
            }
            (WriteId::DeletePod(_, uid), _) => self.index.mark_deleted(uid),
            (WriteId::ClearService(service), _) => {
                if let Some(blockers) = &mut self.blockers {
                    blockers.remove_service(service);
                }
            }
            (WriteId::Finalizers(_) | WriteId::Status(_), Written::Stored(object)) => self.remember(&object),
            (_, Written::Stored(_) | Written::Deleted) => {}
        }
        true
    }

    fn store(&mut self, id: &ObjectId, object: DynamicObject) {
        self.index.apply(id.clone(), LiveObject::new(id.kind, object));
    }

    /// Performs the actions.
    pub(super) async fn perform_actions(
        &mut self,
        config: &StackConfig,
        rendered: &[DesiredObject],
        actions: &StepActions,
        allowed_objects: AllowedObjects,
        input: &mut StatusInput,
    ) {
        let target = objects::revision(rendered, &config.version);
        let state = &input.upgrade.state;
        let mut wanted = objects::desired_objects(rendered, config, &target, state, actions, &self.index);
        self.leave_replicas_to_autoscaler(&mut wanted);
        wanted.extend(adoption::pre_pull_workload(
            allowed_objects,
            input.adoption.as_ref(),
            config,
            &target.revision,
        ));
        let todo = difference(&wanted, &self.index, &self.applied, &config.owner.uid);
        if input.paused {
            let apply = todo.apply.iter().map(|(wanted, _)| wanted.id.to_string());
            let prune = todo.prune.iter().map(|(id, _)| id.to_string());
            input.pending = apply.chain(prune).collect();
            input.blocked = None;
            return;
        }
        // An adoption that has begun is completed: MetalLB's controller is gone, and no other assigns addresses.
        let todo = match self.blocks_first_installation(&todo) {
            Some(reason) if !self.adoption_has_begun(&config.namespace) => {
                input.blocked.get_or_insert(reason);
                Difference::default()
            }
            Some(_) | None => todo,
        };
        self.apply(adoption::retain_allowed(todo, allowed_objects), config)
            .await;
        let restarts = actions.restarts.iter();
        let restarts = restarts.map(|pod| Write::delete_pod(&config.namespace, pod));
        self.write_in_order(restarts.collect()).await;
    }

    /// Omits the number of controllers if the spec does not set it and an autoscaler does.
    fn leave_replicas_to_autoscaler(&self, wanted: &mut [DesiredObject]) {
        let replicas = |stack: &LoadBalancerStack| stack.spec.controller.as_ref()?.replicas;
        if self.stack.as_ref().and_then(replicas).is_some() {
            return;
        }
        for wanted in wanted
            .iter_mut()
            .filter(|wanted| wanted.id.kind == Kind::Deployment)
        {
            let autoscaled = self.index.get(&wanted.id).is_some_and(attribution::is_autoscaled);
            if let Some(spec) = wanted.body.get_mut("spec").and_then(Value::as_object_mut)
                && autoscaled
            {
                spec.remove("replicas");
                *wanted = DesiredObject::seal(wanted.id.clone(), std::mem::take(&mut wanted.body));
            }
        }
    }

    /// Applies objects that are missing or different, and deletes obsolete ones.
    async fn apply(&mut self, todo: Difference<'_>, config: &StackConfig) {
        let backup = self.backup(&config.namespace);
        for (wanted, cause) in todo.apply {
            let id = &wanted.id;
            let live = self.index.get(id);
            let mut write = Write::apply(wanted);
            if live.is_none() {
                write.take_over = Some(TakeOver {
                    adopt: config.adopt,
                    is_saved: backup.as_ref().is_some_and(|backup| backup.has(id)),
                });
            }
            if !self.executor.is_due(&write) {
                continue;
            }
            if cause == ApplyReason::Drift {
                if let Some(wait) = self.drift_limiter.waits(Instant::now(), id) {
                    let message = attribution::conflict_message(wanted, live);
                    self.executor.fail(Reason::DriftConflict, message, wait);
                    continue;
                }
                let note = attribution::drift_message(wanted, live);
                write.events.push(StackEvent {
                    related: Some(id.clone()),
                    ..StackEvent::normal(Reason::DriftCorrected, note)
                });
            }
            if self.apply_object(write, wanted).await {
                if cause == ApplyReason::Drift {
                    self.drift_limiter.record(Instant::now(), id);
                    let labels = [id.kind.names().2, id.key.name()];
                    self.metrics.corrections.with_label_values(&labels).inc();
                }
            } else if id.kind == Kind::Namespace {
                // Without its namespace no other object can be created: one error is enough.
                return;
            }
        }
        let obsolete = todo.prune.iter().map(|(id, uid)| Write::delete(id, uid));
        self.write_in_order(obsolete.collect()).await;
    }

    /// Applies an object, and creates the first key of a Secret that has none.
    async fn apply_object(&mut self, write: Write, wanted: &DesiredObject) -> bool {
        let id = &wanted.id;
        let Written::Stored(object) = self.executor.write(write).await else {
            return false;
        };
        let live = LiveObject::new(id.kind, *object);
        let done = match live.version().filter(|_| live.lacks_key()) {
            None => {
                self.index.apply(id.clone(), live);
                true
            }
            Some(version) => self.write_keys(Write::first_key(id, version)).await,
        };
        if let Some(live) = self.index.get(id).filter(|_| done) {
            self.applied.record(wanted, live);
        }
        done
    }
}
