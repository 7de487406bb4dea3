//! Reads the state of MetalLB in the stack's namespace.
//!
//! Reads: Deployments, DaemonSets and pods of the namespace; the configuration of MetalLB's webhook; its
//! L2Advertisements and BGPAdvertisements; its ServiceL2Statuses; access reviews of the operator. Once a second before
//! and during an adoption, and every half minute afterwards; never without `spec.adopt`.

use k8s_openapi::api::core::v1;
use kube::api::{Api, ApiResource, DynamicObject, GroupVersionKind, ListParams, ObjectList, ObjectMeta};
use kube::{Client, ResourceExt};
use lb_crds::l2_advertisement::pause;
use lb_crds::names::{CONTROLLER, LABEL_COMPONENT, LABEL_NODE};
use lb_crds::{L2Advertisement, ServiceL2Status};
use serde_json::{Value, json};

use super::{Backup, MetalLb, MetalLbPod, MetalLbWorkload, ORPHANED_POD_LABEL, WorkloadManager};
use crate::desired::render::{MANAGED_BY, MANAGER};
use crate::index::LiveObject;
use crate::object_id::{Kind, ObjectId};
use crate::observe::workload_health::has_ready_pod;
use crate::ownership::{self, managers};
use crate::preflight::access_reviews::{Permission, denied};
use crate::preflight::{LoadBalancerProduct, detect};
use crate::request::{RequestError, in_time};

/// Name of MetalLB's webhook configuration in its manifest, chart and operator.
pub const WEBHOOK: &str = "metallb-webhook-configuration";
const WEBHOOK_GROUP: &str = "admissionregistration.k8s.io";
const WEBHOOK_PLURAL: &str = "validatingwebhookconfigurations";
/// Of each kind: MetalLB has three or four objects in its namespace, and a pod per node.
const MAX_ITEMS: u32 = 5000;
/// The verbs that an adoption and a restore need.
const VERBS: [&str; 3] = ["create", "patch", "delete"];

/// API resource of webhook configurations.
#[must_use]
pub fn webhook_configurations() -> ApiResource {
    let kind = GroupVersionKind::gvk(WEBHOOK_GROUP, "v1", "ValidatingWebhookConfiguration");
    ApiResource::from_gvk_with_plural(&kind, WEBHOOK_PLURAL)
}

/// MetalLB in a namespace, if it serves Services of this class. `whole`: include what matters only before an adoption
/// begins.
///
/// # Errors
/// If the API server refuses or does not answer.
pub async fn observe_metallb(
    client: &Client,
    namespace: &str,
    class: Option<&str>,
    whole: bool,
) -> Result<MetalLb, RequestError> {
    let all = async {
        let mut found = MetalLb::default();
        for kind in [Kind::Deployment, Kind::DaemonSet] {
            found
                .workloads
                .extend(workloads(client, kind, namespace, class).await?);
        }
        found.pods = pods(client, namespace).await?;
        let webhook = webhook(client).await?;
        found.strict_webhook = webhook.is_some_and(|object| is_strict(&object.data, namespace));
        if found.pods.iter().any(|pod| pod.speaker) {
            found.announcing = announcing(client, namespace).await?.into_iter().collect();
        }
        for advertisement in advertisements(client, namespace).await? {
            if pause::needs_resume(&advertisement) {
                found.withdrawn += 1;
            }
            if !pause::is_paused(&advertisement) {
                found.active_advertisements += 1;
            }
        }
        if whole && found.workloads.is_empty() && found.strict_webhook {
            found.denied = denied(client, [webhook_permission()]).await?;
        }
        if whole && !found.workloads.is_empty() {
            found.bgp = metallb_kind(client, namespace, BGP_ADVERTISEMENT).await?;
            let permissions = adoption_permissions(namespace, &found.workloads);
            found.denied = denied(client, permissions).await?;
        }
        Ok(found)
    };
    in_time("read the state of MetalLB", all).await
}

