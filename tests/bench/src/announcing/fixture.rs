//! The place of the measurements: three nodes, one Service with an address on the LAN, and a pod on each node; and how
//! all of it settles between measurements.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::ListParams;
use lb_crds::names::{CONTROLLER, SPEAKER};
use lb_l2::MacAddr;
use serde_json::json;
use sha2::{Digest as _, Sha256};

use super::PROBE_INTERVAL;
use crate::testbed::{Stack, Testbed, is_ready};
use lb_e2e::client::arp;
use lb_e2e::harness::{LONG_TIMEOUT, eventually};
use lb_e2e::process::Process;
use lb_lab::Lab;

/// Nodes of the lab.
pub const NODES: usize = 3;
const POD_NAMESPACE: &str = "default";
/// Name of the Service and its pods.
pub(super) const WEB: &str = "web";
/// Timeout for settling. MetalLB looks for lost members once a minute.
const REST: Duration = Duration::from_secs(240);
/// Time during which only one node may answer.
const STEADY: Duration = Duration::from_secs(5);
/// The longest gap between answers that a busy machine may cause.
const MAX_BUSY_GAP: Duration = Duration::from_millis(500);
/// Time for kube-proxy to apply a change of endpoints, with a margin.
const KUBE_PROXY_DELAY: Duration = Duration::from_secs(2);

/// The place of the measurements.
pub struct Fixture<'a> {
    /// The lab and the load balancer.
    pub testbed: &'a Testbed,
    /// The Service's address.
    pub address: Ipv4Addr,
}

impl<'a> Fixture<'a> {
    /// Creates pools and pods, but no Service.
    ///
    /// # Errors
    /// When a part does not become ready.
    pub async fn set(testbed: &'a Testbed) -> anyhow::Result<Self> {
        let address = Ipv4Addr::new(192, 168, 50, 100);
        let harness = &testbed.harness;
        // MetalLB accepts pools only when its webhook is ready.
        eventually("MetalLB to accept the pools", LONG_TIMEOUT, || {
            Ok(harness
                .apply_pool("lan", &format!("{address}/32"))
                .and_then(|()| harness.apply_pool("many", "10.0.0.0/16"))
                .ok())
        })?;
        harness.apply(&format!(
            "apiVersion: apps/v1\nkind: DaemonSet\nmetadata: {{name: {WEB}}}\nspec:\n  selector: {{matchLabels: {{app: {WEB}}}}}\n  \
             template:\n    metadata: {{labels: {{app: {WEB}}}}}\n    spec:\n      terminationGracePeriodSeconds: 0\n      \
             tolerations: [{{operator: Exists}}]\n      \
             containers: [{{name: agnhost, image: \"lab.local/agnhost:1\", args: [netexec, --http-port=80]}}]"
        ))?;
        let fixture = Self { testbed, address };
        fixture.all_run().await?;
        Ok(fixture)
    }

