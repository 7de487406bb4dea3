//! Writes the stack's status and publishes events.

use std::time::Instant;

use jiff::Timestamp;
use kube::ResourceExt;
use lb_crds::LoadBalancerStack;
use lb_runtime::ObjectKey;
use lb_runtime::events::{EventKind, reference};
use lb_runtime::text::truncate;

use super::{Operator, ReconcileOutcome, TICK};
use crate::apply::WriteError;
use crate::apply::retry::RetryKey;
use crate::desired::validation;
use crate::object_id::ObjectId;
use crate::reasons::StackEvent;
use crate::status::{MESSAGE_LIMIT, StatusInput, events, status};

impl Operator {
    /// Records the stack as stored: the watch may lag behind, and the next reconciliation starts from it.
    pub(super) fn remember(&mut self, stored: LoadBalancerStack) {
        if self
            .stack
            .as_ref()
            .is_some_and(|known| known.uid() == stored.uid())
        {
            self.stack = Some(stored);
        }
    }

    /// Writes the status if it changed, and publishes events for the changes. Returns whether the stored status is
    /// current.
    pub(super) async fn update_status(
        &mut self,
        input: &StatusInput,
        outcome: &mut ReconcileOutcome,
    ) -> bool {
        let Some(stack) = self.stack.clone() else {
            return false;
        };
        let before = stack.status.clone().unwrap_or_default();
        let after = status(&before, input, Timestamp::now());
        self.metrics.set_state(&before, &after);
        if stack.status.is_some() && before == after {
            return true;
        }
        if let Some((message, wait)) = self.retries.waits(Instant::now(), &RetryKey::Status, "") {
            outcome.record_failure(message.to_owned(), wait);
            return false;
        }
        match self.writer.status(&stack, &after).await {
            Ok(stored) => {
                self.retries.record_success(&RetryKey::Status);
                self.publish_all(events(&before, &after));
                self.remember(stored);
                true
            }
            // Deleted or changed in between: the watch reports it.
            Err(WriteError::Status { source }) if matches!(&*source, kube::Error::Api(s) if matches!(s.code, 404 | 409)) =>
            {
                outcome.requeue_in(TICK);
                false
            }
            Err(error) => {
                self.failed(RetryKey::Status, "", &error, outcome);
                false
            }
        }
    }

    /// Reports on the object that this version cannot decode it. Until it can, the last decoded spec is no longer
    /// applied.
    pub(super) async fn report_undecodable(
        &mut self,
        name: String,
        error: String,
        leads: &impl Fn() -> bool,
    ) {
        self.stack = None;
        if !leads() {
            self.undecodable = Some((name, error));
            return;
        }
        let version = &self.operator_config.version;
        let message = format!(
            "operator version {version} cannot decode this object: {}; upgrade the operator or correct the spec; running \
             workloads are not changed",
            truncate(error.clone(), MESSAGE_LIMIT)
        );
        if let Err(failure) = self.writer.undecodable(&name, &message, Timestamp::now()).await {
            tracing::warn!(error = %failure, "failed to report the undecodable stack; retrying");
            self.undecodable = Some((name, error));
        }
    }

    pub(super) fn publish_all(&self, events: Vec<StackEvent>) {
        events.into_iter().for_each(|event| self.log_and_publish(event));
    }

    pub(super) fn log_and_publish(&self, event: StackEvent) {
        let StackEvent { reason, note, .. } = &event;
        if event.warning {
            tracing::warn!(%reason, "{note}");
        } else {
            tracing::info!(%reason, "{note}");
        }
        self.publish(event);
    }

    pub(super) fn publish(&self, event: StackEvent) {
        let Some(stack) = &self.stack else {
            return;
        };
        let regarding = reference(
            &ObjectKey::of(stack),
            validation::API_VERSION,
            "LoadBalancerStack",
            stack.uid().map(Into::into),
        );
        let kind = if event.warning {
            EventKind::Warning
        } else {
            EventKind::Normal
        };
        let related = event.related.as_ref().map(ObjectId::reference);
        self.events.publish(
            regarding,
            related,
            kind,
            event.reason.as_str(),
            "Reconcile",
            event.note,
        );
    }
}
