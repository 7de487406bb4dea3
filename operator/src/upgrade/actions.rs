//! How everything is to be at this moment. It follows from what is written in the status and from what is seen, and from
//! nothing else, so that it can be carried out again and again.

use jiff::Timestamp;
use lb_crds::load_balancer_stack::{UpgradeStatus, UpgradeStep as Step};

use super::pod_selection::{self, all_of};
use super::snapshot::{Pod, Seen};
use super::state::{Memory, is_downgrade};

/// Which template a workload is to have.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Choice {
    /// That of the last good revision.
    Former,
    /// What the spec asks for.
    New,
    /// The one that it has: neither of the two.
    Kept,
}

/// What roles are to grant.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Rules {
    /// What the last good revision needs.
    Former,
    /// What both need.
    Both,
    /// What the spec asks for.
    New,
}

/// A pod that is to be replaced.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Restart {
    /// Its name.
    pub name: String,
    /// Its uid: a successor of the same name is left alone.
    pub uid: String,
    /// Its node.
    pub node: String,
}

/// How everything is to be.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Orders {
    /// The Deployment's template.
    pub controller: Choice,
    /// The DaemonSet's template.
    pub speaker: Choice,
    /// Whether the DaemonSet's strategy is OnDelete, and not RollingUpdate.
    pub on_delete: bool,
    /// Whether the metallb.io kinds are to be those that the spec asks for; they are left alone otherwise.
    pub kinds: bool,
    /// What roles grant.
    pub rules: Rules,
    /// Whether nodes are to pull the images.
    pub pre_pull: bool,
    /// Revisions whose objects are kept.
    pub keep: Vec<String>,
    /// Pods to replace.
    pub restart: Vec<Restart>,
    /// Whether a plan waits for approval.
    pub waits: bool,
    /// Whether time alone may change the orders.
    pub ticks: bool,
}

/// The orders of this moment. While the stack is paused they are not carried out.
#[must_use]
pub fn orders(memory: &Memory, seen: &Seen, now: Timestamp) -> Orders {
    match &memory.upgrade {
        None => at_rest(memory, seen),
        Some(upgrade) => at_work(upgrade, seen, now),
    }
}

fn at_rest(memory: &Memory, seen: &Seen) -> Orders {
    let mut orders = Orders {
        controller: Choice::New,
        speaker: Choice::New,
        on_delete: false,
        kinds: true,
        rules: Rules::New,
        pre_pull: false,
        keep: memory
            .last_good
            .iter()
            .map(|good| good.revision.clone())
            .collect(),
        restart: Vec::new(),
        waits: false,
        ticks: false,
    };
    let other = memory
        .last_good
        .as_ref()
        .filter(|good| good.revision != seen.target.revision);
    if other.is_some() {
        let rejected = memory.rejects(seen).is_some();
        orders.controller = Choice::Former;
        orders.speaker = Choice::Former;
        orders.kinds = rejected;
        orders.rules = if rejected { Rules::Both } else { Rules::Former };
        orders.waits = !rejected && !memory.approves(seen);
    }
    orders
}

fn at_work(upgrade: &UpgradeStatus, seen: &Seen, now: Timestamp) -> Orders {
    let step = upgrade.step;
    let is_back = step == Step::RollingBack && is_back(upgrade, seen);
    Orders {
        controller: controller(upgrade, seen),
        speaker: speaker(upgrade, seen),
        on_delete: step != Step::Finish && !is_back,
        kinds: step >= Step::Crds,
        rules: match step {
            Step::Preflight | Step::PrePull | Step::Crds => Rules::Former,
            Step::Finish => Rules::New,
            _ => Rules::Both,
        },
        pre_pull: step == Step::PrePull && !upgrade.paused,
        keep: vec![upgrade.from.revision.clone(), upgrade.to.revision.clone()],
        restart: if upgrade.paused || seen.paused {
            Vec::new()
        } else {
            restart(upgrade, seen, now)
        },
        waits: false,
        ticks: !upgrade.paused && !seen.paused,
    }
}

