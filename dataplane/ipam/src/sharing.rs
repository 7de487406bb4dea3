//! When Services may share an address: they have the same key in the annotation `allow-shared-ip` and no port in
//! common, and any node that is eligible for one of them is eligible for the other.
//!
//! With `externalTrafficPolicy: Local` only nodes with an endpoint are eligible, so Services with that policy can share
//! an address only if they select the same endpoints.

use std::collections::BTreeSet;
use std::fmt;

/// A port of a Service: `TCP/80`.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Port {
    /// `TCP`, `UDP` or `SCTP`.
    pub protocol: String,
    /// The port number.
    pub number: u16,
}

impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.protocol, self.number)
    }
}

/// The properties of a Service that decide with which others it can share an address.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Sharing {
    /// Value of the annotation `allow-shared-ip`.
    pub key: String,
    /// All ports of the Service.
    pub ports: BTreeSet<Port>,
    /// Namespace and selector of the Service if its `externalTrafficPolicy` is `Local`, otherwise empty.
    pub backend: String,
}

/// Why two Services cannot share an address.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum SharingConflict {
    /// One of them has no key.
    NotShared,
    /// The keys differ.
    Key,
    /// Both have this port.
    Port(Port),
    /// The namespaces differ, and the pool's addresses are shared within a namespace only.
    Namespace,
    /// The policies, the namespaces or the selectors differ, and at least one policy is `Local`.
    Backend,
}

impl Sharing {
    /// Why the address cannot be shared with another Service; `None` if it can.
    #[must_use]
    pub fn conflict_with(&self, other: &Self) -> Option<SharingConflict> {
        if self.key != other.key {
            return Some(SharingConflict::Key);
        }
        if let Some(port) = self.ports.intersection(&other.ports).next() {
            return Some(SharingConflict::Port(port.clone()));
        }
        (self.backend != other.backend).then_some(SharingConflict::Backend)
    }

    /// Whether both have the policy `Local` and the same selector, in whatever namespaces. MetalLB lets them share.
    fn has_selector_of(&self, other: &Self) -> bool {
        let selector = |sharing: &Self| {
            let (_, selector) = sharing.backend.split_once(':').unwrap_or_default();
            (!sharing.backend.is_empty()).then(|| selector.to_owned())
        };
        selector(self).is_some_and(|own| selector(other) == Some(own))
    }
}

/// How a Service holds its addresses.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub enum SharingMode {
    /// No other Service can have them.
    #[default]
    Exclusive,
    /// Other Services without a conflict can have them too.
    Shared(Box<Sharing>),
    /// The Service has lost them, but its status may still show them: only Services that have them already can keep
    /// them.
    Draining,
}

impl SharingMode {
    /// Why an address cannot be assigned while another Service has it; `None` if it can.
    pub(crate) fn conflict_with(&self, other: &Self) -> Option<SharingConflict> {
        match (self, other) {
            (Self::Draining, _) | (_, Self::Draining) => None,
            (Self::Shared(one), Self::Shared(other)) => one.conflict_with(other),
            (Self::Exclusive, Self::Exclusive | Self::Shared(_)) | (Self::Shared(_), Self::Exclusive) => {
                Some(SharingConflict::NotShared)
            }
        }
    }

    /// Like [`conflict_with`](Self::conflict_with), for an address that the Service has already: MetalLB may have
    /// assigned it.
    pub(crate) fn conflict_while_kept(&self, other: &Self) -> Option<SharingConflict> {
        let conflict = self.conflict_with(other)?;
        let is_permitted = match (self, other) {
            (Self::Shared(one), Self::Shared(other)) => {
                conflict == SharingConflict::Backend && one.has_selector_of(other)
            }
            _ => false,
        };
        (!is_permitted).then_some(conflict)
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
    fn sharing_requires_same_key_and_backend_and_distinct_ports() {
        let web = sharing("k", &[("TCP", 80), ("TCP", 443)], "");
        assert_eq!(web.conflict_with(&sharing("k", &[("UDP", 443)], "")), None);
        assert_eq!(
            web.conflict_with(&sharing("other", &[("UDP", 53)], "")),
            Some(SharingConflict::Key)
        );
        let conflict = web.conflict_with(&sharing("k", &[("TCP", 443)], ""));
        assert!(matches!(conflict, Some(SharingConflict::Port(port)) if port.to_string() == "TCP/443"));
        let local = sharing("k", &[("UDP", 53)], "app=dns");
        assert_eq!(web.conflict_with(&local), Some(SharingConflict::Backend));
        assert_eq!(
            local.conflict_with(&sharing("k", &[("TCP", 53)], "app=dns")),
            None
        );
    }
}
