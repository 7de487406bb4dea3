//! Reporting to users: events, logs, metrics, and the Services whose ServiceL2Status may need a write.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use lb_l2::ownership::ConflictingHost;
use lb_runtime::ObjectKey;

use crate::delay_queue::DelayQueue;
use crate::k8s::events::{EventReason, ServiceEvent};
use crate::k8s::index::Index;
use crate::metrics::Metrics;
use crate::reasons::UnannouncedReason;

/// How long an address stays unannounced before it is reported: endpoints or advertisements may be about to appear.
const UNANNOUNCED_REPORT_DELAY: Duration = Duration::from_secs(10);
/// How long an address for which this node has no interface may take to move to a node that has one.
const NO_INTERFACE_REPORT_DELAY: Duration = Duration::from_secs(2);
/// Delay before the ServiceL2Status of a released address is deleted: its new owner may overwrite it. Also before a change
/// of interfaces is written: a link may flap.
const STATUS_DELETE_DELAY: Duration = Duration::from_secs(2);

/// The first conflicting host, and when the conflict started.
#[derive(Clone, Debug)]
pub(crate) struct Conflict {
    pub(crate) host: ConflictingHost,
    pub(crate) since: Instant,
}

/// State of the reports.
#[derive(Debug)]
pub(crate) struct Reporter {
    node: String,
    metrics: Metrics,
    conflicts: BTreeMap<IpAddr, Conflict>,
    /// Addresses that no node announces and that this node reports.
    unannounced: BTreeMap<IpAddr, UnannouncedReason>,
    unannounced_queue: DelayQueue<IpAddr>,
    /// Services whose ServiceL2Status may need a write.
    statuses: DelayQueue<ObjectKey>,
    events: Vec<ServiceEvent>,
}

impl Reporter {
    pub(crate) fn new(node: &str, metrics: Metrics) -> Self {
        Self {
            node: node.to_owned(),
            metrics,
            conflicts: BTreeMap::new(),
            unannounced: BTreeMap::new(),
            unannounced_queue: DelayQueue::default(),
            statuses: DelayQueue::default(),
            events: Vec::new(),
        }
    }

    /// When a report of an unannounced address is due.
    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        self.unannounced_queue.next_due()
    }

    pub(crate) fn take_events(&mut self) -> Vec<ServiceEvent> {
        std::mem::take(&mut self.events)
    }

    pub(crate) fn schedule_status(&mut self, service: ObjectKey, at: Instant) {
        self.statuses.insert(service, at);
    }

    pub(crate) fn pop_due_status(&mut self, now: Instant) -> Option<ObjectKey> {
        self.statuses.pop_due(now)
    }

    pub(crate) fn next_status_due(&self) -> Option<Instant> {
        self.statuses.next_due()
    }

    /// The address of the Service is announced.
    pub(crate) fn announced(&mut self, now: Instant, service: &ObjectKey, address: IpAddr) {
        self.metrics.announced(service, address);
        self.schedule_status(service.clone(), now);
    }

    /// The address of the Service is not announced any longer.
    pub(crate) fn withdrawn(&mut self, now: Instant, service: &ObjectKey, address: IpAddr) {
        self.metrics.withdrawn(service, address);
        self.schedule_status(service.clone(), now + STATUS_DELETE_DELAY);
    }

    /// The interfaces of an announced address changed. `first`: it had none before, so it is announced only now.
    pub(crate) fn interfaces_changed(&mut self, now: Instant, service: &ObjectKey, first: bool) {
        let at = if first { now } else { now + STATUS_DELETE_DELAY };
        self.schedule_status(service.clone(), at);
    }

    pub(crate) fn push_event(&mut self, event: ServiceEvent) {
        self.events.push(event);
    }

    /// An event and a log line for each Service that has the address.
    fn publish(&mut self, index: &Index, address: IpAddr, reason: &EventReason) {
        for (service, object) in index.having(address) {
            let message = reason.message(address, &self.node);
            tracing::warn!(%service, ip = %address, node = self.node, "{message}");
            self.events.push(ServiceEvent {
                service: service.clone(),
                uid: object.uid.clone(),
                address,
                reason: reason.clone(),
            });
        }
    }

    /// The address has candidates. `no_interface`: this node is the first of them, and has no interface for it.
    pub(crate) fn has_candidates(&mut self, now: Instant, address: IpAddr, no_interface: bool) {
        if !no_interface || self.unannounced.contains_key(&address) {
            self.clear_unannounced(address);
        }
        if no_interface {
            // Links change all the time, which must not postpone the report.
            self.unannounced_queue
                .insert(address, now + NO_INTERFACE_REPORT_DELAY);
        }
    }

    /// No node can announce the address, and this node reports it; once for each cause.
    pub(crate) fn unannounced(&mut self, now: Instant, address: IpAddr, reason: UnannouncedReason) {
        let before = self.unannounced.insert(address, reason.clone());
        if before.is_none_or(|before| !before.has_cause_of(&reason)) {
            self.unannounced_queue.remove(&address);
            self.unannounced_queue
                .insert(address, now + UNANNOUNCED_REPORT_DELAY);
        }
    }

    /// The address is announced, not used, or another node reports it.
    pub(crate) fn clear_unannounced(&mut self, address: IpAddr) {
        self.unannounced.remove(&address);
        self.unannounced_queue.remove(&address);
    }

    /// Reports addresses that are not announced for long enough. `has_owner`: whether another node owns the address.
    pub(crate) fn report_unannounced(
        &mut self,
        now: Instant,
        index: &Index,
        has_owner: impl Fn(IpAddr) -> bool,
    ) {
        while let Some(address) = self.unannounced_queue.pop_due(now) {
            let reason = match self.unannounced.get(&address) {
                Some(reason) => EventReason::NotAnnounced(reason.message(address)),
                None if has_owner(address) => continue,
                None => EventReason::NoInterface,
            };
            self.publish(index, address, &reason);
        }
    }

    pub(crate) fn conflict(&self, address: IpAddr) -> Option<&Conflict> {
        self.conflicts.get(&address)
    }

    /// Conflicting hosts answer for an address that this node owns or would claim.
    pub(crate) fn conflict_detected(
        &mut self,
        now: Instant,
        index: &Index,
        address: IpAddr,
        hosts: Box<[ConflictingHost]>,
    ) {
        self.metrics.conflict(address);
        if let Some(host) = hosts.first().cloned() {
            self.conflicts
                .entry(address)
                .or_insert(Conflict { host, since: now });
        }
        self.publish(index, address, &EventReason::Conflict(hosts));
    }

    pub(crate) fn conflict_resolved(&mut self, address: IpAddr) {
        self.metrics.conflict_over(address);
        self.conflicts.remove(&address);
        tracing::info!(ip = %address, "conflicting host no longer seen");
    }
}
