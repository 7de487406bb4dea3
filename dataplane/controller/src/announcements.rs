//! Which node announces a Service's address, as speakers report it in ServiceL2Statuses, and condition
//! `lb-operator.io/Announced` of the Service.
//!
//! Speakers write objects of their own, because permission to write the status of one Service would be permission to
//! write that of every Service. The controller copies the report into the Service.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use k8s_openapi::api::core::v1::Pod;

use lb_crds::condition::find_condition;
use lb_crds::names::{
    ADDRESS_CONFLICT, LABEL_COMPONENT, NOT_ANNOUNCED, SPEAKER, UNANNOUNCED_REASONS, VERIFIED,
};
use lb_crds::{ServiceL2Status, ServiceL2StatusStatus};
use lb_ipam::Addresses;
use lb_runtime::ObjectKey;
use lb_runtime::watch::Change;

use crate::condition::ConditionText;
use crate::reason::Reason;
use crate::speakers::Speakers;

/// The content of all ServiceL2Statuses: about 250 bytes per Service.
#[derive(Debug, Default)]
pub struct Announcements {
    /// Whether the first list is complete. Before that a Service without a record may be announced.
    listed: bool,
    /// By name of the ServiceL2Status.
    records: BTreeMap<Arc<str>, Announcement>,
    /// Names of the ServiceL2Statuses of each Service. MetalLB's speakers can leave more than one.
    names: BTreeSet<(ObjectKey, Arc<str>)>,
    /// Each announcer once, however many addresses it announces.
    announcers: BTreeSet<Arc<Announcer>>,
    speakers: Speakers,
}

/// The content of one ServiceL2Status.
#[derive(Clone, Debug, Eq, PartialEq)]
struct Announcement {
    service: ObjectKey,
    /// The announced address; `None` if MetalLB's speaker has written the object.
    address: Option<IpAddr>,
    announcer: Arc<Announcer>,
    problem: Option<Box<AnnouncementProblem>>,
}

/// A node and the interfaces on which it announces; no interfaces stand for all.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
struct Announcer {
    node: Box<str>,
    interfaces: Box<[Box<str>]>,
}

/// A problem of an announced address, with the message of the speaker.
#[derive(Clone, Debug, Eq, PartialEq)]
struct AnnouncementProblem {
    reason: Reason,
    message: String,
}

/// The Services that a change affects.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum AffectedServices {
    /// These.
    Some(Vec<ObjectKey>),
    /// All: the first list is complete.
    All,
}

/// Condition Announced of a Service.
#[derive(Clone, Debug, PartialEq)]
pub enum AnnouncedCondition {
    /// The condition has this text.
    Set(ConditionText),
    /// There is no condition.
    Absent,
    /// It is not known yet what the condition should be.
    Unknown,
}

impl Announcements {
    /// Applies a change of ServiceL2Statuses.
    pub fn update(&mut self, change: Change<ServiceL2Status>) -> AffectedServices {
        match change {
            Change::Apply(object) => {
                let name = object.metadata.name.unwrap_or_default();
                let record = object.status.and_then(|status| self.read(status));
                self.replace(&name, record)
            }
            Change::Delete(key) => self.replace(key.name(), None),
            Change::Invalid { key, error } => {
                tracing::warn!(servicel2status = %key, error, "cannot decode object; keeping the previous version");
                AffectedServices::Some(Vec::new())
            }
            Change::Listing => AffectedServices::Some(Vec::new()),
            Change::Synced => {
                self.listed = true;
                AffectedServices::All
            }
        }
    }

    /// Applies a change of the Pods of speakers.
    pub fn update_speakers(&mut self, now: Instant, change: Change<Pod>) -> AffectedServices {
        if self.speakers.update(now, change) {
            AffectedServices::All
        } else {
            AffectedServices::Some(Vec::new())
        }
    }

