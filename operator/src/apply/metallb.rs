//! Writes of an adoption. Workloads and pods are deleted by uid; restored objects are applied under a separate field
//! manager, so that their former manager keeps its own fields.

use kube::ResourceExt;
use kube::api::DynamicObject;
use lb_crds::L2Advertisement;
use lb_crds::l2_advertisement::pause;
use lb_crds::names::LABEL_COMPONENT;
use lb_runtime::ObjectKey;
use serde_json::{Value, json};

use super::write::{Request, Write, WriteId};
use crate::adoption::observe::is_strict;
use crate::adoption::{Backup, MetalLbPod, ORPHANED_POD_LABEL, backup};
use crate::object_id::ObjectId;
use crate::ownership::TakeOver;
use crate::upgrade::PodRestart;

/// Field manager of restored objects.
const RESTORER: &str = "lb-operator-adoption";
/// Annotation of the webhook configuration: names of the webhooks whose failurePolicy was set to Ignore.
const RELAXED: &str = "lb-operator.io/relaxed";

impl Write {
    /// Creates the backup of MetalLB.
    #[must_use]
    pub fn save_backup(namespace: &str, body: Value) -> Self {
        let id = WriteId::Apply(Backup::id(namespace));
        let mut write = Self::new(id, "", Request::Apply(body)).by(RESTORER);
        write.take_over = Some(TakeOver::default());
        write
    }

    /// Moves the label `component` of an orphaned pod to [`ORPHANED_POD_LABEL`], so that the stack's DaemonSet does not
    /// adopt the pod, or moves it back.
    #[must_use]
    pub fn label_pod(namespace: &str, pod: &MetalLbPod) -> Self {
        let labels = match &pod.orphaned_component {
            None => json!({
                LABEL_COMPONENT: null,
                ORPHANED_POD_LABEL: pod.component.clone().unwrap_or_default(),
            }),
            Some(component) if component.is_empty() => json!({ ORPHANED_POD_LABEL: null }),
            Some(component) => json!({ LABEL_COMPONENT: component, ORPHANED_POD_LABEL: null }),
        };
        // The uid is a precondition: a patch that would change it is refused.
        let request = Request::Merge(json!({ "metadata": { "uid": pod.uid, "labels": labels } }));
        let id = WriteId::LabelPod(ObjectKey::new(namespace, &pod.name));
        Self::new(id, &pod.uid, request).by(RESTORER)
    }

    /// Deletes a pod of MetalLB.
    #[must_use]
    pub fn delete_metallb_pod(namespace: &str, pod: &MetalLbPod) -> Self {
        let pod = PodRestart {
            name: pod.name.clone(),
            uid: pod.uid.clone(),
            node: pod.node.clone(),
        };
        Self::delete_pod(namespace, &pod)
    }

    /// Pauses MetalLB's speakers for an L2Advertisement, or resumes them; `None` if nothing has to change.
    #[must_use]
    pub fn pause(object: &L2Advertisement, paused: bool) -> Option<Self> {
        let patch = match paused {
            true if !pause::is_paused(object) => pause::pause(object),
            false if pause::needs_resume(object) => pause::resume(object),
            true | false => return None,
        };
        let id = WriteId::SelectNodes(ObjectKey::of(object));
        let version = object.resource_version().unwrap_or_default();
        Some(Self::new(id, version, Request::Merge(patch)).by(RESTORER))
    }

    /// Sets the webhook's failurePolicy to Ignore while no controller answers it, or back to Fail; `None` if nothing has
    /// to change.
    #[must_use]
    pub fn relax_webhook(object: &DynamicObject, namespace: &str, relaxed: bool) -> Option<Self> {
        let strict = relaxed && is_strict(&object.data, namespace);
        let before = object.annotations().get(RELAXED);
        if !strict && (relaxed || before.is_none()) {
            return None;
        }
        let mut list = object.data["webhooks"].clone();
        let names = before.iter().flat_map(|names| names.split(','));
        let mut names: Vec<_> = names.map(str::to_owned).collect();
        for webhook in list.as_array_mut().into_iter().flatten() {
            let name = webhook["name"].as_str().unwrap_or_default().to_owned();
            if relaxed && webhook["failurePolicy"] == "Fail" {
                webhook["failurePolicy"] = json!("Ignore");
                names.push(name);
            } else if !relaxed && names.contains(&name) {
                webhook["failurePolicy"] = json!("Fail");
            }
        }
        let mark = relaxed.then(|| names.join(","));
        // Its certificate may be renewed at the same time.
        let version = object.resource_version().unwrap_or_default();
        let request = Request::Merge(json!({
            "metadata": { "resourceVersion": version, "annotations": { RELAXED: mark } },
            "webhooks": list,
        }));
        Some(Self::new(WriteId::Webhook, version, request).by(RESTORER))
    }

    /// Restores an object of the backup. `ours`: the labels of the stack's object that overwrote it.
    #[must_use]
    pub fn restore(id: &ObjectId, body: &Value, ours: Option<&Value>) -> Self {
        let request = match ours {
            None => Request::Apply(body.clone()),
            Some(labels) => Request::Merge(backup::restore_patch(body, labels)),
        };
        Self::new(WriteId::Restore(id.clone()), "", request).by(RESTORER)
    }
}
