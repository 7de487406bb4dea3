//! Which Services a pool is for: its `serviceAllocation`, against a Service's namespace and labels.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use lb_crds::ServiceAllocation;
use lb_crds::selector::{any_matches, matches};

/// The labels of an object, in the least of space: a map of one label takes half a kilobyte, and every Service has its
/// labels here, though hardly a pool looks at them.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Labels(Box<[(Box<str>, Box<str>)]>);

impl Labels {
    /// Of an object that has these, if any.
    #[must_use]
    pub fn read(labels: Option<&BTreeMap<String, String>>) -> Self {
        let pair = |(key, value): (&String, &String)| (key.as_str().into(), value.as_str().into());
        Self(labels.into_iter().flatten().map(pair).collect())
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// As selectors want them.
    fn map(&self) -> BTreeMap<String, String> {
        let pair = |(key, value): &(Box<str>, Box<str>)| (key.to_string(), value.to_string());
        self.0.iter().map(pair).collect()
    }
}

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
        let selected = || {
            let labels = of_namespace.map(Labels::map).unwrap_or_default();
            self.namespace_selectors
                .iter()
                .any(|selector| matches(selector, &labels))
        };
        let any_namespace = self.namespaces.is_empty() && self.namespace_selectors.is_empty();
        let this_namespace = any_namespace || self.namespaces.contains(namespace) || selected();
        this_namespace
            && (self.service_selectors.is_empty() || any_matches(&self.service_selectors, &of_service.map()))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn chooses(allocation: serde_json::Value, namespace: &str, service: serde_json::Value) -> bool {
        let allocation = Allocation::read(&serde_json::from_value(allocation).unwrap());
        let labels = BTreeMap::from([("team".to_owned(), namespace.to_owned())]);
        let service = serde_json::from_value(service).unwrap();
        allocation.chooses(
            namespace,
            Some(&Labels::read(Some(&labels))),
            &Labels::read(Some(&service)),
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
