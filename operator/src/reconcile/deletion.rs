//! Carries out what [`crate::deletion`] says about the end of the stack.

use std::time::{Duration, Instant};

use kube::ResourceExt;
use lb_crds::LoadBalancerStack;
use lb_crds::load_balancer_stack::DeletionPolicy;

use super::{Operator, PassResult};
use crate::adoption;
use crate::apply::WriteError;
use crate::apply::retry::RetryKey;
use crate::deletion::blockers::Claims;
use crate::deletion::{FINALIZER, FOREGROUND, Owned, Report, Seen, Step, Wait, report, step};
use crate::desired::render::Component;
use crate::desired::validation;
use crate::object_id::ObjectId;

/// Most steps in a row: each is seen to be done before the next, and some are done at once.
const MOST: usize = 8;

/// What becomes of the stack.
#[derive(Debug)]
pub(super) enum Course {
    /// It is brought about, or kept; with what there is to say of a deletion that waits.
    Run(Option<Report>),
    /// It is being taken down.
    Leave(Report),
    /// It makes room for MetalLB, which it had adopted.
    GoBack(adoption::Report),
    /// There is nothing left to do.
    Gone,
}

impl Operator {
    /// The namespace in which a deletion is to be watched; none while the stack stays.
    #[must_use]
    pub fn waits_for_claims(&mut self) -> Option<String> {
        let stack = self.stack.as_ref().filter(|stack| {
            stack.metadata.deletion_timestamp.is_some()
                && is_held(stack)
                && stack.spec.deletion_policy != DeletionPolicy::Orphan
        });
        let Some(stack) = stack else {
            self.claims = None;
            self.clear_since = None;
            return None;
        };
        let class = stack.spec.load_balancer_class.clone();
        self.claims.get_or_insert_with(|| Claims::new(class));
        Some(validation::namespace(stack, &self.operator_config))
    }

    /// Takes the steps that are due at the beginning and at the end of the stack's life.
    pub(super) async fn course(
        &mut self,
        namespace: &str,
        leads: &impl Fn() -> bool,
        work: &mut PassResult,
    ) -> Course {
        let mut last = None;
        if let Some(stack) = self.stack.clone()
            && let Some(report) = self.give_back(&stack, namespace, leads, work).await
        {
            return Course::GoBack(report);
        }
        for _ in 0..MOST {
            let Some(stack) = self.stack.clone() else {
                return Course::Gone;
            };
            let due = step(&self.seen(&stack, namespace));
            let report = report(&due);
            let is_news = last.as_ref() != Some(&due);
            let done = match &due {
                Step::Stay | Step::Blocked(_) | Step::Wait(Wait::List, _) => return Course::Run(report),
                Step::Gone => return Course::Gone,
                Step::Wait(_, wait) => {
                    wait.iter().for_each(|wait| work.again_in(*wait));
                    false
                }
                _ if !leads() || !is_news => false,
                Step::Hold => {
                    // What the stack asks for is more than that its end will be in order.
                    self.hold(&stack, work).await;
                    return Course::Run(None);
                }
                Step::StopCollector => self.set_finalizers(&stack, FOREGROUND, work).await,
                Step::Disown(ids) => self.disown(&stack, ids, leads, work).await,
                Step::Delete(owned) => self.delete(owned, leads, work).await,
                Step::Clear => self.clear(leads, work).await,
                Step::Release => {
                    if self.set_finalizers(&stack, FINALIZER, work).await {
                        tracing::info!("the stack's end has been seen to: it is let go");
                        self.say(false, "Deleted", handoff(stack.spec.deletion_policy));
                        return Course::Gone;
                    }
                    false
                }
            };
            if !done {
                return report.map_or(Course::Gone, Course::Leave);
            }
            last = Some(due);
        }
        work.again_in(Duration::ZERO);
        last.as_ref().and_then(report).map_or(Course::Gone, Course::Leave)
    }

    fn seen(&mut self, stack: &LoadBalancerStack, namespace: &str) -> Seen {
        let uid = stack.uid().unwrap_or_default();
        let claims = self.claims.as_ref();
        let services = claims.and_then(Claims::services);
        let services = services.map(|services| services.keys().map(ToString::to_string).collect::<Vec<_>>());
        let now = Instant::now();
        match &services {
            Some(services) if services.is_empty() => {
                self.clear_since.get_or_insert(now);
            }
            _ => self.clear_since = None,
        }
        let pods = |component: Component| {
            let pods = self.index.pods(namespace);
            pods.filter(|(_, pod)| pod.component == component.name() && !pod.node_lost)
                .count()
        };
        let has = |finalizer: &str| stack.finalizers().iter().any(|other| other == finalizer);
        Seen {
            policy: stack.spec.deletion_policy,
            paused: stack.spec.paused,
            deleting: stack.metadata.deletion_timestamp.is_some(),
            held: has(FINALIZER),
            foreground: has(FOREGROUND),
            services,
            announced: claims.and_then(Claims::announced),
            clear_for: self
                .clear_since
                .map_or(Duration::ZERO, |since| now.saturating_duration_since(since)),
            owned: self.owned(&uid),
            controllers: pods(Component::Controller),
            speakers: pods(Component::Speaker),
        }
    }

    pub(super) fn owned(&self, uid: &str) -> Vec<Owned> {
        let owned = self.index.objects().filter(|(_, live)| live.is_owned_by(uid));
        owned
            .map(|(id, live)| Owned {
                id: id.clone(),
                uid: live.uid.clone(),
                terminating: live.terminating,
            })
            .collect()
    }

