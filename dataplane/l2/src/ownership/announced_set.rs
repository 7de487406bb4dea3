//! The addresses that a speaker answers for or offers, as it tells them to others: a set with a digest, cut into parts that fit into
//! datagrams, and put together again.
//!
//! The digest is in every heartbeat. Who knows another one is sent all parts, and believes them when they are complete: so
//! nobody ever acts upon half of what is claimed, and a lost part costs no more than another round.

use std::collections::BTreeMap;
use std::net::IpAddr;

use crate::wire::heartbeat::{Entry, EntryState, Fragment, MAX_ENTRIES_LEN};

/// The digest of no claims at all. Not 0, which stands for "not known".
const NOTHING: u64 = 0x9e37_79b9_7f4a_7c15;

/// Most parts that are put together: more addresses than any cluster has.
const MAX_PARTS: u16 = 4096;

/// A set of addresses, and how the speaker stands to each.
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
    /// Takes in an entry; returns whether that changed anything.
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

    /// Takes an address out; returns whether it was there.
    pub fn remove(&mut self, address: IpAddr) -> bool {
        match self.entries.remove(&address) {
            Some(state) => {
                self.digest ^= hash(address, state);
                true
            }
            None => false,
        }
    }

    /// Whether the address is answered for.
    #[must_use]
    pub fn announces(&self, address: IpAddr) -> bool {
        self.entries.get(&address).copied().is_some_and(is_owned)
    }

    /// To which node the address is offered, by its mark; none when it is not.
    #[must_use]
    pub fn offered_to(&self, address: IpAddr) -> Option<u32> {
        match self.entries.get(&address) {
            Some(EntryState::Offered { to }) => Some(*to),
            Some(EntryState::Announced | EntryState::Declined | EntryState::Proxied { .. }) | None => None,
        }
    }

    /// In whose place the address is answered for, by the mark of the node; none when it is not.
    #[must_use]
    pub fn proxied_for(&self, address: IpAddr) -> Option<u32> {
        match self.entries.get(&address) {
            Some(EntryState::Proxied { owner }) => Some(*owner),
            Some(EntryState::Announced | EntryState::Declined | EntryState::Offered { .. }) | None => None,
        }
    }

    /// Whether the address is declined.
    #[must_use]
    pub fn declines(&self, address: IpAddr) -> bool {
        self.entries.get(&address) == Some(&EntryState::Declined)
    }

    /// Whether exactly this is told of the address.
    #[must_use]
    pub fn contains(&self, entry: Entry) -> bool {
        self.entries.get(&entry.address) == Some(&entry.state)
    }

    /// The addresses, in order.
    pub fn entries(&self) -> impl DoubleEndedIterator<Item = Entry> {
        self.entries.iter().map(|(address, state)| Entry {
            address: *address,
            state: *state,
        })
    }

    /// The addresses that are answered for, in order.
    pub fn announced(&self) -> impl DoubleEndedIterator<Item = IpAddr> {
        self.entries()
            .filter(|entry| is_owned(entry.state))
            .map(|entry| entry.address)
    }

    /// Whether nothing is claimed and nothing declined.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Says which set it is, whatever the order in which it came about.
    #[must_use]
    pub const fn digest(&self) -> u64 {
        self.digest
    }

    /// The parts of the set: one at least.
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

/// Puts parts together.
#[derive(Clone, Debug, Default)]
pub struct Reassembly {
    digest: u64,
    of: u16,
    parts: BTreeMap<u16, Vec<Entry>>,
}

impl Reassembly {
    /// Takes in a part, in any order; returns the set once all its parts are there. Parts of another set than the last
    /// one begin it anew.
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

/// Spreads the bits of an entry, so that their exclusive or tells sets apart. Nobody needs to be kept from finding two
/// sets alike: who tells them is authenticated.
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
