//! `make demo`: starts a lab, installs the chart and a stack, runs the guide's steps, and leaves the cluster running.

// The program's purpose is its output.
#![allow(clippy::print_stdout)]

use std::process::ExitCode;
use std::time::Instant;

use lb_e2e::harness::{Harness, SHORT_TIMEOUT, eventually};

const NAME: &str = "demo";

fn main() -> ExitCode {
    lb_lab::exit("demo", run())
}

fn run() -> anyhow::Result<()> {
    let start = Instant::now();
    println!("Starting a three-node Kubernetes cluster on this machine.");
    let mut harness = Harness::start_lab(NAME, 3)?.with_echo();
    for section in [
        "1.1", "1.2", "1.3", "1.4", "2.1", "2.2", "2.3", "3.1", "3.2", "3.3", "4.1",
    ] {
        harness.run_section(section)?;
    }
    harness.admin("kubectl rollout status deployment/nginx-test --timeout=120s")?;
    harness.run_section("4.2")?;
    let address = harness.wait_for_address("nginx-test-lb")?;
    for section in ["4.3", "4.4"] {
        harness.run_section(section)?;
    }
    let owner = harness.wait_for_owner(&address, SHORT_TIMEOUT)?;
    harness.set_placeholder("talos-control-01", &owner);
    harness.set_placeholder("speaker-xxxxx", &harness.speaker_on(&owner)?);
    for section in ["4.5", "4.6", "4.7", "4.8"] {
        harness.run_section(section)?;
    }
    let page = eventually("an answer", SHORT_TIMEOUT, || {
        Ok(harness.client(&format!("curl -s -m 2 http://{address}")).ok())
    })?;
    println!(
        "\n\x1b[1m── From the LAN\x1b[0m\nlan$ curl http://{address}\n{}",
        page.trim_end()
    );

    let directory = harness.lab().kubeconfig();
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
