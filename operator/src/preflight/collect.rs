//! Collects the facts for the checks; the only part of preflight that calls the API server.
//!
//! Reads: the metadata of existing objects with names of the stack; the server's version; access reviews of the operator; the metallb.io CRDs; names and labels of DaemonSets,
//! Deployments and the pods of kube-system, and the few of them that look like a load balancer; Cilium's pools; nodes;
//! a pod of kube-proxy and its ConfigMap; pods in the network of their node; MetalLB's
//! webhook and BGP objects; the stack's pools; ServiceCIDRs. Writes nothing. Lists are read in pages, and
//! each is reduced to the needed fields before the next is read. An error makes a fact unknown.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use futures::{StreamExt, TryStreamExt};
use ipnet::IpNet;
use k8s_openapi::api::core::v1::{ConfigMap, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{Api, ApiResource, DynamicObject, GroupVersionKind, ListParams, NotUsed, Object};
use kube::{Client, ResourceExt};
use lb_crds::names::{EXCLUDED_ADDRESSES, LABEL_EXCLUDE};
use lb_crds::{BGPPeer, IPAddressPool};
use serde::Deserialize;
use serde_json::{Value, json};

use super::access_reviews::{denied, required_permissions};
use super::checks::CRD_NAMES;
use super::host_ports::HostPortUser;
use super::kube_proxy::{DistributionArgs, KubeProxyFacts, PodFlags, pod_flags};
use super::{
    ClusterFacts, CrdFacts, Fact, LoadBalancerProduct, NodeFacts, ObjectRef, OtherLoadBalancer, PoolFacts,
    UnknownFact, detect,
};
use crate::adoption::observe::{is_strict, webhook};
use crate::desired::render::{MANAGED_BY, MANAGER};
use crate::object_id::{Kind, ObjectId};
use crate::ownership::{self, ForeignObject};

/// For each fact.
const FACT_TIMEOUT: Duration = Duration::from_secs(30);
const PAGE_SIZE: u32 = 200;
/// Of each list; later objects are ignored. 20,000 objects are enough for any check.
const MAX_PAGES: usize = 100;
const MAX_CONCURRENT_READS: usize = 8;
/// Objects per product that are read in full: ServiceLB of k3s creates one for each Service.
const MAX_CANDIDATES: usize = 8;
/// Namespace of the control plane's static pods and of kube-proxy.
const KUBE_SYSTEM: &str = "kube-system";
/// Labels of kube-proxy's pods: of kubeadm and Talos, and of RKE2.
const KUBE_PROXY_LABELS: [&str; 2] = ["k8s-app=kube-proxy", "component=kube-proxy"];

/// The part of the stack that the facts are about.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct FactsRequest {
    /// Generation of the stack.
    pub generation: i64,
    /// The stack's namespace.
    pub namespace: String,
    /// `spec.speaker.nodeSelector`.
    pub node_selector: BTreeMap<String, String>,
    /// Objects of the stack that the operator has not applied.
    pub absent_objects: Vec<ObjectId>,
}

/// Makes the requests at the same time.
macro_rules! join_facts {
    ($generation:expr, $($name:ident: $request:expr,)*) => {{
        let ($($name,)*) = futures::join!($(fact($request)),*);
        ClusterFacts { generation: $generation, $($name,)* }
    }};
}

/// Collects all facts.
pub async fn collect_facts(client: Client, request: FactsRequest) -> ClusterFacts {
    let namespace = &request.namespace;
    let mut facts = join_facts! {
        request.generation,
        server_version: version(&client),
        denied: denied(&client, required_permissions(namespace)),
        crds: crds(&client),
        load_balancers: load_balancers(&client),
        foreign_objects: foreign_objects(&client, request.absent_objects),
        nodes: nodes(&client, &request.node_selector),
        kube_proxy: kube_proxy(&client),
        host_ports: host_ports(&client),
        dead_webhook: dead_webhook(&client, namespace),
        bgp_objects: bgp_objects(&client, namespace),
        pools: pools(&client, namespace),
        services: services(&client),
    };
    // k3s runs kube-proxy in its own process.
    let distributions = facts.nodes.iter().flatten().filter_map(|node| {
        let args = node.distribution_args.as_ref()?;
        args.kube_proxy(&node.name)
    });
    if let (Ok(KubeProxyFacts::Unknown(_)), Some(found)) = (&facts.kube_proxy, worst(distributions)) {
        facts.kube_proxy = Ok(found);
    }
    facts
}

