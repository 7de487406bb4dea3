//! The controller's copy of the cluster, fed by the watches. Objects are reduced to small structs at once.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use k8s_openapi::api::core::v1;
use lb_crds::{IPAddressPool, L2Advertisement};
use lb_ipam::{Pool, PoolCandidate};
use lb_runtime::ObjectKey;
use lb_runtime::watch::Change;

use crate::announcements::Announcements;
use crate::objects::{CachedAdvertisement, CachedConfigurationState, CachedPool};
use crate::service::{CachedService, Role};
use crate::service_allocation::{AllocationRules, CompactLabels};

/// Services, pools and advertisements by key.
#[derive(Debug, Default)]
pub struct Index {
    class: Option<String>,
    /// Services that are or were load balancers of our class.
    pub services: BTreeMap<ObjectKey, CachedService>,
    /// Pools by name, valid or not.
    pub pools: BTreeMap<String, CachedPool>,
    /// L2Advertisements by key.
    pub advertisements: BTreeMap<ObjectKey, CachedAdvertisement>,
    /// The ConfigurationState of the controller.
    pub configuration_state: CachedConfigurationState,
    /// The content of the ServiceL2Statuses.
    pub announcements: Announcements,
    /// Addresses by node.
    nodes: BTreeMap<String, BTreeSet<IpAddr>>,
    /// Labels by namespace.
    namespaces: BTreeMap<String, CompactLabels>,
    /// Services of the list that the watch is delivering.
    listing: Option<BTreeSet<ObjectKey>>,
    /// The newest version of a Service that the watch has delivered.
    watched_version: u64,
    /// The newest version of a Service that a write has returned.
    written_version: u64,
}

/// A Service to decide about.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ServiceChange {
    /// The Service.
    pub key: ObjectKey,
    /// Whether it replaced another one of the same name, whose deletion was not seen.
    pub replaced: bool,
}

impl ServiceChange {
    fn of(key: ObjectKey) -> Self {
        Self { key, replaced: false }
    }
}

impl Index {
    /// An empty index for Services of a `loadBalancerClass`.
    #[must_use]
    pub fn new(class: Option<String>) -> Self {
        Self {
            class,
            ..Self::default()
        }
    }

    /// Applies a change of Services. Returns the affected Services.
    pub fn update_service(&mut self, change: Change<v1::Service>) -> Vec<ServiceChange> {
        match change {
            Change::Apply(object) => {
                let key = ObjectKey::of(&object);
                self.listed(&key);
                let version = object.metadata.resource_version.as_deref();
                self.watched_version = self
                    .watched_version
                    .max(parse_version(version.unwrap_or_default()));
                let service = CachedService::read(&object, self.class.as_deref());
                let before = match &service {
                    Some(service) => self.services.insert(key.clone(), service.clone()),
                    // It may have been a load balancer of our class before.
                    None => self.services.remove(&key),
                };
                let replaced = before
                    .as_ref()
                    .zip(service.as_ref())
                    .is_some_and(|(before, service)| before.uid != service.uid);
                let affected = before.is_some() || service.is_some();
                affected
                    .then_some(ServiceChange { key, replaced })
                    .into_iter()
                    .collect()
            }
            Change::Delete(key) => {
                let was = self.services.remove(&key);
                was.map(|_| ServiceChange::of(key)).into_iter().collect()
            }
            Change::Invalid { key, error } => {
                // Keep the previous version: to release its address because of this would be worse.
                tracing::warn!(service = %key, error, "cannot decode object; keeping the previous version");
                self.listed(&key);
                Vec::new()
            }
            Change::Listing => {
                self.listing = Some(BTreeSet::new());
                Vec::new()
            }
            Change::Synced => {
                let Some(listed) = self.listing.take() else {
                    return Vec::new();
                };
                let gone = self.services.keys().filter(|key| !listed.contains(*key));
                let gone: Vec<_> = gone.cloned().collect();
                for key in &gone {
                    self.services.remove(key);
                }
                gone.into_iter().map(ServiceChange::of).collect()
            }
        }
    }

    /// Records the version that a write has given a Service.
    pub fn record_written(&mut self, version: &str) {
        self.written_version = self.written_version.max(parse_version(version));
    }

    /// The newest version of a Service that is known. A watch delivers changes in order, so a watch that has reached
    /// this version knows everything that this index does.
    #[must_use]
    pub fn newest_version(&self) -> u64 {
        self.watched_version.max(self.written_version)
    }

    /// Whether the watch of Services has reached a version.
    #[must_use]
    pub fn has_reached(&self, version: u64) -> bool {
        self.listing.is_none() && self.watched_version >= version
    }

    fn listed(&mut self, key: &ObjectKey) {
        if let Some(listing) = &mut self.listing {
            listing.insert(key.clone());
        }
    }

