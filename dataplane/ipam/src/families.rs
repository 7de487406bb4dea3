//! The IP families that a Service requests.

use std::fmt;

use crate::addresses::Addresses;
use crate::range::Family;

/// A Service's `spec.ipFamilyPolicy`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum IpFamilyPolicy {
    /// One family.
    SingleStack,
    /// Two families where possible.
    PreferDualStack,
    /// Two families, or no address at all.
    RequireDualStack,
}

/// The families that a Service requests addresses of.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Families {
    /// One address of this family.
    Single(Family),
    /// An address of each family if possible, otherwise of one.
    PreferDualStack,
    /// An address of each family.
    RequireDualStack,
}

impl Families {
    /// Whether a Service of these families may request exactly these addresses.
    #[must_use]
    pub fn accepts(self, addresses: &Addresses) -> bool {
        let has = |family| addresses.get(family).is_some();
        match self {
            Self::Single(family) => has(family) && !has(family.other()),
            Self::PreferDualStack => !addresses.is_empty(),
            Self::RequireDualStack => has(Family::V4) && has(Family::V6),
        }
    }

    /// The addresses that are of a requested family.
    #[must_use]
    pub fn restrict(self, addresses: &Addresses) -> Addresses {
        match self {
            Self::Single(family) => addresses.only(family),
            Self::PreferDualStack | Self::RequireDualStack => *addresses,
        }
    }
}

impl fmt::Display for Families {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Single(family) => family.fmt(f),
            Self::PreferDualStack | Self::RequireDualStack => f.write_str("dual"),
        }
    }
}
