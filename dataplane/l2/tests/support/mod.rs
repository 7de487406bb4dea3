//! Shared by the tests of time-driven state machines.

use std::time::Instant;

/// The start of a virtual clock. An `Instant` cannot be constructed, so tests read the clock once and add to it.
#[allow(
    clippy::disallowed_methods,
    reason = "the value does not matter, only differences to it do"
)]
pub(crate) fn epoch() -> Instant {
    Instant::now()
}
