//! The stack's state in one word, `status.phase`.
//!
//! The first row that applies wins:
//!
//! | phase | when |
//! | --- | --- |
//! | `Paused` | `spec.paused` is set, or an upgrade is paused: `status.upgrade.paused` says why |
//! | `Deleting` | the stack is being deleted, nothing blocks that, and no write failed |
//! | `Degraded` | the spec is invalid: nothing proceeds, not even a rollback |
//! | `RollingBack` | an upgrade is being undone |
//! | `Blocked` | a preflight check, an approval, a deletion policy or a MetalLB that cannot be adopted |
//! | `Degraded` | the condition `Degraded` is True, also during an upgrade |
//! | `Upgrading` | an upgrade is in progress and nothing failed |
//! | `Installing` | the stack is being installed, adopts MetalLB or restores it, or is not ready for another reason |
//! | `Ready` | the condition `Ready` is True |

use lb_crds::load_balancer_stack::{StackPhase, UpgradeStep};

use super::StatusInput;

/// `ready` and `degraded` are the conditions of the same name.
pub(super) fn phase(input: &StatusInput, ready: bool, degraded: bool) -> StackPhase {
    let upgrade = input.upgrade.state.upgrade.as_ref();
    let deletion = input.deletion.as_ref();
    if input.paused || upgrade.is_some_and(|upgrade| upgrade.paused.is_some()) {
        StackPhase::Paused
    } else if deletion.is_some_and(|report| !report.blocked) && input.failures.is_empty() {
        StackPhase::Deleting
    } else if input.invalid.is_some() {
        StackPhase::Degraded
    } else if upgrade.is_some_and(|upgrade| upgrade.step == UpgradeStep::RollingBack) {
        StackPhase::RollingBack
    } else if is_blocked(input) {
        StackPhase::Blocked
    } else if degraded {
        StackPhase::Degraded
    } else if upgrade.is_some() {
        StackPhase::Upgrading
    } else if ready {
        StackPhase::Ready
    } else {
        StackPhase::Installing
    }
}

