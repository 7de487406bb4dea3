//! Heartbeats: what is told arrives, what is forged, changed, recorded or stale is refused by name.

#![allow(clippy::unwrap_used, reason = "what a test writes down is right")]

use std::net::IpAddr;
use std::time::Duration;

use lb_l2::MacAddr;
use lb_l2::ownership::announced_set::{AnnouncedSet, Reassembly};
use lb_l2::ownership::replay::ReplayGuard;
use lb_l2::wire::heartbeat::{
    Datagram, DatagramError, Entry, EntryState, Fragment, Heartbeat, HeartbeatKeys, MAX_DATAGRAM_LEN,
    MAX_ENTRIES_LEN, MAX_MACS, MAX_NODE_NAME_LEN, MAX_VERSION_LEN, Message, SpeakerState,
};
use proptest::prelude::*;

fn keys(texts: &[&str]) -> HeartbeatKeys {
    HeartbeatKeys::new(texts.iter().map(|text| text.as_bytes())).unwrap()
}

fn ours() -> HeartbeatKeys {
    keys(&["0123456789abcdef0123456789abcdef"])
}

fn beat(node: &str, incarnation: u64, number: u64, echo: u64) -> Datagram {
    Datagram {
        node: node.to_owned(),
        incarnation,
        sequence: number,
        echo,
        message: Message::Heartbeat(Heartbeat {
            state: SpeakerState::Up,
            reply_requested: true,
            interval: Duration::from_millis(100),
            version: "0.1.0".to_owned(),
            announced_digest: 7,
            known_digest: 8,
            macs: vec![MacAddr([2, 0, 0, 0, 0, 1])],
        }),
    }
}

#[test]
fn a_key_is_long_enough_or_none() {
    assert!(HeartbeatKeys::new([]).is_none() && HeartbeatKeys::new([&b"short"[..]]).is_none());
    assert_eq!(
        format!("{:?}", ours()),
        "HeartbeatKeys(1)",
        "keys are not printed"
    );
}

#[test]
fn every_change_of_a_byte_is_noticed() {
    let bytes = ours().seal(&beat("n1", 1, 2, 3));
    assert_eq!(ours().open(&bytes), Ok(beat("n1", 1, 2, 3)));
    for at in 0..bytes.len() {
        let mut changed = bytes.clone();
        changed[at] ^= 1;
        let refused = ours().open(&changed).unwrap_err();
        match at {
            0..4 => assert_eq!(refused, DatagramError::Magic),
            4 => assert_eq!(refused, DatagramError::Format(0)),
            _ => assert_eq!(refused, DatagramError::Authentication, "byte {at}"),
        }
        assert!(ours().open(&bytes[..at]).is_err());
    }
    assert_eq!(
        ours().open(&vec![0; MAX_DATAGRAM_LEN + 1]),
        Err(DatagramError::TooLong(MAX_DATAGRAM_LEN + 1))
    );
}

#[test]
fn while_the_key_is_changed_both_are_believed_and_afterwards_the_new_one() {
    let (old, new) = ("the old key is long enough", "the new key is long enough");
    let changing = keys(&[new, old]);
    for sender in [keys(&[old]), keys(&[new]), changing.clone()] {
        assert!(changing.open(&sender.seal(&beat("n1", 1, 1, 0))).is_ok());
    }
    assert_eq!(
        keys(&[new]).open(&keys(&[old]).seal(&beat("n1", 1, 1, 0))),
        Err(DatagramError::Authentication)
    );
    assert!(
        keys(&[new]).open(&changing.seal(&beat("n1", 1, 1, 0))).is_ok(),
        "the first key makes them"
    );
}

#[test]
fn what_is_too_long_is_cut_and_never_exceeds_a_frame() {
    let entry = Entry::announced("fd00::1".parse().unwrap());
    let long = Datagram {
        message: Message::Announced(Fragment {
            digest: 1,
            index: 0,
            count: 1,
            entries: vec![entry; 100],
        }),
        ..beat(&"n".repeat(300), 1, 1, 1)
    };
    let bytes = ours().seal(&long);
    assert!(bytes.len() <= MAX_DATAGRAM_LEN);
    let read = ours().open(&bytes).unwrap();
    assert_eq!(read.node.len(), MAX_NODE_NAME_LEN);
    let Message::Announced(part) = read.message else {
        panic!("another kind");
    };
    assert_eq!(part.entries.len(), MAX_ENTRIES_LEN / 17);
}

