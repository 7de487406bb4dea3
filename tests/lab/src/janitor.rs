//! Takes a lab down when whoever started it ends, however that comes about.
//!
//! The janitor is a process in a session of its own, so that no Ctrl-C reaches it, and waits for a line on its standard
//! input. The line `keep` dismisses it. A lab that has been started anew since then is not its own any more. The end of the input means that the holder of the other end is gone.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, bail};

use super::layout::Layout;

const SCRIPT: &str = r#"read -r word; [ "$word" = keep ] || exec "$0" down --name "$1" --token "$2""#;

#[derive(Debug)]
pub(super) struct Janitor {
    process: Child,
}

impl Janitor {
    pub(super) fn watch(layout: &Layout) -> anyhow::Result<Self> {
        let process = Command::new("setsid")
            .args(["bash", "-c", SCRIPT])
            .arg(program()?)
            .args([&layout.name, &layout.token])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .context("start the lab's janitor")?;
        Ok(Self { process })
    }

    /// Lets the lab stand.
    pub(super) fn dismiss(mut self) -> anyhow::Result<()> {
        let mut input = self.process.stdin.take().context("the janitor has no input")?;
        input.write_all(b"keep\n").context("dismiss the lab's janitor")?;
        Ok(())
    }
}

impl Drop for Janitor {
    fn drop(&mut self) {
        drop(self.process.stdin.take());
        match self.process.wait() {
            Ok(status) if status.success() => {}
            outcome => {
                eprintln!("the lab's janitor did not finish: {outcome:?}; `lab down` removes what is left")
            }
        }
    }
}

/// The `lab` program: cargo puts it beside other programs and one directory above tests.
///
/// # Errors
/// When it has not been built.
pub fn program() -> anyhow::Result<PathBuf> {
    let own = std::env::current_exe().context("find the running program")?;
    let path = own
        .ancestors()
        .skip(1)
        .take(2)
        .map(|directory| directory.join("lab"))
        .find(|path| path.is_file());
    match path {
        Some(path) => Ok(path),
        None => bail!(
            "the program `lab` is not beside {}: run `cargo build -p lb-lab`",
            own.display()
        ),
    }
}
