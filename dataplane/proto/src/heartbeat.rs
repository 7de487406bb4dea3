//! What speakers tell each other: that they live, in what state, and which addresses they answer for.
//!
//! ```text
//!  0  magic "LBHB"                    8  incarnation of the sender       33  length of the name, name
//!  4  format, 1                      16  number of the datagram              body
//!  5  kind: heartbeat or claims      24  incarnation of the receiver         HMAC-SHA256 over all before (32)
//!  6  length of the body                                              (numbers in the order of the network)
//! ```
//!
//! A datagram is authenticated by a key that all speakers of a cluster have; while the key is changed, the old one counts
//! too. It is fresh when it names the incarnation of who receives it, which that one made up at its start and has told:
//! so a datagram that was recorded earlier convinces nobody, also not a speaker that has forgotten everything. Within one
//! incarnation of the sender the numbers rise.
//!
//! Decoding is of bytes that anybody on the network can send: it costs one HMAC at most for each key, allocates nothing
//! before that is right, and never panics.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

/// The longest datagram: it fits into one Ethernet frame, also over IPv6 and with some encapsulation.
pub const MAX_LEN: usize = 1400;
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

/// Most addresses in one datagram of claims, whatever their family and the length of the name.
pub const MAX_CLAIMS: usize = (MAX_LEN - HEADER_LEN - MAX_NAME - TAG_LEN - 12) / 17;

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
    Heartbeat {
        /// In what state.
        state: State,
        /// The version of its program.
        version: String,
        /// A digest of all addresses that it answers for: who knows another has to be told the claims.
        claims: u64,
    },
    /// A part of the addresses that the sender answers for.
    Claims {
        /// The digest of all of them.
        claims: u64,
        /// Which part it is, from 0.
        part: u16,
        /// How many parts there are.
        parts: u16,
        /// The addresses of this part, at most [`MAX_CLAIMS`].
        addresses: Vec<IpAddr>,
    },
}

/// In what state a speaker is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum State {
    /// It answers for its addresses.
    Up,
    /// It is about to restart and wants to keep its addresses, for so long at most, in whole milliseconds.
    Held {
        /// How long.
        grace: Duration,
    },
    /// It gives its addresses away: whoever is next is to claim them.
    Draining,
}

/// Why a datagram is refused: one variant per field.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Refused {
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
    /// Neither a heartbeat nor claims.
    #[error("kind {0} is neither a heartbeat nor claims")]
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
    /// Not newer than what the sender has told already.
    #[error("told already")]
    Replayed,
}

