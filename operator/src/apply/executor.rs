//! The only writer. For every write it checks leadership, waits for the retry of a failed one, counts and publishes.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use futures::StreamExt;
use kube::api::{Api, DynamicObject, Patch, PatchParams};
use kube::{Client, ResourceExt};
use lb_crds::LoadBalancerStack;
use lb_runtime::ObjectKey;
use lb_runtime::events::{EventKind, Events, Regarding, reference};
use serde_json::{Value, json};

use super::retry::{Failure, Retries};
use super::write::{Request, Write, WriteId};
use crate::desired::validation;
use crate::metrics::Metrics;
use crate::object_id::{Kind, ObjectId};
use crate::ownership;
use crate::reasons::{Reason, StackEvent};
use crate::request::{RequestError, in_time};

/// Requests at the same time.
const MAX_CONCURRENT_WRITES: usize = 16;

/// The result of a write.
#[derive(Clone, Debug)]
pub enum Written {
    /// The object as stored.
    Stored(Box<DynamicObject>),
    /// The object is deleted or being deleted.
    Deleted,
    /// Nothing was written: the object is gone or has changed, which the watch reports.
    Outdated,
    /// Nothing was written: it failed, a retry is not due, or this process does not lead.
    NotWritten,
}

impl Written {
    /// Whether the object is as wanted.
    #[must_use]
    pub fn is_done(&self) -> bool {
        matches!(self, Self::Stored(_) | Self::Deleted)
    }
}

/// Errors of a reconciliation, and when to reconcile again.
#[derive(Debug, Default)]
pub struct PassOutcome {
    /// Failures of this pass.
    pub failures: Vec<(Reason, String)>,
    /// Whether a write failed.
    pub write_failed: bool,
    /// When to reconcile again even if nothing changes.
    pub requeue_after: Option<Duration>,
}

/// Sends writes.
pub struct Executor {
    client: Client,
    leads: Box<dyn Fn() -> bool + Send + Sync>,
    metrics: Metrics,
    events: Events,
    retries: Retries,
    /// The writes that this reconciliation wants.
    wanted: BTreeSet<WriteId>,
    outcome: PassOutcome,
    /// The stack, for events.
    regarding: Option<Regarding>,
}

impl Executor {
    /// An executor. `leads` is asked before each write.
    #[must_use]
    pub fn new(
        client: Client,
        leads: impl Fn() -> bool + Send + Sync + 'static,
        metrics: Metrics,
        events: Events,
    ) -> Self {
        Self {
            client,
            leads: Box::new(leads),
            metrics,
            events,
            retries: Retries::default(),
            wanted: BTreeSet::new(),
            outcome: PassOutcome::default(),
            regarding: None,
        }
    }

    /// For reads.
    #[must_use]
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// Begins a reconciliation of this stack.
    pub fn begin(&mut self, stack: Option<&LoadBalancerStack>) {
        self.outcome = PassOutcome::default();
        self.retries.retain(&std::mem::take(&mut self.wanted));
        self.regarding = stack.map(|stack| {
            reference(
                &ObjectKey::of(stack),
                validation::API_VERSION,
                "LoadBalancerStack",
                stack.uid().map(Into::into),
            )
        });
    }

    /// The outcome since [`Self::begin`].
    pub fn outcome(&mut self) -> &mut PassOutcome {
        &mut self.outcome
    }

    /// Messages of the writes whose last attempt failed.
    #[must_use]
    pub fn failing_writes(&self) -> Vec<String> {
        self.retries.messages()
    }

    /// Reconciles again after this time at the latest.
    pub fn requeue_in(&mut self, wait: Duration) {
        let requeue_after = &mut self.outcome.requeue_after;
        *requeue_after = Some(requeue_after.map_or(wait, |other| other.min(wait)));
    }

    /// Reports a failure that is tried again after `wait`.
    pub fn fail(&mut self, reason: Reason, message: impl Into<String>, wait: Duration) {
        self.outcome.failures.push((reason, message.into()));
        self.requeue_in(wait);
    }

    /// Whether the write may be tried now; reports the failure if its retry is not due.
    pub fn is_due(&mut self, write: &Write) -> bool {
        self.wanted.insert(write.id.clone());
        let waits = self.retries.waits(Instant::now(), &write.id, &write.target);
        let Some((message, wait)) = waits.map(|(message, wait)| (message.to_owned(), wait)) else {
            return (self.leads)();
        };
        self.fail(Reason::WriteFailed, message, wait);
        false
    }

    /// Performs a write.
    pub async fn write(&mut self, write: Write) -> Written {
        if !self.is_due(&write) {
            return Written::NotWritten;
        }
        let answer = send(&self.client, &write).await;
        self.record(write, answer)
    }

    /// Performs writes whose order does not matter.
    pub async fn write_all(&mut self, writes: Vec<Write>) -> Vec<(WriteId, Written)> {
        let due = writes.into_iter().filter(|write| self.is_due(write));
        let due: Vec<_> = due.collect();
        let client = &self.client;
        let requests = due.into_iter().map(|write| async move {
            let answer = send(client, &write).await;
            (write, answer)
        });
        let answers = futures::stream::iter(requests).buffered(MAX_CONCURRENT_WRITES);
        let answers: Vec<_> = answers.collect().await;
        answers
            .into_iter()
            .map(|(write, answer)| (write.id.clone(), self.record(write, answer)))
            .collect()
    }

