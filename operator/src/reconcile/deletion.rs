//! Performs the actions of [`crate::deletion`].

use std::time::{Duration, Instant};

use kube::ResourceExt;
use lb_crds::LoadBalancerStack;
use lb_crds::load_balancer_stack::DeletionPolicy;

use super::{Operator, ReconcileOutcome};
use crate::adoption;
use crate::apply::WriteError;
use crate::apply::retry::RetryKey;
use crate::deletion::blockers::ServiceBlockers;
use crate::deletion::{
    DeletionAction, DeletionInput, DeletionReport, DeletionWait, FINALIZER, FOREGROUND, OwnedObject,
    next_action, report,
};
use crate::desired::render::Component;
use crate::desired::validation;
use crate::object_id::ObjectId;
use crate::reasons::{Reason, StackEvent};

/// Actions in one pass: the effect of each is observed before the next, and some take effect at once.
const MAX_ACTIONS: usize = 8;

/// The part of its life that the stack is in.
#[derive(Debug)]
pub(super) enum Lifecycle {
    /// It is reconciled; with the report of a blocked deletion.
    Active(Option<DeletionReport>),
    /// It is being deleted.
    Deleting(DeletionReport),
    /// MetalLB, which it had adopted, is being restored.
    Restoring(adoption::AdoptionReport),
    /// It does not exist, or has no finalizer of this operator.
    Gone,
}

impl Operator {
    /// The namespace to watch for deletion blockers; `None` while the stack is not being deleted.
    #[must_use]
    pub fn deletion_namespace(&mut self) -> Option<String> {
        let stack = self.stack.as_ref().filter(|stack| {
            stack.metadata.deletion_timestamp.is_some()
                && has_our_finalizer(stack)
                && stack.spec.deletion_policy != DeletionPolicy::Orphan
        });
        let Some(stack) = stack else {
            self.blockers = None;
            self.clear_since = None;
            return None;
        };
        let class = stack.spec.load_balancer_class.clone();
        self.blockers.get_or_insert_with(|| ServiceBlockers::new(class));
        Some(validation::namespace(stack, &self.operator_config))
    }

    /// Performs the actions that are due when a stack is created or deleted.
    pub(super) async fn advance_lifecycle(
        &mut self,
        namespace: &str,
        leads: &impl Fn() -> bool,
        outcome: &mut ReconcileOutcome,
    ) -> Lifecycle {
        let mut last = None;
        if let Some(stack) = self.stack.clone()
            && let Some(report) = self.restore_metallb(&stack, namespace, leads, outcome).await
        {
            return Lifecycle::Restoring(report);
        }
        for _ in 0..MAX_ACTIONS {
            let Some(stack) = self.stack.clone() else {
                return Lifecycle::Gone;
            };
            let due = next_action(&self.deletion_input(&stack, namespace));
            let report = report(&due);
            let is_new = last.as_ref() != Some(&due);
            let done = match &due {
                DeletionAction::Keep
                | DeletionAction::Blocked(_)
                | DeletionAction::Wait(DeletionWait::ServiceList, _) => return Lifecycle::Active(report),
                DeletionAction::Ignore => return Lifecycle::Gone,
                DeletionAction::Wait(_, wait) => {
                    wait.iter().for_each(|wait| outcome.requeue_in(*wait));
                    false
                }
                _ if !leads() || !is_new => false,
                DeletionAction::AddFinalizer => {
                    // Installation does not wait for the finalizer.
                    self.add_finalizer(&stack, outcome).await;
                    return Lifecycle::Active(None);
                }
                DeletionAction::RemoveForegroundFinalizer => {
                    self.remove_finalizer(&stack, FOREGROUND, outcome).await
                }
                DeletionAction::RemoveOwner(ids) => self.remove_owner(&stack, ids, leads, outcome).await,
                DeletionAction::Delete(owned) => self.delete_owned(owned, leads, outcome).await,
                DeletionAction::ClearServices => self.clear_services(leads, outcome).await,
                DeletionAction::RemoveFinalizer => {
                    if self.remove_finalizer(&stack, FINALIZER, outcome).await {
                        tracing::info!("stack deletion complete; finalizer removed");
                        self.log_and_publish(StackEvent::normal(
                            Reason::Deleted,
                            deleted_message(stack.spec.deletion_policy),
                        ));
                        return Lifecycle::Gone;
                    }
                    false
                }
            };
            if !done {
                return report.map_or(Lifecycle::Gone, Lifecycle::Deleting);
            }
            last = Some(due);
        }
        outcome.requeue_in(Duration::ZERO);
        last.as_ref()
            .and_then(report)
            .map_or(Lifecycle::Gone, Lifecycle::Deleting)
    }

