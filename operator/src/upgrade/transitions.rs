//! Transitions of the upgrade state machine. Each call moves at most one step.

use jiff::Timestamp;
use lb_crds::load_balancer_stack::{UpgradeOutcome, UpgradeStatus, UpgradeStep as Step};

use lb_runtime::text::{LIST_LIMIT, list_first};

use super::health_checks::failed_check;
use super::pod_selection::{self, VERIFICATION_SECONDS, all_of, away, is_verified};
use super::snapshot::ClusterSnapshot;
use super::state::{UpgradeState, enter_step, is_downgrade, seconds, start_upgrade, step_began, time};
use crate::reasons::{Reason, StackEvent};

/// Upper bound for the step Verify, in seconds.
const MAX_VERIFY_SECONDS: i64 = 120;

/// The state that follows from a snapshot, and the events to publish.
#[must_use]
pub fn advance(
    state: &UpgradeState,
    snapshot: &ClusterSnapshot,
    now: Timestamp,
) -> (UpgradeState, Vec<StackEvent>) {
    let mut next = state.clone();
    let mut events = Vec::new();
    match next.upgrade.take() {
        None => advance_idle(&mut next, snapshot, now, &mut events),
        Some(upgrade) => advance_upgrade(&mut next, upgrade, snapshot, now, &mut events),
    }
    (next, events)
}

/// No upgrade is in progress.
fn advance_idle(
    state: &mut UpgradeState,
    snapshot: &ClusterSnapshot,
    now: Timestamp,
    events: &mut Vec<StackEvent>,
) {
    if snapshot.paused {
        return;
    }
    let Some(from) = state.last_good.clone() else {
        // A first installation is applied at once. Its revision is good once all of it runs.
        if target_runs_everywhere(snapshot) {
            state.last_good = Some(snapshot.target.clone());
        }
        return;
    };
    if from.revision == snapshot.target.revision
        || state.failed_revision(snapshot).is_some()
        || !state.is_approved(snapshot)
    {
        return;
    }
    let upgrade = start_upgrade(&from, snapshot, now);
    events.push(StackEvent::normal(
        Reason::UpgradeStarted,
        format!(
            "upgrading from {} to {}: desired revision changed from {} to {}",
            from.version, snapshot.target.version, from.revision, snapshot.target.revision
        ),
    ));
    state.upgrade = Some(upgrade);
}

/// Whether all pods run the desired revision.
fn target_runs_everywhere(snapshot: &ClusterSnapshot) -> bool {
    snapshot.controllers.settled
        && snapshot.controllers.template.as_ref() == Some(&snapshot.target.controller)
        && snapshot.speakers.settled
        && snapshot.speakers.template.as_ref() == Some(&snapshot.target.speaker)
}

/// An upgrade is in progress.
fn advance_upgrade(
    state: &mut UpgradeState,
    mut upgrade: UpgradeStatus,
    snapshot: &ClusterSnapshot,
    now: Timestamp,
    events: &mut Vec<StackEvent>,
) {
    suspend(&mut upgrade, snapshot, now);
    if snapshot.paused {
        state.upgrade = Some(upgrade);
        return;
    }
    let target_changed = upgrade.to.revision != snapshot.target.revision;
    if target_changed && !upgrade.superseded {
        return change_target(state, upgrade, snapshot, now, events);
    }
    if upgrade.paused && upgrade.generation == snapshot.generation {
        state.upgrade = Some(upgrade);
        return;
    }
    if upgrade.paused {
        upgrade.paused = false;
        upgrade.failure = None;
        upgrade.progress_time = time(now);
    }
    upgrade.generation = snapshot.generation;
    update_progress(&mut upgrade, snapshot, now);
    if upgrade.step == Step::RollingBack {
        if is_rolled_back(&upgrade, snapshot, now) {
            return finish_rollback(state, upgrade, snapshot, now, events);
        }
    } else if let Some(reason) = failed_check(&upgrade, snapshot, now) {
        handle_failure(state, &mut upgrade, reason, snapshot, now, events);
    } else if upgrade.step == Step::Finish && is_finished(&upgrade, snapshot) {
        return finish_upgrade(state, &upgrade, now, events);
    } else {
        advance_step(&mut upgrade, snapshot, now, events);
    }
    state.upgrade = Some(upgrade);
}

