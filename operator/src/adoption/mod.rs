//! Taking over from a running MetalLB, step by step, and the way back. Pure: what is seen gives the step that is due, and
//! nothing is remembered between steps, so that another operator goes on where this one stopped.
//!
//! | step | what is done | why now |
//! | --- | --- | --- |
//! | PrePull | the nodes pull our images | nothing of MetalLB is touched before ours can start |
//! | Record | MetalLB's workloads are written down | the way back: what is not recorded is not removed |
//! | Controller | MetalLB's controller is deleted; ours starts once its pods are gone | two allocators give one address twice |
//! | Speakers | MetalLB's DaemonSet is deleted and its pods stay; ours start beside them | see below |
//! | HandOver | MetalLB's speakers are made to stand still, then end | see below |
//! | Adopted | nothing; the record stays until a person deletes it | the way back is open |
//!
//! **One answering node per address.** MetalLB's speakers know nothing of ours and elect among themselves: when one of them
//! ends, another takes what it had. So a hand-over node by node would move every address, most of them twice, and each move
//! breaks connections. Instead ours start beside them: each announces what MetalLB's records (ServiceL2Status) say that its own
//! node has, and the others wait for it. Two processes of one node answer with the same hardware address, so nobody notices.
//! Then MetalLB's speakers are made to stand still, by one change of what all of them read ([`pause`](lb_crds::l2_advertisement::pause)): whether
//! one has read it or not, nobody but the present owner would announce. What stands still may end in any order.
//!
//! A MetalLB before 0.16 has the port of our probes, so that two speakers have no room on a node: it is not adopted before it
//! has been given another one.
//!
//! What somebody puts back, such as MetalLB's operator, Helm or a GitOps tool, is not fought over: it is told, and everything
//! else waits.

pub mod backup;
mod messages;
pub mod observe;

#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::Value;

use crate::deletion::OwnedObject;
use crate::desired::render::{Component, PORT, Wanted, pre_pull};
use crate::object_id::{Kind, ObjectId};

pub use backup::Record;
pub use messages::{Report, report};

/// Name of the ControllerRevision that holds what MetalLB was made of.
pub const RECORD: &str = "metallb-before-adoption";
/// Label of MetalLB's pods once their DaemonSet is gone; its value is that of their label `component`, which they lose: ours
/// would take them for its own otherwise.
pub const PARTED: &str = "lb-operator.io/metallb";
/// How long MetalLB's speakers have to read that they are to stand still, at least; and how long their records are waited
/// for at most: those of a node that is lost go only with MetalLB.
pub const HALT: [Duration; 2] = [Duration::from_secs(5), Duration::from_secs(15)];
/// How long a workload has to stay away before the next step: who puts it back does so at once.
pub const CALM: Duration = Duration::from_secs(3);

/// MetalLB as it is in the stack's namespace.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Found {
    /// Its controller's Deployment and its speakers' DaemonSet.
    pub workloads: Vec<Workload>,
    /// Its pods.
    pub pods: Vec<Pod>,
    /// Whether changes of pools fail while its controller, which checks them, is away.
    pub strict_webhook: bool,
    /// What it announces by BGP.
    pub bgp: Vec<String>,
    /// Nodes from which it announces something, as its records say.
    pub announcing: BTreeSet<String>,
    /// Advertisements that its speakers act upon.
    pub active: usize,
    /// Advertisements by which they stand still, or did.
    pub halted: usize,
    /// What the operator would have to be allowed, and is not.
    pub denied: Vec<String>,
}

/// A workload of MetalLB.
#[derive(Clone, Debug, PartialEq)]
pub struct Workload {
    /// Which object.
    pub id: ObjectId,
    /// Its uid.
    pub uid: String,
    /// Whether it is on its way out.
    pub terminating: bool,
    /// Who keeps it, and what to do about that.
    pub keeper: Option<Keeper>,
    /// All of it.
    pub body: Value,
}

impl Workload {
    /// Whether its pods have a port on their node that our speakers need.
    fn has_our_port(&self) -> bool {
        let containers = self.body["spec"]["template"]["spec"]["containers"].as_array();
        let ports = containers
            .into_iter()
            .flatten()
            .flat_map(|container| container["ports"].as_array().into_iter().flatten());
        self.id.kind == Kind::DaemonSet
            && ports
                .into_iter()
                .any(|port| port["containerPort"] == PORT || port["hostPort"] == PORT)
    }
}

