//! Announcements that a client receives on an interface, with the kernel's receive times.

use std::collections::BTreeMap;
use std::fmt;
use std::io::{BufRead as _, BufReader};
use std::process::{Child, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context;
use lb_e2e::harness::{Harness, SHORT_TIMEOUT, eventually};

/// A broadcast announcement of an address: gratuitous ARP or an unsolicited neighbor advertisement.
#[derive(Clone, Debug)]
pub(crate) struct Announcement {
    /// Seconds since 1970.
    pub(crate) at: f64,
    pub(crate) address: String,
    /// The announced MAC address: in a proxy reply, the owner's.
    pub(crate) mac: String,
}

/// A duplicate address probe: an ARP request from 0.0.0.0 or a neighbor solicitation from `::`.
#[derive(Clone, Debug)]
pub(crate) struct Probe {
    pub(crate) address: String,
    /// The MAC address of the sender.
    pub(crate) from: String,
}

impl fmt::Display for Probe {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "for {} by {}", self.address, self.from)
    }
}

#[derive(Default)]
struct Heard {
    announcements: Vec<Announcement>,
    probes: Vec<Probe>,
    /// Number of frames by kind.
    kinds: BTreeMap<&'static str, usize>,
}

/// A capture that runs until it is dropped.
pub(crate) struct Capture {
    process: Child,
    heard: Arc<Mutex<Heard>>,
}

