//! Memory and processor time of a process, as the kernel counts them.

use std::time::Duration;

use anyhow::{Context, bail};
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;

use lb_lab::Lab;

/// The only process of a pod.
#[derive(Clone, Copy, Debug)]
pub struct Process {
    /// As the host numbers it.
    pid: i32,
}

/// Resident memory, in bytes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Memory {
    /// Now.
    pub now: u64,
    /// The maximum since the process started.
    pub peak: u64,
}

impl Process {
    /// Finds the process in the control group of a pod's only container.
    ///
    /// # Errors
    /// When the pod does not run, or has more than one container or process.
    pub fn of(lab: &Lab, pod: &Pod) -> anyhow::Result<Self> {
        let name = pod.name_any();
        let not_running = || format!("pod {name} is not running");
        let node = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref());
        let statuses = pod
            .status
            .as_ref()
            .and_then(|status| status.container_statuses.as_deref());
        let [status] = statuses.unwrap_or_default() else {
            bail!("pod {name} has more or less than one container");
        };
        let id = status.container_id.as_deref().with_context(not_running)?;
        let id = id.rsplit('/').next().unwrap_or(id);
        match lab.container(node.with_context(not_running)?, id)?[..] {
            [pid] => Ok(Self { pid }),
            ref other => bail!("pod {name} has {} processes instead of one", other.len()),
        }
    }

    /// Whether the process exists and is not a zombie.
    #[must_use]
    pub fn runs(self) -> bool {
        // The command line of a zombie is empty.
        std::fs::read(format!("/proc/{}/cmdline", self.pid)).is_ok_and(|line| !line.is_empty())
    }

    /// Resident memory.
    ///
    /// # Errors
    /// When the process has ended.
    pub fn memory(self) -> anyhow::Result<Memory> {
        let status = self.file("status")?;
        let bytes =
            |field| bytes(&status, field).with_context(|| format!("find {field} of process {}", self.pid));
        Ok(Memory {
            now: bytes("VmRSS")?,
            peak: bytes("VmHWM")?,
        })
    }

    /// User and system time used so far, to 10 ms.
    ///
    /// # Errors
    /// When the process has ended.
    pub fn processor_time(self) -> anyhow::Result<Duration> {
        let stat = self.file("stat")?;
        let ticks = ticks(&stat).with_context(|| format!("read the times of process {}", self.pid))?;
        // The kernel reports 100 ticks a second to user space, whatever its own rate.
        Ok(Duration::from_millis(10 * ticks))
    }

    /// The same to the nanosecond, without threads that have ended.
    ///
    /// # Errors
    /// When the process has ended, or the kernel has no scheduler statistics.
    pub fn exact_processor_time(self) -> anyhow::Result<Duration> {
        let path = format!("/proc/{}/task", self.pid);
        let threads = std::fs::read_dir(&path).with_context(|| format!("list {path}"))?;
        let mut sum = 0;
        for thread in threads.flatten() {
            let path = thread.path().join("schedstat");
            // A thread may end at any moment.
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

/// The bytes of a line like `VmRSS:     10240 kB`. The kernel's kB are 1,024 bytes.
fn bytes(status: &str, field: &str) -> Option<u64> {
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix(field)?.strip_prefix(':'))?;
    let kilobytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(1024 * kilobytes)
}

/// Fields 14 and 15, user and system time. Field 2, the name, may contain blanks.
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
    fn parses_memory_in_bytes() {
        let status = "Name:\tlb-controller\nVmHWM:\t   20480 kB\nVmRSS:\t   10240 kB\n";
        assert_eq!(bytes(status, "VmRSS"), Some(10_485_760));
        assert_eq!(bytes(status, "VmHWM"), Some(20_971_520));
        assert_eq!(bytes(status, "VmSwap"), None);
    }

    #[test]
    fn parses_processor_time_after_any_name() {
        let stat = "7 (a ) b) S 1 2 3 4 5 6 7 8 9 10 25 17 0 0";
        assert_eq!(ticks(stat), Some(42));
    }
}
