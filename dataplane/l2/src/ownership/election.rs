//! Who answers for an address: MetalLB's order, so that a cluster moved from MetalLB keeps its owners.
//!
//! The candidates of an address are ordered by `sha256(node name "#" address)`, ascending, and the first is
//! the owner. Every speaker computes the same answer from the same candidates; nothing is exchanged for it.

use std::net::IpAddr;

use sha2::{Digest, Sha256};

/// The candidates in the order in which they would own `address`; each name once.
pub fn order<'a>(address: IpAddr, candidates: impl IntoIterator<Item = &'a str>) -> Vec<&'a str> {
    let text = canonical(address);
    let mut ranked: Vec<_> = candidates
        .into_iter()
        .map(|node| (rank(&text, node), node))
        .collect();
    ranked.sort_unstable();
    ranked.dedup();
    ranked.into_iter().map(|(_, node)| node).collect()
}

/// The owner of `address` among the candidates; none without candidates. The first of [`order`], in one pass.
pub fn owner<'a>(address: IpAddr, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let text = canonical(address);
    candidates
        .into_iter()
        .map(|node| (rank(&text, node), node))
        .min()
        .map(|(_, node)| node)
}

/// Which node is meant, in few bytes: the first four of its place in the order of the address.
#[must_use]
pub fn short_hash(address: IpAddr, node: &str) -> u32 {
    let [a, b, c, d, ..] = rank(&canonical(address), node);
    u32::from_be_bytes([a, b, c, d])
}

fn rank(address: &str, node: &str) -> [u8; 32] {
    let mut hash = Sha256::new();
    hash.update(node.as_bytes());
    hash.update(b"#");
    hash.update(address.as_bytes());
    hash.finalize().into()
}

/// The text that MetalLB hashes, Go's `net.IP.String()`: RFC 5952 for IPv6, and IPv4-mapped addresses as
/// IPv4.
fn canonical(address: IpAddr) -> String {
    address.to_canonical().to_string()
}
