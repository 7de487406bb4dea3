//! Which Services a pool is for: its `serviceAllocation`, against a Service's namespace and labels.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use lb_crds::ServiceAllocation;
use lb_crds::selector::{any_matches, matches};

/// The labels of an object.
pub type Labels = BTreeMap<String, String>;

/// A pool's `serviceAllocation`, without its priority.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Allocation {
    namespaces: BTreeSet<String>,
    namespace_selectors: Vec<LabelSelector>,
    service_selectors: Vec<LabelSelector>,
}

impl Allocation {
    /// Reads it.
    #[must_use]
    pub fn read(spec: &ServiceAllocation) -> Self {
        Self {
            namespaces: spec.namespaces.iter().cloned().collect(),
            namespace_selectors: spec.namespace_selectors.clone(),
            service_selectors: spec.service_selectors.clone(),
        }
    }

    /// Whether it matters what labels namespaces have.
    #[must_use]
    pub fn looks_at_namespaces(&self) -> bool {
        !self.namespace_selectors.is_empty()
    }

    /// Whether the pool is for a Service in this namespace and with these labels.
    ///
    /// A namespace that is named or selected; where neither is asked for, any. Selectors that select no namespace leave
    /// none, whereas MetalLB then takes the pool for everybody's.
    #[must_use]
    pub fn chooses(&self, namespace: &str, of_namespace: Option<&Labels>, of_service: &Labels) -> bool {
        let none = Labels::new();
        let of_namespace = of_namespace.unwrap_or(&none);
        let any_namespace = self.namespaces.is_empty() && self.namespace_selectors.is_empty();
        let this_namespace = any_namespace
            || self.namespaces.contains(namespace)
            || self
                .namespace_selectors
                .iter()
                .any(|selector| matches(selector, of_namespace));
        this_namespace && any_matches(&self.service_selectors, of_service)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn chooses(allocation: serde_json::Value, namespace: &str, service: serde_json::Value) -> bool {
        let allocation = Allocation::read(&serde_json::from_value(allocation).unwrap());
        let labels = Labels::from([("team".to_owned(), namespace.to_owned())]);
        allocation.chooses(
            namespace,
            Some(&labels),
            &serde_json::from_value(service).unwrap(),
        )
    }

    #[test]
    fn a_namespace_is_named_or_selected() {
        let both = json!({"namespaces": ["a"], "namespaceSelectors": [{"matchLabels": {"team": "b"}}]});
        assert!(chooses(both.clone(), "a", json!({})));
        assert!(chooses(both.clone(), "b", json!({})));
        assert!(!chooses(both, "c", json!({})));
        assert!(
            chooses(json!({}), "c", json!({})),
            "nothing asked for is everybody"
        );
    }

    #[test]
    fn selectors_that_select_no_namespace_leave_none() {
        let nobody = json!({"namespaceSelectors": [{"matchLabels": {"team": "nobody"}}]});
        assert!(!chooses(nobody, "a", json!({})));
    }

    #[test]
    fn one_service_selector_is_enough_and_the_namespace_must_fit_too() {
        let spec = json!({"namespaces": ["a"], "serviceSelectors": [{"matchLabels": {"app": "x"}}, {"matchLabels": {"app": "y"}}]});
        assert!(chooses(spec.clone(), "a", json!({"app": "y"})));
        assert!(!chooses(spec.clone(), "a", json!({"app": "z"})));
        assert!(!chooses(spec, "b", json!({"app": "x"})));
    }
}
