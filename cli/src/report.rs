//! A result: text for people, the same data as JSON or YAML, and whether there are problems.

use std::io::{self, Write};
use std::process::ExitCode;

use serde::Serialize;

use crate::args::Format;
use crate::snapshot::Unread;

/// Exit code if problems were found.
pub(crate) const PROBLEMS: u8 = 1;
/// Exit code if it was not possible to look.
pub(crate) const COULD_NOT_LOOK: u8 = 2;

/// The result of a command.
pub(crate) trait Report: Serialize {
    /// The text, with colors; `wide` for more columns.
    fn text(&self, wide: bool) -> String;
    /// Whether problems were found.
    fn has_problems(&self) -> bool;
    /// The kinds that could not be read, with the reason.
    fn unread(&self) -> &[Unread];
}

/// Prints a report to standard output. Returns the exit code.
pub(crate) fn print(report: &impl Report, format: Option<Format>) -> anyhow::Result<ExitCode> {
    let text = match format {
        None => report.text(false),
        Some(Format::Wide) => report.text(true),
        Some(Format::Json) => serde_json::to_string_pretty(report)? + "\n",
        Some(Format::Yaml) => serde_yaml::to_string(report)?,
        Some(Format::Junit) => anyhow::bail!("-o junit is for check only"),
    };
    write(&text)?;
    Ok(code(report))
}

/// The exit code after looking: what was not read may hide problems.
pub(crate) fn code(report: &impl Report) -> ExitCode {
    match (report.has_problems(), report.unread().is_empty()) {
        (true, _) => ExitCode::from(PROBLEMS),
        (false, true) => ExitCode::SUCCESS,
        (false, false) => ExitCode::from(COULD_NOT_LOOK),
    }
}

/// The text about what could not be read; empty if all was read.
pub(crate) fn unread_text(unread: &[Unread]) -> String {
    if unread.is_empty() {
        return String::new();
    }
    let lines: Vec<_> = unread.iter().map(|one| format!("  {one}\n")).collect();
    format!("Not read, so the answer may be incomplete:\n{}", lines.concat())
}

/// Writes to standard output, without colors where they do not belong. A reader that is gone is no error.
pub(crate) fn write(text: &str) -> io::Result<()> {
    let mut out = anstream::stdout();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        result => result,
    }
}

/// Writes a line to standard error: progress and warnings.
pub(crate) fn note(text: &str) {
    let _ = writeln!(anstream::stderr(), "{text}");
}

/// An error with its sources. Many errors have the text of their source in their own.
pub(crate) fn chain(error: &anyhow::Error) -> String {
    error
        .chain()
        .fold(String::new(), |text, one| match one.to_string() {
            one if text.is_empty() => one,
            one if text.ends_with(&one) => text,
            one => format!("{text}: {one}"),
        })
}

#[cfg(test)]
mod tests {
    #[test]
    fn text_of_a_source_is_not_repeated() {
        let error = anyhow::anyhow!("no such file")
            .context("cannot read: no such file")
            .context("start");
        assert_eq!(super::chain(&error), "start: cannot read: no such file");
    }
}
