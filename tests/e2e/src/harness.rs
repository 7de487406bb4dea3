//! A cluster for a scenario, with an administrator's shell and a LAN client's shell.
//!
//! Commands run through `bash` as a user types them, with `kubectl` and `helm` on the path; an error shows the command
//! and its whole output.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::{Command, Output};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, bail};

use crate::guide::{self, Place};
pub use crate::waiting::{LONG_TIMEOUT, SHORT_TIMEOUT, eventually};
use lb_lab::{Lab, LabConfig, PROGRAMS, cached_images, operator_images, repository};

/// Limit for one command, in seconds: `kubectl delete` waits forever for an object with a finalizer.
const COMMAND_TIMEOUT_SECONDS: &str = "300";

/// A cluster, as its administrator and a LAN client see it.
pub struct Harness {
    cluster: Cluster,
    replacements: BTreeMap<String, String>,
    /// Path of the chart package.
    chart: String,
    echo: bool,
    /// Manifests that were applied, to delete them from an external cluster.
    applied: Mutex<Vec<String>>,
    /// HeldConnections on an external cluster, which scenarios use one after the other.
    external_lock: Option<MutexGuard<'static, ()>>,
}

impl Harness {
    /// A new lab with the images of this project. It is taken down when the harness is dropped.
    ///
    /// # Errors
    /// When `make setup` or `make image` has not been run, or the lab does not start.
    pub fn start_lab(name: &str, nodes: usize) -> anyhow::Result<Self> {
        Self::start_lab_with(LabConfig {
            nodes,
            ..LabConfig::named(name)
        })
    }

    /// A new lab with these options, except for `images`.
    ///
    /// # Errors
    /// As [`Harness::start_lab`].
    pub fn start_lab_with(config: LabConfig) -> anyhow::Result<Self> {
        let lab = Lab::up(LabConfig {
            images: images()?,
            ..config
        })?;
        Self::on(Cluster::Lab(lab))
    }

    /// A new lab that also has the images of all releases for upgrade tests.
    ///
    /// # Errors
    /// As [`Harness::start_lab`].
    pub fn start_lab_with_releases(name: &str, nodes: usize) -> anyhow::Result<Self> {
        let releases = repository().join("target/images/releases.tar");
        if !releases.exists() {
            bail!("{} is missing: run `make image`", releases.display());
        }
        let mut images = images()?;
        images.push(releases);
        Self::start_lab_with_images(name, nodes, images)
    }

    /// A new lab with these images only.
    ///
    /// # Errors
    /// As [`Harness::start_lab`].
    pub fn start_lab_with_images(name: &str, nodes: usize, images: Vec<PathBuf>) -> anyhow::Result<Self> {
        let lab = Lab::up(LabConfig {
            nodes,
            images,
            ..LabConfig::named(name)
        })?;
        Self::on(Cluster::Lab(lab))
    }

    /// The cluster of `KUBECONFIG` if it is set, otherwise a new lab: for scenarios that need neither cables nor a LAN
    /// client. On an external cluster, applied manifests are deleted when the harness is dropped; operator and stack
    /// stay.
    ///
    /// # Errors
    /// As [`Harness::start_lab`].
    pub fn start_lab_or_use_external(name: &str, nodes: usize) -> anyhow::Result<Self> {
        match std::env::var_os("KUBECONFIG") {
            Some(path) if !path.is_empty() => {
                static LOCK: Mutex<()> = Mutex::new(());
                let lock = LOCK.lock().unwrap_or_else(PoisonError::into_inner);
                let mut harness = Self::on(Cluster::External(path.into()))?;
                harness.external_lock = Some(lock);
                Ok(harness)
            }
            _ => Self::start_lab(name, nodes),
        }
    }

    fn on(cluster: Cluster) -> anyhow::Result<Self> {
        let registry = std::env::var("LB_REGISTRY").unwrap_or_else(|_| lb_tools::REGISTRY.to_owned());
        let version = lb_tools::releases::CURRENT_VERSION;
        let directory = repository().join("target/charts");
        let chart = lb_tools::chart::package(&registry, version, &directory)?
            .display()
            .to_string();
        Ok(Self {
            cluster,
            replacements: BTreeMap::from([("PACKAGE".to_owned(), chart.clone())]),
            chart,
            echo: false,
            applied: Mutex::default(),
            external_lock: None,
        })
    }

