//! From a config to the objects that are to exist. Pure: the same config gives the same objects.
//!
//! Every object gets labels that the operator finds it by, a digest of what was wanted of it, and, unless users' data
//! depends on it, an owner reference to the stack. Names and selectors are API: the workloads' selectors cannot be
//! changed once they exist, and the names are those that users of MetalLB know.

mod controller;
mod crds;
mod monitoring;
mod namespace;
mod pod;
mod policy;
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

/// Label by which the operator finds its own objects.
pub const MANAGED_BY: &str = "app.kubernetes.io/managed-by";
/// Its value; also the name of the field manager.
pub const MANAGER: &str = names::REPORTER_OPERATOR;
/// Annotation that holds a digest of what was last wanted of an object: it tells a wish that changed from drift.
pub const APPLIED: &str = "lb-operator.io/applied";
/// Label of a pod, and of the template that it was made of: a digest of the template.
pub const REVISION: &str = "lb-operator.io/revision";
/// Port of metrics and probes of both programs.
pub(crate) const PORT: i32 = names::MONITORING_PORT as i32;
/// Name of that port, as the guide's ServiceMonitor asks for it.
pub(crate) const PORT_NAME: &str = names::MONITORING_PORT_NAME;

/// An object that is to exist: exactly the fields that the operator owns.
#[derive(Clone, Debug, PartialEq)]
pub struct Wanted {
    /// Which object.
    pub id: ObjectId,
    /// What to apply.
    pub body: Value,
    /// Digest of it, also found in its annotation [`APPLIED`].
    pub digest: String,
}

/// An object could not be turned into JSON.
#[derive(Debug, thiserror::Error)]
#[error("render {id}")]
pub struct RenderError {
    id: ObjectId,
    #[source]
    source: serde_json::Error,
}

/// The objects that a config stands for, in the order in which they are to be applied.
///
/// # Errors
/// When an object cannot be expressed as JSON, which no config brings about.
pub fn render(config: &StackConfig) -> Result<Vec<Wanted>, RenderError> {
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
    policy::render(config, &mut objects)?;
    controller::render(config, &mut objects)?;
    speaker::render(config, &mut objects)?;
    monitoring::render(config, &mut objects)?;
    objects.wanted.sort_by(|a, b| a.id.cmp(&b.id));
    Ok(objects.wanted)
}

/// The two programs of the data plane.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Component {
    /// Assigns addresses.
    Controller,
    /// Announces them.
    Speaker,
}

impl Component {
    /// Its name: of its workload, its ServiceAccount, its container and the label `component`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Controller => names::CONTROLLER,
            Self::Speaker => names::SPEAKER,
        }
    }

    /// The labels that its workload selects pods by. Kubernetes refuses to change them: they are the same for ever.
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

/// Labels of every object of a stack.
pub(crate) fn common_labels(version: &str) -> BTreeMap<String, String> {
    [
        ("app.kubernetes.io/name", names::APP),
        ("app.kubernetes.io/part-of", MANAGER),
        ("app.kubernetes.io/version", version),
        (MANAGED_BY, MANAGER),
    ]
    .into_iter()
    .map(|(key, value)| (key.to_owned(), value.to_owned()))
    .collect()
}

/// Collects objects and gives each what all have in common.
pub(crate) struct Objects<'a> {
    owner: &'a StackOwner,
    version: &'a str,
    wanted: Vec<Wanted>,
}

impl Objects<'_> {
    /// Adds an object. `component` is the options that it belongs to, if it belongs to one.
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
        // A status, even an empty one, is not the operator's to write.
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
        if id.kind.goes_with_the_stack() {
            metadata["ownerReferences"] = json!([{
                "apiVersion": "lb-operator.io/v1alpha1",
                "kind": "LoadBalancerStack",
                "name": self.owner.name,
                "uid": self.owner.uid,
                "controller": true,
                // So that `kubectl delete --cascade=foreground` waits for the speakers.
                "blockOwnerDeletion": true,
            }]);
        }
        self.wanted.push(Wanted::seal(id, body));
    }
}

impl Wanted {
    /// An object to apply, with the digest of it among its annotations.
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

/// Gives a template a label with a digest of it, unless it has one: any change of the template gives its pods another.
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

/// Metadata with a name in a namespace.
pub(crate) fn named(namespace: &str, name: impl Into<String>) -> ObjectMeta {
    ObjectMeta {
        namespace: (!namespace.is_empty()).then(|| namespace.to_owned()),
        name: Some(name.into()),
        ..ObjectMeta::default()
    }
}
