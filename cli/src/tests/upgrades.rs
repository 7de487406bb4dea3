//! `upgrade`, `adopt` and `watch`.

use insta::assert_snapshot;
use kube::runtime::watcher::Event;
use serde_json::json;

use super::fixture::*;
use crate::adopt;
use crate::cluster::Cluster;
use crate::snapshot::Snapshot;
use crate::upgrade;
use crate::watch::{Announcement, Known};

/// An upgrade to 0.2.0 that is paused.
fn paused() -> Snapshot {
    let mut snapshot = cluster();
    let revision =
        |version: &str| json!({"version": version, "revision": "a", "controller": "b", "speaker": "c"});
    let status = snapshot.stacks[0].status.as_mut().unwrap();
    status.upgrade = serde_json::from_value(json!({
        "from": revision("0.1.0"), "to": revision("0.2.0"), "step": "PrePull", "startedTime": EARLIER,
        "progressTime": EARLIER, "generation": 2, "total": 3, "paused": "Infrastructure",
        "waitingFor": "n2: pull r/speaker:0.2.0: not found",
        "steps": [
            {"name": "Preflight", "startedTime": EARLIER, "finishedTime": EARLIER, "message": "all fine"},
            {"name": "PrePull", "startedTime": EARLIER},
        ],
    }))
    .unwrap();
    snapshot
}

#[test]
fn paused_upgrade_says_what_it_waits_for() {
    assert_snapshot!(plain(&upgrade::upgrade(&paused()).unwrap()));
}

#[test]
fn rolled_back_upgrade_says_why_and_how_to_stay() {
    let mut snapshot = cluster();
    let status = snapshot.stacks[0].status.as_mut().unwrap();
    status.last_good = serde_json::from_value(
        json!({"version": "0.1.0", "revision": "a", "controller": "b", "speaker": "c"}),
    )
    .unwrap();
    status.history = serde_json::from_value(json!([{
        "from": "0.1.0", "to": "0.2.0", "toRevision": "x", "startedTime": EARLIER, "finishedTime": EARLIER,
        "outcome": "RolledBack", "reason": "n2 announces 192.168.50.50, and n1 got no reply",
    }]))
    .unwrap();
    assert_snapshot!(plain(&upgrade::upgrade(&snapshot).unwrap()));
    assert_snapshot!(plain(&upgrade::history(&snapshot).unwrap()));
}

#[test]
fn only_the_plan_that_was_shown_is_approved() {
    let mut snapshot = cluster();
    assert!(upgrade::approve(&snapshot.stacks[0]).is_err(), "there is none");
    let status = snapshot.stacks[0].status.as_mut().unwrap();
    status.plan = serde_json::from_value(json!({
        "hash": "abc", "version": "0.2.0", "steps": ["PrePull", "Canary"],
        "changes": [{"object": "DaemonSet speaker", "change": "image", "impact": "one speaker after the other restarts"}],
    }))
    .unwrap();
    assert_snapshot!(plain(&upgrade::plan(&snapshot).unwrap()));
    let approved = upgrade::approve(&snapshot.stacks[0]).unwrap();
    assert_eq!(
        approved.patch,
        json!({"spec": {"upgrade": {"approvedPlan": "abc"}}})
    );
}

#[test]
fn retry_and_abort_need_something_to_act_on() {
    let idle = cluster();
    assert!(upgrade::retry(&idle.stacks[0]).is_err() && upgrade::abort(&idle.stacks[0]).is_err());
    let mut snapshot = paused();
    assert!(
        upgrade::retry(&snapshot.stacks[0])
            .unwrap()
            .what
            .contains("0.2.0")
    );
    let abort = upgrade::abort(&snapshot.stacks[0]).unwrap();
    assert_eq!(abort.patch, json!({"spec": {"version": "0.1.0"}}));
    let status = snapshot.stacks[0].status.as_mut().unwrap();
    status.upgrade.as_mut().unwrap().to.version = "0.1.0".to_owned();
    let error = upgrade::abort(&snapshot.stacks[0]).unwrap_err().to_string();
    assert!(error.contains("only settings change"), "{error}");
}

#[test]
fn adoption_shows_its_step_and_what_it_would_take() {
    let mut snapshot = cluster();
    for pod in &mut snapshot.pods {
        let container = &mut pod.spec.as_mut().unwrap().containers[0];
        container.image = Some("quay.io/metallb/speaker:v0.15.2".to_owned());
    }
    pool(&mut snapshot, "lan", "192.168.50.50-192.168.50.60", "");
    service(&mut snapshot, "default/web", Some("192.168.50.50"), "", "");
    service(&mut snapshot, "default/old", Some("10.9.9.9"), "", "");
    assert_snapshot!(plain(&adopt::preview(&Cluster::new(&snapshot))));
    let status = snapshot.stacks[0].status.as_mut().unwrap();
    status.adoption =
        serde_json::from_value(json!({"step": "Speakers", "message": "1 of 3 speakers ready"})).unwrap();
    assert_snapshot!(plain(&adopt::status(&Cluster::new(&snapshot))));
}

#[test]
fn watch_prints_changes_and_not_the_first_list() {
    let mut snapshot = cluster();
    announced(
        &mut snapshot,
        "default/web",
        "192.168.50.50",
        "n1",
        &verified(true),
    );
    announced(
        &mut snapshot,
        "default/web",
        "192.168.50.50",
        "n2",
        &verified(false),
    );
    let mut known = Known::<Announcement>::default();
    let mut lines = Vec::new();
    let [first, moved] = [0, 1].map(|at| snapshot.statuses[at].clone());
    for event in [
        Event::Init,
        Event::InitApply(first.clone()),
        Event::InitDone,
        Event::Apply(first.clone()),
        Event::Apply(moved),
        // The connection was lost, and the object is back.
        Event::Init,
        Event::InitApply(first.clone()),
        Event::InitDone,
        Event::Delete(first),
    ] {
        lines.extend(known.apply(event));
    }
    assert_eq!(
        lines,
        [
            "moved      192.168.50.50  default/web  from n1 to n2",
            "no reply   192.168.50.50  default/web  from n2",
            "moved      192.168.50.50  default/web  from n2 to n1",
            "reply      192.168.50.50  default/web  from n1 again",
            "withdrawn  192.168.50.50  default/web  by n1",
        ]
    );
}