/// Somebody who puts a workload back when it is removed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Keeper {
    /// MetalLB's own operator.
    MetalLbOperator,
    /// <https://argoproj.github.io/cd>
    ArgoCd,
    /// <https://fluxcd.io>
    Flux,
}

/// A pod of MetalLB.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Pod {
    /// Its name.
    pub name: String,
    /// Its uid.
    pub uid: String,
    /// Its node.
    pub node: String,
    /// Whether it is a speaker; else it is a controller.
    pub speaker: bool,
    /// Whether it is on its way out.
    pub terminating: bool,
    /// Its label [`PARTED`].
    pub parted: Option<String>,
    /// Its label `component`.
    pub component: Option<String>,
}

/// How far our own part is.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Ours {
    /// Whether one of our workloads exists, but for the one that pulls images.
    pub exists: bool,
    /// Whether the controllers run.
    pub controllers: bool,
    /// Whether there are as many speakers as there are to be, running or not.
    pub speakers_made: bool,
    /// Whether the speakers run.
    pub speakers: bool,
}

/// How far the images are.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub enum Images {
    /// They are being pulled.
    #[default]
    Waits,
    /// All nodes have them.
    Pulled,
    /// One cannot be had.
    Failed(String),
}

/// What the next step depends on.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// What was written down when it began; none before.
    pub record: Option<Record>,
    /// MetalLB.
    pub found: Found,
    /// Whether no check stands against an installation.
    pub checked: bool,
    /// How far the images are.
    pub images: Images,
    /// What runs of ours.
    pub ours: Ours,
    /// How long there has been no Deployment of MetalLB's, and no DaemonSet.
    pub away_for: [Duration; 2],
    /// How long there has been no advertisement that MetalLB's speakers act upon.
    pub still_for: Duration,
}

/// What is due.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// Nothing: there is nothing to adopt, or the checks say why not.
    Rest,
    /// A person has to do something.
    Blocked(Block),
    /// The images are to be pulled.
    PrePull,
    /// What MetalLB is made of is to be written down.
    Record,
    /// Changes of pools are not to fail without MetalLB's controller.
    Relax,
    /// MetalLB's controllers are to be deleted.
    EndControllers(Vec<OwnedObject>),
    /// Its DaemonSets are to be deleted, and their pods are to stay.
    Part(Vec<OwnedObject>),
    /// Pods without a DaemonSet are to be kept from ours.
    Label(Vec<Pod>),
    /// MetalLB's speakers are to announce nothing any more.
    Halt,
    /// Pods are to end.
    EndSpeakers(Vec<Pod>),
    /// The advertisements are to be as they were.
    Resume,
    /// Something comes about by itself.
    Wait(Wait),
    /// All is done; the way back is open.
    Adopted,
}

/// What is waited for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Wait {
    /// MetalLB's controllers end.
    ControllersEnd,
    /// Ours start.
    Controllers,
    /// MetalLB's DaemonSets go.
    Parting,
    /// Our speakers start beside MetalLB's.
    Speakers,
    /// MetalLB's speakers stop to announce.
    Standstill,
    /// MetalLB's speakers end.
    SpeakersEnd,
    /// Our speakers start in their place.
    Replacing,
}

/// Why a person has to do something.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Block {
    /// MetalLB announces by BGP, which ours do not.
    Bgp(Vec<String>),
    /// Somebody would put a workload back.
    Kept(String, Keeper),
    /// Its speakers have a port of ours, so that two have no room on a node.
    Port(String),
    /// The operator is not allowed to do it.
    Denied(Vec<String>),
    /// An image cannot be had.
    Images(String),
    /// Somebody has put these back.
    PutBack(Vec<String>),
}

/// Which of our objects may be made now.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Admitted {
    /// None.
    Nothing,
    /// None but the one that pulls images.
    PrePull,
    /// All but the speakers.
    Controllers,
    /// All.
    All,
}

/// The step that is due on the way forward.
#[must_use]
pub fn step(seen: &Seen) -> Step {
    match &seen.record {
        None => begin(seen),
        Some(record) => go_on(seen, record),
    }
}

