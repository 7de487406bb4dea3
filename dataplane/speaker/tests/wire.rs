//! The speaker on a real Ethernet segment, as a client observes it. Needs root and `arping`.

#[path = "support/bgp_objects.rs"]
mod bgp_objects;
#[path = "support/lan.rs"]
mod lan;
mod support;

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use lan::Lan;
use lb_l2::MacAddr;
use lb_l2::ownership::election::order;
use lb_l2::ownership::failure_detector::FailureDetectorConfig;
use lb_l2::ownership::{
    ApiState, Candidates, ConflictPolicy, Coordinator, CoordinatorConfig, NodeInfo, PartitionPolicy,
};
use lb_l2::wire::arp::{ArpFrame, ArpOperation};
use lb_speaker::bgp::{self, configuration::Configuration};
use lb_speaker::k8s::index::{Kind, Update};
use serde_json::json;
use support::{
    WEB, cluster, key, mk_advertisement, mk_node, mk_node_at, mk_node_with, mk_pool, mk_service, mk_slice,
    mk_speaker, mk_status,
};

/// An address whose order of nodes is n3, n1, n2.
const BEHIND_N3: &str = "192.168.50.50";

/// Longer than the first four bursts of a series, shorter than the restart grace.
const SOME_BURSTS: Duration = Duration::from_millis(1500);

#[test]
fn owner_announces_and_answers_until_it_withdraws() -> Result<()> {
    Lan::run(async |lan, mut rig| {
        rig.start(cluster()).await;
        ensure!(
            rig.during(lan.heard(WEB, SOME_BURSTS)).await? >= 2,
            "bursts at 0, 0.1, 0.5 and 1.1 s"
        );
        ensure!(rig.during(lan.answered("lan0", WEB)).await?);
        ensure!(
            !rig.during(lan.answered("lan1", WEB)).await?,
            "its network does not cover the address"
        );
        ensure!(
            !rig.during(lan.answered("lan0", "192.168.50.60")).await?,
            "not an address of ours"
        );
        ensure!(rig.take_events() == ["announcing"]);
        ensure!(rig.metric("metallb_speaker_announced", "default/web") == Some(1.0));
        let requests = rig.metric("metallb_layer2_requests_received", WEB);
        ensure!(requests >= Some(1.0) && requests == rig.metric("metallb_layer2_responses_sent", WEB));
        ensure!(rig.metric("metallb_layer2_gratuitous_sent", WEB) >= Some(4.0));

        rig.update([Update::Slice(key("web-abc"), None)]);
        ensure!(!rig.during(lan.answered("lan0", WEB)).await?, "withdrawn");
        ensure!(rig.metric("metallb_speaker_announced", "default/web").is_none());
        ensure!(rig.take_events().is_empty());

        rig.update([mk_slice("web", &["n2"])]);
        let heard = rig.during(lan.heard(WEB, SOME_BURSTS)).await?;
        ensure!(
            (3..=5).contains(&heard),
            "bursts at 0, 0.1, 0.5 and 1.1 s: {heard}"
        );
        ensure!(rig.during(lan.answered("lan0", WEB)).await?, "announced again");
        Ok(())
    })
}

#[test]
fn nothing_is_announced_before_the_initial_lists() -> Result<()> {
    Lan::run(async |lan, mut rig| {
        rig.update(cluster());
        for kind in Kind::ALL {
            if kind != Kind::Speakers {
                rig.update([Update::Synced(kind)]);
            }
        }
        ensure!(!rig.during(lan.answered("lan0", WEB)).await?);
        ensure!(rig.during(lan.heard(WEB, Duration::from_millis(500))).await? == 0);
        rig.update([Update::Synced(Kind::Speakers)]);
        rig.wait_for_probes().await;
        rig.wait_for_probes().await;
        ensure!(rig.during(lan.answered("lan0", WEB)).await?);
        Ok(())
    })
}

