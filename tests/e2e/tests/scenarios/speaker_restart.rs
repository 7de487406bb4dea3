//! Restarts of an address's speaker, and forged heartbeats, seen by a LAN client that resolves the address before each
//! request.

use std::sync::mpsc;
use std::time::Duration;

use lb_e2e::harness::{Harness, SHORT_TIMEOUT, eventually};

use crate::speaker::{metric, pool, service};

#[test]
fn address_survives_speaker_restarts_and_forged_heartbeats() -> anyhow::Result<()> {
    let harness = Harness::start_lab("speaker-restart", 3)?;
    harness.install()?;
    harness.apply_backend("web", 3)?;
    harness.apply_pool("lan", "192.168.50.60-192.168.50.79")?;
    pool(&harness, "six", "fc00:50::600-fc00:50::60f")?;
    harness.apply(
        "apiVersion: metallb.io/v1beta1\nkind: L2Advertisement\nmetadata: {name: six, namespace: metallb-system}\n\
         spec: {ipAddressPools: [six]}",
    )?;
    let four = service(&harness, "four", "lan", "")?;
    let six = service(
        &harness,
        "six",
        "six",
        "  ipFamilyPolicy: SingleStack\n  ipFamilies: [IPv6]\n",
    )?;
    harness.wait_for_answer(&four, "web")?;
    eventually("an answer by IPv6", SHORT_TIMEOUT, || {
        let ask = format!("curl -s -o /dev/null -m 2 http://[{six}]/clientip");
        Ok(harness.client(&ask).ok())
    })?;

    forged_heartbeats_are_rejected_and_counted(&harness)?;
    clients_notice_no_restart(&harness, &four, &four)?;
    clients_notice_no_restart(&harness, &six, &format!("[{six}]"))?;
    Ok(())
}

fn forged_heartbeats_are_rejected_and_counted(harness: &Harness) -> anyhow::Result<()> {
    let rejected = || {
        metric(
            harness,
            "n1",
            "lb_speaker_heartbeats_refused_total{reason=\"truncated\"}",
        )
    };
    let before = rejected()?;
    harness.client("for i in $(seq 20); do echo forged > /dev/udp/192.168.50.11/7947; done")?;
    eventually("the forged datagrams to be counted", SHORT_TIMEOUT, || {
        Ok((rejected()? >= before + 20).then_some(()))
    })?;
    let received = || metric(harness, "n1", "lb_speaker_heartbeats_received_total");
    let before = received()?;
    eventually("heartbeats of the others", SHORT_TIMEOUT, || {
        Ok((received()? > before).then_some(()))
    })
}

/// The owner's speaker is deleted while a client drops the owner from its neighbor table before each request.
fn clients_notice_no_restart(harness: &Harness, address: &str, host: &str) -> anyhow::Result<()> {
    let owner = |harness: &Harness| {
        if address.contains(':') {
            // A client resolves an address when it has a packet for it.
            harness.client(&format!("curl -s -o /dev/null -m 2 http://{host}/clientip"))?;
            harness.neighbor(address)
        } else {
            harness.wait_for_owner(address, SHORT_TIMEOUT)
        }
    };
    let before = owner(harness)?;
    let pod = harness.speaker_on(&before)?;
    let asking = format!(
        "failed=0; for i in $(seq 60); do ip neigh flush to {address} dev eth0; \
         curl -s -o /dev/null -m 1 http://{host}/clientip || failed=$((failed+1)); sleep 0.1; done; echo $failed"
    );
    let (done, result) = mpsc::channel();
    std::thread::scope(|scope| -> anyhow::Result<()> {
        scope.spawn(|| done.send(harness.client(&asking)));
        harness.admin(&format!("kubectl delete pod -n metallb-system {pod}"))?;
        Ok(())
    })?;
    let failed: u32 = result.recv_timeout(Duration::from_secs(120))??.trim().parse()?;
    println!(
        "{address}: {failed} of 60 requests from a cold cache failed while the owner's speaker restarted"
    );
    assert!(failed <= 1, "unanswered for more than a second");
    harness.admin("kubectl rollout status daemonset/speaker -n metallb-system --timeout=60s")?;
    assert_eq!(owner(harness)?, before, "a restarted speaker keeps its addresses");
    Ok(())
}
