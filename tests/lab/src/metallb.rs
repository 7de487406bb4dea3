//! MetalLB in the lab, in place of ours: the real programs and the real manifest, from its Go module.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, bail};

use crate::{Lab, cache};

/// Installs MetalLB from the module that `tests/lab/metallb` pins, and waits until it is ready. Our operator and its
/// stack go first, if they are there; pools, advertisements and Services stay as they are.
///
/// # Errors
/// When set-up has not built it, or it does not become ready.
pub fn install(lab: &Lab) -> anyhow::Result<()> {
    for image in ["controller", "speaker"] {
        lab.load(&part(&format!("{image}.tar"))?)?;
    }
    let manifest = part("metallb-native.yaml")?;
    remove_ours(lab)?;
    // The programs look for their own image's newest version unless told that the node's copy is the one.
    kubectl(
        lab,
        &[
            "apply",
            "--server-side",
            "--force-conflicts",
            "-f",
            &manifest.display().to_string(),
        ],
    )?;
    for workload in ["deployment/controller", "daemonset/speaker"] {
        kubectl(
            lab,
            &[
                "rollout",
                "status",
                "-n",
                "metallb-system",
                workload,
                "--timeout=180s",
            ],
        )?;
    }
    Ok(())
}

/// Removes our operator, then its stack without it, as docs/uninstall.md says: the Services keep the addresses in their status, and
/// Kubernetes removes all that was made for the stack, except the namespace and the kinds: pools and advertisements live there.
fn remove_ours(lab: &Lab) -> anyhow::Result<()> {
    const STACK: [&str; 2] = ["loadbalancerstack", "default"];
    const LET_GO: &str = r#"{"metadata":{"finalizers":null}}"#;
    helm(lab, &["uninstall", "lb-operator", "--wait", "--ignore-not-found"])?;
    let there = kubectl(lab, &["get", "crd", "loadbalancerstacks.lb-operator.io"]).is_ok();
    if there && kubectl(lab, &[&["get"], &STACK[..]].concat()).is_ok() {
        kubectl(
            lab,
            &[&["patch"], &STACK[..], &["--type=merge", "-p", LET_GO]].concat(),
        )?;
        let how = ["--cascade=foreground", "--timeout=120s"];
        kubectl(lab, &[&["delete"], &STACK[..], &how[..]].concat())?;
    }
    Ok(())
}

/// A file of the peer, as set-up made it.
fn part(name: &str) -> anyhow::Result<PathBuf> {
    let path = cache().join("peer/metallb").join(name);
    if !path.exists() {
        bail!("{} is missing: run `make setup`", path.display());
    }
    Ok(path)
}

fn kubectl(lab: &Lab, args: &[&str]) -> anyhow::Result<String> {
    call(lab, "kubectl", args)
}

fn helm(lab: &Lab, args: &[&str]) -> anyhow::Result<String> {
    call(lab, "helm", args)
}

fn call(lab: &Lab, program: &str, args: &[&str]) -> anyhow::Result<String> {
    let output = Command::new(cache().join("bin").join(program))
        .args(args)
        .env("KUBECONFIG", lab.kubeconfig())
        .output()
        .with_context(|| format!("start {program}"))?;
    if !output.status.success() {
        bail!(
            "{program} {}: {}",
            args.join(" "),
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
