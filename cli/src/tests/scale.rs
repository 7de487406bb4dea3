//! The pure part with ten thousand Services.

use std::time::Instant;

use super::fixture::*;
use crate::addresses::{self, Filter};
use crate::cluster::Cluster;
use crate::report::Report;
use crate::status;

/// Loose: a debug build on a busy machine takes about a hundredth of it.
const LIMIT: u128 = 60_000;

#[test]
fn ten_thousand_services_are_explained_in_bounded_time() {
    let mut snapshot = cluster();
    pool(&mut snapshot, "lan", "10.8.0.0/16", "");
    advertisement(&mut snapshot, "all", "");
    for number in 0..10_000_u32 {
        let key = format!("default/s{number}");
        let address = format!("10.8.{}.{}", number / 256, number % 256);
        // Every tenth has no status, every hundredth no address.
        let has = number % 100 != 0;
        service(&mut snapshot, &key, has.then_some(address.as_str()), "", "");
        endpoints(&mut snapshot, &key, &["n1", "n2"]);
        if number % 10 != 0 {
            announced(&mut snapshot, &key, &address, "n1", &verified(true));
        }
    }
    let mut times = Vec::new();
    let start = Instant::now();
    let cluster = Cluster::new(&snapshot);
    times.push(("cluster", start.elapsed().as_millis()));
    let start = Instant::now();
    let listed = addresses::list(&cluster, &Filter::default());
    assert!(listed.text(false).lines().count() > 10_000);
    times.push(("addresses", start.elapsed().as_millis()));
    let start = Instant::now();
    let text = status::status(&cluster).text(false);
    assert!(text.contains("100 without an address"), "{text}");
    times.push(("status", start.elapsed().as_millis()));
    let start = Instant::now();
    assert!(why_text(&snapshot, "default/s100").contains("address"));
    times.push(("why", start.elapsed().as_millis()));
    println!("milliseconds: {times:?}");
    assert!(times.iter().all(|(_, time)| *time < LIMIT), "{times:?}");
}
