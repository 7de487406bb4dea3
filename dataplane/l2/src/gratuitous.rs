//! When to send gratuitous ARP: a schedule of bursts after each claim of an address.
//!
//! Reads claims, withdrawals and the clock; writes addresses for which a burst is due now. What a burst is,
//! is [`gratuitous`]; on which interfaces it goes out, the caller knows.
//!
//! MetalLB sends a burst at once and then every 1.1 s for 5 s. We keep that and add two early ones: the first
//! frame after a link came up, or while a switch still learns, is the one that gets lost, and a client should
//! not wait more than a second for the next. After the series an address is announced again from time to time, so that
//! switches and routers that forgot it, or were switched off, learn it; not all addresses at the same moment.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use crate::MacAddr;
use crate::wire::arp::{ArpFrame, FRAME_LEN, Operation};

/// When bursts are due after a claim.
pub const BURSTS: [Duration; 8] = [
    Duration::ZERO,
    Duration::from_millis(100),
    Duration::from_millis(500),
    Duration::from_millis(1100),
    Duration::from_millis(2200),
    Duration::from_millis(3300),
    Duration::from_millis(4400),
    Duration::from_millis(5000),
];

/// Most bursts per [`PACE`]: a node that takes over a thousand addresses at once must neither overrun its own
/// transmit queue nor the ARP rate limits of a switch. A thousand first bursts take 160 ms.
pub const BURSTS_PER_PACE: u32 = 64;

/// The window of [`BURSTS_PER_PACE`].
pub const PACE: Duration = Duration::from_millis(10);

/// One burst: a gratuitous request and a gratuitous reply, both broadcast, because some stacks update their
/// cache from the one and some from the other. The request is an announcement in the form of RFC 5227 2.3.
pub fn gratuitous(mac: MacAddr, address: Ipv4Addr) -> [[u8; FRAME_LEN]; 2] {
    let request = ArpFrame {
        dst: MacAddr::BROADCAST,
        src: mac,
        operation: Operation::Request,
        sender_mac: mac,
        sender_ip: address,
        target_mac: MacAddr::ZERO,
        target_ip: address,
    };
    let reply = ArpFrame {
        operation: Operation::Reply,
        target_mac: MacAddr::BROADCAST,
        ..request
    };
    [request.encode(), reply.encode()]
}

/// Place in the queue: by time, and among equals by arrival.
type Slot = (Instant, u64, IpAddr);

#[derive(Clone, Copy, Debug)]
struct Claim {
    since: Instant,
    sent: usize,
    /// The entry in the queue, if bursts are left.
    slot: Option<Slot>,
}

/// The schedule of all claimed addresses. After each input call [`poll_output`](Self::poll_output) until it
/// gives `None`, then sleep until [`poll_timeout`](Self::poll_timeout) and call
/// [`handle_timeout`](Self::handle_timeout).
#[derive(Clone, Debug, Default)]
pub struct GratuitousSchedule {
    claims: BTreeMap<IpAddr, Claim>,
    queue: BTreeSet<Slot>,
    arrivals: u64,
    /// Time between two bursts after the series; none for no such bursts.
    refresh: Option<Duration>,
    now: Option<Instant>,
    window: Option<Instant>,
    sent_in_window: u32,
}

impl GratuitousSchedule {
    /// A schedule without claims.
    pub fn new() -> Self {
        Self::default()
    }

    /// The same, where each claimed address is announced again after this time, more or less by a quarter.
    pub fn refreshing(refresh: Option<Duration>) -> Self {
        Self {
            refresh,
            ..Self::default()
        }
    }

    /// We became owner of `address`: a full series of bursts from now on. Claiming again starts the series
    /// afresh.
    pub fn claim(&mut self, now: Instant, address: IpAddr) {
        self.advance(now);
        if let Some(slot) = self.claims.get(&address).and_then(|claim| claim.slot) {
            self.queue.remove(&slot);
        }
        let slot = self.enqueue(now, address);
        self.claims.insert(
            address,
            Claim {
                since: now,
                sent: 0,
                slot: Some(slot),
            },
        );
    }

    /// We are no longer owner: the address is not given out again until it is claimed.
    pub fn withdraw(&mut self, address: IpAddr) {
        if let Some(Claim { slot: Some(slot), .. }) = self.claims.remove(&address) {
            self.queue.remove(&slot);
        }
    }

    /// A link came up, so nobody behind it heard us: the series of `address` starts afresh, if it is claimed.
    pub fn again(&mut self, now: Instant, address: IpAddr) {
        if self.claims.contains_key(&address) {
            self.claim(now, address);
        }
    }

    /// [`again`](Self::again) for every claimed address.
    pub fn again_all(&mut self, now: Instant) {
        for address in self.claims.keys().copied().collect::<Vec<_>>() {
            self.claim(now, address);
        }
    }

    /// Whether `address` is claimed.
    pub fn is_claimed(&self, address: IpAddr) -> bool {
        self.claims.contains_key(&address)
    }

    /// Time passed.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.advance(now);
    }

    /// The next address for which to send one burst now. Gives at most [`BURSTS_PER_PACE`] in a row.
    pub fn poll_output(&mut self) -> Option<IpAddr> {
        let now = self.now?;
        if self.sent_in_window >= BURSTS_PER_PACE {
            return None;
        }
        let slot = *self.queue.first()?;
        let (due, _, address) = slot;
        if due > now {
            return None;
        }
        self.queue.remove(&slot);
        self.sent_in_window += 1;
        let refresh = self.refresh;
        let next = self.claims.get_mut(&address).and_then(|claim| {
            claim.sent += 1;
            claim.slot = None;
            let in_series = BURSTS.get(claim.sent).map(|offset| claim.since + *offset);
            in_series.or_else(|| Some(now + jittered(refresh?, address, claim.sent)))
        });
        if let Some(due) = next {
            let slot = self.enqueue(due, address);
            if let Some(claim) = self.claims.get_mut(&address) {
                claim.slot = Some(slot);
            }
        }
        Some(address)
    }

    /// When to call [`handle_timeout`](Self::handle_timeout); `None` when no burst is left.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let (due, _, _) = *self.queue.first()?;
        match self.window {
            Some(window) if self.sent_in_window >= BURSTS_PER_PACE => Some(due.max(window + PACE)),
            _ => Some(due),
        }
    }

    fn enqueue(&mut self, due: Instant, address: IpAddr) -> Slot {
        self.arrivals += 1;
        let slot = (due, self.arrivals, address);
        self.queue.insert(slot);
        slot
    }

    fn advance(&mut self, now: Instant) {
        // A caller's clock reading may be older than one it gave before: time does not run backwards here.
        let now = self.now.map_or(now, |before| before.max(now));
        self.now = Some(now);
        if self.window.is_none_or(|window| now >= window + PACE) {
            self.window = Some(now);
            self.sent_in_window = 0;
        }
    }
}

/// More or less by a quarter: differently for each address and each time, and the same in each run.
fn jittered(time: Duration, address: IpAddr, count: usize) -> Duration {
    let low = match address {
        IpAddr::V4(v4) => v4.to_bits(),
        IpAddr::V6(v6) => v6.to_bits() as u32,
    };
    let mixed = low.wrapping_add(count as u32).wrapping_mul(0x9e37_79b9);
    time * 3 / 4 + time / 2 * ((mixed ^ (mixed >> 15)) & 0xffff) / 0x1_0000
}
