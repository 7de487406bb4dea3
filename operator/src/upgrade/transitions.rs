//! Transitions of the upgrade state machine. Each call moves at most one step, and every step has an exit: the next
//! step, a rollback, or a pause that names what it waits for. A new spec is obeyed in every step.

use jiff::Timestamp;
use lb_crds::load_balancer_stack::{
    OnFailure, PauseReason, UpgradeOutcome, UpgradeStatus, UpgradeStep as Step,
};
use lb_runtime::text::{LIST_LIMIT, list_first};

use super::ending::{finish_rollback, finish_upgrade, is_finished, is_rolled_back};
use super::health_checks::{Failure, Verdict, infrastructure_faults, verdict};
use super::pod_selection::{self, VERIFICATION_SECONDS, all_of, away, counts, is_verified};
use super::preconditions::{blocker, preflight_obstacle, unhealthy_speakers, update_healthy_nodes};
use super::snapshot::{ClusterSnapshot, PodSnapshot};
use super::state::{UpgradeState, describe, enter_step, seconds, start_upgrade, step_began, time};
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
        // A first installation is applied at once. Its revision is good as soon as it can announce addresses, on however
        // few nodes: later changes are upgrades then.
        if installed(snapshot) {
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
            "{} started: desired revision changed from {} to {}",
            describe(&from, &snapshot.target),
            from.revision,
            snapshot.target.revision
        ),
    ));
    state.upgrade = Some(upgrade);
}

/// Whether the desired revision runs and can announce addresses.
fn installed(snapshot: &ClusterSnapshot) -> bool {
    let (controllers, speakers) = (&snapshot.controllers, &snapshot.speakers);
    controllers.settled
        && controllers.template.as_ref() == Some(&snapshot.target.controller)
        && speakers.template.as_ref() == Some(&snapshot.target.speaker)
        && snapshot.announces
        && speakers
            .pods
            .iter()
            .any(|pod| pod.ready && pod.revision == snapshot.target.speaker)
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
    if change_target(state, &mut upgrade, snapshot, now, events) {
        return;
    }
    update_healthy_nodes(&mut upgrade, snapshot, now);
    let progressed = update_progress(&mut upgrade, snapshot, now);
    if progressed && upgrade.paused != Some(PauseReason::HealthCheckFailed) {
        upgrade.paused = None;
        upgrade.waiting_for = None;
    }
    if upgrade.paused == Some(PauseReason::Infrastructure)
        && infrastructure_faults(&upgrade, snapshot).is_empty()
    {
        // The time of the fault does not count as time without progress.
        upgrade.paused = None;
        upgrade.waiting_for = None;
        upgrade.progress_time = time(now);
    }
    if upgrade.paused == Some(PauseReason::HealthCheckFailed) {
        state.upgrade = Some(upgrade);
        return;
    }
    match verdict(&upgrade, snapshot, now) {
        Verdict::Failed(failure) => handle_failure(state, &mut upgrade, failure, snapshot, now, events),
        Verdict::Sick(nodes) => {
            upgrade.healthy_nodes.retain(|node| !nodes.contains(node));
            upgrade.progress_time = time(now);
        }
        Verdict::Held(reason) => hold(&mut upgrade, reason, snapshot, events),
        Verdict::Healthy => {}
    }
    if upgrade.paused == Some(PauseReason::HealthCheckFailed) {
        state.upgrade = Some(upgrade);
        return;
    }
    match upgrade.step {
        Step::RollingBack if is_rolled_back(&upgrade, snapshot, now) => {
            return finish_rollback(state, &upgrade, snapshot, now, events);
        }
        Step::Finish if is_finished(&upgrade, snapshot, now) => {
            return finish_upgrade(state, &upgrade, now, events);
        }
        _ => advance_step(&mut upgrade, snapshot, now, events),
    }
    state.upgrade = Some(upgrade);
}

