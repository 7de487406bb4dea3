//! When the heartbeat key is rotated, and the phase of a rotation. Pure: time is an argument.
//!
//! ```text
//!          due or requested             every speaker has it            every speaker has it
//!   Idle ───────────────────► Distributing ─────────────────► Retiring ────────────────────► Idle
//!   current                   current, next                   previous, current              current
//! ```
//!
//! No speaker ever rejects another: in each phase a speaker with the Secret of the phase before and one with the
//! present Secret accept each other's `current`. A speaker must never be two phases behind, so a phase lasts until
//! every speaker has the Secret.
//!
//! Speakers do not report which keys they have; the length of a phase is an upper bound of the kubelet. It checks a
//! mounted Secret when it syncs the pod, every `syncFrequency` (1 minute) plus up to half of it at random
//! (`workerResyncIntervalJitterFactor`). It reads the Secret from a watch or, with
//! `configMapAndSecretChangeDetectionStrategy: Cache`, from a cache that is up to a minute old in clusters of up to
//! 2,000 nodes (`node.alpha.kubernetes.io/ttl`); see "Mounted Secrets are updated automatically" in
//! <https://kubernetes.io/docs/concepts/configuration/secret/>. The speaker reads a changed file at once. So 90
//! seconds, at most 150, and as much again as a margin: [`DEFAULT_PROPAGATION`]. Unreachable nodes extend it:
//! [`MAX_LOST_NODE_WAIT`].
//!
//! The phase follows from the entries of the Secret alone, so that a restarted operator continues a rotation. It
//! restarts the wait when it first sees the phase, by its own monotonic clock: neither a clock adjustment nor another
//! operator's clock can shorten it. The age of a key, for which minutes do not matter, is measured by the wall clock.

use std::time::{Duration, Instant};

use jiff::Timestamp;
use kube::ResourceExt;
use lb_crds::LoadBalancerStack;

use crate::desired::render::digest;
use crate::keys::secret::{KeyChange, KeyEntries, KeyRecord};

/// Annotation of the stack that requests a rotation; a changed value requests another.
pub const ROTATE_ANNOTATION: &str = "lb-operator.io/rotate-heartbeat-keys";
/// Days between two rotations. HMAC-SHA256 does not need them; they bound how long a leaked key is valid, from an etcd
/// backup or the disk of a retired node. A rotation that runs every month also works on the day that it is needed.
pub const DEFAULT_ROTATION_DAYS: i32 = 30;
/// Upper bound for a changed Secret to reach every speaker on a reachable node.
pub const DEFAULT_PROPAGATION: Duration = Duration::from_secs(300);
/// How long a phase waits at most for unreachable nodes. The kubelet of such a node may be cut off from the API server
/// while its speaker works; or the node may be gone for good.
pub const MAX_LOST_NODE_WAIT: Duration = Duration::from_secs(3600);
const MAX_AGE_CHECK_INTERVAL: Duration = Duration::from_secs(24 * 3600);
const DAY: Duration = Duration::from_secs(24 * 3600);

/// When keys are rotated.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct RotationPolicy {
    /// Age at which a key is replaced; `None` for never.
    pub interval: Option<Duration>,
    /// Upper bound for a changed Secret to reach every speaker on a reachable node.
    pub propagation: Duration,
    /// The value of [`ROTATE_ANNOTATION`], as a digest because it may be long.
    pub requested: Option<String>,
}

impl RotationPolicy {
    /// The policy of a stack.
    #[must_use]
    pub fn of(stack: &LoadBalancerStack) -> Self {
        let speaker = stack.spec.speaker.as_ref();
        let heartbeat = speaker.and_then(|speaker| speaker.heartbeat.as_ref());
        let days = heartbeat.and_then(|heartbeat| heartbeat.key_rotation_days);
        let days = u32::try_from(days.unwrap_or(DEFAULT_ROTATION_DAYS)).unwrap_or(0);
        let propagation = heartbeat.and_then(|heartbeat| heartbeat.key_propagation_seconds);
        let propagation = propagation.and_then(|seconds| u64::try_from(seconds).ok());
        Self {
            interval: (days > 0).then(|| DAY.saturating_mul(days)),
            propagation: propagation.map_or(DEFAULT_PROPAGATION, Duration::from_secs),
            requested: stack
                .annotations()
                .get(ROTATE_ANNOTATION)
                .map(|value| digest(&serde_json::Value::from(value.as_str()))),
        }
    }
}

