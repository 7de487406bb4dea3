//! When the key of the heartbeats is changed, and how far a change has got. Pure: time is an argument.
//!
//! ```text
//!          due, or asked for            every speaker has it            every speaker has it
//!   Rest ───────────────────► Spreading ────────────────────► Retiring ────────────────────► Rest
//!   current                   current, next                   previous, current              current
//! ```
//!
//! No speaker ever refuses another: in each phase a speaker that still has the Secret of the phase before, and one that has
//! the present one, believe each other's `current`. What must not happen is that one is two phases behind: so a phase lasts
//! until every speaker has surely got it.
//!
//! How long that is, no message tells: speakers write nothing about their keys to the API server. It is a bound of the
//! kubelet. It looks at a mounted Secret whenever it looks at the pod, every `syncFrequency` (1 minute) plus up to half of it
//! at random (`workerResyncIntervalJitterFactor`), and takes the Secret from a watch, or, where it is told to
//! (`configMapAndSecretChangeDetectionStrategy: Cache`), from a cache that is up to a minute old in clusters of up to 2,000
//! nodes (`node.alpha.kubernetes.io/ttl`); see "Mounted Secrets are updated automatically" in
//! <https://kubernetes.io/docs/concepts/configuration/secret/>. The speaker reads it at once. So 90 seconds, at most 150, and
//! as much again as margin: [`SPREAD`]. For the second thing that delays it, a node that does not answer, see [`PATIENCE`].
//!
//! The phase is what the entries of the Secret say, and nothing else: an operator that is restarted, or takes over, goes on
//! from there. It waits anew from when it first saw the phase, by its own monotonic clock: a clock that is set, or another
//! operator's, can't cut a wait short. The age of a key, for which a few minutes do not matter, is by the clock of the day.

use std::time::{Duration, Instant};

use jiff::Timestamp;
use kube::ResourceExt;
use lb_crds::LoadBalancerStack;

use crate::desired::render::digest;
use crate::keys::material::{Change, Entries};

/// Annotation of the stack that asks for a rotation; each other value asks for another.
pub const ASK: &str = "lb-operator.io/rotate-heartbeat-keys";
/// Time between two rotations unless the stack says otherwise. No cipher needs it, HMAC-SHA256 does not wear out. It bounds
/// for how long a copy of the key is of use that left the cluster, in a backup of etcd or with the disk of a node that was
/// retired; and a rotation that runs each month works on the day that it is needed.
pub const EVERY_DAYS: i32 = 30;
/// Time in which a changed Secret surely reaches every speaker whose node answers; see above.
pub const SPREAD: Duration = Duration::from_secs(300);
/// How long a phase waits at most for nodes that do not answer. The kubelet of such a node may be cut off from the API server
/// while its speaker goes on; but it may as well be without power for good.
pub const PATIENCE: Duration = Duration::from_secs(3600);
/// Longest time until the age of a key is looked at again.
const LOOK: Duration = Duration::from_secs(24 * 3600);
const DAY: Duration = Duration::from_secs(24 * 3600);

/// What the stack wants of the keys.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Policy {
    /// Age at which a key is replaced; `None`: never.
    pub every: Option<Duration>,
    /// Time in which a changed Secret reaches every speaker whose node answers.
    pub spread: Duration,
    /// The request for a rotation that the stack carries, as a digest: it may be long.
    pub asked: Option<String>,
}

impl Policy {
    /// What this stack wants.
    #[must_use]
    pub fn of(stack: &LoadBalancerStack) -> Self {
        let speaker = stack.spec.speaker.as_ref();
        let heartbeat = speaker.and_then(|speaker| speaker.heartbeat.as_ref());
        let days = heartbeat.and_then(|heartbeat| heartbeat.key_rotation_days);
        let days = u32::try_from(days.unwrap_or(EVERY_DAYS)).unwrap_or(0);
        let spread = heartbeat.and_then(|heartbeat| heartbeat.key_propagation_seconds);
        let spread = spread.and_then(|seconds| u64::try_from(seconds).ok());
        Self {
            every: (days > 0).then(|| DAY.saturating_mul(days)),
            spread: spread.map_or(SPREAD, Duration::from_secs),
            asked: stack
                .annotations()
                .get(ASK)
                .map(|value| digest(&serde_json::Value::from(value.as_str()))),
        }
    }
}

