//! Observes nodes, addresses of Services and their ServiceL2Status, for the health checks of an upgrade. Pure.
//!
//! It exists only during an upgrade: otherwise the operator does not need to hold ten thousand Services in memory.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, Service};
use lb_crds::ServiceL2Status;
use lb_crds::condition::find_condition;
use lb_crds::names::{ADDRESS_CONFLICT, ADDRESS_POOL, ALLOW_SHARED_IP, LOAD_BALANCER_IPS, VERIFIED};
use lb_runtime::ObjectKey;
use lb_runtime::watch::Change;
use serde_json::json;

use crate::desired::render::digest;
use crate::upgrade::FailedVerification;

/// A change of an observed object.
#[derive(Debug)]
#[allow(
    clippy::large_enum_variant,
    reason = "an event of the watch holds it in a box"
)]
pub enum Observation {
    /// Readiness and role.
    Node(Change<Node>),
    /// Its addresses.
    Service(Change<Service>),
    /// Which node announces a Service, and whether others reach it there.
    Announced(Change<ServiceL2Status>),
}

/// The observed objects.
#[derive(Debug, Default)]
pub struct ServiceObserver {
    /// Load balancer class of the stack.
    class: Option<String>,
    nodes: BTreeMap<String, ObservedNode>,
    services: BTreeMap<ObjectKey, ObservedService>,
    announced: BTreeMap<ObjectKey, Announced>,
    listed: [bool; 3],
}

#[derive(Debug)]
struct ObservedNode {
    ready: bool,
    control_plane: bool,
}

#[derive(Debug)]
struct ObservedService {
    uid: String,
    /// Digest of the fields with which a user influences the addresses.
    spec_digest: String,
    /// The first addresses with this digest.
    initial: Vec<String>,
    /// The current addresses.
    current: Vec<String>,
}

#[derive(Debug)]
struct Announced {
    node: String,
    faults: Vec<(String, Timestamp)>,
}

impl ServiceObserver {
    /// An observer without objects. `class` is the load balancer class of the stack.
    #[must_use]
    pub fn new(class: Option<String>) -> Self {
        Self {
            class,
            ..Self::default()
        }
    }

    /// Records a change.
    pub fn handle(&mut self, observation: Observation) {
        match observation {
            Observation::Node(change) => match change {
                Change::Apply(node) => self.node(node),
                Change::Delete(key) | Change::Invalid { key, .. } => {
                    self.nodes.remove(key.name());
                }
                Change::Synced => self.listed[0] = true,
                Change::Listing => {}
            },
            Observation::Service(change) => match change {
                Change::Apply(service) => self.service(service),
                Change::Delete(key) | Change::Invalid { key, .. } => {
                    self.services.remove(&key);
                }
                Change::Synced => self.listed[1] = true,
                Change::Listing => {}
            },
            Observation::Announced(change) => match change {
                Change::Apply(status) => self.announcement(status),
                Change::Delete(key) | Change::Invalid { key, .. } => {
                    self.announced.remove(&key);
                }
                Change::Synced => self.listed[2] = true,
                Change::Listing => {}
            },
        }
    }

    fn node(&mut self, node: Node) {
        let labels = node.metadata.labels.unwrap_or_default();
        let conditions = node
            .status
            .and_then(|status| status.conditions)
            .unwrap_or_default();
        let facts = ObservedNode {
            ready: conditions
                .iter()
                .any(|condition| condition.type_ == "Ready" && condition.status == "True"),
            control_plane: ["control-plane", "master"]
                .iter()
                .any(|role| labels.contains_key(&format!("node-role.kubernetes.io/{role}"))),
        };
        self.nodes.insert(node.metadata.name.unwrap_or_default(), facts);
    }

