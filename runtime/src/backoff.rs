//! Exponential backoff without a clock: the caller decides what to do with the delays.

use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBuilder};

/// Delays between tries of one thing: each is twice the one before, up to a maximum.
#[derive(Debug)]
pub struct Backoff {
    settings: ExponentialBuilder,
    delays: <ExponentialBuilder as BackoffBuilder>::Backoff,
    max: Duration,
}

impl Backoff {
    /// A backoff that begins with the delay `first`.
    #[must_use]
    pub fn new(first: Duration, max: Duration) -> Self {
        let settings = ExponentialBuilder::new()
            .with_min_delay(first)
            .with_max_delay(max)
            .without_max_times();
        Self {
            settings,
            delays: settings.build(),
            max,
        }
    }

    /// The delay to wait after one more failure.
    pub fn next_delay(&mut self) -> Duration {
        // The iterator is endless: it has no limit of tries.
        self.delays.next().unwrap_or(self.max)
    }

    /// Begins with the first delay again; to be called after a success.
    pub fn reset(&mut self) {
        self.delays = self.settings.build();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_up_to_the_maximum() {
        let mut backoff = Backoff::new(Duration::from_millis(500), Duration::from_secs(60));
        let delays: Vec<_> = (0..9).map(|_| backoff.next_delay().as_millis()).collect();
        assert_eq!(delays, [500, 1000, 2000, 4000, 8000, 16000, 32000, 60000, 60000]);
        for _ in 0..1000 {
            assert_eq!(backoff.next_delay(), Duration::from_secs(60));
        }
    }

    #[test]
    fn reset_begins_with_the_first_delay() {
        let first = Duration::from_secs(1);
        let mut backoff = Backoff::new(first, Duration::from_secs(30));
        assert_eq!(backoff.next_delay(), first);
        assert_eq!(backoff.next_delay(), first * 2);
        backoff.reset();
        assert_eq!(backoff.next_delay(), first);
    }
}
