//! When all watches list their objects again: after a link came up, because connections may have gone with it, and while
//! peers have received newer objects, because a watch may be dead without notice.
//!
//! A list is read from the current state of the API server. Once all kinds are listed, this node therefore has every
//! object that any peer had received when the lists began, also if resource versions went back: the newest object may have
//! been deleted, or the server may have been restored from a backup.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use crate::k8s::index::Kind;

/// Minimum time between two lists because of links.
const MIN_LINK_INTERVAL: Duration = Duration::from_secs(10);
/// How long peers must have had newer objects.
const STALE_TIME: Duration = Duration::from_secs(10);
/// Minimum time between two lists because of newer objects; doubled with each of them up to the maximum. An API server
/// that is slow must not get more work from each node.
const MIN_STALE_INTERVAL: Duration = Duration::from_secs(60);
const MAX_STALE_INTERVAL: Duration = Duration::from_secs(16 * 60);

/// The schedule of one speaker.
#[derive(Debug)]
pub(crate) struct RelistSchedule {
    last: Option<Instant>,
    link_due: Option<Instant>,
    stale_due: Option<Instant>,
    stale_interval: Duration,
    /// The kinds that are being listed, and the newest resource version of any node when that began.
    listing: Option<(BTreeSet<Kind>, u64)>,
}

impl Default for RelistSchedule {
    fn default() -> Self {
        Self {
            last: None,
            link_due: None,
            stale_due: None,
            stale_interval: MIN_STALE_INTERVAL,
            listing: Some((Kind::ALL.into_iter().collect(), 0)),
        }
    }
}

impl RelistSchedule {
    /// A link came up. `jitter` spreads the lists of all nodes.
    pub(crate) fn handle_link(&mut self, now: Instant, jitter: Duration) {
        let at = self.last.map_or(now, |last| now.max(last + MIN_LINK_INTERVAL));
        self.link_due.get_or_insert(at + jitter);
    }

    /// Peers have received newer objects than this node, or not any longer.
    pub(crate) fn set_stale(&mut self, now: Instant, is_stale: bool, jitter: impl Fn() -> Duration) {
        // A list that is not complete must not begin again.
        if !is_stale || self.listing.is_some() {
            self.stale_due = None;
            let settled = |last: Instant| last + self.stale_interval * 2 <= now;
            if self.last.is_none_or(settled) {
                self.stale_interval = MIN_STALE_INTERVAL;
            }
        } else if self.stale_due.is_none() {
            let at = now + STALE_TIME;
            let at = self.last.map_or(at, |last| at.max(last + self.stale_interval));
            self.stale_due = Some(at + jitter());
        }
    }

    /// When [`begin_if_due`](Self::begin_if_due) starts a list.
    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        self.link_due.into_iter().chain(self.stale_due).min()
    }

    /// Returns whether all watches have to list now. `newest` is the newest resource version that any node has received.
    pub(crate) fn begin_if_due(&mut self, now: Instant, newest: u64) -> bool {
        let is_due = |at: Option<Instant>| at.is_some_and(|at| at <= now);
        if is_due(self.stale_due) {
            self.stale_interval = (self.stale_interval * 2).min(MAX_STALE_INTERVAL);
        } else if !is_due(self.link_due) {
            return false;
        }
        (self.link_due, self.stale_due, self.last) = (None, None, Some(now));
        self.listing = Some((Kind::ALL.into_iter().collect(), newest));
        true
    }

    /// A kind is listed. With the last one, returns a resource version up to which this node has all objects.
    pub(crate) fn synced(&mut self, kind: Kind) -> Option<u64> {
        let (kinds, _) = self.listing.as_mut()?;
        kinds.remove(&kind);
        let is_complete = kinds.is_empty();
        self.listing.take_if(|_| is_complete).map(|(_, version)| version)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// The seconds at which a node lists whose view is old in each second.
    fn lists(time_of_a_list: u32, is_stale: impl Fn(u32) -> bool) -> Vec<u32> {
        let (start, mut schedule) = (Instant::now(), RelistSchedule::default());
        let mut listed_at = time_of_a_list;
        let begins = |second: &u32| {
            let now = start + SECOND * *second;
            if *second == listed_at {
                let _ = Kind::ALL.map(|kind| schedule.synced(kind));
            }
            schedule.set_stale(now, is_stale(*second), || Duration::ZERO);
            let begins = schedule.begin_if_due(now, 0);
            listed_at = if begins {
                second + time_of_a_list
            } else {
                listed_at
            };
            begins
        };
        (0..3600).filter(begins).collect()
    }

    #[test]
    fn lists_rarely_while_the_api_server_lags() {
        assert_eq!(lists(1, |_| true), [11, 131, 371, 851, 1811, 2771]);
        assert_eq!(lists(900, |_| true), [910, 1820, 2730], "slow lists");
        assert_eq!(lists(1, |second| second < 10), [] as [u32; 0]);
        // After a long time without, the interval is the shortest again.
        assert_eq!(lists(1, |second| second % 1000 < 20), [11, 1010, 2010, 3010]);
    }

    #[test]
    fn complete_list_has_everything_that_peers_had_before() {
        let (now, mut schedule) = (Instant::now(), RelistSchedule::default());
        assert_eq!(schedule.synced(Kind::Nodes), None, "the first list");
        schedule.handle_link(now, SECOND);
        schedule.handle_link(now, Duration::ZERO);
        assert_eq!(schedule.poll_timeout(), Some(now + SECOND));
        assert!(!schedule.begin_if_due(now, 7) && schedule.begin_if_due(now + SECOND, 8));
        let versions = Kind::ALL.map(|kind| schedule.synced(kind));
        assert_eq!(versions.iter().flatten().collect::<Vec<_>>(), [&8]);
        assert_eq!(versions.last(), Some(&Some(8)));
        schedule.handle_link(now + SECOND * 2, Duration::ZERO);
        assert_eq!(schedule.poll_timeout(), Some(now + SECOND * 11));
    }
}
