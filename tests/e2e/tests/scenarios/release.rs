//! A release: complete, the same twice, and installed from a registry.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, bail, ensure};
use lb_e2e::harness::{Harness, LONG_TIMEOUT, eventually};
use lb_lab::{PROGRAMS, cache, cached_images, repository};
use serde_json::Value;

const VERSION: &str = env!("CARGO_PKG_VERSION");
/// User, password and the line of `htpasswd` for them.
const USER: &str = "lab";
const PASSWORD: &str = "secret";
const HTPASSWD: &str = "lab:$2b$04$TQ9GySiD0gqHvK02IG5upu7kCS8GEvf5iAzzIabTvYcu4KUles42G";

/// Writes a release for a registry.
fn release(registry: &str, directory: &Path) -> anyhow::Result<()> {
    let mut command = Command::new(repository().join("tests/tools/release.sh"));
    run(command
        .env("REGISTRY", registry)
        .env("DIST", directory)
        .env("CLI_PROFILE", "debug")
        .env("PATH", path()))?;
    Ok(())
}

fn path() -> String {
    let path = std::env::var("PATH").unwrap_or_default();
    format!("{}:{path}", cache().join("bin").display())
}

fn run(command: &mut Command) -> anyhow::Result<String> {
    let output = command.output().with_context(|| format!("start {command:?}"))?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(output.status.success(), "{command:?}: {said}");
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The files below a directory, by their relative path.
fn files(root: &Path) -> anyhow::Result<BTreeMap<PathBuf, Vec<u8>>> {
    let mut queue = vec![root.to_owned()];
    let mut files = BTreeMap::new();
    while let Some(directory) = queue.pop() {
        for entry in std::fs::read_dir(&directory)? {
            let path = entry?.path();
            if path.is_dir() {
                queue.push(path);
            } else {
                files.insert(path.strip_prefix(root)?.to_owned(), std::fs::read(&path)?);
            }
        }
    }
    Ok(files)
}

#[test]
fn same_commit_gives_the_same_complete_release() -> anyhow::Result<()> {
    let registry = "registry.example.com/team/lb-operator";
    let directory = tempfile::tempdir()?;
    let [one, two] = ["one", "two"].map(|name| directory.path().join(name));
    release(registry, &one)?;
    release(&format!("{registry}/"), &two)?;
    let found = files(&one)?;
    for (path, bytes) in files(&two)? {
        assert!(found.get(&path) == Some(&bytes), "{} differs", path.display());
    }
    for path in [
        format!("lb-operator-{VERSION}.tgz"),
        format!("lb-operator-{VERSION}.yaml"),
        "LICENSE".to_owned(),
        "RELEASE_NOTES.md".to_owned(),
        "crds/metallb.io_ipaddresspools.yaml".to_owned(),
        "images/bundle.tar".to_owned(),
        "images/speaker.tar".to_owned(),
        "olm/bundle/manifests/lb-operator.clusterserviceversion.yaml".to_owned(),
        "olm/catalog/lb-operator/channel.yaml".to_owned(),
        "stack.yaml".to_owned(),
    ] {
        let bytes = found.get(Path::new(&path)).map_or(0, Vec::len);
        assert!(bytes > 0, "{path} is missing or empty");
    }
    let text = |path: &str| String::from_utf8_lossy(&found[Path::new(path)]).into_owned();

    // The checksums are of all other files.
    run(Command::new("sha256sum")
        .args(["--check", "--strict", "--quiet", "SHA256SUMS"])
        .current_dir(&one))?;
    assert_eq!(text("SHA256SUMS").lines().count(), found.len() - 1);

    let manifest = text(&format!("lb-operator-{VERSION}.yaml"));
    assert!(manifest.contains("kind: Namespace") && manifest.contains("kind: CustomResourceDefinition"));
    assert!(!manifest.contains("managed-by: Helm"), "no Helm release owns it");
    for program in PROGRAMS {
        assert!(
            manifest.contains(&format!("{registry}/{program}:{VERSION}")),
            "{program}"
        );
        let bill: Value = serde_json::from_str(&text(&format!("sbom/{program}.cdx.json")))?;
        let parts = bill["components"].as_array().context("no components")?;
        let has = |name: &str| parts.iter().any(|part| part["name"] == name);
        assert!(
            has("kube-client") && has("lb-crds"),
            "{program}: {} parts",
            parts.len()
        );
        assert!(!has("proptest"), "{program}: tests are not linked");
        assert!(text("images.txt").contains(&format!("{registry}/{program}:{VERSION}@sha256:")));
    }

    // A release that was changed, or is for another registry, is not pushed.
    let push = |registry: &str| {
        run(Command::new(repository().join("tests/tools/push.sh"))
            .env("REGISTRY", registry)
            .env("DIST", &one)
            .env("PATH", path()))
    };
    let said = push("registry.example.com/other").expect_err("another registry");
    assert!(
        said.to_string().contains("is for registry.example.com/team"),
        "{said}"
    );
    std::fs::write(one.join("stack.yaml"), "spec: {}")?;
    let said = push(registry).expect_err("a changed file");
    assert!(said.to_string().contains("run it again"), "{said}");
    Ok(())
}

/// A registry on the LAN client, with TLS and a login.
struct Registry {
    process: Child,
    directory: tempfile::TempDir,
}

impl Registry {
    fn start(harness: &Harness, host: &str) -> anyhow::Result<Self> {
        let directory = tempfile::tempdir()?;
        let file = |name: &str| directory.path().join(name).display().to_string();
        let ip = host.split(':').next().unwrap_or(host);
        run(Command::new("openssl").args([
            "req",
            "-x509",
            "-newkey",
            "rsa:2048",
            "-nodes",
            "-days",
            "2",
            "-subj",
            "/CN=registry",
            "-addext",
            &format!("subjectAltName=IP:{ip}"),
            "-keyout",
            &file("key.pem"),
            "-out",
            &file("ca.crt"),
        ]))?;
        std::fs::write(file("htpasswd"), HTPASSWD)?;
        std::fs::write(
            file("config.yml"),
            format!(
                "version: 0.1\nstorage: {{filesystem: {{rootdirectory: {}}}}}\n\
                 http: {{addr: \"{host}\", tls: {{certificate: {}, key: {}}}}}\n\
                 auth: {{htpasswd: {{realm: lab, path: {}}}}}\n",
                file("data"),
                file("ca.crt"),
                file("key.pem"),
                file("htpasswd")
            ),
        )?;
        let log = std::fs::File::create(harness.lab().logs().join("registry.log"))?;
        let process = harness
            .lab()
            .command("client", &["docker-registry", "serve", &file("config.yml")])?
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .context("start docker-registry: run `make setup`")?;
        let registry = Self { process, directory };
        // Nodes trust its certificate, as with /etc/containerd/certs.d.
        let trust = harness.lab().registries().join(host);
        std::fs::create_dir_all(&trust)?;
        std::fs::write(
            trust.join("hosts.toml"),
            format!(
                "server = \"https://{host}\"\n[host.\"https://{host}\"]\n  ca = \"{}\"\n",
                registry.file("ca.crt")
            ),
        )?;
        eventually("the registry to answer", LONG_TIMEOUT, || {
            let ask = format!(
                "curl -s -o /dev/null -w '%{{http_code}}' --cacert {} https://{host}/v2/",
                registry.file("ca.crt")
            );
            Ok((harness.client(&ask)? == "401").then_some(()))
        })?;
        Ok(registry)
    }

    fn file(&self, name: &str) -> String {
        self.directory.path().join(name).display().to_string()
    }

    /// Logs in and pushes, as a user does.
    fn push(&self, harness: &Harness, registry: &str, release: &Path) -> anyhow::Result<()> {
        let host = registry.split('/').next().unwrap_or(registry);
        let certificate = self.file("ca.crt");
        harness.client(&format!(
            "export HOME={} PATH={} REGISTRY={registry} DIST={} CA={certificate}
             export REGISTRY_AUTH_FILE=$HOME/auth.json
             set -e
             skopeo login --cert-dir $HOME --username {USER} --password-stdin {host} <<<{PASSWORD}
             helm registry login --ca-file {certificate} --username {USER} --password-stdin {host} <<<{PASSWORD}
             {}",
            self.directory.path().display(),
            path(),
            release.display(),
            repository().join("tests/tools/push.sh").display()
        ))?;
        Ok(())
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Nodes pull by digest from a registry with TLS and a pull secret; nothing else gives them the images.
#[test]
fn nodes_pull_a_release_from_a_registry() -> anyhow::Result<()> {
    let harness = Harness::start_lab_with_images("registry", 2, cached_images()?)?;
    let host = format!("{}:5000", harness.lab().address("client")?);
    let registry = format!("{host}/team/lb-operator");
    let directory = tempfile::tempdir()?;
    let dist = directory.path().join("dist");
    release(&registry, &dist)?;
    let server = Registry::start(&harness, &host)?;
    server.push(&harness, &registry, &dist)?;

    // The operator's pull secret, and that of controller and speakers.
    for namespace in ["lb-operator-system", "metallb-system"] {
        harness.admin(&format!(
            "kubectl create namespace {namespace} && kubectl create secret docker-registry pull -n {namespace} \
             --docker-server={host} --docker-username={USER} --docker-password={PASSWORD}"
        ))?;
    }
    harness.admin(&format!(
        "helm install lb-operator {dist}/lb-operator-{VERSION}.tgz -n lb-operator-system --wait --timeout 180s \
         --values {dist}/values-digests.yaml --set 'imagePullSecrets[0].name=pull' \
         --set 'stack.create=true,stack.spec.images.pullSecrets[0]=pull'",
        dist = dist.display()
    ))?;
    harness.admin("kubectl wait lbs default --for=condition=Ready --timeout=180s")?;

    harness.apply_pool("lan", "192.168.50.60-192.168.50.69")?;
    harness.apply_backend("web", 2)?;
    harness.apply_service("web", "web", "", "")?;
    let address = harness.wait_for_address("web")?;
    harness.wait_for_answer(&address, "web")?;

    let images = harness.admin("kubectl get pods -A -o jsonpath='{.items[*].spec.containers[*].image}'")?;
    let expected = std::fs::read_to_string(dist.join("images.txt"))?;
    for reference in expected.lines() {
        if !images.contains(reference) {
            bail!("no pod runs {reference}: {images}");
        }
    }
    Ok(())
}
