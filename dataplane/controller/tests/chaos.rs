//! Random actions of users with late, lost and rejected writes and watches: no two Services ever show the same address,
//! and at the end each Service has its requested address or a reported rejection.

mod support;

use std::collections::BTreeMap;
use std::time::Duration;

use proptest::prelude::*;
use serde_json::{Value, json};
use support::{Cluster, annotated, mk_pool, mk_service, pool, service};

const SERVICES: [&str; 5] = ["a", "b", "c", "d", "e"];
const POOLS: [&str; 2] = ["p", "q"];

#[derive(Clone, Debug)]
enum Step {
    Add(usize, usize),
    AddressRequest(usize, usize),
    Families(usize, usize),
    Type(usize, bool),
    Delete(usize),
    Pool(usize, Option<Draft>),
    Decide,
    Answer,
    Fail,
    LoseAnswer,
    Delay,
    LandDelayed,
    Watch(bool),
    Announce(usize, usize),
    Withdraw(usize),
    Restart,
}

/// The random properties of a pool.
#[derive(Clone, Debug)]
struct Draft {
    v4: (u8, u8),
    v6: Option<(u8, u8)>,
    annotations: usize,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let service = 0..SERVICES.len();
    let request = 0..5usize;
    let v6 = prop::option::weighted(0.5, (0..8u8, 0..5u8));
    let draft =
        ((0..8u8, 0..5u8), v6, 0..5usize).prop_map(|(v4, v6, annotations)| Draft { v4, v6, annotations });
    let pool = (0..POOLS.len(), prop::option::weighted(0.8, draft));
    let step = prop_oneof![
        3 => (service.clone(), request.clone()).prop_map(|(s, w)| Step::Add(s, w)),
        2 => (service.clone(), request).prop_map(|(s, w)| Step::AddressRequest(s, w)),
        2 => (service.clone(), 0..4usize).prop_map(|(s, f)| Step::Families(s, f)),
        1 => (service.clone(), any::<bool>()).prop_map(|(s, on)| Step::Type(s, on)),
        1 => service.clone().prop_map(Step::Delete),
        2 => pool.prop_map(|(p, draft)| Step::Pool(p, draft)),
        6 => Just(Step::Decide),
        6 => Just(Step::Answer),
        1 => Just(Step::Fail),
        1 => Just(Step::LoseAnswer),
        1 => Just(Step::Delay),
        1 => Just(Step::LandDelayed),
        1 => any::<bool>().prop_map(Step::Watch),
        2 => (service.clone(), 0..2usize).prop_map(|(s, n)| Step::Announce(s, n)),
        1 => service.prop_map(Step::Withdraw),
        1 => Just(Step::Restart),
    ];
    prop::collection::vec(step, 0..80)
}

fn request(number: usize) -> Value {
    let address = |last: u8| annotated(&[("metallb.io/loadBalancerIPs", &format!("10.0.0.{last}"))]);
    match number {
        0 => address(2),
        1 => address(3),
        2 => annotated(&[("metallb.io/address-pool", "p")]),
        3 => annotated(&[("metallb.io/loadBalancerIPs", "nonsense")]),
        _ => json!({ "metadata": { "annotations": {
            "metallb.io/loadBalancerIPs": null,
            "metallb.io/address-pool": null,
        } } }),
    }
}

fn families(number: usize) -> Value {
    let spec =
        |policy: &str, ips: &[&str]| json!({ "spec": { "ipFamilyPolicy": policy, "clusterIPs": ips } });
    match number {
        0 => spec("SingleStack", &["10.96.0.9"]),
        1 => spec("SingleStack", &["fd00:96::9"]),
        2 => spec("PreferDualStack", &["10.96.0.9", "fd00:96::9"]),
        _ => spec("RequireDualStack", &["fd00:96::9", "10.96.0.9"]),
    }
}

fn pool_patch(draft: &Draft) -> Value {
    let (first, len) = draft.v4;
    let v4 = format!("10.0.0.{first}-10.0.0.{}", first + len);
    let v6 = draft
        .v6
        .map(|(first, len)| format!("fd00::{first}-fd00::{}", first + len));
    let addresses: Vec<_> = [v4].into_iter().chain(v6).collect();
    let annotations = match draft.annotations {
        0 => json!({ "lb-operator.io/hold-down": "5s" }),
        1 => json!({ "lb-operator.io/allocation-strategy": "leastRecentlyUsed" }),
        2 => json!({ "lb-operator.io/namespace-quota": "1" }),
        3 => json!({ "lb-operator.io/excluded-addresses": "10.0.0.3/32" }),
        _ => json!({ "lb-operator.io/hold-down": null }),
    };
    json!({ "metadata": { "annotations": annotations }, "spec": { "addresses": addresses } })
}

