//! Wanted against existing: what has to be applied, and what has to go. Pure, so that "nothing changed, nothing
//! written" can be tested without an API server.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use crate::desired::render::{Wanted, digest};
use crate::index::{Index, Live};
use crate::object_id::ObjectId;

/// Lists whose entries others may add to, and the field that tells their entries apart. All other lists are wanted
/// exactly as they are: an extra rule or subject would be a privilege that nobody granted.
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
pub enum Cause {
    /// It is not there.
    Missing,
    /// It is there, and something else is wanted of it than before.
    Changed,
    /// It was as wanted, and somebody changed or removed it.
    Drift,
}

/// What has to be done.
#[derive(Debug, Default, PartialEq)]
pub struct Difference<'a> {
    /// Objects to apply, in order, and why.
    pub apply: Vec<(&'a Wanted, Cause)>,
    /// Objects to delete, and their uids.
    pub prune: Vec<(ObjectId, String)>,
}

impl Difference<'_> {
    /// Whether there is nothing to do.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.apply.is_empty() && self.prune.is_empty()
    }
}

/// What was applied and how the API server stored it. The server writes some values in another form than they were
/// sent ("0.1" CPU becomes "100m"): an object that looks like the answer to its own application is as wanted.
#[derive(Debug, Default)]
pub struct Memory {
    applied: BTreeMap<ObjectId, (String, String)>,
}

impl Memory {
    /// An object was applied, and this is the answer.
    pub fn remember(&mut self, wanted: &Wanted, answer: &Live) {
        self.applied.insert(
            wanted.id.clone(),
            (wanted.digest.clone(), fingerprint(&answer.body)),
        );
    }

    /// An object was deleted because it is no longer wanted.
    pub fn forget(&mut self, id: &ObjectId) {
        self.applied.remove(id);
    }

    fn digest(&self, id: &ObjectId) -> Option<&str> {
        self.applied.get(id).map(|(digest, _)| digest.as_str())
    }

    fn fingerprint(&self, id: &ObjectId) -> Option<&str> {
        self.applied.get(id).map(|(_, fingerprint)| fingerprint.as_str())
    }
}

/// Compares what is wanted with what exists. `owner` is the uid of the stack: only what it owns is ever deleted.
#[must_use]
pub fn difference<'a>(wanted: &'a [Wanted], index: &Index, memory: &Memory, owner: &str) -> Difference<'a> {
    let apply = wanted
        .iter()
        .filter_map(|wanted| Some((wanted, cause(wanted, index, memory)?)))
        .collect();
    let prune = index
        .objects()
        .filter(|(id, live)| {
            id.kind.goes_with_the_stack()
                && !live.terminating
                && live.is_owned_by(owner)
                && !wanted.iter().any(|wanted| wanted.id == **id)
        })
        .map(|(id, live)| (id.clone(), live.uid.clone()))
        .collect();
    Difference { apply, prune }
}

fn cause(wanted: &Wanted, index: &Index, memory: &Memory) -> Option<Cause> {
    let live = index.get(&wanted.id);
    let Some(live) = live else {
        let same_wish = index.applied_before(&wanted.id) == Some(&wanted.digest);
        return Some(if same_wish { Cause::Drift } else { Cause::Missing });
    };
    // Nothing can be done to an object on its way out; its deletion will be seen.
    if live.terminating || is_as_wanted(wanted, live, memory) {
        return None;
    }
    // An annotation that somebody changed is no other wish.
    let same_wish =
        memory.digest(&wanted.id) == Some(&wanted.digest) || live.applied() == Some(&wanted.digest);
    Some(if same_wish { Cause::Drift } else { Cause::Changed })
}

fn is_as_wanted(wanted: &Wanted, live: &Live, memory: &Memory) -> bool {
    if live.applied() != Some(&wanted.digest) {
        // Also when every field looks right: fields that are no longer wanted have to be given up.
        return false;
    }
    holds_body(&wanted.body, &live.body)
        || (memory.digest(&wanted.id) == Some(&wanted.digest)
            && memory.fingerprint(&wanted.id) == Some(&fingerprint(&live.body)))
}

/// Everything but what the cluster itself changes.
fn fingerprint(body: &Value) -> String {
    let mut body = body.clone();
    if let Some(fields) = body.as_object_mut() {
        fields.remove("status");
    }
    if let Some(metadata) = body.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.remove("generation");
        // `deployment.kubernetes.io/revision` and its like are written by the cluster.
        metadata.remove("annotations");
    }
    digest(&body)
}

fn holds_body(wanted: &Value, live: &Value) -> bool {
    let Some(wanted) = wanted.as_object() else {
        return false;
    };
    // Identity is not compared: it is how the object was found.
    wanted.iter().all(|(field, value)| match field.as_str() {
        "apiVersion" | "kind" => true,
        "metadata" => holds_metadata(value, &live["metadata"]),
        _ => holds(field, value, &live[field]),
    })
}

/// The same of metadata, without the name.
pub(crate) fn holds_metadata(wanted: &Value, live: &Value) -> bool {
    wanted.as_object().is_some_and(|metadata| {
        metadata
            .iter()
            .filter(|(field, _)| !matches!(field.as_str(), "name" | "namespace"))
            .all(|(field, value)| holds(field, value, &live[field]))
    })
}

/// Whether `live` has everything that is wanted; more is allowed where others may add.
pub(crate) fn holds(field: &str, wanted: &Value, live: &Value) -> bool {
    match (wanted, live) {
        (Value::Object(wanted), Value::Object(live)) => holds_object(wanted, live),
        (Value::Array(wanted), Value::Array(live)) => holds_list(field, wanted, live),
        (Value::Number(wanted), Value::Number(live)) => wanted.as_f64() == live.as_f64(),
        // The API server leaves out what is empty.
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
