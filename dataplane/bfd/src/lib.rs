//! Bidirectional Forwarding Detection (RFC 5880) towards a router: packets ([`wire`]), a session
//! ([`session`]) and all sessions of a node ([`sessions`]), without I/O and without clocks.
//!
//! Asynchronous mode, without echo and without authentication.

pub mod session;
pub mod sessions;
pub mod wire;
