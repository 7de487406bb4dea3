//! BFD with a real router, BIRD, and with hostile hosts, in network namespaces. Needs root, and BIRD of `make setup`.

#[path = "support/bgp.rs"]
mod bgp;
#[path = "support/bgp_objects.rs"]
mod bgp_objects;
#[path = "support/lan.rs"]
mod lan;
mod support;

use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bgp::{Bird, NODE, NODE_V6, Node, ROUTER, ROUTER_V6, bgp_cluster, bird_bfd, bird_protocol};
use bgp_objects::{mk_bfd_profile, mk_bgp_advertisement, mk_peer};
use lb_bfd::session::{Output, Resume, Session, SessionConfig};
use lb_bfd::wire::Packet;
use lb_speaker::bgp::configuration::Update;
use nix::sys::signal::Signal;
use serde_json::{Value, json};

const WEB_V4: &str = "203.0.113.7/32";

/// The router as an external peer that BFD watches.
fn tor(more: &Value) -> Update {
    let mut spec = json!({
        "myASN": 65000, "peerASN": 65001, "peerAddress": ROUTER, "connectTime": "2s", "bfdProfile": "fast",
    });
    if let (Some(spec), Some(more)) = (spec.as_object_mut(), more.as_object()) {
        spec.extend(more.clone());
    }
    mk_peer("tor", &spec)
}

fn fast() -> Update {
    profile(50)
}

fn profile(interval: u32) -> Update {
    mk_bfd_profile(
        "fast",
        &json!({"transmitInterval": interval, "receiveInterval": interval}),
    )
}

fn configuration(more: &Value) -> Vec<Update> {
    vec![tor(more), fast(), mk_bgp_advertisement("lan", &json!({}))]
}

fn bird(more: &str) -> String {
    let protocol = bird_protocol(
        &format!("{ROUTER} as 65001"),
        &format!("{NODE} as 65000"),
        &format!("bfd on; {more}"),
    );
    bird_bfd(50) + &protocol
}

fn bfd_is_up(node: &Node) -> bool {
    node.metric("metallb_bfd_session_up") == Some(1.0)
}

/// Waits until BGP, BFD and the route are there.
async fn ready(node: &mut Node, bird: &Bird) -> Result<()> {
    node.until("BGP, BFD and a route", |node| {
        Ok(node.is_up() && bfd_is_up(node) && bird.has(WEB_V4)?)
    })
    .await
}

/// Works until a metric has a value, and returns the time that it took.
async fn time_until(node: &mut Node, name: &str, value: f64) -> Result<Duration> {
    let begin = Instant::now();
    while node.metric(name) != Some(value) {
        ensure!(
            begin.elapsed() < Duration::from_secs(20),
            "timeout: {name} {value}"
        );
        node.during(Duration::from_millis(2)).await;
    }
    Ok(begin.elapsed())
}

#[test]
fn dead_router_is_noticed_and_comes_back() -> Result<()> {
    Node::run(async |mut node| {
        let bird = Bird::start(&node.lan, &bird(""))?;
        node.start(bgp_cluster(), configuration(&json!({}))).await?;
        ready(&mut node, &bird).await?;
        node.during(Duration::from_secs(1)).await;
        bird.signal(Signal::SIGSTOP)?;
        let bfd = time_until(&mut node, "metallb_bfd_session_up", 0.0).await?;
        let bgp = bfd + time_until(&mut node, "metallb_bgp_session_up", 0.0).await?;
        println!("BFD down after {bfd:?}, BGP after {bgp:?}");
        // 3 x 50 ms, and a margin for a busy test machine.
        ensure!(bfd < Duration::from_millis(400), "{bfd:?}");
        ensure!(bgp < Duration::from_millis(500), "{bgp:?}");
        ensure!(
            node.metric("metallb_bgp_notifications_sent") == Some(1.0),
            "Cease 6/10"
        );
        bird.signal(Signal::SIGCONT)?;
        ready(&mut node, &bird).await?;
        ensure!(node.metric("metallb_bfd_session_up_events") == Some(2.0));
        ensure!(node.metric("metallb_bfd_session_down_events") == Some(1.0));
        ensure!(node.metric("metallb_bfd_zebra_notifications") == Some(3.0));
        Ok(())
    })
}

