//! The cost of changes of the cluster for a speaker, at 1,000 nodes and 10,000 addresses: CPU time and decisions per change, and the
//! memory. No cluster is needed. As root the speaker announces on a link of a network namespace, otherwise on none.
//!
//! ```text
//! cargo run -p lb-speaker --example scale --config profile.dev.package.lb-speaker.opt-level=2 [nodes] [addresses]
//! ```

#![allow(clippy::print_stdout, reason = "it prints a table")]

#[path = "../tests/support/fleet.rs"]
mod fleet;

use std::time::Duration;

use anyhow::{Context, Result};
use fleet::{Fleet, address, link, name, node, own_link, slice, speaker_pod};
use lb_speaker::k8s::index::Update;

/// How often each change is made; the table shows the mean.
const REPEATS: u32 = 10;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let mut numbers = std::env::args().skip(1).map(|text| text.parse::<usize>());
    let nodes = numbers.next().transpose()?.unwrap_or(1_000);
    let addresses = numbers.next().transpose()?.unwrap_or(10_000);
    let links = own_link().await?;
    println!("{nodes} nodes, {addresses} addresses, {} link(s)\n", links.len());
    println!("| change | CPU ms | decisions | datagrams |");
    println!("| --- | ---: | ---: | ---: |");

    let objects = Fleet::objects(nodes, addresses);
    let before = resident("VmRSS")?;
    let mut fleet = Fleet::new(nodes, links);
    let start = cpu()?;
    fleet.start(objects);
    let took = (cpu()? - start).as_secs_f64() * 1e3;
    println!("| start | {took:.0} | {} | |", fleet.decisions());
    let after = resident("VmRSS")?;

    let (middle, far) = (nodes / 2, nodes - 1);
    let mut table = Table(&mut fleet);
    table.row("a pod's link comes or goes", |fleet, at| {
        let mut links = fleet.links.clone();
        if at % 2 == 0 {
            links.insert(900, link(900, "veth1a2b", None));
        } else {
            links.remove(&900);
        }
        fleet.set_links(links)
    })?;
    table.row("a link without Ethernet broadcast comes or goes", |fleet, at| {
        let mut links = fleet.links.clone();
        if at % 2 == 0 {
            let mut tunnel = link(901, "wg0", Some((address(65_000), 32)));
            tunnel.broadcast = false;
            links.insert(901, tunnel);
        } else {
            links.remove(&901);
        }
        fleet.set_links(links)
    })?;
    table.row("a speaker becomes unready or ready", |fleet, at| {
        fleet.update(speaker_pod(middle, at % 2 == 1))
    })?;
    table.row("the status of a Node is updated", |fleet, _| {
        fleet.update(node(middle, "a", false))
    })?;
    table.row("a label of a Node changes", |fleet, at| {
        fleet.update(node(middle, if at % 2 == 0 { "b" } else { "a" }, false))
    })?;
    table.row("the exclude label of a Node is set or removed", |fleet, at| {
        fleet.update(node(middle, "a", at % 2 == 0))
    })?;
    table.row("an EndpointSlice changes", |fleet, at| {
        fleet.update(slice(0, at as usize + 1))
    })?;
    table.row("a Node is deleted or created", |fleet, at| {
        let created = node(far, "a", false);
        fleet.update(if at % 2 == 0 {
            Update::Node(name(far), None)
        } else {
            created
        })
    })?;
    println!(
        "\nmemory: {:.1} MB for the speaker, {:.1} MB at most with the objects",
        (after - before) / 1e3,
        resident("VmHWM")? / 1e3
    );
    Ok(())
}

struct Table<'a>(&'a mut Fleet);

impl Table<'_> {
    fn row(&mut self, change: &str, mut apply: impl FnMut(&mut Fleet, u32) -> usize) -> Result<()> {
        let (start, decided) = (cpu()?, self.0.decisions());
        let sent: usize = (0..REPEATS).map(|at| apply(self.0, at)).sum();
        let took = (cpu()? - start).as_secs_f64() * 1e3 / f64::from(REPEATS);
        let decided = (self.0.decisions() - decided) / u64::from(REPEATS);
        println!(
            "| {change} | {took:.2} | {decided} | {} |",
            sent / REPEATS as usize
        );
        Ok(())
    }
}

/// CPU time of this thread.
fn cpu() -> Result<Duration> {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat")?;
    let nanoseconds = text.split(' ').next().context("no time")?.parse()?;
    Ok(Duration::from_nanos(nanoseconds))
}

/// A field of /proc/self/status in kB.
fn resident(field: &str) -> Result<f64> {
    let text = std::fs::read_to_string("/proc/self/status")?;
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix(field))
        .context("no field")?;
    let number = line.trim_matches(|c: char| !c.is_ascii_digit());
    Ok(number.parse()?)
}
