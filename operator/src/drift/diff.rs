//! Compares desired with existing objects: what to apply and what to delete. Pure, so that "no change, no write" can be
//! tested without an API server.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use crate::desired::render::{DesiredObject, digest};
use crate::index::{Index, LiveObject};
use crate::object_id::ObjectId;

/// Lists that other clients may add entries to, and the key of the entries. Other lists must be equal: an extra rule or
/// subject would be a privilege that was never granted.
const SHARED_LISTS: &[(&str, &str)] = &[
    ("containers", "name"),
    ("env", "name"),
    ("imagePullSecrets", "name"),
    ("ownerReferences", "uid"),
    ("ports", "name"),
    ("topologySpreadConstraints", "topologyKey"),
];

/// Why an object is applied.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ApplyReason {
    /// It does not exist.
    Missing,
    /// Its desired state has changed.
    Changed,
    /// Another client changed or deleted it.
    Drift,
}

/// The writes that lead to the desired state.
#[derive(Debug, Default, PartialEq)]
pub struct Difference<'a> {
    /// Objects to apply, in this order.
    pub apply: Vec<(&'a DesiredObject, ApplyReason)>,
    /// Objects to delete, and their uids.
    pub prune: Vec<(ObjectId, String)>,
}

impl Difference<'_> {
    /// Whether no write is needed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.apply.is_empty() && self.prune.is_empty()
    }
}

/// Digests of applied objects and of what the API server stored. The server normalizes some values ("0.1" CPU becomes
/// "100m"); an object that equals the answer to its own application is up to date.
#[derive(Debug, Default)]
pub struct AppliedObjects {
    applied: BTreeMap<ObjectId, (String, String)>,
}

impl AppliedObjects {
    /// Records that an object was applied, with the answer of the API server.
    pub fn record(&mut self, wanted: &DesiredObject, answer: &LiveObject) {
        self.applied.insert(
            wanted.id.clone(),
            (wanted.digest.clone(), digest_without_cluster_fields(&answer.body)),
        );
    }

    /// Forgets an object that the operator deleted.
    pub fn forget(&mut self, id: &ObjectId) {
        self.applied.remove(id);
    }

    fn digest(&self, id: &ObjectId) -> Option<&str> {
        self.applied.get(id).map(|(digest, _)| digest.as_str())
    }

    fn digest_without_cluster_fields(&self, id: &ObjectId) -> Option<&str> {
        self.applied
            .get(id)
            .map(|(_, stored_digest)| stored_digest.as_str())
    }
}

/// Compares desired with existing objects. `owner` is the uid of the stack: only objects that it owns are deleted.
#[must_use]
pub fn difference<'a>(
    wanted: &'a [DesiredObject],
    index: &Index,
    applied: &AppliedObjects,
    owner: &str,
) -> Difference<'a> {
    let apply = wanted
        .iter()
        .filter_map(|wanted| Some((wanted, apply_reason(wanted, index, applied)?)))
        .collect();
    let prune = index
        .objects()
        .filter(|(id, live)| {
            id.kind.is_deleted_with_stack()
                && !live.terminating
                && live.is_owned_by(owner)
                && !wanted.iter().any(|wanted| wanted.id == **id)
        })
        .map(|(id, live)| (id.clone(), live.uid.clone()))
        .collect();
    Difference { apply, prune }
}

fn apply_reason(wanted: &DesiredObject, index: &Index, applied: &AppliedObjects) -> Option<ApplyReason> {
    let live = index.get(&wanted.id);
    let Some(live) = live else {
        let is_drift = index.last_applied(&wanted.id) == Some(&wanted.digest);
        return Some(if is_drift {
            ApplyReason::Drift
        } else {
            ApplyReason::Missing
        });
    };
    // A terminating object cannot be changed; the watch reports its deletion.
    if live.terminating || is_as_wanted(wanted, live, applied) {
        return None;
    }
    // A changed annotation is drift and no new desired state.
    let is_drift =
        applied.digest(&wanted.id) == Some(&wanted.digest) || live.applied() == Some(&wanted.digest);
    Some(if is_drift {
        ApplyReason::Drift
    } else {
        ApplyReason::Changed
    })
}

fn is_as_wanted(wanted: &DesiredObject, live: &LiveObject, applied: &AppliedObjects) -> bool {
    if live.applied() != Some(&wanted.digest) {
        // Even if every field is equal: fields that are no longer desired must be released.
        return false;
    }
    holds_body(&wanted.body, &live.body)
        || (applied.digest(&wanted.id) == Some(&wanted.digest)
            && applied.digest_without_cluster_fields(&wanted.id)
                == Some(&digest_without_cluster_fields(&live.body)))
}

/// Digest without the fields that the cluster itself changes.
fn digest_without_cluster_fields(body: &Value) -> String {
    let mut body = body.clone();
    if let Some(fields) = body.as_object_mut() {
        fields.remove("status");
    }
    if let Some(metadata) = body.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.remove("generation");
        // The cluster writes `deployment.kubernetes.io/revision` and others.
        metadata.remove("annotations");
    }
    digest(&body)
}

fn holds_body(wanted: &Value, live: &Value) -> bool {
    let Some(wanted) = wanted.as_object() else {
        return false;
    };
    // The identity is equal: the object was looked up by it.
    wanted.iter().all(|(field, value)| match field.as_str() {
        "apiVersion" | "kind" => true,
        "metadata" => holds_metadata(value, &live["metadata"]),
        _ => holds(field, value, &live[field]),
    })
}

/// The same for metadata, without the name.
pub(crate) fn holds_metadata(wanted: &Value, live: &Value) -> bool {
    wanted.as_object().is_some_and(|metadata| {
        metadata
            .iter()
            .filter(|(field, _)| !matches!(field.as_str(), "name" | "namespace"))
            .all(|(field, value)| holds(field, value, &live[field]))
    })
}

/// Whether `live` contains `wanted`; additional entries are allowed where other clients may add them.
pub(crate) fn holds(field: &str, wanted: &Value, live: &Value) -> bool {
    match (wanted, live) {
        (Value::Object(wanted), Value::Object(live)) => holds_object(wanted, live),
        (Value::Array(wanted), Value::Array(live)) => holds_list(field, wanted, live),
        (Value::Number(wanted), Value::Number(live)) => wanted.as_f64() == live.as_f64(),
        // The API server omits empty values.
        (Value::Array(wanted), Value::Null) => wanted.is_empty(),
        (Value::String(wanted), Value::Null) => wanted.is_empty(),
        (wanted, live) => wanted == live,
    }
}

fn holds_object(wanted: &Map<String, Value>, live: &Map<String, Value>) -> bool {
    wanted
        .iter()
        .all(|(field, value)| holds(field, value, live.get(field).unwrap_or(&Value::Null)))
}

fn holds_list(field: &str, wanted: &[Value], live: &[Value]) -> bool {
    let shared = SHARED_LISTS.iter().find(|(name, _)| *name == field);
    if let Some((_, key)) = shared
        && wanted.iter().all(|entry| entry.get(key).is_some())
    {
        return wanted.iter().all(|entry| {
            let found = live.iter().find(|other| other.get(key) == entry.get(key));
            found.is_some_and(|other| holds("", entry, other))
        });
    }
    wanted.len() == live.len()
        && wanted
            .iter()
            .zip(live)
            .all(|(wanted, live)| holds("", wanted, live))
}

#[cfg(test)]
#[path = "diff_tests.rs"]
mod tests;
