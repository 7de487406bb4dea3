//! Who has addresses by the thousand: asked for one after the other, at a pace that is no burden.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::bail;
use lb_l2::MacAddr;

use super::arp::{BEAT, Wire};
use super::{Probe, Shared};
use lb_lab::Lab;

/// At most so many questions in a millisecond.
const PACE: usize = 10;
/// An address is not asked for again before this.
const AGAIN: Duration = Duration::from_millis(50);

/// Who answers for each address, of all that do.
pub type Owners = BTreeMap<Ipv4Addr, BTreeSet<MacAddr>>;

/// What a sweep for new owners has seen.
#[derive(Clone, Debug, Default)]
pub struct Moved {
    /// When the old owner last answered for any of them.
    pub last_of_old: Option<Instant>,
    /// When another first answered for each.
    pub answered: BTreeMap<Ipv4Addr, Instant>,
}

impl Moved {
    /// How long it was from the old owner's last answer until the last of these addresses was answered for by another.
    #[must_use]
    pub fn took(&self) -> Option<Duration> {
        Some(
            self.answered
                .values()
                .max()?
                .saturating_duration_since(self.last_of_old?),
        )
    }
}

/// Asks for each address three times and returns who answered.
///
/// # Errors
/// When it cannot ask.
pub fn owners(lab: &Lab, addresses: &[Ipv4Addr]) -> anyhow::Result<Owners> {
    let all = addresses.to_vec();
    let probe = Probe::start(lab, move |shared: &Arc<Shared<(bool, Owners)>>| {
        sweep(
            shared,
            |wire| {
                for _ in 0..3 {
                    for some in all.chunks(PACE) {
                        for address in some {
                            wire.ask(*address)?;
                        }
                        std::thread::sleep(BEAT);
                    }
                }
                // The last answers come after the last question.
                std::thread::sleep(AGAIN);
                shared.seen().0 = true;
                Ok(())
            },
            |of, from| {
                shared.seen().1.entry(of).or_default().insert(from);
            },
        )
    })?;
    while !probe.look(|(done, _)| *done) && !probe.has_ended() {
        std::thread::sleep(BEAT);
    }
    Ok(probe.end()?.1)
}

/// Asks for addresses again and again, each until another than its old owner has answered for it.
///
/// # Errors
/// When the client's network is not there.
pub fn moves(lab: &Lab, addresses: Vec<Ipv4Addr>, old: MacAddr) -> anyhow::Result<Probe<Moved>> {
    Probe::start(lab, move |shared: &Arc<Shared<Moved>>| {
        sweep(
            shared,
            |wire| {
                let mut asked: BTreeMap<Ipv4Addr, Instant> = BTreeMap::new();
                let mut turns = addresses.iter().cycle();
                while !shared.is_over() {
                    let waits = |address: &&Ipv4Addr| {
                        !shared.seen().answered.contains_key(*address)
                            && asked.get(*address).is_none_or(|when| when.elapsed() >= AGAIN)
                    };
                    // Once around at most, where few are left.
                    let due: Vec<_> = turns
                        .by_ref()
                        .take(addresses.len())
                        .filter(waits)
                        .take(PACE)
                        .copied()
                        .collect();
                    for address in due {
                        wire.ask(address)?;
                        asked.insert(address, Instant::now());
                    }
                    std::thread::sleep(BEAT);
                }
                Ok(())
            },
            |of, from| {
                let now = Instant::now();
                let mut seen = shared.seen();
                if from == old {
                    seen.last_of_old = Some(now);
                } else {
                    seen.answered.entry(of).or_insert(now);
                }
            },
        )
    })
}

/// Asks and listens at once, until it is over.
fn sweep<T: Send>(
    shared: &Shared<T>,
    ask: impl FnOnce(&Wire) -> anyhow::Result<()>,
    mut hear: impl FnMut(Ipv4Addr, MacAddr) + Send,
) -> anyhow::Result<()> {
    let wire = Wire::open()?;
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            while !shared.is_over() {
                if let Some((of, from)) = wire.answer()? {
                    hear(of, from);
                }
            }
            anyhow::Ok(())
        });
        let asked = ask(&wire);
        if asked.is_err() {
            shared.over.store(true, Ordering::Relaxed);
        }
        match reader.join() {
            Ok(heard) => asked.and(heard),
            Err(_) => bail!("a sweep's reader panicked"),
        }
    })
}
