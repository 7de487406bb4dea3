//! Every reason for which a Service has no address, in the words that its owner reads in an event and in the log.
//!
//! Each begins with the phrase that MetalLB's users search for, and ends with what to do.

use std::fmt;
use std::net::IpAddr;

use crate::addresses::Addresses;
use crate::range::Family;
use crate::request::Families;
use crate::sharing::Conflict;

/// How full a pool is, for the families in question.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Use {
    /// The pool.
    pub pool: String,
    /// Addresses in use.
    pub used: u64,
    /// Addresses there are.
    pub capacity: u128,
}

impl fmt::Display for Use {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} ({} of {} in use)", self.pool, self.used, self.capacity)
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
    /// Two addresses of two pools.
    #[error(
        "{addresses} is not allowed in config: they are of pools {first:?} and {second:?}: ask for addresses of one pool"
    )]
    TwoPools {
        /// The addresses.
        addresses: Addresses,
        /// The pool of the first.
        first: String,
        /// The pool of the second.
        second: String,
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
        "no available IPs in pool {pool} for {families} IPFamily: it has no addresses of that family: add some, or change \
         spec.ipFamilies"
    )]
    PoolLacksFamily {
        /// The pool.
        pool: String,
        /// What is wanted.
        families: Families,
    },
    /// The pool is full.
    #[error(
        "no available IPs in pool {} for {families} IPFamily: pool {pool} is exhausted: add addresses to the pool, or \
         delete a Service", .pool.pool
    )]
    PoolExhausted {
        /// The pool and how full it is.
        pool: Use,
        /// What is wanted.
        families: Families,
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
    NoFamily(Families),
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
                Self::PoolExhausted { pool: a, families },
                Self::PoolExhausted {
                    pool: b,
                    families: other,
                },
            ) => a.pool == b.pool && families == other,
            (a, b) => a == b,
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
            Self::NotInAnyPool(_) | Self::Avoided { .. } | Self::TwoPools { .. } => "addressNotAllowed",
            Self::Taken { .. } | Self::CannotShare { .. } => "addressTaken",
            Self::OtherPool { .. }
            | Self::UnknownPool(_)
            | Self::NotChosen { .. }
            | Self::ChosenByNone { .. } => "noMatchingPool",
            Self::InvalidPool { .. } | Self::OnlyInvalidPools { .. } => "invalidPool",
            Self::PoolLacksFamily { .. } | Self::NoFamily(_) => "noPoolOfFamily",
            Self::PoolExhausted { .. } | Self::Exhausted(_) => "exhausted",
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
        [pool] => format!(
            "pool {:?} is exhausted ({} of {} in use)",
            pool.pool, pool.used, pool.capacity
        ),
        _ => format!("pools {}{more} are exhausted", named.join(", ")),
    }
}

impl Use {
    /// How full a pool is for these families: for two, the one that is fuller.
    pub(crate) fn of(pool: &crate::pool::Pool, families: Families) -> Self {
        let fuller = |a: Family, b: Family| if pool.free(a) <= pool.free(b) { a } else { b };
        let family = match families {
            Families::One(family) => family,
            Families::Prefer(_) | Families::Both => fuller(Family::V4, Family::V6),
        };
        Self {
            pool: pool.spec().name.clone(),
            used: pool.used(family),
            capacity: pool.capacity(family),
        }
    }
}
