//! Adoption: replaces a running MetalLB step by step, and restores it. Pure: the observed state determines the next
//! action and nothing is remembered between steps, so that another operator replica continues where this one stopped.
//!
//! | step | what is done | why now |
//! | --- | --- | --- |
//! | PrePull | the nodes pull the images of the stack | MetalLB is not changed before the stack can start |
//! | Record | the manifests of MetalLB's workloads are saved | only saved workloads are deleted, so that they can be restored |
//! | Controller | MetalLB's controller is deleted; the stack's starts once its pods are gone | two allocators assign one address twice |
//! | Speakers | MetalLB's DaemonSet is deleted with its pods orphaned; the stack's speakers start beside them | see below |
//! | HandOver | MetalLB's speakers withdraw, then are deleted | see below |
//! | Adopted | nothing; the backup stays until the user deletes it | MetalLB can be restored |
//!
//! **One answering node per address.** MetalLB's speakers do not know the stack's and elect among themselves: when one
//! of them terminates, another takes over its addresses. A hand-over node by node would move every address, most of
//! them twice, and each move breaks connections. Instead the stack's speakers start beside them: each announces the
//! addresses that MetalLB's ServiceL2Statuses attribute to its own node, and the others wait for it. Two processes on
//! one node answer with the same MAC address, so clients notice nothing. Then MetalLB's speakers are paused by one
//! change of the L2Advertisements ([`pause`](lb_crds::l2_advertisement::pause)): whether a speaker has seen it or not,
//! only the present owner announces. Paused speakers may be deleted in any order.
//!
//! A MetalLB before 0.16 uses the port of the stack's probes, so that two speakers cannot run on one node: it is not
//! adopted until it uses another port.
//!
//! Objects that another client recreates, such as MetalLB's operator, Helm or a GitOps tool, are reported and not
//! changed; adoption waits.

pub mod backup;
mod messages;
pub mod observe;

#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::Value;

use crate::deletion::OwnedObject;
use crate::desired::render::{Component, DesiredObject, pre_pull};
use crate::object_id::{Kind, ObjectId};

pub use backup::Backup;
pub use messages::{AdoptionReport, report};

/// Name of the ControllerRevision that holds MetalLB's manifests.
pub const BACKUP_NAME: &str = "metallb-before-adoption";
/// Label of MetalLB's pods after their DaemonSet was deleted. Its value is that of their label `component`, which is
/// removed because the stack's DaemonSet would adopt them by it.
pub const ORPHANED_POD_LABEL: &str = "lb-operator.io/metallb";
/// How long MetalLB's speakers are given to see that they are paused: at least, and at most while ServiceL2Statuses
/// remain. Those of a lost node are removed only with MetalLB.
pub const WITHDRAWAL_WAIT: [Duration; 2] = [Duration::from_secs(5), Duration::from_secs(15)];
/// How long a workload must be absent before the next step: a client that recreates it does so at once.
pub const MIN_ABSENCE: Duration = Duration::from_secs(3);

/// MetalLB in the stack's namespace.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct MetalLb {
    /// The controller's Deployment and the speakers' DaemonSet.
    pub workloads: Vec<MetalLbWorkload>,
    /// Controller and speaker pods.
    pub pods: Vec<MetalLbPod>,
    /// Whether changes of pools are refused while the controller, which validates them, does not run.
    pub strict_webhook: bool,
    /// BGPAdvertisements.
    pub bgp: Vec<String>,
    /// Nodes that announce addresses according to ServiceL2Statuses.
    pub announcing: BTreeSet<String>,
    /// L2Advertisements that its speakers follow.
    pub active_advertisements: usize,
    /// L2Advertisements that are paused, or have an annotation left from it.
    pub withdrawn: usize,
    /// Permissions for the adoption that the operator lacks.
    pub denied: Vec<String>,
}

/// A workload of MetalLB.
#[derive(Clone, Debug, PartialEq)]
pub struct MetalLbWorkload {
    /// Kind, namespace and name.
    pub id: ObjectId,
    /// Tells it from a recreated one.
    pub uid: String,
    /// Whether it is being deleted.
    pub terminating: bool,
    /// The tool that would recreate it.
    pub managed_by: Option<WorkloadManager>,
    /// The whole object.
    pub body: Value,
}

