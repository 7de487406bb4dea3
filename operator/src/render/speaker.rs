//! The speaker: a DaemonSet on the host's network, with NET_RAW and no other privilege.

use k8s_openapi::api::apps::v1::{DaemonSet, DaemonSetSpec, DaemonSetUpdateStrategy, RollingUpdateDaemonSet};
use k8s_openapi::api::core::v1::{PodSecurityContext, Toleration};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::pod::{self, Program, env, env_from};
use super::{Component, Objects, RenderError, named};
use crate::object::Kind;
use crate::plan::Plan;

pub(super) fn render(plan: &Plan, objects: &mut Objects) -> Result<(), RenderError> {
    let component = Component::Speaker;
    let mut variables = vec![env_from("LB_NODE_NAME", "spec.nodeName")];
    if plan.ignore_exclude_label {
        variables.push(env("LB_IGNORE_EXCLUDE_LB", "true"));
    }
    // As arguments, because a regular expression may contain any separator that a variable could use.
    let args = plan
        .excluded_interfaces
        .iter()
        .flatten()
        .map(|pattern| format!("--exclude-interfaces={pattern}"))
        .collect();
    let program = Program {
        component,
        args,
        env: variables,
        capabilities: vec!["NET_RAW".to_owned()],
        priority_class: "system-node-critical",
    };
    let mut template = pod::template(plan, &plan.speaker, program);
    if let Some(spec) = &mut template.spec {
        spec.host_network = Some(true);
        spec.dns_policy = Some("ClusterFirstWithHostNet".to_owned());
        // Every taint, because Services have endpoints on tainted nodes too, and with externalTrafficPolicy Local only
        // the nodes of the endpoints can announce.
        spec.tolerations = Some(plan.speaker.tolerations.clone().unwrap_or_else(|| {
            vec![Toleration {
                operator: Some("Exists".to_owned()),
                ..Toleration::default()
            }]
        }));
        // Root, because an added capability reaches only root's processes; all other capabilities are dropped.
        spec.security_context = Some(PodSecurityContext {
            run_as_user: Some(0),
            run_as_group: Some(0),
            ..PodSecurityContext::default()
        });
    }
    let daemon_set = DaemonSet {
        metadata: named(&plan.namespace, component.name()),
        spec: Some(DaemonSetSpec {
            selector: component.selector(),
            template,
            update_strategy: Some(DaemonSetUpdateStrategy {
                type_: Some("RollingUpdate".to_owned()),
                rolling_update: Some(RollingUpdateDaemonSet {
                    max_unavailable: Some(IntOrString::Int(1)),
                    // Two speakers on one node would compete for the metrics port.
                    max_surge: Some(IntOrString::Int(0)),
                }),
            }),
            ..DaemonSetSpec::default()
        }),
        ..DaemonSet::default()
    };
    objects.add(Kind::DaemonSet, Some(component), &daemon_set)
}
