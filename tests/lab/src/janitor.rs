//! Takes a lab down when the process that started it ends, for whatever reason.
//!
//! The janitor is a process in a session of its own, out of reach of Ctrl-C. It reads one line from its standard input:
//! `keep` ends it; the end of the input means that the other process is gone. By the token it knows whether a lab of the
//! same name has been started since.

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

    /// Keeps the lab running.
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
                eprintln!("the lab's janitor failed: {outcome:?}: remove the lab with `lab down`")
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