impl Refused {
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
    /// Keys in order: the present one, then those that still count. None without any, or with one shorter than 16 bytes.
    #[must_use]
    pub fn new<'a>(keys: impl IntoIterator<Item = &'a [u8]>) -> Option<Self> {
        let key = |bytes: &[u8]| {
            (bytes.len() >= 16)
                .then(|| Hmac::new_from_slice(bytes).ok())
                .flatten()
        };
        let keys = keys.into_iter().map(key).collect::<Option<Vec<_>>>()?;
        (!keys.is_empty()).then_some(Self(keys))
    }

    /// The bytes of a datagram. Names and versions that are too long are cut, and addresses beyond [`MAX_CLAIMS`] left out:
    /// who makes datagrams keeps to the limits.
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
    pub fn open(&self, bytes: &[u8]) -> Result<Datagram, Refused> {
        if bytes.len() > MAX_LEN {
            return Err(Refused::TooLong(bytes.len()));
        }
        let cut_off = Refused::Truncated(bytes.len());
        let (signed, tag) = bytes.split_last_chunk::<TAG_LEN>().ok_or(cut_off)?;
        let (header, rest) = signed.split_first_chunk::<HEADER_LEN>().ok_or(cut_off)?;
        let &[a, b, c, d, format, kind, high, low, ..] = header;
        if [a, b, c, d] != MAGIC {
            return Err(Refused::Magic);
        }
        if format != FORMAT {
            return Err(Refused::Format(format));
        }
        let made_by = |key: &&Hmac<Sha256>| {
            let made = (*key).clone().chain_update(signed);
            made.verify_slice(tag).is_ok()
        };
        self.0.iter().find(made_by).ok_or(Refused::Authentication)?;
        let (name, body) = rest
            .split_at_checked(usize::from(header[HEADER_LEN - 1]))
            .ok_or(cut_off)?;
        if body.len() != usize::from(u16::from_be_bytes([high, low])) {
            return Err(cut_off);
        }
        let name = std::str::from_utf8(name).map_err(|_| Refused::Name)?;
        if name.is_empty() || name.len() > MAX_NAME {
            return Err(Refused::Name);
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

fn encode(message: &Message) -> (u8, Vec<u8>) {
    let mut body = Vec::new();
    match message {
        Message::Heartbeat {
            state,
            version,
            claims,
        } => {
            let (code, grace) = match state {
                State::Up => (0, Duration::ZERO),
                State::Held { grace } => (1, *grace),
                State::Draining => (2, Duration::ZERO),
            };
            let version = cut(version, MAX_VERSION);
            body.push(code);
            body.extend(u32::try_from(grace.as_millis()).unwrap_or(u32::MAX).to_be_bytes());
            body.extend(claims.to_be_bytes());
            body.push(version.len() as u8);
            body.extend(version);
            (HEARTBEAT, body)
        }
        Message::Claims {
            claims,
            part,
            parts,
            addresses,
        } => {
            body.extend(claims.to_be_bytes());
            body.extend(part.to_be_bytes());
            body.extend(parts.to_be_bytes());
            for address in addresses.iter().take(MAX_CLAIMS) {
                match address {
                    IpAddr::V4(v4) => {
                        body.push(4);
                        body.extend(v4.octets());
                    }
                    IpAddr::V6(v6) => {
                        body.push(6);
                        body.extend(v6.octets());
                    }
                }
            }
            (CLAIMS, body)
        }
    }
}

fn decode(kind: u8, body: &[u8]) -> Result<Message, Refused> {
    let mut reader = Reader(body);
    let message = match kind {
        HEARTBEAT => {
            let state = reader.take::<1>()?;
            let grace = Duration::from_millis(u32::from_be_bytes(reader.take()?).into());
            let state = match (state, grace) {
                ([0], Duration::ZERO) => State::Up,
                ([1], grace) => State::Held { grace },
                ([2], Duration::ZERO) => State::Draining,
                _ => return Err(Refused::Body),
            };
            let claims = reader.u64()?;
            let [len] = reader.take()?;
            let (version, rest) = reader.0.split_at_checked(len.into()).ok_or(Refused::Body)?;
            let version = std::str::from_utf8(version).map_err(|_| Refused::Body)?;
            if version.len() > MAX_VERSION {
                return Err(Refused::Body);
            }
            reader.0 = rest;
            Message::Heartbeat {
                state,
                version: version.to_owned(),
                claims,
            }
        }
        CLAIMS => {
            let claims = reader.u64()?;
            let part = u16::from_be_bytes(reader.take()?);
            let parts = u16::from_be_bytes(reader.take()?);
            if part >= parts {
                return Err(Refused::Body);
            }
            let mut addresses = Vec::new();
            while !reader.0.is_empty() && addresses.len() < MAX_CLAIMS {
                addresses.push(match reader.take::<1>()? {
                    [4] => IpAddr::V4(Ipv4Addr::from(reader.take::<4>()?)),
                    [6] => IpAddr::V6(Ipv6Addr::from(reader.take::<16>()?)),
                    _ => return Err(Refused::Body),
                });
            }
            Message::Claims {
                claims,
                part,
                parts,
                addresses,
            }
        }
        other => return Err(Refused::Kind(other)),
    };
    if reader.0.is_empty() {
        Ok(message)
    } else {
        Err(Refused::Body)
    }
}

/// What of a body is still to be read.
struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], Refused> {
        let (taken, rest) = self.0.split_first_chunk().ok_or(Refused::Body)?;
        self.0 = rest;
        Ok(*taken)
    }

    fn u64(&mut self) -> Result<u64, Refused> {
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

/// Which datagrams are news: from peers, made for this incarnation of ours, and newer than all before.
#[derive(Clone, Debug)]
pub struct Guard {
    /// Our own incarnation.
    incarnation: u64,
    /// The last incarnation and number of each peer.
    peers: BTreeMap<String, (u64, u64)>,
}

impl Guard {
    /// A guard that knows no peers.
    #[must_use]
    pub fn new(incarnation: u64) -> Self {
        Self {
            incarnation,
            peers: BTreeMap::new(),
        }
    }

    /// These are the peers: the others are forgotten, and not listened to.
    pub fn set_peers<'a>(&mut self, peers: impl IntoIterator<Item = &'a str>) {
        let mut before = std::mem::take(&mut self.peers);
        for peer in peers {
            let heard = before.remove(peer).unwrap_or_default();
            self.peers.insert(peer.to_owned(), heard);
        }
    }

    /// What to tell a peer as `echo`: its incarnation as heard last, or 0. It is heard also from datagrams that are made
    /// for another incarnation of ours: that is how two speakers get to know each other.
    #[must_use]
    pub fn echo(&self, peer: &str) -> u64 {
        self.peers.get(peer).map_or(0, |(incarnation, _)| *incarnation)
    }

    /// Takes in an authentic datagram. Whether it is to be believed:
    ///
    /// # Errors
    /// When it is from a stranger, recorded earlier, or made before the sender knew us.
    pub fn admit(&mut self, datagram: &Datagram) -> Result<(), Refused> {
        let heard = self.peers.get_mut(&datagram.node).ok_or(Refused::Stranger)?;
        let this = (datagram.incarnation, datagram.number);
        if datagram.echo != self.incarnation {
            // It may be a recording: it must not make us deaf to the sender, only show us an incarnation to echo.
            heard.0 = if heard.1 == 0 {
                datagram.incarnation
            } else {
                heard.0
            };
            return Err(Refused::Echo);
        }
        if this <= *heard {
            return Err(Refused::Replayed);
        }
        *heard = this;
        Ok(())
    }
}
