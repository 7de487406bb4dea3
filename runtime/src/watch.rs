//! Watch of one kind as an endless stream of changes. It survives broken connections, expired resource versions and
//! objects that cannot be decoded.

use std::collections::BTreeSet;
use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use backon::ExponentialBuilder;
use futures::{Stream, StreamExt, stream};
use kube::core::DeserializeGuard;
use kube::runtime::WatchStreamExt;
use kube::runtime::utils::ResetTimerBackoff;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Resource};
use serde::de::DeserializeOwned;

use crate::ObjectKey;

/// A change of the watched kind. An index that applies every change equals the state of the API server.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Change<K> {
    /// The object was added or changed.
    Apply(K),
    /// The object was deleted.
    Delete(ObjectKey),
    /// The object cannot be decoded; its previous state is outdated.
    Invalid {
        /// The object.
        key: ObjectKey,
        /// The decoding error.
        error: String,
    },
    /// A list begins. Objects arrive in no particular order until [`Change::Synced`].
    Listing,
    /// A list is complete: the first one, or one after a lost connection.
    Synced,
}

impl<K> Change<(ObjectKey, K)> {
    /// The change without the key of an applied object.
    #[must_use]
    pub fn without_key(self) -> Change<K> {
        match self {
            Self::Apply((_, object)) => Change::Apply(object),
            Self::Delete(key) => Change::Delete(key),
            Self::Invalid { key, error } => Change::Invalid { key, error },
            Self::Listing => Change::Listing,
            Self::Synced => Change::Synced,
        }
    }
}

/// Delay after the first of several errors of a watch; it doubles with each.
const FIRST_RETRY_DELAY: Duration = Duration::from_millis(800);
/// The longest delay after an error, before jitter: also the time in which a watch notices that the API server is back.
const MAX_RETRY_DELAY: Duration = Duration::from_secs(15);
/// Time without an error after which the delays begin again.
const RETRY_RESET: Duration = Duration::from_secs(120);

/// Watches a kind. Errors are logged and retried with backoff (0.8 s doubling to 15 s, with jitter).
///
/// An object that was deleted while the connection was lost is delivered as [`Change::Delete`] before the next
/// [`Change::Synced`]. For this, the stream remembers the keys of all objects.
pub fn watch<K>(
    api: Api<DeserializeGuard<K>>,
    config: watcher::Config,
) -> impl Stream<Item = Change<K>> + Send
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + 'static,
{
    changes(events(api, config)).map(Change::without_key)
}

/// Like [`watch`], and [`Refresh::now`] reconnects. The key of an object is always a clone of the same [`ObjectKey`],
/// so an index shares its text with this stream.
pub fn watch_refreshed<K>(
    api: Api<DeserializeGuard<K>>,
    config: watcher::Config,
    refresh: &Refresh,
) -> impl Stream<Item = Change<(ObjectKey, K)>> + Send + use<K>
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
                    // Nothing of the old connection follows a refresh.
                    biased;
                    Ok(()) = refreshed.changed() => current = events(api.clone(), config.clone()).boxed(),
                    event = current.next() => return event.map(|event| (event, (current, refreshed, api, config))),
                }
            }
        },
    );
    changes(events)
}

/// Makes watches reconnect and list again: for connections that may be dead, for example after a link was down, and for
/// a list that lags behind nothing.
#[derive(Clone, Debug)]
pub struct Refresh(Arc<tokio::sync::watch::Sender<()>>);

impl Default for Refresh {
    fn default() -> Self {
        Self(Arc::new(tokio::sync::watch::Sender::new(())))
    }
}

impl Refresh {
    /// Drops the connection of every watch created with this handle; each lists again immediately.
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
    let backoff = ExponentialBuilder::new()
        .with_min_delay(FIRST_RETRY_DELAY)
        .with_max_delay(MAX_RETRY_DELAY)
        .with_jitter()
        .without_max_times();
    watcher(api, config)
        .backoff(ResetTimerBackoff::new(
            watcher::ExponentialBackoff::from(backoff),
            RETRY_RESET,
        ))
        .filter_map(|event| async move {
            event
                .inspect_err(|error| tracing::warn!(kind = %K::kind(&()), %error, "watch failed; retrying"))
                .ok()
        })
}

fn changes<K>(
    events: impl Stream<Item = Event<DeserializeGuard<K>>> + Send,
) -> impl Stream<Item = Change<(ObjectKey, K)>> + Send
where
    K: Resource + Send + 'static,
{
    let changes = events.scan(DeliveredKeys::default(), |delivered, event| {
        let changes = delivered.changes(event);
        async move { Some(stream::iter(changes)) }
    });
    changes.flatten()
}