/// What is written down about the present key.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Record {
    /// How many keys there have been, this one included.
    pub generation: u64,
    /// Since when it makes heartbeats.
    pub since: Timestamp,
    /// The request for a rotation that was met last; empty when there was none.
    pub asked: String,
}

/// The Secret, as far as it matters here.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Seen {
    /// Its uid.
    pub uid: String,
    /// Which keys it has.
    pub entries: Entries,
    /// How many keys there have been, also where the rest of the record is void.
    pub generation: Option<u64>,
    /// What is written down about the present one.
    pub record: Option<Record>,
}

/// How far a rotation has got.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Phase {
    /// There is none.
    Rest,
    /// The next key is on its way to the speakers.
    Spreading,
    /// The new key is in use, and its use on its way to the speakers.
    Retiring,
}

impl Entries {
    /// The phase that these entries mean. Where somebody has put a next key beside a previous one, the previous one goes first.
    #[must_use]
    pub fn phase(self) -> Phase {
        match (self.previous, self.next) {
            (true, _) => Phase::Retiring,
            (false, true) => Phase::Spreading,
            (false, false) => Phase::Rest,
        }
    }
}

/// What is to be done.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Step {
    /// Nothing, for so long at least; `None`: until something changes.
    Wait(Option<Duration>),
    /// This change of the Secret.
    Do(Change),
}

/// What an operator remembers of a rotation: since when it has seen the phase, and when a speaker's node did not answer last.
#[derive(Debug, Default)]
pub struct Rotation {
    entered: Option<((String, Phase, u64), Instant)>,
    lost: Option<Instant>,
}

impl Rotation {
    /// What is to be done about the keys. `lost` tells whether the node of a speaker does not answer at present.
    pub fn step(&mut self, now: Instant, today: Timestamp, seen: &Seen, policy: &Policy, lost: bool) -> Step {
        if lost {
            self.lost = Some(now);
        }
        let phase = seen.entries.phase();
        let place = (seen.uid.clone(), phase, seen.generation.unwrap_or_default());
        let entered = match &self.entered {
            Some((known, at)) if *known == place => *at,
            Some(_) | None => {
                self.entered = Some((place, now));
                now
            }
        };
        // Made just now, by an operator that did not write it down, or by hand.
        let Some(record) = &seen.record else {
            return Step::Do(Change::Record(Record {
                generation: seen.generation.unwrap_or_default().saturating_add(1),
                since: today,
                asked: policy.asked.clone().unwrap_or_default(),
            }));
        };
        match phase {
            Phase::Rest => at_rest(today, record, policy),
            Phase::Spreading | Phase::Retiring => {
                if let Some(wait) = self.wait(now, entered, policy.spread) {
                    return Step::Wait(Some(wait));
                }
                Step::Do(if phase == Phase::Retiring {
                    Change::Retire
                } else {
                    Change::Switch(Record {
                        generation: record.generation.saturating_add(1),
                        since: today,
                        asked: record.asked.clone(),
                    })
                })
            }
        }
    }

    /// How much longer the phase lasts.
    fn wait(&self, now: Instant, entered: Instant, spread: Duration) -> Option<Duration> {
        let least = entered + spread;
        // A node that answers again has so much time from then on.
        let found = self.lost.map_or(least, |lost| lost + spread);
        let over = least.max(found.min(entered + PATIENCE));
        over.checked_duration_since(now).filter(|wait| !wait.is_zero())
    }
}

fn at_rest(today: Timestamp, record: &Record, policy: &Policy) -> Step {
    let asked = policy.asked.as_ref().filter(|asked| **asked != record.asked);
    // One from the future is as old as that is far away: the clock was wrong then, or is now.
    let age = today.duration_since(record.since).unsigned_abs();
    let wait = policy.every.map(|every| every.saturating_sub(age));
    if asked.is_none() && wait.is_none_or(|wait| !wait.is_zero()) {
        return Step::Wait(wait.map(|wait| wait.min(LOOK)));
    }
    Step::Do(Change::Spread(Record {
        asked: policy.asked.clone().unwrap_or_else(|| record.asked.clone()),
        ..record.clone()
    }))
}

#[cfg(test)]
#[path = "rotation_tests.rs"]
mod tests;
