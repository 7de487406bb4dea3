//! Tracks which nodes have a speaker, according to the API server.
//!
//! Reads the state of speaker Pods and Nodes, and the clock. A restarting speaker must not lose its addresses, because
//! the kernel keeps forwarding; a failed node must lose them at once. A node whose speaker goes away while the Node is
//! ready therefore remains a candidate for a grace period; otherwise its speaker counts as absent.
//!
//! ```text
//!            ready                      ready
//!   New ───────────────► Ready ◄──────────────── Absent
//!    │                     │ unready, node ready   ▲
//!    │ hold                │ or Pod deleted        │ grace period over,
//!    └──► Restarting ◄─────┘                       │ node not ready,
//!             └────────────────────────────────────┘ node deleted
//! ```

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// The state of a node's speaker, as the API server shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ApiState {
    /// The speaker is ready.
    Ready,
    /// The speaker restarts, and remains a candidate for the grace period.
    Restarting {
        /// The end of the grace period.
        until: Instant,
    },
    /// The node has no speaker, or its speaker did not return in time.
    Absent,
}

/// `New` and `Absent` are the same to the election; they differ in whether a grace period may still begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum MembershipPhase {
    /// Never seen ready, and not known to have failed.
    New,
    Ready,
    Restarting {
        until: Instant,
    },
    /// The grace period is over, or the node failed: only a ready speaker leads out of this state.
    Absent,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ApiEvent {
    SpeakerReady,
    SpeakerUnready { node_ready: bool },
    SpeakerGone,
    NodeGone,
    Hold,
    Timeout,
}

impl MembershipPhase {
    /// The transition table. `grace_end` is the end of a grace period that starts now. `None` forgets the node.
    fn next(self, event: ApiEvent, grace_end: Instant) -> Option<Self> {
        Some(match (self, event) {
            (Self::New | Self::Ready | Self::Restarting { .. } | Self::Absent, ApiEvent::SpeakerReady) => {
                Self::Ready
            }
            // The node failed or is cut off: its addresses are needed elsewhere at once.
            (
                Self::New | Self::Ready | Self::Restarting { .. } | Self::Absent,
                ApiEvent::SpeakerUnready { node_ready: false },
            ) => Self::Absent,
            // A new peer whose speaker is starting owns nothing yet.
            (Self::New, ApiEvent::SpeakerUnready { node_ready: true } | ApiEvent::SpeakerGone) => Self::New,
            (Self::Ready, ApiEvent::SpeakerUnready { node_ready: true } | ApiEvent::SpeakerGone) => {
                Self::Restarting { until: grace_end }
            }
            // The grace period counts from the first event; flapping must not extend it.
            (
                Self::Restarting { until },
                ApiEvent::SpeakerUnready { node_ready: true } | ApiEvent::SpeakerGone | ApiEvent::Hold,
            ) => Self::Restarting { until },
            (
                Self::Absent,
                ApiEvent::SpeakerUnready { node_ready: true } | ApiEvent::SpeakerGone | ApiEvent::Hold,
            ) => Self::Absent,
            (Self::New | Self::Ready | Self::Restarting { .. } | Self::Absent, ApiEvent::NodeGone) => {
                return None;
            }
            (Self::New, ApiEvent::Hold) => Self::Restarting { until: grace_end },
            (Self::Ready, ApiEvent::Hold) => Self::Ready,
            (Self::Restarting { .. }, ApiEvent::Timeout) => Self::Absent,
            (Self::New, ApiEvent::Timeout) => Self::New,
            (Self::Ready, ApiEvent::Timeout) => Self::Ready,
            (Self::Absent, ApiEvent::Timeout) => Self::Absent,
        })
    }

    const fn state(self) -> ApiState {
        match self {
            Self::New | Self::Absent => ApiState::Absent,
            Self::Ready => ApiState::Ready,
            Self::Restarting { until } => ApiState::Restarting { until },
        }
    }
}

