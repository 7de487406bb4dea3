//! OPEN (RFC 4271 section 4.2, RFC 9072).

use std::net::Ipv4Addr;

use super::capability::Capabilities;
use super::notification::{Notification, NotificationCode};
use super::reader::Reader;
use super::two_octet_asn;

/// The only version.
const VERSION: u8 = 4;
/// The optional parameter with capabilities.
const CAPABILITIES: u8 = 2;
/// Marks the extended format of optional parameters (RFC 9072 section 2).
const EXTENDED: u8 = 255;
/// A hold time of 1 or 2 seconds is not acceptable (RFC 4271 section 4.2).
const MIN_HOLD_TIME: u16 = 3;

/// An OPEN.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Open {
    /// The AS number: the one of four octets, if that capability is there.
    pub asn: u32,
    /// Seconds without a message after which the session ends; 0 for never, otherwise at least 3.
    pub hold_time: u16,
    /// The BGP identifier, not 0.
    pub router_id: Ipv4Addr,
    /// The capabilities.
    pub capabilities: Capabilities,
}

impl Open {
    pub(super) fn encode_body(&self, out: &mut Vec<u8>) {
        out.push(VERSION);
        out.extend_from_slice(&two_octet_asn(self.asn).to_be_bytes());
        out.extend_from_slice(&self.hold_time.to_be_bytes());
        out.extend_from_slice(&self.router_id.octets());
        let mut capabilities = Vec::new();
        self.capabilities.encode(&mut capabilities);
        // Far below 253: two families make at most a few dozen octets.
        let len = u8::try_from(capabilities.len()).unwrap_or(u8::MAX);
        if len == 0 {
            out.push(0);
        } else {
            out.extend_from_slice(&[len.saturating_add(2), CAPABILITIES, len]);
        }
        out.extend_from_slice(&capabilities);
    }

    /// Decodes an OPEN. The AS number is not compared with the configured one.
    ///
    /// # Errors
    /// The NOTIFICATION to send (RFC 4271 section 6.2).
    pub(super) fn decode_body(body: &[u8]) -> Result<Self, Notification> {
        let malformed = || Notification::new(NotificationCode::MalformedOpen);
        let mut reader = Reader(body);
        let version = reader.u8().ok_or_else(malformed)?;
        if version != VERSION {
            return Err(Notification {
                code: NotificationCode::UnsupportedVersion,
                data: vec![0, VERSION],
            });
        }
        let short_asn = reader.u16().ok_or_else(malformed)?;
        let hold_time = reader.u16().ok_or_else(malformed)?;
        let router_id = Ipv4Addr::from(reader.array::<4>().ok_or_else(malformed)?);
        let capabilities = decode_parameters(&mut reader)?;
        if (1..MIN_HOLD_TIME).contains(&hold_time) {
            return Err(Notification::new(NotificationCode::UnacceptableHoldTime));
        }
        if router_id.is_unspecified() {
            return Err(Notification::new(NotificationCode::BadIdentifier));
        }
        let asn = capabilities.four_octet_asn.unwrap_or(short_asn.into());
        if asn == 0 {
            return Err(Notification::new(NotificationCode::BadPeerAs));
        }
        Ok(Self {
            asn,
            hold_time,
            router_id,
            capabilities,
        })
    }
}

fn decode_parameters(reader: &mut Reader<'_>) -> Result<Capabilities, Notification> {
    let malformed = || Notification::new(NotificationCode::MalformedOpen);
    let len = reader.u8().ok_or_else(malformed)?;
    let extended = len != 0 && reader.0.first() == Some(&EXTENDED);
    let mut parameters = if extended {
        reader.u8().ok_or_else(malformed)?;
        Reader(reader.block().ok_or_else(malformed)?)
    } else {
        Reader(reader.take(len.into()).ok_or_else(malformed)?)
    };
    if !reader.is_empty() {
        return Err(malformed());
    }
    let mut capabilities = Capabilities::default();
    while !parameters.is_empty() {
        let kind = parameters.u8().ok_or_else(malformed)?;
        let value = if extended {
            parameters.block()
        } else {
            parameters.short_block()
        };
        let value = value.ok_or_else(malformed)?;
        if kind != CAPABILITIES {
            return Err(Notification::new(NotificationCode::UnsupportedParameter));
        }
        capabilities.decode(value).ok_or_else(malformed)?;
    }
    Ok(capabilities)
}