/// Those of the objects that exist and belong to MetalLB.
///
/// # Errors
/// If the API server refuses or does not answer.
pub async fn metallb_objects(
    client: &Client,
    ids: impl Iterator<Item = ObjectId>,
) -> Result<Vec<(ObjectId, Value)>, RequestError> {
    let mut others = Vec::new();
    for id in ids {
        let Some(object) = get(client, &id).await? else {
            continue;
        };
        let product = detect::product(&object.name_any(), object.labels());
        if product == Some(LoadBalancerProduct::MetalLb) && !ownership::is_ours(&object.metadata) {
            others.push((id, json!(object)));
        }
    }
    Ok(others)
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

/// Objects of the backup that are missing or overwritten.
///
/// # Errors
/// If the API server refuses or does not answer.
pub async fn missing_objects(
    client: &Client,
    record: &Backup,
) -> Result<Vec<(ObjectId, MissingObject)>, RequestError> {
    let mut missing = Vec::new();
    for (id, _) in record.objects() {
        let found = get(client, id).await?;
        let how = match found.map(|object| LiveObject::new(id.kind, object)) {
            None => MissingObject::Absent,
            Some(live) if live.terminating => MissingObject::Terminating,
            Some(live) if live.labels()[MANAGED_BY] == MANAGER => {
                MissingObject::Overwritten(live.labels().clone())
            }
            Some(live) if !has_ready_pod(id.kind, &live) => MissingObject::NotReady,
            // It was never away, or somebody else has made it again.
            Some(_) => continue,
        };
        missing.push((id.clone(), how));
    }
    Ok(missing)
}

/// ServiceAccounts that pods of the backup need, and that neither exist nor are in the backup.
///
/// # Errors
/// If the API server refuses or does not answer.
pub async fn missing_accounts(client: &Client, record: &Backup) -> Result<Vec<ObjectId>, RequestError> {
    let mut missing = Vec::new();
    for id in record.service_accounts() {
        if get(client, &id).await?.is_none() {
            missing.push(id);
        }
    }
    Ok(missing)
}

async fn get(client: &Client, id: &ObjectId) -> Result<Option<DynamicObject>, RequestError> {
    in_time(format!("read {id}"), id.api(client).get_opt(id.key.name())).await
}

/// The configuration of MetalLB's webhook.
///
/// # Errors
/// If the API server refuses or does not answer.
pub async fn webhook(client: &Client) -> kube::Result<Option<DynamicObject>> {
    let api: Api<DynamicObject> = Api::all_with(client.clone(), &webhook_configurations());
    api.get_opt(WEBHOOK).await
}

async fn workloads(
    client: &Client,
    kind: Kind,
    namespace: &str,
    class: Option<&str>,
) -> kube::Result<Vec<MetalLbWorkload>> {
    let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), namespace, &kind.api_resource());
    let mut found = Vec::new();
    for object in api.list(&ListParams::default().limit(MAX_ITEMS)).await? {
        let name = object.name_any();
        let is_metallb = detect::product(&name, object.labels()) == Some(LoadBalancerProduct::MetalLb);
        if !is_metallb || !detect::metallb(&object.data["spec"]["template"]["spec"]).includes(class) {
            continue;
        }
        found.push(MetalLbWorkload {
            id: ObjectId::new(kind, namespace, &name),
            uid: object.uid().unwrap_or_default(),
            terminating: object.metadata.deletion_timestamp.is_some(),
            managed_by: workload_manager(&object.metadata),
            body: serde_json::to_value(&object).map_err(kube::Error::SerdeError)?,
        });
    }
    Ok(found)
}

/// Tools that recreate objects, with parts of the labels and annotations that they set, and beginnings of the names of
/// their field managers. Argo CD up to 2.x may set only the label `app.kubernetes.io/instance`, as every chart does.
const MANAGERS: [(WorkloadManager, &[&str], &[&str]); 8] = [
    (WorkloadManager::ArgoCd, &["argocd.argoproj.io/"], &["argocd"]),
    (
        WorkloadManager::Flux,
        &["toolkit.fluxcd.io/"],
        &["kustomize-controller", "helm-controller"],
    ),
    (
        WorkloadManager::Other("Fleet or an AddOn of k3s"),
        &["objectset.rio.cattle.io/", "fleet.cattle.io/"],
        &["fleetagent", "deploy@"],
    ),
    (WorkloadManager::Other("kapp"), &["kapp.k14s.io/"], &["kapp"]),
    (
        WorkloadManager::Other("Config Sync"),
        &["configsync.gke.io/", "configmanagement.gke.io/"],
        &["configsync"],
    ),
    (
        WorkloadManager::Other("the Operator Lifecycle Manager"),
        &["olm.owner", "olm.managed"],
        &["olm", "catalog"],
    ),
    (
        WorkloadManager::Other("Terraform"),
        &[],
        &["Terraform", "HashiCorp", "terraform-"],
    ),
    (WorkloadManager::Other("Pulumi"), &["pulumi.com/"], &["pulumi"]),
];

