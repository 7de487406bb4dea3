//! Creates and deletes thousands of Services over several connections, and records when each got its address.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use futures::StreamExt;
use futures::future::try_join_all;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{DeleteParams, PostParams};
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client, Config, ResourceExt};
use lb_crds::names::LOAD_BALANCER_IPS;
use serde_json::json;
use tokio::sync::Notify;
use tokio::task::JoinHandle;

/// Namespace of the benchmark's Services.
pub const NAMESPACE: &str = "bench";
/// Connections for creating and deleting Services, with one request at a time on each.
const CONNECTIONS: usize = 16;

/// Creates and deletes Services.
pub struct ServiceClient {
    apis: Vec<Apis>,
}

/// APIs over one connection.
struct Apis {
    services: Api<Service>,
    slices: Api<EndpointSlice>,
}

/// A Service that requests an address and has an endpoint, so that the address is announced.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Announced {
    /// Name of the Service.
    pub name: String,
    /// The requested address.
    pub address: Ipv4Addr,
}

impl ServiceClient {
    /// Opens the connections.
    ///
    /// # Errors
    /// When the credentials are not usable.
    pub fn new(config: &Config) -> anyhow::Result<Self> {
        let api = |_| {
            let client = Client::try_from(config.clone()).context("make a client")?;
            Ok(Apis {
                services: Api::namespaced(client.clone(), NAMESPACE),
                slices: Api::namespaced(client, NAMESPACE),
            })
        };
        let apis = (0..CONNECTIONS).map(api).collect::<anyhow::Result<_>>()?;
        Ok(Self { apis })
    }

    /// Creates Services as fast as the API server accepts them. Returns the times of its acknowledgements.
    ///
    /// # Errors
    /// When the API server rejects one.
    pub async fn create(&self, names: &[String]) -> anyhow::Result<BTreeMap<String, Instant>> {
        let acknowledged = RefCell::new(BTreeMap::new());
        self.for_each(names, async |apis, name| {
            let service = service(name, None).with_context(|| format!("make the manifest of {name}"))?;
            apis.services
                .create(&PostParams::default(), &service)
                .await
                .with_context(|| format!("create service {name}"))?;
            acknowledged.borrow_mut().insert(name.clone(), Instant::now());
            Ok(())
        })
        .await?;
        Ok(acknowledged.into_inner())
    }

    /// Creates Services and their endpoints.
    ///
    /// # Errors
    /// When the API server rejects one.
    pub async fn announce(&self, services: &[Announced]) -> anyhow::Result<()> {
        self.for_each(services, async |apis, announced| {
            let name = &announced.name;
            let failed = || format!("make service {name} and its endpoint");
            let service = service(name, Some(announced.address)).with_context(failed)?;
            let endpoint = endpoint(name).with_context(failed)?;
            let params = PostParams::default();
            apis.services
                .create(&params, &service)
                .await
                .with_context(failed)?;
            apis.slices
                .create(&params, &endpoint)
                .await
                .with_context(failed)?;
            Ok(())
        })
        .await
    }

    /// Deletes Services.
    ///
    /// # Errors
    /// When the API server rejects a deletion.
    pub async fn delete(&self, names: &[String]) -> anyhow::Result<()> {
        self.for_each(names, async |apis, name| {
            apis.services
                .delete(name, &DeleteParams::default())
                .await
                .with_context(|| format!("delete service {name}"))?;
            Ok(())
        })
        .await
    }

    /// Each connection takes the next name when it is free.
    async fn for_each<T>(
        &self,
        items: &[T],
        act: impl AsyncFn(&Apis, &T) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        let next = Cell::new(0);
        let (next, act) = (&next, &act);
        let hands = self.apis.iter().map(async |apis| {
            while let Some(item) = items.get(next.get()) {
                next.set(next.get() + 1);
                act(apis, item).await?;
            }
            anyhow::Ok(())
        });
        try_join_all(hands).await?;
        Ok(())
    }
}

/// The names of `count` Services.
#[must_use]
pub fn names(count: usize) -> Vec<String> {
    (0..count).map(|number| format!("service-{number:05}")).collect()
}

/// A Service without pods, which may request an address. Its label makes kube-proxy ignore it.
fn service(name: &str, address: Option<Ipv4Addr>) -> serde_json::Result<Service> {
    let annotations: BTreeMap<_, _> = address
        .map(|address| (LOAD_BALANCER_IPS.key, address.to_string()))
        .into_iter()
        .collect();
    serde_json::from_value(json!({
        "metadata": {
            "name": name,
            "labels": {"service.kubernetes.io/service-proxy-name": "none"},
            "annotations": annotations,
        },
        "spec": {"type": "LoadBalancer", "allocateLoadBalancerNodePorts": false, "ports": [{"port": 80}]},
    }))
}

/// A ready endpoint. Written here because the cluster's own controller creates only 20 a second.
fn endpoint(service: &str) -> serde_json::Result<EndpointSlice> {
    serde_json::from_value(json!({
        "metadata": {"name": service, "labels": {"kubernetes.io/service-name": service}},
        "addressType": "IPv4",
        "endpoints": [{"addresses": ["10.244.1.250"], "conditions": {"ready": true}}],
        "ports": [{"port": 80, "protocol": "TCP"}],
    }))
}

