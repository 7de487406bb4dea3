//! The lab itself: labs run side by side, cables and power work, and nothing is left behind, however a lab ends.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use lb_e2e::harness::{LONG_TIMEOUT, SHORT_TIMEOUT, eventually};
use lb_lab::{Lab, LabConfig, cached_images, repository};

/// Everything on this machine that belongs to a lab, except its files.
fn traces(name: &str) -> Vec<String> {
    let list = |directory: &str| -> Vec<String> {
        std::fs::read_dir(directory)
            .into_iter()
            .flatten()
            .filter_map(|entry| Some(entry.ok()?.path().display().to_string()))
            .collect()
    };
    let mut found: Vec<_> = list("/run/netns")
        .into_iter()
        .chain(
            list("/sys/fs/cgroup")
                .iter()
                .flat_map(|controller| list(controller)),
        )
        .filter(|path| path.contains(&format!("/{name}-")) || path.contains(&format!("/lab-{name}-n")))
        .collect();
    let files = format!("{}/", repository().join("target").join(name).display());
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    found.extend(
        mounts
            .lines()
            .filter(|line| line.contains(&files))
            .map(str::to_owned),
    );
    // The host's end of the link to the control plane.
    found.extend(list("/sys/class/net").into_iter().filter(|link| {
        std::fs::read_to_string(format!("{link}/ifalias")).is_ok_and(|alias| alias.trim() == name)
    }));
    for process in list("/proc") {
        let line = std::fs::read(format!("{process}/cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        if line.contains(&files) {
            found.push(line);
        }
    }
    found
}

fn up(name: &str, nodes: usize) -> anyhow::Result<Lab> {
    Lab::up(LabConfig {
        nodes,
        images: cached_images()?,
        ..LabConfig::named(name)
    })
}

fn succeeds(lab: &Lab, machine: &str, argv: &[&str]) -> anyhow::Result<bool> {
    Ok(lab
        .command(machine, argv)?
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()?
        .success())
}

fn nodes_of(lab: &Lab) -> anyhow::Result<String> {
    let output = Command::new(lb_lab::cache().join("bin/kubectl"))
        .args(["get", "nodes", "-o", "name", "--kubeconfig"])
        .arg(lab.kubeconfig())
        .output()?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[test]
fn two_labs_run_side_by_side_and_leave_nothing_behind() -> anyhow::Result<()> {
    let one = up("side-a", 2)?;
    let two = up("side-b", 1)?;
    assert_eq!(nodes_of(&one)?, "node/n1\nnode/n2\n");
    assert_eq!(nodes_of(&two)?, "node/n1\n");
    assert!(
        traces("side-a").len() > 10 && traces("side-b").len() > 10,
        "the traces looked for below exist"
    );

    // Dual stack, on both LANs.
    for address in ["192.168.50.11", "fc00:50::11", "192.168.51.12", "fc00:51::12"] {
        assert!(
            succeeds(&one, "client", &["ping", "-c1", "-W2", address])?,
            "{address} does not answer"
        );
    }
    // The labs have the same addresses and do not reach each other.
    assert!(!succeeds(
        &two,
        "client",
        &["ping", "-c1", "-W1", "192.168.50.12"]
    )?);

    // Cables.
    let ping = ["ping", "-c1", "-W1", "192.168.50.12"];
    one.cut(2)?;
    assert!(!succeeds(&one, "client", &ping)?, "an unplugged node answers");
    one.join(2)?;
    eventually("the node to answer again", SHORT_TIMEOUT, || {
        Ok(succeeds(&one, "client", &ping)?.then_some(()))
    })?;

    // A stopped program continues.
    assert_eq!(one.freeze(2, "kubelet")?, 1);
    assert_eq!(one.thaw(2, "kubelet")?, 1);
    let error = one
        .freeze(2, "nothing")
        .expect_err("there is no such program")
        .to_string();
    assert!(error.contains("kubelet"), "it says what there is: {error}");

    // Power.
    one.crash(2)?;
    assert!(
        !succeeds(&one, "client", &ping)?,
        "a node that is switched off answers"
    );
    let error = one
        .command("n2", &["true"])
        .expect_err("no command runs on it")
        .to_string();
    assert!(error.contains("switched off"), "{error}");
    one.start(2)?;
    eventually("the node to answer again", SHORT_TIMEOUT, || {
        Ok(succeeds(&one, "client", &ping)?.then_some(()))
    })?;

    let error = one.cut(7).expect_err("there is no such node").to_string();
    assert!(error.contains("1 to 2"), "{error}");

    drop(one);
    assert_eq!(traces("side-a"), Vec::<String>::new());
    assert_eq!(nodes_of(&two)?, "node/n1\n", "the other lab keeps running");
    drop(two);
    assert_eq!(traces("side-b"), Vec::<String>::new());
    Ok(())
}

#[test]
fn lab_of_a_killed_process_is_taken_down() -> anyhow::Result<()> {
    // Once while machines are being created, and once while the cluster starts.
    for sign in ["/run/netns/killed-client", "/run/netns/killed-n2"] {
        let mut process = Command::new(lb_lab::program()?)
            .args(["up", "--name", "killed", "--nodes", "2"])
            .stdout(Stdio::null())
            .spawn()?;
        eventually(sign, SHORT_TIMEOUT, || {
            Ok(std::path::Path::new(sign).exists().then_some(()))
        })?;
        process.kill()?;
        process.wait()?;
        eventually("the lab to be removed", LONG_TIMEOUT, || {
            Ok(traces("killed").is_empty().then_some(()))
        })?;
    }
    Ok(())
}

/// Takes a lab down, whatever the result of the test.
struct LabCleanup(&'static str);

impl Drop for LabCleanup {
    fn drop(&mut self) {
        if let Err(error) = Lab::down(self.0) {
            eprintln!("{error:#}");
        }
    }
}

#[test]
fn lab_program_is_idempotent() -> anyhow::Result<()> {
    let program = lb_lab::program()?;
    let lab = |args: &[&str]| {
        Command::new(&program)
            .args(["--name", "again"])
            .args(args)
            .output()
    };
    let _taken_down = LabCleanup("again");
    let failure = lab(&["cut", "1"])?;
    let said = String::from_utf8_lossy(&failure.stderr).into_owned();
    assert!(
        !failure.status.success() && said.contains("lab up --name again"),
        "{said}"
    );

    assert!(lab(&["up", "--nodes", "1"])?.status.success());
    let start = Instant::now();
    let second = lab(&["up", "--nodes", "1"])?;
    assert!(
        String::from_utf8_lossy(&second.stdout).contains("up already"),
        "{second:?}"
    );
    assert!(start.elapsed() < Duration::from_secs(5));
    let output = lab(&[
        "run",
        "client",
        "--",
        "sh",
        "-c",
        "ip -br address show eth0; exit 7",
    ])?;
    assert_eq!(output.status.code(), Some(7), "the exit code is the command's");
    assert!(String::from_utf8_lossy(&output.stdout).contains("192.168.50.20"));
    assert!(String::from_utf8_lossy(&lab(&["logs"])?.stdout).contains("n1-kubelet"));

    for _ in 0..2 {
        assert!(lab(&["down"])?.status.success());
        assert_eq!(traces("again"), Vec::<String>::new());
    }
    assert!(!repository().join("target/again/kubeconfig").exists());
    Ok(())
}
