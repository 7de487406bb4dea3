//! Looks at the cluster for the checks: the one part of them that talks to the API server.
//!
//! Reads: the server's version; access reviews about the operator itself; the metallb.io kinds; names and labels of
//! DaemonSets, Deployments and the pods of kube-system, and the few of them that look like a load balancer; Cilium's pools;
//! nodes; the ConfigMap kube-system/kube-proxy; the stack's pools; ServiceCIDRs. Writes nothing. Lists come in pages, and
//! each is cut down to what is asked before the next is read. What cannot be read becomes a fact that is not known.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use futures::{StreamExt, TryStreamExt};
use ipnet::IpNet;
use k8s_openapi::api::authorization::v1::{SelfSubjectAccessReview, SelfSubjectAccessReviewSpec};
use k8s_openapi::api::core::v1::{Pod, Service};
use kube::api::{Api, ApiResource, DynamicObject, GroupVersionKind, ListParams, NotUsed, Object, PostParams};
use kube::{Client, ResourceExt};
use lb_crds::IPAddressPool;
use lb_crds::names::{EXCLUDED_ADDRESSES, LABEL_EXCLUDE};
use serde::Deserialize;
use serde_json::Value;

use super::access_reviews::questions;
use super::{Balancer, Definition, Facts, Known, Node, ObjectRef, Pool, Product, Unread, crds, detect};
use crate::desired::render::{MANAGED_BY, MANAGER};
use crate::object_id::Kind;

/// How long one fact may take: an API server that hangs must not hang the checks.
const TIMEOUT: Duration = Duration::from_secs(30);
/// Objects in one answer.
const PAGE: u32 = 200;
/// Pages of one list. What comes after is not looked at: 20,000 objects are as many as a check can make use of.
const PAGES: usize = 100;
/// Access reviews under way at a time.
const REVIEWS: usize = 8;
/// Objects of one product that look like a load balancer and are read in full: k3s' ServiceLB makes one for each Service.
const SUSPECTS: usize = 8;
/// Where static pods of the control plane and kube-proxy's settings are.
const SYSTEM: &str = "kube-system";

/// What a look is for.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Request {
    /// Generation of the stack.
    pub generation: i64,
    /// The stack's namespace.
    pub namespace: String,
    /// Labels of the nodes that a speaker runs on.
    pub node_selector: BTreeMap<String, String>,
}

/// Looks at everything.
pub async fn gather(client: Client, request: Request) -> Facts {
    let all = futures::join!(
        known(version(&client)),
        known(denied(&client, &request.namespace)),
        known(definitions(&client)),
        known(balancers(&client)),
        known(nodes(&client, &request.node_selector)),
        known(proxy(&client)),
        known(pools(&client, &request.namespace)),
        known(services(&client)),
    );
    let (server_version, denied, definitions, balancers, nodes, proxy, pools, services) = all;
    Facts {
        generation: request.generation,
        server_version,
        denied,
        definitions,
        balancers,
        nodes,
        proxy,
        pools,
        services,
    }
}

async fn known<T>(look: impl Future<Output = kube::Result<T>>) -> Known<T> {
    let (because, may_pass) = match tokio::time::timeout(TIMEOUT, look).await {
        Ok(Ok(fact)) => return Ok(fact),
        Ok(Err(kube::Error::Api(status))) => {
            let is_refused = (400..500).contains(&status.code) && !matches!(status.code, 408 | 410 | 429);
            (status.message.clone(), !is_refused)
        }
        Ok(Err(error)) => (error.to_string(), true),
        Err(_) => (
            format!("no answer from the API server for {} seconds", TIMEOUT.as_secs()),
            true,
        ),
    };
    Err(Unread { because, may_pass })
}

async fn version(client: &Client) -> kube::Result<String> {
    Ok(client.apiserver_version().await?.git_version)
}

async fn denied(client: &Client, namespace: &str) -> kube::Result<Vec<String>> {
    let reviews: Api<SelfSubjectAccessReview> = Api::all(client.clone());
    let asked = questions(namespace).into_iter().map(|question| {
        let reviews = reviews.clone();
        async move {
            let review = SelfSubjectAccessReview {
                spec: SelfSubjectAccessReviewSpec {
                    resource_attributes: Some(question.attributes()),
                    non_resource_attributes: None,
                },
                ..SelfSubjectAccessReview::default()
            };
            let answer = reviews.create(&PostParams::default(), &review).await?;
            let is_allowed = answer.status.is_some_and(|status| status.allowed);
            kube::Result::Ok((!is_allowed).then(|| question.to_string()))
        }
    });
    let answers = futures::stream::iter(asked).buffered(REVIEWS);
    answers
        .try_filter_map(|denied| std::future::ready(Ok(denied)))
        .try_collect()
        .await
}

async fn definitions(client: &Client) -> kube::Result<Vec<Definition>> {
    let api = dynamic(client, Kind::CustomResourceDefinition);
    let mut found = Vec::new();
    for name in crds::NAMES {
        if let Some(object) = api.get_opt(name).await? {
            found.push(definition(&object));
        }
    }
    Ok(found)
}

