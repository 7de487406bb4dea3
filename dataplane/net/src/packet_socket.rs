//! A packet socket (packet(7)) for ARP or Neighbor Discovery on one interface.
//!
//! It receives the frames that pass the [`bpf_filter`](crate::bpf_filter) and sends complete frames. The socket is
//! created without a protocol, so that it receives nothing, then gets its filter, and only then is bound to protocol
//! and interface: no frame that the filter drops is ever queued.

use std::collections::BTreeSet;
use std::io::{self, PipeReader, Read, Write};
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Mutex, PoisonError};

use lb_l2::wire::ndp::solicited_node;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use socket2::{Domain, SockAddr, SockAddrStorage, SockFilter, Socket, Type};

use crate::bpf_filter::{self, MAX_INSTRUCTIONS, MIN_INSTRUCTIONS, Program, Protocol};
use crate::multicast::GroupMemberships;

/// Size of the receive buffer in bytes, before the kernel doubles it for its bookkeeping: some hundred frames. With a
/// larger one, replies would come after the requester has repeated its request.
const RECEIVE_BUFFER_LEN: usize = 128 * 1024;

/// Size of a buffer for [`PacketSocket::recv`] that holds any frame that a filter passes, in bytes.
pub const FRAME_BUFFER_LEN: usize = Protocol::Ndp.snap_len();

