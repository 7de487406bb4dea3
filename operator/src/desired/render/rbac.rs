//! ServiceAccounts and permissions of both components: exactly the verbs that each component uses.
//!
//! The operator can only grant permissions that it has itself. The chart's ClusterRole therefore contains all of these
//! rules, which a test checks.

use k8s_openapi::api::core::v1::ServiceAccount;
use k8s_openapi::api::rbac::v1::{
    ClusterRole, ClusterRoleBinding, PolicyRule, Role, RoleBinding, RoleRef, Subject,
};

use lb_crds::names;

use super::{Component, Objects, RenderError, named};
use crate::desired::config::StackConfig;
use crate::object_id::Kind;

const READ: &[&str] = &["get", "list", "watch"];

pub(super) fn render(config: &StackConfig, objects: &mut Objects) -> Result<(), RenderError> {
    for component in [Component::Controller, Component::Speaker] {
        let account = ServiceAccount {
            metadata: named(&config.namespace, component.name()),
            ..ServiceAccount::default()
        };
        objects.add(Kind::ServiceAccount, Some(component), &account)?;
        // MetalLB's roles have other names, because both are in use during a migration.
        let name = format!("metallb-{}", component.name());
        let subjects = Some(vec![Subject {
            kind: "ServiceAccount".to_owned(),
            name: component.name().to_owned(),
            namespace: Some(config.namespace.clone()),
            ..Subject::default()
        }]);
        let cluster_role = ClusterRole {
            metadata: named("", &name),
            rules: Some(cluster_rules(component)),
            ..ClusterRole::default()
        };
        objects.add(Kind::ClusterRole, Some(component), &cluster_role)?;
        let binding = ClusterRoleBinding {
            metadata: named("", &name),
            role_ref: role_ref(Kind::ClusterRole, &name),
            subjects: subjects.clone(),
        };
        objects.add(Kind::ClusterRoleBinding, Some(component), &binding)?;
        // The chart's Role metallb-controller is in use while the controller of a Helm release runs.
        let name = format!("lb-{}", component.name());
        let role = Role {
            metadata: named(&config.namespace, &name),
            rules: Some(namespace_rules(component)),
        };
        objects.add(Kind::Role, Some(component), &role)?;
        let binding = RoleBinding {
            metadata: named(&config.namespace, &name),
            role_ref: role_ref(Kind::Role, &name),
            subjects,
        };
        objects.add(Kind::RoleBinding, Some(component), &binding)?;
    }
    Ok(())
}

/// Cluster-wide rules of a component.
#[must_use]
pub fn cluster_rules(component: Component) -> Vec<PolicyRule> {
    let mut rules = match component {
        Component::Controller => vec![
            rule("", &["services"], READ),
            // Status and pool annotation are written with one patch of the status; nothing else of a Service is
            // written.
            rule("", &["services/status"], &["patch"]),
            rule("", &["namespaces", "nodes"], READ),
        ],
        Component::Speaker => vec![
            rule("", &["services", "nodes"], READ),
            rule("discovery.k8s.io", &["endpointslices"], READ),
        ],
    };
    // Events are created in the namespace of the object that they are about.
    rules.push(rule("events.k8s.io", &["events"], &["create", "patch"]));
    rules
}

/// Rules of a component in the stack's namespace.
#[must_use]
pub fn namespace_rules(component: Component) -> Vec<PolicyRule> {
    let metallb = |resources: &[&str], verbs| rule("metallb.io", resources, verbs);
    let leases = |verbs| rule("coordination.k8s.io", &["leases"], verbs);
    let named = |name: &str, rule| PolicyRule {
        resource_names: Some(vec![name.to_owned()]),
        ..rule
    };
    let state = names::CONFIGURATION_STATE;
    let mut rules = vec![metallb(&["ipaddresspools", "l2advertisements"], READ)];
    rules.extend(match component {
        Component::Controller => vec![
            metallb(&["ipaddresspools/status", "l2advertisements/status"], &["patch"]),
            // Repeated on the Services, which the speakers may not write.
            metallb(&["servicel2statuses"], &["list", "watch"]),
            // A report of a speaker that is gone is not repeated.
            rule("", &["pods"], &["list", "watch"]),
            metallb(&["configurationstates"], &["create"]),
            named(state, metallb(&["configurationstates"], READ)),
            named(state, metallb(&["configurationstates/status"], &["patch"])),
            leases(&["create"]),
            named(
                names::CONTROLLER_LEASE,
                leases(&["get", "list", "watch", "update", "patch"]),
            ),
        ],
        Component::Speaker => vec![
            rule("", &["pods"], READ),
            metallb(
                &["bgppeers", "bgpadvertisements", "bfdprofiles", "communities"],
                READ,
            ),
            metallb(
                &["servicel2statuses"],
                &["get", "list", "watch", "create", "update", "patch", "delete"],
            ),
            metallb(&["servicel2statuses/status"], &["update", "patch"]),
            // Its report about its peers, which the operator reads.
            metallb(&["configurationstates"], &["create", "patch"]),
            metallb(&["configurationstates/status"], &["patch"]),
        ],
    });
    rules
}

fn rule(group: &str, resources: &[&str], verbs: &[&str]) -> PolicyRule {
    let owned = |list: &[&str]| list.iter().map(|item| (*item).to_owned()).collect::<Vec<_>>();
    PolicyRule {
        api_groups: Some(vec![group.to_owned()]),
        resources: Some(owned(resources)),
        verbs: owned(verbs),
        ..PolicyRule::default()
    }
}

fn role_ref(kind: Kind, name: &str) -> RoleRef {
    RoleRef {
        api_group: "rbac.authorization.k8s.io".to_owned(),
        kind: kind.to_string(),
        name: name.to_owned(),
    }
}
