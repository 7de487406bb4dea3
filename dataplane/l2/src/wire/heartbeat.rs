//! What speakers tell each other: that they live, in what state, and which addresses they answer for.
//!
//! ```text
//!  0  magic "LBHB"                    8  incarnation of the sender       33  length of the name, name
//!  4  format, 1                      16  number of the datagram              body
//!  5  kind of the message            24  incarnation of the receiver         HMAC-SHA256 over all before (32)
//!  6  length of the body                                              (numbers in the order of the network)
//! ```
//!
//! A datagram is authenticated by a key that all speakers of a cluster have; while the key is changed, the old one counts
//! too. It is fresh when it names the incarnation of who receives it, which that one made up at its start and has told:
//! so a datagram that was recorded earlier convinces nobody, also not a speaker that has forgotten everything. Within one
//! incarnation of the sender the numbers rise ([`crate::ownership::replay`]).
//!
//! Decoding is of bytes that anybody on the network can send: it costs one HMAC at most for each key, allocates nothing
//! before that is right, and never panics.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use crate::MacAddr;

/// The longest datagram: it fits into one Ethernet frame, also over IPv6 and with some encapsulation.
pub const MAX_LEN: usize = 1400;
/// The shortest key, in bytes.
pub const MIN_KEY: usize = 16;
/// The longest name of a node: Kubernetes' limit.
pub const MAX_NAME: usize = 253;
/// The longest version of a program.
pub const MAX_VERSION: usize = 64;

const MAGIC: [u8; 4] = *b"LBHB";
const FORMAT: u8 = 1;
const HEADER_LEN: usize = 33;
const TAG_LEN: usize = 32;
const HEARTBEAT: u8 = 1;
const CLAIMS: u8 = 2;
const YOURS: u8 = 3;
const SEEN: u8 = 4;

/// Bytes of a body that fit into a datagram, whatever the length of the name.
const MAX_BODY: usize = MAX_LEN - HEADER_LEN - MAX_NAME - TAG_LEN;
/// Bytes of a [`Part`] before its entries.
const PART_LEN: usize = 12;
/// Most bytes of the entries of one part.
pub const MAX_ENTRIES_LEN: usize = MAX_BODY - PART_LEN;
/// Most hardware addresses in a heartbeat.
pub const MAX_MACS: usize = 16;

const TAG_V4: u8 = 4;
const TAG_V6: u8 = 6;
/// Added to a tag: declined, or in [`Message::Seen`] silent.
const TAG_NOT: u8 = 0x80;
/// Added to the code of a state: the receiver is asked for an answer.
const ASKS: u8 = 0x80;
/// Added to a tag: offered; the mark of the node follows the address.
const TAG_OFFERED: u8 = 0x40;
/// Added to a tag: another's, that we stand in for; the mark of that node follows the address.
const TAG_STANDS_IN: u8 = TAG_NOT | TAG_OFFERED;

/// What one speaker tells another.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Datagram {
    /// The sender's node.
    pub node: String,
    /// Made up by the sender at its start, greater than any before.
    pub incarnation: u64,
    /// Rises with each datagram of an incarnation.
    pub number: u64,
    /// The receiver's incarnation, as the sender has heard it last; 0 when it has not heard of it.
    pub echo: u64,
    /// What it is about.
    pub message: Message,
}

/// What a datagram is about.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Message {
    /// The sender lives.
    Heartbeat(Heartbeat),
    /// A part of the addresses that the sender answers for.
    Claims(Part),
    /// A part of the addresses that the receiver has answered for before it started, as the sender remembers them.
    Yours(Part),
    /// What the sender saw when it asked the wire about addresses of the receiver.
    Seen {
        /// Addresses that the receiver answered for.
        answered: Vec<IpAddr>,
        /// Addresses that nobody answered for.
        silent: Vec<IpAddr>,
    },
}

impl Message {
    /// How many kinds there are.
    pub const KINDS: usize = 4;

    /// Its kind, as a number below [`KINDS`](Self::KINDS).
    #[must_use]
    pub const fn kind(&self) -> usize {
        match self {
            Self::Heartbeat(_) => 0,
            Self::Claims(_) => 1,
            Self::Yours(_) => 2,
            Self::Seen { .. } => 3,
        }
    }
}

/// The sign of life.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Heartbeat {
    /// In what state the sender is.
    pub state: State,
    /// The receiver's own heartbeat is late: it is to answer at once.
    pub asks: bool,
    /// The time to its next heartbeat, in whole milliseconds.
    pub interval: Duration,
    /// The version of its program.
    pub version: String,
    /// A digest of all that it claims: who knows another has to be told.
    pub claims: u64,
    /// The digest of the receiver's claims that it knows.
    pub knows: u64,
    /// The hardware addresses from which it answers, at most [`MAX_MACS`].
    pub macs: Vec<MacAddr>,
}

