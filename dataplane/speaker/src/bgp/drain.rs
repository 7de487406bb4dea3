//! Moves connections away from a node before it stops announcing: routers prefer other nodes for routes with the community
//! GRACEFUL_SHUTDOWN (RFC 8326), and use this one only if there is no other.
//!
//! ```text
//!             cordoned                    excluded, out of service
//!   Normal ◄───────────► LastResort ───────────────┐
//!     │  ▲                                         ▼        delay
//!     │  └──────────── none of it ───────────── Leaving ───────────► Left
//!     └────────────────────────────────────────────▲
//! ```

use std::time::{Duration, Instant};

use crate::k8s::objects::Node;

/// How a node is drained.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct DrainSettings {
    /// The reaction to a cordoned node.
    pub on_cordon: OnCordon,
    /// How long a node that leaves announces with the community before it withdraws.
    pub delay: Duration,
}

/// The reaction to a cordoned node.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum OnCordon {
    /// Routers use it only if there is no other.
    #[default]
    Deprioritize,
    /// The same; after the delay, everything is withdrawn.
    Withdraw,
    /// None.
    Ignore,
}

impl OnCordon {
    /// Every value.
    pub const ALL: [Self; 3] = [Self::Deprioritize, Self::Withdraw, Self::Ignore];

    /// The word on the command line.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Deprioritize => "deprioritize",
            Self::Withdraw => "withdraw",
            Self::Ignore => "ignore",
        }
    }
}

impl std::str::FromStr for OnCordon {
    type Err = std::io::Error;

    fn from_str(word: &str) -> Result<Self, Self::Err> {
        let known = Self::ALL
            .into_iter()
            .find(|one| one.as_str().eq_ignore_ascii_case(word));
        known.ok_or_else(|| std::io::Error::other("an unknown word"))
    }
}

/// How this node announces.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum State {
    Normal,
    LastResort,
    Leaving(Instant),
    Left,
}

/// The state of this node.
#[derive(Debug)]
pub(crate) struct Drain {
    settings: DrainSettings,
    /// `None` until the node is known.
    state: Option<State>,
}

impl Drain {
    pub(crate) const fn new(settings: DrainSettings) -> Self {
        Self {
            settings,
            state: None,
        }
    }

    /// Follows the node. Returns whether anything changed. A node that is not known any longer changes nothing.
    pub(crate) fn update(&mut self, now: Instant, node: Option<&Node>, ignore_exclude_label: bool) -> bool {
        let Some(node) = node else { return false };
        let is_excluded = node.excluded() && !ignore_exclude_label;
        let is_withdrawn = node.draining && self.settings.on_cordon == OnCordon::Withdraw;
        let wanted = if is_excluded || node.out_of_service || is_withdrawn {
            match self.state {
                // It has announced nothing that connections use.
                None | Some(State::Left) => State::Left,
                Some(State::Normal | State::LastResort) => State::Leaving(now + self.settings.delay),
                Some(State::Leaving(until)) if until <= now => State::Left,
                Some(State::Leaving(until)) => State::Leaving(until),
            }
        } else if node.draining && self.settings.on_cordon == OnCordon::Deprioritize {
            State::LastResort
        } else {
            State::Normal
        };
        let before = self.state.replace(wanted);
        if before == Some(wanted) {
            return false;
        }
        if before.is_some() || wanted != State::Normal {
            tracing::info!(state = ?wanted, "this node announces by BGP in another way");
        }
        true
    }

    /// Whether routers should prefer other nodes.
    pub(crate) const fn is_last_resort(&self) -> bool {
        matches!(self.state, Some(State::LastResort | State::Leaving(_)))
    }

    /// Whether reasons of the node to announce nothing count already.
    pub(crate) const fn has_left(&self) -> bool {
        matches!(self.state, None | Some(State::Left))
    }

    /// When the delay of a node that leaves ends.
    pub(crate) const fn poll_timeout(&self) -> Option<Instant> {
        match self.state {
            Some(State::Leaving(until)) => Some(until),
            Some(State::Normal | State::LastResort | State::Left) | None => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DELAY: Duration = Duration::from_secs(10);

    fn drain(on_cordon: OnCordon) -> Drain {
        Drain::new(DrainSettings {
            on_cordon,
            delay: DELAY,
        })
    }

    fn node(draining: bool, out_of_service: bool) -> Node {
        Node {
            draining,
            out_of_service,
            ..Node::default()
        }
    }

    #[test]
    fn cordoned_node_is_the_last_resort() {
        let now = Instant::now();
        for (on_cordon, expected) in [(OnCordon::Deprioritize, true), (OnCordon::Ignore, false)] {
            let mut drain = drain(on_cordon);
            assert!(drain.has_left(), "nothing is announced before the node is known");
            assert!(drain.update(now, Some(&node(false, false)), false));
            assert_eq!(drain.update(now, Some(&node(true, false)), false), expected);
            assert_eq!((drain.is_last_resort(), drain.has_left()), (expected, false));
            assert_eq!(drain.poll_timeout(), None);
            // The API server does not know the node for a moment.
            assert!(!drain.update(now, None, false));
            assert_eq!(drain.update(now, Some(&node(false, false)), false), expected);
            assert!(!drain.is_last_resort());
        }
    }

    #[test]
    fn leaving_node_withdraws_after_the_delay() {
        for (on_cordon, leaving) in [
            (OnCordon::Deprioritize, node(false, true)),
            (OnCordon::Withdraw, node(true, false)),
        ] {
            let now = Instant::now();
            let mut drain = drain(on_cordon);
            drain.update(now, Some(&node(false, false)), false);
            assert!(drain.update(now, Some(&leaving), false));
            assert_eq!((drain.is_last_resort(), drain.has_left()), (true, false));
            assert_eq!(drain.poll_timeout(), Some(now + DELAY));
            assert!(!drain.update(now + DELAY / 2, Some(&leaving), false));
            assert!(drain.update(now + DELAY, Some(&leaving), false));
            assert_eq!((drain.is_last_resort(), drain.has_left()), (false, true));
            assert_eq!(drain.poll_timeout(), None);
            assert!(drain.update(now + DELAY, Some(&node(false, false)), false));
            assert_eq!((drain.is_last_resort(), drain.has_left()), (false, false));
        }
    }

    #[test]
    fn process_that_starts_on_an_excluded_node_announces_nothing() {
        let mut drain = drain(OnCordon::Deprioritize);
        let mut node = node(false, false);
        node.labels.insert(
            "node.kubernetes.io/exclude-from-external-load-balancers".to_owned(),
            String::new(),
        );
        drain.update(Instant::now(), Some(&node), false);
        assert!(drain.has_left());
        drain.update(Instant::now(), Some(&node), true);
        assert!(!drain.has_left(), "the label is ignored");
    }
}
