//! Writes the stack's status and publishes events.

use jiff::Timestamp;
use kube::ResourceExt;
use kube::api::DynamicObject;
use lb_crds::LoadBalancerStack;
use lb_runtime::text::truncate;

use super::{Operator, TICK};
use crate::apply::executor::Written;
use crate::apply::write::Write;
use crate::desired::config::StackConfig;
use crate::desired::validation::SpecError;
use crate::reasons::StackEvent;
use crate::status::{MESSAGE_LIMIT, StatusInput, UpgradeInput, events, status};
use crate::upgrade::UpgradeState;

impl Operator {
    /// The input of the status before anything is done.
    pub(super) fn status_input(
        &self,
        stack: &LoadBalancerStack,
        namespace: &str,
        config: &Result<StackConfig, SpecError>,
    ) -> StatusInput {
        let status = stack.status.as_ref();
        StatusInput {
            generation: stack.metadata.generation.unwrap_or_default(),
            operator_version: self.operator_config.version.clone(),
            target_version: config.as_ref().ok().map(|config| config.version.clone()),
            paused: stack.spec.paused,
            invalid: config.as_ref().err().map(ToString::to_string),
            failures: Vec::new(),
            pending: Vec::new(),
            health: self.stack_health(stack, namespace),
            preflight: Vec::new(),
            blocked: None,
            deletion: None,
            adoption: None,
            upgrade: UpgradeInput {
                state: status.map(UpgradeState::from_status).unwrap_or_default(),
                ..UpgradeInput::default()
            },
        }
    }

    /// Records the stack as stored: the next reconciliation starts from it.
    pub(super) fn remember(&mut self, stored: &DynamicObject) {
        if let Some(known) = &mut self.stack
            && let Ok(stored) = stored.clone().try_parse::<LoadBalancerStack>()
            && known.uid() == stored.uid()
        {
            *known = stored;
        }
    }

    /// Writes the status if it changed, and publishes these events and those for the changes. Returns whether the stored
    /// status is current.
    pub(super) async fn update_status(&mut self, input: &StatusInput, more_events: Vec<StackEvent>) -> bool {
        let Some(stack) = self.stack.clone() else {
            return false;
        };
        let before = stack.status.clone().unwrap_or_default();
        let after = status(&before, input, Timestamp::now());
        self.metrics.set_state(&before, &after);
        if stack.status.is_some() && before == after {
            self.executor.publish(more_events);
            return true;
        }
        let mut events = events(&before, &after);
        events.extend(more_events);
        let write = Write::status(&stack, &after).with_events(events);
        let id = write.id.clone();
        let written = self.executor.write(write).await;
        if matches!(written, Written::Outdated) {
            self.executor.requeue_in(TICK);
        }
        self.absorb(&id, written)
    }

    /// Reports on the object that this version cannot decode it. Until it can, the last decoded spec is no longer
    /// applied.
    pub(super) async fn report_undecodable(&mut self, name: String, error: String) {
        self.stack = None;
        let version = &self.operator_config.version;
        let message = format!(
            "operator version {version} cannot decode this object: {}; upgrade the operator or correct the spec; running \
             workloads are not changed",
            truncate(error.clone(), MESSAGE_LIMIT)
        );
        let write = Write::undecodable(&name, &message, Timestamp::now());
        if matches!(self.executor.write(write).await, Written::NotWritten) {
            self.undecodable = Some((name, error));
            self.executor.requeue_in(TICK);
        }
    }
}