    fn service(&mut self, service: Service) {
        let key = ObjectKey::of(&service);
        let spec = service.spec.unwrap_or_default();
        let is_ours = spec.type_.as_deref() == Some("LoadBalancer") && spec.load_balancer_class == self.class;
        if !is_ours {
            self.services.remove(&key);
            return;
        }
        let annotations = service.metadata.annotations.unwrap_or_default();
        let spec_digestes = [ADDRESS_POOL, LOAD_BALANCER_IPS, ALLOW_SHARED_IP]
            .map(|spec_digest| spec_digest.value(&annotations));
        let spec_digest = digest(&json!([
            spec_digestes,
            spec.load_balancer_ip,
            spec.ip_families,
            spec.ip_family_policy,
            spec.ports,
            spec.external_traffic_policy,
            spec.selector,
            service.metadata.labels,
        ]));
        let ingress = service
            .status
            .and_then(|status| status.load_balancer)
            .and_then(|status| status.ingress)
            .unwrap_or_default();
        let has: Vec<_> = ingress.into_iter().filter_map(|entry| entry.ip).collect();
        let uid = service.metadata.uid.unwrap_or_default();
        match self.services.get_mut(&key) {
            Some(known)
                if known.uid == uid && known.spec_digest == spec_digest && !known.initial.is_empty() =>
            {
                known.current = has
            }
            _ => {
                let facts = ObservedService {
                    uid,
                    spec_digest,
                    initial: has.clone(),
                    current: has,
                };
                self.services.insert(key, facts);
            }
        }
    }

    fn announcement(&mut self, status: ServiceL2Status) {
        let key = ObjectKey::of(&status);
        let says = status.status.unwrap_or_default();
        if says.node.is_empty() {
            self.announced.remove(&key);
            return;
        }
        let service = format!("Service {}/{}", says.service_namespace, says.service_name);
        let failed_check = |type_, wrong| {
            let condition = find_condition(&says.conditions, type_)?;
            let since = condition.last_transition_time.0;
            (condition.status == wrong).then(|| (format!("{service}: {}", condition.message), since))
        };
        let faults = [
            failed_check(VERIFIED, "False"),
            failed_check(ADDRESS_CONFLICT, "True"),
        ];
        let announced = Announced {
            faults: faults.into_iter().flatten().collect(),
            node: says.node,
        };
        self.announced.insert(key, announced);
    }

    /// Hash of the addresses of all Services; `None` until all objects are listed.
    #[must_use]
    pub fn address_hash(&self) -> Option<String> {
        self.listed.iter().all(|listed| *listed).then(|| {
            let all: Vec<_> = self
                .services
                .iter()
                .filter(|(_, service)| !service.current.is_empty())
                .map(|(key, service)| json!([key.to_string(), service.current]))
                .collect();
            digest(&json!(all))
        })
    }

    /// Services whose addresses changed although no field that influences them did.
    #[must_use]
    pub fn changed_addresses(&self) -> Vec<String> {
        let moved = self
            .services
            .iter()
            .filter(|(_, service)| service.initial != service.current);
        let describe = |(key, service): (&ObjectKey, &ObservedService)| {
            let has = if service.current.is_empty() {
                "no address".to_owned()
            } else {
                service.current.join(" and ")
            };
            format!(
                "Service {key} changed from {} to {has}",
                service.initial.join(" and ")
            )
        };
        moved.map(describe).collect()
    }

    /// Addresses that failed verification or have a conflict.
    #[must_use]
    pub fn failed_verifications(&self) -> Vec<FailedVerification> {
        let faults = self.announced.values().flat_map(|announced| {
            announced
                .faults
                .iter()
                .map(|(message, since)| FailedVerification {
                    node: announced.node.clone(),
                    message: message.clone(),
                    since: *since,
                })
        });
        faults.collect()
    }

    /// Number of Services that each node announces.
    #[must_use]
    pub fn announced_services(&self) -> BTreeMap<&str, usize> {
        let mut owners = BTreeMap::new();
        for announced in self.announced.values() {
            *owners.entry(announced.node.as_str()).or_default() += 1;
        }
        owners
    }

