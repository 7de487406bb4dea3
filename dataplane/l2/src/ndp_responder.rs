//! Neighbor Discovery for IPv6 (RFC 4861) as a protocol of the [`Responder`].
//!
//! Solicitations to the solicited-node multicast group and to our own MAC are both answered: hosts verify a neighbor's
//! reachability by unicast solicitations and drop a neighbor that does not reply (RFC 4861 section 7.3).

use std::net::Ipv6Addr;

use crate::MacAddr;
use crate::responder::{AddressResolution, Classified, IgnoreReason, Request, Responder};
use crate::wire::ndp::{
    ADVERTISEMENT_LEN, ALL_NODES, NdpDecodeError, NdpFrame, NdpMessage, advertisement, multicast_mac, probe,
    solicitation, solicited_node, unsolicited,
};

/// Neighbor Discovery for IPv6 over Ethernet.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Ndp;

/// Answers neighbor solicitations.
pub type NdpResponder = Responder<Ndp>;

impl AddressResolution for Ndp {
    type Address = Ipv6Addr;
    type Frame = [u8; ADVERTISEMENT_LEN];
    type Error = NdpDecodeError;

    const NAME: &'static str = "NDP";

    fn classify(interface_mac: MacAddr, frame: &[u8]) -> Result<Classified<Self>, NdpDecodeError> {
        let frame = NdpFrame::decode(frame)?;
        if frame.src == interface_mac {
            return Ok(Classified::Ignore(IgnoreReason::OwnFrame));
        }
        Ok(match frame.message {
            NdpMessage::Advertisement { link_layer, .. } => Classified::Binding {
                address: frame.target,
                mac: link_layer.unwrap_or(frame.src),
            },
            NdpMessage::Solicitation { .. }
                if frame.dst != interface_mac && frame.dst != multicast_mac(solicited_node(frame.target)) =>
            {
                Classified::Ignore(IgnoreReason::OtherDestination)
            }
            NdpMessage::Solicitation { link_layer } => Classified::Request(Request {
                target: frame.target,
                sender: frame.source,
                sender_mac: link_layer.unwrap_or(frame.src),
            }),
        })
    }

    /// A solicitation from the unspecified address is a duplicate address detection probe: its reply goes to all nodes
    /// with the Solicited flag clear (RFC 4861 section 7.2.4).
    fn reply(interface_mac: MacAddr, owner_mac: MacAddr, request: &Request<Self>) -> [u8; ADVERTISEMENT_LEN] {
        let is_probe = request.sender.is_unspecified();
        let to = if is_probe {
            (multicast_mac(ALL_NODES), ALL_NODES)
        } else {
            (request.sender_mac, request.sender)
        };
        advertisement((interface_mac, owner_mac), to, request.target, !is_probe)
    }

    fn announcement(mac: MacAddr, address: Ipv6Addr) -> impl IntoIterator<Item = [u8; ADVERTISEMENT_LEN]> {
        [unsolicited(mac, address)]
    }

    fn request(from: (MacAddr, Ipv6Addr), to: Option<MacAddr>, target: Ipv6Addr) -> [u8; ADVERTISEMENT_LEN] {
        solicitation(from, to, target)
    }

    fn probe(mac: MacAddr, address: Ipv6Addr) -> impl AsRef<[u8]> {
        probe(mac, address)
    }

    fn error_label(error: NdpDecodeError) -> &'static str {
        error.as_str()
    }
}
