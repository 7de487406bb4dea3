//! Carries out what [`crate::keys::rotation`] says about the keys of the heartbeats.

use std::time::{Duration, Instant};

use jiff::Timestamp;
use lb_crds::LoadBalancerStack;
use lb_runtime::events::EventKind;

use super::{Operator, PassResult};
use crate::apply::retry::RetryKey;
use crate::desired::render::Component;
use crate::index::Live;
use crate::keys::material::{self, Change};
use crate::keys::rotation::{Policy, Rotation, Seen, Step};
use crate::object_id::{Kind, ObjectId};

/// Most changes in a row: what is due is done one after the other, and the wait after it is known.
const MOST: usize = 4;

impl Operator {
    /// Another operator leads, or none does: what it sees meanwhile is not known here.
    pub fn stand_by(&mut self) {
        self.rotation = Rotation::default();
        self.resumed = false;
    }

    /// Makes the change of the keys that is due, if one is.
    pub(super) async fn rotate(
        &mut self,
        stack: &LoadBalancerStack,
        namespace: &str,
        leads: &impl Fn() -> bool,
        work: &mut PassResult,
    ) {
        let id = ObjectId::new(Kind::Secret, namespace, material::SECRET);
        let policy = Policy::of(stack);
        for _ in 0..MOST {
            // A Secret that is not there, or has no key, is put right as any other object is.
            let Some((seen, version)) = self.index.get(&id).and_then(look) else {
                return;
            };
            self.show(&seen);
            let lost = self
                .index
                .pods(namespace)
                .any(|(_, pod)| pod.component == Component::Speaker.name() && pod.node_lost);
            let step = self
                .rotation
                .step(Instant::now(), Timestamp::now(), &seen, &policy, lost);
            let change = match step {
                Step::Wait(wait) => {
                    wait.into_iter().for_each(|wait| work.again_in(wait));
                    return;
                }
                Step::Do(change) => change,
            };
            if !leads() {
                return;
            }
            if let Some((message, wait)) = self.retries.waits(Instant::now(), &RetryKey::KeyRotation, "") {
                work.waits(message.to_owned(), wait);
                return;
            }
            match self.writer.change_keys(&id, version, &change).await {
                Ok(Some(live)) => {
                    self.metrics.writes.with_label_values(&[id.kind.names().2]).inc();
                    self.retries.record_success(&RetryKey::KeyRotation);
                    self.index.apply(id.clone(), live);
                    self.tell_change(&change, &seen, policy.spread);
                }
                // Somebody else has changed it: the watch tells how.
                Ok(None) => return,
                Err(error) => {
                    self.failed(RetryKey::KeyRotation, "", &error, work);
                    return;
                }
            }
        }
    }

    fn show(&self, seen: &Seen) {
        if let Some(record) = &seen.record {
            let generation = i64::try_from(record.generation).unwrap_or(i64::MAX);
            self.metrics.key_generation.set(generation);
            self.metrics.key_since.set(record.since.as_second());
        }
    }

    fn tell_change(&self, change: &Change, seen: &Seen, spread: Duration) {
        let generation = seen.generation.unwrap_or_default();
        let seconds = spread.as_secs();
        let (reason, note) = match change {
            Change::Record(record) => {
                tracing::info!(generation = record.generation, "key of the heartbeats is in use");
                return;
            }
            Change::Spread(_) => (
                "HeartbeatKeyCreated",
                format!(
                    "heartbeat key {} is made, to follow {generation}: in {seconds} seconds or more every speaker has it, \
                     and uses it",
                    generation + 1
                ),
            ),
            Change::Switch(record) => {
                tracing::info!(
                    generation = record.generation,
                    "key of the heartbeats is in use, and the one before still believed"
                );
                return;
            }
            Change::Retire => (
                "HeartbeatKeyRotated",
                format!(
                    "heartbeat key {generation} is in use, and the one before it believed no longer, once this has reached \
                     every speaker"
                ),
            ),
        };
        tracing::info!(reason, "{note}");
        self.publish(EventKind::Normal, reason, note);
    }
}

/// What of the Secret matters, and its version; nothing of one that is on its way out or has no key.
fn look(live: &Live) -> Option<(Seen, u64)> {
    if live.terminating || live.lacks_its_key() {
        return None;
    }
    let seen = Seen {
        uid: live.uid.clone(),
        entries: live.keys(),
        generation: material::generation(live.annotations()),
        record: material::record(live.annotations()),
    };
    Some((seen, live.version()?))
}
