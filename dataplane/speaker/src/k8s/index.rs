//! The state of the cluster: one plain struct, updated by the watches. Each update returns the affected addresses, so that a
//! changed EndpointSlice among thousands costs one decision.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use lb_runtime::ObjectKey;

use crate::intern::Interner;
use crate::k8s::objects::{Advertisement, Node, Pool, ReportedStatus, Service, Slice, Speaker};

/// The watched kinds.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Kind {
    /// Services.
    Services,
    /// EndpointSlices.
    EndpointSlices,
    /// Nodes.
    Nodes,
    /// IPAddressPools.
    Pools,
    /// L2Advertisements.
    Advertisements,
    /// Pods of speakers.
    Speakers,
    /// ServiceL2Statuses.
    Statuses,
}

impl Kind {
    /// Every kind.
    pub const ALL: [Self; 7] = [
        Self::Services,
        Self::EndpointSlices,
        Self::Nodes,
        Self::Pools,
        Self::Advertisements,
        Self::Speakers,
        Self::Statuses,
    ];

    /// Name in logs and at `/readyz`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Services => "services",
            Self::EndpointSlices => "endpointslices",
            Self::Nodes => "nodes",
            Self::Pools => "ipaddresspools",
            Self::Advertisements => "l2advertisements",
            Self::Speakers => "speakers",
            Self::Statuses => "servicel2statuses",
        }
    }
}

/// A change of a watched object; `None` when it was deleted or is not relevant.
#[derive(Clone, Debug, PartialEq)]
pub enum Update {
    /// A Service.
    Service(ObjectKey, Option<Service>),
    /// An EndpointSlice.
    Slice(ObjectKey, Option<Slice>),
    /// A Node, by name.
    Node(String, Option<Node>),
    /// An IPAddressPool, by name.
    Pool(String, Option<Pool>),
    /// An L2Advertisement, by name.
    Advertisement(String, Option<Advertisement>),
    /// The Pod of a speaker, by name.
    Speaker(String, Option<Speaker>),
    /// A ServiceL2Status, by name.
    Status(ObjectKey, Option<ReportedStatus>),
    /// An object that cannot be decoded: the previous version is kept, so that no address is withdrawn.
    Invalid(Kind, ObjectKey, String),
    /// The initial list of the kind is complete.
    Synced(Kind),
}

/// The decisions that an update affects.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Affected {
    /// All addresses: pools or advertisements changed.
    pub all_addresses: bool,
    /// The Node that changed, apart from its readiness.
    pub node: Option<String>,
    /// Single addresses.
    pub addresses: Vec<IpAddr>,
    /// The node whose speaker may have changed its state.
    pub peer: Option<String>,
    /// Services whose ServiceL2Status may need a write.
    pub statuses: Vec<ObjectKey>,
}

/// The endpoints of one slice.
#[derive(Clone, Debug, Eq, PartialEq)]
struct Endpoints {
    service: ObjectKey,
    serving: bool,
    nodes: Box<[Arc<str>]>,
}

/// The relevant state of the cluster: about 1 KB per Service, with shared keys and names.
#[derive(Debug, Default)]
pub struct Index {
    /// Services with addresses.
    pub services: BTreeMap<ObjectKey, Service>,
    /// Nodes by name.
    pub nodes: BTreeMap<String, Node>,
    /// Pools by name.
    pub pools: BTreeMap<Arc<str>, Pool>,
    /// Advertisements by name.
    pub advertisements: BTreeMap<String, Advertisement>,
    /// Pods of speakers by name.
    pub speakers: BTreeMap<String, Speaker>,
    /// ServiceL2Statuses by name.
    pub statuses: BTreeMap<ObjectKey, Box<ReportedStatus>>,
    /// Addresses of nodes with the names of the nodes that have them.
    node_addresses: BTreeSet<(IpAddr, String)>,
    /// Addresses with the Services that have them.
    by_address: BTreeSet<(IpAddr, ObjectKey)>,
    /// Services with the names of their ServiceL2Statuses.
    statuses_of: BTreeSet<(ObjectKey, ObjectKey)>,
    /// Endpoints by slice: of a deleted slice only the name is known.
    slices: BTreeMap<ObjectKey, Endpoints>,
    /// Services with the names of their slices.
    slices_of: BTreeSet<(ObjectKey, ObjectKey)>,
    /// Names of nodes, pools and interfaces, and uids of nodes.
    interner: Interner,
    /// Pools and advertisements with errors.
    invalid: BTreeSet<(Kind, String)>,
}

