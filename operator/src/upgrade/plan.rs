//! The plan of an upgrade, `status.plan`, which a person approves. Pure.

use lb_crds::load_balancer_stack::{PlanStatus, PlannedChange};
use lb_runtime::text::list_first_clauses;
use serde_json::Value;

use crate::desired::render::{Component, DesiredObject};
use crate::index::Index;
use crate::object_id::{Kind, ObjectId};
use crate::observe::workload_health::StackHealth;
use crate::upgrade::UpgradeSettings;

/// Fields that are named for each object.
const LISTED_FIELDS: usize = 5;

/// The plan for a rollout of `rendered`.
#[must_use]
pub fn upgrade_plan(
    hash: String,
    version: &str,
    rendered: &[DesiredObject],
    index: &Index,
    health: &StackHealth,
    settings: &UpgradeSettings,
) -> PlanStatus {
    let mut changes = Vec::new();
    for (kind, component) in [
        (Kind::Deployment, Component::Controller),
        (Kind::DaemonSet, Component::Speaker),
    ] {
        let Some(wanted) = rendered
            .iter()
            .find(|wanted| wanted.id.kind == kind && wanted.id.key.name() == component.name())
        else {
            continue;
        };
        let id = ObjectId::new(kind, wanted.id.key.namespace(), component.name());
        let live = index.get(&id).map_or(&Value::Null, |live| &live.body);
        let mut paths = Vec::new();
        differences(
            "",
            &wanted.body["spec"]["template"],
            &live["spec"]["template"],
            &mut paths,
        );
        if paths.is_empty() {
            continue;
        }
        let impact = match component {
            Component::Controller => format!(
                "{} controllers are replaced one by one; a standby takes over; no address changes",
                health.controller.desired
            ),
            Component::Speaker => format!(
                "{} speakers restart, at most {} at a time; nodes keep their addresses, connections continue",
                health.speaker.desired, settings.max_unavailable
            ),
        };
        let change = list_first_clauses(&paths, LISTED_FIELDS);
        changes.push(PlannedChange {
            object: id.to_string(),
            change,
            impact,
        });
    }
    let steps = [
        "pull the images on all speaker nodes".to_owned(),
        "apply the metallb.io CRDs and add RBAC rules required by the new version".to_owned(),
        "replace the controllers".to_owned(),
        format!(
            "replace one speaker and observe it for {} s",
            settings.soak_seconds
        ),
        format!(
            "replace the other speakers, {} at a time",
            settings.max_unavailable
        ),
        "verify all speakers, then remove temporary RBAC rules".to_owned(),
    ];
    PlanStatus {
        hash,
        version: version.to_owned(),
        changes,
        steps: steps.to_vec(),
    }
}

/// Collects the fields that differ, with current and desired value.
fn differences(path: &str, wanted: &Value, live: &Value, found: &mut Vec<String>) {
    match (wanted, live) {
        (Value::Object(fields), Value::Object(others)) => {
            for (name, field) in fields {
                let path = if path.is_empty() {
                    name.clone()
                } else {
                    format!("{path}.{name}")
                };
                differences(&path, field, others.get(name).unwrap_or(&Value::Null), found);
            }
        }
        (Value::Array(entries), Value::Array(others)) => {
            for (index, entry) in entries.iter().enumerate() {
                let name = entry["name"].as_str();
                let other = match name {
                    Some(_) => others.iter().find(|other| other["name"].as_str() == name),
                    None => others.get(index),
                };
                let label = name.map_or_else(|| index.to_string(), str::to_owned);
                differences(
                    &format!("{path}[{label}]"),
                    entry,
                    other.unwrap_or(&Value::Null),
                    found,
                );
            }
        }
        (wanted, live) if wanted != live => {
            let word = |value: &Value| match value {
                Value::String(text) => text.clone(),
                Value::Null => "unset".to_owned(),
                other => other.to_string(),
            };
            found.push(format!("{path}: {} changes to {}", word(live), word(wanted)));
        }
        _ => {}
    }
}