impl MetalLbWorkload {
    /// Whether its pods use a host port, which the stack's speakers need.
    fn has_port(&self, port: i32) -> bool {
        let containers = self.body["spec"]["template"]["spec"]["containers"].as_array();
        let ports = containers
            .into_iter()
            .flatten()
            .flat_map(|container| container["ports"].as_array().into_iter().flatten());
        self.id.kind == Kind::DaemonSet
            && ports
                .into_iter()
                .any(|entry| entry["containerPort"] == port || entry["hostPort"] == port)
    }

    /// The field manager that wrote its spec last.
    fn last_writer(&self) -> Option<String> {
        let entries = self.body["metadata"]["managedFields"].as_array();
        let of_spec = entries
            .into_iter()
            .flatten()
            .filter(|entry| entry["subresource"].as_str().is_none_or(str::is_empty));
        let last = of_spec.max_by_key(|entry| entry["time"].as_str().unwrap_or_default().to_owned())?;
        last["manager"].as_str().map(str::to_owned)
    }
}

/// A tool that recreates a workload after it was deleted.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum WorkloadManager {
    /// MetalLB's own operator.
    MetalLbOperator,
    /// <https://argoproj.github.io/cd>
    ArgoCd,
    /// <https://fluxcd.io>
    Flux,
    /// Another tool, by its name.
    Other(&'static str),
}

/// A pod of MetalLB.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct MetalLbPod {
    /// `metadata.name`.
    pub name: String,
    /// Precondition of its deletion.
    pub uid: String,
    /// `spec.nodeName`.
    pub node: String,
    /// Whether it is a speaker or a controller.
    pub speaker: bool,
    /// Whether it is being deleted.
    pub terminating: bool,
    /// Its label [`ORPHANED_POD_LABEL`].
    pub orphaned_component: Option<String>,
    /// Its label `component`.
    pub component: Option<String>,
}

/// Progress of the stack's own workloads.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct StackProgress {
    /// Whether a workload exists, other than the one that pulls images.
    pub exists: bool,
    /// Whether the controllers are ready.
    pub controllers: bool,
    /// Whether all speaker pods were created, ready or not.
    pub speakers_created: bool,
    /// Whether the speakers are ready.
    pub speakers: bool,
}

/// Progress of pulling the stack's images.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub enum ImagePull {
    /// Some nodes do not have them.
    #[default]
    Pending,
    /// All nodes have them.
    Complete,
    /// A node cannot pull an image, for this reason.
    Failed(String),
}

/// The observed state that determines the next action.
#[derive(Clone, Debug, Default)]
pub struct AdoptionInput {
    /// The saved manifests; `None` before they are saved.
    pub record: Option<Backup>,
    /// MetalLB.
    pub found: MetalLb,
    /// Port of the stack's speakers for metrics and probes.
    pub port: i32,
    /// Whether all preflight checks have passed or are overridden.
    pub preflight_passed: bool,
    /// Progress of the image pulls.
    pub images: ImagePull,
    /// Progress of the stack's workloads.
    pub ours: StackProgress,
    /// How long MetalLB has had no Deployment, and no DaemonSet.
    pub absent_for: [Duration; 2],
    /// How long MetalLB's speakers have had no L2Advertisement to follow.
    pub withdrawn_for: Duration,
}

/// The next action of an adoption.
#[derive(Clone, Debug, PartialEq)]
pub enum AdoptionAction {
    /// None: MetalLB does not exist, or a preflight check failed.
    None,
    /// None: the user must act.
    Blocked(AdoptionBlocker),
    /// Have the nodes pull the stack's images.
    PrePull,
    /// Save MetalLB's manifests.
    SaveBackup,
    /// Set the webhook's failurePolicy to Ignore.
    RelaxWebhook,
    /// Delete MetalLB's Deployments.
    DeleteControllers(Vec<OwnedObject>),
    /// Delete MetalLB's DaemonSets and orphan their pods.
    OrphanSpeakers(Vec<OwnedObject>),
    /// Relabel orphaned pods, so that the stack's DaemonSet does not adopt them.
    LabelPods(Vec<MetalLbPod>),
    /// Pause MetalLB's speakers.
    WithdrawSpeakers,
    /// Delete MetalLB's speaker pods.
    DeleteSpeakers(Vec<MetalLbPod>),
    /// Restore the node selectors of the L2Advertisements.
    RestoreAdvertisements,
    /// Wait for a change.
    Wait(AdoptionWait),
    /// None: adoption is complete and MetalLB can be restored.
    Adopted,
}

