//! Asks which permissions the operator holds. It must hold those that it grants, because Kubernetes lets no client grant
//! others.

use std::collections::BTreeSet;

use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::authorization::v1::{
    ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec,
};
use k8s_openapi::api::rbac::v1::PolicyRule;
use kube::Client;
use kube::api::{Api, PostParams};

use crate::desired::render::Component;
use crate::desired::render::rbac::{cluster_rules, namespace_rules};

const MAX_CONCURRENT_REVIEWS: usize = 8;

/// A permission for one verb.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) struct Permission {
    /// API group; empty for the core.
    group: String,
    /// As in `services` or `services/status`.
    resource: String,
    /// As in `patch`.
    verb: String,
    /// Empty for all namespaces.
    namespace: String,
    /// Name of the object; empty for any.
    name: String,
}

impl Permission {
    /// A permission for one verb on objects of a kind; `namespace` and `name` may be empty.
    pub(crate) fn new(verb: &str, group: &str, resource: &str, namespace: &str, name: &str) -> Self {
        Self {
            group: group.to_owned(),
            resource: resource.to_owned(),
            verb: verb.to_owned(),
            namespace: namespace.to_owned(),
            name: name.to_owned(),
        }
    }

    /// The attributes of an access review.
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

/// The permissions that the operator does not hold.
///
/// # Errors
/// If the API server refuses or does not answer.
pub(crate) async fn denied(
    client: &Client,
    permissions: impl IntoIterator<Item = Permission>,
) -> kube::Result<Vec<String>> {
    let reviews: Api<SelfSubjectAccessReview> = Api::all(client.clone());
    let requests = permissions.into_iter().map(|permission| {
        let reviews = reviews.clone();
        async move {
            let review = SelfSubjectAccessReview {
                spec: SelfSubjectAccessReviewSpec {
                    resource_attributes: Some(permission.attributes()),
                    non_resource_attributes: None,
                },
                ..SelfSubjectAccessReview::default()
            };
            let answer = reviews.create(&PostParams::default(), &review).await?;
            let is_allowed = answer.status.is_some_and(|status| status.allowed);
            kube::Result::Ok((!is_allowed).then(|| permission.to_string()))
        }
    });
    let answers = futures::stream::iter(requests).buffered(MAX_CONCURRENT_REVIEWS);
    answers
        .try_filter_map(|denied| std::future::ready(Ok(denied)))
        .try_collect()
        .await
}

impl std::fmt::Display for Permission {
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

/// The permissions that controller and speakers are granted in the stack's namespace and in the cluster.
pub(super) fn required_permissions(namespace: &str) -> BTreeSet<Permission> {
    let mut permissions = BTreeSet::new();
    for component in [Component::Controller, Component::Speaker] {
        for rule in cluster_rules(component) {
            insert_rule(&mut permissions, &rule, "");
        }
        for rule in namespace_rules(component) {
            insert_rule(&mut permissions, &rule, namespace);
        }
    }
    permissions
}

fn insert_rule(permissions: &mut BTreeSet<Permission>, rule: &PolicyRule, namespace: &str) {
    let any = [String::new()];
    let names = rule.resource_names.as_deref().unwrap_or(&any);
    for group in rule.api_groups.iter().flatten() {
        for resource in rule.resources.iter().flatten() {
            for verb in &rule.verbs {
                for name in names {
                    permissions.insert(Permission::new(verb, group, resource, namespace, name));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_granted_permission_is_required_once() {
        let all = required_permissions("lan");
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
            .find(|permission| permission.resource == "services/status")
            .unwrap();
        let attributes = status.attributes();
        assert_eq!(attributes.resource.as_deref(), Some("services"));
        assert_eq!(attributes.subresource.as_deref(), Some("status"));
        assert_eq!((attributes.namespace, attributes.name), (None, None));
    }
}