fn definition(object: &DynamicObject) -> Definition {
    let annotation = |key: &str| object.annotations().get(key).map(String::as_str);
    let label = |key: &str| object.labels().get(key).map(String::as_str);
    let words = |list: &Value| -> Vec<String> {
        let words = list.as_array().into_iter().flatten();
        words.filter_map(|word| Some(word.as_str()?.to_owned())).collect()
    };
    let versions = object.data["spec"]["versions"].as_array().into_iter().flatten();
    let release = annotation("meta.helm.sh/release-name");
    let namespace = annotation("meta.helm.sh/release-namespace").unwrap_or_default();
    let managers = object.managed_fields().iter();
    let managers = managers.filter(|entry| entry.subresource.is_none());
    Definition {
        name: object.name_any(),
        served: versions
            .filter(|version| version["served"] == true)
            .filter_map(|version| Some(version["name"].as_str()?.to_owned()))
            .collect(),
        stored: words(&object.data["status"]["storedVersions"]),
        is_ours: label(MANAGED_BY) == Some(MANAGER),
        release: release.map(|release| format!("{namespace}/{release}")),
        is_kept: annotation("helm.sh/resource-policy") == Some("keep"),
        is_olms: label("olm.managed") == Some("true"),
        managers: managers.filter_map(|entry| entry.manager.clone()).collect(),
    }
}

async fn balancers(client: &Client) -> kube::Result<Vec<Balancer>> {
    let mut found = Vec::new();
    for kind in [Kind::DaemonSet, Kind::Deployment] {
        let api = dynamic(client, kind);
        for (product, namespace, name) in suspects(&api).await? {
            let resource = kind.api_resource();
            let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), &namespace, &resource);
            if let Some(object) = api.get_opt(&name).await? {
                let object_ref = ObjectRef::new(kind.names().2, &namespace, &name);
                found.extend(detect::workload(product, object_ref, &object.data));
            }
        }
    }
    found.extend(static_pods(client).await?);
    found.extend(cilium(client).await?);
    Ok(found)
}

/// kube-vip is often a static pod, because it brings up the control plane's own address.
async fn static_pods(client: &Client) -> kube::Result<Option<Balancer>> {
    let resource = ApiResource::erase::<Pod>(&());
    let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), SYSTEM, &resource);
    let suspects = suspects(&api).await?;
    let Some((product, _, name)) = suspects
        .into_iter()
        .find(|(product, _, _)| *product == Product::KubeVip)
    else {
        return Ok(None);
    };
    // They are the same on every node.
    let object = api.get_opt(&name).await?;
    let object_ref = ObjectRef::new("Pod", SYSTEM, &name);
    Ok(object.and_then(|object| detect::pod(product, object_ref, &object.data["spec"])))
}

/// Objects that look like a load balancer by their metadata: whose, namespace, name.
async fn suspects(api: &Api<DynamicObject>) -> kube::Result<Vec<(Product, String, String)>> {
    let mut found = Vec::new();
    let mut params = ListParams::default().limit(PAGE);
    for _ in 0..PAGES {
        let page = api.list_metadata(&params).await?;
        for item in page.items {
            if let Some(product) = detect::product(&item.name_any(), item.labels())
                && found.iter().filter(|(other, _, _)| *other == product).count() < SUSPECTS
            {
                found.push((product, item.namespace().unwrap_or_default(), item.name_any()));
            }
        }
        match page.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => params.continue_token = Some(token),
            None => break,
        }
    }
    Ok(found)
}

async fn cilium(client: &Client) -> kube::Result<Option<Balancer>> {
    const PLURAL: &str = "ciliumloadbalancerippools";
    let definitions = dynamic(client, Kind::CustomResourceDefinition);
    let Some(definition) = definitions.get_opt(&format!("{PLURAL}.cilium.io")).await? else {
        return Ok(None);
    };
    let mut versions = definition.data["spec"]["versions"]
        .as_array()
        .into_iter()
        .flatten();
    let Some(version) = versions
        .find(|version| version["storage"] == true)
        .and_then(|version| version["name"].as_str())
    else {
        return Ok(None);
    };
    let kind = GroupVersionKind::gvk("cilium.io", version, "CiliumLoadBalancerIPPool");
    let resource = ApiResource::from_gvk_with_plural(&kind, PLURAL);
    let api: Api<DynamicObject> = Api::all_with(client.clone(), &resource);
    let pools = api.list(&ListParams::default().limit(PAGE)).await?;
    let named: Vec<_> = pools
        .iter()
        .map(|pool| (pool.metadata.name.as_deref().unwrap_or_default(), &pool.data))
        .collect();
    Ok(detect::cilium(named))
}

/// What is read of a node: of its other fields, its images alone would fill pages.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct NodeSpec {
    #[serde(default, rename = "podCIDRs")]
    pod_cidrs: Vec<String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