#[test]
fn a_clock_that_was_set_back_is_made_up_for() {
    let (mut one, mut two) = (ReplayGuard::new(10), ReplayGuard::new(20));
    one.set_peers(["two"]);
    two.set_peers(["one"]);
    let _ = two.admit(&beat("one", 10, 1, one.echo("two")));
    assert_eq!(one.admit(&beat("two", 20, 5, two.echo("one"))), Ok(()));
    // It comes back with a smaller number, and is told of the greater one.
    let mut two = ReplayGuard::new(15);
    two.set_peers(["one"]);
    assert_eq!(
        two.admit(&beat("one", 10, 2, one.echo("two"))),
        Err(DatagramError::Echo)
    );
    assert_eq!(two.incarnation(), 21);
    assert_eq!(
        one.admit(&beat("two", two.incarnation(), 1, two.echo("one"))),
        Ok(())
    );
}

#[test]
fn two_speakers_get_to_know_each_other_and_do_so_again_after_a_restart() {
    let (mut one, mut two) = (ReplayGuard::new(10), ReplayGuard::new(20));
    one.set_peers(["two"]);
    two.set_peers(["one"]);
    // Each has to hear of the other once before it is believed.
    assert_eq!(
        two.admit(&beat("one", 10, 1, one.echo("two"))),
        Err(DatagramError::Echo)
    );
    assert_eq!(one.admit(&beat("two", 20, 1, two.echo("one"))), Ok(()));
    assert_eq!(two.admit(&beat("one", 10, 2, one.echo("two"))), Ok(()));

    let mut two = ReplayGuard::new(21);
    two.set_peers(["one"]);
    assert_eq!(
        one.admit(&beat("two", 21, 1, two.echo("one"))),
        Err(DatagramError::Echo)
    );
    assert_eq!(
        two.admit(&beat("one", 10, 3, one.echo("two"))),
        Err(DatagramError::Echo)
    );
    assert_eq!(one.admit(&beat("two", 21, 2, two.echo("one"))), Ok(()));
    assert_eq!(two.admit(&beat("one", 10, 4, one.echo("two"))), Ok(()));
}

#[test]
fn what_is_replayed_stale_or_from_a_stranger_is_refused() {
    let mut guard = ReplayGuard::new(5);
    guard.set_peers(["n1"]);
    assert_eq!(
        guard.admit(&beat("n2", 1, 1, 5)),
        Err(DatagramError::UnknownSender)
    );
    assert_eq!(guard.admit(&beat("n1", 3, 7, 5)), Ok(()));
    for (incarnation, number) in [(3, 7), (3, 6), (2, 99)] {
        assert_eq!(
            guard.admit(&beat("n1", incarnation, number, 5)),
            Err(DatagramError::Replayed)
        );
    }
    // A recording of before we started changes nothing for the present sender.
    assert_eq!(guard.admit(&beat("n1", 9, 9, 4)), Err(DatagramError::Echo));
    assert_eq!(guard.echo("n1"), 3);
    assert_eq!(guard.admit(&beat("n1", 3, 9, 5)), Ok(()));
    // What was sent together may have been overtaken by another kind, once.
    let claims = Datagram {
        message: Message::Announced(AnnouncedSet::default().parts().remove(0)),
        ..beat("n1", 3, 8, 5)
    };
    assert_eq!(guard.admit(&claims), Ok(()));
    for number in [7, 8] {
        let older = Datagram {
            sequence: number,
            ..claims.clone()
        };
        assert_eq!(guard.admit(&older), Err(DatagramError::Replayed));
    }
    // What an earlier incarnation has sent counts of no kind.
    assert_eq!(guard.admit(&beat("n1", 4, 1, 5)), Ok(()));
    assert_eq!(guard.admit(&claims), Err(DatagramError::Replayed));
    guard.set_peers([]);
    assert_eq!(
        guard.admit(&beat("n1", 4, 9, 5)),
        Err(DatagramError::UnknownSender)
    );
}

