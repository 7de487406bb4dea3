//! Kubernetes Events. Publishing never blocks: one task writes the queue, and drops an event after five attempts.
//!
//! kube's `Recorder` groups events by reason only, so "Assigned IP a" followed by "Assigned IP b" would count the first
//! message twice. Here an event is written unless it equals the last one about the same object, or is one of too many.

use std::borrow::Cow;
use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use kube::api::PostParams;
use kube::{Api, Client};
use tokio::sync::{mpsc, oneshot};

use crate::rate_limit::RateLimiter;
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
/// Events with one reason about one object in a row, as in client-go: a user who changes it all the time causes no more.
/// Each reason has a limit of its own, so that a frequent one hides no other.
const EVENT_BURST: u32 = 25;
/// Afterwards there is one in this time.
const EVENT_INTERVAL: Duration = Duration::from_secs(60);
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
    /// Rare, so its size does not count.
    related: Option<Box<Regarding>>,
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
    pub api_version: Cow<'static, str>,
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

    /// Queues an event about one object, and optionally a second one that it concerns. It is not written if it equals the
    /// last one about the same object, or if there were too many with this reason about these objects.
    ///
    /// The API limits `reason` and `action` to 128 bytes. `note` is truncated to 1 KiB.
    pub fn publish(
        &self,
        regarding: Regarding,
        related: Option<Regarding>,
        kind: EventKind,
        reason: &str,
        action: &'static str,
        note: String,
    ) {
        let event = QueuedEvent {
            regarding,
            related: related.map(Box::new),
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
        let (namespace, name) = (self.regarding.key.namespace(), self.regarding.key.name());
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
            related: self.related.as_deref().map(Regarding::to_reference),
            regarding: Some(self.regarding.to_reference()),
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

impl Regarding {
    fn to_reference(&self) -> ObjectReference {
        let namespace = self.key.namespace();
        ObjectReference {
            api_version: Some(self.api_version.to_string()),
            kind: Some(self.kind.to_owned()),
            name: Some(self.key.name().to_owned()),
            namespace: (!namespace.is_empty()).then(|| namespace.to_owned()),
            uid: self.uid.as_ref().map(ToString::to_string),
            ..ObjectReference::default()
        }
    }
}

/// The reference to an object for [`Events::publish`].
#[must_use]
pub fn reference(
    key: &ObjectKey,
    api_version: impl Into<Cow<'static, str>>,
    kind: &'static str,
    uid: Option<Arc<str>>,
) -> Regarding {
    Regarding {
        key: key.clone(),
        api_version: api_version.into(),
        kind,
        uid,
    }
}

/// Decides which events are written. Objects and contents are kept as hashes.
struct EventFilter {
    /// The content of the last event about each object.
    last: HashMap<u64, u64>,
    /// By object, related object and reason.
    limiter: RateLimiter<u64>,
}

impl EventFilter {
    fn new() -> Self {
        Self {
            last: HashMap::new(),
            limiter: RateLimiter::new(EVENT_BURST, EVENT_INTERVAL),
        }
    }

    /// Records the event; returns whether to write it: it differs from the last one about its object, and there were
    /// not too many of its kind.
    fn record(&mut self, now: Instant, event: &QueuedEvent) -> bool {
        let object = hash(&event.regarding);
        let content = hash(&(event.kind, &event.reason, &event.note));
        if self.last.get(&object) == Some(&content) {
            return false;
        }
        let limited = hash(&(&event.regarding, &event.related, &event.reason));
        if self.limiter.admit(now, &limited).is_err() {
            return false;
        }
        if self.last.len() >= MAX_REMEMBERED_OBJECTS {
            self.last.clear();
        }
        self.last.insert(object, content);
        true
    }
}

fn hash(value: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

async fn write_all(client: Client, mut queue: mpsc::Receiver<Item>, component: &str, instance: String) {
    let mut filter = EventFilter::new();
    let mut in_flight = FuturesUnordered::new();
    loop {
        tokio::select! {
            item = queue.recv(), if in_flight.len() < MAX_IN_FLIGHT => match item {
                Some(Item::Event(event)) if filter.record(tokio::time::Instant::now().into_std(), &event) => {
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
            related: None,
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
                    None,
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
    fn a_frequent_event_is_limited_and_hides_no_other() {
        let start = Instant::now();
        let mut filter = EventFilter::new();
        let mut written = 0;
        for second in 0..600 {
            let flip = event("a", "LoadBalancerFailed", &format!("value {}", second % 2));
            written += u32::from(filter.record(start + Duration::from_secs(second), &flip));
        }
        assert!((EVENT_BURST..=EVENT_BURST + 10).contains(&written), "{written}");
        let now = start + Duration::from_secs(599);
        assert!(!filter.record(now, &event("a", "LoadBalancerFailed", "value 2")));
        assert!(filter.record(now, &event("b", "LoadBalancerFailed", "value 0")));
        assert!(filter.record(now, &event("a", "IPAllocated", "Assigned IP 1")));
    }

    #[test]
    fn each_related_object_has_a_limit_of_its_own() {
        let now = Instant::now();
        let mut filter = EventFilter::new();
        for number in 0..100 {
            let mut corrected = event("stack", "DriftCorrected", &format!("object {number}"));
            let related = ObjectKey::new("ns", format!("object-{number}"));
            corrected.related = Some(Box::new(reference(&related, "v1", "ConfigMap", None)));
            assert!(filter.record(now, &corrected), "{number}");
        }
    }

    #[test]
    fn repetition_of_the_last_event_is_not_written() {
        let now = Instant::now();
        let mut filter = EventFilter::new();
        assert!(filter.record(now, &event("a", "IPAllocated", "Assigned IP 1")));
        assert!(!filter.record(now, &event("a", "IPAllocated", "Assigned IP 1")));
        assert!(filter.record(now, &event("b", "IPAllocated", "Assigned IP 1")));
        assert!(filter.record(now, &event("a", "IPAllocated", "Assigned IP 2")));
        assert!(
            filter.record(now, &event("a", "IPAllocated", "Assigned IP 1")),
            "the event is not a repetition of the last one"
        );
    }
}
