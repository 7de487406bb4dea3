//! The kernel's packet filter, for any set of addresses and any frame.
//!
//! The bytes are the protocol, the instruction limit, the number of addresses, the distance to each address, and a
//! frame.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use lb_net::bpf_filter::{Instruction, MAX_INSTRUCTIONS, MIN_INSTRUCTIONS, Protocol, build, interpreter};

use crate::bytes::Bytes;

/// An exact program passes exactly the frames about an address of the set; a coarse one passes at least those.
pub fn target(bytes: &[u8]) {
    let mut bytes = Bytes(bytes);
    let protocol = if bytes.u8().is_multiple_of(2) {
        Protocol::Arp
    } else {
        Protocol::Ndp
    };
    let limit = usize::from(bytes.u16());
    let count = bytes.u8();
    let mut next = bytes.u32();
    let words: BTreeSet<u32> = (0..count)
        .map(|_| {
            next = next.wrapping_add(match bytes.u8() {
                255 => 0x0001_0001,
                step => u32::from(step) / 8,
            });
            next
        })
        .collect();
    let address = |word: &u32| match protocol {
        Protocol::Arp => IpAddr::V4(Ipv4Addr::from(*word)),
        Protocol::Ndp => IpAddr::V6(Ipv6Addr::from(0xfd << 120 | u128::from(*word))),
    };
    let addresses: Vec<_> = words.iter().map(address).collect();
    let program = build(protocol, &addresses, limit);
    assert!(program.instructions().len() <= limit.clamp(MIN_INSTRUCTIONS, MAX_INSTRUCTIONS));
    let code = program.instructions();
    assert!(interpreter::is_accepted(code), "the kernel accepts the program");

    let frame = bytes.0;
    check(protocol, &words, program.is_exact(), code, frame);
    // The same frame with addresses at the edges of the set, which mutations rarely find.
    let edges = [words.first(), words.last(), words.iter().nth(words.len() / 2)];
    for word in edges.into_iter().flatten() {
        for near in [word.wrapping_sub(1), *word, word.wrapping_add(1)] {
            let mut frame = frame.to_vec();
            if let Some(place) = address_offset(protocol, &frame).and_then(|at| frame.get_mut(at..at + 4)) {
                place.copy_from_slice(&near.to_be_bytes());
            }
            check(protocol, &words, program.is_exact(), code, &frame);
        }
    }
}

fn check(protocol: Protocol, words: &BTreeSet<u32>, exact: bool, code: &[Instruction], frame: &[u8]) {
    let word = address_offset(protocol, frame).and_then(|at| frame.get(at..at + 4));
    let is_in_set = word.is_some_and(|word| words.contains(&u32::from_be_bytes(word.try_into().unwrap())));
    for packet_type in 0..8 {
        let to_us = match protocol {
            Protocol::Arp => packet_type <= 1,
            Protocol::Ndp => packet_type <= 2,
        };
        let passed = interpreter::run(code, packet_type, frame).expect("the program returns");
        assert!(passed == 0 || passed as usize == protocol.snap_len());
        assert!(
            !(is_in_set && to_us) || passed > 0,
            "frames about an address pass"
        );
        assert!(
            !exact || passed == 0 || (is_in_set && to_us),
            "other frames are dropped"
        );
    }
}

/// The offset of the frame's address; `None` if the frame has another protocol.
fn address_offset(protocol: Protocol, frame: &[u8]) -> Option<usize> {
    match protocol {
        Protocol::Arp if frame.get(12..14)? != [8, 6] => None,
        Protocol::Arp => Some(if frame.get(20..22)? == [0, 2] { 28 } else { 38 }),
        Protocol::Ndp => (*frame.get(20)? == 58 && matches!(frame.get(54)?, 135 | 136)).then_some(74),
    }
}
