//! The operator's watches, merged into one stream of events.
//!
//! They cover the stack named `default`, all objects with the operator's label, the stack's pods, the nodes, and the CRD
//! ServiceMonitor. The API server filters by label and name.

use futures::stream::{BoxStream, SelectAll, StreamExt};
use kube::api::{Api, DynamicObject};
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, watcher};
use kube::{Client, ResourceExt};
use lb_crds::{ConfigurationState, LoadBalancerStack, ServiceL2Status, names};
use lb_runtime::watch::{Change, watch};

use k8s_openapi::api::core;
use k8s_openapi::api::core::v1::{Namespace, Node, Pod, Service};

use crate::deletion::blockers::BlockerEvent;
use crate::desired::render::{MANAGED_BY, MANAGER};
use crate::index::LiveObject;
use crate::keys::secret;
use crate::object_id::{Kind, ObjectId};
use crate::upgrade::objects::REVISION_LABEL;
use crate::upgrade::observer::Observation;

/// Name of the stack; there can be only one.
pub const STACK: &str = names::STACK;
/// CRD of the Prometheus Operator that selects scrape targets.
const MONITOR_DEFINITION: &str = "servicemonitors.monitoring.coreos.com";

/// A change in the cluster.
#[derive(Debug)]
pub enum Event {
    /// The stack.
    Stack(Box<Change<LoadBalancerStack>>),
    /// An object was added or changed.
    Applied(ObjectId, Box<LiveObject>),
    /// The object with this UID was deleted or lost the operator's label.
    Deleted(ObjectId, String),
    /// The complete list of a kind.
    Listed(Kind, Vec<(ObjectId, LiveObject)>),
    /// The DaemonSet controller could not create a pod.
    Refusal(Box<Change<core::v1::Event>>),
    /// A pod of the stack.
    Pod(Box<Change<Pod>>),
    /// A ConfigurationState, which may be the report of a speaker.
    SpeakerReport(Box<Change<ConfigurationState>>),
    /// A node of the cluster.
    Node(Box<Change<Node>>),
    /// Whether the CRD ServiceMonitor exists.
    Monitors(bool),
    /// A change of an object that may block a deletion.
    Blocker(Box<BlockerEvent>),
    /// A change of an object that the health checks of an upgrade observe.
    Observation(Box<Observation>),
}

/// The watches that always run.
pub fn events(client: &Client) -> SelectAll<BoxStream<'static, Event>> {
    let mut streams = SelectAll::new();
    streams.push(stack(client));
    streams.push(pods(client));
    streams.push(
        watch::<Node>(Api::all(client.clone()), watcher::Config::default())
            .map(|change| Event::Node(Box::new(change)))
            .boxed(),
    );
    streams.push(monitor_definition(client));
    for kind in Kind::ALL {
        if kind != Kind::ServiceMonitor {
            streams.push(objects(client, kind));
        }
    }
    streams
}

/// The watches during an upgrade.
pub fn observations(client: &Client, namespace: &str) -> BoxStream<'static, Event> {
    let any = watcher::Config::default();
    let services = watch::<Service>(Api::all(client.clone()), any.clone()).map(Observation::Service);
    let namespaces = watch::<Namespace>(Api::all(client.clone()), any.clone()).map(Observation::Namespace);
    let announced =
        watch(Api::namespaced(client.clone(), namespace), any.clone()).map(Observation::Announced);
    let pools = watch(Api::namespaced(client.clone(), namespace), any.clone()).map(Observation::Pool);
    let advertisements =
        watch(Api::namespaced(client.clone(), namespace), any).map(Observation::Advertisement);
    let observations = [
        services.boxed(),
        announced.boxed(),
        pools.boxed(),
        advertisements.boxed(),
        namespaces.boxed(),
    ];
    SelectAll::from_iter(observations)
        .map(|observation| Event::Observation(Box::new(observation)))
        .boxed()
}

/// The watches while the stack is being deleted.
pub fn deletion_blockers(client: &Client, namespace: &str) -> BoxStream<'static, Event> {
    let any = watcher::Config::default();
    let services = watch::<Service>(Api::all(client.clone()), any.clone()).map(BlockerEvent::Service);
    let announced = watch::<ServiceL2Status>(Api::namespaced(client.clone(), namespace), any);
    SelectAll::from_iter([services.boxed(), announced.map(BlockerEvent::Announced).boxed()])
        .map(|event| Event::Blocker(Box::new(event)))
        .boxed()
}

/// Pods of DaemonSets in a namespace that were refused by admission, a quota or Pod Security. A DaemonSet has no
/// condition for it.
pub fn refusals(client: &Client, namespace: &str) -> BoxStream<'static, Event> {
    let only = watcher::Config::default().fields("reason=FailedCreate,involvedObject.kind=DaemonSet");
    watch::<core::v1::Event>(Api::namespaced(client.clone(), namespace), only)
        .map(|change| Event::Refusal(Box::new(change)))
        .boxed()
}

