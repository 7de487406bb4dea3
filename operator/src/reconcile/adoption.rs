//! Carries out what [`crate::adoption`] says about a running MetalLB.

use std::time::{Duration, Instant};

use lb_crds::LoadBalancerStack;
use lb_crds::load_balancer_stack::DeletionPolicy;

use super::{Operator, PassResult, TICK};
use crate::adoption::{
    self, Admitted, Back, Behind, Found, Images, Ours, RECORD, Record, Report, Seen, Step,
};
use crate::apply::WriteError;
use crate::apply::metallb::{Missing, may_be_overlaid};
use crate::deletion::OwnedObject;
use crate::desired::config::StackConfig;
use crate::desired::render::{Component, Wanted, pre_pull};
use crate::drift::diff::Difference;
use crate::object_id::{Kind, ObjectId};
use crate::observe::workload_health::{StackHealth, is_observed, pods_of};
use crate::upgrade::objects;
use crate::upgrade::{self, UpgradeState};

/// How often MetalLB is looked at when nothing is to be done about it: it may be put back.
const RESTING: Duration = Duration::from_secs(30);
/// Most steps back in a row.
const MOST: usize = 8;

/// What the operator remembers of MetalLB between two looks.
#[derive(Debug, Default)]
pub(super) struct Adoption {
    /// Since when there is no Deployment of MetalLB's, and no DaemonSet.
    away: [Option<Instant>; 2],
    /// Since when there is no advertisement that MetalLB's speakers act upon.
    still: Option<Instant>,
    /// When there was nothing to do last.
    rested: Option<Instant>,
    /// What there was to say last.
    said: Option<Report>,
}

impl Adoption {
    /// How long each has been away.
    fn away_for(&mut self, now: Instant, found: &Found) -> [Duration; 2] {
        let mut away_for = [Duration::ZERO; 2];
        for (place, kind) in [Kind::Deployment, Kind::DaemonSet].into_iter().enumerate() {
            if found.workloads.iter().any(|workload| workload.id.kind == kind) {
                self.away[place] = None;
            } else {
                let since = *self.away[place].get_or_insert(now);
                away_for[place] = now.saturating_duration_since(since);
            }
        }
        away_for
    }

    /// How long MetalLB's speakers have had nothing to announce.
    fn still_for(&mut self, now: Instant, found: &Found) -> Duration {
        if found.active > 0 {
            self.still = None;
            return Duration::ZERO;
        }
        now.saturating_duration_since(*self.still.get_or_insert(now))
    }
}

impl Operator {
    /// The record of an adoption, if one has begun and its way back is open.
    fn record(&self, namespace: &str) -> Option<Record> {
        let live = self.index.get(&Record::id(namespace))?;
        (!live.terminating).then(|| Record::read(&live.body["data"]))
    }

    /// Whether MetalLB is being replaced, or is and may come back.
    pub(super) fn has_begun_to_adopt(&self, namespace: &str) -> bool {
        self.index.get(&Record::id(namespace)).is_some()
    }

    /// Takes the step that is due on the way forward, and says what may be made of ours meanwhile.
    pub(super) async fn adopt(
        &mut self,
        stack: &LoadBalancerStack,
        plan: &StackConfig,
        rendered: &[Wanted],
        observed: &StackHealth,
        leads: &impl Fn() -> bool,
        work: &mut PassResult,
    ) -> (Admitted, Option<Report>) {
        let namespace = &plan.namespace;
        let record = self.record(namespace);
        let ours = self.ours(namespace, observed);
        if !stack.spec.adopt {
            self.adoption = Adoption::default();
            return (Admitted::All, None);
        }
        // While nobody can look, what was let be made before may be kept up, and no more: our DaemonSet has the name of the
        // one in MetalLB's manifest.
        let kept_up = match record {
            None if ours.exists || self.preflight.report.blocked_by.is_some() => Admitted::All,
            Some(_) if ours.speakers_made => Admitted::All,
            Some(_) if ours.exists => Admitted::Controllers,
            None | Some(_) => Admitted::Nothing,
        };
        let now = Instant::now();
        if let Some(at) = self.adoption.rested
            && at + RESTING > now
            && ours.exists
        {
            work.again_in((at + RESTING).saturating_duration_since(now));
            return (Admitted::All, self.adoption.said.clone());
        }
        let class = plan.load_balancer_class.as_deref();
        let found = match self.writer.metallb(namespace, class, record.is_none()).await {
            Ok(found) => found,
            Err(error) => {
                work.waits(error.to_string(), TICK);
                return (kept_up, self.adoption.said.clone());
            }
        };
        let seen = Seen {
            away_for: self.adoption.away_for(now, &found),
            still_for: self.adoption.still_for(now, &found),
            checked: self.preflight.report.is_known() && self.preflight.report.blocked_by.is_none(),
            images: self.images(namespace),
            record,
            found,
            ours,
        };
        let step = adoption::step(&seen);
        let report = adoption::report(&step, &seen);
        let admitted = adoption::admitted(&step, &seen);
        let rests = matches!(step, Step::Adopted | Step::Rest) && seen.ours.exists;
        self.adoption.rested = rests.then_some(now);
        self.adoption.said.clone_from(&report);
        work.again_in(if rests { RESTING } else { TICK });
        if leads() && !stack.spec.paused {
            tracing::debug!(?step, "adoption");
            self.take(&step, &seen, plan, rendered, work).await;
        }
        (admitted, report)
    }

