//! Performs the actions of [`crate::adoption`].

use std::time::{Duration, Instant};

use jiff::{SignedDuration, Timestamp};
use lb_crds::LoadBalancerStack;
use lb_crds::load_balancer_stack::{AdoptionStep, DeletionPolicy};

use super::deletion::deletions;
use super::{Operator, TICK};
use crate::adoption::observe::{
    MissingObject, advertisements, metallb_objects, missing_accounts, missing_objects, observe_metallb,
    webhook,
};
use crate::adoption::{
    self, AdoptionAction, AdoptionInput, AdoptionReport, AllowedObjects, Backup, ImagePull, MetalLb,
    MetalLbPod, RestoreAction, RestoreInput, StackProgress,
};
use crate::apply::write::Write;
use crate::desired::config::StackConfig;
use crate::desired::render::{Component, DesiredObject, pre_pull};
use crate::drift::diff::Difference;
use crate::object_id::{Kind, ObjectId};
use crate::observe::workload_health::{StackHealth, is_observed, pods_of};
use crate::reasons::Reason;
use crate::request::{RequestError, in_time};
use crate::upgrade::UpgradeState;
use crate::upgrade::snapshot::build::pre_pull_progress;

/// How often MetalLB is read when no action is due: it may be recreated.
const IDLE_INTERVAL: Duration = Duration::from_secs(30);
/// How long after a migration MetalLB can be restored.
const BACKUP_LIFETIME: SignedDuration = SignedDuration::from_hours(7 * 24);
/// Restore actions in one pass.
const MAX_ITEMS: usize = 8;

/// State that is kept between two reads of MetalLB.
#[derive(Debug, Default)]
pub(super) struct AdoptionMemory {
    /// Since when MetalLB has no Deployment, and no DaemonSet.
    away: [Option<Instant>; 2],
    /// Since when MetalLB's speakers have no L2Advertisement to follow.
    still: Option<Instant>,
    /// When no action was due last.
    rested: Option<Instant>,
    /// The latest report.
    said: Option<AdoptionReport>,
}

impl AdoptionMemory {
    /// How long MetalLB has had no Deployment, and no DaemonSet.
    fn absent_for(&mut self, now: Instant, found: &MetalLb) -> [Duration; 2] {
        let mut absent_for = [Duration::ZERO; 2];
        for (place, kind) in [Kind::Deployment, Kind::DaemonSet].into_iter().enumerate() {
            if found.workloads.iter().any(|workload| workload.id.kind == kind) {
                self.away[place] = None;
            } else {
                let since = *self.away[place].get_or_insert(now);
                absent_for[place] = now.saturating_duration_since(since);
            }
        }
        absent_for
    }

    /// How long MetalLB's speakers have had no L2Advertisement to follow.
    fn withdrawn_for(&mut self, now: Instant, found: &MetalLb) -> Duration {
        if found.active_advertisements > 0 {
            self.still = None;
            return Duration::ZERO;
        }
        now.saturating_duration_since(*self.still.get_or_insert(now))
    }
}

impl Operator {
    /// The backup of an adoption that has begun.
    pub(super) fn backup(&self, namespace: &str) -> Option<Backup> {
        let live = self.index.get(&Backup::id(namespace))?;
        (!live.terminating).then(|| Backup::read(&live.body["data"]))
    }

    /// Whether MetalLB is being replaced, or is replaced and can be restored.
    pub(super) fn adoption_has_begun(&self, namespace: &str) -> bool {
        self.index.get(&Backup::id(namespace)).is_some()
    }

