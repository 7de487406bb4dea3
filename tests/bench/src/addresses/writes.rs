//! A controller's writes to the API, counted by the API server.
//!
//! `apiserver_request_total` does not name the client. Flow schemas do: the API server counts the requests of each
//! schema, which can be limited to a service account and some resources. These schemas have the priority level that the
//! requests have without them, so they only count.

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};
use std::time::{Duration, Instant};

use anyhow::Context;
use kube::Client;
use kube::api::GetParams;
use kube::core::Request;
use lb_crds::names::{CONTROLLER, NAMESPACE};

use lb_e2e::harness::Harness;

/// The metric, up to the labels, which include the schema.
const METRIC: &str = "apiserver_flowcontrol_dispatched_requests_total{";
const PREFIX: &str = "bench-writes-";
/// Renewals of the Lease are counted separately.
const LEASES: &str = "leases";
/// Names of the counters, and their resources.
const RESOURCES: [(&str, &str); 5] = [
    (LEASES, "leases"),
    ("services", "services, services/status"),
    (
        "pools",
        "ipaddresspools, ipaddresspools/status, l2advertisements, l2advertisements/status",
    ),
    ("events", "events"),
    ("others", "'*'"),
];
/// A controller without writes for this time is idle.
const IDLE_DURATION: Duration = Duration::from_secs(5);

/// A controller's requests since the API server started, including rejected ones.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Writes {
    by_resource: BTreeMap<String, u64>,
}

/// Starts to count.
///
/// # Errors
/// When the API server rejects the flow schemas.
pub fn count(harness: &Harness) -> anyhow::Result<()> {
    let mut manifests = String::new();
    for (index, (name, resources)) in RESOURCES.iter().enumerate() {
        // The matching schema with the lowest number counts: these precede those for service accounts in general.
        let precedence = 300 + index;
        let _ = write!(
            manifests,
            "---\napiVersion: flowcontrol.apiserver.k8s.io/v1\nkind: FlowSchema\nmetadata: {{name: {PREFIX}{name}}}\nspec:\n  \
             matchingPrecedence: {precedence}\n  priorityLevelConfiguration: {{name: workload-low}}\n  \
             distinguisherMethod: {{type: ByUser}}\n  rules:\n  - subjects:\n    - kind: ServiceAccount\n      \
             serviceAccount: {{name: {CONTROLLER}, namespace: {NAMESPACE}}}\n    resourceRules:\n    \
             - {{verbs: [create, update, patch, delete, deletecollection], apiGroups: ['*'], resources: [{resources}], \
             namespaces: ['*'], clusterScope: true}}\n"
        );
    }
    harness.apply(&manifests)?;
    let names: Vec<_> = RESOURCES
        .iter()
        .map(|(name, _)| format!("flowschema/{PREFIX}{name}"))
        .collect();
    harness.admin(&format!(
        "kubectl wait {} --for=condition=Dangling=False --timeout=30s",
        names.join(" ")
    ))?;
    Ok(())
}

impl Writes {
    /// Reads the counters.
    ///
    /// # Errors
    /// When the API server does not answer.
    pub async fn now(client: &Client) -> anyhow::Result<Self> {
        let request = Request::new("").get("metrics", &GetParams::default())?;
        let metrics = client
            .request_text(request)
            .await
            .context("read the API server's metrics")?;
        read(&metrics).context("find the flow schemas in the API server's metrics")
    }

    /// Waits until the controller is idle, at most `within`, and reads the counters.
    ///
    /// # Errors
    /// When the API server does not answer.
    pub async fn quiet(client: &Client, within: Duration) -> anyhow::Result<Self> {
        let start = Instant::now();
        let mut last = Self::now(client).await?;
        let mut since = Instant::now();
        while since.elapsed() < IDLE_DURATION {
            tokio::time::sleep(Duration::from_secs(1)).await;
            let now = Self::now(client).await?;
            if now.beyond_leases() != last.beyond_leases() {
                since = Instant::now();
                if start.elapsed() > within {
                    let writes = now.since(&last);
                    eprintln!("the controller still writes after {within:?}; in the last second: {writes}");
                    return Ok(now);
                }
            }
            last = now;
        }
        Ok(last)
    }

    /// The writes since then.
    #[must_use]
    pub fn since(&self, before: &Self) -> Self {
        let difference = |(name, count): (&String, &u64)| {
            let before = before.by_resource.get(name).copied().unwrap_or_default();
            (name.clone(), count.saturating_sub(before))
        };
        Self {
            by_resource: self.by_resource.iter().map(difference).collect(),
        }
    }

    /// All except those of Leases.
    #[must_use]
    pub fn beyond_leases(&self) -> u64 {
        let others = self.by_resource.iter().filter(|(name, _)| *name != LEASES);
        others.map(|(_, count)| count).sum()
    }
}

impl fmt::Display for Writes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let counts = self.by_resource.iter().filter(|(_, count)| **count > 0);
        let counts: Vec<_> = counts.map(|(name, count)| format!("{count} to {name}")).collect();
        if counts.is_empty() {
            return f.write_str("no writes");
        }
        f.write_str(&counts.join(", "))
    }
}

/// The counters in the metrics, where a schema without requests is absent.
fn read(metrics: &str) -> Option<Writes> {
    let mut by_resource: BTreeMap<_, _> = RESOURCES.map(|(name, _)| (name.to_owned(), 0)).into();
    let mut found = false;
    for line in metrics.lines().filter_map(|line| line.strip_prefix(METRIC)) {
        found = true;
        let (labels, value) = line.rsplit_once(' ')?;
        let name = labels.split("flow_schema=\"").nth(1)?.split('"').next()?;
        let count = name
            .strip_prefix(PREFIX)
            .and_then(|name| by_resource.get_mut(name));
        if let Some(count) = count {
            // Large numbers look like 1.2e+06.
            *count = format!("{:.0}", value.parse::<f64>().ok()?).parse().ok()?;
        }
    }
    found.then_some(Writes { by_resource })
}

#[cfg(test)]
mod tests {
    use super::*;

    const METRICS: &str = "# HELP apiserver_flowcontrol_dispatched_requests_total Number\n\
        apiserver_flowcontrol_dispatched_requests_total{flow_schema=\"bench-writes-leases\",priority_level=\"workload-low\"} 9\n\
        apiserver_flowcontrol_dispatched_requests_total{flow_schema=\"bench-writes-events\",priority_level=\"workload-low\"} 1.2e+06\n\
        apiserver_flowcontrol_dispatched_requests_total{flow_schema=\"exempt\",priority_level=\"exempt\"} 5\n";

    #[test]
    fn counts_only_own_flow_schemas_and_leases_separately() {
        let writes = read(METRICS).unwrap();
        assert_eq!(writes.to_string(), "1200000 to events, 9 to leases");
        assert_eq!(writes.beyond_leases(), 1_200_000);
        assert_eq!(writes.since(&writes).to_string(), "no writes");
    }

    #[test]
    fn an_api_server_that_counts_no_flows_is_an_error_and_not_zero() {
        assert_eq!(read("apiserver_request_total{verb=\"GET\"} 5\n"), None);
    }
}
