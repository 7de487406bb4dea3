//! Leadership by a Lease, as a machine without I/O: what is observed and the time go in, writes come out.
//!
//! The rule is client-go's: clocks of different machines are never compared. A candidate counts a Lease as expired
//! when it has itself seen no change of it for the Lease's duration; the holder gives up when its own last renewal
//! that succeeded was *begun* longer ago than the renew deadline, which is shorter. So the old holder has stopped
//! before a new one may start.

use std::time::{Duration, Instant};

/// Timing of a Lease.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    /// How long a Lease that nobody renews stays with its holder.
    pub duration: Duration,
    /// How long the holder goes on without a renewal that succeeds. Shorter than `duration`.
    pub renew_deadline: Duration,
    /// Pause between renewals, and between tries to acquire.
    pub retry: Duration,
}

impl Default for Timing {
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
pub struct Record {
    /// Who holds it; empty when it was released.
    pub holder: String,
    /// How long its holder asks others to wait.
    pub duration: Duration,
    /// How often it has changed hands.
    pub transitions: i32,
    /// Resource version of the object: changes with every write, and guards ours.
    pub version: String,
    /// What its last holder has left for the next one when it gave it back; empty when nothing.
    pub handoff: String,
}

/// A write of the Lease. It must carry `replaces` as a precondition: the version of the object it replaces, or, when
/// absent, that there is none.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Write {
    /// The new holder: this process, or empty to release.
    pub holder: String,
    /// How often the Lease has changed hands, with this write.
    pub transitions: i32,
    /// Whether the holder is new, and so the time of acquisition.
    pub acquires: bool,
    /// Version of the object this write replaces.
    pub replaces: Option<String>,
    /// What is left for the next holder: only with a release.
    pub handoff: String,
}

/// What came of a [`Write`].
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Outcome {
    /// Written; the Lease now looks like this.
    Written(Record),
    /// Someone else wrote first, or the request failed: the observed state will tell.
    Failed,
}

/// One candidate's view of one Lease.
#[derive(Debug)]
pub struct Machine {
    identity: String,
    timing: Timing,
    observed: Option<Observed>,
    known: bool,
    next_try: Option<Instant>,
    in_flight: Option<InFlight>,
    /// When the last renewal that succeeded was begun; `Some` while this process leads.
    renewed: Option<Instant>,
    /// Set once the Lease is to be given back: what to leave for the next holder.
    releasing: Option<String>,
    /// What the holder before us has left, since we last acquired the Lease.
    inherited: String,
}

#[derive(Debug)]
struct Observed {
    record: Record,
    since: Instant,
}

#[derive(Debug)]
struct InFlight {
    begun: Instant,
    releases: bool,
}

impl Machine {
    /// A candidate that knows nothing yet.
    #[must_use]
    pub fn new(identity: String, timing: Timing) -> Self {
        Self {
            identity,
            timing,
            observed: None,
            known: false,
            next_try: None,
            in_flight: None,
            renewed: None,
            releasing: None,
            inherited: String::new(),
        }
    }

    /// Whether this process leads. False as soon as the renew deadline has passed, whatever is under way.
    #[must_use]
    pub fn leads(&self, now: Instant) -> bool {
        self.releasing.is_none()
            && self
                .renewed
                .is_some_and(|renewed| now < renewed + self.timing.renew_deadline)
    }

    /// The Lease was seen, or its absence was.
    pub fn observe(&mut self, now: Instant, record: Option<Record>) {
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
            // An older version of our own write may arrive after the answer to it: it tells nothing about others.
            if holder_is_other && self.in_flight.is_none() {
                self.renewed = None;
            }
            if record.holder.is_empty() {
                self.next_try = Some(now);
            }
            self.observed = Some(Observed { record, since: now });
        }
    }

    /// Asks to give the Lease back, with something for the next holder to know, or an empty text. Leadership ends at
    /// once; the release is written if it can be.
    pub fn release(&mut self, now: Instant, handoff: String) {
        self.releasing = Some(handoff);
        self.next_try = Some(now);
    }

    /// While this process leads: what the last holder has left when it gave the Lease back. Empty when there was none, or
    /// it ended without giving anything back.
    #[must_use]
    pub fn inherited(&self) -> &str {
        &self.inherited
    }

    /// Whether there is nothing left to give back.
    #[must_use]
    pub fn released(&self) -> bool {
        self.releasing.is_some() && self.renewed.is_none() && self.in_flight.is_none()
    }

    /// Whether a write is under way.
    #[must_use]
    pub fn is_writing(&self) -> bool {
        self.in_flight.is_some()
    }

    /// The write to make now, if one is due. Its outcome must be handed to [`Machine::written`].
    pub fn poll_write(&mut self, now: Instant) -> Option<Write> {
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
            self.inherited = released.map_or_else(String::new, |record| record.handoff.clone());
        }
        let write = Write {
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
        self.in_flight = Some(InFlight {
            begun: now,
            releases: self.releasing.is_some(),
        });
        Some(write)
    }

    /// What came of the last write.
    pub fn written(&mut self, now: Instant, outcome: Outcome) {
        let Some(write) = self.in_flight.take() else {
            return;
        };
        match outcome {
            Outcome::Written(record) => {
                self.observed = Some(Observed { record, since: now });
                self.renewed = (!write.releases).then_some(write.begun);
            }
            Outcome::Failed if write.releases => self.renewed = None,
            Outcome::Failed => {}
        }
        self.next_try = Some(
            write.begun.max(now)
                + if self.releasing.is_some() {
                    Duration::ZERO
                } else {
                    self.timing.retry
                },
        );
    }

    /// When [`Machine::poll_write`] or [`Machine::leads`] must be asked again, if nothing happens before.
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
                // Released, or ours from before a restart of this very process: nobody else can be leading by it.
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
