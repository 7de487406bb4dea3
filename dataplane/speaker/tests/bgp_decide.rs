//! Which prefixes a node announces by BGP, and with which attributes.

#[path = "support/bgp_objects.rs"]
mod bgp_objects;
mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use bgp_objects::{mk_bgp_advertisement, mk_community, mk_peer};
use ipnet::IpNet;
use lb_bgp::session::RoutePolicy;
use lb_bgp::table::{AdvertisementId, Table};
use lb_bgp::wire::LargeCommunity;
use lb_runtime::ObjectKey;
use lb_speaker::bgp::configuration::{Configuration, Kind, Update};
use lb_speaker::bgp::decide::{DecisionInput, NotAnnounced, Routes, decide};
use lb_speaker::bgp::objects::Peer;
use lb_speaker::bgp::policy::PeerPolicy;
use lb_speaker::k8s::index::{self, Index};
use proptest::prelude::*;
use serde_json::{Value, json};
use support::{endpoint, from, key, mk_node, mk_node_with, mk_pool, mk_service, mk_slice, mk_slice_of};

struct Cluster {
    index: Index,
    configuration: Configuration,
}

impl Cluster {
    /// A node, the Service `web` with an address of each family, and an advertisement of everything.
    fn new() -> Self {
        let mut cluster = Self {
            index: Index::default(),
            configuration: Configuration::new(),
        };
        cluster.objects([
            mk_node("n1"),
            mk_pool("lan", &["203.0.113.0/24", "2001:db8::/64"]),
            mk_service("web", &["203.0.113.7", "2001:db8::7"], |_| {}),
            mk_slice("web", &["n1", "n2"]),
        ]);
        cluster.configure([mk_bgp_advertisement("all", &json!({}))]);
        cluster.configure(Kind::ALL.map(Update::Synced));
        cluster
    }

    fn objects(&mut self, updates: impl IntoIterator<Item = index::Update>) {
        for update in updates {
            self.index.update(update);
        }
    }

    fn configure(&mut self, updates: impl IntoIterator<Item = Update>) {
        for update in updates {
            self.configuration.update(update);
        }
    }

    fn routes(&self, service: &str) -> Result<Routes, NotAnnounced> {
        let input = DecisionInput {
            local_node: "n1",
            ignore_exclude_label: false,
            has_left: self.index.nodes["n1"].excluded() || self.index.nodes["n1"].out_of_service,
            index: &self.index,
            advertisements: self.configuration.active(),
        };
        decide(&input, &key(service), &self.index.services[&key(service)])
    }

    fn prefixes(&self, service: &str) -> Vec<String> {
        let routes = self.routes(service).unwrap_or_default();
        let prefixes: BTreeSet<_> = routes.iter().map(|(prefix, _)| *prefix).collect();
        prefixes.iter().map(IpNet::to_string).collect()
    }
}

const WEB: [&str; 2] = ["203.0.113.7/32", "2001:db8::7/128"];

