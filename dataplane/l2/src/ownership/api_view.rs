//! Differences between the views that speakers have of the API: a watch may be stale for minutes, and a node may have
//! lost the API server. Heartbeats carry the newest resource version that the sender has received. Resource versions of
//! one cluster are comparable.

use std::time::{Duration, Instant};

use super::{Context, Coordinator};
use crate::ownership::failure_detector::NodeId;

/// A view that lacks an object that others received this long ago is old.
const MAX_API_LAG: Duration = Duration::from_secs(5);

/// The resource versions that this node and its peers have received.
#[derive(Debug, Default)]
pub(super) struct ApiView {
    ours: u64,
    /// The newest version of any node.
    newest: u64,
    /// The newest version at a time, and the one before that: each view should have that one by now.
    sample: Option<(Instant, u64)>,
    expected: u64,
}

impl ApiView {
    pub(super) const fn ours(&self) -> u64 {
        self.ours
    }

    fn note(&mut self, now: Instant, version: u64) {
        self.newest = self.newest.max(version);
        match self.sample {
            Some((at, _)) if now < at + MAX_API_LAG => {}
            sample => {
                self.expected = sample.map_or(0, |(_, version)| version);
                self.sample = Some((now, self.newest));
            }
        }
    }
}

impl Coordinator {
    /// Notes the newest resource version that was received from the API server.
    pub fn set_api_version(&mut self, now: Instant, version: u64) {
        self.ctx.now = self.ctx.now.max(now);
        self.ctx.api_view.ours = self.ctx.api_view.ours.max(version);
        self.ctx.api_view.note(self.ctx.now, version);
    }

    /// The newest resource version that this node or a peer has received from the API server.
    #[must_use]
    pub const fn newest_api_version(&self) -> u64 {
        self.ctx.api_view.newest
    }

    /// Whether peers received objects from the API server seconds ago that we have not received.
    #[must_use]
    pub fn is_api_view_old(&self) -> bool {
        self.ctx.api_view.ours < self.ctx.api_view.expected
    }

    pub(super) fn note_api_version(&mut self, id: NodeId, version: u64) {
        let now = self.ctx.now;
        if let Some(peer) = self.ctx.peers.get_mut(&id) {
            peer.api_version = version;
            self.ctx.api_view.note(now, version);
        }
    }
}

impl Context {
    /// Whether the view of a peer that is heard lacks objects that others received seconds ago.
    pub(super) fn has_old_api_view(&self, id: NodeId) -> bool {
        let heard = self.failure_detector.health(id).is_heard();
        let peer = self.peers.get(&id).filter(|_| heard);
        peer.is_some_and(|peer| peer.api_version < self.api_view.expected)
    }
}
