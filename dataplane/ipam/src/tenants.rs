//! Who has an address, and under which key it is shared.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use crate::assignment::Tenant;
use crate::range::Range;
use crate::sharing::Sharing;

/// Those who have one address. Nearly always it is one, and no list is made for it.
#[derive(Clone, Debug)]
pub(crate) struct Tenants<S> {
    first: S,
    others: Vec<S>,
}

impl<S: PartialEq> Tenants<S> {
    pub(crate) fn iter(&self) -> impl Iterator<Item = &S> {
        std::iter::once(&self.first).chain(&self.others)
    }

    /// Takes one out; none when it was the last.
    fn without(mut self, service: &S) -> Option<Self> {
        if self.first != *service {
            self.others.retain(|other| other != service);
            return Some(self);
        }
        let first = self.others.pop()?;
        Some(Self { first, ..self })
    }
}

/// Who has which address.
#[derive(Clone, Debug)]
pub(crate) struct Register<S>(BTreeMap<IpAddr, Tenants<S>>);

impl<S> Default for Register<S> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<S: Tenant> Register<S> {
    /// Those who have an address.
    pub(crate) fn who_has(&self, address: IpAddr) -> impl Iterator<Item = &S> {
        self.0.get(&address).into_iter().flat_map(Tenants::iter)
    }

    /// The namespace of a Service that counts for quotas, if nobody of it has this address: it counts once.
    pub(crate) fn new_namespace<'a>(&self, service: &'a S, address: IpAddr) -> Option<&'a str> {
        let namespace = service.namespace()?;
        let mut others = self.who_has(address);
        (!others.any(|other| other.namespace() == Some(namespace))).then_some(namespace)
    }

    pub(crate) fn add(&mut self, address: IpAddr, service: &S) {
        match self.0.get_mut(&address) {
            Some(tenants) => tenants.others.push(service.clone()),
            None => {
                let (first, others) = (service.clone(), Vec::new());
                self.0.insert(address, Tenants { first, others });
            }
        }
    }

    /// Takes one out; true when nobody is left.
    pub(crate) fn remove(&mut self, address: IpAddr, service: &S) -> bool {
        let left = self
            .0
            .remove(&address)
            .and_then(|tenants| tenants.without(service));
        let nobody = left.is_none();
        if let Some(tenants) = left {
            self.0.insert(address, tenants);
        }
        nobody
    }
}

/// The addresses that are shared, by key, and among those of one key by what all who share one bring along together. So
/// that the search for an address with room looks at each kind once, however many addresses are full.
#[derive(Clone, Debug, Default)]
pub(crate) struct Shared(BTreeMap<String, Group>);

#[derive(Clone, Debug, Default)]
struct Group {
    kinds: BTreeMap<Sharing, BTreeSet<IpAddr>>,
    by_address: BTreeMap<IpAddr, Sharing>,
}

impl Shared {
    /// The addresses of a range that are shared under the key of a Service and have room for it, in order; the sets that
    /// they are in are disjoint.
    pub(crate) fn with_room<'a>(
        &'a self,
        sharing: &'a Sharing,
        range: &'a Range,
    ) -> impl Iterator<Item = impl Iterator<Item = IpAddr> + 'a> + 'a {
        let kinds = self
            .0
            .get(&sharing.key)
            .into_iter()
            .flat_map(|group| &group.kinds);
        kinds
            .filter(|(kind, _)| sharing.conflict_with(kind).is_none())
            .map(|(_, addresses)| addresses.range(range.first()..=range.last()).copied())
    }

    /// What all who share an address under a key bring along; none when nobody shares it there any more.
    pub(crate) fn set(&mut self, key: &str, address: IpAddr, all: Option<Sharing>) {
        if all.is_none() && !self.0.contains_key(key) {
            return;
        }
        let group = self.0.entry(key.to_owned()).or_default();
        if let Some(before) = group.by_address.remove(&address)
            && let Some(addresses) = group.kinds.get_mut(&before)
        {
            addresses.remove(&address);
            if addresses.is_empty() {
                group.kinds.remove(&before);
            }
        }
        if let Some(all) = all {
            group.kinds.entry(all.clone()).or_default().insert(address);
            group.by_address.insert(address, all);
        }
        if group.by_address.is_empty() {
            self.0.remove(key);
        }
    }
}