#[test]
fn service_is_announced_unless_a_rule_forbids_it() {
    type Change = fn(&mut Cluster);
    let cases: [(Change, Result<(), NotAnnounced>); 14] = [
        (|_| {}, Ok(())),
        (
            |c| c.objects([mk_pool("lan", &["203.0.113.0/24"])]),
            Err(NotAnnounced::NoPool),
        ),
        (
            |c| c.configure([mk_bgp_advertisement("all", &json!({"ipAddressPools": ["other"]}))]),
            Err(NotAnnounced::NoAdvertisement),
        ),
        (
            |c| {
                c.configure([mk_bgp_advertisement(
                    "all",
                    &json!({"nodeSelectors": [{"matchLabels": {"a": "b"}}]}),
                )])
            },
            Err(NotAnnounced::NoAdvertisement),
        ),
        (
            |c| {
                c.configure([mk_bgp_advertisement(
                    "all",
                    &json!({"serviceSelectors": [{"matchLabels": {"app": "web"}}]}),
                )])
            },
            Ok(()),
        ),
        (
            |c| {
                c.configure([mk_bgp_advertisement(
                    "all",
                    &json!({"serviceSelectors": [{"matchLabels": {"app": "x"}}]}),
                )])
            },
            Err(NotAnnounced::NoAdvertisement),
        ),
        (
            |c| c.configure([mk_bgp_advertisement("all", &json!({"communities": ["unknown"]}))]),
            Err(NotAnnounced::NoAdvertisement),
        ),
        (
            |c| {
                c.objects([mk_node_with(
                    "n1",
                    &json!({}),
                    &json!([{"type": "NetworkUnavailable", "status": "True"}]),
                )])
            },
            Err(NotAnnounced::NetworkUnavailable),
        ),
        (
            |c| {
                let label = "node.kubernetes.io/exclude-from-external-load-balancers";
                c.objects([mk_node_with("n1", &json!({label: ""}), &json!([]))]);
            },
            Err(NotAnnounced::Excluded),
        ),
        // Readiness does not matter.
        (
            |c| {
                c.objects([mk_node_with(
                    "n1",
                    &json!({}),
                    &json!([{"type": "Ready", "status": "False"}]),
                )])
            },
            Ok(()),
        ),
        (
            |c| c.objects([mk_slice_of("web", &[endpoint("n1", &json!({"ready": false}))])]),
            Err(NotAnnounced::NoEndpoint),
        ),
        (
            |c| {
                let terminating = json!({"ready": false, "serving": true, "terminating": true});
                c.objects([mk_slice_of("web", &[endpoint("n2", &terminating)])]);
            },
            Ok(()),
        ),
        (
            |c| c.objects([local(), mk_slice("web", &["n2"])]),
            Err(NotAnnounced::NoLocalEndpoint),
        ),
        (|c| c.objects([local(), mk_slice("web", &["n1"])]), Ok(())),
    ];
    for (number, (change, expected)) in cases.into_iter().enumerate() {
        let mut cluster = Cluster::new();
        change(&mut cluster);
        assert_eq!(cluster.routes("web").map(|_| ()), expected, "case {number}");
        let announced: &[&str] = if expected.is_ok() { &WEB } else { &[] };
        assert_eq!(cluster.prefixes("web"), announced, "case {number}");
    }
}

fn local() -> index::Update {
    mk_service("web", &["203.0.113.7", "2001:db8::7"], |object| {
        object["spec"]["externalTrafficPolicy"] = json!("Local");
    })
}

#[test]
fn aggregate_is_not_shorter_than_a_cidr_of_the_pool() {
    for (length, pool, announced) in [
        (24, "203.0.113.0/24", Some("203.0.113.0/24")),
        (26, "203.0.113.0/24", Some("203.0.113.0/26")),
        (23, "203.0.113.0/24", None),
        // Split into CIDRs, of which the greatest is a /29.
        (28, "203.0.113.1-203.0.113.14", None),
        (30, "203.0.113.1-203.0.113.14", Some("203.0.113.4/30")),
        (32, "203.0.113.7-203.0.113.7", Some("203.0.113.7/32")),
    ] {
        let mut cluster = Cluster::new();
        cluster.objects([
            mk_pool("lan", &[pool]),
            mk_service("web", &["203.0.113.7"], |_| {}),
        ]);
        cluster.configure([mk_bgp_advertisement("all", &json!({"aggregationLength": length}))]);
        let expected: Vec<_> = announced.into_iter().collect();
        assert_eq!(cluster.prefixes("web"), expected, "{length} of {pool}");
    }
}