#[test]
fn sessions_come_up_over_ipv6_and_over_several_hops() -> Result<()> {
    for (local, remote, multi_hop) in [
        (NODE_V6, ROUTER_V6, false),
        (NODE, ROUTER, true),
        (NODE_V6, ROUTER_V6, true),
    ] {
        Node::run(async |mut node| {
            let hops = if multi_hop { "multihop 2" } else { "direct" };
            let more = format!("bfd on; {hops};");
            let protocol = bird_protocol(&format!("{remote} as 65001"), &format!("{local} as 65000"), &more);
            let bird = Bird::start(&node.lan, &(bird_bfd(50) + &protocol))?;
            let more = json!({"peerAddress": remote, "ebgpMultiHop": multi_hop});
            node.start(bgp_cluster(), configuration(&more)).await?;
            // BIRD sends with the TTL of the kernel, 64.
            node.configure([mk_bfd_profile("fast", &json!({"minimumTtl": 64}))])
                .await?;
            node.until("BFD", |node| Ok(node.is_up() && bfd_is_up(node)))
                .await
                .with_context(|| format!("{remote}, {hops}: {}", bird.log()))?;
            node.during(Duration::from_secs(1)).await;
            ensure!(
                bird.bfd_changes()
                    .last()
                    .is_some_and(|change| change.ends_with("to Up"))
            );
            ensure!(node.metric("metallb_bfd_session_down_events") == Some(0.0));
            Ok(())
        })?;
    }
    Ok(())
}

/// BFD that never comes up holds BGP not back: neither without a profile nor with a router that has no BFD.
#[test]
fn bgp_does_not_wait_for_bfd() -> Result<()> {
    Node::run(async |mut node| {
        let protocol = bird_protocol(&format!("{ROUTER} as 65001"), &format!("{NODE} as 65000"), "");
        let bird = Bird::start(&node.lan, &protocol)?;
        let advertisement = mk_bgp_advertisement("lan", &json!({}));
        node.start(bgp_cluster(), vec![tor(&json!({})), advertisement])
            .await?;
        node.until("route", |_| bird.has(WEB_V4)).await?;
        ensure!(
            node.metric("metallb_bfd_session_up").is_none(),
            "there is no such profile"
        );
        node.configure([fast()]).await?;
        node.until("BFD packets", |node| {
            Ok(node.metric("metallb_bfd_control_packet_output") > Some(2.0))
        })
        .await?;
        ensure!(node.metric("metallb_bfd_session_up") == Some(0.0));
        ensure!(node.is_up() && bird.has(WEB_V4)?);
        ensure!(node.metric("metallb_bgp_opens_sent") == Some(1.0));
        Ok(())
    })
}

#[test]
fn profile_changes_live_and_outlives_its_object() -> Result<()> {
    Node::run(async |mut node| {
        let bird = Bird::start(&node.lan, &bird(""))?;
        node.start(bgp_cluster(), configuration(&json!({}))).await?;
        ready(&mut node, &bird).await?;
        for (interval, shown) in [(400, "0.400"), (20, "0.050")] {
            node.configure([profile(interval)]).await?;
            node.until("the new interval", |_| {
                Ok(bird.ask("show bfd sessions")?.contains(shown))
            })
            .await?;
        }
        node.configure([Update::BfdProfile("fast".to_owned(), None)])
            .await?;
        node.during(Duration::from_secs(1)).await;
        ensure!(bfd_is_up(&node) && node.is_up());
        // Another profile that does not exist ends BFD, and BGP goes on or comes back.
        ensure!(node.metric("metallb_bfd_session_down_events") == Some(0.0));
        ensure!(
            node.metric("lb_speaker_bgp_session_flaps_total")
                .unwrap_or_default()
                == 0.0
        );
        node.configure([tor(&json!({"bfdProfile": "unknown"}))]).await?;
        node.until("BFD ends", |node| {
            Ok(node.metric("metallb_bfd_session_up").is_none())
        })
        .await?;
        node.until("BGP", |node| Ok(node.is_up())).await
    })
}

