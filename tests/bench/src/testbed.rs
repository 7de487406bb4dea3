//! A lab with a load balancer, lb-operator or MetalLB, and a namespace for the benchmark's Services.

use std::collections::BTreeSet;
use std::fmt::Debug;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use futures::StreamExt;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{DeleteParams, ListParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, watcher};
use kube::{Api, Client, Config, Resource, ResourceExt};
use lb_crds::names::{APP, CONTROLLER, CONTROLLER_LEASE, LABEL_APP, LABEL_COMPONENT, NAMESPACE};
use serde::de::DeserializeOwned;
use tokio::task::JoinHandle;

use super::services::{self, ServiceClient, Watch};
use lb_e2e::harness::Harness;
use lb_e2e::process::Process;
use lb_lab::Lab;
use lb_lab::metallb;

/// A load balancer.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Stack {
    /// lb-operator: two controllers, one of which leads.
    Ours,
    /// MetalLB: one controller.
    MetalLb,
}

impl Stack {
    /// Its name in messages.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Ours => "ours",
            Self::MetalLb => "MetalLB",
        }
    }
}

/// A lab with a load balancer. It is taken down when this is dropped.
pub struct Testbed {
    /// The load balancer.
    pub stack: Stack,
    /// Creates and deletes Services.
    pub services: ServiceClient,
    /// Watches Services.
    pub watch: Watch,
    /// An administrator's client.
    pub client: Client,
    /// Timeout for slow operations.
    pub timeout: Duration,
    /// The lab's two shells.
    pub harness: Harness,
}

impl Testbed {
    /// Starts a lab and installs the load balancer. Needs a [`tokio::task::LocalSet`].
    ///
    /// # Errors
    /// When a part does not start.
    pub async fn up(stack: Stack, lab: &str, nodes: usize, timeout: Duration) -> anyhow::Result<Self> {
        // Nothing else runs on this thread yet, so these calls may block it.
        let harness = Harness::start_lab(lab, nodes)?;
        match stack {
            Stack::Ours => harness.install()?,
            Stack::MetalLb => metallb::install(harness.lab())?,
        }
        harness.admin(&format!("kubectl create namespace {}", services::NAMESPACE))?;

        let file = harness.lab().kubeconfig();
        let kubeconfig = Kubeconfig::read_from(&file).with_context(|| format!("read {}", file.display()))?;
        let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
        let client = Client::try_from(config.clone()).context("make a client")?;
        Ok(Self {
            stack,
            services: ServiceClient::new(&config)?,
            watch: Watch::start(&client),
            client,
            timeout,
            harness,
        })
    }

    /// The lab.
    #[must_use]
    pub fn lab(&self) -> &Lab {
        self.harness.lab()
    }

    /// Waits until all desired controllers are ready.
    ///
    /// # Errors
    /// When they are not ready in time.
    pub fn wait_for_controllers(&self) -> anyhow::Result<()> {
        self.harness.admin(&format!(
            "kubectl rollout status -n {NAMESPACE} deployment/{CONTROLLER} --timeout=120s"
        ))?;
        Ok(())
    }

    /// The controllers that are not being deleted.
    ///
    /// # Errors
    /// When the API server does not answer.
    pub async fn controllers(&self) -> anyhow::Result<Vec<Pod>> {
        self.pods_of(CONTROLLER).await
    }

    /// The pods of a component that are not being deleted.
    ///
    /// # Errors
    /// When the API server does not answer.
    pub async fn pods_of(&self, component: &str) -> anyhow::Result<Vec<Pod>> {
        let list = ListParams::default().labels(&label_selector(component));
        let listed = self.pods().list(&list).await;
        let mut pods = listed
            .with_context(|| format!("list the pods of the {component}"))?
            .items;
        pods.retain(|pod| pod.metadata.deletion_timestamp.is_none());
        Ok(pods)
    }

    /// The active controller, and those on standby.
    ///
    /// # Errors
    /// When no controller is active.
    pub async fn leader(&self) -> anyhow::Result<(Pod, Vec<Pod>)> {
        let mut pods = self.controllers().await?;
        let acts = match self.stack {
            Stack::Ours => {
                let lease = self
                    .leases()
                    .get(CONTROLLER_LEASE)
                    .await
                    .context("get the Lease")?;
                let holder = holder(&lease).unwrap_or_default();
                pods.iter().position(|pod| pod.name_any() == holder)
            }
            Stack::MetalLb => (pods.len() == 1).then_some(0),
        };
        let acts = acts.with_context(|| format!("no active controller among {}", pods.len()))?;
        let leader = pods.swap_remove(acts);
        Ok((leader, pods))
    }

