//! The table: what was measured, what was wanted, and whether it was reached.

use std::fmt;

/// A bound that a figure is to keep.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Target {
    /// No less than this.
    AtLeast(f64),
    /// No more than this.
    AtMost(f64),
    /// None: the figure is there to be known.
    Reported,
}

/// What a figure is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// Times the other's.
    Ratio,
    /// Milliseconds.
    Milliseconds,
    /// Megabytes, of 10^6 bytes.
    Megabytes,
    /// Kilobytes, of 10^3 bytes.
    Kilobytes,
    /// A share of all, of which 1 is the whole.
    Share,
    /// How many.
    Count,
}

impl Unit {
    fn show(self, value: f64) -> String {
        match self {
            Unit::Ratio => format!("{value:.2}x"),
            Unit::Milliseconds if value < 10.0 => format!("{value:.3} ms"),
            Unit::Milliseconds => format!("{value:.1} ms"),
            Unit::Megabytes => format!("{value:.1} MB"),
            Unit::Kilobytes => format!("{value:.1} kB"),
            Unit::Share => format!("{:.1} %", value * 100.0),
            Unit::Count => format!("{value:.0}"),
        }
    }
}

/// One line of the table.
#[derive(Debug, Clone)]
pub struct Row {
    what: String,
    finding: Finding,
    beside: String,
}

#[derive(Debug, Clone)]
enum Finding {
    Measured {
        unit: Unit,
        value: f64,
        range: Option<(f64, f64)>,
        target: Target,
    },
    Not(String),
}

impl Row {
    /// A figure that one value per repetition was measured for: their median,
    /// with the least and the greatest.
    pub fn median(what: impl Into<String>, unit: Unit, values: &[f64], target: Target) -> Row {
        let sorted = sorted(values);
        let range = sorted.first().copied().zip(sorted.last().copied());
        Row::measured(what, unit, quantile(values, 0.5), range, target)
    }

    /// A figure over all repetitions together.
    pub fn single(what: impl Into<String>, unit: Unit, value: f64, target: Target) -> Row {
        Row::measured(what, unit, value, None, target)
    }

    fn measured(
        what: impl Into<String>,
        unit: Unit,
        value: f64,
        range: Option<(f64, f64)>,
        target: Target,
    ) -> Row {
        Row {
            what: what.into(),
            finding: Finding::Measured {
                unit,
                value,
                range,
                target,
            },
            beside: String::new(),
        }
    }

    /// A figure that could not be had, and why.
    pub fn unmeasured(what: impl Into<String>, why: impl Into<String>) -> Row {
        Row {
            what: what.into(),
            finding: Finding::Not(why.into()),
            beside: String::new(),
        }
    }

    /// Adds what is worth knowing beside the figure.
    pub fn beside(mut self, beside: impl Into<String>) -> Row {
        self.beside = beside.into();
        self
    }

    /// Whether the target was reached; `None` without target or figure.
    fn is_met(&self) -> Option<bool> {
        match self.finding {
            Finding::Measured { value, target, .. } => match target {
                Target::AtLeast(bound) => Some(value >= bound),
                Target::AtMost(bound) => Some(value <= bound),
                Target::Reported => None,
            },
            Finding::Not(_) => None,
        }
    }

    fn cells(&self, letter: char) -> [String; 6] {
        let (figure, range, verdict) = match &self.finding {
            Finding::Not(why) => (
                "-".to_owned(),
                String::new(),
                format!("not measured: {why}"),
            ),
            Finding::Measured {
                unit,
                value,
                range,
                target,
            } => {
                let range = range.map_or_else(String::new, |(least, most)| {
                    format!("{} to {}", unit.show(least), unit.show(most))
                });
                let bound = match target {
                    Target::AtLeast(bound) => format!("at least {}", unit.show(*bound)),
                    Target::AtMost(bound) => format!("at most {}", unit.show(*bound)),
                    Target::Reported => "reported".to_owned(),
                };
                let verdict = match self.is_met() {
                    Some(true) => format!("target {bound}: met"),
                    Some(false) => format!("target {bound}, got {}: MISSED", unit.show(*value)),
                    None => bound,
                };
                (unit.show(*value), range, verdict)
            }
        };
        let letter = format!("({letter})");
        [
            letter,
            self.what.clone(),
            figure,
            range,
            verdict,
            self.beside.clone(),
        ]
    }
}

impl fmt::Display for Row {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [_, what, figure, _, verdict, _] = self.cells(' ');
        write!(formatter, "{what}: {figure} ({verdict})")
    }
}

/// All lines.
#[derive(Debug, Clone, Default)]
pub struct Table(Vec<(char, Row)>);

impl Table {
    /// Adds a line of a case.
    pub fn push(&mut self, letter: char, row: Row) {
        self.0.push((letter, row));
    }
}

impl fmt::Display for Table {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let head = ["", "what", "median", "range", "verdict", "beside"].map(str::to_owned);
        let rows: Vec<[String; 6]> = self
            .0
            .iter()
            .map(|(letter, row)| row.cells(*letter))
            .collect();
        let width = |column: usize| {
            let cells = std::iter::once(&head).chain(&rows);
            cells.map(|cells| cells[column].chars().count()).max()
        };
        let widths: [usize; 6] = std::array::from_fn(|column| width(column).unwrap_or(0));
        let rule = widths.map(|width| "-".repeat(width));
        for cells in [&head, &rule].into_iter().chain(&rows) {
            for (cell, width) in cells.iter().zip(widths) {
                write!(formatter, "| {cell:width$} ")?;
            }
            writeln!(formatter, "|")?;
        }
        let judged: Vec<bool> = self.0.iter().filter_map(|(_, row)| row.is_met()).collect();
        let met = judged.iter().filter(|met| **met).count();
        writeln!(formatter, "\n{met} of {} targets met", judged.len())
    }
}

fn sorted(values: &[f64]) -> Vec<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted
}

/// The value that this share of `values` does not exceed; no number of none.
pub fn quantile(values: &[f64], share: f64) -> f64 {
    let rank = (values.len() as f64 * share).ceil() as usize;
    let sorted = sorted(values);
    sorted
        .get(rank.saturating_sub(1))
        .copied()
        .unwrap_or(f64::NAN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missed_target_says_what_was_wanted_and_what_came() {
        let mut table = Table::default();
        let values = [0.9, 0.93, 1.2];
        table.push(
            'a',
            Row::median("throughput", Unit::Ratio, &values, Target::AtLeast(1.0)),
        );
        let text = table.to_string();
        assert!(
            text.contains("target at least 1.00x, got 0.93x: MISSED"),
            "{text}"
        );
        assert!(text.contains("0.90x to 1.20x"), "{text}");
        assert!(text.ends_with("0 of 1 targets met\n"), "{text}");
    }

    #[test]
    fn what_could_not_be_measured_is_no_verdict() {
        let mut table = Table::default();
        table.push('b', Row::unmeasured("throughput", "wasmtime is absent"));
        table.push(
            'b',
            Row::single("Python", Unit::Ratio, 2.0, Target::Reported),
        );
        let text = table.to_string();
        assert!(text.contains("not measured: wasmtime is absent"), "{text}");
        assert!(text.ends_with("0 of 0 targets met\n"), "{text}");
    }

    #[test]
    fn quantiles_are_values_that_were_there() {
        let values = [4.0, 1.0, 3.0, 2.0];
        assert_eq!(
            (quantile(&values, 0.5), quantile(&values, 0.99)),
            (2.0, 4.0)
        );
        assert!(quantile(&[], 0.5).is_nan());
    }
}
