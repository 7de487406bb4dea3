//! The cluster as controller and speakers see it: the snapshot in their own structs, for their own decisions.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1;
use lb_controller::allocation_key::AllocationKey;
use lb_controller::objects::CachedPool;
use lb_controller::service::{CachedService, Role};
use lb_controller::service_allocation::CompactLabels;
use lb_crds::names::{LABEL_COMPONENT, SPEAKER};
use lb_ipam::{AddressRequest, AdoptRequest, Allocator, Families, RecordedPools, Rejection, Request};
use lb_runtime::ObjectKey;
use lb_speaker::bgp::configuration::{self, Configuration};
use lb_speaker::bgp::{decide as bgp_decide, objects as bgp};
use lb_speaker::decide::{self, Decision, DecisionInput};
use lb_speaker::k8s::index::{Index, Update};
use lb_speaker::k8s::objects::{Advertisement, Node, Pool, ReportedStatus, Service, Slice, Speaker};
use lb_speaker::node_table::NodeTable;
use lb_speaker::peers::Peers;
use lb_speaker::reasons::{Ineligible, UnannouncedReason};

use crate::snapshot::{self, Snapshot};

/// No node: the decisions are nobody's own.
const NO_NODE: &str = "";
/// How long a node remains a candidate while its speaker restarts: one snapshot is shorter.
const GRACE: Duration = Duration::from_secs(60);

/// The cluster, ready for decisions.
pub(crate) struct Cluster<'a> {
    pub(crate) snapshot: &'a Snapshot,
    pub(crate) index: Index,
    nodes: NodeTable,
    peers: Peers,
    pub(crate) allocator: Allocator<AllocationKey>,
    pools: BTreeMap<String, CachedPool>,
    /// The Services as the controller reads them, those of other classes left out.
    services: BTreeMap<ObjectKey, CachedService>,
    namespace_labels: BTreeMap<String, CompactLabels>,
    bgp: Configuration,
    pub(crate) ignore_exclude_label: bool,
}

/// Whether the nodes may announce an address, and the first ones in order.
pub(crate) struct Eligibility<'a> {
    /// In election order.
    pub(crate) order: Vec<&'a str>,
    /// Every other node, with the reason.
    pub(crate) ineligible: BTreeMap<&'a str, Ineligible>,
}

impl<'a> Cluster<'a> {
    /// Reads the objects as the programs do.
    pub(crate) fn new(snapshot: &'a Snapshot) -> Self {
        let speaker = snapshot.stack().and_then(|stack| stack.spec.speaker.as_ref());
        let ignore_exclude_label = speaker.is_some_and(|speaker| speaker.ignore_exclude_label);
        let index = index(snapshot);
        let now = Instant::now();
        let mut peers = Peers::new(NO_NODE, GRACE);
        for name in index.nodes.keys() {
            peers.update(now, &index, name);
        }
        let mut nodes = NodeTable::new(ignore_exclude_label);
        nodes.rebuild(&index, &peers);
        let read_pool = |pool| {
            let cached = CachedPool::read(pool);
            (pool.metadata.name.clone().unwrap_or_default(), cached)
        };
        let pools = snapshot.pools.iter().filter(|pool| snapshot.is_ours(*pool));
        let class = snapshot.class();
        let services = snapshot.services.iter();
        let services = services
            .filter_map(|service| Some((ObjectKey::of(service), CachedService::read(service, class)?)));
        let labels = snapshot.namespaces.iter().map(|namespace| {
            let name = namespace.metadata.name.clone().unwrap_or_default();
            (name, CompactLabels::read(namespace.metadata.labels.as_ref()))
        });
        let mut cluster = Self {
            snapshot,
            index,
            nodes,
            peers,
            allocator: Allocator::default(),
            pools: pools.map(read_pool).collect(),
            services: services.collect(),
            namespace_labels: labels.collect(),
            bgp: configuration(snapshot),
            ignore_exclude_label,
        };
        cluster.allocator = cluster.assigned();
        cluster
    }

    /// The pools with the addresses that the Services have.
    fn assigned(&self) -> Allocator<AllocationKey> {
        let mut allocator = Allocator::default();
        allocator.advance_to(self.snapshot.now.as_second());
        let candidates = self.pools.iter();
        allocator.set_pools(
            candidates
                .map(|(name, pool)| (name.clone(), pool.candidate.clone()))
                .collect(),
        );
        for (name, pool) in &self.pools {
            allocator.restore_releases(name, &pool.released);
        }
        let nodes = self.index.nodes.values();
        allocator.set_reserved(nodes.flat_map(|node| node.held_addresses.clone()).collect());
        for (key, service) in &self.services {
            let (families, sharing_mode) = match &service.role {
                Role::LoadBalancer(Ok(request)) => (request.families, request.sharing_mode.clone()),
                Role::LoadBalancer(Err(invalid)) => (Families::PreferDualStack, invalid.sharing_mode.clone()),
                Role::Former | Role::OtherClass => continue,
            };
            let addresses = families.restrict(&service.status.addresses);
            if addresses.is_empty() || service.has_foreign_status() {
                continue;
            }
            // A conflict stays: the controller solves it, and reports it in a condition.
            let _ = allocator.adopt(
                &AllocationKey::Service(key.clone()),
                AdoptRequest {
                    addresses,
                    recorded: RecordedPools(service.pool.as_deref()),
                    sharing_mode,
                    allow_outside_pools: true,
                },
            );
        }
        allocator
    }