    /// Creates the Service. Its endpoints are written here, without pods on the node that will fail: kube-proxy would
    /// send requests to them until the cluster notices the failure, which is not measured here.
    ///
    /// # Errors
    /// When the API server rejects it.
    pub fn serve(&self) -> anyhow::Result<()> {
        let address = self.address;
        self.testbed.harness.apply(&format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: {WEB}, annotations: {{metallb.universe.tf/loadBalancerIPs: {address}}}}}\n\
             spec: {{type: LoadBalancer, ports: [{{port: 80}}]}}"
        ))?;
        Ok(())
    }

    /// Waits until all nodes and pods run and only one node answers for the address; then the pods on all other nodes
    /// are the endpoints. Returns the owner.
    ///
    /// # Errors
    /// When that takes too long.
    pub async fn settle(&self) -> anyhow::Result<String> {
        let start = Instant::now();
        self.all_run().await?;
        self.set_endpoints(None).await?;
        let owner = loop {
            let owner = self.owner(REST.saturating_sub(start.elapsed())).await?;
            self.set_endpoints(Some(&owner)).await?;
            tokio::time::sleep(KUBE_PROXY_DELAY).await;
            // The write may have moved the address: MetalLB elects an owner on every change.
            if self.owner(REST.saturating_sub(start.elapsed())).await? == owner {
                break owner;
            }
        };
        Ok(owner)
    }

    /// Waits until only one node has answered for a while, and returns it.
    async fn owner(&self, within: Duration) -> anyhow::Result<String> {
        let lab = self.testbed.lab();
        let probe = arp::probe(lab, self.address, PROBE_INTERVAL)?;
        let expected = self.expected(self.address);
        let start = Instant::now();
        let mut last = Vec::new();
        while start.elapsed() < within {
            tokio::time::sleep(Duration::from_millis(200)).await;
            let now = Instant::now();
            let (steady, since) = probe.inspect(|answers| {
                let since = now.checked_sub(STEADY).map(|then| answers.since(then));
                (
                    answers.times.steady(now, STEADY, MAX_BUSY_GAP),
                    since.unwrap_or_default(),
                )
            });
            last = since.iter().map(|from| node_of(lab, *from)).collect();
            if let [owner] = &last[..]
                && steady
                && expected.as_ref().is_none_or(|expected| expected == owner)
            {
                probe.end()?;
                return Ok(owner.clone());
            }
        }
        probe.end()?;
        bail!(
            "waited {within:?} for one node to answer for {}: {}",
            self.address,
            last.join(", ")
        )
    }

    /// The owner of an address after a time without changes, if it is known: MetalLB's keeps no state.
    fn expected(&self, address: Ipv4Addr) -> Option<String> {
        match self.testbed.stack {
            Stack::Ours => None,
            Stack::MetalLb => first_in_order(&self.testbed.lab().nodes(), address),
        }
    }

    /// Waits until all nodes are ready and the processes of all pods run: the API's status of a node that has just
    /// returned is outdated.
    ///
    /// # Errors
    /// When that takes too long.
    pub async fn all_run(&self) -> anyhow::Result<()> {
        self.testbed.harness.admin(&format!(
            "kubectl wait node --all --for=condition=Ready --timeout={}s",
            REST.as_secs()
        ))?;
        let start = Instant::now();
        loop {
            let what = match self.missing().await {
                Ok(None) => return Ok(()),
                Ok(Some(what)) => what,
                Err(error) => format!("{error:#}"),
            };
            if start.elapsed() > REST {
                bail!("not running after {REST:?}: {what}");
            }
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    }

    /// A node or pod that does not run.
    async fn missing(&self) -> anyhow::Result<Option<String>> {
        let speakers = self.testbed.pods_of(SPEAKER).await?;
        let controllers = self.testbed.pods_of(CONTROLLER).await?;
        let backends = self.backends().await?;
        let fewest = match self.testbed.stack {
            Stack::Ours => 2,
            Stack::MetalLb => 1,
        };
        for (what, count, pods) in [
            ("speakers", NODES, &speakers),
            ("controllers", fewest, &controllers),
            ("backends", NODES, &backends),
        ] {
            if pods.len() != count {
                return Ok(Some(format!("{} {what} instead of {count}", pods.len())));
            }
            for pod in pods {
                if !is_ready(pod) || !Process::of(self.testbed.lab(), pod)?.runs() {
                    return Ok(Some(format!("one of the {what}")));
                }
            }
        }
        Ok(None)
    }

    async fn backends(&self) -> anyhow::Result<Vec<Pod>> {
        let api: Api<Pod> = Api::namespaced(self.testbed.client.clone(), POD_NAMESPACE);
        let list = ListParams::default().labels(&format!("app={WEB}"));
        let mut pods = api.list(&list).await.context("list the backends")?.items;
        pods.retain(|pod| pod.metadata.deletion_timestamp.is_none());
        Ok(pods)
    }

    /// Makes the pods on all nodes except one the endpoints of the Service.
    async fn set_endpoints(&self, without: Option<&str>) -> anyhow::Result<()> {
        let mut endpoints = Vec::new();
        for pod in self.backends().await? {
            let node = pod.spec.and_then(|spec| spec.node_name);
            let address = pod.status.and_then(|status| status.pod_ip);
            if let Some(address) = address
                && node.as_deref() != without
            {
                endpoints
                    .push(json!({"addresses": [address], "nodeName": node, "conditions": {"ready": true}}));
            }
        }
        let slice = json!({
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {"name": WEB, "labels": {"kubernetes.io/service-name": WEB}},
            "addressType": "IPv4",
            "endpoints": endpoints,
            "ports": [{"port": 80, "protocol": "TCP"}],
        });
        self.testbed.harness.apply(&slice.to_string())?;
        Ok(())
    }
}

/// The node with this MAC address.
pub(super) fn node_of(lab: &Lab, hardware: MacAddr) -> String {
    let is_it = |node: &String| lab.mac_address(node).is_ok_and(|own| own == hardware.0);
    lab.nodes()
        .into_iter()
        .find(is_it)
        .unwrap_or_else(|| hardware.to_string())
}

/// The number of a node in the lab.
pub(super) fn number(node: &str) -> anyhow::Result<usize> {
    let number = node.strip_prefix('n').and_then(|number| number.parse().ok());
    number.with_context(|| format!("{node} is not a node of the lab"))
}

/// The first node in MetalLB's election order for an address.
pub(super) fn first_in_order(nodes: &[String], address: Ipv4Addr) -> Option<String> {
    let place = |node: &&String| Sha256::digest(format!("{node}#{address}"));
    nodes.iter().min_by_key(place).cloned()
}
