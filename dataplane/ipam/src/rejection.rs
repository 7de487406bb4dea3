//! Why a Service gets no address, or cannot keep one, as its owner reads it in events, conditions and logs.
//!
//! Each text begins with the phrase that MetalLB uses, because users and dashboards search for it, and ends with a
//! remedy.

use std::net::IpAddr;

use crate::addresses::Addresses;
use crate::families::Families;
use crate::pool_error::PoolError;
use crate::range::{Family, Range};
use crate::sharing::SharingConflict;

/// The longest excerpt, in bytes.
const EXCERPT_LIMIT: usize = 100;
/// How many pools a text names.
const POOL_LIMIT: usize = 3;

/// The beginning of a user's text. Annotations can be 256 KiB long.
#[must_use]
pub fn excerpt(text: &str) -> String {
    if text.len() <= EXCERPT_LIMIT {
        return text.to_owned();
    }
    let end = text.floor_char_boundary(EXCERPT_LIMIT);
    format!("{}…", text.get(..end).unwrap_or_default())
}

/// How full a pool is, for one family.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct PoolUsage {
    /// Name of the pool.
    pub pool: String,
    /// Addresses in use.
    pub used: u64,
    /// Free addresses that are in hold-down.
    pub in_hold_down: usize,
    /// Seconds until the next hold-down ends; 0 without one.
    pub next_free_in: u64,
    /// Usable addresses.
    pub capacity: u128,
}

impl PoolUsage {
    /// ` (2 of 3 in use, 1 in hold-down for another 60 s)`.
    fn numbers(&self) -> String {
        let next = self.next_free_in;
        let hold_down = match self.in_hold_down {
            0 => String::new(),
            1 => format!(", 1 in hold-down for another {next} s"),
            count => format!(", {count} in hold-down, the first for another {next} s"),
        };
        format!(" ({} of {} in use{hold_down})", self.used, self.capacity)
    }
}

