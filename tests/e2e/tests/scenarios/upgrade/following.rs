//! Watches an upgrade: the status at the moment of each change, and the leading operator.

use std::io::BufReader;
use std::process::{Child, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::time::Duration;

use anyhow::Context as _;
use lb_e2e::harness::{Harness, SHORT_TIMEOUT, eventually};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use super::Place;

/// The stack's status at each change.
pub(super) struct Statuses {
    process: Child,
    statuses: Receiver<Value>,
}

impl Statuses {
    pub(super) fn follow(harness: &Harness) -> anyhow::Result<Self> {
        let mut command = harness.admin_command("exec kubectl get lbs default --watch -o json");
        let mut process = command
            .stdout(Stdio::piped())
            .spawn()
            .context("follow the stack")?;
        let output = process.stdout.take().context("it has no output")?;
        let (tell, statuses) = mpsc::channel();
        std::thread::spawn(move || {
            let stacks = serde_json::Deserializer::from_reader(BufReader::new(output)).into_iter::<Value>();
            for mut stack in stacks.map_while(Result::ok) {
                if tell.send(stack["status"].take()).is_err() {
                    break;
                }
            }
        });
        Ok(Self { process, statuses })
    }

    pub(super) fn next(&self, within: Duration) -> anyhow::Result<Value> {
        let next = self.statuses.recv_timeout(within);
        next.context("the watch of the stack's status ended or timed out")
    }
}

impl Drop for Statuses {
    fn drop(&mut self) {
        // Its children end with it only after SIGTERM.
        let id = self.process.id().try_into().map(Pid::from_raw);
        let _ = id.map(|id| kill(id, Signal::SIGTERM));
        let _ = self.process.wait();
    }
}

/// The leading operator, on the node with this number, is killed.
pub(super) struct Leader(usize);

impl Leader {
    pub(super) fn find(place: &Place) -> anyhow::Result<Self> {
        let harness = &place.harness;
        eventually("an operator to lead", SHORT_TIMEOUT, || {
            let node = harness.admin(
                "pod=$(kubectl get lease lb-operator -n lb-operator-system -o jsonpath='{.spec.holderIdentity}')
                 kubectl get pod -n lb-operator-system --ignore-not-found ${pod:-none} -o jsonpath='{.spec.nodeName}'",
            )?;
            Ok(node.trim_start_matches('n').parse().ok().map(Self))
        })
    }

    pub(super) fn kill(&self, place: &Place) -> anyhow::Result<()> {
        place.harness.lab().kill(self.0, "lb-operator").map(drop)
    }
}
