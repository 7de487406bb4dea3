//! Machines as groups of processes: starts one, enters one, and finds the programs that run in it.

use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::layout::{Layout, Machine};

/// Nice value of the daemons of a machine as a whole. All machines of all labs share a few processors; without it, pods
/// and their clients would wait for seconds while a lab starts. Pods are in control groups and not affected; neither is
/// anything where the kernel does not group processes by session.
const DAEMON_NICE: u8 = 10;

/// Growth of a Go program's heap, in percent, before its garbage is collected. Memory is cheaper here than processor time.
const GARBAGE_PERCENT: u16 = 400;

/// Starts a machine: `script` becomes the first process of its namespaces, in the machine's network. Returns when that
/// process runs, so that the machine can be entered.
///
/// The processes are not children of this one: a lab outlives the command that started it.
pub(super) fn boot(layout: &Layout, machine: Machine, script: &str) -> anyhow::Result<()> {
    let name = machine.name();
    let path = layout.log(&name);
    // Its output is a pipe until it has said that it runs.
    let script = format!("echo runs; exec >>'{}'\n{script}", path.display());
    let script = layout.write(&format!("{name}/init.sh"), &script)?;
    let log = File::create(&path).with_context(|| format!("create the log of {name}"))?;
    // The child that `unshare` forks is killed with it, and with that child its whole PID namespace.
    let start = r#"nsenter --net="$1" setsid bash -c "$4" session unshare --pid --mount --uts --fork --kill-child --mount-proc bash "$2" & echo $! >"$3""#;
    let mut shell = Command::new("bash")
        .args(["-c", start, "boot"])
        .arg(format!("/run/netns/{}", layout.namespace(machine)))
        .arg(script)
        .arg(pid_file(layout, machine))
        .arg(format!(
            "{{ echo {DAEMON_NICE} >/proc/self/autogroup; }} 2>/dev/null; export GOGC={GARBAGE_PERCENT}; exec \"$@\""
        ))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(log)
        .spawn()
        .with_context(|| format!("start {name}"))?;
    let mut said = String::new();
    if let Some(output) = shell.stdout.take() {
        BufReader::new(output).read_line(&mut said)?;
    }
    let status = shell.wait()?;
    if said.is_empty() || !status.success() {
        bail!("{name} does not start: {status}: see {}", path.display());
    }
    Ok(())
}

fn pid_file(layout: &Layout, machine: Machine) -> PathBuf {
    layout.disk(machine).join("pid")
}

/// The machine's first process, as the host numbers it.
pub(super) fn init_process(layout: &Layout, machine: Machine) -> anyhow::Result<Pid> {
    let off = || {
        format!(
            "{} is switched off: switch it on with `lab start`",
            machine.name()
        )
    };
    let outer: i32 = std::fs::read_to_string(pid_file(layout, machine))
        .with_context(off)?
        .trim()
        .parse()
        .with_context(off)?;
    // The number may have been reused: only a process in this machine's network counts.
    let same = |a: PathBuf, b: PathBuf| {
        use std::os::unix::fs::MetadataExt as _;
        matches!((std::fs::metadata(a), std::fs::metadata(b)), (Ok(a), Ok(b)) if a.dev() == b.dev() && a.ino() == b.ino())
    };
    let own = Path::new("/run/netns").join(layout.namespace(machine));
    if !same(format!("/proc/{outer}/ns/net").into(), own) {
        bail!(off());
    }
    children(outer)
        .first()
        .map(|pid| Pid::from_raw(*pid))
        .with_context(off)
}

/// A command on a machine. The client has only a network; on the others the command also sees the machine's files and
/// processes.
pub(super) fn command(layout: &Layout, machine: Machine, argv: &[&str]) -> anyhow::Result<Command> {
    let mut command = Command::new("nsenter");
    if machine == Machine::Client {
        command.arg(format!("--net=/run/netns/{}", layout.namespace(machine)));
    } else {
        let init = init_process(layout, machine)?;
        command.args([
            "--target",
            &init.to_string(),
            "--net",
            "--mount",
            "--uts",
            "--pid",
        ]);
    }
    command.arg("--").args(argv);
    Ok(command)
}

/// Sends a signal to every process of a program on a machine. Returns their number.
pub(super) fn signal(
    layout: &Layout,
    machine: Machine,
    program: &str,
    signal: Signal,
) -> anyhow::Result<usize> {
    let mut found = Vec::new();
    let mut all = Vec::new();
    for pid in processes(layout, machine)? {
        let Some(name) = program_of(pid) else { continue };
        if name == program {
            found.push(Pid::from_raw(pid));
        }
        all.push(name);
    }
    if found.is_empty() {
        all.sort();
        all.dedup();
        bail!(
            "{} runs no program {program:?}: use one of {}",
            machine.name(),
            all.join(", ")
        );
    }
    for pid in &found {
        kill(*pid, signal).with_context(|| format!("send {signal} to process {pid}"))?;
    }
    Ok(found.len())
}

/// The processes of a container on a machine, as the host numbers them, found by the name of their control group.
pub(super) fn container(layout: &Layout, machine: Machine, id: &str) -> anyhow::Result<Vec<i32>> {
    let group_of = |pid: &i32| std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
    let mut found = processes(layout, machine)?;
    found.retain(|pid| group_of(pid).contains(id));
    Ok(found)
}

fn processes(layout: &Layout, machine: Machine) -> anyhow::Result<Vec<i32>> {
    let mut found = vec![init_process(layout, machine)?.as_raw()];
    let mut next = 0;
    while let Some(pid) = found.get(next) {
        found.extend(children(*pid));
        next += 1;
    }
    Ok(found)
}

/// The file name in a process's first argument: a program with several names counts under the one that it was started
/// by.
fn program_of(pid: i32) -> Option<String> {
    let line = std::fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let first = line.split(|byte| *byte == 0).next()?;
    let name = Path::new(std::str::from_utf8(first).ok()?).file_name()?;
    Some(name.to_str()?.to_owned())
}

/// The children of a process, from all of its threads.
fn children(pid: i32) -> Vec<i32> {
    let Ok(threads) = std::fs::read_dir(format!("/proc/{pid}/task")) else {
        return Vec::new();
    };
    threads
        .flatten()
        .filter_map(|thread| std::fs::read_to_string(thread.path().join("children")).ok())
        .flat_map(|text| {
            text.split_whitespace()
                .filter_map(|pid| pid.parse().ok())
                .collect::<Vec<_>>()
        })
        .collect()
}
