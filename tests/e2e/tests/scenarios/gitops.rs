//! The layout of docs/gitops: applied in Flux's order, without a difference afterwards, and healthy for Argo CD.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, ensure};
use lb_e2e::harness::Harness;
use lb_lab::repository;
use serde::Deserialize;
use serde_json::{Value, json};

const LAYOUT: &str = "docs/gitops";
const APPLY: &str = "kubectl apply --server-side --force-conflicts --field-manager=kustomize-controller";

/// Installs operator, stack and pools as one Flux Kustomization does, waits until the stack is ready, and deletes the
/// pools.
pub(crate) fn install(harness: &Harness) -> anyhow::Result<()> {
    let directory = tempfile::tempdir()?;
    let unit = directory.path();
    harness.admin(&format!("cp {LAYOUT}/*.yaml {}", unit.display()))?;
    // The same text each time: otherwise every render is a commit.
    let render = format!(
        "helm template lb-operator {} --namespace lb-operator-system --no-hooks --set crds.metallb=true",
        harness.chart()
    );
    let rendered = harness.admin(&render)?;
    assert_eq!(rendered, harness.admin(&render)?);
    std::fs::write(unit.join("operator.yaml"), rendered)?;
    let text = harness.admin(&format!("kubectl kustomize {}", unit.display()))?;

    // Flux applies definitions, waits for them, then applies the rest. It dry-runs each stage before.
    let objects: Vec<Value> = serde_yaml::Deserializer::from_str(&text)
        .map(Value::deserialize)
        .collect::<Result<_, _>>()?;
    let (definitions, rest): (Vec<_>, Vec<_>) = objects.into_iter().partition(|object| {
        let kind = object["kind"].as_str().unwrap_or_default();
        ["CustomResourceDefinition", "Namespace", "ClusterRole"].contains(&kind)
    });
    for definition in definitions
        .iter()
        .filter(|object| object["kind"] == "CustomResourceDefinition")
    {
        assert_eq!(
            definition["metadata"]["annotations"]["kustomize.toolkit.fluxcd.io/prune"],
            "disabled"
        );
    }
    for (stage, objects) in [("definitions", definitions), ("rest", rest)] {
        assert!(!objects.is_empty(), "{stage}");
        let file = unit.join(format!("{stage}.json"));
        let list = json!({"apiVersion": "v1", "kind": "List", "items": objects});
        std::fs::write(&file, serde_json::to_vec(&list)?)?;
        harness.admin(&format!(
            "{APPLY} --dry-run=server -f {file} && {APPLY} -f {file} && kubectl wait crd --all --for=condition=Established",
            file = file.display()
        ))?;
    }

    harness.run_section("1.2")?;
    // Status 1 and a difference, or status 0 and nothing.
    let all = unit.join("all.yaml");
    std::fs::write(&all, text)?;
    let difference = harness.admin(&format!(
        "{} -f {}",
        APPLY.replace("apply", "diff"),
        all.display()
    ))?;
    assert_eq!(difference, "");

    let stack: Value = serde_json::from_str(&harness.admin("kubectl get lbs default -o json")?)?;
    let health = health(&stack)?;
    assert!(health.starts_with("Healthy: "), "{health}");
    harness.admin(&format!("kubectl delete -f {LAYOUT}/pools.yaml"))?;
    Ok(())
}

/// The health of a stack, as Argo CD's interpreter finds it.
fn health(stack: &Value) -> anyhow::Result<String> {
    let script = repository().join(LAYOUT).join("health.lua");
    let output = Command::new("lua5.1")
        .arg("-e")
        .arg(format!(
            "obj = {}; local health = dofile('{}'); io.write(health.status .. ': ' .. health.message)",
            lua(stack),
            script.display()
        ))
        .output()
        .context("start lua5.1: run `make setup`")?;
    let [printed, said] =
        [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned());
    ensure!(output.status.success(), "{said}");
    Ok(printed)
}

/// A value as a literal of Lua. A null is absent, as in Argo CD.
fn lua(value: &Value) -> String {
    match value {
        Value::Null => "nil".to_owned(),
        Value::Bool(value) => value.to_string(),
        Value::Number(value) => value.to_string(),
        // Only these need an escape: other bytes stand for themselves.
        Value::String(text) => format!(
            "\"{}\"",
            text.replace('\\', "\\\\")
                .replace('"', "\\\"")
                .replace('\n', "\\n")
        ),
        Value::Array(items) => format!("{{{}}}", items.iter().map(lua).collect::<Vec<_>>().join(", ")),
        Value::Object(fields) => {
            let fields: Vec<_> = fields
                .iter()
                .map(|(name, value)| format!("[\"{name}\"] = {}", lua(value)))
                .collect();
            format!("{{{}}}", fields.join(", "))
        }
    }
}

fn condition(kind: &str, status: &str, message: &str) -> Value {
    json!({"type": kind, "status": status, "message": message})
}

#[test]
fn argo_cd_shows_the_phase_as_health() -> anyhow::Result<()> {
    let ready = condition("Ready", "True", "2 of 2 controllers");
    let unready = condition("Ready", "False", "speaker: 0 of 3 ready");
    let fine = condition("Degraded", "False", "no problems detected");
    let failed = condition("Degraded", "True", "preflight check StrictArp failed");
    let paused = condition("Paused", "True", "spec.paused is set");
    let waiting = condition("Progressing", "False", "waiting for approval of plan abc");
    let blocked = condition("DeletionBlocked", "True", "2 Services have addresses");
    for (phase, conditions, expected) in [
        ("Ready", vec![&ready, &fine], "Healthy: 2 of 2 controllers"),
        (
            "Installing",
            vec![&unready, &fine],
            "Progressing: speaker: 0 of 3 ready",
        ),
        ("Upgrading", vec![], "Progressing: Upgrading"),
        ("RollingBack", vec![], "Degraded: RollingBack"),
        (
            "Degraded",
            vec![&failed],
            "Degraded: preflight check StrictArp failed",
        ),
        (
            "Blocked",
            vec![&failed, &ready],
            "Degraded: preflight check StrictArp failed",
        ),
        (
            "Blocked",
            vec![&waiting, &ready],
            "Suspended: waiting for approval of plan abc",
        ),
        ("Paused", vec![&paused, &ready], "Suspended: spec.paused is set"),
    ] {
        let mut stack = json!({
            "metadata": {"generation": 2},
            "status": {"observedGeneration": 2, "phase": phase, "conditions": conditions},
        });
        assert_eq!(health(&stack)?, expected, "{phase}");
        stack["metadata"]["generation"] = json!(3);
        assert_eq!(
            health(&stack)?,
            "Progressing: waiting for the operator",
            "{phase}"
        );
        stack["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        stack["status"]["conditions"] = json!([blocked]);
        assert_eq!(
            health(&stack)?,
            "Progressing: 2 Services have addresses",
            "{phase}"
        );
    }
    let new = json!({"metadata": {"generation": 1}});
    assert_eq!(health(&new)?, "Progressing: waiting for the operator");
    Ok(())
}

/// The page has the file, for readers who copy it.
#[test]
fn page_quotes_the_health_check() -> anyhow::Result<()> {
    let page = std::fs::read_to_string(repository().join("docs/gitops.md"))?;
    let script = std::fs::read_to_string(repository().join(LAYOUT).join("health.lua"))?;
    for line in script.lines().filter(|line| !line.is_empty()) {
        assert!(page.lines().any(|quoted| quoted.trim() == line.trim()), "{line}");
    }
    assert!(Path::new(&repository().join(LAYOUT).join("kustomization.yaml")).exists());
    Ok(())
}