    /// The Service as the controller reads it; `None` if it is not of its class.
    pub(crate) fn cached(&self, key: &ObjectKey) -> Option<&CachedService> {
        self.services.get(key)
    }

    /// Whether the pool's `serviceAllocation` matches a Service.
    pub(crate) fn pool_selects(&self, pool: &str, key: &ObjectKey) -> bool {
        let Some(rules) = self.pools.get(pool).and_then(|pool| pool.allocation.as_ref()) else {
            return true;
        };
        let labels = self.namespace_labels.get(key.namespace());
        let service = self.services.get(key);
        service.is_some_and(|service| rules.matches(key.namespace(), labels, &service.labels))
    }

    /// Why the controller would assign no address to a Service that requests this; `None` if it would assign one. Each
    /// answer is given as if no other had been given.
    pub(crate) fn rejections<const N: usize>(
        &self,
        key: &ObjectKey,
        requests: [Request; N],
    ) -> [Option<Rejection>; N] {
        let mut allocator = self.allocator.clone();
        let holder = AllocationKey::Service(key.clone());
        requests.map(|request| {
            allocator.release(&holder);
            let filter = |pool: &str| self.pool_selects(pool, key);
            match allocator.assign(&holder, &request, &filter) {
                Ok(assigned) => assigned.incomplete,
                Err(rejection) => Some(rejection),
            }
        })
    }

    /// Why each pool would give the Service no address if it requested that pool.
    pub(crate) fn rejection_of_each_pool(
        &self,
        key: &ObjectKey,
        request: &Request,
    ) -> BTreeMap<&str, Option<Rejection>> {
        let mut allocator = self.allocator.clone();
        let holder = AllocationKey::Service(key.clone());
        let filter = |pool: &str| self.pool_selects(pool, key);
        let mut rejection = |name: &String| {
            allocator.release(&holder);
            let request = Request {
                address: AddressRequest::Pool(name.clone()),
                ..request.clone()
            };
            allocator.assign(&holder, &request, &filter).err()
        };
        self.pools
            .keys()
            .map(|name| (name.as_str(), rejection(name)))
            .collect()
    }

    fn input(&self) -> DecisionInput<'_> {
        DecisionInput {
            local_node: NO_NODE,
            index: &self.index,
            nodes: &self.nodes,
        }
    }

    /// Which nodes may announce an address, or why none may. `None` if no Service of the stack has the address.
    pub(crate) fn eligibility(&self, address: IpAddr) -> Option<Result<Eligibility<'_>, UnannouncedReason>> {
        let input = self.input();
        let order = match decide::decide(&input, address).decision {
            Decision::Unused => return None,
            Decision::NoCandidates { reason, .. } => return Some(Err(reason)),
            Decision::Candidates { order, .. } => order,
        };
        let all = decide::eligibility(&input, address).ok()?;
        let ineligible = all
            .into_iter()
            .filter_map(|(name, result)| Some((name, result.err()?)));
        Some(Ok(Eligibility {
            order,
            ineligible: ineligible.collect(),
        }))
    }

    /// Why each node may not announce an address, if the Service can be announced at all.
    pub(crate) fn nodes_of(&self, address: IpAddr) -> BTreeMap<&str, Result<(), Ineligible>> {
        decide::eligibility(&self.input(), address).unwrap_or_default()
    }

    /// The status that says which node announces the Service.
    pub(crate) fn status(&self, key: &ObjectKey) -> Option<&ReportedStatus> {
        let mut statuses: Vec<_> = self.index.statuses_of(key).map(|(_, status)| status).collect();
        // With a node first: a former reporter may have left one without.
        statuses.sort_by_key(|status| status.node.is_empty());
        statuses.into_iter().next()
    }

    /// The peers that each node announces the Service to, by name of the node; only nodes that announce it.
    pub(crate) fn bgp_peers(&self, key: &ObjectKey) -> BTreeMap<&str, Vec<String>> {
        let Some(service) = self.index.services.get(key) else {
            return BTreeMap::new();
        };
        let active = self.bgp.active();
        let announces = |name: &String, node: &Node| {
            let input = bgp_decide::DecisionInput {
                local_node: name,
                ignore_exclude_label: self.ignore_exclude_label,
                has_left: node.out_of_service || node.excluded() && !self.ignore_exclude_label,
                index: &self.index,
                advertisements: active,
            };
            let routes = bgp_decide::decide(&input, key, service).ok()?;
            let advertised_to = |peer: &String| {
                routes.iter().any(|(_, id)| {
                    active.get(id).is_some_and(|one| {
                        one.advertisement.peers.is_empty() || one.advertisement.peers.contains(peer)
                    })
                })
            };
            let peers = self.bgp.peers().iter();
            let peers = peers.filter(|(peer, object)| object.selects_node(node) && advertised_to(peer));
            Some(
                peers
                    .map(|(peer, object)| format!("{peer} ({})", object.settings.router.ip()))
                    .collect(),
            )
        };
        let nodes = self.index.nodes.iter();
        nodes
            .filter(|(name, _)| self.peers.has_speaker(name))
            .filter_map(|(name, node)| Some((name.as_str(), announces(name, node)?)))
            .collect()
    }

    /// Whether BGP announces an address, as far as the configuration goes.
    pub(crate) fn is_advertised_by_bgp(&self, address: IpAddr) -> bool {
        bgp_decide::is_selected(&self.index, self.bgp.active(), address)
    }

    /// Whether the node has a speaker that is ready or restarts.
    pub(crate) fn has_speaker(&self, node: &str) -> bool {
        self.peers.has_speaker(node)
    }

    /// The pool of an address of a Service.
    pub(crate) fn pool_of(&self, key: &ObjectKey, address: IpAddr) -> Option<&str> {
        let service = self.index.services.get(key)?;
        self.index.pool_of(service, address).map(|(name, _)| &**name)
    }

    /// The pool that contains an address, whoever has it.
    pub(crate) fn pool_containing(&self, address: IpAddr) -> Option<&str> {
        let mut pools = self.index.pools.iter();
        pools
            .find(|(_, pool)| pool.contains(address))
            .map(|(name, _)| &**name)
    }
}

