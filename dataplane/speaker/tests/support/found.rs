//! The decision of one node, for comparisons.

use lb_speaker::decide::{Announcement, Decision, DecisionInput, decide};
use lb_speaker::reasons::{Ineligible, UnannouncedReason};

use crate::support::World;

/// The decision of one node.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Found {
    /// The node is the first candidate.
    Mine(Announcement),
    Other {
        owner: String,
        ineligible: Option<Ineligible>,
    },
    NoCandidates {
        reason: UnannouncedReason,
        we_report: bool,
    },
    Unused,
}

pub(crate) fn found(decision: Decision<'_>, me: &str) -> Found {
    match decision {
        Decision::Candidates { order, local } => match local {
            Ok(announcement) if order[0] == me => Found::Mine(announcement),
            local => Found::Other {
                owner: order[0].to_owned(),
                ineligible: local.err(),
            },
        },
        Decision::NoCandidates { reason, we_report } => Found::NoCandidates { reason, we_report },
        Decision::Unused => Found::Unused,
    }
}

pub(crate) fn decision_on(world: &World, me: &str, address: &str) -> Found {
    let nodes = world.nodes(false);
    let view = DecisionInput {
        local_node: me,
        index: &world.index,
        nodes: &nodes,
    };
    found(decide(&view, address.parse().unwrap()).decision, me)
}
