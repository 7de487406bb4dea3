//! Services that hold addresses of the stack, and Services that speakers still announce. Pure.
//!
//! Exists only while the stack is being deleted, because a cluster may have ten thousand Services. Keeps the name and
//! the version of each.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::Service;
use lb_crds::ServiceL2Status;
use lb_crds::names::{DEPRECATED_IP_ALLOCATED_FROM_POOL, IP_ALLOCATED_FROM_POOL};
use lb_runtime::ObjectKey;
use lb_runtime::watch::Change;

/// A change of an object that a deletion waits for.
#[derive(Debug)]
#[allow(
    clippy::large_enum_variant,
    reason = "an event of the watch holds it in a box"
)]
pub enum BlockerEvent {
    /// A Service.
    Service(Change<Service>),
    /// A speaker's report about a Service.
    Announced(Change<ServiceL2Status>),
}

/// The Services that a deletion waits for.
#[derive(Debug, Default)]
pub struct ServiceBlockers {
    class: Option<String>,
    /// Services with an address of the stack, and their resource versions.
    services: BTreeMap<ObjectKey, String>,
    announced: BTreeSet<ObjectKey>,
    services_listed: bool,
    announced_listed: bool,
}

impl ServiceBlockers {
    /// Empty. `class` is the `spec.loadBalancerClass` of the Services that the stack serves.
    #[must_use]
    pub fn new(class: Option<String>) -> Self {
        Self {
            class,
            ..Self::default()
        }
    }

    /// Applies a change.
    pub fn handle(&mut self, event: BlockerEvent) {
        match event {
            BlockerEvent::Service(change) => match change {
                Change::Apply(service) => self.service(service),
                Change::Delete(key) | Change::Invalid { key, .. } => {
                    self.services.remove(&key);
                }
                Change::Synced => self.services_listed = true,
                Change::Listing => {}
            },
            BlockerEvent::Announced(change) => match change {
                Change::Apply(status) => {
                    self.announced.insert(ObjectKey::of(&status));
                }
                Change::Delete(key) | Change::Invalid { key, .. } => {
                    self.announced.remove(&key);
                }
                Change::Synced => self.announced_listed = true,
                Change::Listing => {}
            },
        }
    }

    fn service(&mut self, service: Service) {
        let key = ObjectKey::of(&service);
        if self.holds_our_address(&service) {
            let version = service.metadata.resource_version.unwrap_or_default();
            self.services.insert(key, version);
        } else {
            self.services.remove(&key);
        }
    }

    /// Whether the Service has the class, an address, and the annotation that the controller writes with each address.
    /// A Service with an address of another origin lacks the annotation; it neither blocks a deletion nor is changed by
    /// it.
    fn holds_our_address(&self, service: &Service) -> bool {
        let spec = service.spec.as_ref();
        let annotations = service.metadata.annotations.as_ref();
        let ingress = service
            .status
            .as_ref()
            .and_then(|status| status.load_balancer.as_ref())
            .and_then(|balancer| balancer.ingress.as_ref());
        spec.is_some_and(|spec| {
            spec.type_.as_deref() == Some("LoadBalancer") && spec.load_balancer_class == self.class
        }) && ingress.is_some_and(|ingress| !ingress.is_empty())
            && annotations.is_some_and(|annotations| {
                [IP_ALLOCATED_FROM_POOL, DEPRECATED_IP_ALLOCATED_FROM_POOL]
                    .iter()
                    .any(|key| annotations.contains_key(*key))
            })
    }

    /// The Services with an address of the stack, and their versions; `None` before they are listed.
    #[must_use]
    pub fn services(&self) -> Option<&BTreeMap<ObjectKey, String>> {
        self.services_listed.then_some(&self.services)
    }

    /// The addresses of a Service were removed.
    pub fn remove_service(&mut self, key: &ObjectKey) {
        self.services.remove(key);
    }

    /// How many Services the speakers report as announced; `None` before their reports are listed, which never happens
    /// if the CRD was removed.
    #[must_use]
    pub fn announced(&self) -> Option<usize> {
        self.announced_listed.then_some(self.announced.len())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn mk_service(
        name: &str,
        class: Option<&str>,
        type_: &str,
        address: Option<&str>,
        pool: bool,
    ) -> BlockerEvent {
        let annotations = if pool {
            json!({"metallb.io/ip-allocated-from-pool": "lan"})
        } else {
            json!({})
        };
        let ingress = address.map_or(Value::Null, |ip| json!([{"ip": ip}]));
        let service = serde_json::from_value(json!({
            "metadata": {"name": name, "namespace": "ns", "resourceVersion": "7", "annotations": annotations},
            "spec": {"type": type_, "loadBalancerClass": class},
            "status": {"loadBalancer": {"ingress": ingress}},
        }));
        BlockerEvent::Service(Change::Apply(service.unwrap()))
    }

    fn names(blockers: &ServiceBlockers) -> Vec<&str> {
        let services = blockers.services.keys();
        services.map(|key| key.name()).collect()
    }

    #[test]
    fn service_blocks_if_its_address_is_from_the_stack() {
        let mut blockers = ServiceBlockers::new(None);
        blockers.handle(mk_service("ours", None, "LoadBalancer", Some("10.0.0.1"), true));
        blockers.handle(mk_service("pending", None, "LoadBalancer", None, true));
        blockers.handle(mk_service(
            "another",
            Some("x.y/z"),
            "LoadBalancer",
            Some("10.0.0.2"),
            true,
        ));
        blockers.handle(mk_service("cloud", None, "LoadBalancer", Some("10.0.0.3"), false));
        blockers.handle(mk_service("plain", None, "ClusterIP", None, false));
        assert_eq!(names(&blockers), ["ours"]);
        blockers.handle(mk_service("ours", None, "ClusterIP", None, true));
        assert!(names(&blockers).is_empty(), "its type changed");
    }

    #[test]
    fn unlisted_services_are_unknown() {
        let mut blockers = ServiceBlockers::new(Some("x.y/z".to_owned()));
        blockers.handle(mk_service(
            "ours",
            Some("x.y/z"),
            "LoadBalancer",
            Some("10.0.0.1"),
            true,
        ));
        assert_eq!((blockers.services(), blockers.announced()), (None, None));
        blockers.handle(BlockerEvent::Service(Change::Synced));
        assert_eq!(blockers.services().map(BTreeMap::len), Some(1));
        assert_eq!(blockers.announced(), None, "another list");
        blockers.handle(BlockerEvent::Announced(Change::Synced));
        assert_eq!(blockers.announced(), Some(0));
        blockers.handle(BlockerEvent::Service(Change::Delete(ObjectKey::new(
            "ns", "ours",
        ))));
        assert_eq!(blockers.services().map(BTreeMap::len), Some(0));
    }
}