fn workload_manager(metadata: &ObjectMeta) -> Option<WorkloadManager> {
    let mut owners = metadata.owner_references.iter().flatten();
    if owners.any(|owner| owner.kind == "MetalLB") {
        return Some(WorkloadManager::MetalLbOperator);
    }
    let marks = [&metadata.labels, &metadata.annotations];
    let marks: Vec<_> = marks
        .into_iter()
        .flatten()
        .flat_map(|marks| marks.keys())
        .collect();
    let writers = managers(metadata);
    let found = MANAGERS.iter().find(|(_, parts, names)| {
        parts
            .iter()
            .any(|part| marks.iter().any(|mark| mark.contains(part)))
            || names
                .iter()
                .any(|name| writers.iter().any(|writer| writer.starts_with(name)))
    });
    found.map(|(manager, _, _)| *manager)
}

async fn pods(client: &Client, namespace: &str) -> kube::Result<Vec<MetalLbPod>> {
    let api: Api<v1::Pod> = Api::namespaced(client.clone(), namespace);
    let pods = api.list(&ListParams::default().limit(MAX_ITEMS)).await?;
    let of_metallb = |pod: &v1::Pod| {
        let label = |name: &str| pod.labels().get(name).map(String::as_str);
        let is_metallb = detect::product(&pod.name_any(), pod.labels()) == Some(LoadBalancerProduct::MetalLb);
        let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
        let is_over = matches!(phase, Some("Succeeded" | "Failed"));
        let component = label(LABEL_COMPONENT);
        let orphaned_component = label(ORPHANED_POD_LABEL);
        let which = component.or_else(|| label("app.kubernetes.io/component"));
        // Other pods with this label, such as MetalLB's operator, are not adopted.
        let is_part = orphaned_component.is_some() || matches!(which, Some("controller" | "speaker"));
        ((is_metallb || orphaned_component.is_some()) && is_part && !is_over).then(|| MetalLbPod {
            name: pod.name_any(),
            uid: pod.uid().unwrap_or_default(),
            node: pod
                .spec
                .as_ref()
                .and_then(|spec| spec.node_name.clone())
                .unwrap_or_default(),
            speaker: orphaned_component.is_some() || which != Some(CONTROLLER),
            terminating: pod.metadata.deletion_timestamp.is_some(),
            orphaned_component: orphaned_component.map(str::to_owned),
            component: component.map(str::to_owned),
        })
    };
    Ok(pods.iter().filter_map(of_metallb).collect())
}

/// Whether a webhook that is served from the namespace has failurePolicy Fail.
#[must_use]
pub fn is_strict(configuration: &Value, namespace: &str) -> bool {
    let mut all = configuration["webhooks"].as_array().into_iter().flatten();
    all.any(|webhook| {
        webhook["failurePolicy"] == "Fail" && webhook["clientConfig"]["service"]["namespace"] == namespace
    })
}

async fn announcing(client: &Client, namespace: &str) -> kube::Result<Vec<String>> {
    let resource = ApiResource::erase::<ServiceL2Status>(&());
    let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), namespace, &resource);
    let list = existing(api.list(&ListParams::default()).await)?;
    // Those of the stack have an address, MetalLB's do not.
    let is_metallbs = |record: &&DynamicObject| record.data["status"]["address"].is_null();
    let node = |record: &DynamicObject| record.labels().get(LABEL_NODE).cloned();
    Ok(list.iter().filter(is_metallbs).filter_map(node).collect())
}

/// A kind that does not exist has no objects.
fn existing<K: Clone>(listed: kube::Result<ObjectList<K>>) -> kube::Result<Vec<K>> {
    match listed {
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(Vec::new()),
        listed => Ok(listed?.items),
    }
}

