//! The end of an upgrade or a rollback.
//!
//! An upgrade that failed only because a node gets no reply is rolled back, because its new speaker may be the cause. If
//! the previous speaker gets no reply either, the network is: the revision has not failed, and is tried again with a
//! baseline in which that address does not count.

use jiff::Timestamp;
use lb_crds::load_balancer_stack::{UpgradeOutcome, UpgradeStatus};

use super::health_checks::still_unanswered;
use super::pod_selection::{all_of, away};
use super::snapshot::ClusterSnapshot;
use super::state::{UpgradeState, describe, seconds};
use crate::reasons::{Reason, StackEvent};

/// How long the previous speaker may take until other nodes receive its replies. A speaker is verified at its start and
/// every 30 s.
const UNANSWERED_SECONDS: i64 = 60;
/// How often in a row a revision is tried again.
const MAX_RETRIES: usize = 2;

/// Whether the desired revision runs, can announce addresses, and nothing of the upgrade is left.
pub(super) fn is_finished(upgrade: &UpgradeStatus, snapshot: &ClusterSnapshot, now: Timestamp) -> bool {
    let (controllers, speakers) = (&snapshot.controllers, &snapshot.speakers);
    controllers.settled
        && controllers.template.as_ref() == Some(&upgrade.to.controller)
        && speakers.observed
        && speakers.template.as_ref() == Some(&upgrade.to.speaker)
        && all_of(upgrade, snapshot, &upgrade.to.speaker)
        && away(upgrade, snapshot, &upgrade.to.speaker, false, now) == 0
        && snapshot.announces
        && snapshot.rbac_applied
        && !speakers.on_delete
        && snapshot.pre_pull.is_none()
}

pub(super) fn finish_upgrade(
    state: &mut UpgradeState,
    upgrade: &UpgradeStatus,
    now: Timestamp,
    events: &mut Vec<StackEvent>,
) {
    state.last_good = Some(upgrade.to.clone());
    state.add_history(upgrade, UpgradeOutcome::Succeeded, None, now);
    events.push(StackEvent::normal(
        Reason::UpgradeSucceeded,
        format!(
            "{} (revision {}) finished in {} s",
            describe(&upgrade.from, &upgrade.to),
            upgrade.to.revision,
            seconds(upgrade.started_time.0, now)
        ),
    ));
}

/// Whether the previous revision runs again, on all nodes that count.
pub(super) fn is_rolled_back(upgrade: &UpgradeStatus, snapshot: &ClusterSnapshot, now: Timestamp) -> bool {
    let (controllers, speakers) = (&snapshot.controllers, &snapshot.speakers);
    controllers.template.as_ref() == Some(&upgrade.from.controller)
        && controllers.settled
        && speakers.template.as_ref() == Some(&upgrade.from.speaker)
        && all_of(upgrade, snapshot, &upgrade.from.speaker)
        && away(upgrade, snapshot, &upgrade.from.speaker, false, now) == 0
        && !speakers.on_delete
        && snapshot.pre_pull.is_none()
        && still_unanswered(upgrade, snapshot).is_none_or(|pod| {
            pod.ready_since
                .is_some_and(|ready| seconds(ready, now) >= UNANSWERED_SECONDS)
        })
}

pub(super) fn finish_rollback(
    state: &mut UpgradeState,
    upgrade: &UpgradeStatus,
    snapshot: &ClusterSnapshot,
    now: Timestamp,
    events: &mut Vec<StackEvent>,
) {
    let (from, to) = (&upgrade.from, &upgrade.to);
    let Some(reason) = upgrade.failure.clone() else {
        let reason = "spec changed during the upgrade".to_owned();
        state.add_history(upgrade, UpgradeOutcome::Superseded, Some(reason), now);
        return;
    };
    let rollbacks = state.history.iter().rev().take_while(|record| {
        record.outcome == UpgradeOutcome::RolledBack && record.to_revision == to.revision
    });
    let is_retried = rollbacks.count() < MAX_RETRIES && still_unanswered(upgrade, snapshot).is_some();
    let retry = if is_retried {
        "; the previous speaker gets no reply either, so the revision is tried again: check the network of that node"
    } else {
        ""
    };
    events.push(StackEvent::warning(
        Reason::RolledBack,
        format!(
            "rolled back to version {} (revision {}): {} failed: {reason}{retry}",
            from.version,
            from.revision,
            describe(from, to)
        ),
    ));
    state.add_history(upgrade, UpgradeOutcome::RolledBack, Some(reason.clone()), now);
    if !is_retried {
        state.add_failed_revision(upgrade, reason, snapshot, now);
    }
}
