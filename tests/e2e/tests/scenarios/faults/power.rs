//! Nodes that lose power, seen by a client that makes a new request every ten milliseconds.

use std::time::{Duration, Instant};

use lb_e2e::client::{Probe, http};
use lb_e2e::harness::{Harness, SHORT_TIMEOUT, eventually};

use super::{Dual, neighbours, owned, serves, start};

const PERIOD: Duration = Duration::from_millis(10);
/// It goes on when it has for so long without a gap worth the name.
const STEADY: Duration = Duration::from_secs(1);
const GAP: Duration = Duration::from_millis(300);
/// The longest outage that a client may notice.
const MOST: Duration = Duration::from_secs(1);

/// Takes the power of nodes at the same moment, and measures for how long the client gets no answer from each address.
fn strike(harness: &Harness, what: &str, nodes: &[usize], services: &[&Dual]) -> anyhow::Result<()> {
    let lab = harness.lab();
    let mut probes: Vec<(String, Probe<http::Requests>)> = Vec::new();
    for service in services {
        probes.push((
            service.four.to_string(),
            http::probe(lab, service.four, PERIOD, http::REQUEST_TIMEOUT)?,
        ));
        probes.push((
            service.six.to_string(),
            http::probe(lab, service.six, PERIOD, http::REQUEST_TIMEOUT)?,
        ));
    }
    let steady = |within: Duration, since: Instant| {
        eventually("the client to get answers", within, || {
            let now = Instant::now();
            let steady = |(_, probe): &(_, Probe<http::Requests>)| {
                probe.inspect(|seen| seen.answered.steady(now, STEADY, GAP))
            };
            Ok((now > since + STEADY && probes.iter().all(steady)).then_some(now))
        })
    };
    steady(SHORT_TIMEOUT, Instant::now())?;
    let struck = Instant::now();
    std::thread::scope(|scope| {
        let strikes: Vec<_> = nodes
            .iter()
            .map(|node| scope.spawn(move || lab.crash(*node)))
            .collect();
        strikes
            .into_iter()
            .try_for_each(|strike| strike.join().expect("it does not panic"))
    })?;
    let end = steady(SHORT_TIMEOUT, Instant::now())?;
    for (address, probe) in probes {
        let seen = probe.end()?;
        let outage = seen.answered.longest_gap(struck, end).saturating_sub(PERIOD);
        println!(
            "{what}: no answer from {address} for {:.3} s",
            outage.as_secs_f64()
        );
        assert!(outage < MOST, "{what}: {address} was gone for {outage:?}");
    }
    Ok(())
}

/// The addresses are where they were while nodes started. The client talks to them first, see [`owned`].
fn stayed(harness: &Harness, service: &Dual, on: &str) -> anyhow::Result<()> {
    serves(harness, service)?;
    assert_eq!(neighbours(harness, service)?, [on, on], "it stays where it is");
    Ok(())
}

/// With all defaults, and `failback: Never` among them.
pub(super) fn an_address_moves_and_stays(harness: &Harness, service: &Dual) -> anyhow::Result<()> {
    owned(harness, service, "n1")?;
    strike(harness, "power off", &[1], &[service])?;
    assert_eq!(neighbours(harness, service)?, ["n2", "n2"]);
    start(harness, 1)?;
    // It takes nothing back. There is nothing to wait for, so a look at an address that it does take has to do.
    let new = super::dual(harness, "new", ["n1", "n3", "n2"])?;
    serves(harness, &new)?;
    owned(harness, &new, "n1")?;
    stayed(harness, service, "n2")?;
    harness.admin("kubectl delete service new")?;
    Ok(())
}

/// The API server is gone before the owner is, and knows what has become when it is back.
pub(super) fn it_moves_without_the_api_server(harness: &Harness, service: &Dual) -> anyhow::Result<()> {
    let lab = harness.lab();
    owned(harness, service, "n2")?;
    lab.stop_api_server()?;
    assert!(harness.admin("kubectl get nodes --request-timeout=2s").is_err());
    strike(harness, "power off, no API server", &[2], &[service])?;
    assert_eq!(neighbours(harness, service)?, ["n1", "n1"]);
    lab.start_api_server()?;
    let statuses = format!(
        "kubectl get servicel2statuses -n metallb-system -l metallb.io/service-name={} -o jsonpath='{{.items[*].status.node}}'",
        service.name
    );
    eventually("the status to name the node that has it", SHORT_TIMEOUT, || {
        Ok((harness.admin(&statuses)? == "n1").then_some(()))
    })?;
    harness.wait_for_event("Service", service.name, "announcing from node \"n1\"")?;
    assert_eq!(
        neighbours(harness, service)?,
        ["n1", "n1"],
        "nothing moves when it is back"
    );
    start(harness, 2)?;
    stayed(harness, service, "n1")?;
    assert_eq!(harness.admin(&statuses)?, "n1");
    Ok(())
}

/// Of three nodes, those lose power that have the addresses and that come next.
pub(super) fn two_failures_at_once(harness: &Harness, services: [&Dual; 2]) -> anyhow::Result<()> {
    strike(harness, "power off of two nodes", &[1, 2], &services)?;
    for service in services {
        assert_eq!(neighbours(harness, service)?, ["n3", "n3"]);
    }
    start(harness, 1)?;
    start(harness, 2)?;
    services
        .into_iter()
        .try_for_each(|service| stayed(harness, service, "n3"))
}

/// `failback: Immediate`, and `Majority` at the same time.
pub(super) fn who_returns_takes_it_back(harness: &Harness, service: &Dual) -> anyhow::Result<()> {
    owned(harness, service, "n2")?;
    strike(harness, "power off, Majority", &[2], &[service])?;
    assert_eq!(neighbours(harness, service)?, ["n1", "n1"]);
    start(harness, 2)?;
    owned(harness, service, "n2")
}
