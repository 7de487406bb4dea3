//! How MetalLB's speakers are made to stand still when ours have taken their place, and before they end: the
//! L2Advertisements choose no node any more, and an annotation keeps which nodes they did choose, for our speakers.
//!
//! It is one change of an object that all of MetalLB's speakers read, and whether one of them has read it yet or not,
//! nobody but the present owner would announce: so there is no moment at which they elect another, as they do each time that
//! one of them ends.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::ResourceExt;
use serde_json::{Value, json};

use crate::L2Advertisement;

/// Annotation of an L2Advertisement: its `spec.nodeSelectors` as they are when MetalLB's speakers do not stand still.
pub const NODE_SELECTORS: &str = "lb-operator.io/node-selectors";
/// Label that no node has; what MetalLB's speakers are given to choose by.
const NOBODY: &str = "lb-operator.io/taken-over-from-metallb";

fn nobody() -> LabelSelector {
    LabelSelector {
        match_labels: Some([(NOBODY.to_owned(), "true".to_owned())].into()),
        ..LabelSelector::default()
    }
}

/// Whether MetalLB's speakers stand still as far as this advertisement goes.
#[must_use]
pub fn stands_still(object: &L2Advertisement) -> bool {
    object.spec.node_selectors == [nobody()]
}

/// Whether there is something to undo.
#[must_use]
pub fn is_marked(object: &L2Advertisement) -> bool {
    stands_still(object) || object.annotations().contains_key(NODE_SELECTORS)
}

/// Which nodes people have chosen.
#[must_use]
pub fn node_selectors(object: &L2Advertisement) -> Vec<LabelSelector> {
    if !stands_still(object) {
        return object.spec.node_selectors.clone();
    }
    let kept = object.annotations().get(NODE_SELECTORS);
    // Without what was chosen before, it was all nodes.
    kept.and_then(|kept| serde_json::from_str(kept).ok())
        .unwrap_or_default()
}

/// A merge patch that makes MetalLB's speakers stand still.
#[must_use]
pub fn halt(object: &L2Advertisement) -> Value {
    patch(
        object,
        &[nobody()],
        &json!(json!(node_selectors(object)).to_string()),
    )
}

/// A merge patch that undoes that.
#[must_use]
pub fn resume(object: &L2Advertisement) -> Value {
    patch(object, &node_selectors(object), &Value::Null)
}

fn patch(object: &L2Advertisement, selectors: &[LabelSelector], kept: &Value) -> Value {
    let selectors = if selectors.is_empty() {
        Value::Null
    } else {
        json!(selectors)
    };
    json!({
        "metadata": {
            "resourceVersion": object.resource_version(),
            "annotations": { NODE_SELECTORS: kept },
        },
        "spec": { "nodeSelectors": selectors },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mk_advertisement(selectors: Value) -> L2Advertisement {
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
    fn what_people_have_chosen_holds_for_ours_meanwhile_and_is_back_afterwards() {
        let chosen = json!([{"matchLabels": {"rack": "1"}}, {"matchExpressions": [{"key": "a", "operator": "Exists"}]}]);
        for selectors in [json!([]), chosen] {
            let before = mk_advertisement(selectors);
            let halted = apply(&before, &halt(&before));
            assert!(stands_still(&halted) && is_marked(&halted) && !is_marked(&before));
            assert_eq!(node_selectors(&halted), before.spec.node_selectors);
            // Twice is as once.
            assert_eq!(apply(&halted, &halt(&halted)), halted);
            let after = apply(&halted, &resume(&halted));
            assert_eq!(after.spec, before.spec);
            assert!(!is_marked(&after));
        }
    }

    #[test]
    fn what_people_choose_meanwhile_counts() {
        let before = mk_advertisement(json!([]));
        let mut halted = apply(&before, &halt(&before));
        let chosen = mk_advertisement(json!([{"matchLabels": {"rack": "2"}}]))
            .spec
            .node_selectors;
        halted.spec.node_selectors.clone_from(&chosen);
        assert!(!stands_still(&halted) && is_marked(&halted));
        assert_eq!(node_selectors(&halted), chosen);
        let after = apply(&halted, &resume(&halted));
        assert_eq!(after.spec.node_selectors, chosen);
        assert!(!is_marked(&after));
        let again = apply(&halted, &halt(&halted));
        assert_eq!(node_selectors(&again), chosen);
    }
}
