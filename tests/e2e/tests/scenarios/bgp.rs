//! BGP: a client behind a router reaches a Service through all nodes; a node's cable is cut, without and with BFD; a
//! speaker restarts.

use std::sync::mpsc;
use std::time::{Duration, Instant};

use lb_e2e::harness::{Harness, SHORT_TIMEOUT, eventually};
use lb_lab::Router;

use crate::prometheus::{Prometheus, rules};

const NODES: [&str; 3] = ["192.168.50.11", "192.168.50.12", "192.168.50.13"];
const TWO_NODES: [&str; 2] = ["192.168.50.11", "192.168.50.12"];

#[test]
fn routers_use_every_node_that_can_serve() -> anyhow::Result<()> {
    let harness = Harness::start_lab("bgp", 3)?;
    harness.install()?;
    let router = harness.lab().start_router()?;
    harness.apply_backend("web", 3)?;
    harness.apply(
        "apiVersion: metallb.io/v1beta1\nkind: IPAddressPool\nmetadata: {name: routed, namespace: metallb-system}\n\
         spec: {addresses: [203.0.113.0/28]}\n---\n\
         apiVersion: metallb.io/v1beta1\nkind: BGPAdvertisement\nmetadata: {name: routed, namespace: metallb-system}\n\
         spec: {ipAddressPools: [routed], communities: [\"65000:7\"]}",
    )?;
    apply_peer(&harness, "")?;
    harness.apply_service("web", "web", "metallb.io/address-pool: routed", "")?;
    let address = harness.wait_for_address("web")?;
    announced_from(&router, &address, &NODES)?;
    answers(&router, &address)?;
    peers_are_shown(&harness)?;
    connections_are_spread(&router, &address)?;
    local_traffic_policy_follows_endpoints(&harness, &router)?;
    unplugged_node_is_left_out(&harness, &router, &address)?;
    bfd_leaves_an_unplugged_node_out_at_once(&harness, &router, &address)?;
    restart_is_not_noticed(&harness, &router, &address)?;
    cordoned_node_is_the_last_resort(&harness, &router, &address)?;
    alert_and_dashboard_follow_sessions(&harness)?;

    harness.admin("kubectl delete service web")?;
    announced_from(&router, &address, &[])
}

fn apply_peer(harness: &Harness, more: &str) -> anyhow::Result<()> {
    harness.apply(&format!(
        "apiVersion: metallb.io/v1beta2\nkind: BGPPeer\nmetadata: {{name: tor, namespace: metallb-system}}\n\
         spec: {{myASN: 65000, peerASN: 65001, peerAddress: 192.168.50.1, holdTime: 9s, connectTime: 1s{more}}}"
    ))?;
    Ok(())
}

/// Waits until the router sends packets for the address to exactly these nodes.
fn announced_from(router: &Router, address: &str, nodes: &[&str]) -> anyhow::Result<()> {
    eventually(
        &format!("a route to {address} via {nodes:?}"),
        SHORT_TIMEOUT,
        || Ok((router.next_hops(address)? == nodes).then_some(())),
    )
}

fn answers(router: &Router, address: &str) -> anyhow::Result<()> {
    eventually("an answer to the client behind the router", SHORT_TIMEOUT, || {
        Ok(router
            .client(&format!("curl -s -o /dev/null -m 2 http://{address}/"))
            .ok())
    })?;
    Ok(())
}

/// The alert fires because of a router that does not answer, and ends when its peer is deleted.
fn alert_and_dashboard_follow_sessions(harness: &Harness) -> anyhow::Result<()> {
    let prometheus = Prometheus::start(harness, &rules()?.0)?;
    prometheus.update_targets()?;
    prometheus.shows("bgp")?;
    prometheus.wait_for_none()?;
    harness.apply(
        "apiVersion: metallb.io/v1beta2\nkind: BGPPeer\nmetadata: {name: silent, namespace: metallb-system}\n\
         spec: {myASN: 65000, peerASN: 65001, peerAddress: 192.168.50.250}",
    )?;
    prometheus.wait_for(&["MetalLBBGPSessionDown"])?;
    harness.admin("kubectl delete bgppeer silent -n metallb-system")?;
    prometheus.wait_for_none()
}

fn peers_are_shown(harness: &Harness) -> anyhow::Result<()> {
    let table = harness.admin("kubectl get bgppeers -n metallb-system")?;
    for word in ["ADDRESS", "ASN", "192.168.50.1", "65001"] {
        assert!(table.contains(word), "{word} is missing:\n{table}");
    }
    let old = harness.admin(
        "kubectl get bgppeers.v1beta1.metallb.io -n metallb-system tor -o jsonpath='{.spec.peerASN}'",
    )?;
    assert_eq!(old, "65001", "the deprecated version");
    Ok(())
}

/// Many connections reach the Service through several nodes: each kernel counts them at its interface.
fn connections_are_spread(router: &Router, address: &str) -> anyhow::Result<()> {
    let failed = router.client(&format!(
        "failed=0; for i in $(seq 60); do curl -s -o /dev/null -m 2 http://{address}/ || failed=$((failed+1)); done; echo $failed"
    ))?;
    assert_eq!(failed.trim(), "0", "failed requests of 60");
    let paths: Vec<_> = (0..60)
        .map(|port| router.path(address, 30_000 + port))
        .collect::<anyhow::Result<_>>()?;
    for node in NODES {
        assert!(paths.iter().any(|path| path == node), "{node} gets no connection");
    }
    Ok(())
}

