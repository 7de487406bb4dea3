//! The machine's transitions. Each call moves on by at most one step.

use jiff::Timestamp;
use lb_crds::load_balancer_stack::{UpgradeOutcome, UpgradeStatus, UpgradeStep as Step};

use super::health_checks::fault;
use super::pod_selection::{self, PROOF, all_of, away, is_proven};
use super::snapshot::Seen;
use super::state::{Memory, News, begin, enter, is_downgrade, seconds, step_began, time};

/// Seconds at most that all speakers are watched after the last one was replaced.
const LONGEST_VERIFY: i64 = 120;

/// What is remembered after `seen` was seen at `now`, and what is to be told.
#[must_use]
pub fn advance(memory: &Memory, seen: &Seen, now: Timestamp) -> (Memory, Vec<News>) {
    let mut next = memory.clone();
    let mut news = Vec::new();
    match next.upgrade.take() {
        None => rest(&mut next, seen, now, &mut news),
        Some(upgrade) => go_on(&mut next, upgrade, seen, now, &mut news),
    }
    (next, news)
}

/// Nothing is under way.
fn rest(memory: &mut Memory, seen: &Seen, now: Timestamp, news: &mut Vec<News>) {
    if seen.paused {
        return;
    }
    let Some(from) = memory.last_good.clone() else {
        // There is nothing to protect, so everything was applied at once. It is good when all of it runs.
        if runs_everywhere(seen) {
            memory.last_good = Some(seen.target.clone());
        }
        return;
    };
    if from.revision == seen.target.revision || memory.rejects(seen).is_some() || !memory.approves(seen) {
        return;
    }
    let upgrade = begin(&from, seen, now);
    news.push(News::normal(
        "UpgradeStarted",
        format!(
            "upgrade from {} to {} begins: the spec or the operator asks for revision {} instead of {}",
            from.version, seen.target.version, seen.target.revision, from.revision
        ),
    ));
    memory.upgrade = Some(upgrade);
}

/// Whether all that the spec asks for runs.
fn runs_everywhere(seen: &Seen) -> bool {
    seen.controllers.settled
        && seen.controllers.template.as_ref() == Some(&seen.target.controller)
        && seen.speakers.settled
        && seen.speakers.template.as_ref() == Some(&seen.target.speaker)
}

/// An upgrade is under way.
fn go_on(memory: &mut Memory, mut upgrade: UpgradeStatus, seen: &Seen, now: Timestamp, news: &mut Vec<News>) {
    suspend(&mut upgrade, seen, now);
    if seen.paused {
        memory.upgrade = Some(upgrade);
        return;
    }
    let asks_for_another = upgrade.to.revision != seen.target.revision;
    if asks_for_another && !upgrade.superseded {
        return turn(memory, upgrade, seen, now, news);
    }
    if upgrade.paused && upgrade.generation == seen.generation {
        memory.upgrade = Some(upgrade);
        return;
    }
    if upgrade.paused {
        upgrade.paused = false;
        upgrade.failure = None;
        upgrade.progress_time = time(now);
    }
    upgrade.generation = seen.generation;
    count(&mut upgrade, seen, now);
    if upgrade.step == Step::RollingBack {
        if is_back(&upgrade, seen, now) {
            return came_back(memory, upgrade, seen, now, news);
        }
    } else if let Some(reason) = fault(&upgrade, seen, now) {
        fail(memory, &mut upgrade, reason, seen, now, news);
    } else if upgrade.step == Step::Finish && is_finished(&upgrade, seen) {
        return succeeded(memory, &upgrade, now, news);
    } else {
        step(&mut upgrade, seen, now, news);
    }
    memory.upgrade = Some(upgrade);
}

