//! Performs the actions of [`crate::adoption`].

use std::time::{Duration, Instant};

use jiff::{SignedDuration, Timestamp};
use lb_crds::LoadBalancerStack;
use lb_crds::load_balancer_stack::{AdoptionStep, DeletionPolicy};

use super::{Operator, ReconcileOutcome, TICK};
use crate::adoption::{
    self, AdoptionAction, AdoptionInput, AdoptionReport, AllowedObjects, BACKUP_NAME, Backup, ImagePull,
    MetalLb, RestoreAction, RestoreInput, StackProgress,
};
use crate::apply::WriteError;
use crate::apply::metallb::{MissingObject, may_be_overlaid};
use crate::deletion::OwnedObject;
use crate::desired::config::StackConfig;
use crate::desired::render::{Component, DesiredObject, pre_pull};
use crate::drift::diff::Difference;
use crate::object_id::{Kind, ObjectId};
use crate::observe::workload_health::{StackHealth, is_observed, pods_of};
use crate::upgrade::UpgradeState;
use crate::upgrade::objects;

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
        leads: &impl Fn() -> bool,
        outcome: &mut ReconcileOutcome,
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
            outcome.requeue_in((at + IDLE_INTERVAL).saturating_duration_since(now));
            return (AllowedObjects::All, self.adoption.said.clone());
        }
        let class = config.load_balancer_class.as_deref();
        let found = match self
            .writer
            .observe_metallb(namespace, class, record.is_none())
            .await
        {
            Ok(found) => found,
            Err(error) => {
                outcome.record_failure(error.to_string(), TICK);
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
        if step == AdoptionAction::Adopted && has_expired(stack) && leads() && !stack.spec.paused {
            if let Err(error) = self.writer.delete_backup(namespace).await {
                outcome.record_failure(error.to_string(), TICK);
            }
            tracing::info!("adoption backup deleted: the migration was completed seven days ago");
        }
        let rests = matches!(step, AdoptionAction::Adopted | AdoptionAction::None) && seen.ours.exists;
        self.adoption.rested = rests.then_some(now);
        self.adoption.said.clone_from(&report);
        outcome.requeue_in(if rests { IDLE_INTERVAL } else { TICK });
        if leads() && !stack.spec.paused {
            tracing::debug!(?step, "adoption");
            self.perform_action(&step, &seen, config, rendered, outcome).await;
        }
        (allowed_objects, report)
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
        let Some(pulled) = objects::pre_pull_progress(&self.index, rendered, config) else {
            return ImagePull::Pending;
        };
        let mut pending = pulled.pending.iter();
        match pending.find_map(|(node, why)| Some(format!("node {node}: {}", why.as_ref()?))) {
            Some(problem) => ImagePull::Failed(problem),
            None if pulled.pending.is_empty() && pulled.done > 0 => ImagePull::Complete,
            None => ImagePull::Pending,
        }
    }

    async fn perform_action(
        &mut self,
        step: &AdoptionAction,
        seen: &AdoptionInput,
        config: &StackConfig,
        rendered: &[DesiredObject],
        outcome: &mut ReconcileOutcome,
    ) {
        let namespace = &config.namespace;
        let done = match step {
            AdoptionAction::None
            | AdoptionAction::Blocked(_)
            | AdoptionAction::PrePull
            | AdoptionAction::Wait(_)
            | AdoptionAction::Adopted => return,
            AdoptionAction::SaveBackup => self.save_backup(seen, namespace, rendered).await,
            AdoptionAction::RelaxWebhook => self.writer.relax_webhook(namespace, true).await,
            AdoptionAction::DeleteControllers(owned) => {
                let mut done = Ok(());
                for OwnedObject { id, uid, .. } in owned {
                    done = done.and(self.writer.delete(id, uid).await);
                }
                done
            }
            AdoptionAction::OrphanSpeakers(owned) => {
                let mut done = Ok(());
                for OwnedObject { id, uid, .. } in owned {
                    done = done.and(self.writer.orphan_daemonset(id, uid).await);
                }
                done
            }
            AdoptionAction::LabelPods(pods) => {
                let mut done = Ok(());
                for pod in pods {
                    done = done.and(self.writer.label_pod(namespace, pod).await);
                }
                done
            }
            AdoptionAction::WithdrawSpeakers => self.writer.withdraw_speakers(namespace, true).await,
            AdoptionAction::RestoreAdvertisements => self.writer.withdraw_speakers(namespace, false).await,
            AdoptionAction::DeleteSpeakers(pods) => {
                let nodes: Vec<_> = pods.iter().map(|pod| pod.node.as_str()).collect();
                tracing::info!(?nodes, "deleting MetalLB's speakers");
                self.writer.delete_speakers(namespace, pods).await
            }
        };
        if let Err(error) = done {
            outcome.write_failed = true;
            outcome.record_failure(error.to_string(), TICK);
        } else {
            tracing::info!(?step, "adoption action done");
        }
    }

    async fn save_backup(
        &mut self,
        seen: &AdoptionInput,
        namespace: &str,
        rendered: &[DesiredObject],
    ) -> Result<(), WriteError> {
        let not_ours = rendered
            .iter()
            .map(|wanted| wanted.id.clone())
            .filter(|id| may_be_overlaid(id) && self.index.get(id).is_none());
        let overlaid = self.writer.metallb_objects(&not_ours.collect::<Vec<_>>()).await?;
        let body = Backup::object(namespace, &seen.found.workloads, &overlaid);
        let id = Backup::id(namespace);
        let live = self.writer.create_backup(&id, &body).await?;
        self.index.apply(id, live);
        Ok(())
    }

    /// Performs the restore actions that are due. `None`: there is nothing to restore.
    pub(super) async fn restore_metallb(
        &mut self,
        stack: &LoadBalancerStack,
        namespace: &str,
        leads: &impl Fn() -> bool,
        outcome: &mut ReconcileOutcome,
    ) -> Option<AdoptionReport> {
        let record = self.backup(namespace)?;
        let deleting = stack.metadata.deletion_timestamp.is_some();
        let orphans = deleting && stack.spec.deletion_policy == DeletionPolicy::Orphan;
        let is_adopted = is_adopted(stack);
        let goes_back = stack.spec.restore || (deleting && !is_adopted);
        // The workloads stay, or are deleted as those of any stack: MetalLB is not restored.
        let abandons = deleting && (orphans || !goes_back);
        if stack.spec.paused || !(goes_back || abandons) {
            return None;
        }
        let mut report = None;
        for _ in 0..MAX_ITEMS {
            outcome.requeue_in(TICK);
            let due = if abandons {
                self.abandoned(namespace).await
            } else {
                self.next_restore_action(stack, namespace, &record).await
            };
            let due = match due {
                Ok(due) => due,
                Err(error) => {
                    outcome.record_failure(error.to_string(), TICK);
                    break;
                }
            };
            report = Some(AdoptionReport::of_restore(&due));
            if !leads() || matches!(due, RestoreAction::Wait | RestoreAction::Blocked(_)) {
                break;
            }
            match self
                .perform_restore_action(&due, namespace, &record, leads, outcome)
                .await
            {
                Ok(true) if due == RestoreAction::DeleteBackup => return None,
                Ok(true) => {}
                Ok(false) => break,
                Err(error) => {
                    outcome.write_failed = true;
                    outcome.record_failure(error.to_string(), TICK);
                    break;
                }
            }
        }
        report
    }

    async fn abandoned(&self, namespace: &str) -> Result<RestoreAction, WriteError> {
        let withdrawn = self.writer.is_withdrawn(namespace).await?;
        Ok(if withdrawn {
            RestoreAction::RestoreAdvertisements
        } else {
            RestoreAction::DeleteBackup
        })
    }

    async fn next_restore_action(
        &mut self,
        stack: &LoadBalancerStack,
        namespace: &str,
        record: &Backup,
    ) -> Result<RestoreAction, WriteError> {
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
            withdrawn: self.writer.is_withdrawn(namespace).await?,
            ..RestoreInput::default()
        };
        if behind.owned.iter().any(|owned| !owned.terminating) {
            behind.missing_accounts = self.writer.missing_accounts(record).await?;
        }
        // Overwritten objects are restored and not deleted: MetalLB's pods may use them.
        let is_workload = |id: &ObjectId| matches!(id.kind, Kind::Deployment | Kind::DaemonSet);
        behind
            .owned
            .retain(|owned| is_workload(&owned.id) || !record.has(&owned.id));
        if matches!(
            adoption::next_restore_action(&behind),
            RestoreAction::Blocked(_)
                | RestoreAction::RestoreAdvertisements
                | RestoreAction::DeleteOwned(_)
                | RestoreAction::Wait
        ) {
            return Ok(adoption::next_restore_action(&behind));
        }
        let found = self.writer.observe_metallb(namespace, class, false).await?;
        let orphaned_component = found
            .pods
            .into_iter()
            .filter(|pod| pod.orphaned_component.is_some());
        behind.orphaned_component = orphaned_component.filter(|pod| !pod.terminating).collect();
        behind.missing = !self.writer.missing_objects(record).await?.is_empty();
        Ok(adoption::next_restore_action(&behind))
    }

    /// Performs a restore action. Returns whether the next may follow at once.
    async fn perform_restore_action(
        &mut self,
        due: &RestoreAction,
        namespace: &str,
        record: &Backup,
        leads: &impl Fn() -> bool,
        outcome: &mut ReconcileOutcome,
    ) -> Result<bool, WriteError> {
        match due {
            RestoreAction::DeleteOwned(owned) => return Ok(self.delete_owned(owned, leads, outcome).await),
            RestoreAction::Wait | RestoreAction::Blocked(_) => return Ok(false),
            RestoreAction::RestoreAdvertisements => self.writer.withdraw_speakers(namespace, false).await?,
            RestoreAction::LabelPods(pods) => {
                for pod in pods {
                    self.writer.label_pod(namespace, pod).await?;
                }
            }
            RestoreAction::RestoreObjects => {
                let mut done = true;
                for (id, missing) in self.writer.missing_objects(record).await? {
                    let Some((_, body)) = record.objects().find(|(other, _)| **other == id) else {
                        continue;
                    };
                    match missing {
                        MissingObject::Terminating | MissingObject::NotReady => {
                            done = false;
                            continue;
                        }
                        MissingObject::Absent => self.writer.restore_object(&id, body, None).await?,
                        MissingObject::Overwritten(labels) => {
                            self.writer.restore_object(&id, body, Some(&labels)).await?
                        }
                    }
                    tracing::info!(object = %id, "restored from MetalLB's backup");
                    self.applied.forget(&id);
                    self.index.remove_deleted(&id);
                }
                self.writer.relax_webhook(namespace, false).await?;
                return Ok(done);
            }
            RestoreAction::DeleteBackup => {
                self.writer.delete_backup(namespace).await?;
                self.index.remove_deleted(&Backup::id(namespace));
                // Facts collected while MetalLB was absent must not allow an installation.
                self.preflight = super::preflight::PreflightState::default();
                self.adoption = AdoptionMemory::default();
                if let Some(status) = self.stack.as_mut().and_then(|stack| stack.status.as_mut()) {
                    UpgradeState::from_status(status).uninstalled().write_to(status);
                }
                tracing::info!(
                    record = BACKUP_NAME,
                    "adoption backup deleted: MetalLB was restored or is abandoned"
                );
            }
        }
        Ok(true)
    }
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