fn index(snapshot: &Snapshot) -> Index {
    let mut index = Index::default();
    let name = |meta: &kube::core::ObjectMeta| meta.name.clone().unwrap_or_default();
    let class = snapshot.class();
    for node in &snapshot.nodes {
        index.update(Update::Node(name(&node.metadata), Some(Node::read(node.clone()))));
    }
    for pool in snapshot.pools.iter().filter(|pool| snapshot.is_ours(*pool)) {
        index.update(Update::Pool(name(&pool.metadata), Some(Pool::read(pool.clone()))));
    }
    for one in snapshot
        .l2_advertisements
        .iter()
        .filter(|one| snapshot.is_ours(*one))
    {
        let advertisement = Advertisement::read(one.clone());
        index.update(Update::Advertisement(name(&one.metadata), Some(advertisement)));
    }
    for pod in snapshot.pods.iter().filter(|pod| is_component(pod, SPEAKER)) {
        index.update(Update::Speaker(name(&pod.metadata), Speaker::read(pod.clone())));
    }
    for service in snapshot
        .services
        .iter()
        .filter(|service| snapshot::is_load_balancer(service))
    {
        if let Some(read) = Service::read(service.clone(), class) {
            index.update(Update::Service(ObjectKey::of(service), Some(read)));
        }
    }
    for slice in &snapshot.slices {
        index.update(Update::Slice(ObjectKey::of(slice), Slice::read(slice.clone())));
    }
    for status in &snapshot.statuses {
        let read = ReportedStatus::read(status.clone());
        index.update(Update::Status(ObjectKey::of(status), Some(read)));
    }
    index
}

/// Whether a pod is of the controller or of a speaker.
pub(crate) fn is_component(pod: &v1::Pod, component: &str) -> bool {
    let labels = pod.metadata.labels.as_ref();
    labels
        .and_then(|labels| labels.get(LABEL_COMPONENT))
        .is_some_and(|value| value == component)
}

fn configuration(snapshot: &Snapshot) -> Configuration {
    let mut configuration = Configuration::new();
    let name = |meta: &kube::core::ObjectMeta| meta.name.clone().unwrap_or_default();
    for peer in snapshot.bgp_peers.iter().filter(|one| snapshot.is_ours(*one)) {
        let read = bgp::Peer::read(peer.clone());
        configuration.update(configuration::Update::Peer(name(&peer.metadata), Some(read)));
    }
    for one in snapshot
        .bgp_advertisements
        .iter()
        .filter(|one| snapshot.is_ours(*one))
    {
        let read = bgp::Advertisement::read(one.clone());
        configuration.update(configuration::Update::Advertisement(
            name(&one.metadata),
            Some(read),
        ));
    }
    for one in &snapshot.communities {
        let aliases = bgp::Aliases::read(one.clone());
        configuration.update(configuration::Update::Community(
            name(&one.metadata),
            Some(aliases),
        ));
    }
    for kind in configuration::Kind::ALL {
        configuration.update(configuration::Update::Synced(kind));
    }
    configuration
}
