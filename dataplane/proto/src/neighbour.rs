//! Answers neighbour solicitations for the IPv6 addresses we own; the counterpart of [`crate::responder`] for ARP.
//!
//! Reads frames from one interface, writes the advertisement to send on the same interface, or the reason for silence.
//! A solicitation is answered whether it came to the group of its target or to our hardware address: hosts ask the owner
//! itself whether it is still there (RFC 4861 section 7.3), and who does not answer that is forgotten within seconds.

use std::collections::BTreeSet;
use std::net::Ipv6Addr;

use crate::MacAddr;
use crate::ndp::{
    ADVERTISEMENT_LEN, ALL_NODES, DecodeError, Frame, Message, advertisement, multicast_mac, solicited_node,
};
use crate::responder::IgnoreReason;

/// What to do with a received frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Send `frame` on the interface that the solicitation came from.
    Reply {
        /// The whole advertisement, Ethernet header included.
        frame: [u8; ADVERTISEMENT_LEN],
        /// The owned address it answers for.
        address: Ipv6Addr,
    },
    /// Nothing to do.
    Ignore(IgnoreReason),
    /// Nothing to believe: count it.
    Malformed(DecodeError),
}

/// The set of owned addresses, and the rule of what to answer for them.
#[derive(Clone, Debug, Default)]
pub struct NeighbourResponder {
    owned: BTreeSet<Ipv6Addr>,
}

impl NeighbourResponder {
    /// A responder that owns nothing, and so answers nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// Starts answering for `address`. Returns whether it is new.
    pub fn insert(&mut self, address: Ipv6Addr) -> bool {
        self.owned.insert(address)
    }

    /// Stops answering for `address`, from the next frame on. Returns whether it was owned.
    pub fn remove(&mut self, address: &Ipv6Addr) -> bool {
        self.owned.remove(address)
    }

    /// The owned addresses, in order: what the kernel filter is built from.
    pub fn addresses(&self) -> &BTreeSet<Ipv6Addr> {
        &self.owned
    }

    /// Judges one frame received on the interface that has `interface_mac` at this moment.
    pub fn handle(&self, interface_mac: MacAddr, frame: &[u8]) -> Verdict {
        let frame = match Frame::decode(frame) {
            Ok(frame) => frame,
            Err(error) => return Verdict::Malformed(error),
        };
        let asker = match frame.message {
            Message::Advertisement { .. } => return Verdict::Ignore(IgnoreReason::Reply),
            Message::Solicitation { link_layer } => link_layer.unwrap_or(frame.src),
        };
        if let Some(reason) = self.ignore(interface_mac, &frame) {
            return Verdict::Ignore(reason);
        }
        // A probe for duplicates comes from nobody: everybody is told that the address is taken (RFC 4861 section 7.2.4).
        let probes = frame.source.is_unspecified();
        let to = if probes {
            (multicast_mac(ALL_NODES), ALL_NODES)
        } else {
            (asker, frame.source)
        };
        Verdict::Reply {
            frame: advertisement(interface_mac, to, frame.target, !probes),
            address: frame.target,
        }
    }

    fn ignore(&self, interface_mac: MacAddr, frame: &Frame) -> Option<IgnoreReason> {
        if frame.dst != interface_mac && frame.dst != multicast_mac(solicited_node(frame.target)) {
            return Some(IgnoreReason::OtherDestination);
        }
        if frame.src == interface_mac {
            return Some(IgnoreReason::OwnFrame);
        }
        (!self.owned.contains(&frame.target)).then_some(IgnoreReason::NotOwned)
    }
}
