//! Packet sockets, kernel filters and links: where the speaker meets Linux.
//!
//! The one crate with `unsafe`. It knows nothing of Kubernetes and decides nothing: [`PacketSocket`] carries
//! frames of one interface, [`filter`] keeps all but requests for owned addresses in the kernel,
//! [`LinkWatcher`] tells which interfaces there are, [`memory`] is given back, [`DirectoryWatch`] when mounted files change, and [`UdpPort`] is the
//! speakers' own channel. All of it works with `CAP_NET_RAW` alone, on one single-threaded runtime.

pub mod files;
pub mod filter;
mod groups;
pub mod links;
pub mod memory;
pub mod socket;
pub mod udp;

pub use files::DirectoryWatch;
pub use links::{Link, LinkAddress, LinkError, LinkWatcher, Snapshot};
pub use socket::{PacketSocket, SocketError};
pub use udp::UdpPort;
