//! Events on Services, with the reasons and texts of MetalLB where it has them, and on the node about BGP sessions.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use lb_crds::names::REPORTER_SPEAKER;
use lb_l2::ownership::ConflictingHost;
use lb_runtime::ObjectKey;
use lb_runtime::events::{EventKind, Events, reference};

use crate::metrics::PROTOCOL;
use crate::verification::{conflicting_node, foreign_hosts};

/// How long events may take to be written during a shutdown.
const FLUSH_TIMEOUT: Duration = Duration::from_millis(500);

/// An event about an address of a Service.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ServiceEvent {
    /// The Service.
    pub service: ObjectKey,
    /// Its uid.
    pub uid: Arc<str>,
    /// The address.
    pub address: IpAddr,
    /// The reason.
    pub reason: EventReason,
}

/// The reason of an event.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum EventReason {
    /// This node started to announce the address.
    Announcing,
    /// This node should own the address and has no interface for it.
    NoInterface,
    /// No node announces the address, with the message why.
    NotAnnounced(String),
    /// Other hosts answer for the address; never empty.
    Conflict(Box<[ConflictingHost]>),
}

impl EventReason {
    /// The message of the event.
    #[must_use]
    pub fn message(&self, address: IpAddr, node: &str) -> String {
        let ip = address.to_string();
        match self {
            Self::Announcing => format!("announcing from node {node:?} with protocol {PROTOCOL:?}"),
            Self::NoInterface => format!(
                "the interfaces specified by LB IP {ip:?} doesn't exist in assigned node {node:?} with protocol \
                 {PROTOCOL:?}"
            ),
            Self::NotAnnounced(reason) => reason.clone(),
            Self::Conflict(hosts) => {
                let foreign: Vec<_> = hosts.iter().filter(|host| host.node.is_none()).collect();
                let foreign: Vec<_> = foreign.into_iter().map(|host| host.mac).collect();
                let nodes = hosts.iter().filter_map(|host| {
                    let name = host.node.as_deref()?;
                    Some(conflicting_node(name, host.mac, address))
                });
                let foreign = (!foreign.is_empty()).then(|| foreign_hosts(&foreign, address));
                let messages: Vec<_> = foreign.into_iter().chain(nodes).collect();
                format!("{} (seen by node {node})", messages.join("; "))
            }
        }
    }
}

/// A BGP session of this node came up, or ended.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct SessionEvent {
    /// Name of the BGPPeer.
    pub peer: String,
    /// The router.
    pub router: SocketAddr,
    /// Why it ended; `None` if it came up.
    pub ended: Option<String>,
}

impl SessionEvent {
    /// Kind, reason and note of the event.
    fn fields(&self) -> (EventKind, &'static str, String) {
        let Self { peer, router, ended } = self;
        match ended {
            None => (
                EventKind::Normal,
                "BGPSessionUp",
                format!("BGP session with {router} (BGPPeer {peer}) is up"),
            ),
            Some(reason) => (
                EventKind::Warning,
                "BGPSessionDown",
                format!("BGP session with {router} (BGPPeer {peer}) is down: {reason}"),
            ),
        }
    }
}

/// Publishes events on Services and on the node.
#[derive(Clone, Debug)]
pub struct EventPublisher {
    events: Events,
    node: String,
}

impl EventPublisher {
    /// A publisher for the speaker in this pod, on this node.
    #[must_use]
    pub fn new(client: kube::Client, pod: &str, node: &str) -> Self {
        Self {
            events: Events::new(client, REPORTER_SPEAKER, pod),
            node: node.to_owned(),
        }
    }

    /// Queues the event.
    pub fn publish(&self, event: ServiceEvent) {
        let (kind, reason, action, note) = fields(&event, &self.node);
        let service = reference(&event.service, "v1", "Service", Some(event.uid));
        self.events.publish(service, None, kind, reason, action, note);
    }

    /// Queues an event about a BGP session. `uid` is the node's, if it is known.
    pub fn publish_session(&self, event: &SessionEvent, uid: Option<&str>) {
        let (kind, reason, note) = event.fields();
        let node = reference(&ObjectKey::new("", &self.node), "v1", "Node", uid.map(Into::into));
        self.events.publish(node, None, kind, reason, "Announce", note);
    }

    /// Waits until the queued events are written, at most for a moment: a restart must not take long.
    pub(crate) async fn flush(&self) {
        self.events.flush(FLUSH_TIMEOUT).await;
    }
}

/// Kind, reason, action and note of an event.
fn fields(event: &ServiceEvent, node: &str) -> (EventKind, &'static str, &'static str, String) {
    let (kind, reason) = match &event.reason {
        EventReason::Announcing => (EventKind::Normal, "nodeAssigned"),
        EventReason::NoInterface => (EventKind::Warning, "announceFailed"),
        EventReason::NotAnnounced(_) => (EventKind::Warning, "notAnnounced"),
        EventReason::Conflict(_) => (EventKind::Warning, "addressConflict"),
    };
    (
        kind,
        reason,
        "Announce",
        event.reason.message(event.address, node),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn session_events_name_router_peer_and_reason() {
        let event = |ended: Option<&str>| SessionEvent {
            peer: "tor".to_owned(),
            router: "192.168.50.1:179".parse().unwrap(),
            ended: ended.map(str::to_owned),
        };
        let (_, reason, note) = event(None).fields();
        assert_eq!(
            (reason, &*note),
            (
                "BGPSessionUp",
                "BGP session with 192.168.50.1:179 (BGPPeer tor) is up"
            )
        );
        let (_, reason, note) = event(Some("connection refused")).fields();
        assert_eq!(reason, "BGPSessionDown");
        assert!(
            note.ends_with("(BGPPeer tor) is down: connection refused"),
            "{note}"
        );
    }

    #[test]
    fn events_have_metallbs_reasons_and_texts() {
        let event = |reason| ServiceEvent {
            service: ObjectKey::new("default", "web"),
            uid: "1".into(),
            address: IpAddr::from([192, 168, 50, 50]),
            reason,
        };
        let (_, reason, _, note) = fields(&event(EventReason::Announcing), "n1");
        assert_eq!(
            (reason, &*note),
            (
                "nodeAssigned",
                r#"announcing from node "n1" with protocol "layer2""#
            )
        );
        let (_, reason, _, note) = fields(&event(EventReason::NoInterface), "n1");
        assert_eq!(reason, "announceFailed");
        assert_eq!(
            note,
            r#"the interfaces specified by LB IP "192.168.50.50" doesn't exist in assigned node "n1" with protocol "layer2""#
        );
    }
}
