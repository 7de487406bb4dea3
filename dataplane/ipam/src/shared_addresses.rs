//! The addresses that are shared, by key, so that the search for an address with room does not visit each full one.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use crate::range::Range;
use crate::sharing::Sharing;

/// Shared addresses by key, grouped by the combined [`Sharing`] of the Services on each address.
#[derive(Clone, Debug, Default)]
pub(crate) struct SharedAddresses(BTreeMap<String, Group>);

#[derive(Clone, Debug, Default)]
struct Group {
    by_sharing: BTreeMap<Sharing, BTreeSet<IpAddr>>,
    by_address: BTreeMap<IpAddr, Sharing>,
}

impl SharedAddresses {
    /// The addresses of a range that are shared under the Service's key and have room for it: disjoint sets, each in
    /// order.
    pub(crate) fn with_room<'a>(
        &'a self,
        sharing: &'a Sharing,
        range: &'a Range,
    ) -> impl Iterator<Item = impl Iterator<Item = IpAddr> + 'a> + 'a {
        let by_sharing = self
            .0
            .get(&sharing.key)
            .into_iter()
            .flat_map(|group| &group.by_sharing);
        by_sharing
            .filter(|(combined, _)| sharing.conflict_with(combined).is_none())
            .map(|(_, addresses)| addresses.range(range.first()..=range.last()).copied())
    }

    /// The addresses that are shared under a key, in order.
    pub(crate) fn addresses(&self, key: &str) -> impl Iterator<Item = IpAddr> {
        let group = self.0.get(key).into_iter();
        group.flat_map(|group| group.by_address.keys().copied())
    }

    /// Sets the combined [`Sharing`] of all Services that share an address under a key; `None` if no Service does.
    pub(crate) fn set(&mut self, key: &str, address: IpAddr, combined: Option<Sharing>) {
        if combined.is_none() && !self.0.contains_key(key) {
            return;
        }
        let group = self.0.entry(key.to_owned()).or_default();
        if let Some(before) = group.by_address.remove(&address)
            && let Some(addresses) = group.by_sharing.get_mut(&before)
        {
            addresses.remove(&address);
            if addresses.is_empty() {
                group.by_sharing.remove(&before);
            }
        }
        if let Some(combined) = combined {
            group
                .by_sharing
                .entry(combined.clone())
                .or_default()
                .insert(address);
            group.by_address.insert(address, combined);
        }
        if group.by_address.is_empty() {
            self.0.remove(key);
        }
    }
}