    /// The time of the next call of [`handle_timeout`](Self::handle_timeout).
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.speakers.poll_timeout()
    }

    /// Ends the grace periods of speakers.
    pub fn handle_timeout(&mut self, now: Instant) -> AffectedServices {
        if self.speakers.handle_timeout(now) {
            AffectedServices::All
        } else {
            AffectedServices::Some(Vec::new())
        }
    }

    /// The condition of a Service with these addresses.
    #[must_use]
    pub fn condition(&self, service: &ObjectKey, addresses: &Addresses) -> AnnouncedCondition {
        let Some(first) = addresses.iter().next() else {
            // Condition AddressAssigned says why there is no address.
            return AnnouncedCondition::Absent;
        };
        if !self.listed {
            return AnnouncedCondition::Unknown;
        }
        let Some(record) = self.record(service) else {
            return AnnouncedCondition::Set(self.not_announced(service, first));
        };
        let address = record.address.unwrap_or(first);
        // A record of a previous address: the owner of the new one will write one, or this one will be deleted.
        if !addresses.iter().any(|has| has == address) {
            return AnnouncedCondition::Unknown;
        }
        let node = &*record.announcer.node;
        AnnouncedCondition::Set(match &record.problem {
            None if self.speakers.is_gone(node) => {
                let message = format!(
                    "node {node} announced {address}, but its speaker is not ready: check the node and its speaker; if \
                     another node takes over, its speaker reports that"
                );
                ConditionText::unknown(Reason::SpeakerNotReady, message)
            }
            Some(problem) => ConditionText::new(false, problem.reason, problem.message.clone()),
            None => ConditionText::new(true, Reason::Announced, record.describe(address, addresses)),
        })
    }

    /// The condition without a record: an owner or the reason follows from the speakers, if one is ready.
    fn not_announced(&self, service: &ObjectKey, address: IpAddr) -> ConditionText {
        if self.speakers.none_ready() {
            let message = format!(
                "no node announces {address}: no speaker is ready: see: kubectl get pods -A -l {LABEL_COMPONENT}={SPEAKER}"
            );
            return ConditionText::new(false, Reason::NoSpeaker, message);
        }
        let message = format!("no node announces {address}: {}", see_events(service));
        ConditionText::new(false, Reason::NotAnnounced, message)
    }

    /// The record of a Service; one with an address precedes those of MetalLB's speakers.
    fn record(&self, service: &ObjectKey) -> Option<&Announcement> {
        let from = (service.clone(), Arc::default());
        let names = self.names.range(from..).take_while(|(other, _)| other == service);
        let records = names.filter_map(|(_, name)| self.records.get(name));
        records.min_by_key(|record| record.address.is_none())
    }

    /// Reads a status; `None` as long as it neither names a node nor says why there is none.
    fn read(&mut self, status: ServiceL2StatusStatus) -> Option<Announcement> {
        let unannounced = find_condition(&status.conditions, NOT_ANNOUNCED);
        if status.node.is_empty() && unannounced.is_none_or(|condition| condition.status != "False") {
            return None;
        }
        let problems = [
            (ADDRESS_CONFLICT, "True", Reason::AddressConflict),
            (VERIFIED, "False", Reason::NoReply),
        ];
        let unannounced = unannounced.filter(|_| status.node.is_empty()).map(|condition| {
            let known = UNANNOUNCED_REASONS
                .into_iter()
                .find(|known| *known == condition.reason);
            Box::new(AnnouncementProblem {
                reason: known.map_or(Reason::NotAnnounced, Reason::Unannounced),
                message: condition.message.clone(),
            })
        });
        let problem = problems.into_iter().find_map(|(type_, bad, reason)| {
            let condition = find_condition(&status.conditions, type_)?;
            let message = condition.message.clone();
            (condition.status == bad).then(|| Box::new(AnnouncementProblem { reason, message }))
        });
        let interfaces = status
            .interfaces
            .into_iter()
            .map(|interface| interface.name.into());
        Some(Announcement {
            service: ObjectKey::new(status.service_namespace, status.service_name),
            address: status.address.parse().ok(),
            announcer: self.intern(Announcer {
                node: status.node.into(),
                interfaces: interfaces.collect(),
            }),
            problem: unannounced.or(problem),
        })
    }

    fn intern(&mut self, announcer: Announcer) -> Arc<Announcer> {
        if let Some(known) = self.announcers.get(&announcer) {
            return known.clone();
        }
        // Announcers without a record are removed whenever a new one is added.
        self.announcers.retain(|known| Arc::strong_count(known) > 1);
        let announcer = Arc::new(announcer);
        self.announcers.insert(announcer.clone());
        announcer
    }

    fn replace(&mut self, name: &str, record: Option<Announcement>) -> AffectedServices {
        let before = self.records.get_key_value(name);
        if before.map(|(_, before)| before) == record.as_ref() {
            return AffectedServices::Some(Vec::new());
        }
        let mut affected = Vec::new();
        if let Some((name, before)) = before {
            let (name, service) = (name.clone(), before.service.clone());
            affected.push(service.clone());
            self.names.remove(&(service, name.clone()));
            self.records.remove(&name);
        }
        if let Some(record) = record {
            let name: Arc<str> = name.into();
            if !affected.contains(&record.service) {
                affected.push(record.service.clone());
            }
            self.names.insert((record.service.clone(), name.clone()));
            self.records.insert(name, record);
        }
        AffectedServices::Some(affected)
    }
}

impl Announcement {
    fn describe(&self, address: IpAddr, addresses: &Addresses) -> String {
        let Announcer { node, interfaces } = &*self.announcer;
        let on = if interfaces.is_empty() { "" } else { " on " };
        let interfaces = interfaces.join(", ");
        let others = addresses.iter().filter(|other| *other != address);
        let others: String = others
            .map(|other| format!("; for {other} {}", see_events(&self.service)))
            .collect();
        format!("node {node} announces {address}{on}{interfaces}{others}")
    }
}

fn see_events(service: &ObjectKey) -> String {
    let (namespace, name) = (service.namespace(), service.name());
    format!("see: kubectl describe service {name} -n {namespace}")
}