/// A router's BFD, whose administrator switches it off when this is dropped. Its BGP is BIRD, without BFD.
struct Router {
    stop: Arc<AtomicBool>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Router {
    fn start(namespace: &str, config: SessionConfig) -> Result<Self> {
        let socket = lan::within(namespace, async || {
            let socket = UdpSocket::bind(SocketAddr::new(ROUTER.parse()?, 3784))?;
            socket.set_ttl(255)?;
            socket.set_read_timeout(Some(Duration::from_millis(2)))?;
            Ok(socket)
        })?;
        let to = SocketAddr::new(NODE.parse()?, 3784);
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let thread = thread::spawn(move || {
            let mut session = Session::new(Instant::now(), config, 77, Resume::default());
            let mut buffer = [0; 64];
            while !stopped.load(Ordering::Relaxed) {
                if let Ok(len) = socket.recv(&mut buffer)
                    && let Ok(packet) = Packet::decode(&buffer[..len])
                {
                    session.handle_packet(Instant::now(), &packet);
                }
                session.handle_timeout(Instant::now());
                send(&socket, to, &mut session);
            }
            session.switch_off(Instant::now());
            send(&socket, to, &mut session);
        });
        let thread = Some(thread);
        Ok(Self { stop, thread })
    }
}

fn send(socket: &UdpSocket, to: SocketAddr, session: &mut Session) {
    while let Some(output) = session.poll_output() {
        if let Output::Send(octets) = output {
            let _ = socket.send_to(&octets, to);
        }
    }
}

impl Drop for Router {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// The administrator of the router switches BFD off: nothing is known about the path, and BGP goes on. The intervals of
/// some routers make no sense.
#[test]
fn router_that_switches_bfd_off_keeps_its_routes() -> Result<()> {
    for (interval, multiplier) in [(50_000, 3), (1, 1)] {
        Node::run(async |mut node| {
            let protocol = bird_protocol(&format!("{ROUTER} as 65001"), &format!("{NODE} as 65000"), "");
            let bird = Bird::start(&node.lan, &protocol)?;
            let interval = Duration::from_micros(interval);
            let config = SessionConfig {
                transmit_interval: interval.max(Duration::from_millis(20)),
                receive_interval: interval,
                echo_interval: interval,
                multiplier,
                passive: false,
            };
            let router = Router::start(&node.lan.client, config)?;
            node.start(bgp_cluster(), configuration(&json!({}))).await?;
            ready(&mut node, &bird).await?;
            let sent = node.metric("metallb_bfd_control_packet_output").context("sent")?;
            node.during(Duration::from_secs(2)).await;
            let sent = node.metric("metallb_bfd_control_packet_output").context("sent")? - sent;
            ensure!(sent <= 60.0, "{sent} packets in 2 s");
            drop(router);
            time_until(&mut node, "metallb_bfd_session_up", 0.0).await?;
            node.during(Duration::from_secs(1)).await;
            let ceased = node.metric("metallb_bgp_notifications_sent").unwrap_or_default();
            ensure!(
                ceased == 0.0 && node.is_up() && bird.has(WEB_V4)?,
                "{interval:?}, {multiplier}: {ceased} NOTIFICATIONs"
            );
            Ok(())
        })?;
    }
    Ok(())
}

/// The process is replaced in two seconds, with detection times of 150 ms: the router notices nothing. The heartbeat keys
/// were rotated meanwhile.
#[test]
fn restart_is_not_noticed() -> Result<()> {
    for gap in [0, 2000] {
        Node::run(async |mut node| {
            let bird = Bird::start(&node.lan, &bird(""))?;
            let graceful = json!({"enableGracefulRestart": true});
            node.start(bgp_cluster(), configuration(&graceful)).await?;
            ready(&mut node, &bird).await?;
            let before = bird.bfd_changes();
            let begin = Instant::now();
            node.bgp.shut_down().await;
            println!("shutdown took {:?}", begin.elapsed());
            node.restart()?;
            node.bgp
                .set_heartbeat_keys(&[b"a new key of the cluster".to_vec(), bgp::KEY.to_vec()]);
            let end = Instant::now() + Duration::from_millis(gap);
            while Instant::now() < end {
                ensure!(bird.has(WEB_V4)?, "the route is removed");
            }
            node.start(bgp_cluster(), configuration(&graceful)).await?;
            node.until("BGP and BFD", |node| {
                ensure!(bird.has(WEB_V4)?, "the route is removed: {}", bird.log());
                Ok(node.is_up() && bfd_is_up(node))
            })
            .await?;
            // Longer than the slow interval of the earlier process.
            let end = Instant::now() + Duration::from_secs(12);
            while Instant::now() < end {
                node.during(Duration::from_millis(100)).await;
                ensure!(bird.has(WEB_V4)?, "the route is removed: {}", bird.log());
            }
            ensure!(bird.bfd_changes() == before, "{:?}", bird.bfd_changes());
            ensure!(node.metric("metallb_bfd_session_up_events") == Some(1.0));
            // A failure is noticed as fast as before.
            bird.signal(Signal::SIGSTOP)?;
            let down = time_until(&mut node, "metallb_bfd_session_up", 0.0).await?;
            ensure!(down < Duration::from_millis(400), "{down:?}");
            bird.signal(Signal::SIGCONT)
        })?;
    }
    Ok(())
}

/// A process that does not come back is noticed after the budget.
#[test]
fn lost_process_is_noticed_by_the_router() -> Result<()> {
    Node::run(async |mut node| {
        let bird = Bird::start(&node.lan, &bird(""))?;
        node.start(
            bgp_cluster(),
            configuration(&json!({"enableGracefulRestart": true})),
        )
        .await?;
        ready(&mut node, &bird).await?;
        node.bgp.shut_down().await;
        node.restart()?;
        let begin = Instant::now();
        while bird.has(WEB_V4)? {
            ensure!(begin.elapsed() < Duration::from_secs(14), "the route is kept");
            thread::sleep(Duration::from_millis(50));
        }
        println!("route removed after {:?}", begin.elapsed());
        ensure!(begin.elapsed() > Duration::from_secs(8), "{:?}", begin.elapsed());
        Ok(())
    })
}

/// CPU time of the BFD thread in this network namespace.
fn thread_time() -> Result<Duration> {
    let mut total = Duration::ZERO;
    for task in std::fs::read_dir("/proc/self/task")? {
        let task = task?.path();
        // Another test may be ending its threads.
        let Ok(name) = std::fs::read_to_string(task.join("comm")) else {
            continue;
        };
        let is_here = || {
            std::fs::read_link(task.join("ns/net")).ok()
                == std::fs::read_link("/proc/thread-self/ns/net").ok()
        };
        if name.trim() == "bfd" && is_here() {
            let schedstat = std::fs::read_to_string(task.join("schedstat"))?;
            let nanoseconds = schedstat.split_whitespace().next().context("CPU time")?;
            total += Duration::from_nanos(nanoseconds.parse()?);
        }
    }
    Ok(total)
}

/// Sends packets from the router's host until dropped.
struct Flood(Arc<AtomicBool>);

impl Flood {
    fn start(namespace: &str, ttl: u32, packet: Vec<u8>) -> Result<Self> {
        let socket = lan::within(namespace, async || {
            let socket = UdpSocket::bind(SocketAddr::new(ROUTER.parse()?, 0))?;
            socket.set_ttl(ttl)?;
            socket.connect(SocketAddr::new(NODE.parse()?, 3784))?;
            Ok(socket)
        })?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                for _ in 0..200 {
                    let _ = socket.send(&packet);
                }
                // A CPU for all others remains.
                thread::sleep(Duration::from_millis(5));
            }
        });
        Ok(Self(stop))
    }
}

