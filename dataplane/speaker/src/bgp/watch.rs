//! The watches of BGPPeers, BGPAdvertisements, Communities and BFDProfiles, as one queue of updates.

use std::fmt::Debug;
use std::pin::pin;

use futures::StreamExt;
use kube::core::DeserializeGuard;
use kube::runtime::watcher::Config as Selection;
use kube::{Api, Client, Resource};
use lb_crds::{BFDProfile, BGPAdvertisement, BGPPeer, Community};
use lb_runtime::watch::{Change, Refresh, watch_refreshed};
use serde::de::DeserializeOwned;
use tokio::sync::mpsc;

use crate::bgp::bfd::BfdProfile;
use crate::bgp::configuration::{Kind, Update};
use crate::bgp::objects::{Advertisement, Aliases, Peer};

/// Capacity of the queue; a watch that finds it full waits.
const UPDATE_QUEUE_LEN: usize = 16;

/// Watches every kind in a task of its own, until the receiver is dropped. Call within a Tokio runtime.
#[must_use]
pub(crate) fn updates(client: &Client, namespace: &str, refresh: &Refresh) -> mpsc::Receiver<Update> {
    let (sink, updates) = mpsc::channel(UPDATE_QUEUE_LEN);
    feed(
        client,
        namespace,
        refresh,
        &sink,
        Kind::Peers,
        |name, object: Option<BGPPeer>| Update::Peer(name, object.map(Peer::read)),
    );
    feed(
        client,
        namespace,
        refresh,
        &sink,
        Kind::Advertisements,
        |name, object: Option<BGPAdvertisement>| Update::Advertisement(name, object.map(Advertisement::read)),
    );
    feed(
        client,
        namespace,
        refresh,
        &sink,
        Kind::Communities,
        |name, object: Option<Community>| Update::Community(name, object.map(Aliases::read)),
    );
    feed(
        client,
        namespace,
        refresh,
        &sink,
        Kind::BfdProfiles,
        |name, object: Option<BFDProfile>| Update::BfdProfile(name, object.map(BfdProfile::read)),
    );
    updates
}

fn feed<K>(
    client: &Client,
    namespace: &str,
    refresh: &Refresh,
    sink: &mpsc::Sender<Update>,
    kind: Kind,
    read: impl Fn(String, Option<K>) -> Update + Send + 'static,
) where
    K: Resource<DynamicType = (), Scope = kube::core::NamespaceResourceScope>
        + Clone
        + Debug
        + DeserializeOwned
        + Send
        + 'static,
{
    let api: Api<DeserializeGuard<K>> = Api::namespaced(client.clone(), namespace);
    let (sink, refresh) = (sink.clone(), refresh.clone());
    tokio::spawn(async move {
        let mut changes = pin!(watch_refreshed(api, Selection::default(), &refresh));
        while let Some(change) = changes.next().await {
            let update = match change {
                Change::Apply((key, object)) => read(key.name().to_owned(), Some(object)),
                Change::Delete(key) => read(key.name().to_owned(), None),
                Change::Invalid { key, error } => Update::Invalid(kind, key.name().to_owned(), error),
                Change::Synced => Update::Synced(kind),
                Change::Listing => continue,
            };
            // The process ends.
            if sink.send(update).await.is_err() {
                return;
            }
        }
    });
}