/// With `externalTrafficPolicy: Local`, only nodes with an endpoint announce.
fn local_traffic_policy_follows_endpoints(harness: &Harness, router: &Router) -> anyhow::Result<()> {
    harness.apply_backend("single", 1)?;
    harness.apply_service(
        "single",
        "single",
        "metallb.io/address-pool: routed",
        "  externalTrafficPolicy: Local\n",
    )?;
    let address = harness.wait_for_address("single")?;
    let node = harness.admin("kubectl get pods -l app=single -o jsonpath='{.items[0].status.hostIP}'")?;
    announced_from(router, &address, &[node.trim()])?;
    answers(router, &address)?;
    harness.admin("kubectl scale deployment single --replicas=0")?;
    announced_from(router, &address, &[])?;
    harness.admin("kubectl delete service,deployment single")?;
    Ok(())
}

/// The hold time of nine seconds is the upper bound of the failover.
fn unplugged_node_is_left_out(harness: &Harness, router: &Router, address: &str) -> anyhow::Result<()> {
    harness.lab().cut(3)?;
    announced_from(router, address, &TWO_NODES)?;
    answers(router, address)?;
    harness.lab().join(3)?;
    announced_from(router, address, &NODES)?;
    harness.admin("kubectl wait node --all --for=condition=Ready --timeout=60s")?;
    harness.admin("kubectl rollout status deployment/web --timeout=60s")?;
    Ok(())
}

/// BFD notices the cut within 3 x 100 ms, long before the hold time has passed.
fn bfd_leaves_an_unplugged_node_out_at_once(
    harness: &Harness,
    router: &Router,
    address: &str,
) -> anyhow::Result<()> {
    harness.apply(
        "apiVersion: metallb.io/v1beta1\nkind: BFDProfile\nmetadata: {name: fast, namespace: metallb-system}\n\
         spec: {transmitInterval: 100, receiveInterval: 100, detectMultiplier: 3}",
    )?;
    apply_peer(harness, ", bfdProfile: fast")?;
    bfd_is_up(router, 3)?;
    assert_eq!(
        router.next_hops(address)?,
        NODES,
        "BFD does not touch the sessions"
    );
    harness.lab().cut(3)?;
    let cut = Instant::now();
    announced_from(router, address, &TWO_NODES)?;
    let left_out = cut.elapsed();
    harness.lab().join(3)?;
    println!("left out by BFD after {left_out:?}");
    assert!(left_out < Duration::from_secs(3), "{left_out:?}");
    announced_from(router, address, &NODES)?;
    bfd_is_up(router, 3)?;
    harness.admin("kubectl wait node --all --for=condition=Ready --timeout=60s")?;
    harness.admin("kubectl rollout status deployment/web --timeout=60s")?;
    Ok(())
}

/// Waits until this many BFD sessions of the router are up.
fn bfd_is_up(router: &Router, count: usize) -> anyhow::Result<()> {
    eventually("BFD sessions that are up", SHORT_TIMEOUT, || {
        let sessions = router.ask("show bfd sessions")?;
        let up = sessions.lines().filter(|line| line.contains(" Up "));
        Ok((up.count() == count).then_some(()))
    })
}

/// The router prefers nodes that are not cordoned; if all are, it uses all.
fn cordoned_node_is_the_last_resort(harness: &Harness, router: &Router, address: &str) -> anyhow::Result<()> {
    harness.admin("kubectl cordon n3")?;
    announced_from(router, address, &TWO_NODES)?;
    answers(router, address)?;
    harness.admin("kubectl cordon n1 n2")?;
    announced_from(router, address, &NODES)?;
    answers(router, address)?;
    harness.admin("kubectl uncordon n1 n2 n3")?;
    let routes = router.ask(&format!("show route all for {address}"))?;
    assert!(routes.contains("BGP.as_path: 65000"), "{routes}");
    eventually("routes without the community", SHORT_TIMEOUT, || {
        let routes = router.ask(&format!("show route all for {address}"))?;
        Ok((!routes.contains("(65535,0)")).then_some(()))
    })?;
    announced_from(router, address, &NODES)
}

/// With graceful restart the router keeps the routes while a speaker is replaced, and no request fails. BFD stays up.
fn restart_is_not_noticed(harness: &Harness, router: &Router, address: &str) -> anyhow::Result<()> {
    harness.admin("kubectl delete bgppeer tor -n metallb-system")?;
    announced_from(router, address, &[])?;
    apply_peer(harness, ", bfdProfile: fast, enableGracefulRestart: true")?;
    announced_from(router, address, &NODES)?;
    bfd_is_up(router, 3)?;
    let asking = format!(
        "failed=0; for i in $(seq 100); do curl -s -o /dev/null -m 2 http://{address}/ || failed=$((failed+1)); \
         sleep 0.1; done; echo $failed"
    );
    let pod = harness.speaker_on("n1")?;
    let (done, result) = mpsc::channel();
    std::thread::scope(|scope| -> anyhow::Result<()> {
        scope.spawn(|| done.send(router.client(&asking)));
        harness.admin(&format!("kubectl delete pod -n metallb-system {pod}"))?;
        loop {
            assert_eq!(router.next_hops(address)?, NODES, "the router keeps the routes");
            bfd_is_up(router, 3)?;
            match result.recv_timeout(Duration::from_millis(100)) {
                Ok(output) => {
                    assert_eq!(output?.trim(), "0", "failed requests of 100");
                    return Ok(());
                }
                Err(mpsc::RecvTimeoutError::Timeout) => {}
                Err(error) => return Err(error.into()),
            }
        }
    })?;
    harness.admin("kubectl rollout status daemonset/speaker -n metallb-system --timeout=60s")?;
    announced_from(router, address, &NODES)
}
