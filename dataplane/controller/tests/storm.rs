//! Whatever users do, and however late, lost or refused writes and watches are: no two Services ever show one address,
//! and once everything has calmed down each Service has what it asks for or has been told why not.

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
    Wish(usize, usize),
    Type(usize, bool),
    Delete(usize),
    Pool(usize, Option<(u8, u8)>),
    Decide,
    Answer,
    Fail,
    LoseAnswer,
    Delay,
    LandDelayed,
    Watch(bool),
    Restart,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let service = 0..SERVICES.len();
    let wish = 0..5usize;
    let pool = (0..POOLS.len(), prop::option::weighted(0.8, (0..8u8, 0..5u8)));
    let step = prop_oneof![
        3 => (service.clone(), wish.clone()).prop_map(|(s, w)| Step::Add(s, w)),
        2 => (service.clone(), wish).prop_map(|(s, w)| Step::Wish(s, w)),
        1 => (service.clone(), any::<bool>()).prop_map(|(s, on)| Step::Type(s, on)),
        1 => service.prop_map(Step::Delete),
        2 => pool.prop_map(|(p, range)| Step::Pool(p, range)),
        6 => Just(Step::Decide),
        6 => Just(Step::Answer),
        1 => Just(Step::Fail),
        1 => Just(Step::LoseAnswer),
        1 => Just(Step::Delay),
        1 => Just(Step::LandDelayed),
        1 => any::<bool>().prop_map(Step::Watch),
        1 => Just(Step::Restart),
    ];
    prop::collection::vec(step, 0..80)
}

fn wish(number: usize) -> Value {
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

fn do_step(mut cluster: Cluster, step: &Step) -> Cluster {
    match step {
        Step::Add(s, w) if !cluster.has(&service(SERVICES[*s])) => {
            let (target, object) = mk_service(SERVICES[*s], wish(*w));
            cluster.create(target, object);
        }
        Step::Wish(s, w) if cluster.has(&service(SERVICES[*s])) => {
            cluster.edit(&service(SERVICES[*s]), wish(*w));
        }
        Step::Type(s, on) if cluster.has(&service(SERVICES[*s])) => {
            let kind = if *on { "LoadBalancer" } else { "ClusterIP" };
            cluster.edit(&service(SERVICES[*s]), json!({ "spec": { "type": kind } }));
        }
        Step::Delete(s) if cluster.has(&service(SERVICES[*s])) => cluster.delete(&service(SERVICES[*s])),
        Step::Pool(p, None) if cluster.has(&pool(POOLS[*p])) => cluster.delete(&pool(POOLS[*p])),
        Step::Pool(p, Some((first, len))) => {
            let range = format!("10.0.0.{first}-10.0.0.{}", first + len);
            if cluster.has(&pool(POOLS[*p])) {
                cluster.edit(&pool(POOLS[*p]), json!({ "spec": { "addresses": [range] } }));
            } else {
                let (target, object) = mk_pool(POOLS[*p], &[&range], json!({}));
                cluster.create(target, object);
            }
        }
        Step::Decide => cluster.decide(),
        Step::Answer if !cluster.under_way.is_empty() => cluster.answer(),
        Step::Fail if !cluster.under_way.is_empty() => cluster.fail(),
        Step::LoseAnswer if !cluster.under_way.is_empty() => cluster.lose_answer(),
        Step::Delay if !cluster.under_way.is_empty() => cluster.delay(),
        Step::LandDelayed => cluster.land_delayed(),
        Step::Watch(true) => cluster.catch_up(),
        Step::Watch(false) => cluster.watching = false,
        Step::Restart => return cluster.restarted(),
        _ => {}
    }
    cluster
}

proptest! {
    // Enough to find what is wrong within a few runs; ten times as many were run when this was written.
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn no_two_services_ever_show_one_address_and_all_comes_to_rest(steps in steps()) {
        let mut cluster = Cluster::new([]);
        for step in &steps {
            // Every answered write checks that the address it shows is shown by nobody else.
            cluster = do_step(cluster, step);
        }
        cluster.catch_up();
        cluster.settle();
        cluster.pass(Duration::from_secs(3600));
        cluster.settle();

        let told: BTreeMap<_, _> = SERVICES.iter().map(|name| (*name, cluster.reason(name))).collect();
        for name in SERVICES {
            let Some(object) = cluster.objects.get(&service(name)) else { continue };
            let balancer = object["spec"]["type"] == "LoadBalancer";
            let address = cluster.address(name);
            prop_assert!(balancer || address.is_empty(), "{} shows {}", name, address);
            prop_assert_eq!(address.is_empty(), cluster.pool_of(name).is_empty());
            if balancer && address.is_empty() {
                prop_assert!(told[name].is_some(), "{} waits and was told nothing", name);
            }
        }
        // At rest: a decision about everything changes nothing, nor does another controller.
        let shown: Vec<_> = cluster.objects.clone().into_iter().collect();
        cluster.writes();
        for (target, _) in &shown {
            cluster.edit(target, json!({}));
        }
        cluster.settle();
        prop_assert_eq!(cluster.writes(), Vec::<String>::new());
        let mut cluster = cluster.restarted();
        cluster.settle();
        prop_assert_eq!(cluster.writes(), Vec::<String>::new(), "a restart writes nothing");
    }
}
