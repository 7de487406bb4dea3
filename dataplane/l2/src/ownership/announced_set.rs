//! The set of addresses that a speaker announces, offers or declines: with a digest, split into fragments that fit into
//! datagrams, and reassembled.
//!
//! Every heartbeat carries the digest. A peer whose confirmed digest is that of a recent set gets the difference, in one
//! datagram. Otherwise, or if it does not confirm, it gets all fragments, and uses them only when they are complete, so
//! nobody acts on half a set; a lost fragment costs one more round.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::IpAddr;
use std::ops::Deref;

use crate::wire::heartbeat::{Entry, EntryState, Fragment, MAX_CHANGE_LEN, MAX_ENTRIES_LEN, SetChange};

/// The digest of the empty set. Not 0, which means "unknown".
const NOTHING: u64 = 0x9e37_79b9_7f4a_7c15;

/// Upper bound of the fragments of one set; they hold more addresses than any cluster has.
const MAX_PARTS: u16 = 4096;

/// The number of changes that are remembered. More do not fit into one datagram.
const MAX_RECORDED_CHANGES: usize = MAX_CHANGE_LEN / MIN_ENTRY_LEN;
/// Length of an encoded IPv4 address.
const MIN_ENTRY_LEN: usize = 5;

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
            Some(_) | None => None,
        }
    }

    /// The [hash](crate::ownership::election::short_hash) of the restarting owner for which the speaker sends proxy
    /// replies.
    #[must_use]
    pub fn proxied_for(&self, address: IpAddr) -> Option<u32> {
        match self.entries.get(&address) {
            Some(EntryState::Proxied { owner }) => Some(*owner),
            Some(_) | None => None,
        }
    }

    /// Whether the speaker has no interface for the address.
    #[must_use]
    pub fn declines(&self, address: IpAddr) -> bool {
        self.entries.get(&address) == Some(&EntryState::Declined)
    }

    /// Whether the speaker leaves the address to another host.
    #[must_use]
    pub fn withholds(&self, address: IpAddr) -> bool {
        self.entries.get(&address) == Some(&EntryState::Withheld)
    }

    /// The resource version with which the speaker contests that another node announces the address.
    #[must_use]
    pub fn contested_with(&self, address: IpAddr) -> Option<u64> {
        match self.entries.get(&address) {
            Some(EntryState::Contested { version }) => Some(*version),
            Some(_) | None => None,
        }
    }

    /// Whether the speaker announces the address until any other node does.
    #[must_use]
    pub fn leaves(&self, address: IpAddr) -> bool {
        self.entries.get(&address) == Some(&EntryState::Leaving)
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

    /// The state of an address.
    #[must_use]
    pub fn state(&self, address: IpAddr) -> Option<EntryState> {
        self.entries.get(&address).copied()
    }

    /// Applies a difference, and returns the changed addresses with their previous states. `None` if the difference is from
    /// another set, or does not lead to the set that it names; then this set is unchanged.
    pub fn apply(&mut self, change: &SetChange) -> Option<BTreeMap<IpAddr, Option<EntryState>>> {
        if change.from != self.digest {
            return None;
        }
        let mut after: BTreeMap<IpAddr, Option<EntryState>> =
            change.removed.iter().map(|address| (*address, None)).collect();
        after.extend(
            change
                .entries
                .iter()
                .map(|entry| (entry.address, Some(entry.state))),
        );
        let mut digest = self.digest;
        for (address, state) in &after {
            for state in [self.state(*address), *state].into_iter().flatten() {
                digest ^= hash(*address, state);
            }
        }
        if digest != change.to {
            return None;
        }
        self.digest = digest;
        let mut before = BTreeMap::new();
        for (address, state) in after {
            let previous = match state {
                Some(state) => self.entries.insert(address, state),
                None => self.entries.remove(&address),
            };
            if previous != state {
                before.insert(address, previous);
            }
        }
        Some(before)
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

/// The set of our own speaker, with its last changes.
#[derive(Clone, Debug, Default)]
pub struct RecordedSet {
    set: AnnouncedSet,
    /// The digest before each change, and the changed address; the last change is at the end.
    changes: VecDeque<(u64, IpAddr)>,
}

impl Deref for RecordedSet {
    type Target = AnnouncedSet;

    fn deref(&self) -> &AnnouncedSet {
        &self.set
    }
}

impl RecordedSet {
    /// Inserts an entry; returns whether the set changed.
    pub fn insert(&mut self, entry: Entry) -> bool {
        let before = self.set.digest;
        let changed = self.set.insert(entry);
        self.record(changed, before, entry.address);
        changed
    }

    /// Removes an address; returns whether it was present.
    pub fn remove(&mut self, address: IpAddr) -> bool {
        let before = self.set.digest;
        let changed = self.set.remove(address);
        self.record(changed, before, address);
        changed
    }

    /// The difference from an earlier set; `None` if that is too long ago, or the difference does not fit into a datagram.
    #[must_use]
    pub fn change_since(&self, digest: u64) -> Option<SetChange> {
        let from = self.changes.iter().rposition(|(before, _)| *before == digest)?;
        let addresses: BTreeSet<_> = self
            .changes
            .iter()
            .skip(from)
            .map(|(_, address)| *address)
            .collect();
        let mut change = SetChange {
            from: digest,
            to: self.set.digest,
            entries: Vec::new(),
            removed: Vec::new(),
        };
        let mut len = 0;
        for address in addresses {
            let state = self.set.state(address);
            let entry = Entry {
                address,
                state: state.unwrap_or(EntryState::Announced),
            };
            len += entry.encoded_len();
            if len > MAX_CHANGE_LEN {
                return None;
            }
            match state {
                Some(_) => change.entries.push(entry),
                None => change.removed.push(address),
            }
        }
        Some(change)
    }

    fn record(&mut self, changed: bool, before: u64, address: IpAddr) {
        if !changed {
            return;
        }
        if self.changes.len() >= MAX_RECORDED_CHANGES {
            self.changes.pop_front();
        }
        self.changes.push_back((before, address));
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

/// Whether the speaker announces an address in this state.
pub(super) const fn is_owned(state: EntryState) -> bool {
    match state {
        EntryState::Announced
        | EntryState::Offered { .. }
        | EntryState::Leaving
        | EntryState::Contested { .. } => true,
        EntryState::Declined | EntryState::Proxied { .. } | EntryState::Withheld => false,
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
        EntryState::Withheld => 4,
        EntryState::Leaving => 5,
        EntryState::Contested { version } => 6 | mix(version) << 8,
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn entries() -> impl Strategy<Value = Vec<(u8, u8, bool)>> {
        proptest::collection::vec((0..40_u8, 0..7_u8, any::<bool>()), 0..80)
    }

    fn entry(address: u8, state: u8) -> Entry {
        Entry {
            address: [10, 0, 0, address].into(),
            state: match state {
                0 => EntryState::Announced,
                1 => EntryState::Declined,
                2 => EntryState::Offered { to: 7 },
                3 => EntryState::Proxied { owner: 9 },
                4 => EntryState::Withheld,
                5 => EntryState::Leaving,
                _ => EntryState::Contested { version: 11 },
            },
        }
    }

    fn edit(set: &mut RecordedSet, edits: &[(u8, u8, bool)]) {
        for (address, state, insert) in edits {
            let entry = entry(*address, *state);
            if *insert {
                set.insert(entry);
            } else {
                set.remove(entry.address);
            }
        }
    }

    proptest! {
        #[test]
        fn difference_leads_to_the_same_set(first in entries(), second in entries()) {
            let mut ours = RecordedSet::default();
            edit(&mut ours, &first);
            let mut theirs = (*ours).clone();
            edit(&mut ours, &second);
            if theirs.digest() == ours.digest() {
                return Ok(());
            }
            let change = ours.change_since(theirs.digest()).expect("recorded");
            let before = theirs.clone();
            let changed = theirs.apply(&change).expect("from the same set");
            prop_assert_eq!(&theirs, &*ours);
            for (address, state) in changed {
                prop_assert_eq!(before.state(address), state);
                prop_assert_ne!(theirs.state(address), state);
            }
            prop_assert_eq!(theirs.apply(&change), None, "from another set");
        }
    }

    #[test]
    fn false_difference_changes_nothing() {
        let mut ours = RecordedSet::default();
        ours.insert(entry(1, 0));
        let mut change = ours
            .change_since(AnnouncedSet::default().digest())
            .expect("recorded");
        change.entries.push(entry(2, 0));
        let mut theirs = AnnouncedSet::default();
        assert_eq!(theirs.apply(&change), None);
        assert_eq!(theirs, AnnouncedSet::default());
    }

    #[test]
    fn old_and_large_differences_are_not_recorded() {
        let mut ours = RecordedSet::default();
        let empty = ours.digest();
        for number in 0..u32::try_from(MAX_RECORDED_CHANGES).expect("small") {
            ours.insert(Entry::announced(IpAddr::V4(number.into())));
        }
        let change = ours.change_since(empty).expect("fits");
        assert_eq!(change.entries.len(), MAX_RECORDED_CHANGES);
        ours.remove(IpAddr::V4(0.into()));
        assert_eq!(ours.change_since(empty), None);
        assert_eq!(ours.changes.len(), MAX_RECORDED_CHANGES);
        let recent = ours.changes.back().expect("a change").0;
        let removed = ours.change_since(recent).expect("recorded");
        assert_eq!((removed.entries.len(), removed.removed.len()), (0, 1));
    }
}
