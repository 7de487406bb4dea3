//! Speakers that do not receive each other's heartbeats: because only heartbeats are lost, or because of a partition of
//! the LAN.

use std::time::{Duration, Instant};

use lb_e2e::client::arp::{self, Answers};
use lb_e2e::client::{Probe, ndp};
use lb_e2e::harness::{Harness, SHORT_TIMEOUT, eventually};
use lb_l2::MacAddr;

use super::{Dual, neighbors, serves, wait_until_owned};

/// Interval between two requests.
const PERIOD: Duration = Duration::from_millis(5);
/// Everything that must happen at once has happened after this time.
const SETTLE_TIME: Duration = Duration::from_millis(1500);
/// The client's interfaces: on the majority's side, and on the minority's.
const MAJORITY_SIDE: &str = "eth0";
const MINORITY_SIDE: &str = "eth1";

/// A client that probes both addresses of a Service on one side.
struct SideClient {
    four: Probe<Answers>,
    six: Probe<Answers>,
}

impl SideClient {
    fn open(harness: &Harness, side: &'static str, service: &Dual) -> anyhow::Result<Self> {
        Ok(Self {
            four: arp::probe_on(harness.lab(), side, service.four, PERIOD)?,
            six: ndp::probe_on(harness.lab(), side, service.six, PERIOD)?,
        })
    }

