//! What the scenarios stand on: a cluster with the chart installed, an administrator's shell and a LAN client's shell.
//!
//! Commands run as a user types them, through `bash`, with `kubectl` and `helm` on the path; a failure shows the command
//! and everything it printed.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::{Command, Output};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

use crate::guide::{self, Place};
use lb_lab::{Lab, LabConfig, PROGRAMS, cached_images, operator_images, repository};

/// How long a scenario waits for what should happen in well under a second, on a machine that is busy.
pub const SOON: Duration = Duration::from_secs(30);
/// How long a scenario waits for what the cluster itself takes its time for: a dead node, pods that restart.
pub const EVENTUALLY: Duration = Duration::from_secs(120);
/// The longest that one command takes, in seconds: `kubectl delete` waits for ever for an object that nobody lets go, and a test
/// that hangs tells nobody why.
const LONGEST: &str = "300";

/// A cluster and the two places from which a user looks at it.
pub struct Harness {
    cluster: Cluster,
    replacements: BTreeMap<String, String>,
    echo: bool,
    /// Manifests that were applied.
    applied: Mutex<Vec<String>>,
    /// Held on a cluster that is not a lab: scenarios use it one after the other.
    turn: Option<MutexGuard<'static, ()>>,
}

impl Harness {
    /// A lab of its own for one scenario, with our images loaded. It is removed when the harness is dropped.
    ///
    /// # Errors
    /// When set-up or `make image` has not been run, or the lab does not come up.
    pub fn lab(name: &str, nodes: usize) -> anyhow::Result<Self> {
        Self::lab_like(LabConfig {
            nodes,
            ..LabConfig::named(name)
        })
    }

    /// The same, in a lab that is like this, but for its images.
    ///
    /// # Errors
    /// As [`Harness::lab`].
    pub fn lab_like(config: LabConfig) -> anyhow::Result<Self> {
        let lab = Lab::up(LabConfig {
            images: images()?,
            ..config
        })?;
        Ok(Self::on(Cluster::Lab(lab)))
    }

    /// A lab as [`Harness::lab`], with the images of all releases to upgrade between.
    ///
    /// # Errors
    /// As [`Harness::lab`].
    pub fn lab_with_releases(name: &str, nodes: usize) -> anyhow::Result<Self> {
        let releases = repository().join("target/images/releases.tar");
        if !releases.exists() {
            bail!("{} is missing: run `make image`", releases.display());
        }
        let mut images = images()?;
        images.push(releases);
        let lab = Lab::up(LabConfig {
            nodes,
            images,
            ..LabConfig::named(name)
        })?;
        Ok(Self::on(Cluster::Lab(lab)))
    }

    /// A lab, or the cluster that `KUBECONFIG` names: for scenarios that need neither cable nor LAN client. There, what
    /// was applied is deleted when the harness is dropped; operator and stack stay.
    ///
    /// # Errors
    /// As [`Harness::lab`].
    pub fn cluster(name: &str, nodes: usize) -> anyhow::Result<Self> {
        match std::env::var_os("KUBECONFIG") {
            Some(path) if !path.is_empty() => {
                static TURN: Mutex<()> = Mutex::new(());
                let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
                let mut harness = Self::on(Cluster::External(path.into()));
                harness.turn = Some(turn);
                Ok(harness)
            }
            _ => Self::lab(name, nodes),
        }
    }

    fn on(cluster: Cluster) -> Self {
        Self {
            cluster,
            replacements: BTreeMap::new(),
            echo: false,
            applied: Mutex::default(),
            turn: None,
        }
    }

    /// Prints each command and its output, as a terminal would show them.
    #[must_use]
    pub fn echoing(mut self) -> Self {
        self.echo = true;
        self
    }

    /// The lab, where there is one.
    ///
    /// # Panics
    /// On a cluster that is not a lab: a scenario that cuts cables must ask for one.
    #[must_use]
    pub fn the_lab(&self) -> &Lab {
        self.cluster.lab().expect("this scenario needs a lab")
    }

    /// Whether the harness stands in a lab, with a LAN and a client.
    #[must_use]
    pub fn is_lab(&self) -> bool {
        self.cluster.lab().is_some()
    }

    /// Lets the lab stand when this process ends.
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

    /// Gives the value that stands for a placeholder in the guide's commands.
    pub fn replace(&mut self, placeholder: &str, value: &str) {
        self.replacements.insert(placeholder.to_owned(), value.to_owned());
    }

    /// Runs a command as the administrator.
    ///
    /// # Errors
    /// When it cannot be started or fails; the error holds what it printed.
    pub fn admin(&self, text: &str) -> anyhow::Result<String> {
        finish(text, &mut self.admin_command(text))
    }