    fn record(&mut self, write: Write, answer: Result<Written, RequestError>) -> Written {
        match answer {
            Ok(written) => {
                self.retries.record_success(&write.id);
                if written.is_done() {
                    if !matches!(write.id, WriteId::Status(_)) {
                        tracing::info!("{}", write.id);
                        let kind = write.id.resource().0.kind;
                        self.metrics.writes.with_label_values(&[&kind]).inc();
                    }
                    self.publish(write.events);
                }
                written
            }
            Err(error) => {
                let (message, failure) = (error.to_string(), Failure::of(&error));
                let wait = self
                    .retries
                    .record_failure(Instant::now(), write.id, &write.target, failure);
                tracing::warn!(error = message, retry_in = ?wait, "write failed");
                self.outcome.write_failed = true;
                self.fail(Reason::WriteFailed, message, wait);
                Written::NotWritten
            }
        }
    }

    /// Logs and publishes events about the stack.
    pub fn publish(&self, events: Vec<StackEvent>) {
        for event in events {
            let (reason, note) = (event.reason, event.note);
            let kind = if event.warning {
                tracing::warn!(%reason, "{note}");
                EventKind::Warning
            } else {
                tracing::info!(%reason, "{note}");
                EventKind::Normal
            };
            if let Some(stack) = self.regarding.clone() {
                let related = event.related.as_ref().map(ObjectId::reference);
                self.events
                    .publish(stack, related, kind, reason.as_str(), "Reconcile", note);
            }
        }
    }
}

/// Removes the webhook of MetalLB that converts BGPPeers. An apply cannot remove fields of others, and the API server
/// refuses a webhook beside the strategy `None`.
async fn remove_conversion_webhook(api: &Api<DynamicObject>, name: &str) -> Result<(), RequestError> {
    let what = format!("remove the conversion webhook of {name}");
    let found = in_time(&what, api.get_opt(name)).await?;
    let has_webhook = |crd: &DynamicObject| crd.data.pointer("/spec/conversion/webhook").is_some();
    if found.as_ref().is_some_and(has_webhook) {
        let patch = json!({"spec": {"conversion": {"strategy": "None", "webhook": null}}});
        let params = PatchParams::default();
        in_time(&what, api.patch(name, &params, &Patch::Merge(patch))).await?;
    }
    Ok(())
}

/// Applies an object whose lists contradict ours: a port whose number somebody changed stays in the list beside ours,
/// under the same name, because an apply removes no entries of others, and the API server refuses it. A merge replaces
/// lists.
async fn replace_lists(
    api: &Api<DynamicObject>,
    name: &str,
    params: &PatchParams,
    body: &Value,
    refused: RequestError,
) -> Result<DynamicObject, RequestError> {
    let what = format!("replace the lists of {name}");
    let merge = PatchParams {
        force: false,
        ..params.clone()
    };
    match in_time(&what, api.patch(name, &merge, &Patch::Merge(body))).await {
        Ok(_) => in_time(&what, api.patch(name, params, &Patch::Apply(body))).await,
        Err(_) => Err(refused),
    }
}

/// Not in a CRD: its lists have versions that stored objects may need.
fn may_replace_lists(id: &WriteId) -> bool {
    matches!(id, WriteId::Apply(id) if id.kind != Kind::CustomResourceDefinition)
}

async fn send(client: &Client, write: &Write) -> Result<Written, RequestError> {
    let (resource, key) = write.id.resource();
    // No request has this precondition, so it is read as late as possible.
    if let (Some(take_over), WriteId::Apply(id)) = (write.take_over, &write.id) {
        let found = in_time(format!("read {id}"), ownership::foreign_object(client, id)).await?;
        if let Some(foreign) = found.filter(|foreign| !take_over.allows(foreign)) {
            return Err(RequestError::Foreign(foreign));
        }
    }
    let api: Api<DynamicObject> = if key.namespace().is_empty() {
        Api::all_with(client.clone(), &resource)
    } else {
        Api::namespaced_with(client.clone(), key.namespace(), &resource)
    };
    let mut params = PatchParams {
        field_manager: Some(write.manager.to_owned()),
        ..PatchParams::default()
    };
    let patch: Patch<Value> = match &write.request {
        Request::Delete(params) => {
            return match in_time(&write.id, api.delete(key.name(), params)).await {
                Err(error) if !error.is_outdated() => Err(error),
                // Outdated: it is gone, or another object took its name.
                Ok(_) | Err(_) => Ok(Written::Deleted),
            };
        }
        Request::Apply(body) => {
            if body.pointer("/spec/conversion/strategy").and_then(Value::as_str) == Some("None") {
                remove_conversion_webhook(&api, key.name()).await?;
            }
            params.force = true;
            Patch::Apply(body.clone())
        }
        Request::Merge(body) => Patch::Merge(body.clone()),
        Request::Json(operations) => Patch::Json(operations.clone()),
    };
    let answer = if write.id.is_status() {
        in_time(&write.id, api.patch_status(key.name(), &params, &patch)).await
    } else {
        let answer = in_time(&write.id, api.patch(key.name(), &params, &patch)).await;
        match (&write.request, answer) {
            (Request::Apply(body), Err(error)) if error.is_invalid() && may_replace_lists(&write.id) => {
                replace_lists(&api, key.name(), &params, body, error).await
            }
            (_, answer) => answer,
        }
    };
    // An object is applied whatever its state.
    let is_conditional = !matches!(write.id, WriteId::Apply(_) | WriteId::Restore(_));
    match answer {
        Ok(stored) => Ok(Written::Stored(Box::new(stored))),
        Err(error) if is_conditional && error.is_outdated() => Ok(Written::Outdated),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
#[path = "executor_tests.rs"]
mod tests;
