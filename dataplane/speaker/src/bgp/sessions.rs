//! The sessions of this node: one for each BGPPeer that selects it. Connects the state machines of lb-bgp to connections.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{BuildHasher, RandomState};
use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use lb_bgp::session::{Counters, NextHops, Output, RemoteAsn, Session, SessionConfig, State, Stop};
use lb_bgp::table::{Table, Version};
use lb_bgp::wire::{Family, Notification, NotificationCode};
use lb_net::Snapshot;
use lb_net::bfd::Hops;
use lb_net::tcp::TcpOptions;
use lb_runtime::ObjectKey;
use lb_runtime::text::{LIST_LIMIT, list_first};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::bgp::bfd::{Bfd, BfdChange, BfdEvent, SessionId, Target};
use crate::bgp::configuration::{ActiveAdvertisements, Configuration};
use crate::bgp::connection::{Connection, ConnectionEvent, ConnectionEvents, ConnectionKey};
use crate::bgp::metrics::{BgpMetrics, SessionGauges, SessionLabels};
use crate::bgp::next_hops::{is_on_connected_subnet, next_hops};
use crate::bgp::objects::{Peer, PeerSettings};
use crate::bgp::policy::PeerPolicy;
use crate::k8s::events::SessionEvent;

/// Capacity of the queue of reports of all connections.
const EVENT_QUEUE_LEN: usize = 64;
/// How long a router keeps the routes while this program restarts.
const RESTART_TIME: Duration = Duration::from_secs(120);
/// Upper bound of the batches that one step sends to one router: more than its queue has room for.
const MAX_BATCHES_PER_STEP: usize = 64;
/// How long connections may take to close at shutdown.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_millis(500);

/// The facts about this node that sessions depend on.
#[derive(Clone, Debug, Default)]
pub(crate) struct LocalNode {
    /// Its name.
    pub(crate) name: String,
    /// Its internal addresses.
    pub(crate) addresses: Vec<IpAddr>,
    /// Its interfaces.
    pub(crate) links: Snapshot,
}

/// The sessions of this node.
#[derive(Debug)]
pub(crate) struct Sessions {
    running: BTreeMap<String, RunningSession>,
    next_id: u64,
    sink: ConnectionEvents,
    events: mpsc::Receiver<(ConnectionKey, ConnectionEvent)>,
    tasks: JoinSet<()>,
    bfd: Bfd,
    /// Sessions that came up or ended, to report.
    changed: Vec<SessionEvent>,
    metrics: BgpMetrics,
}

/// A report of a connection, or of BFD.
#[derive(Debug)]
pub(crate) enum SessionInput {
    Connection(ConnectionKey, ConnectionEvent),
    Bfd(SessionId, BfdEvent),
}

#[derive(Debug)]
struct RunningSession {
    id: u64,
    settings: PeerSettings,
    labels: SessionLabels,
    session: Session,
    connection: Option<Connection>,
    next_hops: NextHops,
    established: bool,
    /// The versions of the table that exist and that the router knows, and whether the session is established, as of the
    /// last count of prefixes.
    counted: Option<(Version, Option<Version>, bool)>,
    /// The reason that was logged last.
    logged: Option<String>,
}

impl Sessions {
    pub(crate) fn new(bfd: Bfd, metrics: BgpMetrics) -> Self {
        let (sink, events) = mpsc::channel(EVENT_QUEUE_LEN);
        Self {
            running: BTreeMap::new(),
            next_id: 0,
            sink,
            events,
            tasks: JoinSet::new(),
            bfd,
            changed: Vec::new(),
            metrics,
        }
    }

    /// Starts, changes and stops sessions, so that there is one for each of these peers.
    pub(crate) fn set_peers(
        &mut self,
        now: Instant,
        node: &LocalNode,
        configuration: &Configuration,
        selects: impl Fn(&Peer) -> bool,
    ) {
        let peers = configuration.peers().iter();
        let peers = peers.filter(|(_, peer)| selects(peer));
        let mut routers = BTreeSet::new();
        let mut wanted = BTreeMap::new();
        for (name, peer) in peers {
            let router = (peer.settings.router.ip(), peer.settings.vrf.clone());
            if routers.insert(router) {
                wanted.insert(name, peer);
            } else if !self.running.contains_key(name) {
                tracing::warn!(
                    peer = name,
                    "another BGPPeer has the same address; this one has no session"
                );
            }
        }
        let gone: Vec<_> = self
            .running
            .keys()
            .filter(|name| !wanted.contains_key(name))
            .cloned()
            .collect();
        for name in gone {
            self.stop(
                &name,
                Stop::Notify(Notification::new(NotificationCode::PeerDeconfigured)),
            );
            self.bfd.stop(&name);
        }
        for (name, peer) in wanted {
            self.watch_path(name, peer, node, configuration);
            if let Some(running) = self.running.get_mut(name) {
                if running.settings == peer.settings {
                    running.session.set_connect_time(peer.connect_time);
                    continue;
                }
                // A router that keeps the routes does not notice.
                let stop = if peer.settings.graceful_restart && running.settings.graceful_restart {
                    Stop::Silently
                } else {
                    Stop::Notify(Notification::new(NotificationCode::ConfigurationChange))
                };
                self.stop(name, stop);
            }
            let running = RunningSession::start(now, self.next_id, node, peer);
            self.next_id += 1;
            self.running.insert(name.clone(), running);
        }
    }

