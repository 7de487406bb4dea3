//! Whether an existing object belongs to the operator. Objects of others are neither overwritten nor deleted.

use std::fmt;

use kube::api::{ListParams, ObjectMeta};
use kube::{Client, ResourceExt};

use crate::desired::render::{APPLIED, MANAGED_BY, MANAGER};
use crate::object_id::{Kind, ObjectId};
use crate::preflight::{LoadBalancerProduct, detect};

/// An existing object of another owner that has the name of an object of the stack.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ForeignObject {
    /// Kind, namespace and name.
    pub id: ObjectId,
    /// The field managers that wrote it, without those of its status.
    pub managers: Vec<String>,
    /// Whether it belongs to MetalLB, by its name and labels.
    pub is_metallb: bool,
}

impl fmt::Display for ForeignObject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let managers = if self.managers.is_empty() {
            "another client".to_owned()
        } else {
            self.managers.join(", ")
        };
        write!(
            f,
            "{} exists and is not managed by this operator (written by {managers}): not changed",
            self.id
        )
    }
}

/// Whether the metadata is of an object that the operator applied. The annotation remains if somebody removes the
/// label.
#[must_use]
pub fn is_ours(metadata: &ObjectMeta) -> bool {
    let label = metadata.labels.as_ref().and_then(|labels| labels.get(MANAGED_BY));
    let annotations = metadata.annotations.as_ref();
    label.is_some_and(|label| label == MANAGER)
        || annotations.is_some_and(|annotations| annotations.contains_key(APPLIED))
}

/// When the operator may apply an object of another owner.
#[derive(Clone, Copy, Debug, Default)]
pub struct TakeOver {
    /// `spec.adopt`: the user asked to replace MetalLB.
    pub adopt: bool,
    /// Whether the backup of an adoption contains the object.
    pub is_saved: bool,
}

impl TakeOver {
    /// Namespaces and CRDs are shared: they contain and define objects of users. Workloads are never overwritten: an
    /// adoption saves and deletes them first.
    #[must_use]
    pub fn allows(self, foreign: &ForeignObject) -> bool {
        match foreign.id.kind {
            Kind::Namespace | Kind::CustomResourceDefinition => true,
            Kind::Deployment | Kind::DaemonSet => false,
            _ => self.is_saved || (self.adopt && foreign.is_metallb),
        }
    }
}

/// The object with this ID, if it exists and belongs to another owner. Only its metadata is read, and by a list,
/// because the operator has no permission to get Secrets.
///
/// # Errors
/// If the API server refuses or does not answer.
pub async fn foreign_object(client: &Client, id: &ObjectId) -> kube::Result<Option<ForeignObject>> {
    let by_name = ListParams::default().fields(&format!("metadata.name={}", id.key.name()));
    let found = match id.api(client).list_metadata(&by_name).await {
        Ok(found) => found,
        // The kind does not exist.
        Err(kube::Error::Api(status)) if status.code == 404 => return Ok(None),
        Err(error) => return Err(error),
    };
    let foreign = found.items.into_iter().find(|object| !is_ours(&object.metadata));
    Ok(foreign.map(|object| ForeignObject {
        id: id.clone(),
        managers: managers(&object.metadata),
        is_metallb: detect::product(&object.name_any(), object.labels())
            == Some(LoadBalancerProduct::MetalLb),
    }))
}

/// The field managers of an object, without those of its status.
#[must_use]
pub fn managers(metadata: &ObjectMeta) -> Vec<String> {
    let entries = metadata.managed_fields.iter().flatten();
    let of_spec = entries.filter(|entry| entry.subresource.as_deref().unwrap_or_default() != "status");
    let mut managers: Vec<_> = of_spec.filter_map(|entry| entry.manager.clone()).collect();
    managers.sort();
    managers.dedup();
    managers
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn mk(metadata: serde_json::Value) -> ObjectMeta {
        serde_json::from_value(metadata).unwrap()
    }

    #[test]
    fn label_or_annotation_of_the_operator_marks_an_object_as_ours() {
        assert!(is_ours(&mk(json!({"labels": {MANAGED_BY: MANAGER}}))));
        assert!(is_ours(&mk(json!({"annotations": {APPLIED: "d"}}))));
        assert!(!is_ours(&mk(
            json!({"labels": {MANAGED_BY: "Helm"}, "annotations": {"a": "b"}})
        )));
        assert!(!is_ours(&mk(json!({}))));
    }

    #[test]
    fn workloads_of_others_are_never_taken_over() {
        let mk = |kind, is_metallb| ForeignObject {
            id: ObjectId::new(kind, "ns", "controller"),
            managers: Vec::new(),
            is_metallb,
        };
        for (adopt, is_saved) in [(false, false), (true, false), (false, true), (true, true)] {
            let take_over = TakeOver { adopt, is_saved };
            for kind in [Kind::Deployment, Kind::DaemonSet] {
                assert!(!take_over.allows(&mk(kind, true)), "{kind} {take_over:?}");
            }
            assert!(take_over.allows(&mk(Kind::Namespace, false)));
            assert_eq!(
                take_over.allows(&mk(Kind::ServiceAccount, true)),
                adopt || is_saved
            );
            assert_eq!(
                take_over.allows(&mk(Kind::ServiceAccount, false)),
                is_saved,
                "not MetalLB's"
            );
        }
    }

    #[test]
    fn message_names_the_object_and_its_managers() {
        let metadata = mk(json!({"managedFields": [
            {"manager": "kubectl-client-side-apply"}, {"manager": "helm"}, {"manager": "helm"},
            {"manager": "kubelet", "subresource": "status"},
        ]}));
        let foreign = ForeignObject {
            id: ObjectId::new(Kind::Deployment, "metallb-system", "controller"),
            managers: managers(&metadata),
            is_metallb: true,
        };
        assert_eq!(
            foreign.to_string(),
            "Deployment metallb-system/controller exists and is not managed by this operator (written by helm, \
             kubectl-client-side-apply): not changed"
        );
    }
}