/// An error of a packet socket.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// The process lacks `CAP_NET_RAW`.
    #[error("no permission for packet sockets: grant the capability NET_RAW")]
    NotPermitted(#[source] io::Error),
    /// The interface is down (ENETDOWN); the socket works again when it is up. A deleted interface goes down first, and
    /// receiving reports nothing else: only the [`LinkWatcher`](crate::LinkWatcher) reports the deletion.
    #[error("the interface is down")]
    InterfaceDown(#[source] io::Error),
    /// The interface does not exist (ENODEV, ENXIO); reported by opening and sending. A new interface of the same name
    /// needs a new socket.
    #[error("the interface is gone")]
    InterfaceGone(#[source] io::Error),
    /// The transmit queue is full; the frame was dropped.
    #[error("the transmit queue is full")]
    Busy(#[source] io::Error),
    /// Another error.
    #[error("cannot {action}")]
    Failed {
        /// The failed operation.
        action: &'static str,
        /// The kernel's error.
        #[source]
        source: io::Error,
    },
}

impl SocketError {
    fn new(action: &'static str, error: io::Error) -> Self {
        match error.raw_os_error() {
            Some(libc::EPERM | libc::EACCES) => Self::NotPermitted(error),
            Some(libc::ENETDOWN) => Self::InterfaceDown(error),
            Some(libc::ENODEV | libc::ENXIO) => Self::InterfaceGone(error),
            Some(libc::EAGAIN | libc::ENOBUFS) => Self::Busy(error),
            _ => Self::Failed {
                action,
                source: error,
            },
        }
    }
}

/// How closely the attached filter matches the requested addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fit {
    /// Only frames about these addresses pass.
    Exact,
    /// There are more separate addresses than the kernel accepts; frames about some other addresses pass too.
    Coarse {
        /// The length of the accepted program.
        instructions: usize,
    },
}

/// A non-blocking packet socket for one protocol on one interface. Initially its filter drops everything.
#[derive(Debug)]
pub struct PacketSocket {
    socket: Socket,
    protocol: Protocol,
    groups: Mutex<GroupMemberships>,
}

impl PacketSocket {
    /// Opens a socket for ARP on the interface with this index.
    ///
    /// # Errors
    /// If the process lacks `CAP_NET_RAW` or the interface does not exist.
    pub fn arp(interface: u32) -> Result<Self, SocketError> {
        Self::open(interface, Protocol::Arp)
    }

    /// Opens a socket for Neighbor Discovery on the interface with this index. The interface needs no address.
    ///
    /// # Errors
    /// If the process lacks `CAP_NET_RAW` or the interface does not exist.
    pub fn ndp(interface: u32) -> Result<Self, SocketError> {
        Self::open(interface, Protocol::Ndp)
    }

    fn open(interface: u32, protocol: Protocol) -> Result<Self, SocketError> {
        let fail = |action| move |error| SocketError::new(action, error);
        let socket = Socket::new(Domain::PACKET, Type::RAW.cloexec().nonblocking(), None)
            .map_err(fail("open a packet socket"))?;
        socket
            .set_recv_buffer_size(RECEIVE_BUFFER_LEN)
            .map_err(fail("set the receive buffer"))?;
        let none: [&Ipv4Addr; 0] = [];
        attach(&socket, &bpf_filter::build(protocol, none, MAX_INSTRUCTIONS))
            .map_err(fail("attach the packet filter"))?;
        socket
            .bind(&link_address(interface, protocol))
            .map_err(fail("bind to the interface"))?;
        Ok(Self {
            socket,
            protocol,
            groups: Mutex::new(GroupMemberships::new(interface)),
        })
    }

    /// Replaces the filter so that frames about `addresses` and `watched` pass. Joins the multicast groups of
    /// `addresses`, to which requests for them are sent. The kernel swaps filters atomically: no frame about an address
    /// in both sets is lost. Frames that are already queued stay queued.
    ///
    /// # Errors
    /// If the kernel rejects the filter or a group. The filter is in place in the latter case.
    pub fn set_addresses<'a, A>(
        &self,
        addresses: impl IntoIterator<Item = &'a A>,
        watched: impl IntoIterator<Item = &'a A>,
    ) -> Result<Fit, SocketError>
    where
        A: Copy + Into<IpAddr> + 'a,
    {
        let mut addresses: Vec<&A> = addresses.into_iter().collect();
        let owned = addresses.len();
        addresses.extend(watched);
        let fit = self.attach_filter(&addresses)?;
        addresses.truncate(owned);
        // Last, so that a failure does not affect unicast requests.
        self.join_groups(addresses.iter().map(|address| (**address).into()))?;
        Ok(fit)
    }

    fn attach_filter<A: Copy + Into<IpAddr>>(&self, addresses: &[&A]) -> Result<Fit, SocketError> {
        let mut limit = MAX_INSTRUCTIONS;
        loop {
            let program = bpf_filter::build(self.protocol, addresses.iter().copied(), limit);
            let instructions = program.instructions().len();
            match attach(&self.socket, &program) {
                Ok(()) if program.is_exact() => return Ok(Fit::Exact),
                Ok(()) => return Ok(Fit::Coarse { instructions }),
                // Filters count against net.core.optmem_max, including the old one until it is replaced. The default
                // before Linux 6.8, 20 KiB, holds some hundred addresses. A coarser filter is better than an outdated
                // one.
                Err(error)
                    if error.raw_os_error() == Some(libc::ENOMEM) && instructions > MIN_INSTRUCTIONS =>
                {
                    limit = instructions / 2;
                }
                Err(error) => return Err(SocketError::new("attach the packet filter", error)),
            }
        }
    }

    /// Joins the solicited-node groups of these addresses and leaves the others.
    fn join_groups(&self, addresses: impl Iterator<Item = IpAddr>) -> Result<(), SocketError> {
        let group = |address| match address {
            IpAddr::V4(_) => None,
            IpAddr::V6(v6) => Some(solicited_node(v6)),
        };
        let groups: BTreeSet<_> = addresses.filter_map(group).collect();
        let mut memberships = self.groups.lock().unwrap_or_else(PoisonError::into_inner);
        memberships
            .set(&groups)
            .map_err(|error| SocketError::new("join the multicast groups of the addresses", error))
    }

    /// Blocks the thread until the socket has a frame or an error. Returns false if the other end of `stop` is closed.
    ///
    /// # Errors
    /// If poll(2) fails.
    pub fn wait_readable(&self, stop: &PipeReader) -> Result<bool, SocketError> {
        let mut polled = [
            PollFd::new(&self.socket, PollFlags::IN),
            PollFd::new(stop, PollFlags::IN),
        ];
        loop {
            match poll(&mut polled, None) {
                Ok(_) => return Ok(polled[1].revents().is_empty()),
                Err(Errno::INTR) => {}
                Err(error) => return Err(SocketError::new("wait for a frame", error.into())),
            }
        }
    }

    /// Copies the next queued frame to `buffer`, which should have [`FRAME_BUFFER_LEN`] bytes, and returns its length;
    /// `None` if no frame is queued.
    ///
    /// # Errors
    /// Reports an error of the interface once; the socket stays usable.
    pub fn recv(&self, buffer: &mut [u8]) -> Result<Option<usize>, SocketError> {
        match (&self.socket).read(buffer) {
            Ok(len) => Ok(Some(len)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(SocketError::new("receive", error)),
        }
    }

    /// Sends an Ethernet frame without blocking.
    ///
    /// # Errors
    /// [`SocketError::Busy`] if the transmit queue is full.
    pub fn send(&self, frame: &[u8]) -> Result<(), SocketError> {
        // A frame is sent as a whole or not at all.
        (&self.socket)
            .write(frame)
            .map(drop)
            .map_err(|error| SocketError::new("send", error))
    }
}

impl AsFd for PacketSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

fn attach(socket: &Socket, program: &Program) -> io::Result<()> {
    let code: Vec<SockFilter> = program
        .instructions()
        .iter()
        .map(|i| SockFilter::new(i.code, i.jt, i.jf, i.k))
        .collect();
    socket.attach_filter(&code)
}

/// `struct sockaddr_ll` (packet(7)).
#[allow(unsafe_code, reason = "socket2 has no constructor for link-layer addresses")]
fn link_address(interface: u32, protocol: Protocol) -> SockAddr {
    let mut storage = SockAddrStorage::zeroed();
    // SAFETY: all bit patterns of sockaddr_ll are valid, and the storage is large enough and aligned for all address
    // types.
    let address = unsafe { storage.view_as::<libc::sockaddr_ll>() };
    address.sll_family = libc::AF_PACKET as libc::sa_family_t;
    address.sll_protocol = protocol.ethertype().to_be();
    // Index 0 stands for all interfaces, and no index exceeds i32; the kernel rejects -1 with ENODEV.
    address.sll_ifindex = i32::try_from(interface)
        .ok()
        .filter(|index| *index > 0)
        .unwrap_or(-1);
    let len = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
    // SAFETY: the storage is zeroed, then initialized as a sockaddr_ll of this length.
    unsafe { SockAddr::new(storage, len) }
}
