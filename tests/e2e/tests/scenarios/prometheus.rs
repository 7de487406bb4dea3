//! A real Prometheus in a lab, with the chart's alerts and dashboards.

use std::collections::BTreeSet;
use std::process::{Child, Stdio};

use anyhow::Context;
use lb_e2e::harness::{Harness, LONG_TIMEOUT, eventually};
use lb_tools::dashboards::DASHBOARDS;
use regex::Regex;
use serde_json::{Value, json};

/// The machine that Prometheus runs on: nodes reach all pods.
const MACHINE: &str = "n1";
const URL: &str = "http://127.0.0.1:9090/api/v1";
/// Instead of the times in the rules.
const FOR: &str = "2s";
const RANGE: &str = "[100s]";

/// A Prometheus that scrapes all programs of a lab.
pub(crate) struct Prometheus<'a> {
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
    pub(crate) fn start(harness: &'a Harness, rules: &str) -> anyhow::Result<Self> {
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
    pub(crate) fn update_targets(&self) -> anyhow::Result<()> {
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
    pub(crate) fn programs(&self) -> anyhow::Result<Vec<String>> {
        self.update_targets()?;
        let found = self.get("query?query=lb_build_info")?;
        let found = found["data"]["result"].as_array().cloned().unwrap_or_default();
        let name = |series: &Value| series["metric"]["program"].as_str().map(str::to_owned);
        let mut names: Vec<_> = found.iter().filter_map(name).collect();
        names.sort();
        Ok(names)
    }

    pub(crate) fn firing(&self) -> anyhow::Result<BTreeSet<String>> {
        self.update_targets()?;
        let alerts = self.get("alerts")?;
        let alerts = alerts["data"]["alerts"].as_array().cloned().unwrap_or_default();
        let firing = alerts.iter().filter(|alert| alert["state"] == "firing");
        let names = firing.filter_map(|alert| alert["labels"]["alertname"].as_str());
        Ok(names.map(str::to_owned).collect())
    }

    /// Every query of a dashboard returns data.
    pub(crate) fn shows(&self, dashboard: &str) -> anyhow::Result<()> {
        let dashboard = DASHBOARDS.iter().find(|found| found.name == dashboard);
        let panels = dashboard.context("no such dashboard")?.panels;
        let queries = panels.iter().flat_map(|panel| panel.queries);
        let queries = queries.map(|(query, _)| query.replace("$__rate_interval", "10s"));
        self.wait_for_data(queries.collect())
    }

    /// Waits until each of these queries returns data.
    pub(crate) fn wait_for_data(&self, mut missing: Vec<String>) -> anyhow::Result<()> {
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

    pub(crate) fn wait_for(&self, alerts: &[&str]) -> anyhow::Result<()> {
        let mut firing = BTreeSet::new();
        eventually(&format!("{alerts:?} to fire"), LONG_TIMEOUT, || {
            firing = self.firing()?;
            Ok(alerts.iter().all(|alert| firing.contains(*alert)).then_some(()))
        })
        .with_context(|| format!("only {firing:?} fire"))
    }

    pub(crate) fn wait_for_none(&self) -> anyhow::Result<()> {
        let mut firing = BTreeSet::new();
        eventually("no alert to fire", 2 * LONG_TIMEOUT, || {
            firing = self.firing()?;
            Ok(firing.is_empty().then_some(()))
        })
        .with_context(|| format!("{firing:?} fire"))
    }
}

/// The chart's rules with shorter times, and the names of its alerts.
pub(crate) fn rules() -> anyhow::Result<(String, BTreeSet<String>)> {
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
