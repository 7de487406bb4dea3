//! Leader election with a Lease, as a state machine without I/O: observations and time go in, writes come out.
//!
//! The rules are client-go's; clocks of different hosts are never compared:
//! - A candidate considers a Lease expired if it has not seen the object change for the Lease's duration.
//! - The leader stops if the last successful renewal *started* longer ago than the renew deadline.
//!
//! The renew deadline is shorter than the duration, so the old leader has stopped before a new one starts.

use std::time::{Duration, Instant};

/// LeaseTiming of a Lease.
#[derive(Clone, Copy, Debug)]
pub struct LeaseTiming {
    /// Time without a renewal after which other candidates consider the Lease expired.
    pub duration: Duration,
    /// Time without a successful renewal after which the holder stops leading. Shorter than `duration`.
    pub renew_deadline: Duration,
    /// Interval between renewals, and between attempts to acquire the Lease.
    pub retry: Duration,
}

impl Default for LeaseTiming {
    /// client-go's defaults: 15 s, 10 s, 2 s.
    fn default() -> Self {
        Self {
            duration: Duration::from_secs(15),
            renew_deadline: Duration::from_secs(10),
            retry: Duration::from_secs(2),
        }
    }
}

/// The part of a Lease object that leadership depends on.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct LeaseRecord {
    /// Identity of the holder; empty after a release.
    pub holder: String,
    /// `leaseDurationSeconds` of the holder.
    pub duration: Duration,
    /// Number of changes of the holder.
    pub transitions: i32,
    /// Resource version of the object: the precondition of the next write.
    pub version: String,
    /// Note that the last holder wrote for its successor with the release; empty without one.
    pub handoff: String,
}

/// A write of the Lease, to be made with the precondition `replaces`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct LeaseWrite {
    /// Identity of this process, or empty to release the Lease.
    pub holder: String,
    /// Number of changes of the holder, including this write.
    pub transitions: i32,
    /// Whether this write changes the holder, and therefore `acquireTime`.
    pub acquires: bool,
    /// Version of the object to replace; `None` to create the object.
    pub replaces: Option<String>,
    /// Note for the next holder, only with a release.
    pub handoff: String,
}

/// Result of a [`LeaseWrite`].
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum LeaseWriteResult {
    /// The write succeeded; this is the new state.
    Written(LeaseRecord),
    /// The request failed, or another client wrote first. The next observation shows the state.
    Failed,
}

/// One candidate for one Lease.
///
/// Call [`observe`](Self::observe) with each state of the object. Make the write that
/// [`poll_write`](Self::poll_write) returns, and pass its result to [`handle_result`](Self::handle_result). Call both
/// [`poll_write`](Self::poll_write) and [`is_leader`](Self::is_leader) again at [`poll_timeout`](Self::poll_timeout).
#[derive(Debug)]
pub struct LeaderElector {
    identity: String,
    timing: LeaseTiming,
    /// The current state of the object, if it exists.
    observed: Option<ObservedLease>,
    /// Whether the object, or its absence, was observed.
    known: bool,
    next_try: Option<Instant>,
    in_flight: Option<LeaseWriteInFlight>,
    /// Start of the last successful renewal; `Some` while this process holds the Lease.
    renewed: Option<Instant>,
    /// The note for the next holder, once a release was requested.
    releasing: Option<String>,
    /// Note of the previous holder, as of our last acquisition.
    predecessor_handoff: String,
}

#[derive(Debug)]
struct ObservedLease {
    record: LeaseRecord,
    since: Instant,
}

#[derive(Debug)]
struct LeaseWriteInFlight {
    started: Instant,
    releases: bool,
}

impl LeaderElector {
    /// A candidate that has not observed the Lease yet.
    #[must_use]
    pub fn new(identity: String, timing: LeaseTiming) -> Self {
        Self {
            identity,
            timing,
            observed: None,
            known: false,
            next_try: None,
            in_flight: None,
            renewed: None,
            releasing: None,
            predecessor_handoff: String::new(),
        }
    }

    /// Whether this process leads. False after the renew deadline, even while a renewal is in flight.
    #[must_use]
    pub fn is_leader(&self, now: Instant) -> bool {
        self.releasing.is_none()
            && self
                .renewed
                .is_some_and(|renewed| now < renewed + self.timing.renew_deadline)
    }

