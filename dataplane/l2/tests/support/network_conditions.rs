//! Loss, delay and clock drift of a simulated network, and its random numbers.

use std::time::Duration;

pub(crate) fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// xorshift64*.
pub(crate) struct Rng(u64);

impl Rng {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(crate) fn below(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % sides.max(1)
    }
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct NetworkConditions {
    /// Lost and duplicated datagrams, per thousand.
    pub(crate) loss: u64,
    pub(crate) duplicated: u64,
    /// Upper bound of the delay in microseconds; each datagram has its own.
    pub(crate) delay: u64,
    /// Upper bound of the clock drift of a node, per thousand.
    pub(crate) drift: u64,
}

pub(crate) const LOSSLESS: NetworkConditions = NetworkConditions {
    loss: 0,
    duplicated: 0,
    delay: 300,
    drift: 0,
};
