//! A UDP socket that wakes its reader for datagrams and for nothing else. The runtime's own sockets also wake it each time
//! that there is room to send again, which is after every datagram sent: dozens of times in a second, for nobody.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// A port on all of the host's addresses. It never waits to send.
#[derive(Debug)]
pub struct UdpPort {
    socket: AsyncFd<UdpSocket>,
    /// Whether it is one for IPv6, which takes IPv4 addresses mapped.
    v6: bool,
}

impl UdpPort {
    /// Binds the port, for IPv6 and IPv4, or IPv4 alone where the host has IPv6 switched off. To be called within a tokio
    /// runtime.
    ///
    /// # Errors
    /// When the port cannot be had.
    pub fn bind(port: u16) -> io::Result<Self> {
        let socket = UdpSocket::bind((Ipv6Addr::UNSPECIFIED, port))
            .or_else(|_| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port)))?;
        socket.set_nonblocking(true)?;
        let v6 = socket.local_addr()?.is_ipv6();
        // SAFETY: the socket keeps one open descriptor from here until it is dropped, which AsyncFd does after it
        // deregistered it; nothing takes it out or replaces it.
        let socket = unsafe { AsyncFd::register_with_interest(socket, Interest::READABLE) }?;
        Ok(Self { socket, v6 })
    }

    /// The port's number.
    ///
    /// # Errors
    /// When the kernel does not know the socket any more.
    pub fn number(&self) -> io::Result<u16> {
        Ok(self.socket.get_ref().local_addr()?.port())
    }

    /// Sends a datagram now.
    ///
    /// # Errors
    /// When the address cannot be reached, or the queue is full.
    pub fn send(&self, datagram: &[u8], to: SocketAddr) -> io::Result<()> {
        let to = match to {
            SocketAddr::V4(v4) if self.v6 => (v4.ip().to_ipv6_mapped(), v4.port()).into(),
            SocketAddr::V4(_) | SocketAddr::V6(_) => to,
        };
        // A datagram is sent whole or not at all.
        self.socket.get_ref().send_to(datagram, to).map(drop)
    }

    /// Waits until there may be datagrams. May be cancelled without loss.
    pub async fn readable(&self) {
        // An error is found again, and told, when reading.
        if let Ok(mut guard) = self.socket.readable().await {
            guard.retain_ready();
        }
    }

    /// Takes a datagram that is there, and returns its length; what does not fit into the buffer is cut off.
    ///
    /// # Errors
    /// `WouldBlock` when there is none; others, such as "port unreachable", are about datagrams sent before.
    pub fn try_receive(&self, buffer: &mut [u8]) -> io::Result<usize> {
        self.socket
            .try_io(Interest::READABLE, |socket| socket.recv(buffer))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn a_reader_is_woken_by_datagrams_and_not_by_room_to_send() {
        let (one, two) = (UdpPort::bind(0).unwrap(), UdpPort::bind(0).unwrap());
        let port = two.number().unwrap();
        let to = |address: &str| SocketAddr::new(address.parse().unwrap(), port);
        let mut buffer = [0; 8];
        let within = |port| tokio::time::timeout(Duration::from_millis(50), UdpPort::readable(port));
        for (number, address) in ["127.0.0.1", "::1"].into_iter().enumerate() {
            let number = u8::try_from(number).unwrap();
            one.send(&[number; 3], to(address)).unwrap();
            two.readable().await;
            assert_eq!(two.try_receive(&mut buffer).unwrap(), 3);
            assert_eq!(buffer[0], number);
            let error = two.try_receive(&mut buffer).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
        }
        assert!(within(&one).await.is_err());
        assert!(within(&two).await.is_err());
    }
}
