//! Messages about drift: which client changed which field of an object, and the field of the stack to set instead.
//! Pure.

use serde_json::Value;

use crate::desired::render::{Component, DesiredObject};
use crate::drift::diff;
use crate::field_owner::FieldOwner;
use crate::index::LiveObject;
use crate::object_id::{Kind, ObjectId};

/// A client whose field manager is unknown.
const OTHER_CLIENT: &str = "another client";
/// Field manager and subresource of a HorizontalPodAutoscaler.
const AUTOSCALER: (&str, &str) = ("kube-controller-manager", "scale");

/// The event for an object that is corrected. `live` is its present state; `None` if it was deleted.
#[must_use]
pub fn drift_message(wanted: &DesiredObject, live: Option<&LiveObject>) -> String {
    let id = &wanted.id;
    let Some(live) = live else {
        let advice = disable_field(id).map_or(String::new(), |field| {
            format!("; to remove it, set {field} to Disabled")
        });
        return format!("{id} was deleted by {OTHER_CLIENT}; recreated{advice}");
    };
    let Some(path) = first_difference(&wanted.body, &live.body) else {
        return format!("{id} was changed by {OTHER_CLIENT}; restored");
    };
    let who = writer_name(live, &path);
    let advice = spec_field(id, &path).map_or(String::new(), |field| {
        format!("; set {field} of the stack instead")
    });
    format!("{id}: {} was changed by {who}; restored{advice}", path.join("."))
}

/// The condition for an object that another client keeps changing.
#[must_use]
pub fn conflict_message(wanted: &DesiredObject, live: Option<&LiveObject>) -> String {
    let changed = live.and_then(|live| Some((live, first_difference(&wanted.body, &live.body)?)));
    let (fields, who) = match &changed {
        Some((live, path)) => (format!(": {}", path.join(".")), writer_name(live, path)),
        None => (String::new(), OTHER_CLIENT.to_owned()),
    };
    format!(
        "{} is changed repeatedly by {who}{fields}; stop that client",
        wanted.id
    )
}

/// The field manager that wrote the field last, with its subresource.
fn writer_name(live: &LiveObject, path: &[&str]) -> String {
    match last_writer(live, path) {
        Some(FieldOwner {
            manager,
            subresource: Some(subresource),
            ..
        }) => format!("{manager} ({subresource})"),
        Some(FieldOwner { manager, .. }) => manager.clone(),
        None => OTHER_CLIENT.to_owned(),
    }
}

/// The owner of the field that wrote last; `None` if the field was removed.
fn last_writer<'a>(live: &'a LiveObject, path: &[&str]) -> Option<&'a FieldOwner> {
    // An owner that shares only the first part of the path owns another field.
    let owners = live
        .other_owners()
        .iter()
        .filter(|owner| owner.depth(path) >= path.len().min(2));
    owners.max_by_key(|owner| (owner.depth(path), owner.time))
}

/// Path of the first field that differs.
fn first_difference<'a>(wanted: &'a Value, live: &Value) -> Option<Vec<&'a str>> {
    let differs = wanted.as_object()?.iter().find(|(field, value)| {
        let live = &live[field.as_str()];
        match field.as_str() {
            "apiVersion" | "kind" => false,
            "metadata" => !diff::holds_metadata(value, live),
            field => !diff::holds(field, value, live),
        }
    });
    let (field, value) = differs?;
    let mut path = vec![field.as_str()];
    let identity: &[&str] = if field == "metadata" {
        &["name", "namespace"]
    } else {
        &[]
    };
    descend(value, &live[field.as_str()], identity, &mut path);
    Some(path)
}

/// Follows the difference through objects; a list is not entered.
fn descend<'a>(wanted: &'a Value, live: &Value, skipped: &[&str], path: &mut Vec<&'a str>) {
    let fields = wanted.as_object().into_iter().flatten();
    let found = fields
        .filter(|(field, _)| !skipped.contains(&field.as_str()))
        .find(|(field, value)| !diff::holds(field, value, &live[field.as_str()]));
    if let Some((field, value)) = found {
        path.push(field);
        descend(value, &live[field.as_str()], &[], path);
    }
}

