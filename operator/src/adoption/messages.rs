//! What there is to say of an adoption, in words for the user. Pure.

use lb_crds::load_balancer_stack::AdoptionStep;

use super::{Back, Block, Keeper, RECORD, Record, Seen, Step, Wait};

/// Names that a message lists; the rest is counted.
const LISTED: usize = 5;

/// What a condition says of an adoption.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Report {
    /// How far it is.
    pub step: AdoptionStep,
    /// Whether a person has to do something.
    pub blocked: bool,
    /// What happens, or what to do.
    pub message: String,
}

impl Report {
    fn goes_on(step: AdoptionStep, message: &str) -> Self {
        Self {
            step,
            blocked: false,
            message: message.to_owned(),
        }
    }

    /// What there is to say on the way back.
    #[must_use]
    pub fn back(back: &Back) -> Self {
        let message = match back {
            Back::Resume | Back::Delete(_) | Back::Wait => {
                "controller and speakers of the stack end, so that MetalLB can come back"
            }
            Back::Label(_) | Back::Restore => "MetalLB is made again as it was",
            Back::Forget => "MetalLB is back",
        };
        Self::goes_on(AdoptionStep::Restoring, message)
    }
}

/// What there is to say while a step is carried out.
#[must_use]
pub fn report(step: &Step, seen: &Seen) -> Option<Report> {
    let say = |step, message| Some(Report::goes_on(step, message));
    match step {
        Step::Rest => None,
        Step::Blocked(block) => Some(Report {
            step: stage(seen),
            blocked: true,
            message: explain(block),
        }),
        Step::PrePull => say(
            AdoptionStep::PrePull,
            "the nodes pull the images; MetalLB is not touched yet",
        ),
        Step::Record => say(AdoptionStep::Record, "what MetalLB is made of is written down"),
        Step::Relax | Step::EndControllers(_) | Step::Wait(Wait::ControllersEnd) => say(
            AdoptionStep::Controller,
            "MetalLB's controller ends; Services keep their addresses, new ones get none before ours leads",
        ),
        Step::Wait(Wait::Controllers) => say(
            AdoptionStep::Controller,
            "MetalLB's controller has ended, and ours starts",
        ),
        Step::Part(_) | Step::Label(_) | Step::Wait(Wait::Parting) => say(
            AdoptionStep::Speakers,
            "MetalLB's speakers go on without their DaemonSet, so that ours can start beside them",
        ),
        Step::Wait(Wait::Speakers) => say(
            AdoptionStep::Speakers,
            "our speakers start beside MetalLB's, and announce what the same node has announced",
        ),
        Step::Halt | Step::Wait(Wait::Standstill) => say(
            AdoptionStep::HandOver,
            "MetalLB's speakers stop to announce: for them the L2Advertisements choose no node meanwhile",
        ),
        Step::EndSpeakers(_) | Step::Wait(Wait::SpeakersEnd) => {
            say(AdoptionStep::HandOver, "MetalLB's speakers end")
        }
        Step::Resume | Step::Wait(Wait::Replacing) => {
            say(AdoptionStep::HandOver, "our speakers start in place of MetalLB's")
        }
        Step::Adopted => Some(Report::goes_on(AdoptionStep::Adopted, &adopted(seen))),
    }
}

/// How far it is when it cannot go on.
fn stage(seen: &Seen) -> AdoptionStep {
    let has = |speaker: bool| seen.found.pods.iter().any(|pod| pod.speaker == speaker);
    match &seen.record {
        None => AdoptionStep::PrePull,
        Some(_) if !seen.ours.exists => AdoptionStep::Controller,
        Some(_) if !seen.ours.speakers_made => AdoptionStep::Speakers,
        Some(_) if has(true) => AdoptionStep::HandOver,
        Some(_) => AdoptionStep::Adopted,
    }
}

fn adopted(seen: &Seen) -> String {
    let objects = seen.record.as_ref().map(Record::names).unwrap_or_default();
    let release = seen.record.as_ref().and_then(Record::release);
    let kept = release.map_or_else(String::new, |release| {
        format!(
            "; before Helm release {release} is uninstalled, annotate the metallb.io kinds with \
             helm.sh/resource-policy=keep, or all pools go with them"
        )
    });
    format!(
        "MetalLB ({}) is replaced. To go back, set spec.adopt to false. To close the way back and to remove what is left of \
         MetalLB, delete controllerrevision {RECORD} in the stack's namespace first{kept}",
        few(&objects)
    )
}

fn explain(block: &Block) -> String {
    match block {
        Block::Bgp(objects) => format!(
            "MetalLB is not adopted, because it announces by BGP ({}), and this stack in layer 2 only: delete the \
             BGPAdvertisements if nobody needs them, or set spec.adopt to false",
            few(objects)
        ),
        Block::Kept(object, keeper) => {
            let (who, how, mark) = match keeper {
                Keeper::MetalLbOperator => (
                    "MetalLB's operator",
                    "delete its object with kubectl delete metallb --all --cascade=orphan and uninstall that operator",
                    "the owner reference",
                ),
                Keeper::ArgoCd => (
                    "Argo CD",
                    "remove it from the application without pruning",
                    "the annotation argocd.argoproj.io/tracking-id and the label argocd.argoproj.io/instance",
                ),
                Keeper::Flux => (
                    "Flux",
                    "remove it from the Kustomization or HelmRelease without pruning",
                    "the labels of toolkit.fluxcd.io",
                ),
            };
            format!(
                "MetalLB is not adopted, because {who} keeps {object} and would put it back: {how}, and see that {mark} is gone \
                 from it"
            )
        }
        Block::Port(object) => format!(
            "MetalLB is not adopted, because {object} has port 7472 of every node, which the stack's speakers need to start \
             beside it: upgrade MetalLB to 0.16 or later, or give it another port (argument --port, containerPort and hostPort, \
             such as 9120), and wait until its speakers have been restarted"
        ),
        Block::Denied(rights) => format!(
            "MetalLB is not adopted, because the operator is not allowed to: {}. Its own ClusterRole covers MetalLB's usual \
             names; bind it to one more for others, as docs/adoption.md shows",
            few(rights)
        ),
        Block::Images(trouble) => {
            format!("MetalLB is not adopted, because an image cannot be had: {trouble}; MetalLB is as it was")
        }
        Block::PutBack(objects) => format!(
            "somebody has put back {}, and nothing is done against it: see its managedFields for whom, stop them and delete it; \
             or set spec.adopt to false",
            few(objects)
        ),
    }
}

fn few(items: &[String]) -> String {
    let mut text = items.iter().take(LISTED).cloned().collect::<Vec<_>>().join(", ");
    if items.len() > LISTED {
        text.push_str(&format!(" and {} more", items.len() - LISTED));
    }
    text
}