async fn fact<T>(request: impl Future<Output = kube::Result<T>>) -> Fact<T> {
    let (error, is_transient) = match tokio::time::timeout(FACT_TIMEOUT, request).await {
        Ok(Ok(fact)) => return Ok(fact),
        Ok(Err(kube::Error::Api(status))) => {
            let is_refused = (400..500).contains(&status.code) && !matches!(status.code, 408 | 410 | 429);
            (status.message.clone(), !is_refused)
        }
        Ok(Err(error)) => (error.to_string(), true),
        Err(_) => (
            format!(
                "no answer from the API server for {} seconds",
                FACT_TIMEOUT.as_secs()
            ),
            true,
        ),
    };
    Err(UnknownFact { error, is_transient })
}

async fn version(client: &Client) -> kube::Result<String> {
    Ok(client.apiserver_version().await?.git_version)
}

async fn crds(client: &Client) -> kube::Result<Vec<CrdFacts>> {
    let api = dynamic(client, Kind::CustomResourceDefinition);
    let mut found = Vec::new();
    for name in CRD_NAMES {
        if let Some(object) = api.get_opt(name).await? {
            found.push(crd_facts(&object));
        }
    }
    Ok(found)
}

fn crd_facts(object: &DynamicObject) -> CrdFacts {
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
    CrdFacts {
        name: object.name_any(),
        served: versions
            .filter(|version| version["served"] == true)
            .filter_map(|version| Some(version["name"].as_str()?.to_owned()))
            .collect(),
        stored: words(&object.data["status"]["storedVersions"]),
        is_managed: label(MANAGED_BY) == Some(MANAGER),
        release: release.map(|release| format!("{namespace}/{release}")),
        is_from_olm: label("olm.managed") == Some("true"),
        managers: managers.filter_map(|entry| entry.manager.clone()).collect(),
    }
}

async fn foreign_objects(client: &Client, ids: Vec<ObjectId>) -> kube::Result<Vec<ForeignObject>> {
    let reads = ids.into_iter().map(|id| {
        let client = client.clone();
        async move { ownership::foreign_object(&client, &id).await }
    });
    let found = futures::stream::iter(reads).buffered(MAX_CONCURRENT_READS);
    found
        .try_filter_map(|foreign| std::future::ready(Ok(foreign)))
        .try_collect()
        .await
}