fn begin(seen: &Seen) -> Step {
    let found = &seen.found;
    if found.workloads.is_empty() || !seen.checked {
        return Step::Rest;
    }
    if !found.bgp.is_empty() {
        return Step::Blocked(Block::Bgp(found.bgp.clone()));
    }
    let kept = |workload: &Workload| Some((workload.id.to_string(), workload.keeper?));
    if let Some((object, keeper)) = found.workloads.iter().find_map(kept) {
        return Step::Blocked(Block::Kept(object, keeper));
    }
    if let Some(workload) = found.workloads.iter().find(|workload| workload.has_our_port()) {
        return Step::Blocked(Block::Port(workload.id.to_string()));
    }
    if !found.denied.is_empty() {
        return Step::Blocked(Block::Denied(found.denied.clone()));
    }
    match &seen.images {
        // Ours run already, and somebody has installed MetalLB beside them.
        _ if seen.ours.exists => Step::Record,
        Images::Waits => Step::PrePull,
        Images::Failed(trouble) => Step::Blocked(Block::Images(trouble.clone())),
        Images::Pulled => Step::Record,
    }
}

fn go_on(seen: &Seen, record: &Record) -> Step {
    let found = &seen.found;
    let strangers: Vec<_> = found
        .workloads
        .iter()
        .filter(|workload| !record.knows(&workload.uid))
        .map(|workload| workload.id.to_string())
        .collect();
    if !strangers.is_empty() {
        return Step::Blocked(Block::PutBack(strangers));
    }
    if found.strict_webhook {
        return Step::Relax;
    }
    let of = |kind: Kind| {
        let all = found.workloads.iter().filter(move |found| found.id.kind == kind);
        all.map(|found| OwnedObject {
            id: found.id.clone(),
            uid: found.uid.clone(),
            terminating: found.terminating,
        })
    };
    let staying = |kind| of(kind).filter(|owned| !owned.terminating).collect::<Vec<_>>();
    let deployments = staying(Kind::Deployment);
    if !deployments.is_empty() {
        return Step::EndControllers(deployments);
    }
    let [no_controller, no_speaker] = seen.away_for;
    let controllers = found.pods.iter().any(|pod| !pod.speaker);
    if of(Kind::Deployment).next().is_some() || controllers || (!seen.ours.exists && no_controller < CALM) {
        return Step::Wait(Wait::ControllersEnd);
    }
    if !seen.ours.controllers && !seen.ours.speakers_made {
        return Step::Wait(Wait::Controllers);
    }
    let daemon_sets = staying(Kind::DaemonSet);
    if !daemon_sets.is_empty() {
        return Step::Part(daemon_sets);
    }
    let speakers: Vec<_> = found.pods.iter().filter(|pod| pod.speaker).cloned().collect();
    let unparted: Vec<_> = speakers
        .iter()
        .filter(|pod| pod.parted.is_none() && !pod.terminating)
        .cloned()
        .collect();
    let parting = of(Kind::DaemonSet).next().is_some();
    if parting || (!unparted.is_empty() && no_speaker < CALM) {
        return Step::Wait(Wait::Parting);
    }
    if !unparted.is_empty() {
        return Step::Label(unparted);
    }
    hand_over(seen, &speakers)
}

/// MetalLB's speakers end; ours are there.
fn hand_over(seen: &Seen, speakers: &[Pod]) -> Step {
    if speakers.is_empty() {
        // Until ours run, the advertisements tell them that they are taking over.
        return if !seen.ours.speakers {
            Step::Wait(Wait::Replacing)
        } else if seen.found.halted > 0 {
            Step::Resume
        } else {
            Step::Adopted
        };
    }
    let ending = speakers.iter().any(|pod| pod.terminating);
    if !seen.ours.speakers && !ending {
        return Step::Wait(Wait::Speakers);
    }
    let staying: Vec<_> = speakers.iter().filter(|pod| !pod.terminating).cloned().collect();
    let [least, most] = HALT;
    let announces = |pod: &Pod| seen.found.announcing.contains(&pod.node);
    if staying.is_empty() {
        Step::Wait(Wait::SpeakersEnd)
    } else if seen.found.active > 0 {
        Step::Halt
    } else if seen.still_for < least || (seen.still_for < most && staying.iter().any(announces)) {
        Step::Wait(Wait::Standstill)
    } else {
        Step::EndSpeakers(staying)
    }
}

