//! Whether the watches have listed all objects: nothing is decided before.

use std::time::Instant;

use lb_runtime::watch::Change;
use lb_runtime::{Health, ReadinessGate};

/// Whether the objects of one kind are known.
#[derive(Debug)]
pub struct ListedKind {
    state: ListState,
    gate: Option<ReadinessGate>,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum ListState {
    /// No list has begun since the start, or since the objects became outdated.
    Outdated,
    Listing,
    Complete,
}

impl ListedKind {
    /// A kind without a list. The readiness gate opens with the first complete list.
    #[must_use]
    pub fn new(health: &Health, gate: &'static str) -> Self {
        Self {
            state: ListState::Outdated,
            gate: Some(health.gate(gate)),
        }
    }

    /// Takes a change; returns whether it completes a list.
    pub fn update<K>(&mut self, change: &Change<K>) -> bool {
        match change {
            Change::Listing if self.state == ListState::Outdated => self.state = ListState::Listing,
            // The end of a list that began before the objects became outdated does not count.
            Change::Synced if self.state == ListState::Listing => {
                self.state = ListState::Complete;
                self.gate.iter().for_each(ReadinessGate::open);
                return true;
            }
            Change::Synced
            | Change::Listing
            | Change::Apply(_)
            | Change::Delete(_)
            | Change::Invalid { .. } => {}
        }
        false
    }

    /// The known objects may be outdated: only a list that begins now counts.
    pub fn expire(&mut self) {
        self.state = ListState::Outdated;
    }

    /// Whether every object is known.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.state == ListState::Complete
    }
}

/// The kinds that decisions depend on.
#[derive(Debug)]
pub struct ListProgress {
    /// Services.
    pub services: ListedKind,
    /// Namespaces.
    pub namespaces: ListedKind,
    /// Pools.
    pub pools: ListedKind,
    /// L2Advertisements.
    pub advertisements: ListedKind,
    /// Nodes.
    pub nodes: ListedKind,
    /// The version that the watch of Services has to reach before it is as good as a list, and until when.
    pub awaited: Option<(u64, Instant)>,
    /// Until when nodes are waited for, whose addresses are worth less than an assignment.
    pub nodes_until: Option<Instant>,
}

impl ListProgress {
    /// Nothing is listed yet.
    #[must_use]
    pub fn new(health: &Health) -> Self {
        Self {
            services: ListedKind::new(health, "services"),
            namespaces: ListedKind::new(health, "namespaces"),
            pools: ListedKind::new(health, "pools"),
            advertisements: ListedKind::new(health, "advertisements"),
            nodes: ListedKind {
                state: ListState::Outdated,
                gate: None,
            },
            awaited: None,
            nodes_until: None,
        }
    }

    /// Whether everything is known.
    #[must_use]
    pub fn is_complete(&self, now: Instant) -> bool {
        let kinds = [
            &self.services,
            &self.namespaces,
            &self.pools,
            &self.advertisements,
        ];
        self.awaited.is_none()
            && kinds.iter().all(|kind| kind.is_complete())
            && (self.nodes.is_complete() || self.nodes_until.is_some_and(|until| until <= now))
    }

    /// The time at which [`ListProgress::is_complete`] or the awaited version has to be checked again.
    #[must_use]
    pub fn next_timeout(&self) -> Option<Instant> {
        let nodes_until = self.nodes_until.filter(|_| !self.nodes.is_complete());
        self.awaited
            .map(|(_, until)| until)
            .into_iter()
            .chain(nodes_until)
            .min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn list_that_began_before_expiry_does_not_count() {
        let health = Health::default();
        let mut kind = ListedKind::new(&health, "pools");
        kind.update(&Change::<()>::Listing);
        assert!(kind.update(&Change::<()>::Synced));
        assert!(kind.is_complete() && health.closed().is_empty());
        // A lost connection.
        kind.update(&Change::<()>::Listing);
        assert!(kind.is_complete());
        kind.expire();
        assert!(!kind.update(&Change::<()>::Synced) && !kind.is_complete());
        kind.update(&Change::<()>::Listing);
        assert!(kind.update(&Change::<()>::Synced) && kind.is_complete());
        assert!(
            health.closed().is_empty(),
            "a leader that lists again stays ready"
        );
    }
}
