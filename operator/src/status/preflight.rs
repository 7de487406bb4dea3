//! Condition and events of the preflight checks.

use lb_crds::LoadBalancerStackStatus;
use lb_crds::load_balancer_stack::{PreflightCheck, PreflightResult};

use super::NewCondition;
use crate::preflight::failures;
use crate::reasons::{Reason, StackEvent};

/// Condition PreflightPassed.
pub(super) fn condition(checks: &[PreflightCheck]) -> NewCondition {
    let failed = failures(checks);
    let (status, reason) = match failed {
        Some(_) => (false, Reason::PreflightFailed),
        None => (true, Reason::PreflightPassed),
    };
    let message = failed.unwrap_or_else(|| {
        let of = |result: PreflightResult, what: &str| {
            let names: Vec<_> = checks
                .iter()
                .filter(|check| check.result == result)
                .map(|check| check.name.as_str())
                .collect();
            (!names.is_empty()).then(|| format!("; {what}: {}", names.join(", ")))
        };
        let warnings = of(PreflightResult::Warning, "warnings").unwrap_or_default();
        let unknown = of(PreflightResult::Unknown, "unknown").unwrap_or_default();
        let skipped = of(PreflightResult::Skipped, "skipped").unwrap_or_default();
        format!("no check failed{warnings}{unknown}{skipped}")
    });
    NewCondition {
        type_: "PreflightPassed",
        status,
        reason,
        message,
    }
}

/// Checks that failed while nothing waits for them, and those that the spec overrode.
pub(super) fn events(before: &LoadBalancerStackStatus, after: &LoadBalancerStackStatus) -> Vec<StackEvent> {
    let reason = Reason::PreflightFailed;
    let known = |check: &PreflightCheck| {
        let mut others = before.preflight.iter();
        others.any(|other| {
            (other.name, other.result, other.overridden) == (check.name, check.result, check.overridden)
        })
    };
    // A blocked change is reported by the condition Degraded.
    let waits = after
        .conditions
        .iter()
        .any(|condition| condition.type_ == "Degraded" && condition.reason == reason.as_str());
    let mut events = Vec::new();
    for check in after.preflight.iter().filter(|check| !known(check)) {
        let name = check.name.as_str();
        if check.result == PreflightResult::Failed && !waits {
            events.push(StackEvent::warning(reason, format!("{name}: {}", check.message)));
        }
        if check.overridden {
            let note = format!(
                "spec.preflight.skip overrides the failed check {name}: {}",
                check.message
            );
            events.push(StackEvent::warning(Reason::PreflightSkipped, note));
        }
    }
    events
}
