//! Why an address is not announced: by nobody, or not from a certain node. Each text says what to change.

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;

/// Why a node may not announce an address.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Ineligible {
    /// No advertisement's `nodeSelectors` choose it.
    NotSelected,
    /// It carries the exclude label.
    Excluded,
    /// It says itself that its network is not set up.
    NetworkUnavailable,
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
pub enum Ended {
    /// No Service has the address any more.
    Released,
    /// Another node owns it.
    Moved {
        /// That node.
        owner: String,
        /// What stands against us; none when it is only before us in the order.
        ineligible: Option<Ineligible>,
    },
    /// Nobody may announce it.
    Nobody(Reason),
}

impl Ended {
    /// The reason in words.
    #[must_use]
    pub fn describe(&self, address: IpAddr) -> String {
        match self {
            Self::Released => "no Service has the address any more".to_owned(),
            Self::Moved {
                owner,
                ineligible: None,
            } => format!("node {owner} owns the address"),
            Self::Moved {
                owner,
                ineligible: Some(ineligible),
            } => format!("node {owner} owns the address; of this node: {ineligible}"),
            Self::Nobody(reason) => reason.describe(address),
        }
    }
}
