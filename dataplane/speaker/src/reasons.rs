//! Why an address is not announced: by any node, or by this one. Each message says what to change.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

use lb_l2::ownership::ReleaseReason;
use lb_runtime::text::{LIST_LIMIT, list_first};

/// Why a node is not eligible to announce an address.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Ineligible {
    /// Another node has the address itself, so its kernel answers for it.
    AddressOfOtherNode,
    /// No advertisement selects it.
    NotSelected,
    /// It has the exclude label.
    Excluded,
    /// Its condition `NetworkUnavailable` is `True`.
    NetworkUnavailable,
    /// It has the taint of a node that was shut down.
    OutOfService,
    /// `externalTrafficPolicy` is `Local`, and the node has no endpoint that can serve.
    NoLocalEndpoint,
    /// It has no speaker that is ready or restarts.
    NoSpeaker,
}

impl fmt::Display for Ineligible {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::AddressOfOtherNode => "without the address, which another node has",
            Self::NotSelected => "not selected by the nodeSelectors of any L2Advertisement",
            Self::Excluded => "excluded by label node.kubernetes.io/exclude-from-external-load-balancers",
            Self::NetworkUnavailable => "network unavailable (condition NetworkUnavailable)",
            Self::OutOfService => "out of service (taint node.kubernetes.io/out-of-service)",
            Self::NoLocalEndpoint => "without a ready endpoint (externalTrafficPolicy: Local)",
            Self::NoSpeaker => "speaker not ready",
        })
    }
}

/// Nodes for a message: the first few by name, and their number.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct NodeList {
    names: Vec<String>,
    count: usize,
}

impl NodeList {
    /// Adds a node.
    pub fn push(&mut self, name: &str) {
        if self.names.len() < LIST_LIMIT {
            self.names.push(name.to_owned());
        }
        self.count += 1;
    }
}

impl fmt::Display for NodeList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&list_first(&self.names, LIST_LIMIT))?;
        match self.count - self.names.len() {
            0 => Ok(()),
            others => write!(f, " and {others} more"),
        }
    }
}

/// Why no node announces an address.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum UnannouncedReason {
    /// No pool contains it.
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
    /// The Service has a sharing key, and an advertisement selects it by `serviceSelectors`.
    SharedWithServiceSelectors {
        /// The pool.
        pool: String,
    },
    /// No endpoint can serve.
    NoEndpoint,
    /// Nodes have the address themselves, and none of them is eligible.
    AddressOfNode {
        /// These nodes, by the reason why they are not eligible.
        nodes: BTreeMap<Ineligible, NodeList>,
    },
    /// The first candidate has no interface for it, and no other node announces it.
    NoInterface {
        /// The candidate.
        node: String,
    },
    /// With `partitionPolicy: Majority`, the first candidate reaches no majority of the nodes that vote.
    NoMajority {
        /// The candidate.
        node: String,
        /// The voters that it does not reach.
        unreached: NodeList,
    },
    /// No node is eligible.
    NoEligibleNode {
        /// The nodes, by reason.
        nodes: BTreeMap<Ineligible, NodeList>,
    },
}

impl UnannouncedReason {
    /// The reason in conditions and metrics, one of [`lb_crds::names::UNANNOUNCED_REASONS`].
    #[must_use]
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::NoPool => "NoPool",
            Self::NoAdvertisement { .. } => "NoAdvertisement",
            Self::ServiceNotSelected { .. } => "ServiceNotSelected",
            Self::SharedWithServiceSelectors { .. } => "SharedWithServiceSelectors",
            Self::NoEndpoint => "NoEndpoint",
            Self::AddressOfNode { .. } => "AddressOfNode",
            Self::NoEligibleNode { .. } => "NoEligibleNode",
            Self::NoInterface { .. } => "NoInterface",
            Self::NoMajority { .. } => "NoMajority",
        }
    }

    /// Whether the other reason has the same cause, though for other nodes perhaps: it is not reported again.
    #[must_use]
    pub fn has_cause_of(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::NoEligibleNode { nodes }, Self::NoEligibleNode { nodes: others })
            | (Self::AddressOfNode { nodes }, Self::AddressOfNode { nodes: others }) => {
                nodes.keys().eq(others.keys())
            }
            (Self::NoMajority { .. }, Self::NoMajority { .. }) => true,
            _ => self == other,
        }
    }

    /// The message, for logs and the event.
    #[must_use]
    pub fn message(&self, address: IpAddr) -> String {
        match self {
            Self::NoPool => format!(
                "no IPAddressPool contains {address}: add it to a pool again, or the Service gets another address"
            ),
            Self::NoAdvertisement { pool } => format!(
                "no L2Advertisement announces pool {pool:?}: create one, or add the pool to an existing one"
            ),
            Self::ServiceNotSelected { pool } => format!(
                "the serviceSelectors of the L2Advertisements of pool {pool:?} do not match this Service: label it, or \
                 change them"
            ),
            Self::SharedWithServiceSelectors { pool } => format!(
                "{address} may be shared (annotation metallb.io/allow-shared-ip), and an L2Advertisement of pool {pool:?} \
                 has serviceSelectors: remove the annotation or the serviceSelectors"
            ),
            Self::NoEndpoint => {
                "the Service has no ready endpoint: check its selector and its Pods".to_owned()
            }
            Self::NoInterface { node } => format!(
                "node {node} has no suitable interface for {address}: check the networks of its interfaces, or the \
                 interfaces of the L2Advertisement"
            ),
            Self::NoMajority { node, unreached } => format!(
                "node {node} reaches no majority of the nodes that may announce {address} (partitionPolicy: Majority): it \
                 receives no heartbeats of {unreached}: start their speakers, or open the UDP port of the heartbeats"
            ),
            Self::NoEligibleNode { nodes } if nodes.is_empty() => {
                format!("no eligible node for {address}: the cluster has no nodes")
            }
            Self::NoEligibleNode { nodes } => {
                format!("no eligible node for {address}: {}", grouped(nodes))
            }
            Self::AddressOfNode { nodes } => format!(
                "{address} is an address of a node, and only that node may announce it: {}: exclude the address from its \
                 pool",
                grouped(nodes)
            ),
        }
    }
}