impl Index {
    /// Applies an update.
    pub fn update(&mut self, update: Update) -> Affected {
        match update {
            Update::Service(key, service) => self.service(key, service),
            Update::Slice(key, slice) => self.slice(key, slice),
            Update::Node(name, node) => self.node(name, node),
            Update::Pool(name, pool) => {
                self.set_error(
                    Kind::Pools,
                    &name,
                    pool.as_ref().and_then(|pool| pool.error.as_deref()),
                );
                all_addresses_if(replace(&mut self.pools, name.into(), pool))
            }
            Update::Advertisement(name, advertisement) => {
                let error = advertisement
                    .as_ref()
                    .and_then(|advertisement| advertisement.error.as_deref());
                self.set_error(Kind::Advertisements, &name, error);
                all_addresses_if(replace(&mut self.advertisements, name, advertisement))
            }
            Update::Speaker(name, speaker) => {
                let node = speaker
                    .as_ref()
                    .or(self.speakers.get(&name))
                    .map(|speaker| speaker.node.clone());
                let changed = replace(&mut self.speakers, name, speaker);
                Affected {
                    peer: node.filter(|_| changed),
                    ..Affected::default()
                }
            }
            Update::Status(name, record) => self.status(name, record),
            Update::Invalid(kind, key, error) => {
                match kind {
                    Kind::Pools | Kind::Advertisements => self.set_error(kind, key.name(), Some(&error)),
                    Kind::Services | Kind::EndpointSlices | Kind::Nodes | Kind::Speakers | Kind::Statuses => {
                        tracing::warn!(kind = kind.as_str(), object = %key, error, "cannot decode object; keeping the previous version");
                    }
                }
                Affected::default()
            }
            Update::Synced(_) => Affected::default(),
        }
    }

    /// The Services that have this address, by key.
    pub fn having(&self, address: IpAddr) -> impl Iterator<Item = (&ObjectKey, &Service)> {
        values_of(&self.by_address, address).filter_map(|key| self.services.get_key_value(key))
    }

