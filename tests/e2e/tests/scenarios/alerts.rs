//! A real Prometheus scrapes all programs and evaluates the chart's alerts: none fires in a healthy cluster, most fire
//! by their fault, and none is left in the end. Every query of the dashboards returns data.
//!
//! Times are shortened here, because a scenario cannot wait for an hour; `tests/e2e/alerts` tests the real ones.

use std::collections::BTreeSet;
use std::time::Duration;

use lb_e2e::harness::{Harness, LONG_TIMEOUT, SHORT_TIMEOUT, eventually};
use lb_lab::repository;

use crate::prometheus::{Prometheus, rules};
use crate::speaker::{pool, service};

/// Alerts that no fault of this scenario causes.
const ELSEWHERE: [&str; 8] = [
    // Tested with promtool only. Speakers keep their last keys when the Secret disappears.
    "LBNoHeartbeatKeys",
    "LBUpgradeStuck",
    // Scenario bgp has a router.
    "MetalLBBGPSessionDown",
    // Needs two nodes that both reach Prometheus and do not hear each other.
    "LBAddressTwoOwners",
    // The same for a node whose replies are lost on the LAN only.
    "LBAddressNoReply",
    // Images of another version are in scenarios upgrade and release.
    "LBUpgradeRolledBack",
    "LBVersionSkew",
    // The operator restores permissions at once.
    "MetalLBConfigNotLoaded",
];

#[test]
fn alerts_fire_by_their_faults_and_end() -> anyhow::Result<()> {
    let harness = Harness::start_lab("alerts", 3)?;
    harness.install()?;
    harness.apply_backend("web", 3)?;
    harness.apply_pool("lan", "192.168.50.60-192.168.50.79")?;
    harness.apply_service("web", "web", "", "")?;
    let address = harness.wait_for_address("web")?;
    harness.wait_for_answer(&address, "web")?;

    let (rules, names) = rules()?;
    let prometheus = Prometheus::start(&harness, &rules)?;
    eventually("Prometheus to scrape all programs", LONG_TIMEOUT, || {
        let expected = [
            ["lb-controller"; 2].as_slice(),
            &["lb-operator"; 2],
            &["lb-speaker"; 3],
        ]
        .concat();
        Ok(
            (prometheus.programs().ok() == Some(expected.iter().map(ToString::to_string).collect()))
                .then_some(()),
        )
    })?;
    // Longer than any alert waits here.
    std::thread::sleep(Duration::from_secs(5));
    assert_eq!(prometheus.firing()?, BTreeSet::new(), "a healthy cluster");

    for name in ["overview", "announcing", "operator"] {
        prometheus.shows(name)?;
    }

    let faults: [(&[&str], Fault); 9] = [
        (&["LBDriftRepeated"], drift),
        (
            &[
                "LBServicePending",
                "LBAddressUnannounced",
                "MetalLBAddressPoolExhausted",
                "MetalLBAddressPoolUsage75Percent",
                "MetalLBAddressPoolUsage85Percent",
                "MetalLBAddressPoolUsage95Percent",
            ],
            full_pool_without_advertisement,
        ),
        (&["MetalLBStaleConfig"], invalid_pool),
        (&["LBAddressConflict"], conflict),
        (&["LBHeartbeatsLost"], blocked_port),
        (&["LBHeartbeatsRefused"], forged_heartbeats),
        (&["LBStackDegraded"], refused_pods),
        (&["LBNoLeader"], foreign_leader),
        (&["LBAddressFlapping"], moves),
    ];
    let mut seen: BTreeSet<&str> = ELSEWHERE.into();
    let mut failed = Vec::new();
    for (alerts, fault) in faults {
        let watched = Watched {
            prometheus: &prometheus,
            alerts,
        };
        let outcome = fault(&harness, &address, &watched);
        failed.extend(outcome.err().map(|error| format!("{alerts:?}: {error:#}")));
        seen.extend(alerts);
    }
    assert!(failed.is_empty(), "{failed:#?}");
    assert_eq!(
        seen.into_iter().map(str::to_owned).collect::<BTreeSet<_>>(),
        names
    );
    prometheus.wait_for_none()
}

/// Makes a fault, waits for its alerts, and mends the fault whether they fire or not.
type Fault = fn(&Harness, &str, &Watched) -> anyhow::Result<()>;

struct Watched<'a> {
    prometheus: &'a Prometheus<'a>,
    alerts: &'a [&'a str],
}

impl Watched<'_> {
    fn wait(&self) -> anyhow::Result<()> {
        self.prometheus.wait_for(self.alerts)
    }
}

fn full_pool_without_advertisement(harness: &Harness, _: &str, watched: &Watched) -> anyhow::Result<()> {
    pool(harness, "tiny", "192.168.50.90/32")?;
    service(harness, "first", "tiny", "")?;
    harness.apply_service("second", "web", "metallb.io/address-pool: tiny", "")?;
    let fired = watched.wait();
    harness.admin("kubectl delete service first second")?;
    harness.admin("kubectl delete ipaddresspool tiny -n metallb-system")?;
    fired
}

fn invalid_pool(harness: &Harness, _: &str, watched: &Watched) -> anyhow::Result<()> {
    pool(harness, "overlapping", "192.168.50.70-192.168.50.72")?;
    let fired = watched.wait();
    harness.admin("kubectl delete ipaddresspool overlapping -n metallb-system")?;
    fired
}