fn grouped(nodes: &BTreeMap<Ineligible, NodeList>) -> String {
    let groups: Vec<_> = nodes
        .iter()
        .map(|(reason, nodes)| format!("{nodes} {reason}"))
        .collect();
    groups.join("; ")
}

/// Why this node withdraws an address, for the log.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum WithdrawReason {
    /// No Service has the address.
    Unused,
    /// No node can announce it.
    Unannounced(UnannouncedReason),
    /// The coordinator released it; with the reason why this node is not eligible, if it is not.
    Released(ReleaseReason, Option<Ineligible>),
}

impl WithdrawReason {
    /// The message.
    #[must_use]
    pub fn message(&self, address: IpAddr) -> String {
        let (reason, ineligible) = match self {
            Self::Unused => return "no Service has the address".to_owned(),
            Self::Unannounced(reason) => return reason.message(address),
            Self::Released(reason, ineligible) => (reason, ineligible),
        };
        let reason = match reason {
            ReleaseReason::Moved { to } => format!("node {to} owns the address"),
            ReleaseReason::NotCandidate => {
                "this node is no longer eligible and no other node took over in time".to_owned()
            }
            ReleaseReason::NoCandidates => "no eligible node".to_owned(),
            ReleaseReason::NoInterface => "no suitable interface on this node".to_owned(),
            ReleaseReason::NoQuorum => "this node reaches no majority of the eligible nodes".to_owned(),
            ReleaseReason::Conflict => "address conflict: another host answers".to_owned(),
        };
        match ineligible {
            None => reason,
            Some(ineligible) => format!("{reason} (this node: {ineligible})"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ineligible_nodes_are_named_and_grouped_by_reason() {
        let mut nodes: BTreeMap<_, NodeList> = BTreeMap::new();
        for name in ["n1", "n2"] {
            nodes.entry(Ineligible::Excluded).or_default().push(name);
        }
        nodes.entry(Ineligible::NoSpeaker).or_default().push("n3");
        let reason = UnannouncedReason::NoEligibleNode { nodes };
        assert_eq!(
            reason.message([192, 168, 50, 50].into()),
            "no eligible node for 192.168.50.50: n1, n2 excluded by label \
             node.kubernetes.io/exclude-from-external-load-balancers; n3 speaker not ready"
        );
    }

    #[test]
    fn long_lists_of_nodes_are_cut() {
        let mut nodes = NodeList::default();
        for number in 1..=8 {
            nodes.push(&format!("n{number}"));
        }
        assert_eq!(nodes.to_string(), "n1, n2, n3, n4, n5 and 3 more");
    }

    #[test]
    fn other_nodes_with_the_same_reasons_are_not_another_cause() {
        let reason = |ineligible, name| {
            let mut nodes = NodeList::default();
            nodes.push(name);
            UnannouncedReason::NoEligibleNode {
                nodes: [(ineligible, nodes)].into(),
            }
        };
        let first = reason(Ineligible::Excluded, "n1");
        assert!(first.has_cause_of(&reason(Ineligible::Excluded, "n2")));
        assert!(!first.has_cause_of(&reason(Ineligible::NoSpeaker, "n1")));
        assert!(!first.has_cause_of(&UnannouncedReason::NoEndpoint));
    }

    #[test]
    fn every_reason_is_known_to_the_controller() {
        let pool = || "lan".to_owned();
        let nodes = BTreeMap::new;
        let all = [
            UnannouncedReason::NoPool,
            UnannouncedReason::NoAdvertisement { pool: pool() },
            UnannouncedReason::ServiceNotSelected { pool: pool() },
            UnannouncedReason::SharedWithServiceSelectors { pool: pool() },
            UnannouncedReason::NoEndpoint,
            UnannouncedReason::AddressOfNode { nodes: nodes() },
            UnannouncedReason::NoEligibleNode { nodes: nodes() },
            UnannouncedReason::NoInterface { node: pool() },
            UnannouncedReason::NoMajority {
                node: pool(),
                unreached: NodeList::default(),
            },
        ];
        for reason in all {
            assert!(
                lb_crds::names::UNANNOUNCED_REASONS.contains(&reason.as_str()),
                "{reason:?}"
            );
        }
    }
}
