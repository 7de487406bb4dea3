//! Which nodes' speakers live, so that every speaker elects among the same candidates.
//!
//! Reads what the API says about speaker Pods and Nodes, and the clock; writes a state per node. A restarted
//! speaker must not lose its addresses (the kernel forwards on without it), and a dead node must lose them at
//! once: so a speaker that went away while its node is well is *held* as a candidate for a grace, and one
//! whose node is not is down.
//!
//! ```text
//!            ready                    ready
//!   New ───────────────► Up ◄──────────────────── Down
//!    │                   │ unready, node ready      ▲
//!    │ hold              │ or Pod deleted           │ grace over,
//!    └──────► Held ◄─────┘                          │ node not ready,
//!               └───────────────────────────────────┘ node deleted
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

/// What is known of a peer. `New` and `Down` are the same to the election; they differ in whether the grace
/// is spent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum MembershipPhase {
    /// Never seen ready, and nothing against it: [`ApiMembership::hold`] may still grant it the grace.
    New,
    Ready,
    Restarting {
        until: Instant,
    },
    /// The grace is spent, or its node failed: only a ready speaker helps.
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
    /// The table: every event in every phase. `grace_end` is when a grace that starts now would end. `None`
    /// forgets the node.
    fn next(self, event: ApiEvent, grace_end: Instant) -> Option<Self> {
        Some(match (self, event) {
            (Self::New | Self::Ready | Self::Restarting { .. } | Self::Absent, ApiEvent::SpeakerReady) => {
                Self::Ready
            }
            // A killed or cut-off node: the addresses are needed elsewhere now.
            (
                Self::New | Self::Ready | Self::Restarting { .. } | Self::Absent,
                ApiEvent::SpeakerUnready { node_ready: false },
            ) => Self::Absent,
            // A new peer whose speaker is starting has given nobody a reason to wait for it.
            (Self::New, ApiEvent::SpeakerUnready { node_ready: true } | ApiEvent::SpeakerGone) => Self::New,
            (Self::Ready, ApiEvent::SpeakerUnready { node_ready: true } | ApiEvent::SpeakerGone) => {
                Self::Restarting { until: grace_end }
            }
            // The grace counts from the first sign, however many follow: flapping must not extend it.
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

/// The view of one speaker on all nodes. After each input, if [`take_changed`](Self::take_changed) says so,
/// elect again; sleep until [`poll_timeout`](Self::poll_timeout) at most, then call
/// [`handle_timeout`](Self::handle_timeout).
#[derive(Clone, Debug)]
pub struct ApiMembership {
    local_node: String,
    grace: Duration,
    /// Ourselves included: that entry is what the others see of us.
    peers: BTreeMap<String, MembershipPhase>,
    changed: bool,
}

impl ApiMembership {
    /// The view of the speaker on node `local_node`, which is always up in its own eyes.
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

    /// The speaker Pod on `node` exists and is not ready; `node_ready` is whether the Node's condition
    /// `Ready` is `True`. Call it again when either changes: the two watches are not ordered, and the Node's
    /// news may come second.
    pub fn speaker_unready(&mut self, now: Instant, node: &str, node_ready: bool) {
        self.handle(now, node, ApiEvent::SpeakerUnready { node_ready });
    }

    /// The speaker Pod on `node` was deleted, as in a rolling restart.
    pub fn speaker_gone(&mut self, now: Instant, node: &str) {
        self.handle(now, node, ApiEvent::SpeakerGone);
    }

    /// The Node was deleted: nothing is remembered of it.
    pub fn node_gone(&mut self, now: Instant, node: &str) {
        self.handle(now, node, ApiEvent::NodeGone);
    }

    /// At our own start: `node` is recorded as owner of an address and its speaker is not ready at this
    /// moment. It gets the grace that it would have if we had seen it ready before; not so when it is known
    /// to have failed.
    pub fn hold(&mut self, now: Instant, node: &str) {
        self.handle(now, node, ApiEvent::Hold);
    }

    /// Ends the graces that are over.
    pub fn handle_timeout(&mut self, now: Instant) {
        for (node, phase) in &mut self.peers {
            if matches!(*phase, MembershipPhase::Restarting { until } if until <= now) {
                *phase = MembershipPhase::Absent;
                self.changed |= *node != self.local_node;
            }
        }
    }

    /// When the first grace ends.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.peers
            .values()
            .filter_map(|phase| match phase {
                MembershipPhase::Restarting { until } => Some(*until),
                MembershipPhase::New | MembershipPhase::Ready | MembershipPhase::Absent => None,
            })
            .min()
    }

    /// The state of `node`, as of the last input; a node never heard of is down.
    pub fn state(&self, node: &str) -> ApiState {
        if node == self.local_node {
            return ApiState::Ready;
        }
        self.peers
            .get(node)
            .map_or(ApiState::Absent, |phase| phase.state())
    }

    /// Whether `node` takes part in elections: up, or held.
    pub fn is_candidate(&self, node: &str) -> bool {
        match self.state(node) {
            ApiState::Ready | ApiState::Restarting { .. } => true,
            ApiState::Absent => false,
        }
    }

    /// Whether any node's state changed since the last call.
    pub fn take_changed(&mut self) -> bool {
        std::mem::take(&mut self.changed)
    }

    fn handle(&mut self, now: Instant, node: &str, event: ApiEvent) {
        let grace_end = now + self.grace;
        let before = self.state(node);
        let mut phase = self.peers.get(node).copied().unwrap_or(MembershipPhase::New);
        // The grace may have ended since the caller last looked at the clock.
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
