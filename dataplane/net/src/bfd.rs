//! The UDP sockets of BFD (RFC 5881, RFC 5883), for one thread of its own that blocks.
//!
//! A receiver is bound to one address of the host, so that it does not collide with another BFD program there. Its kernel
//! filter passes only well-formed packets of known routers with a sufficient TTL and a discriminator of their session: a
//! flood of others does not wake the thread and does not fill the queue. Each session has a sender with a port of its own. Nothing
//! here needs a capability.

use std::hash::{BuildHasher, RandomState};
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use socket2::{Domain, Protocol, SockFilter, Socket, Type};

use crate::tcp::{MAX_TTL, NETWORK_CONTROL};

/// Source ports (RFC 5881 section 4).
const SOURCE_PORTS: std::ops::RangeInclusive<u16> = 49152..=65535;
/// How many source ports are tried; few are in use.
const MAX_PORT_TRIES: usize = 64;
/// Requested size of the receive buffer, in bytes; the kernel limits it to `net.core.rmem_max`.
const RECEIVE_BUFFER_LEN: usize = 1 << 20;
/// The kernel's limit of the length of a filter.
const MAX_INSTRUCTIONS: usize = 4096;

/// How far away a router is.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Hops {
    /// On the same link.
    Single,
    /// Behind other routers.
    Multi,
}

impl Hops {
    /// The UDP port of the protocol.
    #[must_use]
    pub const fn port(self) -> u16 {
        match self {
            Self::Single => 3784,
            Self::Multi => 4784,
        }
    }
}

/// The packets of a router that count.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Neighbor {
    /// Its address.
    pub address: IpAddr,
    /// The smallest TTL; 255 proves that no router has forwarded the packet.
    pub min_ttl: u8,
    /// Our discriminators that it may use, besides 0.
    pub discriminators: Vec<u32>,
}

/// Receives the packets for one address of the host.
#[derive(Debug)]
pub struct BfdReceiver {
    socket: UdpSocket,
    is_v6: bool,
}

impl BfdReceiver {
    /// Binds the protocol's port of the address. Receives nothing before [`set_neighbors`](Self::set_neighbors).
    ///
    /// # Errors
    /// If the host does not have the address or the device, or the port is in use.
    pub fn bind(local: IpAddr, device: Option<&str>, hops: Hops) -> io::Result<Self> {
        let socket = open(local, device)?;
        socket.attach_filter(&[DROP])?;
        socket.set_recv_buffer_size(RECEIVE_BUFFER_LEN)?;
        socket.bind(&SocketAddr::new(local, hops.port()).into())?;
        Ok(Self {
            socket: socket.into(),
            is_v6: local.is_ipv6(),
        })
    }

    /// Replaces the routers whose packets count.
    ///
    /// # Errors
    /// If the kernel has no memory for the filter.
    pub fn set_neighbors(&self, neighbors: &[Neighbor]) -> io::Result<()> {
        socket2::SockRef::from(&self.socket).attach_filter(&filter(self.is_v6, neighbors))
    }

