//! What orders make of the objects, without a cluster.

use kube::api::DynamicObject;

use super::*;
use crate::desired::config::tests::mk_plan;
use crate::desired::render::render;
use crate::drift::diff::{Memory as Applied, difference};

fn mk_orders(choice: Choice, on_delete: bool, rules: Rules, keep: &[&str]) -> Orders {
    Orders {
        controller: choice,
        speaker: choice,
        on_delete,
        kinds: true,
        rules,
        pre_pull: false,
        keep: keep.iter().map(|name| (*name).to_owned()).collect(),
        restart: Vec::new(),
        waits: false,
        ticks: false,
    }
}

/// Makes everything exist as it is wanted.
fn store(index: &mut Index, wanted: &[Wanted]) {
    for wanted in wanted {
        if wanted.body.get("kind").is_none() {
            continue;
        }
        let mut body = wanted.body.clone();
        body["metadata"]["uid"] = json!(wanted.id.to_string());
        if wanted.id.kind == Kind::Secret {
            // Its content is made when it is written.
            body["data"] = json!({"current": "A".repeat(44)});
        }
        let object: DynamicObject = serde_json::from_value(body).unwrap();
        index.apply(wanted.id.clone(), Live::new(wanted.id.kind, object));
    }
}

fn find<'a>(wanted: &'a [Wanted], kind: Kind, name: &str) -> &'a Wanted {
    let mut found = wanted
        .iter()
        .filter(|wanted| wanted.id.kind == kind && wanted.id.key.name() == name);
    found.next().unwrap()
}

/// A cluster that runs the plan, with what is kept of it, and the memory of that.
fn mk_running() -> (Index, Memory, Vec<Wanted>) {
    let plan = mk_plan();
    let rendered = render(&plan).unwrap();
    let good = revision(&rendered, "0.1.0");
    let memory = Memory {
        last_good: Some(good.clone()),
        ..Memory::default()
    };
    let mut index = Index::default();
    let orders = mk_orders(Choice::New, false, Rules::New, &[&good.revision]);
    let all = wanted(&rendered, &plan, &good, &memory, &orders, &index);
    store(&mut index, &all);
    (index, memory, all)
}

#[test]
fn a_revision_changes_with_the_pods_and_with_nothing_else() {
    let of = |plan: &Plan| revision(&render(plan).unwrap(), &plan.version);
    let before = of(&mk_plan());
    let same = of(&Plan {
        controller_replicas: 5,
        network_policy: false,
        controllers_kept: None,
        speakers_kept: None,
        service_monitor: None,
        ..mk_plan()
    });
    assert_eq!(before, same);
    let both = of(&Plan {
        log_level: "debug".to_owned(),
        ..mk_plan()
    });
    assert!(both.controller != before.controller && both.speaker != before.speaker);
    let mut plan = mk_plan();
    plan.speaker_settings.push(("LB_FAILBACK", "never".to_owned()));
    let one = of(&plan);
    assert!(one.controller == before.controller && one.speaker != before.speaker);
    assert_ne!(one.revision, before.revision);
}

#[test]
fn what_ran_before_is_wanted_exactly_as_it_was_and_other_changes_are_not_held_up() {
    let (index, memory, applied) = mk_running();
    let plan = Plan {
        version: "0.1.1".to_owned(),
        log_level: "debug".to_owned(),
        controller_replicas: 3,
        ..mk_plan()
    };
    let rendered = render(&plan).unwrap();
    let target = revision(&rendered, &plan.version);
    let good = memory.last_good.clone().unwrap().revision;
    let orders = mk_orders(Choice::Former, false, Rules::Former, &[&good]);
    let all = wanted(&rendered, &plan, &target, &memory, &orders, &index);
    let controller = find(&all, Kind::Deployment, "controller");
    let before = find(&applied, Kind::Deployment, "controller");
    assert_eq!(
        controller.body["spec"]["template"],
        before.body["spec"]["template"]
    );
    assert_eq!(controller.body["spec"]["replicas"], 3);
    assert_eq!(
        find(&all, Kind::DaemonSet, "speaker"),
        find(&applied, Kind::DaemonSet, "speaker")
    );
}

#[test]
fn only_the_strategy_differs_while_at_work_and_a_second_pass_writes_nothing() {
    let (mut index, memory, _) = mk_running();
    let plan = mk_plan();
    let rendered = render(&plan).unwrap();
    let target = revision(&rendered, &plan.version);
    for on_delete in [true, false] {
        let orders = mk_orders(Choice::New, on_delete, Rules::New, &[&target.revision]);
        let all = wanted(&rendered, &plan, &target, &memory, &orders, &index);
        let todo = difference(&all, &index, &Applied::default(), "stack-uid");
        let names: Vec<_> = todo
            .apply
            .iter()
            .map(|(wanted, _)| wanted.id.key.name())
            .collect();
        assert_eq!(names, ["speaker"]);
        assert_eq!(todo.prune, []);
        store(&mut index, &all);
        let again = wanted(&rendered, &plan, &target, &memory, &orders, &index);
        assert!(difference(&again, &index, &Applied::default(), "stack-uid").is_empty());
    }
}

#[test]
fn roles_grant_what_both_need_until_the_end() {
    let (index, memory, _) = mk_running();
    let plan = mk_plan();
    let mut rendered = render(&plan).unwrap();
    let target = revision(&rendered, &plan.version);
    // The new program needs another right, and one of the former ones no more.
    let role = rendered
        .iter_mut()
        .find(|wanted| wanted.id.kind == Kind::ClusterRole && wanted.id.key.name() == "metallb-speaker")
        .unwrap();
    let former = role.body["rules"].as_array().unwrap().clone();
    role.body["rules"] = json!([{"apiGroups": [""], "resources": ["news"], "verbs": ["get"]}]);
    *role = Wanted::seal(role.id.clone(), role.body.clone());
    let rules = |rules| {
        let orders = mk_orders(Choice::New, false, rules, &[]);
        let all = wanted(&rendered, &plan, &target, &memory, &orders, &index);
        let role = find(&all, Kind::ClusterRole, "metallb-speaker");
        role.body["rules"].as_array().unwrap().clone()
    };
    assert_eq!(rules(Rules::Former), former);
    assert_eq!(rules(Rules::Both).len(), former.len() + 1);
    assert_eq!(rules(Rules::New).len(), 1);
}

#[test]
fn a_definition_that_would_lose_a_stored_version_is_refused_and_not_applied() {
    let (mut index, memory, applied) = mk_running();
    let plan = mk_plan();
    let rendered = render(&plan).unwrap();
    let target = revision(&rendered, &plan.version);
    let pools = find(
        &applied,
        Kind::CustomResourceDefinition,
        "ipaddresspools.metallb.io",
    );
    let mut body = pools.body.clone();
    body["status"] = json!({"storedVersions": ["v1alpha1", "v1beta1"]});
    let object: DynamicObject = serde_json::from_value(body).unwrap();
    index.apply(pools.id.clone(), Live::new(pools.id.kind, object));
    assert!(refusal(pools, &index).unwrap().contains("v1alpha1"));
    let orders = mk_orders(Choice::New, false, Rules::New, &[]);
    let all = wanted(&rendered, &plan, &target, &memory, &orders, &index);
    assert!(!all.iter().any(|wanted| wanted.id == pools.id));
}