    /// Applies a change of pools. Returns whether Services may be affected.
    pub fn update_pool(&mut self, change: Change<IPAddressPool>) -> bool {
        match change {
            Change::Apply(object) => {
                let pool = CachedPool::read(&object);
                let name = object.metadata.name.unwrap_or_default();
                let before = self.pools.get(&name);
                let changed = before.is_none_or(|before| !before.offers_the_same_as(&pool));
                self.pools.insert(name, pool);
                changed
            }
            Change::Delete(key) => self.pools.remove(key.name()).is_some(),
            Change::Invalid { key, error } => {
                let pool = CachedPool::undecodable(error);
                let before = self.pools.get(key.name());
                let changed = before.is_none_or(|before| before.candidate.spec != pool.candidate.spec);
                self.pools.insert(key.name().to_owned(), pool);
                changed
            }
            Change::Listing | Change::Synced => false,
        }
    }

    /// Applies a change of namespaces. Returns whether other pools may match their Services now.
    pub fn update_namespace(&mut self, change: Change<v1::Namespace>) -> bool {
        let changed = match change {
            Change::Apply(object) => {
                let name = object.metadata.name.unwrap_or_default();
                let labels = CompactLabels::read(object.metadata.labels.as_ref());
                self.namespaces.insert(name, labels.clone()) != Some(labels)
            }
            Change::Delete(key) => self.namespaces.remove(key.name()).is_some(),
            // Keep the previous labels: its Services keep their addresses.
            Change::Invalid { .. } | Change::Listing | Change::Synced => false,
        };
        changed && self.uses_namespace_labels()
    }

    fn uses_namespace_labels(&self) -> bool {
        let mut allocations = self.pools.values().filter_map(|pool| pool.allocation.as_ref());
        allocations.any(AllocationRules::uses_namespace_labels)
    }

    /// Whether the labels of a namespace are known, or no pool asks for them.
    #[must_use]
    pub fn knows_labels_of(&self, namespace: &str) -> bool {
        self.namespaces.contains_key(namespace) || !self.uses_namespace_labels()
    }

    /// Applies a change of nodes. Returns whether their addresses have changed.
    pub fn update_node(&mut self, change: Change<v1::Node>) -> bool {
        match change {
            Change::Apply(object) => {
                let name = object.metadata.name.unwrap_or_default();
                let addresses = object.status.and_then(|status| status.addresses);
                let parsed = addresses
                    .into_iter()
                    .flatten()
                    .filter_map(|address| address.address.parse::<IpAddr>().ok());
                let addresses: BTreeSet<_> = parsed.collect();
                self.nodes.insert(name, addresses.clone()) != Some(addresses)
            }
            Change::Delete(key) => self.nodes.remove(key.name()).is_some(),
            Change::Invalid { .. } | Change::Listing | Change::Synced => false,
        }
    }

    /// The addresses of nodes that a pool contains, each with its node.
    pub fn node_addresses_in<'a>(&'a self, pool: &'a Pool) -> impl Iterator<Item = (IpAddr, &'a str)> {
        let each = self.nodes.iter().flat_map(|(node, addresses)| {
            let addresses = addresses.iter();
            addresses.map(move |address| (*address, node.as_str()))
        });
        each.filter(|(address, _)| pool.contains(*address))
    }

    /// The addresses of all nodes.
    #[must_use]
    pub fn node_addresses(&self) -> BTreeSet<IpAddr> {
        self.nodes.values().flatten().copied().collect()
    }

    /// Tells of a pool, by name, whether its `serviceAllocation` matches a Service.
    pub fn pool_filter<'a>(
        &'a self,
        key: &'a ObjectKey,
        service: &'a CachedService,
    ) -> impl Fn(&str) -> bool + 'a {
        move |pool| {
            let allocation = self.pools.get(pool).and_then(|pool| pool.allocation.as_ref());
            allocation.is_none_or(|allocation| {
                allocation.matches(
                    key.namespace(),
                    self.namespaces.get(key.namespace()),
                    &service.labels,
                )
            })
        }
    }

    /// Applies a change of L2Advertisements.
    pub fn update_advertisement(&mut self, change: Change<L2Advertisement>) {
        match change {
            Change::Apply(object) => {
                let key = ObjectKey::of(&object);
                self.advertisements.insert(key, CachedAdvertisement::read(object));
            }
            Change::Delete(key) => {
                self.advertisements.remove(&key);
            }
            Change::Invalid { key, error } => {
                tracing::warn!(advertisement = %key, error, "cannot decode object; ignoring the advertisement");
                self.advertisements.remove(&key);
            }
            Change::Listing | Change::Synced => {}
        }
    }

    /// The pools for the allocator, by name.
    #[must_use]
    pub fn candidates(&self) -> BTreeMap<String, PoolCandidate> {
        let pools = self.pools.iter();
        pools
            .map(|(name, pool)| (name.clone(), pool.candidate.clone()))
            .collect()
    }

    /// A Service that is a load balancer of our class.
    #[must_use]
    pub fn load_balancer(&self, key: &ObjectKey) -> Option<&CachedService> {
        self.services
            .get(key)
            .filter(|service| matches!(service.role, Role::LoadBalancer(_)))
    }
}

/// A `resourceVersion` as a number, which it is with etcd; 0 if it is not.
fn parse_version(version: &str) -> u64 {
    version.parse().unwrap_or_default()
}
