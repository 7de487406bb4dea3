//! The health of an announced address as other nodes see it, and its representation in a ServiceL2Status: conditions for
//! people, and the fields `verifiedBy` and `conflictingMAC`, which are read back. Pure: time is an argument.
//!
//! A result stays until a different one replaces it: the same result from another node changes nothing, and a restarted
//! speaker keeps the results of its predecessor. At rest, nothing is written.

use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use k8s_openapi::jiff::Timestamp;
use lb_crds::condition::find_condition;
use lb_crds::names::{ADDRESS_CONFLICT, NO_REPLY, VERIFIED};
use lb_crds::service_l2_status::ServiceL2StatusStatus;
use lb_l2::MacAddr;

/// The health of an address that this node announces.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct AddressHealth {
    /// The last verification; `None` before the first.
    pub verification: Option<Verification>,
    /// The first other host that answers too.
    pub conflict: Option<ConflictingHost>,
}

/// Another node sent an ARP request or a neighbor solicitation for the address.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Verification {
    /// The node that verified.
    pub by: Arc<str>,
    /// Whether it received a reply.
    pub answered: bool,
    /// Since when the result is the same, in seconds since 1970.
    pub since: i64,
}

/// Another host that answers for the address.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ConflictingHost {
    /// Its hardware address.
    pub mac: MacAddr,
    /// The node that it is; `None` for a host outside the cluster.
    pub node: Option<Arc<str>>,
    /// Start of the conflict, in seconds since 1970.
    pub since: i64,
}

impl AddressHealth {
    /// Reads the health from a ServiceL2Status; `None` when a condition lacks its field, so that the status is rewritten.
    #[must_use]
    pub fn read(status: &ServiceL2StatusStatus) -> Option<Self> {
        let since = |condition: &Condition| condition.last_transition_time.0.as_second();
        let verification = match find_condition(&status.conditions, VERIFIED) {
            None => None,
            Some(condition) => Some(Verification {
                by: status.verified_by.as_deref()?.into(),
                answered: condition.status == "True",
                since: since(condition),
            }),
        };
        let holds = |condition: &&Condition| condition.status == "True";
        let conflict = match find_condition(&status.conditions, ADDRESS_CONFLICT).filter(holds) {
            None => None,
            Some(condition) => Some(ConflictingHost {
                mac: status.conflicting_mac.as_deref()?.parse().ok()?,
                node: status.conflicting_node.as_deref().map(Arc::from),
                since: since(condition),
            }),
        };
        Some(Self {
            verification,
            conflict,
        })
    }

    /// Combines this health with the reported one of the same node and address: an unchanged result keeps its reporter
    /// and its time.
    #[must_use]
    pub fn merged_with(self, reported: &Self) -> Self {
        let verification = match (self.verification, &reported.verification) {
            (Some(new), Some(old)) if new.answered != old.answered => Some(new),
            (_, Some(old)) => Some(old.clone()),
            (new, None) => new,
        };
        let conflict = match (self.conflict, &reported.conflict) {
            // Another host, but one uninterrupted conflict.
            (Some(new), Some(old)) => Some(ConflictingHost {
                since: old.since,
                ..new
            }),
            (new, _) => new,
        };
        Self {
            verification,
            conflict,
        }
    }

    /// The conditions of a ServiceL2Status about this address.
    #[must_use]
    pub fn conditions(&self, address: IpAddr) -> Vec<Condition> {
        let verification = self.verification.as_ref().map(|verification| {
            let by = &verification.by;
            let (protocol, packets) = if address.is_ipv4() {
                ("ARP", "ARP")
            } else {
                ("NDP", "neighbor discovery (ICMPv6)")
            };
            let (reason, message) = if verification.answered {
                ("Answered", format!("node {by} received an {protocol} reply for {address}"))
            } else {
                (
                    NO_REPLY,
                    format!(
                        "node {by} received no {protocol} reply for {address}: check that switches and firewalls let \
                         {packets} pass between the nodes"
                    ),
                )
            };
            condition(VERIFIED, verification.answered, reason, message, verification.since)
        });
        let conflict = self.conflict.as_ref().map(|host| {
            let (reason, message) = match &host.node {
                None => ("ConflictingHost", foreign_hosts(&[host.mac], address)),
                Some(node) => ("ConflictingNode", conflicting_node(node, host.mac, address)),
            };
            condition(ADDRESS_CONFLICT, true, reason, message, host.since)
        });
        verification.into_iter().chain(conflict).collect()
    }
}

/// The message about hosts outside the cluster.
pub(crate) fn foreign_hosts(macs: &[MacAddr], address: IpAddr) -> String {
    let list = macs.iter().map(MacAddr::to_string).collect::<Vec<_>>().join(", ");
    match macs {
        [_] => format!(
            "host {list} outside the cluster also answers for {address}: remove the address from that host or exclude it \
             from its pool"
        ),
        _ => format!(
            "hosts {list} outside the cluster also answer for {address}: remove the address from those hosts or exclude it \
             from its pool"
        ),
    }
}

/// The message about a node whose kernel has the address.
pub(crate) fn conflicting_node(node: &str, mac: MacAddr, address: IpAddr) -> String {
    format!(
        "node {node} ({mac}) answers for {address} without announcing it: set strictARP: true in kube-proxy's IPVS mode, \
         or remove the address from the interfaces of that node"
    )
}

fn condition(type_: &str, holds: bool, reason: &str, message: String, since: i64) -> Condition {
    Condition {
        type_: type_.to_owned(),
        status: if holds { "True" } else { "False" }.to_owned(),
        reason: reason.to_owned(),
        message,
        observed_generation: None,
        last_transition_time: Time(Timestamp::from_second(since).unwrap_or(Timestamp::UNIX_EPOCH)),
    }
}
