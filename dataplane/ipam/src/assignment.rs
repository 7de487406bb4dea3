//! The addresses of one Service: at most one of each family, each with its pool.

use std::net::IpAddr;
use std::sync::Arc;

use crate::addresses::Addresses;
use crate::range::Family;

/// Where an address comes from.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Origin {
    /// This pool, which contains the address or is currently invalid. The name is shared, not copied.
    Pool(Arc<str>),
    /// No pool contains it; the Service had it before this allocator started. With the name of the recorded pool.
    Outside(Option<Arc<str>>),
}

impl Origin {
    /// The pool's name, also if that pool does not contain the address.
    #[must_use]
    pub fn name(&self) -> Option<&str> {
        match self {
            Self::Pool(name) => Some(name),
            Self::Outside(name) => name.as_deref(),
        }
    }

    /// The pool, if the address belongs to one.
    #[must_use]
    pub fn pool(&self) -> Option<&Arc<str>> {
        match self {
            Self::Pool(name) => Some(name),
            Self::Outside(_) => None,
        }
    }
}

/// The addresses of a Service and their origins.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Assignment {
    addresses: Addresses,
    v4: Option<Origin>,
    v6: Option<Origin>,
}

impl Assignment {
    /// The addresses without their origins.
    #[must_use]
    pub fn addresses(&self) -> Addresses {
        self.addresses
    }

    /// Whether there is no address.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.addresses.is_empty()
    }

    /// The origin of the address of a family.
    #[must_use]
    pub fn origin(&self, family: Family) -> Option<&Origin> {
        match family {
            Family::V4 => self.v4.as_ref(),
            Family::V6 => self.v6.as_ref(),
        }
    }

    /// Each address with its origin, IPv4 first.
    pub fn parts(&self) -> impl Iterator<Item = (IpAddr, &Origin)> {
        let part = |address: IpAddr| Some((address, self.origin(Family::of(address))?));
        self.addresses.iter().filter_map(part)
    }

    /// The value of the annotation `ip-allocated-from-pool`: one name if both addresses have the same, else the name
    /// for IPv4, a comma and the name for IPv6. `None` if no name is known.
    #[must_use]
    pub fn pool_names(&self) -> Option<String> {
        let mut names: Vec<_> = self.parts().filter_map(|(_, origin)| origin.name()).collect();
        names.dedup();
        (!names.is_empty()).then(|| names.join(","))
    }

    /// Adds an address, unless there is one of its family.
    pub(crate) fn add(&mut self, address: IpAddr, origin: Origin) {
        if self.addresses.add(address) {
            match address {
                IpAddr::V4(_) => self.v4 = Some(origin),
                IpAddr::V6(_) => self.v6 = Some(origin),
            }
        }
    }

    /// This assignment with the addresses of another added.
    pub(crate) fn merge(mut self, other: &Self) -> Self {
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

/// The pools recorded in a Service, in the format of [`Assignment::pool_names`].
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct RecordedPools<'a>(pub Option<&'a str>);

impl<'a> RecordedPools<'a> {
    /// The pool recorded for a family.
    pub(crate) fn for_family(self, family: Family) -> Option<&'a str> {
        let names = self.0?;
        let name = match (names.split_once(','), family) {
            (None, _) => names,
            (Some((v4, _)), Family::V4) => v4,
            (Some((_, v6)), Family::V6) => v6,
        };
        Some(name.trim()).filter(|name| !name.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pool_names_round_trip() {
        let (a, b): (Arc<str>, Arc<str>) = ("a".into(), "b".into());
        let (v4, v6) = ("10.0.0.1".parse().unwrap(), "fd00::1".parse().unwrap());
        let names =
            |parts: &[(IpAddr, &Arc<str>)]| parts.iter().copied().collect::<Assignment>().pool_names();
        assert_eq!(names(&[]), None);
        assert_eq!(names(&[(v6, &b), (v4, &b)]).as_deref(), Some("b"));
        assert_eq!(names(&[(v6, &b), (v4, &a)]).as_deref(), Some("a,b"));
        let recorded = |names, family| RecordedPools(Some(names)).for_family(family);
        assert_eq!(recorded("a", Family::V6), Some("a"));
        assert_eq!(
            (recorded("a,b", Family::V4), recorded("a,b", Family::V6)),
            (Some("a"), Some("b"))
        );
        assert_eq!(recorded("", Family::V4), None);
    }
}