    fn deletion_input(&mut self, stack: &LoadBalancerStack, namespace: &str) -> DeletionInput {
        let uid = stack.uid().unwrap_or_default();
        let blockers = self.blockers.as_ref();
        let services = blockers.and_then(ServiceBlockers::services);
        let services = services.map(|services| services.keys().map(ToString::to_string).collect::<Vec<_>>());
        let now = Instant::now();
        match &services {
            Some(services) if services.is_empty() => {
                self.clear_since.get_or_insert(now);
            }
            _ => self.clear_since = None,
        }
        let pods = |component: Component| {
            let pods = self.index.pods(namespace);
            pods.filter(|(_, pod)| pod.component == component.name() && !pod.node_lost)
                .count()
        };
        let has = |finalizer: &str| stack.finalizers().iter().any(|other| other == finalizer);
        DeletionInput {
            policy: stack.spec.deletion_policy,
            paused: stack.spec.paused,
            deleting: stack.metadata.deletion_timestamp.is_some(),
            has_finalizer: has(FINALIZER),
            foreground: has(FOREGROUND),
            services,
            announced: blockers.and_then(ServiceBlockers::announced),
            clear_for: self
                .clear_since
                .map_or(Duration::ZERO, |since| now.saturating_duration_since(since)),
            owned: self.owned(&uid),
            controllers: pods(Component::Controller),
            speakers: pods(Component::Speaker),
        }
    }

    pub(super) fn owned(&self, uid: &str) -> Vec<OwnedObject> {
        let owned = self.index.objects().filter(|(_, live)| live.is_owned_by(uid));
        owned
            .map(|(id, live)| OwnedObject {
                id: id.clone(),
                uid: live.uid.clone(),
                terminating: live.terminating,
            })
            .collect()
    }

    async fn add_finalizer(&mut self, stack: &LoadBalancerStack, outcome: &mut ReconcileOutcome) {
        let mut finalizers = stack.finalizers().to_vec();
        finalizers.push(FINALIZER.to_owned());
        self.write_finalizers(stack, &finalizers, outcome).await;
    }

    async fn remove_finalizer(
        &mut self,
        stack: &LoadBalancerStack,
        without: &str,
        outcome: &mut ReconcileOutcome,
    ) -> bool {
        let all = stack.finalizers().iter();
        let finalizers: Vec<_> = all.filter(|other| *other != without).cloned().collect();
        self.write_finalizers(stack, &finalizers, outcome).await
    }

    async fn write_finalizers(
        &mut self,
        stack: &LoadBalancerStack,
        finalizers: &[String],
        outcome: &mut ReconcileOutcome,
    ) -> bool {
        let target = finalizers.join(",");
        if let Some((message, wait)) = self.retries.waits(Instant::now(), &RetryKey::Finalizers, &target) {
            outcome.record_failure(message.to_owned(), wait);
            return false;
        }
        match self.writer.set_finalizers(stack, finalizers).await {
            Ok(Some(stored)) => {
                self.retries.record_success(&RetryKey::Finalizers);
                self.metrics
                    .writes
                    .with_label_values(&["LoadBalancerStack"])
                    .inc();
                self.remember(stored);
                true
            }
            // The stack has changed or is gone: the watch reports it.
            Ok(None) => false,
            Err(error) => {
                self.failed(RetryKey::Finalizers, &target, &error, outcome);
                false
            }
        }
    }

