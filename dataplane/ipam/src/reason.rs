//! Every reason for which a Service has no address, in the words that its owner reads in an event and in the log.
//!
//! Each begins with the phrase that MetalLB's users search for, and ends with what to do.

use std::fmt;
use std::net::IpAddr;

use crate::addresses::Addresses;
use crate::pool::Pool;
use crate::range::{Family, Range};
use crate::request::Families;
use crate::sharing::Conflict;

/// The longest excerpt, in bytes.
const LONGEST_EXCERPT: usize = 100;

/// The beginning of what a user wrote: enough to recognise it. Annotations can be a quarter of a megabyte long.
#[must_use]
pub fn excerpt(text: &str) -> String {
    if text.len() <= LONGEST_EXCERPT {
        return text.to_owned();
    }
    let end = text.floor_char_boundary(LONGEST_EXCERPT);
    format!("{}…", text.get(..end).unwrap_or_default())
}

/// How full a pool is, for the family in question.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Use {
    /// The pool.
    pub pool: String,
    /// Addresses in use.
    pub used: u64,
    /// Addresses that nobody has and that are held back.
    pub held: usize,
    /// Addresses there are.
    pub capacity: u128,
}

impl Use {
    pub(crate) fn of(pool: &Pool, family: Family, now: i64) -> Self {
        Self {
            pool: pool.spec().name.clone(),
            used: pool.used(family),
            held: pool.held(family, now),
            capacity: pool.capacity(family),
        }
    }

    /// The numbers in words, with a blank before them; nothing without a capacity.
    fn numbers(&self) -> String {
        if self.capacity == 0 {
            return String::new();
        }
        let held = match self.held {
            0 => String::new(),
            held => format!(", {held} released too lately: lb-operator.io/hold-down"),
        };
        format!(" ({} of {} in use{held})", self.used, self.capacity)
    }
}

impl fmt::Display for Use {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}{}", self.pool, self.numbers())
    }
}