/// Keys of the delivered objects, to detect deletions after a lost connection.
#[derive(Default)]
struct DeliveredKeys {
    keys: BTreeSet<ObjectKey>,
    listing: Option<BTreeSet<ObjectKey>>,
}

impl DeliveredKeys {
    /// Adds a key; returns the stored copy.
    fn intern(&mut self, key: ObjectKey) -> ObjectKey {
        if let Some(delivered) = self.keys.get(&key) {
            return delivered.clone();
        }
        self.keys.insert(key.clone());
        key
    }

    fn changes<K: Resource>(&mut self, event: Event<DeserializeGuard<K>>) -> Vec<Change<(ObjectKey, K)>> {
        match event {
            Event::Apply(object) => {
                let key = self.intern(ObjectKey::of(&object));
                vec![change(key, object)]
            }
            Event::Delete(object) => {
                let key = ObjectKey::of(&object);
                self.keys.remove(&key);
                vec![Change::Delete(key)]
            }
            Event::Init => {
                self.listing = Some(BTreeSet::new());
                vec![Change::Listing]
            }
            Event::InitApply(object) => {
                // Also in `keys`, because the list may break before it is complete.
                let key = self.intern(ObjectKey::of(&object));
                self.listing.get_or_insert_default().insert(key.clone());
                vec![change(key, object)]
            }
            Event::InitDone => {
                let listed = self.listing.take().unwrap_or_default();
                let deleted = std::mem::take(&mut self.keys)
                    .into_iter()
                    .filter(|key| !listed.contains(key));
                let mut changes: Vec<_> = deleted.map(Change::Delete).collect();
                changes.push(Change::Synced);
                self.keys = listed;
                changes
            }
        }
    }
}

fn change<K>(key: ObjectKey, object: DeserializeGuard<K>) -> Change<(ObjectKey, K)> {
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

    fn describe(changes: Vec<Change<(ObjectKey, ConfigMap)>>) -> Vec<String> {
        changes
            .into_iter()
            .map(|change| match change {
                Change::Apply((key, object)) => {
                    assert_eq!(key, ObjectKey::of(&object));
                    format!("apply {key}")
                }
                Change::Delete(key) => format!("delete {key}"),
                Change::Invalid { key, .. } => format!("invalid {key}"),
                Change::Listing => "listing".to_owned(),
                Change::Synced => "synced".to_owned(),
            })
            .collect()
    }

    fn feed(delivered: &mut DeliveredKeys, events: Vec<Event<DeserializeGuard<ConfigMap>>>) -> Vec<String> {
        events
            .into_iter()
            .flat_map(|event| describe(delivered.changes(event)))
            .collect()
    }

    #[test]
    fn deletion_during_disconnect_is_delivered_before_synced() {
        let mut delivered = DeliveredKeys::default();
        let first = vec![
            Event::Init,
            Event::InitApply(object("a")),
            Event::InitApply(object("b")),
            Event::InitDone,
        ];
        assert_eq!(
            feed(&mut delivered, first),
            ["listing", "apply ns/a", "apply ns/b", "synced"]
        );
        assert_eq!(
            feed(&mut delivered, vec![Event::Apply(object("c"))]),
            ["apply ns/c"]
        );
        let again = vec![Event::Init, Event::InitApply(object("b")), Event::InitDone];
        assert_eq!(
            feed(&mut delivered, again),
            ["listing", "apply ns/b", "delete ns/a", "delete ns/c", "synced"]
        );
    }

    #[test]
    fn interrupted_list_keeps_delivered_keys() {
        let mut delivered = DeliveredKeys::default();
        feed(&mut delivered, vec![Event::Init, Event::InitApply(object("a"))]);
        let again = vec![Event::Init, Event::InitApply(object("b")), Event::InitDone];
        assert_eq!(
            feed(&mut delivered, again),
            ["listing", "apply ns/b", "delete ns/a", "synced"]
        );
    }

    #[test]
    fn undecodable_object_is_reported_by_key() {
        let bad = serde_json::json!({"metadata": {"namespace": "ns", "name": "bad"}, "data": 7});
        let guard: DeserializeGuard<ConfigMap> = serde_json::from_value(bad).unwrap();
        assert_eq!(
            feed(&mut DeliveredKeys::default(), vec![Event::Apply(guard)]),
            ["invalid ns/bad"]
        );
    }
}
