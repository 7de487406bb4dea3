//! What the speaker tells people: events on the Service, with MetalLB's reasons and words where it has them.

use std::net::IpAddr;
use std::sync::Arc;

use lb_crds::names::REPORTER_SPEAKER;
use lb_l2::MacAddr;
use lb_runtime::ObjectKey;
use lb_runtime::events::{EventKind, Events, reference};

use crate::metrics::PROTOCOL;

/// Something to tell about an address of a Service.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ServiceEvent {
    /// The Service.
    pub service: ObjectKey,
    /// Its uid.
    pub uid: Arc<str>,
    /// The address.
    pub address: IpAddr,
    /// What it is.
    pub matter: EventReason,
}

/// What there is to tell.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum EventReason {
    /// This node announces it now, and did not before.
    Announcing,
    /// This node owns it and has no interface for it.
    NoInterface,
    /// No node announces it, for this reason.
    NotAnnounced(String),
    /// A stranger on the LAN answers for it.
    Conflict(MacAddr),
}

impl EventReason {
    /// The matter in words.
    #[must_use]
    pub fn describe(&self, address: IpAddr, node: &str) -> String {
        let ip = address.to_string();
        match self {
            Self::Announcing => format!("announcing from node {node:?} with protocol {PROTOCOL:?}"),
            Self::NoInterface => format!(
                "the interfaces specified by LB IP {ip:?} doesn't exist in assigned node {node:?} with protocol \
                 {PROTOCOL:?}"
            ),
            Self::NotAnnounced(reason) => reason.clone(),
            Self::Conflict(mac) => format!(
                "host {mac} outside the cluster also answers for {ip} (seen by node {node}): remove the address from that \
                 host or exclude it from its pool"
            ),
        }
    }
}

/// Publishes news as events.
#[derive(Clone, Debug)]
pub struct EventPublisher {
    events: Events,
    node: String,
}

impl EventPublisher {
    /// A reporter for the speaker in this pod, on this node.
    #[must_use]
    pub fn new(client: kube::Client, pod: &str, node: &str) -> Self {
        Self {
            events: Events::new(client, REPORTER_SPEAKER, pod),
            node: node.to_owned(),
        }
    }

    /// Queues the event.
    pub fn publish(&self, news: ServiceEvent) {
        let (kind, reason, action, note) = event(&news, &self.node);
        let service = reference(&news.service, "v1", "Service", Some(news.uid));
        self.events.publish(service, kind, reason, action, note);
    }
}

fn event(news: &ServiceEvent, node: &str) -> (EventKind, &'static str, &'static str, String) {
    let (kind, reason) = match &news.matter {
        EventReason::Announcing => (EventKind::Normal, "nodeAssigned"),
        EventReason::NoInterface => (EventKind::Warning, "announceFailed"),
        EventReason::NotAnnounced(_) => (EventKind::Warning, "notAnnounced"),
        EventReason::Conflict(_) => (EventKind::Warning, "addressConflict"),
    };
    (kind, reason, "Announce", news.matter.describe(news.address, node))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_have_the_reasons_and_words_of_metallb() {
        let news = |matter| ServiceEvent {
            service: ObjectKey::new("default", "web"),
            uid: "1".into(),
            address: IpAddr::from([192, 168, 50, 50]),
            matter,
        };
        let (_, reason, _, note) = event(&news(EventReason::Announcing), "n1");
        assert_eq!(
            (reason, &*note),
            (
                "nodeAssigned",
                r#"announcing from node "n1" with protocol "layer2""#
            )
        );
        let (_, reason, _, note) = event(&news(EventReason::NoInterface), "n1");
        assert_eq!(reason, "announceFailed");
        assert_eq!(
            note,
            r#"the interfaces specified by LB IP "192.168.50.50" doesn't exist in assigned node "n1" with protocol "layer2""#
        );
    }
}