/// The time in which nothing can go on does not count as time without progress.
fn suspend(upgrade: &mut UpgradeStatus, seen: &Seen, now: Timestamp) {
    let chosen = upgrade.canary_node.is_some();
    let nobody = upgrade.step == Step::Canary && !chosen && seen.speakers.pods.iter().any(|pod| pod.lost);
    let stops = seen.paused || nobody;
    match (&upgrade.suspended_time, stops) {
        (None, true) => upgrade.suspended_time = Some(time(now)),
        (Some(since), false) => {
            let moved = upgrade.progress_time.0.as_second() + seconds(since.0, now);
            upgrade.progress_time = time(Timestamp::from_second(moved).unwrap_or(now));
            upgrade.suspended_time = None;
        }
        (None, false) | (Some(_), true) => {}
    }
}

/// The spec asks for something else than what is being brought about.
fn turn(memory: &mut Memory, mut upgrade: UpgradeStatus, seen: &Seen, now: Timestamp, news: &mut Vec<News>) {
    let target = &seen.target;
    let goes_forward = target.revision != upgrade.from.revision
        && memory.rejects(seen).is_none()
        && memory.approves(seen)
        && upgrade.step != Step::RollingBack;
    let reason = format!(
        "the spec asks for version {}, revision {} now",
        target.version, target.revision
    );
    if goes_forward {
        memory.record(&upgrade, UpgradeOutcome::Superseded, Some(reason.clone()), now);
        memory.upgrade = Some(begin(&upgrade.from, seen, now));
        news.push(News::normal(
            "UpgradeSuperseded",
            format!(
                "the upgrade to {} is left for another: {reason}",
                upgrade.to.version
            ),
        ));
        return;
    }
    upgrade.superseded = true;
    upgrade.paused = false;
    if upgrade.step != Step::RollingBack {
        news.push(News::normal(
            "UpgradeSuperseded",
            format!("the upgrade to {} is rolled back: {reason}", upgrade.to.version),
        ));
        enter(&mut upgrade, Step::RollingBack, &reason, now);
    }
    memory.upgrade = Some(upgrade);
}

/// A proof has failed.
fn fail(
    memory: &mut Memory,
    upgrade: &mut UpgradeStatus,
    reason: String,
    seen: &Seen,
    now: Timestamp,
    news: &mut Vec<News>,
) {
    let version = &upgrade.to.version;
    let step = upgrade.step.as_str();
    if seen.settings.rollback && seen.former_known {
        news.push(News::warning(
            "UpgradeFailed",
            format!("the upgrade to {version} failed in step {step} and is rolled back: {reason}"),
        ));
        upgrade.failure = Some(reason.clone());
        enter(upgrade, Step::RollingBack, &reason, now);
        return;
    }
    news.push(News::warning(
        "UpgradePaused",
        format!("the upgrade to {version} failed in step {step} and is left as it is: {reason}"),
    ));
    upgrade.failure = Some(reason.clone());
    upgrade.paused = true;
    memory.record(upgrade, UpgradeOutcome::Paused, Some(reason), now);
}

