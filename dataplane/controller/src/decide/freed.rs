//! The families of which addresses have become free.

use std::net::IpAddr;

use lb_ipam::Family;

/// The families of which addresses have become free, so that waiting Services are decided about again.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) struct FreedFamilies {
    v4: bool,
    v6: bool,
}

impl FreedFamilies {
    pub(super) const ALL: Self = Self { v4: true, v6: true };

    pub(super) fn and(self, other: Self) -> Self {
        Self {
            v4: self.v4 || other.v4,
            v6: self.v6 || other.v6,
        }
    }

    pub(super) fn any(self) -> bool {
        self.v4 || self.v6
    }

    pub(super) fn of(self, family: Family) -> bool {
        match family {
            Family::V4 => self.v4,
            Family::V6 => self.v6,
        }
    }

    pub(super) fn add(&mut self, address: IpAddr) {
        match address {
            IpAddr::V4(_) => self.v4 = true,
            IpAddr::V6(_) => self.v6 = true,
        }
    }
}
