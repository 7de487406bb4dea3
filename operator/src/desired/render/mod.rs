//! Renders the objects of a stack from its configuration. Pure and deterministic.
//!
//! Every object has labels by which the operator finds it and a digest of its desired fields. All but those that hold
//! user data have an owner reference to the stack. Names and selectors are API: Kubernetes does not permit changes of
//! selectors, and users of MetalLB know the names.

mod controller;
mod crds;
mod monitoring;
mod namespace;
mod network_policy;
mod pdb;
mod pod;
pub mod pre_pull;
pub mod rbac;
mod speaker;

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use lb_crds::names;
use serde::Serialize;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use crate::desired::config::{StackConfig, StackOwner};
use crate::object_id::{Kind, ObjectId};

/// Label by which the operator finds its objects.
pub const MANAGED_BY: &str = "app.kubernetes.io/managed-by";
/// Value of [`MANAGED_BY`], and the field manager.
pub const MANAGER: &str = names::REPORTER_OPERATOR;
/// Annotation with the digest of the last applied configuration: it tells a changed configuration from drift.
pub const APPLIED: &str = "lb-operator.io/applied";
/// Label of a pod and its template: a digest of the template.
pub const REVISION: &str = "lb-operator.io/revision";
/// Port of metrics and probes of both components.
pub(crate) const PORT: i32 = names::MONITORING_PORT as i32;
/// Name of that port, as in the guide's ServiceMonitor.
pub(crate) const PORT_NAME: &str = names::MONITORING_PORT_NAME;

/// A desired object, with exactly the fields that the operator owns.
#[derive(Clone, Debug, PartialEq)]
pub struct DesiredObject {
    /// ID.
    pub id: ObjectId,
    /// The fields to apply.
    pub body: Value,
    /// Digest of the body, also in its annotation [`APPLIED`].
    pub digest: String,
}

/// An object was not serialized to JSON.
#[derive(Debug, thiserror::Error)]
#[error("render {id}")]
pub struct RenderError {
    id: ObjectId,
    #[source]
    source: serde_json::Error,
}

/// The desired objects, in order of application.
///
/// # Errors
/// If an object cannot be serialized, which no configuration causes.
pub fn render(config: &StackConfig) -> Result<Vec<DesiredObject>, RenderError> {
    let mut objects = Objects {
        owner: &config.owner,
        version: &config.version,
        wanted: Vec::new(),
    };
    namespace::render(config, &mut objects)?;
    if config.crds {
        crds::render(&mut objects)?;
    }
    rbac::render(config, &mut objects)?;
    network_policy::render(config, &mut objects)?;
    pdb::render(config, &mut objects)?;
    controller::render(config, &mut objects)?;
    speaker::render(config, &mut objects)?;
    monitoring::render(config, &mut objects)?;
    objects.wanted.sort_by(|a, b| a.id.cmp(&b.id));
    Ok(objects.wanted)
}

/// A component of the data plane.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Component {
    /// Assigns addresses.
    Controller,
    /// Announces addresses.
    Speaker,
}

impl Component {
    /// Name of its workload, ServiceAccount and container, and value of the label `component`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Controller => names::CONTROLLER,
            Self::Speaker => names::SPEAKER,
        }
    }

    /// Labels in the selector of its workload, which is immutable.
    pub(crate) fn selector_labels(self) -> BTreeMap<String, String> {
        BTreeMap::from([
            (names::LABEL_APP.to_owned(), names::APP.to_owned()),
            (names::LABEL_COMPONENT.to_owned(), self.name().to_owned()),
        ])
    }

    pub(crate) fn selector(self) -> LabelSelector {
        LabelSelector {
            match_labels: Some(self.selector_labels()),
            ..LabelSelector::default()
        }
    }

    /// Labels of its objects.
    pub(crate) fn labels(self, version: &str) -> BTreeMap<String, String> {
        let mut labels = self.selector_labels();
        labels.extend(common_labels(version));
        labels.insert("app.kubernetes.io/component".to_owned(), self.name().to_owned());
        labels
    }
}

/// A version as the value of a label, which has no plus sign and at most 63 characters.
#[must_use]
pub fn version_label(version: &str) -> String {
    let label: String = version.replace('+', "_").chars().take(63).collect();
    label.trim_end_matches(['.', '_', '-']).to_owned()
}

