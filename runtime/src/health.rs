//! Liveness: the main loop of a program turns. Readiness: all of its named gates are open.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Longest time between two turns of a main loop without any other input.
const TURN_INTERVAL: Duration = Duration::from_secs(10);
/// Time without a turn after which the program counts as stuck. Longer than any wait for the API server, because a
/// restart does not bring back an API server.
const STALL_LIMIT: Duration = Duration::from_secs(300);

/// The health of one program. Clones share it.
#[derive(Clone, Debug)]
pub struct Health {
    gates: Arc<Mutex<BTreeMap<&'static str, bool>>>,
    /// The last turn of the main loop.
    turned: Arc<Mutex<Instant>>,
}

impl Default for Health {
    fn default() -> Self {
        Self {
            gates: Arc::default(),
            turned: Arc::new(Mutex::new(Instant::now())),
        }
    }
}

/// A precondition of readiness, such as the first complete list of a kind.
#[derive(Debug)]
pub struct ReadinessGate {
    name: &'static str,
    health: Health,
}

impl Health {
    /// Records a turn of the main loop, and completes when the next one is due. A main loop waits for this among its
    /// other inputs.
    pub fn turn(&self) -> impl Future<Output = ()> {
        // Recorded here, because `select!` may never poll this future.
        self.record_turn(Instant::now());
        tokio::time::sleep(TURN_INTERVAL)
    }

    fn record_turn(&self, now: Instant) {
        *self.turned.lock().unwrap_or_else(PoisonError::into_inner) = now;
    }

    /// Whether the main loop turns.
    #[must_use]
    pub fn is_alive(&self, now: Instant) -> bool {
        let turned = *self.turned.lock().unwrap_or_else(PoisonError::into_inner);
        now.saturating_duration_since(turned) < STALL_LIMIT
    }

    /// Adds a gate, closed until [`ReadinessGate::open`] is called.
    #[must_use]
    pub fn gate(&self, name: &'static str) -> ReadinessGate {
        self.set(name, false);
        ReadinessGate {
            name,
            health: self.clone(),
        }
    }

    /// Names of the closed gates; empty when the program is ready.
    #[must_use]
    pub fn closed(&self) -> Vec<&'static str> {
        let gates = self.gates.lock().unwrap_or_else(PoisonError::into_inner);
        gates
            .iter()
            .filter(|(_, open)| !**open)
            .map(|(name, _)| *name)
            .collect()
    }

    fn set(&self, name: &'static str, open: bool) {
        self.gates
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(name, open);
    }
}

impl ReadinessGate {
    /// Opens the gate; idempotent.
    pub fn open(&self) {
        self.health.set(self.name, true);
    }

    /// Closes the gate; idempotent.
    pub fn close(&self) {
        self.health.set(self.name, false);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn alive_while_the_main_loop_turns() {
        let health = Health::default();
        let start = Instant::now();
        assert!(health.is_alive(start + STALL_LIMIT / 2));
        assert!(!health.is_alive(start + STALL_LIMIT * 2));
        health.record_turn(start + STALL_LIMIT * 2);
        assert!(health.is_alive(start + STALL_LIMIT * 2));
    }

    #[test]
    fn ready_when_every_gate_is_open() {
        let health = Health::default();
        assert!(health.closed().is_empty());
        let services = health.gate("services");
        let pools = health.gate("pools");
        assert_eq!(health.closed(), ["pools", "services"]);
        services.open();
        pools.open();
        assert!(health.closed().is_empty());
        pools.close();
        assert_eq!(health.closed(), ["pools"]);
    }
}
