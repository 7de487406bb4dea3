//! A classic BPF program that passes ARP or Neighbor Discovery frames about a set of addresses and drops all others.
//!
//! Every host receives all broadcast ARP of its LAN; a speaker that announces ten addresses must not wake up for
//! thousands of requests for others. [`build`] is a pure function from addresses to instructions for
//! `SO_ATTACH_FILTER`; tests run them in an interpreter.
//!
//! ```text
//! packet type: to this host or to a group                                            else drop
//! ARP: EtherType;  NDP: next header ICMPv6, type solicitation or advertisement       else drop
//! load the last 32 bits of the frame's address: the target, or the sender of an ARP reply
//! binary tree of "≥ first address of the right half"             (1–2 instructions per inner node)
//!   leaf: up to 8 ranges, compared in order                      (1 per address, 2 per range, 2 returns)
//! ```
//!
//! The program does not check hardware type, protocol type and lengths, so that malformed requests for our addresses
//! reach user space and are counted.

use std::net::IpAddr;

/// The maximum length of a program in Linux (`BPF_MAXINSNS`).
pub const MAX_INSTRUCTIONS: usize = 4096;

/// The minimum length of a non-empty program: the prologue and one range.
pub const MIN_INSTRUCTIONS: usize = PROLOGUE_LEN + 4;

const PROLOGUE_LEN: usize = 10;
/// Maximum ranges per leaf.
const LEAF_RANGES: usize = 8;

// linux/bpf_common.h
const LD_BYTE: u16 = 0x30;
const LD_HALF: u16 = 0x28;
const LD_WORD: u16 = 0x20;
const JUMP: u16 = 0x05;
const JUMP_EQ: u16 = 0x15;
const JUMP_GT: u16 = 0x25;
const JUMP_GE: u16 = 0x35;
const RETURN: u16 = 0x06;

/// linux/filter.h: `SKF_AD_OFF + SKF_AD_PKTTYPE`, the offset of the packet type.
const PACKET_TYPE: u32 = (-0x1000_i32 + 4) as u32;
/// linux/if_packet.h. `PACKET_HOST` is 0; types above `PACKET_MULTICAST` are frames for other hosts (received by
/// promiscuous interfaces, or in VLANs unknown to this host) and outgoing frames.
const PACKET_BROADCAST: u32 = 1;
const PACKET_MULTICAST: u32 = 2;

// Offsets in the frame. The Ethernet header has 14 bytes, the IPv6 header 40.
const ETHERTYPE_AT: u32 = 12;
const ARP_OPERATION_AT: u32 = 20;
const ARP_SENDER_AT: u32 = 28;
const ARP_TARGET_AT: u32 = 38;
const IPV6_NEXT_HEADER_AT: u32 = 20;
const ICMPV6_TYPE_AT: u32 = 54;
/// The last 32 bits of the target address.
const NDP_TARGET_AT: u32 = 74;

const ARP_REPLY: u32 = 2;
const ICMPV6: u32 = 58;
const SOLICITATION: u32 = 135;
const ADVERTISEMENT: u32 = 136;

/// The protocol that a program passes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// ARP.
    Arp,
    /// Neighbor solicitations and advertisements.
    Ndp,
}

impl Protocol {
    /// The EtherType.
    #[must_use]
    pub const fn ethertype(self) -> u16 {
        match self {
            Self::Arp => lb_l2::wire::arp::ETHERTYPE,
            Self::Ndp => lb_l2::wire::ndp::ETHERTYPE,
        }
    }

    /// The maximum number of bytes of a frame that pass: an ARP frame with padding, or a solicitation of maximum size,
    /// because the checksum covers all its options.
    #[must_use]
    pub const fn snap_len(self) -> usize {
        match self {
            Self::Arp => 64,
            Self::Ndp => 1536,
        }
    }

