//! A packet socket for ARP or neighbour discovery on one interface.
//!
//! Reads frames that passed the kernel filter of [`crate::filter`], writes frames as they are. The socket is
//! made without a protocol and so receives nothing; the filter is attached; only then is it bound to the protocol and
//! the interface. So no frame that the filter would have dropped is ever queued. Needs `CAP_NET_RAW`.

use std::collections::BTreeSet;
use std::io::{self, PipeReader, Read, Write};
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::sync::{Mutex, PoisonError};

use lb_l2::wire::ndp::solicited_node;

use socket2::{Domain, SockAddr, SockAddrStorage, SockFilter, Socket, Type};

use crate::filter::{self, MAX_INSTRUCTIONS, MIN_INSTRUCTIONS, Program, Protocol};
use crate::groups::Groups;

/// Bytes of received frames that may wait, as asked of the kernel (it doubles this for its own bookkeeping):
/// some hundred frames. More would only mean later answers to questions that were asked again meanwhile.
const RECEIVE_BUFFER: usize = 128 * 1024;

/// Bytes that a buffer for [`PacketSocket::recv`] needs to take any frame that a filter passes.
pub const FRAME_BUFFER: usize = Protocol::Ndp.snap_len();

/// What failed on a packet socket.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// The process lacks `CAP_NET_RAW`.
    #[error("no permission for packet sockets: grant the capability NET_RAW")]
    NotPermitted(#[source] io::Error),
    /// The interface is down (ENETDOWN). The socket works again when it is up. An interface that is deleted
    /// goes down first, and a reader hears no more than that: whether it is gone for good, the
    /// [`LinkWatcher`](crate::LinkWatcher) knows.
    #[error("the interface is down")]
    InterfaceDown(#[source] io::Error),
    /// The interface is gone (ENODEV, ENXIO), found when opening or sending. Drop the socket; an interface
    /// with the same name needs a new one.
    #[error("the interface is gone")]
    InterfaceGone(#[source] io::Error),
    /// The transmit queue is full. The frame was not sent; whoever needs it asks again.
    #[error("the transmit queue is full")]
    Busy(#[source] io::Error),
    /// Anything else.
    #[error("cannot {action}")]
    Failed {
        /// What was tried.
        action: &'static str,
        /// What the kernel says.
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

/// How well the attached filter fits the addresses asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fit {
    /// Requests for exactly these addresses pass.
    Exact,
    /// There are more separate addresses than the kernel has room for, so requests for some others pass too.
    Coarse {
        /// The size of the program that the kernel took.
        instructions: usize,
    },
}

/// A non-blocking packet socket bound to one protocol on one interface, with a filter that starts out passing nothing.
#[derive(Debug)]
pub struct PacketSocket {
    socket: Socket,
    interface: u32,
    protocol: Protocol,
    groups: Mutex<Groups>,
}

impl PacketSocket {
    /// Opens a socket for ARP on the interface with this index.
    pub fn arp(interface: u32) -> Result<Self, SocketError> {
        Self::open(interface, Protocol::Arp)
    }

    /// Opens a socket for neighbour discovery on the interface with this index. The interface needs no address.
    pub fn ndp(interface: u32) -> Result<Self, SocketError> {
        Self::open(interface, Protocol::Ndp)
    }

    fn open(interface: u32, protocol: Protocol) -> Result<Self, SocketError> {
        let fail = |action| move |error| SocketError::new(action, error);
        let socket = Socket::new(Domain::PACKET, Type::RAW.cloexec().nonblocking(), None)
            .map_err(fail("open a packet socket"))?;
        socket
            .set_recv_buffer_size(RECEIVE_BUFFER)
            .map_err(fail("set the receive buffer"))?;
        let nothing: [&Ipv4Addr; 0] = [];
        attach(&socket, &filter::build(protocol, nothing, MAX_INSTRUCTIONS))
            .map_err(fail("attach the packet filter"))?;
        socket
            .bind(&link_address(interface, protocol))
            .map_err(fail("bind to the interface"))?;
        Ok(Self {
            socket,
            interface,
            protocol,
            groups: Mutex::new(Groups::new(interface)),
        })
    }

    /// The index of the interface that this socket is bound to.
    pub fn interface(&self) -> u32 {
        self.interface
    }

    /// From now on frames about these addresses pass, and no others: those to answer for, and those that are only watched.
    /// The kernel swaps the filter in one step: a frame about an address that is in the old and in the new set is never
    /// missed. Frames that are already queued stay so.
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
        let fit = self.filter(&addresses)?;
        addresses.truncate(owned);
        // Last: where no group can be joined, who asks us directly is answered all the same.
        self.join(addresses.iter().map(|address| (**address).into()))?;
        Ok(fit)
    }

    fn filter<A: Copy + Into<IpAddr>>(&self, addresses: &[&A]) -> Result<Fit, SocketError> {
        let mut limit = MAX_INSTRUCTIONS;
        loop {
            let program = filter::build(self.protocol, addresses.iter().copied(), limit);
            let instructions = program.instructions().len();
            match attach(&self.socket, &program) {
                Ok(()) if program.is_exact() => return Ok(Fit::Exact),
                Ok(()) => return Ok(Fit::Coarse { instructions }),
                // Filters, the old one included until it is replaced, count against net.core.optmem_max: 20
                // KiB before Linux 6.8, which is some hundred addresses. A coarser filter is better than an
                // old one.
                Err(error)
                    if error.raw_os_error() == Some(libc::ENOMEM) && instructions > MIN_INSTRUCTIONS =>
                {
                    limit = instructions / 2;
                }
                Err(error) => return Err(SocketError::new("attach the packet filter", error)),
            }
        }
    }

    /// Joins the groups in which hosts ask for these addresses, and leaves the others.
    fn join(&self, addresses: impl Iterator<Item = IpAddr>) -> Result<(), SocketError> {
        let group = |address| match address {
            IpAddr::V4(_) => None,
            IpAddr::V6(v6) => Some(solicited_node(v6)),
        };
        let groups: BTreeSet<_> = addresses.filter_map(group).collect();
        let mut joined = self.groups.lock().unwrap_or_else(PoisonError::into_inner);
        joined
            .set(&groups)
            .map_err(|error| SocketError::new("join the groups of the addresses", error))
    }

    /// Stops the thread until there may be a frame, or an error of the interface. Returns false when the other end of the
    /// pipe is closed: nobody wants frames any more.
    pub fn wait(&self, end: &PipeReader) -> Result<bool, SocketError> {
        let poll = |fd: BorrowedFd<'_>| libc::pollfd {
            fd: fd.as_raw_fd(),
            events: libc::POLLIN,
            revents: 0,
        };
        let mut polled = [poll(self.socket.as_fd()), poll(end.as_fd())];
        loop {
            // SAFETY: the array lives until the call returns, its length is given, and both descriptors are open: they are
            // borrowed.
            let ready = unsafe { libc::poll(polled.as_mut_ptr(), polled.len() as libc::nfds_t, -1) };
            if ready >= 0 {
                return Ok(polled[1].revents == 0);
            }
            let error = io::Error::last_os_error();
            if error.kind() != io::ErrorKind::Interrupted {
                return Err(SocketError::new("wait for a frame", error));
            }
        }
    }

    /// Copies a frame that is there to `buffer` ([`FRAME_BUFFER`] bytes hold any) and returns its length; none when there is
    /// none. An error of the interface is given once; the socket can be read again.
    pub fn recv(&self, buffer: &mut [u8]) -> Result<Option<usize>, SocketError> {
        match (&self.socket).read(buffer) {
            Ok(len) => Ok(Some(len)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(SocketError::new("receive", error)),
        }
    }

    /// Sends a whole Ethernet frame. Never waits: a frame that finds the queue full is dropped with
    /// [`SocketError::Busy`].
    pub fn send(&self, frame: &[u8]) -> Result<(), SocketError> {
        // A packet socket sends a frame whole or not at all.
        (&self.socket)
            .write(frame)
            .map(drop)
            .map_err(|error| SocketError::new("send", error))
    }
}

/// To be waited for in other ways.
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

/// `struct sockaddr_ll` for a protocol on an interface.
fn link_address(interface: u32, protocol: Protocol) -> SockAddr {
    let mut storage = SockAddrStorage::zeroed();
    // SAFETY: sockaddr_ll is plain old data for which all bit patterns are valid, and one of the address
    // types that the storage is large enough and aligned for.
    let address = unsafe { storage.view_as::<libc::sockaddr_ll>() };
    address.sll_family = libc::AF_PACKET as libc::sa_family_t;
    address.sll_protocol = protocol.ethertype().to_be();
    // 0 would mean all interfaces, and an index beyond i32 does not exist: -1 is refused as "no such device".
    address.sll_ifindex = i32::try_from(interface)
        .ok()
        .filter(|index| *index > 0)
        .unwrap_or(-1);
    let len = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
    // SAFETY: the storage was zeroed and then filled as a sockaddr_ll, whose length this is.
    unsafe { SockAddr::new(storage, len) }
}