#[test]
fn restarted_speaker_announces_again_without_an_event() -> Result<()> {
    Lan::run(async |lan, mut rig| {
        rig.update(cluster().into_iter().chain([mk_status("web", "n1")]));
        rig.update(Kind::ALL.map(Update::Synced));
        ensure!(rig.during(lan.heard(WEB, SOME_BURSTS)).await? >= 3);
        ensure!(rig.during(lan.answered("lan0", WEB)).await?);
        ensure!(rig.take_events().is_empty(), "no change of owner");
        // An address that another node owned before has an event.
        rig.update([
            mk_status("dns", "n2"),
            mk_service("dns", &["192.168.50.53"], |_| {}),
            mk_slice("dns", &["n1"]),
        ]);
        rig.wait_for_probes().await;
        ensure!(rig.during(lan.answered("lan0", "192.168.50.53")).await?);
        ensure!(rig.take_events() == ["announcing"]);
        Ok(())
    })
}

#[test]
fn status_restores_only_the_address_that_it_names() -> Result<()> {
    Lan::run(async |lan, mut rig| {
        let web = mk_service("web", &[WEB, BEHIND_N3], |_| {});
        rig.update(cluster().into_iter().chain([web, mk_status("web", "n1")]));
        rig.update(Kind::ALL.map(Update::Synced));
        ensure!(
            rig.during(lan.heard(BEHIND_N3, SOME_BURSTS)).await? == 0,
            "n3 owns it"
        );
        ensure!(rig.during(lan.answered("lan0", WEB)).await?);
        ensure!(!rig.during(lan.answered("lan0", BEHIND_N3)).await?);
        Ok(())
    })
}

#[test]
fn address_of_a_conflicting_host_is_reported_and_not_claimed() -> Result<()> {
    Lan::run(async |lan, mut rig| {
        lan.client_ip(&format!("address add {WEB}/32 dev lan0"))?;
        rig.start(cluster()).await;
        // The conflict is reported once the host is known not to be a node.
        rig.during(tokio::time::sleep(Duration::from_millis(1500))).await;
        ensure!(rig.take_events() == ["conflict"], "reported, not announced");
        ensure!(rig.metric("lb_speaker_address_conflict", WEB) == Some(1.0));
        Ok(())
    })
}

#[test]
fn without_heartbeats_the_api_shows_failures() -> Result<()> {
    Lan::run(async |lan, mut rig| {
        let web = mk_service("web", &[BEHIND_N3], |_| {});
        rig.start(cluster().into_iter().chain([web])).await;
        ensure!(!rig.during(lan.answered("lan0", BEHIND_N3)).await?, "n3 owns it");

        // A rolling restart of n3's speaker.
        rig.update([Update::Speaker("speaker-n3".to_owned(), None)]);
        ensure!(
            !rig.during(lan.answered("lan0", BEHIND_N3)).await?,
            "held for its owner"
        );
        rig.update([mk_speaker("n3", false)]);
        ensure!(!rig.during(lan.answered("lan0", BEHIND_N3)).await?, "still held");
        rig.update([mk_speaker("n3", true)]);

        // The node dies.
        let unknown = json!([{"type": "Ready", "status": "Unknown"}]);
        rig.update([mk_node_with("n3", &json!({}), &unknown), mk_speaker("n3", false)]);
        rig.wait_for_probes().await;
        ensure!(rig.during(lan.answered("lan0", BEHIND_N3)).await?, "failover");
        ensure!(rig.take_events() == ["announcing"]);

        // It returns and takes no address back.
        rig.update([support::mk_node("n3"), mk_speaker("n3", true)]);
        ensure!(rig.during(lan.answered("lan0", BEHIND_N3)).await?, "no failback");
        Ok(())
    })
}

/// The speaker of n3, on the client: it owns the address.
fn mk_n3(lan: &Lan, address: IpAddr) -> Result<Coordinator> {
    let now = Instant::now();
    let config = CoordinatorConfig {
        node: "n3".to_owned(),
        version: String::new(),
        failure_detector: FailureDetectorConfig::default(),
        partition_policy: PartitionPolicy::Availability,
        failback: false,
        conflict_policy: ConflictPolicy::Warn,
    };
    let mut peer = Coordinator::new(now, 1, config);
    let nodes = ["n1", "n3"].map(|name| NodeInfo {
        name,
        api: ApiState::Ready,
        on_link: true,
    });
    peer.set_nodes(now, nodes);
    peer.set_macs(now, vec![lan.client_mac("lan0")?, lan.client_mac("lan1")?]);
    let candidates = Candidates {
        order: &["n3", "n1"],
        voters: &[],
        no_interface: false,
        preferred: None,
    };
    peer.set_candidates(address, Some(candidates));
    peer.start(now);
    Ok(peer)
}

