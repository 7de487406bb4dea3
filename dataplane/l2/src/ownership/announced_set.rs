//! The set of addresses that a speaker announces, offers or declines: with a digest, split into fragments that fit into
//! datagrams, and reassembled.
//!
//! Every heartbeat carries the digest. A peer whose confirmed digest differs gets all fragments, and uses them only
//! when they are complete, so nobody acts on half a set; a lost fragment costs one more round.

use std::collections::BTreeMap;
use std::net::IpAddr;

use crate::wire::heartbeat::{Entry, EntryState, Fragment, MAX_ENTRIES_LEN};

/// The digest of the empty set. Not 0, which means "unknown".
const NOTHING: u64 = 0x9e37_79b9_7f4a_7c15;

/// Upper bound of the fragments of one set; they hold more addresses than any cluster has.
const MAX_PARTS: u16 = 4096;

/// The addresses of one speaker with their states.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct AnnouncedSet {
    entries: BTreeMap<IpAddr, EntryState>,
    digest: u64,
}

impl Default for AnnouncedSet {
    fn default() -> Self {
        Self {
            entries: BTreeMap::new(),
            digest: NOTHING,
        }
    }
}

impl AnnouncedSet {
    /// Inserts an entry; returns whether the set changed.
    pub fn insert(&mut self, entry: Entry) -> bool {
        let before = self.entries.insert(entry.address, entry.state);
        if before == Some(entry.state) {
            return false;
        }
        if let Some(state) = before {
            self.digest ^= hash(entry.address, state);
        }
        self.digest ^= hash(entry.address, entry.state);
        true
    }

    /// Removes an address; returns whether it was present.
    pub fn remove(&mut self, address: IpAddr) -> bool {
        match self.entries.remove(&address) {
            Some(state) => {
                self.digest ^= hash(address, state);
                true
            }
            None => false,
        }
    }

    /// Whether the speaker announces the address.
    #[must_use]
    pub fn announces(&self, address: IpAddr) -> bool {
        self.entries.get(&address).copied().is_some_and(is_owned)
    }

    /// The [hash](crate::ownership::election::short_hash) of the node that the address is offered to.
    #[must_use]
    pub fn offered_to(&self, address: IpAddr) -> Option<u32> {
        match self.entries.get(&address) {
            Some(EntryState::Offered { to }) => Some(*to),
            Some(EntryState::Announced | EntryState::Declined | EntryState::Proxied { .. }) | None => None,
        }
    }

    /// The [hash](crate::ownership::election::short_hash) of the restarting owner for which the speaker sends proxy
    /// replies.
    #[must_use]
    pub fn proxied_for(&self, address: IpAddr) -> Option<u32> {
        match self.entries.get(&address) {
            Some(EntryState::Proxied { owner }) => Some(*owner),
            Some(EntryState::Announced | EntryState::Declined | EntryState::Offered { .. }) | None => None,
        }
    }

    /// Whether the speaker has no interface for the address.
    #[must_use]
    pub fn declines(&self, address: IpAddr) -> bool {
        self.entries.get(&address) == Some(&EntryState::Declined)
    }

    /// Whether the set contains exactly this entry.
    #[must_use]
    pub fn contains(&self, entry: Entry) -> bool {
        self.entries.get(&entry.address) == Some(&entry.state)
    }

    /// The entries, ordered by address.
    pub fn entries(&self) -> impl DoubleEndedIterator<Item = Entry> {
        self.entries.iter().map(|(address, state)| Entry {
            address: *address,
            state: *state,
        })
    }

    /// The announced addresses, in order.
    pub fn announced(&self) -> impl DoubleEndedIterator<Item = IpAddr> {
        self.entries()
            .filter(|entry| is_owned(entry.state))
            .map(|entry| entry.address)
    }

    /// Whether the set has no entries.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Identifies the content of the set, independent of the order of insertion.
    #[must_use]
    pub const fn digest(&self) -> u64 {
        self.digest
    }

    /// Splits the set into fragments, at least one.
    #[must_use]
    pub fn parts(&self) -> Vec<Fragment> {
        let mut lists = vec![Vec::new()];
        let mut room = MAX_ENTRIES_LEN;
        for entry in self.entries() {
            if entry.encoded_len() > room {
                lists.push(Vec::new());
                room = MAX_ENTRIES_LEN;
            }
            room -= entry.encoded_len();
            if let Some(list) = lists.last_mut() {
                list.push(entry);
            }
        }
        let of = u16::try_from(lists.len()).unwrap_or(u16::MAX);
        (0..of)
            .zip(lists)
            .map(|(index, entries)| Fragment {
                digest: self.digest,
                index,
                count: of,
                entries,
            })
            .collect()
    }
}

impl FromIterator<Entry> for AnnouncedSet {
    fn from_iter<I: IntoIterator<Item = Entry>>(entries: I) -> Self {
        let mut set = Self::default();
        for entry in entries {
            set.insert(entry);
        }
        set
    }
}

/// Reassembles a set from its fragments.
#[derive(Clone, Debug, Default)]
pub struct Reassembly {
    digest: u64,
    of: u16,
    parts: BTreeMap<u16, Vec<Entry>>,
}

impl Reassembly {
    /// Takes in a fragment, in any order; returns the set when it is complete. A fragment of another set discards those
    /// before.
    pub fn add(&mut self, part: Fragment) -> Option<AnnouncedSet> {
        if part.count > MAX_PARTS {
            return None;
        }
        if (part.digest, part.count) != (self.digest, self.of) {
            *self = Self {
                digest: part.digest,
                of: part.count,
                parts: BTreeMap::new(),
            };
        }
        self.parts.insert(part.index, part.entries);
        if self.parts.len() < usize::from(self.of) {
            return None;
        }
        let set: AnnouncedSet = std::mem::take(self).parts.into_values().flatten().collect();
        (set.digest == part.digest).then_some(set)
    }
}

const fn is_owned(state: EntryState) -> bool {
    match state {
        EntryState::Announced | EntryState::Offered { .. } => true,
        EntryState::Declined | EntryState::Proxied { .. } => false,
    }
}

/// A hash whose exclusive or over all entries identifies a set. It need not resist forgery, because datagrams are
/// authenticated.
fn hash(address: IpAddr, state: EntryState) -> u64 {
    let (high, low, family) = match address {
        IpAddr::V4(v4) => (0, u64::from(v4.to_bits()), 4),
        IpAddr::V6(v6) => ((v6.to_bits() >> 64) as u64, v6.to_bits() as u64, 6),
    };
    let state = match state {
        EntryState::Announced => 0,
        EntryState::Declined => 1,
        EntryState::Offered { to } => 2 | u64::from(to) << 8,
        EntryState::Proxied { owner } => 3 | u64::from(owner) << 8,
    };
    mix(mix(mix(high) ^ low) ^ family ^ (state << 8))
}

/// The finalizer of SplitMix64.
const fn mix(value: u64) -> u64 {
    let mut z = value.wrapping_add(NOTHING);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
