//! The keys by which speakers know each other's heartbeats: a Secret whose content the operator makes once and then leaves
//! alone.
//!
//! The Secret is an object of the stack like others, but its content is nobody's wish: it is written under a field manager
//! of its own, so that applying the rest of the Secret does not take it away, and it is never kept or compared. It is written
//! only to the version of the Secret that was seen without it: of two operators that find none, one writes.

use k8s_openapi::ByteString;
use kube::api::DynamicObject;
use serde_json::{Value, json};

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

/// A new key, as a change of the Secret that has this version.
///
/// # Errors
/// When the host has no randomness.
pub fn make(version: u64) -> Result<Value, NoRandomness> {
    let mut key = [0; LEN];
    getrandom::fill(&mut key).map_err(NoRandomness)?;
    Ok(json!({
        "metadata": {"resourceVersion": version.to_string()},
        "data": {CURRENT: ByteString(key.to_vec())},
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(data: &Value) -> DynamicObject {
        let json = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": SECRET}, "data": data});
        serde_json::from_value(json).unwrap()
    }

    #[test]
    fn what_is_made_is_of_use_and_each_time_another() {
        let made = make(7).unwrap();
        assert!(strip(&mut shown(&made["data"])));
        assert_eq!(made["metadata"]["resourceVersion"], "7");
        assert_ne!(made, make(7).unwrap());
    }

    #[test]
    fn the_content_is_taken_out_before_a_secret_is_kept() {
        for (len, valid) in [(0, false), (15, false), (16, true), (32, true)] {
            let mut object = shown(&json!({CURRENT: ByteString(vec![7; len])}));
            assert_eq!(strip(&mut object), valid, "{len}");
            assert!(object.data.get("data").is_none());
        }
        assert!(!strip(&mut shown(&json!(null))));
    }
}
