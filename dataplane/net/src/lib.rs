//! Packet sockets, kernel filters and links: where the speaker meets Linux.
//!
//! The one crate with `unsafe`. It knows nothing of Kubernetes and decides nothing: [`PacketSocket`] carries
//! frames of one interface, [`filter`] keeps all but requests for owned addresses in the kernel,
//! [`LinkWatcher`] tells which interfaces there are, [`DirectoryWatch`] when mounted files change, [`UdpPort`] is the
//! speakers' own channel, [`Alarm`] wakes them, and [`memory`] gives back what they need no more. All of it works with
//! `CAP_NET_RAW` alone, on one single-threaded runtime; frames are waited for without it, because that takes less time.

pub mod alarm;
pub mod files;
pub mod filter;
mod groups;
pub mod links;
pub mod memory;
pub mod socket;
pub mod udp;

pub use alarm::Alarm;
pub use files::DirectoryWatch;
pub use links::{Link, LinkAddress, LinkError, LinkWatcher, Snapshot};
pub use socket::{PacketSocket, SocketError};
pub use udp::UdpPort;