    /// The package of this repository's chart, made for the images in the lab, or in `LB_REGISTRY`.
    #[must_use]
    pub fn chart(&self) -> String {
        self.chart.clone()
    }

    /// Prints each command and its output, as a terminal does.
    #[must_use]
    pub fn with_echo(mut self) -> Self {
        self.echo = true;
        self
    }

    /// The lab.
    ///
    /// # Panics
    /// On an external cluster: a scenario that needs a lab must create one.
    #[must_use]
    pub fn lab(&self) -> &Lab {
        self.cluster.lab().expect("this scenario needs a lab")
    }

    /// Whether the cluster is a lab, with a LAN and a client.
    #[must_use]
    pub fn is_lab(&self) -> bool {
        self.cluster.lab().is_some()
    }

    /// Keeps the lab running after this process.
    ///
    /// # Errors
    /// As [`Lab::leave_up`].
    pub fn leave_up(mut self) -> anyhow::Result<()> {
        let kubeconfig = self.cluster.kubeconfig();
        match std::mem::replace(&mut self.cluster, Cluster::External(kubeconfig)) {
            Cluster::Lab(lab) => lab.leave_up(),
            Cluster::External(_) => Ok(()),
        }
    }

    /// Sets the value of a placeholder in the guide's commands.
    pub fn set_placeholder(&mut self, placeholder: &str, value: &str) {
        self.replacements.insert(placeholder.to_owned(), value.to_owned());
    }

    /// Runs a command as the administrator and returns its standard output.
    ///
    /// # Errors
    /// When it cannot be started or fails; the error holds its output.
    pub fn admin(&self, text: &str) -> anyhow::Result<String> {
        finish(text, &mut self.admin_command(text))
    }

    /// A command of the administrator, for the caller to start.
    #[must_use]
    pub fn admin_command(&self, text: &str) -> Command {
        let mut command = Command::new("timeout");
        command
            .args([COMMAND_TIMEOUT_SECONDS, "bash", "-o", "pipefail", "-c", text])
            .current_dir(repository())
            .env("KUBECONFIG", self.cluster.kubeconfig())
            // A third of the time of a short `kubectl` goes to collecting garbage.
            .env("GOGC", "800")
            .env("PATH", path());
        command
    }

    /// Runs a command on the LAN client.
    ///
    /// # Errors
    /// As [`Harness::admin`].
    pub fn client(&self, text: &str) -> anyhow::Result<String> {
        self.run_on("client", text)
    }

    /// Runs a command on a machine of the lab.
    ///
    /// # Errors
    /// As [`Harness::admin`].
    pub fn run_on(&self, machine: &str, text: &str) -> anyhow::Result<String> {
        finish(
            text,
            &mut self
                .lab()
                .command(machine, &["timeout", COMMAND_TIMEOUT_SECONDS, "bash", "-c", text])?,
        )
    }

    /// Runs the commands of a section of the guide, in order, and returns their outputs.
    ///
    /// # Errors
    /// When a command fails.
    pub fn run_section(&self, section: &str) -> anyhow::Result<Vec<String>> {
        let section = guide::section(section);
        if self.echo {
            println!("\n\x1b[1m── {} {}\x1b[0m", section.number, section.title);
        }
        let mut outputs = Vec::new();
        for command in section.commands {
            let mut text = command.text;
            for (placeholder, value) in &self.replacements {
                text = text.replace(placeholder, value);
            }
            if self.echo {
                let prompt = if command.place == Place::Client {
                    "lan$"
                } else {
                    "$"
                };
                println!("\x1b[36m{prompt} {text}\x1b[0m");
            }
            let output = match command.place {
                Place::Administrator => self.admin(&text),
                Place::Client => self.client(&text),
            };
            let output = output.with_context(|| format!("docs/guide.md, section {}", section.number))?;
            if self.echo {
                print!("{output}");
            }
            outputs.push(output);
        }
        Ok(outputs)
    }

    /// Installs the chart and a stack as in the guide, and waits until it is ready. An installed chart is kept.
    ///
    /// # Errors
    /// When a step fails.
    pub fn install(&self) -> anyhow::Result<()> {
        if !self.is_lab()
            && self
                .admin("helm status lb-operator -n lb-operator-system")
                .is_ok()
        {
            return self.install_stack();
        }
        self.run_section("1.1")?;
        self.run_section("1.2")?;
        Ok(())
    }

