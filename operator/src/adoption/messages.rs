//! Messages about an adoption. Pure.

use lb_crds::load_balancer_stack::AdoptionStep;
use lb_runtime::text::{LIST_LIMIT, list_first};

use super::observe::WEBHOOK;
use super::{
    AdoptionAction, AdoptionBlocker, AdoptionInput, AdoptionWait, BACKUP_NAME, Backup, RecreatedObject,
    RestoreAction, WorkloadManager,
};

/// The state of an adoption for the conditions.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct AdoptionReport {
    /// The step in progress.
    pub step: AdoptionStep,
    /// Whether the user must act.
    pub blocked: bool,
    /// Message of the conditions.
    pub message: String,
}

impl AdoptionReport {
    fn progress(step: AdoptionStep, message: &str) -> Self {
        Self {
            step,
            blocked: false,
            message: message.to_owned(),
        }
    }

    /// The report of a restore action.
    #[must_use]
    pub fn of_restore(action: &RestoreAction) -> Self {
        let message = match action {
            RestoreAction::Blocked(accounts) => {
                return Self {
                    step: AdoptionStep::Restoring,
                    blocked: true,
                    message: format!(
                        "MetalLB cannot be restored: its pods need {}, which were deleted; create them with their roles, or set \
                         spec.restore to false; the stack keeps serving",
                        list_first(accounts, LIST_LIMIT)
                    ),
                };
            }
            RestoreAction::RestoreAdvertisements | RestoreAction::DeleteOwned(_) | RestoreAction::Wait => {
                "deleting controller and speakers of the stack before MetalLB is restored"
            }
            RestoreAction::LabelPods(_) | RestoreAction::RestoreObjects => {
                "restoring MetalLB from its backup"
            }
            RestoreAction::DeleteBackup => "MetalLB is restored",
        };
        AdoptionReport::progress(AdoptionStep::Restoring, message)
    }
}

/// The report of an action; `None` if there is nothing to adopt.
#[must_use]
pub fn report(step: &AdoptionAction, seen: &AdoptionInput) -> Option<AdoptionReport> {
    let say = |step, message| Some(AdoptionReport::progress(step, message));
    match step {
        AdoptionAction::None => None,
        AdoptionAction::RelaxWebhook if seen.record.is_none() => None,
        AdoptionAction::Blocked(blocker) => Some(AdoptionReport {
            step: reached_step(seen),
            blocked: true,
            message: blocked_message(blocker),
        }),
        AdoptionAction::PrePull => say(
            AdoptionStep::PrePull,
            "the nodes are pulling the images; MetalLB is unchanged",
        ),
        AdoptionAction::SaveBackup => say(AdoptionStep::Record, "saving MetalLB's manifests"),
        AdoptionAction::RelaxWebhook
        | AdoptionAction::DeleteControllers(_)
        | AdoptionAction::Wait(AdoptionWait::ControllersDeleted) => say(
            AdoptionStep::Controller,
            "replacing MetalLB's controller; Services keep their addresses, new Services wait for the new controller",
        ),
        AdoptionAction::Wait(AdoptionWait::ControllersReady) => say(
            AdoptionStep::Controller,
            "MetalLB's controller has terminated; the new controller is starting",
        ),
        AdoptionAction::OrphanSpeakers(_)
        | AdoptionAction::LabelPods(_)
        | AdoptionAction::Wait(AdoptionWait::SpeakersOrphaned) => say(
            AdoptionStep::Speakers,
            "deleting MetalLB's DaemonSet; its speakers keep running while the new ones start",
        ),
        AdoptionAction::Wait(AdoptionWait::SpeakersReady) => say(
            AdoptionStep::Speakers,
            "starting the new speakers beside MetalLB's; each node keeps announcing its addresses",
        ),
        AdoptionAction::WithdrawSpeakers | AdoptionAction::Wait(AdoptionWait::Withdrawal) => say(
            AdoptionStep::HandOver,
            "MetalLB's speakers withdraw: L2Advertisements temporarily select no node",
        ),
        AdoptionAction::DeleteSpeakers(_) | AdoptionAction::Wait(AdoptionWait::SpeakersDeleted) => {
            say(AdoptionStep::HandOver, "deleting MetalLB's speakers")
        }
        AdoptionAction::RestoreAdvertisements | AdoptionAction::Wait(AdoptionWait::SpeakersReplaced) => say(
            AdoptionStep::HandOver,
            "starting the new speakers in place of MetalLB's",
        ),
        AdoptionAction::Adopted => Some(AdoptionReport::progress(
            AdoptionStep::Adopted,
            &adopted_message(seen),
        )),
    }
}

