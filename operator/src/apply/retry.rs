//! When a failed write is tried again. Each write has its own backoff, so that one that keeps failing does not delay
//! the others and is not repeated whenever something else changes. Pure: time is an argument.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use lb_runtime::Backoff;
use lb_runtime::text::truncate;

use super::write::WriteId;
use crate::request::RequestError;

/// Delay after the first failure; it doubles up to [`MAX_DELAY`].
const FIRST_DELAY: Duration = Duration::from_millis(500);
const MAX_DELAY: Duration = Duration::from_secs(30);
/// Longest message of a failed write in the status, in bytes.
const MESSAGE_LIMIT: usize = 300;

/// Why a write failed. Two failures are equal if the API server refused for the same causes, in whatever order it
/// listed them.
#[derive(Clone, Debug)]
pub struct Failure {
    message: String,
    causes: Causes,
}

#[derive(Clone, Debug, Eq, PartialEq)]
enum Causes {
    /// Code and reason of the API server's answer, and of each cause its reason, field and message.
    Listed(u16, String, BTreeSet<(String, String, String)>),
    /// The error lists no causes: the whole message.
    Message(String),
}

impl Failure {
    /// The failure that an error stands for.
    #[must_use]
    pub fn of(error: &RequestError) -> Self {
        let message = error.to_string();
        let causes = match error {
            RequestError::Failed { source, .. } => listed_causes(source),
            RequestError::Foreign(_) | RequestError::Timeout { .. } => None,
        };
        Self {
            causes: causes.unwrap_or_else(|| Causes::Message(message.clone())),
            message,
        }
    }
}

fn listed_causes(error: &kube::Error) -> Option<Causes> {
    let kube::Error::Api(status) = error else {
        return None;
    };
    let details = status.details.iter().flat_map(|details| &details.causes);
    let causes: BTreeSet<_> = details
        .map(|cause| (cause.reason.clone(), cause.field.clone(), cause.message.clone()))
        .collect();
    (!causes.is_empty()).then(|| Causes::Listed(status.code, status.reason.clone(), causes))
}

impl PartialEq for Failure {
    fn eq(&self, other: &Self) -> bool {
        self.causes == other.causes
    }
}

/// The writes whose last attempt failed.
#[derive(Debug, Default)]
pub struct Retries {
    failed: BTreeMap<WriteId, FailedWrite>,
}

#[derive(Debug)]
struct FailedWrite {
    target: String,
    failure: Failure,
    backoff: Backoff,
    due: Instant,
}

impl Retries {
    /// Why the write failed last time, and how long to wait. `None` if it may be tried now: it did not fail, its retry
    /// is due, or `target`, the state to write, is not the one that failed.
    #[must_use]
    pub fn waits(&self, now: Instant, key: &WriteId, target: &str) -> Option<(&str, Duration)> {
        let failed = self.failed.get(key).filter(|failed| failed.target == target)?;
        let wait = failed.due.checked_duration_since(now)?;
        (!wait.is_zero()).then_some((failed.failure.message.as_str(), wait))
    }

    /// Messages of the writes whose last attempt failed.
    #[must_use]
    pub fn messages(&self) -> Vec<String> {
        let failed = self.failed.values();
        failed
            .map(|failed| truncate(failed.failure.message.clone(), MESSAGE_LIMIT))
            .collect()
    }

    /// Records a failed attempt. Returns how long to wait before the next. The message of an equal failure is kept, so
    /// that the stack's status is not written again.
    pub fn record_failure(&mut self, now: Instant, key: WriteId, target: &str, failure: Failure) -> Duration {
        let before = self.failed.remove(&key).filter(|before| before.target == target);
        let (mut backoff, failure) = match before {
            Some(before) if before.failure == failure => (before.backoff, before.failure),
            Some(before) => (before.backoff, failure),
            None => (Backoff::new(FIRST_DELAY, MAX_DELAY), failure),
        };
        let delay = backoff.next_delay();
        let failed = FailedWrite {
            target: target.to_owned(),
            failure,
            backoff,
            due: now + delay,
        };
        self.failed.insert(key, failed);
        delay
    }

