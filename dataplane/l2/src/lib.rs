//! Layer 2 announcement without I/O: wire formats, ARP and NDP responders, the gratuitous ARP schedule, owner election,
//! failure detection and ownership.
//!
//! Everything here is a pure function or a sans-I/O state machine: time is an argument, outputs are return values, and
//! equal inputs give equal outputs. A whole LAN of speakers therefore runs in one test under a virtual clock
//! (`tests/ownership.rs`). Sockets and kernel filters are in `lb-net`; `lb-speaker` decides which addresses are
//! announced on which interfaces. [`ownership::Coordinator`] decides which node announces an address.

pub mod arp_responder;
pub mod gratuitous;
pub mod ndp_responder;
pub mod ownership;
pub mod responder;
pub mod wire;

pub use arp_responder::{Arp, ArpResponder};
pub use ndp_responder::{Ndp, NdpResponder};
pub use wire::mac::MacAddr;
