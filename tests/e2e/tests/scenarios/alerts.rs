//! A real Prometheus scrapes all programs and evaluates the chart's alerts: none fires in a healthy cluster, each fires
//! by its fault, and none is left in the end. Every query of the dashboards returns data.
//!
//! Times are shortened here, because a scenario cannot wait for an hour; `tests/e2e/alerts` tests the real ones.

use std::collections::BTreeSet;
use std::process::{Child, Stdio};
use std::time::Duration;

use anyhow::Context;
use lb_e2e::harness::{Harness, LONG_TIMEOUT, SHORT_TIMEOUT, eventually};
use lb_lab::{LabConfig, repository};
use lb_tools::dashboards::DASHBOARDS;
use regex::Regex;
use serde_json::{Value, json};

use crate::speaker::{pool, service};

/// The machine that Prometheus runs on: nodes reach all pods.
const MACHINE: &str = "n1";
const URL: &str = "http://127.0.0.1:9090/api/v1";
/// Instead of the times in the rules.
const FOR: &str = "2s";
const RANGE: &str = "[60s]";

/// Alerts that no fault of this scenario causes.
const ELSEWHERE: [&str; 5] = [
    // Needs two nodes that both reach Prometheus and do not hear each other.
    "LBAddressTwoOwners",
    // The same for a node whose replies are lost on the LAN only.
    "LBAddressNoReply",
    // Images of another version are in scenarios upgrade and release.
    "LBUpgradeRolledBack",
    "LBVersionSkew",
    // The operator restores permissions at once.
    "MetalLBConfigNotLoaded",
];

struct Prometheus<'a> {
    harness: &'a Harness,
    process: Child,
    files: tempfile::TempDir,
}

impl Drop for Prometheus<'_> {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl<'a> Prometheus<'a> {
    fn start(harness: &'a Harness, rules: &str) -> anyhow::Result<Self> {
        let files = tempfile::tempdir()?;
        let write = |name: &str, text: &str| std::fs::write(files.path().join(name), text);
        write("rules.yaml", rules)?;
        write("targets.json", "[]")?;
        // Debian's Prometheus cannot ask Kubernetes itself.
        write(
            "prometheus.yaml",
            "global: {scrape_interval: 1s, evaluation_interval: 1s}
rule_files: [rules.yaml]
scrape_configs:
  - {job_name: monitoring, file_sd_configs: [{files: [targets.json], refresh_interval: 1s}]}
",
        )?;
        let path = |name: &str| files.path().join(name).display().to_string();
        let (config, data) = (path("prometheus.yaml"), path("data"));
        let mut command = harness.lab().command(
            MACHINE,
            &[
                "prometheus",
                "--config.file",
                &config,
                "--storage.tsdb.path",
                &data,
                "--web.listen-address=127.0.0.1:9090",
            ],
        )?;
        let log = std::fs::File::create(harness.lab().logs().join("prometheus.log"))?;
        let process = command
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("start prometheus")?;
        Ok(Self {
            harness,
            process,
            files,
        })
    }

    /// Follows the pods, as a ServiceMonitor does: the Service becomes the label `job`.
    fn update_targets(&self) -> anyhow::Result<()> {
        let list = |namespace: &str| {
            let found = self
                .harness
                .admin(&format!("kubectl get endpoints -n {namespace} -o json"))?;
            anyhow::Ok(serde_json::from_str::<Value>(&found)?)
        };
        let mut targets = Vec::new();
        for found in [list("metallb-system")?, list("lb-operator-system")?] {
            let services = found["items"].as_array().into_iter().flatten();
            let monitored = services.filter_map(|service| {
                let name = service["metadata"]["name"].as_str()?;
                name.ends_with("-monitoring")
                    .then_some((name, &service["subsets"]))
            });
            for (job, subsets) in monitored {
                let addresses = subsets.as_array().into_iter().flatten().flat_map(|subset| {
                    [&subset["addresses"], &subset["notReadyAddresses"]]
                        .into_iter()
                        .filter_map(Value::as_array)
                        .flatten()
                });
                targets.extend(addresses.filter_map(|address| {
                    let target = format!("{}:7472", address["ip"].as_str()?);
                    let pod = address["targetRef"]["name"].as_str()?;
                    Some(json!({"targets": [target], "labels": {"job": job, "pod": pod}}))
                }));
            }
        }
        // Prometheus must not see half of the file.
        let path = self.files.path().join("targets.json");
        let new = path.with_extension("new");
        std::fs::write(&new, serde_json::to_string(&targets)?)?;
        std::fs::rename(new, path)?;
        Ok(())
    }

    fn get(&self, query: &str) -> anyhow::Result<Value> {
        let text = self
            .harness
            .run_on(MACHINE, &format!("curl -s -f -m 5 '{URL}/{query}'"))?;
        Ok(serde_json::from_str(&text)?)
    }

    /// Programs that are scraped, by name.
    fn programs(&self) -> anyhow::Result<Vec<String>> {
        self.update_targets()?;
        let found = self.get("query?query=lb_build_info")?;
        let found = found["data"]["result"].as_array().cloned().unwrap_or_default();
        let name = |series: &Value| series["metric"]["program"].as_str().map(str::to_owned);
        let mut names: Vec<_> = found.iter().filter_map(name).collect();
        names.sort();
        Ok(names)
    }

    fn firing(&self) -> anyhow::Result<BTreeSet<String>> {
        self.update_targets()?;
        let alerts = self.get("alerts")?;
        let alerts = alerts["data"]["alerts"].as_array().cloned().unwrap_or_default();
        let firing = alerts.iter().filter(|alert| alert["state"] == "firing");
        let names = firing.filter_map(|alert| alert["labels"]["alertname"].as_str());
        Ok(names.map(str::to_owned).collect())
    }

    /// Every query of a dashboard returns data.
    fn shows(&self, dashboard: &str) -> anyhow::Result<()> {
        let dashboard = DASHBOARDS.iter().find(|found| found.name == dashboard);
        let panels = dashboard.context("no such dashboard")?.panels;
        let mut missing: Vec<_> = panels
            .iter()
            .flat_map(|panel| panel.queries)
            .map(|(query, _)| query.replace("$__rate_interval", "10s"))
            .collect();
        let waited = eventually("data of every query", LONG_TIMEOUT, || {
            let mut without = Vec::new();
            for query in missing.drain(..) {
                let encoded: String = query.bytes().map(|byte| format!("%{byte:02x}")).collect();
                let found = self.get(&format!("query?query={encoded}"))?;
                if found["data"]["result"].as_array().is_none_or(Vec::is_empty) {
                    without.push(query);
                }
            }
            missing = without;
            Ok(missing.is_empty().then_some(()))
        });
        waited.with_context(|| format!("no data of {missing:#?}"))
    }

    fn wait_for(&self, alerts: &[&str]) -> anyhow::Result<()> {
        let mut firing = BTreeSet::new();
        eventually(&format!("{alerts:?} to fire"), LONG_TIMEOUT, || {
            firing = self.firing()?;
            Ok(alerts.iter().all(|alert| firing.contains(*alert)).then_some(()))
        })
        .with_context(|| format!("only {firing:?} fire"))
    }

    fn wait_for_none(&self) -> anyhow::Result<()> {
        let mut firing = BTreeSet::new();
        eventually("no alert to fire", LONG_TIMEOUT, || {
            firing = self.firing()?;
            Ok(firing.is_empty().then_some(()))
        })
        .with_context(|| format!("{firing:?} fire"))
    }
}