/// The field of the stack that disables an object.
fn disable_field(id: &ObjectId) -> Option<&'static str> {
    match id.kind {
        Kind::NetworkPolicy => Some("spec.networkPolicy.mode"),
        Kind::PodDisruptionBudget => Some("spec.podDisruptionBudget.mode"),
        Kind::ServiceMonitor => Some("spec.monitoring.serviceMonitor.mode"),
        _ => None,
    }
}

/// The field of the stack that sets a field of an object.
fn spec_field(id: &ObjectId, path: &[&str]) -> Option<String> {
    if id.kind == Kind::PodDisruptionBudget && path == ["spec", "minAvailable"] {
        let component = id.key.name().strip_prefix("metallb-")?;
        return Some(format!("spec.podDisruptionBudget.{component}MinAvailable"));
    }
    let component = match id.kind {
        Kind::Deployment => Component::Controller,
        Kind::DaemonSet => Component::Speaker,
        _ => return None,
    };
    if id.key.name() != component.name() {
        return None;
    }
    let of = component.name();
    match path {
        ["spec", "replicas"] => Some("spec.controller.replicas".to_owned()),
        ["spec", "template", "metadata", "annotations", ..] => Some(format!("spec.{of}.podAnnotations")),
        ["spec", "template", "spec", field, ..] => match *field {
            "nodeSelector" | "tolerations" | "affinity" | "priorityClassName" => {
                Some(format!("spec.{of}.{field}"))
            }
            "imagePullSecrets" => Some("spec.images.pullSecrets".to_owned()),
            // Lists are not entered: the field of the container is unknown.
            "containers" => Some(format!("spec.images, spec.logLevel or spec.{of}")),
            _ => None,
        },
        _ => None,
    }
}

/// Whether an autoscaler has set the number of replicas: through the subresource `scale`, as kube-controller-manager.
/// `kubectl scale` has another field manager.
#[must_use]
pub fn is_autoscaled(live: &LiveObject) -> bool {
    let path = ["spec", "replicas"];
    live.other_owners().iter().any(|owner| {
        (owner.manager.as_str(), owner.subresource.as_deref()) == (AUTOSCALER.0, Some(AUTOSCALER.1))
            && owner.depth(&path) == path.len()
    })
}

#[cfg(test)]
mod tests {
    use kube::api::DynamicObject;
    use serde_json::json;

    use super::*;

    fn mk_wanted(kind: Kind, name: &str, spec: &Value) -> DesiredObject {
        DesiredObject {
            id: ObjectId::new(kind, "metallb-system", name),
            body: json!({
                "apiVersion": "apps/v1", "kind": "x",
                "metadata": {"name": name, "namespace": "metallb-system", "labels": {"app": "metallb"}},
                "spec": spec,
            }),
            digest: "d".to_owned(),
        }
    }

    fn mk_live(kind: Kind, spec: &Value, managed: &Value) -> LiveObject {
        let object: DynamicObject = serde_json::from_value(json!({
            "metadata": {"name": "x", "labels": {"app": "metallb"}, "managedFields": managed},
            "spec": spec,
        }))
        .unwrap();
        LiveObject::new(kind, object)
    }

    fn mk_entry(manager: &str, subresource: &str, second: u8, fields: &Value) -> Value {
        json!({
            "manager": manager, "operation": "Update", "subresource": subresource, "fieldsType": "FieldsV1",
            "time": format!("2026-01-01T00:00:{second:02}Z"), "fieldsV1": fields,
        })
    }

    #[test]
    fn message_names_the_client_and_the_field_to_set() {
        let wanted = mk_wanted(
            Kind::Deployment,
            "controller",
            &json!({"paused": false, "replicas": 2}),
        );
        let managed = json!([
            mk_entry("lb-operator", "", 1, &json!({"f:spec": {"f:replicas": {}}})),
            mk_entry(
                "kubectl-label",
                "",
                9,
                &json!({"f:metadata": {"f:labels": {"f:team": {}}}})
            ),
            mk_entry("kubectl", "scale", 5, &json!({"f:spec": {"f:replicas": {}}})),
            mk_entry(
                "kube-controller-manager",
                "status",
                8,
                &json!({"f:spec": {"f:replicas": {}}})
            ),
        ]);
        let live = mk_live(
            Kind::Deployment,
            &json!({"paused": false, "replicas": 5}),
            &managed,
        );
        assert_eq!(
            drift_message(&wanted, Some(&live)),
            "Deployment metallb-system/controller: spec.replicas was changed by kubectl (scale); restored; set \
             spec.controller.replicas of the stack instead"
        );
        assert!(!is_autoscaled(&live), "a person did it");
    }

