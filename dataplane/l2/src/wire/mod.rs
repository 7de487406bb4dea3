//! Wire formats: ARP, neighbor discovery and the heartbeats of the speakers.

pub mod arp;
pub mod heartbeat;
pub mod mac;
pub mod ndp;
