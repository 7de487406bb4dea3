//! Peers whose heartbeats do not arrive although their speakers are ready, as behind a firewall. Pure: time is an argument.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

/// Time between two samples.
const SAMPLE_INTERVAL: Duration = Duration::from_secs(10);
/// How long a peer is unheard before it is reported. Kubernetes takes 50 seconds to see that a node failed; until then its
/// speaker counts as ready.
pub(crate) const UNHEARD_REPORT_DELAY: Duration = Duration::from_secs(90);

/// The unheard peers, and since when each is.
#[derive(Debug, Default)]
pub(crate) struct UnheardPeers {
    started: Option<Instant>,
    sampled: Option<Instant>,
    since: BTreeMap<String, Instant>,
    /// Nothing is known before the first report: a predecessor on this node may have reported peers.
    reported: Option<BTreeSet<String>>,
}

impl UnheardPeers {
    /// The time of the next sample; `None` before the first, which may be taken at any time.
    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        Some(self.sampled? + SAMPLE_INTERVAL)
    }

    /// Whether a sample is due.
    pub(crate) fn is_due(&self, now: Instant) -> bool {
        self.poll_timeout().is_none_or(|at| at <= now)
    }

    /// Takes the peers that are unheard now. Returns those to report if they differ from the last report.
    pub(crate) fn sample<'a>(
        &mut self,
        now: Instant,
        unheard: impl IntoIterator<Item = &'a str>,
    ) -> Option<&BTreeSet<String>> {
        self.sampled = Some(now);
        let mut before = std::mem::take(&mut self.since);
        for node in unheard {
            let (node, since) = before.remove_entry(node).unwrap_or((node.to_owned(), now));
            self.since.insert(node, since);
        }
        if now < *self.started.get_or_insert(now) + UNHEARD_REPORT_DELAY {
            return None;
        }
        let due = |since: &Instant| *since + UNHEARD_REPORT_DELAY <= now;
        let due = self.since.iter().filter(|(_, since)| due(since));
        let due = due.map(|(node, _)| node.clone()).collect();
        if self.reported.as_ref() == Some(&due) {
            return None;
        }
        self.reported = Some(due);
        self.reported.as_ref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// Samples for this number of seconds; returns the reports.
    fn sampled(
        peers: &mut UnheardPeers,
        now: &mut Instant,
        seconds: u32,
        unheard: &[&str],
    ) -> Vec<Vec<String>> {
        let mut reports = Vec::new();
        let end = *now + SECOND * seconds;
        while *now < end {
            if peers.is_due(*now)
                && let Some(report) = peers.sample(*now, unheard.iter().copied())
            {
                reports.push(report.iter().cloned().collect());
            }
            *now += SECOND;
        }
        reports
    }

    #[test]
    fn reports_peer_after_delay_and_its_return() {
        let (mut peers, mut now) = (UnheardPeers::default(), Instant::now());
        assert_eq!(
            sampled(&mut peers, &mut now, 89, &["n3"]),
            Vec::<Vec<String>>::new()
        );
        assert_eq!(sampled(&mut peers, &mut now, 300, &["n3"]), [["n3"]]);
        assert_eq!(sampled(&mut peers, &mut now, 300, &[]), [Vec::<String>::new()]);
    }

    #[test]
    fn short_silence_is_not_reported() {
        let (mut peers, mut now) = (UnheardPeers::default(), Instant::now());
        // The report of a predecessor is replaced.
        assert_eq!(sampled(&mut peers, &mut now, 100, &[]), [Vec::<String>::new()]);
        for _ in 0..10 {
            assert!(sampled(&mut peers, &mut now, 80, &["n3"]).is_empty());
            assert!(sampled(&mut peers, &mut now, 10, &[]).is_empty());
        }
    }
}
