//! BFD: watches the paths to the routers of BGPPeers with a `bfdProfile`, and reports to their BGP sessions.
//!
//! A path that was up and fails ends the BGP session. A BFD session that never comes up, that a router switches off, or that
//! cannot be opened here, does not: BGP goes on without it.

mod discriminator;
pub mod metrics;
mod thread;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use lb_bfd::session::SessionConfig;
pub use lb_bfd::sessions::SessionId;
use lb_bfd::wire::Diagnostic;
use lb_net::bfd::Hops;
use tokio::sync::mpsc::{self, UnboundedReceiver};
use tokio::sync::oneshot;

pub(crate) use discriminator::DiscriminatorKeys;
use metrics::{BfdMetrics, SessionMetrics};
use thread::{BfdThread, Command, EventSender, NewSession};

/// How long the routers may take to confirm the slow interval before this process ends.
const SLOW_DOWN_TIMEOUT: Duration = Duration::from_millis(200);

/// The values of a BFDProfile.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct BfdProfile {
    /// Intervals and multiplier.
    pub config: SessionConfig,
    /// The smallest TTL of packets of a router behind other routers.
    pub min_ttl: u8,
}

/// The path to watch.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Target {
    pub(crate) router: IpAddr,
    pub(crate) source: Option<IpAddr>,
    pub(crate) vrf: Option<String>,
    pub(crate) hops: Hops,
}

/// A report about a session.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum BfdEvent {
    /// Packets pass in both directions.
    Up,
    /// They do not any longer.
    Down(Diagnostic),
    /// The router has switched the session off.
    RemoteAdminDown,
    /// There is no route, or the port is in use; it is tried again.
    NoPath(String),
}

/// A change for the BGP session.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum BfdChange {
    Up,
    Down,
}

/// The BFD sessions of this node, by the name of their BGPPeer.
#[derive(Debug)]
pub(crate) struct Bfd {
    running: BTreeMap<String, Watched>,
    next_id: u64,
    keys: Arc<DiscriminatorKeys>,
    restart_budget: Duration,
    /// Until then sessions of an earlier process may be resumed.
    resume_until: Instant,
    /// Started with the first session.
    thread: Option<BfdThread>,
    sink: EventSender,
    events: UnboundedReceiver<(SessionId, BfdEvent)>,
    metrics: BfdMetrics,
}

#[derive(Debug)]
struct Watched {
    id: SessionId,
    target: Target,
    profile_name: String,
    profile: BfdProfile,
    metrics: SessionMetrics,
}

impl Bfd {
    /// Without any session. Routers wait `restart_budget` for the next process.
    pub(crate) fn new(now: Instant, restart_budget: Duration, metrics: BfdMetrics) -> Self {
        let (sink, events) = mpsc::unbounded_channel();
        Self {
            running: BTreeMap::new(),
            next_id: 0,
            keys: Arc::default(),
            restart_budget,
            resume_until: now + restart_budget,
            thread: None,
            sink,
            events,
            metrics,
        }
    }

    /// Sets the keys of the discriminators of sessions that start later.
    pub(crate) fn set_keys(&mut self, keys: DiscriminatorKeys) {
        if *self.keys != keys {
            self.keys = Arc::new(keys);
        }
    }

    /// Watches the path to the router of a BGPPeer. `profile` is `None` while there is no BFDProfile of this name: then a
    /// session goes on with the last values, and none is started.
    pub(crate) fn watch(
        &mut self,
        name: &str,
        target: Target,
        profile_name: &str,
        profile: Option<BfdProfile>,
    ) {
        if let Some(watched) = self.running.get_mut(name) {
            let is_same = watched.target == target;
            let Some(profile) = profile.or((watched.profile_name == profile_name).then_some(watched.profile))
            else {
                return self.stop(name);
            };
            if is_same {
                profile_name.clone_into(&mut watched.profile_name);
                if watched.profile != profile {
                    watched.profile = profile;
                    let command = Command::SetProfile(watched.id, profile);
                    self.send(command);
                }
                return;
            }
            self.stop(name);
            return self.start(name, target, profile_name, profile);
        }
        if let Some(profile) = profile {
            self.start(name, target, profile_name, profile);
        }
    }

