//! Readiness: a program is ready when all of its named gates are open.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

/// The readiness gates of one program. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct Health {
    gates: Arc<Mutex<BTreeMap<&'static str, bool>>>,
}

/// A precondition of readiness, such as the first complete list of a kind.
#[derive(Debug)]
pub struct ReadinessGate {
    name: &'static str,
    health: Health,
}

impl Health {
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
