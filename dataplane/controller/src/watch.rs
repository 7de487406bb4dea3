//! The watches: Services and namespaces of the whole cluster; pools, advertisements, ServiceL2Statuses and the Pods of
//! speakers in the namespace of the stack.

use std::fmt::Debug;

use futures::StreamExt;
use futures::stream::BoxStream;
use k8s_openapi::api::core::v1::{Namespace, Node, Pod, Service};
use kube::core::DeserializeGuard;
use kube::runtime::watcher::Config;
use kube::{Api, Client, Resource};
use lb_crds::names::{APP, CONFIGURATION_STATE, LABEL_APP, LABEL_COMPONENT, SPEAKER};
use lb_crds::{ConfigurationState, IPAddressPool, L2Advertisement, ServiceL2Status};
use lb_runtime::watch::{Change, Refresh, watch, watch_refreshed};
use serde::de::DeserializeOwned;

/// Services of all namespaces and types: a Service that stops being a load balancer has to be seen.
#[must_use]
pub fn services(client: &Client, refresh: &Refresh) -> BoxStream<'static, Change<Service>> {
    refreshed(Api::all(client.clone()), refresh)
}

/// Namespaces, for their labels.
#[must_use]
pub fn namespaces(client: &Client, refresh: &Refresh) -> BoxStream<'static, Change<Namespace>> {
    refreshed(Api::all(client.clone()), refresh)
}

/// Nodes, for their addresses.
#[must_use]
pub fn nodes(client: &Client) -> BoxStream<'static, Change<Node>> {
    // Until the last one is read, a page is in memory as a whole.
    watch(Api::all(client.clone()), Config::default().page_size(100)).boxed()
}

/// Pools.
#[must_use]
pub fn pools(
    client: &Client,
    namespace: &str,
    refresh: &Refresh,
) -> BoxStream<'static, Change<IPAddressPool>> {
    refreshed(Api::namespaced(client.clone(), namespace), refresh)
}

/// L2Advertisements.
#[must_use]
pub fn advertisements(
    client: &Client,
    namespace: &str,
    refresh: &Refresh,
) -> BoxStream<'static, Change<L2Advertisement>> {
    refreshed(Api::namespaced(client.clone(), namespace), refresh)
}

fn refreshed<K>(api: Api<DeserializeGuard<K>>, refresh: &Refresh) -> BoxStream<'static, Change<K>>
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + 'static,
{
    watch_refreshed(api, Config::default(), refresh)
        .map(Change::without_key)
        .boxed()
}

/// The ConfigurationState of the controller.
#[must_use]
pub fn states(client: &Client, namespace: &str) -> BoxStream<'static, Change<ConfigurationState>> {
    let only = Config::default().fields(&format!("metadata.name={CONFIGURATION_STATE}"));
    watch(Api::namespaced(client.clone(), namespace), only).boxed()
}

/// Pods of speakers.
#[must_use]
pub fn speakers(client: &Client, namespace: &str) -> BoxStream<'static, Change<Pod>> {
    let only = Config::default().labels(&format!("{LABEL_APP}={APP},{LABEL_COMPONENT}={SPEAKER}"));
    watch(Api::namespaced(client.clone(), namespace), only).boxed()
}

/// ServiceL2Statuses.
#[must_use]
pub fn l2_statuses(client: &Client, namespace: &str) -> BoxStream<'static, Change<ServiceL2Status>> {
    watch(Api::namespaced(client.clone(), namespace), Config::default()).boxed()
}