    /// Starts, changes or stops BFD for a peer.
    fn watch_path(&mut self, name: &str, peer: &Peer, node: &LocalNode, configuration: &Configuration) {
        let Some(profile_name) = &peer.bfd_profile else {
            return self.bfd.stop(name);
        };
        // Until then it is not known whether the router is on the same link.
        if node.links.is_empty() {
            return;
        }
        let settings = &peer.settings;
        let router = settings.router.ip();
        let is_internal = match settings.remote_asn {
            RemoteAsn::Is(asn) => asn == settings.local_asn,
            RemoteAsn::Internal => true,
            RemoteAsn::External => false,
        };
        let is_far = settings.multi_hop || is_internal && !is_on_connected_subnet(&node.links, router);
        let target = Target {
            router,
            source: settings.source,
            vrf: settings.vrf.clone(),
            hops: if is_far { Hops::Multi } else { Hops::Single },
        };
        let profile = configuration.bfd_profile(profile_name);
        self.bfd.watch(name, target, profile_name, profile);
    }

    /// The sessions that came up or ended since the last call.
    pub(crate) fn take_changed(&mut self) -> Vec<SessionEvent> {
        std::mem::take(&mut self.changed)
    }

    pub(crate) const fn bfd_mut(&mut self) -> &mut Bfd {
        &mut self.bfd
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.running.is_empty()
    }

    /// The next report.
    pub(crate) async fn next_event(&mut self) -> SessionInput {
        tokio::select! {
            // The events of connections have a sender as long as this exists.
            Some((key, event)) = self.events.recv() => SessionInput::Connection(key, event),
            (id, event) = self.bfd.next_event() => SessionInput::Bfd(id, event),
        }
    }

    /// A report that has arrived.
    pub(crate) fn try_next_event(&mut self) -> Option<SessionInput> {
        let connection = self.events.try_recv().ok();
        let connection = connection.map(|(key, event)| SessionInput::Connection(key, event));
        connection.or_else(|| {
            let (id, event) = self.bfd.try_next_event()?;
            Some(SessionInput::Bfd(id, event))
        })
    }

    /// Handles a report.
    pub(crate) fn handle_event(&mut self, now: Instant, node: &LocalNode, event: SessionInput) {
        match event {
            SessionInput::Connection(key, event) => self.handle_connection(now, node, key, event),
            SessionInput::Bfd(id, event) => {
                let change = self.bfd.handle_event(id, event);
                let running = change.and_then(|(name, change)| Some((self.running.get_mut(name)?, change)));
                match running {
                    Some((running, BfdChange::Up)) => running.session.handle_bfd_up(now),
                    Some((running, BfdChange::Down)) => running.session.handle_bfd_down(now),
                    None => {}
                }
            }
        }
    }

    /// Handles a report of a connection. One that was closed has nothing to report.
    fn handle_connection(
        &mut self,
        now: Instant,
        node: &LocalNode,
        key: ConnectionKey,
        event: ConnectionEvent,
    ) {
        let Some(running) = self
            .running
            .values_mut()
            .find(|running| running.id == key.session)
        else {
            return;
        };
        let session = &mut running.session;
        match event {
            ConnectionEvent::Dialed(Ok(local)) => {
                let PeerSettings {
                    router, multi_hop, ..
                } = &running.settings;
                running.next_hops = next_hops(local, router.ip(), *multi_hop, &node.links, &node.addresses);
                session.handle_dialed(now, key.connection, Ok(()));
            }
            ConnectionEvent::Dialed(Err(error)) => session.handle_dialed(now, key.connection, Err(error)),
            ConnectionEvent::Received(octets) => session.handle_received(now, key.connection, &octets),
            ConnectionEvent::Written(octets) => session.handle_written(now, key.connection, octets),
            ConnectionEvent::Closed => session.handle_closed(now, key.connection),
        }
    }

