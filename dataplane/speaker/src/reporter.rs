//! Reporting to users: events, logs, metrics, and the Services whose ServiceL2Status may need a write.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use lb_crds::names::ADDRESS_CONFLICT;
use lb_l2::ownership::ConflictingHost;
use lb_runtime::ObjectKey;
use lb_runtime::rate_limit::RateLimiter;

use crate::delay_queue::DelayQueue;
use crate::k8s::events::{EventReason, ServiceEvent};
use crate::k8s::index::Index;
use crate::k8s::l2_status::Desired;
use crate::k8s::unannounced::UnannouncedStatus;
use crate::metrics::Metrics;
use crate::reasons::UnannouncedReason;
use crate::verification::{conflicting_node, foreign_hosts};

/// How long an address stays unannounced before it is reported: endpoints or advertisements may be about to appear.
const UNANNOUNCED_REPORT_DELAY: Duration = Duration::from_secs(10);
/// Minimum time before a report names other nodes for the same cause.
const UNANNOUNCED_UPDATE_INTERVAL: Duration = Duration::from_secs(60);
/// Reports of unannounced addresses at once, and the interval between later ones: a thousand Services without an
/// advertisement shall not slow down the API server, which each of them costs four writes.
const UNANNOUNCED_REPORT_BURST: u32 = 20;
const UNANNOUNCED_REPORT_INTERVAL: Duration = Duration::from_millis(200);
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

/// Why no node announces an address.
#[derive(Debug)]
struct Unannounced {
    reason: UnannouncedReason,
    /// The reason in the event and the ServiceL2Status; `None` before the first report.
    reported: Option<UnannouncedReason>,
}

