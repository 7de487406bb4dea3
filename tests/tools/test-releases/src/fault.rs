//! Speakers that are broken, each in a way of its own that no check of a build would find. All of them answer to
//! `--version`, so their image can be pulled and tried; what is wrong shows when they run.

use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context as _, bail};
use futures::StreamExt as _;
use lb_net::{Link, Snapshot};
use lb_runtime::CommonArgs;
use lb_speaker::args::Config;

/// Number of the loopback interface, in every network of Linux.
const LOOPBACK: u32 = 1;

/// What is wrong with a speaker.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Fault {
    /// `crashes`: it ends at once, with an error.
    Crashes,
    /// `silent`: it takes another interface for the LAN. It becomes ready, tells the other speakers that it has its
    /// addresses and the API that it announces them, and no machine on the LAN ever hears of it.
    Silent,
    /// `dies:20`: it does all that it should, and after so many seconds ends without a word.
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
            _ => bail!("{text:?} is none of crashes, silent and dies:SECONDS"),
        }
    }
}

/// Runs a speaker that is broken.
pub(crate) fn speaker(fault: Fault, args: &CommonArgs, version: &str, config: Config) -> anyhow::Result<()> {
    match fault {
        Fault::Crashes => bail!("this release is broken: it cannot start"),
        Fault::Silent => lb_runtime::run(args, version, |context| async {
            let links = lb_speaker::watch::links().context("watch network interfaces")?;
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

/// Only the first real interface is left, under the number of the loopback: packet sockets for it hear and say nothing on
/// the LAN.
fn mislead(snapshot: &Snapshot) -> Snapshot {
    let is_real = |link: &&Link| !link.loopback && !link.enslaved && !link.addresses.is_empty();
    let first = snapshot.values().find(is_real).cloned();
    let other = first.map(|link| Link {
        index: LOOPBACK,
        ..link
    });
    other.into_iter().map(|link| (LOOPBACK, link)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_is_read_from_its_name() {
        assert_eq!("crashes".parse::<Fault>().unwrap(), Fault::Crashes);
        assert_eq!("silent".parse::<Fault>().unwrap(), Fault::Silent);
        let dies = "dies:20".parse::<Fault>().unwrap();
        assert_eq!(dies, Fault::Dies(Duration::from_secs(20)));
        for wrong in ["", "dies", "dies:soon", "silent:1"] {
            assert!(wrong.parse::<Fault>().is_err(), "{wrong}");
        }
    }
}
