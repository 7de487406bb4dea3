//! Log lines of a replica that does not lead.

mod support;

use std::time::{Duration, Instant};

use lb_controller::standby::Standby;
use serde_json::json;
use support::{Cluster, mk_pool, mk_service};

fn check(standby: &mut Standby, cluster: &Cluster, now: &mut Instant) -> Vec<String> {
    standby.changed(*now);
    *now += Duration::from_secs(3);
    standby
        .poll_events(&cluster.index, *now, jiff::Timestamp::UNIX_EPOCH)
        .iter()
        .map(|event| format!("{} {}", event.text().reason.as_str(), event.text().note))
        .collect()
}

#[test]
fn logs_assignments_and_rejections_once() {
    let mut now = Instant::now();
    let mut standby = Standby::default();
    let mut cluster = Cluster::new([
        mk_pool("tiny", &["10.0.0.1-10.0.0.2"], json!({})),
        mk_service("before", json!({})),
    ]);
    cluster.settle();
    assert_eq!(
        check(&mut standby, &cluster, &mut now),
        Vec::<String>::new(),
        "previous addresses are not logged"
    );

    cluster.add(mk_service("second", json!({})));
    cluster.settle();
    cluster.add(mk_service("third", json!({})));
    cluster.settle();
    let logged = check(&mut standby, &cluster, &mut now);
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
        check(&mut standby, &cluster, &mut now),
        Vec::<String>::new(),
        "nothing is logged twice"
    );
}

#[test]
fn pending_assignment_is_not_logged() {
    let mut now = Instant::now();
    let mut standby = Standby::default();
    let mut cluster = Cluster::new([mk_pool("pool", &["10.0.0.0/28"], json!({}))]);
    cluster.settle();
    cluster.add(mk_service("new", json!({})));
    assert_eq!(check(&mut standby, &cluster, &mut now), Vec::<String>::new());
}

#[test]
fn check_is_delayed_but_not_postponed() {
    let now = Instant::now();
    let mut standby = Standby::default();
    assert_eq!(standby.poll_timeout(), None);
    standby.changed(now);
    standby.changed(now + Duration::from_secs(1));
    let due = standby.poll_timeout().expect("a check is due");
    assert!(due > now, "not at once");
    assert!(
        due <= now + Duration::from_secs(2),
        "a stream of changes does not postpone it"
    );
}
