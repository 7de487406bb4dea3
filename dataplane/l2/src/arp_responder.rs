//! ARP for IPv4 (RFC 826) as a protocol of the [`Responder`].

use std::net::Ipv4Addr;

use crate::MacAddr;
use crate::responder::{AddressResolution, Classified, IgnoreReason, Request, Responder};
use crate::wire::arp::{ArpDecodeError, ArpFrame, ArpOperation, FRAME_LEN, gratuitous, probe, request};

/// ARP for IPv4 over Ethernet.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Arp;

/// Answers ARP requests.
pub type ArpResponder = Responder<Arp>;

impl AddressResolution for Arp {
    type Address = Ipv4Addr;
    type Frame = [u8; FRAME_LEN];
    type Error = ArpDecodeError;

    const NAME: &'static str = "ARP";

    fn classify(interface_mac: MacAddr, frame: &[u8]) -> Result<Classified<Self>, ArpDecodeError> {
        let frame = ArpFrame::decode(frame)?;
        if frame.sender_mac == interface_mac {
            return Ok(Classified::Ignore(IgnoreReason::OwnFrame));
        }
        // An announcement has the sender's address as its target too (RFC 5227 section 2.3).
        let claims = frame.sender_ip == frame.target_ip || frame.operation == ArpOperation::Reply;
        if claims && !frame.sender_ip.is_unspecified() {
            return Ok(Classified::Binding {
                address: frame.sender_ip,
                mac: frame.sender_mac,
            });
        }
        if frame.dst != MacAddr::BROADCAST && frame.dst != interface_mac {
            return Ok(Classified::Ignore(IgnoreReason::OtherDestination));
        }
        Ok(match frame.operation {
            ArpOperation::Request => Classified::Request(Request {
                target: frame.target_ip,
                sender: frame.sender_ip,
                sender_mac: frame.sender_mac,
            }),
            ArpOperation::Reply => Classified::Ignore(IgnoreReason::NotOwned),
        })
    }

    /// Swaps sender and target as in RFC 826, "Packet Reception", and sends to the requester only. A probe gets the
    /// same reply, which reports the conflict to the probing host (RFC 5227 section 2.1.1). The Ethernet source is ours
    /// also in a proxy reply: a switch must not learn the owner's MAC on our port.
    fn reply(interface_mac: MacAddr, owner_mac: MacAddr, request: &Request<Self>) -> [u8; FRAME_LEN] {
        let reply = ArpFrame {
            dst: request.sender_mac,
            src: interface_mac,
            operation: ArpOperation::Reply,
            sender_mac: owner_mac,
            sender_ip: request.target,
            target_mac: request.sender_mac,
            target_ip: request.sender,
        };
        reply.encode()
    }

    fn announcement(mac: MacAddr, address: Ipv4Addr) -> impl IntoIterator<Item = [u8; FRAME_LEN]> {
        gratuitous(mac, address)
    }

    fn request(from: (MacAddr, Ipv4Addr), to: Option<MacAddr>, target: Ipv4Addr) -> [u8; FRAME_LEN] {
        request(from, to, target)
    }

    fn probe(mac: MacAddr, address: Ipv4Addr) -> impl AsRef<[u8]> {
        probe(mac, address)
    }

    fn error_label(error: ArpDecodeError) -> &'static str {
        error.as_str()
    }
}