    /// Puts the finalizer on.
    async fn hold(&mut self, stack: &LoadBalancerStack, work: &mut PassResult) {
        let mut finalizers = stack.finalizers().to_vec();
        finalizers.push(FINALIZER.to_owned());
        self.write_finalizers(stack, &finalizers, work).await;
    }

    /// Takes a finalizer off.
    async fn set_finalizers(
        &mut self,
        stack: &LoadBalancerStack,
        without: &str,
        work: &mut PassResult,
    ) -> bool {
        let all = stack.finalizers().iter();
        let finalizers: Vec<_> = all.filter(|other| *other != without).cloned().collect();
        self.write_finalizers(stack, &finalizers, work).await
    }

    async fn write_finalizers(
        &mut self,
        stack: &LoadBalancerStack,
        finalizers: &[String],
        work: &mut PassResult,
    ) -> bool {
        let wish = finalizers.join(",");
        if let Some((message, wait)) = self.retries.waits(Instant::now(), &RetryKey::Finalizers, &wish) {
            work.waits(message.to_owned(), wait);
            return false;
        }
        match self.writer.finalizers(stack, finalizers).await {
            Ok(Some(stored)) => {
                self.retries.record_success(&RetryKey::Finalizers);
                self.metrics
                    .writes
                    .with_label_values(&["LoadBalancerStack"])
                    .inc();
                self.remember(stored);
                true
            }
            // Changed meanwhile, or gone: the watch tells.
            Ok(None) => false,
            Err(error) => {
                self.failed(RetryKey::Finalizers, &wish, &error, work);
                false
            }
        }
    }

    async fn disown(
        &mut self,
        stack: &LoadBalancerStack,
        ids: &[ObjectId],
        leads: &impl Fn() -> bool,
        work: &mut PassResult,
    ) -> bool {
        let owner = stack.uid().unwrap_or_default();
        let mut done = true;
        for id in ids {
            let Some(live) = self.index.get(id).cloned() else {
                continue;
            };
            let key = RetryKey::RemoveOwner(id.clone());
            if !leads() || self.must_wait(&key, &owner, work) {
                done = false;
                continue;
            }
            let answer = self.writer.disown(id, &live, &owner).await;
            done &= match self.settle(key, &owner, answer, id.kind.names().2, work) {
                Some(Some(stored)) => {
                    self.applied.forget(id);
                    self.index.apply(id.clone(), stored);
                    true
                }
                Some(None) | None => false,
            };
        }
        done
    }

    pub(super) async fn delete(
        &mut self,
        owned: &[Owned],
        leads: &impl Fn() -> bool,
        work: &mut PassResult,
    ) -> bool {
        let mut done = true;
        for Owned { id, uid, .. } in owned {
            let key = RetryKey::Delete(id.clone());
            if !leads() || self.must_wait(&key, uid, work) {
                done = false;
                continue;
            }
            let answer = self.writer.delete(id, uid).await;
            if self.settle(key, uid, answer, id.kind.names().2, work).is_some() {
                self.applied.forget(id);
                self.index.discard(id);
                tracing::info!(object = %id, "removed: its stack is deleted");
            } else {
                done = false;
            }
        }
        done
    }

    /// The operator does it, and not the controller that does it otherwise: the controller has to be gone before, or it
    /// would give the address back, and whoever grants a right holds it anyway.
    async fn clear(&mut self, leads: &impl Fn() -> bool, work: &mut PassResult) -> bool {
        let services = self.claims.as_ref().and_then(Claims::services).cloned();
        let mut done = true;
        for (service, version) in services.unwrap_or_default() {
            let key = RetryKey::ClearService(service.clone());
            if !leads() || self.must_wait(&key, &version, work) {
                done = false;
                continue;
            }
            let answer = self.writer.clear(&service, &version).await;
            match self.settle(key, &version, answer, "Service", work) {
                Some(true) => {
                    tracing::info!(%service, "address taken back: the stack is deleted");
                    if let Some(claims) = &mut self.claims {
                        claims.cleared(&service);
                    }
                }
                Some(false) | None => done = false,
            }
        }
        done
    }

    /// Whether a write failed lately and its time has not come.
    fn must_wait(&self, key: &RetryKey, target: &str, work: &mut PassResult) -> bool {
        let waits = self.retries.waits(Instant::now(), key, target);
        waits.is_some_and(|(message, wait)| {
            work.waits(message.to_owned(), wait);
            true
        })
    }

    /// Counts what a write came to, or arranges that it is tried again.
    fn settle<T>(
        &mut self,
        key: RetryKey,
        target: &str,
        answer: Result<T, WriteError>,
        kind: &str,
        work: &mut PassResult,
    ) -> Option<T> {
        match answer {
            Ok(answer) => {
                self.metrics.writes.with_label_values(&[kind]).inc();
                self.retries.record_success(&key);
                Some(answer)
            }
            Err(error) => {
                self.failed(key, target, &error, work);
                None
            }
        }
    }
}

fn is_held(stack: &LoadBalancerStack) -> bool {
    stack.finalizers().iter().any(|other| other == FINALIZER)
}

fn handoff(policy: DeletionPolicy) -> String {
    match policy {
        DeletionPolicy::Orphan => "the stack is deleted; what it made stays, and goes on serving",
        DeletionPolicy::BlockIfServicesExist | DeletionPolicy::Withdraw => {
            "the stack is deleted, and what it made is gone; pools and advertisements stay"
        }
    }
    .to_owned()
}