/// State of the reports.
#[derive(Debug)]
pub(crate) struct Reporter {
    node: String,
    metrics: Metrics,
    conflicts: BTreeMap<IpAddr, Conflict>,
    /// Addresses that no node announces and that this node reports.
    unannounced: BTreeMap<IpAddr, Unannounced>,
    unannounced_queue: DelayQueue<IpAddr>,
    unannounced_limiter: RateLimiter<()>,
    /// Until when the limit is reached.
    unannounced_paused: Option<Instant>,
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
            unannounced_limiter: RateLimiter::new(UNANNOUNCED_REPORT_BURST, UNANNOUNCED_REPORT_INTERVAL),
            unannounced_paused: None,
            statuses: DelayQueue::default(),
            events: Vec::new(),
        }
    }

    /// The time at which a report of an unannounced address is due.
    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        let due = self.unannounced_queue.next_due()?;
        Some(self.unannounced_paused.map_or(due, |until| due.max(until)))
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
    pub(crate) fn has_candidates(
        &mut self,
        now: Instant,
        index: &Index,
        address: IpAddr,
        no_interface: bool,
    ) {
        if no_interface {
            let node = self.node.clone();
            self.set_unannounced(
                now,
                address,
                UnannouncedReason::NoInterface { node },
                NO_INTERFACE_REPORT_DELAY,
            );
        } else if !self.lacks_majority(address) {
            self.clear_unannounced(now, index, address);
        }
    }

    /// Whether the last reason given for the address is that this node lacks a majority.
    pub(crate) fn lacks_majority(&self, address: IpAddr) -> bool {
        let entry = self.unannounced.get(&address);
        entry.is_some_and(|entry| matches!(entry.reason, UnannouncedReason::NoMajority { .. }))
    }

    /// No node can announce the address, and this node reports it; once for each cause.
    pub(crate) fn unannounced(&mut self, now: Instant, address: IpAddr, reason: UnannouncedReason) {
        self.set_unannounced(now, address, reason, UNANNOUNCED_REPORT_DELAY);
    }

    fn set_unannounced(&mut self, now: Instant, address: IpAddr, reason: UnannouncedReason, delay: Duration) {
        let entry = self.unannounced.entry(address).or_insert_with(|| Unannounced {
            reason: reason.clone(),
            reported: None,
        });
        let (is_same, has_same_cause) = (entry.reason == reason, entry.reason.has_cause_of(&reason));
        entry.reason = reason;
        let queued = self.unannounced_queue.contains(&address);
        if !has_same_cause {
            self.unannounced_queue.remove(&address);
            self.unannounced_queue.insert(address, now + delay);
        } else if !queued && entry.reported.is_none() {
            self.unannounced_queue.insert(address, now + delay);
        } else if !queued && !is_same {
            // Other nodes, for the same cause: nodes may flap.
            self.unannounced_queue
                .insert(address, now + UNANNOUNCED_UPDATE_INTERVAL);
        }
    }

    /// The address is announced, not used, or another node reports it.
    pub(crate) fn clear_unannounced(&mut self, now: Instant, index: &Index, address: IpAddr) {
        self.unannounced_queue.remove(&address);
        if self.unannounced.remove(&address).is_some() {
            self.count_unannounced();
            // By then the owner or another reporter has overwritten the status.
            for (service, _) in index.having(address) {
                self.schedule_status(
                    service.clone(),
                    now + UNANNOUNCED_REPORT_DELAY + STATUS_DELETE_DELAY,
                );
            }
        }
    }

    /// Reports addresses that are not announced for long enough. `has_owner`: whether another node owns the address.
    pub(crate) fn report_unannounced(
        &mut self,
        now: Instant,
        index: &Index,
        has_owner: impl Fn(IpAddr) -> bool,
    ) {
        self.unannounced_paused = None;
        while self.unannounced_queue.next_due().is_some_and(|due| due <= now) {
            if let Err(until) = self.unannounced_limiter.admit(now, &()) {
                self.unannounced_paused = Some(until);
                return;
            }
            let Some(address) = self.unannounced_queue.pop_due(now) else {
                return;
            };
            let Some(entry) = self.unannounced.get_mut(&address) else {
                continue;
            };
            let event = match &entry.reason {
                UnannouncedReason::NoInterface { .. } | UnannouncedReason::NoMajority { .. }
                    if has_owner(address) =>
                {
                    self.clear_unannounced(now, index, address);
                    continue;
                }
                UnannouncedReason::NoInterface { .. } => EventReason::NoInterface,
                reason => EventReason::NotAnnounced(reason.message(address)),
            };
            let before = entry.reported.replace(entry.reason.clone());
            if before.is_none_or(|before| !before.has_cause_of(&entry.reason)) {
                self.publish(index, address, &event);
                self.count_unannounced();
            }
            for (service, _) in index.having(address) {
                self.statuses.insert(service.clone(), now);
            }
        }
    }

    /// The ServiceL2Status about an address that this node does not announce.
    pub(crate) fn unannounced_status(&self, address: IpAddr) -> Desired {
        match self.unannounced.get(&address) {
            None => match self.conflicts.get(&address) {
                Some(Conflict { host, .. }) => Desired::Unannounced(UnannouncedStatus {
                    address,
                    reason: ADDRESS_CONFLICT.into(),
                    message: match &host.node {
                        None => foreign_hosts(&[host.mac], address),
                        Some(node) => conflicting_node(node, host.mac, address),
                    }
                    .into(),
                }),
                None => Desired::Absent,
            },
            Some(Unannounced { reported: None, .. }) => Desired::Unchanged,
            Some(Unannounced {
                reported: Some(reason),
                ..
            }) => Desired::Unannounced(UnannouncedStatus {
                address,
                reason: reason.as_str().into(),
                message: reason.message(address).into(),
            }),
        }
    }

    fn count_unannounced(&self) {
        let mut counts: BTreeMap<&str, i64> = BTreeMap::new();
        for reason in self
            .unannounced
            .values()
            .filter_map(|entry| entry.reported.as_ref())
        {
            *counts.entry(reason.as_str()).or_default() += 1;
        }
        self.metrics.unannounced(&counts);
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
        for (service, _) in index.having(address) {
            self.statuses.insert(service.clone(), now);
        }
    }

    pub(crate) fn conflict_resolved(&mut self, address: IpAddr) {
        self.metrics.conflict_over(address);
        self.conflicts.remove(&address);
        tracing::info!(ip = %address, "conflicting host no longer seen");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A thousand Services are created before their advertisement.
    #[test]
    #[allow(clippy::disallowed_methods, reason = "where time begins")]
    fn reports_of_unannounced_addresses_are_limited() {
        let start = Instant::now();
        let mut reporter = Reporter::new("n1", Metrics::new(&prometheus::Registry::new(), "n1").unwrap());
        for number in 0..1000_u32 {
            let pool = "many".into();
            let reason = UnannouncedReason::NoAdvertisement { pool };
            reporter.unannounced(start, IpAddr::V4(number.into()), reason);
        }
        let mut reported = Vec::new();
        while let Some(due) = reporter.poll_timeout() {
            reporter.report_unannounced(due, &Index::default(), |_| false);
            let count = reporter
                .unannounced
                .values()
                .filter(|entry| entry.reported.is_some())
                .count();
            reported.push((due - start, count));
        }
        let burst = UNANNOUNCED_REPORT_BURST as usize;
        assert_eq!(reported.first(), Some(&(UNANNOUNCED_REPORT_DELAY, burst)));
        assert_eq!(reported.len(), 1000 - burst + 1, "once for each later report");
        let (end, all) = reported.last().unwrap();
        assert_eq!(*all, 1000);
        let later = UNANNOUNCED_REPORT_INTERVAL * (1000 - UNANNOUNCED_REPORT_BURST);
        assert_eq!(*end, UNANNOUNCED_REPORT_DELAY + later);
    }
}
