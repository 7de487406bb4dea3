//! The bundle and the catalog: up to date, valid for OLM's own tools, and installable.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, bail};
use lb_e2e::harness::{Harness, LONG_TIMEOUT, eventually};
use lb_lab::{cache, operator_images, repository};
use lb_olm::{BundleInput, Digests, Release};
use lb_tools::REGISTRY;
use lb_tools::image::digest_of;
use semver::Version;
use serde::Deserialize;
use serde_json::{Value, json};

/// The newest version of Kubernetes that the lab runs: the bundle must not use an API that it has removed.
const NEWEST_KUBERNETES: &str = "1.35.0";
/// The operator's namespace; OLM's user chooses it.
const NAMESPACE: &str = "olm-operators";

fn tool(program: &str, args: &[&str]) -> anyhow::Result<String> {
    let output = Command::new(cache().join("bin").join(program))
        .args(args)
        .output()
        .with_context(|| format!("start {program}: run `make setup`"))?;
    let [printed, said] =
        [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned());
    if !output.status.success() {
        bail!("{program} {}: {printed}{said}", args.join(" "));
    }
    Ok(printed)
}

fn committed() -> PathBuf {
    repository().join("olm")
}

fn helm() -> PathBuf {
    cache().join("bin/helm")
}

fn input() -> anyhow::Result<BundleInput> {
    lb_olm::repository::input(repository(), &helm(), REGISTRY)
}

/// A bundle and a catalog as in a release: with the digests of the images that `make image` built.
fn release() -> anyhow::Result<(tempfile::TempDir, BundleInput)> {
    let mut digests = Vec::new();
    for image in operator_images() {
        let program = image
            .file_stem()
            .context("no name")?
            .to_string_lossy()
            .into_owned();
        digests.push((program, digest_of(&image)?));
    }
    assert_eq!(digests.len(), 3, "run `make image`");
    let input = BundleInput {
        digests: Digests::new(digests)?,
        created_at: Some("2026-01-01T00:00:00Z".to_owned()),
        architectures: ["amd64", "arm64"].map(str::to_owned).to_vec(),
        ..input()?
    };
    let directory = tempfile::tempdir()?;
    write(directory.path(), &input)?;
    Ok((directory, input))
}

fn write(directory: &Path, input: &BundleInput) -> anyhow::Result<()> {
    for file in lb_olm::files(input)? {
        let path = directory.join(&file.path);
        std::fs::create_dir_all(path.parent().context("no directory")?)?;
        std::fs::write(path, &file.text)?;
    }
    Ok(())
}

fn read(path: &Path) -> anyhow::Result<Value> {
    let text = std::fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
    Ok(serde_yaml::from_str(&text)?)
}

fn csv(directory: &Path) -> anyhow::Result<Value> {
    read(&directory.join("bundle/manifests/lb-operator.clusterserviceversion.yaml"))
}

/// The objects of the bundle, except the ClusterServiceVersion.
fn objects(directory: &Path) -> anyhow::Result<Vec<Value>> {
    let mut objects = Vec::new();
    for entry in std::fs::read_dir(directory.join("bundle/manifests"))? {
        let object = read(&entry?.path())?;
        if object["kind"] != "ClusterServiceVersion" {
            objects.push(object);
        }
    }
    Ok(objects)
}

#[test]
fn committed_bundle_is_up_to_date() -> anyhow::Result<()> {
    let input = input()?;
    let mut expected: BTreeSet<_> = input
        .releases
        .iter()
        .map(|release| committed().join(release.path()))
        .collect();
    for file in lb_olm::files(&input)? {
        let path = committed().join(&file.path);
        let found = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(
            found == file.text,
            "{} is stale: run `make generate`",
            path.display()
        );
        expected.insert(path);
    }
    let mut queue = vec![committed().join("bundle"), committed().join("catalog")];
    while let Some(directory) = queue.pop() {
        for entry in std::fs::read_dir(directory)? {
            let path = entry?.path();
            if path.is_dir() {
                queue.push(path);
            } else {
                assert!(
                    expected.contains(&path),
                    "{} is not generated: remove it",
                    path.display()
                );
            }
        }
    }
    Ok(())
}

