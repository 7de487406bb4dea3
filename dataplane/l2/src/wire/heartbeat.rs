//! The heartbeat protocol: speakers report their state and the addresses that they announce.
//!
//! ```text
//!  0  magic "LBHB"            8  sender's incarnation             33  length of the node name, node name
//!  4  format, 3              16  sequence number                      body
//!  5  message kind           24  receiver's incarnation (echo)        HMAC-SHA256 (RFC 2104) over all before, 32 bytes
//!  6  length of the body                                          (integers in network byte order)
//! ```
//!
//! Authentication: all speakers of a cluster share a key; during a key rotation the previous key remains valid.
//!
//! Freshness: each speaker chooses an incarnation at startup, and a datagram must echo the receiver's incarnation. A
//! recorded datagram is therefore rejected, also by a speaker that has restarted and lost its state. Within one
//! incarnation of the sender, sequence numbers increase ([`crate::ownership::replay`]).
//!
//! Compatibility: speakers of two releases run side by side during an upgrade. The format number changes only with the
//! meaning or the place of what is there; datagrams of another format are rejected. Within a format a release may add
//! flags to a heartbeat and fields to its end, and message kinds: a receiver ignores flags and fields that it does not
//! know, and drops messages of other kinds. Nothing that a receiver needs may depend on them. The lists of entries have no
//! end for further fields, and an entry in an unknown state is rejected with its message, because the digest of a set
//! covers it: such a state may be sent only to a peer whose heartbeats have a flag or field for it. A peer that has the
//! key gains nothing: unknown bytes are authenticated, count towards [`MAX_DATAGRAM_LEN`], and are neither read nor kept.
//!
//! The decoder handles bytes that any host on the network can send. It computes at most one HMAC per key, allocates
//! nothing before that matches, and never panics.

mod codec;

use std::net::IpAddr;
use std::time::Duration;

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use self::codec::{Reader, decode, encode, prefix};
use crate::MacAddr;

/// Maximum length of a datagram, in bytes: it fits into one Ethernet frame, also over IPv6 and with encapsulation.
pub const MAX_DATAGRAM_LEN: usize = 1400;
/// Minimum length of a key, in bytes.
pub const MIN_KEY_LEN: usize = 16;
/// Maximum length of a node name, in bytes: Kubernetes' limit.
pub const MAX_NODE_NAME_LEN: usize = 253;
/// Maximum length of a program version, in bytes.
pub const MAX_VERSION_LEN: usize = 64;
/// Maximum number of MACs in a heartbeat.
pub const MAX_MACS: usize = 16;
/// Maximum length of the encoded entries of a fragment, in bytes.
pub const MAX_ENTRIES_LEN: usize = MAX_BODY_LEN - FRAGMENT_HEADER_LEN;
/// Maximum length of the encoded entries of a [`SetChange`], in bytes.
pub const MAX_CHANGE_LEN: usize = MAX_BODY_LEN - CHANGE_HEADER_LEN;

const MAGIC: [u8; 4] = *b"LBHB";
/// The format of the datagrams; those of another format are rejected.
pub const FORMAT: u8 = 3;
const HEADER_LEN: usize = 33;
const HMAC_LEN: usize = 32;
/// Maximum length of a body that fits into a datagram with a node name of any length.
const MAX_BODY_LEN: usize = MAX_DATAGRAM_LEN - HEADER_LEN - MAX_NODE_NAME_LEN - HMAC_LEN;
const FRAGMENT_HEADER_LEN: usize = 12;
const CHANGE_HEADER_LEN: usize = 18;

/// One datagram from a speaker to another.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Datagram {
    /// The sender's node.
    pub node: String,
    /// The sender's incarnation: chosen at startup, greater than all previous ones.
    pub incarnation: u64,
    /// Increases with each datagram of an incarnation.
    pub sequence: u64,
    /// The receiver's incarnation that the sender last received; 0 if it has received none.
    pub echo: u64,
    /// The content.
    pub message: Message,
}

/// The content of a [`Datagram`].
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Message {
    /// The sender is alive.
    Heartbeat(Heartbeat),
    /// A fragment of the set of addresses that the sender announces.
    Announced(Fragment),
    /// A fragment of the set of addresses that the receiver announced before it restarted, as the sender remembers it.
    Restore(Fragment),
    /// The result of verifying by probes that the receiver answers for its addresses.
    Verification {
        /// The addresses that the receiver answered for.
        answered: Vec<IpAddr>,
        /// The addresses that no host answered for.
        unanswered: Vec<IpAddr>,
    },
    /// The last changes of the set of addresses that the sender announces. A receiver that does not know it gets the whole
    /// set.
    Change(SetChange),
}

impl Message {
    /// The number of variants.
    pub const KINDS: usize = 5;

    /// The index of the variant, below [`KINDS`](Self::KINDS).
    #[must_use]
    pub const fn kind(&self) -> usize {
        match self {
            Self::Heartbeat(_) => 0,
            Self::Announced(_) => 1,
            Self::Restore(_) => 2,
            Self::Verification { .. } => 3,
            Self::Change(_) => 4,
        }
    }
}