/// Why a Service does not get, or cannot keep, an address.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Rejection {
    /// The Service has no cluster IPs, so its families are unknown.
    #[error("the Service has no cluster IP, so its IP family is unknown: remove clusterIP: None")]
    NoClusterIp,
    /// `RequireDualStack` with one cluster IP.
    #[error(
        "Service requires dual stack but not enough clusterips [{0}]: set ipFamilyPolicy to PreferDualStack or \
         SingleStack, or make the cluster dual-stack"
    )]
    NotEnoughClusterIps(String),
    /// Addresses are requested in the annotation and in the spec.
    #[error("service can not have both {key} and svc.Spec.LoadBalancerIP: remove one of them")]
    DuplicateRequest {
        /// Key of the annotation as the user wrote it.
        key: &'static str,
    },
    /// The annotation is not a list of addresses.
    #[error("invalid {key}: {value:?}: write one IP address, or one of each family separated by a comma")]
    InvalidAddressList {
        /// Key of the annotation as the user wrote it.
        key: &'static str,
        /// Its value.
        value: String,
    },
    /// `spec.loadBalancerIP` is not an address.
    #[error("invalid spec.loadBalancerIP {0:?}: write one IP address")]
    InvalidLoadBalancerIp(String),
    /// The annotation lists more than two addresses.
    #[error("more than two addresses {0:?}: request at most one of each family")]
    TooManyAddresses(String),
    /// Two addresses of one family are requested.
    #[error("\"{0}\" \"{1}\" has the same family: request at most one address of each family")]
    DuplicateFamily(IpAddr, IpAddr),
    /// The requested addresses are not of the Service's families.
    #[error(
        "requested loadBalancer IP(s) {addresses} does not match the ipFamily of the service ({families}): request an \
         address of that family, or change spec.ipFamilies"
    )]
    FamilyMismatch {
        /// The requested addresses.
        addresses: Addresses,
        /// The Service's families.
        families: Families,
    },
    /// No pool contains the address.
    #[error(
        "\"{0}\" is not allowed in config: no usable pool contains it: request another address, or add it to a pool"
    )]
    NotInAnyPool(IpAddr),
    /// `avoidBuggyIPs` leaves the address out.
    #[error(
        "\"{address}\" is not allowed in config: pool {pool:?} avoids addresses that end in .0 or .255: request another \
         address, or set avoidBuggyIPs to false"
    )]
    AvoidedAddress {
        /// The address.
        address: IpAddr,
        /// The pool whose range contains it.
        pool: String,
    },
    /// An annotation of the pool excludes the address.
    #[error(
        "\"{address}\" is not allowed in config: pool {pool:?} excludes {range}: request another address, or change the \
         pool's annotation lb-operator.io/excluded-addresses"
    )]
    ExcludedAddress {
        /// The address.
        address: IpAddr,
        /// The pool whose range contains it.
        pool: String,
        /// The exclusion.
        range: Range,
    },
    /// The namespace has reached its quota of the pool.
    #[error(
        "no available IPs in pool {pool} for namespace {namespace}: quota of {quota} addresses per IP family reached: \
         delete a Service there, share an address, or raise the pool's annotation lb-operator.io/namespace-quota"
    )]
    QuotaExceeded {
        /// The pool.
        pool: String,
        /// The namespace.
        namespace: String,
        /// Addresses of each family that it may have.
        quota: u32,
    },
    /// Another Service has the address.
    #[error(
        "can't assign \"{address}\", address also in use by {owner}: request another address, or delete that Service"
    )]
    AddressInUse {
        /// The address.
        address: IpAddr,
        /// The Service that has it.
        owner: String,
    },
    /// The sharing key is too long.
    #[error("invalid metallb.io/allow-shared-ip: {length} bytes long: write at most {limit} bytes")]
    SharingKeyTooLong {
        /// Its length, in bytes.
        length: usize,
        /// The longest key, in bytes.
        limit: usize,
    },
    /// No address is free, and one that is shared under the Service's key has no room for it.
    #[error("no available IPs: no address is free, and {0}")]
    NoRoomToShare(Box<Rejection>),
    /// Another Service has the address, and the two cannot share it.
    #[error("{}", cannot_share(*.address, .owner, .conflict))]
    CannotShare {
        /// The address.
        address: IpAddr,
        /// The Service that has it.
        owner: String,
        /// Why they cannot share it.
        conflict: SharingConflict,
    },
    /// A requested address is in another pool than the requested one.
    #[error(
        "requested loadBalancer IP(s) {addresses} is not compatible with requested address pool {pool}: the address is \
         in pool {actual:?}: request that pool, or another address"
    )]
    PoolMismatch {
        /// The requested addresses.
        addresses: Addresses,
        /// The requested pool.
        pool: String,
        /// The pool that contains the address.
        actual: String,
    },
    /// No pool has the requested name.
    #[error("unknown pool {0:?}: create that IPAddressPool, or request another pool")]
    UnknownPool(String),
    /// The requested pool is invalid.
    #[error("pool {pool} not compatible for ip assignment: it is invalid: {error}")]
    InvalidPool {
        /// The pool.
        pool: String,
        /// Why it is invalid.
        error: Box<PoolError>,
    },
    /// The pool's `serviceAllocation` does not match the Service.
    #[error(
        "pool {pool} not compatible for ip assignment: its spec.serviceAllocation does not match this Service: request \
         another pool, or change that field or the labels of the Service or its namespace"
    )]
    NotSelected {
        /// The pool.
        pool: String,
    },
    /// No pool with `autoAssign` has a `serviceAllocation` that matches the Service.
    #[error(
        "no available IPs: spec.serviceAllocation of {} with autoAssign does not match this Service: change it, or add \
         a pool without it", pool_list(.pools.iter().map(|pool| format!("{pool:?}")))
    )]
    NoPoolSelectsService {
        /// The pools with `autoAssign`.
        pools: Vec<String>,
    },
    /// The requested pool has no addresses of the family.
    #[error(
        "no available IPs in pool {pool} for {family} IPFamily: it has no addresses of that family: add some, or change \
         spec.ipFamilies"
    )]
    PoolLacksFamily {
        /// The pool.
        pool: String,
        /// The requested family.
        family: Family,
    },
    /// The requested pool is exhausted.
    #[error("{}", pool_exhausted(.pool, *.family, PoolUsage::numbers))]
    PoolExhausted {
        /// Usage of the pool.
        pool: PoolUsage,
        /// The requested family.
        family: Family,
    },
    /// There are no pools.
    #[error("no available IPs: there is no pool: create an IPAddressPool")]
    NoPools,
    /// Every pool is invalid.
    #[error("no available IPs: pool {pool:?} is invalid: {error}")]
    OnlyInvalidPools {
        /// The first of them, by name.
        pool: String,
        /// Why it is invalid.
        error: Box<PoolError>,
    },
    /// No pool has `autoAssign`.
    #[error(
        "no available IPs: no pool has autoAssign enabled: set autoAssign to true in a pool, or name a pool in the \
         annotation metallb.io/address-pool"
    )]
    NoAutoAssign,
    /// No pool has addresses of the family.
    #[error("no available IPs: no pool with autoAssign has addresses for {0} IPFamily: add some to a pool")]
    NoPoolOfFamily(Family),
    /// Every pool is exhausted.
    #[error("{}", pools_exhausted(.0, PoolUsage::numbers))]
    PoolsExhausted(Vec<PoolUsage>),
}

