//! The election order of an address. It equals MetalLB's, so that a cluster that migrates keeps its owners.
//!
//! Candidates are ordered by weight, descending, then by `sha256(node name "#" address)`, ascending; the first is the
//! owner. Every speaker computes the same order from the same candidates, without communication.

use std::cmp::Reverse;
use std::net::IpAddr;

use sha2::{Digest, Sha256};

/// The candidates of `address` in election order, without duplicates.
pub fn order<'a>(address: IpAddr, candidates: impl IntoIterator<Item = &'a str>) -> Vec<&'a str> {
    order_weighted(address, candidates.into_iter().map(|node| (node, 0)))
}

/// As [`order`], for candidates with weights: the greatest weight first.
pub fn order_weighted<'a>(
    address: IpAddr,
    candidates: impl IntoIterator<Item = (&'a str, u32)>,
) -> Vec<&'a str> {
    let text = canonical(address);
    let mut ranked: Vec<_> = candidates
        .into_iter()
        .map(|(node, weight)| (Reverse(weight), rank(&text, node), node))
        .collect();
    ranked.sort_unstable();
    ranked.dedup();
    ranked.into_iter().map(|(_, _, node)| node).collect()
}

/// The first candidate in [election order](order); `None` without candidates.
pub fn owner<'a>(address: IpAddr, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let text = canonical(address);
    candidates
        .into_iter()
        .map(|node| (rank(&text, node), node))
        .min()
        .map(|(_, node)| node)
}

/// The first four bytes of the node's hash for the address, which identify it among the candidates.
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

/// The text that MetalLB hashes, Go's `net.IP.String()`: RFC 5952 for IPv6; IPv4-mapped addresses as IPv4.
fn canonical(address: IpAddr) -> String {
    address.to_canonical().to_string()
}
