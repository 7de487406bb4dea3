//! The writes of an adoption. Workloads and pods are deleted by uid; what is put back is applied under a field manager of its
//! own, so that whoever kept it before finds its own fields.

use futures::future::try_join_all;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use kube::api::{Api, DeleteParams, DynamicObject, Patch, PatchParams, Preconditions, PropagationPolicy};
use lb_crds::L2Advertisement;
use lb_crds::l2_advertisement::pause;
use lb_crds::names::LABEL_COMPONENT;
use serde_json::{Value, json};

use super::{WriteError, Writer, in_time};
use crate::adoption::observe::{WEBHOOK, advertisements, is_strict, look, webhooks};
use crate::adoption::{Found, PARTED, Pod as Peer, backup};
use crate::desired::render::{MANAGED_BY, MANAGER};
use crate::index::Live;
use crate::object_id::{Kind, ObjectId};

/// Field manager of what is put back.
const RESTORER: &str = "lb-operator-adoption";
/// Annotation of the webhook's configuration: those of its webhooks whose failures were made none.
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
    /// Looks at MetalLB.
    ///
    /// # Errors
    /// When the API server refuses, or does not answer.
    pub async fn metallb(
        &self,
        namespace: &str,
        class: Option<&str>,
        whole: bool,
    ) -> Result<Found, WriteError> {
        let found = look(&self.client, namespace, class, whole).await;
        found.map_err(fails("look at MetalLB"))
    }

    /// Those of the objects that exist and are not the operator's.
    ///
    /// # Errors
    /// When the API server refuses, or does not answer.
    pub async fn others(&self, ids: &[ObjectId]) -> Result<Vec<(ObjectId, Value)>, WriteError> {
        let mut others = Vec::new();
        for id in ids {
            let what = || format!("look at {id}");
            let answer = in_time(what, self.api(id).get_opt(id.key.name())).await?;
            let Some(object) = answer.map_err(fails(what()))? else {
                continue;
            };
            if object.labels().get(MANAGED_BY).map(String::as_str) != Some(MANAGER) {
                let body = serde_json::to_value(&object).map_err(kube::Error::SerdeError);
                others.push((id.clone(), body.map_err(fails(what()))?));
            }
        }
        Ok(others)
    }

    /// Makes an object that is in nobody's way, and returns how it is stored.
    ///
    /// # Errors
    /// When the API server refuses, or does not answer.
    pub async fn keep(&self, id: &ObjectId, body: &Value) -> Result<Live, WriteError> {
        let what = || format!("write {id}");
        let params = PatchParams::apply(RESTORER);
        let api = self.api(id);
        let answer = in_time(what, api.patch(id.key.name(), &params, &Patch::Apply(body))).await?;
        let stored = answer.map_err(fails(what()))?;
        Ok(Live::new(id.kind, stored))
    }

    /// Deletes a DaemonSet, and leaves its pods.
    ///
    /// # Errors
    /// When the API server refuses, or does not answer.
    pub async fn part(&self, id: &ObjectId, uid: &str) -> Result<(), WriteError> {
        let params = DeleteParams {
            propagation_policy: Some(PropagationPolicy::Orphan),
            preconditions: Some(Preconditions {
                uid: Some(uid.to_owned()),
                resource_version: None,
            }),
            ..DeleteParams::default()
        };
        let what = || format!("delete {id} and leave its pods");
        match in_time(what, self.api(id).delete(id.key.name(), &params)).await? {
            Ok(_) => Ok(()),
            Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => Ok(()),
            Err(source) => Err(fails(what())(source)),
        }
    }

    /// Takes from a pod of MetalLB the label by which our DaemonSet would take it for its own, or gives it back.
    ///
    /// # Errors
    /// When the API server refuses, or does not answer.
    pub async fn label(&self, namespace: &str, pod: &Peer) -> Result<(), WriteError> {
        let labels = match &pod.parted {
            None => json!({
                LABEL_COMPONENT: null,
                PARTED: pod.component.clone().unwrap_or_default(),
            }),
            Some(component) if component.is_empty() => json!({ PARTED: null }),
            Some(component) => json!({ LABEL_COMPONENT: component, PARTED: null }),
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

    /// Has MetalLB's speakers announce nothing, or announce again.
    ///
    /// # Errors
    /// When the API server refuses, or does not answer.
    pub async fn halt(&self, namespace: &str, halted: bool) -> Result<(), WriteError> {
        let what = || format!("change nodeSelectors of the L2Advertisements in {namespace}");
        let all = in_time(what, advertisements(&self.client, namespace)).await?;
        let api: Api<L2Advertisement> = Api::namespaced(self.client.clone(), namespace);
        for object in all.map_err(fails(what()))? {
            let patch = match halted {
                true if !pause::is_paused(&object) => pause::pause(&object),
                false if pause::needs_resume(&object) => pause::resume(&object),
                true | false => continue,
            };
            let (name, params, patch) = (object.name_any(), params(), Patch::Merge(patch));
            match in_time(what, api.patch(&name, &params, &patch)).await? {
                Ok(_) => {}
                // Somebody changes it, or has deleted it: it is looked at again.
                Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => {}
                Err(source) => return Err(fails(what())(source)),
            }
        }
        Ok(())
    }

    /// Whether MetalLB's speakers stand still, or did.
    ///
    /// # Errors
    /// When the API server refuses, or does not answer.
    pub async fn is_halted(&self, namespace: &str) -> Result<bool, WriteError> {
        let what = || format!("look at the L2Advertisements in {namespace}");
        let all = in_time(what, advertisements(&self.client, namespace)).await?;
        Ok(all.map_err(fails(what()))?.iter().any(pause::needs_resume))
    }

    /// Ends pods.
    ///
    /// # Errors
    /// When the API server refuses, or does not answer.
    pub async fn end(&self, namespace: &str, pods: &[Peer]) -> Result<(), WriteError> {
        let api: Api<Pod> = Api::namespaced(self.client.clone(), namespace);
        let what = || "end MetalLB's speakers".to_owned();
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

    /// Has changes of pools not fail while nobody checks them, or fail again as before.
    ///
    /// # Errors
    /// When the API server refuses, or does not answer.
    pub async fn relax(&self, namespace: &str, relaxed: bool) -> Result<(), WriteError> {
        let what = || format!("set failurePolicy in ValidatingWebhookConfiguration {WEBHOOK}");
        let api: Api<DynamicObject> = Api::all_with(self.client.clone(), &webhooks());
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
            // Its certificate was just renewed, or it is gone: it is looked at again.
            Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => Ok(()),
            Err(source) => Err(fails(what())(source)),
        }
    }

    /// Which of the objects of a record are not there as they were.
    ///
    /// # Errors
    /// When the API server refuses, or does not answer.
    pub async fn missing(&self, record: &backup::Record) -> Result<Vec<(ObjectId, Missing)>, WriteError> {
        let mut missing = Vec::new();
        for (id, _) in record.objects() {
            let what = || format!("look at {id}");
            let answer = in_time(what, self.api(id).get_opt(id.key.name())).await?;
            match answer.map_err(fails(what()))? {
                None => missing.push((id.clone(), Missing::Absent)),
                Some(object) if object.metadata.deletion_timestamp.is_some() => {
                    missing.push((id.clone(), Missing::Going));
                }
                Some(object) if object.labels().get(MANAGED_BY).map(String::as_str) == Some(MANAGER) => {
                    missing.push((id.clone(), Missing::Ours(json!(object.labels()))));
                }
                // It was never away, or somebody else has made it again.
                Some(_) => {}
            }
        }
        Ok(missing)
    }

    /// Makes an object of a record again: anew, or out of ours, which has these labels.
    ///
    /// # Errors
    /// When the API server refuses, or does not answer.
    pub async fn restore(&self, id: &ObjectId, body: &Value, ours: Option<&Value>) -> Result<(), WriteError> {
        let what = || format!("put back {id}");
        let api = self.api(id);
        let answer = match ours {
            None => {
                let params = PatchParams::apply(RESTORER).force();
                in_time(what, api.patch(id.key.name(), &params, &Patch::Apply(body))).await?
            }
            Some(labels) => {
                let patch = Patch::Merge(backup::undo(body, labels));
                let params = params();
                in_time(what, api.patch(id.key.name(), &params, &patch)).await?
            }
        };
        answer.map(drop).map_err(fails(what()))
    }

    /// Deletes a record: the way back is closed.
    ///
    /// # Errors
    /// When the API server refuses, or does not answer.
    pub async fn forget(&self, namespace: &str) -> Result<(), WriteError> {
        let id = backup::Record::id(namespace);
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

/// How an object of a record is not as it was.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Missing {
    /// It is not there.
    Absent,
    /// It is on its way out.
    Going,
    /// It is ours, with these labels.
    Ours(Value),
}

/// Objects that can be compared with ours: not the workloads, which are recorded as such, and not what only ours have.
#[must_use]
pub fn may_be_overlaid(id: &ObjectId) -> bool {
    id.kind.goes_with_the_stack()
        && !matches!(
            id.kind,
            Kind::Deployment | Kind::DaemonSet | Kind::Secret | Kind::ControllerRevision
        )
}
