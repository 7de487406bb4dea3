//! The speaker on a real Ethernet segment: what a client sees, for what the API says. Needs root and `arping`.

#[path = "support/lan.rs"]
mod lan;
mod support;

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use lan::Lan;
use lb_l2::MacAddr;
use lb_l2::ownership::failure_detector::FailureDetectorConfig;
use lb_l2::ownership::{
    ApiState, Candidates, ConflictPolicy, Coordinator, CoordinatorConfig, NodeInfo, PartitionPolicy,
};
use lb_l2::wire::arp::{ArpFrame, ArpOperation};
use lb_speaker::k8s::index::{Kind, Update};
use serde_json::json;
use support::{
    WEB, cluster, key, mk_advertisement, mk_node, mk_node_at, mk_node_with, mk_pool, mk_service, mk_slice,
    mk_speaker, mk_status,
};

/// An address whose order of nodes is n3, n1, n2.
const BEHIND_N3: &str = "192.168.50.50";

/// Longer than the first four bursts of a series, shorter than the grace of a restarting speaker.
const SOME_BURSTS: Duration = Duration::from_millis(1500);

#[test]
fn the_owner_is_heard_and_answers_until_it_withdraws() -> Result<()> {
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
        ensure!(rig.told() == ["announcing"]);
        ensure!(rig.metric("metallb_speaker_announced", "default/web") == Some(1.0));
        let requests = rig.metric("metallb_layer2_requests_received", WEB);
        ensure!(requests >= Some(1.0) && requests == rig.metric("metallb_layer2_responses_sent", WEB));
        ensure!(rig.metric("metallb_layer2_gratuitous_sent", WEB) >= Some(4.0));

        rig.tell([Update::Slice(key("web-abc"), None)]);
        ensure!(!rig.during(lan.answered("lan0", WEB)).await?, "withdrawn");
        ensure!(rig.metric("metallb_speaker_announced", "default/web").is_none());
        ensure!(rig.told().is_empty());

        rig.tell([mk_slice("web", &["n2"])]);
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
fn nothing_is_announced_before_everything_has_been_listed() -> Result<()> {
    Lan::run(async |lan, mut rig| {
        rig.tell(cluster());
        for kind in Kind::ALL {
            if kind != Kind::Speakers {
                rig.tell([Update::Synced(kind)]);
            }
        }
        ensure!(!rig.during(lan.answered("lan0", WEB)).await?);
        ensure!(rig.during(lan.heard(WEB, Duration::from_millis(500))).await? == 0);
        rig.tell([Update::Synced(Kind::Speakers)]);
        rig.probed().await;
        rig.probed().await;
        ensure!(rig.during(lan.answered("lan0", WEB)).await?);
        Ok(())
    })
}

#[test]
fn a_restarted_speaker_goes_on_without_an_event_and_is_heard_once_more() -> Result<()> {
    Lan::run(async |lan, mut rig| {
        rig.tell(cluster().into_iter().chain([mk_status("web", "n1")]));
        rig.tell(Kind::ALL.map(Update::Synced));
        ensure!(rig.during(lan.heard(WEB, SOME_BURSTS)).await? >= 3);
        ensure!(rig.during(lan.answered("lan0", WEB)).await?);
        ensure!(rig.told().is_empty(), "no change of owner");
        // One that another node owned before is news.
        rig.tell([
            mk_status("dns", "n2"),
            mk_service("dns", &["192.168.50.53"], |_| {}),
            mk_slice("dns", &["n1"]),
        ]);
        rig.probed().await;
        ensure!(rig.during(lan.answered("lan0", "192.168.50.53")).await?);
        ensure!(rig.told() == ["announcing"]);
        Ok(())
    })
}

#[test]
fn a_record_speaks_for_the_address_that_it_names_and_for_no_other() -> Result<()> {
    Lan::run(async |lan, mut rig| {
        let web = mk_service("web", &[WEB, BEHIND_N3], |_| {});
        rig.tell(cluster().into_iter().chain([web, mk_status("web", "n1")]));
        rig.tell(Kind::ALL.map(Update::Synced));
        ensure!(
            rig.during(lan.heard(BEHIND_N3, SOME_BURSTS)).await? == 0,
            "n3 has it"
        );
        ensure!(rig.during(lan.answered("lan0", WEB)).await?);
        ensure!(!rig.during(lan.answered("lan0", BEHIND_N3)).await?);
        Ok(())
    })
}

#[test]
fn an_address_that_somebody_has_is_not_taken_unless_that_is_a_stranger() -> Result<()> {
    Lan::run(async |lan, mut rig| {
        lan.client_ip(&format!("address add {WEB}/32 dev lan0"))?;
        rig.start(cluster()).await;
        // A stranger is told once it is clear that it is no node, and MetalLB would not have noticed it either.
        rig.during(tokio::time::sleep(Duration::from_millis(1500))).await;
        let mut told = rig.told();
        told.sort_unstable();
        ensure!(told == ["announcing", "conflict"], "{told:?}");
        ensure!(rig.metric("lb_speaker_address_conflict", WEB) == Some(1.0));
        Ok(())
    })
}

#[test]
fn without_heartbeats_the_api_says_who_lives() -> Result<()> {
    Lan::run(async |lan, mut rig| {
        let web = mk_service("web", &[BEHIND_N3], |_| {});
        rig.start(cluster().into_iter().chain([web])).await;
        ensure!(!rig.during(lan.answered("lan0", BEHIND_N3)).await?, "n3 owns it");

        // A rolling restart of n3's speaker.
        rig.tell([Update::Speaker("speaker-n3".to_owned(), None)]);
        ensure!(
            !rig.during(lan.answered("lan0", BEHIND_N3)).await?,
            "held for its owner"
        );
        rig.tell([mk_speaker("n3", false)]);
        ensure!(!rig.during(lan.answered("lan0", BEHIND_N3)).await?, "still held");
        rig.tell([mk_speaker("n3", true)]);

        // The node dies.
        let unknown = json!([{"type": "Ready", "status": "Unknown"}]);
        rig.tell([mk_node_with("n3", &json!({}), &unknown), mk_speaker("n3", false)]);
        rig.probed().await;
        ensure!(rig.during(lan.answered("lan0", BEHIND_N3)).await?, "taken over");
        ensure!(rig.told() == ["announcing"]);

        // It comes back, and takes nothing back.
        rig.tell([support::mk_node("n3"), mk_speaker("n3", true)]);
        ensure!(rig.during(lan.answered("lan0", BEHIND_N3)).await?, "it stays");
        Ok(())
    })
}

/// On a node where pods come and go, and their interfaces with them.
#[test]
fn an_owner_that_restarts_is_stood_in_for_also_where_links_have_changed_just_before() -> Result<()> {
    Lan::run(async |lan, mut rig| {
        let n3 = mk_node_at("n3", lan::CLIENT.into());
        let web = mk_service("web", &[BEHIND_N3], |_| {});
        let address = BEHIND_N3.parse()?;
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
        let [n1, n3_itself] = ["n1", "n3"].map(|name| NodeInfo {
            name,
            api: ApiState::Ready,
            on_link: true,
        });
        peer.set_nodes(now, [n1, n3_itself]);
        let candidates = Candidates {
            order: &["n3", "n1"],
            no_interface: false,
            preferred: None,
        };
        peer.set_candidates(address, Some(candidates));
        peer.start(now);
        rig.peer = Some(peer);
        rig.start(cluster().into_iter().chain([n3, web])).await;
        ensure!(rig.peer.as_ref().is_some_and(|peer| peer.announces(address)));
        ensure!(!rig.during(lan.answered("lan0", BEHIND_N3)).await?, "n3 has it");

        lan.node_ip("link add pod0 type veth peer name pod1")?;
        rig.probed().await;
        if let Some(peer) = &mut rig.peer {
            peer.prepare_restart(Instant::now());
        }
        rig.probed().await;
        rig.peer = None;
        ensure!(
            rig.during(lan.answered("lan0", BEHIND_N3)).await?,
            "in the place of n3"
        );
        ensure!(rig.told().is_empty(), "it is n3's all the same");
        Ok(())
    })
}

#[test]
fn a_link_that_comes_back_is_announced_on_again_and_answered() -> Result<()> {
    Lan::run(async |lan, mut rig| {
        rig.start(cluster()).await;
        ensure!(rig.during(lan.answered("lan0", WEB)).await?);
        // The end of the first series of bursts.
        rig.during(tokio::time::sleep(Duration::from_secs(5))).await;
        lan.client_ip("link set lan0 down")?;
        rig.during(tokio::time::sleep(Duration::from_millis(1500))).await;
        ensure!(rig.record("web").is_none(), "this node has no interface for it");
        lan.client_ip("link set lan0 up")?;
        let heard = rig.during(lan.heard(WEB, 2 * SOME_BURSTS)).await?;
        ensure!(heard >= 2, "{heard}");
        ensure!(rig.during(lan.answered("lan0", WEB)).await?);
        ensure!(rig.told().last() == Some(&"announcing"));
        Ok(())
    })
}

#[test]
fn only_the_interfaces_that_the_advertisement_names_are_announced_on() -> Result<()> {
    Lan::run(async |lan, mut rig| {
        let only = |names: &[&str]| mk_advertisement("lan", &json!({"interfaces": names}));
        rig.start(cluster().into_iter().chain([only(&["lan1"])])).await;
        ensure!(!rig.during(lan.answered("lan0", WEB)).await?);
        ensure!(rig.during(lan.answered("lan1", WEB)).await?);
        ensure!(rig.record("web").map(|says| says.interfaces) == Some(["lan1".into()].into()));
        rig.tell([only(&["lan0"])]);
        ensure!(rig.during(lan.answered("lan0", WEB)).await?);
        ensure!(!rig.during(lan.answered("lan1", WEB)).await?);
        rig.tell([only(&[])]);
        ensure!(
            rig.during(lan.answered("lan0", WEB)).await? && !rig.during(lan.answered("lan1", WEB)).await?
        );
        ensure!(rig.record("web").map(|says| says.interfaces) == Some(Box::default()));
        ensure!(rig.told() == ["announcing"]);
        Ok(())
    })
}

#[test]
fn when_one_interface_goes_the_address_is_announced_again_on_the_others() -> Result<()> {
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
        rig.tell([only(&["lan0"])]);
        let heard = rig.during(lan.heard(WEB, SOME_BURSTS)).await?;
        ensure!(heard >= 2, "it is not advertised there any more: {heard}");
        ensure!(rig.told() == ["announcing"]);
        Ok(())
    })
}