/// Time in which nothing may proceed does not count as time without progress.
fn suspend(upgrade: &mut UpgradeStatus, snapshot: &ClusterSnapshot, now: Timestamp) {
    let waits = upgrade.step == Step::Preflight && blocker(upgrade, snapshot).is_some();
    match (&upgrade.suspended_time, snapshot.paused || waits) {
        (None, true) => upgrade.suspended_time = Some(time(now)),
        (Some(since), false) => {
            let moved = upgrade.progress_time.0.as_second() + seconds(since.0, now);
            upgrade.progress_time = time(Timestamp::from_second(moved).unwrap_or(now));
            upgrade.suspended_time = None;
        }
        (None, false) | (Some(_), true) => {}
    }
}

/// Obeys the spec if it asks for something else than this upgrade. Returns whether another upgrade has replaced it.
fn change_target(
    state: &mut UpgradeState,
    upgrade: &mut UpgradeStatus,
    snapshot: &ClusterSnapshot,
    now: Timestamp,
    events: &mut Vec<StackEvent>,
) -> bool {
    let target = &snapshot.target;
    let back = upgrade.step == Step::RollingBack;
    let edited = upgrade.generation != snapshot.generation;
    let same = target.revision == upgrade.to.revision;
    if same && !back {
        // A new spec with the same revision is a request to try again.
        if edited {
            upgrade.generation = snapshot.generation;
            if upgrade.paused.is_some() {
                upgrade.failure = None;
                enter_step(upgrade, upgrade.step, "the spec changed: trying again", now);
            }
        }
        return false;
    }
    let reason = format!(
        "desired version changed to {} (revision {})",
        target.version, target.revision
    );
    let starts = target.revision != upgrade.from.revision
        && (edited || !same)
        && state.failed_revision(snapshot).is_none()
        && state.is_approved(snapshot);
    if starts {
        let failure = upgrade.failure.clone();
        if let Some(failure) = failure.clone().filter(|_| !same) {
            state.add_failed_revision(upgrade, failure, snapshot, now);
        }
        let why = failure.unwrap_or_else(|| reason.clone());
        state.add_history(upgrade, UpgradeOutcome::Superseded, Some(why), now);
        events.push(StackEvent::normal(
            Reason::UpgradeSuperseded,
            format!("{} superseded: {reason}", describe(&upgrade.from, &upgrade.to)),
        ));
        state.upgrade = Some(start_upgrade(&upgrade.from, snapshot, now));
        return true;
    }
    if !back {
        upgrade.superseded = true;
        upgrade.failure = None;
        events.push(StackEvent::normal(
            Reason::UpgradeSuperseded,
            format!(
                "rolling back the {}: {reason}",
                describe(&upgrade.from, &upgrade.to)
            ),
        ));
        enter_step(upgrade, Step::RollingBack, &reason, now);
        upgrade.generation = snapshot.generation;
    }
    false
}

