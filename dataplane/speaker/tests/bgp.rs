//! BGP with a real router, BIRD, and with hostile ones, in network namespaces. Needs root, and BIRD of `make setup`.

#[path = "support/bgp.rs"]
mod bgp;
#[path = "support/bgp_objects.rs"]
mod bgp_objects;
#[path = "support/lan.rs"]
mod lan;
mod support;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bgp::{Bird, NODE, NODE_V6, Node, ROUTER, ROUTER_V6, bgp_cluster, bird_protocol};
use bgp_objects::{mk_bgp_advertisement, mk_community, mk_peer};
use lb_speaker::bgp::configuration::Update;
use serde_json::json;
use support::{key, mk_pool, mk_service, mk_slice};

const WEB_V4: &str = "203.0.113.7/32";
const WEB_V6: &str = "2001:db8:113::7/128";

/// The router as an external peer, both families on one session.
fn tor() -> Update {
    mk_peer(
        "tor",
        &json!({"myASN": 65000, "peerASN": 65001, "peerAddress": ROUTER, "dualStackAddressFamily": true, "connectTime": "1s"}),
    )
}

fn passive() -> String {
    bird_protocol(&format!("{ROUTER} as 65001"), &format!("{NODE} as 65000"), "")
}

#[test]
fn both_families_are_announced_with_their_attributes() -> Result<()> {
    Node::run(async |mut node| {
        let bird = Bird::start(&node.lan, &passive())?;
        let advertisement = mk_bgp_advertisement(
            "lan",
            &json!({"communities": ["65000:7", "no-peer", "large:65000:1:2"], "asPathPrepend": 2, "localPref": 300}),
        );
        let alias = mk_community("names", &json!([{"name": "no-peer", "value": "65535:65284"}]));
        node.start(bgp_cluster(), vec![tor(), advertisement, alias])
            .await?;
        node.until("routes", |_| Ok(bird.has(WEB_V4)? && bird.has(WEB_V6)?))
            .await?;
        for (prefix, next_hop) in [(WEB_V4, NODE), (WEB_V6, NODE_V6)] {
            let route = bird.route(prefix)?;
            for part in [
                &format!("BGP.next_hop: {next_hop}"),
                "BGP.origin: IGP",
                "BGP.as_path: 65000 65000 65000\n",
                "(65000,7)",
                "(65535,65284)",
                "BGP.large_community: (65000, 1, 2)",
                &format!("via {next_hop} on lan0"),
            ] {
                ensure!(route.contains(part), "{part} is missing: {route}");
            }
            ensure!(!route.contains("BGP.med"), "{route}");
        }
        ensure!(node.metric("metallb_bgp_announced_prefixes_total") == Some(2.0));
        ensure!(node.metric("metallb_bgp_pending_prefixes_total") == Some(0.0));
        ensure!(node.metric("metallb_bgp_opens_sent") == Some(1.0));
        ensure!(node.metric("metallb_speaker_announced") == Some(2.0));

        // The last endpoint is gone: withdrawn, without a new session.
        node.objects([lb_speaker::k8s::index::Update::Slice(key("web-abc"), None)]);
        node.until("withdrawal", |_| Ok(!bird.has(WEB_V4)? && !bird.has(WEB_V6)?))
            .await?;
        node.objects([mk_slice("web", &["n1"])]);
        node.until("return", |_| bird.has(WEB_V4)).await?;
        ensure!(node.metric("metallb_bgp_opens_sent") == Some(1.0));
        Ok(())
    })
}

#[test]
fn session_over_ipv6_has_the_link_local_next_hop_too() -> Result<()> {
    Node::run(async |mut node| {
        let protocol = bird_protocol(
            &format!("{ROUTER_V6} as 65001"),
            &format!("{NODE_V6} as 65000"),
            "",
        );
        let bird = Bird::start(&node.lan, &protocol)?;
        // Duplicate address detection takes a second.
        node.until("a link-local address", |node| Ok(node.has_link_local()))
            .await?;
        let peer = mk_peer(
            "tor",
            &json!({"myASN": 65000, "dynamicASN": "external", "peerAddress": ROUTER_V6}),
        );
        node.start(bgp_cluster(), vec![peer, mk_bgp_advertisement("lan", &json!({}))])
            .await?;
        node.until("route", |_| bird.has(WEB_V6)).await?;
        let route = bird.route(WEB_V6)?;
        ensure!(
            route.contains(&format!("BGP.next_hop: {NODE_V6} fe80:")),
            "{route}"
        );
        ensure!(!bird.has(WEB_V4)?, "the session has its own family only");
        Ok(())
    })
}

