//! Capabilities in an OPEN (RFC 5492).

use std::collections::BTreeSet;

use super::Family;
use super::SAFI_UNICAST;
use super::reader::Reader;

/// Multiprotocol extensions (RFC 4760 section 8).
const MULTIPROTOCOL: u8 = 1;
/// Route refresh (RFC 2918 section 2).
const ROUTE_REFRESH: u8 = 2;
/// Extended next hop encoding (RFC 8950 section 4).
const EXTENDED_NEXT_HOP: u8 = 5;
/// Graceful restart (RFC 4724 section 3).
const GRACEFUL_RESTART: u8 = 64;
/// 4-octet AS numbers (RFC 6793 section 3).
const FOUR_OCTET_AS: u8 = 65;

/// The capabilities that a speaker offers.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Capabilities {
    /// Address families. Without this capability, IPv4 alone.
    pub families: BTreeSet<Family>,
    /// Whether routes are sent again on request.
    pub route_refresh: bool,
    /// The AS number in four octets.
    pub four_octet_asn: Option<u32>,
    /// Families whose routes may have an IPv6 next hop.
    pub ipv6_next_hop: BTreeSet<Family>,
    /// Keeping routes while the speaker restarts.
    pub graceful_restart: Option<GracefulRestart>,
}

/// Graceful restart (RFC 4724).
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct GracefulRestart {
    /// Restart State: the speaker has restarted.
    pub restarted: bool,
    /// Graceful NOTIFICATION support (RFC 8538 section 2).
    pub notification: bool,
    /// Seconds after which the routes are dropped, 0 to 4095.
    pub restart_time: u16,
    /// The families, and whether forwarding went on while the speaker was away.
    pub families: Vec<(Family, bool)>,
}

const RESTART_STATE_BIT: u16 = 0x8000;
const NOTIFICATION_BIT: u16 = 0x4000;
const RESTART_TIME_MASK: u16 = 0x0fff;
const FORWARDING_BIT: u8 = 0x80;

impl Capabilities {
    /// Whether the speaker exchanges routes of the family: IPv4 also without the multiprotocol capability.
    #[must_use]
    pub fn has_family(&self, family: Family) -> bool {
        self.families.contains(&family) || (self.families.is_empty() && family == Family::Ipv4)
    }

    /// Encodes one capability after the other.
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        for family in &self.families {
            out.extend_from_slice(&[MULTIPROTOCOL, 4]);
            out.extend_from_slice(&family.afi().to_be_bytes());
            out.extend_from_slice(&[0, SAFI_UNICAST]);
        }
        if self.route_refresh {
            out.extend_from_slice(&[ROUTE_REFRESH, 0]);
        }
        if !self.ipv6_next_hop.is_empty() {
            let families = self.ipv6_next_hop.iter();
            let entries = families.flat_map(|family| {
                let [high, low] = family.afi().to_be_bytes();
                let [next_high, next_low] = Family::Ipv6.afi().to_be_bytes();
                [high, low, 0, SAFI_UNICAST, next_high, next_low]
            });
            put_block(out, EXTENDED_NEXT_HOP, entries);
        }
        if let Some(restart) = &self.graceful_restart {
            let mut flags = restart.restart_time & RESTART_TIME_MASK;
            flags |= if restart.restarted { RESTART_STATE_BIT } else { 0 };
            flags |= if restart.notification { NOTIFICATION_BIT } else { 0 };
            let families = restart.families.iter().flat_map(|(family, forwarding)| {
                let [high, low] = family.afi().to_be_bytes();
                [
                    high,
                    low,
                    SAFI_UNICAST,
                    if *forwarding { FORWARDING_BIT } else { 0 },
                ]
            });
            put_block(
                out,
                GRACEFUL_RESTART,
                flags.to_be_bytes().into_iter().chain(families),
            );
        }
        if let Some(asn) = self.four_octet_asn {
            put_block(out, FOUR_OCTET_AS, asn.to_be_bytes());
        }
    }

    /// Decodes the capabilities of one optional parameter and adds them. Unknown ones are ignored (RFC 5492 section 3).
    /// `None` if one is cut off or has a wrong length.
    pub(super) fn decode(&mut self, parameter: &[u8]) -> Option<()> {
        let mut reader = Reader(parameter);
        while !reader.is_empty() {
            let code = reader.u8()?;
            let value = reader.short_block()?;
            match code {
                MULTIPROTOCOL => {
                    let [high, low, _, safi] = *value.as_array()?;
                    self.families
                        .extend(Family::from_afi_safi(u16::from_be_bytes([high, low]), safi));
                }
                ROUTE_REFRESH => self.route_refresh = true,
                EXTENDED_NEXT_HOP => self.decode_next_hops(value)?,
                GRACEFUL_RESTART => self.graceful_restart = Some(GracefulRestart::decode(value)?),
                FOUR_OCTET_AS => self.four_octet_asn = Some(u32::from_be_bytes(*value.as_array()?)),
                _ => {}
            }
        }
        Some(())
    }

    fn decode_next_hops(&mut self, value: &[u8]) -> Option<()> {
        let mut reader = Reader(value);
        while !reader.is_empty() {
            let (afi, safi, next_hop) = (reader.u16()?, reader.u16()?, reader.u16()?);
            let family = u8::try_from(safi)
                .ok()
                .and_then(|safi| Family::from_afi_safi(afi, safi));
            if Family::from_afi(next_hop) == Some(Family::Ipv6) {
                self.ipv6_next_hop.extend(family);
            }
        }
        Some(())
    }
}

impl GracefulRestart {
    fn decode(value: &[u8]) -> Option<Self> {
        let mut reader = Reader(value);
        let flags = reader.u16()?;
        let mut families = Vec::new();
        while !reader.is_empty() {
            let (afi, safi, flags) = (reader.u16()?, reader.u8()?, reader.u8()?);
            if let Some(family) = Family::from_afi_safi(afi, safi) {
                families.push((family, flags & FORWARDING_BIT != 0));
            }
        }
        Some(Self {
            restarted: flags & RESTART_STATE_BIT != 0,
            notification: flags & NOTIFICATION_BIT != 0,
            restart_time: flags & RESTART_TIME_MASK,
            families,
        })
    }
}

fn put_block(out: &mut Vec<u8>, code: u8, value: impl IntoIterator<Item = u8>) {
    let start = out.len();
    out.extend_from_slice(&[code, 0]);
    out.extend(value);
    let len = out.len().saturating_sub(start + 2);
    if let Some(field) = out.get_mut(start + 1) {
        // Two families make at most a few dozen octets.
        *field = u8::try_from(len).unwrap_or(u8::MAX);
    }
}
