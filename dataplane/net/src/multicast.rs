//! Membership in the solicited-node multicast groups of IPv6 addresses (RFC 4291 section 2.7.1).
//!
//! Hosts send neighbor solicitations to the group of the target address. Switches that snoop MLD forward a group's
//! frames only to its members, and network cards filter by group. The kernel joins the groups and reports them on the
//! link (RFC 3810); a packet socket alone does neither. The sockets need no capability and are never read.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::Ipv6Addr;

use socket2::{Domain, Socket, Type};

/// The groups that are joined on one interface.
#[derive(Debug)]
pub(crate) struct GroupMemberships {
    interface: u32,
    /// One socket holds some hundred groups (`net.core.optmem_max`); another is opened when all are full.
    sockets: Vec<Socket>,
    /// The joined groups with the index of their socket.
    joined: BTreeMap<Ipv6Addr, usize>,
}

impl GroupMemberships {
    pub(crate) fn new(interface: u32) -> Self {
        Self {
            interface,
            sockets: Vec::new(),
            joined: BTreeMap::new(),
        }
    }

    /// Joins the groups in `wanted` and leaves all others.
    pub(crate) fn set(&mut self, wanted: &BTreeSet<Ipv6Addr>) -> io::Result<()> {
        let (interface, sockets) = (self.interface, &self.sockets);
        self.joined.retain(|group, socket| {
            let keep = wanted.contains(group);
            if !keep && let Some(socket) = sockets.get(*socket) {
                // This fails if the interface is gone, and with it the membership.
                let _ = socket.leave_multicast_v6(group, interface);
            }
            keep
        });
        for group in wanted {
            if !self.joined.contains_key(group) {
                let socket = self.join(*group)?;
                self.joined.insert(*group, socket);
            }
        }
        Ok(())
    }

    /// Returns the index of the socket.
    fn join(&mut self, group: Ipv6Addr) -> io::Result<usize> {
        for (index, socket) in self.sockets.iter().enumerate() {
            match socket.join_multicast_v6(&group, self.interface) {
                Ok(()) => return Ok(index),
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
