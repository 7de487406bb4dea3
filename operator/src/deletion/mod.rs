//! Deletes a stack step by step. Pure: the observed state determines the next action and nothing is remembered between
//! steps, so that another operator replica continues where this one stopped.
//!
//! A finalizer keeps the stack until all steps are done:
//!
//! | step | reason for the order |
//! | --- | --- |
//! | the controller | a released address must not be assigned again |
//! | the Services' addresses | the speakers see it and withdraw, as they do when a Service is deleted |
//! | the speakers | nothing is announced, or a lost node cannot be waited for |
//! | all other objects, roles last | terminating pods keep the permissions that they need |
//! | the finalizer | no object of the stack is left in the cluster |
//!
//! The namespace and the metallb.io CRDs stay, because they hold the users' pools.

pub mod blockers;

use std::time::Duration;

use lb_crds::load_balancer_stack::DeletionPolicy;
use lb_runtime::text::{LIST_LIMIT, list_first};

use crate::object_id::{Kind, ObjectId};
use crate::reasons::Reason;

/// Keeps the API server from removing a stack before the operator has deleted its objects.
pub const FINALIZER: &str = "lb-operator.io/stack";
/// Set by `kubectl delete --cascade=foreground`: the garbage collector removes the stack's objects before the stack.
pub const FOREGROUND: &str = "foregroundDeletion";
/// How long speakers may take to withdraw. They need a fraction of a second; one that is cut off never reports it.
pub const WITHDRAWAL_TIMEOUT: Duration = Duration::from_secs(10);

/// An object that the stack owns.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct OwnedObject {
    /// Kind, namespace and name.
    pub id: ObjectId,
    /// Precondition of its deletion.
    pub uid: String,
    /// Whether it is being deleted.
    pub terminating: bool,
}

/// The observed state that determines the next action.
#[derive(Clone, Debug, Default)]
pub struct DeletionInput {
    /// `spec.deletionPolicy`.
    pub policy: DeletionPolicy,
    /// `spec.paused`.
    pub paused: bool,
    /// Whether the stack is being deleted.
    pub deleting: bool,
    /// Whether the stack has [`FINALIZER`].
    pub has_finalizer: bool,
    /// Whether the stack has [`FOREGROUND`].
    pub foreground: bool,
    /// Services with addresses of the stack, as `namespace/name`, sorted; `None` before they are listed.
    pub services: Option<Vec<String>>,
    /// How many Services the speakers report as announced; `None` before their reports are listed.
    pub announced: Option<usize>,
    /// How long no Service has had an address.
    pub clear_for: Duration,
    /// The stack's objects in the order of application.
    pub owned: Vec<OwnedObject>,
    /// Controller pods that still exist, without those on lost nodes.
    pub controllers: usize,
    /// Speaker pods that still exist, without those on lost nodes.
    pub speakers: usize,
}

/// The next action.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum DeletionAction {
    /// None: the stack is not being deleted.
    Keep,
    /// Add the finalizer, before any object is created.
    AddFinalizer,
    /// None: the stack is being deleted and has no finalizer of this operator.
    Ignore,
    /// None: deletion waits for the user. The workloads run on and are repaired unless the stack is paused.
    Blocked(DeletionBlocker),
    /// Keep the garbage collector from deleting objects that must stay.
    RemoveForegroundFinalizer,
    /// Remove the stack from the owner references of these objects.
    RemoveOwner(Vec<ObjectId>),
    /// Delete these objects in this order.
    Delete(Vec<OwnedObject>),
    /// Remove the addresses from the Services' status.
    ClearServices,
    /// Wait for a change, or for the time given.
    Wait(DeletionWait, Option<Duration>),
    /// Remove the finalizer.
    RemoveFinalizer,
}

/// Why deletion waits for the user.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum DeletionBlocker {
    /// These Services have addresses of the stack.
    Services(Vec<String>),
    /// `spec.paused` is true.
    Paused,
}

/// The next event that a deletion needs.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum DeletionWait {
    /// The list of Services. Until it is complete the stack is reconciled as usual.
    ServiceList,
    /// Controller pods terminate.
    Controllers,
    /// Speakers withdraw the addresses.
    Withdrawal,
    /// Speaker pods terminate.
    Speakers,
    /// Other objects terminate.
    Objects,
}

/// The next action for a stack.
#[must_use]
pub fn next_action(input: &DeletionInput) -> DeletionAction {
    match (input.deleting, input.has_finalizer) {
        (false, true) => DeletionAction::Keep,
        // A stack that was created paused has no objects to delete.
        (false, false) if input.paused => DeletionAction::Keep,
        (false, false) => DeletionAction::AddFinalizer,
        (true, false) => DeletionAction::Ignore,
        (true, true) if input.paused => DeletionAction::Blocked(DeletionBlocker::Paused),
        (true, true) => delete_stack(input),
    }
}

fn delete_stack(input: &DeletionInput) -> DeletionAction {
    match input.policy {
        DeletionPolicy::Orphan if input.foreground => return DeletionAction::RemoveForegroundFinalizer,
        DeletionPolicy::Orphan => return orphan_objects(input),
        DeletionPolicy::BlockIfServicesExist | DeletionPolicy::Withdraw => {}
    }
    let is_workload = |owned: &OwnedObject| matches!(owned.id.kind, Kind::Deployment | Kind::DaemonSet);
    if !input.owned.iter().any(is_workload) {
        // The stack serves no Service: existing addresses belong to another load balancer, such as MetalLB.
        return delete_objects(input, false);
    }
    let Some(services) = &input.services else {
        return DeletionAction::Wait(DeletionWait::ServiceList, None);
    };
    if input.policy == DeletionPolicy::BlockIfServicesExist && !services.is_empty() {
        return if input.foreground {
            DeletionAction::RemoveForegroundFinalizer
        } else {
            DeletionAction::Blocked(DeletionBlocker::Services(services.clone()))
        };
    }
    delete_objects(input, !services.is_empty())
}

