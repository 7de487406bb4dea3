//! Observes Services, their announcements and the configuration of addresses, for the health checks of an upgrade. Pure.
//!
//! It exists only during an upgrade: otherwise the operator does not need to hold ten thousand Services in memory.
//!
//! A health check may only blame the upgrade. So the observer keeps a baseline of what was there before the upgrade
//! changed anything, and the first edit by a user excludes a Service, the addresses that it has or had, and with an edit
//! of a pool or namespace all addresses. Evidence counts after [`SETTLE_SECONDS`], because the edit that explains it may
//! arrive later, on another watch. All times are times of observation: no other clock is compared with the operator's.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Namespace, Service};
use lb_crds::condition::find_condition;
use lb_crds::names::{
    ADDRESS_CONFLICT, ADDRESS_POOL, ALLOW_SHARED_IP, IP_ALLOCATED_FROM_POOL, LOAD_BALANCER_IPS, VERIFIED,
};
use lb_crds::selector::{any_matches, matches};
use lb_crds::{IPAddressPool, L2Advertisement, L2AdvertisementSpec, ServiceL2Status};
use lb_runtime::ObjectKey;
use lb_runtime::watch::Change;
use serde_json::json;

use super::state::seconds;
use crate::desired::render::digest;
use crate::observe::nodes::ClusterNode;
use crate::upgrade::FailedVerification;

/// Seconds for which evidence must stand before it counts.
pub const SETTLE_SECONDS: i64 = 5;

/// A change of an observed object.
#[derive(Debug)]
#[allow(
    clippy::large_enum_variant,
    reason = "an event of the watch holds it in a box"
)]
pub enum Observation {
    /// Its addresses.
    Service(Change<Service>),
    /// Which node announces a Service, and whether others reach it there.
    Announced(Change<ServiceL2Status>),
    /// Addresses that may be assigned.
    Pool(Change<IPAddressPool>),
    /// Nodes that may announce a pool.
    Advertisement(Change<L2Advertisement>),
    /// Labels by which pools select namespaces.
    Namespace(Change<Namespace>),
}

/// The observed objects.
#[derive(Debug, Default)]
pub struct ServiceObserver {
    /// Load balancer class of the stack.
    class: Option<String>,
    services: BTreeMap<ObjectKey, ObservedService>,
    /// By the object's key.
    announced: BTreeMap<ObjectKey, Announced>,
    advertisements: BTreeMap<ObjectKey, L2AdvertisementSpec>,
    /// Labels of the pools.
    pools: BTreeMap<String, BTreeMap<String, String>>,
    /// Digests of pools and namespaces.
    configuration: BTreeMap<(&'static str, ObjectKey), String>,
    /// Whether the baseline is one of before the upgrade changed anything.
    has_baseline: bool,
    /// Whether one of them changed after the baseline.
    reconfigured: bool,
    /// Addresses of Services that were created, edited or deleted after the baseline, or are in conflict.
    touched: BTreeSet<String>,
    /// Addresses that were answered in the baseline.
    answered: BTreeSet<String>,
    listed: [bool; 5],
}

#[derive(Debug)]
struct ObservedService {
    uid: String,
    /// Digest of the fields with which a user influences the addresses.
    spec_digest: String,
    pool: Option<String>,
    /// Whether it was created or edited while it was observed, or just before and not answered yet.
    edited: bool,
    /// The addresses in the baseline.
    baseline: Option<Vec<String>>,
    current: Vec<String>,
    /// Since when the addresses differ from the baseline.
    changed_since: Option<Timestamp>,
}

#[derive(Debug)]
struct Announced {
    service: ObjectKey,
    node: String,
    address: String,
    /// Whether another node received a reply, and no host outside of the cluster replied.
    answered: bool,
    /// The node that verified it.
    verified_by: String,
    message: String,
    /// Since when it is not answered.
    failing_since: Option<Timestamp>,
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