/// The bundle grants and runs everything that the chart does, except what OLM does itself.
#[test]
fn chart_and_bundle_differ_only_in_the_work_of_olm() -> anyhow::Result<()> {
    let rendered = lb_olm::repository::render(repository(), &helm(), REGISTRY)?;
    let mut chart = Vec::new();
    for document in serde_yaml::Deserializer::from_str(&rendered) {
        let object = Value::deserialize(document)?;
        // A template that renders nothing is an empty document. OLM runs no tests of Helm.
        let is_test = object["metadata"]["annotations"]["helm.sh/hook"] == "test";
        chart.extend((!object.is_null() && !is_test).then_some(object));
    }
    // Roles that are aggregated to users' roles grant the operator nothing.
    let is_aggregated = |object: &Value| {
        let labels = object["metadata"]["labels"].as_object();
        labels.is_some_and(|labels| labels.keys().any(|label| label.contains("/aggregate-to-")))
    };
    let of_kind = |kind: &str| {
        let is_it = |object: &&Value| object["kind"] == kind && !is_aggregated(object);
        let mut found = chart.iter().filter(is_it);
        match (found.next(), found.next()) {
            (Some(object), None) => Ok(object.clone()),
            _ => bail!("the chart has not just one {kind}"),
        }
    };
    let csv = csv(&committed())?;
    let install = &csv["spec"]["install"]["spec"];
    for list in ["clusterPermissions", "permissions", "deployments"] {
        assert_eq!(install[list].as_array().map(Vec::len), Some(1), "{list}");
    }
    assert_eq!(install["permissions"][0]["rules"], of_kind("Role")?["rules"]);
    let granted = rules(&install["clusterPermissions"][0])?;
    let lacking: Vec<_> = rules(&of_kind("ClusterRole")?)?
        .into_iter()
        .filter(|rule| !granted.contains(rule))
        .collect();
    assert_eq!(lacking.len(), 1, "{lacking:?}");
    assert_eq!(lacking[0]["resources"], json!(["customresourcedefinitions"]));
    assert_eq!(lacking[0]["verbs"], json!(["create", "patch"]));
    assert_eq!(granted.len() + 1, rules(&of_kind("ClusterRole")?)?.len());

    let mut wanted = of_kind("Deployment")?["spec"].take();
    let labels = &mut wanted["template"]["metadata"]["labels"];
    let labels = labels.as_object_mut().context("no labels")?;
    for label in ["app.kubernetes.io/managed-by", "helm.sh/chart"] {
        labels.remove(label).context("Helm labels its pods")?;
    }
    let environment = &mut wanted["template"]["spec"]["containers"][0]["env"];
    let environment = environment.as_array_mut().context("no environment")?;
    environment.push(json!({"name": "LB_MANAGE_CRDS", "value": "false"}));
    assert_eq!(install["deployments"][0]["spec"], wanted);

    let kinds = |objects: &[Value]| -> BTreeSet<String> {
        let kinds = objects.iter().filter_map(|object| object["kind"].as_str());
        kinds.map(str::to_owned).collect()
    };
    let others = kinds(&objects(&committed())?);
    let mut left = kinds(&chart);
    for by_olm in [
        "ClusterRole",
        "ClusterRoleBinding",
        "Deployment",
        "Role",
        "RoleBinding",
        "ServiceAccount",
    ] {
        assert!(left.remove(by_olm), "the chart has a {by_olm}");
    }
    // Bundles may not contain these kinds.
    for not_in_bundles in ["ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding"] {
        assert!(left.remove(not_in_bundles), "the chart has a {not_in_bundles}");
    }
    assert_eq!(others, left, "the other kinds are the same");
    Ok(())
}

fn rules(holder: &Value) -> anyhow::Result<Vec<Value>> {
    holder["rules"].as_array().cloned().context("no rules")
}

#[test]
fn olm_tools_accept_bundle_and_catalog() -> anyhow::Result<()> {
    let (release, _) = release()?;
    for directory in [committed(), release.path().to_owned()] {
        let bundle = directory.join("bundle").display().to_string();
        let said = tool("bundle-validate", &[&bundle, NEWEST_KUBERNETES])?;
        assert!(said.contains("\"validators\":13"), "{said}");
        let catalog = directory.join("catalog").display().to_string();
        tool("opm", &["validate", &catalog])?;

        // The catalog's entry for the bundle equals the one that opm renders.
        let version = env!("CARGO_PKG_VERSION");
        let rendered = tool(
            "opm",
            &[
                "render",
                &bundle,
                &format!("--alpha-image-ref-template={REGISTRY}/bundle:{{{{.Version}}}}"),
                "--migrate-level=bundle-object-to-csv-metadata",
            ],
        )?;
        let rendered: Value = serde_json::from_str(&rendered)?;
        let ours = read(&directory.join(format!("catalog/lb-operator/bundle-v{version}.yaml")))?;
        assert_eq!(ours, rendered);
    }
    Ok(())
}