#[test]
fn internal_peer_gets_local_preference_and_no_path() -> Result<()> {
    Node::run(async |mut node| {
        let asn = "4200000001";
        let protocol = bird_protocol(&format!("{ROUTER} as {asn}"), &format!("{NODE} as {asn}"), "");
        let bird = Bird::start(&node.lan, &protocol)?;
        let peer = mk_peer(
            "tor",
            &json!({"myASN": 4_200_000_001_u32, "dynamicASN": "internal", "peerAddress": ROUTER}),
        );
        node.start(bgp_cluster(), vec![peer, mk_bgp_advertisement("lan", &json!({}))])
            .await?;
        node.until("route", |_| bird.has(WEB_V4)).await?;
        let route = bird.route(WEB_V4)?;
        ensure!(
            route.contains("BGP.local_pref: 100") && route.contains("BGP.as_path: \n"),
            "{route}"
        );
        let advertisement = mk_bgp_advertisement("lan", &json!({"localPref": 250, "aggregationLength": 24}));
        node.configure([advertisement]).await?;
        node.until("aggregate", |_| {
            Ok(bird.has("203.0.113.0/24")? && !bird.has(WEB_V4)?)
        })
        .await?;
        ensure!(bird.route("203.0.113.0/24")?.contains("BGP.local_pref: 250"));
        ensure!(
            node.metric("metallb_bgp_opens_sent") == Some(1.0),
            "no new session"
        );
        Ok(())
    })
}

#[test]
fn attributes_and_recipients_change_without_a_new_session() -> Result<()> {
    Node::run(async |mut node| {
        let bird = Bird::start(&node.lan, &passive())?;
        let with = |spec| mk_bgp_advertisement("lan", &spec);
        node.start(
            bgp_cluster(),
            vec![tor(), with(json!({"communities": ["unknown"]}))],
        )
        .await?;
        node.until("session", |node| Ok(node.is_up())).await?;
        ensure!(!bird.has(WEB_V4)?, "not in force with an unknown community");
        node.configure([mk_community(
            "names",
            &json!([{"name": "unknown", "value": "1:2"}]),
        )])
        .await?;
        node.until("alias", |_| Ok(bird.route(WEB_V4)?.contains("(1,2)")))
            .await?;
        node.configure([with(json!({"communities": ["3:4"]}))]).await?;
        node.until("community", |_| {
            Ok(bird.route(WEB_V4)?.contains("BGP.community: (3,4)"))
        })
        .await?;
        node.configure([with(json!({"peers": ["another"]}))]).await?;
        node.until("other peers", |_| Ok(!bird.has(WEB_V4)?)).await?;
        node.configure([with(json!({"peers": ["tor"]}))]).await?;
        node.until("this peer", |_| bird.has(WEB_V4)).await?;
        node.configure([with(json!({"nodeSelectors": [{"matchLabels": {"rack": "1"}}]}))])
            .await?;
        node.until("other nodes", |_| Ok(!bird.has(WEB_V4)?)).await?;
        ensure!(node.metric("metallb_bgp_opens_sent") == Some(1.0));
        node.configure([Update::Peer("tor".to_owned(), None)]).await?;
        node.until("stop", |node| Ok(node.metric("metallb_bgp_session_up").is_none()))
            .await?;
        Ok(())
    })
}

#[test]
fn wrong_as_number_is_tried_at_most_every_five_seconds() -> Result<()> {
    Node::run(async |mut node| {
        let protocol = bird_protocol(&format!("{ROUTER} as 65009"), &format!("{NODE} as 65000"), "");
        let bird = Bird::start(&node.lan, &protocol)?;
        node.start(
            bgp_cluster(),
            vec![tor(), mk_bgp_advertisement("lan", &json!({}))],
        )
        .await?;
        node.during(Duration::from_secs(8)).await;
        let opens = node.metric("metallb_bgp_opens_sent").context("opens")?;
        ensure!((1.0..=2.0).contains(&opens), "{opens} attempts in 8 s");
        ensure!(!node.is_up() && !bird.has(WEB_V4)?);
        Ok(())
    })
}

