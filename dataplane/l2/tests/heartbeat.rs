//! The heartbeat protocol: messages round-trip; forged, changed, recorded and stale datagrams are rejected.

#![allow(clippy::unwrap_used, reason = "a helper of a test fails the test")]

use std::net::IpAddr;
use std::time::Duration;

use lb_l2::MacAddr;
use lb_l2::ownership::announced_set::{AnnouncedSet, Reassembly};
use lb_l2::ownership::replay::ReplayGuard;
use lb_l2::wire::heartbeat::{
    Datagram, DatagramError, Entry, EntryState, FORMAT, Fragment, Heartbeat, HeartbeatKeys, MAX_DATAGRAM_LEN,
    MAX_ENTRIES_LEN, MAX_MACS, MAX_NODE_NAME_LEN, MAX_VERSION_LEN, Message, SetChange, SpeakerState,
};
use proptest::prelude::*;

fn keys(texts: &[&str]) -> HeartbeatKeys {
    HeartbeatKeys::new(texts.iter().map(|text| text.as_bytes())).unwrap()
}

fn our_keys() -> HeartbeatKeys {
    keys(&["0123456789abcdef0123456789abcdef"])
}

fn heartbeat(node: &str, incarnation: u64, number: u64, echo: u64) -> Datagram {
    Datagram {
        node: node.to_owned(),
        incarnation,
        sequence: number,
        echo,
        message: Message::Heartbeat(Heartbeat {
            state: SpeakerState::Up,
            reply_requested: true,
            hears_receiver: true,
            was_cut_off: true,
            interval: Duration::from_millis(100),
            version: "0.1.0".to_owned(),
            api_version: 7,
            announced_digest: 7,
            known_digest: 8,
            macs: vec![MacAddr([2, 0, 0, 0, 0, 1])],
        }),
    }
}

#[test]
fn rejects_missing_and_short_keys() {
    assert!(HeartbeatKeys::new([]).is_none() && HeartbeatKeys::new([&b"short"[..]]).is_none());
    assert_eq!(
        format!("{:?}", our_keys()),
        "HeartbeatKeys(1)",
        "keys must not be printed"
    );
}

#[test]
fn detects_every_changed_byte() {
    let bytes = our_keys().seal(&heartbeat("n1", 1, 2, 3));
    assert_eq!(our_keys().open(&bytes), Ok(heartbeat("n1", 1, 2, 3)));
    for at in 0..bytes.len() {
        let mut changed = bytes.clone();
        changed[at] ^= 1;
        let error = our_keys().open(&changed).unwrap_err();
        match at {
            0..4 => assert_eq!(error, DatagramError::Magic),
            4 => assert_eq!(error, DatagramError::Format(bytes[4] ^ 1)),
            _ => assert_eq!(error, DatagramError::Authentication, "byte {at}"),
        }
        assert!(our_keys().open(&bytes[..at]).is_err());
    }
    assert_eq!(
        our_keys().open(&vec![0; MAX_DATAGRAM_LEN + 1]),
        Err(DatagramError::TooLong(MAX_DATAGRAM_LEN + 1))
    );
}

#[test]
fn accepts_both_keys_during_a_rotation_only() {
    let (old, new) = ("the old key is long enough", "the new key is long enough");
    let rotating = keys(&[new, old]);
    for sender in [keys(&[old]), keys(&[new]), rotating.clone()] {
        assert!(rotating.open(&sender.seal(&heartbeat("n1", 1, 1, 0))).is_ok());
    }
    assert_eq!(
        keys(&[new]).open(&keys(&[old]).seal(&heartbeat("n1", 1, 1, 0))),
        Err(DatagramError::Authentication)
    );
    assert!(
        keys(&[new])
            .open(&rotating.seal(&heartbeat("n1", 1, 1, 0)))
            .is_ok(),
        "the first key signs"
    );
}

#[test]
fn truncates_content_that_exceeds_a_datagram() {
    let entry = Entry::announced("fd00::1".parse().unwrap());
    let long = Datagram {
        message: Message::Announced(Fragment {
            digest: 1,
            index: 0,
            count: 1,
            entries: vec![entry; 100],
        }),
        ..heartbeat(&"n".repeat(300), 1, 1, 1)
    };
    let bytes = our_keys().seal(&long);
    assert!(bytes.len() <= MAX_DATAGRAM_LEN);
    let read = our_keys().open(&bytes).unwrap();
    assert_eq!(read.node.len(), MAX_NODE_NAME_LEN);
    let Message::Announced(part) = read.message else {
        panic!("unexpected message kind");
    };
    assert_eq!(part.entries.len(), MAX_ENTRIES_LEN / 17);
}

