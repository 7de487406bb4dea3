//! Successful upgrades: one minor version up, with the operator, and down again; manual restarts; an upgrade that waits
//! for approval, and one that is paused.

use std::time::Duration;

use super::interrupted::at;
use super::{Place, good};
use lb_e2e::harness::{SHORT_TIMEOUT, eventually};
use lb_tools::releases::CURRENT_VERSION;

#[test]
fn upgrade_and_downgrade_break_no_connection() -> anyhow::Result<()> {
    let place = Place::present("upgrade")?;
    place.with_traffic_and_resolution("upgrade", |place| {
        let past = place.past()?;
        place.harness.admin(&format!(
            "helm upgrade lb-operator {} -n lb-operator-system --wait",
            place.next
        ))?;
        place.wait_for_success(past, &good())
    })?;
    place.with_traffic_and_resolution("downgrade", |place| {
        let past = place.past()?;
        place.set(&format!("{{\"version\":\"{CURRENT_VERSION}\"}}"))?;
        place.wait_for_success(past, CURRENT_VERSION)
    })?;
    place.with_traffic_and_resolution("restart of controllers and speakers", |place| {
        let before = place.pods()?;
        for workload in ["deployment/controller", "daemonset/speaker"] {
            place.harness.admin(&format!(
                "kubectl rollout restart -n metallb-system {workload} && \
                 kubectl rollout status -n metallb-system {workload} --timeout=120s"
            ))?;
        }
        let after = place.pods()?;
        assert!(before.is_disjoint(&after), "{before:?}, {after:?}");
        Ok(())
    })?;
    place.with_traffic_and_resolution("manual approval", upgrade_waits_for_approval)?;
    place.with_traffic_and_resolution("pause in the middle", paused_upgrade_does_not_continue)?;
    Ok(())
}

/// While the stack is paused, it is neither upgraded nor repaired; afterwards it is.
fn paused_upgrade_does_not_continue(place: &Place) -> anyhow::Result<()> {
    let past = place.past()?;
    place.set(&format!(
        "{{\"version\":\"{CURRENT_VERSION}\",\"upgrade\":{{\"approval\":\"Automatic\",\"approvedPlan\":null}}}}"
    ))?;
    at(place, "Soak")?;
    place.set("{\"paused\":true}")?;
    place
        .harness
        .admin("kubectl wait lbs default --for=condition=Paused --timeout=30s")?;
    let budget = "kubectl get pdb metallb-speaker -n metallb-system -o name --ignore-not-found";
    place
        .harness
        .admin("kubectl delete pdb metallb-speaker -n metallb-system")?;
    let (step, pods) = (place.status()?["upgrade"]["step"].take(), place.pods()?);
    // The test is that nothing happens for longer than the step takes, so there is no event to wait for.
    std::thread::sleep(Duration::from_secs(10));
    assert_eq!(place.status()?["upgrade"]["step"], step);
    assert_eq!(place.pods()?, pods);
    assert_eq!(place.harness.admin(budget)?, "", "it is not repaired");
    place.set("{\"paused\":false}")?;
    eventually("the budget to be there again", SHORT_TIMEOUT, || {
        Ok((!place.harness.admin(budget)?.is_empty()).then_some(()))
    })?;
    place.wait_for_success(past, CURRENT_VERSION)
}

/// With `approval: Manual`, the plan is shown, and nothing happens until it is approved.
fn upgrade_waits_for_approval(place: &Place) -> anyhow::Result<()> {
    let (past, before) = (place.past()?, place.pods()?);
    place.set(&format!(
        "{{\"version\":\"{}\",\"upgrade\":{{\"approval\":\"Manual\"}}}}",
        good()
    ))?;
    let plan = eventually("a plan", SHORT_TIMEOUT, || {
        let status = place.status()?;
        let plan = &status["plan"];
        Ok(plan["hash"].is_string().then(|| plan.clone()))
    })?;
    assert_eq!(plan["version"], good(), "{plan}");
    for part in ["changes", "steps"] {
        assert!(!plan[part].as_array().is_none_or(Vec::is_empty), "{plan}");
    }
    let hash = plan["hash"].as_str().unwrap_or_default();
    let (_, reason, message) = place.condition("Progressing")?;
    assert_eq!(reason, "WaitingForApproval");
    assert!(message.contains(hash), "it says how to approve: {message}");
    assert_eq!(place.pods()?, before, "nothing has restarted");
    place.set(&format!("{{\"upgrade\":{{\"approvedPlan\":\"{hash}\"}}}}"))?;
    place.wait_for_success(past, &good())
}