/// Which of our objects may be made while a step is due. What was begun is kept up.
#[must_use]
pub fn admitted(step: &Step, seen: &Seen) -> Admitted {
    let ours = &seen.ours;
    match step {
        Step::Rest => Admitted::All,
        _ if ours.speakers_made || (ours.exists && seen.record.is_none()) => Admitted::All,
        Step::Wait(Wait::Speakers | Wait::Standstill | Wait::SpeakersEnd | Wait::Replacing)
        | Step::Halt
        | Step::EndSpeakers(_)
        | Step::Resume
        | Step::Adopted => Admitted::All,
        Step::Wait(Wait::Controllers | Wait::Parting) | Step::Part(_) | Step::Label(_) => {
            Admitted::Controllers
        }
        // It has not begun: nothing is needed yet.
        Step::Blocked(Block::Bgp(_) | Block::Kept(..) | Block::Port(_) | Block::Denied(_)) => {
            Admitted::Nothing
        }
        Step::Blocked(_)
        | Step::PrePull
        | Step::Record
        | Step::Relax
        | Step::EndControllers(_)
        | Step::Wait(Wait::ControllersEnd) => {
            if ours.exists {
                Admitted::Controllers
            } else {
                Admitted::PrePull
            }
        }
    }
}

impl Admitted {
    /// Whether an object may be made or changed.
    #[must_use]
    pub fn allows(self, wanted: &Wanted) -> bool {
        let id = &wanted.id;
        let is = |kind: Kind, name: &str| id.kind == kind && id.key.name() == name;
        match self {
            Self::Nothing => false,
            Self::All => true,
            Self::Controllers => !is(Kind::DaemonSet, Component::Speaker.name()),
            Self::PrePull => is(Kind::DaemonSet, pre_pull::NAME),
        }
    }
}

/// What the next step back depends on.
#[derive(Clone, Debug, Default)]
pub struct Behind {
    /// What the stack owns, without what the record has.
    pub owned: Vec<OwnedObject>,
    /// Our controllers that have not ended, without those of lost nodes.
    pub controllers: usize,
    /// Our speakers that have not ended, without those of lost nodes.
    pub speakers: usize,
    /// MetalLB's pods that still run without a DaemonSet.
    pub parted: Vec<Pod>,
    /// Objects of the record that are not there as they were.
    pub missing: bool,
    /// MetalLB's speakers stand still, or did.
    pub halted: bool,
}

/// What is due on the way back.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Back {
    /// The advertisements are to be as they were.
    Resume,
    /// These are to be deleted, in this order.
    Delete(Vec<OwnedObject>),
    /// Our controllers, speakers or other objects are on their way out.
    Wait,
    /// Pods get the labels back by which their DaemonSet knows them.
    Label(Vec<Pod>),
    /// The objects of the record are to be made again.
    Restore,
    /// MetalLB is back: the record is to go.
    Forget,
}

/// The step that is due on the way back: ours leave first.
#[must_use]
pub fn back(behind: &Behind) -> Back {
    // MetalLB's speakers that are still there announce again before ours end.
    if behind.halted {
        return Back::Resume;
    }
    let of = |kind| behind.owned.iter().filter(move |owned| owned.id.kind == kind);
    let end = |objects: Vec<&OwnedObject>, pods: usize| {
        let (going, staying): (Vec<_>, Vec<_>) =
            objects.into_iter().cloned().partition(|owned| owned.terminating);
        if !staying.is_empty() {
            Some(Back::Delete(staying))
        } else {
            (!going.is_empty() || pods > 0).then_some(Back::Wait)
        }
    };
    end(of(Kind::Deployment).collect(), behind.controllers)
        .or_else(|| end(of(Kind::DaemonSet).collect(), behind.speakers))
        .or_else(|| end(behind.owned.iter().rev().collect(), 0))
        .unwrap_or_else(|| match (&behind.parted[..], behind.missing) {
            ([], true) => Back::Restore,
            ([], false) => Back::Forget,
            (pods, _) => Back::Label(pods.to_vec()),
        })
}
