//! Which pools and advertisements are written, and when: at once if their condition changes, and once per second if only the
//! usage of a pool does. So a thousand Services that are created one after the other do not cause a thousand writes of
//! their pool. The last value is always written.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use lb_ipam::Allocator;

use crate::allocation_key::AllocationKey;
use crate::config_status::{self, Difference};
use crate::configuration_state;
use crate::index::Index;
use crate::target::WriteTarget;

/// Minimum time between two writes of a pool's usage.
const USAGE_INTERVAL: Duration = Duration::from_secs(1);

#[derive(Debug, Default)]
pub(super) struct ConfigChanges {
    changed: BTreeSet<WriteTarget>,
    /// To write later.
    delayed: BTreeSet<WriteTarget>,
    /// When each object was written within the last [`USAGE_INTERVAL`].
    written: BTreeMap<WriteTarget, Instant>,
}

impl ConfigChanges {
    /// Compares all objects with the decisions.
    pub(super) fn update(&mut self, index: &Index, allocator: &Allocator<AllocationKey>, now: Instant) {
        self.written.retain(|_, at| now < *at + USAGE_INTERVAL);
        self.delayed.clear();
        let pools = index.pools.keys().map(|name| WriteTarget::Pool(name.clone()));
        let advertisements = index
            .advertisements
            .keys()
            .map(|key| WriteTarget::Advertisement(key.clone()));
        let state =
            Some(WriteTarget::ConfigurationState).filter(|_| configuration_state::differs(index, allocator));
        self.changed = state.into_iter().collect();
        for target in pools.chain(advertisements) {
            match config_status::difference(index, allocator, &target) {
                Some(Difference::Usage) if self.written.contains_key(&target) => {
                    self.delayed.insert(target);
                }
                Some(Difference::Condition | Difference::Usage) => {
                    self.changed.insert(target);
                }
                None => {}
            }
        }
    }

    pub(super) fn contains(&self, target: &WriteTarget) -> bool {
        self.changed.contains(target) || self.delayed.contains(target)
    }

    pub(super) fn pop_first(&mut self) -> Option<WriteTarget> {
        self.changed.pop_first()
    }

    /// Records that a write was sent.
    pub(super) fn sent(&mut self, target: &WriteTarget, now: Instant) {
        self.written.insert(target.clone(), now);
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        let written = self.delayed.iter().filter_map(|target| self.written.get(target));
        written.map(|at| *at + USAGE_INTERVAL).min()
    }
}