/// Time in which nothing can proceed does not count as time without progress.
fn suspend(upgrade: &mut UpgradeStatus, snapshot: &ClusterSnapshot, now: Timestamp) {
    let chosen = upgrade.canary_node.is_some();
    let no_candidate =
        upgrade.step == Step::Canary && !chosen && snapshot.speakers.pods.iter().any(|pod| pod.lost);
    let suspended = snapshot.paused || no_candidate;
    match (&upgrade.suspended_time, suspended) {
        (None, true) => upgrade.suspended_time = Some(time(now)),
        (Some(since), false) => {
            let moved = upgrade.progress_time.0.as_second() + seconds(since.0, now);
            upgrade.progress_time = time(Timestamp::from_second(moved).unwrap_or(now));
            upgrade.suspended_time = None;
        }
        (None, false) | (Some(_), true) => {}
    }
}

/// The desired revision is no longer the one of this upgrade.
fn change_target(
    state: &mut UpgradeState,
    mut upgrade: UpgradeStatus,
    snapshot: &ClusterSnapshot,
    now: Timestamp,
    events: &mut Vec<StackEvent>,
) {
    let target = &snapshot.target;
    let starts_next = target.revision != upgrade.from.revision
        && state.failed_revision(snapshot).is_none()
        && state.is_approved(snapshot)
        && upgrade.step != Step::RollingBack;
    let reason = format!(
        "desired version changed to {} (revision {})",
        target.version, target.revision
    );
    if starts_next {
        state.add_history(&upgrade, UpgradeOutcome::Superseded, Some(reason.clone()), now);
        state.upgrade = Some(start_upgrade(&upgrade.from, snapshot, now));
        events.push(StackEvent::normal(
            Reason::UpgradeSuperseded,
            format!("upgrade to {} superseded: {reason}", upgrade.to.version),
        ));
        return;
    }
    upgrade.superseded = true;
    upgrade.paused = false;
    if upgrade.step != Step::RollingBack {
        events.push(StackEvent::normal(
            Reason::UpgradeSuperseded,
            format!("rolling back the upgrade to {}: {reason}", upgrade.to.version),
        ));
        enter_step(&mut upgrade, Step::RollingBack, &reason, now);
    }
    state.upgrade = Some(upgrade);
}

/// A health check failed.
fn handle_failure(
    state: &mut UpgradeState,
    upgrade: &mut UpgradeStatus,
    reason: String,
    snapshot: &ClusterSnapshot,
    now: Timestamp,
    events: &mut Vec<StackEvent>,
) {
    let (version, from) = (&upgrade.to.version, &upgrade.from.version);
    let step = upgrade.step.as_str();
    if snapshot.settings.rollback && snapshot.rollback_available {
        events.push(StackEvent::warning(
            Reason::UpgradeFailed,
            format!("upgrade to {version} failed in step {step}: {reason}; rolling back to {from}"),
        ));
        upgrade.failure = Some(reason.clone());
        enter_step(upgrade, Step::RollingBack, &reason, now);
        return;
    }
    events.push(StackEvent::warning(
        Reason::UpgradePaused,
        format!("upgrade to {version} failed in step {step}: {reason}; paused (onFailure: Pause)"),
    ));
    upgrade.failure = Some(reason.clone());
    upgrade.paused = true;
    state.add_history(upgrade, UpgradeOutcome::Paused, Some(reason), now);
}

/// Updates the progress within the step.
fn update_progress(upgrade: &mut UpgradeStatus, snapshot: &ClusterSnapshot, now: Timestamp) {
    let back = upgrade.step == Step::RollingBack;
    let wanted = if back { &upgrade.from } else { &upgrade.to };
    let ready = |pods: &[super::PodSnapshot], revision: &str| {
        let ready = pods
            .iter()
            .filter(|pod| pod.is_active() && pod.ready && pod.revision == revision);
        i32::try_from(ready.count()).unwrap_or(i32::MAX)
    };
    let controllers = ready(&snapshot.controllers.pods, &wanted.controller);
    let speakers = ready(&snapshot.speakers.pods, &wanted.speaker);
    let progress = match upgrade.step {
        Step::PrePull => snapshot.pre_pull.as_ref().map_or(0, |pre_pull| pre_pull.done),
        Step::Controller => controllers,
        Step::Canary | Step::Soak => {
            let there = upgrade.canary_node.as_ref().is_some_and(|node| {
                let mut pods = snapshot.speakers.pods.iter();
                pods.any(|pod| pod.node == *node && pod.revision == wanted.speaker)
            });
            i32::from(there) + speakers
        }
        _ => controllers.saturating_add(speakers),
    };
    if progress > upgrade.progress {
        upgrade.progress = progress;
        upgrade.progress_time = time(now);
    }
    let of = snapshot
        .speakers
        .pods
        .iter()
        .filter(|pod| pod.revision == wanted.speaker && !pod.terminating);
    upgrade.updated = i32::try_from(of.count()).unwrap_or(i32::MAX);
    upgrade.total = snapshot.speakers.desired;
}

