//! Text for a terminal: tables, wrapped lines, colors and ages. Colors are written always; the stream removes them where
//! they do not belong.

use std::fmt::Write as _;

use anstyle::{AnsiColor, Style};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde::Serialize;
use unicode_width::UnicodeWidthStr;

/// Width that text is wrapped at.
pub(crate) const WIDTH: usize = 110;

/// The verdict of a step or a check.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum Verdict {
    /// No problem.
    Ok,
    /// Not reached, because an earlier step has a problem; or nothing to look at.
    Skipped,
    /// Could not look.
    Unknown,
    /// A problem that stops nothing now.
    Warning,
    /// A problem.
    Problem,
}

impl Verdict {
    /// The word, in capitals where a person has to act.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Skipped => "-",
            Self::Unknown => "unknown",
            Self::Warning => "WARNING",
            Self::Problem => "PROBLEM",
        }
    }

    fn style(self) -> Style {
        match self {
            Self::Ok => AnsiColor::Green.on_default(),
            Self::Skipped => AnsiColor::BrightBlack.on_default(),
            Self::Unknown => AnsiColor::Magenta.on_default(),
            Self::Warning => AnsiColor::Yellow.on_default().bold(),
            Self::Problem => AnsiColor::Red.on_default().bold(),
        }
    }

    /// The word with its color, padded to the longest one.
    pub(crate) fn cell(self) -> String {
        let style = self.style();
        format!("{style}{:<7}{style:#}", self.word())
    }
}

/// A title.
pub(crate) fn bold(text: &str) -> String {
    let style = Style::new().bold();
    format!("{style}{text}{style:#}")
}

/// A table with two blanks between columns, each line with this indent.
pub(crate) fn table<R: AsRef<[String]>>(indent: usize, headers: &[&str], rows: &[R]) -> String {
    let mut widths: Vec<usize> = headers.iter().map(|header| header.width()).collect();
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row.as_ref()) {
            *width = (*width).max(cell.width());
        }
    }
    let mut text = String::new();
    let header: Vec<_> = headers.iter().map(|header| (*header).to_owned()).collect();
    let mut line = |cells: &[String]| {
        let mut line = " ".repeat(indent);
        for (cell, width) in cells.iter().zip(&widths) {
            let padding = width.saturating_sub(cell.width());
            let _ = write!(line, "{cell}{}  ", " ".repeat(padding));
        }
        text.push_str(line.trim_end());
        text.push('\n');
    };
    line(&header);
    for row in rows {
        line(row.as_ref());
    }
    text
}

/// Wraps a text; lines after the first begin with this indent. Words are never broken.
pub(crate) fn wrapped(text: &str, first_at: usize, indent: usize) -> String {
    let mut wrapped = String::new();
    let mut at = first_at;
    for word in text.split(' ') {
        if !wrapped.is_empty() && at + 1 + word.width() > WIDTH {
            wrapped.push('\n');
            wrapped.push_str(&" ".repeat(indent));
            at = indent;
        } else if !wrapped.is_empty() {
            wrapped.push(' ');
            at += 1;
        }
        wrapped.push_str(word);
        at += word.width();
    }
    wrapped
}

/// The age of a time as kubectl prints it: `45s`, `12m`, `5h`, `3d`.
pub(crate) fn age(now: Timestamp, since: Timestamp) -> String {
    let seconds = (now.as_second() - since.as_second()).max(0);
    match seconds {
        0..120 => format!("{seconds}s"),
        120..7_200 => format!("{}m", seconds / 60),
        7_200..172_800 => format!("{}h", seconds / 3_600),
        _ => format!("{}d", seconds / 86_400),
    }
}

/// The age of a time in an object; `?` without one.
pub(crate) fn age_of(now: Timestamp, since: Option<&Time>) -> String {
    since.map_or_else(|| "?".to_owned(), |since| age(now, since.0))
}

/// `1 address`, `2 addresses`.
pub(crate) fn count(number: usize, one: &str, many: &str) -> String {
    format!("{number} {}", if number == 1 { one } else { many })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let rows = [
            ["a".to_owned(), "bb".to_owned()],
            ["ü10".to_owned(), String::new()],
        ];
        assert_eq!(table(1, &["X", "Y"], &rows), " X    Y\n a    bb\n ü10\n");
    }

    #[test]
    fn words_are_wrapped_and_not_broken() {
        let text = format!("{} {}", "a".repeat(60), "b".repeat(60));
        let lines = wrapped(&text, 10, 4);
        assert_eq!(lines, format!("{}\n    {}", "a".repeat(60), "b".repeat(60)));
    }

    #[test]
    fn ages_have_one_unit() {
        let at = |second| Timestamp::from_second(second).unwrap();
        let ages = [5, 119, 120, 7_199, 7_200, 172_800].map(|second| age(at(second), at(0)));
        assert_eq!(ages, ["5s", "119s", "2m", "119m", "2h", "2d"]);
        assert_eq!(age(at(0), at(9)), "0s", "clocks differ");
    }
}