#[test]
fn incarnation_recovers_after_the_clock_was_set_back() {
    let (mut one, mut two) = (ReplayGuard::new(10), ReplayGuard::new(20));
    one.set_peers(["two"]);
    two.set_peers(["one"]);
    let _ = two.admit(&heartbeat("one", 10, 1, one.echo("two")));
    assert_eq!(one.admit(&heartbeat("two", 20, 5, two.echo("one"))), Ok(()));
    // It restarts with a smaller incarnation, and its peer echoes the greater one.
    let mut two = ReplayGuard::new(15);
    two.set_peers(["one"]);
    assert_eq!(
        two.admit(&heartbeat("one", 10, 2, one.echo("two"))),
        Err(DatagramError::Echo)
    );
    assert_eq!(two.incarnation(), 21);
    assert_eq!(
        one.admit(&heartbeat("two", two.incarnation(), 1, two.echo("one"))),
        Ok(())
    );
}

#[test]
fn peers_synchronize_initially_and_after_a_restart() {
    let (mut one, mut two) = (ReplayGuard::new(10), ReplayGuard::new(20));
    one.set_peers(["two"]);
    two.set_peers(["one"]);
    // A datagram is accepted only after its sender has received our incarnation.
    assert_eq!(
        two.admit(&heartbeat("one", 10, 1, one.echo("two"))),
        Err(DatagramError::Echo)
    );
    assert_eq!(one.admit(&heartbeat("two", 20, 1, two.echo("one"))), Ok(()));
    assert_eq!(two.admit(&heartbeat("one", 10, 2, one.echo("two"))), Ok(()));

    let mut two = ReplayGuard::new(21);
    two.set_peers(["one"]);
    assert_eq!(
        one.admit(&heartbeat("two", 21, 1, two.echo("one"))),
        Err(DatagramError::Echo)
    );
    assert_eq!(
        two.admit(&heartbeat("one", 10, 3, one.echo("two"))),
        Err(DatagramError::Echo)
    );
    assert_eq!(one.admit(&heartbeat("two", 21, 2, two.echo("one"))), Ok(()));
    assert_eq!(two.admit(&heartbeat("one", 10, 4, one.echo("two"))), Ok(()));
}

#[test]
fn rejects_replayed_stale_and_unknown_datagrams() {
    let mut guard = ReplayGuard::new(5);
    guard.set_peers(["n1"]);
    assert_eq!(
        guard.admit(&heartbeat("n2", 1, 1, 5)),
        Err(DatagramError::UnknownSender)
    );
    assert_eq!(guard.admit(&heartbeat("n1", 3, 7, 5)), Ok(()));
    for (incarnation, number) in [(3, 7), (3, 6), (2, 99)] {
        assert_eq!(
            guard.admit(&heartbeat("n1", incarnation, number, 5)),
            Err(DatagramError::Replayed)
        );
    }
    // A recording from before our start does not affect the sender's current incarnation.
    assert_eq!(guard.admit(&heartbeat("n1", 9, 9, 4)), Err(DatagramError::Echo));
    assert_eq!(guard.echo("n1"), 3);
    assert_eq!(guard.admit(&heartbeat("n1", 3, 9, 5)), Ok(()));
    // Message kinds have separate sequences: a datagram may be overtaken by one of another kind.
    let claims = Datagram {
        message: Message::Announced(AnnouncedSet::default().parts().remove(0)),
        ..heartbeat("n1", 3, 8, 5)
    };
    assert_eq!(guard.admit(&claims), Ok(()));
    for number in [7, 8] {
        let older = Datagram {
            sequence: number,
            ..claims.clone()
        };
        assert_eq!(guard.admit(&older), Err(DatagramError::Replayed));
    }
    // Datagrams of an earlier incarnation are rejected, whatever their kind.
    assert_eq!(guard.admit(&heartbeat("n1", 4, 1, 5)), Ok(()));
    assert_eq!(guard.admit(&claims), Err(DatagramError::Replayed));
    guard.set_peers([]);
    assert_eq!(
        guard.admit(&heartbeat("n1", 4, 9, 5)),
        Err(DatagramError::UnknownSender)
    );
}

fn with_hmac(mut signed: Vec<u8>) -> Vec<u8> {
    use hmac::{Hmac, KeyInit, Mac};
    let mac = Hmac::<sha2::Sha256>::new_from_slice(b"0123456789abcdef0123456789abcdef").unwrap();
    signed.extend(mac.chain_update(&signed).finalize().into_bytes());
    signed
}

