//! The keys by which speakers know each other's heartbeats: a Secret whose content the operator makes once and then leaves
//! alone. Pure; [`Writer`](crate::write::Writer) does the reading and writing.
//!
//! The Secret is an object of the stack like others, but its content is nobody's wish: it is applied under a field manager
//! of its own, so that applying the rest of the Secret does not take it away, and it is never kept or compared.

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use kube::api::DynamicObject;
use serde_json::{Value, json};

use crate::object::ObjectId;
use crate::render::{MANAGED_BY, MANAGER};

/// Name of the Secret.
pub const SECRET: &str = "speaker-heartbeat-keys";
/// Where the speaker finds its content, as files.
pub const DIRECTORY: &str = "/etc/lb-speaker/heartbeat";
/// Field manager of the content.
pub const KEYS_MANAGER: &str = "lb-operator-keys";
/// Entry of the key that makes heartbeats.
const CURRENT: &str = "current";
/// Bytes of a key that we make: as many as the hash of its HMAC gives.
const LEN: usize = 32;
/// Bytes of a key that a speaker accepts.
const SHORTEST: usize = 16;

/// No randomness could be had.
#[derive(Debug, thiserror::Error)]
#[error("no random bytes for the keys of the heartbeats: {0}")]
pub struct NoRandomness(getrandom::Error);

/// Whether a Secret has a key that speakers can use.
#[must_use]
pub fn are_valid(secret: &Secret) -> bool {
    let current = secret.data.as_ref().and_then(|data| data.get(CURRENT));
    current.is_some_and(|key| key.0.len() >= SHORTEST)
}

/// Takes the content out of a Secret as the API shows it; returns whether it had a key that speakers can use.
pub fn strip(object: &mut DynamicObject) -> bool {
    let Value::Object(fields) = &mut object.data else {
        return false;
    };
    fields.remove("stringData");
    let data = fields.remove("data");
    let key = data
        .as_ref()
        .and_then(|data| data.get(CURRENT))
        .and_then(Value::as_str);
    // Base64 has four characters for three bytes.
    key.is_some_and(|key| key.len() / 4 * 3 >= SHORTEST + 2)
}

/// The Secret with a new key, to be applied.
///
/// # Errors
/// When the host has no randomness.
pub fn make(id: &ObjectId) -> Result<Value, NoRandomness> {
    let mut key = [0; LEN];
    getrandom::fill(&mut key).map_err(NoRandomness)?;
    Ok(json!({
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {
            "name": id.key.name,
            "namespace": id.key.namespace,
            "labels": {MANAGED_BY: MANAGER},
        },
        "data": {CURRENT: ByteString(key.to_vec())},
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::object::Kind;

    fn secret(key: &[u8]) -> Secret {
        let data = [(CURRENT.to_owned(), ByteString(key.to_vec()))];
        Secret {
            data: Some(data.into()),
            ..Secret::default()
        }
    }

    #[test]
    fn a_key_is_long_enough_or_none() {
        assert!(are_valid(&secret(&[7; 16])) && !are_valid(&secret(&[7; 15])));
        assert!(!are_valid(&Secret::default()));
    }

    #[test]
    fn what_is_made_is_valid_and_each_time_another() {
        let id = ObjectId::new(Kind::Secret, "metallb-system", SECRET);
        let made = || make(&id).unwrap();
        let read: Secret = serde_json::from_value(made()).unwrap();
        assert!(are_valid(&read));
        assert_ne!(made(), made());
    }

    #[test]
    fn the_content_is_taken_out_before_a_secret_is_kept() {
        let shown = |key: &[u8]| -> DynamicObject {
            let mut json = serde_json::to_value(secret(key)).unwrap();
            json["metadata"] = json!({"name": SECRET});
            serde_json::from_value(json).unwrap()
        };
        for (len, valid) in [(15, false), (16, true), (32, true)] {
            let mut object = shown(&vec![7; len]);
            assert_eq!(strip(&mut object), valid, "{len}");
            assert!(object.data.get("data").is_none());
        }
    }
}
