//! Condition Progressing: pods are being created or replaced.

use lb_crds::load_balancer_stack::{AdoptionStep, PlanStatus, UpgradeStep};

use super::{NewCondition, PAUSED, StatusInput, adoption};
use crate::observe::workload_health::WorkloadHealth;
use crate::reasons::Reason;
use crate::upgrade::state::describe;

pub(super) fn condition(input: &StatusInput) -> NewCondition {
    let new = |status, reason, message| NewCondition::new("Progressing", status, reason, message);
    if input.invalid.is_some() {
        return new(
            false,
            Reason::InvalidSpec,
            "invalid spec: see condition Degraded".to_owned(),
        );
    }
    if input.paused {
        return new(false, Reason::Paused, PAUSED.to_owned());
    }
    if input.blocked.is_some() {
        return new(
            false,
            Reason::PreflightFailed,
            "waiting for preflight checks: see condition PreflightPassed".to_owned(),
        );
    }
    if let Some(report) = input.deletion.as_ref().filter(|report| !report.blocked) {
        return new(true, report.reason, report.message.clone());
    }
    if let Some(report) = &input.adoption
        && report.step != AdoptionStep::Adopted
    {
        let step = report.step.as_str();
        let message = format!("adoption of MetalLB: step {step}: {}", report.message);
        return new(!report.blocked, adoption::reason(report), message);
    }
    if let Some(upgrade) = &input.upgrade.state.upgrade {
        let reason = match upgrade.step {
            _ if upgrade.paused.is_some() => Reason::UpgradePaused,
            UpgradeStep::RollingBack => Reason::RollingBack,
            _ => Reason::Upgrading,
        };
        let step = upgrade.step.as_str();
        let what = describe(&upgrade.from, &upgrade.to);
        let mut message = format!("{what}: step {step}");
        if let Some(node) = &upgrade.canary_node {
            message.push_str(&format!(", canary on node {node}"));
        }
        if upgrade.total > 0 {
            let wanted = if upgrade.step == UpgradeStep::RollingBack {
                "rolled back"
            } else {
                "updated"
            };
            message.push_str(&format!(
                ", {} of {} speakers {wanted}",
                upgrade.updated, upgrade.total
            ));
        }
        if upgrade.step == UpgradeStep::Preflight
            && let Some(obstacle) = &input.upgrade.obstacle
        {
            message.push_str(&format!(": {obstacle}"));
        }
        return new(upgrade.paused.is_none(), reason, message);
    }
    if let Some(plan) = &input.upgrade.plan {
        return new(false, Reason::WaitingForApproval, approval_message(plan));
    }
    let rolling: Vec<_> = input
        .health
        .components()
        .into_iter()
        .filter(|component| !component.settled)
        .map(|component| {
            let WorkloadHealth {
                desired,
                updated,
                ready,
                ..
            } = component;
            let name = component.component.name();
            format!("{name}: {updated} of {desired} updated, {ready} ready")
        })
        .collect();
    if rolling.is_empty() {
        // Shown by `kubectl get` while the deletion is blocked.
        if let Some(report) = &input.deletion {
            let message = "deletion is blocked: see condition DeletionBlocked".to_owned();
            return new(false, report.reason, message);
        }
        return new(false, Reason::AsExpected, "no rollout in progress".to_owned());
    }
    new(true, Reason::RollingOut, rolling.join("; "))
}

/// How to approve a plan.
fn approval_message(plan: &PlanStatus) -> String {
    let patch = format!(
        "{{\"spec\":{{\"upgrade\":{{\"approvedPlan\":\"{}\"}}}}}}",
        plan.hash
    );
    format!(
        "upgrade to {} waits for approval (see status.plan): kubectl patch loadbalancerstack default --type=merge -p '{patch}'",
        plan.version
    )
}
