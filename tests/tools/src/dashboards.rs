//! The Grafana dashboards of the chart, as lists of panels, and their JSON.
//!
//! A panel is a title with its question in one sentence, and queries. A query that may find nothing in a healthy cluster
//! ends with `or vector(0)`, so that an empty panel always means that something is not scraped.

use serde_json::{Value, json};

/// A dashboard.
#[derive(Clone, Copy, Debug)]
pub struct Dashboard {
    /// Name of its file, and the end of its Grafana UID.
    pub name: &'static str,
    /// Title in Grafana.
    pub title: &'static str,
    /// Its panels, three in a row.
    pub panels: &'static [Panel],
}

/// A panel.
#[derive(Clone, Copy, Debug)]
pub struct Panel {
    /// Title.
    pub title: &'static str,
    /// Its values, and the normal ones.
    pub description: &'static str,
    /// Grafana's name of the unit.
    pub unit: &'static str,
    /// PromQL and legend of each query.
    pub queries: &'static [(&'static str, &'static str)],
}

const fn panel(
    title: &'static str,
    description: &'static str,
    unit: &'static str,
    queries: &'static [(&'static str, &'static str)],
) -> Panel {
    Panel {
        title,
        description,
        unit,
        queries,
    }
}

/// All dashboards.
pub const DASHBOARDS: [Dashboard; 4] = [
    Dashboard {
        name: "overview",
        title: "lb-operator / Overview",
        panels: &[
            panel(
                "Pool usage",
                "Share of each pool's addresses that Services have.",
                "percentunit",
                &[(
                    "max by (pool) (metallb_allocator_addresses_in_use_total) / max by (pool) (metallb_allocator_addresses_total)",
                    "{{pool}}",
                )],
            ),
            panel(
                "Services without an address",
                "By reason of the condition AddressAssigned. Normal: 0.",
                "short",
                &[(
                    "sum by (reason) (lb_controller_unassigned_services) or vector(0)",
                    "{{reason}}",
                )],
            ),
            panel(
                "Addresses that no node announces",
                "By reason of the condition Announced. Normal: 0.",
                "short",
                &[(
                    "sum by (reason) (lb_speaker_unannounced_addresses) or vector(0)",
                    "{{reason}}",
                )],
            ),
            panel(
                "Announced addresses by node",
                "Addresses of Services that share one count once.",
                "short",
                &[(
                    "count by (node, protocol) (count by (node, protocol, ip) (metallb_speaker_announced))",
                    "{{node}} {{protocol}}",
                )],
            ),
            panel(
                "Conditions of the stack",
                "1 is True. Ready and PreflightPassed should be 1, Degraded 0.",
                "short",
                &[("max by (type) (lb_operator_condition)", "{{type}}")],
            ),
            panel(
                "Versions",
                "Pods by program and version. More than one version of a program: an upgrade.",
                "short",
                &[(
                    "count by (program, version) (lb_build_info)",
                    "{{program}} {{version}}",
                )],
            ),
            panel(
                "Leaders",
                "Leading replicas by job. Normal: 1 each.",
                "short",
                &[("sum by (job) (lb_leader)", "{{job}}")],
            ),
            panel(
                "Memory",
                "Resident memory of each pod.",
                "bytes",
                &[(
                    "process_resident_memory_bytes and on (pod) lb_build_info",
                    "{{pod}}",
                )],
            ),
            panel(
                "Processor",
                "Share of a processor that each pod uses.",
                "percentunit",
                &[(
                    "rate(process_cpu_seconds_total[$__rate_interval]) and on (pod) lb_build_info",
                    "{{pod}}",
                )],
            ),
        ],
    },
    Dashboard {
        name: "announcing",
        title: "lb-operator / Announcing",
        panels: &[
            panel(
                "Acquired addresses",
                "By cause. Failovers are failures of nodes; hand-overs are planned.",
                "short",
                &[(
                    "sum by (cause) (increase(lb_speaker_failovers_total[$__rate_interval])) or vector(0)",
                    "{{cause}}",
                )],
            ),
            panel(
                "Failover duration",
                "From the last heartbeat of the failed owner to the announcement: median and 99 %.",
                "s",
                &[
                    (
                        "histogram_quantile(0.5, sum by (le) (rate(lb_speaker_failover_duration_seconds_bucket[1h])))",
                        "median",
                    ),
                    (
                        "histogram_quantile(0.99, sum by (le) (rate(lb_speaker_failover_duration_seconds_bucket[1h])))",
                        "99 %",
                    ),
                ],
            ),
            panel(
                "Address conflicts",
                "1 while another host answers for the address. Normal: 0.",
                "short",
                &[("max by (ip) (lb_speaker_address_conflict) or vector(0)", "{{ip}}")],
            ),
            panel(
                "Peers that are not heard",
                "Peers with a ready speaker whose heartbeats do not arrive. Normal: 0.",
                "short",
                &[("lb_speaker_unheard_peers", "{{pod}}")],
            ),
            panel(
                "Heartbeats",
                "Received and sent per second, and refused ones.",
                "pps",
                &[
                    (
                        "sum by (pod) (rate(lb_speaker_heartbeats_received_total[$__rate_interval]))",
                        "{{pod}} received",
                    ),
                    (
                        "sum by (pod) (rate(lb_speaker_heartbeats_sent_total[$__rate_interval]))",
                        "{{pod}} sent",
                    ),
                    (
                        "sum by (pod) (rate(lb_speaker_heartbeats_refused_total[$__rate_interval]))",
                        "{{pod}} refused",
                    ),
                ],
            ),
            panel(
                "Heartbeat keys",
                "1, or 2 during a rotation. 0: failures are found through the API server only.",
                "short",
                &[("lb_speaker_heartbeat_keys", "{{pod}}")],
            ),
            panel(
                "ARP and NDP",
                "Requests, replies and gratuitous packets for addresses of this node, per second.",
                "pps",
                &[
                    (
                        "sum by (pod) (rate(metallb_layer2_requests_received[$__rate_interval])) or vector(0)",
                        "{{pod}} requests",
                    ),
                    (
                        "sum by (pod) (rate(metallb_layer2_responses_sent[$__rate_interval])) or vector(0)",
                        "{{pod}} replies",
                    ),
                    (
                        "sum by (pod) (rate(metallb_layer2_gratuitous_sent[$__rate_interval])) or vector(0)",
                        "{{pod}} gratuitous",
                    ),
                ],
            ),
            panel(
                "Verifications",
                "Nodes ask each other whether an address answers. Unanswered ones should be 0.",
                "short",
                &[(
                    "sum by (answered) (increase(lb_speaker_verifications_total[$__rate_interval])) or vector(0)",
                    "answered: {{answered}}",
                )],
            ),
            panel(
                "Ignored frames",
                "ARP and NDP frames that were malformed or not for this node, per second.",
                "pps",
                &[
                    (
                        "sum by (reason) (rate(lb_speaker_ignored_frames_total[$__rate_interval])) or vector(0)",
                        "{{reason}}",
                    ),
                    (
                        "sum(rate(lb_speaker_malformed_frames_total[$__rate_interval])) or vector(0)",
                        "malformed",
                    ),
                ],
            ),
        ],
    },
    Dashboard {
        name: "operator",
        title: "lb-operator / Operator",
        panels: &[
            panel(
                "Upgrade step",
                "1 for the step that runs; 0: no upgrade.",
                "short",
                &[(
                    "max by (step) (lb_operator_upgrade_step) or vector(0)",
                    "{{step}}",
                )],
            ),
            panel(
                "Upgrade duration",
                "Median of the last day, by outcome.",
                "s",
                &[(
                    "histogram_quantile(0.5, sum by (le, outcome) (rate(lb_operator_upgrade_duration_seconds_bucket[1d]))) or vector(0)",
                    "{{outcome}}",
                )],
            ),
            panel(
                "Rollbacks",
                "Upgrades that were rolled back within a day.",
                "short",
                &[("sum(increase(lb_operator_rollbacks_total[1d]))", "rollbacks")],
            ),
            panel(
                "Reconciliations",
                "Per second, and those with failed writes.",
                "ops",
                &[
                    ("sum(rate(lb_operator_reconcile_total[$__rate_interval]))", "all"),
                    (
                        "sum(rate(lb_operator_reconcile_errors_total[$__rate_interval]))",
                        "failed",
                    ),
                ],
            ),
            panel(
                "Duration of reconciliations",
                "99 % take less.",
                "s",
                &[(
                    "histogram_quantile(0.99, sum by (le) (rate(lb_operator_reconcile_duration_seconds_bucket[1h])))",
                    "99 %",
                )],
            ),
            panel(
                "Writes",
                "Objects that the operator wrote or deleted, by kind. At rest: none.",
                "short",
                &[(
                    "sum by (kind) (increase(lb_operator_writes_total[$__rate_interval])) or vector(0)",
                    "{{kind}}",
                )],
            ),
            panel(
                "Drift",
                "Objects that were restored after somebody changed them.",
                "short",
                &[(
                    "sum by (kind, name) (increase(lb_operator_drift_corrections_total[$__rate_interval])) or vector(0)",
                    "{{kind}} {{name}}",
                )],
            ),
            panel(
                "Age of the heartbeat key",
                "Since the last rotation.",
                "s",
                &[(
                    "time() - max(lb_operator_heartbeat_key_since_timestamp_seconds)",
                    "age",
                )],
            ),
            panel(
                "Errors of the API client",
                "Object updates that controllers and speakers could not process, per second. Normal: 0.",
                "ops",
                &[(
                    "sum by (job) (rate(metallb_k8s_client_update_errors_total[$__rate_interval]))",
                    "{{job}}",
                )],
            ),
        ],
    },
    Dashboard {
        name: "bgp",
        title: "lb-operator / BGP",
        panels: &[
            panel(
                "Sessions",
                "1 while the session is established.",
                "short",
                &[("metallb_bgp_session_up", "{{pod}} {{peer}}")],
            ),
            panel(
                "Announced prefixes",
                "By session; and changes that were not sent yet.",
                "short",
                &[
                    ("metallb_bgp_announced_prefixes_total", "{{pod}} {{peer}}"),
                    ("metallb_bgp_pending_prefixes_total > 0 or vector(0)", "not sent"),
                ],
            ),
            panel(
                "Ended sessions",
                "Established sessions that ended. Normal: 0.",
                "short",
                &[(
                    "sum by (peer) (increase(lb_speaker_bgp_session_flaps_total[$__rate_interval])) or vector(0)",
                    "{{peer}}",
                )],
            ),
            panel(
                "BFD sessions",
                "1 while the router answers. Only for peers with a BFDProfile.",
                "short",
                &[("metallb_bfd_session_up or vector(0)", "{{pod}} {{peer}}")],
            ),
            panel(
                "BFD failures",
                "Sessions that ended because the router was silent. Normal: 0.",
                "short",
                &[(
                    "sum by (peer) (increase(metallb_bfd_session_down_events[$__rate_interval])) or vector(0)",
                    "{{peer}}",
                )],
            ),
            panel(
                "Messages sent",
                "Per second, by peer.",
                "pps",
                &[(
                    "sum by (peer) (rate(metallb_bgp_total_sent[$__rate_interval]))",
                    "{{peer}}",
                )],
            ),
            panel(
                "Messages received",
                "Per second, by peer.",
                "pps",
                &[(
                    "sum by (peer) (rate(metallb_bgp_total_received[$__rate_interval]))",
                    "{{peer}}",
                )],
            ),
            panel(
                "Notifications sent",
                "Each ends a session.",
                "short",
                &[(
                    "sum by (peer) (increase(metallb_bgp_notifications_sent[$__rate_interval]))",
                    "{{peer}}",
                )],
            ),
        ],
    },
];

