//! What the speaker watches, as one queue of updates. Whole objects live no longer than it takes to read them.

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

/// Updates that may wait for the speaker; a watch that is ahead of it waits.
const QUEUE: usize = 512;
/// Objects that a listing asks for at a time: they are in memory as a whole until the last of them was read, and take ten
/// times more there than what is kept of them.
const PAGE: u32 = 100;

/// Everything that is watched, for ever: one task a kind. `class` is the class of Services that are ours. To be called
/// within a tokio runtime.
#[must_use]
pub fn updates(
    client: &Client,
    namespace: &str,
    class: Option<String>,
    refresh: &Refresh,
) -> mpsc::Receiver<Update> {
    let (sink, updates) = mpsc::channel(QUEUE);
    let sink = Sink {
        updates: sink,
        refresh: refresh.clone(),
    };
    let speakers = format!("{LABEL_APP}={APP},{LABEL_COMPONENT}={SPEAKER}");
    // The API server leaves out all other Services; one that changes its type is shown as deleted.
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
    // Headless Services have slices, and never an address.
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

/// Where the watches put what they see.
#[derive(Clone)]
struct Sink {
    updates: mpsc::Sender<Update>,
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
            let selection = selection.page_size(PAGE);
            let mut changes = pin!(watch_refreshed(api, selection, &self.refresh));
            while let Some(change) = changes.next().await {
                let update = match change {
                    Change::Apply((key, object)) => read(key, Some(object)),
                    Change::Delete(key) => read(key, None),
                    Change::Invalid { key, error } => Update::Invalid(kind, key, error),
                    Change::Synced => Update::Synced(kind),
                    Change::Listing => continue,
                };
                // The speaker is gone, and the process is about to be.
                if self.updates.send(update).await.is_err() {
                    return;
                }
            }
        });
    }
}