/// A person has to act before anything proceeds. An upgrade that has passed its step Preflight proceeds whatever else
/// waits.
fn is_blocked(input: &StatusInput) -> bool {
    let can_start = match &input.upgrade.state.upgrade {
        Some(upgrade) if upgrade.step == UpgradeStep::Preflight => !input.upgrade.start_blocked,
        Some(_) => return false,
        None => true,
    };
    !can_start
        || input.blocked.is_some()
        || input.upgrade.plan.is_some()
        || input.deletion.as_ref().is_some_and(|report| report.blocked)
        || input.adoption.as_ref().is_some_and(|report| report.blocked)
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use lb_crds::LoadBalancerStackStatus;
    use lb_crds::load_balancer_stack::{AdoptionStep, PlanStatus, UpgradeStatus};

    use super::super::tests::{mk_input, mk_settled};
    use super::*;
    use crate::adoption::AdoptionReport;
    use crate::deletion::DeletionReport;
    use crate::observe::workload_health::tests::mk_speaker;
    use crate::status::{Reason, status};

    fn set_upgrade(input: &mut StatusInput, step: UpgradeStep, failure: Option<&str>, paused: bool) {
        let upgrade: UpgradeStatus = serde_json::from_value(serde_json::json!({
            "from": {"version": "0.1.0", "revision": "a", "controller": "a", "speaker": "a"},
            "to": {"version": "0.2.0", "revision": "b", "controller": "b", "speaker": "b"},
            "step": step,
            "startedTime": "2026-01-01T00:00:00Z",
            "progressTime": "2026-01-01T00:00:00Z",
            "failure": failure,
            "paused": paused.then_some("HealthCheckFailed"),
            "generation": 1,
        }))
        .unwrap();
        input.upgrade.state.upgrade = Some(upgrade);
    }

    fn set_deletion(input: &mut StatusInput, blocked: bool) {
        input.deletion = Some(DeletionReport {
            blocked,
            reason: if blocked {
                Reason::ServicesExist
            } else {
                Reason::Deleting
            },
            message: String::new(),
        });
    }

    fn set_adoption(input: &mut StatusInput, step: AdoptionStep, blocked: bool) {
        input.adoption = Some(AdoptionReport {
            step,
            blocked,
            message: String::new(),
        });
    }

    fn fail_write(input: &mut StatusInput) {
        input.failures.push((Reason::WriteFailed, "refused".to_owned()));
    }

    fn unsettle(input: &mut StatusInput) {
        let mut index = mk_settled();
        mk_speaker(&mut index, 1, 1, [3, 3, 2]);
        input.health = mk_input(&index).health;
    }

    #[test]
    fn first_matching_row_wins() {
        use StackPhase::{Blocked, Degraded, Deleting, Installing, Paused, Ready, RollingBack, Upgrading};
        type Change = fn(&mut StatusInput);
        let cases: &[(&str, StackPhase, Change)] = &[
            ("settled", Ready, |_| {}),
            ("rolling out", Installing, unsettle),
            ("adopting", Installing, |input| {
                set_adoption(input, AdoptionStep::Speakers, false)
            }),
            ("adopted", Ready, |input| {
                set_adoption(input, AdoptionStep::Adopted, false)
            }),
            ("restoring", Installing, |input| {
                set_adoption(input, AdoptionStep::Restoring, false)
            }),
            ("write failed", Degraded, fail_write),
            ("write failed while rolling out", Degraded, |input| {
                unsettle(input);
                fail_write(input);
            }),
            ("invalid", Degraded, |input| input.invalid = Some(String::new())),
            ("upgrading", Upgrading, |input| {
                set_upgrade(input, UpgradeStep::Soak, None, false)
            }),
            ("upgrading, not settled", Upgrading, |input| {
                set_upgrade(input, UpgradeStep::Speakers, None, false);
                unsettle(input);
            }),
            ("write failed during upgrade", Degraded, |input| {
                set_upgrade(input, UpgradeStep::Soak, None, false);
                fail_write(input);
            }),
            ("pod failed during upgrade", Degraded, |input| {
                set_upgrade(input, UpgradeStep::Canary, None, false);
                input.health.problems.push("ErrImagePull".to_owned());
            }),
            ("rolling back", RollingBack, |input| {
                set_upgrade(input, UpgradeStep::RollingBack, Some("crashed"), false);
            }),
            ("rolling back, write failed", RollingBack, |input| {
                set_upgrade(input, UpgradeStep::RollingBack, Some("crashed"), false);
                fail_write(input);
            }),
            ("rolling back, invalid", Degraded, |input| {
                set_upgrade(input, UpgradeStep::RollingBack, Some("crashed"), false);
                input.invalid = Some(String::new());
            }),
            ("rolled back", Degraded, |input| {
                input.upgrade.rejected = Some("crashed".to_owned())
            }),
            ("upgrade failed and paused", Paused, |input| {
                set_upgrade(input, UpgradeStep::Soak, Some("crashed"), true);
            }),
            ("spec.paused", Paused, |input| input.paused = true),
            ("spec.paused during rollback", Paused, |input| {
                set_upgrade(input, UpgradeStep::RollingBack, Some("crashed"), false);
                input.paused = true;
            }),
            ("spec.paused, invalid", Paused, |input| {
                input.paused = true;
                input.invalid = Some(String::new());
            }),
            ("preflight failed", Blocked, |input| {
                input.blocked = Some(String::new())
            }),
            ("preflight failed before upgrade", Blocked, |input| {
                set_upgrade(input, UpgradeStep::Preflight, None, false);
                input.blocked = Some(String::new());
            }),
            ("preflight pending before upgrade", Upgrading, |input| {
                set_upgrade(input, UpgradeStep::Preflight, None, false);
                input.upgrade.obstacle = Some(String::new());
            }),
            ("no revision to roll back to", Blocked, |input| {
                set_upgrade(input, UpgradeStep::Preflight, None, false);
                input.upgrade.start_blocked = true;
            }),
            ("first installation, no revision stored", Installing, |input| {
                unsettle(input);
                input.upgrade.start_blocked = true;
            }),
            ("waiting for approval", Blocked, |input| {
                input.upgrade.plan = Some(PlanStatus::default());
            }),
            ("adoption blocked", Blocked, |input| {
                set_adoption(input, AdoptionStep::Controller, true)
            }),
            ("deletion blocked", Blocked, |input| set_deletion(input, true)),
            ("deletion blocked, write failed", Blocked, |input| {
                set_deletion(input, true);
                fail_write(input);
            }),
            ("deletion blocked during upgrade", Upgrading, |input| {
                set_upgrade(input, UpgradeStep::Soak, None, false);
                set_deletion(input, true);
            }),
            ("deleting", Deleting, |input| set_deletion(input, false)),
            ("deleting during rollback", Deleting, |input| {
                set_upgrade(input, UpgradeStep::RollingBack, Some("crashed"), false);
                set_deletion(input, false);
            }),
            ("deleting, invalid", Deleting, |input| {
                set_deletion(input, false);
                input.invalid = Some(String::new());
            }),
            ("deleting, write failed", Degraded, |input| {
                set_deletion(input, false);
                fail_write(input);
            }),
        ];
        for (name, expected, change) in cases {
            let mut input = mk_input(&mk_settled());
            change(&mut input);
            let after = status(&LoadBalancerStackStatus::default(), &input, Timestamp::UNIX_EPOCH);
            assert_eq!(after.phase, Some(*expected), "{name}");
        }
    }
}
