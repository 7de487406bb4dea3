//! Tenants: users who may only edit Services, the controller that answers them, and the operator's observer of both. Their
//! random numbers are their own, so that a run with tenants differs from one without only by what they do.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::Service;
use lb_crds::ServiceL2Status;
use lb_runtime::ObjectKey;
use lb_runtime::watch::Change;
use serde_json::json;

use super::cluster::{Rng, at};
use crate::upgrade::observer::{Observation, ServiceObserver};

#[derive(Clone)]
struct SimService {
    address: u64,
    /// Pool that it requests; the address follows later.
    pool: u64,
    assigned_pool: u64,
    node: String,
    foreign: bool,
    unanswered: bool,
}

pub(super) struct Tenants {
    rng: Rng,
    services: BTreeMap<u64, SimService>,
    next: u64,
    observer: ServiceObserver,
    /// Whether the observer sees an address before the edit that led to it.
    reordered: Vec<(u64, i64)>,
}

impl Tenants {
    pub(super) fn new(seed: u64) -> Self {
        let mut tenants = Self {
            rng: Rng(seed.wrapping_mul(0x2545_f491_4f6c_dd1d) | 1),
            services: BTreeMap::new(),
            next: 1,
            observer: ServiceObserver::default(),
            reordered: Vec::new(),
        };
        tenants.restart_observer(0);
        tenants
    }

    pub(super) fn observer(&self) -> &ServiceObserver {
        &self.observer
    }

    pub(super) fn set_baseline(&mut self) {
        self.observer.set_baseline();
    }

    /// A new observer, which lists everything.
    pub(super) fn restart_observer(&mut self, now: i64) {
        self.observer = ServiceObserver::new(None);
        for number in Vec::from_iter(self.services.keys().copied()) {
            self.publish(number, now);
        }
        for listed in [
            Observation::Service(Change::Synced),
            Observation::Announced(Change::Synced),
            Observation::Pool(Change::Synced),
            Observation::Advertisement(Change::Synced),
            Observation::Namespace(Change::Synced),
        ] {
            self.observer.handle(listed, at(now));
        }
    }

    pub(super) fn add_service(&mut self, node: &str, now: i64) {
        let number = self.next;
        self.next += 1;
        let service = SimService {
            address: number,
            pool: 0,
            assigned_pool: 0,
            node: node.to_owned(),
            foreign: false,
            unanswered: false,
        };
        self.services.insert(number, service);
        self.publish(number, now);
    }

    /// Other nodes verify the addresses of these nodes.
    pub(super) fn verify(&mut self, unanswered: &BTreeSet<String>, now: i64) {
        let changed: Vec<_> = self
            .services
            .iter_mut()
            .filter_map(|(number, service)| {
                let before = service.unanswered;
                service.unanswered = unanswered.contains(&service.node);
                (before != service.unanswered).then_some(*number)
            })
            .collect();
        for number in changed {
            self.publish(number, now);
        }
    }

    /// One random action of a tenant, and the controller's answers to earlier ones.
    pub(super) fn act(&mut self, nodes: &[String], now: i64) {
        let due: Vec<_> = self
            .services
            .iter()
            .filter(|(_, service)| service.pool != service.assigned_pool)
            .map(|(number, _)| *number)
            .collect();
        for number in due {
            if self.rng.one_in(2) {
                let next = self.next;
                self.next += 1;
                if let Some(service) = self.services.get_mut(&number) {
                    service.assigned_pool = service.pool;
                    service.address = next;
                }
                self.publish(number, now);
            }
        }
        let late = std::mem::take(&mut self.reordered);
        for (number, due) in late {
            if now >= due {
                self.publish(number, now);
            } else {
                self.reordered.push((number, due));
            }
        }
        let node = nodes[usize::try_from(self.rng.below(1000)).unwrap() % nodes.len()].clone();
        let numbers = Vec::from_iter(self.services.keys().copied());
        let number = numbers
            .get(usize::try_from(self.rng.below(1000)).unwrap() % numbers.len().max(1))
            .copied();
        match (self.rng.below(6), number) {
            (0, _) => self.add_service(&node, now),
            (1, Some(number)) => {
                self.services.remove(&number);
                let key = ObjectKey::new("ns", number.to_string());
                self.observer
                    .handle(Observation::Service(Change::Delete(key.clone())), at(now));
                self.observer
                    .handle(Observation::Announced(Change::Delete(key)), at(now));
            }
            (2, Some(number)) => {
                if let Some(service) = self.services.get_mut(&number) {
                    service.pool += 1;
                }
                self.publish(number, now);
            }
            (3, Some(number)) => {
                // The address is observed before the edit, which arrives with the next event.
                let next = self.next;
                self.next += 1;
                if let Some(service) = self.services.get_mut(&number) {
                    service.address = next;
                }
                self.publish(number, now);
                if let Some(service) = self.services.get_mut(&number) {
                    service.pool += 1;
                    service.assigned_pool = service.pool;
                }
                self.reordered.push((number, now + 2));
            }
            (4, Some(number)) => {
                // It requests an address that a host outside of the cluster has.
                if let Some(service) = self.services.get_mut(&number) {
                    (service.foreign, service.pool) = (true, service.pool + 1);
                }
                self.publish(number, now);
            }
            _ => {
                if let Some(service) = number.and_then(|number| self.services.get_mut(&number)) {
                    service.node = node;
                    service.pool += 1;
                }
            }
        }
    }

    fn publish(&mut self, number: u64, now: i64) {
        let Some(sim) = self.services.get(&number) else {
            return;
        };
        let name = number.to_string();
        let address = format!(
            "10.{}.{}.{}",
            sim.address >> 16 & 255,
            sim.address >> 8 & 255,
            sim.address & 255
        );
        let service: Service = serde_json::from_value(json!({
            "metadata": {"name": name, "namespace": "ns", "uid": name, "annotations": {
                "metallb.io/address-pool": sim.pool.to_string(),
                "metallb.io/ip-allocated-from-pool": sim.assigned_pool.to_string(),
            }},
            "spec": {"type": "LoadBalancer"},
            "status": {"loadBalancer": {"ingress": [{"ip": address}]}},
        }))
        .unwrap();
        let verified = if sim.unanswered || sim.foreign {
            "False"
        } else {
            "True"
        };
        let status: ServiceL2Status = serde_json::from_value(json!({
            "metadata": {"name": name, "namespace": "ns"},
            "spec": {},
            "status": {
                "node": sim.node, "serviceName": name, "serviceNamespace": "ns", "address": address,
                "conflictingMAC": sim.foreign.then_some("02:00:00:00:00:05"),
                "conditions": [{
                    "type": "Verified", "status": verified, "reason": "NoReply",
                    "message": format!("{} does not reply", sim.node), "lastTransitionTime": "1999-01-01T00:00:00Z",
                }],
            },
        }))
        .unwrap();
        self.observer
            .handle(Observation::Service(Change::Apply(service)), at(now));
        self.observer
            .handle(Observation::Announced(Change::Apply(status)), at(now));
    }
}
