//! Condition Degraded: something failed and needs a person.

use lb_crds::load_balancer_stack::{AdoptionStep, PauseReason, UpgradeStep};
use lb_runtime::text::truncate;

use super::{MESSAGE_LIMIT, NewCondition, StatusInput, UpgradeInput, first_few, ratio};
use crate::reasons::Reason;
use crate::upgrade::state::describe;

pub(super) fn condition(input: &StatusInput) -> NewCondition {
    let new = |status, reason, message| NewCondition::new("Degraded", status, reason, message);
    let health = &input.health;
    if let Some(invalid) = &input.invalid {
        let message = format!("{invalid}; running workloads are not changed");
        return new(true, Reason::InvalidSpec, message);
    }
    if let Some(blocked) = &input.blocked {
        let message = format!("installation is blocked: {blocked}; running workloads are not changed");
        return new(true, Reason::PreflightFailed, message);
    }
    if let Some(report) = input.adoption.as_ref().filter(|report| report.blocked) {
        return new(true, Reason::AdoptionBlocked, report.message.clone());
    }
    if let Some((reason, message)) = failed_upgrade(&input.upgrade) {
        return new(true, reason, message);
    }
    if let Some((reason, _)) = input.failures.first() {
        let messages: Vec<_> = input.failures.iter().map(|(_, text)| text.as_str()).collect();
        return new(true, *reason, first_few(&messages));
    }
    if !health.problems.is_empty() {
        let problems: Vec<_> = health.problems.iter().map(String::as_str).collect();
        return new(true, Reason::PodsFailing, first_few(&problems));
    }
    let adopts = input
        .adoption
        .as_ref()
        .is_some_and(|report| report.step != AdoptionStep::Adopted);
    if health.settled() && health.announcing_nodes == 0 && !adopts {
        let message = format!(
            "no speaker is ready on a node that may announce addresses (speakers {}): check spec.speaker.nodeSelector, \
             affinity and tolerations, and the labels and taints of the nodes",
            ratio(&health.speaker)
        );
        return new(true, Reason::NoSpeaker, message);
    }
    let stalled = health
        .components()
        .into_iter()
        .find_map(|component| component.stalled.as_ref());
    if let Some(stalled) = stalled {
        return new(true, Reason::RolloutStalled, stalled.clone());
    }
    new(false, Reason::AsExpected, "no problems detected".to_owned())
}

/// Reason and message of a failed upgrade.
fn failed_upgrade(input: &UpgradeInput) -> Option<(Reason, String)> {
    let cut = |text: &String| truncate(text.clone(), MESSAGE_LIMIT);
    if let Some(upgrade) = &input.state.upgrade {
        let what = describe(&upgrade.from, &upgrade.to);
        let from = &upgrade.from.version;
        let failure = upgrade.failure.as_ref().map(cut);
        let waits = upgrade.waiting_for.as_ref().map(cut).unwrap_or_default();
        return match (upgrade.paused, failure) {
            (Some(PauseReason::HealthCheckFailed), failure) => Some((
                Reason::UpgradePaused,
                format!(
                    "{what} failed and is paused: {}; revert the spec, or change spec.upgrade.retry to try again",
                    failure.unwrap_or_default()
                ),
            )),
            (Some(PauseReason::Infrastructure | PauseReason::NoProgress), _) => Some((
                Reason::UpgradePaused,
                format!(
                    "{what} is paused: {waits}; it continues when this is resolved; revert the spec to abort, or list \
                     nodes in spec.upgrade.skipNodes"
                ),
            )),
            (Some(PauseReason::RollbackIncomplete), _) => Some((
                Reason::UpgradePaused,
                format!(
                    "{what} failed, and the rollback to {from} is incomplete: {waits}; the other nodes keep their present \
                     speaker; mend these nodes, list them in spec.upgrade.skipNodes, or set a version that runs"
                ),
            )),
            (None, Some(failure)) if upgrade.step == UpgradeStep::RollingBack => Some((
                Reason::RollingBack,
                format!("{what} failed: {failure}; rolling back to {from}"),
            )),
            (None, Some(failure)) => Some((
                Reason::UpgradeFailed,
                format!("{what} continues in spite of a failed health check: {failure}"),
            )),
            (None, None) => None,
        };
    }
    let failure = cut(input.rejected.as_ref()?);
    let good = input.state.last_good.clone().unwrap_or_default();
    Some((
        Reason::RolledBack,
        format!(
            "upgrade failed and was rolled back to version {} (revision {}): {failure}; retried when the spec or the \
             operator version changes",
            good.version, good.revision
        ),
    ))
}
