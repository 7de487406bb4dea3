//! A PodDisruptionBudget must not block every drain. Pure.

use crate::desired::config::StackConfig;
use crate::desired::render::Component;
use crate::drift::attribution;
use crate::index::Index;
use crate::object_id::{Kind, ObjectId};

/// The configuration without the controllers' PodDisruptionBudget where it would block every drain: with one node,
/// evicted controllers cannot run elsewhere; an autoscaler may leave no more than the minimum. `nodes`: how many nodes
/// the cluster has, if that is known.
#[must_use]
pub(super) fn without_blocking_budget(
    config: &StackConfig,
    index: &Index,
    nodes: Option<usize>,
) -> StackConfig {
    let mut config = config.clone();
    let id = |kind, name: &str| ObjectId::new(kind, &config.namespace, name);
    let deployment = index.get(&id(Kind::Deployment, Component::Controller.name()));
    let budget = index.get(&id(Kind::PodDisruptionBudget, "metallb-controller"));
    let replicas = deployment
        .filter(|live| attribution::is_autoscaled(live))
        .and_then(|live| live.body["spec"]["replicas"].as_i64());
    let has_one_node = match nodes {
        Some(nodes) => nodes == 1,
        // Not known yet: no change.
        None => deployment.is_some() && budget.is_none(),
    };
    config.controller_min_available = config
        .controller_min_available
        .filter(|minimum| !has_one_node && replicas.is_none_or(|replicas| replicas > i64::from(*minimum)));
    config
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::desired::config::tests::mk_config;
    use crate::index::LiveObject;

    fn store(index: &mut Index, kind: Kind, name: &str, spec: &Value, managers: &Value) {
        let object = serde_json::from_value(json!({
            "apiVersion": "v1", "kind": kind.to_string(),
            "metadata": {"name": name, "uid": name, "managedFields": managers},
            "spec": spec,
        }))
        .unwrap();
        let id = ObjectId::new(kind, &mk_config().namespace, name);
        index.apply(id, LiveObject::new(kind, object));
    }

    fn minimum(index: &Index, nodes: Option<usize>) -> Option<i32> {
        let config = StackConfig {
            controller_min_available: Some(1),
            ..mk_config()
        };
        without_blocking_budget(&config, index, nodes).controller_min_available
    }

    #[test]
    fn cluster_with_one_node_drains() {
        let mut index = Index::default();
        assert_eq!(minimum(&index, Some(1)), None);
        assert_eq!(minimum(&index, Some(2)), Some(1));
        assert_eq!(minimum(&index, None), Some(1), "a first installation");
        let none = json!([]);
        store(
            &mut index,
            Kind::Deployment,
            "controller",
            &json!({"replicas": 2}),
            &none,
        );
        assert_eq!(minimum(&index, None), None, "as it is");
        store(
            &mut index,
            Kind::PodDisruptionBudget,
            "metallb-controller",
            &json!({}),
            &none,
        );
        assert_eq!(minimum(&index, None), Some(1), "as it is");
    }

    #[test]
    fn autoscaler_and_budget_agree() {
        let by_autoscaler = json!([{
            "manager": "kube-controller-manager", "subresource": "scale", "operation": "Update",
            "fieldsV1": {"f:spec": {"f:replicas": {}}},
        }]);
        for (replicas, managers, expected) in [
            (1, &by_autoscaler, None),
            (2, &by_autoscaler, Some(1)),
            // The operator sets them to two again.
            (1, &json!([]), Some(1)),
        ] {
            let mut index = Index::default();
            let spec = json!({"replicas": replicas});
            store(&mut index, Kind::Deployment, "controller", &spec, managers);
            assert_eq!(minimum(&index, Some(3)), expected, "{replicas} {managers}");
        }
    }
}