/// The datagram as a later release of the same format sends it: with these further flags in its first byte, and with
/// further fields at its end.
fn from_the_future(datagram: &Datagram, flags: u8, fields: &[u8]) -> Vec<u8> {
    let sealed = our_keys().seal(datagram);
    let mut signed = sealed[..sealed.len() - 32].to_vec();
    let body = u16::from_be_bytes([signed[6], signed[7]]) + u16::try_from(fields.len()).unwrap();
    signed[6..8].copy_from_slice(&body.to_be_bytes());
    signed[33 + datagram.node.len()] |= flags;
    signed.extend(fields);
    with_hmac(signed)
}

#[test]
fn ignores_flags_and_fields_of_a_later_release() {
    let known = heartbeat("n1", 1, 2, 3);
    let most = MAX_DATAGRAM_LEN - our_keys().seal(&known).len();
    for flags in [0x04, 0x08, 0x10, 0x1c] {
        for len in [0, 1, 20, most] {
            let bytes = from_the_future(&known, flags, &vec![0xff; len]);
            assert_eq!(
                our_keys().open(&bytes).as_ref(),
                Ok(&known),
                "{flags:x}, {len} bytes"
            );
            // The unknown part is authenticated as well.
            let mut forged = bytes.clone();
            forged[bytes.len() - 33] ^= 1;
            assert_eq!(our_keys().open(&forged), Err(DatagramError::Authentication));
        }
    }
    let too_long = from_the_future(&known, 0, &vec![0; most + 1]);
    assert_eq!(
        our_keys().open(&too_long),
        Err(DatagramError::TooLong(MAX_DATAGRAM_LEN + 1))
    );
}

/// The entries of a set reach to the end of the body, and the digest covers them: half a set is worse than none.
#[test]
fn rejects_unknown_content_of_a_set() {
    let part = AnnouncedSet::from_iter([Entry::announced([192, 0, 2, 1].into())])
        .parts()
        .remove(0);
    let kinds = [Message::Announced(part.clone()), Message::Restore(part)];
    for message in kinds {
        let datagram = Datagram {
            message,
            ..heartbeat("n1", 1, 2, 3)
        };
        let bytes = from_the_future(&datagram, 0, &[0xff; 5]);
        assert_eq!(our_keys().open(&bytes), Err(DatagramError::Body));
    }
}

#[test]
fn entry_tag_encodes_the_state() {
    let offered = Entry {
        address: "192.0.2.1".parse().unwrap(),
        state: EntryState::Offered { to: 7 },
    };
    let part = |entry| Fragment {
        digest: 1,
        index: 0,
        count: 1,
        entries: vec![entry],
    };
    let datagram = Datagram {
        message: Message::Announced(part(offered)),
        ..heartbeat("n1", 1, 1, 1)
    };
    let bytes = our_keys().seal(&datagram);
    let tag = bytes.len() - 32 - offered.encoded_len();
    assert_eq!(bytes[tag], 0x44);
    let resealed = |tag_is: u8| {
        let mut changed = bytes[..bytes.len() - 32].to_vec();
        changed[tag] = tag_is;
        our_keys().open(&with_hmac(changed))
    };
    assert_eq!(resealed(0x44), Ok(datagram.clone()));
    let stands_in = Entry {
        state: EntryState::Proxied { owner: 7 },
        ..offered
    };
    let stands_in = Datagram {
        message: Message::Announced(part(stands_in)),
        ..datagram
    };
    assert_eq!(resealed(0xc4), Ok(stands_in));
    for tag in [0x04, 0x84, 0x45, 0x46] {
        assert_eq!(resealed(tag), Err(DatagramError::Body), "{tag:x}");
    }
}

