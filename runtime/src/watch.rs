//! Guarded watches: an endless stream of changes for one kind of object. A broken connection, an expired resource
//! version or an object that does not parse never ends it.

use std::collections::BTreeSet;
use std::fmt::Debug;
use std::sync::Arc;

use futures::{Stream, StreamExt, stream};
use kube::core::DeserializeGuard;
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Resource};
use serde::de::DeserializeOwned;

use crate::Key;

/// One change of the watched kind. Feeding every change into an index keeps it equal to what the API server holds.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Change<K> {
    /// The object exists and looks like this.
    Apply(K),
    /// The object is gone.
    Delete(Key),
    /// The object exists and cannot be understood; what was known of it no longer holds.
    Invalid {
        /// Which object.
        key: Key,
        /// Why it could not be parsed.
        error: String,
    },
    /// A new listing begins. What it delivers until [`Change::Synced`] comes in no useful order.
    Listing,
    /// Everything that exists has been delivered: after the first listing, and after each listing that follows a
    /// loss of connection.
    Synced,
}

/// Watches a kind for ever. Errors are logged and retried with backoff (0.8 s doubling to 30 s, with jitter).
///
/// Objects that vanished while the connection was lost are delivered as [`Change::Delete`] before the next
/// [`Change::Synced`]; for that, the stream remembers the keys (not the objects).
pub fn watch<K>(
    api: Api<DeserializeGuard<K>>,
    config: watcher::Config,
) -> impl Stream<Item = Change<K>> + Send
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + 'static,
{
    changes(events(api, config)).map(|change| match change {
        Change::Apply((_, object)) => Change::Apply(object),
        Change::Delete(key) => Change::Delete(key),
        Change::Invalid { key, error } => Change::Invalid { key, error },
        Change::Listing => Change::Listing,
        Change::Synced => Change::Synced,
    })
}

/// The same, and each [`Refresh::now`] drops the connection and lists anew. Each object comes with its key, always the same
/// copy: an index that keeps it shares it with this stream.
pub fn watch_refreshed<K>(
    api: Api<DeserializeGuard<K>>,
    config: watcher::Config,
    refresh: &Refresh,
) -> impl Stream<Item = Change<(Key, K)>> + Send
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + 'static,
{
    let mut refreshed = refresh.0.subscribe();
    refreshed.mark_unchanged();
    let first = events(api.clone(), config.clone()).boxed();
    let events = stream::unfold(
        (first, refreshed, api, config),
        |(mut current, mut refreshed, api, config)| async move {
            loop {
                tokio::select! {
                    Ok(()) = refreshed.changed() => current = events(api.clone(), config.clone()).boxed(),
                    event = current.next() => return event.map(|event| (event, (current, refreshed, api, config))),
                }
            }
        },
    );
    changes(events)
}

/// Makes watches list anew, for a program that learns by itself that its connections may be dead: a node whose cable
/// was out would otherwise wait for TCP to notice.
#[derive(Clone, Debug)]
pub struct Refresh(Arc<tokio::sync::watch::Sender<()>>);

impl Default for Refresh {
    fn default() -> Self {
        Self(Arc::new(tokio::sync::watch::Sender::new(())))
    }
}

impl Refresh {
    /// Drops the connection of every watch made with this handle; each lists anew at once.
    pub fn now(&self) {
        self.0.send_replace(());
    }
}

fn events<K>(
    api: Api<DeserializeGuard<K>>,
    config: watcher::Config,
) -> impl Stream<Item = Event<DeserializeGuard<K>>> + Send
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + 'static,
{
    watcher(api, config)
        .default_backoff()
        .filter_map(|event| async move {
            event
                .inspect_err(
                    |error| tracing::warn!(kind = %K::kind(&()), %error, "watch interrupted: trying again"),
                )
                .ok()
        })
}

fn changes<K>(
    events: impl Stream<Item = Event<DeserializeGuard<K>>> + Send,
) -> impl Stream<Item = Change<(Key, K)>> + Send
where
    K: Resource + Send + 'static,
{
    let changes = events.scan(Known::default(), |known, event| {
        let changes = known.changes(event);
        async move { Some(stream::iter(changes)) }
    });
    changes.flatten()
}

/// The keys delivered so far, to tell which objects vanished during a loss of connection.
#[derive(Default)]
struct Known {
    keys: BTreeSet<Key>,
    listing: Option<BTreeSet<Key>>,
}

