//! Which nodes have a ready speaker: an announcement that a speaker reported is doubtful once that speaker is gone.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::Pod;
use lb_runtime::watch::Change;

/// How long a speaker may be away: twice the default restart grace, within which a backup answers in its place.
const SPEAKER_GRACE: Duration = Duration::from_secs(120);

/// The speakers' Pods.
#[derive(Debug, Default)]
pub struct Speakers {
    /// Whether the first list is complete.
    listed: bool,
    /// Node and readiness by name of the Pod.
    pods: BTreeMap<Box<str>, (Box<str>, bool)>,
    /// Nodes that had a speaker and have no ready one now, and since when.
    away: BTreeMap<Box<str>, Instant>,
    /// Nodes whose speaker is away for longer than [`SPEAKER_GRACE`].
    gone: BTreeSet<Box<str>>,
}

impl Speakers {
    /// Applies a change. Returns whether the conditions of Services may differ.
    pub fn update(&mut self, now: Instant, change: Change<Pod>) -> bool {
        let (name, pod) = match change {
            Change::Apply(pod) => {
                let ready = pod
                    .status
                    .and_then(|status| status.conditions)
                    .into_iter()
                    .flatten();
                let ready = ready
                    .into_iter()
                    .any(|one| one.type_ == "Ready" && one.status == "True");
                let node = pod.spec.and_then(|spec| spec.node_name);
                (
                    pod.metadata.name.unwrap_or_default(),
                    node.map(|node| (node.into(), ready)),
                )
            }
            Change::Delete(key) => (key.name().to_owned(), None),
            Change::Invalid { .. } | Change::Listing => return false,
            Change::Synced => {
                self.listed = true;
                return true;
            }
        };
        let was_none_ready = self.none_ready();
        let before = match pod {
            Some(pod) => self.pods.insert(name.as_str().into(), pod),
            None => self.pods.remove(&*name),
        };
        let after = self.pods.get(&*name);
        let mut changed = false;
        for node in before
            .iter()
            .chain(after)
            .map(|(node, _)| node.clone())
            .collect::<BTreeSet<_>>()
        {
            changed |= self.update_node(now, node);
        }
        changed || self.none_ready() != was_none_ready
    }

    fn update_node(&mut self, now: Instant, node: Box<str>) -> bool {
        if self.pods.values().any(|(other, ready)| *other == node && *ready) {
            self.away.remove(&node);
            return self.gone.remove(&node);
        }
        if !self.gone.contains(&node) {
            self.away.entry(node).or_insert(now + SPEAKER_GRACE);
        }
        false
    }

    /// The end of the next grace period.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.away.values().min().copied()
    }

    /// Ends grace periods. Returns whether one has ended.
    pub fn handle_timeout(&mut self, now: Instant) -> bool {
        let ended: Vec<_> = self.away.extract_if(.., |_, until| *until <= now).collect();
        let any = !ended.is_empty();
        self.gone.extend(ended.into_iter().map(|(node, _)| node));
        any
    }

    /// Whether the node had a speaker that is away for too long.
    #[must_use]
    pub fn is_gone(&self, node: &str) -> bool {
        self.gone.contains(node)
    }

    /// Whether it is known that no speaker is ready.
    #[must_use]
    pub fn none_ready(&self) -> bool {
        self.listed && !self.pods.values().any(|(_, ready)| *ready)
    }
}
