//! Who has an address, and under which key it is shared.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use crate::assignment::Tenant;

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

/// The addresses that are shared, by key.
#[derive(Clone, Debug, Default)]
pub(crate) struct Shared(BTreeMap<String, BTreeSet<IpAddr>>);

impl Shared {
    pub(crate) fn under(&self, key: &str) -> impl Iterator<Item = IpAddr> {
        self.0.get(key).into_iter().flatten().copied()
    }

    pub(crate) fn add(&mut self, key: &str, address: IpAddr) {
        match self.0.get_mut(key) {
            Some(addresses) => {
                addresses.insert(address);
            }
            None => {
                self.0.insert(key.to_owned(), BTreeSet::from([address]));
            }
        }
    }

    pub(crate) fn remove(&mut self, key: &str, address: IpAddr) {
        if let Some(addresses) = self.0.get_mut(key) {
            addresses.remove(&address);
            if addresses.is_empty() {
                self.0.remove(key);
            }
        }
    }
}
