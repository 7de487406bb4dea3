//! The watches: Services and namespaces of the whole cluster; pools, advertisements and ServiceL2Statuses in the
//! namespace of the stack.

use futures::StreamExt;
use futures::stream::BoxStream;
use k8s_openapi::api::core::v1::{Namespace, Service};
use kube::runtime::watcher::Config;
use kube::{Api, Client};
use lb_crds::names::CONFIGURATION_STATE;
use lb_crds::{ConfigurationState, IPAddressPool, L2Advertisement, ServiceL2Status};
use lb_runtime::watch::{Change, watch};

/// Services of all namespaces and types: a Service that stops being a load balancer has to be seen.
#[must_use]
pub fn services(client: &Client) -> BoxStream<'static, Change<Service>> {
    watch(Api::all(client.clone()), Config::default()).boxed()
}

/// Namespaces, for their labels.
#[must_use]
pub fn namespaces(client: &Client) -> BoxStream<'static, Change<Namespace>> {
    watch(Api::all(client.clone()), Config::default()).boxed()
}

/// Pools.
#[must_use]
pub fn pools(client: &Client, namespace: &str) -> BoxStream<'static, Change<IPAddressPool>> {
    watch(Api::namespaced(client.clone(), namespace), Config::default()).boxed()
}

/// L2Advertisements.
#[must_use]
pub fn advertisements(client: &Client, namespace: &str) -> BoxStream<'static, Change<L2Advertisement>> {
    watch(Api::namespaced(client.clone(), namespace), Config::default()).boxed()
}

/// The ConfigurationState of the controller.
#[must_use]
pub fn states(client: &Client, namespace: &str) -> BoxStream<'static, Change<ConfigurationState>> {
    let only = Config::default().fields(&format!("metadata.name={CONFIGURATION_STATE}"));
    watch(Api::namespaced(client.clone(), namespace), only).boxed()
}

/// ServiceL2Statuses.
#[must_use]
pub fn l2_statuses(client: &Client, namespace: &str) -> BoxStream<'static, Change<ServiceL2Status>> {
    watch(Api::namespaced(client.clone(), namespace), Config::default()).boxed()
}