    /// The common beginning of all programs, which loads the frame's address.
    fn prologue(self) -> [Instruction; PROLOGUE_LEN] {
        let ethertype = u32::from(self.ethertype());
        match self {
            Self::Arp => [
                op(LD_BYTE, 0, 0, PACKET_TYPE),
                op(JUMP_GT, 2, 0, PACKET_BROADCAST),
                op(LD_HALF, 0, 0, ETHERTYPE_AT),
                op(JUMP_EQ, 1, 0, ethertype),
                DROP,
                op(LD_HALF, 0, 0, ARP_OPERATION_AT),
                op(JUMP_EQ, 0, 2, ARP_REPLY),
                op(LD_WORD, 0, 0, ARP_SENDER_AT),
                op(JUMP, 0, 0, 1),
                op(LD_WORD, 0, 0, ARP_TARGET_AT),
            ],
            // The socket is bound to IPv6, so the EtherType needs no check.
            Self::Ndp => [
                op(LD_BYTE, 0, 0, PACKET_TYPE),
                op(JUMP_GT, 5, 0, PACKET_MULTICAST),
                op(LD_BYTE, 0, 0, IPV6_NEXT_HEADER_AT),
                op(JUMP_EQ, 0, 3, ICMPV6),
                op(LD_BYTE, 0, 0, ICMPV6_TYPE_AT),
                op(JUMP_EQ, 2, 0, SOLICITATION),
                op(JUMP_EQ, 1, 0, ADVERTISEMENT),
                DROP,
                op(LD_WORD, 0, 0, NDP_TARGET_AT),
                op(JUMP, 0, 0, 0),
            ],
        }
    }
}

/// One instruction (`struct sock_filter`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Instruction {
    /// Operation code.
    pub code: u16,
    /// Instructions to skip if the comparison is true.
    pub jt: u8,
    /// Instructions to skip if the comparison is false.
    pub jf: u8,
    /// Operand.
    pub k: u32,
}

const fn op(code: u16, jt: u8, jf: u8, k: u32) -> Instruction {
    Instruction { code, jt, jf, k }
}

const DROP: Instruction = op(RETURN, 0, 0, 0);

/// The part of an address that a program compares: all of an IPv4 address, the last 32 bits of an IPv6 address. The
/// receiver compares the whole address.
fn low_word(address: IpAddr) -> u32 {
    match address {
        IpAddr::V4(v4) => v4.to_bits(),
        IpAddr::V6(v6) => v6.to_bits() as u32,
    }
}

/// A filter program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Program {
    instructions: Vec<Instruction>,
    exact: bool,
}

impl Program {
    /// The instructions to attach.
    #[must_use]
    pub fn instructions(&self) -> &[Instruction] {
        &self.instructions
    }

    /// False if there were too many separate addresses for the limit: then the smallest gaps between them were closed,
    /// and frames about addresses in those gaps pass too.
    #[must_use]
    pub fn is_exact(&self) -> bool {
        self.exact
    }
}

/// First and last address, both inclusive.
type Range = (u32, u32);

/// Builds the program for `addresses` with at most `limit` instructions, clamped to [`MIN_INSTRUCTIONS`] and
/// [`MAX_INSTRUCTIONS`]. Without addresses it drops everything.
pub fn build<'a, A>(protocol: Protocol, addresses: impl IntoIterator<Item = &'a A>, limit: usize) -> Program
where
    A: Copy + Into<IpAddr> + 'a,
{
    let limit = limit.clamp(MIN_INSTRUCTIONS, MAX_INSTRUCTIONS);
    let words = addresses.into_iter().map(|address| low_word((*address).into()));
    let ranges = merge(words.collect());
    let instructions = assemble(protocol, &ranges);
    if instructions.len() <= limit {
        return Program {
            instructions,
            exact: true,
        };
    }
    Program {
        instructions: assemble(protocol, &coarsen(&ranges, max_ranges(limit))),
        exact: false,
    }
}

/// Merges consecutive addresses. Pools are contiguous, so a thousand addresses are often three ranges.
fn merge(mut addresses: Vec<u32>) -> Vec<Range> {
    addresses.sort_unstable();
    let mut ranges: Vec<Range> = Vec::new();
    for address in addresses {
        match ranges.last_mut() {
            Some((_, last)) if address <= last.saturating_add(1) => *last = address,
            _ => ranges.push((address, address)),
        }
    }
    ranges
}

