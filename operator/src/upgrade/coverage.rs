//! Which nodes a pod template serves: the rules by which the DaemonSet controller selects nodes. Pure.

use std::collections::BTreeSet;
use std::fmt;

use k8s_openapi::api::core::v1::{
    NodeSelectorRequirement, NodeSelectorTerm, PodSpec, PodTemplateSpec, Taint, Toleration,
};
use serde_json::Value;

use crate::observe::nodes::{ClusterNode, ClusterNodes};

/// Taints that every DaemonSet with host network tolerates.
const DAEMON_SET_TOLERATIONS: [&str; 7] = [
    "node.kubernetes.io/not-ready",
    "node.kubernetes.io/unreachable",
    "node.kubernetes.io/disk-pressure",
    "node.kubernetes.io/memory-pressure",
    "node.kubernetes.io/pid-pressure",
    "node.kubernetes.io/unschedulable",
    "node.kubernetes.io/network-unavailable",
];

/// Why a template does not serve a node.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Mismatch {
    /// The node selector requires this label and value.
    NodeSelector(String, String),
    /// The required node affinity does not match.
    Affinity,
    /// This taint is not tolerated.
    Taint(String),
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NodeSelector(key, value) => write!(f, "has no label {key}={value} of the node selector"),
            Self::Affinity => f.write_str("does not match the node affinity"),
            Self::Taint(key) => write!(f, "has taint {key}, which is not tolerated"),
        }
    }
}

/// The nodes that a pod template serves, and the others with the reason. A template that cannot be parsed serves none.
#[must_use]
pub fn served_nodes<'a>(
    template: &Value,
    nodes: &'a ClusterNodes,
) -> (BTreeSet<&'a str>, Vec<(&'a str, Mismatch)>) {
    let template: PodTemplateSpec = serde_json::from_value(template.clone()).unwrap_or_default();
    let spec = template.spec.unwrap_or_default();
    let mut served = BTreeSet::new();
    let mut others = Vec::new();
    for (name, node) in nodes {
        match mismatch(&spec, name, node) {
            None => {
                served.insert(name.as_str());
            }
            Some(reason) => others.push((name.as_str(), reason)),
        }
    }
    (served, others)
}

fn mismatch(spec: &PodSpec, name: &str, node: &ClusterNode) -> Option<Mismatch> {
    let labels = node.labels();
    let missing = spec
        .node_selector
        .iter()
        .flatten()
        .find(|(key, value)| labels.get(*key) != Some(value));
    if let Some((key, value)) = missing {
        return Some(Mismatch::NodeSelector(key.clone(), value.clone()));
    }
    let affinity = spec
        .affinity
        .as_ref()
        .and_then(|affinity| affinity.node_affinity.as_ref());
    let required = affinity.and_then(|affinity| {
        affinity
            .required_during_scheduling_ignored_during_execution
            .as_ref()
    });
    if let Some(required) = required
        && !required
            .node_selector_terms
            .iter()
            .any(|term| matches(term, name, node))
    {
        return Some(Mismatch::Affinity);
    }
    let tolerations = spec.tolerations.as_deref().unwrap_or_default();
    let taint = node
        .taints()
        .iter()
        .find(|taint| repels(taint) && !is_tolerated(taint, tolerations))?;
    Some(Mismatch::Taint(taint.key.clone()))
}

/// Whether a term matches; an empty term matches no node.
fn matches(term: &NodeSelectorTerm, name: &str, node: &ClusterNode) -> bool {
    let expressions = term.match_expressions.as_deref().unwrap_or_default();
    let fields = term.match_fields.as_deref().unwrap_or_default();
    let of_label = |requirement: &NodeSelectorRequirement| {
        holds(
            requirement,
            node.labels().get(&requirement.key).map(String::as_str),
        )
    };
    let of_field = |requirement: &NodeSelectorRequirement| {
        requirement.key == "metadata.name" && holds(requirement, Some(name))
    };
    !(expressions.is_empty() && fields.is_empty())
        && expressions.iter().all(of_label)
        && fields.iter().all(of_field)
}

fn holds(requirement: &NodeSelectorRequirement, value: Option<&str>) -> bool {
    let values = requirement.values.as_deref().unwrap_or_default();
    let listed = value.is_some_and(|value| values.iter().any(|listed| listed == value));
    let number = |text: &str| text.parse::<i64>().ok();
    let compare = |is: fn(i64, i64) -> bool| match (value.and_then(number), values) {
        (Some(value), [bound]) => number(bound).is_some_and(|bound| is(value, bound)),
        _ => false,
    };
    match requirement.operator.as_str() {
        "In" => listed,
        "NotIn" => !listed,
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        "Gt" => compare(|value, bound| value > bound),
        "Lt" => compare(|value, bound| value < bound),
        _ => false,
    }
}

