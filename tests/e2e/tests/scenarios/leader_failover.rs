//! Controllers that come and go while a thousand Services are created: killed, stopped and continued too late,
//! terminated, restarted. No address is lost, moved or assigned twice.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use lb_e2e::harness::{Harness, LONG_TIMEOUT, eventually};

/// Longer than an orderly hand-over, and much shorter than the 15 s after which a Lease expires.
const MAX_HANDOVER: Duration = Duration::from_secs(5);

#[test]
fn services_keep_their_address_across_leader_failover() -> anyhow::Result<()> {
    let harness = Harness::start_lab("leader-failover", 2)?;
    // As good an installation as any: it costs no lab of its own.
    crate::gitops::install(&harness)?;
    // Speakers would report for minutes that two thousand addresses have no advertisement, each in a write of a Service.
    harness.admin(
        "kubectl patch loadbalancerstack default --type=merge -p '{\"spec\":{\"paused\":true}}' \
         && kubectl delete daemonset speaker -n metallb-system --wait",
    )?;
    harness.apply(
        "apiVersion: metallb.io/v1beta1\nkind: IPAddressPool\nmetadata: {name: many, namespace: metallb-system}\n\
         spec: {addresses: [10.20.0.0/16]}",
    )?;

    let killed = create_thousand_services_while(&harness, "killed", |leader| {
        harness.lab().kill(leader, "lb-controller")
    })?;
    println!(
        "killed during 1,000 creations: all have an address {:.1} s later",
        killed.as_secs_f64()
    );

    let mut frozen = None;
    create_thousand_services_while(&harness, "frozen", |leader| {
        frozen = Some(leader);
        harness.lab().freeze(leader, "lb-controller")
    })?;
    // It continues with outdated plans, and must not carry them out.
    let before = addresses(&harness)?;
    if let Some(leader) = frozen {
        harness.lab().thaw(leader, "lb-controller")?;
    }
    harness.admin(
        "kubectl wait pod -n metallb-system -l component=controller --for=condition=Ready --timeout=60s",
    )?;
    make(&harness, "after", 50)?;
    eventually("the next fifty to be served", LONG_TIMEOUT, || {
        Ok((addresses(&harness)?.len() == before.len() + 50).then_some(()))
    })?;
    let after = addresses(&harness)?;
    assert!(
        before
            .iter()
            .all(|(name, address)| after.get(name) == Some(address))
    );
    assert_unique(&after);

    let handed_over = terminated_leader_hands_over(&harness)?;
    println!(
        "terminated: another leads after {:.2} s",
        handed_over.as_secs_f64()
    );

    let versions = "kubectl get services -A -o jsonpath='{.items[*].metadata.resourceVersion}'";
    let before = harness.admin(versions)?;
    harness.admin("kubectl rollout restart deployment -n metallb-system controller")?;
    harness.admin("kubectl rollout status deployment -n metallb-system controller --timeout=120s")?;
    harness.apply_service("last", "web", "", "")?;
    harness.wait_for_address("last")?;
    harness.admin("kubectl delete service last")?;
    assert_eq!(harness.admin(versions)?, before, "a restart writes no Service");
    Ok(())
}

fn holder(harness: &Harness) -> anyhow::Result<String> {
    harness
        .admin("kubectl get lease metallb-controller -n metallb-system -o jsonpath='{.spec.holderIdentity}'")
}

/// The number of the leader's node.
fn leader_node(harness: &Harness) -> anyhow::Result<usize> {
    let pod = eventually("a leader", LONG_TIMEOUT, || {
        Ok(Some(holder(harness)?).filter(|holder| !holder.is_empty()))
    })?;
    let node = harness.admin(&format!(
        "kubectl get pod {pod} -n metallb-system -o jsonpath='{{.spec.nodeName}}'"
    ))?;
    let number = node.trim_start_matches(|letter: char| !letter.is_ascii_digit());
    Ok(number.parse()?)
}

/// The addresses of each Service.
fn addresses(harness: &Harness) -> anyhow::Result<BTreeMap<String, String>> {
    let text = harness.admin(
        "kubectl get services -l batch -o jsonpath='{range .items[*]}{.metadata.name}={.status.loadBalancer.ingress[*].ip} {end}'",
    )?;
    let pairs = text.split_whitespace().filter_map(|pair| pair.split_once('='));
    Ok(pairs
        .filter(|(_, address)| !address.is_empty())
        .map(|(name, address)| (name.to_owned(), address.to_owned()))
        .collect())
}