    /// Performs the action that is due; returns the objects of the stack that may be created.
    pub(super) async fn adopt(
        &mut self,
        stack: &LoadBalancerStack,
        config: &StackConfig,
        rendered: &[DesiredObject],
        observed: &StackHealth,
    ) -> (AllowedObjects, Option<AdoptionReport>) {
        let namespace = &config.namespace;
        let record = self.backup(namespace);
        let ours = self.stack_progress(namespace, observed);
        // An adoption that has begun is completed: MetalLB's controller is gone.
        if stack.spec.restore || (!stack.spec.adopt && record.is_none()) {
            self.adoption = AdoptionMemory::default();
            return (AllowedObjects::All, None);
        }
        // While MetalLB cannot be read, existing objects are maintained and none are added: the stack's DaemonSet has
        // the name of the one in MetalLB's manifest.
        let kept_up = match record {
            None if ours.exists || self.preflight.report.blocked_by.is_some() => AllowedObjects::All,
            Some(_) if ours.speakers_created => AllowedObjects::All,
            Some(_) if ours.exists => AllowedObjects::Controllers,
            None | Some(_) => AllowedObjects::None,
        };
        let now = Instant::now();
        if let Some(at) = self.adoption.rested
            && at + IDLE_INTERVAL > now
            && ours.exists
        {
            self.executor
                .requeue_in((at + IDLE_INTERVAL).saturating_duration_since(now));
            return (AllowedObjects::All, self.adoption.said.clone());
        }
        let class = config.load_balancer_class.as_deref();
        let found = observe_metallb(self.executor.client(), namespace, class, record.is_none()).await;
        let found = match found {
            Ok(found) => found,
            Err(error) => {
                self.fail(&error);
                return (kept_up, self.adoption.said.clone());
            }
        };
        let seen = AdoptionInput {
            absent_for: self.adoption.absent_for(now, &found),
            withdrawn_for: self.adoption.withdrawn_for(now, &found),
            preflight_passed: self.preflight.report.is_known() && self.preflight.report.blocked_by.is_none(),
            images: self.image_pull(rendered, config),
            port: config.metrics_port,
            record,
            found,
            ours,
        };
        let step = adoption::next_action(&seen);
        let report = adoption::report(&step, &seen);
        let allowed_objects = adoption::allowed_objects(&step, &seen);
        let rests = matches!(step, AdoptionAction::Adopted | AdoptionAction::None) && seen.ours.exists;
        self.adoption.rested = rests.then_some(now);
        self.adoption.said.clone_from(&report);
        self.executor.requeue_in(if rests { IDLE_INTERVAL } else { TICK });
        if !stack.spec.paused {
            if step == AdoptionAction::Adopted && has_expired(stack) {
                self.delete_backup(namespace).await;
            }
            match self.adoption_writes(&step, &seen, namespace, rendered).await {
                Ok(writes) => drop(self.write_all(writes).await),
                Err(error) => self.fail(&error),
            }
        }
        (allowed_objects, report)
    }

    fn fail(&mut self, error: &RequestError) {
        self.executor.fail(Reason::WriteFailed, error.to_string(), TICK);
    }

    /// The backup is needed no more. Returns whether it is deleted.
    async fn delete_backup(&mut self, namespace: &str) -> bool {
        let id = Backup::id(namespace);
        let uid = self.index.get(&id).map(|live| live.uid.clone());
        self.write(Write::delete(&id, &uid.unwrap_or_default())).await
    }

    /// Progress of the stack's workloads.
    fn stack_progress(&self, namespace: &str, observed: &StackHealth) -> StackProgress {
        let workload = |kind, component: Component| ObjectId::new(kind, namespace, component.name());
        let deployment = self.index.get(&workload(Kind::Deployment, Component::Controller));
        let speakers = self.index.get(&workload(Kind::DaemonSet, Component::Speaker));
        let pods = pods_of(&self.index, namespace, Component::Speaker.name()).count();
        let desired = speakers.and_then(|live| live.body["status"]["desiredNumberScheduled"].as_u64());
        let desired = desired.and_then(|desired| usize::try_from(desired).ok());
        StackProgress {
            exists: deployment.is_some() || speakers.is_some(),
            controllers: deployment.is_some() && observed.controller.settled,
            speakers_created: speakers.is_some_and(|live| is_observed(&live.body))
                && desired.is_some_and(|desired| pods >= desired),
            speakers: speakers.is_some() && observed.speaker.settled,
        }
    }

    /// Progress of the image pulls.
    fn image_pull(&self, rendered: &[DesiredObject], config: &StackConfig) -> ImagePull {
        let Some(pulled) = pre_pull_progress(&self.index, rendered, config) else {
            return ImagePull::Pending;
        };
        let mut pending = pulled.pending.iter();
        match pending.find_map(|(node, why)| Some(format!("node {node}: {}", why.as_ref()?))) {
            Some(problem) => ImagePull::Failed(problem),
            None if pulled.pending.is_empty() && pulled.done > 0 => ImagePull::Complete,
            None => ImagePull::Pending,
        }
    }

    /// The writes of an action.
    async fn adoption_writes(
        &self,
        step: &AdoptionAction,
        seen: &AdoptionInput,
        namespace: &str,
        rendered: &[DesiredObject],
    ) -> Result<Vec<Write>, RequestError> {
        let client = self.executor.client();
        Ok(match step {
            AdoptionAction::None
            | AdoptionAction::Blocked(_)
            | AdoptionAction::PrePull
            | AdoptionAction::Wait(_)
            | AdoptionAction::Adopted => Vec::new(),
            AdoptionAction::SaveBackup => {
                let ids = rendered.iter().map(|wanted| &wanted.id);
                let not_ours = ids.filter(|id| may_be_overlaid(id) && self.index.get(id).is_none());
                let overlaid = metallb_objects(client, not_ours.cloned()).await?;
                let body = Backup::object(namespace, &seen.found.workloads, &overlaid);
                vec![Write::save_backup(namespace, body)]
            }
            AdoptionAction::RelaxWebhook => self.webhook_write(namespace, true).await?,
            AdoptionAction::DeleteControllers(owned) => deletions(owned),
            AdoptionAction::OrphanSpeakers(owned) => {
                let owned = owned.iter();
                owned.map(|owned| Write::orphan(&owned.id, &owned.uid)).collect()
            }
            AdoptionAction::LabelPods(pods) => labels(namespace, pods),
            AdoptionAction::WithdrawSpeakers => self.pause_writes(namespace, true).await?,
            AdoptionAction::RestoreAdvertisements => self.pause_writes(namespace, false).await?,
            AdoptionAction::DeleteSpeakers(pods) => {
                let pods = pods.iter();
                pods.map(|pod| Write::delete_metallb_pod(namespace, pod))
                    .collect()
            }
        })
    }