impl Capture {
    /// Captures on an interface of the client.
    pub(crate) fn on(harness: &Harness, interface: &str) -> anyhow::Result<Self> {
        let argv = [
            "tcpdump",
            "-i",
            interface,
            "--immediate-mode",
            "-l",
            "-n",
            "-e",
            "-tt",
            "-v",
            "arp or icmp6",
        ];
        let mut command = harness.lab().command("client", &argv)?;
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut process = command.spawn().context("start tcpdump")?;
        let heard = Arc::new(Mutex::new(Heard::default()));
        let (stdout, stderr) = (process.stdout.take(), process.stderr.take());
        let capture = Self {
            process,
            heard: Arc::clone(&heard),
        };
        let stdout = stdout.context("tcpdump has no output")?;
        std::thread::spawn(move || {
            let mut goes_on = false;
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                let mut heard = heard.lock().unwrap_or_else(PoisonError::into_inner);
                if !line.starts_with(char::is_whitespace) {
                    *heard.kinds.entry(kind(&line)).or_default() += 1;
                    heard.probes.extend(read_probe(&line));
                }
                if let Some(announcement) = read(&line) {
                    heard.announcements.push(announcement);
                    goes_on = true;
                } else if line.starts_with(char::is_whitespace) {
                    let given = line
                        .split_once("destination link-address option")
                        .map(|(_, rest)| rest);
                    let mac = given.and_then(|rest| rest.split_whitespace().last());
                    if let (Some(last), Some(mac), true) = (heard.announcements.last_mut(), mac, goes_on) {
                        mac.clone_into(&mut last.mac);
                    }
                } else {
                    goes_on = false;
                }
            }
        });
        // After this line it captures everything.
        let stderr = BufReader::new(stderr.context("tcpdump has no messages")?);
        for line in stderr.lines() {
            if line?.contains("listening on ") {
                return Ok(capture);
            }
        }
        anyhow::bail!("tcpdump does not listen on {interface}")
    }

    /// The announcements of an address since a time.
    pub(crate) fn of(&self, address: &str, since: f64) -> Vec<Announcement> {
        let heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        let of = heard
            .announcements
            .iter()
            .filter(|heard| heard.address == address && heard.at >= since);
        of.cloned().collect()
    }

    /// The duplicate address probes so far.
    pub(crate) fn probes(&self) -> Vec<Probe> {
        let heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        heard.probes.clone()
    }

    /// The number of frames so far, by kind.
    pub(crate) fn kinds(&self) -> BTreeMap<&'static str, usize> {
        let heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        heard.kinds.clone()
    }

    /// Time from `since` to the first announcement of the address with this MAC address.
    pub(crate) fn delay(&self, address: &str, mac: &str, since: f64) -> anyhow::Result<Duration> {
        eventually(
            &format!("an announcement of {address} by {mac}"),
            SHORT_TIMEOUT,
            || {
                let heard = self.of(address, since);
                let first = heard.into_iter().find(|heard| heard.mac == mac);
                Ok(first.map(|first| Duration::from_secs_f64(first.at - since)))
            },
        )
    }

    /// The same, ignoring announcements at the end of an earlier series: a series begins with two, 100 ms apart, and
    /// its later ones are a second apart.
    pub(crate) fn delay_of_series(&self, address: &str, mac: &str, since: f64) -> anyhow::Result<Duration> {
        eventually(
            &format!("another announcement of {address} by {mac}"),
            SHORT_TIMEOUT,
            || {
                let mut heard = self.of(address, since);
                heard.retain(|heard| heard.mac == mac);
                let begins = |first: &&Announcement| {
                    let next = |other: &Announcement| (0.05..0.3).contains(&(other.at - first.at));
                    heard.iter().any(next)
                };
                let first = heard.iter().find(begins);
                Ok(first.map(|first| Duration::from_secs_f64(first.at - since)))
            },
        )
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// ```text
/// 1764137.12 02:1b:00:00:00:0b > ff:ff:ff:ff:ff:ff, ethertype ARP (0x0806), length 60: …, Reply 192.168.50.60 is-at 02:…,
/// length 46
/// 1764137.12 02:1b:00:00:00:0b > ff:ff:ff:ff:ff:ff, ethertype ARP (0x0806), length 60: …, Request who-has 192.168.50.60
/// (ff:ff:ff:ff:ff:ff) tell 192.168.50.60, length 46
/// 1764137.12 02:1b:00:00:00:0b > 33:33:00:00:00:01, ethertype IPv6 (0x86dd), length 86: … > ff02::1: … ICMP6, neighbor
/// advertisement, length 32, tgt is fc00:50::600, Flags [override]
///     destination link-address option (2), length 8 (1): 02:1b:00:00:00:0b
/// ```
fn read(line: &str) -> Option<Announcement> {
    let mut words = line.split_whitespace();
    let at = words.next()?.parse().ok()?;
    let from = words.next()?;
    let after = |text: &str| {
        let rest = line.split_once(text)?.1;
        rest.split([',', ' ']).next()
    };
    let address = match words.nth(1)? {
        "ff:ff:ff:ff:ff:ff," => after("Reply ").or_else(|| {
            let asked = after("Request who-has ")?;
            // A gratuitous request asks for its sender's own address.
            (after(" tell ")? == asked).then_some(asked)
        })?,
        "33:33:00:00:00:01," if line.contains("neighbor advertisement") => after("tgt is ")?,
        _ => return None,
    };
    Some(Announcement {
        at,
        address: address.to_owned(),
        mac: after(" is-at ").unwrap_or(from).to_owned(),
    })
}

/// ```text
/// 1764137.12 02:1b:00:00:00:0b > ff:ff:ff:ff:ff:ff, ethertype ARP (0x0806), length 60: …, Request who-has 192.168.50.60 tell
/// 0.0.0.0, length 46
/// 1764137.12 02:1b:00:00:00:0b > 33:33:ff:00:06:00, ethertype IPv6 (0x86dd), length 78: … :: > ff02::1:ff00:600: … ICMP6,
/// neighbor solicitation, length 24, who has fc00:50::600
/// ```
fn read_probe(line: &str) -> Option<Probe> {
    let from = line.split_whitespace().nth(1)?.to_owned();
    let after = |text: &str| {
        let rest = line.split_once(text)?.1;
        rest.split([',', ' ']).next().map(str::to_owned)
    };
    let address = match kind(line) {
        "ARP probe" => after("who-has ")?,
        "NDP probe" => after("who has ")?,
        _ => return None,
    };
    Some(Probe { address, from })
}

fn kind(line: &str) -> &'static str {
    let is_announcement = read(line).is_some();
    match line {
        _ if is_announcement && line.contains("ethertype ARP") => "gratuitous ARP",
        _ if is_announcement => "unsolicited NA",
        _ if line.contains("who-has") && line.contains(" tell 0.0.0.0") => "ARP probe",
        _ if line.contains("who-has") => "ARP request",
        _ if line.contains("is-at") => "ARP reply",
        _ if line.contains("neighbor solicitation") && line.contains(" :: > ") => "NDP probe",
        _ if line.contains("neighbor solicitation") => "NS",
        _ if line.contains("neighbor advertisement") => "NA",
        _ if line.contains("listener report") => "MLD report",
        _ => "other",
    }
}
