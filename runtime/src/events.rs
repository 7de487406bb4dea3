//! Kubernetes Events. Publishing never blocks: one task writes the queue, and drops an event after five attempts.
//!
//! kube's `Recorder` groups events by reason only, so "Assigned IP a" followed by "Assigned IP b" would count the first
//! message twice. Here an event is written unless it equals the last one about the same object.

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
use tokio::sync::{mpsc, oneshot};

use crate::text::truncate;
use crate::{Backoff, ObjectKey};

/// Capacity of the queue; new events are dropped while it is full. Deleting a large pool causes two events for each of
/// ten thousand Services.
const QUEUE_CAPACITY: usize = 32_768;
/// Concurrent write requests.
const MAX_IN_FLIGHT: usize = 8;
/// Objects whose last event is remembered. When the limit is reached, all are forgotten, and one event may repeat.
const MAX_REMEMBERED_OBJECTS: usize = 65_536;
/// Time limit of one attempt to write an event.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);
/// Attempts to write one event.
const MAX_ATTEMPTS: u32 = 5;
/// Delay before the first retry of a write; it doubles with each.
const FIRST_RETRY_DELAY: Duration = Duration::from_millis(500);
/// Longest delay between retries of a write.
const MAX_RETRY_DELAY: Duration = Duration::from_secs(4);
/// Events about one object in a row, as in client-go: a user who changes it all the time causes no more.
const EVENT_BURST: i64 = 25;
/// Afterwards there is one in this time.
const EVENT_INTERVAL_SECONDS: i64 = 60;
/// Limit of the API server for `note`, in bytes.
const NOTE_LIMIT: usize = 1024;

/// The `type` of an event.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum EventKind {
    /// An expected change.
    Normal,
    /// A problem.
    Warning,
}

/// Publishes the events of one component. Clones share the queue.
#[derive(Clone, Debug)]
pub struct Events {
    queue: mpsc::Sender<Item>,
    component: &'static str,
}

/// An item of the queue.
#[derive(Debug)]
enum Item {
    Event(QueuedEvent),
    /// Answer when every event before is written or dropped.
    Flush(oneshot::Sender<()>),
}

/// The content of an [`Event`], in a fraction of its size: the queue may hold thousands.
#[derive(Debug)]
struct QueuedEvent {
    regarding: Regarding,
    kind: EventKind,
    reason: Box<str>,
    action: &'static str,
    note: Box<str>,
    time: Timestamp,
}

/// The object of an event.
#[derive(Clone, Debug, Hash)]
pub struct Regarding {
    /// Namespace and name.
    pub key: ObjectKey,
    /// Group and version.
    pub api_version: &'static str,
    /// Kind.
    pub kind: &'static str,
    /// UID, if known.
    pub uid: Option<Arc<str>>,
}

impl Events {
    /// Starts the writer task. `kubectl describe` shows `component` in the column "From"; `instance` is the pod name.
    #[must_use]
    pub fn new(client: Client, component: &'static str, instance: &str) -> Self {
        let (queue, events) = mpsc::channel(QUEUE_CAPACITY);
        tokio::spawn(write_all(client, events, component, instance.to_owned()));
        Self { queue, component }
    }

    /// Queues an event. It is not written if it equals the last one about the same object.
    ///
    /// The API limits `reason` and `action` to 128 bytes. `note` is truncated to 1 KiB.
    pub fn publish(
        &self,
        regarding: Regarding,
        kind: EventKind,
        reason: &str,
        action: &'static str,
        note: String,
    ) {
        let event = QueuedEvent {
            regarding,
            kind,
            reason: reason.into(),
            action,
            note: truncate(note, NOTE_LIMIT).into(),
            time: Timestamp::now(),
        };
        if let Err(error) = self.queue.try_send(Item::Event(event)) {
            tracing::warn!(component = self.component, %error, "event queue is full; event dropped");
        }
    }

    /// Waits until all queued events are written, at most for a time. For shutdown.
    pub async fn flush(&self, limit: Duration) {
        let (done, flushed) = oneshot::channel();
        let flush = async {
            if self.queue.send(Item::Flush(done)).await.is_ok() {
                // It is dropped only with the writer.
                let _ = flushed.await;
            }
        };
        if tokio::time::timeout(limit, flush).await.is_err() {
            let left = self.queue.max_capacity() - self.queue.capacity();
            tracing::warn!(component = self.component, left, "shutdown with unwritten events");
        }
    }
}

