//! The end of a stack, step by step. Pure: what is seen gives the step that is due, and nothing is remembered between
//! steps, so that another operator goes on where this one stopped.
//!
//! A finalizer holds the stack until the steps are done. What ends in which order:
//!
//! | step | why now |
//! | --- | --- |
//! | the controller | an address that is taken away must not be given again |
//! | the Services' addresses | speakers see it, and withdraw as they do when a Service is deleted |
//! | the speakers | nothing is announced any more, or a node is lost and cannot be waited for |
//! | all else, roles last | whoever still ends may still do what it does while it ends |
//! | the finalizer | nothing of the stack's own is left in the cluster |
//!
//! The namespace and the metallb.io kinds stay: users' pools are in the one and of the others.

pub mod blockers;

use std::time::Duration;

use lb_crds::load_balancer_stack::DeletionPolicy;

use crate::object_id::{Kind, ObjectId};

/// Keeps the API server from removing a stack before its operator has seen to its end.
pub const FINALIZER: &str = "lb-operator.io/stack";
/// By which the garbage collector removes what a stack owns before the stack: `kubectl delete --cascade=foreground`.
pub const FOREGROUND: &str = "foregroundDeletion";
/// How long speakers may take to withdraw. They need a fraction of a second; one that is cut off never tells.
pub const WITHDRAWAL: Duration = Duration::from_secs(10);
/// Services that a message names; the rest is counted.
const NAMED: usize = 10;

/// An object that the stack owns.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Owned {
    /// Which object.
    pub id: ObjectId,
    /// Its uid.
    pub uid: String,
    /// Whether it is on its way out.
    pub terminating: bool,
}

/// What the next step depends on.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// What the spec asks for.
    pub policy: DeletionPolicy,
    /// Whether the spec says to write nothing.
    pub paused: bool,
    /// Whether the stack is being deleted.
    pub deleting: bool,
    /// Whether [`FINALIZER`] is on it.
    pub held: bool,
    /// Whether the garbage collector is asked to remove what the stack owns before the stack.
    pub foreground: bool,
    /// Services with addresses of the stack, as `namespace/name`, in order; none before they are listed.
    pub services: Option<Vec<String>>,
    /// Services that speakers say they announce; none before that is listed.
    pub announced: Option<usize>,
    /// How long no Service has had an address.
    pub clear_for: Duration,
    /// What the stack owns, in the order of application.
    pub owned: Vec<Owned>,
    /// Controllers that have not ended, without those of lost nodes.
    pub controllers: usize,
    /// Speakers that have not ended, without those of lost nodes.
    pub speakers: usize,
}

/// What is due.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Step {
    /// Nothing: the stack stays, and what it asks for is brought about.
    Stay,
    /// The finalizer is to be put on, before anything is made.
    Hold,
    /// Nothing any more: the stack is on its way out, and nobody waits for this operator.
    Gone,
    /// Deletion waits for a person; what runs goes on running, and is repaired unless the stack is paused.
    Blocked(Block),
    /// The garbage collector is to be kept from removing what is to stay.
    StopCollector,
    /// These are to be owned by nobody.
    Disown(Vec<ObjectId>),
    /// These are to be deleted, in this order.
    Delete(Vec<Owned>),
    /// The Services' addresses are to be taken from them.
    Clear,
    /// Something ends by itself; look again when something changes, or after the time given.
    Wait(Wait, Option<Duration>),
    /// The finalizer is to be taken off.
    Release,
}

/// Why deletion waits for a person.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Block {
    /// These Services have addresses of the stack.
    Services(Vec<String>),
    /// The spec says to write nothing.
    Paused,
}

/// What a deletion waits for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Wait {
    /// The list of Services; until it is there everything goes on as before.
    List,
    /// The controllers end.
    Controllers,
    /// The speakers withdraw.
    Withdrawal,
    /// The speakers end.
    Speakers,
    /// Other objects go.
    Objects,
}

/// The step that is due.
#[must_use]
pub fn step(seen: &Seen) -> Step {
    match (seen.deleting, seen.held) {
        (false, true) => Step::Stay,
        // A stack that is paused from the first has made nothing that would have to be seen to.
        (false, false) if seen.paused => Step::Stay,
        (false, false) => Step::Hold,
        (true, false) => Step::Gone,
        (true, true) if seen.paused => Step::Blocked(Block::Paused),
        (true, true) => leave(seen),
    }
}

fn leave(seen: &Seen) -> Step {
    match seen.policy {
        DeletionPolicy::Orphan if seen.foreground => return Step::StopCollector,
        DeletionPolicy::Orphan => return orphan(seen),
        DeletionPolicy::BlockIfServicesExist | DeletionPolicy::Withdraw => {}
    }
    let serves = |owned: &Owned| matches!(owned.id.kind, Kind::Deployment | Kind::DaemonSet);
    if !seen.owned.iter().any(serves) {
        // It serves nobody: addresses that Services have are another's, such as MetalLB's.
        return remove(seen, false);
    }
    let Some(services) = &seen.services else {
        return Step::Wait(Wait::List, None);
    };
    if seen.policy == DeletionPolicy::BlockIfServicesExist && !services.is_empty() {
        return if seen.foreground {
            Step::StopCollector
        } else {
            Step::Blocked(Block::Services(services.clone()))
        };
    }
    remove(seen, !services.is_empty())
}

