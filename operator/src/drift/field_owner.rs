//! Who changed an object of the stack, what, and which field of the stack says it instead: the words of a drift event. Pure.

use kube::api::ObjectMeta;
use serde_json::Value;

use crate::desired::render::{Component, MANAGER, Wanted};
use crate::drift::diff;
use crate::index::Live;
use crate::object_id::{Kind, ObjectId};

/// Who writes what a HorizontalPodAutoscaler decides.
const AUTOSCALER: (&str, &str) = ("kube-controller-manager", "scale");

/// What somebody else owns of an object.
#[derive(Clone, Debug, PartialEq)]
pub struct Share {
    /// Field manager: `kubectl-edit`, `kube-controller-manager`.
    pub manager: String,
    /// Subresource by which it was written: `scale`.
    pub subresource: Option<String>,
    /// When it was last written, in seconds since 1970.
    time: i64,
    /// The fields, as `managedFields` has them.
    fields: Value,
}

impl Share {
    /// What others than the operator own of an object, but for its status.
    #[must_use]
    pub fn of(metadata: &ObjectMeta) -> Vec<Self> {
        let entries = metadata.managed_fields.iter().flatten();
        let others = entries.filter(|entry| {
            let manager = entry.manager.as_deref().unwrap_or_default();
            !manager.starts_with(MANAGER) && entry.subresource.as_deref() != Some("status")
        });
        others
            .map(|entry| Self {
                manager: entry.manager.clone().unwrap_or_default(),
                subresource: entry.subresource.clone().filter(|name| !name.is_empty()),
                time: entry.time.as_ref().map_or(0, |time| time.0.as_second()),
                fields: entry
                    .fields_v1
                    .as_ref()
                    .map_or(Value::Null, |fields| fields.0.clone()),
            })
            .collect()
    }

    /// How many leading parts of a path it owns.
    fn depth(&self, path: &[&str]) -> usize {
        let mut at = &self.fields;
        for (depth, part) in path.iter().enumerate() {
            match at.get(format!("f:{part}")) {
                Some(inner) => at = inner,
                None => return depth,
            }
        }
        path.len()
    }
}

/// What is said of an object that is about to be put back. `live` is how it was found; absent, it was deleted.
#[must_use]
pub fn note(wanted: &Wanted, live: Option<&Live>) -> String {
    let id = &wanted.id;
    let Some(live) = live else {
        let advice = part(id).map_or(String::new(), |field| {
            format!(": to be without it, set {field} to Disabled")
        });
        return format!("{id} was deleted by somebody else and has been put back{advice}");
    };
    let Some(path) = first_difference(&wanted.body, &live.body) else {
        return format!("{id} was changed by somebody else and has been put back");
    };
    let who = culprit(live, &path).map_or("somebody else".to_owned(), |share| match &share.subresource {
        Some(subresource) => format!("{} ({subresource})", share.manager),
        None => share.manager.clone(),
    });
    let advice = field(id, &path).map_or(String::new(), |field| {
        format!(": set {field} of the stack instead")
    });
    format!(
        "{id}: {} was changed by {who} and has been put back{advice}",
        path.join(".")
    )
}

/// Who owns the field now; of several, who wrote last. What is gone is nobody's.
fn culprit<'a>(live: &'a Live, path: &[&str]) -> Option<&'a Share> {
    // Who has no more in common with the path than its first part owns another field.
    let owners = live
        .shares()
        .iter()
        .filter(|share| share.depth(path) >= path.len().min(2));
    owners.max_by_key(|share| (share.depth(path), share.time))
}

/// The way to the first field that is not as wanted.
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

/// Follows what differs as far as there are names to follow: a list is one thing.
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

/// The field of the stack by which an object is not there at all.
fn part(id: &ObjectId) -> Option<&'static str> {
    match id.kind {
        Kind::NetworkPolicy => Some("spec.networkPolicy.mode"),
        Kind::PodDisruptionBudget => Some("spec.podDisruptionBudget.mode"),
        Kind::ServiceMonitor => Some("spec.monitoring.serviceMonitor.mode"),
        _ => None,
    }
}

/// The field of the stack that says what a field of an object is to be.
fn field(id: &ObjectId, path: &[&str]) -> Option<String> {
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
            // Which field of the container it was is not known.
            "containers" => Some(format!("spec.images, spec.logLevel or spec.{of}")),
            _ => None,
        },
        _ => None,
    }
}

