//! The chart's permissions match the operator: everything that it writes, reads and grants, and nothing else.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test that finds something missing is to fail there"
)]

use std::path::Path;

use k8s_openapi::api::rbac::v1::PolicyRule;
use kube::CustomResourceExt;
use lb_crds::LoadBalancerStack;
use lb_operator::args::{OperatorConfig, VERSION};
use lb_operator::desired::render::rbac::{cluster_rules, namespace_rules};
use lb_operator::desired::render::{Component, render};
use lb_operator::object_id::Kind;

fn chart(file: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../charts/lb-operator")
        .join(file);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn operator_rules() -> Vec<PolicyRule> {
    rules("templates/clusterrole.yaml")
}

/// The rules of the optional ClusterRole for migrations.
fn adoption_rules() -> Vec<PolicyRule> {
    rules("templates/clusterrole-adoption.yaml")
}

fn rules(file: &str) -> Vec<PolicyRule> {
    let template = chart(file);
    let (_, rules) = template.rsplit_once("\nrules:\n").unwrap();
    let rules = rules.trim_end().trim_end_matches("{{- end }}");
    assert!(!rules.contains("{{"), "below `rules:` there is no templating");
    serde_yaml::from_str(rules).unwrap()
}

fn has(list: Option<&Vec<String>>, item: &str) -> bool {
    list.is_some_and(|list| list.iter().any(|other| other == item))
}

/// Whether the rules allow a verb on a resource, with this name or with any name.
fn allows(rules: &[PolicyRule], verb: &str, group: &str, resource: &str, name: Option<&str>) -> bool {
    rules.iter().any(|rule| {
        rule.verbs.iter().any(|other| other == verb)
            && has(rule.api_groups.as_ref(), group)
            && has(rule.resources.as_ref(), resource)
            && match (&rule.resource_names, name) {
                (None, _) => true,
                (Some(names), Some(name)) => names.iter().any(|other| other == name),
                (Some(_), None) => false,
            }
    })
}

#[test]
fn operator_has_every_permission_it_grants() {
    let held = operator_rules();
    for component in [Component::Controller, Component::Speaker] {
        for rule in cluster_rules(component)
            .into_iter()
            .chain(namespace_rules(component))
        {
            let names: Vec<Option<&str>> = match &rule.resource_names {
                None => vec![None],
                Some(names) => names.iter().map(|name| Some(name.as_str())).collect(),
            };
            for group in rule.api_groups.iter().flatten() {
                for resource in rule.resources.iter().flatten() {
                    for verb in &rule.verbs {
                        for name in &names {
                            assert!(
                                allows(&held, verb, group, resource, *name),
                                "templates/clusterrole.yaml lacks: {verb} {group}/{resource} {name:?}"
                            );
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn operator_may_write_every_rendered_object() {
    let held = operator_rules();
    let stack: LoadBalancerStack = serde_yaml::from_str(&chart("examples/stack.yaml")).unwrap();
    let config = OperatorConfig {
        version: VERSION.to_owned(),
        controller_image: "c".to_owned(),
        speaker_image: "s".to_owned(),
        namespace: "metallb-system".to_owned(),
        operator_namespace: "default".to_owned(),
        lease_name: "lb-operator".to_owned(),
        manage_crds: true,
    };
    let config = lb_operator::desired::validation::stack_config(&stack, &config, true).unwrap();
    for wanted in render(&config).unwrap() {
        let (group, _, _, plural) = wanted.id.kind.names();
        let name = Some(wanted.id.key.name());
        // Only the Secret with the heartbeat keys.
        let seen = name.filter(|_| wanted.id.kind == Kind::Secret);
        for verb in ["list", "watch"] {
            assert!(allows(&held, verb, group, plural, seen), "{verb} {}", wanted.id);
            assert!(!allows(&held, verb, "", "secrets", None));
        }
        for verb in ["create", "patch"] {
            assert!(allows(&held, verb, group, plural, name), "{verb} {}", wanted.id);
        }
        let deletes = allows(&held, "delete", group, plural, name);
        assert_eq!(
            deletes,
            wanted.id.kind.is_deleted_with_stack(),
            "delete {}",
            wanted.id
        );
    }
}

#[test]
fn operator_may_read_only_preflight_objects() {
    let held = operator_rules();
    for (verb, group, resource, name) in [
        ("get", "apiextensions.k8s.io", "customresourcedefinitions", None),
        ("list", "apps", "daemonsets", None),
        ("list", "apps", "deployments", None),
        ("list", "", "pods", None),
        ("list", "", "nodes", None),
        ("get", "", "services", None),
        ("list", "metallb.io", "ipaddresspools", None),
        ("list", "networking.k8s.io", "servicecidrs", None),
        ("list", "cilium.io", "ciliumloadbalancerippools", None),
        ("get", "", "configmaps", Some("kube-proxy")),
    ] {
        assert!(
            allows(&held, verb, group, resource, name),
            "templates/clusterrole.yaml lacks: {verb} {group}/{resource} {name:?}"
        );
    }
    assert!(!allows(&held, "get", "", "configmaps", None));
    assert!(!allows(&held, "get", "networking.k8s.io", "servicecidrs", None));
}

#[test]
fn operator_rules_have_no_wildcards() {
    for rule in operator_rules().into_iter().chain(adoption_rules()) {
        let lists = [rule.api_groups, rule.resources, Some(rule.verbs)];
        assert!(lists.into_iter().flatten().flatten().all(|item| item != "*"));
    }
}

#[test]
fn chart_has_workspace_version() {
    for line in chart("Chart.yaml").lines() {
        if let Some(version) = line
            .strip_prefix("version: ")
            .or(line.strip_prefix("appVersion: "))
        {
            assert_eq!(version.trim_matches('"'), VERSION);
        }
    }
}

#[test]
fn chart_installs_stack_crd() {
    let name = LoadBalancerStack::crd_name();
    assert!(chart("templates/loadbalancerstack-crd.yaml").contains(name));
    assert!(
        Kind::ALL.len() == 15,
        "a new kind needs rules in templates/clusterrole.yaml"
    );
}

#[test]
fn operator_may_patch_only_the_default_stack() {
    let held = operator_rules();
    let may = |name| allows(&held, "patch", "lb-operator.io", "loadbalancerstacks", Some(name));
    assert!(may("default"), "its finalizer is a field of it");
    assert!(!may("another"));
}

/// Without the optional ClusterRole, the operator cannot change pods or workloads of others, which would make its
/// ServiceAccount root on every node of the cluster.
#[test]
fn operator_changes_no_pods_and_workloads_of_others() {
    let held = operator_rules();
    for verb in ["create", "update", "patch"] {
        for resource in [
            "pods",
            "pods/exec",
            "pods/ephemeralcontainers",
            "replicationcontrollers",
        ] {
            assert!(
                !allows(&held, verb, "", resource, Some("any")),
                "{verb} {resource}"
            );
        }
        for (resource, own) in [
            ("deployments", &["controller"][..]),
            ("daemonsets", &["speaker", "speaker-prepull"]),
            ("statefulsets", &[]),
            ("replicasets", &[]),
        ] {
            assert!(
                !allows(&held, verb, "apps", resource, Some("metallb-speaker")),
                "{verb} {resource}"
            );
            for name in own {
                let may = allows(&held, verb, "apps", resource, Some(name));
                assert_eq!(may, verb != "update", "{verb} {resource} {name}");
            }
        }
    }
    for rule in held.iter().chain(&adoption_rules()) {
        for verb in ["escalate", "bind", "impersonate"] {
            assert!(!rule.verbs.iter().any(|other| other == verb), "{verb}");
        }
        let of_stack = has(rule.resources.as_ref(), "loadbalancerstacks");
        assert!(!of_stack || rule.verbs.iter().all(|verb| verb != "create" && verb != "update"));
    }
}

/// Users who may edit a namespace cannot write the stack, which is equal to root on every node.
#[test]
fn aggregated_roles_do_not_write_the_stack() {
    let template = chart("templates/clusterroles-users.yaml");
    let roles: Vec<_> = template.split("\n---\n").collect();
    assert_eq!(roles.len(), 2);
    for role in roles {
        let (_, rules) = role.split_once("\nrules:\n").unwrap();
        let rules: Vec<PolicyRule> =
            serde_yaml::from_str(rules.trim_end().trim_end_matches("{{- end }}")).unwrap();
        let may = |verb, group, resource| allows(&rules, verb, group, resource, None);
        for verb in ["create", "update", "patch", "delete", "deletecollection"] {
            assert!(!may(verb, "lb-operator.io", "loadbalancerstacks"), "{verb}");
            assert!(!may(verb, "metallb.io", "servicel2statuses"), "{verb}");
        }
        assert!(may("get", "metallb.io", "ipaddresspools") || may("create", "metallb.io", "ipaddresspools"));
    }
}

#[test]
fn operator_may_replace_only_metallb_workloads() {
    let held: Vec<_> = operator_rules().into_iter().chain(adoption_rules()).collect();
    for verb in ["create", "patch", "delete"] {
        for (resource, names) in [
            ("deployments", ["controller", "metallb-controller"]),
            ("daemonsets", ["speaker", "metallb-speaker"]),
        ] {
            for name in names {
                assert!(
                    allows(&held, verb, "apps", resource, Some(name)),
                    "{verb} {resource} {name}"
                );
            }
            assert!(
                !allows(&held, verb, "apps", resource, Some("web")),
                "{verb} {resource}"
            );
        }
    }
    let webhooks = "validatingwebhookconfigurations";
    let group = "admissionregistration.k8s.io";
    for verb in ["get", "patch"] {
        assert!(allows(
            &held,
            verb,
            group,
            webhooks,
            Some("metallb-webhook-configuration")
        ));
        assert!(!allows(&held, verb, group, webhooks, Some("another")));
    }
    assert!(allows(&held, "patch", "", "pods", None));
    assert!(allows(&held, "list", "metallb.io", "bgpadvertisements", None));
    assert!(allows(&held, "patch", "metallb.io", "l2advertisements", None));
    assert!(!allows(&held, "patch", "metallb.io", "ipaddresspools", None));
}
