//! PodDisruptionBudgets, with the names and contents of the guide's examples, so that applying the guide's YAML is no
//! drift.

use std::collections::BTreeMap;

use k8s_openapi::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::{Component, Objects, RenderError, named};
use crate::desired::config::StackConfig;
use crate::object_id::Kind;

pub(super) fn render(config: &StackConfig, objects: &mut Objects) -> Result<(), RenderError> {
    if let Some(min_available) = config.controller_min_available {
        add_budget(config, objects, Component::Controller, min_available)?;
    }
    if let Some(min_available) = config.speaker_min_available {
        add_budget(config, objects, Component::Speaker, min_available)?;
    }
    Ok(())
}

fn add_budget(
    config: &StackConfig,
    objects: &mut Objects,
    component: Component,
    min_available: i32,
) -> Result<(), RenderError> {
    let selector = BTreeMap::from([("component".to_owned(), component.name().to_owned())]);
    let budget = PodDisruptionBudget {
        metadata: named(&config.namespace, format!("metallb-{}", component.name())),
        spec: Some(PodDisruptionBudgetSpec {
            // A DaemonSet has no scale subresource, which a percentage or maxUnavailable needs.
            min_available: Some(IntOrString::Int(min_available)),
            selector: Some(LabelSelector {
                match_labels: Some(selector),
                ..LabelSelector::default()
            }),
            // A pod that does not run must not block a drain.
            unhealthy_pod_eviction_policy: Some("AlwaysAllow".to_owned()),
            ..PodDisruptionBudgetSpec::default()
        }),
        ..PodDisruptionBudget::default()
    };
    objects.add(Kind::PodDisruptionBudget, Some(component), &budget)
}
