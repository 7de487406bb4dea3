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
//! The decoder handles bytes that any host on the network can send. It computes at most one HMAC per key, allocates
//! nothing before that matches, and never panics.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

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
const FORMAT: u8 = 3;
const HEADER_LEN: usize = 33;
const HMAC_LEN: usize = 32;
/// Maximum length of a body that fits into a datagram with a node name of any length.
const MAX_BODY_LEN: usize = MAX_DATAGRAM_LEN - HEADER_LEN - MAX_NODE_NAME_LEN - HMAC_LEN;
const FRAGMENT_HEADER_LEN: usize = 12;
const CHANGE_HEADER_LEN: usize = 18;

const KIND_HEARTBEAT: u8 = 1;
const KIND_ANNOUNCED: u8 = 2;
const KIND_RESTORE: u8 = 3;
const KIND_VERIFICATION: u8 = 4;
const KIND_CHANGE: u8 = 5;

const TAG_V4: u8 = 4;
const TAG_V6: u8 = 6;
/// Flag of an entry's tag: [`EntryState::Offered`]; a node's hash follows the address.
const FLAG_OFFERED: u8 = 0x40;
/// Flag of an entry's tag: [`EntryState::Declined`], or unanswered in [`Message::Verification`].
const FLAG_DECLINED: u8 = 0x80;
/// Flags of an entry's tag: [`EntryState::Proxied`]; a node's hash follows the address.
const FLAG_PROXIED: u8 = FLAG_DECLINED | FLAG_OFFERED;
/// Flag of an entry's tag: [`EntryState::Withheld`].
const FLAG_WITHHELD: u8 = 0x20;
/// Flags of an entry's tag: [`EntryState::Leaving`].
const FLAG_LEAVING: u8 = FLAG_OFFERED | FLAG_WITHHELD;
/// Flags of an entry's tag: [`EntryState::Contested`]; the version follows the address.
const FLAG_CONTESTED: u8 = FLAG_DECLINED | FLAG_WITHHELD;
const ENTRY_FLAGS: u8 = FLAG_PROXIED | FLAG_WITHHELD;
/// Flag of a heartbeat's state: [`Heartbeat::reply_requested`].
const FLAG_REPLY_REQUESTED: u8 = 0x80;
/// Flag of a heartbeat's state: [`Heartbeat::hears_receiver`].
const FLAG_HEARS_RECEIVER: u8 = 0x40;
/// Flag of a heartbeat's state: [`Heartbeat::was_cut_off`].
const FLAG_WAS_CUT_OFF: u8 = 0x20;

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
    /// The last changes of the set of addresses that the sender announces. A receiver of an earlier version ignores it, and
    /// gets the whole set.
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

impl Entry {
    /// Maximum length of an encoded entry, in bytes.
    pub const MAX_ENCODED_LEN: usize = 25;

    /// An address in [`EntryState::Announced`].
    #[must_use]
    pub const fn announced(address: IpAddr) -> Self {
        Self {
            address,
            state: EntryState::Announced,
        }
    }

    /// Length of the encoded entry, in bytes.
    #[must_use]
    pub const fn encoded_len(&self) -> usize {
        let address = match self.address {
            IpAddr::V4(_) => 5,
            IpAddr::V6(_) => 17,
        };
        match self.state {
            EntryState::Announced | EntryState::Leaving | EntryState::Declined | EntryState::Withheld => {
                address
            }
            EntryState::Offered { .. } | EntryState::Proxied { .. } => address + 4,
            EntryState::Contested { .. } => address + 8,
        }
    }

