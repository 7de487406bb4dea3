//! Connections to BGP routers: this node always connects, so it needs no privileged port and no further capability.

use std::fmt;
use std::io;
use std::mem::size_of;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsRawFd;
use std::time::Duration;

use socket2::{Domain, Protocol, SockAddr, SockAddrStorage, Socket, Type};
use tokio::net::TcpStream;

/// The longest key (RFC 2385 section 4.5; the kernel's `TCP_MD5SIG_MAXKEYLEN`).
pub const MAX_MD5_KEY_LEN: usize = 80;
/// The greatest TTL: a router that accepts it alone is protected from packets from afar (RFC 5082).
pub(crate) const MAX_TTL: u32 = 255;
/// Class selector 6, for routing protocols (RFC 4594 section 3.2).
pub(crate) const NETWORK_CONTROL: u32 = 0xc0;

/// Options of a connection. Its debug text leaves out the key.
#[derive(Clone, Default)]
pub struct TcpOptions {
    /// The source address; the kernel's choice if `None`.
    pub source: Option<IpAddr>,
    /// An interface or VRF that all packets have to use.
    pub device: Option<String>,
    /// The key of MD5 signatures (RFC 2385), at most [`MAX_MD5_KEY_LEN`] octets.
    pub md5_key: Option<Vec<u8>>,
    /// Whether packets of the router count only if no other router has forwarded them (RFC 5082).
    pub ttl_security: bool,
    /// How long sent data may remain unacknowledged.
    pub user_timeout: Option<Duration>,
}

impl fmt::Debug for TcpOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TcpOptions")
            .field("source", &self.source)
            .field("device", &self.device)
            .field("ttl_security", &self.ttl_security)
            .field("user_timeout", &self.user_timeout)
            .finish_non_exhaustive()
    }
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The host does not have the source address, or the interface.
    #[error("this node does not have the source address or the interface")]
    NoSource(#[source] io::Error),
    /// The router refuses the connection.
    #[error("connection refused")]
    Refused(#[source] io::Error),
    /// There is no route, or no answer.
    #[error("router unreachable")]
    Unreachable(#[source] io::Error),
    /// The key is longer than [`MAX_MD5_KEY_LEN`], or empty.
    #[error("the key must have 1 to {MAX_MD5_KEY_LEN} octets")]
    InvalidKey,
    /// Another error.
    #[error("cannot connect")]
    Failed(#[source] io::Error),
}

impl From<io::Error> for ConnectError {
    fn from(error: io::Error) -> Self {
        match error.raw_os_error() {
            Some(libc::EADDRNOTAVAIL | libc::ENODEV) => Self::NoSource(error),
            Some(libc::ECONNREFUSED) => Self::Refused(error),
            Some(libc::ENETUNREACH | libc::EHOSTUNREACH | libc::ETIMEDOUT | libc::ENETDOWN) => {
                Self::Unreachable(error)
            }
            _ => Self::Failed(error),
        }
    }
}

/// Connects. The caller limits the time.
///
/// # Errors
/// If an option cannot be set, or the router does not accept the connection.
pub async fn connect(router: SocketAddr, options: &TcpOptions) -> Result<TcpStream, ConnectError> {
    let socket = Socket::new(
        Domain::for_address(router),
        Type::STREAM.nonblocking().cloexec(),
        Some(Protocol::TCP),
    )?;
    if let Some(device) = &options.device {
        socket.bind_device(Some(device.as_bytes()))?;
    }
    if let Some(key) = &options.md5_key {
        set_md5_key(&socket, router.ip(), key)?;
    }
    socket.set_tcp_nodelay(true)?;
    socket.set_tcp_user_timeout(options.user_timeout)?;
    match router {
        SocketAddr::V4(_) => {
            socket.set_ttl_v4(MAX_TTL)?;
            socket.set_tos_v4(NETWORK_CONTROL)?;
        }
        SocketAddr::V6(_) => {
            socket.set_unicast_hops_v6(MAX_TTL)?;
            socket.set_tclass_v6(NETWORK_CONTROL)?;
        }
    }
    if options.ttl_security {
        require_ttl(&socket, router.ip())?;
    }
    if let Some(source) = options.source {
        socket.bind(&SocketAddr::new(source, 0).into())?;
    }
    match socket.connect(&router.into()) {
        Ok(()) => {}
        Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => {}
        Err(error) => return Err(error.into()),
    }
    let stream = TcpStream::from_std(socket.into())?;
    stream.writable().await?;
    match stream.take_error()? {
        Some(error) => Err(error.into()),
        None => Ok(stream),
    }
}

/// `struct tcp_md5sig` of linux/tcp.h.
#[repr(C)]
struct Md5Signature {
    address: SockAddrStorage,
    flags: u8,
    prefix_len: u8,
    key_len: u16,
    interface: i32,
    key: [u8; MAX_MD5_KEY_LEN],
}

/// `TCP_MD5SIG_EXT` of linux/tcp.h, which libc does not have.
const TCP_MD5SIG_EXT: libc::c_int = 32;
/// `TCP_MD5SIG_FLAG_PREFIX` of linux/tcp.h.
const FLAG_PREFIX: u8 = 1;

/// Signs the packets to this host, and accepts only signed ones from it.
///
/// # Errors
/// If the key is too long or empty, or the kernel has no MD5 signatures.
pub fn set_md5_key(socket: &Socket, router: IpAddr, key: &[u8]) -> Result<(), ConnectError> {
    let mut padded = [0; MAX_MD5_KEY_LEN];
    let (Some(room), Ok(key_len)) = (padded.get_mut(..key.len()), u16::try_from(key.len())) else {
        return Err(ConnectError::InvalidKey);
    };
    if key.is_empty() {
        return Err(ConnectError::InvalidKey);
    }
    room.copy_from_slice(key);
    let signature = Md5Signature {
        // The port does not count.
        address: SockAddr::from(SocketAddr::new(router, 0)).as_storage(),
        flags: FLAG_PREFIX,
        prefix_len: match router {
            IpAddr::V4(_) => 32,
            IpAddr::V6(_) => 128,
        },
        key_len,
        interface: 0,
        key: padded,
    };
    Ok(set_option(socket, libc::IPPROTO_TCP, TCP_MD5SIG_EXT, &signature)?)
}

/// Drops packets that another router has forwarded.
fn require_ttl(socket: &Socket, router: IpAddr) -> io::Result<()> {
    let min = libc::c_int::from(u8::MAX);
    match router {
        IpAddr::V4(_) => set_option(socket, libc::IPPROTO_IP, libc::IP_MINTTL, &min),
        IpAddr::V6(_) => set_option(socket, libc::IPPROTO_IPV6, libc::IPV6_MINHOPCOUNT, &min),
    }
}

#[allow(unsafe_code, reason = "neither socket2 nor rustix has these options")]
fn set_option<T>(socket: &Socket, level: libc::c_int, name: libc::c_int, value: &T) -> io::Result<()> {
    let length = libc::socklen_t::try_from(size_of::<T>()).map_err(io::Error::other)?;
    // SAFETY: the descriptor is open, and the kernel reads at most `length` octets at `value`, which is that long.
    let outcome = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            name,
            std::ptr::from_ref(value).cast(),
            length,
        )
    };
    if outcome == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}