/// The API server's view of all nodes. After each input, elect again if [`take_changed`](Self::take_changed) returns
/// `true`; sleep until [`poll_timeout`](Self::poll_timeout) at most, then call
/// [`handle_timeout`](Self::handle_timeout).
#[derive(Clone, Debug)]
pub struct ApiMembership {
    local_node: String,
    grace: Duration,
    /// Includes our own node.
    peers: BTreeMap<String, MembershipPhase>,
    changed: bool,
}

impl ApiMembership {
    /// Creates the view of the speaker on `local_node`, which is always ready to itself.
    pub fn new(local_node: impl Into<String>, grace: Duration) -> Self {
        Self {
            local_node: local_node.into(),
            grace,
            peers: BTreeMap::new(),
            changed: false,
        }
    }

    /// The speaker Pod on `node` is ready.
    pub fn speaker_ready(&mut self, now: Instant, node: &str) {
        self.handle(now, node, ApiEvent::SpeakerReady);
    }

    /// The speaker Pod on `node` exists and is not ready; `node_ready` is whether the Node's condition `Ready` is
    /// `True`. To be called again when either changes, because the two watches are not ordered.
    pub fn speaker_unready(&mut self, now: Instant, node: &str, node_ready: bool) {
        self.handle(now, node, ApiEvent::SpeakerUnready { node_ready });
    }

    /// The speaker Pod on `node` was deleted, as in a rolling restart.
    pub fn speaker_gone(&mut self, now: Instant, node: &str) {
        self.handle(now, node, ApiEvent::SpeakerGone);
    }

    /// The Node was deleted.
    pub fn node_gone(&mut self, now: Instant, node: &str) {
        self.handle(now, node, ApiEvent::NodeGone);
    }

    /// Grants a grace period at our own start to `node`, which is recorded as the owner of an address and whose speaker
    /// is not ready. Without effect if the node is known to have failed.
    pub fn hold(&mut self, now: Instant, node: &str) {
        self.handle(now, node, ApiEvent::Hold);
    }

    /// Ends grace periods that are over.
    pub fn handle_timeout(&mut self, now: Instant) {
        for (node, phase) in &mut self.peers {
            if matches!(*phase, MembershipPhase::Restarting { until } if until <= now) {
                *phase = MembershipPhase::Absent;
                self.changed |= *node != self.local_node;
            }
        }
    }

    /// When the first grace period ends.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.peers
            .values()
            .filter_map(|phase| match phase {
                MembershipPhase::Restarting { until } => Some(*until),
                MembershipPhase::New | MembershipPhase::Ready | MembershipPhase::Absent => None,
            })
            .min()
    }

    /// The state of a node's speaker as of the last input; `Absent` for unknown nodes.
    pub fn state(&self, node: &str) -> ApiState {
        if node == self.local_node {
            return ApiState::Ready;
        }
        self.peers
            .get(node)
            .map_or(ApiState::Absent, |phase| phase.state())
    }

    /// Whether `node` takes part in elections.
    pub fn is_candidate(&self, node: &str) -> bool {
        match self.state(node) {
            ApiState::Ready | ApiState::Restarting { .. } => true,
            ApiState::Absent => false,
        }
    }

    /// Whether the state of any node changed since the last call.
    pub fn take_changed(&mut self) -> bool {
        std::mem::take(&mut self.changed)
    }

    fn handle(&mut self, now: Instant, node: &str, event: ApiEvent) {
        let grace_end = now + self.grace;
        let before = self.state(node);
        let mut phase = self.peers.get(node).copied().unwrap_or(MembershipPhase::New);
        // The grace period may have ended since the last call of `handle_timeout`.
        if matches!(phase, MembershipPhase::Restarting { until } if until <= now) {
            phase = phase
                .next(ApiEvent::Timeout, grace_end)
                .unwrap_or(MembershipPhase::Absent);
        }
        let next = phase.next(event, grace_end);
        match next {
            Some(next) => {
                self.peers.insert(node.to_owned(), next);
            }
            None => {
                self.peers.remove(node);
            }
        }
        self.changed |= self.state(node) != before;
    }
}
