//! One speaker among others: which addresses it answers for, given who may, who lives, and what the others claim.
//!
//! ```text
//! candidates (from the API) ──► Seat per address ──┐
//! heartbeats ──► ReplayGuard ──► FailureDetector ──► views ─────┼──► ownership::OwnershipInput ──► announce, withdraw
//!                  └─────► claims of the peers ────┘            └──────────► claims of ours ──► peers
//! the wire: who answers for an address? ◄── asked before a first claim, and about peers that fall silent
//! ```
//!
//! Sans-IO: inputs and the time are arguments, [`poll_output`](Coordinator::poll_output) says what to send, to ask, to
//! announce and to withdraw. After each input call [`handle_timeout`](Coordinator::handle_timeout), take the outputs, and
//! sleep until [`poll_timeout`](Coordinator::poll_timeout) at most.
//!
//! **Who speaks to whom**: the first candidates of an address that live, and whoever has it, are its *council*; the members
//! of a council know of each other by heartbeats. So the cost of a speaker grows with its addresses, and the number of
//! heartbeats that it sends in a second is bounded ([`crate::ownership::failure_detector`]). A node that was never heard is what the API says
//! of it: so speakers that cannot hear each other, behind a firewall or of another version, elect as MetalLB's do.

mod address_state;
pub mod announced_set;
pub mod api_membership;
mod backup;
pub mod decision;
pub mod election;
pub mod failure_detector;
mod handover;
mod output;
mod peer;
pub mod placement;
mod probe;
mod quorum;
pub mod replay;
mod sync;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::MacAddr;
use crate::ownership::announced_set::AnnouncedSet;
use crate::ownership::replay::ReplayGuard;
use failure_detector::{FailureDetector, NodeId, View};

pub use address_state::Candidates;
use address_state::Seat;
pub use output::{AcquireReason, Output, ReleaseReason};
use peer::Told;
pub use peer::{Api, Node};
pub use probe::ConflictPolicy;
use probe::Probes;
pub use quorum::PartitionPolicy;

/// Our own node.
const ME: NodeId = NodeId(0);
/// How long a starting speaker waits for peers to tell what it had before, and what they have now.
const MEMORY: Duration = Duration::from_secs(1);
/// How long an address that is to be given away waits for its next owner, when we may not have it ourselves.
const HAND_OVER: Duration = Duration::from_secs(2);
/// Time between two sendings of the same claims to a peer that has not got them.
const RESEND: Duration = Duration::from_millis(100);
/// Time between two sendings of changed claims: changes that come together go together.
const GATHER: Duration = Duration::from_millis(10);
/// The memory of flaps, and the longest time for which they keep us from taking addresses back.
const FLAPS_FORGOTTEN: Duration = Duration::from_secs(300);
const MOST_FLAPS: u32 = 6;
/// For so many outputs the room is kept.
const MOST_ROOM: usize = 1024;
/// Peers that return within this time of each other do so for one reason, such as a switch.
const ONE_FLAP: Duration = Duration::from_secs(1);

