//! What the tests of time-driven machines share.

use std::time::Instant;

/// The start of a virtual clock. An `Instant` cannot be made from nothing, so tests take one reading and only
/// add to it.
#[allow(
    clippy::disallowed_methods,
    reason = "the value does not matter, only differences to it do"
)]
pub(crate) fn epoch() -> Instant {
    Instant::now()
}
