//! Wire formats, responders, announcement schedule, owner election, membership, heartbeats and ownership, without I/O.
//!
//! Everything here is a pure function or a sans-IO machine: time is an argument, outputs are returned, and
//! the same inputs give the same outputs. So a whole LAN of speakers runs in one test under a virtual clock
//! (`tests/coordinator.rs`). Sockets and kernel filters are in `lb-net`; what is announced, and where, is decided in
//! `lb-speaker`. The whole of a speaker's ownership is [`coordinator::Coordinator`].

pub mod arp_responder;
pub mod gratuitous;
pub mod ndp_responder;
pub mod ownership;
pub mod wire;

pub use wire::mac::MacAddr;