fn do_step(mut cluster: Cluster, step: &Step) -> Cluster {
    match step {
        Step::Add(s, w) if !cluster.has(&service(SERVICES[*s])) => {
            let (target, object) = mk_service(SERVICES[*s], request(*w));
            cluster.create(target, object);
        }
        Step::AddressRequest(s, w) if cluster.has(&service(SERVICES[*s])) => {
            cluster.edit(&service(SERVICES[*s]), request(*w));
        }
        Step::Families(s, f) if cluster.has(&service(SERVICES[*s])) => {
            cluster.edit(&service(SERVICES[*s]), families(*f));
        }
        Step::Type(s, on) if cluster.has(&service(SERVICES[*s])) => {
            let kind = if *on { "LoadBalancer" } else { "ClusterIP" };
            cluster.edit(&service(SERVICES[*s]), json!({ "spec": { "type": kind } }));
        }
        Step::Delete(s) if cluster.has(&service(SERVICES[*s])) => cluster.delete(&service(SERVICES[*s])),
        Step::Pool(p, None) if cluster.has(&pool(POOLS[*p])) => cluster.delete(&pool(POOLS[*p])),
        Step::Pool(p, Some(draft)) => {
            if cluster.has(&pool(POOLS[*p])) {
                cluster.edit(&pool(POOLS[*p]), pool_patch(draft));
            } else {
                let (target, object) = mk_pool(POOLS[*p], &[], pool_patch(draft));
                cluster.create(target, object);
            }
        }
        Step::Decide => cluster.decide(),
        Step::Answer if !cluster.in_flight.is_empty() => cluster.answer(),
        Step::Fail if !cluster.in_flight.is_empty() => cluster.fail(),
        Step::LoseAnswer if !cluster.in_flight.is_empty() => cluster.lose_answer(),
        Step::Delay if !cluster.in_flight.is_empty() => cluster.delay(),
        Step::LandDelayed => cluster.land_delayed(),
        Step::Watch(true) => cluster.catch_up(),
        Step::Watch(false) => cluster.watching = false,
        Step::Announce(s, n) if cluster.has(&service(SERVICES[*s])) => {
            let address = cluster.addresses(SERVICES[*s]);
            let first = address.split(',').next().unwrap_or_default();
            cluster.announce(SERVICES[*s], json!({ "node": format!("n{n}"), "address": first }));
        }
        Step::Withdraw(s) => cluster.withdraw(SERVICES[*s]),
        Step::Restart => return cluster.restarted(),
        _ => {}
    }
    cluster
}

proptest! {
    // Enough to find errors within a few runs; ten times as many were run when this was written.
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn addresses_stay_unique_and_the_cluster_converges(steps in steps()) {
        let mut cluster = Cluster::new([]);
        cluster.list_announcers();
        for step in &steps {
            // Every stored write asserts that no other Service shows its address.
            cluster = do_step(cluster, step);
        }
        cluster.catch_up();
        cluster.settle();
        cluster.pass(Duration::from_secs(3600));
        cluster.settle();

        let rejections: BTreeMap<_, _> = SERVICES.iter().map(|name| (*name, cluster.reason(name))).collect();
        for name in SERVICES {
            let Some(object) = cluster.objects.get(&service(name)) else { continue };
            let balancer = object["spec"]["type"] == "LoadBalancer";
            let address = cluster.address(name);
            prop_assert!(balancer || address.is_empty(), "{} shows {}", name, address);
            prop_assert_eq!(address.is_empty(), cluster.pool_of(name).is_empty());
            if balancer && address.is_empty() {
                prop_assert!(rejections[name].is_some(), "{} waits without a rejection", name);
            }
            let conditions = object["status"]["conditions"].as_array().cloned().unwrap_or_default();
            let announced = cluster.announcement(name);
            prop_assert!(announced.is_none() || !address.is_empty(), "Announced without an address");
            prop_assert_eq!(conditions.len(), usize::from(balancer) + usize::from(announced.is_some()));
            if balancer {
                let assigned = |condition: &&Value| condition["type"] == "lb-operator.io/AddressAssigned";
                let satisfied = conditions.iter().find(assigned).is_some_and(|it| it["status"] == "True");
                let incomplete = object["spec"]["ipFamilyPolicy"] == "PreferDualStack";
                prop_assert!(satisfied == rejections[name].is_none() || (satisfied && incomplete));
            }
        }
        // A decision about everything moves no address. A waiting Service may have another of several rejections, once.
        let targets: Vec<_> = cluster.objects.keys().cloned().collect();
        let addresses = |cluster: &Cluster| {
            let here = SERVICES.into_iter().filter(|name| cluster.has(&service(name)));
            here.map(|name| (name, cluster.addresses(name))).collect::<Vec<_>>()
        };
        let before = addresses(&cluster);
        for round in 0..2 {
            cluster.writes();
            for target in &targets {
                cluster.edit(target, json!({}));
            }
            cluster.settle();
            prop_assert_eq!(addresses(&cluster), before.clone());
            prop_assert!(round == 0 || cluster.writes().is_empty());
        }
        // Another controller changes nothing, either.
        let mut cluster = cluster.restarted();
        cluster.settle();
        prop_assert_eq!(cluster.writes(), Vec::<String>::new(), "a restart writes nothing");
    }
}
