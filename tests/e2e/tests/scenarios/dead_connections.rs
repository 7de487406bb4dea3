//! An API server whose host loses power: no FIN and no RST ends a connection. Controller, speakers and operator notice
//! it, and see again what happens.

use std::time::{Duration, Instant};

use lb_e2e::harness::{Harness, LONG_TIMEOUT, eventually};

/// TCP keepalive ends a silent connection after 20 s; then a watch begins again.
const MAX_DEAFNESS: Duration = Duration::from_secs(30);
/// What the API server's host does not send to other hosts.
const ENDS: [&str; 2] = ["FIN FIN", "RST RST"];

#[test]
fn power_cycled_api_server_is_noticed() -> anyhow::Result<()> {
    let harness = Harness::start_lab("dead-connections", 2)?;
    harness.install()?;
    harness.apply_backend("web", 2)?;
    harness.apply_pool("lan", "192.168.50.60-192.168.50.79")?;
    harness.apply_service("web", "web", "", "")?;
    let before = harness.wait_for_address("web")?;
    harness.wait_for_owner(&before, LONG_TIMEOUT)?;
    // A leader after an orderly hand-over: nothing that it has is new.
    harness.admin(
        "kubectl rollout restart deployment/controller -n metallb-system && kubectl rollout status deployment/controller \
         -n metallb-system --timeout=120s",
    )?;

    drop_ends(&harness, "I")?;
    harness.lab().stop_api_server()?;
    // The kernel has no memory of the connections either.
    harness.run_on("cp", "ss -K sport = :6443 >/dev/null || true")?;
    harness.lab().start_api_server()?;
    let back = Instant::now();

    // The controller sees the request, the speakers the new address, the operator the deletion.
    let wanted = "192.168.50.77";
    harness.admin(&format!(
        "kubectl annotate service web metallb.io/loadBalancerIPs={wanted}"
    ))?;
    harness.admin("kubectl delete poddisruptionbudget metallb-controller -n metallb-system --wait=false")?;
    eventually("the controller to assign the address", MAX_DEAFNESS, || {
        Ok((harness.current_address("web")? == wanted).then_some(()))
    })?;
    println!("controller: {:.1} s", back.elapsed().as_secs_f64());
    harness.wait_for_owner(wanted, MAX_DEAFNESS.saturating_sub(back.elapsed()))?;
    println!("speakers: {:.1} s", back.elapsed().as_secs_f64());
    eventually(
        "the operator to create the PodDisruptionBudget again",
        MAX_DEAFNESS
            .saturating_sub(back.elapsed())
            .max(Duration::from_secs(1)),
        || {
            let name = "kubectl get poddisruptionbudget metallb-controller -n metallb-system -o jsonpath='{.metadata.deletionTimestamp}'";
            Ok(harness.admin(name)?.is_empty().then_some(()))
        },
    )?;
    println!("operator: {:.1} s", back.elapsed().as_secs_f64());
    assert!(back.elapsed() < MAX_DEAFNESS);
    drop_ends(&harness, "D")?;
    Ok(())
}

/// Drops the ends of the API server's connections, or no longer. The control plane itself is not concerned.
fn drop_ends(harness: &Harness, action: &str) -> anyhow::Result<()> {
    for flags in ENDS {
        harness.run_on(
            "cp",
            &format!("iptables -{action} OUTPUT ! -o lo -p tcp --sport 6443 --tcp-flags {flags} -j DROP"),
        )?;
    }
    Ok(())
}