    /// Both families, by name.
    fn each(&self) -> [(&'static str, &Probe<Answers>); 2] {
        [("IPv4", &self.four), ("IPv6", &self.six)]
    }

    /// Waits until both are answered by another node than this one.
    fn wait_for_another(&self, than: MacAddr) -> anyhow::Result<()> {
        for (family, probe) in self.each() {
            eventually(&format!("another owner, {family}"), SHORT_TIMEOUT, || {
                let another = |answers: &Answers| answers.from.iter().any(|from| from.mac != than);
                Ok(probe.inspect(another).then_some(()))
            })?;
        }
        Ok(())
    }

    fn hear(&self, whom: MacAddr) -> anyhow::Result<()> {
        for (family, probe) in self.each() {
            eventually(&format!("an answer of {whom}, {family}"), SHORT_TIMEOUT, || {
                let there = |answers: &Answers| answers.from.iter().any(|from| from.mac == whom);
                Ok(probe.inspect(there).then_some(()))
            })?;
        }
        Ok(())
    }
}

fn mac(harness: &Harness, node: &str) -> anyhow::Result<MacAddr> {
    Ok(MacAddr(harness.lab().mac_address(node)?))
}

/// UDP between the owner and its two successors is lost, and the address stays where it is.
pub(super) fn lost_heartbeats_move_no_address(harness: &Harness, service: &Dual) -> anyhow::Result<()> {
    wait_until_owned(harness, service, "n1")?;
    let rule = |what: &str| {
        format!(
            "iptables -{what} INPUT -p udp --dport 7947 -j DROP; ip6tables -{what} INPUT -p udp --dport 7947 -j DROP"
        )
    };
    let n1 = mac(harness, "n1")?;
    let ears = SideClient::open(harness, MAJORITY_SIDE, service)?;
    ears.hear(n1)?;
    let received = || crate::speaker::metric(harness, "n1", "lb_speaker_heartbeats_received_total");
    for node in super::CANDIDATES {
        harness.run_on(node, &rule("I"))?;
    }
    let before = received()?;
    // Twenty times the failure timeout.
    std::thread::sleep(2 * SETTLE_TIME);
    let after = received()?;
    // Reported after 90 seconds, until they arrive again.
    let report = || {
        let path = "{.status.conditions[?(@.type==\"HeartbeatsLost\")].message}";
        harness.admin(&format!(
            "kubectl get loadbalancerstack default -o jsonpath='{path}'"
        ))
    };
    eventually("condition HeartbeatsLost", Duration::from_secs(240), || {
        let text = report()?;
        Ok(text.starts_with("fast failover is off between ").then_some(()))
    })?;
    for node in super::CANDIDATES {
        harness.run_on(node, &rule("D"))?;
    }
    assert_eq!(before, after, "heartbeats are lost");
    eventually("heartbeats again", SHORT_TIMEOUT, || {
        Ok((received()? > after).then_some(()))
    })?;
    eventually("no condition HeartbeatsLost", Duration::from_secs(120), || {
        Ok(report()?.is_empty().then_some(()))
    })?;
    for (family, probe) in ears.each() {
        let from: Vec<_> = probe.inspect(|answers| answers.from.iter().map(|from| from.mac).collect());
        assert_eq!(from, [n1], "{family}: no other node has answered");
    }
    serves(harness, service)?;
    assert_eq!(neighbors(harness, service)?, ["n1", "n1"]);
    Ok(())
}

/// `Availability`. The node that was cut off leaves the address to the others.
pub(super) fn each_side_serves_and_one_owner_remains(
    harness: &Harness,
    service: &Dual,
) -> anyhow::Result<()> {
    let lab = harness.lab();
    let n1 = mac(harness, "n1")?;
    let (near, far) = (
        SideClient::open(harness, MAJORITY_SIDE, service)?,
        SideClient::open(harness, MINORITY_SIDE, service)?,
    );
    near.hear(n1)?;
    let cut = Instant::now();
    lab.partition(&[1])?;
    near.wait_for_another(n1)?;
    far.hear(n1)?;
    serves(harness, service)?;
    std::thread::sleep(SETTLE_TIME);
    let apart = Instant::now();
    std::thread::sleep(SETTLE_TIME);
    for ((family, near), (_, far)) in near.each().into_iter().zip(far.each()) {
        let [near_now, far_now] = [near, far].map(|probe| probe.inspect(|answers| answers.since(apart)));
        assert_eq!(near_now.len(), 1, "{family}: one owner on the one side");
        assert_eq!(far_now, [n1], "{family}: and the old one on the other");
        let first = near.inspect(|answers| answers.from.iter().map(|from| from.first).max());
        let took = first.unwrap_or(cut).saturating_duration_since(cut);
        println!("Availability, {family}: the larger side has an owner {took:?} after the LAN fell apart");
    }
    drop(far);

    let healed = Instant::now();
    lab.heal_partition()?;
    std::thread::sleep(2 * SETTLE_TIME);
    let n2 = mac(harness, "n2")?;
    for (family, probe) in near.each() {
        let (now, last) = probe.inspect(|answers| {
            let cut_off = answers.from.iter().filter(|from| from.mac == n1);
            (
                answers.since(healed + SETTLE_TIME),
                cut_off.map(|from| from.last).max(),
            )
        });
        assert_eq!(
            now,
            [n2],
            "{family}: the owner that reached most nodes is left, alone"
        );
        let two = last.map_or(Duration::ZERO, |last| last.saturating_duration_since(healed));
        println!("Availability, {family}: the second owner answers for {two:?} after the LAN is one again");
        assert!(two < Duration::from_secs(1), "{family}: two owners for {two:?}");
    }
    assert_eq!(neighbors(harness, service)?, ["n2", "n2"]);
    serves(harness, service)
}

/// `Majority`. With `failback: Immediate`, the first candidate has the address again in the end.
pub(super) fn minority_withdraws_before_majority_claims(
    harness: &Harness,
    service: &Dual,
) -> anyhow::Result<()> {
    let lab = harness.lab();
    let n1 = mac(harness, "n1")?;
    let (near, far) = (
        SideClient::open(harness, MAJORITY_SIDE, service)?,
        SideClient::open(harness, MINORITY_SIDE, service)?,
    );
    near.hear(n1)?;
    let cut = Instant::now();
    lab.partition(&[1])?;
    near.wait_for_another(n1)?;
    std::thread::sleep(SETTLE_TIME);
    let apart = Instant::now();
    std::thread::sleep(SETTLE_TIME);
    for ((family, near), (_, far)) in near.each().into_iter().zip(far.each()) {
        let last = far.inspect(|answers| answers.from.iter().map(|from| from.last).max());
        let last = last.expect("the minority answered until it withdrew");
        let first = near.inspect(|answers| {
            let others = answers.from.iter().filter(|from| from.mac != n1);
            others.map(|from| from.first).min()
        });
        let first = first.expect("the majority answers");
        println!(
            "Majority, {family}: the minority is silent after {:?}, the majority answers after {:?}",
            last.saturating_duration_since(cut),
            first.saturating_duration_since(cut)
        );
        assert!(last < first, "{family}: at no time do both sides answer");
        assert_eq!(
            far.inspect(|answers| answers.since(apart)),
            [],
            "{family}: the minority is silent"
        );
        assert_eq!(near.inspect(|answers| answers.since(apart)).len(), 1, "{family}");
        assert!(
            first - cut < Duration::from_secs(1),
            "{family}: {:?}",
            first - cut
        );
    }
    serves(harness, service)?;
    drop(far);
    lab.heal_partition()?;
    for (family, probe) in near.each() {
        eventually(
            &format!("n1 to be the only owner again, {family}"),
            SHORT_TIMEOUT,
            || {
                let now = Instant::now();
                let of_late = now.checked_sub(SETTLE_TIME).unwrap_or(now);
                Ok((probe.inspect(|answers| answers.since(of_late)) == [n1]).then_some(()))
            },
        )?;
    }
    wait_until_owned(harness, service, "n1")
}
