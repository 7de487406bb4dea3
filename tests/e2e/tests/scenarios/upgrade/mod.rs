//! Upgrades as a client on the LAN sees them: successful ones, faulty ones that are rolled back, and interrupted ones.
//! Releases are real images: see `lb_tools::releases`.
//!
//! Each test uses a [`Place`]: an operator of the next minor version, which manages the current one too, a stack, and a
//! Service with an address of each family.

mod broken;
mod following;
mod good;
mod harmless;
mod interrupted;

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use lb_e2e::client::traffic::{Traffic, TrafficReport};
use lb_e2e::harness::{Harness, SHORT_TIMEOUT, eventually};
use lb_tools::REGISTRY;
use lb_tools::releases::{CURRENT_VERSION, Release};
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use crate::capture::{Announcement, Capture};

/// The longest time without an answer for a client with a cold neighbor table, while a speaker restarts.
const MAX_RESOLUTION_GAP: Duration = Duration::from_secs(1);
/// Limit for an upgrade or a rollback, on a busy machine.
const UPGRADE_TIMEOUT: Duration = Duration::from_secs(240);

/// A lab for upgrades.
struct Place {
    harness: Harness,
    /// The chart of the next version.
    next: String,
    four: Ipv4Addr,
    six: Ipv6Addr,
    /// The owners of the two addresses at the start.
    owners: [String; 2],
}

impl Place {
    /// A lab with operator and stack of the current version.
    fn present(name: &str) -> anyhow::Result<Self> {
        let harness = Harness::start_lab_with_releases(name, 3)?;
        let next = chart(&harness)?;
        Self::set_up(harness, next, false, CURRENT_VERSION)
    }

    /// A lab with an operator of the next version and a stack of this one.
    fn next(name: &str, version: &str) -> anyhow::Result<Self> {
        let harness = Harness::start_lab_with_releases(name, 3)?;
        let next = chart(&harness)?;
        Self::set_up(harness, next, true, version)
    }

    fn set_up(harness: Harness, next: String, ahead: bool, version: &str) -> anyhow::Result<Self> {
        let chart = if ahead { next.clone() } else { harness.chart() };
        harness.admin(&format!(
            "helm install lb-operator {chart} -n lb-operator-system --create-namespace --wait --timeout 120s"
        ))?;
        // An operator of the version that the stack shall get.
        let line = if ahead {
            format!("version: {version}, ")
        } else {
            String::new()
        };
        harness.apply(&format!(
            "apiVersion: lb-operator.io/v1alpha1\nkind: LoadBalancerStack\nmetadata: {{name: default}}\n\
             spec: {{{line}upgrade: {{canarySoakSeconds: 5}}}}"
        ))?;
        harness.run_section("1.2")?;
        harness.apply(
            "apiVersion: metallb.io/v1beta1\nkind: IPAddressPool\nmetadata: {name: lan, namespace: metallb-system}\n\
             spec: {addresses: [192.168.50.60-192.168.50.79, \"fc00:50::600-fc00:50::60f\"]}\n---\n\
             apiVersion: metallb.io/v1beta1\nkind: L2Advertisement\nmetadata: {name: lan, namespace: metallb-system}",
        )?;
        harness.apply_service("web", "web", "", "  ipFamilyPolicy: RequireDualStack\n")?;
        let addresses = harness.wait_for_address("web")?;
        let (four, six) = addresses.split_once(' ').context("two addresses")?;
        let (four, six) = (four.parse()?, six.parse()?);
        let mut place = Self {
            harness,
            next,
            four,
            six,
            owners: [String::new(), String::new()],
        };
        // The pod runs on the future owner of the IPv4 address, so a node that is disconnected for another reason
        // affects neither. It requests processor time: without, starting labs would starve it for seconds, and its
        // clients would time out.
        let nodes = place.harness.lab().nodes();
        let owner = nodes
            .iter()
            .min_by_key(|node| Sha256::digest(format!("{node}#{four}")))
            .context("a node")?;
        place.harness.apply(&format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: web, labels: {{app: web}}}}\nspec:\n  nodeName: {owner}\n  \
             containers: [{{name: agnhost, image: \"lab.local/agnhost:1\", args: [netexec, --http-port=80], \
             resources: {{requests: {{cpu: 500m}}}}}}]"
        ))?;
        place.harness.wait_for_answer(&four.to_string(), "web")?;
        place.harness.wait_for_answer(&format!("[{six}]"), "web")?;
        place.owners = place.neighbors()?;
        Ok(place)
    }

