//! When heartbeats and queries are sent, within their rates.

use std::time::{Duration, Instant};

use super::peer::{Peer, PeerPhase};
use super::{FailureDetector, NodeId, PERIOD_RANGE};

/// Minimum time between two responses to datagrams that may be replays.
const MIN_UNVERIFIED_REPLY_INTERVAL: Duration = Duration::from_millis(10);
/// Upper bound of the peers that a heartbeat is requested from at a time: if more are late, the cause is on our side.
const MAX_REQUESTED_PEERS: usize = 16;
/// With many peers in doubt, these times grow to this for each of them: lasting doubts cause at most 50 queries per
/// second.
const QUERY_GAP_PER_DOUBT: Duration = Duration::from_millis(20);
/// A peer that is down gets heartbeats this many times less often, to notice when the network heals.
const DOWN_PERIOD_FACTOR: u32 = 4;

impl FailureDetector {
    /// The peers to send a heartbeat to now; the next one is due after [`period`](Self::period).
    pub fn take_due_heartbeats(&mut self) -> Vec<NodeId> {
        let (now, period) = (self.now, self.period());
        let mut due = Vec::new();
        let is_due = |peer: &Peer, by: Instant| peer.is_heartbeat_target(now) && peer.send_at <= by;
        if !self.peers.values().any(|peer| is_due(peer, now)) {
            self.update_deadline();
            return due;
        }
        // Heartbeats that are due soon are sent now, so that one wake-up serves all peers.
        let ahead = self.send_early_by();
        let mut asked = 0;
        for (id, peer) in &mut self.peers {
            if is_due(peer, now + ahead) {
                // Counted from now: after a stall, one heartbeat is sent and not all that were missed.
                peer.send_at = now
                    + if let Some(again) = peer
                        .request_again_within(&self.config)
                        .filter(|_| asked < MAX_REQUESTED_PEERS)
                    {
                        asked += 1;
                        again
                    } else if peer.phase == PeerPhase::Down {
                        period * DOWN_PERIOD_FACTOR
                    } else {
                        period
                    };
                due.push(*id);
            }
        }
        self.update_deadline();
        due
    }

    /// How long before it is due a heartbeat may be sent. This can double the rate, so it is zero if half of the
    /// maximum rate is exceeded.
    pub(super) fn send_early_by(&self) -> Duration {
        let period = self.config.heartbeat_period();
        if self.rate_limited_period() * 2 <= period {
            period / 2
        } else {
            Duration::ZERO
        }
    }

    /// Whether our heartbeat requests an immediate reply: its own heartbeat is late, or we do not hear it.
    #[must_use]
    pub fn requests_reply(&self, id: NodeId) -> bool {
        self.peers.get(&id).is_some_and(Peer::is_requested)
    }

    /// Schedules a heartbeat to a peer whose datagram could not be verified as fresh.
    pub fn respond_unverified(&mut self, now: Instant, id: NodeId) {
        self.advance_clock(now);
        let now = self.now;
        let peer = self.peer(id);
        if peer
            .unverified_reply_at
            .is_none_or(|at| at + MIN_UNVERIFIED_REPLY_INTERVAL <= now)
        {
            peer.unverified_reply_at = Some(now);
            peer.send_at = now;
        }
        self.update_deadline();
    }

    /// Makes a heartbeat to the peer due at once.
    pub fn schedule_heartbeat_now(&mut self, id: NodeId) {
        if let Some(peer) = self.peers.get_mut(&id) {
            peer.send_at = self.now;
        }
    }

    /// The peers to query now: those that have not been asked yet in this doubt first.
    pub fn take_due_queries(&mut self) -> Vec<NodeId> {
        let (now, min_gap) = (self.now, self.query_gap_for_all());
        let is_due = |peer: &Peer| peer.query_due().is_some_and(|due| due <= now);
        let due = self.peers.iter().filter(|(_, peer)| is_due(peer));
        let mut due: Vec<_> = due.map(|(id, peer)| (peer.inquiry.first_asked(), *id)).collect();
        due.sort_unstable();
        let mut queried = Vec::new();
        for (_, id) in due {
            let Some(peer) = self.peers.get_mut(&id) else {
                continue;
            };
            // The first question is never postponed: a majority counts on the minority to notice its isolation in time.
            if let Err(next_window) = self.query_budget.take(now)
                && peer.inquiry.first_asked().is_some()
            {
                peer.inquiry.postpone(next_window);
                continue;
            }
            let gaps = peer.query_gaps(&self.config, min_gap);
            peer.inquiry.asked(now, peer.timeout(&self.config), gaps);
            queried.push(id);
        }
        self.update_deadline();
        queried
    }

    /// The time between two queries of a peer at which all peers in doubt together stay within their rate.
    pub(super) fn query_gap_for_all(&self) -> Duration {
        let in_doubt = self.peers.values().filter(|peer| peer.query_due().is_some());
        QUERY_GAP_PER_DOUBT.saturating_mul(u32::try_from(in_doubt.count()).unwrap_or(u32::MAX))
    }

    /// The peers that get heartbeats.
    pub fn heartbeat_targets(&self) -> impl Iterator<Item = NodeId> {
        let now = self.now;
        let spoken_to = self
            .peers
            .iter()
            .filter(move |(_, peer)| peer.is_heartbeat_target(now));
        spoken_to.map(|(id, _)| *id)
    }

    /// The time between two heartbeats to a peer.
    #[must_use]
    pub fn period(&self) -> Duration {
        self.config
            .heartbeat_period()
            .max(self.rate_limited_period())
            .min(*PERIOD_RANGE.end())
    }

    /// The shortest period that the maximum rate allows.
    fn rate_limited_period(&self) -> Duration {
        let peers = u32::try_from(self.heartbeat_targets().count()).unwrap_or(u32::MAX);
        Duration::from_secs(1) * peers / self.config.max_rate.max(1)
    }

    /// The longest heartbeat period, of ours or of any monitored peer.
    #[must_use]
    pub fn longest_period(&self) -> Duration {
        let monitored = self.peers.values().filter(|peer| peer.monitored);
        monitored
            .map(|peer| peer.period)
            .fold(self.period(), Duration::max)
    }
}