/// Whether an autoscaler has set the number of replicas: through the subresource `scale`, by the program that autoscalers
/// run in. A person's `kubectl scale` is no such thing.
#[must_use]
pub fn is_autoscaled(live: &Live) -> bool {
    let path = ["spec", "replicas"];
    live.shares().iter().any(|share| {
        (share.manager.as_str(), share.subresource.as_deref()) == (AUTOSCALER.0, Some(AUTOSCALER.1))
            && share.depth(&path) == path.len()
    })
}

#[cfg(test)]
mod tests {
    use kube::api::DynamicObject;
    use serde_json::json;

    use super::*;

    fn mk_wanted(kind: Kind, name: &str, spec: &Value) -> Wanted {
        Wanted {
            id: ObjectId::new(kind, "metallb-system", name),
            body: json!({
                "apiVersion": "apps/v1", "kind": "x",
                "metadata": {"name": name, "namespace": "metallb-system", "labels": {"app": "metallb"}},
                "spec": spec,
            }),
            digest: "d".to_owned(),
        }
    }

    fn mk_live(kind: Kind, spec: &Value, managed: &Value) -> Live {
        let object: DynamicObject = serde_json::from_value(json!({
            "metadata": {"name": "x", "labels": {"app": "metallb"}, "managedFields": managed},
            "spec": spec,
        }))
        .unwrap();
        Live::new(kind, object)
    }

    fn mk_entry(manager: &str, subresource: &str, second: u8, fields: &Value) -> Value {
        json!({
            "manager": manager, "operation": "Update", "subresource": subresource, "fieldsType": "FieldsV1",
            "time": format!("2026-01-01T00:00:{second:02}Z"), "fieldsV1": fields,
        })
    }

    #[test]
    fn a_scaled_controller_is_answered_with_who_did_it_and_the_field_to_set() {
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
            note(&wanted, Some(&live)),
            "Deployment metallb-system/controller: spec.replicas was changed by kubectl (scale) and has been put back: set \
             spec.controller.replicas of the stack instead"
        );
        assert!(!is_autoscaled(&live), "a person did it");
    }

    #[test]
    fn an_autoscaler_is_told_from_a_person_and_from_the_status() {
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
    fn a_change_deep_inside_names_its_path_and_who_wrote_there_last() {
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
            note(&wanted, Some(&live)),
            "DaemonSet metallb-system/speaker: spec.template.spec.hostNetwork was changed by kubectl-patch and has been put back"
        );
        let live = mk_live(Kind::DaemonSet, &spec(true, "b"), &json!([]));
        assert_eq!(
            note(&wanted, Some(&live)),
            "DaemonSet metallb-system/speaker: spec.template.spec.priorityClassName was changed by somebody else and has been \
             put back: set spec.speaker.priorityClassName of the stack instead"
        );
    }

    #[test]
    fn of_a_budget_the_field_is_named_that_says_how_many_it_keeps() {
        let budget = mk_wanted(
            Kind::PodDisruptionBudget,
            "metallb-speaker",
            &json!({"minAvailable": 1}),
        );
        let live = mk_live(Kind::PodDisruptionBudget, &json!({"minAvailable": 2}), &json!([]));
        assert!(
            note(&budget, Some(&live))
                .ends_with("set spec.podDisruptionBudget.speakerMinAvailable of the stack instead")
        );
    }

    #[test]
    fn what_was_deleted_is_put_back_with_how_to_be_without_it() {
        let budget = mk_wanted(Kind::PodDisruptionBudget, "metallb-speaker", &json!({}));
        assert!(
            note(&budget, None)
                .ends_with(": to be without it, set spec.podDisruptionBudget.mode to Disabled")
        );
        let account = mk_wanted(Kind::ServiceAccount, "speaker", &json!({}));
        assert!(note(&account, None).ends_with("was deleted by somebody else and has been put back"));
    }

    #[test]
    fn a_label_that_was_taken_away_is_named() {
        let wanted = mk_wanted(Kind::DaemonSet, "speaker", &json!({}));
        let mut live = mk_live(Kind::DaemonSet, &json!({}), &json!([]));
        live.body["metadata"]["labels"] = json!({});
        assert!(note(&wanted, Some(&live)).contains("metadata.labels.app was changed"));
    }
}
