//! What the speaker knows of the cluster: one plain struct, fed by the watches. Each update tells what has to be looked
//! at again, so that one changed EndpointSlice among thousands costs one decision.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use lb_daemon::Key;

use crate::objects::{Advertisement, Node, Pool, Record, Service, Slice, Speaker};

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

/// One change of a watched object; none when it is gone, or does not concern us (any more).
#[derive(Clone, Debug, PartialEq)]
pub enum Update {
    /// A Service.
    Service(Key, Option<Service>),
    /// An EndpointSlice.
    Slice(Key, Option<Slice>),
    /// A Node, by name.
    Node(String, Option<Node>),
    /// An IPAddressPool, by name.
    Pool(String, Option<Pool>),
    /// An L2Advertisement, by name.
    Advertisement(String, Option<Advertisement>),
    /// The Pod of a speaker, by name.
    Speaker(String, Option<Speaker>),
    /// A ServiceL2Status, by name.
    Status(String, Option<Record>),
    /// An object that cannot be read: what was known of it stays, because to withdraw an address over it would be worse.
    Invalid(Kind, Key, String),
    /// All objects of the kind have been delivered.
    Synced(Kind),
}

/// What has to be looked at again after an update.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Touched {
    /// Every address: candidates or advertisements changed.
    pub everything: bool,
    /// These addresses.
    pub addresses: Vec<IpAddr>,
    /// The node whose speaker's state may have changed.
    pub peer: Option<String>,
    /// Services whose ServiceL2Status may have to change.
    pub statuses: Vec<Key>,
}

/// The endpoints of one slice, with the names of nodes shared.
#[derive(Clone, Debug, Eq, PartialEq)]
struct Endpoints {
    serving: bool,
    nodes: Box<[Arc<str>]>,
}

/// The state of the cluster, as far as it concerns announcing.
#[derive(Debug, Default)]
pub struct Index {
    /// Services with addresses.
    pub services: BTreeMap<Key, Service>,
    /// Nodes by name.
    pub nodes: BTreeMap<String, Node>,
    /// Pools by name.
    pub pools: BTreeMap<String, Pool>,
    /// Advertisements by name.
    pub advertisements: BTreeMap<String, Advertisement>,
    /// Pods of speakers by name.
    pub speakers: BTreeMap<String, Speaker>,
    /// ServiceL2Statuses by name.
    pub statuses: BTreeMap<String, Record>,
    /// Which Services have an address.
    by_address: BTreeMap<IpAddr, BTreeSet<Key>>,
    /// Names of the ServiceL2Statuses of each Service.
    status_names: BTreeMap<Key, BTreeSet<String>>,
    /// Endpoints of each Service, by slice.
    endpoints: BTreeMap<Key, BTreeMap<String, Endpoints>>,
    /// The Service of each slice: a deleted slice is known by name only.
    slices: BTreeMap<Key, String>,
    /// Node names that endpoints refer to.
    names: BTreeSet<Arc<str>>,
    /// Pools and advertisements that are wrong.
    wrong: BTreeSet<(Kind, String)>,
}

impl Index {
    /// Takes in an update.
    pub fn update(&mut self, update: Update) -> Touched {
        match update {
            Update::Service(key, service) => self.service(key, service),
            Update::Slice(key, slice) => self.slice(&key, slice),
            Update::Node(name, node) => self.node(name, node),
            Update::Pool(name, pool) => {
                self.judge(
                    Kind::Pools,
                    &name,
                    pool.as_ref().and_then(|pool| pool.error.as_deref()),
                );
                everything_if(replace(&mut self.pools, name, pool))
            }
            Update::Advertisement(name, advertisement) => {
                let error = advertisement
                    .as_ref()
                    .and_then(|advertisement| advertisement.error.as_deref());
                self.judge(Kind::Advertisements, &name, error);
                everything_if(replace(&mut self.advertisements, name, advertisement))
            }
            Update::Speaker(name, speaker) => {
                let node = speaker
                    .as_ref()
                    .or(self.speakers.get(&name))
                    .map(|speaker| speaker.node.clone());
                let changed = replace(&mut self.speakers, name, speaker);
                Touched {
                    peer: node.filter(|_| changed),
                    ..Touched::default()
                }
            }
            Update::Status(name, record) => self.status(name, record),
            Update::Invalid(kind, key, error) => {
                match kind {
                    Kind::Pools | Kind::Advertisements => self.judge(kind, &key.name, Some(&error)),
                    Kind::Services | Kind::EndpointSlices | Kind::Nodes | Kind::Speakers | Kind::Statuses => {
                        tracing::warn!(kind = kind.as_str(), object = %key, error, "object cannot be read: left as it was");
                    }
                }
                Touched::default()
            }
            Update::Synced(_) => Touched::default(),
        }
    }