    fn start(&mut self, name: &str, target: Target, profile_name: &str, profile: BfdProfile) {
        if self.thread.is_none() {
            match BfdThread::start(self.sink.clone(), self.metrics.late().clone()) {
                Ok(thread) => self.thread = Some(thread),
                Err(error) => {
                    tracing::warn!(%error, "failed to start the thread of BFD; BGP goes on without it");
                    return;
                }
            }
        }
        let id = SessionId(self.next_id);
        self.next_id += 1;
        let metrics = self.metrics.session(&target);
        let new = NewSession {
            target: target.clone(),
            profile,
            keys: Arc::clone(&self.keys),
            resume_until: self.resume_until,
            metrics: metrics.clone(),
        };
        self.send(Command::Start(id, Box::new(new)));
        let watched = Watched {
            id,
            target,
            profile_name: profile_name.to_owned(),
            profile,
            metrics,
        };
        self.running.insert(name.to_owned(), watched);
    }

    /// Stops watching the path to the router of a BGPPeer.
    pub(crate) fn stop(&mut self, name: &str) {
        if let Some(watched) = self.running.remove(name) {
            self.send(Command::Stop(watched.id));
            self.metrics.remove(&watched.target);
        }
    }

    /// The next report.
    pub(crate) async fn next_event(&mut self) -> (SessionId, BfdEvent) {
        match self.events.recv().await {
            Some(event) => event,
            // This has a sender.
            None => std::future::pending().await,
        }
    }

    /// A report that has arrived.
    pub(crate) fn try_next_event(&mut self) -> Option<(SessionId, BfdEvent)> {
        self.events.try_recv().ok()
    }

    /// Handles a report: returns the BGPPeer whose session has to know. A session that has ended has nothing to report.
    pub(crate) fn handle_event(&self, id: SessionId, event: BfdEvent) -> Option<(&str, BfdChange)> {
        let (name, watched) = self.running.iter().find(|(_, watched)| watched.id == id)?;
        let router = watched.target.router;
        let change = match event {
            BfdEvent::Up => {
                tracing::info!(peer = name, %router, "BFD session is up");
                Some(BfdChange::Up)
            }
            BfdEvent::Down(reason) => {
                tracing::warn!(peer = name, %router, %reason, "BFD session is down");
                Some(BfdChange::Down)
            }
            BfdEvent::RemoteAdminDown => {
                tracing::info!(peer = name, %router, "router has switched BFD off; BGP goes on without it");
                None
            }
            BfdEvent::NoPath(error) => {
                tracing::warn!(peer = name, %router, error, "cannot start BFD; BGP goes on without it, retrying");
                None
            }
        };
        let change = change?;
        watched.metrics.notifications.inc();
        Some((name, change))
    }

    /// Tells the routers of these BGPPeers to wait for the next process on this node. The sessions stay up.
    pub(crate) async fn slow_down(&mut self, names: &BTreeSet<&str>) {
        let slow = self
            .running
            .iter()
            .filter(|(name, _)| names.contains(name.as_str()));
        let ids: BTreeSet<_> = slow.map(|(_, watched)| watched.id).collect();
        if ids.is_empty() {
            return;
        }
        let (sender, done) = oneshot::channel();
        self.send(Command::SlowDown(ids, self.restart_budget, sender));
        if tokio::time::timeout(SLOW_DOWN_TIMEOUT, done).await.is_err() {
            tracing::warn!("a router has not confirmed the slow BFD interval; it may report a failure");
        }
    }

    fn send(&self, command: Command) {
        if let Some(thread) = &self.thread {
            thread.send(command);
        }
    }
}
