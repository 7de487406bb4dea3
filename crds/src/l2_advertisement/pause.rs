//! Pausing MetalLB's speakers during a migration: the L2Advertisements temporarily select no node, and an annotation
//! keeps the user's node selectors for the speakers of the stack.
//!
//! Without the pause, MetalLB's speakers elect a new owner each time one of them stops. With it, a speaker that has not
//! read the change yet remains the owner, and no other speaker announces its addresses.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::ResourceExt;
use serde_json::{Value, json};

use crate::L2Advertisement;

/// Annotation of a paused L2Advertisement: the user's `spec.nodeSelectors`.
pub const NODE_SELECTORS_ANNOTATION: &str = "lb-operator.io/node-selectors";
/// Label that no node has.
const NO_NODE_LABEL: &str = "lb-operator.io/taken-over-from-metallb";

fn no_node_selector() -> LabelSelector {
    LabelSelector {
        match_labels: Some([(NO_NODE_LABEL.to_owned(), "true".to_owned())].into()),
        ..LabelSelector::default()
    }
}

/// Whether MetalLB's speakers ignore this advertisement.
#[must_use]
pub fn is_paused(object: &L2Advertisement) -> bool {
    object.spec.node_selectors == [no_node_selector()]
}

/// Whether [`resume`] changes the advertisement.
#[must_use]
pub fn needs_resume(object: &L2Advertisement) -> bool {
    is_paused(object) || object.annotations().contains_key(NODE_SELECTORS_ANNOTATION)
}

/// The node selectors of the user.
#[must_use]
pub fn node_selectors(object: &L2Advertisement) -> Vec<LabelSelector> {
    if !is_paused(object) {
        return object.spec.node_selectors.clone();
    }
    let saved = object.annotations().get(NODE_SELECTORS_ANNOTATION);
    // No annotation: all nodes.
    saved
        .and_then(|saved| serde_json::from_str(saved).ok())
        .unwrap_or_default()
}

/// Merge patch that pauses MetalLB's speakers for this advertisement.
#[must_use]
pub fn pause(object: &L2Advertisement) -> Value {
    patch(
        object,
        &[no_node_selector()],
        &json!(json!(node_selectors(object)).to_string()),
    )
}

/// Merge patch that undoes [`pause`].
#[must_use]
pub fn resume(object: &L2Advertisement) -> Value {
    patch(object, &node_selectors(object), &Value::Null)
}

fn patch(object: &L2Advertisement, selectors: &[LabelSelector], saved: &Value) -> Value {
    let selectors = if selectors.is_empty() {
        Value::Null
    } else {
        json!(selectors)
    };
    json!({
        "metadata": {
            "resourceVersion": object.resource_version(),
            "annotations": { NODE_SELECTORS_ANNOTATION: saved },
        },
        "spec": { "nodeSelectors": selectors },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn advertisement(selectors: Value) -> L2Advertisement {
        serde_json::from_value(json!({
            "apiVersion": "metallb.io/v1beta1",
            "kind": "L2Advertisement",
            "metadata": {"name": "lan", "namespace": "metallb-system", "resourceVersion": "7"},
            "spec": {"nodeSelectors": selectors, "interfaces": ["eth0"]},
        }))
        .unwrap()
    }

    fn apply(object: &L2Advertisement, patch: &Value) -> L2Advertisement {
        let mut body = serde_json::to_value(object).unwrap();
        merge(&mut body, patch);
        serde_json::from_value(body).unwrap()
    }

    fn merge(body: &mut Value, patch: &Value) {
        let Value::Object(fields) = patch else {
            *body = patch.clone();
            return;
        };
        if !body.is_object() {
            *body = json!({});
        }
        for (name, value) in fields {
            if value.is_null() {
                body.as_object_mut().unwrap().remove(name);
            } else {
                merge(&mut body[name], value);
            }
        }
    }

    #[test]
    fn node_selectors_are_kept_and_restored() {
        let chosen = json!([{"matchLabels": {"rack": "1"}}, {"matchExpressions": [{"key": "a", "operator": "Exists"}]}]);
        for selectors in [json!([]), chosen] {
            let before = advertisement(selectors);
            let paused = apply(&before, &pause(&before));
            assert!(is_paused(&paused) && needs_resume(&paused) && !needs_resume(&before));
            assert_eq!(node_selectors(&paused), before.spec.node_selectors);
            // Idempotent.
            assert_eq!(apply(&paused, &pause(&paused)), paused);
            let after = apply(&paused, &resume(&paused));
            assert_eq!(after.spec, before.spec);
            assert!(!needs_resume(&after));
        }
    }

    #[test]
    fn node_selectors_set_while_paused_are_kept() {
        let before = advertisement(json!([]));
        let mut paused = apply(&before, &pause(&before));
        let chosen = advertisement(json!([{"matchLabels": {"rack": "2"}}]))
            .spec
            .node_selectors;
        paused.spec.node_selectors.clone_from(&chosen);
        assert!(!is_paused(&paused) && needs_resume(&paused));
        assert_eq!(node_selectors(&paused), chosen);
        let after = apply(&paused, &resume(&paused));
        assert_eq!(after.spec.node_selectors, chosen);
        assert!(!needs_resume(&after));
        let again = apply(&paused, &pause(&paused));
        assert_eq!(node_selectors(&again), chosen);
    }
}
