//! Objects of the API as JSON, and patches of them.

use std::collections::BTreeMap;

use lb_controller::target::WriteTarget;
use lb_runtime::ObjectKey;
use serde_json::{Value, json};

pub(crate) fn service(name: &str) -> WriteTarget {
    WriteTarget::Service(ObjectKey::new("default", name))
}

pub(crate) fn pool(name: &str) -> WriteTarget {
    WriteTarget::Pool(name.to_owned())
}

pub(crate) fn advertisement(name: &str) -> WriteTarget {
    WriteTarget::Advertisement(ObjectKey::new("metallb-system", name))
}

/// A Service of type LoadBalancer with a patch.
pub(crate) fn mk_service(name: &str, patch: Value) -> (WriteTarget, Value) {
    let mut object = json!({
        "metadata": { "name": name, "namespace": "default", "uid": format!("uid-{name}") },
        "spec": { "type": "LoadBalancer", "clusterIP": "10.96.0.9", "clusterIPs": ["10.96.0.9"] },
        "status": { "loadBalancer": {} },
    });
    merge(&mut object, &patch);
    (service(name), object)
}

pub(crate) fn mk_pool(name: &str, addresses: &[&str], patch: Value) -> (WriteTarget, Value) {
    let mut object = json!({
        "metadata": { "name": name, "namespace": "metallb-system", "generation": 1, "uid": format!("uid-{name}") },
        "spec": { "addresses": addresses },
    });
    merge(&mut object, &patch);
    (pool(name), object)
}

pub(crate) fn mk_advertisement(name: &str, spec: Value) -> (WriteTarget, Value) {
    let object = json!({
        "metadata": { "name": name, "namespace": "metallb-system", "generation": 1, "uid": format!("uid-{name}") },
        "spec": spec,
    });
    (advertisement(name), object)
}

/// Annotations of a Service.
pub(crate) fn annotated(pairs: &[(&str, &str)]) -> Value {
    let pairs: BTreeMap<_, _> = pairs.iter().copied().collect();
    json!({ "metadata": { "annotations": pairs } })
}

/// A status that shows an address.
pub(crate) fn showing(address: &str) -> Value {
    json!({ "status": { "loadBalancer": { "ingress": [{ "ip": address, "ipMode": "VIP" }] } } })
}

/// Merges conditions by type, as a strategic merge patch does.
pub(super) fn merge_conditions(object: &mut Value, patch: &mut Value) {
    let Some(Value::Array(changes)) = patch
        .get_mut("status")
        .and_then(Value::as_object_mut)
        .and_then(|status| status.remove("conditions"))
    else {
        return;
    };
    let shown = object["status"]["conditions"]
        .as_array()
        .cloned()
        .unwrap_or_default();
    let mut conditions: Vec<_> = shown
        .into_iter()
        .filter(|condition| !changes.iter().any(|change| change["type"] == condition["type"]))
        .collect();
    conditions.extend(changes.into_iter().filter(|change| change["$patch"] != "delete"));
    object["status"]["conditions"] = Value::Array(conditions);
}

/// JSON merge patch, RFC 7396.
pub(crate) fn merge(object: &mut Value, patch: &Value) {
    match (object, patch) {
        (Value::Object(object), Value::Object(patch)) => {
            for (key, value) in patch {
                if value.is_null() {
                    object.remove(key);
                } else {
                    let entry = object.entry(key.clone()).or_insert(Value::Null);
                    if value.is_object() && !entry.is_object() {
                        *entry = json!({});
                    }
                    merge(entry, value);
                }
            }
        }
        (object, patch) => *object = patch.clone(),
    }
}
