//! Who answers for one address, as one speaker sees it: a pure function of the order of candidates, of what the peers claim
//! and of whether they live.
//!
//! Ownership is sticky: whoever has an address keeps it while it is a candidate and lives, because a move breaks
//! established connections. Only where nobody has it, the first in the order ([`crate::election`]) takes it. So a node that
//! returns takes nothing back, and two that have it after a partition are one again as soon as they hear each other: the
//! first in the order stays.
//!
//! | who has it | what becomes of it |
//! | --- | --- |
//! | a candidate that is up, or held | it stays there; of two, with the first in the order |
//! | one that drains, or is no candidate any more | the first candidate that is up claims it, then the other lets go |
//! | one that is down, or nobody | the first candidate that is up asks the wire, and then claims it |

use std::collections::BTreeSet;

use crate::liveness::View;

/// What a speaker has to do about an address.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Step {
    /// Answer for it, or go on.
    Own,
    /// Claim it: nobody has it who keeps it.
    Claim {
        /// Whether to ask the wire first: who had it may be alive though its heartbeats are lost, or a stranger may have
        /// it. Not so when a peer waits for the claim to let go.
        ask: bool,
    },
    /// Go on until another claims it, and let go then.
    HandOver,
    /// Let go at once: another has it, and goes before.
    Yield,
    /// Wait: one who goes before may live, and has not been heard yet.
    Wait,
    /// Nothing: it is another's.
    Leave,
}

/// What one speaker knows of an address.
#[derive(Clone, Copy, Debug)]
pub struct Scene<'a> {
    /// Our own node.
    pub me: &'a str,
    /// Whether we are giving our addresses away.
    pub draining: bool,
    /// Whether we answer for it now.
    pub mine: bool,
    /// The candidates, in the order in which they would own it.
    pub candidates: &'a [&'a str],
    /// The peers that have claimed it, as far as they have told.
    pub claimants: &'a BTreeSet<String>,
}

impl Scene<'_> {
    /// What to do, given what the peers are to us.
    #[must_use]
    pub fn step(&self, view: impl Fn(&str) -> View) -> Step {
        let view = |node: &str| match node == self.me {
            true if self.draining => View::Draining,
            true => View::Up,
            false => view(node),
        };
        let has = |node: &str| {
            if node == self.me {
                self.mine
            } else {
                self.claimants.contains(node)
            }
        };
        let keeps = |node: &&&str| has(node) && matches!(view(node), View::Up | View::Held { .. });
        if let Some(owner) = self.candidates.iter().find(keeps) {
            return match (*owner == self.me, self.mine) {
                (true, _) => Step::Own,
                (false, true) => Step::Yield,
                (false, false) => Step::Leave,
            };
        }
        let may_be_up = |node: &&&str| matches!(view(node), View::Up | View::Unknown);
        match self.candidates.iter().find(may_be_up) {
            Some(next) if *next == self.me => Step::Claim {
                ask: !self.claimants.iter().any(|node| lives(view(node))),
            },
            Some(_) | None if self.mine => Step::HandOver,
            Some(next) if view(next) == View::Unknown && self.comes_after(next) => Step::Wait,
            Some(_) | None => Step::Leave,
        }
    }

    /// Whether we would be next if another were not there.
    fn comes_after(&self, other: &str) -> bool {
        let mut after = self.candidates.iter().skip_while(|node| **node != other);
        after.any(|node| *node == self.me)
    }
}

fn lives(view: View) -> bool {
    match view {
        View::Up | View::Held { .. } | View::Draining => true,
        View::Unknown | View::Down => false,
    }
}