    /// Runs a client during the whole action, and checks that no connection broke, no request was lost, and no address
    /// moved.
    fn with_traffic(
        &self,
        what: &str,
        work: impl FnOnce(&Self) -> anyhow::Result<()>,
    ) -> anyhow::Result<TrafficReport> {
        let capture = Capture::on(&self.harness, "eth0")?;
        let traffic = Traffic::start(self.harness.lab(), self.four, self.six)?;
        let worked = work(self).with_context(|| format!("{what}: the stack says\n{}", self.summary()));
        let account = traffic.end()?;
        println!("{what}: {account}");
        let others = self.announcements_of_others(&capture)?;
        if !account.broken.is_empty() || account.lost() > 0 || !others.is_empty() {
            println!("announced by others: {others:?}\n{}", self.speaker_logs());
        }
        worked?;
        assert_eq!(account.broken, [], "{what}: connections broke");
        assert_eq!(
            account.lost(),
            0,
            "{what}: requests were lost: {:?}",
            account.lost
        );
        assert!(others.is_empty(), "{what}: announced by others than the owners");
        self.assert_addresses_kept(what)?;
        Ok(account)
    }

    /// The same, and a client with a cold neighbor table is answered within a second at any time: by the owner, or by a
    /// proxy reply.
    fn with_traffic_and_resolution(
        &self,
        what: &str,
        work: impl FnOnce(&Self) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        let account = self.with_traffic(what, work)?;
        if account.arp.max(account.ndp) > MAX_RESOLUTION_GAP {
            println!("{}", self.speaker_logs());
            bail!(
                "{what}: no answer by ARP for {:?}, by NDP for {:?}",
                account.arp,
                account.ndp
            );
        }
        Ok(())
    }

    /// Announcements with another MAC address than the owner's, which break connections for a moment.
    fn announcements_of_others(&self, capture: &Capture) -> anyhow::Result<Vec<Announcement>> {
        let nodes = self.harness.nodes_by_mac()?;
        let addresses = [self.four.to_string(), self.six.to_string()];
        let heard = addresses.iter().zip(&self.owners).flat_map(|(address, owner)| {
            let by_another = |heard: &Announcement| nodes.get(&heard.mac) != Some(owner);
            capture.of(address, 0.0).into_iter().filter(by_another)
        });
        Ok(heard.collect())
    }

    /// The Service's addresses and their owners are unchanged.
    fn assert_addresses_kept(&self, what: &str) -> anyhow::Result<()> {
        assert_eq!(
            self.harness.current_address("web")?,
            format!("{} {}", self.four, self.six),
            "{what}"
        );
        self.harness.wait_for_answer(&self.four.to_string(), "web")?;
        self.harness.wait_for_answer(&format!("[{}]", self.six), "web")?;
        assert_eq!(self.neighbors()?, self.owners, "{what}: an address moved");
        Ok(())
    }

    fn neighbors(&self) -> anyhow::Result<[String; 2]> {
        Ok([
            self.harness.neighbor(&self.four.to_string())?,
            self.harness.neighbor(&self.six.to_string())?,
        ])
    }

    /// The stack's status.
    fn status(&self) -> anyhow::Result<Value> {
        self.harness.stack_status()
    }

    /// Conditions and upgrade, for a message.
    fn summary(&self) -> String {
        match self.status() {
            Ok(status) => format!(
                "conditions: {}\nupgrade: {}\nhistory: {}",
                status["conditions"], status["upgrade"], status["history"]
            ),
            Err(error) => format!("{error:#}"),
        }
    }

    /// Announcements with their times, and the running speakers' logs, for a message. A failure here must not hide the
    /// reason of the message.
    fn speaker_logs(&self) -> String {
        let reported = self.harness.admin(
            r#"kubectl get events.events.k8s.io --sort-by=.eventTime \
               -o jsonpath='{range .items[*]}{.eventTime} {.regarding.name} {.reason} {.note}{"\n"}{end}'
               kubectl logs -n metallb-system -l component=speaker --prefix --tail=-1"#,
        );
        reported.unwrap_or_else(|error| format!("{error:#}"))
    }

