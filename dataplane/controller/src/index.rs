//! What the controller knows of the cluster: one plain struct, fed by the watches. Objects are turned into small
//! structs and dropped at once.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, LabelSelector, ObjectMeta};
use lb_crds::selector::validate;
use lb_crds::{AddressRange, IPAddressPool, IPAddressPoolSpec, L2Advertisement};
use lb_daemon::Key;
use lb_daemon::watch::Change;
use lb_ipam::{Candidate, PoolError, PoolSpec, Range};

use crate::service::{Role, Service};

/// Services, pools and advertisements.
#[derive(Debug, Default)]
pub struct Index {
    class: Option<String>,
    /// Services that concern us.
    pub services: BTreeMap<Key, Service>,
    /// Pools, valid or not, by name.
    pub pools: BTreeMap<String, Pool>,
    /// L2Advertisements.
    pub advertisements: BTreeMap<Key, Advertisement>,
    /// Services that a listing under way has delivered so far.
    listing: Option<BTreeSet<Key>>,
}

/// A pool.
#[derive(Clone, Debug, PartialEq)]
pub struct Pool {
    /// Where it is, and which one.
    pub object: ObjectRef,
    /// What is offered to the allocator.
    pub candidate: Candidate,
    /// Whether its `serviceAllocation` limits who may use it.
    pub restricted: bool,
    /// What its status says: IPv4 and IPv6 assigned, IPv4 and IPv6 available; none when it has no status.
    pub counts: Option<[i64; 4]>,
    /// The conditions of its status.
    pub conditions: Vec<Condition>,
}

/// An L2Advertisement: only what can be wrong with it.
#[derive(Clone, Debug, PartialEq)]
pub struct Advertisement {
    /// Where it is, and which one.
    pub object: ObjectRef,
    /// The pools that it names.
    pub pools: Vec<String>,
    /// What is wrong in itself.
    pub error: Option<String>,
    /// The conditions of its status.
    pub conditions: Vec<Condition>,
}

/// What writes and events need of an object.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct ObjectRef {
    /// Tells it from a namesake that was deleted before.
    pub uid: String,
    /// Version of the object: the precondition of every write.
    pub version: String,
    /// Version of its spec.
    pub generation: i64,
}

impl ObjectRef {
    fn of(meta: &ObjectMeta) -> Self {
        Self {
            uid: meta.uid.clone().unwrap_or_default(),
            version: meta.resource_version.clone().unwrap_or_default(),
            generation: meta.generation.unwrap_or_default(),
        }
    }
}

impl Index {
    /// An empty index for Services of a class.
    #[must_use]
    pub fn new(class: Option<String>) -> Self {
        Self {
            class,
            ..Self::default()
        }
    }

    /// Begins a new listing of Services: those that it does not deliver are gone.
    pub fn relist_services(&mut self) {
        self.listing = Some(BTreeSet::new());
    }

    /// Takes in a change of Services. Returns the Services to look at.
    pub fn service(&mut self, change: Change<v1::Service>) -> Vec<Key> {
        match change {
            Change::Apply(object) => {
                let key = Key::of(&object);
                self.listed(&key);
                match Service::read(&object, self.class.as_deref()) {
                    Some(service) => {
                        self.services.insert(key.clone(), service);
                    }
                    // It may have been ours before.
                    None if self.services.remove(&key).is_none() => return Vec::new(),
                    None => {}
                }
                vec![key]
            }
            Change::Delete(key) => {
                let was = self.services.remove(&key);
                was.map(|_| key).into_iter().collect()
            }
            Change::Invalid { key, error } => {
                // What it had, it has: to take its address away because we cannot read it would be worse than to wait.
                tracing::warn!(service = %key, error, "service cannot be read: left as it is");
                self.listed(&key);
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
                gone
            }
        }
    }

    fn listed(&mut self, key: &Key) {
        if let Some(listing) = &mut self.listing {
            listing.insert(key.clone());
        }
    }

    /// Takes in a change of pools. Returns whether what pools offer may have changed.
    pub fn pool(&mut self, change: Change<IPAddressPool>) -> bool {
        match change {
            Change::Apply(object) => {
                let pool = Pool::read(&object);
                let name = object.metadata.name.unwrap_or_default();
                let before = self.pools.get(&name);
                let offer = |pool: &Pool| {
                    (
                        pool.candidate.spec.clone(),
                        pool.object.generation,
                        pool.restricted,
                    )
                };
                let changed = before.map(offer) != Some(offer(&pool));
                self.pools.insert(name, pool);
                changed
            }
            Change::Delete(key) => self.pools.remove(&key.name).is_some(),
            Change::Invalid { key, error } => {
                let before = self.pools.get(&key.name).map(|pool| &pool.candidate.spec);
                let spec = Err(PoolError::Unreadable(error));
                let changed = before != Some(&spec);
                let candidate = Candidate {
                    spec,
                    found_invalid: true,
                    created: 0,
                };
                let pool = Pool {
                    object: ObjectRef::default(),
                    candidate,
                    restricted: false,
                    counts: None,
                    conditions: Vec::new(),
                };
                self.pools.insert(key.name, pool);
                changed
            }
            Change::Synced => false,
        }
    }

