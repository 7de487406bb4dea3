//! Without a change nothing is written, and every change is found.

use kube::api::DynamicObject;
use serde_json::json;

use super::*;
use crate::desired::config::tests::mk_config;
use crate::desired::render::{APPLIED, render};
use crate::object_id::Kind;

/// An object as an API server stores it: with an identity, a version and defaults.
fn mk_live(wanted: &DesiredObject, change: impl FnOnce(&mut Value)) -> LiveObject {
    let mut body = wanted.body.clone();
    body["metadata"]["uid"] = json!(format!("uid of {}", wanted.id));
    body["metadata"]["generation"] = json!(1);
    body["metadata"]["resourceVersion"] = json!("5");
    if wanted.id.kind == Kind::Secret {
        body["data"] = json!({"current": "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY="});
    }
    change(&mut body);
    let object: DynamicObject = serde_json::from_value(body).unwrap();
    LiveObject::new(wanted.id.kind, object)
}

fn mk_index(wanted: &[DesiredObject]) -> Index {
    let mut index = Index::default();
    for object in wanted {
        index.apply(object.id.clone(), mk_live(object, |_| {}));
    }
    index
}

fn mk_wanted() -> Vec<DesiredObject> {
    render(&mk_config()).unwrap()
}

fn find(wanted: &[DesiredObject], kind: Kind) -> &DesiredObject {
    wanted.iter().find(|wanted| wanted.id.kind == kind).unwrap()
}

/// Why the first object of a kind would be applied after a change to it.
fn reason_after(kind: Kind, change: impl FnOnce(&mut Value)) -> Option<ApplyReason> {
    let wanted = mk_wanted();
    let mut index = mk_index(&wanted);
    let object = find(&wanted, kind);
    index.apply(object.id.clone(), mk_live(object, change));
    let todo = difference(&wanted, &index, &AppliedObjects::default(), "stack-uid");
    assert!(todo.prune.is_empty() && todo.apply.len() <= 1, "{todo:?}");
    todo.apply.first().map(|(_, apply_reason)| *apply_reason)
}

#[test]
fn all_objects_are_applied_in_order_to_an_empty_cluster() {
    let wanted = mk_wanted();
    let todo = difference(
        &wanted,
        &Index::default(),
        &AppliedObjects::default(),
        "stack-uid",
    );
    assert_eq!(todo.apply.len(), wanted.len());
    assert!(
        todo.apply
            .iter()
            .all(|(_, apply_reason)| *apply_reason == ApplyReason::Missing)
    );
    assert_eq!(todo.apply.first().unwrap().0.id.kind, Kind::Namespace);
}

#[test]
fn reconciling_twice_writes_nothing() {
    let wanted = mk_wanted();
    let todo = difference(
        &wanted,
        &mk_index(&wanted),
        &AppliedObjects::default(),
        "stack-uid",
    );
    assert!(todo.is_empty(), "{todo:?}");
}

#[test]
fn defaults_and_fields_of_others_are_left_alone() {
    let change = |body: &mut Value| {
        body["metadata"]["annotations"]["deployment.kubernetes.io/revision"] = json!("4");
        body["metadata"]["labels"]["team"] = json!("network");
        body["spec"]["revisionHistoryLimit"] = json!(10);
        let template = &mut body["spec"]["template"];
        template["metadata"]["annotations"]["kubectl.kubernetes.io/restartedAt"] =
            json!("2026-11-24T00:00:00Z");
        template["spec"]["restartPolicy"] = json!("Always");
        let container = &mut template["spec"]["containers"][0];
        container["terminationMessagePath"] = json!("/dev/termination-log");
        container["env"]
            .as_array_mut()
            .unwrap()
            .push(json!({"name": "HTTPS_PROXY", "value": "x"}));
        body["status"] = json!({"readyReplicas": 2});
    };
    assert_eq!(reason_after(Kind::Deployment, change), None);
}

#[test]
fn field_changed_by_another_client_is_drift() {
    let cases: Vec<(Kind, &str, Value)> = vec![
        (Kind::Deployment, "/spec/replicas", json!(0)),
        (
            Kind::Deployment,
            "/spec/template/spec/containers/0/image",
            json!("evil"),
        ),
        (Kind::DaemonSet, "/spec/template/spec/hostNetwork", json!(false)),
        (Kind::DaemonSet, "/spec/template/spec/tolerations", json!([])),
        (Kind::PodDisruptionBudget, "/spec/minAvailable", json!(2)),
        (Kind::Service, "/spec/ports/0/port", json!(80)),
        (
            Kind::Namespace,
            "/metadata/labels/pod-security.kubernetes.io~1enforce",
            json!("restricted"),
        ),
        (Kind::ServiceAccount, "/metadata/ownerReferences", json!([])),
        (Kind::ClusterRole, "/rules/0/verbs", json!(["*"])),
        (Kind::CustomResourceDefinition, "/spec/scope", json!("Cluster")),
    ];
    for (kind, path, value) in cases {
        let change = |body: &mut Value| *body.pointer_mut(path).unwrap() = value;
        assert_eq!(
            reason_after(kind, change),
            Some(ApplyReason::Drift),
            "{kind} {path}"
        );
    }
}

