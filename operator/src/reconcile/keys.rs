//! Performs the rotation of the heartbeat keys that [`crate::keys::rotation`] decides.

use std::time::{Duration, Instant};

use jiff::Timestamp;
use lb_crds::LoadBalancerStack;

use super::{Operator, TICK};
use crate::apply::write::Write;
use crate::desired::render::Component;
use crate::index::LiveObject;
use crate::keys::rotation::{KeyRotation, KeySecret, RotationPolicy, RotationStep};
use crate::keys::secret::{self, KeyChange, RandomnessError};
use crate::object_id::{Kind, ObjectId};
use crate::reasons::{Reason, StackEvent};

/// Changes in one pass.
const MAX_CHANGES: usize = 4;

impl Operator {
    /// Forgets observed durations because this replica does not lead: it does not see what the leader does.
    pub fn stand_by(&mut self) {
        self.rotation = KeyRotation::default();
        self.resumed = false;
        self.metrics.clear_state();
    }

    /// Changes the heartbeat keys if that is due.
    pub(super) async fn rotate_keys(&mut self, stack: &LoadBalancerStack, namespace: &str) {
        let id = ObjectId::new(Kind::Secret, namespace, secret::SECRET_NAME);
        let policy = RotationPolicy::of(stack);
        for _ in 0..MAX_CHANGES {
            // A missing Secret or key is repaired like any other object.
            let Some((secret, version)) = self.index.get(&id).and_then(key_secret) else {
                return;
            };
            self.update_key_metrics(&secret);
            let lost = self
                .index
                .pods(namespace)
                .any(|(_, pod)| pod.component == Component::Speaker.name() && pod.node_lost);
            let step = self
                .rotation
                .step(Instant::now(), Timestamp::now(), &secret, &policy, lost);
            let change = match step {
                RotationStep::Wait(wait) => {
                    return wait.into_iter().for_each(|wait| self.executor.requeue_in(wait));
                }
                RotationStep::Apply(change) => change,
            };
            let events = key_events(&change, &secret, policy.propagation);
            let write = Write::change_keys(&id, version, &change);
            if !self
                .write_keys(write.map(|write| write.with_events(events)))
                .await
            {
                return;
            }
        }
    }

    /// Performs a write that contains a generated key.
    pub(super) async fn write_keys(&mut self, write: Result<Write, RandomnessError>) -> bool {
        match write {
            Ok(write) => self.write(write).await,
            Err(error) => {
                let message = format!("create heartbeat keys: {error}");
                self.executor.fail(Reason::WriteFailed, message, TICK);
                false
            }
        }
    }

    fn update_key_metrics(&self, secret: &KeySecret) {
        if let Some(record) = &secret.record {
            self.metrics.set_key(record.generation, record.since);
        }
    }
}

fn key_events(change: &KeyChange, secret: &KeySecret, propagation: Duration) -> Vec<StackEvent> {
    let generation = secret.generation.unwrap_or_default();
    let seconds = propagation.as_secs();
    let (reason, note) = match change {
        KeyChange::Annotate(_) | KeyChange::Activate(_) => return Vec::new(),
        KeyChange::Distribute(_) => (
            Reason::HeartbeatKeyCreated,
            format!(
                "created heartbeat key {} (replaces {generation}); speakers switch to it in {seconds} s",
                generation + 1
            ),
        ),
        KeyChange::Retire => (
            Reason::HeartbeatKeyRotated,
            format!("heartbeat key {generation} is active; the previous key was removed"),
        ),
    };
    vec![StackEvent::normal(reason, note)]
}

/// The observed state of the Secret and its version; `None` if it is being deleted or has no key.
fn key_secret(live: &LiveObject) -> Option<(KeySecret, u64)> {
    if live.terminating || live.lacks_key() {
        return None;
    }
    let secret = KeySecret {
        uid: live.uid.clone(),
        entries: live.keys(),
        generation: secret::key_generation(live.annotations()),
        record: secret::key_record(live.annotations()),
    };
    Some((secret, live.version()?))
}