    /// The addresses of all Services. A shared one occurs several times.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        self.by_address.iter().map(|(address, _)| *address)
    }

    /// The nodes that have this address themselves, by name: usually none or one.
    pub fn nodes_with(&self, address: IpAddr) -> impl Iterator<Item = &str> {
        values_of(&self.node_addresses, address).map(String::as_str)
    }

    /// Whether an endpoint of the Service can serve.
    #[must_use]
    pub fn has_endpoint(&self, service: &ObjectKey) -> bool {
        self.endpoints_of(service).any(|endpoints| endpoints.serving)
    }

    /// Whether an endpoint of the Service on this node can serve.
    #[must_use]
    pub fn has_endpoint_on(&self, service: &ObjectKey, node: &str) -> bool {
        self.endpoints_of(service).any(|endpoints| {
            endpoints
                .nodes
                .binary_search_by(|name| (**name).cmp(node))
                .is_ok()
        })
    }

    fn endpoints_of(&self, service: &ObjectKey) -> impl Iterator<Item = &Endpoints> {
        values_of(&self.slices_of, service.clone()).filter_map(|slice| self.slices.get(slice))
    }

    /// The pool of an address: the one that the controller noted on the Service if it contains the address, otherwise the
    /// first by name that does.
    #[must_use]
    pub fn pool_of(&self, service: &Service, address: IpAddr) -> Option<(&Arc<str>, &Pool)> {
        let noted = service
            .pool
            .as_ref()
            .and_then(|name| self.pools.get_key_value(name));
        noted
            .filter(|(_, pool)| pool.contains(address))
            .or_else(|| self.pools.iter().find(|(_, pool)| pool.contains(address)))
    }

    /// Whether the speaker of a node is ready; `None` without a speaker.
    #[must_use]
    pub fn speaker_ready(&self, node: &str) -> Option<bool> {
        // During a restart the old and the new Pod may coexist.
        let speakers = self.speakers.values().filter(|speaker| speaker.node == node);
        speakers
            .map(|speaker| speaker.ready)
            .reduce(|one, other| one || other)
    }

    /// The ServiceL2Statuses of a Service, by name.
    pub fn statuses_of(&self, service: &ObjectKey) -> impl Iterator<Item = (&str, &ReportedStatus)> {
        let names = values_of(&self.statuses_of, service.clone());
        names.filter_map(|name| Some((name.name(), &**self.statuses.get(name)?)))
    }

    /// Whether a part of a pool or an advertisement is ignored because of an error.
    #[must_use]
    pub fn has_invalid_configuration(&self) -> bool {
        !self.invalid.is_empty()
    }

    fn service(&mut self, key: ObjectKey, service: Option<Service>) -> Affected {
        if self.services.get(&key) == service.as_ref() {
            return Affected::default();
        }
        let key = self.shared_key(key);
        let mut addresses = BTreeSet::new();
        let mut uid = None;
        if let Some(before) = self.services.remove(&key) {
            for address in before.addresses {
                self.by_address.remove(&(address, key.clone()));
                addresses.insert(address);
            }
            uid = Some(before.uid);
        }
        if let Some(mut service) = service {
            if let Some(pool) = &mut service.pool {
                self.interner.share(pool);
            }
            // Announcements refer to the previous copy.
            if let Some(uid) = uid.filter(|uid| *uid == service.uid) {
                service.uid = uid;
            }
            for address in &service.addresses {
                self.by_address.insert((*address, key.clone()));
                addresses.insert(*address);
            }
            self.services.insert(key.clone(), service);
        }
        Affected {
            addresses: addresses.into_iter().collect(),
            statuses: vec![key],
            ..Affected::default()
        }
    }

    fn slice(&mut self, key: ObjectKey, slice: Option<Slice>) -> Affected {
        let new = slice.map(|slice| self.endpoints(&key, slice));
        if self.slices.get(&key) == new.as_ref() {
            return Affected::default();
        }
        // The label may have changed to another Service.
        let mut touched = BTreeSet::new();
        if let Some(before) = self.slices.remove(&key) {
            self.slices_of.remove(&(before.service.clone(), key.clone()));
            touched.insert(before.service);
        }
        if let Some(new) = new {
            self.slices_of.insert((new.service.clone(), key.clone()));
            touched.insert(new.service.clone());
            self.slices.insert(key, new);
        }
        let services = touched.iter().filter_map(|service| self.services.get(service));
        Affected {
            addresses: services
                .flat_map(|service| service.addresses.iter().copied())
                .collect(),
            ..Affected::default()
        }
    }

    fn endpoints(&mut self, key: &ObjectKey, slice: Slice) -> Endpoints {
        Endpoints {
            service: self.shared_key(ObjectKey::new(key.namespace(), slice.service)),
            serving: slice.serving,
            nodes: slice
                .nodes
                .iter()
                .map(|node| self.interner.intern(node))
                .collect(),
        }
    }

    /// The shared copy of the key of a Service, which its slices and statuses refer to as well.
    fn shared_key(&self, service: ObjectKey) -> ObjectKey {
        let with_slice = || {
            let mut pairs = self.slices_of.range((service.clone(), ObjectKey::default())..);
            pairs.next().map(|(key, _)| key).filter(|key| **key == service)
        };
        let known = self.services.get_key_value(&service).map(|(key, _)| key);
        known.or_else(with_slice).cloned().unwrap_or(service)
    }

    fn node(&mut self, name: String, node: Option<Node>) -> Affected {
        let before = self.nodes.remove(&name);
        if before == node {
            // The kubelet updates the status every few minutes at least.
            self.nodes.extend(node.map(|node| (name, node)));
            return Affected::default();
        }
        let held = |node: &Option<Node>| node.iter().flat_map(|node| node.held_addresses.clone()).collect();
        let (held_before, held_after): (BTreeSet<IpAddr>, BTreeSet<IpAddr>) = (held(&before), held(&node));
        for address in held_before.difference(&held_after) {
            self.node_addresses.remove(&(*address, name.clone()));
        }
        for address in held_after.difference(&held_before) {
            self.node_addresses.insert((*address, name.clone()));
        }
        let ready = |node: &Option<Node>| node.as_ref().map(|node| node.ready);
        let ready_changed = ready(&before) != ready(&node);
        // Readiness affects candidates only through the speaker.
        let same_but_ready = match (before, &node) {
            (Some(before), Some(node)) => {
                Node {
                    ready: node.ready,
                    ..before
                } == *node
            }
            (None, _) | (_, None) => false,
        };
        self.nodes.extend(node.map(|node| (name.clone(), node)));
        Affected {
            addresses: held_before.symmetric_difference(&held_after).copied().collect(),
            node: (!same_but_ready).then(|| name.clone()),
            peer: ready_changed.then_some(name),
            ..Affected::default()
        }
    }

    fn status(&mut self, name: ObjectKey, record: Option<ReportedStatus>) -> Affected {
        let mut statuses = Vec::new();
        if let Some((name, before)) = self.statuses.remove_entry(&name) {
            self.statuses_of.remove(&(before.service.clone(), name));
            statuses.push(before.service.clone());
        }
        if let Some(mut record) = record {
            self.interner.share(&mut record.node);
            record
                .interfaces
                .iter_mut()
                .for_each(|name| self.interner.share(name));
            if let Some(health) = &mut record.health
                && let Some(verification) = &mut health.verification
            {
                self.interner.share(&mut verification.by);
            }
            if let Some(owner) = &mut record.owner {
                self.interner.share(owner);
            }
            record.service = self.shared_key(record.service);
            if !statuses.contains(&record.service) {
                statuses.push(record.service.clone());
            }
            self.statuses_of.insert((record.service.clone(), name.clone()));
            self.statuses.insert(name, Box::new(record));
        }
        Affected {
            statuses,
            ..Affected::default()
        }
    }

    fn set_error(&mut self, kind: Kind, name: &str, error: Option<&str>) {
        let entry = (kind, name.to_owned());
        match error {
            Some(error) => {
                tracing::warn!(
                    kind = kind.as_str(),
                    name,
                    error,
                    "part of the configuration is ignored"
                );
                self.invalid.insert(entry);
            }
            None => {
                self.invalid.remove(&entry);
            }
        }
    }
}

/// The second values of the pairs with this first value, in order.
fn values_of<A: Ord, B: Default + Ord>(pairs: &BTreeSet<(A, B)>, first: A) -> impl Iterator<Item = &B> {
    let from = (first, B::default());
    let pairs = pairs.range(&from..);
    pairs.take_while(move |pair| pair.0 == from.0).map(|pair| &pair.1)
}

/// Inserts or removes a value. Returns whether that changed the map.
fn replace<K: Ord, V: PartialEq>(map: &mut BTreeMap<K, V>, name: K, value: Option<V>) -> bool {
    if map.get(&name) == value.as_ref() {
        return false;
    }
    match value {
        Some(value) => map.insert(name, value),
        None => map.remove(&name),
    };
    true
}

fn all_addresses_if(changed: bool) -> Affected {
    Affected {
        all_addresses: changed,
        ..Affected::default()
    }
}