/// The chart's rules with shorter times, and the names of its alerts.
fn rules() -> anyhow::Result<(String, BTreeSet<String>)> {
    let rendered = super::chart::alert_rules()?;
    let mut spec: serde_yaml::Value = serde_yaml::from_str(&rendered)?;
    let range = Regex::new(r"\[\d+[mh]\]")?;
    let mut names = BTreeSet::new();
    let groups = spec["groups"].as_sequence_mut().context("no groups")?;
    for group in groups {
        for rule in group["rules"].as_sequence_mut().context("no rules")? {
            names.insert(rule["alert"].as_str().context("no alert")?.to_owned());
            let expression = rule["expr"].as_str().context("no expression")?;
            rule["expr"] = range.replace_all(expression, RANGE).into_owned().into();
            if rule.get("for").is_some() {
                rule["for"] = FOR.into();
            }
        }
    }
    Ok((serde_yaml::to_string(&spec)?, names))
}

#[test]
fn each_alert_fires_by_its_fault_and_ends() -> anyhow::Result<()> {
    let harness = Harness::start_lab_with(LabConfig {
        // Pods see a deleted Secret after this time.
        kubelet_sync_period: Some(Duration::from_secs(2)),
        ..LabConfig::named("alerts")
    })?;
    harness.install()?;
    harness.apply_backend("web", 3)?;
    harness.apply_pool("lan", "192.168.50.60-192.168.50.79")?;
    harness.apply_service("web", "web", "", "")?;
    let address = harness.wait_for_address("web")?;
    harness.wait_for_answer(&address, "web")?;

    let (rules, names) = rules()?;
    let prometheus = Prometheus::start(&harness, &rules)?;
    eventually("Prometheus to scrape all programs", LONG_TIMEOUT, || {
        let expected = [
            ["lb-controller"; 2].as_slice(),
            &["lb-operator"; 2],
            &["lb-speaker"; 3],
        ]
        .concat();
        Ok(
            (prometheus.programs().ok() == Some(expected.iter().map(ToString::to_string).collect()))
                .then_some(()),
        )
    })?;
    // Longer than any alert waits here.
    std::thread::sleep(Duration::from_secs(5));
    assert_eq!(prometheus.firing()?, BTreeSet::new(), "a healthy cluster");

    for name in ["overview", "announcing", "operator"] {
        prometheus.shows(name)?;
    }

    let faults: [(&[&str], Fault); 10] = [
        (
            &[
                "LBServicePending",
                "LBAddressUnannounced",
                "MetalLBAddressPoolExhausted",
                "MetalLBAddressPoolUsage75Percent",
                "MetalLBAddressPoolUsage85Percent",
                "MetalLBAddressPoolUsage95Percent",
            ],
            full_pool_without_advertisement,
        ),
        (&["MetalLBStaleConfig"], invalid_pool),
        (&["LBAddressConflict"], conflict),
        (&["LBHeartbeatsLost"], blocked_port),
        (&["LBHeartbeatsRefused"], forged_heartbeats),
        (&["LBStackDegraded"], refused_pods),
        (&["LBNoLeader"], foreign_leader),
        (&["LBDriftRepeated"], drift),
        (&["LBAddressFlapping"], moves),
        (&["LBNoHeartbeatKeys"], lost_key),
    ];
    let mut seen: BTreeSet<&str> = ELSEWHERE.into();
    for (alerts, fault) in faults {
        fault(&harness, &address, &|| prometheus.wait_for(alerts))
            .with_context(|| format!("fault of {alerts:?}"))?;
        seen.extend(alerts);
    }
    upgrade(&harness, &|| prometheus.wait_for(&["LBUpgradeStuck"]))?;
    seen.insert("LBUpgradeStuck");
    assert_eq!(
        seen.into_iter().map(str::to_owned).collect::<BTreeSet<_>>(),
        names
    );
    prometheus.wait_for_none()
}

