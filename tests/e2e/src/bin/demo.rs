//! `make demo`: a lab, the chart, a stack, and the guide's steps before the reader's eyes. The cluster stays up.

// What it prints is what it is for.
#![allow(clippy::print_stdout)]

use std::process::ExitCode;
use std::time::Instant;

use lb_e2e::harness::{Harness, SOON, eventually};

/// Name of the demo's lab.
const NAME: &str = "demo";

fn main() -> ExitCode {
    lb_lab::exit("demo", run())
}

fn run() -> anyhow::Result<()> {
    let start = Instant::now();
    println!("Starting a three-node Kubernetes cluster on this machine.");
    let mut harness = Harness::lab(NAME, 3)?.echoing();
    for section in [
        "1.1", "1.2", "1.3", "1.4", "2.1", "2.2", "2.3", "3.1", "3.2", "3.3", "4.1",
    ] {
        harness.follow(section)?;
    }
    harness.admin("kubectl rollout status deployment/nginx-test --timeout=120s")?;
    harness.follow("4.2")?;
    let address = harness.address("nginx-test-lb")?;
    for section in ["4.3", "4.4"] {
        harness.follow(section)?;
    }
    let owner = harness.owner(&address, SOON)?;
    harness.replace("talos-control-01", &owner);
    harness.replace("speaker-xxxxx", &harness.speaker_on(&owner)?);
    for section in ["4.5", "4.6", "4.7", "4.8"] {
        harness.follow(section)?;
    }
    let page = eventually("an answer", SOON, || {
        Ok(harness.client(&format!("curl -s -m 2 http://{address}")).ok())
    })?;
    println!(
        "\n\x1b[1m── From the LAN\x1b[0m\nlan$ curl http://{address}\n{}",
        page.trim_end()
    );

    let directory = harness.the_lab().kubeconfig();
    harness.leave_up()?;
    println!(
        "\nDone in {:.0} s. The cluster stays up. Look around:\n\n  \
         export KUBECONFIG={} PATH={}/bin:$PWD/target/debug:$PATH\n  \
         kubectl get pods -A -o wide\n  \
         kubectl describe service nginx-test-lb\n  \
         lab run --name {NAME} client -- curl -s http://{address}\n  \
         lab cut {} --name {NAME}      # pull the owner's cable; lab join puts it back\n  \
         make demo-down               # remove all of it",
        start.elapsed().as_secs_f64(),
        directory.display(),
        lb_lab::cache().display(),
        owner.trim_start_matches('n'),
    );
    Ok(())
}