/// Enters the next step if the current one is complete.
fn advance_step(
    upgrade: &mut UpgradeStatus,
    snapshot: &ClusterSnapshot,
    now: Timestamp,
    events: &mut Vec<StackEvent>,
) {
    let here = step_began(upgrade);
    let speakers = &snapshot.speakers;
    let revision = upgrade.to.speaker.clone();
    match upgrade.step {
        Step::Preflight => {
            let may_go_back = snapshot.rollback_available || !snapshot.settings.rollback;
            if let Some(ledger) = &snapshot.ledger
                && snapshot.obstacle.is_none()
                && may_go_back
            {
                upgrade.addresses_hash = Some(ledger.clone());
                enter_step(upgrade, Step::PrePull, "no obstacle", now);
            }
        }
        Step::PrePull => {
            if let Some(pre_pull) = &snapshot.pre_pull
                && pre_pull.revision == upgrade.to.revision
                && pre_pull.done >= pre_pull.desired
            {
                let message = format!("images pulled on {} nodes", pre_pull.done);
                enter_step(upgrade, Step::Crds, &message, now);
            }
        }
        Step::Crds => {
            if snapshot.crds_applied {
                enter_step(upgrade, Step::Rbac, "", now);
            }
        }
        Step::Rbac => {
            if snapshot.rbac_applied {
                let first = if is_downgrade(upgrade) {
                    speakers_step(snapshot, &revision)
                } else {
                    None
                };
                enter_step(upgrade, first.unwrap_or(Step::Controller), "", now);
            }
        }
        Step::Controller => {
            let controllers = &snapshot.controllers;
            if controllers.template.as_ref() == Some(&upgrade.to.controller)
                && controllers.settled
                && controllers.has_leader
            {
                let message = "controller rollout complete; leader elected; no address changed";
                let after = if is_downgrade(upgrade) {
                    None
                } else {
                    speakers_step(snapshot, &revision)
                };
                enter_step(upgrade, after.unwrap_or(Step::Verify), message, now);
            }
        }
        Step::Canary => advance_canary(upgrade, snapshot, now),
        Step::Soak => {
            let node = upgrade.canary_node.clone().unwrap_or_default();
            let pod = speakers
                .pods
                .iter()
                .find(|pod| pod.node == node && !pod.terminating);
            let soak = snapshot.settings.soak_seconds;
            match pod {
                Some(pod) if pod.revision == revision && !pod.lost => {
                    let since = pod.ready_since.map_or(now, |since| since.max(here));
                    if pod.ready && is_verified(pod, now) && seconds(since, now) >= soak {
                        let message = format!("canary passed: {} ready for {soak} s", pod.describe());
                        events.push(StackEvent::normal(Reason::CanaryPassed, message.clone()));
                        enter_step(upgrade, Step::Speakers, &message, now);
                    }
                }
                // Its node is unreachable, or it was restarted, which gave it the previous template: start again.
                Some(pod) => {
                    let message = format!("canary lost: {} restarted or unreachable", pod.describe());
                    upgrade.canary_node = None;
                    enter_step(upgrade, Step::Canary, &message, now);
                }
                // Its node has left the cluster. Otherwise the pod is just being replaced.
                None if away(speakers, &revision, false, now) == 0 => {
                    upgrade.canary_node = None;
                    enter_step(
                        upgrade,
                        Step::Canary,
                        &format!("canary lost: node {node} left the cluster"),
                        now,
                    );
                }
                None => {}
            }
        }
        Step::Speakers => {
            if speakers.observed
                && speakers.template.as_ref() == Some(&revision)
                && all_of(speakers, &revision)
                && away(speakers, &revision, true, now) == 0
            {
                let lost: Vec<_> = speakers
                    .pods
                    .iter()
                    .filter(|pod| pod.lost)
                    .map(|pod| pod.node.as_str())
                    .collect();
                let message = if lost.is_empty() {
                    "all speakers updated".to_owned()
                } else {
                    format!(
                        "all speakers updated except on {} unreachable nodes: {}",
                        lost.len(),
                        list_first(&lost, LIST_LIMIT)
                    )
                };
                let after = if is_downgrade(upgrade) {
                    Step::Controller
                } else {
                    Step::Verify
                };
                enter_step(upgrade, after, &message, now);
            }
        }
        Step::Verify => {
            let wait = if upgrade.from.speaker == upgrade.to.speaker {
                VERIFICATION_SECONDS
            } else {
                snapshot
                    .settings
                    .soak_seconds
                    .clamp(VERIFICATION_SECONDS, MAX_VERIFY_SECONDS)
            };
            if seconds(here, now) >= wait && away(speakers, &revision, true, now) == 0 {
                enter_step(upgrade, Step::Finish, "", now);
            }
        }
        Step::Finish | Step::RollingBack => {}
    }
}

