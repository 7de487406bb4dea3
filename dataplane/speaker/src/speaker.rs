//! The speaker's state and its one way of working: take in what changed, decide, announce.
//!
//! ```text
//! updates ──► Index ──► dirty addresses ──► decide ──► Driver
//!               └──► Peers ────┘               └─────► news (events), ServiceL2Statuses to look at
//! ```
//!
//! Does no I/O but through the [`Driver`]; time is an argument. Nothing is announced before every watch has listed and
//! the links are known: a speaker that has seen half of the cluster would take addresses that are not its own.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use lb_daemon::Key;
use lb_net::Snapshot;

use crate::agenda::Agenda;
use crate::announce::Driver;
use crate::args::Config;
use crate::decide::{Announcement, Decision, View, decide};
use crate::index::{Index, Kind, Touched, Update};
use crate::metrics::Metrics;
use crate::news::{Matter, News};
use crate::peers::{Peers, Standing};
use crate::reasons::{Ended, Reason};

/// Most addresses decided in one step: packets are answered between steps.
const BATCH: usize = 256;
/// How long nobody announces an address before it is told: its endpoints or its advertisement may be on their way.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long a lost ServiceL2Status is left alone, for its new owner to overwrite it.
const LINGER: Duration = Duration::from_secs(2);

/// How far the speaker has come.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Phase {
    /// Not everything has been listed: nothing is decided.
    Listing,
    /// The first decisions are being made.
    Starting,
    /// Everything has been decided at least once.
    Running,
}

/// An address that we announce.
#[derive(Debug)]
struct Held {
    announcement: Announcement,
    /// Interfaces that it is announced on.
    on: Vec<String>,
    /// Whether its Services have been told that there is no interface.
    failed: bool,
    /// Services that know that we announce.
    told: BTreeSet<Key>,
}

/// The state of the speaker.
#[derive(Debug)]
pub struct Speaker {
    config: Config,
    metrics: Metrics,
    index: Index,
    peers: Peers,
    driver: Driver,
    unlisted: BTreeSet<Kind>,
    links_known: bool,
    phase: Phase,
    dirty: BTreeSet<IpAddr>,
    held: BTreeMap<IpAddr, Held>,
    /// Addresses whose interfaces are to be looked at.
    looks: BTreeSet<IpAddr>,
    /// Addresses that nobody announces and that are ours to tell about.
    unannounced: BTreeMap<IpAddr, Reason>,
    to_tell: Agenda<IpAddr>,
    /// Services whose ServiceL2Status is to be looked at.
    records: Agenda<Key>,
    news: Vec<News>,
}

impl Speaker {
    /// A speaker that knows nothing yet.
    #[must_use]
    pub fn new(config: Config, metrics: Metrics) -> Self {
        Self {
            index: Index::default(),
            peers: Peers::new(&config.node, config.grace),
            driver: Driver::new(config.excluded.clone(), metrics.clone()),
            unlisted: Kind::ALL.into_iter().collect(),
            links_known: false,
            phase: Phase::Listing,
            dirty: BTreeSet::new(),
            held: BTreeMap::new(),
            looks: BTreeSet::new(),
            unannounced: BTreeMap::new(),
            to_tell: Agenda::default(),
            records: Agenda::default(),
            news: Vec::new(),
            config,
            metrics,
        }
    }

    /// What is known of the cluster.
    #[must_use]
    pub fn index(&self) -> &Index {
        &self.index
    }

    /// Takes in a change of a watched object.
    pub fn update(&mut self, now: Instant, update: Update) {
        if let Update::Synced(kind) = &update {
            self.unlisted.remove(kind);
        }
        let touched = self.index.update(update);
        // At the start everything is looked at anyway.
        if self.phase == Phase::Listing {
            return;
        }
        let Touched {
            everything,
            addresses,
            peer,
            statuses,
        } = touched;
        if everything {
            self.dirty.extend(self.index.addresses());
        }
        self.dirty.extend(addresses);
        if let Some(node) = peer {
            self.peers.look(now, &self.index, &node);
        }
        for service in statuses {
            // While we join, the records say what is ours.
            if self.peers.standing() == Standing::Joining
                && let Some(service) = self.index.services.get(&service)
            {
                self.dirty.extend(&service.addresses);
            }
            self.records.enter(service, now);
        }
    }

    /// Takes in a change of the links. Returns whether an interface to announce on came (again).
    pub fn set_links(&mut self, now: Instant, links: Snapshot) -> bool {
        self.links_known = true;
        self.looks.extend(self.held.keys());
        self.driver.set_links(now, links)
    }

