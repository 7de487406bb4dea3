//! The chart: `helm lint`, rendered objects against Kubernetes' schemas, invalid values, and the images that it runs.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, bail};
use lb_lab::{PROGRAMS, cache, operator_images, repository};
use serde_json::{Value, json};

const CHART: &str = "charts/lb-operator";
const FULL: &str = "charts/lb-operator/ci/full-values.yaml";
/// The values that the chart is rendered with: as few as possible, and all of them.
const VALUES: [[&str; 2]; 2] = [
    ["--set", "image.registry=localhost/lb-operator"],
    ["--values", FULL],
];

fn tool(program: &str, args: &[&str]) -> anyhow::Result<String> {
    let output = Command::new(cache().join("bin").join(program))
        .args(args)
        .current_dir(repository())
        .output()
        .with_context(|| format!("start {program}: run `make setup`"))?;
    let printed = format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    if !output.status.success() {
        bail!("{program} {}: {printed}", args.join(" "));
    }
    Ok(printed)
}

#[test]
fn helm_lint_passes() -> anyhow::Result<()> {
    for values in VALUES {
        let args = [&["lint", "--strict", CHART][..], &values].concat();
        let printed = tool("helm", &args)?;
        assert!(printed.contains("0 chart(s) failed"), "{printed}");
    }
    Ok(())
}

#[test]
fn rendered_chart_matches_kubernetes_schemas() -> anyhow::Result<()> {
    let directory = tempfile::tempdir()?;
    let samples = std::fs::read_to_string(repository().join(CHART).join("examples/stack.yaml"))?;
    for values in VALUES {
        let args = [&["template", "lb-operator", CHART][..], &values].concat();
        let manifests = format!("{}\n---\n{samples}", tool("helm", &args)?);
        let checked = validate(directory.path(), &manifests)?;
        assert!(checked.contains("Invalid: 0, Errors: 0"), "{checked}");
        assert!(!checked.contains("Valid: 0,"), "it looks at something: {checked}");
    }
    // The check can fail.
    let wrong = "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: x}\nspec: {replicas: many, template: {}, selector: {}, colour: red}";
    let said = validate(directory.path(), wrong)
        .expect_err("a wrong Deployment is found")
        .to_string();
    assert!(said.contains("replicas") && said.contains("colour"), "{said}");
    Ok(())
}

#[test]
fn invalid_value_is_rejected_by_name() {
    for (value, says) in [
        ("replicas=none", "replicas"),
        ("logLevel=loud", "logLevel"),
        ("image.pullPolicy=Sometimes", "pullPolicy"),
        ("replica=3", "replica"),
        ("image.speaker.digest=abc", "digest"),
        ("image.router.tag=1", "router"),
        ("image.registry=https://registry.example.com", "registry"),
        ("image.registry=registry.example.com/lb:1.0", "registry"),
        ("image.operator.repository=a b", "repository"),
        ("logFormat=xml", "logFormat"),
        ("metrics.serviceMonitor.interval=often", "interval"),
        ("metrics.prometheusRule.usagePercent[0]=120", "usagePercent"),
        ("openshift.stackNamespace=", "stackNamespace"),
        ("serviceAccount.create=maybe", "create"),
        ("test.timeout=soon", "timeout"),
    ] {
        let said = tool("helm", &["template", "x", CHART, "--set", value])
            .expect_err(value)
            .to_string();
        assert!(said.contains(says), "{value}: {said}");
    }
}

/// Without a registry the chart says what to do, instead of images that nobody can pull.
#[test]
fn chart_without_registry_is_refused_with_the_way_to_images() {
    let said = tool("helm", &["template", "x", CHART])
        .expect_err("no registry")
        .to_string();
    assert!(
        said.contains("image.registry is empty") && said.contains("docs/install.md"),
        "{said}"
    );
    assert!(repository().join("docs/install.md").exists());
}

