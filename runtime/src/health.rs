//! Readiness as a set of named gates: a program is ready once everything it must have seen has been seen.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

/// The gates of one program. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct Health {
    gates: Arc<Mutex<BTreeMap<&'static str, bool>>>,
}

/// One thing that has to happen before the program is ready.
#[derive(Debug)]
pub struct Gate {
    name: &'static str,
    health: Health,
}

impl Health {
    /// Adds a gate, closed until [`Gate::open`] is called.
    #[must_use]
    pub fn gate(&self, name: &'static str) -> Gate {
        self.set(name, false);
        Gate {
            name,
            health: self.clone(),
        }
    }

    /// The names of the gates that are still closed: empty when the program is ready.
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

impl Gate {
    /// Opens the gate; opening it again is without effect.
    pub fn open(&self) {
        self.health.set(self.name, true);
    }

    /// Closes the gate again.
    pub fn close(&self) {
        self.health.set(self.name, false);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_is_ready_once_every_gate_is_open() {
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