    async fn webhook_write(&self, namespace: &str, relaxed: bool) -> Result<Vec<Write>, RequestError> {
        let found = in_time("read MetalLB's webhook", webhook(self.executor.client())).await?;
        let write = found.and_then(|object| Write::relax_webhook(&object, namespace, relaxed));
        Ok(write.into_iter().collect())
    }

    /// Pauses MetalLB's speakers, or resumes them.
    async fn pause_writes(&self, namespace: &str, paused: bool) -> Result<Vec<Write>, RequestError> {
        let what = format!("list the L2Advertisements in {namespace}");
        let all = in_time(what, advertisements(self.executor.client(), namespace)).await?;
        let writes = all.iter().filter_map(|object| Write::pause(object, paused));
        Ok(writes.collect())
    }

    /// Performs the restore actions that are due. `None`: there is nothing to restore.
    pub(super) async fn restore_metallb(
        &mut self,
        stack: &LoadBalancerStack,
        namespace: &str,
    ) -> Option<AdoptionReport> {
        let record = self.backup(namespace)?;
        let deleting = stack.metadata.deletion_timestamp.is_some();
        let orphans = deleting && stack.spec.deletion_policy == DeletionPolicy::Orphan;
        let goes_back = stack.spec.restore || (deleting && !is_adopted(stack));
        // The workloads stay, or are deleted as those of any stack: MetalLB is not restored.
        let abandons = deleting && (orphans || !goes_back);
        if stack.spec.paused || !(goes_back || abandons) {
            return None;
        }
        let mut report = None;
        for _ in 0..MAX_ITEMS {
            self.executor.requeue_in(TICK);
            let due = if abandons {
                self.abandoned(namespace).await
            } else {
                self.next_restore_action(stack, namespace, &record).await
            };
            let done = match due {
                Ok(due) => {
                    report = Some(AdoptionReport::of_restore(&due));
                    let done = self.perform_restore_action(&due, namespace, &record).await;
                    if due == RestoreAction::DeleteBackup && matches!(done, Ok(true)) {
                        return None;
                    }
                    done
                }
                Err(error) => Err(error),
            };
            match done {
                Ok(true) => {}
                Ok(false) => break,
                Err(error) => {
                    self.fail(&error);
                    break;
                }
            }
        }
        report
    }

    async fn abandoned(&self, namespace: &str) -> Result<RestoreAction, RequestError> {
        Ok(if self.pause_writes(namespace, false).await?.is_empty() {
            RestoreAction::DeleteBackup
        } else {
            RestoreAction::RestoreAdvertisements
        })
    }

    async fn next_restore_action(
        &self,
        stack: &LoadBalancerStack,
        namespace: &str,
        record: &Backup,
    ) -> Result<RestoreAction, RequestError> {
        let client = self.executor.client();
        let uid = stack.metadata.uid.clone().unwrap_or_default();
        let class = stack.spec.load_balancer_class.as_deref();
        let pods = |component: Component| {
            let pods = pods_of(&self.index, namespace, component.name());
            pods.filter(|(_, pod)| !pod.node_lost).count()
        };
        let mut behind = RestoreInput {
            owned: self.owned(&uid),
            controllers: pods(Component::Controller),
            speakers: pods(Component::Speaker),
            withdrawn: !self.pause_writes(namespace, false).await?.is_empty(),
            ..RestoreInput::default()
        };
        if behind.owned.iter().any(|owned| !owned.terminating) {
            behind.missing_accounts = missing_accounts(client, record).await?;
        }
        // Overwritten objects are restored and not deleted: MetalLB's pods may use them.
        let is_workload = |id: &ObjectId| matches!(id.kind, Kind::Deployment | Kind::DaemonSet);
        behind
            .owned
            .retain(|owned| is_workload(&owned.id) || !record.has(&owned.id));
        let due = adoption::next_restore_action(&behind);
        if !matches!(due, RestoreAction::DeleteBackup) {
            return Ok(due);
        }
        let found = observe_metallb(client, namespace, class, false).await?;
        let orphaned = found.pods.into_iter();
        let orphaned = orphaned.filter(|pod| pod.orphaned_component.is_some() && !pod.terminating);
        behind.orphaned_component = orphaned.collect();
        behind.missing = !missing_objects(client, record).await?.is_empty();
        Ok(adoption::next_restore_action(&behind))
    }

