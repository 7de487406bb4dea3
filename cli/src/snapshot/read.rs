//! Reads the objects, in pages and side by side.

use std::fmt::Debug;

use anyhow::{Context, bail};
use futures::join;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Service;
use kube::api::ListParams;
use kube::core::DeserializeGuard;
use kube::{Api, Client, Resource};
use lb_crds::names::{APP, LABEL_APP};
use serde::de::DeserializeOwned;

use super::{Scope, Snapshot, Unread};

/// Objects in one response.
const PAGE: u32 = 500;

/// The objects of one kind, or why they were not read.
enum Listed<K> {
    /// With those that are missing.
    Objects(Vec<K>, Vec<Unread>),
    /// The API server does not have the kind.
    Absent,
    /// With the reason.
    Unread(String),
}

impl<K> Listed<K> {
    /// The same objects, and something else that is missing.
    fn with_gap(self, gap: Unread) -> Self {
        match self {
            Self::Objects(objects, mut gaps) => {
                gaps.push(gap);
                Self::Objects(objects, gaps)
            }
            other => other,
        }
    }
}

/// Reads the cluster.
///
/// # Errors
/// If the API server cannot be reached, or refuses the credentials.
pub(crate) async fn read(client: &Client, scope: &Scope) -> anyhow::Result<Snapshot> {
    let mut snapshot = Snapshot {
        now: Timestamp::now(),
        scope: scope.clone(),
        ..Snapshot::default()
    };
    // Alone, because its spec has the namespace; and because it says whether the API server answers at all.
    let stacks = list(Api::all(client.clone()), ListParams::default()).await?;
    snapshot.stacks = snapshot.keep("LoadBalancerStack", stacks);
    let namespace = snapshot.namespace().to_owned();
    let ours = ListParams::default().labels(&format!("{LABEL_APP}={APP}"));
    let slices = async {
        match scope {
            Scope::All => list(Api::all(client.clone()), ListParams::default()).await,
            Scope::Stack => Ok(Listed::Objects(Vec::new(), Vec::new())),
            Scope::One(key) => {
                let label = format!("{}={}", lb_speaker::k8s::objects::LABEL_SERVICE, key.name());
                let api = Api::namespaced(client.clone(), key.namespace());
                list(api, ListParams::default().labels(&label)).await
            }
        }
    };
    let services = async {
        if *scope == Scope::Stack {
            return Ok(Listed::Objects(Vec::new(), Vec::new()));
        }
        match (
            list::<Service>(Api::all(client.clone()), ListParams::default()).await,
            scope,
        ) {
            (Ok(Listed::Unread(reason)), Scope::One(key)) => {
                // Users with rights in their own namespace only.
                let api = Api::namespaced(client.clone(), key.namespace());
                let own = list::<Service>(api, ListParams::default()).await;
                own.map(|own| {
                    let namespace = key.namespace();
                    let text = format!("Service: only those of namespace {namespace}: {reason}");
                    own.with_gap(Unread::new("Service", text))
                })
            }
            (services, _) => services,
        }
    };
    macro_rules! every {
        () => {
            list(Api::all(client.clone()), ListParams::default())
        };
    }
    macro_rules! stacks_own {
        ($params:expr) => {
            list(Api::namespaced(client.clone(), &namespace), $params)
        };
    }
    let (services, slices, namespaces, nodes, pods) =
        join!(services, slices, every!(), every!(), stacks_own!(ours));
    let (pools, l2_advertisements, bgp_advertisements, bgp_peers) =
        join!(every!(), every!(), every!(), every!());
    let (communities, statuses, states) = join!(
        stacks_own!(ListParams::default()),
        stacks_own!(ListParams::default()),
        stacks_own!(ListParams::default())
    );
    snapshot.services = snapshot.keep("Service", services?);
    snapshot.slices = snapshot.keep("EndpointSlice", slices?);
    snapshot.namespaces = snapshot.keep("Namespace", namespaces?);
    snapshot.nodes = snapshot.keep("Node", nodes?);
    snapshot.pods = snapshot.keep("Pod", pods?);
    snapshot.pools = snapshot.keep("IPAddressPool", pools?);
    snapshot.l2_advertisements = snapshot.keep("L2Advertisement", l2_advertisements?);
    snapshot.bgp_advertisements = snapshot.keep("BGPAdvertisement", bgp_advertisements?);
    snapshot.bgp_peers = snapshot.keep("BGPPeer", bgp_peers?);
    snapshot.communities = snapshot.keep("Community", communities?);
    snapshot.statuses = snapshot.keep("ServiceL2Status", statuses?);
    snapshot.states = snapshot.keep("ConfigurationState", states?);
    if snapshot.bgp_advertisements.is_empty() {
        // Users who may only view may not read peers, because a peer may have a password in it.
        snapshot.unread.retain(|one| one.kind != "BGPPeer");
    }
    Ok(snapshot)
}