#[test]
fn attributes_of_several_advertisements_are_united() {
    let mut cluster = Cluster::new();
    cluster.configure([
        mk_bgp_advertisement(
            "all",
            &json!({"communities": ["1:1"], "localPref": 300, "asPathPrepend": 1}),
        ),
        mk_bgp_advertisement(
            "b",
            &json!({"communities": ["1:1", "name", "large:1:2:3"], "localPref": 200}),
        ),
        mk_bgp_advertisement("c", &json!({"communities": ["9:9"], "peers": ["another"]})),
        mk_community("names", &json!([{"name": "name", "value": "2:2"}])),
    ]);
    let ids: BTreeSet<_> = cluster
        .routes("web")
        .unwrap()
        .into_iter()
        .map(|(_, id)| id)
        .collect();
    assert_eq!(ids.len(), 3);
    let policy = |peer, internal| PeerPolicy {
        peer,
        local_asn: 65000,
        internal,
        last_resort: false,
        advertisements: cluster.configuration.active(),
    };
    let external = policy("tor", false).attributes(&ids).unwrap();
    assert_eq!(external.communities, BTreeSet::from([0x1_0001, 0x2_0002]));
    assert_eq!(
        external.large_communities,
        BTreeSet::from([LargeCommunity(1, 2, 3)])
    );
    assert_eq!((external.as_path, external.local_pref), (vec![65000; 2], None));
    let internal = policy("another", true).attributes(&ids).unwrap();
    assert!(internal.communities.contains(&0x9_0009));
    assert!(internal.as_path.is_empty());
    assert_eq!(
        internal.local_pref,
        Some(300),
        "of the first advertisement by name"
    );
    let only_c = BTreeSet::from([*ids.last().unwrap()]);
    assert_eq!(
        policy("tor", false).attributes(&only_c),
        None,
        "not for this router"
    );
}

#[test]
fn name_of_a_community_that_is_defined_twice_is_unknown() {
    let mut cluster = Cluster::new();
    let alias = |object: &str| mk_community(object, &json!([{"name": "no-export", "value": "65535:65281"}]));
    cluster.configure([
        mk_bgp_advertisement("all", &json!({"communities": ["no-export"]})),
        alias("one"),
    ]);
    assert_eq!(cluster.prefixes("web"), WEB);
    cluster.configure([alias("two")]);
    assert_eq!(cluster.routes("web"), Err(NotAnnounced::NoAdvertisement));
    cluster.configure([Update::Community("one".to_owned(), None)]);
    assert_eq!(cluster.prefixes("web"), WEB);
}

#[test]
fn invalid_object_affects_itself_only() {
    let mut cluster = Cluster::new();
    cluster.configure([
        mk_bgp_advertisement(
            "bad",
            &json!({"nodeSelectors": [{"matchExpressions": [{"key": "a", "operator": "Near"}]}]}),
        ),
        mk_peer(
            "good",
            &json!({"myASN": 1, "peerASN": 2, "peerAddress": "192.0.2.1"}),
        ),
        mk_peer(
            "bad",
            &json!({"myASN": 1, "peerASN": 2, "peerAddress": "somewhere"}),
        ),
    ]);
    assert_eq!(cluster.prefixes("web"), WEB);
    assert_eq!(cluster.configuration.peers().keys().collect::<Vec<_>>(), ["good"]);
    // An object that cannot be decoded keeps its previous version.
    cluster.configure([Update::Invalid(
        Kind::Advertisements,
        "all".to_owned(),
        "broken".to_owned(),
    )]);
    assert_eq!(cluster.prefixes("web"), WEB);
}

fn peer(spec: &Value) -> Result<Peer, String> {
    let mut object = json!({"metadata": {"name": "tor"}, "spec": {"myASN": 65000, "peerASN": 65001, "peerAddress": "192.0.2.1"}});
    for (field, value) in spec.as_object().into_iter().flatten() {
        object["spec"][field] = value.clone();
    }
    Peer::read(from(object))
}

#[test]
fn timers_of_a_peer_follow_from_each_other() {
    for (spec, hold, keepalive) in [
        (json!({}), 90, 30),
        (json!({"holdTime": "9s"}), 9, 3),
        (json!({"keepaliveTime": "5s"}), 15, 5),
        (json!({"holdTime": "1m30s", "keepaliveTime": "10s"}), 90, 10),
        // As in a sample of MetalLB: without any message, the router would end the session.
        (json!({"holdTime": "9m0s", "keepaliveTime": "0s"}), 540, 180),
        (json!({"holdTime": "0s"}), 0, 0),
    ] {
        let settings = peer(&spec).unwrap().settings;
        assert_eq!(
            (settings.hold_time.as_secs(), settings.keepalive_time.as_secs()),
            (hold, keepalive),
            "{spec}"
        );
    }
}

