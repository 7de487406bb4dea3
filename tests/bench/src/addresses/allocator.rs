//! The allocator alone, without a cluster: runs the example of its crate in the release profile and reads its table.

use std::process::Command;

use anyhow::{Context, bail};

use crate::report::{Figure, Unit, thousands};
use lb_lab::repository;

/// Operations per second.
const GOAL: f64 = 1_000_000.0;

/// A line of the example's table.
#[derive(Clone, Debug, PartialEq)]
struct Line {
    pool: String,
    in_use: usize,
    /// Pairs of an assignment and a release, per second.
    pairs: f64,
}

/// Runs the example `rounds` times and returns a figure for each line of its table.
///
/// # Errors
/// When it does not build or run, or its output is not the table.
pub fn measure(rounds: usize) -> anyhow::Result<Vec<Figure>> {
    let mut figures: Vec<Figure> = Vec::new();
    for _ in 0..rounds {
        for line in read(&run()?)? {
            let name = format!(
                "allocator, {}, {} in use: assignments + releases",
                line.pool,
                thousands(&line.in_use.to_string())
            );
            let operations = 2.0 * line.pairs;
            match figures.iter_mut().find(|figure| figure.name == name) {
                Some(figure) => figure.samples.push(operations),
                None => figures.push(
                    Figure::new(name, Unit::PerSecond, vec![operations])
                        .goal(GOAL)
                        .higher(),
                ),
            }
        }
    }
    Ok(figures)
}

fn run() -> anyhow::Result<String> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args([
            "run",
            "--quiet",
            "--release",
            "--locked",
            "-p",
            "lb-ipam",
            "--example",
            "throughput",
        ])
        .current_dir(repository())
        .output()
        .context("start cargo")?;
    if !output.status.success() {
        bail!(
            "the allocator's example failed: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    String::from_utf8(output.stdout).context("read what the allocator's example prints")
}

fn read(table: &str) -> anyhow::Result<Vec<Line>> {
    let mut lines = table.lines();
    let head: Vec<_> = lines.next().unwrap_or_default().split_whitespace().collect();
    if head != ["pool", "in", "use", "pairs/s"] {
        bail!("the allocator's example has an unexpected table:\n{table}");
    }
    lines
        .map(|line| {
            let failed = || format!("read this line of the allocator's example: {line}");
            let fields: Vec<_> = line.split_whitespace().collect();
            let [pool, in_use, pairs] = fields[..] else {
                bail!(failed());
            };
            Ok(Line {
                pool: pool.to_owned(),
                in_use: in_use.parse().with_context(failed)?,
                pairs: pairs.parse().with_context(failed)?,
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_examples_table_is_read_line_by_line() -> anyhow::Result<()> {
        let table = "          pool    in use        pairs/s\n    10.0.0.0/8      1000        1234567\n";
        let line = Line {
            pool: "10.0.0.0/8".to_owned(),
            in_use: 1000,
            pairs: 1_234_567.0,
        };
        assert_eq!(read(table)?, [line]);
        Ok(())
    }

    #[test]
    fn another_table_is_an_error() {
        assert!(read("something else\n").is_err());
        assert!(read("pool in use pairs/s\n10.0.0.0/8 many 1\n").is_err());
    }
}