/// A package has a registry in it, so it installs without a value, and its images have its version.
#[test]
fn package_installs_without_a_value() -> anyhow::Result<()> {
    let directory = tempfile::tempdir()?;
    let registry = "registry.example.com:5000/team/lb-operator";
    let package = lb_tools::chart::package(&format!("{registry}/"), "0.2.4", directory.path())?;
    let package = package.to_string_lossy();
    tool("helm", &["lint", "--strict", &package])?;
    let rendered = tool("helm", &["template", "lb-operator", &package])?;
    for program in PROGRAMS {
        assert!(
            rendered.contains(&format!("\"{registry}/{program}:0.2.4\"")),
            "{program}"
        );
    }
    Ok(())
}

/// Each image can come from elsewhere, with its own tag, and can be pinned by its digest.
#[test]
fn images_are_chosen_together_and_one_by_one() -> anyhow::Result<()> {
    let digest = format!("sha256:{}", "a".repeat(64));
    let rendered = tool(
        "helm",
        &[
            "template",
            "lb-operator",
            CHART,
            "--set-string",
            "image.registry=r.example.com/lb,image.tag=1.2.3",
            "--set-string",
            &format!("image.controller.digest={digest}"),
            "--set-string",
            "image.speaker.repository=mirror.example.com/s,image.speaker.tag=x",
        ],
    )?;
    for reference in [
        "r.example.com/lb/operator:1.2.3".to_owned(),
        format!("r.example.com/lb/controller:1.2.3@{digest}"),
        "mirror.example.com/s:x".to_owned(),
    ] {
        assert!(rendered.contains(&format!("\"{reference}\"")), "{reference}");
    }
    Ok(())
}

/// All numbers as floats: Helm writes 0.0 as 0.
fn with_floats(value: Value) -> Value {
    match value {
        Value::Number(number) => serde_json::json!(number.as_f64()),
        Value::Array(items) => items.into_iter().map(with_floats).collect(),
        Value::Object(fields) => fields
            .into_iter()
            .map(|(name, value)| (name, with_floats(value)))
            .collect(),
        other => other,
    }
}

/// A package can bring the metallb.io CRDs, which are kept like the stack's.
#[test]
fn package_brings_metallb_crds_on_request() -> anyhow::Result<()> {
    let directory = tempfile::tempdir()?;
    let package = lb_tools::chart::package("r.example.com/lb", "0.1.0", directory.path())?;
    let package = package.to_string_lossy();
    let crds = |values: &[&str]| -> anyhow::Result<Vec<Value>> {
        let args = [&["template", "lb-operator", &package][..], values].concat();
        let mut found = Vec::new();
        for document in serde_yaml::Deserializer::from_str(&tool("helm", &args)?) {
            let object = <Value as serde::Deserialize>::deserialize(document)?;
            if object["kind"] == "CustomResourceDefinition" {
                found.push(object);
            }
        }
        Ok(found)
    };
    assert_eq!(crds(&[])?.len(), 1);
    let all = crds(&["--set", "crds.metallb=true"])?;
    for expected in lb_crds::metallb_crds() {
        let name = expected.metadata.name.clone().context("no name")?;
        let found = all.iter().find(|crd| crd["metadata"]["name"] == *name);
        let found = found.with_context(|| format!("no CRD {name}"))?;
        let expected = serde_json::to_value(&expected.spec)?;
        assert_eq!(
            with_floats(found["spec"].clone()),
            with_floats(expected),
            "{name}"
        );
        assert_eq!(
            found["metadata"]["annotations"]["helm.sh/resource-policy"], "keep",
            "{name}"
        );
    }
    assert_eq!(all.len(), 1 + lb_crds::metallb_crds().len());
    let refused = tool(
        "helm",
        &[
            "template",
            "x",
            CHART,
            "--set",
            "image.registry=r.io/x,crds.metallb=true",
        ],
    );
    let said = refused.expect_err("sources have no metallb.io CRDs").to_string();
    assert!(said.contains("make release"), "{said}");
    Ok(())
}