    /// Takes in a change of L2Advertisements.
    pub fn advertisement(&mut self, change: Change<L2Advertisement>) {
        match change {
            Change::Apply(object) => {
                let key = Key::of(&object);
                self.advertisements.insert(key, Advertisement::read(object));
            }
            Change::Delete(key) => {
                self.advertisements.remove(&key);
            }
            Change::Invalid { key, error } => {
                tracing::warn!(advertisement = %key, error, "advertisement cannot be read");
                self.advertisements.remove(&key);
            }
            Change::Synced => {}
        }
    }

    /// What pools offer, by name.
    #[must_use]
    pub fn candidates(&self) -> BTreeMap<String, Candidate> {
        let pools = self.pools.iter();
        pools
            .map(|(name, pool)| (name.clone(), pool.candidate.clone()))
            .collect()
    }

    /// A Service that gets addresses from us.
    #[must_use]
    pub fn ours(&self, key: &Key) -> Option<&Service> {
        self.services
            .get(key)
            .filter(|service| matches!(service.role, Role::Ours(_)))
    }
}

impl Pool {
    fn read(object: &IPAddressPool) -> Self {
        let name = object.metadata.name.clone().unwrap_or_default();
        let created = object.metadata.creation_timestamp.as_ref();
        let status = object.status.as_ref();
        let conditions = status.map(|status| status.conditions.clone()).unwrap_or_default();
        let generation = object.metadata.generation;
        let found_invalid = conditions.iter().any(|condition| {
            condition.type_ == "Valid"
                && condition.status == "False"
                && condition.observed_generation == generation
        });
        Self {
            object: ObjectRef::of(&object.metadata),
            candidate: Candidate {
                spec: pool_spec(name, &object.spec),
                found_invalid,
                created: created.map_or(0, |time| time.0.as_second()),
            },
            restricted: object.spec.service_allocation.is_some(),
            counts: status.map(|status| {
                [
                    status.assigned_ipv4,
                    status.assigned_ipv6,
                    status.available_ipv4,
                    status.available_ipv6,
                ]
            }),
            conditions,
        }
    }
}

fn pool_spec(name: String, spec: &IPAddressPoolSpec) -> Result<PoolSpec, PoolError> {
    let mut ranges = Vec::with_capacity(spec.addresses.len());
    for (index, entry) in spec.addresses.iter().enumerate() {
        let range = entry.parse::<AddressRange>().map_err(|error| error.to_string());
        let range = range.and_then(|range| {
            Range::new(range.first(), range.last()).ok_or_else(|| "runs backwards".to_owned())
        });
        ranges.push(range.map_err(|reason| PoolError::Entry { index, reason })?);
    }
    Ok(PoolSpec {
        name,
        ranges,
        // `serviceAllocation` is not in force yet. To ignore it would give addresses to Services that must not have
        // them; so such a pool serves only those that ask for it by name.
        auto_assign: spec.auto_assign && spec.service_allocation.is_none(),
        avoid_buggy_ips: spec.avoid_buggy_ips,
    })
}

impl Advertisement {
    fn read(object: L2Advertisement) -> Self {
        let spec = object.spec;
        let lists = [
            ("spec.ipAddressPoolSelectors", &spec.ip_address_pool_selectors),
            ("spec.nodeSelectors", &spec.node_selectors),
            ("spec.serviceSelectors", &spec.service_selectors),
        ];
        Self {
            object: ObjectRef::of(&object.metadata),
            error: lists
                .into_iter()
                .find_map(|(field, selectors)| selector_error(field, selectors)),
            pools: spec.ip_address_pools,
            conditions: object.status.map(|status| status.conditions).unwrap_or_default(),
        }
    }
}

fn selector_error(field: &str, selectors: &[LabelSelector]) -> Option<String> {
    selectors.iter().enumerate().find_map(|(index, selector)| {
        let error = validate(selector).err()?;
        Some(format!("{field}[{index}]: {error}"))
    })
}