    fn encode(self, body: &mut Vec<u8>) {
        let flag = match self.state {
            EntryState::Announced => 0,
            EntryState::Offered { .. } => FLAG_OFFERED,
            EntryState::Declined => FLAG_DECLINED,
            EntryState::Proxied { .. } => FLAG_PROXIED,
            EntryState::Withheld => FLAG_WITHHELD,
            EntryState::Leaving => FLAG_LEAVING,
            EntryState::Contested { .. } => FLAG_CONTESTED,
        };
        match self.address {
            IpAddr::V4(v4) => {
                body.push(TAG_V4 | flag);
                body.extend(v4.octets());
            }
            IpAddr::V6(v6) => {
                body.push(TAG_V6 | flag);
                body.extend(v6.octets());
            }
        }
        match self.state {
            EntryState::Offered { to: node } | EntryState::Proxied { owner: node } => {
                body.extend(node.to_be_bytes());
            }
            EntryState::Contested { version } => body.extend(version.to_be_bytes()),
            EntryState::Announced | EntryState::Leaving | EntryState::Declined | EntryState::Withheld => {}
        }
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, DatagramError> {
        let [tag] = reader.take()?;
        let address = match tag & !ENTRY_FLAGS {
            TAG_V4 => IpAddr::V4(Ipv4Addr::from(reader.take::<4>()?)),
            TAG_V6 => IpAddr::V6(Ipv6Addr::from(reader.take::<16>()?)),
            _ => return Err(DatagramError::Body),
        };
        let state = match tag & ENTRY_FLAGS {
            0 => EntryState::Announced,
            FLAG_WITHHELD => EntryState::Withheld,
            FLAG_LEAVING => EntryState::Leaving,
            FLAG_CONTESTED => EntryState::Contested {
                version: reader.u64()?,
            },
            FLAG_DECLINED => EntryState::Declined,
            FLAG_OFFERED => EntryState::Offered {
                to: u32::from_be_bytes(reader.take()?),
            },
            FLAG_PROXIED => EntryState::Proxied {
                owner: u32::from_be_bytes(reader.take()?),
            },
            _ => return Err(DatagramError::Body),
        };
        Ok(Self { address, state })
    }
}

fn encode(message: &Message) -> (u8, Vec<u8>) {
    let mut body = Vec::new();
    let kind = match message {
        Message::Heartbeat(heartbeat) => {
            heartbeat.encode(&mut body);
            KIND_HEARTBEAT
        }
        Message::Announced(fragment) => {
            fragment.encode(&mut body);
            KIND_ANNOUNCED
        }
        Message::Restore(fragment) => {
            fragment.encode(&mut body);
            KIND_RESTORE
        }
        Message::Verification { answered, unanswered } => {
            let entry = |state| {
                move |address: &IpAddr| Entry {
                    address: *address,
                    state,
                }
            };
            let answered = answered.iter().map(entry(EntryState::Announced));
            let unanswered = unanswered.iter().map(entry(EntryState::Declined));
            encode_entries(answered.chain(unanswered), &mut body);
            KIND_VERIFICATION
        }
        Message::Change(change) => {
            change.encode(&mut body);
            KIND_CHANGE
        }
    };
    (kind, body)
}

fn encode_entries(entries: impl IntoIterator<Item = Entry>, body: &mut Vec<u8>) {
    for entry in entries {
        if body.len() + entry.encoded_len() > MAX_BODY_LEN {
            return;
        }
        entry.encode(body);
    }
}

fn decode(kind: u8, body: &[u8]) -> Result<Message, DatagramError> {
    let mut reader = Reader(body);
    let message = match kind {
        KIND_HEARTBEAT => Message::Heartbeat(Heartbeat::decode(&mut reader)?),
        KIND_ANNOUNCED => Message::Announced(Fragment::decode(&mut reader)?),
        KIND_RESTORE => Message::Restore(Fragment::decode(&mut reader)?),
        KIND_VERIFICATION => {
            let (mut answered, mut unanswered) = (Vec::new(), Vec::new());
            while !reader.0.is_empty() {
                let entry = Entry::decode(&mut reader)?;
                match entry.state {
                    EntryState::Announced => answered.push(entry.address),
                    EntryState::Declined => unanswered.push(entry.address),
                    _ => return Err(DatagramError::Body),
                }
            }
            Message::Verification { answered, unanswered }
        }
        KIND_CHANGE => Message::Change(SetChange::decode(&mut reader)?),
        other => return Err(DatagramError::Kind(other)),
    };
    if reader.0.is_empty() {
        Ok(message)
    } else {
        Err(DatagramError::Body)
    }
}

impl Heartbeat {
    fn encode(&self, body: &mut Vec<u8>) {
        let (code, grace) = match self.state {
            SpeakerState::Up => (0, Duration::ZERO),
            SpeakerState::Starting { grace } => (1, grace),
            SpeakerState::Restarting { grace } => (2, grace),
            SpeakerState::Draining => (3, Duration::ZERO),
        };
        let version = prefix(&self.version, MAX_VERSION_LEN);
        let macs = self.macs.get(..MAX_MACS).unwrap_or(&self.macs);
        let flags = [
            (self.reply_requested, FLAG_REPLY_REQUESTED),
            (self.hears_receiver, FLAG_HEARS_RECEIVER),
            (self.was_cut_off, FLAG_WAS_CUT_OFF),
        ];
        let set = flags.into_iter().filter(|(set, _)| *set);
        body.push(set.fold(code, |code, (_, flag)| code | flag));
        body.extend(u32::try_from(grace.as_millis()).unwrap_or(u32::MAX).to_be_bytes());
        body.extend(
            u16::try_from(self.interval.as_millis())
                .unwrap_or(u16::MAX)
                .to_be_bytes(),
        );
        body.extend(self.api_version.to_be_bytes());
        body.extend(self.announced_digest.to_be_bytes());
        body.extend(self.known_digest.to_be_bytes());
        body.push(version.len() as u8);
        body.extend(version);
        body.push(macs.len() as u8);
        body.extend(macs.iter().flat_map(|mac| mac.0));
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, DatagramError> {
        let [code] = reader.take()?;
        let grace = Duration::from_millis(u32::from_be_bytes(reader.take()?).into());
        let flags = FLAG_REPLY_REQUESTED | FLAG_HEARS_RECEIVER | FLAG_WAS_CUT_OFF;
        let state = match (code & !flags, grace) {
            (0, Duration::ZERO) => SpeakerState::Up,
            (1, grace) => SpeakerState::Starting { grace },
            (2, grace) => SpeakerState::Restarting { grace },
            (3, Duration::ZERO) => SpeakerState::Draining,
            _ => return Err(DatagramError::Body),
        };
        let interval = Duration::from_millis(u16::from_be_bytes(reader.take()?).into());
        let api_version = reader.u64()?;
        let announced_digest = reader.u64()?;
        let known_digest = reader.u64()?;
        let [len] = reader.take()?;
        let (version, rest) = reader.0.split_at_checked(len.into()).ok_or(DatagramError::Body)?;
        let version = std::str::from_utf8(version).map_err(|_| DatagramError::Body)?;
        if version.len() > MAX_VERSION_LEN {
            return Err(DatagramError::Body);
        }
        reader.0 = rest;
        let [count] = reader.take()?;
        if usize::from(count) > MAX_MACS {
            return Err(DatagramError::Body);
        }
        let mut macs = Vec::with_capacity(count.into());
        for _ in 0..count {
            macs.push(MacAddr(reader.take()?));
        }
        Ok(Self {
            state,
            reply_requested: code & FLAG_REPLY_REQUESTED != 0,
            hears_receiver: code & FLAG_HEARS_RECEIVER != 0,
            was_cut_off: code & FLAG_WAS_CUT_OFF != 0,
            interval,
            version: version.to_owned(),
            api_version,
            announced_digest,
            known_digest,
            macs,
        })
    }
}

impl Fragment {
    fn encode(&self, body: &mut Vec<u8>) {
        body.extend(self.digest.to_be_bytes());
        body.extend(self.index.to_be_bytes());
        body.extend(self.count.to_be_bytes());
        encode_entries(self.entries.iter().copied(), body);
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, DatagramError> {
        let digest = reader.u64()?;
        let index = u16::from_be_bytes(reader.take()?);
        let count = u16::from_be_bytes(reader.take()?);
        if index >= count {
            return Err(DatagramError::Body);
        }
        let mut entries = Vec::new();
        while !reader.0.is_empty() {
            entries.push(Entry::decode(reader)?);
        }
        Ok(Self {
            digest,
            index,
            count,
            entries,
        })
    }
}

impl SetChange {
    fn encode(&self, body: &mut Vec<u8>) {
        body.extend(self.from.to_be_bytes());
        body.extend(self.to.to_be_bytes());
        body.extend(
            u16::try_from(self.entries.len())
                .unwrap_or(u16::MAX)
                .to_be_bytes(),
        );
        let removed = self.removed.iter().copied().map(Entry::announced);
        encode_entries(self.entries.iter().copied().chain(removed), body);
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, DatagramError> {
        let (from, to) = (reader.u64()?, reader.u64()?);
        let count = u16::from_be_bytes(reader.take()?);
        // Not allocated in advance: the count may exceed the rest of the body.
        let mut entries = Vec::new();
        for _ in 0..count {
            entries.push(Entry::decode(reader)?);
        }
        let mut removed = Vec::new();
        while !reader.0.is_empty() {
            let entry = Entry::decode(reader)?;
            if entry.state != EntryState::Announced {
                return Err(DatagramError::Body);
            }
            removed.push(entry.address);
        }
        Ok(Self {
            from,
            to,
            entries,
            removed,
        })
    }
}

/// The undecoded rest of a body.
struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], DatagramError> {
        let (bytes, rest) = self.0.split_first_chunk().ok_or(DatagramError::Body)?;
        self.0 = rest;
        Ok(*bytes)
    }

    fn u64(&mut self) -> Result<u64, DatagramError> {
        self.take().map(u64::from_be_bytes)
    }
}

/// The first whole characters of `text` that fit into `max_len` bytes.
fn prefix(text: &str, max_len: usize) -> &[u8] {
    let end = text.floor_char_boundary(max_len.min(text.len()));
    text.as_bytes().get(..end).unwrap_or_default()
}