/// A part of a set of addresses that does not fit into one datagram; see [`crate::ownership::announced_set`].
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Part {
    /// The digest of the whole.
    pub digest: u64,
    /// Which part it is, from 0.
    pub number: u16,
    /// How many parts there are.
    pub of: u16,
    /// The addresses of this part.
    pub entries: Vec<Entry>,
}

/// One address in a [`Part`].
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Entry {
    /// The address.
    pub address: IpAddr,
    /// What the sender has to say of it.
    pub stance: EntryState,
}

/// How a speaker stands to an address.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum EntryState {
    /// It answers for it.
    Claimed,
    /// It answers for it, until the node to which it offers it has claimed it.
    Offered {
        /// Which node that is: [`crate::ownership::election::mark`].
        to: u32,
    },
    /// It does not answer for it, and could not, because it has no interface for it.
    Declined,
    /// It is another's, which restarts and is waited for; until then it answers in that one's place.
    StandsIn {
        /// Which node that is: [`crate::ownership::election::mark`].
        of: u32,
    },
}

/// In what state a speaker is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum State {
    /// It answers for its addresses.
    Up,
    /// It has started and does not know yet what is its own: what it had before it wants to keep, for so long at most, in
    /// whole milliseconds.
    Starting {
        /// How long.
        grace: Duration,
    },
    /// It is about to restart and wants to keep its addresses, for so long at most, in whole milliseconds.
    Leaving {
        /// How long.
        grace: Duration,
    },
    /// It gives its addresses away: whoever is next is to claim them.
    Draining,
}

/// Why a datagram is refused: one variant per field.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum RejectReason {
    /// Too short, or shorter than it says.
    #[error("datagram of {0} bytes is cut off")]
    Truncated(usize),
    /// Longer than [`MAX_LEN`].
    #[error("datagram of {0} bytes is longer than {MAX_LEN}")]
    TooLong(usize),
    /// Not ours.
    #[error("not a heartbeat")]
    Magic,
    /// Of another format.
    #[error("format {0} is not {FORMAT}")]
    Format(u8),
    /// No key of ours has made it.
    #[error("no known key has made it")]
    Authentication,
    /// The sender's name is empty, too long, or no text.
    #[error("the name of the sender's node cannot be read")]
    Name,
    /// A kind of message that we do not know.
    #[error("kind {0} is not known")]
    Kind(u8),
    /// The body does not have the form of its kind.
    #[error("the body cannot be read")]
    Body,
    /// From a node that is none of the cluster, or from ourselves.
    #[error("from no peer")]
    Stranger,
    /// It names another incarnation of ours: recorded earlier, or the sender has not heard of us yet.
    #[error("made for another incarnation")]
    Echo,
    /// Not newer than what the sender has told already in a message of that kind.
    #[error("not newer than what was told")]
    Replayed,
}

impl RejectReason {
    /// A short constant name, for the label of a metric.
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
            Self::Stranger => "stranger",
            Self::Echo => "echo",
            Self::Replayed => "replayed",
        }
    }
}

/// The keys of a cluster: the first makes datagrams, all of them are believed.
#[derive(Clone)]
pub struct Keys(Vec<Hmac<Sha256>>);

impl std::fmt::Debug for Keys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // They are secret.
        write!(f, "Keys({})", self.0.len())
    }
}

