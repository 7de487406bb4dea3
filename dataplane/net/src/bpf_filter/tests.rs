//! Runs programs in the interpreter.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, Ipv6Addr};

use lb_l2::MacAddr;
use lb_l2::wire::arp::{ArpFrame, ArpOperation};
use proptest::prelude::*;

use super::*;

const HOST: u32 = 0;
const BROADCAST: u32 = 1;
const OTHER_HOST: u32 = 3;
const OUTGOING: u32 = 4;

/// The number of bytes that pass, 0 for a drop. Fails if the kernel would reject the program.
fn run(program: &Program, packet_type: u32, frame: &[u8]) -> u32 {
    assert!(interpreter::is_accepted(program.instructions()));
    interpreter::run(program.instructions(), packet_type, frame).expect("the program returns")
}

fn request(target_ip: Ipv4Addr) -> ArpFrame {
    ArpFrame {
        dst: MacAddr::BROADCAST,
        src: MacAddr([2, 0, 0, 0, 0, 1]),
        operation: ArpOperation::Request,
        sender_mac: MacAddr([2, 0, 0, 0, 0, 1]),
        sender_ip: Ipv4Addr::new(192, 168, 50, 1),
        target_mac: MacAddr::ZERO,
        target_ip,
    }
}

fn passes(program: &Program, address: Ipv4Addr) -> bool {
    run(program, BROADCAST, &request(address).encode()) >= 42
}

fn exact(addresses: &[Ipv4Addr]) -> Program {
    let program = build(Protocol::Arp, addresses, MAX_INSTRUCTIONS);
    assert!(program.is_exact());
    program
}

const OWNED: Ipv4Addr = Ipv4Addr::new(192, 168, 50, 200);

#[test]
fn passes_ndp_to_the_solicited_node_group_and_to_the_host() {
    use lb_l2::wire::ndp::{multicast_mac, solicited_node, unsolicited};
    const MULTICAST: u32 = 2;
    let (owned, other) = ("fd00:50::10", "fd00:50::11");
    let parse = |text: &str| text.parse::<Ipv6Addr>().unwrap();
    let program = build(Protocol::Ndp, &[parse(owned)], MAX_INSTRUCTIONS);
    // The filter checks neither checksum nor source, so an advertisement with another type serves.
    let solicitation = |target: &str| {
        let mut frame = unsolicited(MacAddr([2, 0, 0, 0, 0, 1]), parse(target));
        frame[..6].copy_from_slice(&multicast_mac(solicited_node(parse(target))).0);
        frame[54] = 135;
        frame
    };
    for packet_type in [HOST, MULTICAST] {
        assert_eq!(run(&program, packet_type, &solicitation(owned)), 1536);
        assert_eq!(run(&program, packet_type, &solicitation(other)), 0);
    }
    for packet_type in [OTHER_HOST, OUTGOING] {
        assert_eq!(run(&program, packet_type, &solicitation(owned)), 0);
    }
    let advertisement = unsolicited(MacAddr([2, 0, 0, 0, 0, 1]), parse(owned));
    assert_eq!(run(&program, MULTICAST, &advertisement), 1536);
    let mut redirect = solicitation(owned);
    redirect[54] = 137;
    assert_eq!(run(&program, MULTICAST, &redirect), 0);
    let mut udp = solicitation(owned);
    udp[20] = 17;
    assert_eq!(run(&program, MULTICAST, &udp), 0);
    for len in 0..78 {
        assert_eq!(run(&program, MULTICAST, &solicitation(owned)[..len]), 0);
    }
}

#[test]
fn drops_everything_without_addresses() {
    assert_eq!(run(&exact(&[]), HOST, &request(OWNED).encode()), 0);
}

#[test]
fn passes_broadcast_and_unicast_requests() {
    let program = exact(&[OWNED]);
    assert_eq!(run(&program, BROADCAST, &request(OWNED).encode()), 64);
    assert_eq!(run(&program, HOST, &request(OWNED).encode()), 64);
}

#[test]
fn drops_outgoing_frames_and_those_for_other_hosts() {
    let program = exact(&[OWNED]);
    for packet_type in [2, OTHER_HOST, OUTGOING] {
        assert_eq!(run(&program, packet_type, &request(OWNED).encode()), 0);
    }
}

#[test]
fn passes_replies_by_their_sender_address() {
    let program = exact(&[OWNED]);
    let reply = |sender_ip, target_ip| {
        let reply = ArpFrame {
            operation: ArpOperation::Reply,
            sender_ip,
            ..request(target_ip)
        };
        run(&program, HOST, &reply.encode())
    };
    let other = Ipv4Addr::new(192, 168, 50, 1);
    assert_eq!((reply(OWNED, other), reply(other, OWNED)), (64, 0));
}

