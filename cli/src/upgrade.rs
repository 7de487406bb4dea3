//! `upgrade`: where it is, what waits for approval, what was, and the three ways to intervene.

use std::fmt::Write as _;
use std::io::{self, BufRead, IsTerminal};
use std::process::ExitCode;

use anyhow::{Context, bail};
use kube::api::{Patch, PatchParams};
use kube::{Api, Client};
use lb_crds::LoadBalancerStack;
use lb_crds::load_balancer_stack::{
    FailedRevision, PlanStatus, Revision, StepStatus, UpgradeOutcome, UpgradeRecord, UpgradeStatus,
    UpgradeStep,
};
use lb_crds::names::STACK;
use serde::Serialize;
use serde_json::{Value, json};

use crate::remedy::{self, Remedy};
use crate::report::{Report, note, write};
use crate::snapshot::Snapshot;
use crate::snapshot::Unread;
use crate::text::{age, age_of, table, wrapped};

/// Field manager of the writes.
const MANAGER: &str = "kubectl-lb";

/// The upgrade in progress, or the last one.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Upgrade {
    #[serde(skip)]
    now: jiff::Timestamp,
    version: Option<String>,
    phase: Option<String>,
    controllers: Option<String>,
    speakers: Option<String>,
    in_progress: Option<UpgradeStatus>,
    last: Option<UpgradeRecord>,
    failed_revisions: Vec<FailedRevision>,
    plan: Option<PlanStatus>,
    remedies: Vec<Remedy>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    unread: Vec<Unread>,
}

/// Reads the state of upgrades.
pub(crate) fn upgrade(snapshot: &Snapshot) -> anyhow::Result<Upgrade> {
    let stack = snapshot
        .stack()
        .context("there is no LoadBalancerStack that could be read")?;
    let status = stack.status.clone().unwrap_or_default();
    let last = status.history.last().cloned();
    let rolled_back = last
        .as_ref()
        .is_some_and(|last| last.outcome == UpgradeOutcome::RolledBack);
    let mut remedies = Vec::new();
    match &status.upgrade {
        Some(one) if one.paused.is_some() || one.failure.is_some() => {
            remedies.push(Remedy::run(
                "solve the cause, and try again",
                "kubectl lb upgrade retry",
            ));
            remedies.push(Remedy::run(
                "return to what ran before",
                "kubectl lb upgrade abort",
            ));
        }
        None if rolled_back => {
            remedies.push(Remedy::run(
                "solve the cause, and try again",
                "kubectl lb upgrade retry",
            ));
            if let Some(good) = &status.last_good {
                let change = json!({"spec": {"version": good.version}});
                remedies.push(Remedy::run(
                    format!("stay with version {}", good.version),
                    remedy::patch("lbs", STACK, None, &change),
                ));
            }
        }
        Some(_) | None => {}
    }
    if status.plan.is_some() && status.upgrade.is_none() {
        remedies.push(Remedy::run("see the plan", "kubectl lb upgrade plan"));
        remedies.push(Remedy::run("approve it", "kubectl lb upgrade approve"));
    }
    Ok(Upgrade {
        now: snapshot.now,
        version: status.version,
        phase: status.phase.map(|phase| phase.as_str().to_owned()),
        controllers: status.controller,
        speakers: status.speakers,
        in_progress: status.upgrade,
        last,
        failed_revisions: status.failed_revisions,
        plan: status.plan,
        remedies,
        unread: snapshot.unread.clone(),
    })
}

impl Upgrade {
    fn progress(&self, text: &mut String, one: &UpgradeStatus) {
        let started = age(self.now, one.started_time.0);
        let _ = writeln!(
            text,
            "{} since {started}: {} of {} speakers{}",
            change(&one.from, &one.to),
            one.updated,
            one.total,
            one.canary_node
                .as_ref()
                .map_or_else(String::new, |node| format!(", first on {node}")),
        );
        let row = |step: &StepStatus| {
            let end = step.finished_time.as_ref().map_or(self.now, |end| end.0);
            let took = age(end, step.started_time.0);
            let state = if step.finished_time.is_some() {
                "done"
            } else {
                "in progress"
            };
            let message = step.message.clone().unwrap_or_default();
            [step.name.as_str().to_owned(), state.to_owned(), took, message]
        };
        let rows: Vec<_> = one.steps.iter().map(row).collect();
        if !rows.is_empty() {
            text.push_str(&table(2, &["STEP", "STATE", "TIME", "RESULT"], &rows));
        }
        if let Some(failure) = &one.failure {
            let _ = writeln!(text, "Failed: {}", wrapped(failure, 8, 8));
        }
        if let Some(reason) = one.paused {
            let waits = one.waiting_for.as_deref().unwrap_or("a change of the spec");
            let _ = writeln!(text, "Paused, {reason}: it waits for {}", wrapped(waits, 30, 8));
        }
    }
}