    /// Forgets the failures of other writes than these: nothing wants them any longer.
    pub fn retain(&mut self, wanted: &BTreeSet<WriteId>) {
        self.failed.retain(|id, _| wanted.contains(id));
    }

    /// Records a successful attempt.
    pub fn record_success(&mut self, key: &WriteId) {
        self.failed.remove(key);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn key() -> WriteId {
        WriteId::Status("default".to_owned())
    }

    /// The API server's answer to an invalid object: the fields that are wrong, in this order.
    fn mk_failure(fields: &[&str]) -> Failure {
        let causes: Vec<_> = fields
            .iter()
            .map(|field| json!({"reason": "FieldValueInvalid", "field": field, "message": "bad"}))
            .collect();
        let status = serde_json::from_value(json!({
            "code": 422, "reason": "Invalid", "message": format!("invalid: {fields:?}"), "details": {"causes": causes},
        }));
        Failure::of(&RequestError::Failed {
            what: "write".to_owned(),
            source: Box::new(kube::Error::Api(status.unwrap())),
        })
    }

    fn mk_timeout() -> Failure {
        Failure::of(&RequestError::Timeout {
            what: "write".to_owned(),
        })
    }

    #[test]
    fn delay_doubles_for_each_failure_of_a_write() {
        let mut retries = Retries::default();
        let start = Instant::now();
        let message = mk_timeout().message;
        assert_eq!(retries.waits(start, &key(), "1"), None);
        assert_eq!(
            retries.record_failure(start, key(), "1", mk_timeout()),
            FIRST_DELAY
        );
        assert_eq!(
            retries.waits(start, &key(), "1"),
            Some((message.as_str(), FIRST_DELAY))
        );
        assert_eq!(
            retries.waits(start, &WriteId::Finalizers("default".to_owned()), "1"),
            None,
            "another write"
        );
        let then = start + FIRST_DELAY;
        assert_eq!(retries.waits(then, &key(), "1"), None, "its retry is due");
        assert_eq!(
            retries.record_failure(then, key(), "1", mk_timeout()),
            FIRST_DELAY * 2
        );
        for _ in 0..100 {
            retries.record_failure(then, key(), "1", mk_timeout());
        }
        assert_eq!(retries.record_failure(then, key(), "1", mk_timeout()), MAX_DELAY);
    }

    #[test]
    fn new_target_and_success_reset_the_delay() {
        let mut retries = Retries::default();
        let now = Instant::now();
        retries.record_failure(now, key(), "1", mk_timeout());
        retries.record_failure(now, key(), "1", mk_timeout());
        assert_eq!(retries.waits(now, &key(), "2"), None);
        assert_eq!(retries.record_failure(now, key(), "2", mk_timeout()), FIRST_DELAY);
        retries.record_success(&key());
        assert_eq!(retries.waits(now, &key(), "2"), None);
    }

    #[test]
    fn failure_of_a_write_that_is_no_longer_wanted_is_forgotten() {
        let mut retries = Retries::default();
        let now = Instant::now();
        retries.record_failure(now, key(), "1", mk_timeout());
        retries.retain(&[key()].into());
        assert_eq!(retries.messages(), [mk_timeout().message]);
        retries.retain(&BTreeSet::new());
        assert_eq!(retries.messages(), Vec::<String>::new());
    }

    #[test]
    fn causes_in_another_order_keep_the_message() {
        let mut retries = Retries::default();
        let now = Instant::now();
        let mut message_after = |fields: &[&str]| {
            retries.record_failure(now, key(), "1", mk_failure(fields));
            retries.waits(now, &key(), "1").unwrap().0.to_owned()
        };
        let first = mk_failure(&["a", "b"]).message;
        assert_eq!(message_after(&["a", "b"]), first);
        assert_eq!(message_after(&["b", "a"]), first);
        assert_eq!(message_after(&["b"]), mk_failure(&["b"]).message);
        assert_eq!(message_after(&["c"]), mk_failure(&["c"]).message);
    }
}