/// Reads the endpoints of all Services too, after those of one.
///
/// # Errors
/// As [`read`].
pub(crate) async fn read_all_endpoints(client: &Client, snapshot: &mut Snapshot) -> anyhow::Result<()> {
    let slices = list(Api::all(client.clone()), ListParams::default()).await?;
    // Without the right to read all, those of the one Service stay.
    if let Listed::Objects(slices, gaps) = slices {
        snapshot.slices = slices;
        snapshot.unread.extend(gaps);
        snapshot.scope = Scope::All;
    }
    Ok(())
}

impl Snapshot {
    /// The objects; notes what is missing.
    fn keep<K>(&mut self, kind: &'static str, listed: Listed<K>) -> Vec<K> {
        match listed {
            Listed::Objects(objects, gaps) => {
                self.unread.extend(gaps);
                objects
            }
            Listed::Absent => {
                self.absent.push(kind);
                Vec::new()
            }
            Listed::Unread(reason) => {
                self.unread.push(Unread::new(kind, format!("{kind}: {reason}")));
                Vec::new()
            }
        }
    }
}

/// Lists a kind in pages. An object that cannot be decoded is left out and named.
async fn list<K>(api: Api<DeserializeGuard<K>>, params: ListParams) -> anyhow::Result<Listed<K>>
where
    K: Clone + Debug + DeserializeOwned + Resource<DynamicType: Default> + 'static,
{
    let mut restarts = 0;
    loop {
        match pages(&api, params.clone()).await {
            Ok((objects, invalid)) => {
                let kind = K::kind(&K::DynamicType::default()).into_owned();
                let gaps = invalid
                    .into_iter()
                    .map(|name| Unread::new(&kind, format!("{kind} {name} cannot be decoded")));
                return Ok(Listed::Objects(objects, gaps.collect()));
            }
            Err(kube::Error::Api(status)) => match status.code {
                404 => return Ok(Listed::Absent),
                403 => return Ok(Listed::Unread(status.message.clone())),
                401 => bail!("the API server refuses the credentials: {}", status.message),
                // The next page is of a version that is gone.
                410 if restarts < 2 => restarts += 1,
                _ => return Ok(Listed::Unread(status.message.clone())),
            },
            Err(error) => return Err(error).context("the API server cannot be reached"),
        }
    }
}

async fn pages<K>(
    api: &Api<DeserializeGuard<K>>,
    params: ListParams,
) -> Result<(Vec<K>, Vec<String>), kube::Error>
where
    K: Clone + Debug + DeserializeOwned + Resource + 'static,
{
    let (mut objects, mut invalid) = (Vec::new(), Vec::new());
    let mut params = params.limit(PAGE);
    loop {
        let page = api.list(&params).await?;
        for guard in page.items {
            match guard.0 {
                Ok(object) => objects.push(object),
                Err(error) => invalid.push(match &error.metadata.namespace {
                    Some(namespace) => {
                        format!("{namespace}/{}", error.metadata.name.unwrap_or_default())
                    }
                    None => error.metadata.name.unwrap_or_default(),
                }),
            }
        }
        match page.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => params = params.continue_token(&token),
            None => return Ok((objects, invalid)),
        }
    }
}

#[cfg(test)]
#[path = "read_tests.rs"]
mod tests;
