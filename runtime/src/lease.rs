//! Leader election with a Lease, as a state machine without I/O: observations and time go in, writes come out.
//!
//! The rules are client-go's; clocks of different hosts are never compared:
//! - A candidate considers a Lease expired if it has not seen the object change for the Lease's duration.
//! - The leader stops if the last successful renewal *started* longer ago than the renew deadline. A leader that missed
//!   it has lost the Lease: if it acquires the Lease again, it starts like any other new leader.
//! - A deleted Lease is respected like an existing one until it has expired; only its holder may create it before.
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
    /// The precondition failed; this is the state now, `None` if the object does not exist.
    Conflict(Option<LeaseRecord>),
    /// The request failed, or its response was lost: the write may have succeeded.
    Failed,
}

/// Delay of the next write after a conflict: the state is known now, but another client writes too.
const CONFLICT_RETRY_DELAY: Duration = Duration::from_millis(100);

/// One candidate for one Lease.
///
/// Call [`observe`](Self::observe) with each state of the object. Make the write that
/// [`poll_write`](Self::poll_write) returns, and pass its result to [`handle_result`](Self::handle_result). Call
/// [`poll_write`](Self::poll_write) and then [`is_leader`](Self::is_leader) again at
/// [`poll_timeout`](Self::poll_timeout).
///
/// `renewed` is `Some` only while this process holds the Lease: it ends with the renew deadline, and with the
/// observation of another holder, also while a write is in flight.
#[derive(Debug)]
pub struct LeaderElector {
    identity: String,
    timing: LeaseTiming,
    /// The newest observed state of the object; `None` if it does not exist and no other process may still lead.
    observed: Option<ObservedLease>,
    /// Whether the object, or its absence, was observed.
    known: bool,
    next_try: Option<Instant>,
    in_flight: Option<LeaseWriteInFlight>,
    /// Start of the last successful renewal.
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
    /// Whether the object was deleted. Its holder, which may not know yet, is still respected.
    deleted: bool,
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
        self.releasing.is_none() && self.deadline().is_some_and(|deadline| now < deadline)
    }

    /// When leadership ends unless it is renewed.
    fn deadline(&self) -> Option<Instant> {
        Some(self.renewed? + self.timing.renew_deadline)
    }

    /// Ends the holding of the Lease at the renew deadline. The note of the previous holder is out of date then.
    fn lapse(&mut self, now: Instant) {
        if self.deadline().is_some_and(|deadline| deadline <= now) {
            self.renewed = None;
            self.predecessor_handoff.clear();
        }
    }

    /// Takes a state of the Lease; `None` if it does not exist. A state older than the newest one is ignored: watch and
    /// responses may overtake each other.
    pub fn observe(&mut self, now: Instant, record: Option<LeaseRecord>) {
        self.known = true;
        let Some(record) = record else {
            match &mut self.observed {
                Some(observed) if observed.is_held_by_other(&self.identity) => observed.deleted = true,
                Some(_) | None => {
                    self.observed = None;
                    self.next_try = Some(now);
                }
            }
            return;
        };
        if let Some(observed) = &self.observed
            && (is_older(&record, &observed.record) || observed.record == record && !observed.deleted)
        {
            return;
        }
        if record.holder != self.identity {
            self.renewed = None;
        }
        if record.holder.is_empty() {
            self.next_try = Some(now);
        }
        self.observed = Some(ObservedLease {
            record,
            since: now,
            deleted: false,
        });
    }

    /// Requests a release, with a note for the next holder (may be empty). Leadership ends immediately; the release is
    /// written once.
    pub fn release(&mut self, now: Instant, handoff: String) {
        self.releasing = Some(handoff);
        self.next_try = Some(now);
    }

    /// Note of the previous holder, as of the last acquisition; empty if it wrote none or ended without a release, and
    /// after the renew deadline was missed.
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
        self.lapse(now);
        let holds = self.renewed.is_some();
        if !self.known || self.in_flight.is_some() || (self.releasing.is_some() && !holds) {
            return None;
        }
        if self.next_write().is_none_or(|due| now < due) {
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
            replaces: self
                .observed
                .as_ref()
                .filter(|observed| !observed.deleted)
                .map(|observed| observed.record.version.clone()),
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
        self.lapse(now);
        let mut delay = self.timing.retry;
        match result {
            LeaseWriteResult::Written(record) => {
                self.observe(now, Some(record));
                let held_by_other = self
                    .observed
                    .as_ref()
                    .is_some_and(|observed| observed.record.holder != self.identity);
                self.renewed = (!write.releases && !held_by_other).then_some(write.started);
            }
            // A release is repeated: a renewal whose response was lost may have changed the version.
            LeaseWriteResult::Conflict(record) => {
                self.observe(now, record);
                delay = now.saturating_duration_since(write.started) + CONFLICT_RETRY_DELAY;
            }
            LeaseWriteResult::Failed if write.releases => self.renewed = None,
            LeaseWriteResult::Failed => {}
        }
        if self.releasing.is_some() {
            delay = Duration::ZERO;
        }
        self.next_try = Some((write.started + delay).max(now));
    }

    /// When [`poll_write`](Self::poll_write) or [`is_leader`](Self::is_leader) changes without further input.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        let next_write = self.next_write().filter(|_| self.in_flight.is_none());
        next_write.into_iter().chain(self.deadline()).min()
    }

    /// When the next write is due, if none is in flight.
    fn next_write(&self) -> Option<Instant> {
        if !self.known {
            return None;
        }
        let next_try = self.next_try;
        if self.renewed.is_some() {
            return next_try;
        }
        match &self.observed {
            None => next_try,
            Some(observed) if observed.is_held_by_other(&self.identity) => {
                let expires = observed.since + observed.record.duration;
                Some(next_try.map_or(expires, |next| next.max(expires)))
            }
            // Released, or held by this identity before a restart of the container: no other process leads.
            Some(observed) => Some(next_try.unwrap_or(observed.since)),
        }
    }
}

impl ObservedLease {
    fn is_held_by_other(&self, identity: &str) -> bool {
        !self.record.holder.is_empty() && self.record.holder != identity
    }
}

/// Whether a state is older than another. The versions of etcd are numbers that increase; others are never older.
fn is_older(record: &LeaseRecord, than: &LeaseRecord) -> bool {
    match (record.version.parse::<u64>(), than.version.parse::<u64>()) {
        (Ok(version), Ok(than)) => version < than,
        (Ok(_) | Err(_), _) => false,
    }
}

#[cfg(test)]
#[path = "lease_tests.rs"]
mod tests;
