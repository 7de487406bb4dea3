//! Writes of an adoption. Workloads and pods are deleted by uid; restored objects are applied under a separate field
//! manager, so that their former manager keeps its own fields.

use futures::future::try_join_all;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use kube::api::{Api, DeleteParams, DynamicObject, Patch, PatchParams, Preconditions, PropagationPolicy};
use lb_crds::L2Advertisement;
use lb_crds::l2_advertisement::pause;
use lb_crds::names::LABEL_COMPONENT;
use serde_json::{Value, json};

use super::{WriteError, Writer, in_time};
use crate::adoption::observe::{WEBHOOK, advertisements, is_strict, observe_metallb, webhook_configurations};
use crate::adoption::{MetalLb, MetalLbPod, ORPHANED_POD_LABEL, backup};
use crate::desired::render::{MANAGED_BY, MANAGER};
use crate::index::LiveObject;
use crate::object_id::{Kind, ObjectId};
use crate::ownership;
use crate::preflight::{LoadBalancerProduct, detect};

/// Field manager of restored objects.
const RESTORER: &str = "lb-operator-adoption";
/// Annotation of the webhook configuration: names of the webhooks whose failurePolicy was set to Ignore.
const RELAXED: &str = "lb-operator.io/relaxed";

fn fails(what: impl Into<String>) -> impl FnOnce(kube::Error) -> WriteError {
    let what = what.into();
    move |source| WriteError::Adoption {
        what,
        source: Box::new(source),
    }
}

fn params() -> PatchParams {
    PatchParams {
        field_manager: Some(RESTORER.to_owned()),
        ..PatchParams::default()
    }
}

impl Writer {
    /// Reads the state of MetalLB.
    ///
    /// # Errors
    /// If the API server refuses or does not answer.
    pub async fn observe_metallb(
        &self,
        namespace: &str,
        class: Option<&str>,
        whole: bool,
    ) -> Result<MetalLb, WriteError> {
        let found = observe_metallb(&self.client, namespace, class, whole).await;
        found.map_err(fails("read the state of MetalLB"))
    }

    /// Those of the objects that exist and belong to MetalLB.
    ///
    /// # Errors
    /// If the API server refuses or does not answer.
    pub async fn metallb_objects(&self, ids: &[ObjectId]) -> Result<Vec<(ObjectId, Value)>, WriteError> {
        let mut others = Vec::new();
        for id in ids {
            let what = || format!("read {id}");
            let answer = in_time(what, self.api(id).get_opt(id.key.name())).await?;
            let Some(object) = answer.map_err(fails(what()))? else {
                continue;
            };
            let is_metallbs =
                detect::product(&object.name_any(), object.labels()) == Some(LoadBalancerProduct::MetalLb);
            if is_metallbs && !ownership::is_ours(&object.metadata) {
                let body = serde_json::to_value(&object).map_err(kube::Error::SerdeError);
                others.push((id.clone(), body.map_err(fails(what()))?));
            }
        }
        Ok(others)
    }

    /// Creates the backup and returns the stored object.
    ///
    /// # Errors
    /// If the API server refuses or does not answer.
    pub async fn create_backup(&self, id: &ObjectId, body: &Value) -> Result<LiveObject, WriteError> {
        let what = || format!("write {id}");
        let params = PatchParams::apply(RESTORER);
        let api = self.api(id);
        let answer = in_time(what, api.patch(id.key.name(), &params, &Patch::Apply(body))).await?;
        let stored = answer.map_err(fails(what()))?;
        Ok(LiveObject::new(id.kind, stored))
    }

    /// Deletes a DaemonSet and orphans its pods.
    ///
    /// # Errors
    /// If the API server refuses or does not answer.
    pub async fn orphan_daemonset(&self, id: &ObjectId, uid: &str) -> Result<(), WriteError> {
        let params = DeleteParams {
            propagation_policy: Some(PropagationPolicy::Orphan),
            preconditions: Some(Preconditions {
                uid: Some(uid.to_owned()),
                resource_version: None,
            }),
            ..DeleteParams::default()
        };
        let what = || format!("delete {id} and orphan its pods");
        match in_time(what, self.api(id).delete(id.key.name(), &params)).await? {
            Ok(_) => Ok(()),
            Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => Ok(()),
            Err(source) => Err(fails(what())(source)),
        }
    }

    /// Moves the label `component` of an orphaned pod to [`ORPHANED_POD_LABEL`], so that the stack's DaemonSet does not
    /// adopt the pod, or moves it back.
    ///
    /// # Errors
    /// If the API server refuses or does not answer.
    pub async fn label_pod(&self, namespace: &str, pod: &MetalLbPod) -> Result<(), WriteError> {
        let labels = match &pod.orphaned_component {
            None => json!({
                LABEL_COMPONENT: null,
                ORPHANED_POD_LABEL: pod.component.clone().unwrap_or_default(),
            }),
            Some(component) if component.is_empty() => json!({ ORPHANED_POD_LABEL: null }),
            Some(component) => json!({ LABEL_COMPONENT: component, ORPHANED_POD_LABEL: null }),
        };
        // The uid is a precondition: a patch that would change it is refused.
        let patch = Patch::Merge(json!({ "metadata": { "uid": pod.uid, "labels": labels } }));
        let api: Api<Pod> = Api::namespaced(self.client.clone(), namespace);
        let what = || format!("label pod {namespace}/{}", pod.name);
        let params = params();
        match in_time(what, api.patch(&pod.name, &params, &patch)).await? {
            Ok(_) => Ok(()),
            Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => Ok(()),
            Err(source) => Err(fails(what())(source)),
        }
    }

