//! Times of answers, and the gaps between them.

use std::time::{Duration, Instant};

/// Times of answers, in ascending order.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Times(Vec<Instant>);

impl Times {
    /// Records an answer. A time before the last one, from another thread, counts as the last one.
    pub fn push(&mut self, when: Instant) {
        let when = self.0.last().map_or(when, |last| when.max(*last));
        self.0.push(when);
    }

    /// Number of answers.
    #[must_use]
    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// The longest time without an answer in an interval. The last answer before it and the first one after it count
    /// too: a gap is measured in full.
    #[must_use]
    pub fn longest_gap(&self, from: Instant, to: Instant) -> Duration {
        let first = self.0.partition_point(|when| *when <= from);
        let after = self.0.partition_point(|when| *when < to);
        let before = first.checked_sub(1).and_then(|index| self.0.get(index));
        let mut last = *before.unwrap_or(&from);
        let mut longest = Duration::ZERO;
        let within = self.0.get(first..=after).or_else(|| self.0.get(first..));
        for when in within.unwrap_or_default() {
            longest = longest.max(*when - last);
            last = *when;
        }
        longest.max(to.saturating_duration_since(last))
    }

    /// Whether there was no gap of this length during `span` before `now`.
    #[must_use]
    pub fn steady(&self, now: Instant, span: Duration, gap: Duration) -> bool {
        let Some(from) = now.checked_sub(span) else {
            return false;
        };
        self.0.first().is_some_and(|first| *first <= from) && self.longest_gap(from, now) < gap
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(count: u64) -> Duration {
        Duration::from_millis(count)
    }

    fn times(start: Instant, at: &[u64]) -> Times {
        let mut times = Times::default();
        for at in at {
            times.push(start + ms(*at));
        }
        times
    }

    #[test]
    fn gap_includes_answers_just_outside_the_interval() {
        let start = Instant::now();
        let times = times(start, &[0, 10, 20, 500, 510, 520]);
        let gap = |from, to| times.longest_gap(start + ms(from), start + ms(to));
        assert_eq!(gap(0, 520), ms(480));
        assert_eq!(gap(100, 200), ms(480));
        assert_eq!(gap(500, 520), ms(10));
        assert_eq!(gap(520, 900), ms(380), "an open gap counts");
    }

    #[test]
    fn interval_without_answers_is_one_gap() {
        let start = Instant::now();
        assert_eq!(Times::default().longest_gap(start, start + ms(70)), ms(70));
    }

    #[test]
    fn steady_needs_the_span_without_a_gap() {
        let start = Instant::now();
        let times = times(start, &[0, 10, 20, 500, 510, 520]);
        let steady = |now, span| times.steady(start + ms(now), ms(span), ms(100));
        assert!(steady(520, 20));
        assert!(!steady(520, 200), "there was a gap");
        assert!(!steady(700, 20), "no recent answer");
        assert!(!steady(20, 50), "too short");
    }
}
