//! Which Services hold addresses of the stack, and what speakers still announce. Pure.
//!
//! It is there only while the stack is being deleted: before that the operator does not need to know ten thousand Services,
//! and of each it keeps no more than its name and version.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::Service;
use lb_crds::ServiceL2Status;
use lb_crds::names::{DEPRECATED_IP_ALLOCATED_FROM_POOL, IP_ALLOCATED_FROM_POOL};
use lb_runtime::ObjectKey;
use lb_runtime::watch::Change;

/// A change of something that a deletion waits for.
#[derive(Debug)]
#[allow(
    clippy::large_enum_variant,
    reason = "an event of the watch holds it in a box"
)]
pub enum Claim {
    /// A Service.
    Service(Change<Service>),
    /// What a speaker says of one.
    Announced(Change<ServiceL2Status>),
}

/// Everything that a deletion waits for.
#[derive(Debug, Default)]
pub struct Claims {
    class: Option<String>,
    /// Services with an address of ours, and their versions.
    services: BTreeMap<ObjectKey, String>,
    announced: BTreeSet<ObjectKey>,
    services_listed: bool,
    announced_listed: bool,
}

impl Claims {
    /// One that has seen nothing yet. `class` is the class of the Services that are ours.
    #[must_use]
    pub fn new(class: Option<String>) -> Self {
        Self {
            class,
            ..Self::default()
        }
    }

    /// Takes in a change.
    pub fn see(&mut self, claim: Claim) {
        match claim {
            Claim::Service(change) => match change {
                Change::Apply(service) => self.service(service),
                Change::Delete(key) | Change::Invalid { key, .. } => {
                    self.services.remove(&key);
                }
                Change::Synced => self.services_listed = true,
                Change::Listing => {}
            },
            Claim::Announced(change) => match change {
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
        if self.is_ours(&service) {
            let version = service.metadata.resource_version.unwrap_or_default();
            self.services.insert(key, version);
        } else {
            self.services.remove(&key);
        }
    }

    /// Of the class, with an address, and with the annotation that the controller writes together with each address. A
    /// Service whose address is from elsewhere has not got that: it neither holds up a deletion nor loses anything by it.
    fn is_ours(&self, service: &Service) -> bool {
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

    /// The Services with an address of ours, and their versions; none before they are listed.
    #[must_use]
    pub fn services(&self) -> Option<&BTreeMap<ObjectKey, String>> {
        self.services_listed.then_some(&self.services)
    }

    /// A Service was written: this is how it is stored now.
    pub fn cleared(&mut self, key: &ObjectKey) {
        self.services.remove(key);
    }

    /// How many Services speakers say that they announce; none before that is listed. It never is in a cluster from which
    /// somebody has removed the kind.
    #[must_use]
    pub fn announced(&self) -> Option<usize> {
        self.announced_listed.then_some(self.announced.len())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn mk_service(name: &str, class: Option<&str>, type_: &str, address: Option<&str>, pool: bool) -> Claim {
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
        Claim::Service(Change::Apply(service.unwrap()))
    }

    fn names(claims: &Claims) -> Vec<&str> {
        let services = claims.services.keys();
        services.map(|key| key.name()).collect()
    }

    #[test]
    fn a_service_is_in_the_way_when_its_address_is_ours() {
        let mut claims = Claims::new(None);
        claims.see(mk_service("ours", None, "LoadBalancer", Some("10.0.0.1"), true));
        claims.see(mk_service("pending", None, "LoadBalancer", None, true));
        claims.see(mk_service(
            "another",
            Some("x.y/z"),
            "LoadBalancer",
            Some("10.0.0.2"),
            true,
        ));
        claims.see(mk_service("cloud", None, "LoadBalancer", Some("10.0.0.3"), false));
        claims.see(mk_service("plain", None, "ClusterIP", None, false));
        assert_eq!(names(&claims), ["ours"]);
        claims.see(mk_service("ours", None, "ClusterIP", None, true));
        assert!(names(&claims).is_empty(), "it is of another type now");
    }

    #[test]
    fn what_is_not_listed_is_not_known() {
        let mut claims = Claims::new(Some("x.y/z".to_owned()));
        claims.see(mk_service(
            "ours",
            Some("x.y/z"),
            "LoadBalancer",
            Some("10.0.0.1"),
            true,
        ));
        assert_eq!((claims.services(), claims.announced()), (None, None));
        claims.see(Claim::Service(Change::Synced));
        assert_eq!(claims.services().map(BTreeMap::len), Some(1));
        assert_eq!(claims.announced(), None, "another list");
        claims.see(Claim::Announced(Change::Synced));
        assert_eq!(claims.announced(), Some(0));
        claims.see(Claim::Service(Change::Delete(ObjectKey::new("ns", "ours"))));
        assert_eq!(claims.services().map(BTreeMap::len), Some(0));
    }
}