/// Counts how far the step is.
fn count(upgrade: &mut UpgradeStatus, seen: &Seen, now: Timestamp) {
    let back = upgrade.step == Step::RollingBack;
    let wanted = if back { &upgrade.from } else { &upgrade.to };
    let ready = |pods: &[super::Pod], revision: &str| {
        let ready = pods
            .iter()
            .filter(|pod| pod.counts() && pod.ready && pod.revision == revision);
        i32::try_from(ready.count()).unwrap_or(i32::MAX)
    };
    let controllers = ready(&seen.controllers.pods, &wanted.controller);
    let speakers = ready(&seen.speakers.pods, &wanted.speaker);
    let progress = match upgrade.step {
        Step::PrePull => seen.pre_pull.as_ref().map_or(0, |pre_pull| pre_pull.done),
        Step::Controller => controllers,
        Step::Canary | Step::Soak => {
            let there = upgrade.canary_node.as_ref().is_some_and(|node| {
                let mut pods = seen.speakers.pods.iter();
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
    let of = seen
        .speakers
        .pods
        .iter()
        .filter(|pod| pod.revision == wanted.speaker && !pod.terminating);
    upgrade.updated = i32::try_from(of.count()).unwrap_or(i32::MAX);
    upgrade.total = seen.speakers.desired;
}

/// Leaves the present step if it is over.
fn step(upgrade: &mut UpgradeStatus, seen: &Seen, now: Timestamp, news: &mut Vec<News>) {
    let here = step_began(upgrade);
    let speakers = &seen.speakers;
    let revision = upgrade.to.speaker.clone();
    match upgrade.step {
        Step::Preflight => {
            let may_go_back = seen.former_known || !seen.settings.rollback;
            if let Some(ledger) = &seen.ledger
                && seen.obstacle.is_none()
                && may_go_back
            {
                upgrade.ledger = Some(ledger.clone());
                enter(upgrade, Step::PrePull, "nothing stands in the way", now);
            }
        }
        Step::PrePull => {
            if let Some(pre_pull) = &seen.pre_pull
                && pre_pull.revision == upgrade.to.revision
                && pre_pull.done >= pre_pull.desired
            {
                let said = format!("{} nodes have the images", pre_pull.done);
                enter(upgrade, Step::Crds, &said, now);
            }
        }
        Step::Crds => {
            if seen.kinds {
                enter(upgrade, Step::Rbac, "", now);
            }
        }
        Step::Rbac => {
            if seen.permissions {
                let first = if is_downgrade(upgrade) {
                    speakers_step(seen, &revision)
                } else {
                    None
                };
                enter(upgrade, first.unwrap_or(Step::Controller), "", now);
            }
        }
        Step::Controller => {
            let controllers = &seen.controllers;
            if controllers.template.as_ref() == Some(&upgrade.to.controller)
                && controllers.settled
                && controllers.leads
            {
                let said = "all controllers are new, one of them leads, and no address has changed";
                let after = if is_downgrade(upgrade) {
                    None
                } else {
                    speakers_step(seen, &revision)
                };
                enter(upgrade, after.unwrap_or(Step::Verify), said, now);
            }
        }
        Step::Canary => canary(upgrade, seen, now),
        Step::Soak => {
            let node = upgrade.canary_node.clone().unwrap_or_default();
            let pod = speakers
                .pods
                .iter()
                .find(|pod| pod.node == node && !pod.terminating);
            let soak = seen.settings.soak;
            match pod {
                Some(pod) if pod.revision == revision && !pod.lost => {
                    let since = pod.ready_since.map_or(now, |since| since.max(here));
                    if pod.ready && is_proven(pod, now) && seconds(since, now) >= soak {
                        let said = format!("{} has run for {soak} seconds", pod.describe());
                        news.push(News::normal("CanaryPassed", said.clone()));
                        enter(upgrade, Step::Speakers, &said, now);
                    }
                }
                // Its node is away, or somebody restarted it, which gives it the former template: from the beginning.
                Some(pod) => {
                    let said = format!("{} is gone or lost", pod.describe());
                    upgrade.canary_node = None;
                    enter(upgrade, Step::Canary, &said, now);
                }
                // Between the one and the other; or its node has left the cluster.
                None if away(speakers, &revision, false, now) == 0 => {
                    upgrade.canary_node = None;
                    enter(upgrade, Step::Canary, &format!("node {node} is gone"), now);
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
                let lost = speakers.pods.iter().filter(|pod| pod.lost).count();
                let said = if lost == 0 {
                    "all speakers are new".to_owned()
                } else {
                    format!("all speakers are new but those of {lost} nodes that do not answer")
                };
                let after = if is_downgrade(upgrade) {
                    Step::Controller
                } else {
                    Step::Verify
                };
                enter(upgrade, after, &said, now);
            }
        }
        Step::Verify => {
            let wait = if upgrade.from.speaker == upgrade.to.speaker {
                PROOF
            } else {
                seen.settings.soak.clamp(PROOF, LONGEST_VERIFY)
            };
            if seconds(here, now) >= wait && away(speakers, &revision, true, now) == 0 {
                enter(upgrade, Step::Finish, "", now);
            }
        }
        Step::Finish | Step::RollingBack => {}
    }
}

/// The first step that replaces speakers; none where there is none to replace.
fn speakers_step(seen: &Seen, revision: &str) -> Option<Step> {
    let speakers = &seen.speakers;
    let same_template = speakers.template.as_deref() == Some(revision);
    (!same_template || !all_of(speakers, revision)).then_some(Step::Canary)
}

fn canary(upgrade: &mut UpgradeStatus, seen: &Seen, now: Timestamp) {
    let speakers = &seen.speakers;
    let revision = upgrade.to.speaker.clone();
    let Some(node) = upgrade.canary_node.clone() else {
        match pod_selection::canary(speakers, &revision) {
            Some(pod) => upgrade.canary_node = Some(pod.node.clone()),
            // Nobody is left who could be the first.
            None if all_of(speakers, &revision)
                && (speakers.pods.is_empty() || speakers.pods.iter().any(|pod| pod.counts())) =>
            {
                enter(upgrade, Step::Speakers, "there is no speaker to replace", now);
            }
            None => {}
        }
        return;
    };
    let mut pods = speakers.pods.iter().filter(|pod| pod.node == node);
    let is_lost = pods.clone().any(|pod| pod.lost);
    let is_new = |pod: &super::Pod| pod.revision == revision && pod.counts() && pod.ready;
    let is_gone = pods.clone().next().is_none() && away(speakers, &revision, false, now) == 0;
    if is_lost || is_gone {
        upgrade.canary_node = None;
    } else if pods.any(is_new)
        && (speakers.template.as_ref() == Some(&upgrade.from.speaker) || !seen.former_known)
    {
        let said = format!("the speaker on node {node} is new");
        enter(upgrade, Step::Soak, &said, now);
    }
}

/// Whether what runs is what is to run, and nothing is left of the upgrade.
fn is_finished(upgrade: &UpgradeStatus, seen: &Seen) -> bool {
    runs_everywhere(seen)
        && upgrade.to.revision == seen.target.revision
        && seen.permissions
        && !seen.speakers.on_delete
        && seen.pre_pull.is_none()
}

fn succeeded(memory: &mut Memory, upgrade: &UpgradeStatus, now: Timestamp, news: &mut Vec<News>) {
    memory.last_good = Some(upgrade.to.clone());
    memory.record(upgrade, UpgradeOutcome::Succeeded, None, now);
    news.push(News::normal(
        "UpgradeSucceeded",
        format!(
            "version {}, revision {} runs, after {} seconds",
            upgrade.to.version,
            upgrade.to.revision,
            seconds(upgrade.started_time.0, now)
        ),
    ));
}

/// Whether everything is as it was before. That what ran before gets ready again is waited for, but not for ever: it is
/// not ours to mend.
fn is_back(upgrade: &UpgradeStatus, seen: &Seen, now: Timestamp) -> bool {
    let (controllers, speakers) = (&seen.controllers, &seen.speakers);
    let late = seconds(upgrade.progress_time.0, now) > seen.settings.deadline;
    controllers.template.as_ref() == Some(&upgrade.from.controller)
        && speakers.template.as_ref() == Some(&upgrade.from.speaker)
        && all_of(speakers, &upgrade.from.speaker)
        && (late || (controllers.settled && speakers.settled))
        && !speakers.on_delete
        && seen.pre_pull.is_none()
}

fn came_back(memory: &mut Memory, upgrade: UpgradeStatus, seen: &Seen, now: Timestamp, news: &mut Vec<News>) {
    let (from, to) = (&upgrade.from, &upgrade.to);
    let Some(reason) = upgrade.failure.clone() else {
        let reason = "the spec asked for something else".to_owned();
        memory.record(&upgrade, UpgradeOutcome::Superseded, Some(reason), now);
        return;
    };
    news.push(News::warning(
        "RolledBack",
        format!(
            "version {}, revision {} runs again: {} failed: {reason}",
            from.version, from.revision, to.version
        ),
    ));
    memory.record(&upgrade, UpgradeOutcome::RolledBack, Some(reason.clone()), now);
    memory.reject(&upgrade, reason, seen, now);
}