fn assert_unique(addresses: &BTreeMap<String, String>) {
    let mut owners = BTreeMap::new();
    for (name, address) in addresses {
        if let Some(other) = owners.insert(address, name) {
            panic!("{address} is shown by {name} and by {other}");
        }
    }
}

/// Creates a number of Services, several at a time.
fn make(harness: &Harness, batch: &str, number: usize) -> anyhow::Result<()> {
    harness.admin(&create(batch, number)).map(drop)
}

fn create(batch: &str, number: usize) -> String {
    // kube-proxy has no work: the Services have no pods.
    format!(
        "make() {{ for i in $(seq $1 4 {number}); do echo '{{\"apiVersion\":\"v1\",\"kind\":\"Service\",\"metadata\":{{\"name\":\"'{batch}-$i'\",\
         \"labels\":{{\"batch\":\"{batch}\",\"service.kubernetes.io/service-proxy-name\":\"none\"}}}},\"spec\":{{\"type\":\"LoadBalancer\",\
         \"allocateLoadBalancerNodePorts\":false,\"ports\":[{{\"port\":80}}]}}}}'; done | kubectl create -f - >/dev/null; }}\n\
         makers=(); for part in 1 2 3 4; do make $part & makers+=($!); done; for maker in ${{makers[@]}}; do wait $maker; done"
    )
}

/// Creates a thousand Services, does something to the leader when three hundred of them have addresses, and checks each
/// Service: first no address, then a unique one, and never another. Returns the time from then until all have
/// addresses.
fn create_thousand_services_while(
    harness: &Harness,
    batch: &str,
    action: impl FnOnce(usize) -> anyhow::Result<usize>,
) -> anyhow::Result<Duration> {
    let leader = leader_node(harness)?;
    let directory = harness.lab().logs();
    let log = directory.join(format!("{batch}.services"));
    let shown = || -> anyhow::Result<BTreeMap<String, Vec<String>>> {
        let mut shown = BTreeMap::<_, Vec<_>>::new();
        for line in std::fs::read_to_string(&log).unwrap_or_default().lines() {
            if let Some((name, address)) = line.split_once('=').filter(|(_, address)| !address.is_empty()) {
                let list = shown.entry(name.to_owned()).or_default();
                if list.last().is_none_or(|last: &String| last != address) {
                    list.push(address.to_owned());
                }
            }
        }
        Ok(shown)
    };
    // The API server closes a watch that is read too slowly on a busy machine: then it begins again, with a list.
    let follow = format!(
        "set -m; while :; do kubectl get services -l batch={batch} --watch \
         -o jsonpath='{{.metadata.name}}={{.status.loadBalancer.ingress[*].ip}}{{\"\\n\"}}'; sleep 0.1; done >{log} & \
         watch=$!; set +m; trap 'kill -- -$watch' EXIT\n{create}\n\
         for i in $(seq 1200); do test $(grep '=.' {log} | cut -d= -f1 | sort -u | wc -l) -ge 1000 && exit 0; sleep 0.1; done; exit 1",
        log = log.display(),
        create = create(batch, 1000),
    );
    std::thread::scope(|scope| {
        let making = scope.spawn(|| harness.admin(&follow));
        eventually("three hundred to be served", LONG_TIMEOUT, || {
            Ok((shown()?.len() >= 300).then_some(()))
        })?;
        let struck = Instant::now();
        action(leader)?;
        let made = making.join();
        made.map_err(|_| anyhow::anyhow!("the makers panicked"))??;
        let took = struck.elapsed();
        for (name, list) in shown()? {
            assert_eq!(list.len(), 1, "{name} moved: {list:?}");
        }
        let all = addresses(harness)?;
        assert_eq!(
            all.keys()
                .filter(|name| name.starts_with(&format!("{batch}-")))
                .count(),
            1000
        );
        assert_unique(&all);
        Ok(took)
    })
}

fn terminated_leader_hands_over(harness: &Harness) -> anyhow::Result<Duration> {
    let first = holder(harness)?;
    let started = Instant::now();
    harness.admin(&format!(
        "kubectl delete pod {first} -n metallb-system --wait=false"
    ))?;
    eventually("another leader", MAX_HANDOVER, || {
        let now = holder(harness)?;
        Ok((!now.is_empty() && now != first).then_some(()))
    })?;
    let took = started.elapsed();
    harness.apply_service("handed-over", "web", "", "")?;
    harness.wait_for_address("handed-over")?;
    harness.admin("kubectl delete service handed-over")?;
    Ok(took)
}
