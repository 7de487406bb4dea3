//! The settings of a session, and the values that both sides agree on.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::time::Duration;

use crate::wire::{Capabilities, Family, GracefulRestart, Notification, NotificationCode, Open};

/// Settings of a session with one router.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct SessionConfig {
    /// The AS number that the router sees.
    pub local_asn: u32,
    /// The AS numbers that the router may have.
    pub remote_asn: RemoteAsn,
    /// Our BGP identifier, not 0.
    pub router_id: Ipv4Addr,
    /// The families to announce.
    pub families: BTreeSet<Family>,
    /// Time without a message after which the session ends: zero for never, otherwise at least 3 s; whole seconds.
    pub hold_time: Duration,
    /// Time between two KEEPALIVEs, at most a third of the hold time in use.
    pub keepalive_time: Duration,
    /// The longest pause between two attempts to connect.
    pub connect_time: Duration,
    /// Whether IPv4 prefixes may have an IPv6 next hop (RFC 8950).
    pub ipv6_next_hop: bool,
    /// How long the router keeps the routes while this program restarts; `None` if it drops them at once (RFC 4724).
    pub restart_time: Option<Duration>,
}

/// The AS numbers that a router may have.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum RemoteAsn {
    /// This one.
    Is(u32),
    /// Our own.
    Internal,
    /// Any other than our own.
    External,
}

/// The longest restart time that fits into its field, in seconds.
const MAX_RESTART_TIME: u16 = 0x0fff;

impl SessionConfig {
    /// The OPEN that this node sends. `restarted` is whether its program has just started.
    pub(super) fn open(&self, restarted: bool) -> Open {
        let seconds = |time: Duration| u16::try_from(time.as_secs()).unwrap_or(u16::MAX);
        let ipv6_next_hop = self.ipv6_next_hop && self.families.contains(&Family::Ipv4);
        Open {
            asn: self.local_asn,
            hold_time: seconds(self.hold_time),
            router_id: self.router_id,
            capabilities: Capabilities {
                families: self.families.clone(),
                route_refresh: true,
                four_octet_asn: Some(self.local_asn),
                ipv6_next_hop: ipv6_next_hop.then_some(Family::Ipv4).into_iter().collect(),
                graceful_restart: self.restart_time.map(|time| GracefulRestart {
                    restarted,
                    // With it, a router keeps the routes of a dead node after the hold time (RFC 8538).
                    notification: false,
                    restart_time: seconds(time).min(MAX_RESTART_TIME),
                    families: self.families.iter().map(|family| (*family, true)).collect(),
                }),
            },
        }
    }

    /// Compares the router's OPEN with the settings.
    ///
    /// # Errors
    /// The NOTIFICATION to send (RFC 4271 section 6.2).
    pub(super) fn negotiate(&self, open: &Open) -> Result<Negotiated, Notification> {
        let expected = match self.remote_asn {
            RemoteAsn::Is(asn) => open.asn == asn,
            RemoteAsn::Internal => open.asn == self.local_asn,
            RemoteAsn::External => open.asn != self.local_asn,
        };
        if !expected {
            return Err(Notification::new(NotificationCode::BadPeerAs));
        }
        let internal = open.asn == self.local_asn;
        if internal && open.router_id == self.router_id {
            return Err(Notification::new(NotificationCode::BadIdentifier));
        }
        let theirs = Duration::from_secs(open.hold_time.into());
        let hold_time = if self.hold_time.is_zero() || theirs.is_zero() {
            Duration::ZERO
        } else {
            self.hold_time.min(theirs)
        };
        let capabilities = &open.capabilities;
        let families = self.families.iter().copied();
        Ok(Negotiated {
            remote_asn: open.asn,
            internal,
            router_id: open.router_id,
            hold_time,
            keepalive_time: self.keepalive_time.min(hold_time / 3),
            families: families
                .filter(|family| capabilities.has_family(*family))
                .collect(),
            four_octet_asn: capabilities.four_octet_asn.is_some(),
            ipv6_next_hop: self.ipv6_next_hop && capabilities.ipv6_next_hop.contains(&Family::Ipv4),
            graceful_restart: self.restart_time.is_some() && capabilities.graceful_restart.is_some(),
        })
    }
}

/// The values that both sides agree on.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Negotiated {
    /// The router's AS number.
    pub remote_asn: u32,
    /// Whether the router has our AS number.
    pub internal: bool,
    /// The router's BGP identifier.
    pub router_id: Ipv4Addr,
    /// The shorter hold time; zero for none.
    pub hold_time: Duration,
    /// Time between two KEEPALIVEs; zero for none.
    pub keepalive_time: Duration,
    /// The families that both sides have.
    pub families: BTreeSet<Family>,
    /// Whether both sides have AS numbers of four octets.
    pub four_octet_asn: bool,
    /// Whether IPv4 prefixes may have an IPv6 next hop.
    pub ipv6_next_hop: bool,
    /// Whether the router keeps the routes while this program restarts.
    pub graceful_restart: bool,
}
