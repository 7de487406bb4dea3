//! The ServiceL2Status of a Service whose address no node announces: it names no node, and its condition `Announced` says
//! why.
//!
//! One speaker writes it, the first in the election order among all nodes with a speaker. It never replaces the status of a
//! node that may announce the address: that node deletes its status itself when it withdraws. An owner replaces this one.

use std::net::IpAddr;

use k8s_openapi::jiff::Timestamp;
use lb_crds::ServiceL2StatusStatus;
use lb_crds::condition::find_condition;
use lb_crds::names::{LABEL_SERVICE_NAME, LABEL_SERVICE_NAMESPACE, NOT_ANNOUNCED};
use lb_runtime::ObjectKey;
use serde_json::{Value, json};

use super::l2_status::{StatusAction, label, object_name};
use super::objects::ReportedStatus;

/// Why no node announces the address of a Service.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct UnannouncedStatus {
    /// The first address of the Service.
    pub address: IpAddr,
    /// The cause, one of [`lb_crds::names::UNANNOUNCED_REASONS`].
    pub reason: Box<str>,
    /// The message, with names of nodes.
    pub message: Box<str>,
}

impl UnannouncedStatus {
    /// Reads the status of a Service that no node announces; `None` if a node does.
    #[must_use]
    pub fn read(status: &ServiceL2StatusStatus) -> Option<Self> {
        let condition = find_condition(&status.conditions, NOT_ANNOUNCED)?;
        (status.node.is_empty() && condition.status == "False").then_some(())?;
        Some(Self {
            address: status.address.parse().ok()?,
            reason: condition.reason.as_str().into(),
            message: condition.message.as_str().into(),
        })
    }

    /// The write that reports it, if one is needed. `uid` is that of our Node, `is_candidate` whether a node has a speaker.
    pub fn next_action<'a>(
        self,
        uid: &str,
        service: &ObjectKey,
        statuses: impl IntoIterator<Item = (&'a str, &'a ReportedStatus)>,
        is_candidate: impl Fn(&str) -> bool,
    ) -> Option<StatusAction> {
        let own_name = object_name(service);
        for (name, status) in statuses {
            if !status.node.is_empty() && (status.is_of_metallb() || is_candidate(&status.node)) {
                return None;
            }
            let is_ours =
                name == own_name && status.service == *service && status.owner.as_deref() == Some(uid);
            if is_ours && status.unannounced.as_deref() == Some(&self) {
                return None;
            }
        }
        Some(StatusAction::Report(self))
    }

    /// The object as this node applies it. `node` is the name and uid of this node, whose Node owns the object.
    #[must_use]
    pub fn applied_object(
        &self,
        namespace: &str,
        node: (&str, &str),
        service: &ObjectKey,
        now: Timestamp,
    ) -> Value {
        let (local_node, uid) = node;
        json!({
            "apiVersion": "metallb.io/v1beta1",
            "kind": "ServiceL2Status",
            "metadata": {
                "name": object_name(service),
                "namespace": namespace,
                "labels": {
                    LABEL_SERVICE_NAME: label(service.name()),
                    LABEL_SERVICE_NAMESPACE: label(service.namespace()),
                },
                "ownerReferences": [{"apiVersion": "v1", "kind": "Node", "name": local_node, "uid": uid}],
            },
            "spec": {},
            "status": {
                "serviceName": service.name(),
                "serviceNamespace": service.namespace(),
                "address": self.address,
                "conditions": [{
                    "type": NOT_ANNOUNCED,
                    "status": "False",
                    "reason": self.reason,
                    "message": self.message,
                    "lastTransitionTime": Timestamp::from_second(now.as_second()).unwrap_or(now).to_string(),
                }],
            },
        })
    }
}