    /// Nodes that are not Ready.
    #[must_use]
    pub fn unreachable_nodes(&self) -> BTreeSet<&str> {
        let lost = self.nodes.iter().filter(|(_, node)| !node.ready);
        lost.map(|(name, _)| name.as_str()).collect()
    }

    /// Whether a node belongs to the control plane.
    #[must_use]
    pub fn is_control_plane(&self, node: &str) -> bool {
        self.nodes.get(node).is_some_and(|node| node.control_plane)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mk_service(name: &str, address: &str, pool: &str) -> Service {
        serde_json::from_value(json!({
            "metadata": {"name": name, "namespace": "ns", "uid": name, "annotations": {"metallb.io/address-pool": pool}},
            "spec": {"type": "LoadBalancer"},
            "status": {"loadBalancer": {"ingress": if address.is_empty() { json!([]) } else { json!([{"ip": address}]) }}},
        }))
        .unwrap()
    }

    fn set_service(observer: &mut ServiceObserver, name: &str, address: &str, pool: &str) {
        observer.handle(Observation::Service(Change::Apply(mk_service(
            name, address, pool,
        ))));
    }

    #[test]
    fn reports_only_address_changes_nobody_requested() {
        let mut observer = ServiceObserver::new(None);
        set_service(&mut observer, "a", "10.0.0.1", "x");
        set_service(&mut observer, "b", "", "x");
        set_service(&mut observer, "b", "10.0.0.2", "x");
        assert_eq!(
            observer.changed_addresses(),
            Vec::<String>::new(),
            "a first address is not a change"
        );
        set_service(&mut observer, "a", "10.0.0.9", "y");
        assert_eq!(
            observer.changed_addresses(),
            Vec::<String>::new(),
            "another pool was asked for"
        );
        set_service(&mut observer, "a", "", "y");
        set_service(&mut observer, "b", "10.0.0.3", "x");
        assert_eq!(
            observer.changed_addresses(),
            [
                "Service ns/a changed from 10.0.0.9 to no address",
                "Service ns/b changed from 10.0.0.2 to 10.0.0.3"
            ]
        );
        set_service(&mut observer, "a", "10.0.0.9", "y");
        observer.handle(Observation::Service(Change::Delete(ObjectKey::new("ns", "b"))));
        assert_eq!(
            observer.changed_addresses(),
            Vec::<String>::new(),
            "the first has its address again, the other is deleted"
        );
    }

    #[test]
    fn address_hash_needs_complete_lists() {
        let mut observer = ServiceObserver::new(None);
        set_service(&mut observer, "a", "10.0.0.1", "x");
        observer.handle(Observation::Service(Change::Synced));
        observer.handle(Observation::Node(Change::Synced));
        assert_eq!(observer.address_hash(), None);
        observer.handle(Observation::Announced(Change::Synced));
        let before = observer.address_hash().unwrap();
        set_service(&mut observer, "a", "10.0.0.2", "x");
        assert_ne!(observer.address_hash().unwrap(), before);
    }

    #[test]
    fn failed_verification_names_service_and_node() {
        let mut observer = ServiceObserver::new(None);
        let status: ServiceL2Status = serde_json::from_value(json!({
            "metadata": {"name": "l2-a", "namespace": "metallb-system"},
            "spec": {},
            "status": {"node": "n1", "serviceName": "web", "serviceNamespace": "ns", "conditions": [
                {"type": "Verified", "status": "False", "reason": "NoReply", "message": "node n2 asked",
                 "lastTransitionTime": "2026-01-01T00:00:00Z"},
            ]},
        }))
        .unwrap();
        observer.handle(Observation::Announced(Change::Apply(status)));
        let failed = observer.failed_verifications();
        assert_eq!(failed.first().unwrap().message, "Service ns/web: node n2 asked");
        assert_eq!(failed.first().unwrap().node, "n1");
        assert_eq!(observer.announced_services().get("n1"), Some(&1));
    }
}
