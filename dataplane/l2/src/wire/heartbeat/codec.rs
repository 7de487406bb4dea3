//! The bodies of datagrams.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use super::{
    DatagramError, Entry, EntryState, Fragment, Heartbeat, MAX_BODY_LEN, MAX_MACS, MAX_VERSION_LEN, Message,
    SetChange, SpeakerState,
};
use crate::MacAddr;

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
/// The bits of a heartbeat's state that are no flags.
const STATE_MASK: u8 = 0x03;

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

pub(super) fn encode(message: &Message) -> (u8, Vec<u8>) {
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

pub(super) fn decode(kind: u8, body: &[u8]) -> Result<Message, DatagramError> {
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
        let state = match (code & STATE_MASK, grace) {
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
        // The rest is fields of a later release.
        reader.0 = &[];
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
pub(super) struct Reader<'a>(pub(super) &'a [u8]);

impl Reader<'_> {
    pub(super) fn take<const N: usize>(&mut self) -> Result<[u8; N], DatagramError> {
        let (bytes, rest) = self.0.split_first_chunk().ok_or(DatagramError::Body)?;
        self.0 = rest;
        Ok(*bytes)
    }

    pub(super) fn u64(&mut self) -> Result<u64, DatagramError> {
        self.take().map(u64::from_be_bytes)
    }
}

/// The first whole characters of `text` that fit into `max_len` bytes.
pub(super) fn prefix(text: &str, max_len: usize) -> &[u8] {
    let end = text.floor_char_boundary(max_len.min(text.len()));
    text.as_bytes().get(..end).unwrap_or_default()
}
