//! Events on objects, as `kubectl describe` shows them. Publishing never waits: events are queued, written by one
//! task, and given up after a few tries, because no decision may depend on them.
//!
//! kube's own recorder groups events by reason alone, so that "Assigned IP a" followed by "Assigned IP b" would show
//! the first address twice; it also keeps every event it wrote. Here each distinct event is written once.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use kube::api::PostParams;
use kube::{Api, Client};
use tokio::sync::mpsc;

use crate::text::truncate;
use crate::{Backoff, Key};

/// Events waiting to be written; more than that and the newest are dropped, with a log line. Room for two about each of ten
/// thousand Services, which the deletion of a large pool makes.
const QUEUE: usize = 32_768;
/// Requests under way at once.
const IN_FLIGHT: usize = 8;
/// Objects whose last event is remembered; beyond that the memory starts over, and one repeat may be written.
const REMEMBERED: usize = 65_536;
/// Delay before the first retry of a write; it doubles with each.
const FIRST_RETRY_DELAY: Duration = Duration::from_millis(500);
/// Longest delay between retries of a write.
const MAX_RETRY_DELAY: Duration = Duration::from_secs(4);
/// The API server's limit for a note, in bytes.
const NOTE_LIMIT: usize = 1024;

/// Whether an event is news or trouble.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum EventKind {
    /// Something happened as it should.
    Normal,
    /// Something needs attention.
    Warning,
}

/// Publishes events under one component's name. Clones share the queue.
#[derive(Clone, Debug)]
pub struct Events {
    queue: mpsc::Sender<Draft>,
    component: &'static str,
}

/// What an event is made of: a fraction of its size, for there may be thousands in the queue.
#[derive(Debug)]
struct Draft {
    regarding: Regarding,
    kind: EventKind,
    reason: Box<str>,
    action: &'static str,
    note: Box<str>,
    time: Timestamp,
}

/// The object that an event is about.
#[derive(Clone, Debug, Hash)]
pub struct Regarding {
    /// Its namespace and name.
    pub key: Key,
    /// Its group and version.
    pub api_version: &'static str,
    /// Its kind.
    pub kind: &'static str,
    /// Its uid, if it is known.
    pub uid: Option<Arc<str>>,
}

impl Events {
    /// Starts the writing task. `component` is what `kubectl describe` shows under "From"; `instance` is the pod.
    #[must_use]
    pub fn new(client: Client, component: &'static str, instance: &str) -> Self {
        let (queue, events) = mpsc::channel(QUEUE);
        tokio::spawn(write_all(client, events, component, instance.to_owned()));
        Self { queue, component }
    }

    /// Queues an event about an object. One that says the same as the last one about the same object is not written.
    ///
    /// `reason` and `action` are at most 128 bytes long, as the API asks; a longer `note` is cut at 1 KiB.
    pub fn publish(
        &self,
        regarding: Regarding,
        kind: EventKind,
        reason: &str,
        action: &'static str,
        note: String,
    ) {
        let draft = Draft {
            regarding,
            kind,
            reason: reason.into(),
            action,
            note: truncate(note, NOTE_LIMIT).into(),
            time: Timestamp::now(),
        };
        if let Err(error) = self.queue.try_send(draft) {
            tracing::warn!(component = self.component, %error, "event dropped");
        }
    }
}

impl Draft {
    fn event(self, component: &str, instance: &str) -> Event {
        let Regarding {
            key,
            api_version,
            kind,
            uid,
        } = self.regarding;
        let (namespace, name) = (key.namespace(), key.name());
        // Events about a cluster-scoped object live in `default`: kubectl looks for them there.
        let home = if namespace.is_empty() {
            "default"
        } else {
            namespace
        };
        Event {
            metadata: ObjectMeta {
                namespace: Some(home.to_owned()),
                name: Some(format!("{name}.{:x}", self.time.as_nanosecond())),
                ..ObjectMeta::default()
            },
            action: Some(self.action.to_owned()),
            event_time: Some(MicroTime(self.time)),
            note: Some(self.note.into()),
            reason: Some(self.reason.into()),
            regarding: Some(ObjectReference {
                api_version: Some(api_version.to_owned()),
                kind: Some(kind.to_owned()),
                name: Some(name.to_owned()),
                namespace: (!namespace.is_empty()).then(|| namespace.to_owned()),
                uid: uid.map(|uid| uid.to_string()),
                ..ObjectReference::default()
            }),
            reporting_controller: Some(component.to_owned()),
            reporting_instance: Some(instance.to_owned()),
            type_: Some(match self.kind {
                EventKind::Normal => "Normal".to_owned(),
                EventKind::Warning => "Warning".to_owned(),
            }),
            ..Event::default()
        }
    }
}