    /// The same, to be started by the caller.
    #[must_use]
    pub fn admin_command(&self, text: &str) -> Command {
        let mut command = Command::new("timeout");
        command
            .args([LONGEST, "bash", "-o", "pipefail", "-c", text])
            .current_dir(repository())
            .env("KUBECONFIG", self.cluster.kubeconfig())
            .env("PATH", path());
        command
    }

    /// Runs a command as a machine on the LAN.
    ///
    /// # Errors
    /// As [`Harness::admin`].
    pub fn client(&self, text: &str) -> anyhow::Result<String> {
        self.on_machine("client", text)
    }

    /// Runs a command on a machine of the lab.
    ///
    /// # Errors
    /// As [`Harness::admin`].
    pub fn on_machine(&self, machine: &str, text: &str) -> anyhow::Result<String> {
        finish(
            text,
            &mut self
                .the_lab()
                .command(machine, &["timeout", LONGEST, "bash", "-c", text])?,
        )
    }

    /// Runs the commands of one section of the guide, in order, and returns what each printed.
    ///
    /// # Errors
    /// When one of them fails.
    pub fn follow(&self, section: &str) -> anyhow::Result<Vec<String>> {
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

    /// Installs the chart and a stack as the guide says, and waits until it is ready. What is there already stays.
    ///
    /// # Errors
    /// When a step fails.
    pub fn install(&self) -> anyhow::Result<()> {
        if !self.is_lab() && self.admin("helm status lb-operator").is_ok() {
            return self.install_stack();
        }
        self.follow("1.1")?;
        self.follow("1.2")?;
        Ok(())
    }

    /// Makes the stack, where the operator is installed already, and waits until it is ready.
    ///
    /// # Errors
    /// When a step fails.
    pub fn install_stack(&self) -> anyhow::Result<()> {
        self.admin("kubectl apply -f charts/lb-operator/examples/stack.yaml")?;
        self.follow("1.2")?;
        Ok(())
    }

    /// Applies manifests.
    ///
    /// # Errors
    /// When the API server refuses one.
    pub fn apply(&self, manifests: &str) -> anyhow::Result<String> {
        let output = self.admin(&format!("kubectl apply -f - <<'EOF'\n{manifests}\nEOF"))?;
        let mut applied = self.applied.lock().unwrap_or_else(PoisonError::into_inner);
        applied.push(manifests.to_owned());
        Ok(output)
    }

    /// A pool and an advertisement for it, both of this name.
    ///
    /// # Errors
    /// When the API server refuses one.
    pub fn apply_pool(&self, name: &str, range: &str) -> anyhow::Result<()> {
        self.apply(&format!(
            "apiVersion: metallb.io/v1beta1\nkind: IPAddressPool\nmetadata: {{name: {name}, namespace: metallb-system}}\n\
             spec: {{addresses: [\"{range}\"]}}\n---\napiVersion: metallb.io/v1beta1\nkind: L2Advertisement\n\
             metadata: {{name: {name}, namespace: metallb-system}}\nspec: {{ipAddressPools: [{name}]}}"
        ))?;
        Ok(())
    }

    /// Two pods that answer HTTP on port 80 with their host name, and wait until they do. The pods of one deployment
    /// spread over the nodes.
    ///
    /// # Errors
    /// When they do not become ready.
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

    /// A LoadBalancer Service on port 80. `extra` are more lines of its `spec`, two blanks deep.
    ///
    /// # Errors
    /// When the API server refuses it.
    pub fn apply_service(&self, name: &str, app: &str, annotations: &str, extra: &str) -> anyhow::Result<()> {
        self.apply(&format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}, annotations: {{{annotations}}}}}\nspec:\n  type: LoadBalancer\n  \
             selector: {{app: {app}}}\n  ports: [{{port: 80}}]\n{extra}"
        ))?;
        Ok(())
    }

    /// The address a Service has, once it has one.
    ///
    /// # Errors
    /// When it has none in time.
    pub fn address(&self, service: &str) -> anyhow::Result<String> {
        eventually(&format!("an address for {service}"), SOON, || {
            let ip = self.address_now(service)?;
            Ok((!ip.is_empty()).then_some(ip))
        })
    }

    /// The address a Service has now; empty when none.
    ///
    /// # Errors
    /// When there is no such Service.
    pub fn address_now(&self, service: &str) -> anyhow::Result<String> {
        self.admin(&format!(
            "kubectl get service {service} -o jsonpath='{{.status.loadBalancer.ingress[*].ip}}'"
        ))
    }

    /// Waits until the events about an object contain a text, and returns them all, one a line.
    ///
    /// # Errors
    /// When they do not in time.
    pub fn event(&self, kind: &str, name: &str, text: &str) -> anyhow::Result<String> {
        let mut last = String::new();
        eventually(
            &format!("an event with {text:?} about {kind} {name}"),
            SOON,
            || {
                last = self.events(kind, name)?;
                Ok(last.contains(text).then(|| last.clone()))
            },
        )
        .with_context(|| format!("its events are:\n{last}"))
    }

    /// The events about an object, one a line: type, reason, message.
    ///
    /// # Errors
    /// When the API server does not answer.
    pub fn events(&self, kind: &str, name: &str) -> anyhow::Result<String> {
        self.admin(&format!(
            "kubectl get events -A --field-selector involvedObject.kind={kind},involvedObject.name={name} \
             -o jsonpath='{{range .items[*]}}{{.type}} {{.reason}} {{.message}}{{\"\\n\"}}{{end}}'"
        ))
    }

    /// The nodes that answer ARP for an address, asked from the LAN client.
    ///
    /// # Errors
    /// When the question cannot be put.
    pub fn owners(&self, address: &str) -> anyhow::Result<BTreeSet<String>> {
        Ok(self
            .owners_of(&[address.to_owned()])?
            .remove(address)
            .unwrap_or_default())
    }

    /// The nodes that answer ARP for each of some addresses, asked all at once and twice: to everybody, and then to who
    /// answered first. An address that nobody answers for is absent.
    ///
    /// # Errors
    /// When the question cannot be put.
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

    /// The node that the client has in its neighbour table for an address on the first LAN.
    ///
    /// # Errors
    /// When it has none there, or one whose hardware address is no node's.
    pub fn neighbour(&self, address: &str) -> anyhow::Result<String> {
        let known = self.client(&format!("ip neigh show {address} dev eth0"))?;
        let mut words = known.split_whitespace().skip_while(|word| *word != "lladdr");
        let mac = words.nth(1).unwrap_or_default();
        let node = self.nodes_by_mac()?.remove(mac);
        node.with_context(|| format!("no node has the hardware address of {address}: {known:?}"))
    }

    /// Waits until a pod of a backend, as [`Harness::apply_backend`] makes them, answers the client by HTTP. The client's
    /// neighbour table is left alone: it reaches the address by what announcements have taught it.
    ///
    /// # Errors
    /// When none does in time.
    pub fn answers(&self, address: &str, backend: &str) -> anyhow::Result<()> {
        let ask = format!("curl -s -m 1 http://{address}/hostname");
        eventually(&format!("an answer from {address}"), SOON, || {
            Ok(self
                .client(&ask)
                .ok()
                .filter(|name| name.contains(backend))
                .map(drop))
        })
    }

    /// Waits until exactly one node answers for an address, and returns it.
    ///
    /// # Errors
    /// When that does not come about in time.
    pub fn owner(&self, address: &str, within: Duration) -> anyhow::Result<String> {
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

    /// The node of each hardware address on a LAN, of those that have power.
    ///
    /// # Errors
    /// When a node does not tell.
    pub fn nodes_by_mac(&self) -> anyhow::Result<BTreeMap<String, String>> {
        let mut nodes = BTreeMap::new();
        for node in self.the_lab().nodes() {
            // A node without power answers nothing.
            let Ok(mut command) = self
                .the_lab()
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

    /// The name of the speaker pod on a node.
    ///
    /// # Errors
    /// When there is none in time.
    pub fn speaker_on(&self, node: &str) -> anyhow::Result<String> {
        eventually(&format!("a speaker on {node}"), EVENTUALLY, || {
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
        if self.turn.is_none() {
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

/// Asks again and again until there is an answer. Errors of the question itself are kept as the reason of failure.
///
/// # Errors
/// When there is no answer in time.
pub fn eventually<T>(
    what: &str,
    within: Duration,
    mut ask: impl FnMut() -> anyhow::Result<Option<T>>,
) -> anyhow::Result<T> {
    let start = Instant::now();
    loop {
        let answer = ask();
        if let Ok(Some(answer)) = answer {
            return Ok(answer);
        }
        if start.elapsed() > within {
            answer.with_context(|| format!("waited {within:?} for {what}"))?;
            bail!("waited {within:?} in vain for {what}");
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// The images that the scenarios run: ours and the test backends.
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

/// Where a scenario runs.
#[derive(Debug)]
pub enum Cluster {
    /// In a lab of its own.
    Lab(Lab),
    /// On a cluster that somebody provides, by its kubeconfig.
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