/// The event that the next step of an adoption needs.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum AdoptionWait {
    /// MetalLB's controllers terminate.
    ControllersDeleted,
    /// The stack's controllers become ready.
    ControllersReady,
    /// MetalLB's DaemonSets are deleted.
    SpeakersOrphaned,
    /// The stack's speakers become ready beside MetalLB's.
    SpeakersReady,
    /// MetalLB's speakers withdraw.
    Withdrawal,
    /// MetalLB's speakers terminate.
    SpeakersDeleted,
    /// The stack's speakers become ready in place of MetalLB's.
    SpeakersReplaced,
}

/// Why the user must act.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum AdoptionBlocker {
    /// MetalLB announces by BGP, and its sessions cannot be taken over yet.
    Bgp(Vec<String>),
    /// A tool would recreate a workload.
    ManagedElsewhere(String, WorkloadManager),
    /// MetalLB's speakers use a port of the stack's speakers.
    PortConflict(String, i32),
    /// The operator lacks these permissions.
    MissingPermissions(Vec<String>),
    /// It lacks this permission for the webhook that is left of a removed MetalLB.
    WebhookPermission(Vec<String>),
    /// An image cannot be pulled.
    ImagePullFailed(String),
    /// Another client recreated these objects.
    Recreated(Vec<RecreatedObject>),
}

/// An object that another client created again.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct RecreatedObject {
    /// Kind, namespace and name.
    pub id: ObjectId,
    /// The field manager that created it, if it is known.
    pub manager: Option<String>,
}

/// The objects of the stack that may be created now.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum AllowedObjects {
    /// None.
    None,
    /// Only the DaemonSet that pulls images.
    PrePull,
    /// All except the speakers.
    Controllers,
    /// All.
    All,
}

/// The next action of an adoption.
#[must_use]
pub fn next_action(seen: &AdoptionInput) -> AdoptionAction {
    match &seen.record {
        None => first_action(seen),
        Some(record) => action_after_backup(seen, record),
    }
}

fn first_action(seen: &AdoptionInput) -> AdoptionAction {
    let found = &seen.found;
    if !seen.preflight_passed {
        return AdoptionAction::None;
    }
    if found.workloads.is_empty() {
        // The webhook of a removed MetalLB refuses every change of a pool.
        return if !found.strict_webhook || !found.pods.is_empty() {
            AdoptionAction::None
        } else if found.denied.is_empty() {
            AdoptionAction::RelaxWebhook
        } else {
            AdoptionAction::Blocked(AdoptionBlocker::WebhookPermission(found.denied.clone()))
        };
    }
    if !found.bgp.is_empty() {
        return AdoptionAction::Blocked(AdoptionBlocker::Bgp(found.bgp.clone()));
    }
    let managed = |workload: &MetalLbWorkload| Some((workload.id.to_string(), workload.managed_by?));
    if let Some((object, managed_by)) = found.workloads.iter().find_map(managed) {
        return AdoptionAction::Blocked(AdoptionBlocker::ManagedElsewhere(object, managed_by));
    }
    if let Some(workload) = found
        .workloads
        .iter()
        .find(|workload| workload.has_port(seen.port))
    {
        return AdoptionAction::Blocked(AdoptionBlocker::PortConflict(workload.id.to_string(), seen.port));
    }
    if !found.denied.is_empty() {
        return AdoptionAction::Blocked(AdoptionBlocker::MissingPermissions(found.denied.clone()));
    }
    match &seen.images {
        // MetalLB was installed beside a running stack.
        _ if seen.ours.exists => AdoptionAction::SaveBackup,
        ImagePull::Pending => AdoptionAction::PrePull,
        ImagePull::Failed(trouble) => {
            AdoptionAction::Blocked(AdoptionBlocker::ImagePullFailed(trouble.clone()))
        }
        ImagePull::Complete => AdoptionAction::SaveBackup,
    }
}

