//! Log lines of a replica that does not lead: which addresses Services got, and why others wait.
//!
//! `kubectl logs deployment/controller` shows any one replica, so all of them log the same; only the leader writes and
//! publishes events. For Services without an address the standby makes the decision of a leader without acting on it,
//! once the cluster has been quiet for a moment. No I/O; time is an argument.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use lb_ipam::{Addresses, Rejection};
use lb_runtime::ObjectKey;

use crate::decide::LeaderState;
use crate::events::ObjectEvent;
use crate::index::Index;
use crate::service::Role;

/// Delay of the check after a change, by which the leader has acted; also the minimum time between two checks, each of
/// which visits all Services.
const QUIET_TIME: Duration = Duration::from_secs(2);

/// The state of the Services that has been logged.
#[derive(Debug, Default)]
pub struct Standby {
    due: Option<Instant>,
    /// Whether the first check is over, which logs no addresses.
    checked: bool,
    assigned: BTreeMap<ObjectKey, Addresses>,
    waiting: BTreeMap<ObjectKey, Rejection>,
}

impl Standby {
    /// Schedules a check.
    pub fn changed(&mut self, now: Instant) {
        self.due.get_or_insert(now + QUIET_TIME);
    }

    /// The time of the next call of [`poll_events`](Self::poll_events), if nothing changes.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.due
    }

    /// The events to log, if a check is due.
    #[must_use]
    pub fn poll_events(&mut self, index: &Index, now: Instant, time: Timestamp) -> Vec<ObjectEvent> {
        if self.due.is_none_or(|due| due > now) {
            return Vec::new();
        }
        self.due = None;
        let mut events = Vec::new();
        let mut assigned = BTreeMap::new();
        let mut any_waits = false;
        for (key, service) in &index.services {
            let Role::LoadBalancer(_) = service.role else {
                continue;
            };
            let addresses = service.status.addresses;
            if addresses.is_empty() {
                any_waits = true;
                continue;
            }
            if self.checked && self.assigned.get(key) != Some(&addresses) {
                let pool = service.pool.clone().unwrap_or_default();
                events.push(ObjectEvent::assigned(key, service, addresses, pool));
            }
            assigned.insert(key.clone(), addresses);
        }
        self.assigned = assigned;
        self.checked = true;

        let mut waiting = BTreeMap::new();
        if any_waits {
            let mut shadow = LeaderState::new(index);
            shadow.decide(index, now, time);
            for (key, service) in &index.services {
                if service.status.addresses.is_empty()
                    && let Some(rejection) = shadow.rejection(key)
                {
                    if !self
                        .waiting
                        .get(key)
                        .is_some_and(|logged| logged.has_same_cause_as(rejection))
                    {
                        events.push(ObjectEvent::failed(key, service, rejection));
                    }
                    waiting.insert(key.clone(), rejection.clone());
                }
            }
        }
        self.waiting = waiting;
        events
    }
}