#[test]
fn olm_tools_reject_a_broken_bundle() -> anyhow::Result<()> {
    let (release, _) = release()?;
    let bundle = release.path().join("bundle").display().to_string();
    let manifests = release.path().join("bundle/manifests");
    let path = manifests.join("lb-operator.clusterserviceversion.yaml");
    let good = std::fs::read_to_string(&path)?;
    for (from, to, says) in [
        ("categories: Networking", "categories: Nets", "Nets"),
        (
            "provider:\n    name: The lb-operator authors",
            "provider: {}",
            "Provider.Name",
        ),
        ("minKubeVersion: 1.31.0", "minKubeVersion: new", "new"),
        // Warnings that are not in the list.
        ("name: lb-operator.v", "name: lb-operator-", "naming convention"),
        (
            "  - customresourcedefinitions\n          verbs:\n          - get",
            "  - customresourcedefinitions\n          verbs:\n          - create",
            "create CRD",
        ),
    ] {
        assert!(good.contains(from), "{from}");
        std::fs::write(&path, good.replacen(from, to, 1))?;
        let said = tool("bundle-validate", &[&bundle, NEWEST_KUBERNETES]);
        let said = said.expect_err(says).to_string();
        assert!(said.contains(says), "{from}: {said}");
    }
    std::fs::write(&path, good)?;
    std::fs::remove_file(manifests.join("metallb.io_ipaddresspools.yaml"))?;
    let said = tool("bundle-validate", &[&bundle, NEWEST_KUBERNETES]);
    let said = said.expect_err("a kind is gone").to_string();
    assert!(said.contains("IPAddressPool"), "{said}");

    let channel = release.path().join("catalog/lb-operator/channel.yaml");
    let text = std::fs::read_to_string(&channel)?;
    std::fs::write(
        &channel,
        text.replace("name: lb-operator.v", "name: lb-operator.w"),
    )?;
    let catalog = release.path().join("catalog").display().to_string();
    tool("opm", &["validate", &catalog]).expect_err("the channel's bundle is not there");
    Ok(())
}

#[test]
fn release_names_images_by_digest_and_supports_mirroring() -> anyhow::Result<()> {
    let (release, _) = release()?;
    let text = std::fs::read_to_string(
        release
            .path()
            .join("bundle/manifests/lb-operator.clusterserviceversion.yaml"),
    )?;
    let tags: Vec<_> = text
        .lines()
        .filter(|line| line.contains(REGISTRY) && line.contains(env!("CARGO_PKG_VERSION")))
        .collect();
    assert_eq!(tags, Vec::<&str>::new());
    let csv = csv(release.path())?;
    let related = csv["spec"]["relatedImages"].as_array().context("no images")?;
    for (image, program) in related.iter().zip(["controller", "operator", "speaker"]) {
        let archive = repository().join(format!("target/images/{program}.tar"));
        let pinned = format!("{REGISTRY}/{program}@{}", digest_of(&archive)?);
        assert_eq!(*image, json!({"name": program, "image": pinned}));
    }
    assert_eq!(related.len(), 3);
    let labels = |directory: &Path| anyhow::Ok(self::csv(directory)?["metadata"]["labels"].clone());
    let supported = json!({
        "operatorframework.io/arch.amd64": "supported",
        "operatorframework.io/arch.arm64": "supported",
        "operatorframework.io/os.linux": "supported",
    });
    assert_eq!(labels(release.path())?, supported);
    assert_ne!(labels(&committed())?, supported, "built for one architecture");
    let disconnected =
        |csv: &Value| csv["metadata"]["annotations"]["features.operators.openshift.io/disconnected"].clone();
    assert_eq!(disconnected(&csv), "true");
    assert_eq!(disconnected(&self::csv(&committed())?), "false");
    Ok(())
}