/// The periodic message to each peer.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Heartbeat {
    /// The sender's state.
    pub state: SpeakerState,
    /// The receiver's own heartbeat is late; it replies at once.
    pub reply_requested: bool,
    /// The sender receives the heartbeats of the receiver.
    pub hears_receiver: bool,
    /// The sender reached no majority of its peers, or stood still, a moment ago. Its addresses may have new owners.
    pub was_cut_off: bool,
    /// The time until the sender's next heartbeat; encoded in whole milliseconds.
    pub interval: Duration,
    /// The version of the sender's program.
    pub version: String,
    /// The newest resource version that the sender has received from the API server; 0 if it knows none.
    pub api_version: u64,
    /// The digest of the sender's announced set. A receiver that knows another digest needs all fragments of the set.
    pub announced_digest: u64,
    /// The digest of the receiver's announced set that the sender knows.
    pub known_digest: u64,
    /// The MACs with which the sender answers, at most [`MAX_MACS`].
    pub macs: Vec<MacAddr>,
}

/// A part of a set of addresses that fits into one datagram; see [`crate::ownership::announced_set`].
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Fragment {
    /// The digest of the whole set.
    pub digest: u64,
    /// The index of this fragment, from 0.
    pub index: u16,
    /// The number of fragments of the set.
    pub count: u16,
    /// The addresses in this fragment.
    pub entries: Vec<Entry>,
}

/// The difference between two sets of addresses; see [`crate::ownership::announced_set`].
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct SetChange {
    /// The digest of the set before.
    pub from: u64,
    /// The digest of the set after.
    pub to: u64,
    /// New and changed entries.
    pub entries: Vec<Entry>,
    /// Removed addresses.
    pub removed: Vec<IpAddr>,
}

/// One address in a [`Fragment`].
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Entry {
    /// The address.
    pub address: IpAddr,
    /// The sender's state for the address.
    pub state: EntryState,
}

/// The sender's state for one address.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum EntryState {
    /// It announces the address.
    Announced,
    /// It announces the address until the node that it offers it to has announced it (hand-over).
    Offered {
        /// The hash of that node: [`crate::ownership::election::short_hash`].
        to: u32,
    },
    /// It announces the address until any other node does, because it is no candidate.
    Leaving,
    /// It announces the address, although another node does: by its view of the API, the other one may not.
    Contested {
        /// The resource version at which the candidates changed last in its view.
        version: u64,
    },
    /// It cannot announce the address, because it has no interface for it.
    Declined,
    /// It does not announce the address, although it would be the owner, because another host has it.
    Withheld,
    /// It sends proxy replies for the owner, which is restarting.
    Proxied {
        /// The hash of the owner: [`crate::ownership::election::short_hash`].
        owner: u32,
    },
}

/// The state of a speaker.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum SpeakerState {
    /// It announces its addresses.
    Up,
    /// It has started and does not know its addresses yet.
    Starting {
        /// How long the peers keep its previous addresses for it; encoded in whole milliseconds.
        grace: Duration,
    },
    /// It is about to restart.
    Restarting {
        /// How long the peers keep its addresses for it; encoded in whole milliseconds.
        grace: Duration,
    },
    /// It hands over all its addresses to the next candidates.
    Draining,
}

/// Why a datagram is rejected: one variant per field.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum DatagramError {
    /// The datagram is shorter than its headers or its length field.
    #[error("truncated datagram: {0} bytes")]
    Truncated(usize),
    /// The datagram is longer than [`MAX_DATAGRAM_LEN`].
    #[error("datagram of {0} bytes exceeds the maximum of {MAX_DATAGRAM_LEN}")]
    TooLong(usize),
    /// The magic number is wrong.
    #[error("not a heartbeat datagram")]
    Magic,
    /// The format is unsupported.
    #[error("unsupported format {0}, expected {FORMAT}")]
    Format(u8),
    /// The HMAC matches no known key.
    #[error("no known key authenticates the datagram")]
    Authentication,
    /// The node name is empty, too long or not UTF-8.
    #[error("invalid node name")]
    Name,
    /// The message kind is unknown.
    #[error("unknown message kind {0}")]
    Kind(u8),
    /// The body does not match its message kind.
    #[error("invalid message body")]
    Body,
    /// The sender is this node or not a node of the cluster.
    #[error("sender is not a peer")]
    UnknownSender,
    /// The echo is not our incarnation: a recording, or the sender has not received our current incarnation yet.
    #[error("echo of another incarnation")]
    Echo,
    /// The sequence number is not greater than the last one of its message kind.
    #[error("sequence number already received")]
    Replayed,
}

impl DatagramError {
    /// Every error, whatever its value.
    pub const ALL: [Self; 11] = [
        Self::Truncated(0),
        Self::TooLong(0),
        Self::Magic,
        Self::Format(0),
        Self::Authentication,
        Self::Name,
        Self::Kind(0),
        Self::Body,
        Self::UnknownSender,
        Self::Echo,
        Self::Replayed,
    ];

