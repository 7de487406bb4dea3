//! Decides about one address on one node: a pure function of the election order, of the addresses that the peers
//! announce, and of their health.
//!
//! Ownership is sticky: an owner keeps an address while it is a live candidate, because a move breaks established
//! connections. The first node in the [election order](crate::ownership::election) takes an address only if it has no
//! owner. A node that returns therefore takes nothing back, and two owners after a partition become one as soon as they
//! hear each other: the first in the order remains.
//!
//! | owner | result |
//! | --- | --- |
//! | a candidate that is up or restarting | it remains the owner; of two owners, the one that both agree on |
//! | draining, or no candidate | the first candidate that is up announces the address, then the owner withdraws |
//! | down, or no owner | the first candidate that is up probes the address, then claims it |
//!
//! A peer whose heartbeats are lost may claim the address too, and we would not hear of it. Each such candidate before
//! us therefore gets [`CLAIM_SKEW`], in which it probes and claims; our own probe then finds it. A candidate that is up
//! gets [`CLAIM_PATIENCE`]. If it does not claim in that time, for example because its view of the API is old, it is
//! *passive*: from then on it gets [`CLAIM_SKEW`] too, until it announces the address or restarts. One that does not claim
//! because another host has the address says so; nobody else probes that host.
//!
//! Two owners: a peer that sees our announcement and whose announcement we see. The tie is decided by what both know. With
//! heartbeats in both directions: the version of the candidates, if they differ; then a node that was not cut off from
//! most others wins, because it served clients; then the election order. Otherwise MetalLB's hash of the node names
//! alone, because candidates may differ.
//!
//! If all live candidates are draining, the first of them owns the address, because a node about to leave is better
//! than no node. With `failback`, a candidate takes an address from an owner behind it in the order, as in MetalLB.
//!
//! With [`crate::ownership::placement`], one candidate may be *preferred*: it goes first if the address has no owner.
//! It takes nothing from an owner; the owner *offers* the address to it by name, and keeps announcing until it hears
//! the announcement. An offer concerns only these two nodes. For all others, and for two owners without an offer, the
//! election order decides, so that speakers that disagree about the preferred node never both keep the address.

use std::time::Duration;

use crate::ownership::failure_detector::PeerHealth;

/// The decision about an address.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Action {
    /// Announce it, or keep announcing it.
    Keep,
    /// Start announcing it: it has no owner, or its owner hands it over.
    Claim {
        /// Whether to probe it first: only the heartbeats of the owner may be lost, or a conflicting host may use the
        /// address. Unnecessary if the owner waits for our announcement.
        probe: bool,
        /// How long the address must have had no owner: other candidates go first.
        after: Duration,
    },
    /// Keep announcing it until another node announces it, then withdraw.
    HandOver,
    /// Stop announcing it at once: another owner precedes us.
    Withdraw,
    /// Wait: a preceding candidate has not been heard yet and may be up.
    Wait,
    /// Do nothing: another node owns it or will own it.
    None,
}

/// The input of a decision. `N` identifies a node.
#[derive(Clone, Copy, Debug)]
pub struct OwnershipInput<'a, N> {
    /// Our node.
    pub me: N,
    /// Whether we hand over our addresses.
    pub draining: bool,
    /// Whether we announce the address.
    pub mine: bool,
    /// Whether we take the address from an owner behind us in the order.
    pub failback: bool,
    /// The candidates in election order.
    pub candidates: &'a [N],
    /// The peers that announce the address, as far as known.
    pub announcers: &'a [N],
    /// The node that goes first if the address has no owner.
    pub preferred: Option<N>,
    /// The offer that concerns us.
    pub offer: HandOverOffer<N>,
    /// The announcers that keep the address whatever their health and whether or not they are candidates: they were
    /// seen on the network.
    pub seen: &'a [N],
    /// The candidates that were up and did not claim the address in their time.
    pub passive: &'a [N],
    /// The candidates that do not claim the address because another host has it.
    pub withheld: &'a [N],
    /// The announcers that win the tie against us; the election order decides about those that are in neither list.
    pub stronger: &'a [N],
    /// The announcers that lose the tie against us.
    pub weaker: &'a [N],
}

/// How long a candidate waits for each one before it whose heartbeats are lost. Longer than the probes before a claim.
pub const CLAIM_SKEW: Duration = Duration::from_millis(250);
/// How long a candidate waits for each one before it that is up. Longer than the way of an object from the API server to
/// all speakers, and than the probes of thousands of addresses.
pub const CLAIM_PATIENCE: Duration = Duration::from_secs(4);

/// Who claims an address without an owner.
enum Next<N> {
    Us {
        after: Duration,
    },
    Other(N),
    /// It will be known soon.
    Awaited(N),
    Nobody,
}

/// An offer of the address, from the view of one of the two nodes that it concerns.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum HandOverOffer<N> {
    /// No offer concerns us.
    #[default]
    None,
    /// We offer it to this node, and withdraw as soon as it announces the address.
    To(N),
    /// This node offers it to us and we accept; it does not count as an owner that keeps the address.
    From(N),
}

