//! The Services that hold each address.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::net::IpAddr;

/// Identifies a Service to the allocator.
pub trait ServiceId: Clone + Ord + Display {
    /// The namespace whose quota its addresses count towards; without one they count towards no quota.
    fn namespace(&self) -> Option<&str>;
}

/// `namespace/name`, for tests and measurements.
impl ServiceId for &str {
    fn namespace(&self) -> Option<&str> {
        self.split_once('/').map(|(namespace, _)| namespace)
    }
}

/// The Services that hold one address. Nearly always there is one, which needs no list.
#[derive(Clone, Debug)]
pub(crate) struct Holders<S> {
    first: S,
    others: Vec<S>,
}

impl<S: PartialEq> Holders<S> {
    pub(crate) fn iter(&self) -> impl Iterator<Item = &S> {
        std::iter::once(&self.first).chain(&self.others)
    }

    /// Removes a Service; `None` if it was the last.
    fn without(mut self, service: &S) -> Option<Self> {
        if self.first != *service {
            self.others.retain(|other| other != service);
            return Some(self);
        }
        let first = self.others.pop()?;
        Some(Self { first, ..self })
    }
}

/// Holders by address.
#[derive(Clone, Debug)]
pub(crate) struct HolderIndex<S>(BTreeMap<IpAddr, Holders<S>>);

impl<S> Default for HolderIndex<S> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<S: ServiceId> HolderIndex<S> {
    pub(crate) fn holders_of(&self, address: IpAddr) -> impl Iterator<Item = &S> {
        self.0.get(&address).into_iter().flat_map(Holders::iter)
    }

    /// The namespace of a Service, unless one of its Services holds the address: it counts once towards the quota.
    pub(crate) fn uncounted_namespace<'a>(&self, service: &'a S, address: IpAddr) -> Option<&'a str> {
        let namespace = service.namespace()?;
        let mut others = self.holders_of(address);
        (!others.any(|other| other.namespace() == Some(namespace))).then_some(namespace)
    }

    pub(crate) fn add(&mut self, address: IpAddr, service: &S) {
        match self.0.get_mut(&address) {
            Some(holders) => holders.others.push(service.clone()),
            None => {
                let (first, others) = (service.clone(), Vec::new());
                self.0.insert(address, Holders { first, others });
            }
        }
    }

    /// Removes a holder; true if it was the last.
    pub(crate) fn remove(&mut self, address: IpAddr, service: &S) -> bool {
        let left = self
            .0
            .remove(&address)
            .and_then(|holders| holders.without(service));
        let was_last = left.is_none();
        if let Some(holders) = left {
            self.0.insert(address, holders);
        }
        was_last
    }
}