    /// The processes of the active controller, and of those on standby.
    ///
    /// # Errors
    /// When one does not run.
    pub async fn processes(&self) -> anyhow::Result<(Process, Vec<Process>)> {
        let (leader, standbys) = self.leader().await?;
        let process = |pod: &Pod| Process::of(self.lab(), pod);
        Ok((
            process(&leader)?,
            standbys.iter().map(process).collect::<anyhow::Result<_>>()?,
        ))
    }

    /// Deletes controllers, all at once and with their grace periods.
    ///
    /// # Errors
    /// When the API server rejects a deletion.
    pub async fn delete(&self, pods: &[Pod]) -> anyhow::Result<()> {
        let api = &self.pods();
        let delete = async |pod: &Pod| {
            let name = pod.name_any();
            api.delete(&name, &DeleteParams::default())
                .await
                .with_context(|| format!("delete pod {name}"))
        };
        futures::future::try_join_all(pods.iter().map(delete)).await?;
        Ok(())
    }

    /// The time when a controller other than these is ready.
    #[must_use]
    pub fn ready_after(&self, old: &[Pod]) -> JoinHandle<anyhow::Result<Instant>> {
        self.pod_after("a new controller to be ready", old, is_ready)
    }

    /// The time when a controller other than these is active: it holds the Lease or, with MetalLB, which has no Lease, it
    /// runs.
    #[must_use]
    pub fn acts_after(&self, old: &[Pod]) -> JoinHandle<anyhow::Result<Instant>> {
        match self.stack {
            Stack::Ours => {
                let old = names(old);
                let only = watcher::Config::default().fields(&format!("metadata.name={CONTROLLER_LEASE}"));
                let is_other = move |lease: &Lease| holder(lease).is_some_and(|holder| !old.contains(holder));
                tokio::task::spawn_local(first(
                    "another holder of the Lease",
                    self.leases(),
                    only,
                    self.timeout,
                    is_other,
                ))
            }
            Stack::MetalLb => self.pod_after("a new controller to run", old, runs),
        }
    }

    fn pod_after(
        &self,
        what: &'static str,
        old: &[Pod],
        is_so: fn(&Pod) -> bool,
    ) -> JoinHandle<anyhow::Result<Instant>> {
        let old = names(old);
        let only = watcher::Config::default().labels(&label_selector(CONTROLLER));
        let is_new = move |pod: &Pod| !old.contains(&pod.name_any()) && is_so(pod);
        tokio::task::spawn_local(first(what, self.pods(), only, self.timeout, is_new))
    }

    fn pods(&self) -> Api<Pod> {
        Api::namespaced(self.client.clone(), NAMESPACE)
    }

    fn leases(&self) -> Api<Lease> {
        Api::namespaced(self.client.clone(), NAMESPACE)
    }
}

/// Watches until an object fulfills a condition, and returns the time.
async fn first<K>(
    what: &str,
    api: Api<K>,
    config: watcher::Config,
    within: Duration,
    is_so: impl Fn(&K) -> bool,
) -> anyhow::Result<Instant>
where
    K: Resource + Clone + Debug + DeserializeOwned + Send + 'static,
{
    let watch = async {
        let mut objects = std::pin::pin!(watcher(api, config).default_backoff().applied_objects());
        while let Some(object) = objects.next().await {
            if object.is_ok_and(|object| is_so(&object)) {
                return Ok(Instant::now());
            }
        }
        bail!("the watch for {what} ended")
    };
    match tokio::time::timeout(within, watch).await {
        Ok(result) => result,
        Err(_) => bail!("waited {within:?} for {what}"),
    }
}

fn label_selector(component: &str) -> String {
    format!("{LABEL_APP}={APP},{LABEL_COMPONENT}={component}")
}

fn names(pods: &[Pod]) -> BTreeSet<String> {
    pods.iter().map(ResourceExt::name_any).collect()
}

fn holder(lease: &Lease) -> Option<&str> {
    let holder = lease.spec.as_ref()?.holder_identity.as_deref()?;
    (!holder.is_empty()).then_some(holder)
}

/// Whether a pod is ready.
pub(super) fn is_ready(pod: &Pod) -> bool {
    let conditions = pod
        .status
        .as_ref()
        .and_then(|status| status.conditions.as_deref());
    let ready = |condition: &_| {
        let k8s_openapi::api::core::v1::PodCondition { type_, status, .. } = condition;
        type_ == "Ready" && status == "True"
    };
    conditions.unwrap_or_default().iter().any(ready)
}

fn runs(pod: &Pod) -> bool {
    let statuses = pod
        .status
        .as_ref()
        .and_then(|status| status.container_statuses.as_deref());
    let mut states = statuses
        .unwrap_or_default()
        .iter()
        .filter_map(|status| status.state.as_ref());
    states.any(|state| state.running.is_some())
}
