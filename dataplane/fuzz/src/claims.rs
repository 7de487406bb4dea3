//! Sets of claims, their digests, and how they are put together from parts.
//!
//! What an [`Reassembly`] can hold is bounded by what a datagram carries ([`MAX_ENTRIES_LEN`]) times the parts of a set (4096), from an authentic
//! peer, each part once; and a part of another set drops all that came before.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

use lb_l2::ownership::announced_set::{AnnouncedSet, Reassembly};
use lb_l2::wire::heartbeat::{Entry, EntryState, Fragment, MAX_ENTRIES_LEN};

use crate::bytes::Bytes;

/// A digest tells the set whatever its history; parts give their set in any order, or nothing.
pub fn target(bytes: &[u8]) {
    let mut bytes = Bytes(bytes);
    let mut claims = AnnouncedSet::default();
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
                let changed = claims.insert(Entry { address, state });
                assert_eq!(changed, model.insert(address, state) != Some(state));
            }
            2 => {
                let address = bytes.address();
                assert_eq!(claims.remove(address), model.remove(&address).is_some());
            }
            3 => {
                let first = u32::from_be_bytes([10, bytes.u8(), 0, 0]);
                for number in 0..u32::from(bytes.u8()) {
                    let address = IpAddr::V4(Ipv4Addr::from(first + number));
                    claims.insert(Entry::announced(address));
                    model.insert(address, EntryState::Announced);
                }
            }
            _ => strange(&mut assembly, &mut bytes),
        }
    }
    let same: AnnouncedSet = model
        .iter()
        .map(|(address, state)| Entry {
            address: *address,
            state: *state,
        })
        .collect();
    assert_eq!(claims, same);
    assert_eq!(claims.digest(), same.digest());
    together(&mut assembly, &claims);
}

/// A part as no speaker of ours makes it.
fn strange(assembly: &mut Reassembly, bytes: &mut Bytes<'_>) {
    let part = Fragment {
        digest: bytes.u64() % 4,
        index: bytes.u16() % 8,
        count: bytes.u16(),
        entries: (0..bytes.u8() % 8)
            .map(|_| Entry::announced(bytes.address()))
            .collect(),
    };
    let digest = part.digest;
    if let Some(claims) = assembly.add(part) {
        assert_eq!(claims.digest(), digest, "it is the set that was told");
    }
}

/// Whatever came before, the parts of a set give the set: backwards and some of them twice.
fn together(assembly: &mut Reassembly, claims: &AnnouncedSet) {
    let parts = claims.parts();
    for part in &parts {
        assert!(part.entries.iter().map(Entry::encoded_len).sum::<usize>() <= MAX_ENTRIES_LEN);
    }
    let mut whole = None;
    for part in parts.iter().rev() {
        assert_eq!(whole, None, "nothing is believed before all of it is there");
        whole = assembly.add(part.clone());
        if part.index > 0 && part.index % 2 == 0 {
            assert_eq!(assembly.add(part.clone()), None);
        }
    }
    assert_eq!(whole.as_ref(), Some(claims));
}
