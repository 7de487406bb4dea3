//! Heartbeats, failover and address conflicts.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::api_enum::api_enum;

/// Heartbeats between speakers: UDP datagrams, authenticated with the keys in the Secret speaker-heartbeat-keys. A node
/// whose heartbeats stop and that does not answer on the LAN loses its addresses to the next candidates.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Heartbeat {
    /// Milliseconds without a heartbeat after which a speaker verifies on the LAN whether the node still answers, and
    /// fails its addresses over if it does not. Heartbeats are sent every sixth of this time. Lower values detect
    /// failures faster and cost more CPU. With more than 18 monitored peers a speaker sends less often and detects
    /// later. Default: 245.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 100, max = 5000))]
    pub failure_timeout_milliseconds: Option<i32>,

    /// UDP port of the heartbeats on every node. Default: 7947.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1024, max = 65535))]
    pub port: Option<i32>,

    /// Days between rotations of the heartbeat key; 0 disables rotation. Rotation does not interrupt heartbeats. To
    /// rotate immediately, set the annotation lb-operator.io/rotate-heartbeat-keys of the stack to a new value.
    /// Default: 30.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 3650))]
    pub key_rotation_days: Option<i32>,

    /// Upper bound for a changed Secret to reach every kubelet, in seconds. Each of the two steps of a key rotation
    /// takes this long. Use more than twice the kubelets' syncFrequency. Default: 300.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 10, max = 3600))]
    pub key_propagation_seconds: Option<i32>,
}

api_enum! {
    /// Which nodes announce an address while the network is partitioned.
    pub enum PartitionPolicy {
        /// Each partition announces every address that one of its nodes may announce. Clients keep service in all
        /// partitions; an address may be announced twice until the network recovers.
        Availability,
        /// Only a partition with the majority of the first five candidates of an address announces it. A node in a
        /// minority withdraws the address before the majority announces it.
        Majority,
    }
}

api_enum! {
    /// Whether addresses move back to a node that returns.
    pub enum Failback {
        /// Addresses stay on their current nodes, because each move breaks established connections.
        Never,
        /// Addresses move back to the first node of the election order, as with MetalLB.
        Immediate,
    }
}

api_enum! {
    /// How addresses are distributed over nodes.
    pub enum Placement {
        /// An address is announced by the first available node of its election order, which is MetalLB's.
        HashOrder,
        /// Addresses are spread evenly: no node announces more than the average, rounded up, if all nodes are eligible
        /// for all addresses. After nodes are added or removed, as few addresses as possible move, a few at a time.
        /// Each move breaks the established connections of that address.
        Balanced,
    }
}

api_enum! {
    /// Reaction to an address conflict.
    pub enum ConflictPolicy {
        /// The conflict is reported by an event, a condition and a metric. An address that another host has is not
        /// announced for the first time; an address that a node announces already stays.
        Warn,
        /// The conflict is reported, the address is taken from the other host, and it is announced again at most every
        /// ten seconds (RFC 5227, section 2.4).
        Defend,
        /// The conflict is reported, and the address is not announced while the other host answers.
        Yield,
    }
}
