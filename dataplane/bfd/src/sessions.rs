//! All sessions of a node, with one queue of timers.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use crate::session::{Output, Resume, Session, SessionConfig};
use crate::wire::{Packet, State};

/// A timer that is handled later than this says that this process did not run: then a silent router may not be silent.
pub const LATE: Duration = Duration::from_millis(5);

/// Identifies a session on this node.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct SessionId(pub u64);

/// The sessions of a node. Hand in every packet that has arrived before [`handle_timeout`](Self::handle_timeout).
#[derive(Debug, Default)]
pub struct Sessions {
    sessions: BTreeMap<SessionId, Entry>,
    queue: BTreeSet<(Instant, SessionId)>,
    outputs: VecDeque<(SessionId, Output)>,
}

#[derive(Debug)]
struct Entry {
    session: Session,
    /// Its place in the queue.
    queued: Option<Instant>,
}

impl Sessions {
    /// Starts a session; one with the same name ends without a word.
    pub fn start(
        &mut self,
        now: Instant,
        id: SessionId,
        config: SessionConfig,
        discriminator: u32,
        resume: Resume,
    ) {
        self.remove(id);
        let session = Session::new(now, config, discriminator, resume);
        self.sessions.insert(
            id,
            Entry {
                session,
                queued: None,
            },
        );
        self.settle(id);
    }

    /// Ends a session, and tells the router that this is no failure.
    pub fn switch_off(&mut self, now: Instant, id: SessionId) {
        self.change(id, |session| session.switch_off(now));
        self.remove(id);
    }

    /// Ends a session without a word.
    pub fn remove(&mut self, id: SessionId) {
        if let Some(Entry { queued: Some(at), .. }) = self.sessions.remove(&id) {
            self.queue.remove(&(at, id));
        }
    }

    /// Changes the settings of a session without interrupting it.
    pub fn set_config(&mut self, now: Instant, id: SessionId, config: SessionConfig) {
        self.change(id, |session| session.set_config(now, config));
    }

    /// Takes in a packet from the router of this session.
    pub fn handle_packet(&mut self, now: Instant, id: SessionId, packet: &Packet) {
        self.change(id, |session| session.handle_packet(now, packet));
    }

    /// Tells the router to wait `budget` for our next packet, before this process ends. Returns whether there is a
    /// confirmation to wait for.
    pub fn slow_down(&mut self, now: Instant, id: SessionId, budget: Duration) -> bool {
        self.change(id, |session| session.slow_down(now, budget)) == Some(true)
    }

    /// Whether any router is declared unreachable by [`handle_timeout`](Self::handle_timeout) at this time.
    #[must_use]
    pub fn is_any_silent(&self, now: Instant) -> bool {
        let due = self.queue.iter().take_while(|(at, _)| *at <= now);
        due.filter_map(|(_, id)| self.sessions.get(id))
            .any(|entry| entry.session.is_silent(now))
    }

    /// Handles expired timers. Returns whether this process was late.
    pub fn handle_timeout(&mut self, now: Instant) -> bool {
        let first = self.queue.first().map(|(at, _)| *at);
        let late = first.map_or(Duration::ZERO, |at| now.saturating_duration_since(at));
        let due = self.queue.iter().take_while(|(at, _)| *at <= now);
        for id in due.map(|(_, id)| *id).collect::<Vec<_>>() {
            self.change(id, |session| {
                if late >= LATE {
                    session.handle_late_timeout(now, late);
                } else {
                    session.handle_timeout(now);
                }
            });
        }
        late >= LATE
    }

    /// When the next timer expires.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.queue.first().map(|(at, _)| *at)
    }

    /// The next action, also of a session that has ended.
    pub fn poll_output(&mut self) -> Option<(SessionId, Output)> {
        self.outputs.pop_front()
    }

    /// The state of a session.
    #[must_use]
    pub fn state(&self, id: SessionId) -> Option<State> {
        Some(self.sessions.get(&id)?.session.state())
    }

    /// The discriminators that packets for a session may have, besides 0.
    pub fn discriminators(&self, id: SessionId) -> impl Iterator<Item = u32> {
        let entry = self.sessions.get(&id).into_iter();
        entry.flat_map(|entry| entry.session.discriminators())
    }

    fn change<T>(&mut self, id: SessionId, change: impl FnOnce(&mut Session) -> T) -> Option<T> {
        let result = change(&mut self.sessions.get_mut(&id)?.session);
        self.settle(id);
        Some(result)
    }

    /// Takes the outputs of a session, and its next timer.
    fn settle(&mut self, id: SessionId) {
        let Some(Entry { session, queued }) = self.sessions.get_mut(&id) else {
            return;
        };
        while let Some(output) = session.poll_output() {
            self.outputs.push_back((id, output));
        }
        let due = session.poll_timeout();
        if *queued == due {
            return;
        }
        if let Some(at) = std::mem::replace(queued, due) {
            self.queue.remove(&(at, id));
        }
        self.queue.extend(due.map(|at| (at, id)));
    }
}
