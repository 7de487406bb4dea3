//! The permissions to ask for: those that the operator grants, one by one, because nobody can grant what they do not hold.

use std::collections::BTreeSet;

use k8s_openapi::api::authorization::v1::ResourceAttributes;
use k8s_openapi::api::rbac::v1::PolicyRule;

use crate::desired::render::Component;
use crate::desired::render::rbac::{cluster_rules, namespace_rules};

/// A permission. The order is that of the questions.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(super) struct Question {
    /// API group; empty for the core.
    group: String,
    /// As in `services` or `services/status`.
    resource: String,
    /// What is to be done.
    verb: String,
    /// Where; empty for everywhere.
    namespace: String,
    /// To which object; empty for any.
    name: String,
}

impl Question {
    /// As a review takes it.
    pub(super) fn attributes(&self) -> ResourceAttributes {
        let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        let (resource, subresource) = match self.resource.split_once('/') {
            Some((resource, subresource)) => (resource, Some(subresource.to_owned())),
            None => (self.resource.as_str(), None),
        };
        ResourceAttributes {
            group: some(&self.group),
            resource: some(resource),
            subresource,
            verb: some(&self.verb),
            namespace: some(&self.namespace),
            name: some(&self.name),
            ..ResourceAttributes::default()
        }
    }
}

impl std::fmt::Display for Question {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.verb, self.resource)?;
        if !self.group.is_empty() {
            write!(f, ".{}", self.group)?;
        }
        if !self.name.is_empty() {
            write!(f, " {}", self.name)?;
        }
        if !self.namespace.is_empty() {
            write!(f, " in {}", self.namespace)?;
        }
        Ok(())
    }
}

/// What is granted to controller and speakers in a stack's namespace and everywhere, each once.
pub(super) fn questions(namespace: &str) -> BTreeSet<Question> {
    let mut questions = BTreeSet::new();
    for component in [Component::Controller, Component::Speaker] {
        for rule in cluster_rules(component) {
            ask(&mut questions, &rule, "");
        }
        for rule in namespace_rules(component) {
            ask(&mut questions, &rule, namespace);
        }
    }
    questions
}

fn ask(questions: &mut BTreeSet<Question>, rule: &PolicyRule, namespace: &str) {
    let any = [String::new()];
    let names = rule.resource_names.as_deref().unwrap_or(&any);
    for group in rule.api_groups.iter().flatten() {
        for resource in rule.resources.iter().flatten() {
            for verb in &rule.verbs {
                for name in names {
                    questions.insert(Question {
                        group: group.clone(),
                        resource: resource.clone(),
                        verb: verb.clone(),
                        namespace: namespace.to_owned(),
                        name: name.clone(),
                    });
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_permission_is_asked_for_once_where_it_is_granted() {
        let all = questions("lan");
        let texts: Vec<_> = all.iter().map(ToString::to_string).collect();
        for text in [
            "patch services/status",
            "watch nodes",
            "create leases.coordination.k8s.io in lan",
            "update leases.coordination.k8s.io metallb-controller in lan",
            "patch servicel2statuses/status.metallb.io in lan",
        ] {
            assert_eq!(
                texts.iter().filter(|other| *other == text).count(),
                1,
                "{text}: {texts:?}"
            );
        }
        let status = all
            .iter()
            .find(|question| question.resource == "services/status")
            .unwrap();
        let attributes = status.attributes();
        assert_eq!(attributes.resource.as_deref(), Some("services"));
        assert_eq!(attributes.subresource.as_deref(), Some("status"));
        assert_eq!((attributes.namespace, attributes.name), (None, None));
    }
}
