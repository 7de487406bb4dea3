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
//! | a candidate that is up or restarting | it remains the owner; of two owners, the first in the order |
//! | draining, or no candidate | the first candidate that is up announces the address, then the owner withdraws |
//! | down, or no owner | the first candidate that is up probes the address, then claims it |
//!
//! If all live candidates are draining, the first of them owns the address, because a node about to leave is better
//! than no node. With `failback`, a candidate takes an address from an owner behind it in the order, as in MetalLB.
//!
//! With [`crate::ownership::placement`], one candidate may be *preferred*: it goes first if the address has no owner.
//! It takes nothing from an owner; the owner *offers* the address to it by name, and keeps announcing until it hears
//! the announcement. An offer concerns only these two nodes. For all others, and for two owners without an offer, the
//! election order decides, so that speakers that disagree about the preferred node never both keep the address.

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
                (false, false) if self.failback && !self.draining && self.comes_before(owner) => {
                    Action::Claim { probe: false }
                }
                (false, false) => Action::None,
            };
        }
        let may_be_up = |node: &N| view(*node) == PeerHealth::Up || is_awaited(view(*node));
        let preferred = self
            .preferred
            .filter(|node| self.candidates.contains(node) && view(*node) == PeerHealth::Up);
        let first = || self.candidates.iter().copied().find(may_be_up);
        match preferred.or_else(first) {
            Some(next) if next == self.me => Action::Claim {
                probe: !self.announcers.iter().any(|node| lives(view(*node))),
            },
            Some(_) if self.mine => Action::HandOver,
            Some(next) if is_awaited(view(next)) && self.is_behind(next) => Action::Wait,
            Some(_) => Action::None,
            None => self.decide_all_draining(&view),
        }
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

    /// The owner that keeps the address; of two, the first in the order.
    fn owner(&self, view: &impl Fn(N) -> PeerHealth) -> Option<N> {
        let has_and_keeps = |node: &N| {
            let has = if *node == self.me {
                self.mine
            } else {
                self.announcers.contains(node)
            };
            has && keeps(view(*node)) && self.offer != HandOverOffer::From(*node)
        };
        self.candidates.iter().copied().find(has_and_keeps)
    }

    /// No candidate is up: a draining owner continues; without an owner, the first draining candidate takes the
    /// address.
    fn decide_all_draining(&self, view: &impl Fn(N) -> PeerHealth) -> Action {
        let drains = |node: &N| view(*node) == PeerHealth::Draining;
        let has = |node: &N| (*node == self.me && self.mine) || self.announcers.contains(node);
        let mut draining = self.candidates.iter().copied().filter(drains);
        match draining.clone().find(has).or_else(|| draining.next()) {
            Some(owner) if owner == self.me && self.mine => Action::HandOver,
            Some(owner) if owner == self.me => Action::Claim { probe: true },
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
        PeerHealth::Up | PeerHealth::Starting { .. } | PeerHealth::Restarting { .. } => true,
        PeerHealth::Unknown | PeerHealth::Draining | PeerHealth::Down => false,
    }
}

/// Whether the health will be known soon.
const fn is_awaited(view: PeerHealth) -> bool {
    match view {
        PeerHealth::Unknown | PeerHealth::Starting { .. } => true,
        PeerHealth::Up | PeerHealth::Restarting { .. } | PeerHealth::Draining | PeerHealth::Down => false,
    }
}

const fn lives(view: PeerHealth) -> bool {
    match view {
        PeerHealth::Up
        | PeerHealth::Starting { .. }
        | PeerHealth::Restarting { .. }
        | PeerHealth::Draining => true,
        PeerHealth::Unknown | PeerHealth::Down => false,
    }
}
