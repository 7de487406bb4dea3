//! The configuration of a pool.

use crate::range::Range;

/// A pool as configured by its IPAddressPool.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct PoolSpec {
    /// Name of the IPAddressPool.
    pub name: String,
    /// Ranges, in the order of `spec.addresses`.
    pub ranges: Vec<Range>,
    /// Whether Services that request no pool and no address may get one of this pool.
    pub auto_assign: bool,
    /// Whether IPv4 addresses that end in .0 or .255 are left out.
    pub avoid_buggy_ips: bool,
    /// Which Services may use the pool.
    pub access: Access,
    /// Settings beyond MetalLB's.
    pub annotations: PoolAnnotations,
}

impl PoolSpec {
    /// Whether the usage counted under one spec stays valid under the other.
    pub(crate) fn has_same_accounting(&self, other: &Self) -> bool {
        self.ranges == other.ranges
            && self.annotations.namespace_quota.is_some() == other.annotations.namespace_quota.is_some()
            && self.avoid_buggy_ips == other.avoid_buggy_ips
            && self.annotations.excluded == other.annotations.excluded
    }
}

/// Which Services may use a pool. Pools with a selection are tried before those open to all.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Access {
    /// Every Service.
    #[default]
    All,
    /// The Services that match its `serviceAllocation`.
    Selected {
        /// Pools with a lower number are tried first, those without one (0) last.
        priority: u32,
    },
}

impl Access {
    /// Sort key: in this order pools are tried.
    pub(crate) fn rank(self) -> (bool, u32) {
        match self {
            Self::Selected { priority } => (false, priority.checked_sub(1).unwrap_or(u32::MAX)),
            Self::All => (true, 0),
        }
    }
}

/// Settings that MetalLB's pools do not have; the default behaves as MetalLB.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct PoolAnnotations {
    /// Addresses within the ranges that are never assigned.
    pub excluded: Vec<Range>,
    /// Which of the free addresses is assigned.
    pub strategy: AllocationStrategy,
    /// Seconds until a released address may be assigned to a Service that does not request it.
    pub hold_down: u32,
    /// How many addresses of each family the Services of one namespace can have.
    pub namespace_quota: Option<u32>,
    /// Whether Services of different namespaces may come to share an address.
    pub sharing_scope: SharingScope,
}

/// Which Services may come to share an address of a pool.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum SharingScope {
    /// All with the same key.
    #[default]
    Cluster,
    /// Those with the same key in one namespace.
    Namespace,
}

/// Which of the free addresses of a pool is assigned.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum AllocationStrategy {
    /// The first.
    #[default]
    First,
    /// The first that was never used; after all were used, the one released longest ago.
    LeastRecentlyUsed,
}