/// Removes the owner from all objects but the ControllerRevisions with the last good revision: those are immutable,
/// name this stack as the owner, and would collide with those of the next stack.
fn orphan_objects(input: &DeletionInput) -> DeletionAction {
    let is_revision = |owned: &&OwnedObject| owned.id.kind == Kind::ControllerRevision;
    let others = input.owned.iter().filter(|owned| !is_revision(owned));
    let ids: Vec<_> = others.map(|owned| owned.id.clone()).collect();
    if !ids.is_empty() {
        return DeletionAction::RemoveOwner(ids);
    }
    delete_and_wait(input.owned.iter().filter(is_revision), 0, DeletionWait::Objects)
        .unwrap_or(DeletionAction::RemoveFinalizer)
}

fn delete_objects(input: &DeletionInput, has_services: bool) -> DeletionAction {
    let of = |kind| input.owned.iter().filter(move |owned| owned.id.kind == kind);
    if let Some(action) = delete_and_wait(of(Kind::Deployment), input.controllers, DeletionWait::Controllers)
    {
        return action;
    }
    if has_services {
        return DeletionAction::ClearServices;
    }
    let remaining = WITHDRAWAL_TIMEOUT.saturating_sub(input.clear_for);
    let announces = of(Kind::DaemonSet).any(|owned| !owned.terminating);
    // An unknown number has the same timeout: the list never completes if the CRD was removed.
    if announces && input.announced != Some(0) && !remaining.is_zero() {
        return DeletionAction::Wait(DeletionWait::Withdrawal, Some(remaining));
    }
    if let Some(action) = delete_and_wait(of(Kind::DaemonSet), input.speakers, DeletionWait::Speakers) {
        return action;
    }
    delete_and_wait(input.owned.iter().rev(), 0, DeletionWait::Objects)
        .unwrap_or(DeletionAction::RemoveFinalizer)
}

/// Deletes objects and waits until they and their pods are gone; `None` once they are.
fn delete_and_wait<'a>(
    objects: impl Iterator<Item = &'a OwnedObject>,
    pods: usize,
    wait: DeletionWait,
) -> Option<DeletionAction> {
    let (terminating, existing): (Vec<_>, Vec<_>) = objects.cloned().partition(|owned| owned.terminating);
    if !existing.is_empty() {
        Some(DeletionAction::Delete(existing))
    } else if !terminating.is_empty() || pods > 0 {
        Some(DeletionAction::Wait(wait, None))
    } else {
        None
    }
}

/// The state of a deletion for the conditions.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct DeletionReport {
    /// Whether the user must act.
    pub blocked: bool,
    /// Reason of the conditions.
    pub reason: Reason,
    /// Message of the conditions.
    pub message: String,
}

/// The report of an action; `None` while the stack is not being deleted.
#[must_use]
pub fn report(action: &DeletionAction) -> Option<DeletionReport> {
    let deleting = |progress: &str| {
        Some(DeletionReport {
            blocked: false,
            reason: Reason::Deleting,
            message: format!("deleting the stack: {progress}"),
        })
    };
    match action {
        DeletionAction::Keep
        | DeletionAction::AddFinalizer
        | DeletionAction::Ignore
        | DeletionAction::Wait(DeletionWait::ServiceList, _) => None,
        DeletionAction::Blocked(DeletionBlocker::Services(services)) => Some(DeletionReport {
            blocked: true,
            reason: Reason::ServicesExist,
            message: blocked_by_services(services),
        }),
        DeletionAction::Blocked(DeletionBlocker::Paused) => Some(DeletionReport {
            blocked: true,
            reason: Reason::Paused,
            message: "deletion is paused: spec.paused is true; set it to false to continue".to_owned(),
        }),
        DeletionAction::RemoveForegroundFinalizer => deleting("removing the foregroundDeletion finalizer"),
        DeletionAction::RemoveOwner(_) => deleting("removing owner references (Orphan)"),
        DeletionAction::Wait(DeletionWait::Controllers, _) => {
            deleting("waiting for the controllers to terminate")
        }
        DeletionAction::ClearServices => deleting("removing the addresses of the Services"),
        DeletionAction::Wait(DeletionWait::Withdrawal, _) => deleting("waiting for the speakers to withdraw"),
        DeletionAction::Wait(DeletionWait::Speakers, _) => deleting("waiting for the speakers to terminate"),
        DeletionAction::Delete(_) | DeletionAction::Wait(DeletionWait::Objects, _) => {
            deleting("deleting its objects")
        }
        DeletionAction::RemoveFinalizer => deleting("all objects deleted"),
    }
}

fn blocked_by_services(services: &[String]) -> String {
    let (count, have) = match services.len() {
        1 => ("1 Service".to_owned(), "has an address"),
        count => (format!("{count} Services"), "have addresses"),
    };
    format!(
        "{count} {have} of this stack: {}; delete them or change their type, or set spec.deletionPolicy (Withdraw removes \
         their addresses, Orphan leaves the workloads running)",
        list_first(services, LIST_LIMIT)
    )
}

#[cfg(test)]
mod tests;