#[test]
fn invalid_peers_are_refused_with_the_field() {
    for (spec, part) in [
        (json!({"myASN": 0}), "missing local ASN"),
        (json!({"peerASN": 0}), "missing peer ASN"),
        (json!({"dynamicASN": "external"}), "both peer ASN and dynamicASN"),
        (json!({"peerAddress": ""}), "no Address or Interface"),
        (json!({"peerAddress": "tor1"}), "peerAddress"),
        (json!({"peerAddress": "", "interface": "eth0"}), "spec.interface"),
        (json!({"sourceAddress": "x"}), "sourceAddress"),
        (json!({"routerID": "::1"}), "routerID"),
        (json!({"holdTime": "2s"}), "hold time"),
        (json!({"holdTime": "9s", "keepaliveTime": "10s"}), "keepaliveTime"),
        (json!({"connectTime": "soon"}), "connectTime"),
        (json!({"password": "x".repeat(81)}), "password"),
        (json!({"passwordSecret": {"name": "s"}}), "passwordSecret"),
        (
            json!({"nodeSelectors": [{"matchLabels": {"a b": "c"}}]}),
            "nodeSelectors[0]",
        ),
    ] {
        let error = peer(&spec).unwrap_err();
        assert!(error.contains(part), "{spec}: {error}");
    }
    let mapped = peer(&json!({"peerAddress": "::ffff:192.0.2.1", "peerPort": 0})).unwrap();
    assert_eq!(mapped.settings.router.to_string(), "192.0.2.1:179");
    let with_key = peer(&json!({"password": "secret"})).unwrap();
    assert!(
        !format!("{with_key:?}").contains("secret"),
        "no log shows the key"
    );
}

/// A change of the cluster.
#[derive(Clone, Debug)]
enum Step {
    /// A Service with some of its four possible addresses, and whether traffic is local.
    Service(u8, u8, bool),
    /// The nodes with endpoints of a Service.
    Endpoints(u8, u8),
    /// An advertisement: length, communities, peers.
    Advertisement(u8, u8, u8, u8),
    RemoveAdvertisement(u8),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (0..3_u8, 0..16_u8, any::<bool>())
            .prop_map(|(service, addresses, local)| Step::Service(service, addresses, local)),
        (0..3_u8, 0..4_u8).prop_map(|(service, nodes)| Step::Endpoints(service, nodes)),
        (0..3_u8, 0..3_u8, 0..4_u8, 0..3_u8).prop_map(|(name, length, community, peer)| {
            Step::Advertisement(name, length, community, peer)
        }),
        (0..3_u8).prop_map(Step::RemoveAdvertisement),
    ]
}

const ADDRESSES: [&str; 4] = ["203.0.113.7", "203.0.113.8", "203.0.113.200", "2001:db8::7"];

