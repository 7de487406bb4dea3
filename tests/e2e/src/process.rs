//! A program's process as the kernel sees it: memory and processor time.

use std::time::Duration;

use anyhow::{Context, bail};
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;

use lb_lab::Lab;

/// The one process of a pod.
#[derive(Clone, Copy, Debug)]
pub struct Process {
    /// Its number, as the host counts.
    pid: i32,
}

/// Memory of a process that is resident, in bytes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Memory {
    /// Now.
    pub now: u64,
    /// The most it ever was.
    pub peak: u64,
}

impl Process {
    /// Finds the process of a pod that has one container with one process. It is the one in the container's control group.
    ///
    /// # Errors
    /// When the pod does not run, or has more processes than one.
    pub fn of(lab: &Lab, pod: &Pod) -> anyhow::Result<Self> {
        let name = pod.name_any();
        let not_running = || format!("pod {name} does not run");
        let node = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref());
        let statuses = pod
            .status
            .as_ref()
            .and_then(|status| status.container_statuses.as_deref());
        let [status] = statuses.unwrap_or_default() else {
            bail!("pod {name} has not one container");
        };
        let id = status.container_id.as_deref().with_context(not_running)?;
        let id = id.rsplit('/').next().unwrap_or(id);
        match lab.container(node.with_context(not_running)?, id)?[..] {
            [pid] => Ok(Self { pid }),
            ref other => bail!("pod {name} has {} processes, not one", other.len()),
        }
    }

    /// Whether it has not ended.
    #[must_use]
    pub fn runs(self) -> bool {
        // The command line of one that has ended and waits to be reaped is empty.
        std::fs::read(format!("/proc/{}/cmdline", self.pid)).is_ok_and(|line| !line.is_empty())
    }

    /// Its memory.
    ///
    /// # Errors
    /// When it has ended.
    pub fn memory(self) -> anyhow::Result<Memory> {
        let status = self.file("status")?;
        let bytes =
            |field| bytes(&status, field).with_context(|| format!("find {field} of process {}", self.pid));
        Ok(Memory {
            now: bytes("VmRSS")?,
            peak: bytes("VmHWM")?,
        })
    }

    /// The processor time that it has used.
    ///
    /// # Errors
    /// When it has ended.
    pub fn processor_time(self) -> anyhow::Result<Duration> {
        let stat = self.file("stat")?;
        let ticks = ticks(&stat).with_context(|| format!("read the times of process {}", self.pid))?;
        // The kernel tells user space 100 ticks a second, whatever it counts itself.
        Ok(Duration::from_millis(10 * ticks))
    }

    /// The same to the nanosecond, of the threads that live: for a process whose threads stay, over a time in which it does
    /// little.
    ///
    /// # Errors
    /// When it has ended, or the kernel does not count.
    pub fn exact_processor_time(self) -> anyhow::Result<Duration> {
        let path = format!("/proc/{}/task", self.pid);
        let threads = std::fs::read_dir(&path).with_context(|| format!("list {path}"))?;
        let mut sum = 0;
        for thread in threads.flatten() {
            let path = thread.path().join("schedstat");
            // One that ends just now is no loss.
            let Ok(text) = std::fs::read_to_string(&path) else {
                continue;
            };
            let first = text.split_whitespace().next().and_then(|word| word.parse().ok());
            let nanoseconds: u64 = first.with_context(|| format!("read {}", path.display()))?;
            sum += nanoseconds;
        }
        Ok(Duration::from_nanos(sum))
    }

    fn file(self, name: &str) -> anyhow::Result<String> {
        let path = format!("/proc/{}/{name}", self.pid);
        std::fs::read_to_string(&path).with_context(|| format!("read {path}"))
    }
}

/// A line like `VmRSS:     10240 kB`, in bytes. The kernel's kB are 1,024 bytes.
fn bytes(status: &str, field: &str) -> Option<u64> {
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix(field)?.strip_prefix(':'))?;
    let kilobytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(1024 * kilobytes)
}

/// The sum of the 14th and 15th field: user and system time. The second field, the name, may hold blanks.
fn ticks(stat: &str) -> Option<u64> {
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some(user + system)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_told_in_bytes() {
        let status = "Name:\tlb-controller\nVmHWM:\t   20480 kB\nVmRSS:\t   10240 kB\n";
        assert_eq!(bytes(status, "VmRSS"), Some(10_485_760));
        assert_eq!(bytes(status, "VmHWM"), Some(20_971_520));
        assert_eq!(bytes(status, "VmSwap"), None);
    }

    #[test]
    fn processor_time_is_found_behind_any_name() {
        let stat = "7 (a ) b) S 1 2 3 4 5 6 7 8 9 10 25 17 0 0";
        assert_eq!(ticks(stat), Some(42));
    }
}