/// The addresses of the nodes are on lan0, the address of the Service is on lan1.
#[test]
fn proxy_replies_reach_a_network_without_node_addresses() -> Result<()> {
    Lan::run(async |lan, mut rig| {
        let address = (50..100_u8).map(|host| Ipv4Addr::new(192, 168, 51, host));
        let is_behind_n3 = |address: &Ipv4Addr| order((*address).into(), ["n1", "n2", "n3"])[0] == "n3";
        let address = address
            .into_iter()
            .find(is_behind_n3)
            .context("no such address")?;
        let ip = address.to_string();
        let n3 = mk_node_at("n3", &[lan::CLIENT.into()]);
        let objects = [
            n3,
            mk_pool("lan1", &["192.168.51.0/24"]),
            mk_service("web", &[&ip], |_| {}),
        ];
        // The client's kernel replies in the place of its speaker.
        lan.client_ip(&format!("address add {ip}/32 dev lan1"))?;
        rig.peer = Some(mk_n3(&lan, address.into())?);
        rig.start(cluster().into_iter().chain(objects)).await;
        while !rig.peer_verified {
            rig.during(tokio::time::sleep(Duration::from_millis(50))).await;
        }
        if let Some(peer) = &mut rig.peer {
            peer.prepare_restart(Instant::now());
        }
        rig.wait_for_probes().await;
        rig.peer = None;
        lan.client_ip(&format!("address delete {ip}/32 dev lan1"))?;
        ensure!(rig.during(lan.answered("lan1", &ip)).await?, "proxy reply for n3");
        Ok(())
    })
}

/// A node that boots again has a tentative address while others wonder whether it lives.
#[test]
fn queries_harm_no_tentative_address() -> Result<()> {
    const SIX: &str = "fd00:50::30";
    Lan::run(async |lan, mut rig| {
        lan.node_ip("-6 address add fd00:50::21/64 dev lan0 nodad")?;
        let n3 = mk_node_at("n3", &[lan::CLIENT.into(), SIX.parse()?]);
        let web = mk_service("web", &[BEHIND_N3], |_| {});
        rig.peer = Some(mk_n3(&lan, BEHIND_N3.parse()?)?);
        rig.start(cluster().into_iter().chain([n3, web])).await;
        let rest = rig.during(lan.requests(lan::CLIENT, SIX.parse()?, Duration::from_secs(2)));
        let rest = rest.await?;
        ensure!(
            rest.probes + rest.multicast == 0 && rest.unicast.is_empty(),
            "queried while heartbeats arrive: {rest:?}"
        );

        rig.peer = None;
        lan.client_ip(&format!("-6 address add {SIX}/64 dev lan0"))?;
        let doubt = rig.during(lan.requests(lan::CLIENT, SIX.parse()?, Duration::from_secs(4)));
        let doubt = doubt.await?;
        ensure!(doubt.probes + doubt.multicast == 0, "{doubt:?}");
        ensure!(doubt.unicast.len() == 2, "both addresses are queried: {doubt:?}");
        ensure!(doubt.unicast.values().sum::<usize>() <= 40, "{doubt:?}");
        ensure!(lan.client_uses(SIX)?, "the node keeps its address");
        Ok(())
    })
}

/// Pods come and go, and their interfaces with them.
#[test]
fn proxy_replies_continue_after_link_changes() -> Result<()> {
    Lan::run(async |lan, mut rig| {
        let address = BEHIND_N3.parse()?;
        // The Node object of a former machine with the same address is out of date.
        let nodes = ["n3", "n9"].map(|name| mk_node_at(name, &[lan::CLIENT.into()]));
        let web = mk_service("web", &[BEHIND_N3], |_| {});
        rig.peer = Some(mk_n3(&lan, address)?);
        rig.start(cluster().into_iter().chain(nodes).chain([web])).await;
        ensure!(rig.peer.as_ref().is_some_and(|peer| peer.announces(address)));
        ensure!(!rig.during(lan.answered("lan0", BEHIND_N3)).await?, "n3 owns it");

        lan.node_ip("link add pod0 type veth peer name pod1")?;
        rig.wait_for_probes().await;
        if let Some(peer) = &mut rig.peer {
            peer.prepare_restart(Instant::now());
        }
        rig.wait_for_probes().await;
        rig.peer = None;
        ensure!(
            rig.during(lan.answered("lan0", BEHIND_N3)).await?,
            "proxy reply for n3"
        );
        ensure!(rig.take_events().is_empty(), "n3 still owns it");
        Ok(())
    })
}