/// The L2Advertisements.
///
/// # Errors
/// If the API server refuses or does not answer.
pub async fn advertisements(client: &Client, namespace: &str) -> kube::Result<Vec<L2Advertisement>> {
    let resource = ApiResource::erase::<L2Advertisement>(&());
    let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), namespace, &resource);
    let read = |mut object: DynamicObject| {
        // In MetalLB's CRD the spec is optional.
        if object.data["spec"].is_null() {
            object.data["spec"] = json!({});
        }
        object
            .try_parse()
            .map_err(|error| kube::Error::Service(error.into()))
    };
    let list = existing(api.list(&ListParams::default().limit(MAX_ITEMS)).await)?;
    list.into_iter().map(read).collect()
}

/// Version, kind and plural of the objects by which MetalLB announces over BGP.
pub const BGP_ADVERTISEMENT: (&str, &str, &str) = ("v1beta1", "BGPAdvertisement", "bgpadvertisements");

/// The metallb.io objects of a kind (version, kind, plural), as `Kind namespace/name`; none if the kind does not exist.
///
/// # Errors
/// If the API server refuses or does not answer.
pub async fn metallb_kind(
    client: &Client,
    namespace: &str,
    (version, kind, plural): (&str, &str, &str),
) -> kube::Result<Vec<String>> {
    let gvk = GroupVersionKind::gvk("metallb.io", version, kind);
    let resource = ApiResource::from_gvk_with_plural(&gvk, plural);
    let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), namespace, &resource);
    let list = existing(api.list_metadata(&ListParams::default().limit(MAX_ITEMS)).await)?;
    let names = list.iter().map(ResourceExt::name_any);
    Ok(names.map(|name| format!("{kind} {namespace}/{name}")).collect())
}

fn webhook_permission() -> Permission {
    Permission::new("patch", WEBHOOK_GROUP, WEBHOOK_PLURAL, "", WEBHOOK)
}

/// The permissions that an adoption needs: those for MetalLB's workloads, and those of the optional ClusterRole of the
/// chart.
fn adoption_permissions(namespace: &str, workloads: &[MetalLbWorkload]) -> Vec<Permission> {
    let mut wanted = vec![
        Permission::new("patch", "", "pods", namespace, ""),
        Permission::new("patch", "metallb.io", "l2advertisements", namespace, ""),
        webhook_permission(),
    ];
    for workload in workloads {
        let (group, _, _, plural) = workload.id.kind.names();
        let key = &workload.id.key;
        let of = |verb| Permission::new(verb, group, plural, key.namespace(), key.name());
        wanted.extend(VERBS.map(of));
    }
    wanted
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn gitops_tools_are_recognized_by_labels_annotations_and_field_managers() {
        let of = |metadata: Value| workload_manager(&serde_json::from_value(metadata).unwrap());
        let writer = |name: &str| json!({"managedFields": [{"manager": name}], "labels": {"app.kubernetes.io/instance": "lan"}});
        let cases = [
            (
                json!({"annotations": {"argocd.argoproj.io/tracking-id": "lan"}}),
                Some(WorkloadManager::ArgoCd),
            ),
            // The default tracking of Argo CD 2.x.
            (writer("argocd-controller"), Some(WorkloadManager::ArgoCd)),
            (writer("kustomize-controller"), Some(WorkloadManager::Flux)),
            (
                json!({"labels": {"objectset.rio.cattle.io/hash": "1"}}),
                Some(WorkloadManager::Other("Fleet or an AddOn of k3s")),
            ),
            (writer("helm"), None),
            (writer("kubectl-client-side-apply"), None),
        ];
        for (metadata, wanted) in cases {
            assert_eq!(of(metadata.clone()), wanted, "{metadata}");
        }
    }

    #[test]
    fn webhook_of_the_namespace_with_policy_fail_is_strict() {
        let configuration = |policy: &str, namespace: &str| {
            json!({"webhooks": [{
                "name": "ipaddresspoolvalidationwebhook.metallb.io",
                "failurePolicy": policy,
                "clientConfig": {"service": {"name": "metallb-webhook-service", "namespace": namespace}},
            }]})
        };
        for (policy, namespace, strict) in [
            ("Fail", "metallb-system", true),
            ("Ignore", "metallb-system", false),
            ("Fail", "elsewhere", false),
        ] {
            assert_eq!(
                is_strict(&configuration(policy, namespace), "metallb-system"),
                strict
            );
        }
    }
}