    /// Sets fields of the spec, as JSON.
    fn set(&self, spec: &str) -> anyhow::Result<()> {
        self.harness.admin(&format!(
            "kubectl patch lbs default --type=merge -p '{{\"spec\":{spec}}}'"
        ))?;
        Ok(())
    }

    /// Number of completed upgrades.
    fn past(&self) -> anyhow::Result<usize> {
        Ok(self.status()?["history"].as_array().map_or(0, Vec::len))
    }

    /// Waits until one more upgrade than `past` is complete, and returns its record.
    fn wait_for_completion(&self, past: usize) -> anyhow::Result<Value> {
        let start = Instant::now();
        loop {
            // The API server may fail for a while.
            if let Ok(mut status) = self.status()
                && let Some(record) = status["history"].get_mut(past)
            {
                return Ok(record.take());
            }
            if start.elapsed() > UPGRADE_TIMEOUT {
                bail!("waited {UPGRADE_TIMEOUT:?} for the upgrade to complete");
            }
            // More frequent requests would cost processor time that everything here shares.
            std::thread::sleep(Duration::from_millis(500));
        }
    }

    /// Waits until an upgrade to this version is complete, and checks its result.
    fn wait_for_success(&self, past: usize, version: &str) -> anyhow::Result<()> {
        let record = self.wait_for_completion(past)?;
        assert_eq!(record["outcome"], "Succeeded", "{record}");
        assert_eq!(record["to"], version, "{record}");
        self.runs(version)
    }

    /// Everything runs at this version.
    fn runs(&self, version: &str) -> anyhow::Result<()> {
        self.harness.admin(&format!(
            "kubectl wait lbs default --for=jsonpath='{{.status.version}}'={version} --timeout=60s"
        ))?;
        for program in ["controller", "speaker"] {
            eventually(&format!("only {program}s of {version}"), SHORT_TIMEOUT, || {
                let images = self.images(program)?;
                let wanted = format!("{REGISTRY}/{program}:{version}");
                Ok((images == BTreeSet::from([wanted])).then_some(()))
            })?;
        }
        self.harness.admin(
            "kubectl rollout status daemonset/speaker -n metallb-system --timeout=60s && \
             kubectl rollout status deployment/controller -n metallb-system --timeout=60s",
        )?;
        Ok(())
    }

    /// The images of the pods of a program.
    fn images(&self, program: &str) -> anyhow::Result<BTreeSet<String>> {
        let text = self.harness.admin(&format!(
            "kubectl get pods -n metallb-system -l app=metallb,component={program} -o jsonpath='{{.items[*].spec.containers[*].image}}'"
        ))?;
        Ok(text.split_whitespace().map(str::to_owned).collect())
    }

    /// The uids of the stack's pods, which change in a restart.
    fn pods(&self) -> anyhow::Result<BTreeSet<String>> {
        let text = self.harness.admin(
            "kubectl get pods -n metallb-system -l 'app=metallb,component in (controller,speaker)' \
             -o jsonpath='{range .items[*]}{.metadata.uid}/{.status.containerStatuses[0].restartCount} {end}'",
        )?;
        Ok(text.split_whitespace().map(str::to_owned).collect())
    }

    /// A condition: status, reason and message.
    fn condition(&self, name: &str) -> anyhow::Result<(String, String, String)> {
        let status = self.status()?;
        let conditions = status["conditions"].as_array().context("no conditions")?;
        let found = conditions.iter().find(|condition| condition["type"] == name);
        let found = found.with_context(|| format!("no condition {name}"))?;
        let field = |name: &str| found[name].as_str().unwrap_or_default().to_owned();
        Ok((field("status"), field("reason"), field("message")))
    }
}

/// The version without a fault.
fn good() -> String {
    Release::Good.version()
}

/// The chart of the next version, beside the lab's own files.
fn chart(harness: &Harness) -> anyhow::Result<String> {
    let package = lb_tools::chart::package(REGISTRY, &good(), &harness.lab().logs())?;
    Ok(package.display().to_string())
}