#[test]
fn a_missing_interface_is_told_once_and_served_when_it_appears() -> Result<()> {
    Lan::run(async |lan, mut rig| {
        let late = mk_advertisement("lan", &json!({"interfaces": ["late0"]}));
        rig.start(cluster().into_iter().chain([late])).await;
        rig.during(tokio::time::sleep(Duration::from_millis(2500))).await;
        ensure!(rig.told() == ["no interface"]);
        ensure!(rig.record("web").is_none(), "nothing is announced");
        rig.tell([mk_slice("web", &["n1"])]);
        rig.during(tokio::time::sleep(Duration::from_millis(200))).await;
        ensure!(rig.told().is_empty());
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
        ensure!(rig.told() == ["announcing"]);
        ensure!(rig.record("web").is_some());
        Ok(())
    })
}

#[test]
fn malformed_and_foreign_frames_are_counted_and_not_answered() -> Result<()> {
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
            rig.told() == ["announcing"],
            "it may be a node, and does not answer"
        );
        rig.during(lan.send(gratuitous.encode().to_vec())).await?;
        rig.during(tokio::time::sleep(Duration::from_millis(200))).await;
        ensure!(rig.metric("lb_speaker_conflicts_total", WEB) == Some(1.0));
        ensure!(rig.told() == ["conflict"]);
        let record = rig.record("web").context("a status to write")?;
        let conflict = record.health.conflict.context("a conflict")?;
        ensure!(conflict.mac == MacAddr([2, 0, 0, 0, 0, 9]) && record.address.to_string() == WEB);
        ensure!(rig.metric("metallb_layer2_responses_sent", WEB) == Some(0.0));
        ensure!(rig.during(lan.answered("lan0", WEB)).await?);
        Ok(())
    })
}

