//! Desired objects for given actions, without a cluster.

use kube::api::DynamicObject;
use lb_runtime::watch::Change;

use super::*;
use crate::desired::config::tests::mk_config;
use crate::desired::render::render;
use crate::drift::diff::{AppliedObjects, difference};
use crate::upgrade::snapshot::build::pre_pull_progress;

fn mk_actions(source: TemplateSource, on_delete: bool, rules: RoleRules, keep: &[&str]) -> StepActions {
    StepActions {
        controller: source,
        speaker: source,
        on_delete,
        apply_crds: true,
        rules,
        pre_pull: false,
        keep: keep.iter().map(|name| (*name).to_owned()).collect(),
        restarts: Vec::new(),
        needs_approval: false,
        polls: false,
    }
}

/// Stores the desired objects as existing ones.
fn store(index: &mut Index, wanted: &[DesiredObject]) {
    for wanted in wanted {
        if wanted.body.get("kind").is_none() {
            continue;
        }
        let mut body = wanted.body.clone();
        body["metadata"]["uid"] = json!(wanted.id.to_string());
        if wanted.id.kind == Kind::Secret {
            // The keys are generated when the Secret is written.
            body["data"] = json!({"current": "A".repeat(44)});
        }
        let object: DynamicObject = serde_json::from_value(body).unwrap();
        index.apply(wanted.id.clone(), LiveObject::new(wanted.id.kind, object));
    }
}

fn find<'a>(wanted: &'a [DesiredObject], kind: Kind, name: &str) -> &'a DesiredObject {
    let mut found = wanted
        .iter()
        .filter(|wanted| wanted.id.kind == kind && wanted.id.key.name() == name);
    found.next().unwrap()
}

/// A cluster that runs the configuration, with its stored revision and upgrade state.
fn mk_running() -> (Index, UpgradeState, Vec<DesiredObject>) {
    let config = mk_config();
    let rendered = render(&config).unwrap();
    let good = revision(&rendered, "0.1.0");
    let state = UpgradeState {
        last_good: Some(good.clone()),
        ..UpgradeState::default()
    };
    let mut index = Index::default();
    let actions = mk_actions(
        TemplateSource::Target,
        false,
        RoleRules::Target,
        &[&good.revision],
    );
    let all = desired_objects(&rendered, &config, &good, &state, &actions, &index);
    store(&mut index, &all);
    (index, state, all)
}

#[test]
fn revision_changes_only_with_pod_templates() {
    let of = |config: &StackConfig| revision(&render(config).unwrap(), &config.version);
    let before = of(&mk_config());
    let same = of(&StackConfig {
        controller_replicas: 5,
        network_policy: false,
        controller_min_available: None,
        speaker_min_available: None,
        service_monitor: None,
        ..mk_config()
    });
    assert_eq!(before, same);
    let both = of(&StackConfig {
        log_level: "debug".to_owned(),
        ..mk_config()
    });
    assert!(both.controller != before.controller && both.speaker != before.speaker);
    let mut config = mk_config();
    config.speaker_settings.push(("LB_FAILBACK", "never".to_owned()));
    let one = of(&config);
    assert!(one.controller == before.controller && one.speaker != before.speaker);
    assert_ne!(one.revision, before.revision);
}

