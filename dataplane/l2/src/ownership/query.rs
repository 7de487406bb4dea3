//! Queries of other nodes by ARP and NDP: what a node in doubt is asked, and which replies are evidence.
//!
//! While heartbeats arrive, nothing is asked. [`failure_detector`](super::failure_detector) decides when there is doubt. A
//! query is an ordinary request, unicast to hardware addresses that the peer told in an authenticated heartbeat: it
//! claims nothing, and no other host receives it.

use std::net::IpAddr;
use std::time::Instant;

use super::{Coordinator, Output, QueryTarget};
use crate::MacAddr;
use crate::ownership::failure_detector::{Evidence, NodeId};
use crate::wire::heartbeat::MAX_MACS;

impl Coordinator {
    /// Queries the node of a peer, and its speaker for an address that it announces, to find out which of them lives.
    pub(super) fn query_peer(&mut self, id: NodeId) {
        let Some(peer) = self.ctx.peers.get_mut(&id) else {
            return;
        };
        peer.queries = peer.queries.wrapping_add(1);
        // In turn, because one may be on an interface that we do not have.
        let mut announced = peer.announced.announced();
        let address = if peer.queries.is_multiple_of(2) {
            announced.next_back()
        } else {
            announced.next()
        };
        let node = peer.name.clone();
        if let Some(address) = address {
            let to = QueryTarget::Node(node.clone());
            self.ctx.outputs.push_back(Output::QueryAddress { address, to });
        }
        if peer.on_link {
            self.ctx.outputs.push_back(Output::QueryNode { node });
        }
    }

    /// Takes in an ARP or NDP packet from `mac` that shows an address of the node `name` as the sender's. It is evidence
    /// if heartbeats of the node told this hardware address. Of a node that was never heard, any is taken, and only the
    /// API server can show that such a node is up.
    pub fn handle_node_reply(&mut self, now: Instant, name: &str, mac: MacAddr) {
        self.ctx.now = self.ctx.now.max(now);
        let Some(id) = self.ctx.node_ids.get(name).copied() else {
            return;
        };
        if self.ctx.failure_detector.last_heard(id).is_none() {
            self.learn_mac(id, mac);
        } else if self.ctx.peer_by_mac.get(&mac) != Some(&id) {
            return;
        }
        self.ctx
            .failure_detector
            .handle_probe_reply(self.ctx.now, id, Evidence::Node);
    }

    /// The hardware addresses that the heartbeats of a node told last; empty if none was received.
    #[must_use]
    pub fn told_macs(&self, node: &str) -> &[MacAddr] {
        let peer = self.ctx.node_ids.get(node).and_then(|id| {
            self.ctx.failure_detector.last_heard(*id)?;
            self.ctx.peers.get(id)
        });
        peer.map_or(&[], |peer| &peer.macs)
    }

    /// The node whose heartbeats told this hardware address.
    #[must_use]
    pub fn node_of_mac(&self, mac: MacAddr) -> Option<&str> {
        let id = self.ctx.peer_by_mac.get(&mac)?;
        self.ctx.failure_detector.last_heard(*id)?;
        self.ctx.peers.get(id).map(|peer| &*peer.name)
    }

    /// Ends the verification of an address that could not be queried: without a question, silence proves nothing.
    pub fn handle_unsent_query(&mut self, now: Instant, address: IpAddr) {
        self.ctx.now = self.ctx.now.max(now);
        self.with_state(address, |state, ctx| state.postpone_verification(address, ctx));
    }

    /// Notes that the hardware address belongs to a peer, and resolves conflicts in which it was taken for a foreign
    /// host.
    pub(super) fn set_peer_mac(&mut self, mac: MacAddr, id: NodeId) {
        self.ctx.peer_by_mac.insert(mac, id);
        for (address, state) in &mut self.addresses {
            state.identify_node(*address, mac, &mut self.ctx);
        }
    }

    /// Notes a hardware address of a peer that was never heard. Only this distinguishes it from a foreign host.
    fn learn_mac(&mut self, id: NodeId, mac: MacAddr) {
        let Some(peer) = self.ctx.peers.get_mut(&id) else {
            return;
        };
        if peer.macs.contains(&mac) {
            return;
        }
        // Any host on the link can reply for the node, from any number of hardware addresses: the last few are kept.
        if peer.macs.len() >= MAX_MACS {
            let oldest = peer.macs.remove(0);
            if self.ctx.peer_by_mac.get(&oldest) == Some(&id) {
                self.ctx.peer_by_mac.remove(&oldest);
            }
        }
        peer.macs.push(mac);
        // An address from an authenticated heartbeat takes precedence.
        if !self.ctx.peer_by_mac.contains_key(&mac) {
            self.set_peer_mac(mac, id);
        }
    }
}
