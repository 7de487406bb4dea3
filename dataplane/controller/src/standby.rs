//! What a replica that does not lead logs: which addresses Services got, and why others wait.
//!
//! `kubectl logs deployment/controller` shows one replica, whichever. So all of them say what there is to know; only the
//! leader writes and publishes events. For a Service without an address the standby asks itself what it would do if it
//! led, once the cluster has been quiet for a moment. No I/O; time is an argument.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use lb_ipam::{Addresses, Rejection};
use lb_runtime::ObjectKey;

use crate::decide::Leading;
use crate::index::Index;
use crate::report::Report;
use crate::service::Role;

/// How long after a change the standby looks: by then the leader has done what can be done. Also the pause between two
/// looks, each of which goes through all Services.
const PATIENCE: Duration = Duration::from_secs(2);

/// What has been logged.
#[derive(Debug, Default)]
pub struct Standby {
    due: Option<Instant>,
    /// Whether the first look is over: what Services had before is no news.
    looked: bool,
    assigned: BTreeMap<ObjectKey, Addresses>,
    waiting: BTreeMap<ObjectKey, Rejection>,
}

impl Standby {
    /// Something changed.
    pub fn changed(&mut self, now: Instant) {
        self.due.get_or_insert(now + PATIENCE);
    }

    /// When to call [`look`](Self::look), if nothing changes.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.due
    }

    /// What there is to log, if it is time.
    #[must_use]
    pub fn look(&mut self, index: &Index, now: Instant, time: Timestamp) -> Vec<Report> {
        if self.due.is_none_or(|due| due > now) {
            return Vec::new();
        }
        self.due = None;
        let mut reports = Vec::new();
        let mut assigned = BTreeMap::new();
        let mut anybody_waits = false;
        for (key, service) in &index.services {
            let Role::Ours(_) = service.role else { continue };
            let addresses = service.status.addresses;
            if addresses.is_empty() {
                anybody_waits = true;
                continue;
            }
            if self.looked && self.assigned.get(key) != Some(&addresses) {
                let pool = service.pool.clone().unwrap_or_default();
                reports.push(Report::allocated(key, service, addresses, pool));
            }
            assigned.insert(key.clone(), addresses);
        }
        self.assigned = assigned;
        self.looked = true;

        let mut waiting = BTreeMap::new();
        if anybody_waits {
            let mut shadow = Leading::new(index);
            shadow.decide(index, now, time);
            for (key, service) in &index.services {
                if service.status.addresses.is_empty()
                    && let Some(reason) = shadow.reason(key)
                {
                    if !self
                        .waiting
                        .get(key)
                        .is_some_and(|said| said.says_the_same_as(reason))
                    {
                        reports.push(Report::failed(key, service, reason));
                    }
                    waiting.insert(key.clone(), reason.clone());
                }
            }
        }
        self.waiting = waiting;
        reports
    }
}
