//! The key under which the allocator holds addresses.

use std::fmt;
use std::net::IpAddr;

use lb_ipam::ServiceId;
use lb_runtime::ObjectKey;

/// For which Service, and why, the allocator holds an address.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum AllocationKey {
    /// The addresses assigned to a Service.
    Service(ObjectKey),
    /// An address that a Service has lost, but that its status still shows, or may show by a write in flight.
    Draining(ObjectKey, IpAddr),
}

impl fmt::Display for AllocationKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Service(key) | Self::Draining(key, _) => key.fmt(f),
        }
    }
}

impl ServiceId for AllocationKey {
    /// A draining address counts towards no quota, so that it does not block the address that its Service moves to.
    fn namespace(&self) -> Option<&str> {
        match self {
            Self::Service(key) => Some(key.namespace()),
            Self::Draining(..) => None,
        }
    }
}
