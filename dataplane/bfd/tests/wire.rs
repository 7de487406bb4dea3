//! BFD packets: round trips, a literal packet, and malformed ones.

#![allow(clippy::unwrap_used, reason = "tests")]

use lb_bfd::wire::{Diagnostic, Packet, PacketError, State};
use proptest::prelude::*;

prop_compose! {
    fn packet()(
        code in 0..32_u8,
        state in prop_oneof![Just(State::AdminDown), Just(State::Down), Just(State::Init), Just(State::Up)],
        flags in any::<(bool, bool, bool)>(),
        multiplier in 1..=u8::MAX,
        my_discriminator in 1..=u32::MAX,
        your_discriminator in 1..=u32::MAX,
        intervals in any::<(u32, u32, u32)>(),
    ) -> Packet {
        let diagnostic = match code {
            0 => Diagnostic::None,
            1 => Diagnostic::DetectionTimeExpired,
            3 => Diagnostic::NeighborDown,
            5 => Diagnostic::PathDown,
            7 => Diagnostic::AdminDown,
            other => Diagnostic::Other(other),
        };
        Packet {
            diagnostic, state, poll: flags.0, is_final: flags.1, demand: flags.2, multiplier, my_discriminator,
            your_discriminator, desired_min_tx: intervals.0, required_min_rx: intervals.1,
            required_min_echo_rx: intervals.2,
        }
    }
}

proptest! {
    #[test]
    fn packet_survives_a_round_trip(packet in packet()) {
        prop_assert_eq!(Packet::decode(&packet.encode()), Ok(packet));
    }

    #[test]
    fn any_octets_are_decoded_or_discarded(octets in proptest::collection::vec(any::<u8>(), 0..64)) {
        if let Ok(packet) = Packet::decode(&octets) {
            prop_assert_ne!(packet.my_discriminator, 0);
            prop_assert_ne!(packet.multiplier, 0);
        }
    }
}

/// The first packet of a session: version 1, state Down, 1 s, no session known.
const FIRST: [u8; 24] = [
    0x20, 0x40, 3, 24, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0x0f, 0x42, 0x40, 0, 4, 0x93, 0xe0, 0, 0, 0xc3, 0x50,
];

#[test]
fn first_packet_is_decoded() {
    let packet = Packet::decode(&FIRST).unwrap();
    assert_eq!((packet.state, packet.multiplier), (State::Down, 3));
    assert_eq!((packet.my_discriminator, packet.your_discriminator), (7, 0));
    let intervals = (
        packet.desired_min_tx,
        packet.required_min_rx,
        packet.required_min_echo_rx,
    );
    assert_eq!(intervals, (1_000_000, 300_000, 50_000));
}

#[test]
fn invalid_packets_are_discarded() {
    type Edit = fn(&mut Vec<u8>);
    let cases: [(Edit, PacketError); 10] = [
        (|p| p.truncate(23), PacketError::Length),
        (|p| p[3] = 23, PacketError::Length),
        (|p| p[3] = 25, PacketError::Length),
        (|p| p[0] = 0x40, PacketError::Version),
        (|p| p[2] = 0, PacketError::Field),
        (|p| p[1] |= 1, PacketError::Field),
        (|p| p[7] = 0, PacketError::Field),
        // Only a session that is down may not know ours.
        (|p| p[1] = 0xc0, PacketError::Field),
        (|p| p[1] |= 4, PacketError::Length),
        (
            |p| {
                p[1] |= 4;
                p[3] = 28;
                p.extend([1, 4, 1, 0]);
            },
            PacketError::Authentication,
        ),
    ];
    for (edit, error) in cases {
        let mut packet = FIRST.to_vec();
        edit(&mut packet);
        assert_eq!(Packet::decode(&packet), Err(error), "{packet:02x?}");
    }
}
