//! Control groups of the nodes: each kubelet manages its pods below its node's group.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

use super::layout::cgroup_prefix;

/// The mounted hierarchies: one for each controller with version 1, a single one with version 2.
fn hierarchies() -> anyhow::Result<Vec<PathBuf>> {
    let mounts = std::fs::read_to_string("/proc/self/mounts").context("read the mounts")?;
    let mut roots: Vec<_> = mounts
        .lines()
        .filter_map(|line| {
            let mut fields = line.split(' ').skip(1);
            let (path, kind) = (fields.next()?, fields.next()?);
            matches!(kind, "cgroup" | "cgroup2").then(|| PathBuf::from(path))
        })
        .collect();
    roots.sort();
    roots.dedup();
    if roots.is_empty() {
        bail!("no control groups below /sys/fs/cgroup: mount them");
    }
    Ok(roots)
}

pub(super) fn create(group: &str) -> anyhow::Result<()> {
    for root in hierarchies()? {
        let path = root.join(group);
        // With version 2, a group has only the controllers that its parent delegates. Some cannot be delegated, and the
        // kubelet names the one that it misses when it refuses to start.
        let controllers = root.join("cgroup.controllers");
        if let Ok(available) = std::fs::read_to_string(&controllers) {
            for controller in available.split_whitespace() {
                let _ = std::fs::write(root.join("cgroup.subtree_control"), format!("+{controller}"));
            }
        }
        std::fs::create_dir_all(&path)
            .with_context(|| format!("create the control group {}", path.display()))?;
        // With version 1, a new group has no processors and no memory until they are assigned.
        for file in ["cpuset.cpus", "cpuset.mems"] {
            if controllers.exists() {
                continue;
            }
            if let Ok(value) = std::fs::read_to_string(root.join(file)) {
                std::fs::write(path.join(file), value.trim())
                    .with_context(|| format!("set {file} of {}", path.display()))?;
            }
        }
    }
    Ok(())
}

/// Removes the groups of all nodes of a lab. Their processes have been killed; the kernel may still be removing the
/// last of them.
pub(super) fn remove(lab: &str) -> anyhow::Result<()> {
    let prefix = cgroup_prefix(lab);
    for root in hierarchies()? {
        for entry in std::fs::read_dir(&root)
            .with_context(|| format!("read {}", root.display()))?
            .flatten()
        {
            let name = entry.file_name();
            let number = name.to_str().and_then(|name| name.strip_prefix(&prefix));
            if number.is_some_and(|number| number.parse::<usize>().is_ok()) {
                remove_tree(&entry.path())?;
            }
        }
    }
    Ok(())
}

fn remove_tree(group: &Path) -> anyhow::Result<()> {
    for entry in std::fs::read_dir(group)
        .with_context(|| format!("read {}", group.display()))?
        .flatten()
    {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_tree(&entry.path())?;
        }
    }
    let start = Instant::now();
    while let Err(error) = std::fs::remove_dir(group) {
        if error.kind() == std::io::ErrorKind::NotFound {
            break;
        }
        if start.elapsed() > Duration::from_secs(10) {
            return Err(error).with_context(|| format!("remove the control group {}", group.display()));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}