    /// Handles timers, sends routes, and connects.
    pub(crate) fn step(
        &mut self,
        now: Instant,
        table: &Table<ObjectKey>,
        advertisements: &ActiveAdvertisements,
        last_resort: bool,
    ) {
        while self.tasks.try_join_next().is_some() {}
        for (name, running) in &mut self.running {
            running.session.handle_timeout(now);
            let internal = running.session.negotiated().is_some_and(|agreed| agreed.internal);
            let policy = PeerPolicy {
                peer: name,
                local_asn: running.settings.local_asn,
                internal,
                last_resort,
                advertisements,
            };
            for _ in 0..MAX_BATCHES_PER_STEP {
                if !running
                    .session
                    .send_routes(now, table, &policy, running.next_hops)
                {
                    break;
                }
            }
            self.changed
                .extend(running.handle_outputs(name, &mut self.tasks, &self.sink, &self.metrics));
            let gauges = running.changed_gauges(table, &policy);
            let counters = running.session.take_counters();
            if gauges.is_some() || counters != Counters::default() {
                self.metrics.update(&running.labels, gauges, &counters);
            }
        }
    }

    /// The version of the table that all routers know; `None` without an established session.
    pub(crate) fn sent_version(&self) -> Option<Version> {
        self.running
            .values()
            .filter_map(|running| running.session.sent_version())
            .min()
    }

    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        self.running
            .values()
            .filter_map(|running| running.session.poll_timeout())
            .min()
    }

    /// Closes all connections without a word: routers with graceful restart keep the routes for the next process, and
    /// their BFD sessions stay up.
    pub(crate) async fn shut_down(&mut self) {
        let graceful = self
            .running
            .iter()
            .filter(|(_, running)| running.settings.graceful_restart);
        let graceful: BTreeSet<_> = graceful.map(|(name, _)| name.as_str()).collect();
        self.bfd.slow_down(&graceful).await;
        for name in self.running.keys().cloned().collect::<Vec<_>>() {
            self.stop(&name, Stop::Silently);
        }
        let tasks = &mut self.tasks;
        let all = async { while tasks.join_next().await.is_some() {} };
        // The kernel closes what is left.
        let _ = tokio::time::timeout(SHUTDOWN_TIMEOUT, all).await;
    }

    fn stop(&mut self, name: &str, how: Stop) {
        let Some(mut running) = self.running.remove(name) else {
            return;
        };
        running.session.stop(how);
        self.changed
            .extend(running.handle_outputs(name, &mut self.tasks, &self.sink, &self.metrics));
        self.metrics.remove(&running.labels);
    }
}

impl RunningSession {
    fn start(now: Instant, id: u64, node: &LocalNode, peer: &Peer) -> Self {
        let settings = peer.settings.clone();
        let mut session = Session::new(session_config(node, peer), RandomState::new().hash_one(id));
        session.start(now);
        Self {
            id,
            labels: SessionLabels::new(settings.router, settings.vrf.as_deref()),
            settings,
            session,
            connection: None,
            next_hops: NextHops::default(),
            established: false,
            counted: None,
            logged: None,
        }
    }

    fn handle_outputs(
        &mut self,
        name: &str,
        tasks: &mut JoinSet<()>,
        sink: &ConnectionEvents,
        metrics: &BgpMetrics,
    ) -> Vec<SessionEvent> {
        let mut changed = Vec::new();
        while let Some(output) = self.session.poll_output() {
            match output {
                Output::Dial(connection) => {
                    let key = ConnectionKey {
                        session: self.id,
                        connection,
                    };
                    let options = options(&self.settings);
                    let connection =
                        Connection::open(tasks, key, self.settings.router, options, sink.clone());
                    self.connection = Some(connection);
                }
                // The machine sends on its present connection only.
                Output::Send(_, octets) => {
                    if let Some(connection) = &self.connection {
                        connection.send(octets);
                    }
                }
                Output::Close(_) => self.connection = None,
                Output::Changed(state) => changed.extend(self.handle_state(name, state, metrics)),
                Output::Skipped(family, reason, prefixes) => {
                    let prefixes = list_first(&prefixes, LIST_LIMIT);
                    tracing::warn!(
                        peer = name,
                        ?family,
                        ?reason,
                        prefixes,
                        "prefixes are not announced to the router"
                    );
                }
            }
        }
        changed
    }