impl Keys {
    /// Keys in order: the present one, then those that still count. None without any, or with one shorter than [`MIN_KEY`].
    #[must_use]
    pub fn new<'a>(keys: impl IntoIterator<Item = &'a [u8]>) -> Option<Self> {
        let key = |bytes: &[u8]| {
            (bytes.len() >= MIN_KEY)
                .then(|| Hmac::new_from_slice(bytes).ok())
                .flatten()
        };
        let keys = keys.into_iter().map(key).collect::<Option<Vec<_>>>()?;
        (!keys.is_empty()).then_some(Self(keys))
    }

    /// The bytes of a datagram. Names and versions that are too long are cut, and entries that do not fit left out: who
    /// makes datagrams keeps to the limits.
    #[must_use]
    pub fn seal(&self, datagram: &Datagram) -> Vec<u8> {
        let (kind, body) = encode(&datagram.message);
        let name = cut(&datagram.node, MAX_NAME);
        let mut bytes = Vec::with_capacity(HEADER_LEN + name.len() + body.len() + TAG_LEN);
        bytes.extend(MAGIC);
        bytes.extend([FORMAT, kind]);
        bytes.extend(short(body.len()).to_be_bytes());
        bytes.extend(datagram.incarnation.to_be_bytes());
        bytes.extend(datagram.number.to_be_bytes());
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

    /// Reads a datagram that one of the keys has made.
    ///
    /// # Errors
    /// When there is no such key, or the bytes are not what they should be.
    pub fn open(&self, bytes: &[u8]) -> Result<Datagram, RejectReason> {
        if bytes.len() > MAX_LEN {
            return Err(RejectReason::TooLong(bytes.len()));
        }
        let cut_off = RejectReason::Truncated(bytes.len());
        let (signed, tag) = bytes.split_last_chunk::<TAG_LEN>().ok_or(cut_off)?;
        let (header, rest) = signed.split_first_chunk::<HEADER_LEN>().ok_or(cut_off)?;
        let &[a, b, c, d, format, kind, high, low, ..] = header;
        if [a, b, c, d] != MAGIC {
            return Err(RejectReason::Magic);
        }
        if format != FORMAT {
            return Err(RejectReason::Format(format));
        }
        let made_by = |key: &&Hmac<Sha256>| {
            let made = (*key).clone().chain_update(signed);
            made.verify_slice(tag).is_ok()
        };
        self.0.iter().find(made_by).ok_or(RejectReason::Authentication)?;
        let (name, body) = rest
            .split_at_checked(usize::from(header[HEADER_LEN - 1]))
            .ok_or(cut_off)?;
        if body.len() != usize::from(u16::from_be_bytes([high, low])) {
            return Err(cut_off);
        }
        let name = std::str::from_utf8(name).map_err(|_| RejectReason::Name)?;
        if name.is_empty() || name.len() > MAX_NAME {
            return Err(RejectReason::Name);
        }
        let mut numbers = Reader(&header[8..]);
        Ok(Datagram {
            node: name.to_owned(),
            incarnation: numbers.u64()?,
            number: numbers.u64()?,
            echo: numbers.u64()?,
            message: decode(kind, body)?,
        })
    }
}

impl Entry {
    /// Bytes that the longest one takes in a datagram.
    pub const LONGEST: usize = 21;

    /// An address that is answered for.
    #[must_use]
    pub const fn claimed(address: IpAddr) -> Self {
        Self {
            address,
            stance: EntryState::Claimed,
        }
    }

    /// Bytes that it takes in a datagram.
    #[must_use]
    pub const fn encoded_len(&self) -> usize {
        let address = match self.address {
            IpAddr::V4(_) => 5,
            IpAddr::V6(_) => 17,
        };
        match self.stance {
            EntryState::Claimed | EntryState::Declined => address,
            EntryState::Offered { .. } | EntryState::StandsIn { .. } => address + 4,
        }
    }