#[test]
fn added_privilege_is_drift() {
    let rule = json!({"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]});
    let add_rule = |body: &mut Value| body["rules"].as_array_mut().unwrap().push(rule);
    assert_eq!(reason_after(Kind::Role, add_rule), Some(ApplyReason::Drift));
    let subject = json!({"kind": "User", "name": "eve"});
    let add_subject = |body: &mut Value| body["subjects"].as_array_mut().unwrap().push(subject);
    assert_eq!(
        reason_after(Kind::ClusterRoleBinding, add_subject),
        Some(ApplyReason::Drift)
    );
}

#[test]
fn only_deletion_by_another_client_is_drift() {
    let wanted = mk_wanted();
    let object = find(&wanted, Kind::DaemonSet);
    let uid = mk_live(object, |_| {}).uid;
    let reason_after = |delete: fn(&mut Index, &ObjectId, &str)| {
        let mut index = mk_index(&wanted);
        delete(&mut index, &object.id, &uid);
        let todo = difference(&wanted, &index, &AppliedObjects::default(), "stack-uid");
        todo.apply.first().map(|(_, apply_reason)| *apply_reason)
    };
    assert_eq!(
        reason_after(|index, id, uid| index.delete(id, uid)),
        Some(ApplyReason::Drift)
    );
    assert_eq!(
        reason_after(|index, id, _| index.reset(id.kind, Vec::new())),
        Some(ApplyReason::Drift)
    );
    assert_eq!(
        reason_after(|index, id, _| index.remove_deleted(id)),
        Some(ApplyReason::Missing)
    );
}

#[test]
fn changed_desired_state_is_no_drift() {
    let before = mk_wanted();
    let index = mk_index(&before);
    let mut plan = mk_config();
    plan.log_level = "debug".to_owned();
    let after = render(&plan).unwrap();
    let todo = difference(&after, &index, &AppliedObjects::default(), "stack-uid");
    let changed: Vec<_> = todo
        .apply
        .iter()
        .map(|(wanted, apply_reason)| (wanted.id.kind, *apply_reason))
        .collect();
    assert_eq!(
        changed,
        [
            (Kind::Deployment, ApplyReason::Changed),
            (Kind::DaemonSet, ApplyReason::Changed)
        ]
    );
}

#[test]
fn undesired_field_is_released() {
    let mut plan = mk_config();
    plan.load_balancer_class = Some("example.com/lan".to_owned());
    let index = mk_index(&render(&plan).unwrap());
    let wanted = mk_wanted();
    let todo = difference(&wanted, &index, &AppliedObjects::default(), "stack-uid");
    assert_eq!(todo.apply.len(), 2, "both programs lose a variable");
}

#[test]
fn value_normalized_by_the_server_is_written_once() {
    let wanted = mk_wanted();
    let mut index = mk_index(&wanted);
    let object = find(&wanted, Kind::Deployment);
    let path = "/spec/template/spec/containers/0/resources/requests/cpu";
    let answer = mk_live(object, |body| *body.pointer_mut(path).unwrap() = json!("0.01"));
    let mut applied = AppliedObjects::default();
    index.apply(object.id.clone(), answer.clone());
    assert_eq!(difference(&wanted, &index, &applied, "stack-uid").apply.len(), 1);
    applied.record(object, &answer);
    assert!(difference(&wanted, &index, &applied, "stack-uid").is_empty());
}

#[test]
fn undesired_objects_are_deleted_if_owned() {
    let all = mk_wanted();
    let mut index = mk_index(&all);
    let mut plan = mk_config();
    (plan.controller_min_available, plan.speaker_min_available) = (None, None);
    let foreign_id = ObjectId::new(Kind::PodDisruptionBudget, "metallb-system", "mine");
    let mut foreign = mk_live(find(&all, Kind::PodDisruptionBudget), |_| {});
    foreign.body["metadata"]["ownerReferences"] = json!(null);
    index.apply(foreign_id, foreign);
    let wanted = render(&plan).unwrap();
    let todo = difference(&wanted, &index, &AppliedObjects::default(), "stack-uid");
    let names: Vec<_> = todo.prune.iter().map(|(id, _)| id.key.name()).collect();
    assert_eq!(names, ["metallb-controller", "metallb-speaker"]);
    assert!(todo.apply.is_empty());
}

#[test]
fn namespace_and_crds_are_never_deleted() {
    let wanted = mk_wanted();
    let index = mk_index(&wanted);
    let todo = difference(&[], &index, &AppliedObjects::default(), "stack-uid");
    assert!(todo.prune.iter().all(|(id, _)| id.kind.is_deleted_with_stack()));
    assert_eq!(
        todo.prune.len(),
        wanted
            .iter()
            .filter(|wanted| wanted.id.kind.is_deleted_with_stack())
            .count()
    );
}

#[test]
fn terminating_object_is_not_applied() {
    let change = |body: &mut Value| {
        body["metadata"]["deletionTimestamp"] = json!("2026-11-24T00:00:00Z");
        body["spec"]["replicas"] = json!(0);
    };
    assert_eq!(reason_after(Kind::Deployment, change), None);
}

#[test]
fn object_without_the_digest_of_its_configuration_is_applied_again() {
    let change = |body: &mut Value| {
        body["metadata"]["annotations"]
            .as_object_mut()
            .unwrap()
            .remove(APPLIED);
    };
    assert_eq!(reason_after(Kind::Deployment, change), Some(ApplyReason::Changed));
}

#[test]
fn secret_without_key_is_drift_and_content_is_not_stored() {
    let without = |body: &mut Value| body["data"] = json!({"current": "c2hvcnQ="});
    assert_eq!(reason_after(Kind::Secret, without), Some(ApplyReason::Drift));
    let another =
        |body: &mut Value| body["data"]["current"] = json!("ZmVkY2JhOTg3NjU0MzIxMGZlZGNiYTk4NzY1NDMyMTA=");
    assert_eq!(reason_after(Kind::Secret, another), None);
    let wanted = mk_wanted();
    let live = mk_live(find(&wanted, Kind::Secret), |_| {});
    assert!(!format!("{live:?}").contains("MDEyMz"));
}
