//! Results of a benchmark: figures, as a table for people and as a list for programs.

use std::fmt::Write as _;
use std::path::Path;

use anyhow::Context;
use serde_json::{Value, json};

use super::testbed::Stack;
use lb_lab::repository;

/// The better direction of a figure.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Better {
    /// Smaller is better.
    Lower,
    /// Greater is better.
    Higher,
}

/// The unit of a value.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Unit {
    /// Seconds.
    Seconds,
    /// Milliseconds.
    Milliseconds,
    /// Microseconds.
    Microseconds,
    /// 10^6 bytes.
    Megabytes,
    /// A plain number.
    Count,
    /// API writes per hour.
    PerHour,
    /// Operations per second.
    PerSecond,
    /// Percent of one processor.
    OfProcessor,
    /// A ratio.
    Times,
}

impl Unit {
    fn symbol(self) -> &'static str {
        match self {
            Self::Seconds => "s",
            Self::Milliseconds => "ms",
            Self::Microseconds => "µs",
            Self::Megabytes => "MB",
            Self::Count => "",
            Self::PerHour => "writes/h",
            Self::PerSecond => "operations/s",
            Self::OfProcessor => "% of a processor",
            Self::Times => "times",
        }
    }

    fn decimals(self) -> usize {
        match self {
            Self::Seconds | Self::OfProcessor | Self::Times => 2,
            Self::Milliseconds | Self::Megabytes => 1,
            Self::Microseconds | Self::Count | Self::PerHour | Self::PerSecond => 0,
        }
    }

    /// A value without its unit, as in the table.
    fn number(self, value: f64) -> String {
        let decimals = match self {
            // An average of counts may be fractional.
            Self::Count if value.fract() != 0.0 => 2,
            unit => unit.decimals(),
        };
        let text = format!("{value:.decimals$}");
        if decimals == 0 { thousands(&text) } else { text }
    }

    /// A value with its unit, as in the table.
    fn show(self, value: f64) -> String {
        format!("{} {}", self.number(value), self.symbol())
            .trim_end()
            .to_owned()
    }
}

/// A measurement of one load balancer.
#[derive(Clone, Debug, PartialEq)]
pub struct Figure {
    /// The same for both load balancers.
    pub name: String,
    /// Unit of the samples.
    pub unit: Unit,
    /// The goal of lb-operator.
    pub goal: Option<f64>,
    /// The better direction.
    pub better: Better,
    /// One value for each repetition.
    pub samples: Vec<f64>,
    /// Whether the benchmark hit its timeout: then the values are lower bounds.
    pub timed_out: bool,
}

impl Figure {
    /// A figure without a goal; less is better.
    #[must_use]
    pub fn new(name: impl Into<String>, unit: Unit, samples: Vec<f64>) -> Self {
        Self {
            name: name.into(),
            unit,
            goal: None,
            better: Better::Lower,
            samples,
            timed_out: false,
        }
    }

    /// With a goal.
    #[must_use]
    pub fn goal(self, goal: impl Into<Option<f64>>) -> Self {
        Self {
            goal: goal.into(),
            ..self
        }
    }

    /// With or without a timeout.
    #[must_use]
    pub fn timed_out(self, timed_out: bool) -> Self {
        Self { timed_out, ..self }
    }

    /// More is better.
    #[must_use]
    pub fn higher(self) -> Self {
        Self {
            better: Better::Higher,
            ..self
        }
    }

    /// The worst of the same samples, as a figure with a goal of its own.
    #[must_use]
    pub fn worst(&self, name: impl Into<String>, goal: impl Into<Option<f64>>) -> Self {
        let worst = match self.better {
            Better::Lower => self.samples.iter().copied().reduce(f64::max),
            Better::Higher => self.samples.iter().copied().reduce(f64::min),
        };
        Self {
            name: name.into(),
            goal: goal.into(),
            samples: worst.into_iter().collect(),
            ..self.clone()
        }
    }

    /// The median.
    #[must_use]
    pub fn value(&self) -> f64 {
        let mut samples = self.samples.clone();
        samples.sort_by(f64::total_cmp);
        let middle = samples.len() / 2;
        match samples.get(middle) {
            None => f64::NAN,
            Some(upper) if samples.len() % 2 == 1 => *upper,
            Some(upper) => f64::midpoint(samples[middle - 1], *upper),
        }
    }

    /// Whether the goal is reached; `None` without a goal.
    #[must_use]
    pub fn met(&self) -> Option<bool> {
        let goal = self.goal?;
        let reached = match self.better {
            Better::Lower => self.value() <= goal,
            Better::Higher => self.value() >= goal,
        };
        Some(reached && !self.timed_out)
    }