/// The number of ranges that fit into `limit` instructions in the worst case: two instructions per range, and per leaf
/// two returns and at most two for the inner node above it.
fn max_ranges(limit: usize) -> usize {
    let leaf = 2 * LEAF_RANGES + 4;
    let room = limit - PROLOGUE_LEN;
    let (leaves, rest) = (room / leaf, room % leaf);
    (leaves * LEAF_RANGES + rest.saturating_sub(4) / 2).max(1)
}

/// Covers `ranges` with at most `max` ranges, by closing the smallest gaps.
fn coarsen(ranges: &[Range], max: usize) -> Vec<Range> {
    let gap = |pair: &[Range]| match pair {
        [(_, last), (first, _)] => first - last,
        _ => 0,
    };
    let mut gaps: Vec<(u32, usize)> = ranges.windows(2).map(gap).zip(1..).collect();
    gaps.sort_unstable_by(|a, b| b.cmp(a));
    gaps.truncate(max.saturating_sub(1));
    let keep: std::collections::BTreeSet<usize> = gaps.into_iter().map(|(_, index)| index).collect();

    let mut coarse: Vec<Range> = Vec::with_capacity(max);
    for (index, range) in ranges.iter().enumerate() {
        match coarse.last_mut() {
            Some((_, last)) if !keep.contains(&index) => *last = range.1,
            _ => coarse.push(*range),
        }
    }
    coarse
}

fn assemble(protocol: Protocol, ranges: &[Range]) -> Vec<Instruction> {
    if ranges.is_empty() {
        return vec![DROP];
    }
    let mut program = protocol.prologue().to_vec();
    let leaves: Vec<&[Range]> = ranges.chunks(LEAF_RANGES).collect();
    program.extend(tree(protocol, &leaves));
    program
}

/// The code of a subtree. All jumps are forward, as the kernel requires.
fn tree(protocol: Protocol, leaves: &[&[Range]]) -> Vec<Instruction> {
    let (left, right) = leaves.split_at(leaves.len() / 2);
    if left.is_empty() {
        return right
            .first()
            .map_or_else(|| vec![DROP], |ranges| leaf(protocol, ranges));
    }
    let pivot = right
        .first()
        .and_then(|ranges| ranges.first())
        .map_or(0, |range| range.0);
    let left = tree(protocol, left);
    let mut code = match u8::try_from(left.len()) {
        Ok(distance) => vec![op(JUMP_GE, distance, 0, pivot)],
        // A conditional jump reaches 255 instructions, an unconditional one has 32 bits.
        Err(_) => vec![
            op(JUMP_GE, 0, 1, pivot),
            op(JUMP, 0, 0, u32::try_from(left.len()).unwrap_or(u32::MAX)),
        ],
    };
    code.extend(left);
    code.extend(tree(protocol, right));
    code
}

/// The comparisons in ascending order, a drop, an accept.
fn leaf(protocol: Protocol, ranges: &[Range]) -> Vec<Instruction> {
    let snap_len = u32::try_from(protocol.snap_len()).unwrap_or(u32::MAX);
    let compares: usize = ranges
        .iter()
        .map(|(first, last)| if first == last { 1 } else { 2 })
        .sum();
    // There are at most 16 comparisons, so every distance fits.
    let distance = |from: usize, to: usize| u8::try_from(to - from - 1).unwrap_or(u8::MAX);
    let (drop, accept) = (compares, compares + 1);
    let mut code = Vec::with_capacity(compares + 2);
    for (first, last) in ranges {
        let here = code.len();
        if first == last {
            code.push(op(JUMP_EQ, distance(here, accept), 0, *first));
        } else {
            // An address below this range is in no range: the previous ones were compared before.
            code.push(op(JUMP_GE, 0, distance(here, drop), *first));
            code.push(op(JUMP_GT, 0, distance(here + 1, accept), *last));
        }
    }
    code.push(DROP);
    code.push(op(RETURN, 0, 0, snap_len));
    code
}

#[doc(hidden)]
pub mod interpreter;
#[cfg(test)]
mod tests;