    /// Does what is to be done now, or a part of it; returns what to tell people.
    #[must_use]
    pub fn step(&mut self, now: Instant) -> Vec<News> {
        if self.phase == Phase::Listing {
            if !self.unlisted.is_empty() || !self.links_known {
                return Vec::new();
            }
            self.start(now);
        }
        self.peers.handle_timeout(now);
        if self.peers.take_changed() {
            self.dirty.extend(self.index.addresses());
        }
        if self.peers.take_rejoined() {
            self.driver.again(now);
        }
        for _ in 0..BATCH {
            let Some(address) = self.dirty.pop_first() else {
                break;
            };
            self.settle(now, address);
        }
        self.driver.flush(now);
        self.look(now);
        while let Some(address) = self.to_tell.pop(now) {
            self.tell(address);
        }
        if self.phase == Phase::Starting && self.dirty.is_empty() {
            self.phase = Phase::Running;
            // Not before: a status that names us is stale only once we know that we do not own the address.
            let services = self.index.statuses.values().map(|record| &record.service);
            for service in services.chain(self.index.services.keys()) {
                self.records.enter(service.clone(), now);
            }
            tracing::info!(
                node = self.config.node,
                announced = self.held.len(),
                "all addresses decided"
            );
        }
        std::mem::take(&mut self.news)
    }

    /// Whether [`step`](Self::step) has more to do at once.
    #[must_use]
    pub fn is_busy(&self) -> bool {
        !self.dirty.is_empty()
    }

