//! The kinds of object that the operator keeps, and how one object is named. Pure.

use std::fmt;

use kube::api::{ApiResource, GroupVersionKind};
use lb_runtime::ObjectKey;

/// The kinds, in the order in which they are applied: what others need comes first.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Kind {
    /// The namespace of the stack.
    Namespace,
    /// The metallb.io kinds.
    CustomResourceDefinition,
    /// Who the programs are.
    ServiceAccount,
    /// What the speakers know each other by.
    Secret,
    /// What they may do in the whole cluster.
    ClusterRole,
    /// Gives it to them.
    ClusterRoleBinding,
    /// What they may do in the stack's namespace.
    Role,
    /// Gives it to them.
    RoleBinding,
    /// Who may reach them.
    NetworkPolicy,
    /// How many of them an eviction may take.
    PodDisruptionBudget,
    /// Where Prometheus finds them.
    Service,
    /// What ran last with everything in order.
    ControllerRevision,
    /// The controller.
    Deployment,
    /// The speaker.
    DaemonSet,
    /// Tells the Prometheus Operator to scrape them.
    ServiceMonitor,
}

impl Kind {
    /// Every kind, in order.
    pub const ALL: [Self; 15] = [
        Self::Namespace,
        Self::CustomResourceDefinition,
        Self::ServiceAccount,
        Self::Secret,
        Self::ClusterRole,
        Self::ClusterRoleBinding,
        Self::Role,
        Self::RoleBinding,
        Self::NetworkPolicy,
        Self::PodDisruptionBudget,
        Self::Service,
        Self::ControllerRevision,
        Self::Deployment,
        Self::DaemonSet,
        Self::ServiceMonitor,
    ];

    /// Group, version, kind and plural.
    #[must_use]
    pub fn names(self) -> (&'static str, &'static str, &'static str, &'static str) {
        match self {
            Self::Namespace => ("", "v1", "Namespace", "namespaces"),
            Self::CustomResourceDefinition => (
                "apiextensions.k8s.io",
                "v1",
                "CustomResourceDefinition",
                "customresourcedefinitions",
            ),
            Self::ServiceAccount => ("", "v1", "ServiceAccount", "serviceaccounts"),
            Self::Secret => ("", "v1", "Secret", "secrets"),
            Self::ClusterRole => ("rbac.authorization.k8s.io", "v1", "ClusterRole", "clusterroles"),
            Self::ClusterRoleBinding => (
                "rbac.authorization.k8s.io",
                "v1",
                "ClusterRoleBinding",
                "clusterrolebindings",
            ),
            Self::Role => ("rbac.authorization.k8s.io", "v1", "Role", "roles"),
            Self::RoleBinding => ("rbac.authorization.k8s.io", "v1", "RoleBinding", "rolebindings"),
            Self::NetworkPolicy => ("networking.k8s.io", "v1", "NetworkPolicy", "networkpolicies"),
            Self::PodDisruptionBudget => ("policy", "v1", "PodDisruptionBudget", "poddisruptionbudgets"),
            Self::Service => ("", "v1", "Service", "services"),
            Self::ControllerRevision => ("apps", "v1", "ControllerRevision", "controllerrevisions"),
            Self::Deployment => ("apps", "v1", "Deployment", "deployments"),
            Self::DaemonSet => ("apps", "v1", "DaemonSet", "daemonsets"),
            Self::ServiceMonitor => ("monitoring.coreos.com", "v1", "ServiceMonitor", "servicemonitors"),
        }
    }

    /// How the API client addresses the kind.
    #[must_use]
    pub fn api_resource(self) -> ApiResource {
        let (group, version, kind, plural) = self.names();
        ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk(group, version, kind), plural)
    }

    /// Whether the objects of this kind go when the stack goes, and when they are no longer wanted.
    ///
    /// Not so the namespace and the metallb.io kinds: users' pools live in the one and are defined by the other, and
    /// removing a stack must not remove what users wrote.
    #[must_use]
    pub fn goes_with_the_stack(self) -> bool {
        !matches!(self, Self::Namespace | Self::CustomResourceDefinition)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.names().2)
    }
}

/// Names one object. The order is the order of application.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct ObjectId {
    /// Its kind.
    pub kind: Kind,
    /// Its namespace and name.
    pub key: ObjectKey,
}

impl ObjectId {
    /// A name from its parts; the namespace is empty for a cluster-scoped kind.
    #[must_use]
    pub fn new(kind: Kind, namespace: &str, name: &str) -> Self {
        Self {
            kind,
            key: ObjectKey::new(namespace, name),
        }
    }
}

impl fmt::Display for ObjectId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind, self.key)
    }
}
