//! What the stack's status says. Pure: the situation and the status before it give the status after it.
//!
//! | condition | True means |
//! | --- | --- |
//! | `Ready` | the spec is valid, everything is applied, both programs run at the wanted version, nothing is wrong |
//! | `Progressing` | pods are being created or replaced |
//! | `Degraded` | something failed and will not get better without a person |
//! | `PreflightPassed` | no check of `status.preflight` failed; absent before they were made |
//! | `Upgradeable` | nothing is under way or wrong: the operator can be upgraded now |
//! | `DeletionBlocked` | the stack is to be deleted and waits for a person; absent unless it is being deleted |
//! | `Adopted` | MetalLB is replaced; absent where there is nothing to adopt |
//! | `Paused` | `spec.paused` is set: nothing is written; absent otherwise |
//!
//! A condition keeps its transition time as long as it keeps its status, and a status that says what the one before
//! it said is not written: at rest there are no writes.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use lb_crds::condition::set_condition;
use lb_crds::load_balancer_stack::{AdoptionStep, PlanStatus, PreflightCheck, UpgradeStep, VersionCount};
use lb_crds::{ComponentStatus, LoadBalancerStackStatus};
use lb_runtime::text::truncate;

use crate::adoption::Report as AdoptionReport;
use crate::deletion::Report;
use crate::desired::render::Component;
use crate::observe::workload_health::{ComponentState, Observed};
use crate::reasons::Reason;
use crate::upgrade::Memory;

mod adoption;
mod phase;
mod preflight;

/// Everything that a status is made of.
#[derive(Clone, Debug)]
pub struct Situation {
    /// Generation of the stack that this is about.
    pub generation: i64,
    /// Version of the operator.
    pub operator_version: String,
    /// Version to run; `None` while the spec is invalid.
    pub target_version: Option<String>,
    /// Whether the spec says to write nothing.
    pub paused: bool,
    /// What is wrong with the spec.
    pub invalid: Option<String>,
    /// What could not be done, and why.
    pub failures: Vec<(Reason, String)>,
    /// Objects that differ from the spec and are left so because it is paused.
    pub pending: Vec<String>,
    /// How the programs are doing.
    pub observed: Observed,
    /// What came of the checks; empty before they were made.
    pub preflight: Vec<PreflightCheck>,
    /// Why nothing is installed or changed, while something is to be.
    pub blocked: Option<String>,
    /// What there is to say of the stack's deletion.
    pub deletion: Option<Report>,
    /// What there is to say of the adoption of MetalLB.
    pub adoption: Option<AdoptionReport>,
    /// How upgrades are doing.
    pub upgrade: Upgrades,
}

/// How upgrades are doing.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Upgrades {
    /// What the machine remembers.
    pub memory: Memory,
    /// The plan that waits for approval.
    pub plan: Option<PlanStatus>,
    /// Why the spec's revision is not tried.
    pub rejected: Option<String>,
    /// What keeps the present upgrade from beginning.
    pub obstacle: Option<String>,
    /// Whether the present upgrade waits because nothing is kept that it could be rolled back to.
    pub no_rollback: bool,
}

/// A condition that is to be.
struct Verdict {
    type_: &'static str,
    status: bool,
    reason: Reason,
    message: String,
}

