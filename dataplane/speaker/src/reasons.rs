//! Why an address is not announced: by nobody, or not from a certain node. Each text says what to change.

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;

use lb_l2::ownership::ReleaseReason;

/// Why a node may not announce an address.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Ineligible {
    /// No advertisement's `nodeSelectors` choose it.
    NotSelected,
    /// It carries the exclude label.
    Excluded,
    /// It says itself that its network is not set up.
    NetworkUnavailable,
    /// It is said to be switched off for good.
    OutOfService,
    /// `externalTrafficPolicy: Local`, and no endpoint there.
    NoLocalEndpoint,
    /// No live speaker there.
    NoSpeaker,
}

impl fmt::Display for Ineligible {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotSelected => "the nodeSelectors of its L2Advertisements do not choose it",
            Self::Excluded => "it has the label node.kubernetes.io/exclude-from-external-load-balancers",
            Self::NetworkUnavailable => "its condition NetworkUnavailable is True",
            Self::OutOfService => "it has the taint node.kubernetes.io/out-of-service",
            Self::NoLocalEndpoint => "externalTrafficPolicy is Local and no ready endpoint is there",
            Self::NoSpeaker => "its speaker is not ready",
        })
    }
}

/// Why nobody announces an address.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Reason {
    /// No pool has it.
    NoPool,
    /// No advertisement announces its pool.
    NoAdvertisement {
        /// The pool.
        pool: String,
    },
    /// Advertisements announce its pool, but not this Service.
    ServiceNotSelected {
        /// The pool.
        pool: String,
    },
    /// No endpoint can serve.
    NoEndpoint,
    /// No node may.
    NoNode {
        /// What stands against the nodes: each reason holds for one node at least.
        because: BTreeSet<Ineligible>,
    },
}

impl Reason {
    /// The reason in words, for logs and the event.
    #[must_use]
    pub fn describe(&self, address: IpAddr) -> String {
        match self {
            Self::NoPool => {
                format!(
                    "{address} is in no IPAddressPool: put it back into one, or the Service gets another address"
                )
            }
            Self::NoAdvertisement { pool } => {
                format!(
                    "no L2Advertisement announces pool {pool:?}: create one, or name the pool in one that exists"
                )
            }
            Self::ServiceNotSelected { pool } => format!(
                "the serviceSelectors of the L2Advertisements of pool {pool:?} do not choose this Service: \
                 label it, or change them"
            ),
            Self::NoEndpoint => {
                "no endpoint of the Service is ready: check its selector and its Pods".to_owned()
            }
            Self::NoNode { because } if because.is_empty() => "there is no node".to_owned(),
            Self::NoNode { because } => {
                let because: Vec<_> = because.iter().map(Ineligible::to_string).collect();
                format!(
                    "no node may announce {address}; against a node stands: {}",
                    because.join("; ")
                )
            }
        }
    }
}

/// Why an announcement ended, for the log.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum WithdrawReason {
    /// No Service has the address any more.
    Released,
    /// Nobody may announce it.
    Nobody(Reason),
    /// The coordinator has let go of it.
    LetGo(ReleaseReason, Option<Ineligible>),
}

impl WithdrawReason {
    /// The reason in words.
    #[must_use]
    pub fn describe(&self, address: IpAddr) -> String {
        let (why, ineligible) = match self {
            Self::Released => return "no Service has the address any more".to_owned(),
            Self::Nobody(reason) => return reason.describe(address),
            Self::LetGo(why, ineligible) => (why, ineligible),
        };
        let why = match why {
            ReleaseReason::Moved { to } => format!("node {to} owns the address"),
            ReleaseReason::NotCandidate => {
                "this node may not have it, and no other took it in time".to_owned()
            }
            ReleaseReason::NoCandidates => "no node may announce it".to_owned(),
            ReleaseReason::NoInterface => "no interface of this node is fit for it".to_owned(),
            ReleaseReason::NoQuorum => "this node sees no majority of the nodes that may have it".to_owned(),
            ReleaseReason::Conflict => "a stranger answers for it".to_owned(),
        };
        match ineligible {
            None => why,
            Some(ineligible) => format!("{why}; of this node: {ineligible}"),
        }
    }
}
