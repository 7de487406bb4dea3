//! ARP requests for thousands of addresses, one after the other, at a low rate.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::bail;
use lb_l2::MacAddr;

use super::arp::{ArpSocket, SEND_INTERVAL};
use super::{Probe, Shared};
use lb_lab::Lab;

/// Maximum number of requests in a millisecond.
const MAX_REQUESTS_PER_INTERVAL: usize = 10;
/// Minimum time between two requests for the same address.
const RETRY_INTERVAL: Duration = Duration::from_millis(50);

/// The hosts that answer for each address, without addresses that nobody answers for.
pub type Owners = BTreeMap<Ipv4Addr, BTreeSet<MacAddr>>;

/// Observations while addresses move.
#[derive(Clone, Debug, Default)]
pub struct Moves {
    /// Time of the old owner's last answer for any of them.
    pub last_of_old: Option<Instant>,
    /// Time of another host's first answer for each.
    pub answered: BTreeMap<Ipv4Addr, Instant>,
}

impl Moves {
    /// Time from the old owner's last answer to the moment when the last of the addresses had a new owner.
    #[must_use]
    pub fn duration(&self) -> Option<Duration> {
        Some(
            self.answered
                .values()
                .max()?
                .saturating_duration_since(self.last_of_old?),
        )
    }
}

/// Sends three requests for each address and returns the hosts that answered.
///
/// # Errors
/// When a request cannot be sent.
pub fn owners(lab: &Lab, addresses: &[Ipv4Addr]) -> anyhow::Result<Owners> {
    let all = addresses.to_vec();
    let probe = Probe::start(lab, move |shared: &Arc<Shared<(bool, Owners)>>| {
        sweep(
            shared,
            |socket| {
                for _ in 0..3 {
                    for some in all.chunks(MAX_REQUESTS_PER_INTERVAL) {
                        for address in some {
                            socket.send_request(*address)?;
                        }
                        std::thread::sleep(SEND_INTERVAL);
                    }
                }
                // Time for the last answers.
                std::thread::sleep(RETRY_INTERVAL);
                shared.observed().0 = true;
                Ok(())
            },
            |of, from| {
                shared.observed().1.entry(of).or_default().insert(from);
            },
        )
    })?;
    while !probe.inspect(|(done, _)| *done) && !probe.has_ended() {
        std::thread::sleep(SEND_INTERVAL);
    }
    Ok(probe.end()?.1)
}

/// Sends requests for addresses, each until another host than `old` has answered.
///
/// # Errors
/// When the client's network namespace does not exist.
pub fn moves(lab: &Lab, addresses: Vec<Ipv4Addr>, old: MacAddr) -> anyhow::Result<Probe<Moves>> {
    Probe::start(lab, move |shared: &Arc<Shared<Moves>>| {
        sweep(
            shared,
            |socket| {
                let mut asked: BTreeMap<Ipv4Addr, Instant> = BTreeMap::new();
                let mut turns = addresses.iter().cycle();
                while !shared.is_over() {
                    let waits = |address: &&Ipv4Addr| {
                        !shared.observed().answered.contains_key(*address)
                            && asked
                                .get(*address)
                                .is_none_or(|when| when.elapsed() >= RETRY_INTERVAL)
                    };
                    // At most one round, where few are left.
                    let due: Vec<_> = turns
                        .by_ref()
                        .take(addresses.len())
                        .filter(waits)
                        .take(MAX_REQUESTS_PER_INTERVAL)
                        .copied()
                        .collect();
                    for address in due {
                        socket.send_request(address)?;
                        asked.insert(address, Instant::now());
                    }
                    std::thread::sleep(SEND_INTERVAL);
                }
                Ok(())
            },
            |of, from| {
                let now = Instant::now();
                let mut observed = shared.observed();
                if from == old {
                    observed.last_of_old = Some(now);
                } else {
                    observed.answered.entry(of).or_insert(now);
                }
            },
        )
    })
}

/// Sends and receives at the same time, until the probe is ended.
fn sweep<T: Send>(
    shared: &Shared<T>,
    ask: impl FnOnce(&ArpSocket) -> anyhow::Result<()>,
    mut hear: impl FnMut(Ipv4Addr, MacAddr) + Send,
) -> anyhow::Result<()> {
    let socket = ArpSocket::open()?;
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            while !shared.is_over() {
                if let Some((of, from)) = socket.receive_reply()? {
                    hear(of, from);
                }
            }
            anyhow::Ok(())
        });
        let asked = ask(&socket);
        if asked.is_err() {
            shared.over.store(true, Ordering::Relaxed);
        }
        match reader.join() {
            Ok(heard) => asked.and(heard),
            Err(_) => bail!("a sweep's reader panicked"),
        }
    })
}