impl<N: Copy + Eq> OwnershipInput<'_, N> {
    /// Returns the decision. `view` gives the health of a peer.
    #[must_use]
    pub fn decide(&self, view: impl Fn(N) -> PeerHealth) -> Action {
        let view = |node: N| match node == self.me {
            true if self.draining => PeerHealth::Draining,
            true => PeerHealth::Up,
            false => view(node),
        };
        if let HandOverOffer::To(heir) = self.offer
            && self.mine
            && self.announcers.contains(&heir)
            && self.candidates.contains(&heir)
            && keeps(view(heir))
        {
            return Action::Withdraw;
        }
        if let Some(owner) = self.owner(&view) {
            return match (owner == self.me, self.mine) {
                (true, _) => Action::Keep,
                (false, true) => Action::Withdraw,
                (false, false)
                    if self.failback
                        && !self.draining
                        && view(owner).is_heard()
                        && self.comes_before(owner) =>
                {
                    Action::Claim {
                        probe: false,
                        after: Duration::ZERO,
                    }
                }
                (false, false) => Action::None,
            };
        }
        match self.next(&view) {
            Next::Us { .. } if self.mine => Action::HandOver,
            Next::Us { after } => Action::Claim {
                probe: !self.announcers.iter().any(|node| view(*node).is_heard()),
                after,
            },
            Next::Other(_) | Next::Awaited(_) if self.mine => Action::HandOver,
            Next::Awaited(next) if self.is_behind(next) => Action::Wait,
            Next::Other(_) | Next::Awaited(_) => Action::None,
            Next::Nobody => self.decide_all_draining(&view),
        }
    }

    /// The candidate that claims the address if it has no owner.
    fn next(&self, view: &impl Fn(N) -> PeerHealth) -> Next<N> {
        let preferred = self
            .preferred
            .filter(|node| self.candidates.contains(node) && view(*node) == PeerHealth::Up);
        if let Some(node) = preferred {
            return if node == self.me {
                Next::Us {
                    after: Duration::ZERO,
                }
            } else {
                Next::Other(node)
            };
        }
        let mut after = Duration::ZERO;
        let mut first = None;
        for node in self.candidates.iter().copied() {
            match view(node) {
                PeerHealth::Up if node == self.me => return Next::Us { after },
                PeerHealth::Up if self.withheld.contains(&node) => return Next::Other(node),
                PeerHealth::Up | PeerHealth::Assumed if !self.passive.contains(&node) => {
                    first.get_or_insert(node);
                    after += CLAIM_PATIENCE;
                }
                PeerHealth::Up
                | PeerHealth::Assumed
                | PeerHealth::HeartbeatLost
                | PeerHealth::NodeOnly { .. } => {
                    first.get_or_insert(node);
                    after += CLAIM_SKEW;
                }
                PeerHealth::Unknown | PeerHealth::Starting { .. } => return Next::Awaited(node),
                PeerHealth::Restarting { .. } | PeerHealth::Draining | PeerHealth::Down => {}
            }
        }
        first.map_or(Next::Nobody, Next::Other)
    }

    /// Whether the address has an owner that keeps it.
    pub(crate) fn has_owner(&self, view: impl Fn(N) -> PeerHealth) -> bool {
        let view = |node: N| match node == self.me {
            true if self.draining => PeerHealth::Draining,
            true => PeerHealth::Up,
            false => view(node),
        };
        self.owner(&view).is_some()
    }

    /// The owner that keeps the address; of two, the one that wins the tie.
    fn owner(&self, view: &impl Fn(N) -> PeerHealth) -> Option<N> {
        let keeps_it =
            |node: &N| self.seen.contains(node) || self.announcers.contains(node) && keeps(view(*node));
        let others = || {
            let known = self.candidates.iter().copied().filter(|node| *node != self.me);
            let seen = self
                .seen
                .iter()
                .copied()
                .filter(|node| !self.candidates.contains(node));
            let accepted = |node: &N| keeps_it(node) && self.offer != HandOverOffer::From(*node);
            known.chain(seen).filter(accepted)
        };
        let we_keep = self.mine && keeps(view(self.me)) && self.candidates.contains(&self.me);
        let wins = |node: &N| {
            self.stronger.contains(node) || !self.weaker.contains(node) && !self.comes_before(*node)
        };
        if we_keep {
            return others().find(wins).or(Some(self.me));
        }
        others().next()
    }

    /// No candidate is up: a draining owner continues; without an owner, the first draining candidate takes the
    /// address.
    fn decide_all_draining(&self, view: &impl Fn(N) -> PeerHealth) -> Action {
        let drains = |node: &N| view(*node) == PeerHealth::Draining;
        let has = |node: &N| (*node == self.me && self.mine) || self.announcers.contains(node);
        let mut draining = self.candidates.iter().copied().filter(drains);
        match draining.clone().find(has).or_else(|| draining.next()) {
            Some(owner) if owner == self.me && self.mine => Action::HandOver,
            Some(owner) if owner == self.me => Action::Claim {
                probe: true,
                after: Duration::ZERO,
            },
            Some(_) if self.mine && !self.candidates.contains(&self.me) => Action::HandOver,
            Some(_) if self.mine => Action::Withdraw,
            None if self.mine => Action::HandOver,
            Some(_) | None => Action::None,
        }
    }

    fn comes_before(&self, other: N) -> bool {
        let mut until = self.candidates.iter().take_while(|node| **node != other);
        until.any(|node| *node == self.me)
    }

    /// Whether we follow the other node in the order.
    fn is_behind(&self, other: N) -> bool {
        let mut after = self.candidates.iter().skip_while(|node| **node != other);
        after.any(|node| *node == self.me)
    }
}

/// Whether an owner of this health keeps its addresses.
pub(crate) const fn keeps(view: PeerHealth) -> bool {
    match view {
        PeerHealth::Up
        | PeerHealth::Assumed
        | PeerHealth::HeartbeatLost
        | PeerHealth::Starting { .. }
        | PeerHealth::Restarting { .. } => true,
        PeerHealth::NodeOnly { keeps } => keeps,
        PeerHealth::Unknown | PeerHealth::Draining | PeerHealth::Down => false,
    }
}
