//! Taking things away: finds what belongs to a lab by its names, whoever made it and however far they came.

use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::{cgroup, run};

/// Directory of the named network namespaces.
const NAMESPACES: &str = "/run/netns";

/// Ends every process of a lab and removes its namespaces, interfaces and control groups.
pub(super) fn down(name: &str) -> anyhow::Result<()> {
    for namespace in namespaces(name)? {
        power_off(&namespace)?;
    }
    cgroup::remove(name)
}

/// Removes the cables of a network namespace, ends all processes in it, and removes it.
pub(super) fn power_off(namespace: &str) -> anyhow::Result<()> {
    let path = Path::new(NAMESPACES).join(namespace);
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
            bail!("the processes {processes:?} of {namespace} do not end");
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

/// Removes the cables at once. The kernel would do so too, but only some time after the namespace has gone, and until
/// then it answers for the machine's addresses.
fn remove_cables(namespace: &str) -> anyhow::Result<()> {
    let list = run(Command::new("ip").args(["-n", namespace, "-o", "link", "show", "type", "veth"]))?;
    for line in list.lines() {
        // 2: eth0@if3: <BROADCAST,…
        let Some(name) = line.split([':', '@']).nth(1).map(str::trim) else {
            continue;
        };
        // One that is gone already went with its other end, or with the pod that it belonged to.
        let _ = run(Command::new("ip").args(["-n", namespace, "link", "delete", name]));
    }
    Ok(())
}

/// The namespaces of a lab that are there.
fn namespaces(name: &str) -> anyhow::Result<Vec<String>> {
    let entries = match std::fs::read_dir(NAMESPACES) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error).context("list the network namespaces"),
    };
    let prefix = format!("{name}-");
    let is_machine = |suffix: &str| {
        matches!(suffix, "lan" | "cp" | "client")
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

/// The processes whose network namespace is this one. Those that have ended and wait to be reaped do not count.
fn processes_in(device: u64, inode: u64) -> Vec<Pid> {
    let Ok(entries) = std::fs::read_dir("/proc") else {
        return Vec::new();
    };
    entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|pid: &i32| {
            // Gone for a process that has ended.
            std::fs::metadata(format!("/proc/{pid}/ns/net"))
                .is_ok_and(|file| file.dev() == device && file.ino() == inode)
        })
        .map(Pid::from_raw)
        .collect()
}
