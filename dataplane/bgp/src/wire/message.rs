//! The message header (RFC 4271 section 4.1), and the messages that arrive.

use super::notification::{Notification, NotificationCode};
use super::open::Open;
use super::reader::Reader;
use super::{Family, HEADER_LEN, MAX_MESSAGE_LEN, SAFI_UNICAST};

const MARKER: [u8; 16] = [0xff; 16];

const OPEN: u8 = 1;
const UPDATE: u8 = 2;
const NOTIFICATION: u8 = 3;
const KEEPALIVE: u8 = 4;
const ROUTE_REFRESH: u8 = 5;

/// A message other than UPDATE, for which see [`update`](super::update).
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Message {
    /// Opens a session.
    Open(Open),
    /// Confirms that the speaker is alive.
    Keepalive,
    /// Ends the session.
    Notification(Notification),
}

/// A message from a router.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Received {
    /// Opens a session.
    Open(Open),
    /// Routes. They are not read.
    Update,
    /// Ends the session.
    Notification(Notification),
    /// The router is alive.
    Keepalive,
    /// Send the routes again (RFC 2918); `None` for a family that is not in use.
    RouteRefresh(Option<Family>),
}

impl Message {
    /// Appends the message.
    pub fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Self::Open(open) => put_message(out, OPEN, |out| open.encode_body(out)),
            Self::Keepalive => put_message(out, KEEPALIVE, |_| {}),
            Self::Notification(notification) => {
                put_message(out, NOTIFICATION, |out| notification.encode_body(out));
            }
        }
    }
}

impl Received {
    /// Decodes the first message of a stream: `Ok(None)` if it is incomplete, otherwise the message and its length.
    ///
    /// # Errors
    /// The NOTIFICATION to send before the connection is closed (RFC 4271 section 6).
    pub fn decode(stream: &[u8]) -> Result<Option<(Self, usize)>, Notification> {
        let Some((kind, len)) = decode_header(stream)? else {
            return Ok(None);
        };
        let Some(body) = stream.get(HEADER_LEN..len) else {
            return Ok(None);
        };
        let message = match kind {
            Kind::Open => Self::Open(Open::decode_body(body)?),
            Kind::Update => {
                check_update(body).ok_or(Notification::new(NotificationCode::MalformedAttributes))?;
                Self::Update
            }
            Kind::Notification => {
                let notification = Notification::decode_body(body);
                Self::Notification(notification.ok_or_else(|| bad_length(len))?)
            }
            Kind::Keepalive => Self::Keepalive,
            Kind::RouteRefresh => Self::RouteRefresh(decode_refresh(body).ok_or_else(|| bad_length(len))?),
        };
        Ok(Some((message, len)))
    }
}

#[derive(Clone, Copy)]
enum Kind {
    Open,
    Update,
    Notification,
    Keepalive,
    RouteRefresh,
}

impl Kind {
    const fn from_octet(octet: u8) -> Option<Self> {
        match octet {
            OPEN => Some(Self::Open),
            UPDATE => Some(Self::Update),
            NOTIFICATION => Some(Self::Notification),
            KEEPALIVE => Some(Self::Keepalive),
            ROUTE_REFRESH => Some(Self::RouteRefresh),
            _ => None,
        }
    }

    /// Lengths of the whole message (RFC 4271 section 6.1, RFC 2918 section 3).
    const fn lengths(self) -> std::ops::RangeInclusive<usize> {
        match self {
            Self::Open => 29..=MAX_MESSAGE_LEN,
            Self::Update => 23..=MAX_MESSAGE_LEN,
            Self::Notification => 21..=MAX_MESSAGE_LEN,
            Self::Keepalive => HEADER_LEN..=HEADER_LEN,
            Self::RouteRefresh => 23..=23,
        }
    }
}

/// The kind of the first message and its length, as soon as the header is complete. A wrong marker is found before that.
fn decode_header(stream: &[u8]) -> Result<Option<(Kind, usize)>, Notification> {
    if stream
        .iter()
        .zip(MARKER)
        .any(|(octet, expected)| *octet != expected)
    {
        return Err(Notification::new(NotificationCode::NotSynchronized));
    }
    let mut reader = Reader(stream.get(MARKER.len()..).unwrap_or_default());
    let (Some(len), Some(kind)) = (reader.u16().map(usize::from), reader.u8()) else {
        return Ok(None);
    };
    if !(HEADER_LEN..=MAX_MESSAGE_LEN).contains(&len) {
        return Err(bad_length(len));
    }
    let Some(kind_of) = Kind::from_octet(kind) else {
        return Err(Notification {
            code: NotificationCode::BadMessageType,
            data: vec![kind],
        });
    };
    if !kind_of.lengths().contains(&len) {
        return Err(bad_length(len));
    }
    Ok(Some((kind_of, len)))
}

fn bad_length(len: usize) -> Notification {
    Notification {
        code: NotificationCode::BadMessageLength,
        data: u16::try_from(len).unwrap_or(u16::MAX).to_be_bytes().to_vec(),
    }
}

/// The withdrawn routes and the attributes lie within the message (RFC 4271 section 6.3).
fn check_update(body: &[u8]) -> Option<()> {
    let mut reader = Reader(body);
    reader.block()?;
    reader.block()?;
    Some(())
}

/// The outer `None` is a body of the wrong length.
fn decode_refresh(body: &[u8]) -> Option<Option<Family>> {
    let [high, low, _, safi] = *body.as_array()?;
    let family = Family::from_afi(u16::from_be_bytes([high, low]));
    Some(family.filter(|_| safi == SAFI_UNICAST))
}

/// Appends a message with this body. A body that is too long is a mistake of the caller, which limits it.
pub(super) fn put_message(out: &mut Vec<u8>, kind: u8, body: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    out.extend_from_slice(&MARKER);
    out.extend_from_slice(&[0, 0, kind]);
    body(out);
    let len = out.len().saturating_sub(start);
    debug_assert!(len <= MAX_MESSAGE_LEN, "{len}");
    let len = u16::try_from(len).unwrap_or(u16::MAX);
    if let Some(field) = out.get_mut(start + MARKER.len()..start + MARKER.len() + 2) {
        field.copy_from_slice(&len.to_be_bytes());
    }
}

/// Appends an UPDATE with this body.
pub(super) fn put_update(out: &mut Vec<u8>, body: impl FnOnce(&mut Vec<u8>)) {
    put_message(out, UPDATE, body);
}