/// Whether controllers and speakers have what they had before, so that the DaemonSet may be at rest again.
fn is_back(upgrade: &UpgradeStatus, seen: &Seen) -> bool {
    all_of(&seen.speakers, &upgrade.from.speaker)
        && seen.speakers.template.as_ref() == Some(&upgrade.from.speaker)
        && seen.controllers.template.as_ref() == Some(&upgrade.from.controller)
}

fn controller(upgrade: &UpgradeStatus, seen: &Seen) -> Choice {
    // An upgrade that was left for another one may have got further: speakers never run ahead of controllers.
    let as_it_is = match seen.controllers.template.as_ref() {
        Some(has) if *has != upgrade.from.controller => Choice::Kept,
        _ => Choice::Former,
    };
    let down = is_downgrade(upgrade);
    match upgrade.step {
        Step::Preflight | Step::PrePull | Step::Crds | Step::Rbac => as_it_is,
        Step::Canary | Step::Soak | Step::Speakers if down => as_it_is,
        Step::Controller | Step::Canary | Step::Soak | Step::Speakers | Step::Verify | Step::Finish => {
            Choice::New
        }
        Step::RollingBack if down || all_of(&seen.speakers, &upgrade.from.speaker) => Choice::Former,
        Step::RollingBack => as_it_is,
    }
}

fn speaker(upgrade: &UpgradeStatus, seen: &Seen) -> Choice {
    match upgrade.step {
        // What was stopped is not to spread by accident.
        _ if upgrade.paused => Choice::Former,
        Step::Canary if canary_is_due(upgrade, seen) => Choice::New,
        Step::Controller if is_downgrade(upgrade) => Choice::New,
        Step::Speakers | Step::Verify | Step::Finish => Choice::New,
        Step::Preflight
        | Step::PrePull
        | Step::Crds
        | Step::Rbac
        | Step::Controller
        | Step::Canary
        | Step::Soak
        | Step::RollingBack => Choice::Former,
    }
}

/// Whether a node is chosen and has no new speaker yet.
fn canary_is_due(upgrade: &UpgradeStatus, seen: &Seen) -> bool {
    upgrade.canary_node.as_ref().is_some_and(|node| {
        let mut pods = seen.speakers.pods.iter().filter(|pod| pod.node == *node);
        !pods.any(|pod| pod.lost || (pod.revision == upgrade.to.speaker && !pod.terminating))
    })
}

/// Nothing is restarted before the DaemonSet's controller has seen the template that the successor is to be made of.
fn restart(upgrade: &UpgradeStatus, seen: &Seen, now: Timestamp) -> Vec<Restart> {
    let speakers = &seen.speakers;
    let will_be = |revision: &str| {
        speakers.template.as_deref() == Some(revision) && speakers.on_delete && speakers.observed
    };
    let of = |pod: &Pod| Restart {
        name: pod.name.clone(),
        uid: pod.uid.clone(),
        node: pod.node.clone(),
    };
    let new = &upgrade.to.speaker;
    let former = &upgrade.from.speaker;
    let at_once = seen.settings.max_unavailable;
    match upgrade.step {
        Step::Canary if will_be(new) && canary_is_due(upgrade, seen) => {
            let canary = speakers
                .pods
                .iter()
                .filter(|pod| Some(&pod.node) == upgrade.canary_node.as_ref());
            canary.filter(|pod| pod.counts()).map(of).collect()
        }
        Step::Speakers if will_be(new) => {
            let next = pod_selection::next(speakers, new, at_once, true, now);
            next.into_iter().map(of).collect()
        }
        Step::RollingBack if will_be(former) && controllers_allow(upgrade, seen) => {
            let next = pod_selection::next(speakers, former, at_once, false, now);
            next.into_iter().map(of).collect()
        }
        _ => Vec::new(),
    }
}

/// The way back from a downgrade begins with the controllers.
fn controllers_allow(upgrade: &UpgradeStatus, seen: &Seen) -> bool {
    let controllers = &seen.controllers;
    !is_downgrade(upgrade)
        || (controllers.settled && controllers.template.as_ref() == Some(&upgrade.from.controller))
}
