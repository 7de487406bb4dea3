//! Condition HeartbeatsLost: between some nodes, heartbeats do not arrive.

use std::collections::BTreeSet;

use super::NewCondition;
use crate::observe::heartbeats::describe_pairs;
use crate::reasons::Reason;

/// The condition; absent while no heartbeats are lost. Nothing is wrong with the rollout, so `Ready` does not depend on it.
pub(super) const HEARTBEATS_LOST: &str = "HeartbeatsLost";

pub(super) fn condition(pairs: &BTreeSet<(String, String)>) -> Option<NewCondition> {
    if pairs.is_empty() {
        return None;
    }
    let message = format!(
        "fast failover is off between {}: no heartbeats arrive; open UDP 7947 (spec.speaker.heartbeat.port) between them",
        describe_pairs(pairs)
    );
    Some(NewCondition::new(
        HEARTBEATS_LOST,
        true,
        Reason::HeartbeatsLost,
        message,
    ))
}