impl QueuedEvent {
    fn into_event(self, component: &str, instance: &str) -> Event {
        let Regarding {
            key,
            api_version,
            kind,
            uid,
        } = self.regarding;
        let (namespace, name) = (key.namespace(), key.name());
        // kubectl expects events about cluster-scoped objects in `default`.
        let event_namespace = if namespace.is_empty() {
            "default"
        } else {
            namespace
        };
        Event {
            metadata: ObjectMeta {
                namespace: Some(event_namespace.to_owned()),
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

/// The reference to an object for [`Events::publish`].
#[must_use]
pub fn reference(
    key: &ObjectKey,
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

/// The last event about each object, as hashes: 32 bytes per object.
#[derive(Default)]
struct LastEvents {
    by_object: HashMap<u64, LastEvent>,
}

struct LastEvent {
    content: u64,
    /// How many events about the object may be written now, at the time `since`, in seconds since 1970.
    budget: i64,
    since: i64,
}

impl LastEvents {
    /// Records the event; returns whether to write it: it differs from the last one about its object, and there were
    /// not too many about it.
    fn record(&mut self, event: &QueuedEvent) -> bool {
        let object = hash(&event.regarding);
        let content = hash(&(event.kind, &event.reason, &event.note));
        let now = event.time.as_second();
        if self.by_object.len() >= MAX_REMEMBERED_OBJECTS {
            self.by_object.clear();
        }
        let Some(last) = self.by_object.get_mut(&object) else {
            let (budget, since) = (EVENT_BURST - 1, now);
            self.by_object.insert(
                object,
                LastEvent {
                    content,
                    budget,
                    since,
                },
            );
            return true;
        };
        if last.content == content {
            return false;
        }
        let gained = now.saturating_sub(last.since).max(0) / EVENT_INTERVAL_SECONDS;
        if gained > 0 {
            last.budget = last.budget.saturating_add(gained).min(EVENT_BURST);
            last.since = now;
        }
        if last.budget == 0 {
            return false;
        }
        last.budget -= 1;
        last.content = content;
        true
    }
}

fn hash(value: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

async fn write_all(client: Client, mut queue: mpsc::Receiver<Item>, component: &str, instance: String) {
    let mut last_events = LastEvents::default();
    let mut in_flight = FuturesUnordered::new();
    loop {
        tokio::select! {
            item = queue.recv(), if in_flight.len() < MAX_IN_FLIGHT => match item {
                Some(Item::Event(event)) if last_events.record(&event) => {
                    in_flight.push(write(client.clone(), event.into_event(component, &instance)));
                }
                Some(Item::Event(_)) => {}
                Some(Item::Flush(done)) => {
                    while in_flight.next().await.is_some() {}
                    // Nobody waits after the time limit.
                    let _ = done.send(());
                }
                None => break,
            },
            Some(()) = in_flight.next() => {}
        }
    }
    while in_flight.next().await.is_some() {}
}

async fn write(client: Client, event: Event) {
    let api: Api<Event> = Api::namespaced(client, event.metadata.namespace.as_deref().unwrap_or("default"));
    let mut backoff = Backoff::new(FIRST_RETRY_DELAY, MAX_RETRY_DELAY);
    for attempt in 1..=MAX_ATTEMPTS {
        let created = tokio::time::timeout(WRITE_TIMEOUT, api.create(&PostParams::default(), &event)).await;
        let error = match created {
            Ok(Ok(_)) => return,
            // The namespace is terminating, or RBAC forbids it: a retry cannot succeed.
            Ok(Err(kube::Error::Api(status))) if (400..500).contains(&status.code) && status.code != 429 => {
                tracing::debug!(reason = event.reason, error = %status.message, "event rejected by the API server");
                return;
            }
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("no response for {} s", WRITE_TIMEOUT.as_secs()),
        };
        if attempt == MAX_ATTEMPTS {
            tracing::warn!(reason = event.reason, error, "failed to write event; dropped");
        } else {
            tokio::time::sleep(backoff.next_delay()).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    fn event(object: &str, reason: &str, note: &str) -> QueuedEvent {
        QueuedEvent {
            regarding: reference(&ObjectKey::new("ns", object), "v1", "Service", None),
            kind: EventKind::Normal,
            reason: reason.into(),
            action: "Test",
            note: note.into(),
            time: Timestamp::UNIX_EPOCH,
        }
    }

    /// An API server that stores events, after a moment.
    fn slow_client(stored: &Arc<AtomicUsize>) -> Client {
        let stored = stored.clone();
        let service = tower::service_fn(move |request: http::Request<kube::client::Body>| {
            let stored = stored.clone();
            async move {
                tokio::time::sleep(Duration::from_millis(5)).await;
                stored.fetch_add(1, Ordering::Relaxed);
                let body = request.into_body().collect_bytes().await?;
                Ok::<_, kube::Error>(http::Response::new(kube::client::Body::from(body)))
            }
        });
        Client::new(service, "default")
    }

    #[test]
    fn flush_writes_all_queued_events() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let stored = Arc::default();
            let events = Events::new(slow_client(&stored), "test", "pod-0");
            for number in 0..500 {
                let service = reference(&ObjectKey::new("ns", format!("s{number}")), "v1", "Service", None);
                events.publish(
                    service,
                    EventKind::Normal,
                    "IPAllocated",
                    "Assign",
                    "Assigned".to_owned(),
                );
            }
            events.flush(Duration::from_secs(10)).await;
            assert_eq!(stored.load(Ordering::Relaxed), 500);
        });
    }

    #[test]
    fn events_about_one_object_are_limited() {
        let mut last_events = LastEvents::default();
        let mut written = 0;
        for second in 0..600i64 {
            let mut flip = event("a", "LoadBalancerFailed", &format!("value {}", second % 2));
            flip.time = Timestamp::from_second(1_700_000_000 + second).unwrap();
            written += i64::from(last_events.record(&flip));
        }
        assert!((EVENT_BURST..=EVENT_BURST + 10).contains(&written), "{written}");
        assert!(
            last_events.record(&event("b", "IPAllocated", "Assigned IP 1")),
            "others are not affected"
        );
    }

    #[test]
    fn repetition_of_the_last_event_is_not_written() {
        let mut last_events = LastEvents::default();
        assert!(last_events.record(&event("a", "IPAllocated", "Assigned IP 1")));
        assert!(!last_events.record(&event("a", "IPAllocated", "Assigned IP 1")));
        assert!(last_events.record(&event("b", "IPAllocated", "Assigned IP 1")));
        assert!(last_events.record(&event("a", "IPAllocated", "Assigned IP 2")));
        assert!(
            last_events.record(&event("a", "IPAllocated", "Assigned IP 1")),
            "the event is not a repetition of the last one"
        );
    }
}
