//! Nodes that are switched off, seen by a client that makes a new request every ten milliseconds.

use std::time::{Duration, Instant};

use lb_e2e::client::{Probe, http};
use lb_e2e::harness::{Harness, SHORT_TIMEOUT, eventually};

use super::{Dual, neighbors, serves, start, wait_until_owned};

const PERIOD: Duration = Duration::from_millis(10);
/// Time without a gap after which the address has recovered.
const STEADY: Duration = Duration::from_secs(1);
const GAP: Duration = Duration::from_millis(300);
/// The longest outage that a client may notice.
const MOST: Duration = Duration::from_secs(1);

/// Switches nodes off at the same moment, and measures how long the client gets no answer from each address.
fn power_off(harness: &Harness, what: &str, nodes: &[usize], services: &[&Dual]) -> anyhow::Result<()> {
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

/// The addresses did not move while nodes started. The client uses them first, see [`wait_until_owned`].
fn assert_not_moved(harness: &Harness, service: &Dual, on: &str) -> anyhow::Result<()> {
    serves(harness, service)?;
    assert_eq!(neighbors(harness, service)?, [on, on], "it does not move");
    Ok(())
}

/// With all defaults, including `failback: Never`. The second node in the order owns the address.
pub(super) fn address_moves_and_stays(harness: &Harness, service: &Dual) -> anyhow::Result<()> {
    wait_until_owned(harness, service, "n2")?;
    power_off(harness, "power off", &[2], &[service])?;
    assert_eq!(neighbors(harness, service)?, ["n1", "n1"]);
    start(harness, 2)?;
    // It takes nothing back. There is no event for that, so an address that it does get has to do.
    let new = super::dual(harness, "new", ["n2", "n3", "n1"])?;
    serves(harness, &new)?;
    wait_until_owned(harness, &new, "n2")?;
    assert_not_moved(harness, service, "n1")?;
    harness.admin("kubectl delete service new")?;
    Ok(())
}

/// The API server fails before the owner, and learns of the failover when it is back.
pub(super) fn address_moves_without_the_api_server(harness: &Harness, service: &Dual) -> anyhow::Result<()> {
    let lab = harness.lab();
    wait_until_owned(harness, service, "n1")?;
    lab.stop_api_server()?;
    assert!(harness.admin("kubectl get nodes --request-timeout=2s").is_err());
    power_off(harness, "power off, no API server", &[1], &[service])?;
    assert_eq!(neighbors(harness, service)?, ["n2", "n2"]);
    lab.start_api_server()?;
    let statuses = format!(
        "kubectl get servicel2statuses -n metallb-system -l metallb.io/service-name={} -o jsonpath='{{.items[*].status.node}}'",
        service.name
    );
    eventually("the status to name the node that has it", SHORT_TIMEOUT, || {
        Ok((harness.admin(&statuses)? == "n2").then_some(()))
    })?;
    harness.wait_for_event("Service", service.name, "announcing from node \"n2\"")?;
    // Nothing moves after its return.
    assert_not_moved(harness, service, "n2")?;
    start(harness, 1)?;
    assert_not_moved(harness, service, "n2")?;
    assert_eq!(harness.admin(&statuses)?, "n2");
    Ok(())
}

/// Of three nodes, the owner and the backup fail.
pub(super) fn two_nodes_fail_at_once(harness: &Harness, services: [&Dual; 2]) -> anyhow::Result<()> {
    power_off(harness, "power off of two nodes", &[1, 2], &services)?;
    for service in services {
        assert_eq!(neighbors(harness, service)?, ["n3", "n3"]);
    }
    start(harness, 1)?;
    start(harness, 2)?;
    services
        .into_iter()
        .try_for_each(|service| assert_not_moved(harness, service, "n3"))
}

/// `failback: Immediate` and `Majority` at the same time.
pub(super) fn returning_node_takes_the_address_back(harness: &Harness, service: &Dual) -> anyhow::Result<()> {
    wait_until_owned(harness, service, "n2")?;
    power_off(harness, "power off, Majority", &[2], &[service])?;
    assert_eq!(neighbors(harness, service)?, ["n1", "n1"]);
    start(harness, 2)?;
    wait_until_owned(harness, service, "n2")
}
