//! ARP for IPv4 over Ethernet (RFC 826, RFC 5227): the Ethernet header and the ARP packet as one frame.

use std::net::Ipv4Addr;

use crate::MacAddr;

/// Length of an ARP frame without padding, in bytes: Ethernet header (14) and ARP packet (28).
pub const FRAME_LEN: usize = 42;
/// EtherType of ARP.
pub const ETHERTYPE: u16 = 0x0806;

const HARDWARE_ETHERNET: u16 = 1;
const PROTOCOL_IPV4: u16 = 0x0800;
const HARDWARE_LEN: u8 = 6;
const PROTOCOL_LEN: u8 = 4;

/// The operation of an ARP packet (`ar$op`). The decoder rejects all others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ArpOperation {
    /// Code 1.
    Request,
    /// Code 2.
    Reply,
}

impl ArpOperation {
    const fn code(self) -> u16 {
        match self {
            Self::Request => 1,
            Self::Reply => 2,
        }
    }
}

/// Why bytes are not an ARP frame for IPv4 over Ethernet: one variant per rejected field.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ArpDecodeError {
    /// Fewer than [`FRAME_LEN`] bytes.
    #[error("truncated frame: {0} bytes, expected at least {FRAME_LEN}")]
    Truncated(usize),
    /// The EtherType is not ARP.
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
    /// `ar$sha` is not a unicast address (RFC 1812 section 3.3.2): a reply would go to a group, so one small frame
    /// would cause traffic to many hosts.
    #[error("sender hardware address {0} is not unicast")]
    SenderMac(MacAddr),
}

impl ArpDecodeError {
    /// A short constant name, for a metric label.
    #[must_use]
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
    pub operation: ArpOperation,
    /// `ar$sha`: the sender's MAC.
    pub sender_mac: MacAddr,
    /// `ar$spa`: the sender's IP address; 0.0.0.0 in a probe (RFC 5227 section 2.1.1).
    pub sender_ip: Ipv4Addr,
    /// `ar$tha`: ignored in a request.
    pub target_mac: MacAddr,
    /// `ar$tpa`: the requested address.
    pub target_ip: Ipv4Addr,
}

impl ArpFrame {
    /// Decodes a frame. Trailing bytes are ignored: Ethernet pads frames to 60 bytes.
    ///
    /// # Errors
    /// If the frame is truncated or a field is not that of ARP for IPv4 over Ethernet.
    pub fn decode(bytes: &[u8]) -> Result<Self, ArpDecodeError> {
        let view = FrameView::new(bytes)?;
        let operation = match view.operation() {
            1 => ArpOperation::Request,
            2 => ArpOperation::Reply,
            other => return Err(ArpDecodeError::Operation(other)),
        };
        let sender_mac = view.mac::<22>();
        if !sender_mac.is_unicast() {
            return Err(ArpDecodeError::SenderMac(sender_mac));
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

    /// Encodes the frame without padding; the driver pads it.
    #[must_use]
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

/// Gratuitous ARP for `address`: one request and one reply, both broadcast, because some stacks update their cache from
/// requests and others from replies. The request is an announcement as in RFC 5227 section 2.3.
#[must_use]
pub fn gratuitous(mac: MacAddr, address: Ipv4Addr) -> [[u8; FRAME_LEN]; 2] {
    let request = ArpFrame {
        sender_ip: address,
        ..probe_frame(mac, address)
    };
    let reply = ArpFrame {
        operation: ArpOperation::Reply,
        target_mac: MacAddr::BROADCAST,
        ..request
    };
    [request.encode(), reply.encode()]
}

/// An ARP probe for `address` (RFC 5227 section 2.1.1), whose sender address is 0.0.0.0. To hosts that have the address
/// it means that we are about to take it, so it is only for an address that we are about to claim.
#[must_use]
pub fn probe(mac: MacAddr, address: Ipv4Addr) -> [u8; FRAME_LEN] {
    probe_frame(mac, address).encode()
}

/// An ordinary request for `target`: unicast to `to` (RFC 1122 section 2.3.2.1, "unicast poll"), or broadcast. `from` is
/// the interface's MAC and an address of ours on that interface, so hosts learn nothing but the truth.
#[must_use]
pub fn request(from: (MacAddr, Ipv4Addr), to: Option<MacAddr>, target: Ipv4Addr) -> [u8; FRAME_LEN] {
    let (mac, source) = from;
    let frame = ArpFrame {
        dst: to.unwrap_or(MacAddr::BROADCAST),
        sender_ip: source,
        ..probe_frame(mac, target)
    };
    frame.encode()
}

fn probe_frame(mac: MacAddr, address: Ipv4Addr) -> ArpFrame {
    ArpFrame {
        dst: MacAddr::BROADCAST,
        src: mac,
        operation: ArpOperation::Request,
        sender_mac: mac,
        sender_ip: Ipv4Addr::UNSPECIFIED,
        target_mac: MacAddr::ZERO,
        target_ip: address,
    }
}

fn put<const N: usize>(frame: &mut [u8; FRAME_LEN], at: usize, bytes: [u8; N]) {
    for (to, from) in frame.iter_mut().skip(at).zip(bytes) {
        *to = from;
    }
}

/// A frame whose length and fixed fields are valid. Offsets are compile-time constants within a fixed-size array, so no
/// read can fail.
struct FrameView<'a>(&'a [u8; FRAME_LEN]);

impl<'a> FrameView<'a> {
    fn new(bytes: &'a [u8]) -> Result<Self, ArpDecodeError> {
        let view = Self(
            bytes
                .first_chunk()
                .ok_or(ArpDecodeError::Truncated(bytes.len()))?,
        );
        let [hardware_len, protocol_len] = view.take::<18, 2>();
        match (view.u16::<12>(), view.u16::<14>(), view.u16::<16>()) {
            (ETHERTYPE, HARDWARE_ETHERNET, PROTOCOL_IPV4) => {}
            (ETHERTYPE, HARDWARE_ETHERNET, protocol) => return Err(ArpDecodeError::ProtocolType(protocol)),
            (ETHERTYPE, hardware, _) => return Err(ArpDecodeError::HardwareType(hardware)),
            (ethertype, _, _) => return Err(ArpDecodeError::EtherType(ethertype)),
        }
        if hardware_len != HARDWARE_LEN {
            return Err(ArpDecodeError::HardwareLength(hardware_len));
        }
        if protocol_len != PROTOCOL_LEN {
            return Err(ArpDecodeError::ProtocolLength(protocol_len));
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