/// Labels of all objects of a stack.
pub(crate) fn common_labels(version: &str) -> BTreeMap<String, String> {
    [
        ("app.kubernetes.io/name", names::APP),
        ("app.kubernetes.io/part-of", MANAGER),
        ("app.kubernetes.io/version", &version_label(version)),
        (MANAGED_BY, MANAGER),
    ]
    .into_iter()
    .map(|(key, value)| (key.to_owned(), value.to_owned()))
    .collect()
}

/// Collects objects and adds their common metadata.
pub(crate) struct Objects<'a> {
    owner: &'a StackOwner,
    version: &'a str,
    wanted: Vec<DesiredObject>,
}

impl Objects<'_> {
    /// Adds an object; `component` is `None` for objects of both components.
    fn add(
        &mut self,
        kind: Kind,
        component: Option<Component>,
        object: &(impl Serialize + kube::Resource),
    ) -> Result<(), RenderError> {
        let meta = object.meta();
        let id = ObjectId::new(
            kind,
            meta.namespace.as_deref().unwrap_or_default(),
            meta.name.as_deref().unwrap_or_default(),
        );
        match serde_json::to_value(object) {
            Ok(body) => self.add_json(id, component, body),
            Err(source) => return Err(RenderError { id, source }),
        }
        Ok(())
    }

    fn add_json(&mut self, id: ObjectId, component: Option<Component>, mut body: Value) {
        let (group, version, kind, _) = id.kind.names();
        let api_version = if group.is_empty() {
            version.to_owned()
        } else {
            format!("{group}/{version}")
        };
        // The status is not the operator's to write, not even an empty one.
        if let Some(body) = body.as_object_mut() {
            body.remove("status");
        }
        if matches!(id.kind, Kind::Deployment | Kind::DaemonSet) {
            stamp(&mut body["spec"]["template"]);
        }
        body["apiVersion"] = json!(api_version);
        body["kind"] = json!(kind);
        let labels = component.map_or_else(
            || common_labels(self.version),
            |component| component.labels(self.version),
        );
        let metadata = &mut body["metadata"];
        merge(&mut metadata["labels"], labels);
        if id.kind.is_deleted_with_stack() {
            metadata["ownerReferences"] = json!([{
                "apiVersion": "lb-operator.io/v1alpha1",
                "kind": "LoadBalancerStack",
                "name": self.owner.name,
                "uid": self.owner.uid,
                "controller": true,
                // `kubectl delete --cascade=foreground` waits for the speakers.
                "blockOwnerDeletion": true,
            }]);
        }
        self.wanted.push(DesiredObject::seal(id, body));
    }
}

impl DesiredObject {
    /// An object with the digest of its body in its annotations.
    pub(crate) fn seal(id: ObjectId, mut body: Value) -> Self {
        if let Some(annotations) = body
            .pointer_mut("/metadata/annotations")
            .and_then(Value::as_object_mut)
        {
            annotations.remove(APPLIED);
            if annotations.is_empty()
                && let Some(metadata) = body["metadata"].as_object_mut()
            {
                metadata.remove("annotations");
            }
        }
        let digest = digest(&body);
        merge(
            &mut body["metadata"]["annotations"],
            BTreeMap::from([(APPLIED.to_owned(), digest.clone())]),
        );
        Self { id, body, digest }
    }
}

/// Adds a label with a digest of the template, unless it has one.
fn stamp(template: &mut Value) {
    if template
        .pointer("/metadata/labels")
        .and_then(|labels| labels.get(REVISION))
        .is_none()
    {
        let digest = digest(template);
        merge(
            &mut template["metadata"]["labels"],
            BTreeMap::from([(REVISION.to_owned(), digest)]),
        );
    }
}

fn merge(target: &mut Value, entries: BTreeMap<String, String>) {
    if !target.is_object() {
        *target = Value::Object(Map::new());
    }
    for (key, value) in entries {
        target[key] = Value::String(value);
    }
}

/// A short digest of JSON.
pub(crate) fn digest(value: &Value) -> String {
    let hash = Sha256::digest(value.to_string());
    hash.iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

/// Metadata with name and namespace.
pub(crate) fn named(namespace: &str, name: impl Into<String>) -> ObjectMeta {
    ObjectMeta {
        namespace: (!namespace.is_empty()).then(|| namespace.to_owned()),
        name: Some(name.into()),
        ..ObjectMeta::default()
    }
}
