//! Advances the upgrade: snapshot, transition, stored state, actions.

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use kube::api::Api;
use lb_crds::load_balancer_stack::{Revision, UpgradeStatus, UpgradeStep};
use lb_crds::names;

use super::{Operator, TICK};
use crate::desired::config::StackConfig;
use crate::desired::render::DesiredObject;
use crate::reasons::Reason;
use crate::request::{RequestError, in_time};
use crate::status::{StatusInput, UpgradeInput};
use crate::upgrade::objects;
use crate::upgrade::plan::upgrade_plan;
use crate::upgrade::preconditions::{blocker, preflight_obstacle};
use crate::upgrade::snapshot::build::{SnapshotInput, build};
use crate::upgrade::{ClusterSnapshot, StepActions, UpgradeState, advance, step_actions};

impl Operator {
    /// Why the spec must not be applied: no node would have a speaker. A spec that was applied before is only reported.
    pub(super) fn empty_coverage(
        &self,
        rendered: &[DesiredObject],
        config: &StackConfig,
        state: &UpgradeState,
    ) -> Option<String> {
        let target = objects::revision(rendered, &config.version);
        let runs = |known: &Revision| known.revision == target.revision;
        let under_way = |upgrade: &UpgradeStatus| upgrade.step > UpgradeStep::Preflight && runs(&upgrade.to);
        if state.last_good.as_ref().is_some_and(runs) || state.upgrade.as_ref().is_some_and(under_way) {
            return None;
        }
        objects::empty_coverage(rendered, self.index.nodes())
    }

    /// Advances the upgrade, if there is one. Returns the actions of its state; `None` if the state was not stored.
    pub(super) async fn advance_upgrade(
        &mut self,
        config: &StackConfig,
        rendered: &[DesiredObject],
        input: &mut StatusInput,
    ) -> Option<StepActions> {
        let target = objects::revision(rendered, &config.version);
        let before = input.upgrade.state.clone();
        let leader = match self.controller_leader(config, &before, input).await {
            Ok(leader) => leader,
            Err(error) => {
                self.executor.fail(Reason::WriteFailed, error.to_string(), TICK);
                return None;
            }
        };
        let now = Timestamp::now();
        let snapshot = self.snapshot(config, rendered, &target, input, leader.as_deref(), now);
        let mut state = before.clone();
        if !std::mem::replace(&mut self.resumed, true) {
            state.resume(now);
        }
        let (state, events) = advance(&state, &snapshot, now);
        let actions = step_actions(&state, &snapshot, now);
        let upgrade = state.upgrade.as_ref();
        input.upgrade = UpgradeInput {
            plan: actions.needs_approval.then(|| {
                let hash = state.plan_hash(&snapshot);
                let (health, settings) = (&input.health, &snapshot.settings);
                upgrade_plan(hash, &config.version, rendered, &self.index, health, settings)
            }),
            rejected: state
                .failed_revision(&snapshot)
                .map(|rejected| rejected.reason.clone()),
            start_blocked: upgrade
                .is_some_and(|upgrade| snapshot.observes && blocker(upgrade, &snapshot).is_some()),
            obstacle: upgrade.and_then(|upgrade| preflight_obstacle(upgrade, &snapshot, now)),
            state: state.clone(),
        };
        input.blocked = self.blocks_upgrade(&state);
        if state != before {
            // The state is written before anything is applied: another operator may have to continue from it.
            if !self.update_status(input, events).await {
                input.upgrade.state = before;
                return None;
            }
            self.metrics.upgraded(&before, &state);
        }
        if actions.polls {
            self.executor.requeue_in(TICK);
        }
        if let Some(refused) = snapshot.crds_refused.filter(|_| actions.apply_crds) {
            let failures = &mut self.executor.outcome().failures;
            failures.push((Reason::WriteFailed, refused));
        }
        Some(actions)
    }

    /// The input of the upgrade state machine.
    fn snapshot(
        &self,
        config: &StackConfig,
        rendered: &[DesiredObject],
        target: &Revision,
        input: &StatusInput,
        leader: Option<&str>,
        now: Timestamp,
    ) -> ClusterSnapshot {
        let mut snapshot = build(&SnapshotInput {
            config,
            rendered,
            target,
            state: &input.upgrade.state,
            upgrade: self.stack.as_ref().and_then(|stack| stack.spec.upgrade.as_ref()),
            generation: input.generation,
            paused: input.paused,
            operator_version: &self.operator_config.version,
            index: &self.index,
            applied: &self.applied,
            health: &input.health,
            observer: self.observer.as_ref(),
            leader,
            failing_writes: self.executor.failing_writes(),
            now,
        });
        snapshot.obstacle = snapshot
            .obstacle
            .or_else(|| self.preflight.report.blocked_by.clone());
        snapshot
    }

    /// The pod that holds the controllers' Lease, read only while an upgrade waits for a new leader.
    async fn controller_leader(
        &self,
        config: &StackConfig,
        state: &UpgradeState,
        input: &StatusInput,
    ) -> Result<Option<String>, RequestError> {
        let step = state.upgrade.as_ref().map(|upgrade| upgrade.step);
        if step != Some(UpgradeStep::Controller) || !input.health.controller.settled {
            return Ok(None);
        }
        let api: Api<Lease> = Api::namespaced(self.executor.client().clone(), &config.namespace);
        let lease = api.get_opt(names::CONTROLLER_LEASE);
        let lease = in_time("read the controllers' Lease", lease).await?;
        Ok(lease.and_then(|lease| lease.spec?.holder_identity))
    }
}