    async fn remove_owner(
        &mut self,
        stack: &LoadBalancerStack,
        ids: &[ObjectId],
        leads: &impl Fn() -> bool,
        outcome: &mut ReconcileOutcome,
    ) -> bool {
        let owner = stack.uid().unwrap_or_default();
        let mut done = true;
        for id in ids {
            let Some(live) = self.index.get(id).cloned() else {
                continue;
            };
            let key = RetryKey::RemoveOwner(id.clone());
            if !leads() || self.must_retry_later(&key, &owner, outcome) {
                done = false;
                continue;
            }
            let answer = self.writer.remove_owner(id, &live, &owner).await;
            done &= match self.record_result(key, &owner, answer, id.kind.names().2, outcome) {
                Some(Some(stored)) => {
                    self.applied.forget(id);
                    self.index.apply(id.clone(), stored);
                    true
                }
                Some(None) | None => false,
            };
        }
        done
    }

    pub(super) async fn delete_owned(
        &mut self,
        owned: &[OwnedObject],
        leads: &impl Fn() -> bool,
        outcome: &mut ReconcileOutcome,
    ) -> bool {
        let mut done = true;
        for OwnedObject { id, uid, .. } in owned {
            let key = RetryKey::Delete(id.clone());
            if !leads() || self.must_retry_later(&key, uid, outcome) {
                done = false;
                continue;
            }
            let answer = self.writer.delete(id, uid).await;
            if self
                .record_result(key, uid, answer, id.kind.names().2, outcome)
                .is_some()
            {
                self.applied.forget(id);
                self.index.remove_deleted(id);
                tracing::info!(object = %id, "deleted object of a deleted stack");
            } else {
                done = false;
            }
        }
        done
    }

    /// The operator clears the Services because the controller must be gone first: it would assign the address again.
    /// The operator holds the permission anyway, as it grants it to the controller.
    async fn clear_services(&mut self, leads: &impl Fn() -> bool, outcome: &mut ReconcileOutcome) -> bool {
        let services = self
            .blockers
            .as_ref()
            .and_then(ServiceBlockers::services)
            .cloned();
        let mut done = true;
        for (service, version) in services.unwrap_or_default() {
            let key = RetryKey::ClearService(service.clone());
            if !leads() || self.must_retry_later(&key, &version, outcome) {
                done = false;
                continue;
            }
            let answer = self.writer.clear_service(&service, &version).await;
            match self.record_result(key, &version, answer, "Service", outcome) {
                Some(true) => {
                    tracing::info!(%service, "cleared Service status: stack is being deleted");
                    if let Some(blockers) = &mut self.blockers {
                        blockers.remove_service(&service);
                    }
                }
                Some(false) | None => done = false,
            }
        }
        done
    }

    /// Whether a failed write is not due for a retry yet.
    fn must_retry_later(&self, key: &RetryKey, target: &str, outcome: &mut ReconcileOutcome) -> bool {
        let waits = self.retries.waits(Instant::now(), key, target);
        waits.is_some_and(|(message, wait)| {
            outcome.record_failure(message.to_owned(), wait);
            true
        })
    }

    /// Counts a successful write, or schedules the retry of a failed one.
    fn record_result<T>(
        &mut self,
        key: RetryKey,
        target: &str,
        answer: Result<T, WriteError>,
        kind: &str,
        outcome: &mut ReconcileOutcome,
    ) -> Option<T> {
        match answer {
            Ok(answer) => {
                self.metrics.writes.with_label_values(&[kind]).inc();
                self.retries.record_success(&key);
                Some(answer)
            }
            Err(error) => {
                self.failed(key, target, &error, outcome);
                None
            }
        }
    }
}

fn has_our_finalizer(stack: &LoadBalancerStack) -> bool {
    stack.finalizers().iter().any(|other| other == FINALIZER)
}

fn deleted_message(policy: DeletionPolicy) -> String {
    match policy {
        DeletionPolicy::Orphan => "stack deleted; its workloads stay and keep serving",
        DeletionPolicy::BlockIfServicesExist | DeletionPolicy::Withdraw => {
            "stack and its objects deleted; pools and advertisements stay"
        }
    }
    .to_owned()
}
