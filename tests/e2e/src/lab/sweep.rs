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

/// Ends all processes in a network namespace and removes it, with the interfaces in it and the other ends of their cables.
pub(super) fn power_off(namespace: &str) -> anyhow::Result<()> {
    let path = Path::new(NAMESPACES).join(namespace);
    let Ok(file) = std::fs::metadata(&path) else {
        return Ok(());
    };
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