/// The ConfigurationStates in a namespace.
pub fn speaker_reports(client: &Client, namespace: &str) -> BoxStream<'static, Event> {
    watch::<ConfigurationState>(
        Api::namespaced(client.clone(), namespace),
        watcher::Config::default(),
    )
    .map(|change| Event::SpeakerReport(Box::new(change)))
    .boxed()
}

fn stack(client: &Client) -> BoxStream<'static, Event> {
    let only = watcher::Config::default().fields(&format!("metadata.name={STACK}"));
    watch::<LoadBalancerStack>(Api::all(client.clone()), only)
        .map(|change| Event::Stack(Box::new(change)))
        .boxed()
}

fn pods(client: &Client) -> BoxStream<'static, Event> {
    let only = watcher::Config::default().labels(&format!(
        "{MANAGED_BY}={MANAGER},{}={}",
        names::LABEL_APP,
        names::APP
    ));
    watch::<Pod>(Api::all(client.clone()), only)
        .map(|change| Event::Pod(Box::new(change)))
        .boxed()
}

/// Watches the operator's objects of one kind.
pub fn objects(client: &Client, kind: Kind) -> BoxStream<'static, Event> {
    let mut only = watcher::Config::default().labels(&format!("{MANAGED_BY}={MANAGER}"));
    if kind == Kind::ControllerRevision {
        // The DaemonSet controller copies the labels of the pods to its own ControllerRevisions.
        only = only.labels(&format!("{MANAGED_BY}={MANAGER},{REVISION_LABEL}=true"));
    }
    if kind == Kind::Secret {
        // By name, because the operator is permitted to read only this Secret.
        only = only.fields(&format!("metadata.name={}", secret::SECRET_NAME));
    }
    raw(client, kind, only)
        .scan(Vec::new(), move |listing, event| {
            let event = match event {
                watcher::Event::Apply(object) => {
                    let (id, live) = identify(kind, object);
                    Some(Event::Applied(id, Box::new(live)))
                }
                watcher::Event::Delete(object) => {
                    let (id, live) = identify(kind, object);
                    Some(Event::Deleted(id, live.uid))
                }
                watcher::Event::Init => {
                    listing.clear();
                    None
                }
                watcher::Event::InitApply(object) => {
                    listing.push(identify(kind, object));
                    None
                }
                watcher::Event::InitDone => Some(Event::Listed(kind, std::mem::take(listing))),
            };
            async move { Some(event) }
        })
        .filter_map(|event| async move { event })
        .boxed()
}

fn monitor_definition(client: &Client) -> BoxStream<'static, Event> {
    let only = watcher::Config::default().fields(&format!("metadata.name={MONITOR_DEFINITION}"));
    raw(client, Kind::CustomResourceDefinition, only)
        .scan(false, |listed, event| {
            let event = match event {
                watcher::Event::Apply(object) => Some(Event::Monitors(is_established(&object))),
                watcher::Event::Delete(_) => Some(Event::Monitors(false)),
                watcher::Event::Init => {
                    *listed = false;
                    None
                }
                watcher::Event::InitApply(object) => {
                    *listed = is_established(&object);
                    None
                }
                watcher::Event::InitDone => Some(Event::Monitors(*listed)),
            };
            async move { Some(event) }
        })
        .filter_map(|event| async move { event })
        .boxed()
}

/// Whether the API server serves the CRD.
fn is_established(definition: &DynamicObject) -> bool {
    let conditions = definition.data.pointer("/status/conditions");
    let conditions = conditions.and_then(serde_json::Value::as_array);
    conditions.is_some_and(|conditions| {
        conditions
            .iter()
            .any(|condition| condition["type"] == "Established" && condition["status"] == "True")
    })
}

/// Watches a kind without a schema. Errors are logged and retried with backoff.
fn raw(
    client: &Client,
    kind: Kind,
    config: watcher::Config,
) -> impl futures::Stream<Item = watcher::Event<DynamicObject>> + Send + use<> {
    let api: Api<DynamicObject> = Api::all_with(client.clone(), &kind.api_resource());
    watcher(api, config)
        .default_backoff()
        .filter_map(move |event| async move {
            event
                .inspect_err(|error| tracing::warn!(%kind, %error, "watch interrupted; retrying"))
                .ok()
        })
}

fn identify(kind: Kind, object: DynamicObject) -> (ObjectId, LiveObject) {
    let id = ObjectId::new(
        kind,
        object.namespace().as_deref().unwrap_or_default(),
        &object.name_any(),
    );
    (id, LiveObject::new(kind, object))
}
