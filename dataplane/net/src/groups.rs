//! ApiMembership of the groups in which hosts ask for IPv6 addresses.
//!
//! A host asks in the solicited-node group of the address that it looks for. Switches that snoop MLD bring the frames of
//! a group only to where somebody has joined it, and network cards let only those in. So the groups are joined through
//! the kernel, which reports them on the link as for any host; a packet socket alone would do neither. A socket that
//! only joins groups needs no permission and is never read.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::Ipv6Addr;

use socket2::{Domain, Socket, Type};

/// The groups joined on one interface.
#[derive(Debug)]
pub(crate) struct Groups {
    interface: u32,
    /// A socket has room for some hundred groups (`net.core.optmem_max`): another is made when one is full.
    sockets: Vec<Socket>,
    /// Each group, and the number of its socket.
    joined: BTreeMap<Ipv6Addr, usize>,
}

impl Groups {
    pub(crate) fn new(interface: u32) -> Self {
        Self {
            interface,
            sockets: Vec::new(),
            joined: BTreeMap::new(),
        }
    }

    /// Joins these groups and leaves all others.
    pub(crate) fn set(&mut self, wanted: &BTreeSet<Ipv6Addr>) -> io::Result<()> {
        let left: Vec<_> = self
            .joined
            .iter()
            .filter(|(group, _)| !wanted.contains(*group))
            .map(|(group, socket)| (*group, *socket))
            .collect();
        for (group, socket) in left {
            self.joined.remove(&group);
            if let Some(socket) = self.sockets.get(socket) {
                // The interface may be gone, and its groups with it.
                let _ = socket.leave_multicast_v6(&group, self.interface);
            }
        }
        for group in wanted {
            if !self.joined.contains_key(group) {
                let socket = self.join(*group)?;
                self.joined.insert(*group, socket);
            }
        }
        Ok(())
    }

    fn join(&mut self, group: Ipv6Addr) -> io::Result<usize> {
        for (number, socket) in self.sockets.iter().enumerate() {
            match socket.join_multicast_v6(&group, self.interface) {
                Ok(()) => return Ok(number),
                Err(error) if matches!(error.raw_os_error(), Some(libc::ENOMEM | libc::ENOBUFS)) => {}
                Err(error) => return Err(error),
            }
        }
        let socket = Socket::new(Domain::IPV6, Type::DGRAM.cloexec(), None)?;
        socket.join_multicast_v6(&group, self.interface)?;
        self.sockets.push(socket);
        Ok(self.sockets.len() - 1)
    }
}
