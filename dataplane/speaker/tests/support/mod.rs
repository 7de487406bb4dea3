//! Builders of small objects for tests: JSON, decoded by the speaker's own readers.

#![allow(dead_code, reason = "each test file uses a part of it")]
#![allow(clippy::expect_used, reason = "a helper of a test fails the test")]

use std::net::IpAddr;
use std::time::{Duration, Instant};

use lb_runtime::ObjectKey;
use lb_speaker::k8s::index::{Index, Update};
use lb_speaker::k8s::objects::{Advertisement, Node, Pool, ReportedStatus, Service, Slice, Speaker};
use lb_speaker::node_table::NodeTable;
use lb_speaker::peers::Peers;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

/// The address of the Service `web`.
pub(crate) const WEB: &str = "192.168.50.52";
pub(crate) const GRACE: Duration = Duration::from_secs(10);

pub(crate) fn from<T: DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).expect("valid object")
}

/// A Service of type LoadBalancer in the namespace `default`, with these addresses; `edit` changes its JSON.
pub(crate) fn mk_service(name: &str, addresses: &[&str], edit: impl Fn(&mut Value)) -> Update {
    let ingress: Vec<_> = addresses.iter().map(|ip| json!({"ip": ip})).collect();
    let mut object = json!({
        "metadata": {"namespace": "default", "name": name, "uid": format!("uid-{name}"), "labels": {"app": name}},
        "spec": {"type": "LoadBalancer"},
        "status": {"loadBalancer": {"ingress": ingress}},
    });
    edit(&mut object);
    Update::Service(key(name), Service::read(from(object), None))
}

/// A slice of a Service: one ready endpoint on each of these nodes.
pub(crate) fn mk_slice(service: &str, nodes: &[&str]) -> Update {
    let endpoints: Vec<_> = nodes
        .iter()
        .map(|node| endpoint(node, &json!({"ready": true})))
        .collect();
    mk_slice_of(service, &endpoints)
}

pub(crate) fn endpoint(node: &str, conditions: &Value) -> Value {
    json!({"addresses": ["10.0.0.1"], "nodeName": node, "conditions": conditions})
}

pub(crate) fn mk_slice_of(service: &str, endpoints: &[Value]) -> Update {
    let object = json!({
        "metadata": {
            "namespace": "default",
            "name": format!("{service}-abc"),
            "labels": {"kubernetes.io/service-name": service},
        },
        "addressType": "IPv4",
        "endpoints": endpoints,
    });
    Update::Slice(key(&format!("{service}-abc")), Slice::read(from(object)))
}

pub(crate) fn mk_node(name: &str) -> Update {
    mk_node_with(name, &json!({}), &json!([{"type": "Ready", "status": "True"}]))
}

pub(crate) fn mk_node_with(name: &str, labels: &Value, conditions: &Value) -> Update {
    let object = json!({
        "metadata": {"name": name, "uid": format!("uid-{name}"), "labels": labels},
        "status": {"conditions": conditions},
    });
    Update::Node(name.to_owned(), Some(Node::read(from(object))))
}

/// A node that is ready and has these addresses.
pub(crate) fn mk_node_at(name: &str, addresses: &[IpAddr]) -> Update {
    let internal = |address: &IpAddr| json!({"type": "InternalIP", "address": address});
    let addresses: Vec<_> = addresses.iter().map(internal).collect();
    let object = json!({
        "metadata": {"name": name, "uid": format!("uid-{name}")},
        "status": {
            "conditions": [{"type": "Ready", "status": "True"}],
            "addresses": addresses,
        },
    });
    Update::Node(name.to_owned(), Some(Node::read(from(object))))
}

pub(crate) fn mk_pool(name: &str, addresses: &[&str]) -> Update {
    let object = json!({
        "metadata": {"name": name, "labels": {"tier": name}},
        "spec": {"addresses": addresses},
    });
    Update::Pool(name.to_owned(), Some(Pool::read(from(object))))
}