fn conflict(harness: &Harness, address: &str, watched: &Watched) -> anyhow::Result<()> {
    harness.run_on("cp", &format!("ip address add {address}/32 dev eth0"))?;
    harness.run_on("cp", &format!("arping -q -U -c 1 -I eth0 -s {address} {address}"))?;
    let fired = watched.wait();
    harness.run_on("cp", &format!("ip address del {address}/32 dev eth0"))?;
    fired
}

fn blocked_port(harness: &Harness, _: &str, watched: &Watched) -> anyhow::Result<()> {
    let rule = |change: &str| {
        let rule = format!("-t raw -{change} PREROUTING -p udp --dport 7947 -j DROP");
        harness.run_on("n2", &format!("iptables -w {rule} && ip6tables -w {rule}"))
    };
    rule("I")?;
    let fired = watched.wait();
    rule("D")?;
    fired
}

fn forged_heartbeats(harness: &Harness, _: &str, watched: &Watched) -> anyhow::Result<()> {
    let key = super::keys::key(harness)?;
    super::keys::forge(harness, &key, "echo")?;
    watched.wait()
}

fn refused_pods(harness: &Harness, _: &str, watched: &Watched) -> anyhow::Result<()> {
    harness.apply(
        "apiVersion: v1\nkind: ResourceQuota\nmetadata: {name: none, namespace: metallb-system}\nspec: {hard: {pods: \"0\"}}",
    )?;
    let speaker = harness.speaker_on("n3")?;
    harness.admin(&format!("kubectl delete pod {speaker} -n metallb-system"))?;
    let fired = watched.wait();
    harness.admin("kubectl delete resourcequota none -n metallb-system")?;
    harness.admin("kubectl rollout status daemonset speaker -n metallb-system --timeout=100s")?;
    fired
}

/// Somebody holds the Lease of the controllers and does not renew it for an hour.
fn foreign_leader(harness: &Harness, _: &str, watched: &Watched) -> anyhow::Result<()> {
    harness.admin(
        "kubectl patch lease metallb-controller -n metallb-system --type merge \
         -p '{\"spec\": {\"holderIdentity\": \"somebody\", \"leaseDurationSeconds\": 3600}}'",
    )?;
    let fired = watched.wait();
    // A deleted Lease is waited for as long as its last holder may rely on it.
    harness.admin(
        "kubectl patch lease metallb-controller -n metallb-system --type merge \
         -p '{\"spec\": {\"leaseDurationSeconds\": 2}}'",
    )?;
    fired
}

/// Somebody changes a port again and again. The operator would delay a sixth correction.
fn drift(harness: &Harness, _: &str, watched: &Watched) -> anyhow::Result<()> {
    let service = "metallb-speaker-monitoring";
    for count in 1..=5 {
        harness.admin(&format!(
            "kubectl patch service {service} -n metallb-system --type json \
             -p '[{{\"op\": \"replace\", \"path\": \"/spec/ports/0/port\", \"value\": 7000}}]'"
        ))?;
        let counted = format!("lb_operator_drift_corrections_total{{name=\"{service}\"}} >= {count}");
        watched.prometheus.wait_for_data(vec![counted])?;
    }
    let port = harness.admin(&format!(
        "kubectl get service {service} -n metallb-system -o jsonpath='{{.spec.ports[*].port}}'"
    ))?;
    assert_eq!(port, "7472", "it is restored");
    watched.wait()
}

/// The address moves over all three nodes.
fn moves(harness: &Harness, address: &str, watched: &Watched) -> anyhow::Result<()> {
    let label = "node.kubernetes.io/exclude-from-external-load-balancers";
    let mut excluded = Vec::new();
    for _ in 0..2 {
        let owner = harness.wait_for_owner(address, SHORT_TIMEOUT)?;
        let announced = format!("metallb_speaker_announced{{ip=\"{address}\", node=\"{owner}\"}}");
        watched.prometheus.wait_for_data(vec![announced])?;
        harness.admin(&format!("kubectl label node {owner} {label}=true"))?;
        excluded.push(owner.clone());
        eventually("another owner", SHORT_TIMEOUT, || {
            let owners = harness.owners(address)?;
            Ok((owners.len() == 1 && !owners.contains(&owner)).then_some(()))
        })?;
    }
    let fired = watched.wait();
    harness.admin(&format!("kubectl label node {} {label}-", excluded.join(" ")))?;
    fired
}

/// Each alert has a section in docs/alerts.md, which its annotation leads to, and promtool's tests know it.
#[test]
fn every_alert_has_a_runbook_and_a_test() -> anyhow::Result<()> {
    let (_, names) = rules()?;
    let page = std::fs::read_to_string(repository().join("docs/alerts.md"))?;
    let tests = std::fs::read_to_string(repository().join("tests/e2e/alerts/tests.yaml"))?;
    for name in names {
        if name.starts_with("MetalLBAddressPoolUsage") {
            continue;
        }
        assert!(
            page.contains(&format!("\n## {name}\n")),
            "docs/alerts.md lacks {name}"
        );
        assert!(
            tests.contains(&format!("alertname: {name}\n")),
            "alerts/tests.yaml lacks {name}"
        );
    }
    Ok(())
}