    /// Records a change that was observed at `now`.
    pub fn handle(&mut self, observation: Observation, now: Timestamp) {
        let is_complete = self.is_complete();
        match observation {
            Observation::Service(change) => match change {
                Change::Apply(service) => self.service(service, now),
                Change::Delete(key) | Change::Invalid { key, .. } => self.forget_service(&key),
                Change::Synced => self.listed[0] = true,
                Change::Listing => {}
            },
            Observation::Announced(change) => match change {
                Change::Apply(status) => self.announcement(status, now),
                Change::Delete(key) | Change::Invalid { key, .. } => {
                    self.announced.remove(&key);
                }
                Change::Synced => self.listed[1] = true,
                Change::Listing => {}
            },
            Observation::Pool(change) => match change {
                Change::Apply(pool) => {
                    let labels = pool.metadata.labels.clone().unwrap_or_default();
                    let annotations = pool.metadata.annotations.clone();
                    let key = ObjectKey::of(&pool);
                    self.pools.insert(key.name().to_owned(), labels.clone());
                    self.configure(
                        "pool",
                        key,
                        Some(digest(&json!([pool.spec, labels, annotations]))),
                    );
                }
                Change::Delete(key) | Change::Invalid { key, .. } => {
                    self.pools.remove(key.name());
                    self.configure("pool", key, None);
                }
                Change::Synced => self.listed[2] = true,
                Change::Listing => {}
            },
            Observation::Advertisement(change) => match change {
                Change::Apply(advertisement) => {
                    self.advertisements
                        .insert(ObjectKey::of(&advertisement), advertisement.spec);
                }
                Change::Delete(key) | Change::Invalid { key, .. } => {
                    self.advertisements.remove(&key);
                }
                Change::Synced => self.listed[3] = true,
                Change::Listing => {}
            },
            Observation::Namespace(change) => match change {
                Change::Apply(namespace) => {
                    let labels = digest(&json!(namespace.metadata.labels));
                    self.configure("namespace", ObjectKey::of(&namespace), Some(labels));
                }
                Change::Delete(key) | Change::Invalid { key, .. } => self.configure("namespace", key, None),
                Change::Synced => self.listed[4] = true,
                Change::Listing => {}
            },
        }
        if !is_complete && self.is_complete() {
            self.take_baseline();
        }
    }

    /// The present state becomes the baseline: the upgrade has not changed anything yet. Whatever users have edited since
    /// the observation began stays excluded, because the controller may answer later.
    pub fn set_baseline(&mut self) {
        self.has_baseline = true;
        self.take_baseline();
    }

    fn take_baseline(&mut self) {
        for service in self.services.values_mut().filter(|service| !service.edited) {
            if service.baseline.as_ref() != Some(&service.current) {
                service.baseline = Some(service.current.clone());
            }
            service.changed_since = None;
        }
        let answered = self.announced.values().filter(|announced| announced.answered);
        self.answered = answered.map(|announced| announced.address.clone()).collect();
    }

    fn configure(&mut self, kind: &'static str, key: ObjectKey, digest: Option<String>) {
        let id = (kind, key);
        let before = match &digest {
            Some(digest) => self.configuration.insert(id, digest.clone()),
            None => self.configuration.remove(&id),
        };
        // A namespace that is created or deleted changes no existing Service of another one.
        self.reconfigured |= self.is_complete() && before != digest && (kind == "pool" || before.is_some());
    }