fn action_after_backup(seen: &AdoptionInput, record: &Backup) -> AdoptionAction {
    let found = &seen.found;
    let recreated: Vec<_> = found
        .workloads
        .iter()
        .filter(|workload| !record.contains_uid(&workload.uid))
        .map(|workload| RecreatedObject {
            id: workload.id.clone(),
            manager: workload.last_writer(),
        })
        .collect();
    if !recreated.is_empty() {
        return AdoptionAction::Blocked(AdoptionBlocker::Recreated(recreated));
    }
    if found.strict_webhook {
        return AdoptionAction::RelaxWebhook;
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
        return AdoptionAction::DeleteControllers(deployments);
    }
    let [no_controller, no_speaker] = seen.absent_for;
    let controllers = found.pods.iter().any(|pod| !pod.speaker);
    if of(Kind::Deployment).next().is_some()
        || controllers
        || (!seen.ours.exists && no_controller < MIN_ABSENCE)
    {
        return AdoptionAction::Wait(AdoptionWait::ControllersDeleted);
    }
    if !seen.ours.controllers && !seen.ours.speakers_created {
        return AdoptionAction::Wait(AdoptionWait::ControllersReady);
    }
    let daemon_sets = staying(Kind::DaemonSet);
    if !daemon_sets.is_empty() {
        return AdoptionAction::OrphanSpeakers(daemon_sets);
    }
    let speakers: Vec<_> = found.pods.iter().filter(|pod| pod.speaker).cloned().collect();
    let unlabeled: Vec<_> = speakers
        .iter()
        .filter(|pod| pod.orphaned_component.is_none() && !pod.terminating)
        .cloned()
        .collect();
    let parting = of(Kind::DaemonSet).next().is_some();
    if parting || (!unlabeled.is_empty() && no_speaker < MIN_ABSENCE) {
        return AdoptionAction::Wait(AdoptionWait::SpeakersOrphaned);
    }
    if !unlabeled.is_empty() {
        return AdoptionAction::LabelPods(unlabeled);
    }
    hand_over(seen, &speakers)
}

/// The actions after MetalLB's speakers were orphaned.
fn hand_over(seen: &AdoptionInput, speakers: &[MetalLbPod]) -> AdoptionAction {
    if speakers.is_empty() {
        // Until the speakers are ready, the paused L2Advertisements make them take over.
        return if !seen.ours.speakers {
            AdoptionAction::Wait(AdoptionWait::SpeakersReplaced)
        } else if seen.found.withdrawn > 0 {
            AdoptionAction::RestoreAdvertisements
        } else {
            AdoptionAction::Adopted
        };
    }
    let ending = speakers.iter().any(|pod| pod.terminating);
    if !seen.ours.speakers && !ending {
        return AdoptionAction::Wait(AdoptionWait::SpeakersReady);
    }
    let staying: Vec<_> = speakers.iter().filter(|pod| !pod.terminating).cloned().collect();
    let [least, most] = WITHDRAWAL_WAIT;
    let announces = |pod: &MetalLbPod| seen.found.announcing.contains(&pod.node);
    if staying.is_empty() {
        AdoptionAction::Wait(AdoptionWait::SpeakersDeleted)
    } else if seen.found.active_advertisements > 0 {
        AdoptionAction::WithdrawSpeakers
    } else if seen.withdrawn_for < least || (seen.withdrawn_for < most && staying.iter().any(announces)) {
        AdoptionAction::Wait(AdoptionWait::Withdrawal)
    } else {
        AdoptionAction::DeleteSpeakers(staying)
    }
}

/// The objects that may be created while an action is due. Existing workloads are always maintained.
#[must_use]
pub fn allowed_objects(step: &AdoptionAction, seen: &AdoptionInput) -> AllowedObjects {
    let ours = &seen.ours;
    match step {
        AdoptionAction::None => AllowedObjects::All,
        AdoptionAction::Blocked(AdoptionBlocker::WebhookPermission(_)) => AllowedObjects::All,
        AdoptionAction::RelaxWebhook if seen.record.is_none() => AllowedObjects::All,
        _ if ours.speakers_created || (ours.exists && seen.record.is_none()) => AllowedObjects::All,
        AdoptionAction::Wait(
            AdoptionWait::SpeakersReady
            | AdoptionWait::Withdrawal
            | AdoptionWait::SpeakersDeleted
            | AdoptionWait::SpeakersReplaced,
        )
        | AdoptionAction::WithdrawSpeakers
        | AdoptionAction::DeleteSpeakers(_)
        | AdoptionAction::RestoreAdvertisements
        | AdoptionAction::Adopted => AllowedObjects::All,
        AdoptionAction::Wait(AdoptionWait::ControllersReady | AdoptionWait::SpeakersOrphaned)
        | AdoptionAction::OrphanSpeakers(_)
        | AdoptionAction::LabelPods(_) => AllowedObjects::Controllers,
        // Adoption has not begun.
        AdoptionAction::Blocked(
            AdoptionBlocker::Bgp(_)
            | AdoptionBlocker::ManagedElsewhere(..)
            | AdoptionBlocker::PortConflict(..)
            | AdoptionBlocker::MissingPermissions(_),
        ) => AllowedObjects::None,
        AdoptionAction::Blocked(_)
        | AdoptionAction::PrePull
        | AdoptionAction::SaveBackup
        | AdoptionAction::RelaxWebhook
        | AdoptionAction::DeleteControllers(_)
        | AdoptionAction::Wait(AdoptionWait::ControllersDeleted) => {
            if ours.exists {
                AllowedObjects::Controllers
            } else {
                AllowedObjects::PrePull
            }
        }
    }
}