    /// Pauses MetalLB's speakers, or resumes them.
    ///
    /// # Errors
    /// If the API server refuses or does not answer.
    pub async fn withdraw_speakers(&self, namespace: &str, withdrawn: bool) -> Result<(), WriteError> {
        let what = || format!("change nodeSelectors of the L2Advertisements in {namespace}");
        let all = in_time(what, advertisements(&self.client, namespace)).await?;
        let api: Api<L2Advertisement> = Api::namespaced(self.client.clone(), namespace);
        for object in all.map_err(fails(what()))? {
            let patch = match withdrawn {
                true if !pause::is_paused(&object) => pause::pause(&object),
                false if pause::needs_resume(&object) => pause::resume(&object),
                true | false => continue,
            };
            let (name, params, patch) = (object.name_any(), params(), Patch::Merge(patch));
            match in_time(what, api.patch(&name, &params, &patch)).await? {
                Ok(_) => {}
                // It was changed or deleted: it is read again.
                Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => {}
                Err(source) => return Err(fails(what())(source)),
            }
        }
        Ok(())
    }

    /// Whether an L2Advertisement is paused, or has an annotation left from it.
    ///
    /// # Errors
    /// If the API server refuses or does not answer.
    pub async fn is_withdrawn(&self, namespace: &str) -> Result<bool, WriteError> {
        let what = || format!("list the L2Advertisements in {namespace}");
        let all = in_time(what, advertisements(&self.client, namespace)).await?;
        Ok(all.map_err(fails(what()))?.iter().any(pause::needs_resume))
    }

    /// Deletes MetalLB's speaker pods.
    ///
    /// # Errors
    /// If the API server refuses or does not answer.
    pub async fn delete_speakers(&self, namespace: &str, pods: &[MetalLbPod]) -> Result<(), WriteError> {
        let api: Api<Pod> = Api::namespaced(self.client.clone(), namespace);
        let what = || "delete MetalLB's speakers".to_owned();
        let all = pods.iter().map(|pod| {
            let params = DeleteParams::default().preconditions(Preconditions {
                uid: Some(pod.uid.clone()),
                resource_version: None,
            });
            let api = api.clone();
            async move {
                match api.delete(&pod.name, &params).await {
                    Ok(_) => Ok(()),
                    Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => Ok(()),
                    Err(source) => Err(source),
                }
            }
        });
        in_time(what, try_join_all(all)).await?.map_err(fails(what()))?;
        Ok(())
    }

    /// Sets the webhook's failurePolicy to Ignore while no controller answers it, or back to Fail.
    ///
    /// # Errors
    /// If the API server refuses or does not answer.
    pub async fn relax_webhook(&self, namespace: &str, relaxed: bool) -> Result<(), WriteError> {
        let what = || format!("set failurePolicy in ValidatingWebhookConfiguration {WEBHOOK}");
        let api: Api<DynamicObject> = Api::all_with(self.client.clone(), &webhook_configurations());
        let answer = in_time(what, api.get_opt(WEBHOOK)).await?;
        let Some(object) = answer.map_err(fails(what()))? else {
            return Ok(());
        };
        let strict = relaxed && is_strict(&object.data, namespace);
        let before = object.annotations().get(RELAXED).cloned();
        if !strict && (relaxed || before.is_none()) {
            return Ok(());
        }
        let mut list = object.data["webhooks"].clone();
        let mut names: Vec<_> = before
            .iter()
            .flat_map(|names| names.split(','))
            .map(str::to_owned)
            .collect();
        for webhook in list.as_array_mut().into_iter().flatten() {
            let name = webhook["name"].as_str().unwrap_or_default().to_owned();
            if relaxed && webhook["failurePolicy"] == "Fail" {
                webhook["failurePolicy"] = json!("Ignore");
                names.push(name);
            } else if !relaxed && names.contains(&name) {
                webhook["failurePolicy"] = json!("Fail");
            }
        }
        let mark = if relaxed {
            json!(names.join(","))
        } else {
            Value::Null
        };
        let patch = Patch::Merge(json!({
            "metadata": { "resourceVersion": object.resource_version(), "annotations": { RELAXED: mark } },
            "webhooks": list,
        }));
        let params = params();
        match in_time(what, api.patch(WEBHOOK, &params, &patch)).await? {
            Ok(_) => Ok(()),
            // Its certificate was renewed, or it is gone: it is read again.
            Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => Ok(()),
            Err(source) => Err(fails(what())(source)),
        }
    }