    /// Creates the stack, where the operator is installed, and waits until it is ready.
    ///
    /// # Errors
    /// When a step fails.
    pub fn install_stack(&self) -> anyhow::Result<()> {
        self.admin("kubectl apply -f charts/lb-operator/examples/stack.yaml")?;
        self.run_section("1.2")?;
        Ok(())
    }

    /// Applies manifests.
    ///
    /// # Errors
    /// When the API server rejects one.
    pub fn apply(&self, manifests: &str) -> anyhow::Result<String> {
        let output = self.admin(&format!("kubectl apply -f - <<'EOF'\n{manifests}\nEOF"))?;
        let mut applied = self.applied.lock().unwrap_or_else(PoisonError::into_inner);
        applied.push(manifests.to_owned());
        Ok(output)
    }

    /// Applies a pool and an advertisement for it, both with this name.
    ///
    /// # Errors
    /// When the API server rejects one.
    pub fn apply_pool(&self, name: &str, range: &str) -> anyhow::Result<()> {
        self.apply(&format!(
            "apiVersion: metallb.io/v1beta1\nkind: IPAddressPool\nmetadata: {{name: {name}, namespace: metallb-system}}\n\
             spec: {{addresses: [\"{range}\"]}}\n---\napiVersion: metallb.io/v1beta1\nkind: L2Advertisement\n\
             metadata: {{name: {name}, namespace: metallb-system}}\nspec: {{ipAddressPools: [{name}]}}"
        ))?;
        Ok(())
    }

    /// Creates a Deployment that answers HTTP on port 80 with the host name, spread over the nodes, and waits until it
    /// is ready.
    ///
    /// # Errors
    /// When it does not become ready.
    pub fn apply_backend(&self, name: &str, replicas: usize) -> anyhow::Result<()> {
        self.apply(&format!(
            "apiVersion: apps/v1\nkind: Deployment\nmetadata: {{name: {name}}}\nspec:\n  replicas: {replicas}\n  \
             selector: {{matchLabels: {{app: {name}}}}}\n  template:\n    metadata: {{labels: {{app: {name}}}}}\n    spec:\n      \
             terminationGracePeriodSeconds: 0\n      tolerations: [{{operator: Exists}}]\n      \
             topologySpreadConstraints: [{{maxSkew: 1, topologyKey: kubernetes.io/hostname, whenUnsatisfiable: DoNotSchedule, \
             labelSelector: {{matchLabels: {{app: {name}}}}}}}]\n      \
             containers: [{{name: agnhost, image: \"lab.local/agnhost:1\", args: [netexec, --http-port=80]}}]"
        ))?;
        self.admin(&format!(
            "kubectl rollout status deployment/{name} --timeout=120s"
        ))?;
        Ok(())
    }