impl Drop for Flood {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// A packet that says that the session is down.
fn down(your_discriminator: u32) -> Vec<u8> {
    let yours = your_discriminator.to_be_bytes();
    [
        &[0x20, 0x40, 3, 24, 0, 0, 0, 9],
        &yours[..],
        &[0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 0],
    ]
    .concat()
}

#[test]
fn hostile_packets_change_nothing_and_cost_little() -> Result<()> {
    Node::run(async |mut node| {
        let bird = Bird::start(&node.lan, &bird(""))?;
        node.start(bgp_cluster(), configuration(&json!({}))).await?;
        ready(&mut node, &bird).await?;
        let client = node.lan.client.clone();
        let version = [&[0x40], &down(0)[1..]].concat();
        let floods = [
            // Forwarded by another router.
            (254, down(0)),
            // Of another session.
            (255, down(0x1234_5678)),
            (255, version),
            (255, vec![0xa5; 1000]),
            (255, vec![0x20]),
            (255, Vec::new()),
        ];
        let floods: Vec<_> = floods
            .into_iter()
            .map(|(ttl, packet)| Flood::start(&client, ttl, packet))
            .collect::<Result<_>>()?;
        let (before, begin) = (thread_time()?, Instant::now());
        node.during(Duration::from_secs(6)).await;
        let share = (thread_time()? - before).as_secs_f64() / begin.elapsed().as_secs_f64();
        println!("CPU of the BFD thread: {:.2} %", share * 100.0);
        drop(floods);
        ensure!(share < 0.05, "CPU {share}");
        ensure!(node.metric("metallb_bfd_session_down_events") == Some(0.0));
        ensure!(node.is_up() && bfd_is_up(&node) && bird.has(WEB_V4)?);
        Ok(())
    })
}

/// Well-formed packets in the name of the router, which nobody can tell from its own, end the session, and no more: they
/// cost bounded CPU time, and the session comes back.
#[test]
fn flood_in_the_name_of_the_router_costs_bounded_time() -> Result<()> {
    Node::run(async |mut node| {
        let bird = Bird::start(&node.lan, &bird(""))?;
        node.start(bgp_cluster(), configuration(&json!({}))).await?;
        ready(&mut node, &bird).await?;
        let client = node.lan.client.clone();
        let poll = [&[0x20, 0x60], &down(0)[2..]].concat();
        let flood = [
            Flood::start(&client, 255, down(0))?,
            Flood::start(&client, 255, poll)?,
        ];
        let (before, begin) = (thread_time()?, Instant::now());
        node.during(Duration::from_secs(6)).await;
        let share = (thread_time()? - before).as_secs_f64() / begin.elapsed().as_secs_f64();
        let downs = node.metric("metallb_bfd_session_down_events").context("downs")?;
        println!("CPU of the BFD thread: {:.2} %, {downs} failures", share * 100.0);
        drop(flood);
        ensure!(share < 0.5, "CPU {share}");
        ensure!(downs <= 4.0, "{downs} failures in 6 s");
        ready(&mut node, &bird).await
    })
}