#[test]
fn release_replaces_the_last_and_skips_older_ones() -> anyhow::Result<()> {
    let (catalog, now) = release()?;
    let next = |version: &str, releases: &[&str]| -> anyhow::Result<BundleInput> {
        let mut input = now.clone();
        input.chart.version = version.to_owned();
        input.releases = releases
            .iter()
            .map(|version| {
                Ok(Release {
                    version: Version::parse(version)?,
                })
            })
            .collect::<anyhow::Result<_>>()?;
        Ok(input)
    };
    write(catalog.path(), &next("0.2.0", &["0.1.0"])?)?;
    write(catalog.path(), &next("0.2.1", &["0.1.0", "0.2.0"])?)?;
    write(catalog.path(), &next("0.10.0", &["0.2.1", "0.1.0", "0.2.0"])?)?;
    let directory = catalog.path().join("catalog").display().to_string();
    tool("opm", &["validate", &directory])?;
    let channel = read(&catalog.path().join("catalog/lb-operator/channel.yaml"))?;
    let entries = json!([
        {"name": "lb-operator.v0.1.0", "skipRange": ">=0.0.0 <0.1.0"},
        {"name": "lb-operator.v0.2.0", "skipRange": ">=0.1.0 <0.2.0", "replaces": "lb-operator.v0.1.0"},
        {"name": "lb-operator.v0.2.1", "skipRange": ">=0.1.0 <0.2.1", "replaces": "lb-operator.v0.2.0"},
        {"name": "lb-operator.v0.10.0", "skipRange": ">=0.9.0 <0.10.0", "replaces": "lb-operator.v0.2.1"},
    ]);
    assert_eq!(channel["entries"], entries);
    Ok(())
}

#[test]
fn bundle_installs_a_stack_as_olm_does() -> anyhow::Result<()> {
    let (release, _) = release()?;
    let csv = csv(release.path())?;
    let harness = Harness::start_lab("olm", 2)?;
    tag_images_by_digest(&harness)?;
    install(&harness, release.path(), &csv)?;

    // The catalog's samples are all that a user writes.
    let examples = csv["metadata"]["annotations"]["alm-examples"].as_str();
    let examples: Vec<Value> = serde_json::from_str(examples.context("no examples")?)?;
    for example in &examples {
        harness.apply(&example.to_string())?;
        if example["kind"] == "LoadBalancerStack" {
            harness.admin("kubectl wait loadbalancerstack default --for=condition=Ready --timeout=120s")?;
        }
    }
    // The stack, two for layer 2, and five for BGP, because BGPPeer has two versions.
    assert_eq!(examples.len(), 8);
    harness.apply_backend("web", 2)?;
    harness.apply_service("web", "web", "", "")?;
    let address = harness.wait_for_address("web")?;
    harness.wait_for_answer(&address, "web")?;

    for workload in ["deployment/controller", "daemonset/speaker"] {
        let image = harness.admin(&format!(
            "kubectl get {workload} -n metallb-system -o jsonpath='{{.spec.template.spec.containers[*].image}}'"
        ))?;
        assert!(image.contains("@sha256:"), "{workload} runs {image}");
    }
    crds_belong_to_olm(&harness)
}

/// The operator does not write CRDs, and has no permission to.
fn crds_belong_to_olm(harness: &Harness) -> anyhow::Result<()> {
    let account = format!("system:serviceaccount:{NAMESPACE}:lb-operator");
    for verb in ["create", "patch", "delete"] {
        let may = harness.admin(&format!(
            "kubectl auth can-i {verb} customresourcedefinitions/ipaddresspools.metallb.io --as={account} || true"
        ))?;
        assert_eq!(may.trim(), "no", "{verb}");
    }
    let writers = harness.admin(
        "kubectl get crds -o jsonpath='{range .items[*]}{.metadata.name} {.metadata.managedFields[*].manager}{\"\\n\"}{end}'",
    )?;
    let ours: Vec<_> = writers
        .lines()
        .filter(|line| line.contains("metallb.io"))
        .collect();
    assert_eq!(ours.len(), lb_crds::metallb_crds().len(), "{writers}");
    assert!(ours.iter().all(|line| !line.contains("lb-operator")), "{ours:?}");
    Ok(())
}

