//! The Secret with the heartbeat keys. The operator creates its content and rotates it as [`crate::keys::rotation`]
//! decides.
//!
//! The Secret is applied like other objects of the stack, but its content has its own field manager, so that applying
//! the Secret does not remove the content, and it is never stored or compared. Each write names the resource version
//! that was observed, so that of two operators only one succeeds.
//!
//! A rotation moves entries by JSON patch: the API server moves the keys, the operator never reads one.
//!
//! | entry | meaning to a speaker |
//! | --- | --- |
//! | `current` | signs its heartbeats and is accepted |
//! | `next` | is accepted; becomes `current` once every speaker has it |
//! | `previous` | is accepted; a speaker with an older Secret still signs with it |
//! | any other | is accepted; added by the user and never changed |

use jiff::Timestamp;
use json_patch::jsonptr::PointerBuf;
use json_patch::{AddOperation, MoveOperation, Patch, PatchOperation, RemoveOperation, ReplaceOperation};
use k8s_openapi::ByteString;
use kube::api::DynamicObject;
use serde_json::{Value, json};

/// Name of the Secret.
pub const SECRET_NAME: &str = "speaker-heartbeat-keys";
/// Directory in which the speaker finds the keys as files.
pub const MOUNT_PATH: &str = "/etc/lb-speaker/heartbeat";
/// Field manager of the content.
pub const FIELD_MANAGER: &str = "lb-operator-keys";
/// Annotation of the Secret: number of keys so far, the current one included.
pub const GENERATION: &str = "lb-operator.io/key-generation";
/// Annotation of the Secret: since when the current key signs heartbeats.
pub const ACTIVE_SINCE: &str = "lb-operator.io/key-since";
/// Annotation of the Secret: the last rotation request that was handled.
pub const HANDLED_REQUEST: &str = "lb-operator.io/key-rotation-asked";
const CURRENT: &str = "current";
const NEXT: &str = "next";
const PREVIOUS: &str = "previous";
/// Length of a generated key: that of the hash of HMAC-SHA256.
const KEY_BYTES: usize = 32;
/// Shortest key that a speaker accepts.
const MIN_KEY_BYTES: usize = 16;

/// The entries of a Secret, without their content.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct KeyEntries {
    /// `current` exists and is long enough.
    pub current: bool,
    /// `next` exists and is long enough.
    pub next: bool,
    /// `previous` exists.
    pub previous: bool,
}

/// The host provides no random bytes.
#[derive(Debug, thiserror::Error)]
#[error("no random bytes for heartbeat keys: {0}")]
pub struct RandomnessError(getrandom::Error);

/// Removes the content from a Secret as the API returns it; returns the entries that it had.
pub fn strip_keys(object: &mut DynamicObject) -> KeyEntries {
    let Value::Object(fields) = &mut object.data else {
        return KeyEntries::default();
    };
    fields.remove("stringData");
    let data = fields.remove("data");
    let entry = |name: &str| data.as_ref()?.get(name)?.as_str();
    // Base64 has four characters for three bytes.
    let usable = |name: &str| entry(name).is_some_and(|key| key.len() / 4 * 3 >= MIN_KEY_BYTES + 2);
    KeyEntries {
        current: usable(CURRENT),
        next: usable(NEXT),
        previous: entry(PREVIOUS).is_some(),
    }
}

/// A first key, as a merge patch of the Secret of this version. The record of an earlier key is removed.
///
/// # Errors
/// If the host provides no random bytes.
pub fn first_key_patch(version: u64) -> Result<Value, RandomnessError> {
    Ok(json!({
        "metadata": {"resourceVersion": version.to_string(), "annotations": {ACTIVE_SINCE: null}},
        "data": {CURRENT: generate_key()?},
    }))
}

/// The record of the current key, in annotations of the Secret.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct KeyRecord {
    /// Number of keys so far, this one included.
    pub generation: u64,
    /// Since when it signs heartbeats.
    pub since: Timestamp,
    /// The last rotation request that was handled; empty if there was none.
    pub requested: String,
}

/// A change of the keys.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum KeyChange {
    /// Write the record only.
    Annotate(KeyRecord),
    /// Create a new key, which all speakers will accept.
    Distribute(KeyRecord),
    /// Sign heartbeats with the new key; the one before is still accepted.
    Activate(KeyRecord),
    /// Remove the previous key.
    Retire,
}

impl KeyChange {
    /// A JSON patch of the Secret of this version.
    ///
    /// # Errors
    /// If the host provides no random bytes.
    pub fn patch(&self, version: u64) -> Result<Patch, RandomnessError> {
        // Another version is a conflict: another client was faster.
        let mut operations = vec![PatchOperation::Replace(ReplaceOperation {
            path: PointerBuf::from_tokens(["metadata", "resourceVersion"]),
            value: json!(version.to_string()),
        })];
        match self {
            Self::Annotate(_) => {}
            Self::Distribute(_) => operations.push(PatchOperation::Add(AddOperation {
                path: entry(NEXT),
                value: json!(generate_key()?),
            })),
            Self::Activate(_) => {
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
        if let Self::Annotate(record) | Self::Distribute(record) | Self::Activate(record) = self {
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

fn annotations(record: &KeyRecord) -> [(&'static str, String); 3] {
    [
        (GENERATION, record.generation.to_string()),
        (ACTIVE_SINCE, record.since.to_string()),
        (HANDLED_REQUEST, record.requested.clone()),
    ]
}

/// The record in the annotations of the Secret; `None` if it is absent or invalid.
#[must_use]
pub fn key_record(annotations: &Value) -> Option<KeyRecord> {
    Some(KeyRecord {
        generation: key_generation(annotations)?,
        since: annotations
            .get(ACTIVE_SINCE)?
            .as_str()?
            .parse::<Timestamp>()
            .ok()?,
        requested: annotations
            .get(HANDLED_REQUEST)
            .and_then(Value::as_str)
            .unwrap_or_default()
            .to_owned(),
    })
}

/// Number of keys so far, also if the rest of the record is invalid.
#[must_use]
pub fn key_generation(annotations: &Value) -> Option<u64> {
    annotations.get(GENERATION)?.as_str()?.parse().ok()
}

fn generate_key() -> Result<ByteString, RandomnessError> {
    let mut key = vec![0; KEY_BYTES];
    getrandom::fill(&mut key).map_err(RandomnessError)?;
    Ok(ByteString(key))
}

#[cfg(test)]
#[path = "secret_tests.rs"]
mod tests;