#[test]
fn keys_must_be_equal() -> Result<()> {
    Node::run(async |mut node| {
        let protocol = bird_protocol(
            &format!("{ROUTER} as 65001"),
            &format!("{NODE} as 65000"),
            "password \"secret\";",
        );
        let bird = Bird::start(&node.lan, &protocol)?;
        let with = |key: &str| {
            mk_peer(
                "tor",
                &json!({"myASN": 65000, "peerASN": 65001, "peerAddress": ROUTER, "password": key, "connectTime": "1s"}),
            )
        };
        node.start(
            bgp_cluster(),
            vec![with("Secret"), mk_bgp_advertisement("lan", &json!({}))],
        )
        .await?;
        node.during(Duration::from_secs(2)).await;
        ensure!(!node.is_up());
        node.configure([with("secret")]).await?;
        node.until("route", |_| bird.has(WEB_V4)).await
    })
}

#[test]
fn restarted_router_gets_all_routes_again() -> Result<()> {
    Node::run(async |mut node| {
        let bird = Bird::start(&node.lan, &passive())?;
        node.start(
            bgp_cluster(),
            vec![tor(), mk_bgp_advertisement("lan", &json!({}))],
        )
        .await?;
        node.until("route", |_| bird.has(WEB_V4)).await?;
        drop(bird);
        node.until("end", |node| Ok(!node.is_up())).await?;
        let bird = Bird::start(&node.lan, &passive())?;
        node.until("route again", |_| Ok(bird.has(WEB_V4)? && bird.has(WEB_V6)?))
            .await?;
        ensure!(node.metric("lb_speaker_bgp_session_flaps_total") == Some(1.0));
        // The operator of the router asks for everything.
        bird.ask("reload in n1")?;
        node.until("refresh", |_| bird.has(WEB_V4)).await
    })
}

#[test]
fn nothing_is_announced_before_the_initial_lists() -> Result<()> {
    Node::run(async |mut node| {
        let bird = Bird::start(&node.lan, &passive())?;
        node.objects(bgp_cluster());
        node.configure([tor(), mk_bgp_advertisement("lan", &json!({}))])
            .await?;
        node.during(Duration::from_secs(1)).await;
        ensure!(node.metric("metallb_bgp_opens_sent").is_none(), "no session");
        node.start(Vec::new(), Vec::new()).await?;
        node.until("route", |_| bird.has(WEB_V4)).await
    })
}

/// With graceful restart the router keeps the routes while the process is replaced, without it the routes are gone at once.
#[test]
fn restart_keeps_routes_with_graceful_restart_only() -> Result<()> {
    for graceful in [true, false] {
        Node::run(async |mut node| {
            let bird = Bird::start(&node.lan, &passive())?;
            let peer = || {
                mk_peer(
                    "tor",
                    &json!({
                        "myASN": 65000, "peerASN": 65001, "peerAddress": ROUTER, "connectTime": "1s",
                        "enableGracefulRestart": graceful,
                    }),
                )
            };
            let advertisement = || mk_bgp_advertisement("lan", &json!({}));
            let dns = || {
                [
                    mk_service("dns", &["203.0.113.53"], |_| {}),
                    mk_slice("dns", &["n1"]),
                ]
            };
            node.start(bgp_cluster(), vec![peer(), advertisement()]).await?;
            node.objects(dns());
            node.until(
                "routes",
                |_| Ok(bird.has(WEB_V4)? && bird.has("203.0.113.53/32")?),
            )
            .await?;
            node.bgp.shut_down().await;
            node.restart()?;
            let end = Instant::now() + Duration::from_secs(5);
            let mut kept = bird.has(WEB_V4)?;
            while kept != graceful && Instant::now() < end {
                kept = bird.has(WEB_V4)?;
            }
            ensure!(kept == graceful, "graceful {graceful}, kept {kept}");
            // One Service was deleted meanwhile.
            node.start(bgp_cluster(), vec![peer(), advertisement()]).await?;
            node.until("session", |node| {
                let kept = bird.has(WEB_V4)?;
                ensure!(kept || !graceful, "the route is removed");
                Ok(node.is_up() && kept)
            })
            .await?;
            node.until("stale route", |_| Ok(!bird.has("203.0.113.53/32")?))
                .await
        })?;
    }
    Ok(())
}

