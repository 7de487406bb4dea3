//! Runs the checks of [`crate::preflight`] and holds writes that they block.

use std::time::{Duration, Instant};

use lb_crds::LoadBalancerStack;
use lb_crds::load_balancer_stack::{PreflightName, UpgradeStep};

use super::Operator;
use crate::desired::config::StackConfig;
use crate::desired::render::DesiredObject;
use crate::drift::diff::Difference;
use crate::preflight::collect::FactsRequest;
use crate::preflight::gate::is_first_installation;
use crate::preflight::{ClusterFacts, PreflightReport, PreflightSchedule, failures};
use crate::upgrade::UpgradeState;

/// The state of the checks.
#[derive(Debug, Default)]
pub(super) struct PreflightState {
    schedule: PreflightSchedule,
    /// The report about the present spec.
    pub(super) report: PreflightReport,
    /// The next collection of facts, if it is due.
    request: Option<FactsRequest>,
}

impl PreflightState {
    /// How many nodes the cluster has, if that is known.
    pub(super) fn nodes(&self) -> Option<usize> {
        self.schedule.nodes()
    }
}

impl Operator {
    /// The collection of facts that is due. The caller must pass the facts to [`Self::store_facts`].
    #[must_use]
    pub fn take_facts_request(&mut self) -> Option<FactsRequest> {
        let request = self.preflight.request.take()?;
        self.preflight.schedule.begin();
        Some(request)
    }

    /// Stores collected facts.
    pub fn store_facts(&mut self, facts: ClusterFacts) {
        self.preflight.schedule.store(Instant::now(), facts);
    }

    /// Runs the checks.
    pub(super) fn run_preflight(&mut self, stack: &LoadBalancerStack, config: &StackConfig) {
        let generation = stack.metadata.generation.unwrap_or_default();
        self.preflight.report = self.preflight.schedule.report(config, skipped(stack), generation);
    }

    /// The failed checks that block a first installation; `None` if the writes are something else.
    pub(super) fn blocks_first_installation(&self, todo: &Difference<'_>) -> Option<String> {
        let reason = self.preflight.report.blocked_by.as_ref()?;
        is_first_installation(todo, &self.index, self.has_run()).then(|| reason.clone())
    }

    /// Whether the status says that this stack has run before.
    fn has_run(&self) -> bool {
        let status = self.stack.as_ref().and_then(|stack| stack.status.as_ref());
        status.is_some_and(|status| status.last_good.is_some())
    }

    /// The failed checks that keep an upgrade in its first step. Later steps, and a rollback, are not blocked.
    pub(super) fn blocks_upgrade(&self, state: &UpgradeState) -> Option<String> {
        let upgrade = state.upgrade.as_ref()?;
        let report = &self.preflight.report;
        let waits = upgrade.step == UpgradeStep::Preflight && report.is_known();
        report.blocked_by.clone().filter(|_| waits)
    }

    /// Schedules the next collection of facts.
    pub(super) fn schedule_preflight(
        &mut self,
        stack: &LoadBalancerStack,
        config: &StackConfig,
        rendered: &[DesiredObject],
        waits: bool,
    ) {
        let generation = stack.metadata.generation.unwrap_or_default();
        let fails = failures(&self.preflight.report.checks).is_some();
        match self
            .preflight
            .schedule
            .wait(Instant::now(), generation, fails, waits)
        {
            Some(Duration::ZERO) => {
                self.preflight.request = Some(FactsRequest {
                    generation,
                    namespace: config.namespace.clone(),
                    node_selector: config.speaker.selector(),
                    absent_objects: rendered
                        .iter()
                        .filter(|wanted| self.index.get(&wanted.id).is_none())
                        .map(|wanted| wanted.id.clone())
                        .collect(),
                });
            }
            Some(wait) => self.executor.requeue_in(wait),
            None => {}
        }
    }
}

fn skipped(stack: &LoadBalancerStack) -> &[PreflightName] {
    stack
        .spec
        .preflight
        .as_ref()
        .map_or(&[], |preflight| &preflight.skip)
}
