//! Why a pool is invalid.

use crate::range::Range;

/// Why a pool is invalid. The text names the field, the fault and the remedy.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum PoolError {
    /// `spec.addresses` is empty.
    #[error("spec.addresses is empty: list at least one CIDR or range (pool has no prefixes defined)")]
    NoAddresses,
    /// An entry is not a CIDR or range.
    #[error("spec.addresses[{index}] {reason}")]
    Entry {
        /// Index of the entry, from 0.
        index: usize,
        /// The fault, and how to write the entry.
        reason: String,
    },
    /// Two entries of the pool overlap.
    #[error("spec.addresses[{index}] ({range}) overlaps {other} of the same pool: remove one of them")]
    OverlapsItself {
        /// Index of the later entry, from 0.
        index: usize,
        /// Range of the later entry.
        range: Range,
        /// Range of the earlier entry.
        other: Range,
    },
    /// An entry overlaps another pool.
    #[error(
        "spec.addresses[{index}] ({range}) overlaps {other} of pool {pool:?}: remove the common addresses from one of \
         the two pools"
    )]
    Overlaps {
        /// Index of the entry, from 0.
        index: usize,
        /// Range of the entry.
        range: Range,
        /// The other pool's range.
        other: Range,
        /// The other pool.
        pool: String,
    },
    /// `avoidBuggyIPs` and exclusions leave no address.
    #[error(
        "spec.avoidBuggyIPs or the annotation lb-operator.io/excluded-addresses leaves no usable address in \
         spec.addresses: add addresses; IPv4 addresses must not end in .0 or .255"
    )]
    NoUsableAddress,
    /// An annotation under `lb-operator.io/` is invalid; the text names it.
    #[error("{0}")]
    Annotation(String),
    /// A selector of `spec.serviceAllocation` is invalid; the text names the field.
    #[error("{0}")]
    Selector(String),
    /// The object does not have the shape of a pool.
    #[error("cannot decode the object: {0}: correct it, or update the CustomResourceDefinition")]
    Undecodable(String),
}

impl PoolError {
    /// The reason of the pool's condition.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::NoAddresses | Self::NoUsableAddress => "NoAddresses",
            Self::Entry { .. } => "InvalidAddresses",
            Self::OverlapsItself { .. } | Self::Overlaps { .. } => "OverlappingAddresses",
            Self::Selector(_) => "InvalidSelector",
            Self::Annotation(_) => "InvalidAnnotation",
            Self::Undecodable(_) => "Unreadable",
        }
    }
}
