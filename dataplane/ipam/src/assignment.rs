//! What a Service has: at most one address of each family, and the pool that each is of.

use std::fmt::Display;
use std::net::IpAddr;
use std::sync::Arc;

use crate::addresses::Addresses;
use crate::range::Family;

/// Where an address is from.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Origin {
    /// This pool; it has the address, or is invalid for the time being. The name is shared, not copied.
    Pool(Arc<str>),
    /// No pool has it. It was there before us, and is kept. The name is of the pool that it is said to be from.
    Outside(Option<Arc<str>>),
}

impl Origin {
    /// The pool's name, also where that pool does not have the address.
    #[must_use]
    pub fn name(&self) -> Option<&str> {
        match self {
            Self::Pool(name) => Some(name),
            Self::Outside(name) => name.as_deref(),
        }
    }

    /// The pool that the address is of.
    #[must_use]
    pub fn pool(&self) -> Option<&Arc<str>> {
        match self {
            Self::Pool(name) => Some(name),
            Self::Outside(_) => None,
        }
    }
}

/// What a Service has.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Assignment {
    addresses: Addresses,
    v4: Option<Origin>,
    v6: Option<Origin>,
}

impl Assignment {
    /// The addresses.
    #[must_use]
    pub fn addresses(&self) -> Addresses {
        self.addresses
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.addresses.is_empty()
    }

    /// Where the address of a family is from.
    #[must_use]
    pub fn origin(&self, family: Family) -> Option<&Origin> {
        match family {
            Family::V4 => self.v4.as_ref(),
            Family::V6 => self.v6.as_ref(),
        }
    }

    /// Each address, and where it is from.
    pub fn parts(&self) -> impl Iterator<Item = (IpAddr, &Origin)> {
        let part = |address: IpAddr| Some((address, self.origin(Family::of(address))?));
        self.addresses.iter().filter_map(part)
    }

    /// The names of the pools, as the annotation `ip-allocated-from-pool` gives them: one for all addresses, or that of
    /// the IPv4 address, a comma, and that of the IPv6 address. None where no name is known.
    #[must_use]
    pub fn pool_names(&self) -> Option<String> {
        let mut names: Vec<_> = self.parts().filter_map(|(_, origin)| origin.name()).collect();
        names.dedup();
        (!names.is_empty()).then(|| names.join(","))
    }

    /// Adds an address; nothing happens when there is one of its family.
    pub(crate) fn add(&mut self, address: IpAddr, origin: Origin) {
        if self.addresses.add(address) {
            match address {
                IpAddr::V4(_) => self.v4 = Some(origin),
                IpAddr::V6(_) => self.v6 = Some(origin),
            }
        }
    }

    /// What somebody has who had this and that.
    pub(crate) fn and(mut self, other: &Self) -> Self {
        for (address, origin) in other.parts() {
            self.add(address, origin.clone());
        }
        self
    }
}

impl<'a> FromIterator<(IpAddr, &'a Arc<str>)> for Assignment {
    /// Collects addresses and the names of their pools.
    fn from_iter<I: IntoIterator<Item = (IpAddr, &'a Arc<str>)>>(parts: I) -> Self {
        let mut collected = Self::default();
        for (address, pool) in parts {
            collected.add(address, Origin::Pool(pool.clone()));
        }
        collected
    }
}

/// The pools that addresses are said to be from, in the words of [`Assignment::pool_names`].
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Claimed<'a>(pub Option<&'a str>);

impl<'a> Claimed<'a> {
    /// The pool of the address of a family.
    pub(crate) fn of(self, family: Family) -> Option<&'a str> {
        let names = self.0?;
        let name = match (names.split_once(','), family) {
            (None, _) => names,
            (Some((v4, _)), Family::V4) => v4,
            (Some((_, v6)), Family::V6) => v6,
        };
        Some(name.trim()).filter(|name| !name.is_empty())
    }
}

/// Who can have an address.
pub trait Tenant: Clone + Ord + Display {
    /// The namespace whose quota its addresses count for; none where they count for no quota.
    fn namespace(&self) -> Option<&str>;
}

/// `namespace/name`, for tests and measurements.
impl Tenant for &str {
    fn namespace(&self) -> Option<&str> {
        self.split_once('/').map(|(namespace, _)| namespace)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pools_are_named_once_or_one_for_each_family() {
        let (a, b): (Arc<str>, Arc<str>) = ("a".into(), "b".into());
        let (v4, v6) = ("10.0.0.1".parse().unwrap(), "fd00::1".parse().unwrap());
        let names =
            |parts: &[(IpAddr, &Arc<str>)]| parts.iter().copied().collect::<Assignment>().pool_names();
        assert_eq!(names(&[]), None);
        assert_eq!(names(&[(v6, &b), (v4, &b)]).as_deref(), Some("b"));
        assert_eq!(names(&[(v6, &b), (v4, &a)]).as_deref(), Some("a,b"));
        let claimed = |names, family| Claimed(Some(names)).of(family);
        assert_eq!(claimed("a", Family::V6), Some("a"));
        assert_eq!(
            (claimed("a,b", Family::V4), claimed("a,b", Family::V6)),
            (Some("a"), Some("b"))
        );
        assert_eq!(claimed("", Family::V4), None);
    }
}