/// Settings of a [`Coordinator`].
#[derive(Clone, Debug)]
pub struct Config {
    /// The name of our node.
    pub me: String,
    /// The version of our program, which peers are told.
    pub version: String,
    /// How peers are watched.
    pub failure_detector: failure_detector::Config,
    /// What to do in a partition.
    pub policy: PartitionPolicy,
    /// Whether a node that returns takes its addresses back.
    pub failback: bool,
    /// What to do when a stranger answers for an address.
    pub conflicts: ConflictPolicy,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Phase {
    /// Not everything is known: nothing is decided.
    Listing,
    /// The peers are being heard, and asked what was ours.
    Starting {
        since: Instant,
    },
    Running,
}

/// The state of one speaker among others.
#[derive(Debug)]
pub struct Coordinator {
    config: Config,
    /// When this began.
    epoch: Instant,
    now: Instant,
    phase: Phase,
    draining: bool,
    leaving: bool,
    ids: BTreeMap<Arc<str>, NodeId>,
    peers: BTreeMap<NodeId, Told>,
    last_id: u32,
    guard: ReplayGuard,
    /// Number of our last datagram.
    number: u64,
    failure_detector: FailureDetector,
    macs: Vec<MacAddr>,
    /// The peer of each hardware address that answers come from.
    faces: BTreeMap<MacAddr, NodeId>,
    claims: AnnouncedSet,
    /// The peers that claim each address.
    claimants: BTreeMap<IpAddr, Vec<NodeId>>,
    seats: BTreeMap<IpAddr, Box<Seat>>,
    dirty: BTreeSet<IpAddr>,
    /// What was ours before we started, as records and peers remember.
    inherited: BTreeSet<IpAddr>,
    /// In how many councils we need each peer.
    needed: BTreeMap<NodeId, usize>,
    needs_changed: bool,
    probes: Probes,
    /// Addresses that are or were offered to others lately, by when the next may be.
    offers: BTreeMap<IpAddr, Instant>,
    /// Addresses that wait for another owner, by when the patience ends.
    deadlines: BTreeSet<(Instant, IpAddr)>,
    flaps: u32,
    last_flap: Option<Instant>,
    /// What the wire said of the addresses of peers, to be told to them.
    reports: BTreeMap<NodeId, Vec<(IpAddr, bool)>>,
    /// The view of some peer has changed since this was asked last.
    views_changed: bool,
    outputs: VecDeque<Output>,
}

impl Coordinator {
    /// A speaker that knows nothing. `incarnation` is greater than that of any start before, as the time since 1970 is.
    #[must_use]
    pub fn new(now: Instant, incarnation: u64, config: Config) -> Self {
        Self {
            epoch: now,
            now,
            phase: Phase::Listing,
            draining: false,
            leaving: false,
            ids: BTreeMap::from([(config.me.as_str().into(), ME)]),
            peers: BTreeMap::new(),
            last_id: ME.0,
            guard: ReplayGuard::new(incarnation),
            number: 0,
            failure_detector: FailureDetector::new(now, config.failure_detector),
            macs: Vec::new(),
            faces: BTreeMap::new(),
            claims: AnnouncedSet::default(),
            claimants: BTreeMap::new(),
            seats: BTreeMap::new(),
            dirty: BTreeSet::new(),
            inherited: BTreeSet::new(),
            needed: BTreeMap::new(),
            needs_changed: false,
            probes: Probes::default(),
            offers: BTreeMap::new(),
            deadlines: BTreeSet::new(),
            flaps: 0,
            last_flap: None,
            reports: BTreeMap::new(),
            views_changed: false,
            outputs: VecDeque::new(),
            config,
        }
    }

    /// These are the nodes with speakers, and what the API says of them. Others are forgotten.
    pub fn set_nodes<'a>(&mut self, now: Instant, nodes: impl IntoIterator<Item = Node<'a>>) {
        self.now = self.now.max(now);
        let mut gone: BTreeSet<NodeId> = self.peers.keys().copied().collect();
        let mut changed = false;
        for node in nodes {
            let id = self.intern(node.name);
            if id == ME {
                continue;
            }
            gone.remove(&id);
            if let Some(told) = self.peers.get_mut(&id) {
                changed |= (told.api, told.on_link) != (node.api, node.on_link);
                (told.api, told.on_link) = (node.api, node.on_link);
            }
        }
        changed |= !gone.is_empty();
        for id in gone {
            self.forget(id);
        }
        let peers: Vec<_> = self.peers.values().map(|told| told.name.clone()).collect();
        self.guard.set_peers(peers.iter().map(|name| &**name));
        if self.phase == Phase::Listing {
            // Who may have something of ours to tell is not known yet.
            let everybody = self.peers.keys().copied().collect();
            self.failure_detector.set_wanted(self.now, &everybody);
        } else if changed {
            self.everything();
        }
    }

