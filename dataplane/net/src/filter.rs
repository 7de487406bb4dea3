//! The classic BPF program that lets through ARP or neighbour discovery about some addresses, and nothing else: questions
//! for them, and answers and announcements of those who have them.
//!
//! Reads a set of addresses, writes instructions for `SO_ATTACH_FILTER`. Pure: tests run the program in an
//! interpreter. A LAN shows every host all broadcast ARP; a speaker that owns ten addresses must not wake up
//! for the thousands of requests for others.
//!
//! ```text
//! addressed to us, or to a group     else drop
//! ARP: EtherType;  NDP: next header ICMPv6, type solicitation or advertisement     else drop
//! load the address that it is about, the last 32 bits of it: the target, and of an ARP reply the sender
//! binary tree of "≥ first address of the right half?"            (one or two instructions per inner node)
//!   leaf: up to 8 ranges, compared one after the other           (one per address, two per range, two ends)
//! ```
//!
//! Hardware type, protocol type and lengths are not looked at here, so that a malformed request for one of
//! our addresses reaches user space and is counted.

use std::net::IpAddr;

/// The most instructions that Linux takes in one program (`BPF_MAXINSNS`).
pub const MAX_INSTRUCTIONS: usize = 4096;

/// The fewest with which a program for any set of addresses can be built: the common part and one range.
pub const MIN_INSTRUCTIONS: usize = PROLOGUE + 4;

const PROLOGUE: usize = 10;
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

/// `SKF_AD_OFF + SKF_AD_PKTTYPE` of linux/filter.h: to whom the link layer says the frame is addressed.
const PACKET_TYPE: u32 = (-0x1000_i32 + 4) as u32;
/// linux/if_packet.h: `PACKET_HOST` is 0, `PACKET_BROADCAST` 1, `PACKET_MULTICAST` 2; above are other hosts' frames (of
/// a promiscuous interface, or with the tag of a VLAN that this host has not) and outgoing ones.
const PACKET_BROADCAST: u32 = 1;
const PACKET_MULTICAST: u32 = 2;

// Where in a frame: the Ethernet header is 14 bytes long, that of IPv6 40.
const ETHERTYPE_AT: u32 = 12;
const ARP_OPERATION_AT: u32 = 20;
const ARP_SENDER_AT: u32 = 28;
const ARP_TARGET_AT: u32 = 38;
const IPV6_NEXT_HEADER_AT: u32 = 20;
const ICMPV6_TYPE_AT: u32 = 54;
/// The last 32 bits of the target of a solicitation, or of an advertisement.
const NDP_TARGET_AT: u32 = 74;

const ARP_REPLY: u32 = 2;
const ICMPV6: u32 = 58;
const SOLICITATION: u32 = 135;
const ADVERTISEMENT: u32 = 136;

/// What a program lets through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// ARP, for IPv4.
    Arp,
    /// Neighbour solicitations and advertisements, for IPv6.
    Ndp,
}

impl Protocol {
    /// Its EtherType.
    pub const fn ethertype(self) -> u16 {
        match self {
            Self::Arp => lb_l2::wire::arp::ETHERTYPE,
            Self::Ndp => lb_l2::wire::ndp::ETHERTYPE,
        }
    }

    /// Bytes of a frame that pass: all of an ARP frame with its padding, and as much of a solicitation as a frame can
    /// hold, because its checksum covers its options.
    pub const fn snap_len(self) -> usize {
        match self {
            Self::Arp => 64,
            Self::Ndp => 1536,
        }
    }

    /// What is common to all programs of a protocol: up to the target address, which it loads.
    fn prologue(self) -> [Instruction; PROLOGUE] {
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
            // The socket is bound to IPv6 and sees nothing else.
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

/// One instruction, as `struct sock_filter`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Instruction {
    /// Operation.
    pub code: u16,
    /// Instructions to skip if the comparison holds.
    pub jt: u8,
    /// Instructions to skip if it does not.
    pub jf: u8,
    /// Operand.
    pub k: u32,
}

const fn op(code: u16, jt: u8, jf: u8, k: u32) -> Instruction {
    Instruction { code, jt, jf, k }
}

const DROP: Instruction = op(RETURN, 0, 0, 0);

/// The part of an address that a program looks at. Whoever reads what passes must look at all of it.
fn word(address: IpAddr) -> u32 {
    match address {
        IpAddr::V4(v4) => v4.to_bits(),
        IpAddr::V6(v6) => v6.to_bits() as u32,
    }
}

/// A program, and whether it says exactly what was asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Program {
    instructions: Vec<Instruction>,
    exact: bool,
}

