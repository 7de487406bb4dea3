//! PodDisruptionBudgets and the NetworkPolicy. Names and contents are those of the guide's own examples, so that
//! applying the guide's YAML changes nothing that the operator would have to put back.

use std::collections::BTreeMap;

use k8s_openapi::api::networking::v1::{
    NetworkPolicy, NetworkPolicyIngressRule, NetworkPolicyPeer, NetworkPolicyPort, NetworkPolicySpec,
};
use k8s_openapi::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::{Component, Objects, PORT, RenderError, named};
use crate::desired::config::StackConfig;
use crate::object_id::Kind;

pub(super) fn render(config: &StackConfig, objects: &mut Objects) -> Result<(), RenderError> {
    if let Some(kept) = config.controller_min_available {
        add_budget(config, objects, Component::Controller, kept)?;
    }
    if let Some(kept) = config.speaker_min_available {
        add_budget(config, objects, Component::Speaker, kept)?;
    }
    if config.network_policy {
        let component = Component::Controller;
        objects.add(
            Kind::NetworkPolicy,
            Some(component),
            &controller_policy(&config.namespace, config.metrics_from.as_ref()),
        )?;
    }
    Ok(())
}

fn add_budget(
    config: &StackConfig,
    objects: &mut Objects,
    component: Component,
    kept: i32,
) -> Result<(), RenderError> {
    let selector = BTreeMap::from([("component".to_owned(), component.name().to_owned())]);
    let budget = PodDisruptionBudget {
        metadata: named(&config.namespace, format!("metallb-{}", component.name())),
        spec: Some(PodDisruptionBudgetSpec {
            // An integer: a DaemonSet has no scale that a percentage or maxUnavailable could be taken from.
            min_available: Some(IntOrString::Int(kept)),
            selector: Some(LabelSelector {
                match_labels: Some(selector),
                ..LabelSelector::default()
            }),
            // A pod that does not run anyway must not hold up a drain.
            unhealthy_pod_eviction_policy: Some("AlwaysAllow".to_owned()),
            ..PodDisruptionBudgetSpec::default()
        }),
        ..PodDisruptionBudget::default()
    };
    objects.add(Kind::PodDisruptionBudget, Some(component), &budget)
}

/// Metrics and probes from inside the cluster, or from those named, and nothing else. The speaker uses the host's network,
/// which no NetworkPolicy governs, so that it has none.
fn controller_policy(namespace: &str, from: Option<&Vec<NetworkPolicyPeer>>) -> NetworkPolicy {
    let everybody = || {
        vec![NetworkPolicyPeer {
            namespace_selector: Some(LabelSelector::default()),
            ..NetworkPolicyPeer::default()
        }]
    };
    NetworkPolicy {
        metadata: named(namespace, "metallb-controller"),
        spec: Some(NetworkPolicySpec {
            pod_selector: Some(Component::Controller.selector()),
            policy_types: Some(vec!["Ingress".to_owned()]),
            ingress: Some(vec![NetworkPolicyIngressRule {
                from: Some(from.cloned().unwrap_or_else(everybody)),
                ports: Some(vec![NetworkPolicyPort {
                    protocol: Some("TCP".to_owned()),
                    port: Some(IntOrString::Int(PORT)),
                    ..NetworkPolicyPort::default()
                }]),
            }]),
            ..NetworkPolicySpec::default()
        }),
    }
}