/// OpenShift's kinds are rendered where their API exists, for the accounts of operator and stack.
#[test]
fn openshift_gets_security_context_constraints() -> anyhow::Result<()> {
    let mut args = vec![
        "template",
        "lb-operator",
        CHART,
        "--namespace",
        "lb-operator-system",
    ];
    args.extend(VALUES[0]);
    let without = tool("helm", &args)?;
    assert!(!without.contains("SecurityContextConstraints"));
    args.extend(["--api-versions", "security.openshift.io/v1"]);
    let with = tool("helm", &args)?;
    for account in [
        "lb-operator-system:lb-operator",
        "metallb-system:controller",
        "metallb-system:default",
        "metallb-system:speaker",
    ] {
        assert!(
            with.contains(&format!("- system:serviceaccount:{account}\n")),
            "{account}"
        );
    }
    Ok(())
}

/// The stack of the chart is a hook that runs once, so that neither an upgrade nor `helm uninstall` touches it.
#[test]
fn stack_is_created_once_and_never_deleted() -> anyhow::Result<()> {
    let render = |values: &[&str]| {
        let args = [&["template", "lb-operator", CHART][..], &VALUES[0], values].concat();
        tool("helm", &args)
    };
    assert!(!render(&[])?.contains("kind: LoadBalancerStack\nmetadata:"));
    let create = ["--set", "stack.create=true,stack.spec.logLevel=debug"];
    let rendered = render(&create)?;
    let stack = serde_yaml::Deserializer::from_str(&rendered)
        .filter_map(|document| <Value as serde::Deserialize>::deserialize(document).ok())
        .find(|object| object["kind"] == "LoadBalancerStack")
        .context("no stack")?;
    assert_eq!(stack["metadata"]["name"], "default");
    assert_eq!(
        stack["metadata"]["annotations"],
        // The default policy would delete a running stack.
        json!({"helm.sh/hook": "post-install", "helm.sh/hook-delete-policy": "hook-failed"})
    );
    assert_eq!(stack["spec"], json!({"logLevel": "debug"}));
    let upgrade = render(&[&create[..], &["--is-upgrade"]].concat())?;
    assert!(!upgrade.contains("kind: LoadBalancerStack\nmetadata:"));
    let said = render(&["--set", "stack.create=true,crds.keep=false"]).expect_err("the stack would hang");
    assert!(said.to_string().contains("crds.keep"), "{said}");
    Ok(())
}

/// The rules of the chart's alerts: the spec of its PrometheusRule.
pub(crate) fn alert_rules() -> anyhow::Result<String> {
    let mut args = vec![
        "template",
        "lb-operator",
        CHART,
        "--show-only",
        "templates/prometheusrule.yaml",
        "--set",
        "metrics.prometheusRule.enabled=true",
    ];
    args.extend(VALUES[0]);
    let object: serde_yaml::Value = serde_yaml::from_str(&tool("helm", &args)?)?;
    Ok(serde_yaml::to_string(&object["spec"])?)
}

/// promtool's tests: when each alert begins, when it does not, and that it ends.
#[test]
fn alerts_pass_their_tests() -> anyhow::Result<()> {
    let directory = tempfile::tempdir()?;
    std::fs::write(directory.path().join("rules.yaml"), alert_rules()?)?;
    let tests = "tests/e2e/alerts/tests.yaml";
    std::fs::copy(repository().join(tests), directory.path().join("tests.yaml"))?;
    let output = Command::new("promtool")
        .args(["test", "rules", "tests.yaml"])
        .current_dir(&directory)
        .output()
        .context("start promtool: run `make setup`")?;
    let printed = [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned());
    assert!(output.status.success(), "{}", printed.concat());
    Ok(())
}