impl AllowedObjects {
    /// Whether an object may be created or changed.
    #[must_use]
    pub fn allows(self, wanted: &DesiredObject) -> bool {
        let id = &wanted.id;
        let is = |kind: Kind, name: &str| id.kind == kind && id.key.name() == name;
        match self {
            Self::None => false,
            Self::All => true,
            Self::Controllers => !is(Kind::DaemonSet, Component::Speaker.name()),
            Self::PrePull => is(Kind::DaemonSet, pre_pull::NAME),
        }
    }
}

/// The observed state that determines the next action of a restore.
#[derive(Clone, Debug, Default)]
pub struct RestoreInput {
    /// The objects of the stack, without those in the backup.
    pub owned: Vec<OwnedObject>,
    /// ServiceAccounts that MetalLB's pods need and that do not exist; empty once the stack is being deleted.
    pub missing_accounts: Vec<ObjectId>,
    /// Controller pods of the stack that still exist, without those on lost nodes.
    pub controllers: usize,
    /// Speaker pods of the stack that still exist, without those on lost nodes.
    pub speakers: usize,
    /// Orphaned pods of MetalLB that still run.
    pub orphaned_component: Vec<MetalLbPod>,
    /// Whether an object of the backup is missing or overwritten.
    pub missing: bool,
    /// Whether MetalLB's speakers are paused, or the L2Advertisements have an annotation left from it.
    pub withdrawn: bool,
}

/// The next action of a restore.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum RestoreAction {
    /// None: these ServiceAccounts are missing, and the stack keeps serving.
    Blocked(Vec<ObjectId>),
    /// Restore the node selectors of the L2Advertisements.
    RestoreAdvertisements,
    /// Delete these objects in this order.
    DeleteOwned(Vec<OwnedObject>),
    /// Wait until objects of the stack are deleted.
    Wait,
    /// Restore the labels of orphaned pods, so that their DaemonSet adopts them.
    LabelPods(Vec<MetalLbPod>),
    /// Create the objects of the backup again.
    RestoreObjects,
    /// MetalLB is restored: delete the backup.
    DeleteBackup,
}

/// The next action of a restore. The objects of the stack are deleted first.
#[must_use]
pub fn next_restore_action(behind: &RestoreInput) -> RestoreAction {
    // Without them, Kubernetes would create no pod of MetalLB.
    if !behind.missing_accounts.is_empty() {
        return RestoreAction::Blocked(behind.missing_accounts.clone());
    }
    // Existing speakers of MetalLB announce again before the stack's are deleted.
    if behind.withdrawn {
        return RestoreAction::RestoreAdvertisements;
    }
    let of = |kind| behind.owned.iter().filter(move |owned| owned.id.kind == kind);
    let end = |objects: Vec<&OwnedObject>, pods: usize| {
        let (going, staying): (Vec<_>, Vec<_>) =
            objects.into_iter().cloned().partition(|owned| owned.terminating);
        if !staying.is_empty() {
            Some(RestoreAction::DeleteOwned(staying))
        } else {
            (!going.is_empty() || pods > 0).then_some(RestoreAction::Wait)
        }
    };
    end(of(Kind::Deployment).collect(), behind.controllers)
        .or_else(|| end(of(Kind::DaemonSet).collect(), behind.speakers))
        .or_else(|| end(behind.owned.iter().rev().collect(), 0))
        .unwrap_or_else(|| match (&behind.orphaned_component[..], behind.missing) {
            ([], true) => RestoreAction::RestoreObjects,
            ([], false) => RestoreAction::DeleteBackup,
            (pods, _) => RestoreAction::LabelPods(pods.to_vec()),
        })
}