#[test]
fn what_nobody_announces_is_told_once_after_a_while() -> Result<()> {
    Lan::run(async |_lan, mut rig| {
        rig.start(
            cluster()
                .into_iter()
                .chain([Update::Advertisement("lan".to_owned(), None)]),
        )
        .await;
        rig.during(tokio::time::sleep(Duration::from_secs(8))).await;
        ensure!(rig.told().is_empty(), "it may be on its way");
        rig.during(tokio::time::sleep(Duration::from_secs(3))).await;
        ensure!(rig.told() == ["not announced"]);
        rig.tell([mk_slice("web", &["n1"])]);
        rig.during(tokio::time::sleep(Duration::from_secs(11))).await;
        ensure!(rig.told().is_empty(), "the reason is the same");
        rig.tell([mk_advertisement("lan", &json!({}))]);
        rig.probed().await;
        ensure!(rig.told() == ["announcing"]);
        Ok(())
    })
}

#[test]
fn an_ipv6_address_is_answered_for_to_its_group_and_to_the_owner_itself() -> Result<()> {
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
            "nor does IPv4 suffer"
        );
        ensure!(rig.told() == ["announcing", "announcing"]);
        let requests = rig.metric("metallb_layer2_requests_received", SIX);
        ensure!(requests >= Some(2.0) && requests == rig.metric("metallb_layer2_responses_sent", SIX));
        ensure!(rig.metric("metallb_layer2_gratuitous_sent", SIX) >= Some(2.0));

        // Withdrawn, it is forgotten; announced again, the client learns it from the advertisements to all.
        rig.tell([Update::Slice(key("web-abc"), None)]);
        lan.client_ip(&format!("-6 neigh flush dev lan0 to {SIX}"))?;
        ensure!(rig.during(lan.neighbour(SIX)).await?.is_none(), "withdrawn");
        rig.tell([mk_slice("web", &["n1"])]);
        ensure!(rig.during(lan.neighbour(SIX)).await? == mac, "announced again");
        Ok(())
    })
}