#[test]
fn previous_template_is_kept_while_other_fields_follow() {
    let (index, state, applied) = mk_running();
    let config = StackConfig {
        version: "0.1.1".to_owned(),
        log_level: "debug".to_owned(),
        controller_replicas: 3,
        ..mk_config()
    };
    let rendered = render(&config).unwrap();
    let target = revision(&rendered, &config.version);
    let good = state.last_good.clone().unwrap().revision;
    let actions = mk_actions(TemplateSource::Previous, false, RoleRules::Previous, &[&good]);
    let all = desired_objects(&rendered, &config, &target, &state, &actions, &index);
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
fn on_delete_changes_only_the_daemon_set() {
    let (mut index, state, _) = mk_running();
    let config = mk_config();
    let rendered = render(&config).unwrap();
    let target = revision(&rendered, &config.version);
    for on_delete in [true, false] {
        let actions = mk_actions(
            TemplateSource::Target,
            on_delete,
            RoleRules::Target,
            &[&target.revision],
        );
        let all = desired_objects(&rendered, &config, &target, &state, &actions, &index);
        let todo = difference(&all, &index, &AppliedObjects::default(), "stack-uid");
        let names: Vec<_> = todo
            .apply
            .iter()
            .map(|(wanted, _)| wanted.id.key.name())
            .collect();
        assert_eq!(names, ["speaker"]);
        assert_eq!(todo.prune, []);
        store(&mut index, &all);
        let again = desired_objects(&rendered, &config, &target, &state, &actions, &index);
        assert!(difference(&again, &index, &AppliedObjects::default(), "stack-uid").is_empty());
    }
}

#[test]
fn roles_grant_both_rules_during_upgrade() {
    let (index, state, _) = mk_running();
    let config = mk_config();
    let mut rendered = render(&config).unwrap();
    let target = revision(&rendered, &config.version);
    // The new version needs another rule and no longer one of the previous rules.
    let role = rendered
        .iter_mut()
        .find(|wanted| wanted.id.kind == Kind::ClusterRole && wanted.id.key.name() == "metallb-speaker")
        .unwrap();
    let previous = role.body["rules"].as_array().unwrap().clone();
    role.body["rules"] = json!([{"apiGroups": [""], "resources": ["news"], "verbs": ["get"]}]);
    *role = DesiredObject::seal(role.id.clone(), role.body.clone());
    let rules = |rules| {
        let actions = mk_actions(TemplateSource::Target, false, rules, &[]);
        let all = desired_objects(&rendered, &config, &target, &state, &actions, &index);
        let role = find(&all, Kind::ClusterRole, "metallb-speaker");
        role.body["rules"].as_array().unwrap().clone()
    };
    assert_eq!(rules(RoleRules::Previous), previous);
    assert_eq!(rules(RoleRules::Both).len(), previous.len() + 1);
    assert_eq!(rules(RoleRules::Target).len(), 1);
}

#[test]
fn crd_without_a_stored_version_is_not_applied() {
    let (mut index, state, applied) = mk_running();
    let config = mk_config();
    let rendered = render(&config).unwrap();
    let target = revision(&rendered, &config.version);
    let pools = find(
        &applied,
        Kind::CustomResourceDefinition,
        "ipaddresspools.metallb.io",
    );
    let mut body = pools.body.clone();
    body["status"] = json!({"storedVersions": ["v1alpha1", "v1beta1"]});
    let object: DynamicObject = serde_json::from_value(body).unwrap();
    index.apply(pools.id.clone(), LiveObject::new(pools.id.kind, object));
    assert!(crd_refusal(pools, &index).unwrap().contains("v1alpha1"));
    let actions = mk_actions(TemplateSource::Target, false, RoleRules::Target, &[]);
    let all = desired_objects(&rendered, &config, &target, &state, &actions, &index);
    assert!(!all.iter().any(|wanted| wanted.id == pools.id));
}

/// O-13: a digest that was meant for another version.
#[test]
fn image_of_another_version_is_not_usable() {
    let config = mk_config();
    let rendered = render(&config).unwrap();
    for (version, usable) in [("0.1.0", true), ("0.0.9", false)] {
        let mut index = Index::default();
        let wanted = pre_pull::render(&config, "new").unwrap();
        store(&mut index, std::slice::from_ref(&wanted));
        let node = json!({
            "metadata": {"name": "n1", "labels": {"kubernetes.io/os": "linux"}},
            "status": {"conditions": [{"type": "Ready", "status": "True", "lastHeartbeatTime": null}]},
        });
        index.apply_node(Change::Apply(serde_json::from_value(node).unwrap()));
        let ended = json!({"terminated": {"exitCode": 0, "message": version}});
        let pod = json!({
            "metadata": {
                "name": "speaker-prepull-x", "namespace": config.namespace,
                "labels": wanted.body["spec"]["template"]["metadata"]["labels"],
            },
            "spec": {"nodeName": "n1", "containers": []},
            "status": {"containerStatuses": [{
                "name": "speaker", "image": "", "imageID": "", "ready": false, "restartCount": 0, "state": ended,
            }]},
        });
        let now = jiff::Timestamp::UNIX_EPOCH;
        index.apply_pod(&serde_json::from_value(pod).unwrap(), now);
        let progress = pre_pull_progress(&index, &rendered, &config).unwrap();
        assert_eq!(progress.done, i32::from(usable), "{progress:?}");
        let unusable = progress.unusable.get("n1").map(String::as_str);
        let expected = "it contains version 0.0.9 instead of 0.1.0";
        assert_eq!(unusable, (!usable).then_some(expected));
    }
}