    /// The median, and the range of several samples.
    fn show(&self) -> String {
        let value = self.unit.show(self.value());
        if self.timed_out {
            return format!("not within {value}");
        }
        let least = self.samples.iter().copied().fold(f64::INFINITY, f64::min);
        let large = self.samples.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let (low, high) = (self.unit.number(least), self.unit.number(large));
        if low == high {
            value
        } else {
            format!("{value} ({low}–{high})")
        }
    }

    fn json(&self, suffix: &str, goal: Option<f64>) -> Value {
        json!({
            "name": format!("{}{suffix}", self.name),
            "value": self.value(),
            "unit": self.unit.symbol(),
            "goal": goal,
            "better": match self.better {
                Better::Lower => "lower",
                Better::Higher => "higher",
            },
        })
    }
}

/// All figures of a run.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Figures of lb-operator.
    pub ours: Vec<Figure>,
    /// Figures of MetalLB.
    pub metallb: Vec<Figure>,
}

impl Report {
    /// The table, with a line for each figure.
    #[must_use]
    pub fn table(&self) -> String {
        let mut rows = vec![["measure", "ours", "goal", "met", "MetalLB", "MetalLB/ours"].map(str::to_owned)];
        for name in self.names() {
            rows.push(row(name, find(&self.ours, name), find(&self.metallb, name)));
        }
        let widths: [usize; 6] = std::array::from_fn(|column| {
            rows.iter()
                .map(|row| row[column].chars().count())
                .max()
                .unwrap_or(0)
        });
        let mut text = String::new();
        for (number, row) in rows.iter().enumerate() {
            let mut line = String::new();
            for (column, (cell, width)) in row.iter().zip(widths).enumerate() {
                // Names to the left, values to the right.
                let _ = match column {
                    0 => write!(line, "{cell:<width$}"),
                    _ => write!(line, "  {cell:>width$}"),
                };
            }
            let _ = writeln!(text, "{}", line.trim_end());
            if number == 0 {
                let _ = writeln!(
                    text,
                    "{}",
                    "─".repeat(widths.iter().sum::<usize>() + 2 * (widths.len() - 1))
                );
            }
        }
        text
    }

    /// The list, with an object for each figure; those of MetalLB have no goal.
    #[must_use]
    pub fn json(&self) -> Value {
        let ours = self.ours.iter().map(|figure| figure.json("", figure.goal));
        let metallb = self.metallb.iter().map(|figure| figure.json(" (MetalLB)", None));
        ours.chain(metallb).collect()
    }

    /// Prints the table and writes the list to `target/bench/<name>.json`. Does nothing without figures.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn publish(&self, name: &str) -> anyhow::Result<()> {
        if self.ours.is_empty() && self.metallb.is_empty() {
            return Ok(());
        }
        let path = repository().join(format!("target/bench/{name}.json"));
        self.save(&path)?;
        println!(
            "\n{}\nValues are medians, with the range where a measure was taken more than once. MB are 10^6 bytes. {} processors, \
             load {}.\n{}",
            self.table(),
            std::thread::available_parallelism().map_or(0, usize::from),
            load(),
            path.display()
        );
        Ok(())
    }

    /// The figures of a load balancer.
    pub fn of(&mut self, stack: Stack) -> &mut Vec<Figure> {
        match stack {
            Stack::Ours => &mut self.ours,
            Stack::MetalLb => &mut self.metallb,
        }
    }

    /// Writes the list.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn save(&self, path: &Path) -> anyhow::Result<()> {
        let failed = || format!("write {}", path.display());
        if let Some(directory) = path.parent() {
            std::fs::create_dir_all(directory).with_context(failed)?;
        }
        let text = serde_json::to_string_pretty(&self.json()).with_context(failed)?;
        std::fs::write(path, format!("{text}\n")).with_context(failed)
    }

    /// The names of all figures, each once, in the order of measurement.
    fn names(&self) -> Vec<&str> {
        let mut names: Vec<&str> = Vec::new();
        for figure in self.ours.iter().chain(&self.metallb) {
            if !names.contains(&figure.name.as_str()) {
                names.push(&figure.name);
            }
        }
        names
    }
}

fn find<'a>(figures: &'a [Figure], name: &str) -> Option<&'a Figure> {
    figures.iter().find(|figure| figure.name == name)
}

