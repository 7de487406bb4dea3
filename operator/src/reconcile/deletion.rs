//! Performs the actions of [`crate::deletion`].

use std::time::{Duration, Instant};

use kube::ResourceExt;
use lb_crds::LoadBalancerStack;
use lb_crds::load_balancer_stack::DeletionPolicy;

use super::Operator;
use crate::adoption;
use crate::apply::write::Write;
use crate::deletion::blockers::ServiceBlockers;
use crate::deletion::{
    DeletionAction, DeletionInput, DeletionReport, DeletionWait, FINALIZER, FOREGROUND, OwnedObject,
    next_action, report,
};
use crate::desired::render::Component;
use crate::desired::validation;
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
    pub(super) async fn advance_lifecycle(&mut self, namespace: &str) -> Lifecycle {
        let mut last = None;
        if let Some(stack) = self.stack.clone()
            && let Some(report) = self.restore_metallb(&stack, namespace).await
        {
            return Lifecycle::Restoring(report);
        }
        for _ in 0..MAX_ACTIONS {
            let Some(stack) = self.stack.clone() else {
                return Lifecycle::Gone;
            };
            let due = next_action(&self.deletion_input(&stack, namespace));
            let report = report(&due);
            let done = match &due {
                DeletionAction::Keep
                | DeletionAction::Blocked(_)
                | DeletionAction::Wait(DeletionWait::ServiceList, _) => return Lifecycle::Active(report),
                DeletionAction::Ignore => return Lifecycle::Gone,
                DeletionAction::Wait(_, wait) => {
                    wait.iter().for_each(|wait| self.executor.requeue_in(*wait));
                    false
                }
                _ if last.as_ref() == Some(&due) => false,
                DeletionAction::AddFinalizer => {
                    let mut finalizers = stack.finalizers().to_vec();
                    finalizers.push(FINALIZER.to_owned());
                    // Installation does not wait for the finalizer.
                    self.write(Write::finalizers(&stack, &finalizers)).await;
                    return Lifecycle::Active(None);
                }
                DeletionAction::RemoveForegroundFinalizer => {
                    self.write(without_finalizer(&stack, FOREGROUND)).await
                }
                DeletionAction::RemoveOwner(ids) => {
                    let owner = stack.uid().unwrap_or_default();
                    let owned = ids.iter().filter_map(|id| Some((id, self.index.get(id)?)));
                    let writes = owned.map(|(id, live)| Write::remove_owner(id, live, &owner));
                    self.write_in_order(writes.collect()).await
                }
                DeletionAction::Delete(owned) => self.write_in_order(deletions(owned)).await,
                DeletionAction::ClearServices => self.clear_services().await,
                DeletionAction::RemoveFinalizer => {
                    let message = deleted_message(stack.spec.deletion_policy);
                    let events = vec![StackEvent::normal(Reason::Deleted, message)];
                    let write = without_finalizer(&stack, FINALIZER).with_events(events);
                    if self.write(write).await {
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
        self.executor.requeue_in(Duration::ZERO);
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

    /// The operator clears the Services because the controller must be gone first: it would assign the address again.
    /// The operator holds the permission anyway, as it grants it to the controller.
    async fn clear_services(&mut self) -> bool {
        let services = self.blockers.as_ref().and_then(ServiceBlockers::services);
        let services = services.into_iter().flatten();
        let writes = services.map(|(service, version)| Write::clear_service(service, version));
        self.write_all(writes.collect()).await
    }
}

/// Deletes these objects.
pub(super) fn deletions(owned: &[OwnedObject]) -> Vec<Write> {
    let owned = owned.iter();
    owned.map(|owned| Write::delete(&owned.id, &owned.uid)).collect()
}

fn without_finalizer(stack: &LoadBalancerStack, without: &str) -> Write {
    let all = stack.finalizers().iter();
    let finalizers: Vec<_> = all.filter(|other| *other != without).cloned().collect();
    Write::finalizers(stack, &finalizers)
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