    /// The Services that have this address, by key.
    pub fn having(&self, address: IpAddr) -> impl Iterator<Item = (&Key, &Service)> {
        let keys = self.by_address.get(&address).into_iter().flatten();
        keys.filter_map(|key| self.services.get_key_value(key))
    }

    /// Every address that a Service has.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        self.by_address.keys().copied()
    }

    /// Whether some endpoint of the Service can serve.
    #[must_use]
    pub fn has_endpoint(&self, service: &Key) -> bool {
        self.endpoints_of(service).any(|endpoints| endpoints.serving)
    }

    /// Whether an endpoint of the Service on this node can serve.
    #[must_use]
    pub fn has_endpoint_on(&self, service: &Key, node: &str) -> bool {
        self.endpoints_of(service).any(|endpoints| {
            endpoints
                .nodes
                .binary_search_by(|name| (**name).cmp(node))
                .is_ok()
        })
    }

    fn endpoints_of(&self, service: &Key) -> impl Iterator<Item = &Endpoints> {
        self.endpoints.get(service).into_iter().flat_map(BTreeMap::values)
    }

    /// The pool that a Service's address is from: the one that the controller noted, if it has the address; else the
    /// first by name that has it.
    #[must_use]
    pub fn pool_of(&self, service: &Service, address: IpAddr) -> Option<(&str, &Pool)> {
        let noted = service
            .pool
            .as_ref()
            .and_then(|name| self.pools.get_key_value(name));
        noted
            .filter(|(_, pool)| pool.contains(address))
            .or_else(|| self.pools.iter().find(|(_, pool)| pool.contains(address)))
            .map(|(name, pool)| (name.as_str(), pool))
    }

    /// Whether the speaker of a node is ready; none when it has no speaker.
    #[must_use]
    pub fn speaker_ready(&self, node: &str) -> Option<bool> {
        // During a restart the old Pod and the new one may be there together: one that is ready is enough.
        let speakers = self.speakers.values().filter(|speaker| speaker.node == node);
        speakers
            .map(|speaker| speaker.ready)
            .reduce(|one, other| one || other)
    }

    /// The ServiceL2Statuses of a Service, by name.
    pub fn statuses_of(&self, service: &Key) -> impl Iterator<Item = (&String, &Record)> {
        let names = self.status_names.get(service).into_iter().flatten();
        names.filter_map(|name| self.statuses.get_key_value(name))
    }

    /// Whether a pool or an advertisement is wrong, so that what it says is not in force as a whole.
    #[must_use]
    pub fn has_wrong_configuration(&self) -> bool {
        !self.wrong.is_empty()
    }

    fn service(&mut self, key: Key, service: Option<Service>) -> Touched {
        if self.services.get(&key) == service.as_ref() {
            return Touched::default();
        }
        let mut addresses = BTreeSet::new();
        if let Some(before) = self.services.remove(&key) {
            for address in before.addresses {
                if let Some(keys) = self.by_address.get_mut(&address) {
                    keys.remove(&key);
                    if keys.is_empty() {
                        self.by_address.remove(&address);
                    }
                }
                addresses.insert(address);
            }
        }
        if let Some(service) = service {
            for address in &service.addresses {
                self.by_address.entry(*address).or_default().insert(key.clone());
                addresses.insert(*address);
            }
            self.services.insert(key.clone(), service);
        }
        Touched {
            addresses: addresses.into_iter().collect(),
            statuses: vec![key],
            ..Touched::default()
        }
    }

    fn slice(&mut self, key: &Key, slice: Option<Slice>) -> Touched {
        let mut touched = BTreeSet::new();
        let new = slice.map(|slice| (slice.service.clone(), self.endpoints_in(slice)));
        // The label can change, and then the endpoints belong to another Service.
        let old_service = self
            .slices
            .get(key)
            .filter(|old| new.as_ref().is_none_or(|(service, _)| service != *old));
        if let Some(old_service) = old_service.cloned() {
            self.slices.remove(key);
            let service = Key::new(key.namespace.clone(), old_service);
            if let Some(slices) = self.endpoints.get_mut(&service) {
                slices.remove(&key.name);
                if slices.is_empty() {
                    self.endpoints.remove(&service);
                }
            }
            touched.insert(service);
        }
        if let Some((service, endpoints)) = new {
            self.slices.insert(key.clone(), service.clone());
            let service = Key::new(key.namespace.clone(), service);
            let slices = self.endpoints.entry(service.clone()).or_default();
            if slices.get(&key.name) != Some(&endpoints) {
                slices.insert(key.name.clone(), endpoints);
                touched.insert(service);
            }
        }
        let services = touched.iter().filter_map(|service| self.services.get(service));
        Touched {
            addresses: services
                .flat_map(|service| service.addresses.iter().copied())
                .collect(),
            ..Touched::default()
        }
    }

    /// Thousands of Services run on the same few nodes: each name is kept once.
    fn endpoints_in(&mut self, slice: Slice) -> Endpoints {
        let nodes = slice
            .nodes
            .into_iter()
            .map(|node| match self.names.get(node.as_str()) {
                Some(name) => name.clone(),
                None => {
                    let name: Arc<str> = node.into();
                    self.names.insert(name.clone());
                    name
                }
            });
        Endpoints {
            serving: slice.serving,
            nodes: nodes.collect(),
        }
    }

    fn node(&mut self, name: String, node: Option<Node>) -> Touched {
        let ready = |node: Option<&Node>| node.map(|node| node.ready);
        let before = self.nodes.get(&name);
        let peer = ready(before) != ready(node.as_ref());
        // Readiness alone concerns the election only through the speaker.
        let rest = |node: Option<&Node>| node.cloned().map(|node| Node { ready: true, ..node });
        let everything = rest(before) != rest(node.as_ref());
        if node.is_none() {
            self.names.retain(|name| Arc::strong_count(name) > 1);
        }
        replace(&mut self.nodes, name.clone(), node);
        Touched {
            everything,
            peer: peer.then_some(name),
            ..Touched::default()
        }
    }

    fn status(&mut self, name: String, record: Option<Record>) -> Touched {
        let mut statuses = Vec::new();
        if let Some(before) = self.statuses.get(&name) {
            if let Some(names) = self.status_names.get_mut(&before.service) {
                names.remove(&name);
                if names.is_empty() {
                    self.status_names.remove(&before.service);
                }
            }
            statuses.push(before.service.clone());
        }
        if let Some(record) = &record {
            self.status_names
                .entry(record.service.clone())
                .or_default()
                .insert(name.clone());
            if !statuses.contains(&record.service) {
                statuses.push(record.service.clone());
            }
        }
        replace(&mut self.statuses, name, record);
        Touched {
            statuses,
            ..Touched::default()
        }
    }

    fn judge(&mut self, kind: Kind, name: &str, error: Option<&str>) {
        let entry = (kind, name.to_owned());
        match error {
            Some(error) => {
                tracing::warn!(
                    kind = kind.as_str(),
                    name,
                    error,
                    "part of the configuration is not in force"
                );
                self.wrong.insert(entry);
            }
            None => {
                self.wrong.remove(&entry);
            }
        }
    }
}

/// Puts a value in its place, or takes it out; returns whether that changed anything.
fn replace<V: PartialEq>(map: &mut BTreeMap<String, V>, name: String, value: Option<V>) -> bool {
    if map.get(&name) == value.as_ref() {
        return false;
    }
    match value {
        Some(value) => map.insert(name, value),
        None => map.remove(&name),
    };
    true
}

fn everything_if(changed: bool) -> Touched {
    Touched {
        everything: changed,
        ..Touched::default()
    }
}
