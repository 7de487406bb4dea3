//! MetalLB in the lab in place of this project: the real programs and the real manifest, from its Go module.

use std::path::PathBuf;
use std::process::Command;

use anyhow::bail;

use crate::{Lab, cache, run};

/// Installs MetalLB from the module that `tests/lab/metallb` pins, and waits until it is ready. Removes our operator and its stack
/// first; pools, advertisements and Services stay as they are.
///
/// # Errors
/// When `make setup` has not built it, or it does not become ready.
pub fn install(lab: &Lab) -> anyhow::Result<()> {
    for image in ["controller.tar", "speaker.tar"] {
        lab.load(&setup_file(image)?)?;
    }
    let manifest = setup_file("metallb-native.yaml")?;
    let manifest = manifest.to_string_lossy();
    remove_ours(lab)?;
    kubectl(
        lab,
        &["apply", "--server-side", "--force-conflicts", "-f", &manifest],
    )?;
    for workload in ["deployment/controller", "daemonset/speaker"] {
        let wait = [
            "rollout",
            "status",
            "-n",
            "metallb-system",
            workload,
            "--timeout=180s",
        ];
        kubectl(lab, &wait)?;
    }
    Ok(())
}

/// Removes our operator, then its stack, as in docs/uninstall.md: Services keep the addresses in their status. Kubernetes
/// deletes everything owned by the stack, except the namespace and the CRDs: pools and advertisements stay.
fn remove_ours(lab: &Lab) -> anyhow::Result<()> {
    const STACK: [&str; 2] = ["loadbalancerstack", "default"];
    const NO_FINALIZERS: &str = r#"{"metadata":{"finalizers":null}}"#;
    call(
        lab,
        "helm",
        &[
            "uninstall",
            "lb-operator",
            "--namespace",
            "lb-operator-system",
            "--wait",
            "--ignore-not-found",
        ],
    )?;
    let has_crd = kubectl(lab, &["get", "crd", "loadbalancerstacks.lb-operator.io"]).is_ok();
    if has_crd && kubectl(lab, &[&["get"], &STACK[..]].concat()).is_ok() {
        let patch = ["--type=merge", "-p", NO_FINALIZERS];
        kubectl(lab, &[&["patch"], &STACK[..], &patch[..]].concat())?;
        let foreground = ["--cascade=foreground", "--timeout=120s"];
        kubectl(lab, &[&["delete"], &STACK[..], &foreground[..]].concat())?;
    }
    Ok(())
}

fn setup_file(name: &str) -> anyhow::Result<PathBuf> {
    let path = cache().join("metallb").join(name);
    if !path.exists() {
        bail!("{} is missing: run `make setup`", path.display());
    }
    Ok(path)
}

fn kubectl(lab: &Lab, args: &[&str]) -> anyhow::Result<()> {
    call(lab, "kubectl", args)
}

fn call(lab: &Lab, program: &str, args: &[&str]) -> anyhow::Result<()> {
    let mut command = Command::new(cache().join("bin").join(program));
    run(command.args(args).env("KUBECONFIG", lab.kubeconfig()))?;
    Ok(())
}