/// The observed state of a Service.
#[derive(Clone, Debug)]
struct Seen {
    version: String,
    /// Its address, and the time when it was first observed.
    assigned: Option<(IpAddr, Instant)>,
}

/// The observed state of all Services in the namespace.
#[derive(Default)]
struct Sight {
    services: BTreeMap<String, Seen>,
    /// Number of Services with an address.
    assigned: usize,
}

/// Watches the benchmark's Services.
pub struct Watch {
    shared: Rc<Shared>,
    task: JoinHandle<()>,
}

#[derive(Default)]
struct Shared {
    sight: RefCell<Sight>,
    changed: Notify,
}

impl Watch {
    /// Starts to watch. Needs a [`tokio::task::LocalSet`].
    #[must_use]
    pub fn start(client: &Client) -> Self {
        let shared = Rc::new(Shared::default());
        let api = Api::namespaced(client.clone(), NAMESPACE);
        let task = tokio::task::spawn_local(follow(api, Rc::clone(&shared)));
        Self { shared, task }
    }

    /// Waits until `count` Services have an address, at most `within`. Returns the number that have one.
    pub async fn assigned(&self, count: usize, within: Duration) -> usize {
        self.until(within, |sight| sight.assigned >= count).await;
        self.shared.sight.borrow().assigned
    }

    /// Waits until at most `count` Services exist.
    ///
    /// # Errors
    /// When there are more after `within`.
    pub async fn left(&self, count: usize, within: Duration) -> anyhow::Result<()> {
        if !self.until(within, |sight| sight.services.len() <= count).await {
            bail!("deleted Services still exist after {within:?}");
        }
        Ok(())
    }

    /// Waits until a Service has an address, and returns when it was first observed; `None` after `within`.
    pub async fn address(&self, name: &str, within: Duration) -> Option<Instant> {
        self.until(within, |sight| sight.when(name).is_some()).await;
        self.shared.sight.borrow().when(name)
    }

    /// Times when these Services were first observed with an address.
    #[must_use]
    pub fn when(&self, names: &[String]) -> BTreeMap<String, Instant> {
        let sight = self.shared.sight.borrow();
        let when = |name: &String| Some((name.clone(), sight.when(name)?));
        names.iter().filter_map(when).collect()
    }

    /// The resource versions of these Services.
    #[must_use]
    pub fn versions(&self, names: &[String]) -> BTreeMap<String, String> {
        let sight = self.shared.sight.borrow();
        let version = |name: &String| Some((name.clone(), sight.services.get(name)?.version.clone()));
        names.iter().filter_map(version).collect()
    }

    /// Number of Services whose address another Service has too.
    #[must_use]
    pub fn doubles(&self) -> usize {
        let sight = self.shared.sight.borrow();
        let addresses = || sight.services.values().filter_map(|seen| Some(seen.assigned?.0));
        addresses().count() - addresses().collect::<BTreeSet<_>>().len()
    }

    async fn until(&self, within: Duration, is_so: impl Fn(&Sight) -> bool) -> bool {
        let wait = async {
            while !is_so(&self.shared.sight.borrow()) {
                self.shared.changed.notified().await;
            }
        };
        tokio::time::timeout(within, wait).await.is_ok()
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Sight {
    fn when(&self, name: &str) -> Option<Instant> {
        self.services.get(name)?.assigned.map(|(_, when)| when)
    }

    fn apply(&mut self, service: &Service, now: Instant) {
        let had = self
            .services
            .get(&service.name_any())
            .and_then(|seen| seen.assigned);
        let seen = Seen {
            version: service.resource_version().unwrap_or_default(),
            assigned: address(service).map(|address| (address, had.map_or(now, |(_, when)| when))),
        };
        self.assigned += usize::from(seen.assigned.is_some());
        self.assigned -= usize::from(had.is_some());
        self.services.insert(service.name_any(), seen);
    }

    fn delete(&mut self, name: &str) {
        let gone = self.services.remove(name);
        self.assigned -= usize::from(gone.is_some_and(|seen| seen.assigned.is_some()));
    }
}

fn address(service: &Service) -> Option<IpAddr> {
    let balancer = service.status.as_ref()?.load_balancer.as_ref()?;
    balancer.ingress.as_ref()?.first()?.ip.as_ref()?.parse().ok()
}

async fn follow(api: Api<Service>, shared: Rc<Shared>) {
    let mut events = std::pin::pin!(watcher(api, watcher::Config::default()).default_backoff());
    let mut listed = BTreeSet::new();
    while let Some(event) = events.next().await {
        let now = Instant::now();
        let mut sight = shared.sight.borrow_mut();
        match event {
            Ok(Event::Apply(service)) => sight.apply(&service, now),
            Ok(Event::Delete(service)) => sight.delete(&service.name_any()),
            Ok(Event::Init) => listed.clear(),
            Ok(Event::InitApply(service)) => {
                listed.insert(service.name_any());
                sight.apply(&service, now);
            }
            Ok(Event::InitDone) => {
                let gone: Vec<_> = sight
                    .services
                    .keys()
                    .filter(|name| !listed.contains(*name))
                    .cloned()
                    .collect();
                for name in gone {
                    sight.delete(&name);
                }
            }
            // Later times would be too large.
            Err(error) => eprintln!("watch interrupted, later times are too large: {error}"),
        }
        drop(sight);
        shared.changed.notify_waiters();
    }
}