/// A health check failed.
fn handle_failure(
    state: &mut UpgradeState,
    upgrade: &mut UpgradeStatus,
    failure: Failure,
    snapshot: &ClusterSnapshot,
    now: Timestamp,
    events: &mut Vec<StackEvent>,
) {
    let Failure {
        reason,
        node,
        is_unanswered,
    } = failure;
    let what = describe(&upgrade.from, &upgrade.to);
    let what = format!("{what} failed in step {}: {reason}", upgrade.step.as_str());
    let settings = &snapshot.settings;
    let worse = !snapshot.nodes.is_empty() && snapshot.nodes.values().all(|node| !node.served_before);
    if settings.on_failure == OnFailure::Continue {
        if upgrade.failure.as_ref() != Some(&reason) {
            events.push(StackEvent::warning(
                Reason::UpgradeFailed,
                format!("{what}; continuing (onFailure: Continue)"),
            ));
            upgrade.failure = Some(reason.clone());
        }
        if let Some(node) = node {
            upgrade.healthy_nodes.retain(|healthy| *healthy != node);
        } else if seconds(upgrade.progress_time.0, now) > settings.progress_deadline_seconds {
            hold(upgrade, reason, snapshot, events);
        }
        return;
    }
    upgrade.failure = Some(reason.clone());
    upgrade.unanswered_node = node.filter(|_| is_unanswered);
    if settings.rolls_back() && snapshot.rollback_available && !worse {
        let from = &upgrade.from.version;
        events.push(StackEvent::warning(
            Reason::UpgradeFailed,
            format!("{what}; rolling back to {from}"),
        ));
        enter_step(upgrade, Step::RollingBack, &reason, now);
        return;
    }
    let why = if settings.rolls_back() && worse {
        "paused, because the previous revision has a speaker on no node"
    } else if settings.rolls_back() {
        "paused, because the previous revision is not stored"
    } else {
        "paused (onFailure: Pause)"
    };
    events.push(StackEvent::warning(
        Reason::UpgradePaused,
        format!("{what}; {why}"),
    ));
    upgrade.paused = Some(PauseReason::HealthCheckFailed);
    state.add_history(upgrade, UpgradeOutcome::Paused, Some(reason), now);
}

/// Nothing progresses. The step goes on as soon as it can.
fn hold(
    upgrade: &mut UpgradeStatus,
    reason: String,
    snapshot: &ClusterSnapshot,
    events: &mut Vec<StackEvent>,
) {
    if upgrade.paused.is_some() {
        return;
    }
    let what = describe(&upgrade.from, &upgrade.to);
    let note = format!("{what} paused: {reason}; continues when this is resolved or the spec changes");
    events.push(StackEvent::warning(Reason::UpgradePaused, note));
    upgrade.paused = Some(if upgrade.step == Step::RollingBack {
        PauseReason::RollbackIncomplete
    } else if infrastructure_faults(upgrade, snapshot).is_empty() {
        PauseReason::NoProgress
    } else {
        PauseReason::Infrastructure
    });
    upgrade.waiting_for = Some(reason);
}