impl Rejection {
    /// Whether both have the same cause and the same remedy; the usage of exhausted pools may differ.
    ///
    /// An event is published only when the cause changes: a pool that grows, and is exhausted again, publishes no event
    /// for each of a thousand waiting Services.
    #[must_use]
    pub fn has_same_cause_as(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::PoolsExhausted(a), Self::PoolsExhausted(b)) => a
                .iter()
                .map(|pool| &pool.pool)
                .eq(b.iter().map(|pool| &pool.pool)),
            (
                Self::PoolExhausted { pool: a, family },
                Self::PoolExhausted {
                    pool: b,
                    family: other,
                },
            ) => a.pool == b.pool && family == other,
            (a, b) => a == b,
        }
    }

    /// The text without the usage of pools, for conditions: the same for every rejection of
    /// [the same cause](Self::has_same_cause_as).
    #[must_use]
    pub fn stable_message(&self) -> String {
        match self {
            Self::PoolsExhausted(pools) => pools_exhausted(pools, |_| String::new()),
            Self::PoolExhausted { pool, family } => pool_exhausted(pool, *family, |_| String::new()),
            other => other.to_string(),
        }
    }

    /// The reason of the Service's condition.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::NoClusterIp | Self::NotEnoughClusterIps(_) => "NoClusterIPs",
            Self::DuplicateRequest { .. }
            | Self::InvalidAddressList { .. }
            | Self::InvalidLoadBalancerIp(_)
            | Self::TooManyAddresses(_)
            | Self::DuplicateFamily(..)
            | Self::SharingKeyTooLong { .. }
            | Self::FamilyMismatch { .. } => "InvalidRequest",
            Self::NotInAnyPool(_) | Self::AvoidedAddress { .. } | Self::ExcludedAddress { .. } => {
                "AddressNotAllowed"
            }
            Self::AddressInUse { .. } | Self::CannotShare { .. } | Self::NoRoomToShare(_) => "AddressTaken",
            Self::PoolMismatch { .. }
            | Self::UnknownPool(_)
            | Self::NotSelected { .. }
            | Self::NoPoolSelectsService { .. } => "NoMatchingPool",
            Self::InvalidPool { .. } | Self::OnlyInvalidPools { .. } => "InvalidPool",
            Self::PoolLacksFamily { .. } | Self::NoPoolOfFamily(_) => "NoPoolOfFamily",
            Self::PoolExhausted { .. } | Self::PoolsExhausted(_) => "Exhausted",
            Self::QuotaExceeded { .. } => "OverQuota",
            Self::NoPools | Self::NoAutoAssign => "NoPool",
        }
    }
}

fn cannot_share(address: IpAddr, owner: &str, conflict: &SharingConflict) -> String {
    let in_use = format!("can't share \"{address}\", address also in use by {owner}");
    match conflict {
        SharingConflict::NotShared => format!(
            "{in_use}, which has no annotation metallb.io/allow-shared-ip: add it there, or request another address"
        ),
        SharingConflict::Key => format!(
            "{in_use} under another key: use the same key in metallb.io/allow-shared-ip of both, or request another \
             address"
        ),
        SharingConflict::Port(port) => format!(
            "port {port} is already in use on \"{address}\" by {owner}: use another port, or request another address"
        ),
        SharingConflict::Namespace => format!(
            "{in_use}: the pool's annotation lb-operator.io/sharing-scope allows sharing only within a namespace: change \
             it, or request another address"
        ),
        SharingConflict::Backend => format!(
            "{in_use}: with externalTrafficPolicy Local both need that policy, the same namespace and the same selector: \
             change them, or request another address"
        ),
    }
}

fn pool_exhausted(pool: &PoolUsage, family: Family, numbers: impl Fn(&PoolUsage) -> String) -> String {
    format!(
        "no available IPs in pool {} for {family} IPFamily: it is exhausted{}: add addresses to the pool, or delete a \
         Service",
        pool.pool,
        numbers(pool)
    )
}

fn pools_exhausted(pools: &[PoolUsage], numbers: impl Fn(&PoolUsage) -> String) -> String {
    let names = pool_list(
        pools
            .iter()
            .map(|pool| format!("{:?}{}", pool.pool, numbers(pool))),
    );
    match pools {
        [pool] => format!(
            "no available IPs: pool {:?} is exhausted{}: add addresses to the pool, or delete a Service",
            pool.pool,
            numbers(pool)
        ),
        _ => format!("no available IPs: {names} are exhausted: add addresses to a pool, or delete a Service"),
    }
}

/// `pool "a"` or `pools "a", "b", "c" and 4 more`.
fn pool_list(pools: impl ExactSizeIterator<Item = String>) -> String {
    let count = pools.len();
    let names: Vec<_> = pools.take(POOL_LIMIT).collect();
    let names = names.join(", ");
    match count {
        0 | 1 => format!("pool {names}"),
        2..=POOL_LIMIT => format!("pools {names}"),
        _ => format!("pools {names} and {} more", count - POOL_LIMIT),
    }
}