/// The step in which a blocked adoption is.
fn reached_step(seen: &AdoptionInput) -> AdoptionStep {
    let has = |speaker: bool| seen.found.pods.iter().any(|pod| pod.speaker == speaker);
    match &seen.record {
        None => AdoptionStep::PrePull,
        Some(_) if !seen.ours.exists => AdoptionStep::Controller,
        Some(_) if !seen.ours.speakers_created => AdoptionStep::Speakers,
        Some(_) if has(true) => AdoptionStep::HandOver,
        Some(_) => AdoptionStep::Adopted,
    }
}

fn adopted_message(seen: &AdoptionInput) -> String {
    let objects = seen.record.as_ref().map(Backup::names).unwrap_or_default();
    let release = seen.record.as_ref().and_then(Backup::release);
    let kept = release.map_or_else(String::new, |release| {
        format!(
            "; do not run helm uninstall for release {release}: it deletes the metallb.io CRDs and all pools"
        )
    });
    format!(
        "MetalLB ({}) is replaced; to restore it, set spec.restore to true within seven days; to finish now, delete \
         controllerrevision {BACKUP_NAME} in the stack's namespace{kept}",
        list_first(&objects, LIST_LIMIT)
    )
}

fn blocked_message(blocker: &AdoptionBlocker) -> String {
    match blocker {
        AdoptionBlocker::Bgp(objects) => format!(
            "MetalLB cannot be adopted: it announces by BGP ({}), and taking over its sessions is not supported yet; delete the \
             BGPAdvertisements if they are not needed, or set spec.adopt to false",
            list_first(objects, LIST_LIMIT)
        ),
        AdoptionBlocker::ManagedElsewhere(object, manager) => {
            let (name, todo, mark) = match manager {
                WorkloadManager::Other(name) => (
                    *name,
                    "make it release the object without deleting it",
                    "its labels, annotations and field manager",
                ),
                WorkloadManager::MetalLbOperator => (
                    "MetalLB's operator",
                    "delete its object with kubectl delete metallb --all --cascade=orphan and uninstall that operator",
                    "the owner reference",
                ),
                WorkloadManager::ArgoCd => (
                    "Argo CD",
                    "remove it from the application without pruning",
                    "the annotation argocd.argoproj.io/tracking-id and the label argocd.argoproj.io/instance",
                ),
                WorkloadManager::Flux => (
                    "Flux",
                    "remove it from the Kustomization or HelmRelease without pruning",
                    "the labels of toolkit.fluxcd.io",
                ),
            };
            format!(
                "MetalLB cannot be adopted: {name} manages {object} and would recreate it; {todo}, and check that {mark} is \
                 removed from it"
            )
        }
        AdoptionBlocker::PortConflict(object, port) => format!(
            "MetalLB cannot be adopted: {object} uses port {port} of every node, which the stack's speakers need; upgrade \
             MetalLB to 0.16 or later, set spec.speaker.metricsPort, or give MetalLB another port (argument --port, containerPort \
             and hostPort, such as 9120) and wait until its speakers have restarted"
        ),
        AdoptionBlocker::MissingPermissions(denied) => format!(
            "MetalLB cannot be adopted: the operator lacks the permissions {}; set rbac.adoption of the chart to true, and bind \
             another ClusterRole for other names than MetalLB's usual ones (docs/adoption.md)",
            list_first(denied, LIST_LIMIT)
        ),
        AdoptionBlocker::WebhookPermission(denied) => format!(
            "a webhook of a removed MetalLB refuses every change of pools, and the operator lacks the permission {}; run kubectl \
             delete validatingwebhookconfiguration {WEBHOOK}, or set rbac.adoption of the chart to true",
            list_first(denied, LIST_LIMIT)
        ),
        AdoptionBlocker::ImagePullFailed(error) => {
            format!("MetalLB cannot be adopted: image pull failed: {error}; MetalLB is unchanged")
        }
        AdoptionBlocker::Recreated(objects) => {
            let name = |object: &RecreatedObject| match &object.manager {
                Some(manager) => format!("{} (by {manager})", object.id),
                None => object.id.to_string(),
            };
            format!(
                "recreated by another client: {}; stop that client, then delete the object, or set spec.restore to true",
                list_first(objects.iter().map(name), LIST_LIMIT)
            )
        }
    }
}
