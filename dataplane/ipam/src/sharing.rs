//! When Services may have one address together: the same key in the annotation `allow-shared-ip`, no port in common, and
//! backends that a node can tell apart by nothing but the port.
//!
//! With `externalTrafficPolicy: Local` a node owns an address only while it has an endpoint, so Services whose endpoints
//! are on different nodes cannot have one owner: their selectors have to be the same.

use std::collections::BTreeSet;
use std::fmt;

/// A port of a Service: `TCP/80`.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Port {
    /// The protocol, as Kubernetes writes it.
    pub protocol: String,
    /// The number.
    pub number: u16,
}

impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.protocol, self.number)
    }
}

/// What a Service brings along that shares its address.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Sharing {
    /// Those with the same key share.
    pub key: String,
    /// Its ports.
    pub ports: BTreeSet<Port>,
    /// What decides which nodes may own the address: the selector with `externalTrafficPolicy: Local`, and nothing
    /// otherwise.
    pub backend: String,
}

/// Why two Services cannot share.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Conflict {
    /// The other Service has no key.
    NotShared,
    /// The other Service has another key.
    Key,
    /// Both have the port.
    Port(Port),
    /// The endpoints of one of them decide who may own the address, and the other's are others.
    Backend,
}

impl Sharing {
    /// What stands against sharing an address with another Service.
    #[must_use]
    pub fn conflict_with(&self, other: &Self) -> Option<Conflict> {
        if self.key != other.key {
            return Some(Conflict::Key);
        }
        if let Some(port) = self.ports.intersection(&other.ports).next() {
            return Some(Conflict::Port(port.clone()));
        }
        (self.backend != other.backend).then_some(Conflict::Backend)
    }
}

/// How a Service has its addresses.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub enum Tenancy {
    /// Nobody else can have them.
    #[default]
    Alone,
    /// Others can have them too, if they fit.
    Shares(Box<Sharing>),
    /// It has them no more, but its status may show them still: they are not given to anybody who has not got them
    /// already.
    Leaves,
}

impl Tenancy {
    /// What stands against coming to an address that somebody else has.
    pub(crate) fn conflict_with(&self, other: &Self) -> Option<Conflict> {
        match (self, other) {
            (Self::Leaves, _) | (_, Self::Leaves) => None,
            (Self::Shares(one), Self::Shares(other)) => one.conflict_with(other),
            (Self::Alone, Self::Alone | Self::Shares(_)) | (Self::Shares(_), Self::Alone) => {
                Some(Conflict::NotShared)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sharing(key: &str, ports: &[(&str, u16)], backend: &str) -> Sharing {
        let port = |(protocol, number): &(&str, u16)| Port {
            protocol: (*protocol).to_owned(),
            number: *number,
        };
        Sharing {
            key: key.to_owned(),
            ports: ports.iter().map(port).collect(),
            backend: backend.to_owned(),
        }
    }

    #[test]
    fn key_ports_and_backend_decide() {
        let web = sharing("k", &[("TCP", 80), ("TCP", 443)], "");
        assert_eq!(web.conflict_with(&sharing("k", &[("UDP", 443)], "")), None);
        assert_eq!(
            web.conflict_with(&sharing("other", &[("UDP", 53)], "")),
            Some(Conflict::Key)
        );
        let conflict = web.conflict_with(&sharing("k", &[("TCP", 443)], ""));
        assert!(matches!(conflict, Some(Conflict::Port(port)) if port.to_string() == "TCP/443"));
        let local = sharing("k", &[("UDP", 53)], "app=dns");
        assert_eq!(web.conflict_with(&local), Some(Conflict::Backend));
        assert_eq!(
            local.conflict_with(&sharing("k", &[("TCP", 53)], "app=dns")),
            None
        );
    }
}
