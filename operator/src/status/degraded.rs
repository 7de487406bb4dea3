//! Condition Degraded: something failed and needs a person.

use lb_runtime::text::truncate;

use super::{MESSAGE_LIMIT, NewCondition, StatusInput, UpgradeInput, first_few};
use crate::reasons::Reason;

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
    if let Some(upgrade) = &input.state.upgrade {
        let failure = upgrade.failure.as_ref()?;
        let (to, from) = (&upgrade.to.version, &upgrade.from.version);
        let failure = truncate(failure.clone(), MESSAGE_LIMIT);
        return Some(if upgrade.paused {
            let todo = "revert spec.version, or change the spec to retry";
            let message = format!("upgrade to {to} failed and is paused: {failure}; {todo}");
            (Reason::UpgradePaused, message)
        } else {
            let message = format!("upgrade to {to} failed: {failure}; rolling back to {from}");
            (Reason::RollingBack, message)
        });
    }
    let failure = truncate(input.rejected.clone()?, MESSAGE_LIMIT);
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
