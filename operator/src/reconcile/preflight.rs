//! Asks for looks at the cluster, and lets through what [`crate::preflight`] says may be done.

use std::time::{Duration, Instant};

use lb_crds::LoadBalancerStack;
use lb_crds::load_balancer_stack::{PreflightName, UpgradeStep};

use super::{Operator, PassResult};
use crate::desired::config::StackConfig;
use crate::drift::diff::Difference;
use crate::preflight::collect::Request;
use crate::preflight::gate::is_first_installation;
use crate::preflight::{Facts, Turn, Verdict, failures};
use crate::upgrade::UpgradeState;

/// What the operator knows of the checks.
#[derive(Debug, Default)]
pub(super) struct Preflight {
    turn: Turn,
    /// What the checks say about the present spec.
    pub(super) verdict: Verdict,
    /// The look that is to be taken next.
    request: Option<Request>,
}

impl Operator {
    /// A look at the cluster that is due; whoever asks is to take it and to bring back what it saw.
    #[must_use]
    pub fn look_due(&mut self) -> Option<Request> {
        let request = self.preflight.request.take()?;
        self.preflight.turn.begin();
        Some(request)
    }

    /// What a look at the cluster saw.
    pub fn looked(&mut self, facts: Facts) {
        self.preflight.turn.take(Instant::now(), facts);
    }

    /// Makes the checks.
    pub(super) fn check(&mut self, stack: &LoadBalancerStack, plan: &StackConfig) {
        let generation = stack.metadata.generation.unwrap_or_default();
        self.preflight.verdict = self.preflight.turn.verdict(plan, skipped(stack), generation);
    }

    /// Of what is to be done, what may be done; `work` is told why the rest may not.
    pub(super) fn admit<'a>(&self, todo: Difference<'a>, work: &mut PassResult) -> Difference<'a> {
        match &self.preflight.verdict.blocks {
            Some(reason) if is_first_installation(&todo, &self.index, self.has_run()) => {
                work.blocked = Some(reason.clone());
                Difference::default()
            }
            Some(_) | None => todo,
        }
    }

    /// Whether this stack has run before, says its status.
    fn has_run(&self) -> bool {
        let status = self.stack.as_ref().and_then(|stack| stack.status.as_ref());
        status.is_some_and(|status| status.last_good.is_some())
    }

    /// Why an upgrade that is under way does not get beyond its first step, if a check is the reason. What has got
    /// further goes on, and back if need be.
    pub(super) fn blocks_upgrade(&self, state: &UpgradeState) -> Option<String> {
        let upgrade = state.upgrade.as_ref()?;
        let verdict = &self.preflight.verdict;
        let waits = upgrade.step == UpgradeStep::Preflight && verdict.is_known();
        verdict.blocks.clone().filter(|_| waits)
    }

    /// Sees to the next look.
    pub(super) fn plan_look(
        &mut self,
        stack: &LoadBalancerStack,
        plan: &StackConfig,
        waits: bool,
        work: &mut PassResult,
    ) {
        let generation = stack.metadata.generation.unwrap_or_default();
        let fails = failures(&self.preflight.verdict.checks).is_some();
        match self.preflight.turn.wait(Instant::now(), generation, fails, waits) {
            Some(Duration::ZERO) => {
                self.preflight.request = Some(Request {
                    generation,
                    namespace: plan.namespace.clone(),
                    node_selector: plan.speaker.selector(),
                });
            }
            Some(wait) => work.again_in(wait),
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
