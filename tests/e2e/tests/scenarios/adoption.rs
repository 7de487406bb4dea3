//! A running MetalLB is replaced and restored while a client uses the Services. MetalLB comes from its own manifest;
//! its workloads have the names of ours.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use lb_e2e::client::Probe;
use lb_e2e::client::arp::{self, Answers};
use lb_e2e::client::traffic::{Traffic, TrafficReport};
use lb_e2e::harness::{Harness, LONG_TIMEOUT, SHORT_TIMEOUT, eventually};
use serde_json::Value;

/// Limit for one direction, on a busy machine.
const ADOPTION_TIMEOUT: Duration = Duration::from_secs(180);
/// Services with one address each, besides the client's: enough for every node to announce some.
const OTHER_SERVICES: usize = 6;
const ADDRESSES: &str = "kubectl get services -o jsonpath='{range .items[?(@.spec.type==\"LoadBalancer\")]}{.metadata.name}={.status.loadBalancer.ingress[*].ip} {end}'";
/// Uid and image of every pod in the stack's namespace.
const METALLB: &str = "kubectl get pods -n metallb-system -o jsonpath='{range .items[*]}{.metadata.uid} {.spec.containers[0].image}{\"\\n\"}{end}'";

struct Place {
    harness: Harness,
    four: Ipv4Addr,
    six: Ipv6Addr,
    others: Vec<Ipv4Addr>,
    /// The addresses of all Services.
    addresses: String,
}