impl Known {
    /// Takes in the key of an object that exists; returns the copy that is kept.
    fn keep(&mut self, key: Key) -> Key {
        if let Some(known) = self.keys.get(&key) {
            return known.clone();
        }
        self.keys.insert(key.clone());
        key
    }

    fn changes<K: Resource>(&mut self, event: Event<DeserializeGuard<K>>) -> Vec<Change<(Key, K)>> {
        match event {
            Event::Apply(object) => {
                let key = self.keep(Key::of(&object));
                vec![change(key, object)]
            }
            Event::Delete(object) => {
                let key = Key::of(&object);
                self.keys.remove(&key);
                vec![Change::Delete(key)]
            }
            Event::Init => {
                self.listing = Some(BTreeSet::new());
                vec![Change::Listing]
            }
            Event::InitApply(object) => {
                // Also into `keys` at once: a listing that breaks half way must not forget what it delivered.
                let key = self.keep(Key::of(&object));
                self.listing.get_or_insert_default().insert(key.clone());
                vec![change(key, object)]
            }
            Event::InitDone => {
                let listed = self.listing.take().unwrap_or_default();
                let vanished = std::mem::take(&mut self.keys)
                    .into_iter()
                    .filter(|key| !listed.contains(key));
                let mut changes: Vec<_> = vanished.map(Change::Delete).collect();
                changes.push(Change::Synced);
                self.keys = listed;
                changes
            }
        }
    }
}

fn change<K>(key: Key, object: DeserializeGuard<K>) -> Change<(Key, K)> {
    match object.0 {
        Ok(object) => Change::Apply((key, object)),
        Err(invalid) => Change::Invalid {
            key,
            error: invalid.error,
        },
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::ConfigMap;

    use super::*;

    fn object(name: &str) -> DeserializeGuard<ConfigMap> {
        let mut map = ConfigMap::default();
        map.metadata.namespace = Some("ns".to_owned());
        map.metadata.name = Some(name.to_owned());
        DeserializeGuard(Ok(map))
    }

    fn describe(changes: Vec<Change<(Key, ConfigMap)>>) -> Vec<String> {
        changes
            .into_iter()
            .map(|change| match change {
                Change::Apply((key, object)) => {
                    assert_eq!(key, Key::of(&object));
                    format!("apply {key}")
                }
                Change::Delete(key) => format!("delete {key}"),
                Change::Invalid { key, .. } => format!("invalid {key}"),
                Change::Listing => "listing".to_owned(),
                Change::Synced => "synced".to_owned(),
            })
            .collect()
    }

    fn feed(known: &mut Known, events: Vec<Event<DeserializeGuard<ConfigMap>>>) -> Vec<String> {
        events
            .into_iter()
            .flat_map(|event| describe(known.changes(event)))
            .collect()
    }

    #[test]
    fn an_object_that_vanished_while_disconnected_is_deleted_before_synced() {
        let mut known = Known::default();
        let first = vec![
            Event::Init,
            Event::InitApply(object("a")),
            Event::InitApply(object("b")),
            Event::InitDone,
        ];
        assert_eq!(
            feed(&mut known, first),
            ["listing", "apply ns/a", "apply ns/b", "synced"]
        );
        assert_eq!(feed(&mut known, vec![Event::Apply(object("c"))]), ["apply ns/c"]);
        let again = vec![Event::Init, Event::InitApply(object("b")), Event::InitDone];
        assert_eq!(
            feed(&mut known, again),
            ["listing", "apply ns/b", "delete ns/a", "delete ns/c", "synced"]
        );
    }

    #[test]
    fn a_listing_that_breaks_half_way_forgets_nothing() {
        let mut known = Known::default();
        feed(&mut known, vec![Event::Init, Event::InitApply(object("a"))]);
        let again = vec![Event::Init, Event::InitApply(object("b")), Event::InitDone];
        assert_eq!(
            feed(&mut known, again),
            ["listing", "apply ns/b", "delete ns/a", "synced"]
        );
    }

    #[test]
    fn an_object_that_does_not_parse_is_reported_by_its_key() {
        let bad = serde_json::json!({"metadata": {"namespace": "ns", "name": "bad"}, "data": 7});
        let guard: DeserializeGuard<ConfigMap> = serde_json::from_value(bad).unwrap();
        assert_eq!(
            feed(&mut Known::default(), vec![Event::Apply(guard)]),
            ["invalid ns/bad"]
        );
    }
}
