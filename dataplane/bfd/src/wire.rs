//! The control packet (RFC 5880 section 4.1).

use std::fmt;

/// Octets of a packet without authentication.
pub const PACKET_LEN: usize = 24;
/// The same with the shortest authentication section.
const MIN_AUTHENTICATED_LEN: u8 = 26;
const VERSION: u8 = 1;

const POLL: u8 = 0x20;
const FINAL: u8 = 0x10;
const AUTHENTICATION: u8 = 0x04;
const DEMAND: u8 = 0x02;
const MULTIPOINT: u8 = 0x01;

/// The state of a session.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum State {
    /// Switched off by an administrator.
    AdminDown,
    /// No packets arrive.
    Down,
    /// Packets arrive; the other side has not confirmed that ours do.
    Init,
    /// Packets arrive on both sides.
    Up,
}

impl State {
    const fn bits(self) -> u8 {
        match self {
            Self::AdminDown => 0,
            Self::Down => 1,
            Self::Init => 2,
            Self::Up => 3,
        }
    }

    const fn from_bits(bits: u8) -> Self {
        match bits & 3 {
            0 => Self::AdminDown,
            1 => Self::Down,
            2 => Self::Init,
            _ => Self::Up,
        }
    }
}

/// Why the session left the state Up (RFC 5880 section 4.1).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Diagnostic {
    /// It did not.
    None,
    /// No packet arrived within the detection time.
    DetectionTimeExpired,
    /// The other side reported that the session is down.
    NeighborDown,
    /// The path is down.
    PathDown,
    /// Switched off by an administrator.
    AdminDown,
    /// Any other code.
    Other(u8),
}

impl Diagnostic {
    const fn code(self) -> u8 {
        match self {
            Self::None => 0,
            Self::DetectionTimeExpired => 1,
            Self::NeighborDown => 3,
            Self::PathDown => 5,
            Self::AdminDown => 7,
            Self::Other(code) => code & 0x1f,
        }
    }

    const fn from_code(code: u8) -> Self {
        match code & 0x1f {
            0 => Self::None,
            1 => Self::DetectionTimeExpired,
            3 => Self::NeighborDown,
            5 => Self::PathDown,
            7 => Self::AdminDown,
            other => Self::Other(other),
        }
    }
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("no diagnostic"),
            Self::DetectionTimeExpired => f.write_str("no packet within the detection time"),
            Self::NeighborDown => f.write_str("router reports the session as down"),
            Self::PathDown => f.write_str("path down"),
            Self::AdminDown => f.write_str("administratively down"),
            Self::Other(code) => write!(f, "diagnostic {code}"),
        }
    }
}

/// A control packet. Intervals are in microseconds.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Packet {
    /// Why the sender's session left the state Up.
    pub diagnostic: Diagnostic,
    /// The state of the sender's session.
    pub state: State,
    /// Asks for a packet with `is_final`.
    pub poll: bool,
    /// Answers a packet with `poll`.
    pub is_final: bool,
    /// The sender wants no periodic packets.
    pub demand: bool,
    /// Missing packets after which the receiver declares the session down; not 0.
    pub multiplier: u8,
    /// Identifies the session on the sender; not 0.
    pub my_discriminator: u32,
    /// Identifies the session on the receiver; 0 while unknown.
    pub your_discriminator: u32,
    /// The interval at which the sender would like to send.
    pub desired_min_tx: u32,
    /// The shortest interval at which the sender can receive; 0 for never.
    pub required_min_rx: u32,
    /// The same for echo packets.
    pub required_min_echo_rx: u32,
}

/// Why a packet is discarded (RFC 5880 section 6.8.6).
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum PacketError {
    /// The length does not fit.
    #[error("wrong length")]
    Length,
    /// Another version than 1.
    #[error("unsupported version")]
    Version,
    /// Authentication, which is not in use.
    #[error("authentication is not in use")]
    Authentication,
    /// A field has a value that is not allowed.
    #[error("invalid field")]
    Field,
}

impl Packet {
    /// The octets of the packet.
    #[must_use]
    pub fn encode(&self) -> [u8; PACKET_LEN] {
        let flag = |set: bool, bit: u8| if set { bit } else { 0 };
        let mut octets = [0; PACKET_LEN];
        let flags = flag(self.poll, POLL) | flag(self.is_final, FINAL) | flag(self.demand, DEMAND);
        let head = [
            VERSION << 5 | self.diagnostic.code(),
            self.state.bits() << 6 | flags,
            self.multiplier,
            PACKET_LEN as u8,
        ];
        let words = [
            self.my_discriminator,
            self.your_discriminator,
            self.desired_min_tx,
            self.required_min_rx,
            self.required_min_echo_rx,
        ];
        let all = head
            .into_iter()
            .chain(words.into_iter().flat_map(u32::to_be_bytes));
        for (octet, value) in octets.iter_mut().zip(all) {
            *octet = value;
        }
        octets
    }

    /// Decodes the payload of a UDP datagram.
    ///
    /// # Errors
    /// When the packet has to be discarded.
    pub fn decode(payload: &[u8]) -> Result<Self, PacketError> {
        let (fixed, _) = payload
            .split_first_chunk::<PACKET_LEN>()
            .ok_or(PacketError::Length)?;
        let [first, second, multiplier, len, words @ ..] = *fixed;
        if first >> 5 != VERSION {
            return Err(PacketError::Version);
        }
        let authenticated = second & AUTHENTICATION != 0;
        let min = if authenticated {
            MIN_AUTHENTICATED_LEN
        } else {
            PACKET_LEN as u8
        };
        if len < min || usize::from(len) > payload.len() {
            return Err(PacketError::Length);
        }
        if authenticated {
            return Err(PacketError::Authentication);
        }
        let (words, _) = words.as_chunks::<4>();
        let [my, your, tx, rx, echo] = words else {
            return Err(PacketError::Length);
        };
        let packet = Self {
            diagnostic: Diagnostic::from_code(first),
            state: State::from_bits(second >> 6),
            poll: second & POLL != 0,
            is_final: second & FINAL != 0,
            demand: second & DEMAND != 0,
            multiplier,
            my_discriminator: u32::from_be_bytes(*my),
            your_discriminator: u32::from_be_bytes(*your),
            desired_min_tx: u32::from_be_bytes(*tx),
            required_min_rx: u32::from_be_bytes(*rx),
            required_min_echo_rx: u32::from_be_bytes(*echo),
        };
        let without_session = matches!(packet.state, State::Down | State::AdminDown);
        let valid = multiplier != 0
            && second & MULTIPOINT == 0
            && packet.my_discriminator != 0
            && (packet.your_discriminator != 0 || without_session);
        if valid {
            Ok(packet)
        } else {
            Err(PacketError::Field)
        }
    }
}