    /// Returns the change to report, if the session came up or ended.
    fn handle_state(&mut self, name: &str, state: State, metrics: &BgpMetrics) -> Option<SessionEvent> {
        let router = self.settings.router;
        let change = |ended| SessionEvent {
            peer: name.to_owned(),
            router,
            ended,
        };
        let was_established = std::mem::replace(&mut self.established, state == State::Established);
        if self.established {
            self.logged = None;
            tracing::info!(peer = name, %router, "BGP session is up");
            return Some(change(None));
        }
        if was_established {
            metrics.flapped(&self.labels);
        }
        let reason = self.session.down_reason().to_string();
        // The same error every few seconds is one line.
        let is_new = was_established || self.logged.as_ref() != Some(&reason);
        if matches!(state, State::Active | State::Idle) && is_new {
            tracing::warn!(peer = name, %router, reason, "BGP session is down");
            self.logged = Some(reason.clone());
        }
        was_established.then(|| change(Some(reason)))
    }

    /// Counts the prefixes, unless nothing has changed since the last call.
    fn changed_gauges(&mut self, table: &Table<ObjectKey>, policy: &PeerPolicy<'_>) -> Option<SessionGauges> {
        let state = (table.version(), self.session.sent_version(), self.established);
        let before = self.counted.replace(state);
        (before != Some(state)).then(|| self.gauges(table, policy))
    }

    fn gauges(&self, table: &Table<ObjectKey>, policy: &PeerPolicy<'_>) -> SessionGauges {
        let families = Family::ALL
            .into_iter()
            .filter(|family| self.session.announces(*family));
        let announced = families.map(|family| table.count_prefixes(family, |ids| policy.announces(ids)));
        let pending = match self.session.sent_version() {
            Some(sent) if sent < table.version() => table.changes_since(sent).count(),
            Some(_) | None => 0,
        };
        SessionGauges {
            up: self.established,
            announced: announced.sum(),
            pending,
        }
    }
}

fn session_config(node: &LocalNode, peer: &Peer) -> SessionConfig {
    let settings = &peer.settings;
    let families = if settings.dual_stack {
        BTreeSet::from(Family::ALL)
    } else {
        BTreeSet::from([Family::of(settings.router.ip())])
    };
    SessionConfig {
        local_asn: settings.local_asn,
        remote_asn: settings.remote_asn,
        router_id: settings.router_id.unwrap_or_else(|| default_router_id(node)),
        families,
        hold_time: settings.hold_time,
        keepalive_time: settings.keepalive_time,
        connect_time: peer.connect_time,
        ipv6_next_hop: false,
        restart_time: settings.graceful_restart.then_some(RESTART_TIME),
    }
}

fn options(settings: &PeerSettings) -> TcpOptions {
    TcpOptions {
        source: settings.source,
        device: settings.vrf.clone(),
        md5_key: settings.key.as_ref().map(|key| key.as_bytes().to_vec()),
        ttl_security: false,
        user_timeout: Some(settings.hold_time).filter(|time| !time.is_zero()),
    }
}

/// The node's internal IPv4 address, otherwise a number that depends on its name.
fn default_router_id(node: &LocalNode) -> Ipv4Addr {
    let internal = node.addresses.iter().find_map(|address| match address {
        IpAddr::V4(address) => Some(*address),
        IpAddr::V6(_) => None,
    });
    internal.unwrap_or_else(|| Ipv4Addr::from_bits(crc32(node.name.as_bytes()).max(1)))
}

/// CRC-32 of IEEE 802.3.
fn crc32(octets: &[u8]) -> u32 {
    const POLYNOMIAL: u32 = 0xedb8_8320;
    let step = |crc: u32, _| (crc >> 1) ^ if crc & 1 == 1 { POLYNOMIAL } else { 0 };
    !octets
        .iter()
        .fold(u32::MAX, |crc, octet| (0..8).fold(crc ^ u32::from(*octet), step))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn router_id_is_the_internal_address_or_depends_on_the_name() {
        let mut node = LocalNode {
            name: "123456789".to_owned(),
            ..LocalNode::default()
        };
        assert_eq!(
            default_router_id(&node).to_bits(),
            0xcbf4_3926,
            "the check value of CRC-32"
        );
        node.addresses = vec!["fc00:50::21".parse().unwrap(), "192.168.50.21".parse().unwrap()];
        assert_eq!(default_router_id(&node), Ipv4Addr::new(192, 168, 50, 21));
    }
}