/// The status after `before`, given the situation.
#[must_use]
pub fn status(
    before: &LoadBalancerStackStatus,
    situation: &Situation,
    now: Timestamp,
) -> LoadBalancerStackStatus {
    let mut status = before.clone();
    let observed = &situation.observed;
    let degraded = degraded(situation);
    let progressing = progressing(situation);
    let ready = ready(situation, &degraded, &progressing);
    let upgradeable = upgradeable(situation, &ready);
    status.phase = Some(phase::phase(situation, ready.status, degraded.status));
    let verdicts = [ready, progressing, degraded, upgradeable];
    situation.upgrade.memory.put(&mut status);
    status.plan.clone_from(&situation.upgrade.plan);
    for verdict in &verdicts {
        set(&mut status.conditions, verdict, situation.generation, now);
    }
    if !situation.preflight.is_empty() {
        let verdict = preflight::condition(&situation.preflight);
        set(&mut status.conditions, &verdict, situation.generation, now);
        status.preflight.clone_from(&situation.preflight);
    }
    if let Some(report) = &situation.deletion {
        let verdict = Verdict {
            type_: "DeletionBlocked",
            status: report.blocked,
            reason: report.reason,
            message: report.message.clone(),
        };
        set(&mut status.conditions, &verdict, situation.generation, now);
    } else {
        status
            .conditions
            .retain(|condition| condition.type_ != "DeletionBlocked");
    }
    status.adoption = situation.adoption.as_ref().map(adoption::line);
    match &situation.adoption {
        Some(report) => set(
            &mut status.conditions,
            &adoption::condition(report),
            situation.generation,
            now,
        ),
        None => status.conditions.retain(|condition| condition.type_ != "Adopted"),
    }
    if situation.paused {
        let verdict = Verdict {
            type_: "Paused",
            status: true,
            reason: Reason::Paused,
            message: PAUSED.to_owned(),
        };
        set(&mut status.conditions, &verdict, situation.generation, now);
    } else {
        status.conditions.retain(|condition| condition.type_ != "Paused");
    }
    if matches!(&situation.adoption, Some(report) if report.step == AdoptionStep::Restoring) {
        status.version = None;
    }
    status.observed_generation = Some(situation.generation);
    status.operator_version = Some(situation.operator_version.clone());
    if let Some(target) = &situation.target_version {
        status.target_version = Some(target.clone());
        // What runs changes only once all of it runs.
        let runs =
            |component: &ComponentState| component.settled && component.version.as_ref() == Some(target);
        if observed.components().into_iter().all(runs) {
            status.version = Some(target.clone());
        }
    }
    status.components = observed.components().into_iter().map(component).collect();
    status.controller = Some(ratio(&observed.controller));
    status.speakers = Some(ratio(&observed.speaker));
    status
}

const PAUSED: &str = "spec.paused is true: nothing is written; set it to false to go on";

fn set(conditions: &mut Vec<Condition>, verdict: &Verdict, generation: i64, now: Timestamp) {
    set_condition(
        conditions,
        verdict.type_,
        verdict.status,
        verdict.reason.as_str(),
        &verdict.message,
        generation,
        now,
    );
}

fn component(state: &ComponentState) -> ComponentStatus {
    ComponentStatus {
        name: state.component.name().to_owned(),
        desired: state.desired,
        ready: state.ready,
        updated: state.updated,
        version: state.version.clone(),
        versions: state
            .versions
            .iter()
            .map(|(version, pods)| VersionCount {
                version: version.clone(),
                pods: *pods,
            })
            .collect(),
    }
}

fn ratio(state: &ComponentState) -> String {
    format!("{}/{}", state.ready, state.desired)
}

fn degraded(situation: &Situation) -> Verdict {
    let verdict = |status, reason, message| Verdict {
        type_: "Degraded",
        status,
        reason,
        message,
    };
    let observed = &situation.observed;
    if let Some(invalid) = &situation.invalid {
        let message = format!("{invalid} (the running stack is left as it is)");
        return verdict(true, Reason::InvalidSpec, message);
    }
    if let Some(blocked) = &situation.blocked {
        let message =
            format!("nothing is installed or changed, because {blocked}; what runs is left as it is");
        return verdict(true, Reason::PreflightFailed, message);
    }
    if let Some(report) = situation.adoption.as_ref().filter(|report| report.blocked) {
        return verdict(true, Reason::AdoptionBlocked, report.message.clone());
    }
    if let Some((reason, message)) = failed_upgrade(&situation.upgrade) {
        return verdict(true, reason, message);
    }
    if let Some((reason, _)) = situation.failures.first() {
        let messages: Vec<_> = situation.failures.iter().map(|(_, text)| text.as_str()).collect();
        return verdict(true, *reason, first_few(&messages));
    }
    if !observed.troubles.is_empty() {
        return verdict(true, Reason::PodsFailing, observed.troubles.join("; "));
    }
    let stalled = observed
        .components()
        .into_iter()
        .find_map(|component| component.stalled.as_ref());
    if let Some(stalled) = stalled {
        return verdict(true, Reason::RolloutStalled, stalled.clone());
    }
    verdict(false, Reason::AsExpected, "nothing is wrong".to_owned())
}

/// The longest message in a condition, in bytes: the API server's answer to a wrong object can fill pages, and its end
/// repeats its beginning. The operator's log has all of it.
const MESSAGE_LIMIT: usize = 400;
/// The first few, and how many more.
fn first_few(messages: &[&str]) -> String {
    let few = messages
        .iter()
        .take(3)
        .map(|message| truncate((*message).to_owned(), MESSAGE_LIMIT));
    let mut text = few.collect::<Vec<_>>().join("; ");
    if messages.len() > 3 {
        text.push_str(&format!("; and {} more", messages.len() - 3));
    }
    text
}

