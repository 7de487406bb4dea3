//! The heartbeat key is rotated while clients send requests: no speaker rejects another, no address moves, and
//! heartbeats with the old key are worthless afterwards.

use std::net::{Ipv4Addr, UdpSocket};
use std::time::{Duration, Instant};

use anyhow::Context;
use lb_e2e::harness::{Harness, LONG_TIMEOUT, SHORT_TIMEOUT, eventually};
use lb_l2::wire::heartbeat::{Datagram, Heartbeat, HeartbeatKeys, Message, SpeakerState};
use lb_lab::LabConfig;

use crate::speaker::metric;

const NODES: [&str; 3] = ["n1", "n2", "n3"];
/// Number of forged datagrams.
const FORGED_DATAGRAMS: u64 = 20;

#[test]
fn key_rotation_rejects_no_heartbeat() -> anyhow::Result<()> {
    // Kubelets check their pods every two seconds, three with jitter, and the operator knows.
    let harness = Harness::start_lab_with(LabConfig {
        kubelet_sync_period: Some(Duration::from_secs(2)),
        ..LabConfig::named("keys")
    })?;
    harness.install()?;
    harness.admin(
        "kubectl patch loadbalancerstack default --type merge \
         -p '{\"spec\": {\"speaker\": {\"heartbeat\": {\"keyPropagationSeconds\": 10}}}}'",
    )?;
    harness.apply_backend("web", 3)?;
    harness.apply_pool("lan", "192.168.50.60-192.168.50.79")?;
    let mut addresses = Vec::new();
    for name in ["one", "two", "three"] {
        harness.apply_service(name, "web", "", "")?;
        addresses.push(harness.wait_for_address(name)?);
    }
    for address in &addresses {
        harness.wait_for_answer(address, "web")?;
    }
    let owners = harness.owners_of(&addresses)?;
    let old = key(&harness)?;

    // The attacker has only the key: its datagrams are rejected as replayed.
    assert_eq!(forge(&harness, &old, "echo")?, FORGED_DATAGRAMS);
    let before = quiet(&harness)?;

    let took = with_clients_unaffected(&harness, &addresses, || rotate(&harness))?;
    println!(
        "heartbeat key replaced on three nodes in {:.1} s",
        took.as_secs_f64()
    );

    let after = Counts::of(&harness)?;
    assert_eq!(after.refused, before.refused, "no speaker rejected another");
    assert_eq!(after.moved, before.moved, "no address moved");
    assert!(
        after
            .received
            .iter()
            .zip(&before.received)
            .all(|(after, before)| after > before)
    );
    assert_eq!(harness.owners_of(&addresses)?, owners);

    let new = key(&harness)?;
    assert_ne!(new, old);
    assert_eq!(
        forge(&harness, &old, "authentication")?,
        FORGED_DATAGRAMS,
        "the old key is useless"
    );
    assert_eq!(
        forge(&harness, &new, "echo")?,
        FORGED_DATAGRAMS,
        "they were rejected because of the key"
    );
    assert_eq!(harness.owners_of(&addresses)?, owners);
    assert_eq!(Counts::of(&harness)?.moved, before.moved);

    no_more_keys_are_written(&harness)?;
    Ok(())
}

/// Requests a rotation, and waits until every speaker has dropped the old key. Returns the duration.
fn rotate(harness: &Harness) -> anyhow::Result<Duration> {
    let start = Instant::now();
    harness.admin(
        "kubectl annotate loadbalancerstack default lb-operator.io/rotate-heartbeat-keys=\"$(date +%s)\" --overwrite",
    )?;
    let mut seen: Vec<String> = Vec::new();
    eventually("the key to be replaced", LONG_TIMEOUT, || {
        let entries = entries(harness)?;
        if seen.last() != Some(&entries) {
            println!("{:5.1} s: key {entries}", start.elapsed().as_secs_f64());
            seen.push(entries);
        }
        Ok(seen.last().filter(|last| *last == "2: current").map(drop))
    })
    .with_context(|| format!("the Secret went through {seen:?}"))?;
    seen.retain(|entries| entries != "1: current");
    assert_eq!(seen, ["1: current next", "2: current previous", "2: current"]);
    eventually("every speaker to have one key", SHORT_TIMEOUT, || {
        for node in NODES {
            if metric(harness, node, "lb_speaker_heartbeat_keys ")? != 1 {
                return Ok(None);
            }
        }
        Ok(Some(()))
    })?;
    harness.wait_for_event("LoadBalancerStack", "default", "heartbeat key 2 is active")?;
    Ok(start.elapsed())
}

/// Clients that drop the owner from their neighbor table before each request get every answer, and all from the same
/// MAC address.
fn with_clients_unaffected<T>(
    harness: &Harness,
    addresses: &[String],
    act: impl FnOnce() -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    let stop = tempfile::tempdir()?;
    let gate = stop.path().join("stop");
    let asking = |address: &str| {
        format!(
            "failed=0; asked=0; until [ -e {gate} ]; do ip neigh flush to {address} dev eth0; asked=$((asked+1)); \
             curl -s -o /dev/null -m 2 http://{address}/clientip || failed=$((failed+1)); \
             ip neigh show to {address} dev eth0 | grep -o 'lladdr [0-9a-f:]*' >>{seen}; sleep 0.1; done; \
             echo $asked $failed $(sort -u {seen} | wc -l)",
            gate = gate.display(),
            seen = stop.path().join(address).display(),
        )
    };
    std::thread::scope(|scope| {
        let clients: Vec<_> = addresses
            .iter()
            .map(|address| (address, scope.spawn(|| harness.client(&asking(address)))))
            .collect();
        let result = act();
        std::fs::write(&gate, "")?;
        for (address, client) in clients {
            let said = client
                .join()
                .map_err(|_| anyhow::anyhow!("the client panicked"))??;
            println!("{address}: requests, failed, hardware addresses: {}", said.trim());
            let [asked, failed, owners] = said
                .split_whitespace()
                .map(str::parse)
                .collect::<Result<Vec<u32>, _>>()?[..]
            else {
                anyhow::bail!("the client said {said:?}");
            };
            assert!(asked > 20 && failed == 0 && owners == 1, "{address}: {said}");
        }
        result
    })
}