/// `0.1.0 to 0.2.0`, or `configuration of 0.1.0`.
fn change(from: &Revision, to: &Revision) -> String {
    match from.version == to.version {
        true => format!("Configuration of {}", to.version),
        false => format!("{} to {}", from.version, to.version),
    }
}

impl Report for Upgrade {
    fn text(&self, _wide: bool) -> String {
        let or_dash = |value: &Option<String>| value.clone().unwrap_or_else(|| "-".to_owned());
        let mut text = format!(
            "{} runs on {} controllers and {} speakers: {}.\n",
            or_dash(&self.version),
            or_dash(&self.controllers),
            or_dash(&self.speakers),
            or_dash(&self.phase)
        );
        match (&self.in_progress, &self.last) {
            (Some(one), _) => self.progress(&mut text, one),
            (None, Some(last)) => {
                let ended = age_of(self.now, Some(&last.finished_time));
                let why = last
                    .reason
                    .as_ref()
                    .map_or_else(String::new, |why| format!(": {why}"));
                let line = format!(
                    "The last one, {} to {}, ended {ended} ago: {}{why}",
                    last.from, last.to, last.outcome
                );
                let _ = writeln!(text, "{}", wrapped(&line, 0, 2));
            }
            (None, None) => text.push_str("No upgrade is in progress, and none is recorded.\n"),
        }
        if let Some(plan) = &self.plan {
            let _ = writeln!(text, "An upgrade to {} waits for approval.", plan.version);
        }
        for failed in &self.failed_revisions {
            let line = format!(
                "Not tried again until the spec or the operator changes: {}: {}",
                failed.version, failed.reason
            );
            let _ = writeln!(text, "{}", wrapped(&line, 0, 2));
        }
        if !self.remedies.is_empty() {
            let _ = write!(text, "\n{}", remedy::text(&self.remedies));
        }
        text
    }

    fn has_problems(&self) -> bool {
        let rolled_back = self
            .last
            .as_ref()
            .is_some_and(|last| last.outcome == UpgradeOutcome::RolledBack);
        match &self.in_progress {
            Some(one) => one.paused.is_some() || one.failure.is_some(),
            None => rolled_back,
        }
    }

    fn unread(&self) -> &[Unread] {
        &self.unread
    }
}

/// The plan that waits for approval.
#[derive(Debug, Serialize)]
pub(crate) struct Plan(Option<PlanStatus>);

/// Reads the plan.
pub(crate) fn plan(snapshot: &Snapshot) -> anyhow::Result<Plan> {
    let stack = snapshot
        .stack()
        .context("there is no LoadBalancerStack that could be read")?;
    Ok(Plan(stack.status.as_ref().and_then(|status| status.plan.clone())))
}

impl Report for Plan {
    fn text(&self, _wide: bool) -> String {
        let Some(plan) = &self.0 else {
            return "No upgrade waits for approval.\n".to_owned();
        };
        let rows: Vec<_> = plan
            .changes
            .iter()
            .map(|one| [one.object.clone(), one.change.clone(), one.impact.clone()])
            .collect();
        let mut text = format!("To version {} (plan {}):\n", plan.version, plan.hash);
        text.push_str(&table(2, &["OBJECT", "CHANGE", "IMPACT"], &rows));
        if !plan.steps.is_empty() {
            let _ = writeln!(text, "Steps: {}", wrapped(&plan.steps.join(", "), 7, 7));
        }
        text
    }

    fn has_problems(&self) -> bool {
        false
    }

    fn unread(&self) -> &[Unread] {
        &[]
    }
}

/// The last upgrades.
#[derive(Debug, Serialize)]
pub(crate) struct History {
    #[serde(skip)]
    now: jiff::Timestamp,
    upgrades: Vec<UpgradeRecord>,
}

/// Reads the last upgrades.
pub(crate) fn history(snapshot: &Snapshot) -> anyhow::Result<History> {
    let stack = snapshot
        .stack()
        .context("there is no LoadBalancerStack that could be read")?;
    Ok(History {
        now: snapshot.now,
        upgrades: stack.status.clone().unwrap_or_default().history,
    })
}