    fn encode(self, body: &mut Vec<u8>) {
        let flag = match self.stance {
            EntryState::Claimed => 0,
            EntryState::Offered { .. } => TAG_OFFERED,
            EntryState::Declined => TAG_NOT,
            EntryState::StandsIn { .. } => TAG_STANDS_IN,
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
        if let EntryState::Offered { to: node } | EntryState::StandsIn { of: node } = self.stance {
            body.extend(node.to_be_bytes());
        }
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, RejectReason> {
        let [tag] = reader.take()?;
        let address = match tag & !TAG_STANDS_IN {
            TAG_V4 => IpAddr::V4(Ipv4Addr::from(reader.take::<4>()?)),
            TAG_V6 => IpAddr::V6(Ipv6Addr::from(reader.take::<16>()?)),
            _ => return Err(RejectReason::Body),
        };
        let stance = match tag & TAG_STANDS_IN {
            TAG_NOT => EntryState::Declined,
            TAG_OFFERED => EntryState::Offered {
                to: u32::from_be_bytes(reader.take()?),
            },
            TAG_STANDS_IN => EntryState::StandsIn {
                of: u32::from_be_bytes(reader.take()?),
            },
            _ => EntryState::Claimed,
        };
        Ok(Self { address, stance })
    }
}

fn encode(message: &Message) -> (u8, Vec<u8>) {
    let mut body = Vec::new();
    let kind = match message {
        Message::Heartbeat(heartbeat) => {
            heartbeat.encode(&mut body);
            HEARTBEAT
        }
        Message::Claims(part) => {
            part.encode(&mut body);
            CLAIMS
        }
        Message::Yours(part) => {
            part.encode(&mut body);
            YOURS
        }
        Message::Seen { answered, silent } => {
            let entry = |stance| {
                move |address: &IpAddr| Entry {
                    address: *address,
                    stance,
                }
            };
            let answered = answered.iter().map(entry(EntryState::Claimed));
            let silent = silent.iter().map(entry(EntryState::Declined));
            encode_entries(answered.chain(silent), &mut body);
            SEEN
        }
    };
    (kind, body)
}

fn encode_entries(entries: impl IntoIterator<Item = Entry>, body: &mut Vec<u8>) {
    for entry in entries {
        if body.len() + entry.encoded_len() > MAX_BODY {
            return;
        }
        entry.encode(body);
    }
}

fn decode(kind: u8, body: &[u8]) -> Result<Message, RejectReason> {
    let mut reader = Reader(body);
    let message = match kind {
        HEARTBEAT => Message::Heartbeat(Heartbeat::decode(&mut reader)?),
        CLAIMS => Message::Claims(Part::decode(&mut reader)?),
        YOURS => Message::Yours(Part::decode(&mut reader)?),
        SEEN => {
            let (mut answered, mut silent) = (Vec::new(), Vec::new());
            while !reader.0.is_empty() {
                let entry = Entry::decode(&mut reader)?;
                match entry.stance {
                    EntryState::Claimed => answered.push(entry.address),
                    EntryState::Declined => silent.push(entry.address),
                    EntryState::Offered { .. } | EntryState::StandsIn { .. } => {
                        return Err(RejectReason::Body);
                    }
                }
            }
            Message::Seen { answered, silent }
        }
        other => return Err(RejectReason::Kind(other)),
    };
    if reader.0.is_empty() {
        Ok(message)
    } else {
        Err(RejectReason::Body)
    }
}

impl Heartbeat {
    fn encode(&self, body: &mut Vec<u8>) {
        let (code, grace) = match self.state {
            State::Up => (0, Duration::ZERO),
            State::Starting { grace } => (1, grace),
            State::Leaving { grace } => (2, grace),
            State::Draining => (3, Duration::ZERO),
        };
        let version = cut(&self.version, MAX_VERSION);
        let macs = self.macs.get(..MAX_MACS).unwrap_or(&self.macs);
        body.push(if self.asks { code | ASKS } else { code });
        body.extend(u32::try_from(grace.as_millis()).unwrap_or(u32::MAX).to_be_bytes());
        body.extend(
            u16::try_from(self.interval.as_millis())
                .unwrap_or(u16::MAX)
                .to_be_bytes(),
        );
        body.extend(self.claims.to_be_bytes());
        body.extend(self.knows.to_be_bytes());
        body.push(version.len() as u8);
        body.extend(version);
        body.push(macs.len() as u8);
        body.extend(macs.iter().flat_map(|mac| mac.0));
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, RejectReason> {
        let [code] = reader.take()?;
        let grace = Duration::from_millis(u32::from_be_bytes(reader.take()?).into());
        let state = match (code & !ASKS, grace) {
            (0, Duration::ZERO) => State::Up,
            (1, grace) => State::Starting { grace },
            (2, grace) => State::Leaving { grace },
            (3, Duration::ZERO) => State::Draining,
            _ => return Err(RejectReason::Body),
        };
        let interval = Duration::from_millis(u16::from_be_bytes(reader.take()?).into());
        let claims = reader.u64()?;
        let knows = reader.u64()?;
        let [len] = reader.take()?;
        let (version, rest) = reader.0.split_at_checked(len.into()).ok_or(RejectReason::Body)?;
        let version = std::str::from_utf8(version).map_err(|_| RejectReason::Body)?;
        if version.len() > MAX_VERSION {
            return Err(RejectReason::Body);
        }
        reader.0 = rest;
        let [count] = reader.take()?;
        if usize::from(count) > MAX_MACS {
            return Err(RejectReason::Body);
        }
        let mut macs = Vec::with_capacity(count.into());
        for _ in 0..count {
            macs.push(MacAddr(reader.take()?));
        }
        Ok(Self {
            state,
            asks: code & ASKS != 0,
            interval,
            version: version.to_owned(),
            claims,
            knows,
            macs,
        })
    }
}

impl Part {
    fn encode(&self, body: &mut Vec<u8>) {
        body.extend(self.digest.to_be_bytes());
        body.extend(self.number.to_be_bytes());
        body.extend(self.of.to_be_bytes());
        encode_entries(self.entries.iter().copied(), body);
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, RejectReason> {
        let digest = reader.u64()?;
        let number = u16::from_be_bytes(reader.take()?);
        let of = u16::from_be_bytes(reader.take()?);
        if number >= of {
            return Err(RejectReason::Body);
        }
        let mut entries = Vec::new();
        while !reader.0.is_empty() {
            entries.push(Entry::decode(reader)?);
        }
        Ok(Self {
            digest,
            number,
            of,
            entries,
        })
    }
}

/// What of a body is still to be read.
struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], RejectReason> {
        let (taken, rest) = self.0.split_first_chunk().ok_or(RejectReason::Body)?;
        self.0 = rest;
        Ok(*taken)
    }

    fn u64(&mut self) -> Result<u64, RejectReason> {
        self.take().map(u64::from_be_bytes)
    }
}

fn cut(text: &str, limit: usize) -> &[u8] {
    let end = text.floor_char_boundary(limit.min(text.len()));
    text.as_bytes().get(..end).unwrap_or_default()
}

fn short(len: usize) -> u16 {
    u16::try_from(len).unwrap_or(u16::MAX)
}
