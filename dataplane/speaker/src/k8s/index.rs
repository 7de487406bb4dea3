//! What the speaker knows of the cluster: one plain struct, fed by the watches. Each update tells what has to be looked
//! at again, so that one changed EndpointSlice among thousands costs one decision.

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

/// One change of a watched object; none when it is gone, or does not concern us (any more).
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
    /// An object that cannot be read: what was known of it stays, because to withdraw an address over it would be worse.
    Invalid(Kind, ObjectKey, String),
    /// All objects of the kind have been delivered.
    Synced(Kind),
}

/// What has to be looked at again after an update.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Affected {
    /// Every address: candidates or advertisements changed.
    pub everything: bool,
    /// These addresses.
    pub addresses: Vec<IpAddr>,
    /// The node whose speaker's state may have changed.
    pub peer: Option<String>,
    /// Services whose ServiceL2Status may have to change.
    pub statuses: Vec<ObjectKey>,
}

/// The endpoints of one slice.
#[derive(Clone, Debug, Eq, PartialEq)]
struct Endpoints {
    service: ObjectKey,
    serving: bool,
    nodes: Box<[Arc<str>]>,
}

/// The state of the cluster, as far as it concerns announcing: about 1 KB for each Service, with keys and names shared.
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
    /// Addresses with the Services that have them.
    by_address: BTreeSet<(IpAddr, ObjectKey)>,
    /// Services with the names of their ServiceL2Statuses.
    statuses_of: BTreeSet<(ObjectKey, ObjectKey)>,
    /// What each slice says of its Service. A deleted one is known by name only.
    slices: BTreeMap<ObjectKey, Endpoints>,
    /// Services with their slices.
    slices_of: BTreeSet<(ObjectKey, ObjectKey)>,
    /// Interner of nodes, pools and interfaces, and uids of nodes.
    names: Interner,
    /// Pools and advertisements that are wrong.
    wrong: BTreeSet<(Kind, String)>,
}

impl Index {
    /// Takes in an update.
    pub fn update(&mut self, update: Update) -> Affected {
        match update {
            Update::Service(key, service) => self.service(key, service),
            Update::Slice(key, slice) => self.slice(key, slice),
            Update::Node(name, node) => self.node(name, node),
            Update::Pool(name, pool) => {
                self.judge(
                    Kind::Pools,
                    &name,
                    pool.as_ref().and_then(|pool| pool.error.as_deref()),
                );
                everything_if(replace(&mut self.pools, name.into(), pool))
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
                Affected {
                    peer: node.filter(|_| changed),
                    ..Affected::default()
                }
            }
            Update::Status(name, record) => self.status(name, record),
            Update::Invalid(kind, key, error) => {
                match kind {
                    Kind::Pools | Kind::Advertisements => self.judge(kind, key.name(), Some(&error)),
                    Kind::Services | Kind::EndpointSlices | Kind::Nodes | Kind::Speakers | Kind::Statuses => {
                        tracing::warn!(kind = kind.as_str(), object = %key, error, "object cannot be read: left as it was");
                    }
                }
                Affected::default()
            }
            Update::Synced(_) => Affected::default(),
        }
    }

    /// The Services that have this address, by key.
    pub fn having(&self, address: IpAddr) -> impl Iterator<Item = (&ObjectKey, &Service)> {
        beside(&self.by_address, address).filter_map(|key| self.services.get_key_value(key))
    }

    /// Every address that a Service has; one that several share comes several times.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        self.by_address.iter().map(|(address, _)| *address)
    }

    /// Whether some endpoint of the Service can serve.
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
        beside(&self.slices_of, service.clone()).filter_map(|slice| self.slices.get(slice))
    }

    /// The pool that a Service's address is from: the one that the controller noted, if it has the address; else the
    /// first by name that has it.
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
    pub fn statuses_of(&self, service: &ObjectKey) -> impl Iterator<Item = (&str, &ReportedStatus)> {
        let names = beside(&self.statuses_of, service.clone());
        names.filter_map(|name| Some((name.name(), &**self.statuses.get(name)?)))
    }

    /// Whether a pool or an advertisement is wrong, so that what it says is not in force as a whole.
    #[must_use]
    pub fn has_wrong_configuration(&self) -> bool {
        !self.wrong.is_empty()
    }

    fn service(&mut self, key: ObjectKey, service: Option<Service>) -> Affected {
        if self.services.get(&key) == service.as_ref() {
            return Affected::default();
        }
        let key = self.one_key(key);
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
                self.names.share(pool);
            }
            // Who announces the address holds the one that was there before.
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
        // The label can change, and then the endpoints belong to another Service.
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
            service: self.one_key(ObjectKey::new(key.namespace(), slice.service)),
            serving: slice.serving,
            nodes: slice.nodes.iter().map(|node| self.names.intern(node)).collect(),
        }
    }

    /// The one copy of the key of a Service, which its slices and statuses name as well.
    fn one_key(&self, service: ObjectKey) -> ObjectKey {
        let with_slice = || {
            let mut pairs = self.slices_of.range((service.clone(), ObjectKey::default())..);
            pairs.next().map(|(key, _)| key).filter(|key| **key == service)
        };
        let known = self.services.get_key_value(&service).map(|(key, _)| key);
        known.or_else(with_slice).cloned().unwrap_or(service)
    }

    fn node(&mut self, name: String, node: Option<Node>) -> Affected {
        let ready = |node: Option<&Node>| node.map(|node| node.ready);
        let before = self.nodes.get(&name);
        let peer = ready(before) != ready(node.as_ref());
        // Readiness alone concerns the election only through the speaker.
        let rest = |node: Option<&Node>| node.cloned().map(|node| Node { ready: true, ..node });
        let everything = rest(before) != rest(node.as_ref());
        replace(&mut self.nodes, name.clone(), node);
        Affected {
            everything,
            peer: peer.then_some(name),
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
            self.names.share(&mut record.node);
            record
                .interfaces
                .iter_mut()
                .for_each(|name| self.names.share(name));
            if let Some(health) = &mut record.health
                && let Some(verification) = &mut health.verification
            {
                self.names.share(&mut verification.by);
            }
            if let Some(owner) = &mut record.owner {
                self.names.share(owner);
            }
            record.service = self.one_key(record.service);
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

/// What stands beside the first of each pair, in order.
fn beside<A: Ord, B: Default + Ord>(pairs: &BTreeSet<(A, B)>, first: A) -> impl Iterator<Item = &B> {
    let from = (first, B::default());
    let pairs = pairs.range(&from..);
    pairs.take_while(move |pair| pair.0 == from.0).map(|pair| &pair.1)
}

/// Puts a value in its place, or takes it out; returns whether that changed anything.
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

fn everything_if(changed: bool) -> Affected {
    Affected {
        everything: changed,
        ..Affected::default()
    }
}