/// The speakers' counters.
#[derive(Debug, PartialEq)]
struct Counts {
    refused: Vec<u64>,
    received: Vec<u64>,
    moved: Vec<u64>,
}

impl Counts {
    fn of(harness: &Harness) -> anyhow::Result<Self> {
        let count = |name: &str| -> anyhow::Result<Vec<u64>> {
            NODES.iter().map(|node| metric(harness, node, name)).collect()
        };
        Ok(Self {
            refused: count("lb_speaker_heartbeats_refused_total")?,
            received: count("lb_speaker_heartbeats_received_total")?,
            moved: count("lb_speaker_failovers_total")?,
        })
    }
}

/// Waits until the speakers receive each other's heartbeats and reject none.
fn quiet(harness: &Harness) -> anyhow::Result<Counts> {
    let mut before = Counts::of(harness)?;
    eventually("speakers that know each other", SHORT_TIMEOUT, || {
        std::thread::sleep(Duration::from_secs(1));
        let now = Counts::of(harness)?;
        let heard = now
            .received
            .iter()
            .zip(&before.received)
            .all(|(now, before)| now > before);
        if heard && now.refused == before.refused && now.moved == before.moved {
            return Ok(Some(now));
        }
        before = now;
        Ok(None)
    })
}

/// The current key for heartbeats.
pub(crate) fn key(harness: &Harness) -> anyhow::Result<Vec<u8>> {
    let hex = harness.admin(
        "kubectl get secret speaker-heartbeat-keys -n metallb-system -o jsonpath='{.data.current}' | base64 -d | od -An -v -tx1",
    )?;
    hex.split_whitespace()
        .map(|byte| u8::from_str_radix(byte, 16).context("read the key"))
        .collect()
}

/// Sends datagrams signed with this key from the client to the first node, which withdraw all addresses of the others.
/// Returns the number that the speaker rejects for this reason.
pub(crate) fn forge(harness: &Harness, key: &[u8], reason: &str) -> anyhow::Result<u64> {
    let keys = HeartbeatKeys::new([key]).context("the key is too short")?;
    let forged: Vec<_> = (0..FORGED_DATAGRAMS)
        .map(|number| {
            keys.seal(&Datagram {
                node: NODES[1 + number as usize % 2].to_owned(),
                incarnation: 1,
                sequence: number,
                echo: 0,
                message: Message::Heartbeat(Heartbeat {
                    state: SpeakerState::Draining,
                    reply_requested: false,
                    hears_receiver: true,
                    was_cut_off: false,
                    interval: Duration::from_millis(50),
                    version: String::new(),
                    api_version: 7,
                    announced_digest: 0,
                    known_digest: 0,
                    macs: Vec::new(),
                }),
            })
        })
        .collect();
    let rejected = || {
        let name = format!("lb_speaker_heartbeats_refused_total{{reason=\"{reason}\"}}");
        metric(harness, NODES[0], &name)
    };
    let before = rejected()?;
    let sender = harness.lab().on_client(move || {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
        for datagram in forged {
            socket.send_to(&datagram, (Ipv4Addr::new(192, 168, 50, 11), 7947))?;
        }
        Ok(())
    })?;
    sender
        .join()
        .map_err(|_| anyhow::anyhow!("the attacker panicked"))??;
    let mut counted = 0;
    eventually("the forged datagrams to be counted", SHORT_TIMEOUT, || {
        counted = rejected()? - before;
        Ok((counted >= FORGED_DATAGRAMS).then_some(counted))
    })
    .with_context(|| format!("{counted} of {FORGED_DATAGRAMS} were refused because of {reason}"))
}

/// A request for a rotation is served once, even if an operator restarts.
fn no_more_keys_are_written(harness: &Harness) -> anyhow::Result<()> {
    let version = "kubectl get secret speaker-heartbeat-keys -n metallb-system -o jsonpath='{.metadata.resourceVersion}'";
    let before = harness.admin(version)?;
    harness.admin("kubectl rollout restart deployment/lb-operator -n lb-operator-system")?;
    harness.admin("kubectl rollout status deployment/lb-operator -n lb-operator-system --timeout=120s")?;
    // An event about a change proves that it leads.
    harness
        .admin("kubectl label secret speaker-heartbeat-keys -n metallb-system app.kubernetes.io/part-of-")?;
    eventually("the operator to put a label back", SHORT_TIMEOUT, || {
        let label = harness.admin(
            "kubectl get secret speaker-heartbeat-keys -n metallb-system \
             -o jsonpath='{.metadata.labels.app\\.kubernetes\\.io/part-of}'",
        )?;
        Ok((!label.is_empty()).then_some(()))
    })?;
    assert_ne!(harness.admin(version)?, before, "the label");
    assert_eq!(entries(harness)?, "2: current");
    Ok(())
}

/// Number of keys so far, and the entries of the Secret.
fn entries(harness: &Harness) -> anyhow::Result<String> {
    let generation = "{{index .metadata.annotations \"lb-operator.io/key-generation\"}}";
    let names = "{{range $name, $_ := .data}} {{$name}}{{end}}";
    harness.admin(&format!(
        "kubectl get secret speaker-heartbeat-keys -n metallb-system -o go-template='{generation}:{names}'"
    ))
}
