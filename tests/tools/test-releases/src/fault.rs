//! Faulty speakers, with faults that only show when they run: `--version` works, so their image passes the checks before an
//! upgrade.

use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context as _, bail};
use futures::StreamExt as _;
use lb_net::{Link, Snapshot};
use lb_runtime::CommonArgs;
use lb_speaker::args::Config;

/// Index of the loopback interface in every network namespace.
const LOOPBACK_INDEX: u32 = 1;

/// The fault of a speaker.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Fault {
    /// `crashes`: exits at once with an error.
    Crashes,
    /// `silent`: takes the loopback interface for the LAN. It becomes ready and reports its addresses as announced, to other
    /// speakers and to the API, but no machine on the LAN gets an answer.
    Silent,
    /// `dies:20`: works, and exits after this number of seconds.
    Dies(Duration),
}

impl FromStr for Fault {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> anyhow::Result<Self> {
        match text.split_once(':') {
            None if text == "crashes" => Ok(Self::Crashes),
            None if text == "silent" => Ok(Self::Silent),
            Some(("dies", seconds)) => {
                let seconds = seconds.parse().with_context(|| format!("read {text:?}"))?;
                Ok(Self::Dies(Duration::from_secs(seconds)))
            }
            _ => bail!("unknown fault {text:?}: use crashes, silent or dies:SECONDS"),
        }
    }
}

/// Runs a faulty speaker.
pub(crate) fn speaker(fault: Fault, args: &CommonArgs, version: &str, config: Config) -> anyhow::Result<()> {
    match fault {
        Fault::Crashes => bail!("this release is broken: it cannot start"),
        Fault::Silent => lb_runtime::run(args, version, |context| async {
            let links = lb_speaker::packet::links().context("watch network interfaces")?;
            lb_speaker::run_on(context, config, links.map(|links| mislead(&links))).await
        }),
        Fault::Dies(after) => lb_runtime::run(args, version, |context| async move {
            tokio::select! {
                result = lb_speaker::run(context, config) => result,
                () = tokio::time::sleep(after) => bail!("this release is broken: it ends after {after:?}"),
            }
        }),
    }
}

/// Keeps only the first real interface, with the index of the loopback: packet sockets for it do not reach the LAN.
fn mislead(snapshot: &Snapshot) -> Snapshot {
    let is_real = |link: &&Link| !link.loopback && !link.enslaved && !link.addresses.is_empty();
    let first = snapshot.values().find(is_real).cloned();
    let other = first.map(|link| Link {
        index: LOOPBACK_INDEX,
        ..link
    });
    other.into_iter().map(|link| (LOOPBACK_INDEX, link)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_faults_by_name() {
        assert_eq!("crashes".parse::<Fault>().unwrap(), Fault::Crashes);
        assert_eq!("silent".parse::<Fault>().unwrap(), Fault::Silent);
        let dies = "dies:20".parse::<Fault>().unwrap();
        assert_eq!(dies, Fault::Dies(Duration::from_secs(20)));
        for wrong in ["", "dies", "dies:soon", "silent:1"] {
            assert!(wrong.parse::<Fault>().is_err(), "{wrong}");
        }
    }
}