    /// How far our own part is.
    fn ours(&self, namespace: &str, observed: &StackHealth) -> Ours {
        let workload = |kind, component: Component| ObjectId::new(kind, namespace, component.name());
        let deployment = self.index.get(&workload(Kind::Deployment, Component::Controller));
        let speakers = self.index.get(&workload(Kind::DaemonSet, Component::Speaker));
        let pods = pods_of(&self.index, namespace, Component::Speaker.name()).count();
        let desired = speakers.and_then(|live| live.body["status"]["desiredNumberScheduled"].as_u64());
        let desired = desired.and_then(|desired| usize::try_from(desired).ok());
        Ours {
            exists: deployment.is_some() || speakers.is_some(),
            controllers: deployment.is_some() && observed.controller.settled,
            speakers_made: speakers.is_some_and(|live| is_observed(&live.body))
                && desired.is_some_and(|desired| pods >= desired),
            speakers: speakers.is_some() && observed.speaker.settled,
        }
    }

    /// How far the images are.
    fn images(&self, namespace: &str) -> Images {
        match objects::pre_pull_progress(&self.index, None, namespace) {
            Some(upgrade::PrePullSnapshot {
                failed: Some(trouble),
                ..
            }) => Images::Failed(trouble),
            Some(pulled) if pulled.done >= pulled.desired => Images::Pulled,
            Some(_) | None => Images::Waits,
        }
    }

    async fn take(
        &mut self,
        step: &Step,
        seen: &Seen,
        plan: &StackConfig,
        rendered: &[Wanted],
        work: &mut PassResult,
    ) {
        let namespace = &plan.namespace;
        let done = match step {
            Step::Rest | Step::Blocked(_) | Step::PrePull | Step::Wait(_) | Step::Adopted => return,
            Step::Record => self.write_record(seen, namespace, rendered).await,
            Step::Relax => self.writer.relax(namespace, true).await,
            Step::EndControllers(owned) => {
                let mut done = Ok(());
                for OwnedObject { id, uid, .. } in owned {
                    done = done.and(self.writer.delete(id, uid).await);
                }
                done
            }
            Step::Part(owned) => {
                let mut done = Ok(());
                for OwnedObject { id, uid, .. } in owned {
                    done = done.and(self.writer.part(id, uid).await);
                }
                done
            }
            Step::Label(pods) => {
                let mut done = Ok(());
                for pod in pods {
                    done = done.and(self.writer.label(namespace, pod).await);
                }
                done
            }
            Step::Halt => self.writer.halt(namespace, true).await,
            Step::Resume => self.writer.halt(namespace, false).await,
            Step::EndSpeakers(pods) => {
                let nodes: Vec<_> = pods.iter().map(|pod| pod.node.as_str()).collect();
                tracing::info!(?nodes, "MetalLB's speakers end");
                self.writer.end(namespace, pods).await
            }
        };
        if let Err(error) = done {
            work.write_failed = true;
            work.waits(error.to_string(), TICK);
        } else {
            tracing::info!(?step, "adoption: step taken");
        }
    }

    async fn write_record(
        &mut self,
        seen: &Seen,
        namespace: &str,
        rendered: &[Wanted],
    ) -> Result<(), WriteError> {
        let not_ours = rendered
            .iter()
            .map(|wanted| wanted.id.clone())
            .filter(|id| may_be_overlaid(id) && self.index.get(id).is_none());
        let overlaid = self.writer.others(&not_ours.collect::<Vec<_>>()).await?;
        let body = Record::object(namespace, &seen.found.workloads, &overlaid);
        let id = Record::id(namespace);
        let live = self.writer.keep(&id, &body).await?;
        self.index.apply(id, live);
        Ok(())
    }

    /// Takes the steps that are due on the way back. `None`: there is no way back to go, or it has been gone.
    pub(super) async fn give_back(
        &mut self,
        stack: &LoadBalancerStack,
        namespace: &str,
        leads: &impl Fn() -> bool,
        work: &mut PassResult,
    ) -> Option<Report> {
        let record = self.record(namespace)?;
        let deleting = stack.metadata.deletion_timestamp.is_some();
        let orphans = deleting && stack.spec.deletion_policy == DeletionPolicy::Orphan;
        let goes_back = (deleting && !orphans) || (!deleting && !stack.spec.adopt);
        if stack.spec.paused || !(goes_back || orphans) {
            return None;
        }
        let mut report = None;
        for _ in 0..MOST {
            work.again_in(TICK);
            let due = if orphans {
                // What serves stays, and so MetalLB stays away.
                self.orphaned(namespace).await
            } else {
                self.back_due(stack, namespace, &record).await
            };
            let due = match due {
                Ok(due) => due,
                Err(error) => {
                    work.waits(error.to_string(), TICK);
                    break;
                }
            };
            report = Some(Report::back(&due));
            if !leads() || due == Back::Wait {
                break;
            }
            match self.step_back(&due, namespace, &record, leads, work).await {
                Ok(true) if due == Back::Forget => return None,
                Ok(true) => {}
                Ok(false) => break,
                Err(error) => {
                    work.write_failed = true;
                    work.waits(error.to_string(), TICK);
                    break;
                }
            }
        }
        report
    }

