//! Deployment of the controllers: one replica leads, the others are on standby.

use k8s_openapi::api::apps::v1::{Deployment, DeploymentSpec, DeploymentStrategy, RollingUpdateDeployment};
use k8s_openapi::api::core::v1::{PodSecurityContext, Toleration, TopologySpreadConstraint};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::pod::{self, ContainerOptions};
use super::{Component, Objects, PORT, RenderError, named};
use crate::desired::config::StackConfig;
use crate::object_id::Kind;

/// The unprivileged user of the image.
const USER: i64 = 65532;

pub(super) fn render(config: &StackConfig, objects: &mut Objects) -> Result<(), RenderError> {
    let component = Component::Controller;
    let options = ContainerOptions {
        component,
        port: PORT,
        args: Vec::new(),
        env: Vec::new(),
        capabilities: Vec::new(),
        priority_class: "system-cluster-critical",
    };
    let mut template = pod::template(config, &config.controller, options);
    if let Some(spec) = &mut template.spec {
        spec.tolerations = Some(config.controller.tolerations.clone().unwrap_or_else(tolerations));
        spec.security_context = Some(PodSecurityContext {
            run_as_non_root: Some(true),
            run_as_user: Some(USER),
            run_as_group: Some(USER),
            ..PodSecurityContext::default()
        });
        spec.topology_spread_constraints = Some(vec![TopologySpreadConstraint {
            max_skew: 1,
            topology_key: "kubernetes.io/hostname".to_owned(),
            // Two replicas on one node are better than one replica.
            when_unsatisfiable: "ScheduleAnyway".to_owned(),
            label_selector: Some(component.selector()),
            ..TopologySpreadConstraint::default()
        }]);
    }
    let deployment = Deployment {
        metadata: named(&config.namespace, component.name()),
        spec: Some(DeploymentSpec {
            replicas: Some(config.controller_replicas),
            selector: component.selector(),
            strategy: Some(DeploymentStrategy {
                type_: Some("RollingUpdate".to_owned()),
                rolling_update: Some(RollingUpdateDeployment {
                    // A new replica is ready before an old one is deleted: there is always one that can lead.
                    max_surge: Some(IntOrString::Int(1)),
                    max_unavailable: Some(IntOrString::Int(0)),
                }),
            }),
            template,
            ..DeploymentSpec::default()
        }),
        ..Deployment::default()
    };
    objects.add(Kind::Deployment, Some(component), &deployment)
}

/// Control-plane nodes are tolerated. An unreachable node is left after 30 seconds instead of Kubernetes' default of
/// 300.
fn tolerations() -> Vec<Toleration> {
    let lost = ["not-ready", "unreachable"].map(|condition| Toleration {
        key: Some(format!("node.kubernetes.io/{condition}")),
        operator: Some("Exists".to_owned()),
        effect: Some("NoExecute".to_owned()),
        toleration_seconds: Some(30),
        ..Toleration::default()
    });
    let mut tolerations = pod::control_plane_tolerations();
    tolerations.extend(lost);
    tolerations
}