/// A reference to an object, for [`Events::publish`].
#[must_use]
pub fn reference(
    key: &Key,
    api_version: &'static str,
    kind: &'static str,
    uid: Option<Arc<str>>,
) -> Regarding {
    Regarding {
        key: key.clone(),
        api_version,
        kind,
        uid,
    }
}

/// Remembers the last event about each object, as hashes: 16 bytes an object.
#[derive(Default)]
struct Last {
    by_object: HashMap<u64, u64>,
}

impl Last {
    /// Whether this event says something new about its object.
    fn is_news(&mut self, draft: &Draft) -> bool {
        let object = hash(&draft.regarding);
        let says = hash(&(draft.kind, &draft.reason, &draft.note));
        if self.by_object.len() >= REMEMBERED {
            self.by_object.clear();
        }
        self.by_object.insert(object, says) != Some(says)
    }
}

fn hash(value: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

async fn write_all(client: Client, mut drafts: mpsc::Receiver<Draft>, component: &str, instance: String) {
    let mut last = Last::default();
    let mut under_way = FuturesUnordered::new();
    loop {
        tokio::select! {
            draft = drafts.recv(), if under_way.len() < IN_FLIGHT => match draft {
                Some(draft) if last.is_news(&draft) => {
                    under_way.push(write(client.clone(), draft.event(component, &instance)));
                }
                Some(_) => {}
                None => break,
            },
            Some(()) = under_way.next() => {}
        }
    }
    while under_way.next().await.is_some() {}
}

async fn write(client: Client, event: Event) {
    let api: Api<Event> = Api::namespaced(client, event.metadata.namespace.as_deref().unwrap_or("default"));
    let mut backoff = Backoff::new(FIRST_RETRY_DELAY, MAX_RETRY_DELAY);
    for tries_left in (0..5).rev() {
        match api.create(&PostParams::default(), &event).await {
            Ok(_) => return,
            // The object's namespace is going, or the role lacks the verb: trying again changes nothing.
            Err(kube::Error::Api(status)) if (400..500).contains(&status.code) && status.code != 429 => {
                tracing::debug!(reason = event.reason, error = %status.message, "event refused");
                return;
            }
            Err(error) if tries_left == 0 => tracing::warn!(reason = event.reason, %error, "event lost"),
            Err(_) => {
                tokio::time::sleep(backoff.next_delay()).await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(object: &str, reason: &str, note: &str) -> Draft {
        Draft {
            regarding: reference(&Key::new("ns", object), "v1", "Service", None),
            kind: EventKind::Normal,
            reason: reason.into(),
            action: "Test",
            note: note.into(),
            time: Timestamp::UNIX_EPOCH,
        }
    }

    #[test]
    fn an_event_that_repeats_the_last_one_about_its_object_is_not_written() {
        let mut last = Last::default();
        assert!(last.is_news(&event("a", "IPAllocated", "Assigned IP 1")));
        assert!(!last.is_news(&event("a", "IPAllocated", "Assigned IP 1")));
        assert!(last.is_news(&event("b", "IPAllocated", "Assigned IP 1")));
        assert!(last.is_news(&event("a", "IPAllocated", "Assigned IP 2")));
        assert!(
            last.is_news(&event("a", "IPAllocated", "Assigned IP 1")),
            "it changed in between: news again"
        );
    }
}