/// Why a Service does not get, or cannot keep, an address.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Rejection {
    /// Neither cluster IPs nor, therefore, a family.
    #[error("the Service has no cluster IP, so its IP family is unknown: remove clusterIP: None")]
    NoClusterIp,
    /// Two families are required, and Kubernetes gave one cluster IP.
    #[error(
        "Service requires dual stack but not enough clusterips [{0}]: set ipFamilyPolicy to PreferDualStack or \
         SingleStack, or make the cluster dual-stack"
    )]
    NotEnoughClusterIps(String),
    /// An address in the annotation and in the spec.
    #[error("service can not have both {key} and svc.Spec.LoadBalancerIP: remove one of them")]
    AskedTwice {
        /// The annotation as the user wrote it.
        key: &'static str,
    },
    /// The annotation is not a list of addresses.
    #[error("invalid {key}: {value:?}: write one IP address, or one of each family separated by a comma")]
    BadAddressList {
        /// The annotation as the user wrote it.
        key: &'static str,
        /// Its value.
        value: String,
    },
    /// `spec.loadBalancerIP` is not an address.
    #[error("invalid spec.loadBalancerIP {0:?}: write one IP address")]
    BadLoadBalancerIp(String),
    /// More than one address of each family.
    #[error("more than two addresses {0:?}: ask for at most one of each family")]
    TooManyAddresses(String),
    /// Two addresses of one family.
    #[error("\"{0}\" \"{1}\" has the same family: ask for at most one address of each family")]
    SameFamily(IpAddr, IpAddr),
    /// The addresses asked for are not of the Service's families.
    #[error(
        "requested loadBalancer IP(s) {addresses} does not match the ipFamily of the service ({families}): ask for an \
         address of that family, or change spec.ipFamilies"
    )]
    WrongFamily {
        /// What was asked for.
        addresses: Addresses,
        /// What the Service is.
        families: Families,
    },
    /// No pool has the address.
    #[error(
        "\"{0}\" is not allowed in config: no usable pool contains it: ask for another address, or add it to a pool"
    )]
    NotInAnyPool(IpAddr),
    /// The pool leaves the address out.
    #[error(
        "\"{address}\" is not allowed in config: pool {pool:?} avoids addresses that end in .0 or .255: ask for another \
         address, or set avoidBuggyIPs to false"
    )]
    Avoided {
        /// The address.
        address: IpAddr,
        /// The pool whose range it is in.
        pool: String,
    },
    /// The pool's owner excludes the address.
    #[error(
        "\"{address}\" is not allowed in config: pool {pool:?} excludes {range}: ask for another address, or change the \
         pool's annotation lb-operator.io/excluded-addresses"
    )]
    Excluded {
        /// The address.
        address: IpAddr,
        /// The pool whose range it is in.
        pool: String,
        /// The exclusion.
        range: Range,
    },
    /// The namespace has as much of the pool as it may have.
    #[error(
        "no available IPs in pool {pool} for namespace {namespace}: it has the {quota} that its quota allows: delete a \
         Service there, share an address, or raise the pool's annotation lb-operator.io/namespace-quota"
    )]
    OverQuota {
        /// The pool.
        pool: String,
        /// The namespace.
        namespace: String,
        /// How many addresses of a family it may have.
        quota: u32,
    },
    /// Somebody has the address.
    #[error(
        "can't assign \"{address}\", address also in use by {owner}: ask for another address, or delete that Service"
    )]
    Taken {
        /// The address.
        address: IpAddr,
        /// The Service that has it.
        owner: String,
    },
    /// Somebody has the address, and it cannot be shared with them.
    #[error("{}", cannot_share(*.address, .owner, .conflict))]
    CannotShare {
        /// The address.
        address: IpAddr,
        /// The Service that has it.
        owner: String,
        /// What stands against it.
        conflict: Conflict,
    },
    /// The addresses are of another pool than the one asked for.
    #[error(
        "requested loadBalancer IP(s) {addresses} is not compatible with requested address pool {pool}: it is of pool \
         {actual:?}: ask for that pool, or for another address"
    )]
    OtherPool {
        /// The addresses.
        addresses: Addresses,
        /// The pool asked for.
        pool: String,
        /// The pool that has them.
        actual: String,
    },
    /// There is no pool of that name.
    #[error("unknown pool {0:?}: create that IPAddressPool, or ask for another pool")]
    UnknownPool(String),
    /// The pool is invalid.
    #[error("pool {pool} not compatible for ip assignment: it is invalid: {reason}")]
    InvalidPool {
        /// The pool.
        pool: String,
        /// What is wrong with it, and what to do.
        reason: String,
    },
    /// The pool is for other Services.
    #[error(
        "pool {pool} not compatible for ip assignment: its spec.serviceAllocation does not choose this Service: ask for \
         another pool, or change the pool's namespaces and selectors, or the labels that they look at"
    )]
    NotChosen {
        /// The pool.
        pool: String,
    },
    /// Every pool that assigns by itself is for other Services.
    #[error(
        "no available IPs: no pool with autoAssign is for this Service: pool {pool:?} and the others have a \
         spec.serviceAllocation that does not choose it: change one, or add a pool without it"
    )]
    ChosenByNone {
        /// The first of them.
        pool: String,
    },
    /// The pool has no addresses of the family.
    #[error(
        "no available IPs in pool {pool} for {family} IPFamily: it has no addresses of that family: add some, or change \
         spec.ipFamilies"
    )]
    PoolLacksFamily {
        /// The pool.
        pool: String,
        /// What is wanted.
        family: Family,
    },
    /// The pool is full.
    #[error(
        "no available IPs in pool {} for {family} IPFamily: pool {pool} is exhausted: add addresses to the pool, or \
         delete a Service", .pool.pool
    )]
    PoolExhausted {
        /// The pool and how full it is.
        pool: Use,
        /// What is wanted.
        family: Family,
    },
    /// There are no pools.
    #[error("no available IPs: there is no pool: create an IPAddressPool")]
    NoPools,
    /// Every pool is invalid.
    #[error("no available IPs: pool {pool:?} is invalid: {reason}")]
    OnlyInvalidPools {
        /// The first of them.
        pool: String,
        /// What is wrong with it, and what to do.
        reason: String,
    },
    /// No pool gives addresses to Services that do not ask for it.
    #[error(
        "no available IPs: no pool assigns by itself: set autoAssign to true in a pool, or name a pool in the annotation \
         metallb.io/address-pool"
    )]
    NoAutoAssign,
    /// No pool has addresses of the family.
    #[error("no available IPs: no pool with autoAssign has addresses for {0} IPFamily: add some to a pool")]
    NoFamily(Family),
    /// Every pool is full.
    #[error("no available IPs: {}: add addresses to the pool, or delete a Service", exhausted(.0))]
    Exhausted(Vec<Use>),
}