async fn load_balancers(client: &Client) -> kube::Result<Vec<OtherLoadBalancer>> {
    let mut found = Vec::new();
    for kind in [Kind::DaemonSet, Kind::Deployment] {
        let api = dynamic(client, kind);
        for (product, namespace, name) in candidates(&api).await? {
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

/// kube-vip is often a static pod, because it provides the address of the control plane.
async fn static_pods(client: &Client) -> kube::Result<Option<OtherLoadBalancer>> {
    let resource = ApiResource::erase::<Pod>(&());
    let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), KUBE_SYSTEM, &resource);
    let candidates = candidates(&api).await?;
    let Some((product, _, name)) = candidates
        .into_iter()
        .find(|(product, _, _)| *product == LoadBalancerProduct::KubeVip)
    else {
        return Ok(None);
    };
    // Its static pods are the same on every node.
    let object = api.get_opt(&name).await?;
    let object_ref = ObjectRef::new("Pod", KUBE_SYSTEM, &name);
    Ok(object.and_then(|object| detect::pod(product, object_ref, &object.data["spec"])))
}

/// Objects that are a load balancer by their metadata: product, namespace, name.
async fn candidates(api: &Api<DynamicObject>) -> kube::Result<Vec<(LoadBalancerProduct, String, String)>> {
    let mut found = Vec::new();
    let mut params = ListParams::default().limit(PAGE_SIZE);
    for _ in 0..MAX_PAGES {
        let page = api.list_metadata(&params).await?;
        for item in page.items {
            if let Some(product) = detect::product(&item.name_any(), item.labels())
                && found.iter().filter(|(other, _, _)| *other == product).count() < MAX_CANDIDATES
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

async fn cilium(client: &Client) -> kube::Result<Option<OtherLoadBalancer>> {
    const PLURAL: &str = "ciliumloadbalancerippools";
    let crds = dynamic(client, Kind::CustomResourceDefinition);
    let Some(crd) = crds.get_opt(&format!("{PLURAL}.cilium.io")).await? else {
        return Ok(None);
    };
    let mut versions = crd.data["spec"]["versions"].as_array().into_iter().flatten();
    let Some(version) = versions
        .find(|version| version["storage"] == true)
        .and_then(|version| version["name"].as_str())
    else {
        return Ok(None);
    };
    let kind = GroupVersionKind::gvk("cilium.io", version, "CiliumLoadBalancerIPPool");
    let resource = ApiResource::from_gvk_with_plural(&kind, PLURAL);
    let api: Api<DynamicObject> = Api::all_with(client.clone(), &resource);
    let pools = api.list(&ListParams::default().limit(PAGE_SIZE)).await?;
    let named: Vec<_> = pools
        .iter()
        .map(|pool| (pool.metadata.name.as_deref().unwrap_or_default(), &pool.data))
        .collect();
    Ok(detect::cilium(named))
}

/// The fields of a node that are read; its list of images is large.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct NodeSpec {
    #[serde(default, rename = "podCIDRs")]
    pod_cidrs: Vec<String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct NodeStatus {
    #[serde(default)]
    addresses: Vec<NodeAddress>,
    #[serde(default)]
    node_info: NodeInfo,
}

#[derive(Clone, Debug, Default, Deserialize)]
struct NodeInfo {
    #[serde(default)]
    architecture: String,
}

#[derive(Clone, Debug, Deserialize)]
struct NodeAddress {
    #[serde(rename = "type")]
    type_: String,
    address: String,
}

async fn nodes(client: &Client, selector: &BTreeMap<String, String>) -> kube::Result<Vec<NodeFacts>> {
    let resource = ApiResource::erase::<k8s_openapi::api::core::v1::Node>(&());
    let api: Api<Object<NodeSpec, NodeStatus>> = Api::all_with(client.clone(), &resource);
    let mut nodes = Vec::new();
    for_each(&api, ListParams::default(), |node| {
        nodes.push(node_facts(&node, selector))
    })
    .await?;
    Ok(nodes)
}

fn node_facts(node: &Object<NodeSpec, NodeStatus>, selector: &BTreeMap<String, String>) -> NodeFacts {
    let labels = node.labels();
    let addresses = node.status.iter().flat_map(|status| &status.addresses);
    NodeFacts {
        name: node.name_any(),
        is_selected: selector.iter().all(|(key, value)| labels.get(key) == Some(value)),
        is_excluded: labels.contains_key(LABEL_EXCLUDE),
        architecture: node
            .status
            .as_ref()
            .map(|status| status.node_info.architecture.clone())
            .unwrap_or_default(),
        distribution_args: DistributionArgs::read(|key| node.annotations().get(key).map(String::as_str)),
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

/// Of several nodes, the one on which every address is answered.
fn worst(found: impl Iterator<Item = KubeProxyFacts>) -> Option<KubeProxyFacts> {
    found.max_by_key(|facts| match facts {
        KubeProxyFacts::Mode { mode, strict_arp, .. } => 1 + u8::from(mode == "ipvs" && !strict_arp),
        KubeProxyFacts::Disabled | KubeProxyFacts::Unknown(_) => 0,
    })
}

async fn kube_proxy(client: &Client) -> kube::Result<KubeProxyFacts> {
    let resource = ApiResource::erase::<Pod>(&());
    let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), KUBE_SYSTEM, &resource);
    for label in KUBE_PROXY_LABELS {
        let pods = api.list(&ListParams::default().labels(label).limit(1)).await?;
        let Some(pod) = pods.items.into_iter().next() else {
            continue;
        };
        let flags = pod_flags(&pod.data["spec"]);
        let (source, file) = match &flags.config_map {
            None => (format!("Pod {KUBE_SYSTEM}/{}", pod.name_any()), None),
            Some((name, key)) => match config_map(client, name, key).await {
                Ok(file) => (format!("ConfigMap {KUBE_SYSTEM}/{name}"), file),
                Err(kube::Error::Api(status)) if status.code == 403 => {
                    return Ok(KubeProxyFacts::Unknown(status.message.clone()));
                }
                Err(error) => return Err(error),
            },
        };
        return Ok(flags.facts(file.as_deref(), source));
    }
    // It may run outside of pods and be configured by kubeadm's ConfigMap.
    match config_map(client, "kube-proxy", "config.conf").await? {
        Some(file) => {
            let source = format!("ConfigMap {KUBE_SYSTEM}/kube-proxy");
            Ok(PodFlags::default().facts(Some(&file), source))
        }
        None => Ok(KubeProxyFacts::Unknown(format!(
            "no pod with label {} in {KUBE_SYSTEM}",
            KUBE_PROXY_LABELS.join(" or ")
        ))),
    }
}

async fn config_map(client: &Client, name: &str, key: &str) -> kube::Result<Option<String>> {
    let api: Api<ConfigMap> = Api::namespaced(client.clone(), KUBE_SYSTEM);
    let data = api.get_opt(name).await?.and_then(|object| object.data);
    Ok(data.and_then(|mut data| data.remove(key)))
}

/// Pods in the network of their node, without those of the stack.
async fn host_ports(client: &Client) -> kube::Result<Vec<HostPortUser>> {
    let resource = ApiResource::erase::<Pod>(&());
    let api: Api<DynamicObject> = Api::all_with(client.clone(), &resource);
    let mut found = Vec::new();
    let params = ListParams::default().fields("spec.hostNetwork=true");
    for_each(&api, params, |pod| {
        if pod.labels().get(MANAGED_BY).map(String::as_str) == Some(MANAGER) {
            return;
        }
        let name = pod.name_any();
        let is_metallb = detect::product(&name, pod.labels()) == Some(LoadBalancerProduct::MetalLb);
        let pod_ref = ObjectRef::new("Pod", &pod.namespace().unwrap_or_default(), &name);
        found.push(HostPortUser::new(pod_ref, is_metallb, &pod.data["spec"]));
    })
    .await?;
    Ok(found)
}

/// The Service of MetalLB's webhook, if the webhook refuses changes while nothing answers it.
async fn dead_webhook(client: &Client, namespace: &str) -> kube::Result<Option<String>> {
    let Some(object) = webhook(client).await? else {
        return Ok(None);
    };
    if !is_strict(&object.data, namespace) {
        return Ok(None);
    }
    let service = object.data["webhooks"][0]["clientConfig"]["service"]["name"].as_str();
    let service = service.unwrap_or_default();
    let slices: Api<EndpointSlice> = Api::namespaced(client.clone(), namespace);
    let of_service = ListParams::default().labels(&format!("kubernetes.io/service-name={service}"));
    let slices = slices.list(&of_service).await?;
    let mut endpoints = slices.iter().flat_map(|slice| &slice.endpoints);
    let is_ready = endpoints.any(|endpoint| {
        let conditions = endpoint.conditions.as_ref();
        conditions.and_then(|conditions| conditions.ready).unwrap_or(true)
    });
    Ok((!is_ready).then(|| format!("{namespace}/{service}")))
}

async fn bgp_objects(client: &Client, namespace: &str) -> kube::Result<Vec<String>> {
    // An object that cannot be decoded must not hide the others.
    let resource = ApiResource::erase::<BGPPeer>(&());
    let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), namespace, &resource);
    let mut found = Vec::new();
    let peers = for_each(&api, ListParams::default(), |peer| {
        found.extend(unsupported_fields(&peer))
    });
    // Before the first installation the CRD may not exist.
    ignore_missing_kind(peers.await)?;
    Ok(found)
}

/// The fields of a BGPPeer that the speakers do not support yet.
fn unsupported_fields(peer: &DynamicObject) -> Vec<String> {
    let is_set = |field: &&str| {
        let value = peer.data.pointer(&format!("/spec/{field}"));
        value.is_some_and(|value| value.as_str() != Some("") && *value != json!({}))
    };
    let fields = ["interface", "passwordSecret"].into_iter().filter(is_set);
    let namespace = peer.namespace().unwrap_or_default();
    fields
        .map(|field| format!("{field} of BGPPeer {namespace}/{}", peer.name_any()))
        .collect()
}

async fn pools(client: &Client, namespace: &str) -> kube::Result<Vec<PoolFacts>> {
    let api: Api<IPAddressPool> = Api::namespaced(client.clone(), namespace);
    let mut pools = Vec::new();
    // Before the first installation the CRD may not exist.
    ignore_missing_kind(for_each(&api, ListParams::default(), |pool| pools.push(pool_facts(&pool))).await)?;
    Ok(pools)
}

fn pool_facts(pool: &IPAddressPool) -> PoolFacts {
    let excluded = pool.annotations().get(EXCLUDED_ADDRESSES);
    let excluded = excluded.map(String::as_str).unwrap_or_default().split(',');
    PoolFacts {
        name: pool.name_any(),
        // The controller reports invalid entries in a condition of the pool.
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

/// The networks of Services. Before Kubernetes 1.33 they cannot be read; the address of the Service `kubernetes` is in
/// them.
async fn services(client: &Client) -> kube::Result<Vec<IpNet>> {
    let kind = GroupVersionKind::gvk("networking.k8s.io", "v1", "ServiceCIDR");
    let resource = ApiResource::from_gvk_with_plural(&kind, "servicecidrs");
    let api: Api<Object<CidrSpec, NotUsed>> = Api::all_with(client.clone(), &resource);
    let mut found = Vec::new();
    ignore_missing_kind(
        for_each(&api, ListParams::default(), |cidr| {
            found.extend(networks(&cidr.spec.cidrs))
        })
        .await,
    )?;
    if found.is_empty() {
        let api: Api<Service> = Api::namespaced(client.clone(), "default");
        let spec = api.get_opt("kubernetes").await?.and_then(|service| service.spec);
        let addresses = spec.and_then(|spec| spec.cluster_ips).unwrap_or_default();
        let addresses = addresses.iter().filter_map(|text| text.parse::<IpAddr>().ok());
        found.extend(addresses.map(IpNet::from));
    }
    Ok(found)
}

/// A kind that does not exist has no objects.
fn ignore_missing_kind(listed: kube::Result<()>) -> kube::Result<()> {
    match listed {
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        other => other,
    }
}

/// Visits every object of a kind, page by page.
async fn for_each<K>(api: &Api<K>, params: ListParams, mut visit: impl FnMut(K)) -> kube::Result<()>
where
    K: Clone + std::fmt::Debug + serde::de::DeserializeOwned,
{
    let mut params = params.limit(PAGE_SIZE);
    for _ in 0..MAX_PAGES {
        let page = api.list(&params).await?;
        page.items.into_iter().for_each(&mut visit);
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
