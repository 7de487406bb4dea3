//! The election order of an address. It equals MetalLB's, so that a cluster that migrates keeps its owners.
//!
//! Candidates are ordered by weight, descending, then by `sha256(node name "#" address)`, ascending; the first is the
//! owner. Every speaker computes the same order from the same candidates, without communication.

use std::cmp::Reverse;
use std::net::IpAddr;

use sha2::{Digest, Sha256};

/// The rank of a node for an address: the first candidate has the lowest.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Rank(Reverse<u32>, [u8; 32]);

/// Ranks nodes for one address.
#[derive(Clone, Debug)]
pub struct Election {
    address: String,
}

impl Election {
    /// The election for this address.
    #[must_use]
    pub fn new(address: IpAddr) -> Self {
        Self {
            address: canonical(address),
        }
    }

    /// The rank of a node with this weight.
    #[must_use]
    pub fn rank(&self, node: &str, weight: u32) -> Rank {
        Rank(Reverse(weight), hash(&self.address, node))
    }
}

/// The candidates of `address` in election order, without duplicates.
pub fn order<'a>(address: IpAddr, candidates: impl IntoIterator<Item = &'a str>) -> Vec<&'a str> {
    order_weighted(address, candidates.into_iter().map(|node| (node, 0)))
}

/// As [`order`], for candidates with weights: the greatest weight first.
pub fn order_weighted<'a>(
    address: IpAddr,
    candidates: impl IntoIterator<Item = (&'a str, u32)>,
) -> Vec<&'a str> {
    let election = Election::new(address);
    let mut ranked: Vec<_> = candidates
        .into_iter()
        .map(|(node, weight)| (election.rank(node, weight), node))
        .collect();
    ranked.sort_unstable();
    ranked.dedup();
    ranked.into_iter().map(|(_, node)| node).collect()
}

/// The first candidate in [election order](order); `None` without candidates.
pub fn owner<'a>(address: IpAddr, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let election = Election::new(address);
    candidates
        .into_iter()
        .map(|node| (election.rank(node, 0), node))
        .min()
        .map(|(_, node)| node)
}

/// The first four bytes of the node's hash for the address, which identify it among the candidates.
#[must_use]
pub fn short_hash(address: IpAddr, node: &str) -> u32 {
    let [a, b, c, d, ..] = hash(&canonical(address), node);
    u32::from_be_bytes([a, b, c, d])
}

fn hash(address: &str, node: &str) -> [u8; 32] {
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