fn row(name: &str, ours: Option<&Figure>, metallb: Option<&Figure>) -> [String; 6] {
    let show = |figure: Option<&Figure>| figure.map(Figure::show).unwrap_or_default();
    let goal = ours.and_then(|figure| Some(figure.unit.show(figure.goal?)));
    let met = ours
        .and_then(Figure::met)
        .map(|met| if met { "yes" } else { "no" });
    let ratio = match (ours, metallb) {
        (Some(ours), Some(metallb)) if ours.value() > 0.0 => {
            let least = if metallb.timed_out { "> " } else { "" };
            format!("{least}{:.1}", metallb.value() / ours.value())
        }
        _ => String::new(),
    };
    [
        name.to_owned(),
        show(ours),
        goal.unwrap_or_default(),
        met.unwrap_or_default().to_owned(),
        show(metallb),
        ratio,
    ]
}

/// The machine's load averages: a busy machine distorts figures.
fn load() -> String {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').take(3).collect::<Vec<_>>().join(" ")
}

/// As in `10,000 Services`.
#[must_use]
pub fn services(count: usize) -> String {
    format!("{} Services", thousands(&count.to_string()))
}

/// Separates digits in groups of three.
pub(super) fn thousands(digits: &str) -> String {
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) && text != "-" {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_value_is_the_median_and_the_range_is_shown() {
        let figure = Figure::new("a", Unit::Seconds, vec![0.9, 0.2, 0.4]);
        assert_eq!(figure.show(), "0.40 s (0.20–0.90)");
        assert_eq!(Figure::new("a", Unit::Seconds, vec![0.4]).show(), "0.40 s");
        assert_eq!(
            Figure::new("a", Unit::Count, vec![1000.0, 3000.0]).value(),
            2000.0
        );
    }

    #[test]
    fn the_worst_of_the_samples_has_a_goal_of_its_own() {
        let figure = Figure::new("a", Unit::Seconds, vec![0.1, 0.6, 0.2]).goal(0.25);
        let worst = figure.worst("a, worst", 0.5);
        assert_eq!((figure.met(), worst.met()), (Some(true), Some(false)));
        assert_eq!(worst.show(), "0.60 s");
        assert_eq!(figure.higher().worst("a, worst", 0.1).met(), Some(true));
    }

    #[test]
    fn a_goal_is_met_in_the_direction_that_is_better() {
        let figure = |value| Figure::new("a", Unit::PerSecond, vec![value]).goal(10.0);
        assert_eq!(figure(9.0).met(), Some(true));
        assert_eq!(figure(9.0).higher().met(), Some(false));
        assert_eq!(figure(11.0).higher().met(), Some(true));
        assert_eq!(Figure::new("a", Unit::Count, vec![0.0]).met(), None);
    }

    #[test]
    fn what_was_not_waited_for_meets_no_goal_and_says_so() {
        let figure = Figure::new("a", Unit::Seconds, vec![900.0])
            .goal(1000.0)
            .timed_out(true);
        assert_eq!(figure.met(), Some(false));
        assert_eq!(figure.show(), "not within 900.00 s");
    }

    #[test]
    fn table_compares_both_and_list_has_each_figure() {
        let report = Report {
            ours: vec![Figure::new("1,000 Services", Unit::Seconds, vec![0.5]).goal(1.0)],
            metallb: vec![
                Figure::new("1,000 Services", Unit::Seconds, vec![48.0]),
                Figure::new("only theirs", Unit::Count, vec![1_234_567.0]),
            ],
        };
        let table = report.table();
        let lines: Vec<_> = table.lines().collect();
        assert_eq!(
            lines[2].split_whitespace().collect::<Vec<_>>(),
            [
                "1,000", "Services", "0.50", "s", "1.00", "s", "yes", "48.00", "s", "96.0"
            ]
        );
        assert!(lines[3].contains("1,234,567"), "{table}");
        assert_eq!(
            report.json(),
            json!([
                {"name": "1,000 Services", "value": 0.5, "unit": "s", "goal": 1.0, "better": "lower"},
                {"name": "1,000 Services (MetalLB)", "value": 48.0, "unit": "s", "goal": null, "better": "lower"},
                {"name": "only theirs (MetalLB)", "value": 1_234_567.0, "unit": "", "goal": null, "better": "lower"},
            ])
        );
    }

    #[test]
    fn numbers_are_grouped_by_thousands() {
        for (count, text) in [(999, "999"), (1000, "1,000"), (1_234_567, "1,234,567")] {
            assert_eq!(services(count), format!("{text} Services"));
        }
    }
}