    /// Applies a LoadBalancer Service on port 80. `extra` are more lines of its `spec`, indented by two blanks.
    ///
    /// # Errors
    /// When the API server rejects it.
    pub fn apply_service(&self, name: &str, app: &str, annotations: &str, extra: &str) -> anyhow::Result<()> {
        self.apply(&format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}, annotations: {{{annotations}}}}}\nspec:\n  type: LoadBalancer\n  \
             selector: {{app: {app}}}\n  ports: [{{port: 80}}]\n{extra}"
        ))?;
        Ok(())
    }

    /// Waits until a Service has an address.
    ///
    /// # Errors
    /// When it has no address in time.
    pub fn wait_for_address(&self, service: &str) -> anyhow::Result<String> {
        eventually(&format!("an address for {service}"), SHORT_TIMEOUT, || {
            let ip = self.current_address(service)?;
            Ok((!ip.is_empty()).then_some(ip))
        })
    }

    /// The current address of a Service; empty without one.
    ///
    /// # Errors
    /// When there is no such Service.
    pub fn current_address(&self, service: &str) -> anyhow::Result<String> {
        self.admin(&format!(
            "kubectl get service {service} -o jsonpath='{{.status.loadBalancer.ingress[*].ip}}'"
        ))
    }

    /// Waits for an event about an object that contains a text, and returns all events about it, one on each line.
    ///
    /// # Errors
    /// When there is no such event in time.
    pub fn wait_for_event(&self, kind: &str, name: &str, text: &str) -> anyhow::Result<String> {
        let mut last = String::new();
        eventually(
            &format!("an event with {text:?} about {kind} {name}"),
            SHORT_TIMEOUT,
            || {
                last = self.events(kind, name)?;
                Ok(last.contains(text).then(|| last.clone()))
            },
        )
        .with_context(|| format!("its events are:\n{last}"))
    }

    /// The events about an object, one on each line: type, reason, message.
    ///
    /// # Errors
    /// When the API server does not answer.
    pub fn events(&self, kind: &str, name: &str) -> anyhow::Result<String> {
        self.admin(&format!(
            "kubectl get events -A --field-selector involvedObject.kind={kind},involvedObject.name={name} \
             -o jsonpath='{{range .items[*]}}{{.type}} {{.reason}} {{.message}}{{\"\\n\"}}{{end}}'"
        ))
    }

    /// The nodes that answer ARP requests of the LAN client for an address.
    ///
    /// # Errors
    /// When the requests cannot be sent.
    pub fn owners(&self, address: &str) -> anyhow::Result<BTreeSet<String>> {
        Ok(self
            .owners_of(&[address.to_owned()])?
            .remove(address)
            .unwrap_or_default())
    }

    /// The nodes that answer ARP requests for each address. All addresses are asked for at the same time and twice: by
    /// broadcast, then by unicast to the host that answered first. Addresses without an answer are absent.
    ///
    /// # Errors
    /// When the requests cannot be sent.
    pub fn owners_of(&self, addresses: &[String]) -> anyhow::Result<BTreeMap<String, BTreeSet<String>>> {
        let nodes = self.nodes_by_mac()?;
        let text = self.client(&format!(
            "for address in {}; do arping -c 2 -w 2 -I eth0 $address & done; wait",
            addresses.join(" ")
        ))?;
        let mut owners = BTreeMap::<_, BTreeSet<_>>::new();
        for line in text.lines() {
            // Unicast reply from 192.168.50.50 [02:1B:00:00:00:0B]  0.630ms
            let words: Vec<_> = line.split_whitespace().collect();
            if let ["Unicast", "reply", "from", address, mac, ..] = words[..] {
                let mac = mac.trim_matches(['[', ']']).to_lowercase();
                let node = nodes.get(&mac).cloned().unwrap_or(mac);
                owners.entry(address.to_owned()).or_default().insert(node);
            }
        }
        Ok(owners)
    }

    /// The node in the client's neighbor table for an address on the first LAN.
    ///
    /// # Errors
    /// When the table has no entry, or one with a MAC address that is not a node's.
    pub fn neighbor(&self, address: &str) -> anyhow::Result<String> {
        let known = self.client(&format!("ip neigh show {address} dev eth0"))?;
        let mut words = known.split_whitespace().skip_while(|word| *word != "lladdr");
        let mac = words.nth(1).unwrap_or_default();
        let node = self.nodes_by_mac()?.remove(mac);
        node.with_context(|| format!("no node has the hardware address of {address}: {known:?}"))
    }

    /// Waits until a pod of a backend from [`Harness::apply_backend`] answers the client by HTTP. Leaves the client's
    /// neighbor table alone: the request goes where announcements led it.
    ///
    /// # Errors
    /// When no pod answers in time.
    pub fn wait_for_answer(&self, address: &str, backend: &str) -> anyhow::Result<()> {
        let ask = format!("curl -s -m 1 http://{address}/hostname");
        eventually(&format!("an answer from {address}"), SHORT_TIMEOUT, || {
            Ok(self
                .client(&ask)
                .ok()
                .filter(|name| name.contains(backend))
                .map(drop))
        })
    }

    /// Waits until exactly one node answers for an address, and returns its name.
    ///
    /// # Errors
    /// When there is not exactly one in time.
    pub fn wait_for_owner(&self, address: &str, within: Duration) -> anyhow::Result<String> {
        eventually(&format!("one owner for {address}"), within, || {
            let owners = self.owners(address)?;
            Ok(if owners.len() == 1 {
                owners.into_iter().next()
            } else {
                None
            })
        })
    }

    /// The status of the stack `default`.
    ///
    /// # Errors
    /// As [`Harness::admin`].
    pub fn stack_status(&self) -> anyhow::Result<serde_json::Value> {
        let text = self.admin("kubectl get lbs default -o json")?;
        let mut stack: serde_json::Value = serde_json::from_str(&text)?;
        Ok(stack["status"].take())
    }

    /// The nodes by the MAC addresses of their LAN interfaces, without nodes that are switched off.
    ///
    /// # Errors
    /// When a node cannot list its interfaces.
    pub fn nodes_by_mac(&self) -> anyhow::Result<BTreeMap<String, String>> {
        let mut nodes = BTreeMap::new();
        for node in self.lab().nodes() {
            // A node that is switched off runs no command.
            let Ok(mut command) = self
                .lab()
                .command(&node, &["ip", "-br", "link", "show", "type", "veth"])
            else {
                continue;
            };
            for line in finish("ip link", &mut command)?.lines() {
                let mut fields = line.split_whitespace();
                if let (Some(name), Some(mac)) = (fields.next(), fields.nth(1))
                    && name.starts_with("eth")
                {
                    nodes.insert(mac.to_lowercase(), node.clone());
                }
            }
        }
        Ok(nodes)
    }

    /// Waits for the speaker pod on a node and returns its name.
    ///
    /// # Errors
    /// When no speaker is ready in time.
    pub fn speaker_on(&self, node: &str) -> anyhow::Result<String> {
        eventually(&format!("a speaker on {node}"), LONG_TIMEOUT, || {
            let name = self.admin(&format!(
                "kubectl get pods -n metallb-system -l component=speaker --field-selector spec.nodeName={node},status.phase=Running \
                 -o jsonpath='{{.items[*].metadata.name}}'"
            ))?;
            Ok((!name.is_empty()).then_some(name))
        })
    }
}

