//! What is seen of an address from elsewhere, and how a ServiceL2Status says it: as conditions, which are read back the
//! way they were written. Pure: time is an argument.
//!
//! A verdict stands until another one is given. That another node sees the same is no news, and a speaker that starts
//! anew does not take back what was seen of its node before: so at rest nothing is written.

use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use k8s_openapi::jiff::Timestamp;
use lb_crds::condition::find_condition;
use lb_crds::names::{ADDRESS_CONFLICT, NO_REPLY, VERIFIED};
use lb_l2::MacAddr;

/// What is seen of an address that its owner announces.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Verdict {
    /// What another node was answered; none as long as none has asked.
    pub check: Option<Check>,
    /// A host that is no node of the cluster, and answers as well.
    pub stranger: Option<Stranger>,
}

/// Another node has asked the LAN for the address.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Check {
    /// The node.
    pub by: Arc<str>,
    /// Whether it was answered.
    pub answered: bool,
    /// Since when that is so, in seconds since 1970.
    pub since: i64,
}

/// A host that is no node of the cluster answers for the address.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Stranger {
    /// Its hardware address.
    pub mac: MacAddr,
    /// Since when there is one, in seconds since 1970.
    pub since: i64,
}

impl Verdict {
    /// Reads it from the conditions of a ServiceL2Status. What cannot be read was not written by us, and is written anew.
    #[must_use]
    pub fn read(conditions: &[Condition]) -> Self {
        let holds = |condition: &Condition| condition.status == "True";
        let since = |condition: &Condition| condition.last_transition_time.0.as_second();
        let check = |condition: &Condition| {
            let mut words = condition.message.split(' ');
            (words.next()? == "node").then_some(())?;
            Some(Check {
                by: words.next()?.into(),
                answered: holds(condition),
                since: since(condition),
            })
        };
        let stranger = |condition: &Condition| {
            let mut words = condition.message.split(' ');
            holds(condition).then_some(())?;
            Some(Stranger {
                mac: words.find_map(|word| word.parse().ok())?,
                since: since(condition),
            })
        };
        Self {
            check: find_condition(conditions, VERIFIED).and_then(check),
            stranger: find_condition(conditions, ADDRESS_CONFLICT).and_then(stranger),
        }
    }

    /// This verdict, where that one is what the status of the same node says of the same address: what it says already
    /// stays as it was said, and for as long.
    #[must_use]
    pub fn after(self, shown: &Self) -> Self {
        let check = match (self.check, &shown.check) {
            (Some(new), Some(shown)) if new.answered != shown.answered => Some(new),
            (_, Some(shown)) => Some(shown.clone()),
            (new, None) => new,
        };
        let stranger = match (self.stranger, shown.stranger) {
            // The one goes and another comes: all the while there was one.
            (Some(new), Some(shown)) => Some(Stranger {
                since: shown.since,
                ..new
            }),
            (new, _) => new,
        };
        Self { check, stranger }
    }

    /// The conditions of a status that is about this address.
    #[must_use]
    pub fn conditions(&self, address: IpAddr) -> Vec<Condition> {
        let check = self.check.as_ref().map(|check| {
            let by = &check.by;
            let (reason, message) = if check.answered {
                ("Answered", format!("node {by} asked the LAN for {address} and was answered"))
            } else {
                (
                    NO_REPLY,
                    format!(
                        "node {by} asked the LAN for {address} and was not answered: see that switches and firewalls let \
                         {} pass between the nodes",
                        if address.is_ipv4() { "ARP" } else { "neighbour discovery (ICMPv6)" }
                    ),
                )
            };
            condition(VERIFIED, check.answered, reason, message, check.since)
        });
        let stranger = self.stranger.map(|Stranger { mac, since }| {
            let message = format!(
                "a host at {mac} that is no node of the cluster answers for {address}: take the address from that host, or \
                 exclude it from its pool"
            );
            condition(ADDRESS_CONFLICT, true, "ForeignAnswer", message, since)
        });
        check.into_iter().chain(stranger).collect()
    }
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