#[test]
fn ten_thousand_prefixes_are_announced_and_withdrawn_in_few_messages() -> Result<()> {
    const SERVICES: usize = 10_000;
    Node::run(async |mut node| {
        let bird = Bird::start(&node.lan, &passive())?;
        let mut cluster = bgp_cluster();
        cluster.push(mk_pool("many", &["10.100.0.0/16"]));
        for number in 0..SERVICES {
            let address = format!("10.100.{}.{}", number / 250, number % 250);
            let name = format!("s{number}");
            cluster.extend([mk_service(&name, &[&address], |_| {}), mk_slice(&name, &["n1"])]);
        }
        node.start(cluster, vec![tor()]).await?;
        node.until("session", |node| Ok(node.is_up())).await?;
        let count = |bird: &Bird| -> Result<usize> {
            let answer = bird.ask("show route count")?;
            let number = answer.lines().find(|line| line.contains("table master4"));
            let number = number.and_then(|line| line.split_whitespace().next());
            Ok(number.and_then(|number| number.parse().ok()).unwrap_or(0))
        };
        for (configuration, expected) in [
            (mk_bgp_advertisement("lan", &json!({})), SERVICES + 1),
            (Update::Advertisement("lan".to_owned(), None), 0),
        ] {
            let begin = Instant::now();
            node.configure([configuration]).await?;
            node.until("all prefixes", |_| Ok(count(&bird)? == expected))
                .await?;
            println!("{expected} prefixes: {:?}", begin.elapsed());
        }
        let updates = node.metric("metallb_bgp_updates_total").context("updates")?;
        ensure!(updates < 60.0, "{updates} UPDATEs");
        Ok(())
    })
}

/// The node n1 in another state.
fn node_with(
    change: impl FnOnce(&mut lb_speaker::k8s::objects::Node),
) -> Result<lb_speaker::k8s::index::Update> {
    let node = bgp_cluster().into_iter().next().context("the node")?;
    let lb_speaker::k8s::index::Update::Node(name, Some(mut node)) = node else {
        anyhow::bail!("no node");
    };
    change(&mut node);
    Ok(lb_speaker::k8s::index::Update::Node(name, Some(node)))
}

/// A cordoned node stays the last resort of the router, and one that leaves withdraws later: no session ends.
#[test]
fn drained_node_is_announced_with_the_community_first() -> Result<()> {
    Node::run(async |mut node| {
        let asn = "65000";
        let protocol = bird_protocol(&format!("{ROUTER} as {asn}"), &format!("{NODE} as {asn}"), "");
        let bird = Bird::start(&node.lan, &protocol)?;
        let peer = mk_peer(
            "tor",
            &json!({"myASN": 65000, "peerASN": 65000, "peerAddress": ROUTER}),
        );
        let advertisement = mk_bgp_advertisement("lan", &json!({"communities": ["1:2"], "localPref": 200}));
        node.start(bgp_cluster(), vec![peer, advertisement]).await?;
        let last_resort = |bird: &Bird| -> Result<bool> {
            let route = bird.route(WEB_V4)?;
            Ok(route.contains("(1,2) (65535,0)") && route.contains("BGP.local_pref: 0"))
        };
        let normal = |bird: &Bird| -> Result<bool> {
            let route = bird.route(WEB_V4)?;
            Ok(route.contains("BGP.community: (1,2)\n") && route.contains("BGP.local_pref: 200"))
        };
        node.until("route", |_| normal(&bird)).await?;
        node.objects([node_with(|node| node.draining = true)?]);
        node.until("last resort", |_| last_resort(&bird)).await?;
        node.during(bgp::DRAIN_DELAY * 2).await;
        ensure!(last_resort(&bird)?, "a cordoned node stays");
        node.objects([node_with(|_| {})?]);
        node.until("uncordoned", |_| normal(&bird)).await?;
        for label in [true, false] {
            let begin = Instant::now();
            node.objects([node_with(|node| {
                if label {
                    let name = "node.kubernetes.io/exclude-from-external-load-balancers";
                    node.labels.insert(name.to_owned(), String::new());
                } else {
                    node.out_of_service = true;
                }
            })?]);
            node.until("last resort", |_| last_resort(&bird)).await?;
            node.until("withdrawal", |_| Ok(!bird.has(WEB_V4)?)).await?;
            ensure!(begin.elapsed() >= bgp::DRAIN_DELAY, "{:?}", begin.elapsed());
            node.objects([node_with(|_| {})?]);
            node.until("return", |_| normal(&bird)).await?;
        }
        ensure!(
            node.metric("metallb_bgp_opens_sent") == Some(1.0),
            "no new session"
        );
        Ok(())
    })
}

/// Hostile routers: each handles one connection; returns how many connections came.
struct Hostile {
    stop: Arc<AtomicBool>,
    connections: Arc<AtomicUsize>,
}