#[test]
fn what_is_said_of_an_address_is_in_its_tag() {
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
        ..beat("n1", 1, 1, 1)
    };
    let bytes = ours().seal(&datagram);
    let tag = bytes.len() - 32 - offered.encoded_len();
    assert_eq!(bytes[tag], 0x44);
    let resealed = |tag_is: u8| {
        use hmac::{Hmac, KeyInit, Mac};
        let mut changed = bytes[..bytes.len() - 32].to_vec();
        changed[tag] = tag_is;
        let mut mac = Hmac::<sha2::Sha256>::new_from_slice(b"0123456789abcdef0123456789abcdef").unwrap();
        mac.update(&changed);
        changed.extend(mac.finalize().into_bytes());
        ours().open(&changed)
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
                interval: Duration::from_millis(interval.into()),
                version,
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
    prop_oneof![
        heartbeat,
        parts().prop_map(Message::Announced),
        parts().prop_map(Message::Restore),
        seen
    ]
}

fn entries(most: usize) -> impl Strategy<Value = Vec<Entry>> {
    let state = prop_oneof![
        Just(EntryState::Announced),
        Just(EntryState::Declined),
        any::<u32>().prop_map(|to| EntryState::Offered { to }),
        any::<u32>().prop_map(|owner| EntryState::Proxied { owner }),
    ];
    let entry = (any::<IpAddr>(), state).prop_map(|(address, state)| Entry { address, state });
    prop::collection::vec(entry, 0..most)
}

proptest! {
    #[test]
    fn a_datagram_survives_a_round_trip(node in "[a-z0-9.-]{1,253}", numbers in any::<(u64, u64, u64)>(), message in messages()) {
        let (incarnation, number, echo) = numbers;
        let datagram = Datagram { node, incarnation, sequence: number, echo, message };
        let bytes = ours().seal(&datagram);
        prop_assert!(bytes.len() <= MAX_DATAGRAM_LEN);
        prop_assert_eq!(ours().open(&bytes), Ok(datagram));
    }

    #[test]
    fn no_bytes_whatever_make_the_decoder_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        prop_assert!(ours().open(&bytes).is_err());
    }

    /// What holds a key can still be wrong: a program of another release, or one that was taken over.
    #[test]
    fn nor_does_any_body_that_is_authentic(kind in any::<u8>(), name in prop::collection::vec(any::<u8>(), 0..40), body in prop::collection::vec(any::<u8>(), 0..100)) {
        use hmac::{Hmac, KeyInit, Mac};
        let mut bytes = b"LBHB\x01".to_vec();
        bytes.push(kind % 6);
        bytes.extend((body.len() as u16).to_be_bytes());
        bytes.extend([0; 24]);
        bytes.push(name.len() as u8);
        bytes.extend(&name);
        bytes.extend(&body);
        let mut mac = Hmac::<sha2::Sha256>::new_from_slice(b"0123456789abcdef0123456789abcdef").unwrap();
        mac.update(&bytes);
        bytes.extend(mac.finalize().into_bytes());
        if let Ok(Datagram { message: Message::Heartbeat(heartbeat), .. }) = ours().open(&bytes) {
            prop_assert!(heartbeat.version.len() <= MAX_VERSION_LEN && heartbeat.macs.len() <= MAX_MACS);
        }
    }

    /// Parts come in any order and more than once, after some of another set.
    #[test]
    fn claims_are_put_together_from_their_parts(entries in entries(400), before in entries(200), order in any::<u64>()) {
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
        // Taking everything out again leaves nothing, in the digest too.
        let mut emptied = claims.clone();
        for entry in claims.entries() {
            prop_assert!(emptied.remove(entry.address));
        }
        prop_assert_eq!(emptied, AnnouncedSet::default());
    }
}