impl Rejection {
    /// Whether this says the same as another: the numbers of a full pool may differ, what to do is the same.
    ///
    /// An event is written only when this turns false, so that a pool that grows, and is full again, does not send one
    /// more event to each of a thousand waiting Services.
    #[must_use]
    pub fn says_the_same_as(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Exhausted(a), Self::Exhausted(b)) => a
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

    /// The same without the numbers of full pools: words for what stays to be read while the numbers change.
    #[must_use]
    pub fn lasting(&self) -> String {
        let without = |pool: &Use| Use {
            pool: pool.pool.clone(),
            used: 0,
            held: 0,
            capacity: 0,
        };
        match self {
            Self::Exhausted(pools) => Self::Exhausted(pools.iter().map(without).collect()).to_string(),
            Self::PoolExhausted { pool, family } => Self::PoolExhausted {
                pool: without(pool),
                family: *family,
            }
            .to_string(),
            other => other.to_string(),
        }
    }

    /// A word for the log field `reason`.
    #[must_use]
    pub fn word(&self) -> &'static str {
        match self {
            Self::NoClusterIp | Self::NotEnoughClusterIps(_) => "noClusterIPs",
            Self::AskedTwice { .. }
            | Self::BadAddressList { .. }
            | Self::BadLoadBalancerIp(_)
            | Self::TooManyAddresses(_)
            | Self::SameFamily(..)
            | Self::WrongFamily { .. } => "invalidRequest",
            Self::NotInAnyPool(_) | Self::Avoided { .. } | Self::Excluded { .. } => "addressNotAllowed",
            Self::Taken { .. } | Self::CannotShare { .. } => "addressTaken",
            Self::OtherPool { .. }
            | Self::UnknownPool(_)
            | Self::NotChosen { .. }
            | Self::ChosenByNone { .. } => "noMatchingPool",
            Self::InvalidPool { .. } | Self::OnlyInvalidPools { .. } => "invalidPool",
            Self::PoolLacksFamily { .. } | Self::NoFamily(_) => "noPoolOfFamily",
            Self::PoolExhausted { .. } | Self::Exhausted(_) => "exhausted",
            Self::OverQuota { .. } => "overQuota",
            Self::NoPools | Self::NoAutoAssign => "noPool",
        }
    }
}

fn cannot_share(address: IpAddr, owner: &str, conflict: &Conflict) -> String {
    let in_use = format!("can't share \"{address}\", address also in use by {owner}");
    match conflict {
        Conflict::NotShared => {
            format!(
                "{in_use}, which has no annotation metallb.io/allow-shared-ip: add it there, or ask for another address"
            )
        }
        Conflict::Key => format!(
            "{in_use} under another key: write the same key in metallb.io/allow-shared-ip of both, or ask for another address"
        ),
        Conflict::Port(port) => format!(
            "port {port} is already in use on \"{address}\" by {owner}: use another port, or ask for another address"
        ),
        Conflict::Backend => format!(
            "{in_use}: with externalTrafficPolicy Local both need that policy and the same selector: change them, or ask \
             for another address"
        ),
    }
}

/// Full pools in words; three are enough to see what is the matter.
fn exhausted(pools: &[Use]) -> String {
    let named: Vec<_> = pools.iter().take(3).map(Use::to_string).collect();
    let more = match pools.len().saturating_sub(3) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    match pools {
        [pool] => format!("pool {:?} is exhausted{}", pool.pool, pool.numbers()),
        _ => format!("pools {}{more} are exhausted", named.join(", ")),
    }
}
