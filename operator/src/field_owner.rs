//! Field managers of an object, from its `managedFields`. Pure.

use kube::api::ObjectMeta;
use serde_json::Value;

use crate::desired::render::MANAGER;

/// Fields of an object that another client than the operator owns.
#[derive(Clone, Debug, PartialEq)]
pub struct FieldOwner {
    /// Field manager, such as `kubectl-edit` or `kube-controller-manager`.
    pub manager: String,
    /// Subresource through which the fields were written, such as `scale`.
    pub subresource: Option<String>,
    /// Time of the last write, in seconds since 1970.
    pub time: i64,
    /// In the form of `managedFields[].fieldsV1`.
    fields: Value,
}

impl FieldOwner {
    /// The owners of an object other than the operator, without the owners of its status.
    #[must_use]
    pub fn others_of(metadata: &ObjectMeta) -> Vec<Self> {
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
    #[must_use]
    pub fn depth(&self, path: &[&str]) -> usize {
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