fn messages() -> impl Strategy<Value = Message> {
    let grace = || any::<u32>().prop_map(|millis| Duration::from_millis(millis.into()));
    let state = prop_oneof![
        Just(SpeakerState::Up),
        Just(SpeakerState::Draining),
        grace().prop_map(|grace| SpeakerState::Starting { grace }),
        grace().prop_map(|grace| SpeakerState::Restarting { grace }),
    ];
    let macs = prop::collection::vec(any::<[u8; 6]>().prop_map(MacAddr), 0..=MAX_MACS);
    let numbers = any::<(u16, u64, u64)>();
    let heartbeat = (state, any::<bool>(), "[a-z0-9.+-]{0,64}", numbers, macs).prop_map(
        |(state, asks, version, numbers, macs)| {
            let (interval, claims, knows) = numbers;
            Message::Heartbeat(Heartbeat {
                state,
                reply_requested: asks,
                hears_receiver: true,
                was_cut_off: true,
                interval: Duration::from_millis(interval.into()),
                version,
                api_version: 7,
                announced_digest: claims,
                known_digest: knows,
                macs,
            })
        },
    );
    let parts = || {
        (any::<u64>(), 0..100u16, entries(50)).prop_map(|(digest, number, entries)| Fragment {
            digest,
            index: number,
            count: number + 1,
            entries,
        })
    };
    let addresses = || prop::collection::vec(any::<IpAddr>(), 0..30);
    let seen = (addresses(), addresses())
        .prop_map(|(answered, unanswered)| Message::Verification { answered, unanswered });
    let change = (
        any::<(u64, u64)>(),
        entries(25),
        prop::collection::vec(any::<IpAddr>(), 0..25),
    )
        .prop_map(|((from, to), entries, removed)| {
            Message::Change(SetChange {
                from,
                to,
                entries,
                removed,
            })
        });
    prop_oneof![
        heartbeat,
        change,
        parts().prop_map(Message::Announced),
        parts().prop_map(Message::Restore),
        seen
    ]
}

fn entries(max: usize) -> impl Strategy<Value = Vec<Entry>> {
    let state = prop_oneof![
        Just(EntryState::Announced),
        Just(EntryState::Declined),
        Just(EntryState::Withheld),
        Just(EntryState::Leaving),
        any::<u64>().prop_map(|version| EntryState::Contested { version }),
        any::<u32>().prop_map(|to| EntryState::Offered { to }),
        any::<u32>().prop_map(|owner| EntryState::Proxied { owner }),
    ];
    let entry = (any::<IpAddr>(), state).prop_map(|(address, state)| Entry { address, state });
    prop::collection::vec(entry, 0..max)
}

proptest! {
    #[test]
    fn datagrams_round_trip(node in "[a-z0-9.-]{1,253}", numbers in any::<(u64, u64, u64)>(), message in messages()) {
        let (incarnation, number, echo) = numbers;
        let datagram = Datagram { node, incarnation, sequence: number, echo, message };
        let bytes = our_keys().seal(&datagram);
        prop_assert!(bytes.len() <= MAX_DATAGRAM_LEN);
        prop_assert_eq!(our_keys().open(&bytes), Ok(datagram));
    }

    #[test]
    fn rejects_random_bytes_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        prop_assert!(our_keys().open(&bytes).is_err());
    }

    /// An authentic sender may be another release, or compromised.
    #[test]
    fn authentic_bodies_never_panic(kind in any::<u8>(), name in "[a-z]{1,40}", body in prop::collection::vec(any::<u8>(), 0..100)) {
        let mut bytes = [b"LBHB".as_slice(), &[FORMAT, kind % 6]].concat();
        bytes.extend((body.len() as u16).to_be_bytes());
        bytes.extend([0; 24]);
        bytes.push(name.len() as u8);
        bytes.extend(name.as_bytes());
        bytes.extend(&body);
        let bytes = with_hmac(bytes);
        if let Ok(Datagram { message: Message::Heartbeat(heartbeat), .. }) = our_keys().open(&bytes) {
            prop_assert!(heartbeat.version.len() <= MAX_VERSION_LEN && heartbeat.macs.len() <= MAX_MACS);
        }
    }

    /// Fragments arrive in any order and repeatedly, after fragments of another set.
    #[test]
    fn reassembles_sets_from_fragments(entries in entries(400), before in entries(200), order in any::<u64>()) {
        let claims: AnnouncedSet = entries.iter().copied().collect();
        let old: AnnouncedSet = before.iter().copied().collect();
        let mut parts = claims.parts();
        let places = parts.len();
        parts.extend(claims.parts());
        for place in 0..places {
            parts.swap(place, (order as usize).wrapping_mul(place + 7) % places);
        }
        let mut assembly = Reassembly::default();
        if old.parts().len() > 1 {
            prop_assert_eq!(assembly.add(old.parts()[0].clone()), None);
        }
        let whole: Vec<_> = parts.into_iter().filter_map(|part| assembly.add(part)).collect();
        prop_assert_eq!(whole.first(), Some(&claims));
        // Removing all entries gives the empty set, including its digest.
        let mut emptied = claims.clone();
        for entry in claims.entries() {
            prop_assert!(emptied.remove(entry.address));
        }
        prop_assert_eq!(emptied, AnnouncedSet::default());
    }
}
