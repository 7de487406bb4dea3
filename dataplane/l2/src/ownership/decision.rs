//! Who answers for one address, as one speaker sees it: a pure function of the order of candidates, of what the peers claim
//! and of whether they live.
//!
//! Ownership is sticky: whoever has an address keeps it while it is a candidate and lives, because a move breaks
//! established connections. Only where nobody has it, the first in the order ([`crate::ownership::election`]) takes it. So a node that
//! returns takes nothing back, and two that have it after a partition are one again as soon as they hear each other: the
//! first in the order stays.
//!
//! | who has it | what becomes of it |
//! | --- | --- |
//! | a candidate that is up, or held | it stays there; of two, with the first in the order |
//! | one that drains, or is no candidate any more | the first candidate that is up claims it, then the other lets go |
//! | one that is down, or nobody | the first candidate that is up asks the wire, and then claims it |
//!
//! Where all candidates that live are draining, the first of them has it: better an address on a node that is to go than
//! none. With `failback`, a candidate claims what is on one behind it in the order, as in MetalLB.
//!
//! With [`crate::ownership::placement`] one candidate may be *preferred*: where nobody has the address it goes before the others. It
//! takes nothing from who has it: that one *offers* it, to this node by name, and goes on until it hears the claim. An offer
//! counts only between the two of them; among all others, and where both have it without one, the order decides as always,
//! so that speakers with different views of who is preferred never both keep it.

use crate::ownership::failure_detector::PeerHealth;

/// What a speaker has to do about an address.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Action {
    /// Announce it, or keep announcing it.
    Keep,
    /// Claim it: nobody has it who keeps it.
    Claim {
        /// Whether to ask the wire first: who had it may be alive though its heartbeats are lost, or a stranger may have
        /// it. Not so when a peer waits for the claim to let go.
        probe: bool,
    },
    /// Go on until another claims it, and let go then.
    HandOver,
    /// Let go at once: another has it, and goes before.
    Withdraw,
    /// Wait: one who goes before may live, and has not been heard yet.
    Wait,
    /// Nothing: it is another's.
    None,
}

/// What one speaker knows of an address. `N` names a node.
#[derive(Clone, Copy, Debug)]
pub struct OwnershipInput<'a, N> {
    /// Our own node.
    pub me: N,
    /// Whether we are giving our addresses away.
    pub draining: bool,
    /// Whether we answer for it now.
    pub mine: bool,
    /// Whether we take it from a candidate behind us.
    pub failback: bool,
    /// The candidates, in the order in which they would own it.
    pub candidates: &'a [N],
    /// The peers that have claimed it, as far as they have told.
    pub announcers: &'a [N],
    /// Who goes before all others where nobody has it.
    pub preferred: Option<N>,
    /// What is offered, and to or by whom.
    pub offer: HandOverOffer<N>,
}

/// The offer of an address, as one of the two sees it whom it concerns.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum HandOverOffer<N> {
    /// There is none, or it is none of ours.
    #[default]
    None,
    /// We offer it to this node: once that has it, we let go.
    To(N),
    /// This node offers it to us, and we are to have it: that it has it still does not keep us.
    From(N),
}

impl<N: Copy + Eq> OwnershipInput<'_, N> {
    /// What to do, given what the peers are to us.
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

    /// Whether somebody has it who keeps it.
    pub(crate) fn has_owner(&self, view: impl Fn(N) -> PeerHealth) -> bool {
        let view = |node: N| match node == self.me {
            true if self.draining => PeerHealth::Draining,
            true => PeerHealth::Up,
            false => view(node),
        };
        self.owner(&view).is_some()
    }

    /// Who has it and keeps it: of two, the first in the order.
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

    /// Nobody is up, so who drains goes on, and where nobody has it, the first of them takes it.
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

    /// Whether we would be next if another were not there.
    fn is_behind(&self, other: N) -> bool {
        let mut after = self.candidates.iter().skip_while(|node| **node != other);
        after.any(|node| *node == self.me)
    }
}

/// Whether who has an address keeps it.
pub(crate) const fn keeps(view: PeerHealth) -> bool {
    match view {
        PeerHealth::Up | PeerHealth::Starting { .. } | PeerHealth::Restarting { .. } => true,
        PeerHealth::Unknown | PeerHealth::Draining | PeerHealth::Down => false,
    }
}

/// Whether it is to be seen in a moment what it is.
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