impl Dashboard {
    /// The dashboard as Grafana imports it.
    #[must_use]
    pub fn json(&self) -> Value {
        const WIDTH: usize = 8;
        const HEIGHT: usize = 8;
        let panels = self.panels.iter().enumerate().map(|(index, panel)| {
            let letters = ["A", "B", "C"];
            let targets = panel.queries.iter().zip(letters).map(|((query, legend), letter)| {
                json!({"datasource": source(), "expr": query, "legendFormat": legend, "range": true, "refId": letter})
            });
            json!({
                "datasource": source(),
                "description": panel.description,
                "fieldConfig": {"defaults": {"min": 0, "unit": panel.unit}, "overrides": []},
                "gridPos": {"h": HEIGHT, "w": WIDTH, "x": index % 3 * WIDTH, "y": index / 3 * HEIGHT},
                "id": index + 1,
                "options": {"legend": {"displayMode": "list", "placement": "bottom"}, "tooltip": {"mode": "multi"}},
                "targets": targets.collect::<Vec<_>>(),
                "title": panel.title,
                "type": "timeseries",
            })
        });
        json!({
            "editable": false,
            "panels": panels.collect::<Vec<_>>(),
            "refresh": "30s",
            "schemaVersion": 39,
            "tags": ["lb-operator"],
            "templating": {"list": [
                {"name": "datasource", "label": "Data source", "type": "datasource", "query": "prometheus"},
            ]},
            "time": {"from": "now-6h", "to": "now"},
            "timezone": "browser",
            "title": self.title,
            "uid": format!("lb-operator-{}", self.name),
        })
    }
}

fn source() -> Value {
    json!({"type": "prometheus", "uid": "${datasource}"})
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn committed_dashboards_are_up_to_date() {
        for dashboard in DASHBOARDS {
            let path = Path::new(env!("CARGO_MANIFEST_DIR"))
                .join("../../charts/lb-operator/files/dashboards")
                .join(format!("{}.json", dashboard.name));
            let committed: Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
            assert_eq!(committed, dashboard.json(), "run `make generate`");
        }
    }

    #[test]
    fn every_query_uses_documented_metrics() {
        let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/metrics.md");
        let page = std::fs::read_to_string(page).unwrap();
        for (query, _) in DASHBOARDS
            .iter()
            .flat_map(|dashboard| dashboard.panels)
            .flat_map(|panel| panel.queries)
        {
            let words = query.split(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_');
            for metric in words.filter(|word| word.starts_with("lb_") || word.starts_with("metallb_")) {
                let metric = metric.trim_end_matches("_bucket");
                assert!(
                    page.contains(&format!("`{metric}`")),
                    "docs/metrics.md lacks {metric}"
                );
            }
        }
    }
}
