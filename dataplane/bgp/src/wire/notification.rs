//! NOTIFICATION (RFC 4271 section 4.5), its error codes (section 6, RFC 4486), and the text of an administrator
//! (RFC 9003).

use std::fmt;

use super::reader::Reader;

/// The longest text of an administrator (RFC 9003 section 2).
const MAX_TEXT_LEN: usize = 255;

/// Why a session ends.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum NotificationCode {
    /// 1/1: Connection Not Synchronized.
    NotSynchronized,
    /// 1/2: Bad Message Length.
    BadMessageLength,
    /// 1/3: Bad Message Type.
    BadMessageType,
    /// 2/0: an OPEN that cannot be decoded.
    MalformedOpen,
    /// 2/1: Unsupported Version Number.
    UnsupportedVersion,
    /// 2/2: Bad Peer AS.
    BadPeerAs,
    /// 2/3: Bad BGP Identifier.
    BadIdentifier,
    /// 2/4: Unsupported Optional Parameter.
    UnsupportedParameter,
    /// 2/6: Unacceptable Hold Time.
    UnacceptableHoldTime,
    /// 3/1: Malformed Attribute List.
    MalformedAttributes,
    /// 4/0: Hold Timer Expired.
    HoldTimerExpired,
    /// 5/0: a message that is not expected in this state.
    UnexpectedMessage,
    /// 6/1: Maximum Number of Prefixes Reached.
    MaximumPrefixes,
    /// 6/2: Administrative Shutdown.
    AdministrativeShutdown,
    /// 6/3: Peer De-configured.
    PeerDeconfigured,
    /// 6/4: Administrative Reset.
    AdministrativeReset,
    /// 6/5: Connection Rejected.
    ConnectionRejected,
    /// 6/6: Other Configuration Change.
    ConfigurationChange,
    /// 6/9: Hard Reset (RFC 8538).
    HardReset,
    /// 6/10: BFD Down (RFC 9384).
    BfdDown,
    /// 8/0: Send Hold Timer Expired (RFC 9687).
    SendHoldTimerExpired,
    /// Any other code and subcode.
    Other(u8, u8),
}

impl NotificationCode {
    const NAMED: [(Self, [u8; 2], &'static str); 21] = [
        (Self::NotSynchronized, [1, 1], "connection not synchronized"),
        (Self::BadMessageLength, [1, 2], "bad message length"),
        (Self::BadMessageType, [1, 3], "bad message type"),
        (Self::MalformedOpen, [2, 0], "malformed OPEN"),
        (Self::UnsupportedVersion, [2, 1], "unsupported version"),
        (Self::BadPeerAs, [2, 2], "bad peer AS"),
        (Self::BadIdentifier, [2, 3], "bad BGP identifier"),
        (
            Self::UnsupportedParameter,
            [2, 4],
            "unsupported optional parameter",
        ),
        (Self::UnacceptableHoldTime, [2, 6], "unacceptable hold time"),
        (Self::MalformedAttributes, [3, 1], "malformed attribute list"),
        (Self::HoldTimerExpired, [4, 0], "hold timer expired"),
        (Self::UnexpectedMessage, [5, 0], "unexpected message"),
        (
            Self::MaximumPrefixes,
            [6, 1],
            "maximum number of prefixes reached",
        ),
        (Self::AdministrativeShutdown, [6, 2], "administrative shutdown"),
        (Self::PeerDeconfigured, [6, 3], "peer de-configured"),
        (Self::AdministrativeReset, [6, 4], "administrative reset"),
        (Self::ConnectionRejected, [6, 5], "connection rejected"),
        (Self::ConfigurationChange, [6, 6], "other configuration change"),
        (Self::HardReset, [6, 9], "hard reset"),
        (Self::BfdDown, [6, 10], "BFD down"),
        (Self::SendHoldTimerExpired, [8, 0], "send hold timer expired"),
    ];

    /// Error code and subcode.
    #[must_use]
    pub fn octets(self) -> [u8; 2] {
        match self {
            Self::Other(code, subcode) => [code, subcode],
            named => Self::NAMED
                .iter()
                .find(|(code, ..)| *code == named)
                .map_or([0, 0], |(_, octets, _)| *octets),
        }
    }

    fn from_octets(octets: [u8; 2]) -> Self {
        let named = Self::NAMED.iter().find(|(_, known, _)| *known == octets);
        named.map_or(Self::Other(octets[0], octets[1]), |(code, ..)| *code)
    }

    /// Whether the data may be a text (RFC 9003 section 2).
    const fn has_text(self) -> bool {
        matches!(self, Self::AdministrativeShutdown | Self::AdministrativeReset)
    }
}

impl fmt::Display for NotificationCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [code, subcode] = self.octets();
        match Self::NAMED.iter().find(|(known, ..)| known == self) {
            Some((.., name)) => write!(f, "{name} ({code}/{subcode})"),
            None => write!(f, "error {code}/{subcode}"),
        }
    }
}

/// A NOTIFICATION.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Notification {
    /// Why the session ends.
    pub code: NotificationCode,
    /// Diagnostic octets.
    pub data: Vec<u8>,
}

impl Notification {
    /// A NOTIFICATION without data.
    #[must_use]
    pub const fn new(code: NotificationCode) -> Self {
        Self {
            code,
            data: Vec::new(),
        }
    }

    /// A shutdown or reset with a text (RFC 9003), cut at 255 octets.
    #[must_use]
    pub fn with_text(code: NotificationCode, text: &str) -> Self {
        let text = text
            .get(..text.floor_char_boundary(MAX_TEXT_LEN))
            .unwrap_or_default();
        let mut data = vec![u8::try_from(text.len()).unwrap_or(u8::MAX)];
        data.extend_from_slice(text.as_bytes());
        Self { code, data }
    }

    /// The text of an administrator, with control characters replaced.
    #[must_use]
    pub fn text(&self) -> Option<String> {
        if !self.code.has_text() {
            return None;
        }
        let text = Reader(&self.data).short_block()?;
        let text = String::from_utf8_lossy(text);
        let printable = |c: char| {
            if c.is_control() {
                char::REPLACEMENT_CHARACTER
            } else {
                c
            }
        };
        (!text.is_empty()).then(|| text.chars().map(printable).collect())
    }

    pub(super) fn encode_body(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.code.octets());
        out.extend_from_slice(&self.data);
    }

    /// `None` if the body is too short.
    pub(super) fn decode_body(body: &[u8]) -> Option<Self> {
        let mut reader = Reader(body);
        let octets = reader.array()?;
        Some(Self {
            code: NotificationCode::from_octets(octets),
            data: reader.0.to_vec(),
        })
    }
}

impl fmt::Display for Notification {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.text() {
            Some(text) => write!(f, "{}: {text}", self.code),
            None => write!(f, "{}", self.code),
        }
    }
}