fn repels(taint: &Taint) -> bool {
    taint.effect != "PreferNoSchedule" && !DAEMON_SET_TOLERATIONS.contains(&taint.key.as_str())
}

fn is_tolerated(taint: &Taint, tolerations: &[Toleration]) -> bool {
    tolerations.iter().any(|toleration| {
        let effect = toleration.effect.as_deref().unwrap_or_default();
        let key = toleration.key.as_deref().unwrap_or_default();
        let exists = toleration.operator.as_deref() == Some("Exists");
        let value = toleration.value.as_deref().unwrap_or_default();
        (effect.is_empty() || effect == taint.effect)
            && ((key.is_empty() && exists) || key == taint.key)
            && (exists || value == taint.value.as_deref().unwrap_or_default())
    })
}

#[cfg(test)]
pub(crate) mod tests {
    use serde_json::json;

    use super::*;

    /// A node with labels `{name: value}` and the keys of its NoSchedule taints.
    pub(crate) fn mk_node(labels: &Value, taints: &[&str]) -> ClusterNode {
        let taints: Vec<_> = taints
            .iter()
            .map(|key| json!({"key": key, "effect": "NoSchedule"}))
            .collect();
        let node = json!({
            "metadata": {"labels": labels},
            "spec": {"taints": taints},
            "status": {"conditions": [{"type": "Ready", "status": "True"}]},
        });
        ClusterNode::of(serde_json::from_value(node).unwrap())
    }

    fn served(spec: &Value) -> String {
        let nodes = ClusterNodes::from([
            (
                "n1".to_owned(),
                mk_node(&json!({"disk": "ssd", "rank": "3"}), &[]),
            ),
            (
                "n2".to_owned(),
                mk_node(&json!({"disk": "hdd", "rank": "7"}), &["dedicated"]),
            ),
            (
                "n3".to_owned(),
                mk_node(&json!({}), &["node.kubernetes.io/unschedulable"]),
            ),
        ]);
        let (served, others) = served_nodes(&json!({"spec": spec}), &nodes);
        assert_eq!(served.len() + others.len(), 3);
        Vec::from_iter(served).join(" ")
    }

    fn affinity(requirements: &Value) -> Value {
        json!({
            "containers": [], "tolerations": [{"operator": "Exists"}],
            "affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {
                "nodeSelectorTerms": [{"matchExpressions": requirements}],
            }}},
        })
    }

    #[test]
    fn daemon_set_rules_select_nodes() {
        let cases = [
            (json!({"containers": []}), "n1 n3"),
            (
                json!({"containers": [], "tolerations": [{"operator": "Exists"}]}),
                "n1 n2 n3",
            ),
            (
                json!({"containers": [], "tolerations": [{"key": "dedicated", "operator": "Exists", "effect": "NoExecute"}]}),
                "n1 n3",
            ),
            (json!({"containers": [], "nodeSelector": {"disk": "ssd"}}), "n1"),
            (affinity(&json!([{"key": "nope", "operator": "Exists"}])), ""),
            (
                affinity(&json!([{"key": "disk", "operator": "In", "values": ["hdd"]}])),
                "n2",
            ),
            (
                affinity(&json!([{"key": "disk", "operator": "NotIn", "values": ["hdd"]}])),
                "n1 n3",
            ),
            (
                affinity(&json!([{"key": "rank", "operator": "Gt", "values": ["5"]}])),
                "n2",
            ),
            (
                affinity(&json!([{"key": "rank", "operator": "Lt", "values": ["5"]}])),
                "n1",
            ),
            (
                affinity(&json!([{"key": "disk", "operator": "DoesNotExist"}])),
                "n3",
            ),
        ];
        for (spec, expected) in cases {
            assert_eq!(served(&spec), expected, "{spec}");
        }
    }

    #[test]
    fn mismatch_names_the_reason() {
        let nodes = ClusterNodes::from([("n2".to_owned(), mk_node(&json!({}), &["dedicated"]))]);
        let reason = |spec: &Value| served_nodes(&json!({"spec": spec}), &nodes).1[0].1.to_string();
        assert_eq!(
            reason(&json!({"containers": []})),
            "has taint dedicated, which is not tolerated"
        );
        assert_eq!(
            reason(&json!({"containers": [], "nodeSelector": {"a": "b"}})),
            "has no label a=b of the node selector"
        );
        assert_eq!(
            reason(&affinity(&json!([{"key": "nope", "operator": "Exists"}]))),
            "does not match the node affinity"
        );
    }
}