    fn service(&mut self, service: Service, now: Timestamp) {
        let key = ObjectKey::of(&service);
        let spec = service.spec.unwrap_or_default();
        let is_ours = spec.type_.as_deref() == Some("LoadBalancer") && spec.load_balancer_class == self.class;
        if !is_ours {
            self.forget_service(&key);
            return;
        }
        let annotations = service.metadata.annotations.unwrap_or_default();
        let requests =
            [ADDRESS_POOL, LOAD_BALANCER_IPS, ALLOW_SHARED_IP].map(|request| request.value(&annotations));
        let spec_digest = digest(&json!([
            requests,
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
        let current: Vec<_> = ingress.into_iter().filter_map(|entry| entry.ip).collect();
        let uid = service.metadata.uid.unwrap_or_default();
        let known = self.services.remove(&key);
        if let Some(before) = known.as_ref().filter(|known| known.spec_digest != spec_digest) {
            self.touched.extend(before.current.iter().cloned());
        }
        let same = known.filter(|known| known.uid == uid && known.spec_digest == spec_digest);
        let edited = if self.is_complete() {
            same.as_ref().is_none_or(|known| known.edited)
        } else {
            !is_answered(&annotations, spec.load_balancer_ip.as_deref(), &current)
        };
        let baseline = same
            .as_ref()
            .and_then(|known| known.baseline.clone())
            .filter(|_| !edited);
        if edited {
            self.touched.extend(current.iter().cloned());
        }
        let changed = baseline.as_ref().is_some_and(|baseline| *baseline != current);
        let changed_since = same.and_then(|known| known.changed_since).or(Some(now));
        let facts = ObservedService {
            uid,
            spec_digest,
            edited,
            pool: annotations.get(IP_ALLOCATED_FROM_POOL).cloned(),
            baseline,
            current,
            changed_since: changed_since.filter(|_| changed),
        };
        self.services.insert(key, facts);
    }

    fn forget_service(&mut self, key: &ObjectKey) {
        if let Some(gone) = self.services.remove(key) {
            self.touched.extend(gone.current);
            self.touched.extend(gone.baseline.into_iter().flatten());
        }
    }

    fn announcement(&mut self, status: ServiceL2Status, now: Timestamp) {
        let key = ObjectKey::of(&status);
        let status = status.status.unwrap_or_default();
        // A record without a node says why nobody announces the address.
        if status.node.is_empty() {
            self.announced.remove(&key);
            return;
        }
        let condition = |type_| find_condition(&status.conditions, type_);
        let verified = condition(VERIFIED);
        let conflict = status.conflicting_mac.is_some()
            || condition(ADDRESS_CONFLICT).is_some_and(|condition| condition.status == "True");
        if conflict {
            self.touched.insert(status.address.clone());
        }
        let fails = verified.is_some_and(|condition| condition.status == "False");
        let before = self.announced.remove(&key);
        let before = before.filter(|before| before.address == status.address);
        let failing_since = before.and_then(|before| before.failing_since);
        let announced = Announced {
            service: ObjectKey::new(&status.service_namespace, &status.service_name),
            answered: !conflict && verified.is_some_and(|condition| condition.status == "True"),
            message: verified.map_or_else(String::new, |condition| condition.message.clone()),
            failing_since: failing_since.or(Some(now)).filter(|_| fails),
            node: status.node,
            verified_by: status.verified_by.unwrap_or_default(),
            address: status.address,
        };
        self.announced.insert(key, announced);
    }

    /// Whether all objects are listed.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.listed.iter().all(|listed| *listed)
    }

    /// Services whose addresses changed although neither they nor anything that influences them was edited.
    #[must_use]
    pub fn changed_addresses(&self, now: Timestamp) -> Vec<String> {
        let moved = self.services.iter().filter_map(|(key, service)| {
            let baseline = service
                .baseline
                .as_ref()
                .filter(|baseline| !baseline.is_empty())?;
            let since = service.changed_since?;
            let explained = !self.has_baseline
                || self.reconfigured
                || baseline.iter().any(|address| self.touched.contains(address));
            let has = if service.current.is_empty() {
                "no address".to_owned()
            } else {
                service.current.join(" and ")
            };
            (!explained && seconds(since, now) >= SETTLE_SECONDS)
                .then(|| format!("Service {key} changed from {} to {has}", baseline.join(" and ")))
        });
        moved.collect()
    }

    /// Addresses that were answered in the baseline and are not answered now, although no user changed anything and no
    /// host outside of the cluster answers.
    #[must_use]
    pub fn failed_verifications(&self, now: Timestamp) -> Vec<FailedVerification> {
        let failed = self.announced.values().filter_map(|announced| {
            let since = announced.failing_since?;
            let service = self.services.get(&announced.service)?;
            let address = &announced.address;
            let unchanged = service.baseline.is_some() && !self.touched.contains(address);
            (self.answered.contains(address) && unchanged && seconds(since, now) >= SETTLE_SECONDS).then(
                || FailedVerification {
                    node: announced.node.clone(),
                    verified_by: announced.verified_by.clone(),
                    message: format!("Service {}: {}", announced.service, announced.message),
                    since,
                },
            )
        });
        failed.collect()
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

    /// Announced addresses that none of `nodes` may announce: one clause each. Endpoints of Services with
    /// externalTrafficPolicy Local are not considered, because the owner of a Service must not block an upgrade.
    #[must_use]
    pub fn addresses_without_node(&self, nodes: &[&ClusterNode]) -> Vec<String> {
        // The answer depends on the pool alone.
        let mut pools: BTreeMap<Option<&str>, bool> = BTreeMap::new();
        let at_risk = self.announced.values().filter(|announced| {
            let service = self.services.get(&announced.service);
            let pool = service.and_then(|service| service.pool.as_deref());
            !*pools
                .entry(pool)
                .or_insert_with(|| nodes.iter().any(|node| self.may_announce(pool, node)))
        });
        let describe = |announced: &Announced| {
            let Announced {
                service,
                node,
                address,
                ..
            } = announced;
            format!("{address} of Service {service}, announced by {node}")
        };
        at_risk.map(describe).collect()
    }

    fn may_announce(&self, pool: Option<&str>, node: &ClusterNode) -> bool {
        self.advertisements.values().any(|advertisement| {
            let (names, selectors) = (
                &advertisement.ip_address_pools,
                &advertisement.ip_address_pool_selectors,
            );
            let of_pool = match pool {
                Some(pool) => {
                    let labels = self.pools.get(pool);
                    (names.is_empty() && selectors.is_empty())
                        || names.iter().any(|name| name == pool)
                        || labels
                            .is_some_and(|labels| selectors.iter().any(|selector| matches(selector, labels)))
                }
                // The pool is unknown: any advertisement may be the one.
                None => true,
            };
            of_pool && any_matches(&advertisement.node_selectors, node.labels())
        })
    }
}

/// Whether the controller has assigned the pool or the addresses that a Service requests.
fn is_answered(annotations: &BTreeMap<String, String>, address: Option<&str>, current: &[String]) -> bool {
    let pool = ADDRESS_POOL.value(annotations);
    let requested = LOAD_BALANCER_IPS
        .value(annotations)
        .or(address)
        .filter(|text| !text.is_empty());
    let mut requested = requested.into_iter().flat_map(|text| text.split(','));
    pool.is_none_or(|pool| {
        annotations
            .get(IP_ALLOCATED_FROM_POOL)
            .is_some_and(|from| from == pool)
    }) && requested.all(|address| current.iter().any(|assigned| assigned == address.trim()))
}

#[cfg(test)]
#[path = "observer_tests.rs"]
mod tests;
