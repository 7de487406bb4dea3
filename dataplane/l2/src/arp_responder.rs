//! Answers ARP requests for the addresses we own, or for which we stand in.
//!
//! Reads frames from one interface, writes the reply to send on the same interface, what the frame shows of who has an
//! address, or the reason for silence. One responder per interface, or one for all that serve the same addresses: the interface's MAC is
//! an argument of each call, because a bond or bridge changes its MAC while we run and a reply with the old
//! one is a black hole.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use crate::MacAddr;
use crate::wire::arp::{ArpFrame, DecodeError, FRAME_LEN, Operation};

/// Why a well-formed frame gets no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum IgnoreReason {
    /// The Ethernet destination is neither broadcast nor the interface's MAC: a promiscuous interface shows
    /// us frames of others.
    OtherDestination,
    /// Sent by the interface itself: the host's own stack asks for an address that we announce.
    OwnFrame,
    /// The address asked for is not ours.
    NotOwned,
}

impl IgnoreReason {
    /// Every reason, so that a metric can start all its labels at zero.
    pub const ALL: [Self; 3] = [Self::OtherDestination, Self::OwnFrame, Self::NotOwned];

    /// A short constant name, for the label of a metric.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::OtherDestination => "other_destination",
            Self::OwnFrame => "own_frame",
            Self::NotOwned => "not_owned",
        }
    }
}

/// What to do with a received frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Send `frame` on the interface that the request came from.
    Reply {
        /// The whole reply, Ethernet header included.
        frame: [u8; FRAME_LEN],
        /// The owned address it answers for.
        address: Ipv4Addr,
    },
    /// Somebody else shows that it has an address: by an answer, or by an announcement (RFC 5227 2.3).
    Sighted {
        /// The address.
        address: Ipv4Addr,
        /// Who has it.
        mac: MacAddr,
    },
    /// Nothing to do.
    Ignore(IgnoreReason),
    /// Not ARP as we know it: count it.
    Malformed(DecodeError),
}

/// The set of owned addresses, and the rule of what to answer for them.
#[derive(Clone, Debug, Default)]
pub struct ArpResponder {
    /// With another's hardware address: those for which we stand in.
    owned: BTreeMap<Ipv4Addr, Option<MacAddr>>,
}

impl ArpResponder {
    /// A responder that owns nothing, and so answers nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// Starts answering for `address`. Returns whether it is new.
    pub fn insert(&mut self, address: Ipv4Addr) -> bool {
        self.owned.insert(address, None).is_none()
    }

    /// Starts answering for `address` in place of its owner, who has this hardware address and cannot answer at the
    /// moment. Not so when it is our own. Returns whether it is new.
    pub fn stand_in(&mut self, address: Ipv4Addr, owner: MacAddr) -> bool {
        match self.owned.get(&address) {
            Some(None) => false,
            Some(Some(_)) | None => self.owned.insert(address, Some(owner)).is_none(),
        }
    }

    /// Stops answering for `address`, from the next frame on. Returns whether it was answered for.
    pub fn remove(&mut self, address: &Ipv4Addr) -> bool {
        self.owned.remove(address).is_some()
    }

    /// The addresses that are answered for, in order: what the kernel filter is built from.
    pub fn addresses(&self) -> impl Iterator<Item = &Ipv4Addr> {
        self.owned.keys()
    }

    /// Judges one frame received on the interface that has `interface_mac` at this moment.
    pub fn handle(&self, interface_mac: MacAddr, frame: &[u8]) -> Verdict {
        let request = match ArpFrame::decode(frame) {
            Ok(request) => request,
            Err(error) => return Verdict::Malformed(error),
        };
        if request.sender_mac == interface_mac {
            return Verdict::Ignore(IgnoreReason::OwnFrame);
        }
        let announces = request.sender_ip == request.target_ip || request.operation == Operation::Reply;
        if announces && !request.sender_ip.is_unspecified() {
            return Verdict::Sighted {
                address: request.sender_ip,
                mac: request.sender_mac,
            };
        }
        if request.dst != MacAddr::BROADCAST && request.dst != interface_mac {
            return Verdict::Ignore(IgnoreReason::OtherDestination);
        }
        match self.owned.get(&request.target_ip) {
            Some(owner) if request.operation == Operation::Request => Verdict::Reply {
                frame: reply(interface_mac, owner.unwrap_or(interface_mac), &request).encode(),
                address: request.target_ip,
            },
            Some(_) | None => Verdict::Ignore(IgnoreReason::NotOwned),
        }
    }
}

/// RFC 826: swap sender and target, put the owner's hardware address in, send to the asker alone. A probe (sender
/// 0.0.0.0) is answered the same way, which tells the prober that the address is in use (RFC 5227 2.1.1). The frame is
/// from us in any case: a switch must not look for the owner behind our port.
fn reply(interface_mac: MacAddr, owner: MacAddr, request: &ArpFrame) -> ArpFrame {
    ArpFrame {
        dst: request.sender_mac,
        src: interface_mac,
        operation: Operation::Reply,
        sender_mac: owner,
        sender_ip: request.target_ip,
        target_mac: request.sender_mac,
        target_ip: request.sender_ip,
    }
}

/// The question who has `address`, in the form of a probe (RFC 5227 2.1.1): from nobody, so that it changes no cache.
#[must_use]
pub fn question(interface_mac: MacAddr, address: Ipv4Addr) -> [u8; FRAME_LEN] {
    let probe = ArpFrame {
        dst: MacAddr::BROADCAST,
        src: interface_mac,
        operation: Operation::Request,
        sender_mac: interface_mac,
        sender_ip: Ipv4Addr::UNSPECIFIED,
        target_mac: MacAddr::ZERO,
        target_ip: address,
    };
    probe.encode()
}