impl Hostile {
    fn start(namespace: &str, port: u16, behave: impl Fn(TcpStream) + Send + Sync + 'static) -> Result<Self> {
        let address: SocketAddr = format!("0.0.0.0:{port}").parse()?;
        let listener = lan::within(namespace, async || Ok(TcpListener::bind(address)?))?;
        let (stop, connections) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let hostile = Self {
            stop: stop.clone(),
            connections: connections.clone(),
        };
        let behave = Arc::new(behave);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if stop.load(Ordering::Relaxed) {
                    return;
                }
                connections.fetch_add(1, Ordering::Relaxed);
                let behave = behave.clone();
                thread::spawn(move || behave(stream));
            }
        });
        Ok(hostile)
    }
}

impl Drop for Hostile {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// A message of BGP.
fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    let mut octets = vec![0xff; 16];
    let len = u16::try_from(19 + body.len()).unwrap_or(u16::MAX);
    octets.extend(len.to_be_bytes());
    octets.push(kind);
    octets.extend(body);
    octets
}

/// An OPEN and a KEEPALIVE: a session with AS 65001.
fn greeting() -> Vec<u8> {
    let open = message(1, &[4, 0xfd, 0xe9, 0, 90, 192, 168, 50, 10, 0]);
    [open, message(4, &[])].concat()
}

/// Resident memory of the process, and CPU time of the calling thread.
fn process_usage() -> Result<(u64, Duration)> {
    let statm = std::fs::read_to_string("/proc/self/statm")?;
    let pages: u64 = statm
        .split_whitespace()
        .nth(1)
        .context("resident pages")?
        .parse()?;
    let schedstat = std::fs::read_to_string("/proc/thread-self/schedstat")?;
    let nanoseconds: u64 = schedstat.split_whitespace().next().context("CPU time")?.parse()?;
    Ok((pages * 4096, Duration::from_nanos(nanoseconds)))
}

#[test]
fn hostile_routers_cost_bounded_memory_and_time() -> Result<()> {
    Node::run(async |mut node| {
        let client = node.lan.client.clone();
        // Routers that send garbage, never answer, close at once, flood UPDATEs, never read, and send OPENs byte by byte.
        let garbage = Hostile::start(
            &client,
            1001,
            |mut stream| {
                while stream.write_all(&[0xa5; 4096]).is_ok() {}
            },
        )?;
        let silent = Hostile::start(&client, 1002, |mut stream| {
            let _ = stream.read_to_end(&mut Vec::new());
        })?;
        let resetting = Hostile::start(&client, 1003, |mut stream| {
            let _ = stream.write_all(&greeting());
            let _ = stream.read(&mut [0; 64]);
        })?;
        let flood = Hostile::start(&client, 1004, |mut stream| {
            let _ = stream.write_all(&greeting());
            // Withdrawn routes that never existed.
            let body = [&4000_u16.to_be_bytes()[..], &[0; 4000], &[0, 0]].concat();
            let updates = message(2, &body).repeat(16);
            while stream.write_all(&updates).is_ok() {}
        })?;
        let deaf = Hostile::start(&client, 1005, |mut stream| {
            let _ = stream.write_all(&greeting());
            thread::sleep(Duration::from_secs(60));
        })?;
        let all = [&garbage, &silent, &resetting, &flood, &deaf];
        let bird = Bird::start(&node.lan, &passive())?;
        let mut configuration = vec![tor(), mk_bgp_advertisement("lan", &json!({}))];
        for port in 1001..=1005 {
            let address = format!("192.168.50.{}", port - 900);
            node.lan
                .client_ip(&format!("address add {address}/24 dev lan0"))?;
            let spec = json!({"myASN": 65000, "peerASN": 65001, "peerAddress": address, "peerPort": port});
            configuration.push(mk_peer(&format!("hostile-{port}"), &spec));
        }
        node.start(bgp_cluster(), configuration).await?;
        node.until("route", |_| bird.has(WEB_V4)).await?;
        let ((memory, cpu), begin) = (process_usage()?, Instant::now());
        node.during(Duration::from_secs(8)).await;
        let (after, used) = process_usage()?;
        let share = (used - cpu).as_secs_f64() / begin.elapsed().as_secs_f64();
        let grown = after.saturating_sub(memory) / 1024;
        let connections: Vec<_> = all.map(|one| one.connections.load(Ordering::Relaxed)).into();
        println!(
            "CPU {:.1} %, memory +{grown} KiB, connections {connections:?}",
            share * 100.0
        );
        ensure!(share < 0.3, "CPU {share}");
        ensure!(grown < 8 * 1024, "memory +{grown} KiB");
        ensure!(connections.iter().all(|count| *count <= 10), "{connections:?}");
        ensure!(bird.has(WEB_V4)?, "the other session does not notice");
        ensure!(node.metric("lb_speaker_bgp_session_flaps_total").is_some());
        Ok(())
    })
}