/// Makes a fault, calls the function, which waits for the alert, and mends the fault.
type Fault = fn(&Harness, &str, &dyn Fn() -> anyhow::Result<()>) -> anyhow::Result<()>;
type Wait<'a> = &'a dyn Fn() -> anyhow::Result<()>;

fn full_pool_without_advertisement(harness: &Harness, _: &str, wait: Wait) -> anyhow::Result<()> {
    pool(harness, "tiny", "192.168.50.90/32")?;
    service(harness, "first", "tiny", "")?;
    harness.apply_service("second", "web", "metallb.io/address-pool: tiny", "")?;
    wait()?;
    harness.admin("kubectl delete service first second")?;
    harness.admin("kubectl delete ipaddresspool tiny -n metallb-system")?;
    Ok(())
}

fn invalid_pool(harness: &Harness, _: &str, wait: Wait) -> anyhow::Result<()> {
    pool(harness, "overlapping", "192.168.50.70-192.168.50.72")?;
    wait()?;
    harness.admin("kubectl delete ipaddresspool overlapping -n metallb-system")?;
    Ok(())
}

fn conflict(harness: &Harness, address: &str, wait: Wait) -> anyhow::Result<()> {
    harness.run_on("cp", &format!("ip address add {address}/32 dev eth0"))?;
    harness.run_on("cp", &format!("arping -q -U -c 1 -I eth0 -s {address} {address}"))?;
    wait()?;
    harness.run_on("cp", &format!("ip address del {address}/32 dev eth0"))?;
    Ok(())
}

fn blocked_port(harness: &Harness, _: &str, wait: Wait) -> anyhow::Result<()> {
    let rule = |change: &str| {
        let rule = format!("-t raw -{change} PREROUTING -p udp --dport 7947 -j DROP");
        harness.run_on("n2", &format!("iptables -w {rule} && ip6tables -w {rule}"))
    };
    rule("I")?;
    wait()?;
    rule("D")?;
    Ok(())
}

fn forged_heartbeats(harness: &Harness, _: &str, wait: Wait) -> anyhow::Result<()> {
    let key = super::keys::key(harness)?;
    super::keys::forge(harness, &key, "echo")?;
    wait()
}

