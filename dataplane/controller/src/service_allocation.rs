//! Which Services may use a pool: its `serviceAllocation`, matched against the namespace and labels of a Service.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use lb_crds::ServiceAllocation;
use lb_crds::selector::{any_matches, matches};

/// The labels of an object in little memory: a map with one label takes 500 bytes, every Service has its labels here,
/// and few pools select by labels.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct CompactLabels(Box<[(Box<str>, Box<str>)]>);

impl CompactLabels {
    /// Copies the labels of an object.
    #[must_use]
    pub fn read(labels: Option<&BTreeMap<String, String>>) -> Self {
        let pair = |(key, value): (&String, &String)| (key.as_str().into(), value.as_str().into());
        Self(labels.into_iter().flatten().map(pair).collect())
    }

    /// Whether there are no labels.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The labels in the form that selectors take.
    fn map(&self) -> BTreeMap<String, String> {
        let pair = |(key, value): &(Box<str>, Box<str>)| (key.to_string(), value.to_string());
        self.0.iter().map(pair).collect()
    }
}

/// The `serviceAllocation` of a pool, without its priority.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct AllocationRules {
    namespaces: BTreeSet<String>,
    namespace_selectors: Vec<LabelSelector>,
    service_selectors: Vec<LabelSelector>,
}

impl AllocationRules {
    /// Copies the rules of a pool.
    #[must_use]
    pub fn read(spec: &ServiceAllocation) -> Self {
        Self {
            namespaces: spec.namespaces.iter().cloned().collect(),
            namespace_selectors: spec.namespace_selectors.clone(),
            service_selectors: spec.service_selectors.clone(),
        }
    }

    /// Whether namespaces are selected by their labels.
    #[must_use]
    pub fn uses_namespace_labels(&self) -> bool {
        !self.namespace_selectors.is_empty()
    }

    /// Whether the rules match a Service in this namespace and with these labels.
    ///
    /// The namespace must be named or selected; without both lists any namespace matches. If the selectors match no
    /// namespace, no Service matches, whereas MetalLB then opens the pool to all.
    #[must_use]
    pub fn matches(
        &self,
        namespace: &str,
        namespace_labels: Option<&CompactLabels>,
        service_labels: &CompactLabels,
    ) -> bool {
        let selected = || {
            let labels = namespace_labels.map(CompactLabels::map).unwrap_or_default();
            self.namespace_selectors
                .iter()
                .any(|selector| matches(selector, &labels))
        };
        let any_namespace = self.namespaces.is_empty() && self.namespace_selectors.is_empty();
        let this_namespace = any_namespace || self.namespaces.contains(namespace) || selected();
        this_namespace
            && (self.service_selectors.is_empty()
                || any_matches(&self.service_selectors, &service_labels.map()))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn rules_match(allocation: serde_json::Value, namespace: &str, service: serde_json::Value) -> bool {
        let rules = AllocationRules::read(&serde_json::from_value(allocation).unwrap());
        let labels = BTreeMap::from([("team".to_owned(), namespace.to_owned())]);
        let service = serde_json::from_value(service).unwrap();
        rules.matches(
            namespace,
            Some(&CompactLabels::read(Some(&labels))),
            &CompactLabels::read(Some(&service)),
        )
    }

    #[test]
    fn namespace_matches_by_name_or_selector() {
        let both = json!({"namespaces": ["a"], "namespaceSelectors": [{"matchLabels": {"team": "b"}}]});
        assert!(rules_match(both.clone(), "a", json!({})));
        assert!(rules_match(both.clone(), "b", json!({})));
        assert!(!rules_match(both, "c", json!({})));
        assert!(
            rules_match(json!({}), "c", json!({})),
            "without rules any Service matches"
        );
    }

    #[test]
    fn selectors_without_a_match_exclude_all_namespaces() {
        let rules = json!({"namespaceSelectors": [{"matchLabels": {"team": "nobody"}}]});
        assert!(!rules_match(rules, "a", json!({})));
    }

    #[test]
    fn one_service_selector_and_the_namespace_must_match() {
        let spec = json!({"namespaces": ["a"], "serviceSelectors": [{"matchLabels": {"app": "x"}}, {"matchLabels": {"app": "y"}}]});
        assert!(rules_match(spec.clone(), "a", json!({"app": "y"})));
        assert!(!rules_match(spec.clone(), "a", json!({"app": "z"})));
        assert!(!rules_match(spec, "b", json!({"app": "x"})));
    }
}