    /// A short constant name, for a metric label.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Truncated(_) => "truncated",
            Self::TooLong(_) => "too_long",
            Self::Magic => "magic",
            Self::Format(_) => "format",
            Self::Authentication => "authentication",
            Self::Name => "name",
            Self::Kind(_) => "kind",
            Self::Body => "body",
            Self::UnknownSender => "unknown_sender",
            Self::Echo => "echo",
            Self::Replayed => "replayed",
        }
    }
}

/// The shared keys of a cluster. The first signs datagrams; all of them verify.
#[derive(Clone)]
pub struct HeartbeatKeys(Vec<Hmac<Sha256>>);

impl std::fmt::Debug for HeartbeatKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The keys are secret.
        write!(f, "HeartbeatKeys({})", self.0.len())
    }
}

impl HeartbeatKeys {
    /// Takes the signing key first, then the keys that are still valid. Returns `None` without keys, or if one is
    /// shorter than [`MIN_KEY_LEN`].
    #[must_use]
    pub fn new<'a>(keys: impl IntoIterator<Item = &'a [u8]>) -> Option<Self> {
        let key = |bytes: &[u8]| {
            (bytes.len() >= MIN_KEY_LEN)
                .then(|| Hmac::new_from_slice(bytes).ok())
                .flatten()
        };
        let keys = keys.into_iter().map(key).collect::<Option<Vec<_>>>()?;
        (!keys.is_empty()).then_some(Self(keys))
    }

    /// Encodes and signs a datagram. Truncates a name or version that is too long and drops entries that do not fit;
    /// callers keep within the limits.
    #[must_use]
    pub fn seal(&self, datagram: &Datagram) -> Vec<u8> {
        let (kind, body) = encode(&datagram.message);
        let name = prefix(&datagram.node, MAX_NODE_NAME_LEN);
        let mut bytes = Vec::with_capacity(HEADER_LEN + name.len() + body.len() + HMAC_LEN);
        bytes.extend(MAGIC);
        bytes.extend([FORMAT, kind]);
        bytes.extend(u16::try_from(body.len()).unwrap_or(u16::MAX).to_be_bytes());
        bytes.extend(datagram.incarnation.to_be_bytes());
        bytes.extend(datagram.sequence.to_be_bytes());
        bytes.extend(datagram.echo.to_be_bytes());
        bytes.push(name.len() as u8);
        bytes.extend(name);
        bytes.extend(body);
        let tag = self
            .0
            .first()
            .map(|key| key.clone().chain_update(&bytes).finalize());
        bytes.extend(tag.map(|tag| tag.into_bytes()).unwrap_or_default());
        bytes
    }

    /// The incarnation that a datagram echoes, before it is verified: a sender that has not heard from this speaker does not
    /// know the present one.
    ///
    /// # Errors
    /// If the datagram is malformed.
    pub fn peek_echo(bytes: &[u8]) -> Result<u64, DatagramError> {
        if bytes.len() > MAX_DATAGRAM_LEN {
            return Err(DatagramError::TooLong(bytes.len()));
        }
        let (header, _) = bytes
            .split_first_chunk::<HEADER_LEN>()
            .ok_or(DatagramError::Truncated(bytes.len()))?;
        if !header.starts_with(&MAGIC) {
            return Err(DatagramError::Magic);
        }
        Reader(&header[24..]).u64()
    }

    /// Verifies and decodes a datagram.
    ///
    /// # Errors
    /// If no key authenticates the datagram, or it is malformed.
    pub fn open(&self, bytes: &[u8]) -> Result<Datagram, DatagramError> {
        if bytes.len() > MAX_DATAGRAM_LEN {
            return Err(DatagramError::TooLong(bytes.len()));
        }
        let truncated = DatagramError::Truncated(bytes.len());
        let (signed, tag) = bytes.split_last_chunk::<HMAC_LEN>().ok_or(truncated)?;
        let (header, rest) = signed.split_first_chunk::<HEADER_LEN>().ok_or(truncated)?;
        let &[a, b, c, d, format, kind, high, low, ..] = header;
        if [a, b, c, d] != MAGIC {
            return Err(DatagramError::Magic);
        }
        if format != FORMAT {
            return Err(DatagramError::Format(format));
        }
        let authenticates = |key: &Hmac<Sha256>| key.clone().chain_update(signed).verify_slice(tag).is_ok();
        if !self.0.iter().any(authenticates) {
            return Err(DatagramError::Authentication);
        }
        let (name, body) = rest
            .split_at_checked(usize::from(header[HEADER_LEN - 1]))
            .ok_or(truncated)?;
        if body.len() != usize::from(u16::from_be_bytes([high, low])) {
            return Err(truncated);
        }
        let name = std::str::from_utf8(name).map_err(|_| DatagramError::Name)?;
        if name.is_empty() || name.len() > MAX_NODE_NAME_LEN {
            return Err(DatagramError::Name);
        }
        let mut header = Reader(&header[8..]);
        Ok(Datagram {
            node: name.to_owned(),
            incarnation: header.u64()?,
            sequence: header.u64()?,
            echo: header.u64()?,
            message: decode(kind, body)?,
        })
    }
}