fn progressing(situation: &Situation) -> Verdict {
    let verdict = |status, reason, message| Verdict {
        type_: "Progressing",
        status,
        reason,
        message,
    };
    if situation.invalid.is_some() {
        return verdict(
            false,
            Reason::InvalidSpec,
            "waits for a valid spec: see condition Degraded".to_owned(),
        );
    }
    if situation.paused {
        return verdict(false, Reason::Paused, PAUSED.to_owned());
    }
    if situation.blocked.is_some() {
        return verdict(
            false,
            Reason::PreflightFailed,
            "waits until no check fails: see condition PreflightPassed".to_owned(),
        );
    }
    if let Some(report) = situation.deletion.as_ref().filter(|report| !report.blocked) {
        return verdict(true, report.reason, report.message.clone());
    }
    if let Some(report) = &situation.adoption
        && report.step != AdoptionStep::Adopted
    {
        let step = report.step.as_str();
        let message = format!("adoption of MetalLB: step {step}: {}", report.message);
        return verdict(!report.blocked, adoption::reason(report), message);
    }
    if let Some(upgrade) = &situation.upgrade.memory.upgrade {
        let reason = match upgrade.step {
            _ if upgrade.paused => Reason::UpgradePaused,
            UpgradeStep::RollingBack => Reason::RollingBack,
            _ => Reason::Upgrading,
        };
        let step = upgrade.step.as_str();
        let to = &upgrade.to.version;
        let mut message = format!("upgrade from {} to {to}: step {step}", upgrade.from.version);
        if let Some(node) = &upgrade.canary_node {
            message.push_str(&format!(", canary on node {node}"));
        }
        if upgrade.total > 0 {
            let wanted = if upgrade.step == UpgradeStep::RollingBack {
                "back"
            } else {
                "new"
            };
            message.push_str(&format!(
                ", {} of {} speakers {wanted}",
                upgrade.updated, upgrade.total
            ));
        }
        if upgrade.step == UpgradeStep::Preflight
            && let Some(obstacle) = &situation.upgrade.obstacle
        {
            message.push_str(&format!(": {obstacle}"));
        }
        return verdict(!upgrade.paused, reason, message);
    }
    if let Some(plan) = &situation.upgrade.plan {
        return verdict(false, Reason::WaitingForApproval, waits(plan));
    }
    let rolling: Vec<_> = situation
        .observed
        .components()
        .into_iter()
        .filter(|component| !component.settled)
        .map(|component| {
            let ComponentState {
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
        // What `kubectl get` shows of a deletion that waits.
        if let Some(report) = &situation.deletion {
            let message = "the deletion waits: see condition DeletionBlocked".to_owned();
            return verdict(false, report.reason, message);
        }
        return verdict(
            false,
            Reason::AsExpected,
            "nothing is being rolled out".to_owned(),
        );
    }
    verdict(true, Reason::RollingOut, rolling.join("; "))
}

fn ready(situation: &Situation, degraded: &Verdict, progressing: &Verdict) -> Verdict {
    let verdict = |status, reason, message| Verdict {
        type_: "Ready",
        status,
        reason,
        message,
    };
    if degraded.status {
        return verdict(false, degraded.reason, degraded.message.clone());
    }
    if progressing.status {
        return verdict(false, progressing.reason, progressing.message.clone());
    }
    if progressing.reason == Reason::WaitingForApproval {
        return verdict(false, progressing.reason, progressing.message.clone());
    }
    if !situation.pending.is_empty() {
        let pending: Vec<_> = situation.pending.iter().map(String::as_str).collect();
        let message = format!(
            "spec.paused is true, and these objects differ from the spec: {}",
            first_few(&pending)
        );
        return verdict(false, Reason::Paused, message);
    }
    let observed = &situation.observed;
    if !observed.settled() {
        // Only while paused: otherwise this is progress.
        let counts = counts(observed);
        return verdict(
            false,
            Reason::PodsNotReady,
            format!("not all pods are ready: {counts}"),
        );
    }
    let mut message = counts(observed);
    let lost = observed.speaker.lost;
    if lost > 0 {
        message.push_str(&format!(
            "; the nodes of {lost} do not answer, others announce in their place"
        ));
    }
    verdict(true, Reason::AsExpected, message)
}

/// What is wrong because an upgrade failed.
fn failed_upgrade(upgrades: &Upgrades) -> Option<(Reason, String)> {
    if let Some(upgrade) = &upgrades.memory.upgrade {
        let failure = upgrade.failure.as_ref()?;
        let (to, from) = (&upgrade.to.version, &upgrade.from.version);
        let failure = truncate(failure.clone(), MESSAGE_LIMIT);
        return Some(if upgrade.paused {
            let todo = "set spec.version back, or change the spec in any other way to try once more";
            let message = format!("the upgrade to {to} failed and was stopped: {failure}; {todo}");
            (Reason::UpgradePaused, message)
        } else {
            let message = format!("the upgrade to {to} failed, {from} is being brought back: {failure}");
            (Reason::RollingBack, message)
        });
    }
    let failure = truncate(upgrades.rejected.clone()?, MESSAGE_LIMIT);
    let good = upgrades.memory.last_good.clone().unwrap_or_default();
    Some((
        Reason::RolledBack,
        format!(
            "the last upgrade failed and version {}, revision {} runs again: {failure}; it is tried again when the spec or the \
             operator changes",
            good.version, good.revision
        ),
    ))
}

/// What a plan waits for.
fn waits(plan: &PlanStatus) -> String {
    let patch = format!(
        "{{\"spec\":{{\"upgrade\":{{\"approvedPlan\":\"{}\"}}}}}}",
        plan.hash
    );
    format!(
        "the upgrade to {} in status.plan waits for approval: kubectl patch loadbalancerstack default --type=merge -p '{patch}'",
        plan.version
    )
}

/// Whether the operator can be upgraded now, which begins an upgrade of the stack unless the spec names a version.
fn upgradeable(situation: &Situation, ready: &Verdict) -> Verdict {
    let (status, reason, message) = if ready.status {
        (
            true,
            Reason::AsExpected,
            "the operator can be upgraded".to_owned(),
        )
    } else {
        let message = format!("wait until the stack is ready: {}", ready.message);
        (false, ready.reason, message)
    };
    let paused = situation.paused && status;
    Verdict {
        type_: "Upgradeable",
        status: status && !paused,
        reason: if paused { Reason::Paused } else { reason },
        message: if paused { PAUSED.to_owned() } else { message },
    }
}

fn counts(observed: &Observed) -> String {
    let count = |state: &ComponentState| {
        let plural = match state.component {
            Component::Controller => "controller",
            Component::Speaker => "speakers",
        };
        format!("{plural} {}", ratio(state))
    };
    format!("{}, {}", count(&observed.controller), count(&observed.speaker))
}

/// What changed between two statuses that is worth an event: `(warning, reason, note)`.
#[must_use]
pub fn news(
    before: &LoadBalancerStackStatus,
    after: &LoadBalancerStackStatus,
) -> Vec<(bool, String, String)> {
    let find = |status: &LoadBalancerStackStatus, type_: &str| {
        let found = status
            .conditions
            .iter()
            .find(|condition| condition.type_ == type_);
        found.cloned()
    };
    let mut news = Vec::new();
    if let Some(degraded) = find(after, "Degraded").filter(|condition| condition.status == "True") {
        let known = find(before, "Degraded")
            .is_some_and(|known| known.status == "True" && known.reason == degraded.reason);
        // That an upgrade was rolled back is told where it happens.
        if !known && degraded.reason != Reason::RolledBack.as_str() {
            news.push((true, degraded.reason, degraded.message));
        }
    }
    news.extend(preflight::news(before, after));
    news.extend(adoption::news(before, after));
    if let Some(blocked) = find(after, "DeletionBlocked").filter(|condition| condition.status == "True") {
        let known = find(before, "DeletionBlocked")
            .is_some_and(|known| known.status == "True" && known.reason == blocked.reason);
        if !known {
            news.push((true, "DeletionBlocked".to_owned(), blocked.message));
        }
    }
    for (type_, reason) in [
        ("Progressing", "RollingOut"),
        ("Ready", "Ready"),
        ("Paused", "Paused"),
    ] {
        let is = |status: &LoadBalancerStackStatus| {
            find(status, type_).filter(|condition| condition.status == "True")
        };
        if let Some(now) = is(after)
            && is(before).is_none()
        {
            // The event says what goes on, and not only that something does.
            let own = [Reason::Deleting, Reason::Adopting, Reason::Restoring];
            let reason = match now.reason.as_str() {
                now if own.iter().any(|own| own.as_str() == now) => now,
                _ => reason,
            };
            news.push((false, reason.to_owned(), now.message));
        }
    }
    news
}

#[cfg(test)]
mod tests;