    /// Objects of the backup that are missing or overwritten.
    ///
    /// # Errors
    /// If the API server refuses or does not answer.
    pub async fn missing_objects(
        &self,
        record: &backup::Backup,
    ) -> Result<Vec<(ObjectId, MissingObject)>, WriteError> {
        let mut missing = Vec::new();
        for (id, _) in record.objects() {
            let what = || format!("read {id}");
            let answer = in_time(what, self.api(id).get_opt(id.key.name())).await?;
            match answer.map_err(fails(what()))? {
                None => missing.push((id.clone(), MissingObject::Absent)),
                Some(object) if object.metadata.deletion_timestamp.is_some() => {
                    missing.push((id.clone(), MissingObject::Terminating));
                }
                Some(object) if object.labels().get(MANAGED_BY).map(String::as_str) == Some(MANAGER) => {
                    missing.push((id.clone(), MissingObject::Overwritten(json!(object.labels()))));
                }
                Some(object) if !has_ready_pod(id, &object) => {
                    missing.push((id.clone(), MissingObject::NotReady));
                }
                // It was never away, or somebody else has made it again.
                Some(_) => {}
            }
        }
        Ok(missing)
    }

    /// ServiceAccounts that pods of the backup need, and that neither exist nor are in the backup.
    ///
    /// # Errors
    /// If the API server refuses or does not answer.
    pub async fn missing_accounts(&self, record: &backup::Backup) -> Result<Vec<ObjectId>, WriteError> {
        let mut missing = Vec::new();
        for id in record.service_accounts() {
            let what = || format!("read {id}");
            let answer = in_time(what, self.api(&id).get_opt(id.key.name())).await?;
            if answer.map_err(fails(what()))?.is_none() {
                missing.push(id);
            }
        }
        Ok(missing)
    }

    /// Restores an object of the backup. `ours`: the labels of the stack's object that overwrote it.
    ///
    /// # Errors
    /// If the API server refuses or does not answer.
    pub async fn restore_object(
        &self,
        id: &ObjectId,
        body: &Value,
        ours: Option<&Value>,
    ) -> Result<(), WriteError> {
        let what = || format!("restore {id}");
        let api = self.api(id);
        let answer = match ours {
            None => {
                let params = PatchParams::apply(RESTORER).force();
                in_time(what, api.patch(id.key.name(), &params, &Patch::Apply(body))).await?
            }
            Some(labels) => {
                let patch = Patch::Merge(backup::restore_patch(body, labels));
                let params = params();
                in_time(what, api.patch(id.key.name(), &params, &patch)).await?
            }
        };
        answer.map(drop).map_err(fails(what()))
    }

    /// Deletes the backup: MetalLB can no longer be restored.
    ///
    /// # Errors
    /// If the API server refuses or does not answer.
    pub async fn delete_backup(&self, namespace: &str) -> Result<(), WriteError> {
        let id = backup::Backup::id(namespace);
        let what = || format!("delete {id}");
        match in_time(
            what,
            self.api(&id).delete(id.key.name(), &DeleteParams::default()),
        )
        .await?
        {
            Ok(_) => Ok(()),
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
            Err(source) => Err(fails(what())(source)),
        }
    }
}

/// Whether a workload runs, or is not meant to. `true` for other kinds.
fn has_ready_pod(id: &ObjectId, object: &DynamicObject) -> bool {
    let body = &object.data;
    let (desired, ready) = match id.kind {
        Kind::Deployment => (&body["spec"]["replicas"], &body["status"]["readyReplicas"]),
        Kind::DaemonSet => (
            &body["status"]["desiredNumberScheduled"],
            &body["status"]["numberReady"],
        ),
        _ => return true,
    };
    let observed = body["status"]["observedGeneration"].as_i64();
    observed.is_some_and(|observed| Some(observed) >= object.metadata.generation)
        && (desired.as_i64() == Some(0) || ready.as_i64().is_some_and(|ready| ready > 0))
}

/// How an object differs from the backup.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum MissingObject {
    /// It does not exist.
    Absent,
    /// It is being deleted.
    Terminating,
    /// It is a workload without a ready pod.
    NotReady,
    /// The stack has overwritten it; its present labels.
    Overwritten(Value),
}

/// Whether MetalLB may have an object of this name that the stack overwrites: workloads are saved separately, and some
/// kinds exist only in a stack.
#[must_use]
pub fn may_be_overlaid(id: &ObjectId) -> bool {
    id.kind.is_deleted_with_stack()
        && !matches!(
            id.kind,
            Kind::Deployment | Kind::DaemonSet | Kind::Secret | Kind::ControllerRevision
        )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn workload_is_restored_when_a_pod_of_its_present_generation_is_ready() {
        let object = |observed: i64, ready: i64| -> DynamicObject {
            serde_json::from_value(json!({
                "metadata": {"name": "speaker", "generation": 2},
                "status": {"observedGeneration": observed, "desiredNumberScheduled": 3, "numberReady": ready},
            }))
            .unwrap()
        };
        let id = ObjectId::new(Kind::DaemonSet, "metallb-system", "speaker");
        for (observed, ready, expected) in [(2, 1, true), (2, 0, false), (1, 3, false)] {
            assert_eq!(has_ready_pod(&id, &object(observed, ready)), expected);
        }
    }
}
