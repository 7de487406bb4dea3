//! What a replica that does not lead logs.

mod support;

use std::time::{Duration, Instant};

use lb_controller::standby::Standby;
use serde_json::json;
use support::{Cluster, mk_pool, mk_service};

fn look(standby: &mut Standby, cluster: &Cluster, now: &mut Instant) -> Vec<String> {
    standby.changed(*now);
    *now += Duration::from_secs(3);
    standby
        .look(&cluster.index, *now, jiff::Timestamp::UNIX_EPOCH)
        .iter()
        .map(|report| format!("{} {}", report.event().reason, report.event().note))
        .collect()
}

#[test]
fn it_logs_what_comes_about_and_why_others_wait_once_each() {
    let mut now = Instant::now();
    let mut standby = Standby::default();
    let mut cluster = Cluster::new([
        mk_pool("tiny", &["10.0.0.1-10.0.0.2"], json!({})),
        mk_service("before", json!({})),
    ]);
    cluster.settle();
    assert_eq!(
        look(&mut standby, &cluster, &mut now),
        Vec::<String>::new(),
        "what was there is no news"
    );

    cluster.add(mk_service("second", json!({})));
    cluster.settle();
    cluster.add(mk_service("third", json!({})));
    cluster.settle();
    let logged = look(&mut standby, &cluster, &mut now);
    assert_eq!(logged.len(), 2, "{logged:?}");
    assert!(
        logged[0].starts_with("IPAllocated") && logged[0].contains("10.0.0.2"),
        "{logged:?}"
    );
    assert!(
        logged[1].starts_with("AllocationFailed") && logged[1].contains("default/third"),
        "{logged:?}"
    );
    assert_eq!(
        look(&mut standby, &cluster, &mut now),
        Vec::<String>::new(),
        "nothing twice"
    );
}

#[test]
fn what_the_leader_is_about_to_assign_is_no_trouble() {
    let mut now = Instant::now();
    let mut standby = Standby::default();
    let mut cluster = Cluster::new([mk_pool("pool", &["10.0.0.0/28"], json!({}))]);
    cluster.settle();
    cluster.add(mk_service("new", json!({})));
    assert_eq!(look(&mut standby, &cluster, &mut now), Vec::<String>::new());
}

#[test]
fn it_waits_for_a_moment_of_quiet() {
    let now = Instant::now();
    let mut standby = Standby::default();
    assert_eq!(standby.poll_timeout(), None);
    standby.changed(now);
    standby.changed(now + Duration::from_secs(1));
    let due = standby.poll_timeout().expect("a look is due");
    assert!(due > now, "not at once");
    assert!(
        due <= now + Duration::from_secs(2),
        "a stream of changes does not put it off for ever"
    );
}
