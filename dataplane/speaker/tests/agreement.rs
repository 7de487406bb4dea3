//! Three speakers that hear the same news, each in its own order and at its own time, agree in the end.

#![allow(clippy::expect_used, reason = "a helper of a test fails the test")]

mod support;

use std::collections::BTreeMap;
use std::time::Duration;

use lb_speaker::decide::{Decision, View, decide};
use lb_speaker::index::Update;
use proptest::prelude::*;
use serde_json::json;
use support::{
    GRACE, WEB, World, cluster, mk_advertisement, mk_node_with, mk_service, mk_slice, mk_speaker, mk_status,
};

const NODES: [&str; 3] = ["n1", "n2", "n3"];

/// News of the API, by the watch that brings it: what one watch brings is in order, two watches are not.
type News = (usize, Update);

fn news() -> impl Strategy<Value = News> {
    let node = || prop::sample::select(&NODES[..]);
    let some = || prop::sample::subsequence(&NODES[..], 0..=3);
    prop_oneof![
        4 => (node(), any::<bool>()).prop_map(|(node, ready)| (0, mk_speaker(node, ready))),
        2 => node().prop_map(|node| (0, Update::Speaker(format!("speaker-{node}"), None))),
        4 => (node(), any::<bool>(), any::<bool>()).prop_map(|(node, ready, excluded)| {
            let label = "node.kubernetes.io/exclude-from-external-load-balancers";
            let labels = if excluded { json!({label: ""}) } else { json!({}) };
            let status = if ready { "True" } else { "Unknown" };
            (1, mk_node_with(node, &labels, &json!([{"type": "Ready", "status": status}])))
        }),
        1 => node().prop_map(|node| (1, Update::Node(node.to_owned(), None))),
        2 => some().prop_map(|nodes| (2, mk_slice("web", &nodes))),
        1 => any::<bool>().prop_map(|local| {
            let policy = if local { "Local" } else { "Cluster" };
            (3, mk_service("web", &[WEB], |object| object["spec"]["externalTrafficPolicy"] = json!(policy)))
        }),
        1 => node().prop_map(|node| (4, mk_status("web", node))),
        1 => any::<bool>().prop_map(|there| {
            let gone = Update::Advertisement("lan".to_owned(), None);
            (5, if there { mk_advertisement("lan", &json!({})) } else { gone })
        }),
    ]
}

/// Delivers the news: each number picks the watch that speaks next, and how much time passes before.
fn deliver(world: &mut World, news: &[News], order: &[(usize, u16)]) {
    let mut watches: BTreeMap<usize, Vec<&Update>> = BTreeMap::new();
    for (watch, update) in news.iter().rev() {
        watches.entry(*watch).or_default().push(update);
    }
    for (pick, pause) in order.iter().cycle().take(news.len()) {
        world.pass(Duration::from_millis(u64::from(*pause)));
        let count = watches.len();
        if let Some(watch) = watches.keys().nth(pick % count).copied()
            && let Some(waiting) = watches.get_mut(&watch)
        {
            if let Some(update) = waiting.pop() {
                world.tell(update.clone());
            }
            if waiting.is_empty() {
                watches.remove(&watch);
            }
        }
    }
    world.pass(2 * GRACE);
}

fn owns(world: &World, me: &str) -> bool {
    let view = View {
        me,
        index: &world.index,
        members: world.peers.members(),
        standing: world.peers.standing(),
        ignore_exclude_label: false,
    };
    matches!(decide(&view, WEB.parse().expect("an address")), Decision::Mine(_))
}

proptest! {
    #[test]
    fn once_the_news_is_through_there_is_one_owner_if_any_ready_node_may_announce(
        news in prop::collection::vec(news(), 0..40),
        order in prop::collection::vec(prop::collection::vec((any::<usize>(), 0..4000_u16), 1..20), 3),
    ) {
        let mut owners = Vec::new();
        for (me, order) in NODES.iter().zip(&order) {
            let mut world = World::new(cluster());
            world.see_as(me);
            deliver(&mut world, &news, order);
            if owns(&world, me) {
                owners.push(*me);
            }
        }
        // What a node would decide that is none of the three, and so sees only what the API says in the end.
        let mut world = World::new(cluster());
        world.see_as("stranger");
        deliver(&mut world, &news, &[(0, 0)]);
        let view = View {
            me: "stranger",
            index: &world.index,
            members: world.peers.members(),
            standing: world.peers.standing(),
            ignore_exclude_label: false,
        };
        match decide(&view, WEB.parse().expect("an address")) {
            Decision::Other { owner, .. } => prop_assert_eq!(owners, [owner.as_str()]),
            // No ready node may: whoever may and is not ready goes on for lack of another.
            Decision::Nobody { .. } | Decision::Unused => {}
            Decision::Mine(_) => prop_assert!(false, "a stranger owns nothing"),
        }
    }
}
