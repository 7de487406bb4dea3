//! What the controller knows of the cluster: one plain struct, fed by the watches. Objects are turned into small
//! structs and dropped at once.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use k8s_openapi::api::core::v1;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, LabelSelector, ObjectMeta};
use lb_crds::selector::validate;
use lb_crds::{AddressRange, IPAddressPool, IPAddressPoolSpec, L2Advertisement, ReleasedAddress};
use lb_ipam::{Access, Candidate, Extras, PoolError, PoolSpec, Range};
use lb_runtime::ObjectKey;
use lb_runtime::watch::Change;

use crate::allocation::{Allocation, Labels};
use crate::announced::Announcers;
use crate::extras;
use crate::service::{Role, Service};
use crate::state::State;

/// Services, pools and advertisements.
#[derive(Debug, Default)]
pub struct Index {
    class: Option<String>,
    /// Services that concern us.
    pub services: BTreeMap<ObjectKey, Service>,
    /// Pools, valid or not, by name.
    pub pools: BTreeMap<String, Pool>,
    /// L2Advertisements.
    pub advertisements: BTreeMap<ObjectKey, Advertisement>,
    /// The ConfigurationState.
    pub state: State,
    /// Who announces what.
    pub announcers: Announcers,
    /// The labels of namespaces that have any.
    namespaces: BTreeMap<String, Labels>,
    /// Services that a listing under way has delivered so far.
    listing: Option<BTreeSet<ObjectKey>>,
    /// The newest version of a Service that the watch has delivered, as a number.
    heard: u64,
    /// The newest version of a Service that came of a write of ours.
    written: u64,
}

/// A pool.
#[derive(Clone, Debug, PartialEq)]
pub struct Pool {
    /// Where it is, and which one.
    pub object: ObjectRef,
    /// What is offered to the allocator.
    pub candidate: Candidate,
    /// Which Services it is for, where it is not for everybody.
    pub allocation: Option<Allocation>,
    /// What its status says: IPv4 and IPv6 assigned, IPv4 and IPv6 available; none when it has no status.
    pub counts: Option<[i64; 4]>,
    /// The addresses that were released lately, by its status, and when: the newest first.
    pub released: Vec<(IpAddr, i64)>,
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
    /// Of an object.
    #[must_use]
    pub fn of(meta: &ObjectMeta) -> Self {
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

    /// Takes in a change of Services. Returns the Services to look at.
    pub fn service(&mut self, change: Change<v1::Service>) -> Vec<ObjectKey> {
        match change {
            Change::Apply(object) => {
                let key = ObjectKey::of(&object);
                self.listed(&key);
                let version = object.metadata.resource_version.as_deref();
                self.heard = self.heard.max(number(version.unwrap_or_default()));
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
                gone
            }
        }
    }

    /// Takes in the version that a write of ours has given a Service.
    pub fn service_written(&mut self, version: &str) {
        self.written = self.written.max(number(version));
    }

    /// The newest version of a Service that is known of, as a number. What a watch has delivered that has come so far is
    /// all that is known here: a watch delivers changes in the order in which they were made.
    #[must_use]
    pub fn newest(&self) -> u64 {
        self.heard.max(self.written)
    }

    /// Whether the watch of Services has come so far.
    #[must_use]
    pub fn has_heard_of(&self, version: u64) -> bool {
        self.listing.is_none() && self.heard >= version
    }

    fn listed(&mut self, key: &ObjectKey) {
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
                        pool.allocation.clone(),
                    )
                };
                let changed = before.map(offer) != Some(offer(&pool));
                self.pools.insert(name, pool);
                changed
            }
            Change::Delete(key) => self.pools.remove(key.name()).is_some(),
            Change::Invalid { key, error } => {
                let before = self.pools.get(key.name()).map(|pool| &pool.candidate.spec);
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
                    allocation: None,
                    counts: None,
                    released: Vec::new(),
                    conditions: Vec::new(),
                };
                self.pools.insert(key.name().to_owned(), pool);
                changed
            }
            Change::Listing | Change::Synced => false,
        }
    }

    /// Takes in a change of namespaces. Returns whether pools may be for other Services now.
    pub fn namespace(&mut self, change: Change<v1::Namespace>) -> bool {
        let changed = match change {
            Change::Apply(object) => {
                let name = object.metadata.name.unwrap_or_default();
                let labels = Labels::read(object.metadata.labels.as_ref());
                if labels.is_empty() {
                    self.namespaces.remove(&name).is_some()
                } else {
                    self.namespaces.insert(name, labels.clone()) != Some(labels)
                }
            }
            Change::Delete(key) => self.namespaces.remove(key.name()).is_some(),
            // What is known of it holds: its Services keep what they have.
            Change::Invalid { .. } | Change::Listing | Change::Synced => false,
        };
        let mut allocations = self.pools.values().filter_map(|pool| pool.allocation.as_ref());
        changed && allocations.any(Allocation::looks_at_namespaces)
    }

    /// For a Service: whether a pool that is not for everybody is for it.
    pub fn chosen<'a>(&'a self, key: &'a ObjectKey, service: &'a Service) -> impl Fn(&str) -> bool + 'a {
        move |pool| {
            let allocation = self.pools.get(pool).and_then(|pool| pool.allocation.as_ref());
            allocation.is_none_or(|allocation| {
                allocation.chooses(
                    key.namespace(),
                    self.namespaces.get(key.namespace()),
                    &service.labels,
                )
            })
        }
    }

    /// Takes in a change of L2Advertisements.
    pub fn advertisement(&mut self, change: Change<L2Advertisement>) {
        match change {
            Change::Apply(object) => {
                let key = ObjectKey::of(&object);
                self.advertisements.insert(key, Advertisement::read(object));
            }
            Change::Delete(key) => {
                self.advertisements.remove(&key);
            }
            Change::Invalid { key, error } => {
                tracing::warn!(advertisement = %key, error, "advertisement cannot be read");
                self.advertisements.remove(&key);
            }
            Change::Listing | Change::Synced => {}
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
    pub fn ours(&self, key: &ObjectKey) -> Option<&Service> {
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
                spec: pool_spec(name, &object.spec, object.metadata.annotations.as_ref()),
                found_invalid,
                created: created.map_or(0, |time| time.0.as_second()),
            },
            allocation: object.spec.service_allocation.as_ref().map(Allocation::read),
            counts: status.map(|status| {
                [
                    status.assigned_ipv4,
                    status.assigned_ipv6,
                    status.available_ipv4,
                    status.available_ipv6,
                ]
            }),
            released: status.map_or(Vec::new(), |status| released(&status.released)),
            conditions,
        }
    }
}

