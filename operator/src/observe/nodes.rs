//! The relevant facts of the cluster's nodes. Pure.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Node, Taint};
use lb_crds::names::LABEL_EXCLUDE;

/// The nodes by name.
pub type ClusterNodes = BTreeMap<String, ClusterNode>;

/// The relevant facts of a node.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ClusterNode {
    ready: bool,
    labels: BTreeMap<String, String>,
    taints: Vec<Taint>,
}

impl ClusterNode {
    /// Extracts the facts of a node.
    #[must_use]
    pub fn of(node: Node) -> Self {
        let conditions = node.status.and_then(|status| status.conditions);
        Self {
            ready: conditions
                .iter()
                .flatten()
                .any(|condition| condition.type_ == "Ready" && condition.status == "True"),
            labels: node.metadata.labels.unwrap_or_default(),
            taints: node.spec.and_then(|spec| spec.taints).unwrap_or_default(),
        }
    }

    /// Condition Ready.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.ready
    }

    /// Its labels.
    #[must_use]
    pub fn labels(&self) -> &BTreeMap<String, String> {
        &self.labels
    }

    /// Its taints.
    #[must_use]
    pub fn taints(&self) -> &[Taint] {
        &self.taints
    }

    /// Whether it belongs to the control plane.
    #[must_use]
    pub fn is_control_plane(&self) -> bool {
        ["control-plane", "master"].iter().any(|role| {
            self.labels
                .contains_key(&format!("node-role.kubernetes.io/{role}"))
        })
    }

    /// Whether its speaker may announce addresses. `ignore_label`: `spec.speaker.ignoreExcludeLabel`.
    #[must_use]
    pub fn may_announce(&self, ignore_label: bool) -> bool {
        ignore_label || !self.labels.contains_key(LABEL_EXCLUDE)
    }
}
