//! ARP for IPv4 over Ethernet (RFC 826; probes and announcements: RFC 5227): Ethernet header and ARP packet
//! as one frame.
//!
//! Reads bytes of a frame as the packet socket gives them, writes frames ready to send. NDP will stand beside
//! this module in the same shape: a checked view over the bytes, an owned representation, one error per
//! rejected field.

use std::net::Ipv4Addr;

use crate::MacAddr;

/// Bytes of an ARP frame without padding: Ethernet header (14) and ARP packet for IPv4 over Ethernet (28).
pub const FRAME_LEN: usize = 42;
/// EtherType of ARP.
pub const ETHERTYPE: u16 = 0x0806;

const HARDWARE_ETHERNET: u16 = 1;
const PROTOCOL_IPV4: u16 = 0x0800;
const HARDWARE_LEN: u8 = 6;
const PROTOCOL_LEN: u8 = 4;

/// What an ARP packet is for (RFC 826, `ar$op`). Reverse, inverse and other operations are refused by the
/// decoder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// 1: "who has the target address?"
    Request,
    /// 2: "the sender has the sender address".
    Reply,
}

impl Operation {
    const fn code(self) -> u16 {
        match self {
            Self::Request => 1,
            Self::Reply => 2,
        }
    }
}

/// Why bytes are not an ARP frame that we understand: one variant per field.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// Fewer than [`FRAME_LEN`] bytes.
    #[error("frame of {0} bytes is shorter than the {FRAME_LEN} of ARP over Ethernet")]
    Truncated(usize),
    /// The Ethernet header does not say ARP.
    #[error("EtherType {0:#06x} is not ARP")]
    EtherType(u16),
    /// `ar$hrd` is not Ethernet.
    #[error("hardware type {0} is not Ethernet")]
    HardwareType(u16),
    /// `ar$pro` is not IPv4.
    #[error("protocol type {0:#06x} is not IPv4")]
    ProtocolType(u16),
    /// `ar$hln` is not 6.
    #[error("hardware address length {0} is not 6")]
    HardwareLength(u8),
    /// `ar$pln` is not 4.
    #[error("protocol address length {0} is not 4")]
    ProtocolLength(u8),
    /// `ar$op` is neither request nor reply.
    #[error("operation {0} is neither request nor reply")]
    Operation(u16),
    /// `ar$sha` is no station: a reply to it would go to a group, so one frame would buy many (RFC 1812
    /// 3.3.2).
    #[error("sender hardware address {0} is not that of one station")]
    SenderMac(MacAddr),
}

impl DecodeError {
    /// A short constant name, for the label of a metric.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Truncated(_) => "truncated",
            Self::EtherType(_) => "ethertype",
            Self::HardwareType(_) => "hardware_type",
            Self::ProtocolType(_) => "protocol_type",
            Self::HardwareLength(_) => "hardware_length",
            Self::ProtocolLength(_) => "protocol_length",
            Self::Operation(_) => "operation",
            Self::SenderMac(_) => "sender_mac",
        }
    }
}

/// An ARP packet with its Ethernet header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ArpFrame {
    /// Ethernet destination.
    pub dst: MacAddr,
    /// Ethernet source.
    pub src: MacAddr,
    /// Request or reply.
    pub operation: Operation,
    /// `ar$sha`: the sender's own hardware address.
    pub sender_mac: MacAddr,
    /// `ar$spa`: the sender's own address; 0.0.0.0 in a probe (RFC 5227 2.1.1).
    pub sender_ip: Ipv4Addr,
    /// `ar$tha`: meaningless in a request.
    pub target_mac: MacAddr,
    /// `ar$tpa`: the address asked for.
    pub target_ip: Ipv4Addr,
}

impl ArpFrame {
    /// Reads a frame. Bytes after the packet are ignored: Ethernet pads frames to 60 bytes.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let view = View::new(bytes)?;
        let operation = match view.operation() {
            1 => Operation::Request,
            2 => Operation::Reply,
            other => return Err(DecodeError::Operation(other)),
        };
        let sender_mac = view.mac::<22>();
        if !sender_mac.is_unicast() {
            return Err(DecodeError::SenderMac(sender_mac));
        }
        Ok(Self {
            dst: view.mac::<0>(),
            src: view.mac::<6>(),
            operation,
            sender_mac,
            sender_ip: view.ip::<28>(),
            target_mac: view.mac::<32>(),
            target_ip: view.ip::<38>(),
        })
    }

    /// Writes the frame, without padding: the driver pads.
    pub fn encode(&self) -> [u8; FRAME_LEN] {
        let mut frame = [0; FRAME_LEN];
        put(&mut frame, 0, self.dst.0);
        put(&mut frame, 6, self.src.0);
        put(&mut frame, 12, ETHERTYPE.to_be_bytes());
        put(&mut frame, 14, HARDWARE_ETHERNET.to_be_bytes());
        put(&mut frame, 16, PROTOCOL_IPV4.to_be_bytes());
        put(&mut frame, 18, [HARDWARE_LEN, PROTOCOL_LEN]);
        put(&mut frame, 20, self.operation.code().to_be_bytes());
        put(&mut frame, 22, self.sender_mac.0);
        put(&mut frame, 28, self.sender_ip.octets());
        put(&mut frame, 32, self.target_mac.0);
        put(&mut frame, 38, self.target_ip.octets());
        frame
    }
}

fn put<const N: usize>(frame: &mut [u8; FRAME_LEN], at: usize, bytes: [u8; N]) {
    for (to, from) in frame.iter_mut().skip(at).zip(bytes) {
        *to = from;
    }
}

/// Bytes known to be long enough and to be ARP for IPv4 over Ethernet. Offsets are compile-time constants
/// within a fixed-size array, so no read can fail.
struct View<'a>(&'a [u8; FRAME_LEN]);

impl<'a> View<'a> {
    fn new(bytes: &'a [u8]) -> Result<Self, DecodeError> {
        let view = Self(bytes.first_chunk().ok_or(DecodeError::Truncated(bytes.len()))?);
        let [hardware_len, protocol_len] = view.take::<18, 2>();
        match (view.u16::<12>(), view.u16::<14>(), view.u16::<16>()) {
            (ETHERTYPE, HARDWARE_ETHERNET, PROTOCOL_IPV4) => {}
            (ETHERTYPE, HARDWARE_ETHERNET, protocol) => return Err(DecodeError::ProtocolType(protocol)),
            (ETHERTYPE, hardware, _) => return Err(DecodeError::HardwareType(hardware)),
            (ethertype, _, _) => return Err(DecodeError::EtherType(ethertype)),
        }
        if hardware_len != HARDWARE_LEN {
            return Err(DecodeError::HardwareLength(hardware_len));
        }
        if protocol_len != PROTOCOL_LEN {
            return Err(DecodeError::ProtocolLength(protocol_len));
        }
        Ok(view)
    }

    fn take<const AT: usize, const N: usize>(&self) -> [u8; N] {
        const { assert!(AT + N <= FRAME_LEN) };
        let mut out = [0; N];
        for (to, from) in out.iter_mut().zip(self.0.iter().skip(AT)) {
            *to = *from;
        }
        out
    }

    fn u16<const AT: usize>(&self) -> u16 {
        u16::from_be_bytes(self.take::<AT, 2>())
    }

    fn mac<const AT: usize>(&self) -> MacAddr {
        MacAddr(self.take::<AT, 6>())
    }

    fn ip<const AT: usize>(&self) -> Ipv4Addr {
        Ipv4Addr::from(self.take::<AT, 4>())
    }

    fn operation(&self) -> u16 {
        self.u16::<20>()
    }
}
