//! The next owner of each address if a node were drained. Nothing is changed.

use std::net::IpAddr;

use lb_crds::load_balancer_stack::Placement;
use serde::Serialize;

use crate::addresses::rows;
use crate::cluster::Cluster;
use crate::report::{Report, unread_text};
use crate::snapshot::Unread;
use crate::text::{count, table};

/// The effect of draining a node.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Drain {
    node: String,
    moves: Vec<Move>,
    /// The next owner depends on the number of addresses of each node.
    balanced: bool,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    unread: Vec<Unread>,
}

/// The effect on one address.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Move {
    address: IpAddr,
    service: String,
    /// The first candidate that is left.
    next_owner: Option<String>,
    effect: String,
}

/// Computes the effect; `None` if there is no such node.
pub(crate) fn drain(cluster: &Cluster<'_>, node: &str) -> Option<Drain> {
    cluster.index.nodes.get(node)?;
    let stays = |name: &&str| {
        let node = cluster.index.nodes.get(*name);
        node.is_some_and(|node| !node.draining)
    };
    let owned = rows(cluster)
        .into_iter()
        .filter(|row| row.owner.as_deref() == Some(node));
    let moved = |row: crate::addresses::AddressRow| {
        let address = row.address?;
        let next = match cluster.eligibility(address) {
            Some(Ok(eligibility)) => {
                let mut others = eligibility.order.iter().copied().filter(|name| *name != node);
                others.find(stays).map(str::to_owned)
            }
            Some(Err(_)) | None => None,
        };
        let is_local = cluster
            .index
            .services
            .get(&row.key)
            .is_some_and(|service| service.local);
        let elsewhere = cluster
            .index
            .nodes
            .keys()
            .any(|name| name != node && cluster.index.has_endpoint_on(&row.key, name));
        let effect = match (&next, elsewhere) {
            (None, _) if is_local => {
                "externalTrafficPolicy Local: not announced until a ready pod runs on another node that may announce it"
            }
            (None, _) => "stays while the node runs, then not announced: no other node may announce it",
            (Some(_), false) => {
                "hand-over; its ready pods run on this node only: no answer until one runs elsewhere"
            }
            (Some(_), true) => "hand-over; open connections are reset",
        };
        Some(Move {
            address,
            service: row.service,
            next_owner: next,
            effect: effect.to_owned(),
        })
    };
    let speaker = cluster
        .snapshot
        .stack()
        .and_then(|stack| stack.spec.speaker.as_ref());
    Some(Drain {
        node: node.to_owned(),
        moves: owned.filter_map(moved).collect(),
        balanced: speaker.is_some_and(|speaker| speaker.placement == Some(Placement::Balanced)),
        unread: cluster.snapshot.unread.clone(),
    })
}

impl Drain {
    fn lost(&self) -> usize {
        self.moves.iter().filter(|one| one.next_owner.is_none()).count()
    }
}

impl Report for Drain {
    fn text(&self, _wide: bool) -> String {
        if self.moves.is_empty() {
            let text = format!("Node {} announces no address: nothing moves.\n", self.node);
            return text + &unread_text(&self.unread);
        }
        let rows: Vec<_> = self
            .moves
            .iter()
            .map(|one| {
                [
                    one.address.to_string(),
                    one.service.clone(),
                    one.next_owner.clone().unwrap_or_else(|| "NOBODY".to_owned()),
                    one.effect.clone(),
                ]
            })
            .collect();
        let mut text = table(0, &["ADDRESS", "SERVICE", "NEXT OWNER", "EFFECT"], &rows);
        let (lost, all) = (self.lost(), self.moves.len());
        text.push_str(&format!(
            "{} would move, {lost} would lose the last node. Addresses move when the node is cordoned: kubectl drain does that \
             first.\n",
            count(all - lost, "address", "addresses"),
        ));
        if self.balanced {
            text.push_str("With placement: Balanced the next owner may be another candidate.\n");
        }
        text + &unread_text(&self.unread)
    }

    fn has_problems(&self) -> bool {
        self.lost() > 0
    }

    fn unread(&self) -> &[Unread] {
        &self.unread
    }
}
