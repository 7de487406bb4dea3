//! Reduced copies of pools, advertisements and the ConfigurationState: only the fields that decisions and writes need.

use std::collections::BTreeMap;
use std::net::IpAddr;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, LabelSelector, ObjectMeta};
use lb_crds::selector::validate;
use lb_crds::{
    AddressRange, ConfigurationState, ConfigurationStateStatus, IPAddressPool, IPAddressPoolSpec,
    IPAddressPoolStatus, L2Advertisement, ReleasedAddress,
};
use lb_ipam::{Access, PoolAnnotations, PoolCandidate, PoolError, PoolSpec, Range};
use lb_runtime::watch::Change;

use crate::pool_annotations;
use crate::service_allocation::AllocationRules;

/// The condition of pools and advertisements.
pub const VALID: &str = "Valid";

/// The identity and version of an object, for writes and events.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct ObjectRef {
    /// Distinguishes objects that had the same name.
    pub uid: String,
    /// `resourceVersion`, the precondition of every write.
    pub version: String,
    /// Version of its spec.
    pub generation: i64,
}

/// An IPAddressPool.
#[derive(Clone, Debug, PartialEq)]
pub struct CachedPool {
    /// Identity and version.
    pub object: ObjectRef,
    /// Its configuration, for the allocator.
    pub candidate: PoolCandidate,
    /// Which Services may use it; `None` for all.
    pub allocation: Option<AllocationRules>,
    /// The counts in its status, if it has one.
    pub counts: Option<PoolCounts>,
    /// The recently released addresses in its status with their times, newest first.
    pub released: Vec<(IpAddr, i64)>,
    /// The conditions of its status.
    pub conditions: Vec<Condition>,
}

/// The counts in the status of a pool.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct PoolCounts {
    /// Assigned IPv4 addresses.
    pub assigned_ipv4: i64,
    /// Assigned IPv6 addresses.
    pub assigned_ipv6: i64,
    /// Free IPv4 addresses.
    pub available_ipv4: i64,
    /// Free IPv6 addresses.
    pub available_ipv6: i64,
}

/// An L2Advertisement: only the fields that can be invalid.
#[derive(Clone, Debug, PartialEq)]
pub struct CachedAdvertisement {
    /// Identity and version.
    pub object: ObjectRef,
    /// The pools in `spec.ipAddressPools`.
    pub pools: Vec<String>,
    /// The first invalid selector, and why it is invalid.
    pub error: Option<String>,
    /// The conditions of its status.
    pub conditions: Vec<Condition>,
}

/// The controller's ConfigurationState.
#[derive(Debug, Default)]
pub struct CachedConfigurationState {
    /// Whether the first list is complete. Before that the object may exist although it is not known here.
    pub listed: bool,
    /// Identity and version, if the object exists.
    pub object: Option<ObjectRef>,
    /// Its status.
    pub status: ConfigurationStateStatus,
}

impl ObjectRef {
    /// Of the object with this metadata.
    #[must_use]
    pub fn of(meta: &ObjectMeta) -> Self {
        Self {
            uid: meta.uid.clone().unwrap_or_default(),
            version: meta.resource_version.clone().unwrap_or_default(),
            generation: meta.generation.unwrap_or_default(),
        }
    }
}

impl CachedPool {
    /// Reads a pool; an invalid one has an error in `candidate`.
    #[must_use]
    pub fn read(object: &IPAddressPool) -> Self {
        let name = object.metadata.name.clone().unwrap_or_default();
        let created = object.metadata.creation_timestamp.as_ref();
        let status = object.status.as_ref();
        let conditions = status.map(|status| status.conditions.clone()).unwrap_or_default();
        let generation = object.metadata.generation;
        let was_invalid = conditions.iter().any(|condition| {
            condition.type_ == VALID
                && condition.status == "False"
                && condition.observed_generation == generation
        });
        Self {
            object: ObjectRef::of(&object.metadata),
            candidate: PoolCandidate {
                spec: pool_spec(name, &object.spec, object.metadata.annotations.as_ref()),
                was_invalid,
                created: created.map_or(0, |time| time.0.as_second()),
            },
            allocation: object.spec.service_allocation.as_ref().map(AllocationRules::read),
            counts: status.map(PoolCounts::read),
            released: status.map_or(Vec::new(), |status| released(&status.released)),
            conditions,
        }
    }

    /// A pool that cannot be decoded.
    #[must_use]
    pub fn undecodable(error: String) -> Self {
        Self {
            object: ObjectRef::default(),
            candidate: PoolCandidate {
                spec: Err(PoolError::Undecodable(error)),
                was_invalid: true,
                created: 0,
            },
            allocation: None,
            counts: None,
            released: Vec::new(),
            conditions: Vec::new(),
        }
    }

    /// Whether both are the same to Services.
    #[must_use]
    pub fn offers_the_same_as(&self, other: &Self) -> bool {
        self.candidate.spec == other.candidate.spec
            && self.object.generation == other.object.generation
            && self.allocation == other.allocation
    }
}

impl PoolCounts {
    fn read(status: &IPAddressPoolStatus) -> Self {
        Self {
            assigned_ipv4: status.assigned_ipv4,
            assigned_ipv6: status.assigned_ipv6,
            available_ipv4: status.available_ipv4,
            available_ipv6: status.available_ipv6,
        }
    }
}

/// Skips invalid entries: without its release an address only counts as never used.
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
        None => Access::All,
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
            // A negative priority counts as none, which is tried last.
            let priority = allocation.priority.unwrap_or_default().max(0);
            Access::Selected {
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
        annotations: annotations.map_or(Ok(PoolAnnotations::default()), pool_annotations::read)?,
    })
}

impl CachedAdvertisement {
    /// Reads an advertisement; an invalid one has an `error`.
    #[must_use]
    pub fn read(object: L2Advertisement) -> Self {
        let spec = object.spec;
        let preferences: Vec<_> = spec
            .preferred_node_selectors
            .iter()
            .map(|preferred| preferred.preference.clone())
            .collect();
        let lists = [
            ("spec.ipAddressPoolSelectors", &spec.ip_address_pool_selectors),
            ("spec.nodeSelectors", &spec.node_selectors),
            ("spec.serviceSelectors", &spec.service_selectors),
            ("spec.preferredNodeSelectors", &preferences),
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

impl CachedConfigurationState {
    /// Applies a change.
    pub fn update(&mut self, change: Change<ConfigurationState>) {
        match change {
            Change::Apply(object) => {
                self.object = Some(ObjectRef::of(&object.metadata));
                self.status = object.status.unwrap_or_default();
            }
            Change::Delete(_) => {
                *self = Self {
                    listed: self.listed,
                    ..Self::default()
                };
            }
            // Without a version there is no precondition for a write.
            Change::Invalid { key, error } => {
                tracing::warn!(configurationstate = %key, error, "cannot decode object; delete it to have it created again");
            }
            Change::Listing => {}
            Change::Synced => self.listed = true,
        }
    }
}
