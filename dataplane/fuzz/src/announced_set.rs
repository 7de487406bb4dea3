//! Announced sets, their digests and their reassembly from fragments.
//!
//! A [`Reassembly`] holds at most 4096 fragments of [`MAX_ENTRIES_LEN`] bytes from an authentic peer, each once; a
//! fragment of another set discards the previous ones.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

use lb_l2::ownership::announced_set::{AnnouncedSet, Reassembly};
use lb_l2::wire::heartbeat::{Entry, EntryState, Fragment, MAX_ENTRIES_LEN};

use crate::bytes::Bytes;

/// The digest depends on the content of a set only; fragments in any order give their set or nothing.
pub fn target(bytes: &[u8]) {
    let mut bytes = Bytes(bytes);
    let mut set = AnnouncedSet::default();
    let mut model: BTreeMap<IpAddr, EntryState> = BTreeMap::new();
    let mut assembly = Reassembly::default();
    while !bytes.is_empty() {
        match bytes.u8() % 5 {
            0 | 1 => {
                let address = bytes.address();
                let state = match bytes.u8() {
                    byte if byte.is_multiple_of(4) => EntryState::Declined,
                    byte if byte > 192 => EntryState::Proxied { owner: byte.into() },
                    byte if byte > 128 => EntryState::Offered { to: byte.into() },
                    _ => EntryState::Announced,
                };
                let changed = set.insert(Entry { address, state });
                assert_eq!(changed, model.insert(address, state) != Some(state));
            }
            2 => {
                let address = bytes.address();
                assert_eq!(set.remove(address), model.remove(&address).is_some());
            }
            3 => {
                let first = u32::from_be_bytes([10, bytes.u8(), 0, 0]);
                for number in 0..u32::from(bytes.u8()) {
                    let address = IpAddr::V4(Ipv4Addr::from(first + number));
                    set.insert(Entry::announced(address));
                    model.insert(address, EntryState::Announced);
                }
            }
            _ => add_invalid_fragment(&mut assembly, &mut bytes),
        }
    }
    let same: AnnouncedSet = model
        .iter()
        .map(|(address, state)| Entry {
            address: *address,
            state: *state,
        })
        .collect();
    assert_eq!(set, same);
    assert_eq!(set.digest(), same.digest());
    check_reassembly(&mut assembly, &set);
}

/// A fragment as no speaker sends it.
fn add_invalid_fragment(assembly: &mut Reassembly, bytes: &mut Bytes<'_>) {
    let part = Fragment {
        digest: bytes.u64() % 4,
        index: bytes.u16() % 8,
        count: bytes.u16(),
        entries: (0..bytes.u8() % 8)
            .map(|_| Entry::announced(bytes.address()))
            .collect(),
    };
    let digest = part.digest;
    if let Some(set) = assembly.add(part) {
        assert_eq!(set.digest(), digest, "the digest is that of the fragments");
    }
}

/// The fragments of a set, in reverse order and some of them twice, give the set after any previous fragments.
fn check_reassembly(assembly: &mut Reassembly, set: &AnnouncedSet) {
    let parts = set.parts();
    for part in &parts {
        assert!(part.entries.iter().map(Entry::encoded_len).sum::<usize>() <= MAX_ENTRIES_LEN);
    }
    let mut whole = None;
    for part in parts.iter().rev() {
        assert_eq!(whole, None, "an incomplete set is not returned");
        whole = assembly.add(part.clone());
        if part.index > 0 && part.index % 2 == 0 {
            assert_eq!(assembly.add(part.clone()), None);
        }
    }
    assert_eq!(whole.as_ref(), Some(set));
}
