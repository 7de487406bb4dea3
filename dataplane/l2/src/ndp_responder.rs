//! Answers neighbour solicitations for the IPv6 addresses we own; the counterpart of [`crate::arp_responder`] for ARP.
//!
//! Reads frames from one interface, writes the advertisement to send on the same interface, or the reason for silence.
//! A solicitation is answered whether it came to the group of its target or to our hardware address: hosts ask the owner
//! itself whether it is still there (RFC 4861 section 7.3), and who does not answer that is forgotten within seconds.

use std::collections::BTreeMap;
use std::net::Ipv6Addr;

use crate::MacAddr;
use crate::arp_responder::IgnoreReason;
use crate::wire::ndp::{
    ADVERTISEMENT_LEN, ALL_NODES, DecodeError, Frame, Message, advertisement, multicast_mac, solicited_node,
};

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
    /// Somebody else shows that it has an address.
    Sighted {
        /// The address.
        address: Ipv6Addr,
        /// Who has it.
        mac: MacAddr,
    },
    /// Nothing to do.
    Ignore(IgnoreReason),
    /// Nothing to believe: count it.
    Malformed(DecodeError),
}

/// The set of owned addresses, and the rule of what to answer for them.
#[derive(Clone, Debug, Default)]
pub struct NdpResponder {
    /// With another's hardware address: those for which we stand in.
    owned: BTreeMap<Ipv6Addr, Option<MacAddr>>,
}

impl NdpResponder {
    /// A responder that owns nothing, and so answers nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// Starts answering for `address`. Returns whether it is new.
    pub fn insert(&mut self, address: Ipv6Addr) -> bool {
        self.owned.insert(address, None).is_none()
    }

    /// Starts answering for `address` in place of its owner, who has this hardware address and cannot answer at the
    /// moment. Not so when it is our own. Returns whether it is new.
    pub fn stand_in(&mut self, address: Ipv6Addr, owner: MacAddr) -> bool {
        match self.owned.get(&address) {
            Some(None) => false,
            Some(Some(_)) | None => self.owned.insert(address, Some(owner)).is_none(),
        }
    }

    /// Stops answering for `address`, from the next frame on. Returns whether it was answered for.
    pub fn remove(&mut self, address: &Ipv6Addr) -> bool {
        self.owned.remove(address).is_some()
    }

    /// The addresses that are answered for, in order: what the kernel filter is built from.
    pub fn addresses(&self) -> impl Iterator<Item = &Ipv6Addr> {
        self.owned.keys()
    }

    /// Judges one frame received on the interface that has `interface_mac` at this moment.
    pub fn handle(&self, interface_mac: MacAddr, frame: &[u8]) -> Verdict {
        let frame = match Frame::decode(frame) {
            Ok(frame) => frame,
            Err(error) => return Verdict::Malformed(error),
        };
        if frame.src == interface_mac {
            return Verdict::Ignore(IgnoreReason::OwnFrame);
        }
        let asker = match frame.message {
            Message::Advertisement { link_layer, .. } => {
                return Verdict::Sighted {
                    address: frame.target,
                    mac: link_layer.unwrap_or(frame.src),
                };
            }
            Message::Solicitation { link_layer } => link_layer.unwrap_or(frame.src),
        };
        if frame.dst != interface_mac && frame.dst != multicast_mac(solicited_node(frame.target)) {
            return Verdict::Ignore(IgnoreReason::OtherDestination);
        }
        let Some(owner) = self.owned.get(&frame.target) else {
            return Verdict::Ignore(IgnoreReason::NotOwned);
        };
        // A probe for duplicates comes from nobody: everybody is told that the address is taken (RFC 4861 section 7.2.4).
        let probes = frame.source.is_unspecified();
        let to = if probes {
            (multicast_mac(ALL_NODES), ALL_NODES)
        } else {
            (asker, frame.source)
        };
        let macs = (interface_mac, owner.unwrap_or(interface_mac));
        Verdict::Reply {
            frame: advertisement(macs, to, frame.target, !probes),
            address: frame.target,
        }
    }
}