#[test]
fn address_is_announced_again_when_its_link_returns() -> Result<()> {
    Lan::run(async |lan, mut rig| {
        rig.start(cluster()).await;
        ensure!(rig.during(lan.answered("lan0", WEB)).await?);
        // The end of the first series of bursts.
        rig.during(tokio::time::sleep(Duration::from_secs(5))).await;
        lan.client_ip("link set lan0 down")?;
        rig.during(tokio::time::sleep(Duration::from_millis(1500))).await;
        ensure!(
            rig.desired_status("web").is_none(),
            "this node has no interface for it"
        );
        lan.client_ip("link set lan0 up")?;
        let heard = rig.during(lan.heard(WEB, 2 * SOME_BURSTS)).await?;
        ensure!(heard >= 2, "{heard}");
        ensure!(rig.during(lan.answered("lan0", WEB)).await?);
        ensure!(rig.take_events().last() == Some(&"announcing"));
        Ok(())
    })
}

#[test]
fn only_interfaces_of_the_advertisement_are_used() -> Result<()> {
    Lan::run(async |lan, mut rig| {
        let only = |names: &[&str]| mk_advertisement("lan", &json!({"interfaces": names}));
        rig.start(cluster().into_iter().chain([only(&["lan1", "ens18", "ens192"])]))
            .await;
        ensure!(!rig.during(lan.answered("lan0", WEB)).await?);
        ensure!(rig.during(lan.answered("lan1", WEB)).await?);
        ensure!(
            rig.desired_status("web").map(|status| status.interfaces) == Some(["lan1".into()].into()),
            "not those of other nodes"
        );
        rig.update([only(&["lan0"])]);
        ensure!(rig.during(lan.answered("lan0", WEB)).await?);
        ensure!(!rig.during(lan.answered("lan1", WEB)).await?);
        rig.update([only(&[])]);
        ensure!(
            rig.during(lan.answered("lan0", WEB)).await? && !rig.during(lan.answered("lan1", WEB)).await?
        );
        ensure!(rig.desired_status("web").map(|status| status.interfaces) == Some(Box::default()));
        ensure!(rig.take_events() == ["announcing"]);
        Ok(())
    })
}

#[test]
fn loss_of_an_interface_reannounces_on_the_others() -> Result<()> {
    Lan::run(async |lan, mut rig| {
        let only = |names: &[&str]| mk_advertisement("lan", &json!({"interfaces": names}));
        let both = only(&["lan0", "lan1"]);
        rig.start(cluster().into_iter().chain([both])).await;
        // The end of the first series of bursts.
        let series = Duration::from_secs(6);
        rig.during(tokio::time::sleep(series)).await;
        ensure!(rig.during(lan.heard(WEB, SOME_BURSTS)).await? == 0);
        lan.client_ip("link set lan1 down")?;
        let heard = rig.during(lan.heard(WEB, SOME_BURSTS)).await?;
        ensure!(heard >= 2, "its link is down: {heard}");
        lan.client_ip("link set lan1 up")?;
        rig.during(tokio::time::sleep(series)).await;
        ensure!(rig.during(lan.heard(WEB, SOME_BURSTS)).await? == 0);
        rig.update([only(&["lan0"])]);
        let heard = rig.during(lan.heard(WEB, SOME_BURSTS)).await?;
        ensure!(heard >= 2, "no longer advertised there: {heard}");
        ensure!(rig.take_events() == ["announcing"]);
        Ok(())
    })
}