/// The observed state of the Secret.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct KeySecret {
    /// A recreated Secret has another one.
    pub uid: String,
    /// The keys that it has.
    pub entries: KeyEntries,
    /// Number of keys so far, also if the rest of the record is invalid.
    pub generation: Option<u64>,
    /// The record of the current key, if it is valid.
    pub record: Option<KeyRecord>,
}

/// Phase of a rotation.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum RotationPhase {
    /// No rotation is in progress.
    Idle,
    /// The next key propagates to the speakers.
    Distributing,
    /// The new key is active; the change propagates to the speakers.
    Retiring,
}

impl KeyEntries {
    /// The phase. If a user added a next key during [`RotationPhase::Retiring`], the previous key is removed first.
    #[must_use]
    pub fn phase(self) -> RotationPhase {
        match (self.previous, self.next) {
            (true, _) => RotationPhase::Retiring,
            (false, true) => RotationPhase::Distributing,
            (false, false) => RotationPhase::Idle,
        }
    }
}

/// The next step of a rotation.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum RotationStep {
    /// Wait for so long, or for a change if `None`.
    Wait(Option<Duration>),
    /// Change the Secret.
    Apply(KeyChange),
}

/// The memory of one operator process: since when it has seen the present phase, and when a speaker's node was last
/// lost.
#[derive(Debug, Default)]
pub struct KeyRotation {
    entered: Option<((String, RotationPhase, u64), Instant)>,
    lost: Option<Instant>,
}

impl KeyRotation {
    /// The next step. `lost`: whether the node of a speaker is unreachable now.
    pub fn step(
        &mut self,
        now: Instant,
        today: Timestamp,
        secret: &KeySecret,
        policy: &RotationPolicy,
        lost: bool,
    ) -> RotationStep {
        if lost {
            self.lost = Some(now);
        }
        let phase = secret.entries.phase();
        let phase_id = (secret.uid.clone(), phase, secret.generation.unwrap_or_default());
        let entered = match &self.entered {
            Some((known, at)) if *known == phase_id => *at,
            Some(_) | None => {
                self.entered = Some((phase_id, now));
                now
            }
        };
        // A new key without a record: created just now, or by hand.
        let Some(record) = &secret.record else {
            return RotationStep::Apply(KeyChange::Annotate(KeyRecord {
                generation: secret.generation.unwrap_or_default().saturating_add(1),
                since: today,
                requested: policy.requested.clone().unwrap_or_default(),
            }));
        };
        match phase {
            RotationPhase::Idle => next_rotation(today, record, policy),
            RotationPhase::Distributing | RotationPhase::Retiring => {
                if let Some(wait) = self.wait(now, entered, policy.propagation) {
                    return RotationStep::Wait(Some(wait));
                }
                RotationStep::Apply(if phase == RotationPhase::Retiring {
                    KeyChange::Retire
                } else {
                    KeyChange::Activate(KeyRecord {
                        generation: record.generation.saturating_add(1),
                        since: today,
                        requested: record.requested.clone(),
                    })
                })
            }
        }
    }

    /// Remaining time of the phase; `None` once it is over.
    fn wait(&self, now: Instant, entered: Instant, propagation: Duration) -> Option<Duration> {
        let min_end = entered + propagation;
        // A node that returns gets the whole propagation time.
        let return_end = self.lost.map_or(min_end, |lost| lost + propagation);
        let end = min_end.max(return_end.min(entered + MAX_LOST_NODE_WAIT));
        end.checked_duration_since(now).filter(|wait| !wait.is_zero())
    }
}

fn next_rotation(today: Timestamp, record: &KeyRecord, policy: &RotationPolicy) -> RotationStep {
    let requested = policy
        .requested
        .as_ref()
        .filter(|requested| **requested != record.requested);
    // A time in the future counts as its distance: the clock was or is wrong.
    let age = today.duration_since(record.since).unsigned_abs();
    let wait = policy.interval.map(|interval| interval.saturating_sub(age));
    if requested.is_none() && wait.is_none_or(|wait| !wait.is_zero()) {
        return RotationStep::Wait(wait.map(|wait| wait.min(MAX_AGE_CHECK_INTERVAL)));
    }
    RotationStep::Apply(KeyChange::Distribute(KeyRecord {
        requested: policy
            .requested
            .clone()
            .unwrap_or_else(|| record.requested.clone()),
        ..record.clone()
    }))
}

#[cfg(test)]
#[path = "rotation_tests.rs"]
mod tests;