impl Drop for Harness {
    fn drop(&mut self) {
        if self.external_lock.is_none() {
            return;
        }
        let applied = self.applied.get_mut().unwrap_or_else(PoisonError::into_inner);
        for manifests in std::mem::take(applied).iter().rev() {
            let delete = format!("kubectl delete --ignore-not-found -f - <<'EOF'\n{manifests}\nEOF");
            if let Err(error) = self.admin(&delete) {
                eprintln!("{error:#}");
            }
        }
    }
}

/// The images of this project and of the test backends.
fn images() -> anyhow::Result<Vec<PathBuf>> {
    let mut images = operator_images();
    if images.len() < PROGRAMS.len() {
        bail!(
            "target/images lacks an image of {}: run `make image`",
            PROGRAMS.join(", ")
        );
    }
    images.extend(cached_images()?);
    Ok(images)
}

/// The cluster of a scenario.
#[derive(Debug)]
pub enum Cluster {
    /// A lab of its own.
    Lab(Lab),
    /// An existing cluster, by its kubeconfig.
    External(PathBuf),
}

impl Cluster {
    /// The lab, if it is one.
    #[must_use]
    pub fn lab(&self) -> Option<&Lab> {
        match self {
            Self::Lab(lab) => Some(lab),
            Self::External(_) => None,
        }
    }

    /// The administrator's kubeconfig.
    #[must_use]
    pub fn kubeconfig(&self) -> PathBuf {
        match self {
            Self::Lab(lab) => lab.kubeconfig(),
            Self::External(path) => path.clone(),
        }
    }
}

fn path() -> String {
    let path = std::env::var("PATH").unwrap_or_default();
    format!("{}:{path}", lb_lab::cache().join("bin").display())
}

fn finish(text: &str, command: &mut Command) -> anyhow::Result<String> {
    let Output {
        status,
        stdout,
        stderr,
    } = command.output().with_context(|| format!("start {command:?}"))?;
    let stdout = String::from_utf8_lossy(&stdout).into_owned();
    if status.success() {
        return Ok(stdout);
    }
    let mut message = format!("{status}: {text}");
    for printed in [stdout, String::from_utf8_lossy(&stderr).into_owned()] {
        if !printed.trim().is_empty() {
            let _ = write!(message, "\n{}", printed.trim_end());
        }
    }
    bail!(message)
}