/// Gives up what runs. Not so the records of what ran last with everything in order: they name this stack as the owner of
/// what is to be brought back, cannot be changed, and would be in the way of the next stack's.
fn orphan(seen: &Seen) -> Step {
    let is_record = |owned: &&Owned| owned.id.kind == Kind::ControllerRevision;
    let others = seen.owned.iter().filter(|owned| !is_record(owned));
    let ids: Vec<_> = others.map(|owned| owned.id.clone()).collect();
    if !ids.is_empty() {
        return Step::Disown(ids);
    }
    end(seen.owned.iter().filter(is_record), 0, Wait::Objects).unwrap_or(Step::Release)
}

fn remove(seen: &Seen, has_services: bool) -> Step {
    let of = |kind| seen.owned.iter().filter(move |owned| owned.id.kind == kind);
    if let Some(step) = end(of(Kind::Deployment), seen.controllers, Wait::Controllers) {
        return step;
    }
    if has_services {
        return Step::Clear;
    }
    let left = WITHDRAWAL.saturating_sub(seen.clear_for);
    let announces = of(Kind::DaemonSet).any(|owned| !owned.terminating);
    // What is not known is waited for no longer than what is: the list cannot be had where the kind is gone.
    if announces && seen.announced != Some(0) && !left.is_zero() {
        return Step::Wait(Wait::Withdrawal, Some(left));
    }
    if let Some(step) = end(of(Kind::DaemonSet), seen.speakers, Wait::Speakers) {
        return step;
    }
    end(seen.owned.iter().rev(), 0, Wait::Objects).unwrap_or(Step::Release)
}

/// Deletes objects, and waits until they and their pods are gone. `None`: they are.
fn end<'a>(objects: impl Iterator<Item = &'a Owned>, pods: usize, wait: Wait) -> Option<Step> {
    let (going, staying): (Vec<_>, Vec<_>) = objects.cloned().partition(|owned| owned.terminating);
    if !staying.is_empty() {
        Some(Step::Delete(staying))
    } else if !going.is_empty() || pods > 0 {
        Some(Step::Wait(wait, None))
    } else {
        None
    }
}

/// What a condition says of a deletion.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Report {
    /// Whether a person has to do something.
    pub blocked: bool,
    /// One word for it.
    pub reason: crate::reasons::Reason,
    /// What happens, or what to do.
    pub message: String,
}

/// What there is to say while a step is carried out; nothing of a stack that stays.
#[must_use]
pub fn report(step: &Step) -> Option<Report> {
    use crate::reasons::Reason;
    let going = |what: &str| {
        Some(Report {
            blocked: false,
            reason: Reason::Deleting,
            message: format!("the stack is being deleted: {what}"),
        })
    };
    match step {
        Step::Stay | Step::Hold | Step::Gone | Step::Wait(Wait::List, _) => None,
        Step::Blocked(Block::Services(services)) => Some(Report {
            blocked: true,
            reason: Reason::ServicesExist,
            message: in_the_way(services),
        }),
        Step::Blocked(Block::Paused) => Some(Report {
            blocked: true,
            reason: Reason::Paused,
            message: "the stack is to be deleted, and spec.paused is true: nothing is written; set it to false, and the \
                      deletion goes on"
                .to_owned(),
        }),
        Step::StopCollector => going("the garbage collector is kept from what is to stay"),
        Step::Disown(_) => going("what it made is to stay, and gets no owner"),
        Step::Wait(Wait::Controllers, _) => going("the controllers end"),
        Step::Clear => going("the Services lose their addresses"),
        Step::Wait(Wait::Withdrawal, _) => going("the speakers withdraw"),
        Step::Wait(Wait::Speakers, _) => going("the speakers end"),
        Step::Delete(_) | Step::Wait(Wait::Objects, _) => going("its objects are removed"),
        Step::Release => going("nothing of it is left"),
    }
}

fn in_the_way(services: &[String]) -> String {
    let named: Vec<_> = services.iter().take(NAMED).map(String::as_str).collect();
    let more = match services.len().saturating_sub(NAMED) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    let (count, have) = match services.len() {
        1 => ("Service".to_owned(), "has an address"),
        count => (format!("{count} Services"), "have addresses"),
    };
    format!(
        "{count} {have} of this stack: {}{more}. Delete them or change their type, and the deletion goes on by itself; or set \
         spec.deletionPolicy: with Withdraw they lose their addresses, with Orphan all goes on running without the stack",
        named.join(", ")
    )
}

#[cfg(test)]
mod tests;
