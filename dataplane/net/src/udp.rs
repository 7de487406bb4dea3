//! A UDP socket whose reader wakes up for datagrams only.
//!
//! Tokio's own socket also wakes its task whenever the send buffer has room again, which is after every datagram sent:
//! dozens of times per second.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

use socket2::SockRef;
use tokio::net::unix::pipe::Receiver;

/// Requested size of the receive buffer, in bytes. The kernel limits it to `net.core.rmem_max`, whose default doubles the
/// default size to room for about 500 heartbeats.
const RECEIVE_BUFFER_LEN: usize = 4 << 20;

/// A UDP port on all addresses of the host. Sending never blocks.
#[derive(Debug)]
pub struct UdpPort {
    socket: UdpSocket,
    /// A duplicate of the socket's descriptor, registered with the runtime.
    readiness: Receiver,
    /// Whether the socket is an IPv6 one, which takes IPv4 addresses in mapped form.
    is_v6: bool,
}

impl UdpPort {
    /// Binds `port` for IPv6 and IPv4, or for IPv4 only on hosts without IPv6. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// If the port is in use or not permitted.
    pub fn bind(port: u16) -> io::Result<Self> {
        let socket = UdpSocket::bind((Ipv6Addr::UNSPECIFIED, port))
            .or_else(|_| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port)))?;
        socket.set_nonblocking(true)?;
        SockRef::from(&socket).set_recv_buffer_size(RECEIVE_BUFFER_LEN)?;
        Ok(Self {
            readiness: crate::register_readable(socket.try_clone()?)?,
            is_v6: socket.local_addr()?.is_ipv6(),
            socket,
        })
    }

    /// The bound port.
    ///
    /// # Errors
    /// If getsockname(2) fails.
    pub fn port(&self) -> io::Result<u16> {
        Ok(self.socket.local_addr()?.port())
    }

    /// Sends a datagram.
    ///
    /// # Errors
    /// If the address is unreachable or the send buffer is full.
    pub fn send(&self, datagram: &[u8], to: SocketAddr) -> io::Result<()> {
        let to = match to {
            SocketAddr::V4(v4) if self.is_v6 => (v4.ip().to_ipv6_mapped(), v4.port()).into(),
            SocketAddr::V4(_) | SocketAddr::V6(_) => to,
        };
        // A datagram is sent as a whole or not at all.
        self.socket.send_to(datagram, to).map(drop)
    }

    /// Waits until [`try_receive`](Self::try_receive) may return a datagram. Cancel safe.
    pub async fn readable(&self) {
        // An error recurs in try_receive.
        let _ = self.readiness.readable().await;
    }

    /// Receives a queued datagram and returns its length, truncated to the buffer.
    ///
    /// # Errors
    /// `WouldBlock` if no datagram is queued; others, such as "connection refused", concern datagrams sent before.
    pub fn try_receive(&self, buffer: &mut [u8]) -> io::Result<usize> {
        self.readiness.try_io(|| self.socket.recv(buffer))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn wakes_for_datagrams_only() {
        let (one, two) = (UdpPort::bind(0).unwrap(), UdpPort::bind(0).unwrap());
        let port = two.port().unwrap();
        let to = |address: &str| SocketAddr::new(address.parse().unwrap(), port);
        let mut buffer = [0; 8];
        let readable = |port| tokio::time::timeout(Duration::from_millis(50), UdpPort::readable(port));
        for (index, address) in ["127.0.0.1", "::1"].into_iter().enumerate() {
            let index = u8::try_from(index).unwrap();
            one.send(&[index; 3], to(address)).unwrap();
            two.readable().await;
            assert_eq!(two.try_receive(&mut buffer).unwrap(), 3);
            assert_eq!(buffer[0], index);
            let error = two.try_receive(&mut buffer).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
        }
        assert!(readable(&one).await.is_err());
        assert!(readable(&two).await.is_err());
    }
}
