//! The kernel's filter: for any set of addresses, what it lets through of any frame.
//!
//! The bytes are: protocol, limit of instructions, number of addresses, a step for each address, and a frame.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use lb_net::bpf_filter::{Instruction, MAX_INSTRUCTIONS, MIN_INSTRUCTIONS, Protocol, build, interpreter};

use crate::bytes::Bytes;

/// An exact program lets through what is about an address of the set, and nothing else; a coarse one all of that, too.
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
    // The same frame about addresses at the edges of the set, which no mutation finds.
    let edges = [words.first(), words.last(), words.iter().nth(words.len() / 2)];
    for word in edges.into_iter().flatten() {
        for near in [word.wrapping_sub(1), *word, word.wrapping_add(1)] {
            let mut frame = frame.to_vec();
            if let Some(place) = about(protocol, &frame).and_then(|at| frame.get_mut(at..at + 4)) {
                place.copy_from_slice(&near.to_be_bytes());
            }
            check(protocol, &words, program.is_exact(), code, &frame);
        }
    }
}

fn check(protocol: Protocol, words: &BTreeSet<u32>, exact: bool, code: &[Instruction], frame: &[u8]) {
    let word = about(protocol, frame).and_then(|at| frame.get(at..at + 4));
    let wanted = word.is_some_and(|word| words.contains(&u32::from_be_bytes(word.try_into().unwrap())));
    for packet_type in 0..8 {
        let to_us = match protocol {
            Protocol::Arp => packet_type <= 1,
            Protocol::Ndp => packet_type <= 2,
        };
        let passed = interpreter::run(code, packet_type, frame).expect("it runs into a return");
        assert!(passed == 0 || passed as usize == protocol.snap_len());
        assert!(
            !(wanted && to_us) || passed > 0,
            "what is about an address passes"
        );
        assert!(!exact || passed == 0 || (wanted && to_us), "nothing else passes");
    }
}

/// Where in the frame stands the address that it is about; none when it is of another protocol.
fn about(protocol: Protocol, frame: &[u8]) -> Option<usize> {
    match protocol {
        Protocol::Arp if frame.get(12..14)? != [8, 6] => None,
        Protocol::Arp => Some(if frame.get(20..22)? == [0, 2] { 28 } else { 38 }),
        Protocol::Ndp => (*frame.get(20)? == 58 && matches!(frame.get(54)?, 135 | 136)).then_some(74),
    }
}