impl Report for History {
    fn text(&self, _wide: bool) -> String {
        if self.upgrades.is_empty() {
            return "No upgrade is recorded.\n".to_owned();
        }
        let row = |one: &UpgradeRecord| {
            [
                one.from.clone(),
                one.to.clone(),
                one.outcome.as_str().to_owned(),
                age(one.finished_time.0, one.started_time.0),
                format!("{} ago", age_of(self.now, Some(&one.finished_time))),
                one.reason.clone().unwrap_or_default(),
            ]
        };
        let rows: Vec<_> = self.upgrades.iter().rev().map(row).collect();
        table(0, &["FROM", "TO", "OUTCOME", "TOOK", "ENDED", "REASON"], &rows)
    }

    fn has_problems(&self) -> bool {
        false
    }

    fn unread(&self) -> &[Unread] {
        &[]
    }
}

/// A change of the stack's spec.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Intervention {
    /// Its effect.
    pub(crate) what: String,
    /// The merge patch. It has the resource version, so that it applies to what was shown.
    pub(crate) patch: Value,
}

/// Approves the plan that was shown.
pub(crate) fn approve(stack: &LoadBalancerStack) -> anyhow::Result<Intervention> {
    let plan = stack.status.as_ref().and_then(|status| status.plan.as_ref());
    let plan = plan.context("no upgrade waits for approval")?;
    Ok(Intervention {
        what: format!("approve the upgrade to {} (plan {})", plan.version, plan.hash),
        patch: json!({"spec": {"upgrade": {"approvedPlan": plan.hash}}}),
    })
}

/// Tries a failed or paused upgrade again.
pub(crate) fn retry(stack: &LoadBalancerStack) -> anyhow::Result<Intervention> {
    let status = stack.status.clone().unwrap_or_default();
    let failed = status
        .failed_revisions
        .last()
        .map(|failed| failed.version.as_str());
    let paused = status
        .upgrade
        .as_ref()
        .filter(|one| one.paused.is_some() || one.failure.is_some())
        .map(|one| one.to.version.as_str());
    let Some(version) = paused.or(failed) else {
        bail!("no upgrade failed or is paused");
    };
    Ok(Intervention {
        what: format!("try the upgrade to {version} again"),
        // Any new value does.
        patch: json!({"spec": {"upgrade": {"retry": jiff::Timestamp::now().to_string()}}}),
    })
}

/// Returns to the version that ran before.
pub(crate) fn abort(stack: &LoadBalancerStack) -> anyhow::Result<Intervention> {
    let upgrade = stack.status.as_ref().and_then(|status| status.upgrade.as_ref());
    let upgrade = upgrade.context("no upgrade is in progress")?;
    if upgrade.step == UpgradeStep::RollingBack {
        bail!("it is being rolled back already");
    }
    if upgrade.from.version == upgrade.to.version {
        bail!(
            "only settings change, not the version: set them back to what they were: kubectl edit lbs {STACK}"
        );
    }
    Ok(Intervention {
        what: format!("set spec.version to {}, which ran before", upgrade.from.version),
        patch: json!({"spec": {"version": upgrade.from.version}}),
    })
}

/// Asks, unless `yes`, and writes.
pub(crate) async fn intervene(
    client: &Client,
    stack: &LoadBalancerStack,
    intervention: Intervention,
    yes: bool,
) -> anyhow::Result<ExitCode> {
    if !yes && !confirmed(&intervention.what)? {
        note("Nothing was changed.");
        return Ok(ExitCode::from(crate::report::PROBLEMS));
    }
    let mut patch = intervention.patch;
    // A plan that changed in between is not approved.
    patch["metadata"] = json!({"resourceVersion": stack.metadata.resource_version});
    let api: Api<LoadBalancerStack> = Api::all(client.clone());
    let params = PatchParams {
        field_manager: Some(MANAGER.to_owned()),
        ..PatchParams::default()
    };
    match api.patch(STACK, &params, &Patch::Merge(&patch)).await {
        Ok(_) => {
            write(&format!(
                "Done: {}. Follow it: kubectl lb upgrade status\n",
                intervention.what
            ))?;
            Ok(ExitCode::SUCCESS)
        }
        Err(kube::Error::Api(status)) if status.code == 409 => {
            bail!("the stack changed in the meantime: look again, then repeat")
        }
        Err(error) => Err(error).context("the stack was not changed"),
    }
}

fn confirmed(what: &str) -> anyhow::Result<bool> {
    if !io::stdin().is_terminal() {
        bail!("to {what} without a terminal, add --yes");
    }
    note(&format!("To {what}, type yes:"));
    let mut answer = String::new();
    io::stdin().lock().read_line(&mut answer)?;
    Ok(answer.trim() == "yes")
}