    /// Whether every address has been decided once.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.phase == Phase::Running
    }

    /// When to call [`step`](Self::step) at the latest, if nothing changes.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        [
            self.driver.poll_timeout(),
            self.peers.poll_timeout(),
            self.to_tell.next(),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// The next Service whose ServiceL2Status is to be looked at.
    pub fn pop_record(&mut self, now: Instant) -> Option<Key> {
        if self.phase == Phase::Running {
            self.records.pop(now)
        } else {
            None
        }
    }

    /// Look at the ServiceL2Status of this Service then.
    pub fn enter_record(&mut self, service: Key, at: Instant) {
        self.records.enter(service, at);
    }

    /// When the next ServiceL2Status is to be looked at.
    #[must_use]
    pub fn next_record(&self) -> Option<Instant> {
        if self.phase == Phase::Running {
            self.records.next()
        } else {
            None
        }
    }

    /// What the ServiceL2Status of a Service has to say of us: the interfaces; none when it is not ours to write.
    #[must_use]
    pub fn record_of(&self, service: &Key) -> Option<Vec<String>> {
        let first = self.index.services.get(service)?.first()?;
        let held = self.held.get(&first)?;
        let announced = held.announcement.services.contains_key(service) && !held.on.is_empty();
        announced.then(|| held.announcement.interfaces.names())
    }

    fn start(&mut self, now: Instant) {
        self.peers.start(now, &self.index);
        // What the machine saw while it learned is no change.
        self.peers.take_changed();
        self.peers.take_rejoined();
        self.dirty.extend(self.index.addresses());
        self.phase = Phase::Starting;
        tracing::info!(
            node = self.config.node,
            nodes = self.index.nodes.len(),
            services = self.index.services.len(),
            "everything listed"
        );
    }

    fn settle(&mut self, now: Instant, address: IpAddr) {
        let view = View {
            me: &self.config.node,
            index: &self.index,
            members: self.peers.members(),
            standing: self.peers.standing(),
            ignore_exclude_label: self.config.ignore_exclude_label,
        };
        let decision = decide(&view, address);
        if !matches!(
            decision,
            Decision::Nobody {
                ours_to_tell: true,
                ..
            }
        ) {
            self.unannounced.remove(&address);
            self.to_tell.remove(&address);
        }
        let ended = match decision {
            Decision::Mine(announcement) => return self.hold(now, address, announcement),
            Decision::Other { owner, ineligible } => Ended::Moved { owner, ineligible },
            Decision::Nobody { reason, ours_to_tell } => {
                if ours_to_tell && self.unannounced.get(&address) != Some(&reason) {
                    self.unannounced.insert(address, reason.clone());
                    self.to_tell.remove(&address);
                    self.to_tell.enter(address, now + PATIENCE);
                }
                Ended::Nobody(reason)
            }
            Decision::Unused => Ended::Released,
        };
        self.end(now, address, &ended);
    }

    fn hold(&mut self, now: Instant, address: IpAddr, announcement: Announcement) {
        self.looks.insert(address);
        let interfaces = announcement.interfaces.clone();
        let (before, rewire) = match self.held.get_mut(&address) {
            Some(held) if held.announcement == announcement => return,
            Some(held) => {
                let rewire = held.announcement.interfaces != interfaces;
                (
                    std::mem::replace(&mut held.announcement, announcement).services,
                    rewire,
                )
            }
            None => {
                let held = Held {
                    announcement,
                    on: Vec::new(),
                    failed: false,
                    told: BTreeSet::new(),
                };
                self.held.insert(address, held);
                (BTreeMap::new(), true)
            }
        };
        if rewire {
            self.driver.announce(now, address, interfaces);
        }
        let Some(held) = self.held.get(&address) else {
            return;
        };
        let after = &held.announcement.services;
        for service in before.keys().filter(|service| !after.contains_key(*service)) {
            self.metrics.withdrawn(service, &self.config.node, address);
            self.records.enter(service.clone(), now + LINGER);
        }
        for service in after.keys() {
            self.metrics.announced(service, &self.config.node, address);
            self.records.enter(service.clone(), now);
        }
    }

    fn end(&mut self, now: Instant, address: IpAddr, ended: &Ended) {
        let node = &self.config.node;
        let Some(held) = self.held.remove(&address) else {
            for (service, _) in self.index.having(address) {
                let reason = format_args!("{}", ended.describe(address));
                tracing::debug!(%service, ip = %address, node, %reason, "not announced from here");
            }
            return;
        };
        self.driver.withdraw(address);
        self.looks.remove(&address);
        let reason = ended.describe(address);
        for service in held.announcement.services.into_keys() {
            tracing::info!(%service, ip = %address, node, reason, "withdrawn");
            self.metrics.withdrawn(&service, node, address);
            self.records.enter(service, now + LINGER);
        }
    }

    /// Compares the interfaces of announced addresses with what has been told of them.
    fn look(&mut self, now: Instant) {
        for address in std::mem::take(&mut self.looks) {
            let on = self.driver.interfaces_of(address);
            let Some(held) = self.held.get_mut(&address) else {
                continue;
            };
            let changed = held.on != on;
            if held.on.is_empty() != on.is_empty() {
                let at = if on.is_empty() { now + LINGER } else { now };
                for service in held.announcement.services.keys() {
                    self.records.enter(service.clone(), at);
                }
            }
            held.on = on;
            held.told
                .retain(|service| held.announcement.services.contains_key(service));
            let fails = held.on.is_empty() && !std::mem::replace(&mut held.failed, held.on.is_empty());
            let (node, pool) = (&self.config.node, &held.announcement.pool);
            for (service, uid) in &held.announcement.services {
                let news = |matter| News {
                    service: service.clone(),
                    uid: uid.clone(),
                    address,
                    matter,
                };
                if fails {
                    tracing::warn!(%service, ip = %address, node, pool, "no interface to announce on");
                    self.news.push(news(Matter::NoInterface));
                }
                if held.on.is_empty() {
                    continue;
                }
                let new = held.told.insert(service.clone());
                if new || changed {
                    let interfaces = held.on.join(",");
                    tracing::info!(%service, ip = %address, node, interfaces, pool, "announcing");
                }
                // Ours before this process began: no change of owner, so no event.
                let known = self.phase == Phase::Starting && was_ours(&self.index, node, service, address);
                if new && !known {
                    self.news.push(news(Matter::Announcing));
                }
            }
        }
    }

    fn tell(&mut self, address: IpAddr) {
        let Some(reason) = self.unannounced.get(&address) else {
            return;
        };
        let reason = reason.describe(address);
        for (service, object) in self.index.having(address) {
            tracing::info!(%service, ip = %address, reason, "announced by no node");
            self.news.push(News {
                service: service.clone(),
                uid: object.uid.clone(),
                address,
                matter: Matter::NotAnnounced(reason.clone()),
            });
        }
    }
}

/// Whether the records of before our start let us assume that we announced the address then. Of a Service with two
/// addresses they tell about the first only; the other gets the benefit of the doubt.
fn was_ours(index: &Index, me: &str, service: &Key, address: IpAddr) -> bool {
    let first = index.services.get(service).and_then(|service| service.first());
    let mut records = index.statuses_of(service).map(|(_, record)| record);
    if first == Some(address) {
        records.any(|record| record.node == me)
    } else {
        records.next().is_some()
    }
}
