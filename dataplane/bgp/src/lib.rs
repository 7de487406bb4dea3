//! BGP for a speaker that only announces: messages ([`wire`]), without I/O and without clocks.
//!
//! Routes that a router sends are discarded unread: of an UPDATE only the lengths are checked.

pub mod wire;
