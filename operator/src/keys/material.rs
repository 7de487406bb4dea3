//! The keys by which speakers know each other's heartbeats: a Secret whose content the operator makes, and changes from time
//! to time as [`crate::keys::rotation`] says.
//!
//! The Secret is an object of the stack like others, but its content is nobody's wish: it is written under a field manager
//! of its own, so that applying the rest of the Secret does not take it away, and it is never kept or compared. Each write is
//! to the version of the Secret that was seen: of two operators that want the same, one writes.
//!
//! A rotation moves entries by JSON patch: the API server moves the keys, the operator never reads one.
//!
//! | entry | meaning to a speaker |
//! | --- | --- |
//! | `current` | makes its heartbeats, and is believed |
//! | `next` | is believed: it becomes `current` once every speaker has it |
//! | `previous` | is believed: a speaker that has not heard of the change yet still uses it |
//! | any other | is believed: the user's own, and left alone |

use jiff::Timestamp;
use json_patch::jsonptr::PointerBuf;
use json_patch::{AddOperation, MoveOperation, Patch, PatchOperation, RemoveOperation, ReplaceOperation};
use k8s_openapi::ByteString;
use kube::api::DynamicObject;
use serde_json::{Value, json};

use crate::keys::rotation::Record;

/// Name of the Secret.
pub const SECRET: &str = "speaker-heartbeat-keys";
/// Where the speaker finds its content, as files.
pub const DIRECTORY: &str = "/etc/lb-speaker/heartbeat";
/// Field manager of the content.
pub const KEYS_MANAGER: &str = "lb-operator-keys";
/// Annotation of the Secret: how many keys there have been, the present one included.
pub const GENERATION: &str = "lb-operator.io/key-generation";
/// Annotation of the Secret: since when the present key makes heartbeats.
pub const SINCE: &str = "lb-operator.io/key-since";
/// Annotation of the Secret: which request for a rotation has been met last.
pub const ASKED: &str = "lb-operator.io/key-rotation-asked";
/// Entry of the key that makes heartbeats.
const CURRENT: &str = "current";
/// Entry of the key that will.
const NEXT: &str = "next";
/// Entry of the key that did.
const PREVIOUS: &str = "previous";
/// Bytes of a key that we make: as many as the hash of its HMAC gives.
const LEN: usize = 32;
/// Bytes of a key that a speaker accepts.
const SHORTEST: usize = 16;

/// Which entries a Secret has, without what is in them.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Entries {
    /// There is a key that makes heartbeats, and speakers can use it.
    pub current: bool,
    /// There is a key that is to follow it, and speakers can use it.
    pub next: bool,
    /// There is something that came before it.
    pub previous: bool,
}

/// No randomness could be had.
#[derive(Debug, thiserror::Error)]
#[error("no random bytes for the keys of the heartbeats: {0}")]
pub struct NoRandomness(getrandom::Error);

/// Takes the content out of a Secret as the API shows it; returns which entries it had.
pub fn strip(object: &mut DynamicObject) -> Entries {
    let Value::Object(fields) = &mut object.data else {
        return Entries::default();
    };
    fields.remove("stringData");
    let data = fields.remove("data");
    let entry = |name: &str| data.as_ref()?.get(name)?.as_str();
    // Base64 has four characters for three bytes.
    let usable = |name: &str| entry(name).is_some_and(|key| key.len() / 4 * 3 >= SHORTEST + 2);
    Entries {
        current: usable(CURRENT),
        next: usable(NEXT),
        previous: entry(PREVIOUS).is_some(),
    }
}

/// A first key, as a merge patch of the Secret that has this version. Whatever was known of the one before it is void.
///
/// # Errors
/// When the host has no randomness.
pub fn make(version: u64) -> Result<Value, NoRandomness> {
    Ok(json!({
        "metadata": {"resourceVersion": version.to_string(), "annotations": {SINCE: null}},
        "data": {CURRENT: fresh()?},
    }))
}

/// A change of the keys, as a JSON patch of the Secret that has this version.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Change {
    /// Only what is known of them is written down.
    Record(Record),
    /// A new key is made, for all speakers to believe.
    Spread(Record),
    /// The new key makes heartbeats from now on, and the one before is still believed.
    Switch(Record),
    /// The one before is believed no longer.
    Retire,
}

impl Change {
    /// The patch.
    ///
    /// # Errors
    /// When the host has no randomness.
    pub fn patch(&self, version: u64) -> Result<Patch, NoRandomness> {
        // A version that is not the present one is a conflict: somebody else was faster.
        let mut operations = vec![PatchOperation::Replace(ReplaceOperation {
            path: PointerBuf::from_tokens(["metadata", "resourceVersion"]),
            value: json!(version.to_string()),
        })];
        match self {
            Self::Record(_) => {}
            Self::Spread(_) => operations.push(PatchOperation::Add(AddOperation {
                path: entry(NEXT),
                value: json!(fresh()?),
            })),
            Self::Switch(_) => {
                for (from, to) in [(CURRENT, PREVIOUS), (NEXT, CURRENT)] {
                    operations.push(PatchOperation::Move(MoveOperation {
                        from: entry(from),
                        path: entry(to),
                    }));
                }
            }
            Self::Retire => operations.push(PatchOperation::Remove(RemoveOperation {
                path: entry(PREVIOUS),
            })),
        }
        if let Self::Record(record) | Self::Spread(record) | Self::Switch(record) = self {
            operations.extend(annotations(record).map(|(name, value)| {
                PatchOperation::Add(AddOperation {
                    path: PointerBuf::from_tokens(["metadata", "annotations", name]),
                    value: json!(value),
                })
            }));
        }
        Ok(Patch(operations))
    }
}

fn entry(name: &str) -> PointerBuf {
    PointerBuf::from_tokens(["data", name])
}

fn annotations(record: &Record) -> [(&'static str, String); 3] {
    [
        (GENERATION, record.generation.to_string()),
        (SINCE, record.since.to_string()),
        (ASKED, record.asked.clone()),
    ]
}

/// What the annotations of the Secret say, if the operator has written them and nobody has spoilt them.
#[must_use]
pub fn record(annotations: &Value) -> Option<Record> {
    Some(Record {
        generation: generation(annotations)?,
        since: annotations.get(SINCE)?.as_str()?.parse::<Timestamp>().ok()?,
        asked: annotations
            .get(ASKED)
            .and_then(Value::as_str)
            .unwrap_or_default()
            .to_owned(),
    })
}

/// How many keys there have been, also when the rest is void.
#[must_use]
pub fn generation(annotations: &Value) -> Option<u64> {
    annotations.get(GENERATION)?.as_str()?.parse().ok()
}

fn fresh() -> Result<ByteString, NoRandomness> {
    let mut key = vec![0; LEN];
    getrandom::fill(&mut key).map_err(NoRandomness)?;
    Ok(ByteString(key))
}

#[cfg(test)]
#[path = "material_tests.rs"]
mod tests;