/// A version as a number, which is what etcd makes of them; 0 if it is none.
fn number(version: &str) -> u64 {
    version.parse().unwrap_or_default()
}

/// What cannot be read is left out: it is our own, and no more than a memory.
fn released(list: &[ReleasedAddress]) -> Vec<(IpAddr, i64)> {
    list.iter()
        .filter_map(|released| Some((released.address.parse().ok()?, released.since)))
        .collect()
}

fn pool_spec(
    name: String,
    spec: &IPAddressPoolSpec,
    annotations: Option<&BTreeMap<String, String>>,
) -> Result<PoolSpec, PoolError> {
    let mut ranges = Vec::with_capacity(spec.addresses.len());
    for (index, entry) in spec.addresses.iter().enumerate() {
        let range = entry.parse::<AddressRange>().map_err(|error| error.to_string());
        let range = range.and_then(|range| {
            Range::new(range.first(), range.last()).ok_or_else(|| "runs backwards".to_owned())
        });
        ranges.push(range.map_err(|reason| PoolError::Entry { index, reason })?);
    }
    let access = match &spec.service_allocation {
        None => Access::Everybody,
        Some(allocation) => {
            let lists = [
                (
                    "spec.serviceAllocation.namespaceSelectors",
                    &allocation.namespace_selectors,
                ),
                (
                    "spec.serviceAllocation.serviceSelectors",
                    &allocation.service_selectors,
                ),
            ];
            if let Some(error) = lists
                .into_iter()
                .find_map(|(field, selectors)| selector_error(field, selectors))
            {
                return Err(PoolError::Selector(error));
            }
            // A negative number is no priority, and is tried last like none.
            let priority = allocation.priority.unwrap_or_default().max(0);
            Access::Chosen {
                priority: u32::try_from(priority).unwrap_or(u32::MAX),
            }
        }
    };
    Ok(PoolSpec {
        name,
        ranges,
        auto_assign: spec.auto_assign,
        avoid_buggy_ips: spec.avoid_buggy_ips,
        access,
        extras: annotations.map_or(Ok(Extras::default()), extras::read)?,
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