    /// Performs a restore action. Returns whether the next may follow at once.
    async fn perform_restore_action(
        &mut self,
        due: &RestoreAction,
        namespace: &str,
        record: &Backup,
    ) -> Result<bool, RequestError> {
        let writes = match due {
            RestoreAction::Wait | RestoreAction::Blocked(_) => return Ok(false),
            RestoreAction::DeleteOwned(owned) => deletions(owned),
            RestoreAction::RestoreAdvertisements => self.pause_writes(namespace, false).await?,
            RestoreAction::LabelPods(pods) => labels(namespace, pods),
            RestoreAction::RestoreObjects => {
                let missing = missing_objects(self.executor.client(), record).await?;
                let waits = |(_, how): &(ObjectId, MissingObject)| {
                    matches!(how, MissingObject::Terminating | MissingObject::NotReady)
                };
                let done = !missing.iter().any(waits);
                let mut writes: Vec<_> = missing
                    .iter()
                    .filter_map(|(id, how)| restore_write(id, how, record))
                    .collect();
                writes.extend(self.webhook_write(namespace, false).await?);
                return Ok(self.write_in_order(writes).await && done);
            }
            RestoreAction::DeleteBackup => {
                if !self.delete_backup(namespace).await {
                    return Ok(false);
                }
                // Facts collected while MetalLB was absent must not allow an installation.
                self.preflight = super::preflight::PreflightState::default();
                self.adoption = AdoptionMemory::default();
                if let Some(status) = self.stack.as_mut().and_then(|stack| stack.status.as_mut()) {
                    UpgradeState::from_status(status).uninstalled().write_to(status);
                }
                return Ok(true);
            }
        };
        Ok(self.write_in_order(writes).await)
    }
}

fn labels(namespace: &str, pods: &[MetalLbPod]) -> Vec<Write> {
    let pods = pods.iter();
    pods.map(|pod| Write::label_pod(namespace, pod)).collect()
}

fn restore_write(id: &ObjectId, how: &MissingObject, record: &Backup) -> Option<Write> {
    let (_, body) = record.objects().find(|(other, _)| *other == id)?;
    match how {
        MissingObject::Terminating | MissingObject::NotReady => None,
        MissingObject::Absent => Some(Write::restore(id, body, None)),
        MissingObject::Overwritten(labels) => Some(Write::restore(id, body, Some(labels))),
    }
}

/// Whether MetalLB may have an object of this name that the stack overwrites: workloads are saved separately, and some
/// kinds exist only in a stack.
fn may_be_overlaid(id: &ObjectId) -> bool {
    id.kind.is_deleted_with_stack()
        && !matches!(
            id.kind,
            Kind::Deployment | Kind::DaemonSet | Kind::Secret | Kind::ControllerRevision
        )
}

/// Whether MetalLB is replaced.
fn is_adopted(stack: &LoadBalancerStack) -> bool {
    let adoption = stack.status.as_ref().and_then(|status| status.adoption.as_ref());
    adoption.is_some_and(|adoption| adoption.step == AdoptionStep::Adopted)
}

/// Whether the migration was completed so long ago that MetalLB will not be restored.
fn has_expired(stack: &LoadBalancerStack) -> bool {
    let conditions = stack.status.iter().flat_map(|status| &status.conditions);
    let mut adopted =
        conditions.filter(|condition| condition.type_ == "Adopted" && condition.status == "True");
    adopted
        .any(|condition| Timestamp::now().duration_since(condition.last_transition_time.0) >= BACKUP_LIFETIME)
}

/// The writes that an adoption allows now.
pub(super) fn retain_allowed<'a>(todo: Difference<'a>, allowed_objects: AllowedObjects) -> Difference<'a> {
    Difference {
        apply: todo
            .apply
            .into_iter()
            .filter(|(wanted, _)| allowed_objects.allows(wanted))
            .collect(),
        prune: todo.prune,
    }
}

/// The DaemonSet that pulls images before MetalLB is changed.
pub(super) fn pre_pull_workload(
    allowed_objects: AllowedObjects,
    report: Option<&AdoptionReport>,
    config: &StackConfig,
    revision: &str,
) -> Option<DesiredObject> {
    let begins = allowed_objects == AllowedObjects::PrePull && report.is_some();
    begins.then(|| pre_pull::render(config, revision)).flatten()
}