fn apply(cluster: &mut Cluster, step: &Step) -> (Vec<ObjectKey>, Vec<AdvertisementId>) {
    let all = |index: &Index| index.services.keys().cloned().collect::<Vec<_>>();
    match step {
        Step::Service(service, addresses, local) => {
            let chosen = ADDRESSES
                .iter()
                .enumerate()
                .filter(|(bit, _)| addresses & (1 << bit) != 0);
            let chosen: Vec<&str> = chosen.map(|(_, address)| *address).collect();
            let name = format!("s{service}");
            cluster.objects([mk_service(&name, &chosen, |object| {
                if *local {
                    object["spec"]["externalTrafficPolicy"] = json!("Local");
                }
            })]);
            (vec![key(&name)], Vec::new())
        }
        Step::Endpoints(service, nodes) => {
            let name = format!("s{service}");
            let chosen: Vec<_> = ["n1", "n2"].into_iter().enumerate().collect();
            let chosen: Vec<&str> = chosen
                .into_iter()
                .filter(|(bit, _)| nodes & (1 << bit) != 0)
                .map(|(_, node)| node)
                .collect();
            cluster.objects([mk_slice(&name, &chosen)]);
            (vec![key(&name)], Vec::new())
        }
        Step::Advertisement(name, length, community, peer) => {
            let peers: &[&str] = [&[][..], &["tor"], &["other"]][usize::from(*peer)];
            let spec = json!({
                "aggregationLength": 32 - 4 * length,
                "communities": [format!("1:{community}")],
                "peers": peers,
            });
            let changes = cluster
                .configuration
                .update(mk_bgp_advertisement(&format!("a{name}"), &spec));
            (
                if changes.services {
                    all(&cluster.index)
                } else {
                    Vec::new()
                },
                changes.attributes,
            )
        }
        Step::RemoveAdvertisement(name) => {
            let changes = cluster
                .configuration
                .update(Update::Advertisement(format!("a{name}"), None));
            (
                if changes.services {
                    all(&cluster.index)
                } else {
                    Vec::new()
                },
                changes.attributes,
            )
        }
    }
}

proptest! {
    /// A router that follows the changes of the table knows the same as one that computes everything from the objects.
    #[test]
    fn router_knows_what_the_objects_say(steps in proptest::collection::vec(step(), 1..40)) {
        let mut cluster = Cluster::new();
        cluster.configure([Update::Advertisement("all".to_owned(), None)]);
        cluster.objects([index::Update::Service(key("web"), None)]);
        let mut table: Table<ObjectKey> = Table::default();
        let (mut known, mut sent) = (BTreeMap::new(), table.version());
        for step in &steps {
            let (services, advertisements) = apply(&mut cluster, step);
            let routes_of = |service: &ObjectKey| -> Routes {
                let Some(object) = cluster.index.services.get(service) else { return Routes::new() };
                let input = DecisionInput {
                    local_node: "n1",
                    ignore_exclude_label: false,
                    has_left: false,
                    index: &cluster.index,
                    advertisements: cluster.configuration.active(),
                };
                decide(&input, service, object).unwrap_or_default()
            };
            for id in advertisements {
                table.advertisement_changed(id);
            }
            for service in services {
                let routes = routes_of(&service);
                table.set_service(service, routes);
            }
            let policy = PeerPolicy {
                peer: "tor",
                local_asn: 65000,
                internal: false,
                last_resort: false,
                advertisements: cluster.configuration.active(),
            };
            for change in table.changes_since(sent) {
                match policy.attributes(change.advertisements) {
                    Some(attributes) => known.insert(change.prefix, attributes),
                    None => known.remove(&change.prefix),
                };
            }
            sent = table.version();
            table.forget_withdrawals(sent);
            // From nothing.
            let mut sets: BTreeMap<IpNet, BTreeSet<AdvertisementId>> = BTreeMap::new();
            for service in cluster.index.services.keys() {
                for (prefix, id) in routes_of(service) {
                    sets.entry(prefix).or_default().insert(id);
                }
            }
            let expected: BTreeMap<_, _> = sets
                .into_iter()
                .filter_map(|(prefix, set)| Some((prefix, policy.attributes(&set)?)))
                .collect();
            prop_assert_eq!(&known, &expected);
            let counted: usize = lb_bgp::wire::Family::ALL
                .into_iter()
                .map(|family| table.count_prefixes(family, |ids| policy.announces(ids)))
                .sum();
            prop_assert_eq!(counted, expected.len());
            // No foreign address is announced.
            for prefix in known.keys() {
                let inside = |net: &str| net.parse::<IpNet>().unwrap().contains(&prefix.addr());
                prop_assert!(inside("203.0.113.0/24") || inside("2001:db8::/64"));
                prop_assert!(prefix.addr() != IpAddr::from([0, 0, 0, 0]));
            }
        }
    }
}
