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

/// What a node's speaker is for the election.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Its speaker is ready.
    Up,
    /// Its speaker is being restarted: still a candidate, until then.
    Held {
        /// The end of the grace, on the clock of the caller.
        until: Instant,
    },
    /// No candidate: no speaker there, or not in time.
    Down,
}

/// Settings of a [`ApiMembership`].
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// How long a node stays a candidate while its speaker is away.
    pub grace: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            grace: Duration::from_secs(10),
        }
    }
}

/// What is known of a peer. `New` and `Down` are the same to the election; they differ in whether the grace
/// is spent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Never seen ready, and nothing against it: [`ApiMembership::hold`] may still grant it the grace.
    New,
    Up,
    Held {
        until: Instant,
    },
    /// The grace is spent, or its node failed: only a ready speaker helps.
    Down,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Event {
    SpeakerReady,
    SpeakerUnready { node_ready: bool },
    SpeakerGone,
    NodeGone,
    Hold,
    Timeout,
}

impl Phase {
    /// The table: every event in every phase. `grace_end` is when a grace that starts now would end. `None`
    /// forgets the node.
    fn next(self, event: Event, grace_end: Instant) -> Option<Self> {
        Some(match (self, event) {
            (Self::New | Self::Up | Self::Held { .. } | Self::Down, Event::SpeakerReady) => Self::Up,
            // A killed or cut-off node: the addresses are needed elsewhere now.
            (
                Self::New | Self::Up | Self::Held { .. } | Self::Down,
                Event::SpeakerUnready { node_ready: false },
            ) => Self::Down,
            // A new peer whose speaker is starting has given nobody a reason to wait for it.
            (Self::New, Event::SpeakerUnready { node_ready: true } | Event::SpeakerGone) => Self::New,
            (Self::Up, Event::SpeakerUnready { node_ready: true } | Event::SpeakerGone) => {
                Self::Held { until: grace_end }
            }
            // The grace counts from the first sign, however many follow: flapping must not extend it.
            (
                Self::Held { until },
                Event::SpeakerUnready { node_ready: true } | Event::SpeakerGone | Event::Hold,
            ) => Self::Held { until },
            (Self::Down, Event::SpeakerUnready { node_ready: true } | Event::SpeakerGone | Event::Hold) => {
                Self::Down
            }
            (Self::New | Self::Up | Self::Held { .. } | Self::Down, Event::NodeGone) => return None,
            (Self::New, Event::Hold) => Self::Held { until: grace_end },
            (Self::Up, Event::Hold) => Self::Up,
            (Self::Held { .. }, Event::Timeout) => Self::Down,
            (Self::New, Event::Timeout) => Self::New,
            (Self::Up, Event::Timeout) => Self::Up,
            (Self::Down, Event::Timeout) => Self::Down,
        })
    }

    const fn state(self) -> State {
        match self {
            Self::New | Self::Down => State::Down,
            Self::Up => State::Up,
            Self::Held { until } => State::Held { until },
        }
    }
}

/// The view of one speaker on all nodes. After each input, if [`take_changed`](Self::take_changed) says so,
/// elect again; sleep until [`poll_timeout`](Self::poll_timeout) at most, then call
/// [`handle_timeout`](Self::handle_timeout).
#[derive(Clone, Debug)]
pub struct ApiMembership {
    myself: String,
    config: Config,
    /// Ourselves included: that entry is what the others see of us.
    peers: BTreeMap<String, Phase>,
    changed: bool,
    rejoined: bool,
}

impl ApiMembership {
    /// The view of the speaker on node `myself`, which is always up in its own eyes.
    pub fn new(myself: impl Into<String>, config: Config) -> Self {
        Self {
            myself: myself.into(),
            config,
            peers: BTreeMap::new(),
            changed: false,
            rejoined: false,
        }
    }

    /// The speaker Pod on `node` is ready.
    pub fn speaker_ready(&mut self, now: Instant, node: &str) {
        self.handle(now, node, Event::SpeakerReady);
    }

    /// The speaker Pod on `node` exists and is not ready; `node_ready` is whether the Node's condition
    /// `Ready` is `True`. Call it again when either changes: the two watches are not ordered, and the Node's
    /// news may come second.
    pub fn speaker_unready(&mut self, now: Instant, node: &str, node_ready: bool) {
        self.handle(now, node, Event::SpeakerUnready { node_ready });
    }

    /// The speaker Pod on `node` was deleted, as in a rolling restart.
    pub fn speaker_gone(&mut self, now: Instant, node: &str) {
        self.handle(now, node, Event::SpeakerGone);
    }

    /// The Node was deleted: nothing is remembered of it.
    pub fn node_gone(&mut self, now: Instant, node: &str) {
        self.handle(now, node, Event::NodeGone);
    }

    /// At our own start: `node` is recorded as owner of an address and its speaker is not ready at this
    /// moment. It gets the grace that it would have if we had seen it ready before; not so when it is known
    /// to have failed.
    pub fn hold(&mut self, now: Instant, node: &str) {
        self.handle(now, node, Event::Hold);
    }

    /// Ends the graces that are over.
    pub fn handle_timeout(&mut self, now: Instant) {
        for (node, phase) in &mut self.peers {
            if matches!(*phase, Phase::Held { until } if until <= now) {
                *phase = Phase::Down;
                self.changed |= *node != self.myself;
            }
        }
    }

    /// When the first grace ends.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.peers
            .values()
            .filter_map(|phase| match phase {
                Phase::Held { until } => Some(*until),
                Phase::New | Phase::Up | Phase::Down => None,
            })
            .min()
    }

    /// The state of `node`, as of the last input; a node never heard of is down.
    pub fn state(&self, node: &str) -> State {
        if node == self.myself {
            return State::Up;
        }
        self.peers.get(node).map_or(State::Down, |phase| phase.state())
    }

    /// Whether `node` takes part in elections: up, or held.
    pub fn is_candidate(&self, node: &str) -> bool {
        match self.state(node) {
            State::Up | State::Held { .. } => true,
            State::Down => false,
        }
    }

    /// Whether any node's state changed since the last call.
    pub fn take_changed(&mut self) -> bool {
        std::mem::take(&mut self.changed)
    }

    /// Whether our own speaker became ready in the eyes of the others since the last call. Before that they
    /// may have taken our addresses, and clients may have learned theirs; they withdraw now without a word,
    /// and we have seen no change of owner. So announce every owned address again.
    pub fn take_rejoined(&mut self) -> bool {
        std::mem::take(&mut self.rejoined)
    }

    fn handle(&mut self, now: Instant, node: &str, event: Event) {
        let grace_end = now + self.config.grace;
        let before = self.state(node);
        let mut phase = self.peers.get(node).copied().unwrap_or(Phase::New);
        // The grace may have ended since the caller last looked at the clock.
        if matches!(phase, Phase::Held { until } if until <= now) {
            phase = phase.next(Event::Timeout, grace_end).unwrap_or(Phase::Down);
        }
        let next = phase.next(event, grace_end);
        if node == self.myself {
            self.rejoined |= phase != Phase::Up && next == Some(Phase::Up);
        }
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