    #[test]
    fn only_scale_by_controller_manager_is_an_autoscaler() {
        let spec = json!({"replicas": 5});
        let by = |manager, subresource, fields: &Value| {
            let managed = json!([mk_entry(manager, subresource, 1, fields)]);
            is_autoscaled(&mk_live(Kind::Deployment, &spec, &managed))
        };
        let replicas = json!({"f:spec": {"f:replicas": {}}});
        assert!(by("kube-controller-manager", "scale", &replicas));
        assert!(!by("kubectl", "scale", &replicas));
        assert!(!by("kube-controller-manager", "", &replicas));
        assert!(!by("kube-controller-manager", "status", &replicas));
        assert!(!by("kube-controller-manager", "scale", &json!({"f:spec": {}})));
    }

    #[test]
    fn nested_change_names_path_and_last_writer() {
        let spec =
            |host, class| json!({"template": {"spec": {"hostNetwork": host, "priorityClassName": class}}});
        let wanted = mk_wanted(Kind::DaemonSet, "speaker", &spec(true, "a"));
        let managed = json!([
            mk_entry(
                "kubectl-patch",
                "",
                3,
                &json!({"f:spec": {"f:template": {"f:spec": {"f:hostNetwork": {}}}}})
            ),
            mk_entry(
                "helm",
                "",
                9,
                &json!({"f:spec": {"f:template": {"f:metadata": {}}}})
            ),
        ]);
        let live = mk_live(Kind::DaemonSet, &spec(false, "a"), &managed);
        assert_eq!(
            drift_message(&wanted, Some(&live)),
            "DaemonSet metallb-system/speaker: spec.template.spec.hostNetwork was changed by kubectl-patch; restored"
        );
        let live = mk_live(Kind::DaemonSet, &spec(true, "b"), &json!([]));
        assert_eq!(
            drift_message(&wanted, Some(&live)),
            "DaemonSet metallb-system/speaker: spec.template.spec.priorityClassName was changed by another client; \
             restored; set spec.speaker.priorityClassName of the stack instead"
        );
    }

    #[test]
    fn budget_change_names_its_spec_field() {
        let budget = mk_wanted(
            Kind::PodDisruptionBudget,
            "metallb-speaker",
            &json!({"minAvailable": 1}),
        );
        let live = mk_live(Kind::PodDisruptionBudget, &json!({"minAvailable": 2}), &json!([]));
        assert!(
            drift_message(&budget, Some(&live))
                .ends_with("set spec.podDisruptionBudget.speakerMinAvailable of the stack instead")
        );
    }

    #[test]
    fn deletion_message_names_the_field_that_disables() {
        let budget = mk_wanted(Kind::PodDisruptionBudget, "metallb-speaker", &json!({}));
        assert!(
            drift_message(&budget, None)
                .ends_with("; to remove it, set spec.podDisruptionBudget.mode to Disabled")
        );
        let account = mk_wanted(Kind::ServiceAccount, "speaker", &json!({}));
        assert!(drift_message(&account, None).ends_with("was deleted by another client; recreated"));
    }

    #[test]
    fn conflict_names_the_client() {
        let wanted = mk_wanted(Kind::DaemonSet, "speaker", &json!({"paused": false}));
        let managed = json!([mk_entry("helm", "", 1, &json!({"f:spec": {"f:paused": {}}}))]);
        let live = mk_live(Kind::DaemonSet, &json!({"paused": true}), &managed);
        assert_eq!(
            conflict_message(&wanted, Some(&live)),
            "DaemonSet metallb-system/speaker is changed repeatedly by helm: spec.paused; stop that client"
        );
        assert_eq!(
            conflict_message(&wanted, None),
            "DaemonSet metallb-system/speaker is changed repeatedly by another client; stop that client"
        );
    }

    #[test]
    fn removed_label_is_named() {
        let wanted = mk_wanted(Kind::DaemonSet, "speaker", &json!({}));
        let mut live = mk_live(Kind::DaemonSet, &json!({}), &json!([]));
        live.body["metadata"]["labels"] = json!({});
        assert!(drift_message(&wanted, Some(&live)).contains("metadata.labels.app was changed"));
    }
}