    async fn orphaned(&self, namespace: &str) -> Result<Back, WriteError> {
        let halted = self.writer.is_halted(namespace).await?;
        Ok(if halted { Back::Resume } else { Back::Forget })
    }

    async fn back_due(
        &mut self,
        stack: &LoadBalancerStack,
        namespace: &str,
        record: &Record,
    ) -> Result<Back, WriteError> {
        let uid = stack.metadata.uid.clone().unwrap_or_default();
        let class = stack.spec.load_balancer_class.as_deref();
        let pods = |component: Component| {
            let pods = pods_of(&self.index, namespace, component.name());
            pods.filter(|(_, pod)| !pod.node_lost).count()
        };
        let mut behind = Behind {
            owned: self.owned(&uid),
            controllers: pods(Component::Controller),
            speakers: pods(Component::Speaker),
            halted: self.writer.is_halted(namespace).await?,
            ..Behind::default()
        };
        // What ours went over is made what it was, and not deleted: MetalLB's pods may be using it.
        let is_workload = |id: &ObjectId| matches!(id.kind, Kind::Deployment | Kind::DaemonSet);
        behind
            .owned
            .retain(|owned| is_workload(&owned.id) || !record.has(&owned.id));
        if matches!(
            adoption::back(&behind),
            Back::Resume | Back::Delete(_) | Back::Wait
        ) {
            return Ok(adoption::back(&behind));
        }
        let found = self.writer.metallb(namespace, class, false).await?;
        let parted = found.pods.into_iter().filter(|pod| pod.parted.is_some());
        behind.parted = parted.filter(|pod| !pod.terminating).collect();
        behind.missing = !self.writer.missing(record).await?.is_empty();
        Ok(adoption::back(&behind))
    }

    /// Takes one step back. Returns whether the next may follow at once.
    async fn step_back(
        &mut self,
        due: &Back,
        namespace: &str,
        record: &Record,
        leads: &impl Fn() -> bool,
        work: &mut PassResult,
    ) -> Result<bool, WriteError> {
        match due {
            Back::Delete(owned) => return Ok(self.delete_owned(owned, leads, work).await),
            Back::Wait => return Ok(false),
            Back::Resume => self.writer.halt(namespace, false).await?,
            Back::Label(pods) => {
                for pod in pods {
                    self.writer.label(namespace, pod).await?;
                }
            }
            Back::Restore => {
                let mut done = true;
                for (id, missing) in self.writer.missing(record).await? {
                    let Some((_, body)) = record.objects().find(|(other, _)| **other == id) else {
                        continue;
                    };
                    match missing {
                        Missing::Going => {
                            done = false;
                            continue;
                        }
                        Missing::Absent => self.writer.restore(&id, body, None).await?,
                        Missing::Ours(labels) => self.writer.restore(&id, body, Some(&labels)).await?,
                    }
                    tracing::info!(object = %id, "put back as MetalLB had it");
                    self.applied.forget(&id);
                    self.index.discard(&id);
                }
                self.writer.relax(namespace, false).await?;
                return Ok(done);
            }
            Back::Forget => {
                self.writer.forget(namespace).await?;
                self.index.discard(&Record::id(namespace));
                // What was seen meanwhile is no reason to install anything: MetalLB was away.
                self.preflight = super::preflight::PreflightState::default();
                self.adoption = Adoption::default();
                if let Some(status) = self.stack.as_mut().and_then(|stack| stack.status.as_mut()) {
                    UpgradeState::from_status(status).uninstalled().write_to(status);
                }
                tracing::info!(record = RECORD, "the way back has been gone, or is given up");
            }
        }
        Ok(true)
    }
}

/// Of what is to be done, what an adoption lets be done now.
pub(super) fn admit<'a>(todo: Difference<'a>, admitted: Admitted) -> Difference<'a> {
    Difference {
        apply: todo
            .apply
            .into_iter()
            .filter(|(wanted, _)| admitted.allows(wanted))
            .collect(),
        prune: todo.prune,
    }
}

/// What is wanted besides: the workload that pulls images, before anything is touched.
pub(super) fn besides(
    admitted: Admitted,
    report: Option<&Report>,
    plan: &StackConfig,
    revision: &str,
) -> Option<Wanted> {
    let begins = admitted == Admitted::PrePull && report.is_some();
    begins.then(|| pre_pull::render(plan, revision)).flatten()
}
