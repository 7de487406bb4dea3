//! Bidirectional Forwarding Detection (RFC 5880) towards a router: packets ([`wire`]) and sessions ([`session`]), without
//! I/O and without clocks.
//!
//! Asynchronous mode, without echo and without authentication.

pub mod session;
pub mod wire;
