//! What a stack says about announcing: how speakers watch each other, and what they do when something happens.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::plain_enum;

/// How the speakers watch each other: small datagrams over UDP, authenticated by the Secret speaker-heartbeat-keys. A node
/// that was not heard for interval × misses, and does not answer on the LAN either, loses its addresses to the next one. At rest
/// a heartbeat is sent one interval earlier than that; when it is late, it is asked for several times within the last one.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Heartbeat {
    /// Milliseconds without a heartbeat after which a speaker verifies on the LAN whether the node still answers, and
    /// fails its addresses over if it does not. Heartbeats are sent every 4/5 of this time. Lower values detect failures
    /// faster and cost more CPU. With more than 45 monitored peers a speaker sends less often and detects later.
    /// Default: 250.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 100, max = 5000))]
    pub failure_timeout_milliseconds: Option<i32>,

    /// UDP port on every node. Default: 7947.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1024, max = 65535))]
    pub port: Option<i32>,

    /// Days after which the key that authenticates heartbeats is replaced, without a gap; 0: never. The annotation
    /// lb-operator.io/rotate-heartbeat-keys of the stack, with a value that it did not have before, asks for it at once.
    /// Default: 30.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 3650))]
    pub key_rotation_days: Option<i32>,

    /// Seconds in which a changed Secret surely reaches every speaker; each of the two steps of a replacement lasts so long.
    /// More than twice the kubelets' syncFrequency is needed. Default: 300.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 10, max = 3600))]
    pub key_propagation_seconds: Option<i32>,
}

/// What to do when nodes cannot hear each other.
#[derive(Clone, Copy, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[schemars(transform = plain_enum)]
pub enum PartitionPolicy {
    /// Each side announces.
    Availability,
    /// The side with the majority announces.
    Majority,
}

/// Whether a node that returns takes its addresses back.
#[derive(Clone, Copy, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[schemars(transform = plain_enum)]
pub enum Failback {
    /// It does not.
    Never,
    /// It does.
    Immediate,
}

/// Which node announces an address.
#[derive(Clone, Copy, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[schemars(transform = plain_enum)]
pub enum Placement {
    /// The first in the order.
    HashOrder,
    /// One that has no more than the others.
    Balanced,
}

/// What to do when a host that is no node answers for an address.
#[derive(Clone, Copy, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[schemars(transform = plain_enum)]
pub enum ConflictPolicy {
    /// Tell it.
    Warn,
    /// Announce the address again.
    Defend,
    /// Leave the address to it.
    Yield,
}