    /// The next packet that has arrived, with its sender; `None` if there is none.
    ///
    /// # Errors
    /// An error of the socket, reported once.
    pub fn receive(&self, buffer: &mut [u8]) -> io::Result<Option<(IpAddr, usize)>> {
        match self.socket.recv_from(buffer) {
            Ok((len, from)) => Ok(Some((from.ip(), len))),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// Sends the packets of one session.
#[derive(Debug)]
pub struct BfdSender {
    socket: UdpSocket,
    local: IpAddr,
}

impl BfdSender {
    /// Chooses a source port, and the address that the host uses towards the router unless `source` is given.
    ///
    /// # Errors
    /// If there is no route, or the host does not have the source address or the device.
    pub fn connect(
        router: IpAddr,
        source: Option<IpAddr>,
        device: Option<&str>,
        hops: Hops,
    ) -> io::Result<Self> {
        let socket = open(router, device)?;
        // Routers send to the protocol's port only.
        socket.attach_filter(&[DROP])?;
        let unspecified = match router {
            IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        };
        bind_source_port(&socket, source.unwrap_or(unspecified))?;
        socket.connect(&SocketAddr::new(router, hops.port()).into())?;
        let socket = UdpSocket::from(socket);
        let local = socket.local_addr()?.ip();
        Ok(Self { socket, local })
    }

    /// The source address.
    #[must_use]
    pub const fn local(&self) -> IpAddr {
        self.local
    }

    /// Sends a packet without blocking.
    ///
    /// # Errors
    /// If the router is unreachable, has refused an earlier packet, or the send buffer is full.
    pub fn send(&self, packet: &[u8]) -> io::Result<()> {
        self.socket.send(packet).map(drop)
    }
}

fn bind_source_port(socket: &Socket, address: IpAddr) -> io::Result<()> {
    let random = RandomState::new();
    let count = u64::from(SOURCE_PORTS.end() - SOURCE_PORTS.start()) + 1;
    let mut result = Ok(());
    for number in 0..MAX_PORT_TRIES {
        let offset = u16::try_from(random.hash_one(number) % count).unwrap_or_default();
        result = socket.bind(&SocketAddr::new(address, SOURCE_PORTS.start() + offset).into());
        match &result {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {}
            Ok(()) | Err(_) => break,
        }
    }
    result
}

fn open(address: IpAddr, device: Option<&str>) -> io::Result<Socket> {
    let domain = Domain::for_address(SocketAddr::new(address, 0));
    let socket = Socket::new(domain, Type::DGRAM.nonblocking().cloexec(), Some(Protocol::UDP))?;
    if let Some(device) = device {
        socket.bind_device(Some(device.as_bytes()))?;
    }
    match address {
        IpAddr::V4(_) => {
            socket.set_ttl_v4(MAX_TTL)?;
            socket.set_tos_v4(NETWORK_CONTROL)?;
        }
        IpAddr::V6(_) => {
            socket.set_only_v6(true)?;
            socket.set_unicast_hops_v6(MAX_TTL)?;
            socket.set_tclass_v6(NETWORK_CONTROL)?;
        }
    }
    Ok(socket)
}

// linux/bpf_common.h
const LD_BYTE: u16 = 0x30;
const LD_WORD: u16 = 0x20;
const AND: u16 = 0x54;
const JUMP_EQ: u16 = 0x15;
const JUMP_GE: u16 = 0x35;
const RETURN: u16 = 0x06;
/// linux/filter.h: `SKF_NET_OFF`, the offset of the IP header. Other offsets begin at the UDP header.
const IP_HEADER: u32 = (-0x10_0000_i32) as u32;
/// Offsets of the packet (RFC 5880 section 4.1), after 8 octets of UDP.
const VERSION_AT: u32 = 8;
const STATE_AT: u32 = 9;
const LENGTH_AT: u32 = 11;
const YOUR_DISCRIMINATOR_AT: u32 = 16;
const VERSION_MASK: u32 = 0xe0;
const VERSION_1: u32 = 0x20;
/// The state Init; only packets in a state below may have no discriminator.
const INIT: u32 = 0x80;
const MIN_LENGTH: u32 = 24;

const fn op(code: u16, jt: u8, jf: u8, k: u32) -> SockFilter {
    SockFilter::new(code, jt, jf, k)
}

const DROP: SockFilter = op(RETURN, 0, 0, 0);
const ACCEPT: SockFilter = op(RETURN, 0, 0, u32::MAX);

/// Passes the packets of these neighbors. A packet that is too short for a comparison is dropped.
fn filter(is_v6: bool, neighbors: &[Neighbor]) -> Vec<SockFilter> {
    let mut program: Vec<_> = neighbors.iter().flat_map(neighbor_filter).collect();
    program.push(DROP);
    if program.len() <= MAX_INSTRUCTIONS {
        return program;
    }
    // The receiver compares the address, and its session the discriminator.
    let min_ttl = neighbors.iter().map(|neighbor| neighbor.min_ttl).min();
    let min_ttl = u32::from(min_ttl.unwrap_or(u8::MAX));
    vec![
        op(LD_BYTE, 0, 0, ttl_at(is_v6)),
        op(JUMP_GE, 0, 1, min_ttl),
        ACCEPT,
        DROP,
    ]
}

const fn ttl_at(is_v6: bool) -> u32 {
    IP_HEADER + if is_v6 { 7 } else { 8 }
}

/// Accepts or drops the packets of a neighbor, and passes those of others to the next instruction.
fn neighbor_filter(neighbor: &Neighbor) -> Vec<SockFilter> {
    let (first_word, words) = match neighbor.address {
        IpAddr::V4(address) => (12, vec![address.to_bits()]),
        IpAddr::V6(address) => {
            let octets = address.octets();
            let (words, _) = octets.as_chunks::<4>();
            (8, words.iter().map(|word| u32::from_be_bytes(*word)).collect())
        }
    };
    let discriminators = neighbor.discriminators.iter().take(MAX_DISCRIMINATORS);
    let accepted: Vec<u32> = discriminators.copied().collect();
    let count = |len: usize| u8::try_from(len).unwrap_or(u8::MAX);
    // All instructions after the address, with the distance to the last two: drop and accept.
    let rest = 7 + 2 + accepted.len() + 2 + 2;
    let mut code = Vec::new();
    for (index, word) in words.iter().enumerate() {
        let others = 2 * (words.len() - index - 1) + rest;
        let at = IP_HEADER + first_word + 4 * u32::try_from(index).unwrap_or_default();
        code.push(op(LD_WORD, 0, 0, at));
        code.push(op(JUMP_EQ, 0, count(others), *word));
    }
    let begin = code.len();
    let to_drop = |at: usize| count(begin + rest - 2 - at - 1);
    let to_accept = |at: usize| count(begin + rest - 1 - at - 1);
    code.push(op(LD_BYTE, 0, 0, ttl_at(neighbor.address.is_ipv6())));
    code.push(op(JUMP_GE, 0, to_drop(code.len()), neighbor.min_ttl.into()));
    code.push(op(LD_BYTE, 0, 0, LENGTH_AT));
    code.push(op(JUMP_GE, 0, to_drop(code.len()), MIN_LENGTH));
    code.push(op(LD_BYTE, 0, 0, VERSION_AT));
    code.push(op(AND, 0, 0, VERSION_MASK));
    code.push(op(JUMP_EQ, 0, to_drop(code.len()), VERSION_1));
    code.push(op(LD_WORD, 0, 0, YOUR_DISCRIMINATOR_AT));
    for discriminator in accepted {
        code.push(op(JUMP_EQ, to_accept(code.len()), 0, discriminator));
    }
    code.push(op(JUMP_EQ, 0, to_drop(code.len()), 0));
    code.push(op(LD_BYTE, 0, 0, STATE_AT));
    code.push(op(JUMP_GE, to_drop(code.len()), to_accept(code.len()), INIT));
    code.push(DROP);
    code.push(ACCEPT);
    code
}

/// Upper bound of the discriminators of a session: those of all heartbeat keys.
const MAX_DISCRIMINATORS: usize = 16;

/// Wakes the thread up from [`wait`].
#[derive(Clone, Debug)]
pub struct Waker {
    event: Arc<std::fs::File>,
}

impl Waker {
    /// Creates one.
    ///
    /// # Errors
    /// If the process has too many open files.
    pub fn new() -> io::Result<Self> {
        let event: OwnedFd = eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)?;
        Ok(Self {
            event: Arc::new(event.into()),
        })
    }

    /// Ends the present or the next wait.
    pub fn wake(&self) {
        // An error means that the counter is full: the thread wakes up anyway.
        let _ = (&*self.event).write(&1_u64.to_ne_bytes());
    }
}

/// Waits for a packet, for [`Waker::wake`], or until `timeout` has passed.
///
/// # Errors
/// If the kernel has no memory.
pub fn wait<'a>(
    receivers: impl IntoIterator<Item = &'a BfdReceiver>,
    waker: &Waker,
    timeout: Option<Duration>,
) -> io::Result<()> {
    let sockets = receivers
        .into_iter()
        .map(|receiver| PollFd::new(&receiver.socket, PollFlags::IN));
    let mut polled: Vec<_> = std::iter::once(PollFd::new(&*waker.event, PollFlags::IN))
        .chain(sockets)
        .collect();
    let timeout = timeout.map(|timeout| Timespec {
        tv_sec: i64::try_from(timeout.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: timeout.subsec_nanos().into(),
    });
    match poll(&mut polled, timeout.as_ref()) {
        Ok(_) | Err(rustix::io::Errno::INTR) => {}
        Err(error) => return Err(error.into()),
    }
    // An error means that nobody has called.
    let _ = (&*waker.event).read(&mut [0; 8]);
    Ok(())
}
