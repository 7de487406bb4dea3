//! Wire formats: ARP, Neighbor Discovery, and the speakers' heartbeat protocol.

pub mod arp;
pub mod heartbeat;
pub mod mac;
pub mod ndp;