impl Program {
    /// What to attach.
    pub fn instructions(&self) -> &[Instruction] {
        &self.instructions
    }

    /// False if there were too many separate addresses for the limit: then ranges were widened over the
    /// smallest gaps, and requests for addresses in those gaps pass as well. Whoever reads them must look at
    /// the address anyway.
    pub fn is_exact(&self) -> bool {
        self.exact
    }
}

/// First and last address, both included.
type Range = (u32, u32);

/// The program for `addresses`, of at most `limit` instructions ([`MIN_INSTRUCTIONS`] is used if it is less,
/// and [`MAX_INSTRUCTIONS`] if it is more). For no addresses it drops everything.
pub fn build<'a, A>(protocol: Protocol, addresses: impl IntoIterator<Item = &'a A>, limit: usize) -> Program
where
    A: Copy + Into<IpAddr> + 'a,
{
    let limit = limit.clamp(MIN_INSTRUCTIONS, MAX_INSTRUCTIONS);
    let words = addresses.into_iter().map(|address| word((*address).into()));
    let ranges = merge(words.collect());
    let instructions = assemble(protocol, &ranges);
    if instructions.len() <= limit {
        return Program {
            instructions,
            exact: true,
        };
    }
    Program {
        instructions: assemble(protocol, &coarsen(&ranges, ranges_within(limit))),
        exact: false,
    }
}

/// Addresses that follow one another become one range: pools are contiguous, so a thousand owned addresses
/// are often three ranges.
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

/// How many ranges fit into `limit` instructions in the worst case: two for each, and for each leaf of eight
/// two returns and at most two for the inner node above it.
fn ranges_within(limit: usize) -> usize {
    let leaf = 2 * LEAF_RANGES + 4;
    let room = limit - PROLOGUE;
    let (leaves, rest) = (room / leaf, room % leaf);
    (leaves * LEAF_RANGES + rest.saturating_sub(4) / 2).max(1)
}

/// At most `most` ranges that cover `ranges`: the largest gaps stay, the others are closed.
fn coarsen(ranges: &[Range], most: usize) -> Vec<Range> {
    let gap = |pair: &[Range]| match pair {
        [(_, last), (first, _)] => first - last,
        _ => 0,
    };
    let mut gaps: Vec<(u32, usize)> = ranges.windows(2).map(gap).zip(1..).collect();
    gaps.sort_unstable_by(|a, b| b.cmp(a));
    gaps.truncate(most.saturating_sub(1));
    let keep: std::collections::BTreeSet<usize> = gaps.into_iter().map(|(_, index)| index).collect();

    let mut coarse: Vec<Range> = Vec::with_capacity(most);
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

/// The code for some leaves. All jumps are forward, as the kernel demands.
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
        // A conditional jump reaches 255 instructions; beyond that an unconditional one, with 32 bits, takes
        // over.
        Err(_) => vec![
            op(JUMP_GE, 0, 1, pivot),
            op(JUMP, 0, 0, u32::try_from(left.len()).unwrap_or(u32::MAX)),
        ],
    };
    code.extend(left);
    code.extend(tree(protocol, right));
    code
}

/// Comparisons in ascending order, then "drop", then "accept".
fn leaf(protocol: Protocol, ranges: &[Range]) -> Vec<Instruction> {
    let snap_len = u32::try_from(protocol.snap_len()).unwrap_or(u32::MAX);
    let compares: usize = ranges
        .iter()
        .map(|(first, last)| if first == last { 1 } else { 2 })
        .sum();
    // At most 16 comparisons: every distance fits.
    let distance = |from: usize, to: usize| u8::try_from(to - from - 1).unwrap_or(u8::MAX);
    let (drop, accept) = (compares, compares + 1);
    let mut code = Vec::with_capacity(compares + 2);
    for (first, last) in ranges {
        let here = code.len();
        if first == last {
            code.push(op(JUMP_EQ, distance(here, accept), 0, *first));
        } else {
            // Below this range means below all that follow, and those before have been compared.
            code.push(op(JUMP_GE, 0, distance(here, drop), *first));
            code.push(op(JUMP_GT, 0, distance(here + 1, accept), *last));
        }
    }
    code.push(DROP);
    code.push(op(RETURN, 0, 0, snap_len));
    code
}

#[cfg(test)]
mod tests;
