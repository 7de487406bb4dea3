//! When a peer in doubt is queried on the network.
//!
//! Questions begin at short intervals and become rarer, whether they are answered or not:
//!
//! ```text
//! answered:    gap, 2 gap, 4 gap … the longest gap
//! unanswered:  at the first gap until the timeout, so that a failure is found in time; then 2 gap, 4 gap …
//! ```

use std::time::{Duration, Instant};

/// The questions to one peer.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Inquiry {
    /// When to ask next; `None` without a doubt.
    due: Option<Instant>,
    gap: Duration,
    /// The first question in this doubt.
    first_asked: Option<Instant>,
    /// The first question since the last answer.
    unanswered_since: Option<Instant>,
}

impl Inquiry {
    /// Starts the questions; the first one is due at `due`.
    pub(super) fn begin(&mut self, due: Instant) {
        *self = Self {
            due: Some(due),
            ..Self::default()
        };
    }

    /// Ends the doubt.
    pub(super) fn end(&mut self) {
        *self = Self::default();
    }

    pub(super) const fn due(&self) -> Option<Instant> {
        self.due
    }

    pub(super) const fn first_asked(&self) -> Option<Instant> {
        self.first_asked
    }

    /// The first question since the last answer; `None` if all are answered.
    pub(super) const fn unanswered_since(&self) -> Option<Instant> {
        self.unanswered_since
    }

    /// Notes a question. The next one follows after `first_gap` while an answer can still be in time.
    pub(super) fn asked(&mut self, now: Instant, timeout: Duration, gaps: Gaps) {
        self.first_asked.get_or_insert(now);
        let since = *self.unanswered_since.get_or_insert(now);
        if now < since + timeout {
            self.due = Some(now + gaps.first);
        } else {
            self.lengthen_gap(now, gaps);
        }
    }

    /// Notes an answer.
    pub(super) fn answered(&mut self, now: Instant, gaps: Gaps) {
        if self.unanswered_since.take().is_some() {
            self.lengthen_gap(now, gaps);
        }
    }

    /// Moves the next question to a later time.
    pub(super) fn postpone(&mut self, until: Instant) {
        self.due = self.due.map(|due| due.max(until));
    }

    /// Applies `shift` to the times of the past.
    pub(super) fn shift(&mut self, shift: impl Fn(&mut Instant)) {
        let times = [&mut self.first_asked, &mut self.unanswered_since];
        times.into_iter().flatten().for_each(shift);
    }

    fn lengthen_gap(&mut self, now: Instant, gaps: Gaps) {
        self.gap = (self.gap * 2).clamp(gaps.first, gaps.longest.max(gaps.first));
        self.due = Some(now + self.gap);
    }
}

/// The range of the time between two questions to a peer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Gaps {
    pub(super) first: Duration,
    pub(super) longest: Duration,
}

/// Limits the questions to all peers together.
#[derive(Clone, Copy, Debug)]
pub(super) struct QueryBudget {
    window_start: Instant,
    asked: usize,
}

impl QueryBudget {
    /// Upper bound of the questions in [`WINDOW`](Self::WINDOW).
    pub(super) const MAX_PER_WINDOW: usize = 64;
    pub(super) const WINDOW: Duration = Duration::from_millis(100);

    pub(super) const fn new(now: Instant) -> Self {
        Self {
            window_start: now,
            asked: 0,
        }
    }

    /// Takes one question from the budget. If it is used up, returns when the next window begins.
    pub(super) fn take(&mut self, now: Instant) -> Result<(), Instant> {
        if self.window_start + Self::WINDOW <= now {
            *self = Self::new(now);
        }
        if self.asked >= Self::MAX_PER_WINDOW {
            return Err(self.window_start + Self::WINDOW);
        }
        self.asked += 1;
        Ok(())
    }
}