/// The alerts of MetalLB's chart exist under their names, and every metric in an alert is exported.
#[test]
fn alerts_use_exported_metrics() -> anyhow::Result<()> {
    let rendered = alert_rules()?;
    for alert in [
        "MetalLBStaleConfig",
        "MetalLBConfigNotLoaded",
        "MetalLBAddressPoolExhausted",
        "MetalLBBGPSessionDown",
        "MetalLBAddressPoolUsage75Percent",
        "MetalLBAddressPoolUsage85Percent",
        "MetalLBAddressPoolUsage95Percent",
    ] {
        assert!(rendered.contains(&format!("alert: {alert}\n")), "{alert}");
    }
    let page = std::fs::read_to_string(repository().join("docs/metrics.md"))?;
    let expressions: Vec<_> = rendered
        .lines()
        .filter(|line| line.trim_start().trim_start_matches("- ").starts_with("expr: "))
        .collect();
    assert!(expressions.len() > 10, "{expressions:?}");
    for expression in expressions {
        let words = expression.split(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_');
        for metric in words.filter(|word| word.starts_with("lb_") || word.starts_with("metallb_")) {
            assert!(
                page.contains(&format!("`{metric}`")),
                "docs/metrics.md lacks {metric}"
            );
        }
    }
    Ok(())
}

/// Values in the chart's README come from values.yaml, rules in docs/rbac.md from the roles, fields in docs/api.md from
/// the CRDs.
#[test]
fn generated_pages_are_up_to_date() -> anyhow::Result<()> {
    for (page, script) in [
        ("charts/lb-operator/README.md", "chart-readme.sh"),
        ("docs/rbac.md", "rbac-page.sh"),
        ("docs/api.md", "api-page.sh"),
    ] {
        let path = repository().join(page);
        let before = std::fs::read_to_string(&path)?;
        let script = repository().join("tests/tools").join(script);
        let status = Command::new(&script)
            .status()
            .with_context(|| format!("start {}", script.display()))?;
        let after = std::fs::read_to_string(&path)?;
        assert!(
            status.success() && before == after,
            "{page} was stale: run `make generate`"
        );
    }
    Ok(())
}

#[test]
fn images_are_small_and_labeled() -> anyhow::Result<()> {
    let images = operator_images();
    assert_eq!(images.len(), 3, "run `make image`");
    for image in images {
        let size = std::fs::metadata(&image)?.len();
        assert!(size < 15_000_000, "{} has {size} bytes", image.display());
        let files = read_archive(&image)?;
        let index: Value = serde_json::from_slice(&files["index.json"])?;
        let blob = |descriptor: &Value| -> anyhow::Result<Value> {
            let digest = descriptor["digest"]
                .as_str()
                .context("no digest")?
                .replace(':', "/");
            Ok(serde_json::from_slice(&files[&format!("blobs/{digest}")])?)
        };
        let manifest = blob(&index["manifests"][0])?;
        let config = blob(&manifest["config"])?;
        assert_eq!(config["config"]["User"], "65532:65532");
        let labels = &config["config"]["Labels"];
        assert_eq!(
            labels["org.opencontainers.image.version"],
            env!("CARGO_PKG_VERSION")
        );
        assert!(
            labels["org.opencontainers.image.revision"]
                .as_str()
                .is_some_and(|revision| !revision.is_empty())
        );
    }
    Ok(())
}

fn read_archive(path: &Path) -> anyhow::Result<BTreeMap<String, Vec<u8>>> {
    let mut files = BTreeMap::new();
    for entry in tar::Archive::new(std::fs::File::open(path)?).entries()? {
        let mut entry = entry?;
        let mut bytes = Vec::new();
        std::io::Read::read_to_end(&mut entry, &mut bytes)?;
        files.insert(entry.path()?.display().to_string(), bytes);
    }
    Ok(files)
}

/// Validates manifests with kubeconform, except kinds for which Kubernetes has no schema.
fn validate(directory: &Path, manifests: &str) -> anyhow::Result<String> {
    write_schemas(directory, manifests)?;
    let template = format!(
        "{}/{{{{.ResourceKind}}}}{{{{.KindSuffix}}}}.json",
        directory.display()
    );
    let mut process = Command::new(cache().join("bin/kubeconform"))
        .args([
            "-strict",
            "-summary",
            "-skip",
            "ServiceMonitor,PrometheusRule",
            "-schema-location",
            &template,
            "-",
        ])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("start kubeconform: run `make setup`")?;
    std::io::Write::write_all(
        &mut process.stdin.take().context("no input")?,
        manifests.as_bytes(),
    )?;
    let output = process.wait_with_output()?;
    let printed = format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    if !output.status.success() {
        bail!(printed);
    }
    Ok(printed)
}

/// Writes a JSON schema for each kind in the manifests, from Kubernetes' OpenAPI document and our own definitions.
fn write_schemas(directory: &Path, manifests: &str) -> anyhow::Result<()> {
    let path = cache().join("openapi.json");
    let text = std::fs::read(&path).with_context(|| format!("read {}: run `make setup`", path.display()))?;
    let openapi: Value = serde_json::from_slice(&text)?;
    let definitions = openapi["definitions"]
        .as_object()
        .context("no definitions in the OpenAPI document")?;
    for document in manifests.split("\n---\n") {
        let document: Value = serde_yaml::from_str(document)?;
        let (Some(version), Some(kind)) = (document["apiVersion"].as_str(), document["kind"].as_str()) else {
            continue;
        };
        let (group, version) = version.split_once('/').unwrap_or(("", version));
        let wanted = json!({"group": group, "version": version, "kind": kind});
        let found = definitions.iter().find(|(_, schema)| {
            schema["x-kubernetes-group-version-kind"]
                .as_array()
                .is_some_and(|kinds| kinds.contains(&wanted))
        });
        let schema = match found {
            Some((name, _)) => standalone(name, definitions),
            None => match own_schema(kind)? {
                Some(schema) => schema,
                None => continue,
            },
        };
        let suffix = match group.split('.').next() {
            Some("") | None => version.to_owned(),
            Some(group) => format!("{group}-{version}"),
        };
        let file = directory.join(format!("{}-{suffix}.json", kind.to_lowercase()));
        std::fs::write(&file, serde_json::to_vec(&schema)?)?;
    }
    Ok(())
}

fn own_schema(kind: &str) -> anyhow::Result<Option<Value>> {
    let definitions = lb_crds::metallb_crds().into_iter().chain([lb_crds::stack_crd()]);
    let Some(definition) = definitions
        .into_iter()
        .find(|definition| definition.spec.names.kind == kind)
    else {
        return Ok(None);
    };
    let mut schema =
        serde_json::to_value(&definition)?["spec"]["versions"][0]["schema"]["openAPIV3Schema"].take();
    // `metadata` has Kubernetes' schema, and is not checked here.
    let metadata = schema["properties"]["metadata"].take();
    strict(&mut schema);
    schema["properties"]["metadata"] = metadata;
    Ok(Some(schema))
}

/// A definition with all definitions that it refers to.
fn standalone(name: &str, definitions: &serde_json::Map<String, Value>) -> Value {
    let mut queue = vec![name.to_owned()];
    let mut reached = BTreeSet::new();
    let mut parts = serde_json::Map::new();
    while let Some(name) = queue.pop() {
        if !reached.insert(name.clone()) {
            continue;
        }
        let mut schema = match name.rsplit('.').next() {
            // The document types these as strings, but the API accepts numbers too.
            Some("IntOrString" | "Quantity") => json!({"type": ["string", "number"]}),
            _ => definitions[&name].clone(),
        };
        strict(&mut schema);
        references(&schema, &mut queue);
        parts.insert(name, schema);
    }
    json!({"$ref": format!("#/definitions/{name}"), "definitions": parts})
}

/// Rejects fields that the schema does not name.
fn strict(schema: &mut Value) {
    if let Value::Object(keywords) = schema {
        if keywords.get("properties").is_some_and(Value::is_object)
            && !keywords.contains_key("additionalProperties")
        {
            keywords.insert("additionalProperties".to_owned(), Value::Bool(false));
        }
        keywords.values_mut().for_each(strict);
    } else if let Value::Array(items) = schema {
        items.iter_mut().for_each(strict);
    }
}

fn references(schema: &Value, found: &mut Vec<String>) {
    match schema {
        Value::Object(keywords) => {
            if let Some(name) = keywords.get("$ref").and_then(Value::as_str) {
                found.extend(name.strip_prefix("#/definitions/").map(str::to_owned));
            }
            keywords.values().for_each(|value| references(value, found));
        }
        Value::Array(items) => items.iter().for_each(|item| references(item, found)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}
