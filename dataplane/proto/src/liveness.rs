//! Which peers live, from their heartbeats alone: so that it is known within a fraction of a second, and also when the API
//! server is gone.
//!
//! Reads admitted heartbeats and the clock; writes a view of each peer, and to whom a heartbeat of ours is due.
//!
//! ```text
//!                     heard: up
//!            ┌──────────────────────────────┐
//!            │        heard: held           ▼    heard: draining
//!  Unknown ──┼──────────► Held ◄─────────► Up ◄──────────────► Draining
//!            │ silence     │ grace over     │ silence             │ silence
//!            └──────────► Down ◄────────────┴─────────────────────┘
//! ```
//!
//! A stall of ours is no silence of theirs: when we have not looked at the clock for a while, nobody is taken for dead
//! before it has had the time to be heard again.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use crate::heartbeat::State;

/// Settings of a [`Liveness`].
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// Time between two heartbeats to a peer.
    pub interval: Duration,
    /// How many in a row may be lost: a peer that was silent for so many intervals is down.
    pub misses: u32,
    /// The longest time for which a peer that restarts is waited for, whatever it asks for.
    pub longest_grace: Duration,
}

impl Default for Config {
    /// 50 ms, 3, 60 s.
    fn default() -> Self {
        Self {
            interval: Duration::from_millis(50),
            misses: 3,
            longest_grace: Duration::from_secs(60),
        }
    }
}

/// What a peer is to us.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum View {
    /// Nothing was heard of it yet, and it has had little time.
    Unknown,
    /// It lives.
    Up,
    /// It restarts, and keeps its addresses until then.
    Held {
        /// The end of the grace, on our clock.
        until: Instant,
    },
    /// It lives, and gives its addresses away.
    Draining,
    /// It is silent.
    Down,
}

#[derive(Clone, Copy, Debug)]
struct Peer {
    view: View,
    /// When it was heard last, or became a peer.
    heard: Instant,
    /// When a heartbeat to it is due.
    send_at: Instant,
}

/// The view of one speaker on its peers. After each input take what [`poll_send`](Self::poll_send) and
/// [`take_changed`](Self::take_changed) give; sleep until [`poll_timeout`](Self::poll_timeout) at most, then call
/// [`handle_timeout`](Self::handle_timeout).
#[derive(Clone, Debug)]
pub struct Liveness {
    config: Config,
    peers: BTreeMap<String, Peer>,
    changed: BTreeSet<String>,
    now: Instant,
}

impl Liveness {
    /// A view on nobody.
    #[must_use]
    pub fn new(now: Instant, config: Config) -> Self {
        Self {
            config,
            peers: BTreeMap::new(),
            changed: BTreeSet::new(),
            now,
        }
    }

    /// These are the peers: others are forgotten, new ones are unknown.
    pub fn set_peers<'a>(&mut self, now: Instant, peers: impl IntoIterator<Item = &'a str>) {
        self.pass(now);
        let mut before = std::mem::take(&mut self.peers);
        for name in peers {
            let peer = before.remove(name).unwrap_or(Peer {
                view: View::Unknown,
                heard: self.now,
                send_at: self.now,
            });
            self.peers.insert(name.to_owned(), peer);
        }
        self.changed.retain(|name| self.peers.contains_key(name));
    }

    /// A heartbeat of a peer was admitted. One of nobody's is ignored.
    pub fn heard(&mut self, now: Instant, name: &str, state: State) {
        self.pass(now);
        let (now, longest) = (self.now, self.config.longest_grace);
        let Some(peer) = self.peers.get_mut(name) else {
            return;
        };
        peer.heard = now;
        let view = match (peer.view, state) {
            (_, State::Up) => View::Up,
            (_, State::Draining) => View::Draining,
            // The grace counts from the first time that it was asked for: repeating it must not extend it.
            (View::Held { until }, State::Held { .. }) => View::Held { until },
            (View::Unknown | View::Up | View::Draining | View::Down, State::Held { grace }) => View::Held {
                until: now + grace.min(longest),
            },
        };
        if std::mem::replace(&mut peer.view, view) != view {
            self.changed.insert(name.to_owned());
        }
    }

    /// Time passed.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.pass(now);
        for (name, peer) in &mut self.peers {
            let over = match peer.view {
                View::Unknown | View::Up | View::Draining => peer.heard + self.config.silence() <= self.now,
                View::Held { until } => until <= self.now,
                View::Down => false,
            };
            if over {
                peer.view = View::Down;
                self.changed.insert(name.clone());
            }
        }
    }

    /// A peer to send a heartbeat to now; call it until there is none.
    pub fn poll_send(&mut self) -> Option<&str> {
        let (name, peer) = self.peers.iter_mut().find(|(_, peer)| peer.send_at <= self.now)?;
        // Not from when it was due: after a stall one is sent, not all that were missed.
        peer.send_at = self.now + self.config.interval;
        Some(name)
    }

    /// When to call [`handle_timeout`](Self::handle_timeout) at the latest; none without peers.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        let due = |peer: &Peer| {
            let ends = match peer.view {
                View::Unknown | View::Up | View::Draining => Some(peer.heard + self.config.silence()),
                View::Held { until } => Some(until),
                View::Down => None,
            };
            ends.map_or(peer.send_at, |ends| ends.min(peer.send_at))
        };
        self.peers.values().map(due).min()
    }

    /// What a peer is to us; nobody's peer is down.
    #[must_use]
    pub fn view(&self, name: &str) -> View {
        self.peers.get(name).map_or(View::Down, |peer| peer.view)
    }

    /// Whether every peer has been heard, or has had its time.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.peers.values().all(|peer| peer.view != View::Unknown)
    }

    /// The peers whose view has changed since the last call.
    pub fn take_changed(&mut self) -> BTreeSet<String> {
        std::mem::take(&mut self.changed)
    }

    /// Moves the clock on. What we slept beyond an interval, everybody gets as additional time.
    fn pass(&mut self, now: Instant) {
        let slept = now.saturating_duration_since(self.now);
        self.now = self.now.max(now);
        let stall = slept.saturating_sub(self.config.interval);
        if !stall.is_zero() {
            for peer in self.peers.values_mut() {
                // Not into the future: that would be more than it has lost.
                peer.heard = (peer.heard + stall).min(self.now);
            }
        }
    }
}

impl Config {
    /// How long a peer may be silent.
    fn silence(&self) -> Duration {
        self.interval * self.misses
    }
}
