//! NetworkPolicy of the controllers, with the name and content of the guide's example, so that applying the guide's
//! YAML is no drift. No NetworkPolicy governs the speakers, which use the host network.

use k8s_openapi::api::networking::v1::{
    NetworkPolicy, NetworkPolicyIngressRule, NetworkPolicyPeer, NetworkPolicyPort, NetworkPolicySpec,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::{Component, Objects, PORT, RenderError, named};
use crate::desired::config::StackConfig;
use crate::object_id::Kind;

pub(super) fn render(config: &StackConfig, objects: &mut Objects) -> Result<(), RenderError> {
    if !config.network_policy {
        return Ok(());
    }
    let policy = controller_policy(&config.namespace, config.metrics_from.as_ref());
    objects.add(Kind::NetworkPolicy, Some(Component::Controller), &policy)
}

/// Permits metrics and probes from the cluster, or from `from`, and nothing else.
fn controller_policy(namespace: &str, from: Option<&Vec<NetworkPolicyPeer>>) -> NetworkPolicy {
    let all_pods = || {
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
                from: Some(from.cloned().unwrap_or_else(all_pods)),
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
