//! The Linux network interfaces of the speaker: packet sockets, kernel filters, netlink.
//!
//! | module | content |
//! | --- | --- |
//! | [`packet_socket`] | sends and receives ARP and NDP frames on one interface |
//! | [`bpf_filter`] | drops frames about other addresses in the kernel |
//! | [`links`] | the host's interfaces and their changes |
//! | [`udp`] | the transport of heartbeats |
//! | [`tcp`] | connections to BGP routers |
//! | [`bfd`] | sockets of BFD sessions with routers |
//! | [`timerfd`] | the speaker's timer |
//! | [`inotify`] | notices changes of mounted Secrets |
//!
//! The crate does not depend on Kubernetes and makes no decisions. It needs `CAP_NET_RAW` only. Everything except
//! [`PacketSocket::wait_readable`] and [`bfd::wait`], which block their threads, runs on a single-threaded tokio runtime.

pub mod bfd;
pub mod bpf_filter;
pub mod inotify;
pub mod links;
mod multicast;
pub mod packet_socket;
pub mod tcp;
pub mod timerfd;
pub mod udp;

pub use inotify::DirectoryWatch;
pub use links::{Link, LinkAddress, LinkError, LinkWatcher, Snapshot};
pub use packet_socket::{PacketSocket, SocketError};
pub use timerfd::TimerFd;
pub use udp::UdpPort;

use std::io;
use std::os::fd::OwnedFd;

use tokio::net::unix::pipe::Receiver;

/// Registers a non-blocking descriptor with the runtime for reading only. Tokio has no safe type for this but its pipe
/// receiver, which accepts any descriptor that epoll supports.
///
/// # Errors
/// If the runtime cannot register the descriptor.
fn register_readable(descriptor: impl Into<OwnedFd>) -> io::Result<Receiver> {
    Receiver::from_owned_fd_unchecked(descriptor.into())
}
