//! Upgrades that nothing is wrong with: one minor version up, with the operator, and down again; restarts by hand; one that
//! waits for a person, and one that is paused in the middle.

use std::time::Duration;

use super::interrupted::at;
use super::{Place, good};
use lb_e2e::harness::{SHORT_TIMEOUT, eventually};
use lb_tools::releases::CURRENT_VERSION;

#[test]
fn an_upgrade_and_a_downgrade_break_and_refuse_nothing() -> anyhow::Result<()> {
    let place = Place::present("upgrade")?;
    place.answered_throughout("upgrade", |place| {
        let past = place.past()?;
        place
            .harness
            .admin(&format!("helm upgrade lb-operator {} --wait", place.next))?;
        place.arrives(past, &good())
    })?;
    place.answered_throughout("downgrade", |place| {
        let past = place.past()?;
        place.set(&format!("{{\"version\":\"{CURRENT_VERSION}\"}}"))?;
        place.arrives(past, CURRENT_VERSION)
    })?;
    place.answered_throughout("restart of controllers and speakers", |place| {
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
    place.answered_throughout("manual approval", an_upgrade_waits_for_approval)?;
    place.answered_throughout("pause in the middle", a_paused_upgrade_stays_where_it_is)?;
    Ok(())
}

/// While the stack is paused nothing goes on and nothing is repaired; after that, both.
fn a_paused_upgrade_stays_where_it_is(place: &Place) -> anyhow::Result<()> {
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
    // The thing under test is that nothing happens, for longer than the step would last: there is no event to wait for.
    std::thread::sleep(Duration::from_secs(10));
    assert_eq!(place.status()?["upgrade"]["step"], step);
    assert_eq!(place.pods()?, pods);
    assert_eq!(place.harness.admin(budget)?, "", "it is not repaired");
    place.set("{\"paused\":false}")?;
    eventually("the budget to be there again", SHORT_TIMEOUT, || {
        Ok((!place.harness.admin(budget)?.is_empty()).then_some(()))
    })?;
    place.arrives(past, CURRENT_VERSION)
}

/// With `approval: Manual` the plan is shown, and nothing happens before it is approved.
fn an_upgrade_waits_for_approval(place: &Place) -> anyhow::Result<()> {
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
    place.arrives(past, &good())
}
