//! When to send gratuitous ARP and unsolicited neighbor advertisements: a series after an address is acquired, then
//! periodic refreshes.
//!
//! MetalLB announces at once and then every 1.1 s for 5 s. This schedule keeps those times and adds two early ones: the
//! first frame after a link came up, or while a switch still learns, is the one most likely lost, and a client should
//! wait less than a second for the next. Afterwards each address is announced again at a jittered interval, so
//! that switches and routers that lost their entry learn it.
//!
//! The caller knows which frames an announcement consists of, and on which interfaces to send them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::{Duration, Instant};

/// The times of the announcements in a series, counted from its start.
pub const SERIES_OFFSETS: [Duration; 8] = [
    Duration::ZERO,
    Duration::from_millis(100),
    Duration::from_millis(500),
    Duration::from_millis(1100),
    Duration::from_millis(2200),
    Duration::from_millis(3300),
    Duration::from_millis(4400),
    Duration::from_millis(5000),
];

/// Maximum announcements per [`RATE_WINDOW`]: a node that acquires a thousand addresses at once must not overrun its
/// transmit queue or the ARP rate limit of a switch. A thousand first announcements take 160 ms.
pub const MAX_PER_RATE_WINDOW: u32 = 64;

/// The period that [`MAX_PER_RATE_WINDOW`] counts over.
pub const RATE_WINDOW: Duration = Duration::from_millis(10);

/// Position in the queue: by due time, then by insertion order.
type QueueKey = (Instant, u64, IpAddr);

#[derive(Clone, Copy, Debug)]
struct Series {
    start: Instant,
    sent: usize,
    /// The entry in the queue; `None` after the last announcement.
    queued: Option<QueueKey>,
}

/// The announcement times of all announced addresses. After each input, call [`poll_transmit`](Self::poll_transmit)
/// until it returns `None`, sleep until [`poll_timeout`](Self::poll_timeout), and call
/// [`handle_timeout`](Self::handle_timeout).
#[derive(Clone, Debug, Default)]
pub struct GratuitousSchedule {
    series: BTreeMap<IpAddr, Series>,
    queue: BTreeSet<QueueKey>,
    insertions: u64,
    refresh_interval: Option<Duration>,
    now: Option<Instant>,
    window_start: Option<Instant>,
    sent_in_window: u32,
}

impl GratuitousSchedule {
    /// Creates a schedule without addresses. After its series an address is announced every `refresh_interval` ± 25 %,
    /// or not at all if that is `None`.
    #[must_use]
    pub fn new(refresh_interval: Option<Duration>) -> Self {
        Self {
            refresh_interval,
            ..Self::default()
        }
    }

    /// Starts the series of `address`, or restarts it.
    pub fn announce(&mut self, now: Instant, address: IpAddr) {
        self.advance(now);
        let previous = self.series.get(&address).and_then(|series| series.queued);
        if let Some(key) = previous {
            self.queue.remove(&key);
        }
        let queued = Some(self.enqueue(now, address));
        let series = Series {
            start: now,
            sent: 0,
            queued,
        };
        self.series.insert(address, series);
    }

    /// Drops `address` from the schedule.
    pub fn withdraw(&mut self, address: IpAddr) {
        if let Some(key) = self.series.remove(&address).and_then(|series| series.queued) {
            self.queue.remove(&key);
        }
    }

    /// Restarts the series of `address` if it is announced: a link came up, and no host behind it has received the
    /// announcements so far.
    pub fn restart(&mut self, now: Instant, address: IpAddr) {
        if self.series.contains_key(&address) {
            self.announce(now, address);
        }
    }

    /// Advances the clock.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.advance(now);
    }

    /// The next address to announce once now. Returns at most [`MAX_PER_RATE_WINDOW`] in a row.
    pub fn poll_transmit(&mut self) -> Option<IpAddr> {
        let now = self.now?;
        if self.sent_in_window >= MAX_PER_RATE_WINDOW {
            return None;
        }
        let key = *self.queue.first()?;
        let (due, _, address) = key;
        if due > now {
            return None;
        }
        self.queue.remove(&key);
        self.sent_in_window += 1;
        let refresh_interval = self.refresh_interval;
        let next = self.series.get_mut(&address).and_then(|series| {
            series.sent += 1;
            series.queued = None;
            let in_series = SERIES_OFFSETS
                .get(series.sent)
                .map(|offset| series.start + *offset);
            in_series.or_else(|| Some(now + jittered(refresh_interval?, address, series.sent)))
        });
        if let Some(due) = next {
            let key = self.enqueue(due, address);
            if let Some(series) = self.series.get_mut(&address) {
                series.queued = Some(key);
            }
        }
        Some(address)
    }

    /// When to call [`handle_timeout`](Self::handle_timeout); `None` while nothing is queued.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        let (due, _, _) = *self.queue.first()?;
        match self.window_start {
            Some(start) if self.sent_in_window >= MAX_PER_RATE_WINDOW => Some(due.max(start + RATE_WINDOW)),
            _ => Some(due),
        }
    }

    fn enqueue(&mut self, due: Instant, address: IpAddr) -> QueueKey {
        self.insertions += 1;
        let key = (due, self.insertions, address);
        self.queue.insert(key);
        key
    }

    fn advance(&mut self, now: Instant) {
        // A caller may pass an older clock reading than before; time never runs backwards here.
        let now = self.now.map_or(now, |before| before.max(now));
        self.now = Some(now);
        if self.window_start.is_none_or(|start| now >= start + RATE_WINDOW) {
            self.window_start = Some(now);
            self.sent_in_window = 0;
        }
    }
}

/// `time` ± 25 %, derived from the address and the count: spread over addresses and repeats, but deterministic.
fn jittered(time: Duration, address: IpAddr, count: usize) -> Duration {
    let low = match address {
        IpAddr::V4(v4) => v4.to_bits(),
        IpAddr::V6(v6) => v6.to_bits() as u32,
    };
    let mixed = low.wrapping_add(count as u32).wrapping_mul(0x9e37_79b9);
    time * 3 / 4 + time / 2 * ((mixed ^ (mixed >> 15)) & 0xffff) / 0x1_0000
}
