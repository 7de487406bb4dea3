//! The watches, as one queue of updates. Whole objects are dropped as soon as they are read.

use std::fmt::Debug;
use std::pin::pin;

use futures::StreamExt;
use k8s_openapi::api::core::v1;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::core::DeserializeGuard;
use kube::runtime::watcher::Config as Selection;
use kube::{Api, Client, Resource};
use lb_crds::names::{APP, LABEL_APP, LABEL_COMPONENT, SPEAKER};
use lb_crds::{IPAddressPool, L2Advertisement, ServiceL2Status};
use lb_runtime::ObjectKey;
use lb_runtime::watch::{Change, Refresh, watch_refreshed};
use serde::de::DeserializeOwned;
use tokio::sync::mpsc;

use crate::k8s::index::{Kind, Update};
use crate::k8s::objects::{
    Advertisement, LABEL_SERVICE, Node, Pool, ReportedStatus, Service, Slice, Speaker,
};

/// Capacity of the queue; a watch that finds it full waits.
const UPDATE_QUEUE_LEN: usize = 512;
/// Objects per page of a list. Until the last one is read, a page is in memory as a whole, at ten times the size of the
/// parts that are kept.
const PAGE_SIZE: u32 = 100;

/// An update, and the newest resource version up to which the kind is known with it; 0 if there is no newer one.
pub type VersionedUpdate = (u64, Update);

/// Watches every kind in a task of its own, until the receiver is dropped. `class` is the load balancer class of Services to
/// announce. Call within a Tokio runtime.
#[must_use]
pub fn updates(
    client: &Client,
    namespace: &str,
    class: Option<String>,
    refresh: &Refresh,
) -> mpsc::Receiver<VersionedUpdate> {
    let (sink, updates) = mpsc::channel(UPDATE_QUEUE_LEN);
    let sink = Sink {
        updates: sink,
        refresh: refresh.clone(),
    };
    let speakers = format!("{LABEL_APP}={APP},{LABEL_COMPONENT}={SPEAKER}");
    // The API server filters; a Service that changes its type is reported as deleted.
    sink.clone().feed(
        Api::all(client.clone()),
        Selection::default().fields("spec.type=LoadBalancer"),
        Kind::Services,
        move |key, object: Option<v1::Service>| {
            Update::Service(
                key,
                object.and_then(|object| Service::read(object, class.as_deref())),
            )
        },
    );
    // Headless Services never have an address.
    sink.clone().feed(
        Api::all(client.clone()),
        Selection::default().labels(&format!("{LABEL_SERVICE},!service.kubernetes.io/headless")),
        Kind::EndpointSlices,
        |key, object: Option<EndpointSlice>| Update::Slice(key, object.and_then(Slice::read)),
    );
    sink.clone().feed(
        Api::all(client.clone()),
        Selection::default(),
        Kind::Nodes,
        |key, object: Option<v1::Node>| Update::Node(key.name().to_owned(), object.map(Node::read)),
    );
    sink.clone().feed(
        Api::namespaced(client.clone(), namespace),
        Selection::default(),
        Kind::Pools,
        |key, object: Option<IPAddressPool>| Update::Pool(key.name().to_owned(), object.map(Pool::read)),
    );
    sink.clone().feed(
        Api::namespaced(client.clone(), namespace),
        Selection::default(),
        Kind::Advertisements,
        |key, object: Option<L2Advertisement>| {
            Update::Advertisement(key.name().to_owned(), object.map(Advertisement::read))
        },
    );
    sink.clone().feed(
        Api::namespaced(client.clone(), namespace),
        Selection::default().labels(&speakers),
        Kind::Speakers,
        |key, object: Option<v1::Pod>| Update::Speaker(key.name().to_owned(), object.and_then(Speaker::read)),
    );
    sink.clone().feed(
        Api::namespaced(client.clone(), namespace),
        Selection::default(),
        Kind::Statuses,
        |key, object: Option<ServiceL2Status>| Update::Status(key, object.map(ReportedStatus::read)),
    );
    updates
}

/// The queue of the watches.
#[derive(Clone)]
struct Sink {
    updates: mpsc::Sender<VersionedUpdate>,
    refresh: Refresh,
}

impl Sink {
    fn feed<K>(
        self,
        api: Api<DeserializeGuard<K>>,
        selection: Selection,
        kind: Kind,
        read: impl Fn(ObjectKey, Option<K>) -> Update + Send + 'static,
    ) where
        K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + 'static,
    {
        tokio::spawn(async move {
            let selection = selection.page_size(PAGE_SIZE);
            let mut changes = pin!(watch_refreshed(api, selection, &self.refresh));
            let mut versions = Versions::default();
            while let Some(change) = changes.next().await {
                let version = versions.after(&change);
                let update = match change {
                    Change::Apply((key, object)) => read(key, Some(object)),
                    Change::Delete(key) => read(key, None),
                    Change::Invalid { key, error } => Update::Invalid(kind, key, error),
                    Change::Synced => Update::Synced(kind),
                    Change::Listing => continue,
                };
                // The process ends.
                if self.updates.send((version, update)).await.is_err() {
                    return;
                }
            }
        });
    }
}

/// Finds the newest resource version up to which a kind is known. Resource versions of one cluster are numbers that grow
/// with each write of any object.
#[derive(Default)]
struct Versions {
    /// The newest version in a list that is not complete: its objects come in no particular order.
    listed: Option<u64>,
}

impl Versions {
    /// Returns the version that is known with this change; 0 if there is no newer one.
    fn after<K: Resource>(&mut self, change: &Change<(ObjectKey, K)>) -> u64 {
        match change {
            Change::Apply((_, object)) => {
                let version = object.meta().resource_version.as_deref();
                let version = version.and_then(|version| version.parse::<u64>().ok());
                let version = version.unwrap_or_default();
                match &mut self.listed {
                    Some(listed) => {
                        *listed = version.max(*listed);
                        0
                    }
                    None => version,
                }
            }
            Change::Listing => {
                self.listed = Some(0);
                0
            }
            Change::Synced => self.listed.take().unwrap_or_default(),
            Change::Delete(_) | Change::Invalid { .. } => 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn version_of_a_list_counts_when_it_is_complete() {
        let applied = |version: &str| {
            let mut node = v1::Node::default();
            node.metadata.resource_version = Some(version.to_owned());
            Change::Apply((ObjectKey::of(&node), node))
        };
        let key = ObjectKey::of(&v1::Node::default());
        let mut versions = Versions::default();
        let changes = [
            (applied("3"), 3),
            (Change::Listing, 0),
            (applied("9"), 0),
            (applied("5"), 0),
            (applied("not a number"), 0),
            (Change::Synced, 9),
            (applied("11"), 11),
            (Change::Delete(key), 0),
            (Change::Listing, 0),
            (Change::Synced, 0),
        ];
        for (change, version) in changes {
            assert_eq!(versions.after(&change), version, "{change:?}");
        }
    }
}