#[test]
fn drops_other_protocols_and_short_frames() {
    let program = exact(&[OWNED]);
    let frame = request(OWNED);
    let mut ipv4 = frame.encode();
    ipv4[12] = 0x08;
    ipv4[13] = 0x00;
    assert_eq!(run(&program, BROADCAST, &ipv4), 0);
    for len in 0..42 {
        assert_eq!(run(&program, BROADCAST, &frame.encode()[..len]), 0);
    }
}

#[test]
fn passes_malformed_requests_so_that_they_are_counted() {
    let program = exact(&[OWNED]);
    for at in 14..20 {
        let mut frame = request(OWNED).encode();
        frame[at] ^= 0x40;
        assert_eq!(run(&program, BROADCAST, &frame), 64);
    }
}

#[test]
fn handles_the_ends_of_the_address_space() {
    let (low, high) = (Ipv4Addr::UNSPECIFIED, Ipv4Addr::BROADCAST);
    let program = exact(&[low, high]);
    assert!(passes(&program, low) && passes(&program, high));
    assert!(
        !passes(&program, Ipv4Addr::new(0, 0, 0, 1)) && !passes(&program, Ipv4Addr::new(255, 255, 255, 254))
    );
}

#[test]
fn consecutive_addresses_take_one_range() {
    let row: Vec<Ipv4Addr> = (0..10_000_u32).map(|n| Ipv4Addr::from(0x0a00_0000 + n)).collect();
    assert_eq!(exact(&row).instructions().len(), PROLOGUE_LEN + 4);
}

#[test]
fn two_thousand_separate_addresses_fit() {
    let scattered: Vec<Ipv4Addr> = (0..2_000_u32)
        .map(|n| Ipv4Addr::from(0xc0a8_0000 + 3 * n))
        .collect();
    let program = exact(&scattered);
    assert!(scattered.iter().all(|address| passes(&program, *address)));
    assert!(!passes(&program, Ipv4Addr::from(0xc0a8_0001)));
}

#[test]
fn closes_the_smallest_gaps_beyond_the_limit() {
    // Ten thousand addresses with gaps of one, and one far away.
    let far = Ipv4Addr::new(10, 0, 0, 1);
    let mut many: BTreeSet<Ipv4Addr> = (0..10_000_u32)
        .map(|n| Ipv4Addr::from(0xc0a8_0000 + 2 * n))
        .collect();
    many.insert(far);
    let program = build(Protocol::Arp, &many, MAX_INSTRUCTIONS);
    assert!(!program.is_exact());
    assert!(many.iter().all(|address| passes(&program, *address)));
    assert!(
        !passes(&program, Ipv4Addr::new(10, 0, 0, 2)),
        "large gaps stay open"
    );
}

fn addresses(max: usize) -> impl Strategy<Value = BTreeSet<Ipv4Addr>> {
    // Dense and sparse regions produce single addresses, short ranges and large gaps.
    let one = prop_oneof![
        0xc0a8_3200..0xc0a8_3400_u32,
        0x0a00_0000..0x0a00_8000_u32,
        any::<u32>()
    ];
    prop::collection::btree_set(one.prop_map(Ipv4Addr::from), 0..max)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn passes_exactly_the_owned_addresses(
        owned in addresses(1200),
        others in prop::collection::vec(any::<u32>(), 64),
    ) {
        let program = build(Protocol::Arp, &owned, MAX_INSTRUCTIONS);
        prop_assert!(program.is_exact());
        for address in &owned {
            prop_assert!(passes(&program, *address));
            for near in [u32::from(*address).wrapping_sub(1), u32::from(*address).wrapping_add(1)] {
                let near = Ipv4Addr::from(near);
                prop_assert_eq!(passes(&program, near), owned.contains(&near));
            }
        }
        for other in others.into_iter().map(Ipv4Addr::from) {
            prop_assert_eq!(passes(&program, other), owned.contains(&other));
        }
    }

    #[test]
    fn keeps_any_limit_and_loses_no_owned_address(owned in addresses(1200), limit in 0..5000_usize) {
        let program = build(Protocol::Arp, &owned, limit);
        prop_assert!(program.instructions().len() <= limit.clamp(MIN_INSTRUCTIONS, MAX_INSTRUCTIONS));
        for address in &owned {
            prop_assert!(passes(&program, *address));
        }
    }

    #[test]
    fn any_frame_returns_within_bounds(
        owned in addresses(200),
        frame in prop::collection::vec(any::<u8>(), 0..80),
        packet_type in 0..8_u32,
    ) {
        let passed = run(&build(Protocol::Arp, &owned, MAX_INSTRUCTIONS), packet_type, &frame);
        prop_assert!(passed == 0 || passed == 64);
    }
}
