//! Kinds and IDs of the objects that the operator manages. Pure.

use std::fmt;

use kube::Client;
use kube::api::{Api, ApiResource, DynamicObject, GroupVersionKind};
use lb_runtime::ObjectKey;
use lb_runtime::events::{Regarding, reference};

const RBAC: &str = "rbac.authorization.k8s.io";

/// Kinds in order of application: dependencies come first.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Kind {
    /// Namespace of the stack.
    Namespace,
    /// The metallb.io CRDs.
    CustomResourceDefinition,
    /// Identity of a component.
    ServiceAccount,
    /// Heartbeat keys.
    Secret,
    /// Cluster-wide permissions.
    ClusterRole,
    /// Binds a ClusterRole to a ServiceAccount.
    ClusterRoleBinding,
    /// Permissions in the stack's namespace.
    Role,
    /// Binds a Role to a ServiceAccount.
    RoleBinding,
    /// Access to the metrics of the controllers.
    NetworkPolicy,
    /// Limit of evictions.
    PodDisruptionBudget,
    /// Scrape target of Prometheus.
    Service,
    /// Stored revision of the stack.
    ControllerRevision,
    /// Workload of the controllers.
    Deployment,
    /// Workload of the speakers.
    DaemonSet,
    /// Scrape configuration of the Prometheus Operator.
    ServiceMonitor,
}

impl Kind {
    /// All kinds, in order.
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
            Self::ClusterRole => (RBAC, "v1", "ClusterRole", "clusterroles"),
            Self::ClusterRoleBinding => (RBAC, "v1", "ClusterRoleBinding", "clusterrolebindings"),
            Self::Role => (RBAC, "v1", "Role", "roles"),
            Self::RoleBinding => (RBAC, "v1", "RoleBinding", "rolebindings"),
            Self::NetworkPolicy => ("networking.k8s.io", "v1", "NetworkPolicy", "networkpolicies"),
            Self::PodDisruptionBudget => ("policy", "v1", "PodDisruptionBudget", "poddisruptionbudgets"),
            Self::Service => ("", "v1", "Service", "services"),
            Self::ControllerRevision => ("apps", "v1", "ControllerRevision", "controllerrevisions"),
            Self::Deployment => ("apps", "v1", "Deployment", "deployments"),
            Self::DaemonSet => ("apps", "v1", "DaemonSet", "daemonsets"),
            Self::ServiceMonitor => ("monitoring.coreos.com", "v1", "ServiceMonitor", "servicemonitors"),
        }
    }

    /// For the API client.
    #[must_use]
    pub fn api_resource(self) -> ApiResource {
        let (group, version, kind, plural) = self.names();
        ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk(group, version, kind), plural)
    }

    /// Whether objects of this kind are deleted with the stack, and when they become obsolete.
    ///
    /// Namespaces and CRDs are not: they contain and define pools and advertisements, which users wrote.
    #[must_use]
    pub fn is_deleted_with_stack(self) -> bool {
        !matches!(self, Self::Namespace | Self::CustomResourceDefinition)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.names().2)
    }
}

/// ID of an object. IDs sort in order of application.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct ObjectId {
    /// Kind.
    pub kind: Kind,
    /// Namespace and name.
    pub key: ObjectKey,
}

impl ObjectId {
    /// An ID; `namespace` is empty for cluster-scoped kinds.
    #[must_use]
    pub fn new(kind: Kind, namespace: &str, name: &str) -> Self {
        Self {
            kind,
            key: ObjectKey::new(namespace, name),
        }
    }

    /// For events that concern it.
    #[must_use]
    pub fn reference(&self) -> Regarding {
        let resource = self.kind.api_resource();
        reference(&self.key, resource.api_version, self.kind.names().2, None)
    }

    /// The API of its kind, in its namespace.
    #[must_use]
    pub fn api(&self, client: &Client) -> Api<DynamicObject> {
        let resource = self.kind.api_resource();
        if self.key.namespace().is_empty() {
            Api::all_with(client.clone(), &resource)
        } else {
            Api::namespaced_with(client.clone(), self.key.namespace(), &resource)
        }
    }
}

impl fmt::Display for ObjectId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind, self.key)
    }
}
