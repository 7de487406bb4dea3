//! Waiting for what a cluster does in its own time.

use std::time::{Duration, Instant};

use anyhow::{Context, bail};

/// Limit for what normally takes well under a second; the machine may be busy.
pub const SHORT_TIMEOUT: Duration = Duration::from_secs(30);
/// Limit for what the cluster itself takes time for: detecting a dead node, restarting pods.
pub const LONG_TIMEOUT: Duration = Duration::from_secs(120);
/// Pauses between two questions of [`eventually`]: a tenth of the time waited so far, between these. One `kubectl get`
/// takes 140 ms of a processor, which other scenarios need for what they measure.
const SHORTEST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// Repeats `check` until it returns a value. The error of its last call becomes the reason of a failure.
///
/// # Errors
/// When there is no value in time.
pub fn eventually<T>(
    what: &str,
    within: Duration,
    mut ask: impl FnMut() -> anyhow::Result<Option<T>>,
) -> anyhow::Result<T> {
    let start = Instant::now();
    loop {
        let answer = ask();
        if let Ok(Some(answer)) = answer {
            return Ok(answer);
        }
        if start.elapsed() > within {
            answer.with_context(|| format!("waited {within:?} for {what}"))?;
            bail!("waited {within:?} for {what}");
        }
        std::thread::sleep((start.elapsed() / 10).clamp(SHORTEST_PAUSE, LONGEST_PAUSE));
    }
}
