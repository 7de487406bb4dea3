//! When to try again what failed. Each write has a backoff of its own, so that one that keeps failing neither holds up
//! the others nor is repeated whenever something else changes. Pure: time is an argument.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// First pause after a failure; it doubles up to [`LONGEST`].
const FIRST: Duration = Duration::from_millis(500);
/// Longest pause between tries.
const LONGEST: Duration = Duration::from_secs(30);

/// The writes that failed last time.
#[derive(Debug, Default)]
pub struct Retries {
    failed: BTreeMap<String, Failed>,
}

#[derive(Debug)]
struct Failed {
    wish: String,
    message: String,
    tries: u32,
    due: Instant,
}

impl Retries {
    /// Why the write failed last time, and how long to wait; `None` when it may be tried now: because it did not
    /// fail, because its time has come, or because another thing is wished for than failed.
    #[must_use]
    pub fn waits(&self, now: Instant, what: &str, wish: &str) -> Option<(&str, Duration)> {
        let failed = self.failed.get(what).filter(|failed| failed.wish == wish)?;
        let wait = failed.due.checked_duration_since(now)?;
        (!wait.is_zero()).then_some((failed.message.as_str(), wait))
    }

    /// The write failed. Returns how long to wait.
    pub fn failed(&mut self, now: Instant, what: &str, wish: &str, message: &str) -> Duration {
        let before = self.failed.remove(what).filter(|before| before.wish == wish);
        let (tries, message) = match before {
            Some(before) if says_the_same(&before.message, message) => {
                (before.tries.saturating_add(1), before.message)
            }
            Some(before) => (before.tries.saturating_add(1), message.to_owned()),
            None => (0, message.to_owned()),
        };
        let pause = FIRST.saturating_mul(1 << tries.min(16)).min(LONGEST);
        let failed = Failed {
            wish: wish.to_owned(),
            message,
            tries,
            due: now + pause,
        };
        self.failed.insert(what.to_owned(), failed);
        pause
    }

    /// The write succeeded.
    pub fn succeeded(&mut self, what: &str) {
        self.failed.remove(what);
    }
}

/// The API server lists several faults in any order: the status must not be written anew for each.
fn says_the_same(a: &str, b: &str) -> bool {
    let words = |text: &str| {
        let separators = |c: char| c.is_whitespace() || matches!(c, ',' | '[' | ']');
        let mut words: Vec<_> = text.split(separators).map(str::to_owned).collect();
        words.sort_unstable();
        words
    };
    words(a) == words(b)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_write_waits_longer_each_time_and_others_do_not_wait() {
        let mut retries = Retries::default();
        let start = Instant::now();
        assert_eq!(retries.waits(start, "a", "1"), None);
        assert_eq!(retries.failed(start, "a", "1", "refused"), FIRST);
        assert_eq!(retries.waits(start, "a", "1"), Some(("refused", FIRST)));
        assert_eq!(retries.waits(start, "b", "1"), None);
        let then = start + FIRST;
        assert_eq!(retries.waits(then, "a", "1"), None, "its time has come");
        assert_eq!(retries.failed(then, "a", "1", "refused"), FIRST * 2);
        for _ in 0..100 {
            retries.failed(then, "a", "1", "refused");
        }
        assert_eq!(retries.failed(then, "a", "1", "refused"), LONGEST);
    }

    #[test]
    fn another_wish_and_a_success_start_over() {
        let mut retries = Retries::default();
        let now = Instant::now();
        retries.failed(now, "a", "1", "refused");
        retries.failed(now, "a", "1", "refused");
        assert_eq!(retries.waits(now, "a", "2"), None);
        assert_eq!(retries.failed(now, "a", "2", "refused"), FIRST);
        retries.succeeded("a");
        assert_eq!(retries.waits(now, "a", "2"), None);
    }

    #[test]
    fn faults_listed_in_another_order_are_no_news() {
        let mut retries = Retries::default();
        let now = Instant::now();
        let message = |retries: &Retries| retries.waits(now, "a", "1").unwrap().0.to_owned();
        retries.failed(now, "a", "1", "invalid: [a: bad, b: worse]");
        retries.failed(now, "a", "1", "invalid: [b: worse, a: bad]");
        assert_eq!(message(&retries), "invalid: [a: bad, b: worse]");
        retries.failed(now, "a", "1", "invalid: [b: worse]");
        assert_eq!(message(&retries), "invalid: [b: worse]");
    }
}