#[test]
fn adoption_and_restore_keep_every_address() -> anyhow::Result<()> {
    let place = Place::with_metallb("adoption")?;
    place.nothing_is_installed_without_adopt()?;
    place.class_of_its_own_changes_nothing()?;
    place.objects_of_a_gitops_tool_are_left_alone()?;

    let (account, moved) = place.with_traffic("adoption", |place| {
        place.set(r#"{"adopt":true}"#)?;
        place.reaches("Adopted")
    })?;
    assert_eq!(account.broken, [], "connections broke");
    assert_eq!(account.lost(), 0, "requests were lost: {:?}", account.lost);
    assert!(moved.is_empty(), "two nodes answered for {moved:?}");
    assert!(account.arp < Duration::from_millis(500), "ARP was not answered");
    place.ours_serve()?;
    place.recreated_workload_is_reported()?;

    let (_, _) = place.with_traffic("the way back", |place| {
        place.set(r#"{"adopt":false,"restore":true}"#)?;
        place.metallb_serves()
    })?;
    let degraded = place.condition("Degraded")?;
    assert!(degraded.contains("spec.adopt"), "refused as before: {degraded}");

    // Back in the middle: MetalLB's speakers are still running.
    let (account, moved) = place.with_traffic("back in the middle", |place| {
        place.set(r#"{"adopt":true,"restore":false}"#)?;
        place.reaches("Speakers")?;
        place.set(r#"{"restore":true}"#)?;
        place.metallb_serves()
    })?;
    assert_eq!(account.broken, [], "connections broke");
    assert_eq!(account.lost(), 0, "requests were lost: {:?}", account.lost);
    assert!(moved.is_empty(), "two nodes answered for {moved:?}");

    // A stack that is deleted with `restore` restores MetalLB, even while Services have addresses.
    place.set(r#"{"adopt":true,"restore":false}"#)?;
    place.reaches("Adopted")?;
    place.dropped_adopt_changes_nothing()?;
    place.set(r#"{"paused":true,"restore":true}"#)?;
    place
        .harness
        .admin("kubectl delete loadbalancerstack default --wait=false")?;
    place.set(r#"{"paused":false}"#)?;
    place
        .harness
        .admin("kubectl wait --for=delete loadbalancerstack/default --timeout=120s")?;
    place.metallb_serves()?;
    place.harness.wait_for_answer(&place.four.to_string(), "web")
}

impl Place {
    fn with_metallb(name: &str) -> anyhow::Result<Self> {
        let harness = Harness::start_lab(name, 3)?;
        crate::metallb::metallb(&harness)?;
        harness.apply_backend("web", 2)?;
        // MetalLB accepts pools only when its webhook is ready.
        let pool = "apiVersion: metallb.io/v1beta1\nkind: IPAddressPool\nmetadata: {name: lan, namespace: metallb-system}\n\
                    spec: {addresses: [192.168.50.60-192.168.50.79, \"fc00:50::600-fc00:50::60f\"]}\n---\n\
                    apiVersion: metallb.io/v1beta1\nkind: L2Advertisement\nmetadata: {name: lan, namespace: metallb-system}";
        eventually("MetalLB to accept a pool", LONG_TIMEOUT, || {
            Ok(harness.apply(pool).ok())
        })?;
        harness.apply_service("web", "web", "", "  ipFamilyPolicy: RequireDualStack\n")?;
        let both = harness.wait_for_address("web")?;
        let (four, six) = both.split_once(' ').context("two addresses")?;
        let (four, six) = (four.parse()?, six.parse()?);
        let mut others = Vec::new();
        for number in 0..OTHER_SERVICES {
            let name = format!("other-{number}");
            harness.apply_service(&name, "web", "", "")?;
            others.push(harness.wait_for_address(&name)?.parse()?);
        }
        let addresses = harness.admin(ADDRESSES)?;
        let place = Self {
            harness,
            four,
            six,
            others,
            addresses,
        };
        for address in place.others.iter().chain([&place.four]) {
            place.harness.wait_for_owner(&address.to_string(), LONG_TIMEOUT)?;
        }
        place.harness.wait_for_answer(&format!("[{six}]"), "web")?;
        Ok(place)
    }

    /// Without `adopt`, the stack is rejected, the message names the field, and MetalLB is unchanged.
    fn nothing_is_installed_without_adopt(&self) -> anyhow::Result<()> {
        let before = self.harness.admin(METALLB)?;
        self.harness.admin(&format!(
            "helm install lb-operator {} -n lb-operator-system --create-namespace --set rbac.adoption=true --wait --timeout 120s",
            self.harness.chart()
        ))?;
        self.harness
            .admin("kubectl apply -f charts/lb-operator/examples/stack.yaml")?;
        let degraded = eventually("the stack to be refused", SHORT_TIMEOUT, || {
            let degraded = self.condition("Degraded")?;
            Ok(degraded.starts_with("True PreflightFailed").then_some(degraded))
        })?;
        for part in ["MetalLB", "Deployment metallb-system/controller", "spec.adopt"] {
            assert!(degraded.contains(part), "{degraded}");
        }
        assert_eq!(self.harness.admin(METALLB)?, before, "MetalLB is as it was");
        Ok(())
    }

    /// A stack with a class of its own is refused in MetalLB's namespace, and its deletion leaves MetalLB as it was.
    fn class_of_its_own_changes_nothing(&self) -> anyhow::Result<()> {
        let before = self.harness.admin(METALLB)?;
        let delete = "kubectl delete loadbalancerstack default --timeout=60s";
        self.harness.admin(delete)?;
        self.harness.apply(
            "apiVersion: lb-operator.io/v1alpha1\nkind: LoadBalancerStack\nmetadata: {name: default}\n\
             spec: {loadBalancerClass: example.com/lan}",
        )?;
        eventually("the stack to be refused", SHORT_TIMEOUT, || {
            let degraded = self.condition("Degraded")?;
            let is =
                degraded.starts_with("True PreflightFailed") && degraded.contains("another spec.namespace");
            Ok(is.then_some(()))
        })?;
        assert_eq!(self.harness.admin(METALLB)?, before, "MetalLB is as it was");
        self.harness.admin(delete)?;
        assert_eq!(self.harness.admin(METALLB)?, before, "MetalLB is as it was");
        self.harness.wait_for_answer(&self.four.to_string(), "web")?;
        self.harness
            .admin("kubectl apply -f charts/lb-operator/examples/stack.yaml")?;
        Ok(())
    }

    /// Objects of a GitOps tool are not adopted, and the condition says what to do.
    fn objects_of_a_gitops_tool_are_left_alone(&self) -> anyhow::Result<()> {
        let before = self.metallb()?;
        let mark = "kubectl annotate deployment controller -n metallb-system argocd.argoproj.io/tracking-id";
        self.harness.admin(&format!("{mark}=lan"))?;
        self.set(r#"{"adopt":true}"#)?;
        eventually("the adoption to be refused", SHORT_TIMEOUT, || {
            let degraded = self.condition("Degraded")?;
            let is = degraded.starts_with("True AdoptionBlocked") && degraded.contains("Argo CD");
            Ok(is.then_some(()))
        })?;
        assert_eq!(self.metallb()?, before, "MetalLB is as it was");
        self.set(r#"{"adopt":false}"#)?;
        self.harness.admin(&format!("{mark}-"))?;
        Ok(())
    }

    /// A workload of MetalLB that is created again is reported and left alone; ours keep running.
    fn recreated_workload_is_reported(&self) -> anyhow::Result<()> {
        self.harness.apply(
            "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: metallb-controller, namespace: metallb-system, \
             labels: {app.kubernetes.io/name: metallb}}\nspec:\n  replicas: 0\n  selector: {matchLabels: {made: again}}\n  \
             template:\n    metadata: {labels: {made: again}}\n    spec: {containers: [{name: it, image: it}]}",
        )?;
        eventually("a report of it", LONG_TIMEOUT, || {
            let degraded = self.condition("Degraded")?;
            let is = degraded.starts_with("True AdoptionBlocked") && degraded.contains("metallb-controller");
            Ok(is.then_some(()))
        })?;
        self.harness.wait_for_answer(&self.four.to_string(), "web")?;
        self.harness
            .admin("kubectl delete deployment metallb-controller -n metallb-system")?;
        eventually("the adoption to be complete again", LONG_TIMEOUT, || {
            Ok(self.condition("Adopted")?.starts_with("True").then_some(()))
        })
    }

    /// Removing `adopt` after the migration tears nothing down.
    fn dropped_adopt_changes_nothing(&self) -> anyhow::Result<()> {
        // The last pod of MetalLB may still be stopping.
        let before = eventually("only our pods to be there", LONG_TIMEOUT, || {
            let pods = self.harness.admin(METALLB)?;
            Ok((!pods.contains("quay.io/metallb")).then_some(pods))
        })?;
        self.set(r#"{"adopt":false}"#)?;
        let generation = self
            .harness
            .admin("kubectl get lbs default -o jsonpath='{.metadata.generation}'")?;
        let generation: i64 = generation.parse()?;
        eventually("the spec to be observed", SHORT_TIMEOUT, || {
            let is = self.status()?["observedGeneration"] == generation;
            Ok((is && self.condition("Adopted")?.starts_with("True")).then_some(()))
        })?;
        assert_eq!(self.harness.admin(METALLB)?, before, "every pod stays");
        self.set(r#"{"adopt":true}"#)
    }

    /// Runs a client during the whole action. Also returns the addresses that two nodes have answered for.
    fn with_traffic(
        &self,
        what: &str,
        work: impl FnOnce(&Self) -> anyhow::Result<()>,
    ) -> anyhow::Result<(TrafficReport, Vec<String>)> {
        let lab = self.harness.lab();
        let probe = |address: &Ipv4Addr| arp::probe(lab, *address, Duration::from_millis(50));
        let probes: Vec<Probe<Answers>> = self.others.iter().map(probe).collect::<Result<_, _>>()?;
        let traffic = Traffic::start_without_ndp(lab, self.four, self.six)?;
        let begun = Instant::now();
        let worked = work(self).with_context(|| format!("{what}: the stack says\n{}", self.summary()));
        let end = Instant::now();
        let account = traffic.end()?;
        println!("{what}: {account}");
        let mut moved = Vec::new();
        let owners = |address: Ipv4Addr, owners: usize, moved: &mut Vec<String>| {
            if owners != 1 {
                moved.push(format!("{address}: {owners} hardware addresses"));
            }
        };
        owners(self.four, account.owners.len(), &mut moved);
        let mut silence = Duration::ZERO;
        for (address, probe) in self.others.iter().zip(probes) {
            let answers = probe.end()?;
            silence = silence.max(answers.times.longest_gap(begun, end));
            owners(*address, answers.since(begun).len(), &mut moved);
        }
        println!(
            "{what}: {} more addresses; longest time without an answer for one of them {:.3} s; answered by two nodes: {moved:?}",
            self.others.len(),
            silence.as_secs_f64()
        );
        worked?;
        assert_eq!(self.harness.admin(ADDRESSES)?, self.addresses, "{what}");
        self.harness.wait_for_answer(&self.four.to_string(), "web")?;
        self.harness.wait_for_answer(&format!("[{}]", self.six), "web")?;
        Ok((account, moved))
    }

    /// Waits until the adoption is at a step, and checks all the time which controllers assign addresses.
    fn reaches(&self, step: &str) -> anyhow::Result<()> {
        let start = Instant::now();
        let mut last = String::new();
        loop {
            let status = self.status()?;
            let now = status["adoption"]["step"].as_str().unwrap_or_default().to_owned();
            if now != last {
                println!("{:.1} s: step {now}", start.elapsed().as_secs_f64());
                last.clone_from(&now);
            }
            let allocators = self.allocators()?;
            if allocators.len() > 1 {
                bail!("two programs give addresses: {allocators:?}");
            }
            if now == step {
                return Ok(());
            }
            if start.elapsed() > ADOPTION_TIMEOUT {
                bail!("waited {ADOPTION_TIMEOUT:?} for step {step}");
            }
            std::thread::sleep(Duration::from_millis(250));
        }
    }

    /// The repositories of the running controllers' images.
    fn allocators(&self) -> anyhow::Result<BTreeSet<String>> {
        let text = self.harness.admin(
            "kubectl get pods -n metallb-system -l component=controller \
             -o jsonpath='{range .items[?(@.status.phase==\"Running\")]}{.spec.containers[0].image}{\"\\n\"}{end}'",
        )?;
        Ok(text
            .lines()
            .filter_map(|image| Some(image.rsplit_once(':')?.0.to_owned()))
            .collect())
    }

    /// Everything is ours, works, and is reported as such.
    fn ours_serve(&self) -> anyhow::Result<()> {
        self.harness.run_section("1.2")?;
        let adopted = self.condition("Adopted")?;
        assert!(
            adopted.starts_with("True") && adopted.contains("metallb-before-adoption"),
            "{adopted}"
        );
        let images = self.images()?;
        assert!(
            images
                .keys()
                .all(|image| image.starts_with("localhost/lb-operator/")),
            "{images:?}"
        );
        // Pools can be changed although MetalLB's webhook is gone, and new Services get addresses.
        self.harness.apply_pool("more", "192.168.50.90-192.168.50.91")?;
        self.harness
            .apply_service("new", "web", "metallb.io/address-pool: more", "")?;
        let address = self.harness.wait_for_address("new")?;
        self.harness.wait_for_answer(&address, "web")?;
        self.harness.admin("kubectl delete service new")?;
        self.harness
            .admin("kubectl delete ipaddresspool/more l2advertisement/more -n metallb-system")?;
        self.harness
            .wait_for_event("LoadBalancerStack", "default", "Adopted MetalLB")?;
        Ok(())
    }

    /// MetalLB is back, and none of our workloads runs.
    fn metallb_serves(&self) -> anyhow::Result<()> {
        eventually("MetalLB to run alone again", ADOPTION_TIMEOUT, || {
            let images = self.images()?;
            let is_back = ["controller:v", "speaker:v"].iter().all(|part| {
                images
                    .keys()
                    .any(|image| image.starts_with("quay.io/metallb/") && image.contains(part))
            });
            Ok((is_back && images.keys().all(|image| image.starts_with("quay.io/"))).then_some(()))
        })?;
        for workload in ["deployment/controller", "daemonset/speaker"] {
            self.harness.admin(&format!(
                "kubectl rollout status -n metallb-system {workload} --timeout=120s"
            ))?;
        }
        let record = "kubectl get controllerrevision metallb-before-adoption -n metallb-system --ignore-not-found -o name";
        eventually("the record to be gone", SHORT_TIMEOUT, || {
            Ok(self.harness.admin(record)?.is_empty().then_some(()))
        })?;
        for address in self.others.iter().chain([&self.four]) {
            self.harness.wait_for_owner(&address.to_string(), LONG_TIMEOUT)?;
        }
        // Its webhook rejects invalid objects again.
        let bad = "kubectl apply --dry-run=server -f - <<'EOF'\napiVersion: metallb.io/v1beta1\nkind: IPAddressPool\n\
                   metadata: {name: bad, namespace: metallb-system}\nspec: {addresses: [192.168.50.70-192.168.50.80]}\nEOF";
        eventually(
            "MetalLB's webhook to refuse a pool that overlaps",
            LONG_TIMEOUT,
            || Ok(self.harness.admin(bad).is_err().then_some(())),
        )
    }

    /// MetalLB's pods, without pods of ours that only pull images.
    fn metallb(&self) -> anyhow::Result<Vec<String>> {
        let pods = self.harness.admin(METALLB)?;
        let metallb = pods.lines().filter(|pod| pod.contains(" quay.io/metallb/"));
        Ok(metallb.map(str::to_owned).collect())
    }

    /// The images of all pods in the stack's namespace, with their numbers.
    fn images(&self) -> anyhow::Result<BTreeMap<String, usize>> {
        let text = self.harness.admin(METALLB)?;
        let mut images = BTreeMap::new();
        for image in text.lines().filter_map(|line| Some(line.split_once(' ')?.1)) {
            *images.entry(image.to_owned()).or_default() += 1;
        }
        Ok(images)
    }

    fn status(&self) -> anyhow::Result<Value> {
        self.harness.stack_status()
    }

    /// A summary for messages.
    fn summary(&self) -> String {
        match self.status() {
            Ok(status) => format!(
                "conditions: {}\nadoption: {}\npods: {:?}",
                status["conditions"],
                status["adoption"],
                self.images()
            ),
            Err(error) => format!("{error:#}"),
        }
    }

    /// Status, reason and message of a condition.
    fn condition(&self, name: &str) -> anyhow::Result<String> {
        self.harness.admin(&format!(
            "kubectl get lbs default \
             -o jsonpath='{{range .status.conditions[?(@.type==\"{name}\")]}}{{.status}} {{.reason}} {{.message}}{{end}}'"
        ))
    }

    fn set(&self, spec: &str) -> anyhow::Result<()> {
        self.harness.admin(&format!(
            "kubectl patch lbs default --type=merge -p '{{\"spec\":{spec}}}'"
        ))?;
        Ok(())
    }
}
