//! The flows that the NetworkPolicies of operator and stack allow, as an evaluator computes them: the lab's network
//! does not enforce them.

use std::collections::BTreeMap;
use std::io::Write;
use std::process::{Command, Stdio};

use anyhow::{Context, ensure};
use lb_e2e::harness::Harness;
use lb_lab::cache;
use serde_json::{Value, json};

fn pod(namespace: &str, labels: &Value) -> Value {
    json!({
        "ip": "10.244.1.7", "namespace": namespace, "podLabels": labels,
        "namespaceLabels": {"kubernetes.io/metadata.name": namespace},
    })
}

fn outside(ip: &str) -> Value {
    json!({"ip": ip})
}

fn flow(name: &str, from: &Value, to: &Value, port: (u16, &str), protocol: &str) -> Value {
    json!({"name": name, "from": from, "to": to, "port": port.0, "portName": port.1, "protocol": protocol})
}

/// Flows, and whether the policies must allow them.
fn table() -> Vec<(Value, bool)> {
    let controller = pod(
        "metallb-system",
        &json!({"app": "metallb", "component": "controller"}),
    );
    let operator = pod(
        "lb-operator-system",
        &json!({"app.kubernetes.io/name": "lb-operator", "app.kubernetes.io/instance": "lb-operator"}),
    );
    let prometheus = pod("monitoring", &json!({"app": "prometheus"}));
    let neighbour = pod("metallb-system", &json!({"app": "other"}));
    let dns = pod("kube-system", &json!({"k8s-app": "kube-dns"}));
    // Pods on their node's network are outside of all policies.
    let node = outside("192.168.50.11");
    let other_node = outside("192.168.50.12");
    let lan = outside("192.168.50.200");
    let metrics = (7472, "monitoring");
    let mut table = Vec::new();
    for (name, program) in [("controller", &controller), ("operator", &operator)] {
        let mut add = |what: &str, from: &Value, to: &Value, port, protocol, passes| {
            table.push((flow(&format!("{name}: {what}"), from, to, port, protocol), passes));
        };
        add(
            "metrics for Prometheus",
            &prometheus,
            program,
            metrics,
            "TCP",
            true,
        );
        add(
            "metrics for its namespace",
            &neighbour,
            program,
            metrics,
            "TCP",
            true,
        );
        add("metrics for the LAN", &lan, program, metrics, "TCP", false);
        add("another port", &prometheus, program, (8080, ""), "TCP", false);
        add("that port by UDP", &prometheus, program, metrics, "UDP", false);
        add("another port for the LAN", &lan, program, (443, ""), "TCP", false);
        add("DNS to it", &prometheus, program, (53, ""), "UDP", false);
        add(
            "to the API server on a node",
            program,
            &node,
            (6443, ""),
            "TCP",
            true,
        );
        add(
            "to the API server's Service",
            program,
            &outside("10.96.0.1"),
            (443, "https"),
            "TCP",
            true,
        );
        add("to DNS", program, &dns, (53, "dns"), "UDP", true);
    }
    let speaker = pod(
        "metallb-system",
        &json!({"app": "metallb", "component": "speaker"}),
    );
    for (what, from, to, port, protocol) in [
        ("heartbeats between nodes", &node, &other_node, (7946, ""), "UDP"),
        ("metrics for Prometheus", &prometheus, &node, metrics, "TCP"),
        ("to the API server", &node, &other_node, (6443, ""), "TCP"),
        // Even if a network treats them as pods, no policy selects them.
        ("heartbeats between pods", &speaker, &speaker, (7946, ""), "UDP"),
        (
            "others of the namespace",
            &prometheus,
            &neighbour,
            (80, "http"),
            "TCP",
        ),
    ] {
        table.push((flow(&format!("speaker: {what}"), from, to, port, protocol), true));
    }
    table
}

fn evaluate(policies: &Value, flows: &[Value]) -> anyhow::Result<BTreeMap<String, (bool, bool)>> {
    let mut process = Command::new(cache().join("bin/netpol"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .context("start netpol: run `make setup`")?;
    let input = json!({"policies": policies, "flows": flows}).to_string();
    let mut pipe = process.stdin.take().context("no input")?;
    pipe.write_all(input.as_bytes())?;
    drop(pipe);
    let output = process.wait_with_output()?;
    ensure!(output.status.success(), "netpol fails");
    let verdicts: BTreeMap<String, Value> = serde_json::from_slice(&output.stdout)?;
    let both = |value: &Value| (value["egress"] == true, value["ingress"] == true);
    Ok(verdicts
        .iter()
        .map(|(name, value)| (name.clone(), both(value)))
        .collect())
}

/// Checks the policies in the cluster.
pub(crate) fn policies_allow_exactly_the_expected_flows(harness: &Harness) -> anyhow::Result<()> {
    let policies: Value = serde_json::from_str(&harness.admin("kubectl get networkpolicies -A -o json")?)?;
    let names: Vec<_> = policies["items"]
        .as_array()
        .context("no list")?
        .iter()
        .map(|policy| {
            format!(
                "{}/{}",
                policy["metadata"]["namespace"], policy["metadata"]["name"]
            )
        })
        .collect();
    ensure!(
        names
            .iter()
            .any(|name| name == "\"metallb-system\"/\"metallb-controller\"")
            && names
                .iter()
                .any(|name| name == "\"lb-operator-system\"/\"lb-operator\""),
        "policies: {names:?}"
    );
    let table = table();
    let flows: Vec<_> = table.iter().map(|(flow, _)| flow.clone()).collect();
    let verdicts = evaluate(&policies, &flows)?;
    for (flow, passes) in &table {
        let name = flow["name"].as_str().context("no name")?;
        let (egress, ingress) = verdicts[name];
        assert_eq!(
            egress && ingress,
            *passes,
            "{name}: egress {egress}, ingress {ingress}"
        );
    }
    // Without policies the evaluator allows every flow.
    let free = evaluate(&json!({"items": []}), &flows)?;
    assert!(free.values().all(|(egress, ingress)| *egress && *ingress));
    println!("network policies: {} flows as they should be", table.len());
    Ok(())
}
