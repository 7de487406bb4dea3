//! Answers ARP requests for the addresses we own.
//!
//! Reads frames from one interface, writes the reply to send on the same interface, or the reason for
//! silence. One responder per interface, or one for all that serve the same addresses: the interface's MAC is
//! an argument of each call, because a bond or bridge changes its MAC while we run and a reply with the old
//! one is a black hole.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use crate::MacAddr;
use crate::arp::{ArpFrame, DecodeError, FRAME_LEN, Operation};

/// Why a well-formed frame gets no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum IgnoreReason {
    /// It is a reply. What others claim is not learned from here.
    Reply,
    /// The Ethernet destination is neither broadcast nor the interface's MAC: a promiscuous interface shows
    /// us frames of others.
    OtherDestination,
    /// Sent by the interface itself: the host's own stack asks for an address that we announce.
    OwnFrame,
    /// Sender and target are the same address: an announcement (RFC 5227 2.3), not a question.
    Gratuitous,
    /// The address asked for is not ours.
    NotOwned,
}

impl IgnoreReason {
    /// Every reason, so that a metric can start all its labels at zero.
    pub const ALL: [Self; 5] = [
        Self::Reply,
        Self::OtherDestination,
        Self::OwnFrame,
        Self::Gratuitous,
        Self::NotOwned,
    ];

    /// A short constant name, for the label of a metric.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Reply => "reply",
            Self::OtherDestination => "other_destination",
            Self::OwnFrame => "own_frame",
            Self::Gratuitous => "gratuitous",
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
    /// Nothing to do.
    Ignore(IgnoreReason),
    /// Not ARP as we know it: count it.
    Malformed(DecodeError),
}

/// The set of owned addresses, and the rule of what to answer for them.
#[derive(Clone, Debug, Default)]
pub struct Responder {
    owned: BTreeSet<Ipv4Addr>,
}

impl Responder {
    /// A responder that owns nothing, and so answers nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// Starts answering for `address`. Returns whether it is new.
    pub fn insert(&mut self, address: Ipv4Addr) -> bool {
        self.owned.insert(address)
    }

    /// Stops answering for `address`, from the next frame on. Returns whether it was owned.
    pub fn remove(&mut self, address: &Ipv4Addr) -> bool {
        self.owned.remove(address)
    }

    /// Replaces the whole set.
    pub fn set(&mut self, addresses: impl IntoIterator<Item = Ipv4Addr>) {
        self.owned = addresses.into_iter().collect();
    }

    /// The owned addresses, in order: what the kernel filter is built from.
    pub fn addresses(&self) -> &BTreeSet<Ipv4Addr> {
        &self.owned
    }

    /// Judges one frame received on the interface that has `interface_mac` at this moment.
    pub fn handle(&self, interface_mac: MacAddr, frame: &[u8]) -> Verdict {
        let request = match ArpFrame::decode(frame) {
            Ok(request) => request,
            Err(error) => return Verdict::Malformed(error),
        };
        match self.ignore(interface_mac, &request) {
            Some(reason) => Verdict::Ignore(reason),
            None => Verdict::Reply {
                frame: reply(interface_mac, &request).encode(),
                address: request.target_ip,
            },
        }
    }

    fn ignore(&self, interface_mac: MacAddr, frame: &ArpFrame) -> Option<IgnoreReason> {
        match frame.operation {
            Operation::Reply => return Some(IgnoreReason::Reply),
            Operation::Request => {}
        }
        if frame.dst != MacAddr::BROADCAST && frame.dst != interface_mac {
            return Some(IgnoreReason::OtherDestination);
        }
        if frame.sender_mac == interface_mac {
            return Some(IgnoreReason::OwnFrame);
        }
        if frame.sender_ip == frame.target_ip {
            return Some(IgnoreReason::Gratuitous);
        }
        (!self.owned.contains(&frame.target_ip)).then_some(IgnoreReason::NotOwned)
    }
}

/// RFC 826: swap sender and target, put our hardware address in, send to the asker alone. A probe (sender
/// 0.0.0.0) is answered the same way, which tells the prober that the address is in use (RFC 5227 2.1.1).
fn reply(interface_mac: MacAddr, request: &ArpFrame) -> ArpFrame {
    ArpFrame {
        dst: request.sender_mac,
        src: interface_mac,
        operation: Operation::Reply,
        sender_mac: interface_mac,
        sender_ip: request.target_ip,
        target_mac: request.sender_mac,
        target_ip: request.sender_ip,
    }
}