fn refused_pods(harness: &Harness, _: &str, wait: Wait) -> anyhow::Result<()> {
    harness.apply(
        "apiVersion: v1\nkind: ResourceQuota\nmetadata: {name: none, namespace: metallb-system}\nspec: {hard: {pods: \"0\"}}",
    )?;
    let speaker = harness.speaker_on("n3")?;
    harness.admin(&format!("kubectl delete pod {speaker} -n metallb-system"))?;
    wait()?;
    harness.admin("kubectl delete resourcequota none -n metallb-system")?;
    harness.admin("kubectl rollout status daemonset speaker -n metallb-system --timeout=100s")?;
    Ok(())
}

/// Somebody holds the Lease of the controllers and does not renew it for an hour.
fn foreign_leader(harness: &Harness, _: &str, wait: Wait) -> anyhow::Result<()> {
    harness.admin(
        "kubectl patch lease metallb-controller -n metallb-system --type merge \
         -p '{\"spec\": {\"holderIdentity\": \"somebody\", \"leaseDurationSeconds\": 3600}}'",
    )?;
    wait()?;
    harness.admin("kubectl delete lease metallb-controller -n metallb-system")?;
    Ok(())
}

fn drift(harness: &Harness, _: &str, wait: Wait) -> anyhow::Result<()> {
    let port = "service metallb-speaker-monitoring -n metallb-system";
    // The sixth correction is the first that the operator delays.
    for _ in 0..6 {
        harness.admin(&format!(
            "kubectl patch {port} --type json -p '[{{\"op\": \"replace\", \"path\": \"/spec/ports/0/port\", \"value\": 7000}}]'"
        ))?;
        eventually("the port to be restored", LONG_TIMEOUT, || {
            let now = harness.admin(&format!(
                "kubectl get {port} -o jsonpath='{{.spec.ports[0].port}}'"
            ))?;
            Ok((now == "7472").then_some(()))
        })?;
    }
    wait()
}

/// The address moves over all three nodes.
fn moves(harness: &Harness, address: &str, wait: Wait) -> anyhow::Result<()> {
    let label = "node.kubernetes.io/exclude-from-external-load-balancers";
    let mut excluded = Vec::new();
    for _ in 0..2 {
        let owner = harness.wait_for_owner(address, SHORT_TIMEOUT)?;
        // Prometheus has to see each owner.
        std::thread::sleep(Duration::from_secs(2));
        harness.admin(&format!("kubectl label node {owner} {label}=true"))?;
        excluded.push(owner.clone());
        eventually("another owner", SHORT_TIMEOUT, || {
            let owners = harness.owners(address)?;
            Ok((owners.len() == 1 && !owners.contains(&owner)).then_some(()))
        })?;
    }
    wait()?;
    harness.admin(&format!("kubectl label node {} {label}-", excluded.join(" ")))?;
    Ok(())
}

/// The Secret with the keys disappears while no operator runs.
fn lost_key(harness: &Harness, _: &str, wait: Wait) -> anyhow::Result<()> {
    let scale = |count: u8| {
        harness.admin(&format!(
            "kubectl scale deployment lb-operator -n lb-operator-system --replicas={count} && \
             kubectl rollout status deployment lb-operator -n lb-operator-system --timeout=100s"
        ))
    };
    scale(0)?;
    harness.admin("kubectl wait pod -n lb-operator-system --all --for=delete --timeout=100s")?;
    harness.admin("kubectl delete secret speaker-heartbeat-keys -n metallb-system")?;
    wait()?;
    scale(2)?;
    Ok(())
}

/// A rollout of settings takes longer than the alert waits here.
fn upgrade(harness: &Harness, wait: Wait) -> anyhow::Result<()> {
    harness.admin(
        "kubectl patch loadbalancerstack default --type merge \
         -p '{\"spec\": {\"logLevel\": \"debug\", \"upgrade\": {\"canarySoakSeconds\": 5}}}'",
    )?;
    wait()?;
    eventually("the rollout to end", 3 * LONG_TIMEOUT, || {
        Ok(harness.stack_status()?["upgrade"].is_null().then_some(()))
    })
}

/// Each alert has a section in docs/alerts.md, which its annotation leads to, and promtool's tests know it.
#[test]
fn every_alert_has_a_runbook_and_a_test() -> anyhow::Result<()> {
    let (_, names) = rules()?;
    let page = std::fs::read_to_string(repository().join("docs/alerts.md"))?;
    let tests = std::fs::read_to_string(repository().join("tests/e2e/alerts/tests.yaml"))?;
    for name in names {
        if name.starts_with("MetalLBAddressPoolUsage") {
            continue;
        }
        assert!(
            page.contains(&format!("\n## {name}\n")),
            "docs/alerts.md lacks {name}"
        );
        assert!(
            tests.contains(&format!("alertname: {name}\n")),
            "alerts/tests.yaml lacks {name}"
        );
    }
    Ok(())
}