/// Ten seconds are the delay of a report.
#[test]
fn address_that_only_bgp_announces_is_not_reported() -> Result<()> {
    let mut bgp = Configuration::new();
    bgp.update(bgp_objects::mk_bgp_advertisement("lan", &json!({})));
    for kind in bgp::configuration::Kind::ALL {
        bgp.update(bgp::configuration::Update::Synced(kind));
    }
    Lan::run(async |_lan, mut rig| {
        rig.speaker.set_bgp_advertisements(bgp.active().clone());
        let without = Update::Advertisement("lan".to_owned(), None);
        rig.start(cluster().into_iter().chain([without])).await;
        rig.during(tokio::time::sleep(Duration::from_millis(10_500)))
            .await;
        ensure!(rig.take_events().is_empty());
        rig.speaker.set_bgp_advertisements(Arc::default());
        rig.during(tokio::time::sleep(Duration::from_millis(10_500)))
            .await;
        ensure!(rig.take_events() == ["not announced"]);
        ensure!(rig.metric("lb_speaker_unannounced_addresses", "NoAdvertisement") == Some(1.0));
        rig.speaker.set_bgp_advertisements(bgp.active().clone());
        rig.during(tokio::time::sleep(Duration::from_millis(100))).await;
        ensure!(rig.metric("lb_speaker_unannounced_addresses", "NoAdvertisement") == Some(0.0));
        Ok(())
    })
}

#[test]
fn missing_interface_is_reported_once_and_used_later() -> Result<()> {
    Lan::run(async |lan, mut rig| {
        let late = mk_advertisement("lan", &json!({"interfaces": ["late0"]}));
        rig.start(cluster().into_iter().chain([late])).await;
        rig.during(tokio::time::sleep(Duration::from_millis(2500))).await;
        ensure!(rig.take_events() == ["no interface"]);
        ensure!(rig.desired_status("web").is_none(), "nothing is announced");
        ensure!(rig.unannounced_reason("web").as_deref() == Some("NoInterface"));
        ensure!(rig.metric("lb_speaker_unannounced_addresses", "NoInterface") == Some(1.0));
        rig.update([mk_slice("web", &["n1"])]);
        rig.during(tokio::time::sleep(Duration::from_millis(2500))).await;
        ensure!(rig.take_events().is_empty(), "once, however often it is decided");
        let (node, client) = (&lan.node, &lan.client);
        lan.node_ip(&format!(
            "link add late0 netns {node} type veth peer name late0 netns {client}"
        ))?;
        lan.client_ip("address add 192.168.52.10/24 dev late0")?;
        lan.client_ip("link set late0 up")?;
        lan.node_ip("link set late0 up")?;
        // The kernel reports carrier at most once a second.
        rig.during(tokio::time::sleep(Duration::from_millis(1500))).await;
        ensure!(rig.during(lan.answered("late0", WEB)).await?);
        ensure!(!rig.during(lan.answered("lan0", WEB)).await?);
        ensure!(rig.take_events() == ["announcing"]);
        ensure!(rig.desired_status("web").is_some());
        ensure!(rig.metric("lb_speaker_unannounced_addresses", "NoInterface") == Some(0.0));
        Ok(())
    })
}

#[test]
fn address_that_was_never_announced_is_reported_with_the_nodes() -> Result<()> {
    Lan::run(async |_lan, mut rig| {
        let excluded = json!({"node.kubernetes.io/exclude-from-external-load-balancers": ""});
        let ready = json!([{"type": "Ready", "status": "True"}]);
        let nodes = ["n1", "n2", "n3"].map(|name| mk_node_with(name, &excluded, &ready));
        rig.start(cluster().into_iter().chain(nodes)).await;
        ensure!(
            rig.unannounced_reason("web").is_none(),
            "an eligible node may be about to appear"
        );
        // The delay of the report.
        rig.during(tokio::time::sleep(Duration::from_millis(10_500)))
            .await;
        ensure!(rig.unannounced_reason("web").as_deref() == Some("NoEligibleNode"));
        ensure!(rig.metric("lb_speaker_unannounced_addresses", "NoEligibleNode") == Some(1.0));
        ensure!(rig.take_events() == ["not announced"]);
        rig.update([mk_node("n1")]);
        rig.wait_for_probes().await;
        ensure!(rig.desired_status("web").is_some());
        ensure!(rig.metric("lb_speaker_unannounced_addresses", "NoEligibleNode") == Some(0.0));
        Ok(())
    })
}