    /// Takes a state of the Lease; `None` if it does not exist.
    pub fn observe(&mut self, now: Instant, record: Option<LeaseRecord>) {
        self.known = true;
        let Some(record) = record else {
            self.observed = None;
            self.next_try = Some(now);
            return;
        };
        let holder_is_other = record.holder != self.identity;
        let is_new = self
            .observed
            .as_ref()
            .is_none_or(|observed| observed.record != record);
        if is_new {
            // The watch may deliver an older version after the response to our own write. While a write is in flight,
            // its result decides.
            if holder_is_other && self.in_flight.is_none() {
                self.renewed = None;
            }
            if record.holder.is_empty() {
                self.next_try = Some(now);
            }
            self.observed = Some(ObservedLease { record, since: now });
        }
    }

    /// Requests a release, with a note for the next holder (may be empty). Leadership ends immediately; the release is
    /// written once.
    pub fn release(&mut self, now: Instant, handoff: String) {
        self.releasing = Some(handoff);
        self.next_try = Some(now);
    }

    /// Note of the previous holder, as of the last acquisition; empty if it wrote none or ended without a release.
    #[must_use]
    pub fn predecessor_handoff(&self) -> &str {
        &self.predecessor_handoff
    }

    /// Whether a requested release has finished.
    #[must_use]
    pub fn is_released(&self) -> bool {
        self.releasing.is_some() && self.renewed.is_none() && self.in_flight.is_none()
    }

    /// Whether a write is in flight.
    #[must_use]
    pub fn is_writing(&self) -> bool {
        self.in_flight.is_some()
    }

    /// The write to make now, if one is due.
    pub fn poll_write(&mut self, now: Instant) -> Option<LeaseWrite> {
        if !self.known || self.in_flight.is_some() {
            return None;
        }
        let holds = self.renewed.is_some();
        if self.releasing.is_some() && !holds {
            return None;
        }
        if self.poll_timeout().is_none_or(|due| now < due) {
            return None;
        }
        let current = self.observed.as_ref().map(|observed| &observed.record);
        let transitions = current.map_or(0, |record| record.transitions);
        if !holds {
            let released = current.filter(|record| record.holder.is_empty());
            self.predecessor_handoff = released.map_or_else(String::new, |record| record.handoff.clone());
        }
        let write = LeaseWrite {
            holder: if self.releasing.is_some() {
                String::new()
            } else {
                self.identity.clone()
            },
            handoff: self.releasing.clone().unwrap_or_default(),
            transitions: if holds {
                transitions
            } else {
                transitions.saturating_add(i32::from(current.is_some()))
            },
            acquires: !holds,
            replaces: current.map(|record| record.version.clone()),
        };
        self.in_flight = Some(LeaseWriteInFlight {
            started: now,
            releases: self.releasing.is_some(),
        });
        Some(write)
    }

    /// Takes the result of the write that [`poll_write`](Self::poll_write) returned last.
    pub fn handle_result(&mut self, now: Instant, result: LeaseWriteResult) {
        let Some(write) = self.in_flight.take() else {
            return;
        };
        match result {
            LeaseWriteResult::Written(record) => {
                self.observed = Some(ObservedLease { record, since: now });
                self.renewed = (!write.releases).then_some(write.started);
            }
            LeaseWriteResult::Failed if write.releases => self.renewed = None,
            LeaseWriteResult::Failed => {}
        }
        let delay = match self.releasing {
            Some(_) => Duration::ZERO,
            None => self.timing.retry,
        };
        self.next_try = Some(write.started.max(now) + delay);
    }

    /// When [`poll_write`](Self::poll_write) or [`is_leader`](Self::is_leader) changes without further input.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        if self.in_flight.is_some() {
            return self.renewed.map(|renewed| renewed + self.timing.renew_deadline);
        }
        if !self.known {
            return None;
        }
        let next_try = self.next_try;
        if self.renewed.is_some() {
            return next_try;
        }
        match &self.observed {
            None => next_try,
            Some(observed)
                if observed.record.holder.is_empty() || observed.record.holder == self.identity =>
            {
                // Released, or held by this identity before a restart of the container: no other process leads.
                Some(next_try.unwrap_or(observed.since))
            }
            Some(observed) => {
                let expires = observed.since + observed.record.duration;
                Some(next_try.map_or(expires, |next| next.max(expires)))
            }
        }
    }
}

#[cfg(test)]
#[path = "lease_tests.rs"]
mod tests;
