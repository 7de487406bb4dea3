//! Removes a lab. Its parts are found by their names, so it does not matter who created them or how far that got.

use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::{cgroup, run};

const NETNS_DIRECTORY: &str = "/run/netns";

/// Kills every process of a lab and removes its namespaces, interfaces and control groups.
pub(super) fn down(name: &str) -> anyhow::Result<()> {
    for namespace in namespaces(name)? {
        power_off(&namespace)?;
    }
    cgroup::remove(name)
}

/// Removes the cables of a network namespace, kills all processes in it, and removes it.
pub(super) fn power_off(namespace: &str) -> anyhow::Result<()> {
    let path = Path::new(NETNS_DIRECTORY).join(namespace);
    let Ok(file) = std::fs::metadata(&path) else {
        return Ok(());
    };
    remove_cables(namespace)?;
    let start = Instant::now();
    loop {
        let processes = processes_in(file.dev(), file.ino());
        if processes.is_empty() {
            break;
        }
        if start.elapsed() > Duration::from_secs(30) {
            bail!("processes {processes:?} of {namespace} still run 30 s after SIGKILL: see /proc/PID/stack");
        }
        for process in processes {
            match kill(process, Signal::SIGKILL) {
                Ok(()) | Err(Errno::ESRCH) => {}
                Err(errno) => {
                    return Err(errno).with_context(|| format!("end process {process} of {namespace}"));
                }
            }
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    run(Command::new("ip").args(["netns", "delete", namespace]))?;
    Ok(())
}

/// The kernel removes the interfaces only some time after the namespace, and answers for the machine's addresses until
/// then.
fn remove_cables(namespace: &str) -> anyhow::Result<()> {
    let list = run(Command::new("ip").args(["-n", namespace, "-o", "link", "show", "type", "veth"]))?;
    for line in list.lines() {
        // 2: eth0@if3: <BROADCAST,…
        let Some(name) = line.split([':', '@']).nth(1).map(str::trim) else {
            continue;
        };
        // An interface that is already gone was removed with its other end, or with its pod.
        let _ = run(Command::new("ip").args(["-n", namespace, "link", "delete", name]));
    }
    Ok(())
}

/// The namespaces of a lab that exist.
fn namespaces(name: &str) -> anyhow::Result<Vec<String>> {
    let entries = match std::fs::read_dir(NETNS_DIRECTORY) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error).context("list the network namespaces"),
    };
    let prefix = format!("{name}-");
    let is_machine = |suffix: &str| {
        matches!(suffix, "lan" | "wan" | "cp" | "client")
            || suffix
                .strip_prefix('n')
                .is_some_and(|number| number.parse::<usize>().is_ok())
    };
    Ok(entries
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|namespace| namespace.strip_prefix(&prefix).is_some_and(is_machine))
        .collect())
}

/// The processes in this network namespace, without zombies.
fn processes_in(device: u64, inode: u64) -> Vec<Pid> {
    let Ok(entries) = std::fs::read_dir("/proc") else {
        return Vec::new();
    };
    entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|pid: &i32| {
            // Missing for a zombie.
            std::fs::metadata(format!("/proc/{pid}/ns/net"))
                .is_ok_and(|file| file.dev() == device && file.ino() == inode)
        })
        .map(Pid::from_raw)
        .collect()
}