/// The first step that replaces speakers; `None` if all of them have `revision`.
fn speakers_step(snapshot: &ClusterSnapshot, revision: &str) -> Option<Step> {
    let speakers = &snapshot.speakers;
    let same_template = speakers.template.as_deref() == Some(revision);
    (!same_template || !all_of(speakers, revision)).then_some(Step::Canary)
}

fn advance_canary(upgrade: &mut UpgradeStatus, snapshot: &ClusterSnapshot, now: Timestamp) {
    let speakers = &snapshot.speakers;
    let revision = upgrade.to.speaker.clone();
    let Some(node) = upgrade.canary_node.clone() else {
        match pod_selection::canary(speakers, &revision) {
            Some(pod) => upgrade.canary_node = Some(pod.node.clone()),
            // No speaker is left to replace.
            None if all_of(speakers, &revision)
                && (speakers.pods.is_empty() || speakers.pods.iter().any(|pod| pod.is_active())) =>
            {
                enter_step(upgrade, Step::Speakers, "no speaker to replace", now);
            }
            None => {}
        }
        return;
    };
    let mut pods = speakers.pods.iter().filter(|pod| pod.node == node);
    let is_lost = pods.clone().any(|pod| pod.lost);
    let is_new = |pod: &super::PodSnapshot| pod.revision == revision && pod.is_active() && pod.ready;
    let is_gone = pods.clone().next().is_none() && away(speakers, &revision, false, now) == 0;
    if is_lost || is_gone {
        upgrade.canary_node = None;
    } else if pods.any(is_new)
        && (speakers.template.as_ref() == Some(&upgrade.from.speaker) || !snapshot.rollback_available)
    {
        let message = format!("speaker on node {node} replaced");
        enter_step(upgrade, Step::Soak, &message, now);
    }
}

/// Whether the desired revision runs and nothing of the upgrade is left.
fn is_finished(upgrade: &UpgradeStatus, snapshot: &ClusterSnapshot) -> bool {
    target_runs_everywhere(snapshot)
        && upgrade.to.revision == snapshot.target.revision
        && snapshot.rbac_applied
        && !snapshot.speakers.on_delete
        && snapshot.pre_pull.is_none()
}

fn finish_upgrade(
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
            "upgraded to version {} (revision {}) in {} s",
            upgrade.to.version,
            upgrade.to.revision,
            seconds(upgrade.started_time.0, now)
        ),
    ));
}

/// Whether the previous revision runs again. The wait for its pods to become ready is bounded by the progress deadline:
/// a problem that it had before is not caused by the upgrade.
fn is_rolled_back(upgrade: &UpgradeStatus, snapshot: &ClusterSnapshot, now: Timestamp) -> bool {
    let (controllers, speakers) = (&snapshot.controllers, &snapshot.speakers);
    let late = seconds(upgrade.progress_time.0, now) > snapshot.settings.progress_deadline_seconds;
    controllers.template.as_ref() == Some(&upgrade.from.controller)
        && speakers.template.as_ref() == Some(&upgrade.from.speaker)
        && all_of(speakers, &upgrade.from.speaker)
        && (late || (controllers.settled && speakers.settled))
        && !speakers.on_delete
        && snapshot.pre_pull.is_none()
}

fn finish_rollback(
    state: &mut UpgradeState,
    upgrade: UpgradeStatus,
    snapshot: &ClusterSnapshot,
    now: Timestamp,
    events: &mut Vec<StackEvent>,
) {
    let (from, to) = (&upgrade.from, &upgrade.to);
    let Some(reason) = upgrade.failure.clone() else {
        let reason = "spec changed during the upgrade".to_owned();
        state.add_history(&upgrade, UpgradeOutcome::Superseded, Some(reason), now);
        return;
    };
    events.push(StackEvent::warning(
        Reason::RolledBack,
        format!(
            "rolled back to version {} (revision {}): upgrade to {} failed: {reason}",
            from.version, from.revision, to.version
        ),
    ));
    state.add_history(&upgrade, UpgradeOutcome::RolledBack, Some(reason.clone()), now);
    state.add_failed_revision(&upgrade, reason, snapshot, now);
}