/// Updates the progress within the step. Returns whether there was any.
fn update_progress(upgrade: &mut UpgradeStatus, snapshot: &ClusterSnapshot, now: Timestamp) -> bool {
    let back = upgrade.step == Step::RollingBack;
    let wanted = if back { &upgrade.from } else { &upgrade.to };
    let ready = |pods: &[PodSnapshot], revision: &str| {
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
    let updated = snapshot
        .speakers
        .pods
        .iter()
        .filter(|pod| pod.revision == wanted.speaker && !pod.terminating);
    upgrade.updated = i32::try_from(updated.count()).unwrap_or(i32::MAX);
    upgrade.total = snapshot.speakers.desired;
    let progressed = progress > upgrade.progress;
    if progressed {
        upgrade.progress = progress;
        upgrade.progress_time = time(now);
    }
    progressed
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
            if preflight_obstacle(upgrade, snapshot, now).is_none() {
                let ready = speakers.pods.iter().filter(|pod| {
                    let reachable = snapshot.nodes.get(&pod.node).is_some_and(|node| node.reachable);
                    let skipped = snapshot.settings.skip_nodes.contains(&pod.node);
                    pod.is_active() && pod.ready && reachable && !skipped
                });
                let unhealthy = unhealthy_speakers(upgrade, snapshot);
                let message = if unhealthy.is_empty() {
                    "no obstacle".to_owned()
                } else {
                    let nodes = list_first(&unhealthy, LIST_LIMIT);
                    format!("not waiting for nodes whose speaker was not ready before: {nodes}")
                };
                upgrade.healthy_nodes = ready.map(|pod| pod.node.clone()).collect();
                upgrade.healthy_nodes.sort();
                enter_step(upgrade, Step::PrePull, &message, now);
            }
        }
        Step::PrePull => {
            if let Some(pre_pull) = &snapshot.pre_pull
                && pre_pull.revision == upgrade.to.revision
                && !pre_pull.pending.keys().any(|node| counts(upgrade, node))
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
                let first = speakers_step(upgrade, snapshot).filter(|_| upgrade.speakers_first);
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
                let after = speakers_step(upgrade, snapshot).filter(|_| !upgrade.speakers_first);
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
                    let forced = snapshot.settings.on_failure == OnFailure::Continue;
                    if forced && !counts(upgrade, &node) {
                        enter_step(upgrade, Step::Speakers, "canary failed; continuing", now);
                    } else if pod.ready && is_verified(pod, now) && seconds(since, now) >= soak {
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
                None if !counts(upgrade, &node) => {
                    upgrade.canary_node = None;
                    let message = format!("canary lost: node {node} left the cluster");
                    enter_step(upgrade, Step::Canary, &message, now);
                }
                None => {}
            }
        }
        Step::Speakers => {
            if speakers.observed
                && speakers.template.as_ref() == Some(&revision)
                && all_of(upgrade, snapshot, &revision)
                && away(upgrade, snapshot, &revision, true, now) == 0
            {
                let left: Vec<_> = speakers
                    .pods
                    .iter()
                    .filter(|pod| pod.lost || pod.revision != revision || !pod.ready)
                    .map(|pod| pod.node.as_str())
                    .collect();
                let message = if left.is_empty() {
                    "all speakers updated".to_owned()
                } else {
                    format!(
                        "all speakers updated except on {} nodes that were not waited for: {}",
                        left.len(),
                        list_first(&left, LIST_LIMIT)
                    )
                };
                let after = if upgrade.speakers_first {
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
            if seconds(here, now) >= wait && away(upgrade, snapshot, &revision, true, now) == 0 {
                enter_step(upgrade, Step::Finish, "", now);
            }
        }
        Step::Finish | Step::RollingBack => {}
    }
}

/// The first step that replaces speakers; `None` if all of them have the new revision.
fn speakers_step(upgrade: &UpgradeStatus, snapshot: &ClusterSnapshot) -> Option<Step> {
    let revision = &upgrade.to.speaker;
    let same_template = snapshot.speakers.template.as_ref() == Some(revision);
    (!same_template || !all_of(upgrade, snapshot, revision)).then_some(Step::Canary)
}

fn advance_canary(upgrade: &mut UpgradeStatus, snapshot: &ClusterSnapshot, now: Timestamp) {
    let speakers = &snapshot.speakers;
    let revision = upgrade.to.speaker.clone();
    let Some(node) = upgrade.canary_node.clone() else {
        match pod_selection::canary(upgrade, snapshot) {
            Some(pod) => upgrade.canary_node = Some(pod.node.clone()),
            // No speaker is left to replace, or none runs on a node that the new revision serves.
            None if !speakers.pods.iter().any(|pod| {
                let served = snapshot.nodes.get(&pod.node).is_some_and(|node| node.served);
                served && pod.revision != revision && !snapshot.settings.skip_nodes.contains(&pod.node)
            }) =>
            {
                enter_step(upgrade, Step::Speakers, "no speaker to replace", now);
            }
            None => {}
        }
        return;
    };
    let mut pods = speakers.pods.iter().filter(|pod| pod.node == node);
    let forced = snapshot.settings.on_failure == OnFailure::Continue && !counts(upgrade, &node);
    let reachable = snapshot
        .nodes
        .get(&node)
        .is_some_and(|node| node.reachable && node.served);
    let is_new = |pod: &PodSnapshot| pod.revision == revision && pod.is_active() && (pod.ready || forced);
    if !reachable || pods.clone().any(|pod| pod.lost) || snapshot.settings.skip_nodes.contains(&node) {
        upgrade.canary_node = None;
    } else if pods.any(is_new)
        && (speakers.template.as_ref() == Some(&upgrade.from.speaker) || !snapshot.rollback_available)
    {
        let message = format!("speaker on node {node} replaced");
        enter_step(upgrade, Step::Soak, &message, now);
    }
}