    /// The hardware addresses from which we answer. Peers are told at once: they are about to see them. Where an interface is
    /// new, or back, peers may have been silent for the lack of it.
    pub fn set_macs(&mut self, now: Instant, macs: Vec<MacAddr>) {
        self.now = self.now.max(now);
        if self.macs == macs {
            return;
        }
        let more = macs.iter().any(|mac| !self.macs.contains(mac));
        self.macs = macs;
        if more {
            self.failure_detector.listen_anew(self.now);
        }
        self.tell_all();
    }

    /// Who may answer for the address; none when nobody may.
    pub fn set_candidates(&mut self, address: IpAddr, candidates: Option<Candidates<'_>>) {
        // Where we are not among the first, and have not been, others decide.
        let concerns_us = |candidates: &Candidates<'_>| {
            self.phase != Phase::Running
                || self.claims.has(address)
                || candidates.order.contains(&self.config.me.as_str())
        };
        let known = candidates.is_some();
        let Some(candidates) = candidates.filter(concerns_us) else {
            if known && !self.seats.contains_key(&address) {
                return;
            }
            self.give_up(address, ReleaseReason::NoCandidates);
            self.decline(address, false);
            self.probes.remove(address);
            if let Some(seat) = self.seats.remove(&address) {
                self.unneed(&seat.council);
                if seat.stands_in.is_some() {
                    self.stand_down(address);
                }
                if seat.stranger().is_some() {
                    self.outputs.push_back(Output::ConflictOver { address });
                }
            }
            self.offers.remove(&address);
            self.dirty.remove(&address);
            return;
        };
        let order: Box<[_]> = candidates.order.iter().map(|name| self.id_of(name)).collect();
        let seat = self.seats.entry(address).or_default();
        let same = seat.order == order && seat.declined == candidates.declined;
        seat.order = order;
        self.prefer(address, candidates.preferred);
        let Some(seat) = self.seats.get_mut(&address).filter(|_| !same) else {
            return;
        };
        seat.declined = candidates.declined;
        self.decline(address, candidates.declined);
        self.dirty.insert(address);
    }

    /// The address was ours before this process began, says a record of it.
    pub fn inherit(&mut self, address: IpAddr) {
        if self.phase != Phase::Running {
            self.inherited.insert(address);
        }
    }

    /// Another node has the address, says a record of MetalLB's, in whose place one of ours starts there: it is waited for.
    pub fn leave_to_another(&mut self, address: IpAddr, until: Instant) {
        if self.phase != Phase::Running
            && let Some(seat) = self.seats.get_mut(&address)
        {
            seat.not_before = Some(until);
            self.deadlines.insert((until, address));
        }
    }

    /// Everything has been told: decide, once the peers have been heard.
    pub fn start(&mut self, now: Instant) {
        self.now = self.now.max(now);
        if self.phase == Phase::Listing {
            self.phase = Phase::Starting { since: self.now };
            for address in self.seats.keys().copied().collect::<Vec<_>>() {
                self.convene(address);
            }
            self.want();
        }
    }

    /// Whether decisions are made.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.phase == Phase::Running
    }

    /// Gives the addresses away, or stops doing so.
    pub fn set_draining(&mut self, draining: bool) {
        if std::mem::replace(&mut self.draining, draining) != draining {
            self.everything();
            self.tell_all();
        }
    }

    /// We are about to restart: the peers are told to wait for us.
    pub fn leave(&mut self, now: Instant) {
        self.now = self.now.max(now);
        self.leaving = true;
        self.tell_all();
    }

    /// Time passed. Decides at most `batch` addresses; see [`is_busy`](Self::is_busy).
    pub fn handle_timeout(&mut self, now: Instant, batch: usize) {
        self.now = self.now.max(now);
        self.failure_detector.handle_timeout(self.now);
        for id in self.failure_detector.take_changed() {
            self.changed(id);
        }
        if let Phase::Starting { since } = self.phase {
            self.begin(since);
        }
        if self.phase == Phase::Running {
            self.probe();
            while let Some((at, address)) = self.deadlines.first().copied()
                && at <= self.now
            {
                self.deadlines.remove(&(at, address));
                self.dirty.insert(address);
            }
            for _ in 0..batch {
                let Some(address) = self.dirty.pop_first() else {
                    break;
                };
                self.settle(address);
            }
        }
        self.want();
        self.report();
        self.speak();
    }

    /// Whether decisions are left to be made at once.
    #[must_use]
    pub fn is_busy(&self) -> bool {
        self.phase == Phase::Running && !self.dirty.is_empty()
    }

    /// Whether there is nothing to do before [`poll_timeout`](Self::poll_timeout): most heartbeats bring no news.
    #[must_use]
    pub fn is_quiet(&self) -> bool {
        self.phase == Phase::Running
            && self.dirty.is_empty()
            && self.outputs.is_empty()
            && self.reports.is_empty()
            && !self.views_changed
            && !self.needs_changed
    }

    /// What is to be done; call it until there is none.
    pub fn poll_output(&mut self) -> Option<Output> {
        let output = self.outputs.pop_front();
        if output.is_none() && self.outputs.capacity() > MOST_ROOM {
            // So much is said at once when a node with thousands of addresses comes or goes, and then for days not again.
            self.outputs.shrink_to_fit();
        }
        output
    }

    /// When to call [`handle_timeout`](Self::handle_timeout) at the latest; none when nothing is to come.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        if self.is_busy() {
            return Some(self.now);
        }
        let begin = match self.phase {
            // After that the peers are waited for that have not had their time, as failure_detector says.
            Phase::Starting { since } => Some(since + MEMORY).filter(|at| *at > self.now),
            Phase::Listing | Phase::Running => None,
        };
        let deadline = self.deadlines.first().map(|(at, _)| *at);
        [
            begin,
            deadline,
            self.failure_detector.poll_timeout(),
            self.probes.poll_timeout(),
            self.claims_due(),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// Whether we answer for the address.
    #[must_use]
    pub fn is_mine(&self, address: IpAddr) -> bool {
        self.claims.has(address)
    }

    /// The node that answers for the address, as far as we know: only the members of its council do for certain.
    #[must_use]
    pub fn owner(&self, address: IpAddr) -> Option<&str> {
        if self.is_mine(address) {
            return Some(&self.config.me);
        }
        let claimants = self.claimants.get(&address)?;
        let owner = claimants.iter().find(|id| self.view(**id) != View::Down)?;
        self.peers.get(owner).map(|told| &*told.name)
    }

    /// The peers that we speak to, and the time between two heartbeats to each.
    #[must_use]
    pub fn rate(&self) -> (usize, Duration) {
        (
            self.failure_detector.spoken_to().count(),
            self.failure_detector.period(),
        )
    }

    /// The peers by name, what they are to us, and whether they have ever been heard.
    pub fn peers(&self) -> impl Iterator<Item = (&str, View, bool)> {
        self.peers.iter().map(|(id, told)| {
            let heard = self.failure_detector.last_heard(*id).is_some();
            (&*told.name, self.view(*id), heard)
        })
    }

    /// Whether what some peer is to us has changed since the last call.
    pub fn take_views_changed(&mut self) -> bool {
        std::mem::take(&mut self.views_changed)
    }

    fn intern(&mut self, name: &str) -> NodeId {
        if let Some(id) = self.ids.get(name) {
            return *id;
        }
        self.last_id += 1;
        let (id, name) = (NodeId(self.last_id), Arc::<str>::from(name));
        self.ids.insert(name.clone(), id);
        self.peers.insert(id, Told::new(name));
        id
    }

    /// The number of a candidate. One that is no node with a speaker is nobody's: it never lives.
    fn id_of(&self, name: &str) -> NodeId {
        self.ids.get(name).copied().unwrap_or(NodeId(u32::MAX))
    }

    fn forget(&mut self, id: NodeId) {
        self.views_changed = true;
        self.lost(id);
        self.failure_detector.forget(id);
        self.faces.retain(|_, node| *node != id);
        if let Some(told) = self.peers.remove(&id) {
            self.ids.remove(&told.name);
        }
    }

    fn everything(&mut self) {
        self.dirty.extend(self.seats.keys());
    }

    /// What a peer is to us: what its heartbeats say or, if it was never heard, what the API says and the wire does not
    /// deny.
    fn view(&self, id: NodeId) -> View {
        let view = self.failure_detector.view(id);
        if view != View::Down || self.failure_detector.last_heard(id).is_some() {
            return view;
        }
        let Some(told) = self.peers.get(&id) else {
            return View::Down;
        };
        let lives = match self.failure_detector.node_answers(id) {
            Some(answers) => answers,
            None => !told.on_link || !self.needed.contains_key(&id),
        };
        // What it claims is not known, so that it restarts makes no difference: it has what it would have.
        match told.api {
            Api::Up | Api::Held if lives => View::Up,
            Api::Up | Api::Held | Api::Down => View::Down,
        }
    }

    /// The view of a peer has changed.
    fn changed(&mut self, id: NodeId) {
        self.views_changed = true;
        let view = self.failure_detector.view(id);
        if let Some(told) = self.peers.get_mut(&id) {
            let away = matches!(view, View::Starting { .. } | View::Held { .. });
            told.up_since = (view == View::Up).then(|| told.up_since.unwrap_or(self.now));
            told.away_since = away.then(|| told.away_since.unwrap_or(self.now));
        }
        match view {
            View::Down => self.lost(id),
            View::Up => {
                if let Some(told) = self.peers.get_mut(&id)
                    && std::mem::take(&mut told.was_down)
                {
                    let within = |time| self.last_flap.is_some_and(|last| self.now < last + time);
                    self.flaps = match self.flaps {
                        flaps if within(ONE_FLAP) => flaps,
                        flaps if within(FLAPS_FORGOTTEN) => (flaps + 1).min(MOST_FLAPS),
                        _ => 1,
                    };
                    self.last_flap = Some(self.now);
                }
            }
            View::Unknown | View::Starting { .. } | View::Held { .. } | View::Draining => {}
        }
        let concerned = |seat: &Seat| seat.order.contains(&id) || seat.council.contains(&id);
        let concerned = self.seats.iter().filter(|(_, seat)| concerned(seat));
        self.dirty.extend(concerned.map(|(address, _)| *address));
    }

    /// A peer is down: what it had is nobody's now.
    fn lost(&mut self, id: NodeId) {
        let heard = self.failure_detector.last_heard(id);
        let Some(told) = self.peers.get_mut(&id) else {
            return;
        };
        let claims = std::mem::take(&mut told.claims);
        told.told = 0;
        told.was_down |= heard.is_some();
        let name = told.name.clone();
        for address in claims.owned() {
            self.note_claim(address, id, false);
            self.bereave(address, name.clone(), heard);
        }
    }

    /// Begins to decide, if the peers have been heard.
    fn begin(&mut self, since: Instant) {
        let told = self.failure_detector.spoken_to().all(|id| {
            let told = self.peers.get(&id);
            told.is_none_or(|told| told.remembered && told.is_understood())
                || self.failure_detector.last_heard(id).is_none()
        });
        if !self.failure_detector.is_complete() || (!told && self.now < since + MEMORY) {
            return;
        }
        self.phase = Phase::Running;
        for address in std::mem::take(&mut self.inherited) {
            if let Some(seat) = self.seats.get_mut(&address) {
                // Where there is no interface for it any more, it is not ours to keep.
                seat.resumes = !seat.declined;
            }
        }
        self.seats
            .retain(|_, seat| seat.resumes || seat.order.contains(&ME));
        self.everything();
        self.tell_all();
    }

    fn want(&mut self) {
        if std::mem::take(&mut self.needs_changed) && self.phase != Phase::Listing {
            let wanted = self.needed.keys().copied().collect();
            self.failure_detector.set_wanted(self.now, &wanted);
        }
    }
}
