//! BGP for a speaker that only announces: messages ([`wire`]), routes ([`table`]) and sessions ([`session`]), without
//! I/O and without clocks.
//!
//! Routes that a router sends are discarded unread: of an UPDATE only the lengths are checked.

pub mod session;
pub mod table;
pub mod wire;