pub(crate) fn mk_advertisement(name: &str, spec: &Value) -> Update {
    let object = json!({"metadata": {"name": name}, "spec": spec});
    Update::Advertisement(name.to_owned(), Some(Advertisement::read(from(object))))
}

/// The speaker's Pod on a node.
pub(crate) fn mk_speaker(node: &str, ready: bool) -> Update {
    let status = if ready { "True" } else { "False" };
    let object = json!({
        "metadata": {"name": format!("speaker-{node}")},
        "spec": {"nodeName": node, "containers": []},
        "status": {"conditions": [{"type": "Ready", "status": status}]},
    });
    Update::Speaker(format!("speaker-{node}"), Speaker::read(from(object)))
}

pub(crate) fn mk_status(service: &str, node: &str) -> Update {
    let name = lb_speaker::k8s::l2_status::object_name(&key(service));
    Update::Status(
        ObjectKey::new("metallb-system", name),
        Some(mk_reported_status(service, node, &[])),
    )
}

pub(crate) fn mk_reported_status(service: &str, node: &str, interfaces: &[&str]) -> ReportedStatus {
    let interfaces: Vec<_> = interfaces.iter().map(|name| json!({"name": name})).collect();
    let owner = json!({"apiVersion": "v1", "kind": "Node", "name": node, "uid": format!("uid-{node}")});
    ReportedStatus::read(from(json!({
        "metadata": {"resourceVersion": "7", "ownerReferences": [owner]},
        "spec": {},
        "status": {
            "node": node,
            "serviceName": service,
            "serviceNamespace": "default",
            "interfaces": interfaces,
            "address": WEB,
        },
    })))
}

pub(crate) fn key(name: &str) -> ObjectKey {
    ObjectKey::new("default", name)
}

/// The default cluster of the tests: three nodes with speakers, a pool, an advertisement of all_addresses, and the
/// Service `web` with one address and an endpoint on each node.
///
/// The order of the nodes for 192.168.50.52 is n1, n2, n3.
pub(crate) fn cluster() -> Vec<Update> {
    let mut updates = vec![
        mk_pool("lan", &["192.168.50.50-192.168.50.99", "fd00:50::/120"]),
        mk_advertisement("lan", &json!({})),
        mk_service("web", &[WEB], |_| {}),
        mk_slice("web", &["n1", "n2", "n3"]),
    ];
    for node in ["n1", "n2", "n3"] {
        updates.extend([mk_node(node), mk_speaker(node, true)]);
    }
    updates
}

/// An index and its peers, as seen from n1.
pub(crate) struct World {
    pub(crate) index: Index,
    pub(crate) peers: Peers,
    pub(crate) now: Instant,
}

impl World {
    pub(crate) fn new(updates: impl IntoIterator<Item = Update>) -> Self {
        let mut index = Index::default();
        for update in updates {
            index.update(update);
        }
        let now = Instant::now();
        let mut world = Self {
            index,
            peers: Peers::new("n1", GRACE),
            now,
        };
        world.switch_to("n1");
        world
    }

    /// Switches to the view of the speaker on another node.
    pub(crate) fn switch_to(&mut self, local_node: &str) {
        self.peers = Peers::new(local_node, GRACE);
        for node in self.index.nodes.keys() {
            self.peers.update(self.now, &self.index, node);
        }
    }

    /// Applies a change.
    pub(crate) fn update(&mut self, update: Update) {
        if let Some(node) = self.index.update(update).peer {
            self.peers.update(self.now, &self.index, &node);
        }
    }

    /// The nodes as candidates.
    pub(crate) fn nodes(&self, ignore_exclude_label: bool) -> NodeTable {
        let mut nodes = NodeTable::new(ignore_exclude_label);
        nodes.rebuild(&self.index, &self.peers);
        nodes
    }

    /// Advances the clock.
    pub(crate) fn advance(&mut self, time: Duration) {
        self.now += time;
        self.peers.handle_timeout(self.now);
    }
}