struct NodeStatus {
    #[serde(default)]
    addresses: Vec<NodeAddress>,
}

#[derive(Clone, Debug, Deserialize)]
struct NodeAddress {
    #[serde(rename = "type")]
    type_: String,
    address: String,
}

async fn nodes(client: &Client, selector: &BTreeMap<String, String>) -> kube::Result<Vec<Node>> {
    let resource = ApiResource::erase::<k8s_openapi::api::core::v1::Node>(&());
    let api: Api<Object<NodeSpec, NodeStatus>> = Api::all_with(client.clone(), &resource);
    let mut nodes = Vec::new();
    pages(&api, |node| nodes.push(cut_down(&node, selector))).await?;
    Ok(nodes)
}

fn cut_down(node: &Object<NodeSpec, NodeStatus>, selector: &BTreeMap<String, String>) -> Node {
    let labels = node.labels();
    let addresses = node.status.iter().flat_map(|status| &status.addresses);
    Node {
        name: node.name_any(),
        is_selected: selector.iter().all(|(key, value)| labels.get(key) == Some(value)),
        is_excluded: labels.contains_key(LABEL_EXCLUDE),
        addresses: addresses
            .filter(|address| address.type_ == "InternalIP")
            .filter_map(|address| address.address.parse::<IpAddr>().ok())
            .collect(),
        pods: networks(&node.spec.pod_cidrs),
    }
}

fn networks(texts: &[String]) -> Vec<IpNet> {
    texts.iter().filter_map(|text| text.parse().ok()).collect()
}

async fn proxy(client: &Client) -> kube::Result<Option<String>> {
    let resource = ApiResource::erase::<k8s_openapi::api::core::v1::ConfigMap>(&());
    let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), SYSTEM, &resource);
    let object = api.get_opt("kube-proxy").await?;
    Ok(object.and_then(|object| Some(object.data["data"]["config.conf"].as_str()?.to_owned())))
}

async fn pools(client: &Client, namespace: &str) -> kube::Result<Vec<Pool>> {
    let api: Api<IPAddressPool> = Api::namespaced(client.clone(), namespace);
    let mut pools = Vec::new();
    // Before the first installation there may be no such kind.
    if_known(pages(&api, |pool| pools.push(pool_of(&pool))).await)?;
    Ok(pools)
}

fn pool_of(pool: &IPAddressPool) -> Pool {
    let excluded = pool.annotations().get(EXCLUDED_ADDRESSES);
    let excluded = excluded.map(String::as_str).unwrap_or_default().split(',');
    Pool {
        name: pool.name_any(),
        // What cannot be read is told by the controller, in a condition of the pool.
        ranges: pool
            .spec
            .addresses
            .iter()
            .filter_map(|text| text.parse().ok())
            .collect(),
        excluded: excluded.filter_map(|text| text.parse().ok()).collect(),
    }
}

#[derive(Clone, Debug, Deserialize)]
struct CidrSpec {
    #[serde(default)]
    cidrs: Vec<String>,
}

/// The networks of Services. Before Kubernetes 1.33 they are nowhere to be read, except that the API server's own Service
/// has an address in them.
async fn services(client: &Client) -> kube::Result<Vec<IpNet>> {
    let kind = GroupVersionKind::gvk("networking.k8s.io", "v1", "ServiceCIDR");
    let resource = ApiResource::from_gvk_with_plural(&kind, "servicecidrs");
    let api: Api<Object<CidrSpec, NotUsed>> = Api::all_with(client.clone(), &resource);
    let mut found = Vec::new();
    if_known(pages(&api, |cidr| found.extend(networks(&cidr.spec.cidrs))).await)?;
    if found.is_empty() {
        let api: Api<Service> = Api::namespaced(client.clone(), "default");
        let spec = api.get_opt("kubernetes").await?.and_then(|service| service.spec);
        let addresses = spec.and_then(|spec| spec.cluster_ips).unwrap_or_default();
        let addresses = addresses.iter().filter_map(|text| text.parse::<IpAddr>().ok());
        found.extend(addresses.map(IpNet::from));
    }
    Ok(found)
}

/// A kind that the cluster does not have has no objects.
fn if_known(listed: kube::Result<()>) -> kube::Result<()> {
    match listed {
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        other => other,
    }
}

/// Every object of a kind, page by page.
async fn pages<K>(api: &Api<K>, mut see: impl FnMut(K)) -> kube::Result<()>
where
    K: Clone + std::fmt::Debug + serde::de::DeserializeOwned,
{
    let mut params = ListParams::default().limit(PAGE);
    for _ in 0..PAGES {
        let page = api.list(&params).await?;
        page.items.into_iter().for_each(&mut see);
        match page.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => params.continue_token = Some(token),
            None => break,
        }
    }
    Ok(())
}

fn dynamic(client: &Client, kind: Kind) -> Api<DynamicObject> {
    Api::all_with(client.clone(), &kind.api_resource())
}