/// Nodes know our images by tag only; a registry would know their digests too.
fn tag_images_by_digest(harness: &Harness) -> anyhow::Result<()> {
    let lab = harness.lab();
    for node in lab.nodes() {
        for image in operator_images() {
            let program = image
                .file_stem()
                .context("no name")?
                .to_string_lossy()
                .into_owned();
            let name = format!("{REGISTRY}/{program}");
            let tagged = format!("{name}:{}", env!("CARGO_PKG_VERSION"));
            let pinned = format!("{name}@{}", digest_of(&image)?);
            let output = lab
                .command(
                    &node,
                    &["ctr", "--namespace", "k8s.io", "images", "tag", &tagged, &pinned],
                )?
                .output()?;
            assert!(
                output.status.success(),
                "{node}: {}",
                String::from_utf8_lossy(&output.stderr)
            );
        }
    }
    Ok(())
}

/// Installs a bundle as OLM does: the CRDs, a service account with its rules, the Deployment, and the other objects.
fn install(harness: &Harness, directory: &Path, csv: &Value) -> anyhow::Result<()> {
    let mut manifests =
        vec![json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}})];
    let (kinds, others): (Vec<_>, Vec<_>) = objects(directory)?
        .into_iter()
        .partition(|object| object["kind"] == "CustomResourceDefinition");
    assert_eq!(kinds.len(), 1 + lb_crds::metallb_crds().len());
    let names: Vec<_> = kinds
        .iter()
        .map(|kind| format!("crd/{}", kind["metadata"]["name"].as_str().unwrap_or_default()))
        .collect();
    manifests.extend(kinds);
    for mut object in others {
        object["metadata"]["namespace"] = json!(NAMESPACE);
        manifests.push(object);
    }
    let install = &csv["spec"]["install"]["spec"];
    let name = csv["metadata"]["name"].as_str().context("no name")?;
    let mut accounts = BTreeSet::new();
    for (list, role, namespace) in [
        ("clusterPermissions", "ClusterRole", None),
        ("permissions", "Role", Some(NAMESPACE)),
    ] {
        for permission in install[list].as_array().into_iter().flatten() {
            let account = permission["serviceAccountName"].as_str().context("no account")?;
            accounts.insert(account.to_owned());
            let name = format!("{name}-{account}");
            let mut metadata = json!({"name": name});
            if let Some(namespace) = namespace {
                metadata["namespace"] = json!(namespace);
            }
            let api = "rbac.authorization.k8s.io";
            manifests.push(json!({
                "apiVersion": format!("{api}/v1"), "kind": role, "metadata": metadata, "rules": permission["rules"],
            }));
            manifests.push(json!({
                "apiVersion": format!("{api}/v1"), "kind": format!("{role}Binding"), "metadata": metadata,
                "roleRef": {"apiGroup": api, "kind": role, "name": name},
                "subjects": [{"kind": "ServiceAccount", "name": account, "namespace": NAMESPACE}],
            }));
        }
    }
    for account in accounts {
        manifests.push(json!({
            "apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": account, "namespace": NAMESPACE},
        }));
    }
    let mut deployments = Vec::new();
    for deployment in install["deployments"].as_array().into_iter().flatten() {
        let mut spec = deployment["spec"].clone();
        // As OLM does: pods name their ClusterServiceVersion.
        spec["template"]["metadata"]["annotations"]["operatorframework.io/csv"] = json!(name);
        deployments.push(deployment["name"].as_str().context("no name")?.to_owned());
        manifests.push(json!({
            "apiVersion": "apps/v1", "kind": "Deployment",
            "metadata": {"name": deployment["name"], "namespace": NAMESPACE, "labels": deployment["label"]},
            "spec": spec,
        }));
    }
    let text: Vec<_> = manifests.iter().map(Value::to_string).collect();
    let file = directory.join("install.yaml");
    std::fs::write(&file, text.join("\n---\n"))?;
    // CRDs as large as the stack's do not fit into kubectl's annotation.
    harness.admin(&format!("kubectl apply --server-side -f {}", file.display()))?;
    harness.admin(&format!(
        "kubectl wait {} --for=condition=Established --timeout=60s",
        names.join(" ")
    ))?;
    for deployment in deployments {
        eventually(&format!("{deployment} to run"), LONG_TIMEOUT, || {
            let status =
                format!("kubectl rollout status deployment/{deployment} -n {NAMESPACE} --timeout=10s");
            Ok(harness.admin(&status).ok())
        })?;
    }
    Ok(())
}