#[test]
fn malformed_and_conflicting_frames_are_counted() -> Result<()> {
    Lan::run(async |lan, mut rig| {
        rig.start(cluster()).await;
        let request = ArpFrame {
            dst: MacAddr::BROADCAST,
            src: MacAddr([2, 0, 0, 0, 0, 9]),
            operation: ArpOperation::Request,
            sender_mac: MacAddr([2, 0, 0, 0, 0, 9]),
            sender_ip: "192.168.50.10".parse()?,
            target_mac: MacAddr::ZERO,
            target_ip: WEB.parse()?,
        };
        let mut malformed = request.encode().to_vec();
        malformed[18] = 8;
        rig.during(lan.send(malformed)).await?;
        let gratuitous = ArpFrame {
            sender_ip: WEB.parse()?,
            ..request
        };
        rig.during(lan.send(gratuitous.encode().to_vec())).await?;
        rig.during(tokio::time::sleep(Duration::from_millis(1500))).await;
        ensure!(rig.metric("lb_speaker_malformed_frames_total", "hardware_length") == Some(1.0));
        ensure!(
            rig.take_events() == ["announcing"],
            "it may be a node, and did not reply to a probe"
        );
        rig.during(lan.send(gratuitous.encode().to_vec())).await?;
        rig.during(tokio::time::sleep(Duration::from_millis(200))).await;
        ensure!(rig.metric("lb_speaker_conflicts_total", WEB) == Some(1.0));
        ensure!(rig.take_events() == ["conflict"]);
        let status = rig.desired_status("web").context("no status")?;
        let conflict = status.health.conflict.context("no conflict")?;
        ensure!(conflict.mac == MacAddr([2, 0, 0, 0, 0, 9]) && status.address.to_string() == WEB);
        ensure!(rig.metric("metallb_layer2_responses_sent", WEB) == Some(0.0));
        ensure!(rig.during(lan.answered("lan0", WEB)).await?);
        Ok(())
    })
}

#[test]
fn unannounced_address_is_reported_once_after_a_delay() -> Result<()> {
    Lan::run(async |_lan, mut rig| {
        rig.start(
            cluster()
                .into_iter()
                .chain([Update::Advertisement("lan".to_owned(), None)]),
        )
        .await;
        rig.during(tokio::time::sleep(Duration::from_secs(8))).await;
        ensure!(rig.take_events().is_empty(), "within the delay");
        rig.during(tokio::time::sleep(Duration::from_secs(3))).await;
        ensure!(rig.take_events() == ["not announced"]);
        rig.update([mk_slice("web", &["n1"])]);
        rig.during(tokio::time::sleep(Duration::from_secs(11))).await;
        ensure!(rig.take_events().is_empty(), "the reason is the same");
        rig.update([mk_advertisement("lan", &json!({}))]);
        rig.wait_for_probes().await;
        ensure!(rig.take_events() == ["announcing"]);
        Ok(())
    })
}

#[test]
fn ipv6_address_answers_multicast_and_unicast() -> Result<()> {
    const SIX: &str = "fd00:50::10";
    Lan::run(async |lan, mut rig| {
        lan.client_ip("-6 address add fd00:50::20/64 dev lan0 nodad")?;
        rig.start([
            mk_pool("lan", &["192.168.50.50-192.168.50.99", "fd00:50::/120"]),
            mk_advertisement("lan", &json!({})),
            mk_service("web", &[WEB, SIX], |_| {}),
            mk_slice("web", &["n1"]),
            mk_node("n1"),
            mk_speaker("n1", true),
        ])
        .await;
        let mac = lan::link("lan0").await?.mac.map(|mac| mac.to_string());
        ensure!(rig.during(lan.neighbour(SIX)).await? == mac);
        ensure!(
            rig.during(lan.neighbour("fd00:50::11")).await?.is_none(),
            "not an address of ours"
        );
        ensure!(
            rig.during(lan.answered("lan0", WEB)).await?,
            "IPv4 is not affected"
        );
        ensure!(rig.take_events() == ["announcing", "announcing"]);
        let requests = rig.metric("metallb_layer2_requests_received", SIX);
        ensure!(requests >= Some(2.0) && requests == rig.metric("metallb_layer2_responses_sent", SIX));
        ensure!(rig.metric("metallb_layer2_gratuitous_sent", SIX) >= Some(2.0));

        // Withdrawn, it is forgotten; announced again, the client learns it from unsolicited advertisements.
        rig.update([Update::Slice(key("web-abc"), None)]);
        lan.client_ip(&format!("-6 neigh flush dev lan0 to {SIX}"))?;
        ensure!(rig.during(lan.neighbour(SIX)).await?.is_none(), "withdrawn");
        rig.update([mk_slice("web", &["n1"])]);
        ensure!(rig.during(lan.neighbour(SIX)).await? == mac, "announced again");
        Ok(())
    })
}
