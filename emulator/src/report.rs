//! Runs of one scenario side by side: policies in columns, means over seeds.
//!
//! | file | what it is |
//! |---|---|
//! | `estimate` | means with confidence intervals |
//! | `sheet` | tables, as text, Markdown and HTML |
//! | `page` | all of it as one HTML page |
//!
//! It gives texts; whoever asks writes them. They depend on the runs alone.

pub mod estimate;
pub mod page;
pub mod sheet;

use std::collections::BTreeSet;
use std::fmt::Write as _;

use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha256};

use self::estimate::{Estimate, number};
use self::sheet::Sheet;
use crate::simulate::report::{AtNode, Calls, Report};

/// A number that a run comes to.
#[derive(Clone, Copy)]
pub struct Metric {
    /// Its name, with its unit last.
    pub name: &'static str,
    of: fn(&Report) -> f64,
}

/// Functions that a text for a terminal shows, those that are called most.
const FUNCTIONS_SHOWN: usize = 20;

/// Numbers of each function or class in tables.
const KIND_NUMBERS: usize = 3;

/// The list of metrics, in the order of reports.
pub const METRICS: [Metric; 17] = [
    metric("calls", |of| of.all.calls as f64),
    metric("answered %", |of| percent(answered(&of.all), of.all.calls)),
    metric("mean ms", |of| of.all.latency.mean),
    metric("p50 ms", |of| of.all.latency.p50),
    metric("p90 ms", |of| of.all.latency.p90),
    metric("p99 ms", |of| of.all.latency.p99),
    metric("mean wait ms", |of| of.all.waits.mean),
    metric("ran elsewhere %", |of| {
        percent(of.all.elsewhere, answered(&of.all))
    }),
    metric("cold starts %", |of| {
        percent(of.all.cold, answered(&of.all))
    }),
    metric("offers to neighbours", |of| of.offers_to_neighbours as f64),
    metric("offers to regions", |of| of.offers_to_regions as f64),
    metric("utilisation %", utilisation),
    metric("fairness (Jain)", |of| of.fairness),
    metric("cost", |of| of.cost),
    metric("energy kJ", |of| of.energy / 1e3),
    metric("gossip MB", |of| of.gossip_bytes as f64 / 1e6),
    metric("bodies and code MB", |of| {
        (of.body_bytes as f64 + of.code_bytes as f64) / 1e6
    }),
];

const fn metric(name: &'static str, of: fn(&Report) -> f64) -> Metric {
    Metric { name, of }
}

fn answered(calls: &Calls) -> u64 {
    calls.outcomes.get("answered").copied().unwrap_or(0)
}

/// 0 of none.
fn percent(part: u64, whole: u64) -> f64 {
    100.0 * part as f64 / whole.max(1) as f64
}

/// The mean over nodes, in percent.
fn utilisation(report: &Report) -> f64 {
    let sum: f64 = report.nodes.values().map(|node| node.utilisation).sum();
    100.0 * sum / report.nodes.len().max(1) as f64
}

/// Runs of one scenario.
#[derive(Debug, Clone, PartialEq)]
pub struct Comparison {
    /// Policy by policy, each with its seeds in order.
    runs: Vec<Report>,
}

/// The runs of one policy.
#[derive(Debug, Clone, Copy)]
pub struct Column<'a> {
    /// Its name; `as written` of those that the scenario names.
    pub name: &'a str,
    /// By seed.
    pub runs: &'a [Report],
}

impl<'a> Column<'a> {
    fn of(runs: &'a [Report]) -> Column<'a> {
        let name = runs.first().and_then(|run| run.policy.as_deref());
        Column {
            name: name.unwrap_or("as written"),
            runs,
        }
    }

    fn estimate(&self, of: impl Fn(&Report) -> f64) -> Estimate {
        Estimate::of(&self.runs.iter().map(of).collect::<Vec<_>>())
    }
}

impl Comparison {
    /// Of runs, policy by policy.
    pub fn new(runs: Vec<Report>) -> Comparison {
        Comparison { runs }
    }

    /// The name of the scenario.
    pub fn scenario(&self) -> &str {
        self.runs.first().map_or("", |run| run.scenario.as_str())
    }

    /// The runs by policy.
    pub fn columns(&self) -> Vec<Column<'_>> {
        let policies = self.runs.chunk_by(|one, next| one.policy == next.policy);
        policies.map(Column::of).collect()
    }

    /// SHA-256 of all runs, in hexadecimal digits: the same scenario, seeds,
    /// policies and version give the same.
    pub fn digest(&self) -> String {
        let mut sum = Sha256::new();
        self.runs.iter().for_each(|run| sum.update(run.json()));
        let mut digest = String::new();
        for byte in sum.finalize() {
            // Writing to a text never fails.
            let _ = write!(digest, "{byte:02x}");
        }
        digest
    }

    /// Seeds and runs in a sentence.
    fn about(&self) -> String {
        let seeds: BTreeSet<u64> = self.runs.iter().map(|run| run.seed).collect();
        let seeds = match (seeds.first(), seeds.last()) {
            (Some(first), Some(last)) if first != last => format!("seeds {first} to {last}"),
            (first, _) => format!("seed {}", first.copied().unwrap_or(0)),
        };
        let intervals = match self.columns().iter().any(|column| column.runs.len() > 1) {
            true => "; means \u{b1} 95 % confidence",
            false => "",
        };
        format!("{}, {seeds}{intervals}", self.scenario())
    }

    /// A table of one number for each policy and row.
    fn sheet<'a>(&self, title: &str, rows: impl Iterator<Item = Row<'a>>) -> Sheet {
        let columns = self.columns();
        let mut head = vec![String::new()];
        head.extend(columns.iter().map(|column| column.name.to_owned()));
        let row = |(name, of): Row<'a>| {
            let cells = columns.iter().map(|column| column.estimate(&of).text());
            std::iter::once(name).chain(cells).collect()
        };
        Sheet {
            title: title.to_owned(),
            head,
            rows: rows.map(row).collect(),
        }
    }

    /// The metrics of all calls.
    fn overview(&self) -> Sheet {
        let is_there = |metric: &Metric| self.runs.iter().any(|run| (metric.of)(run) != 0.0);
        let rows = METRICS.into_iter().filter(is_there).map(|metric| {
            let of: Box<dyn Fn(&Report) -> f64> = Box::new(metric.of);
            (metric.name.to_owned(), of)
        });
        self.sheet("All calls", rows)
    }

    /// How calls ended, in percent.
    fn outcomes(&self) -> Sheet {
        let names: BTreeSet<&str> = self
            .runs
            .iter()
            .flat_map(|run| run.all.outcomes.keys().copied())
            .collect();
        let rows = names.into_iter().map(|name| {
            let of: Box<dyn Fn(&Report) -> f64> = Box::new(move |run: &Report| {
                let count = run.all.outcomes.get(name).copied().unwrap_or(0);
                percent(count, run.all.calls)
            });
            (format!("{name} %"), of)
        });
        self.sheet("Outcomes", rows)
    }

    /// Three rows for each function or class; in the order of names, or those first
    /// that are called most.
    fn kinds(&self, title: &str, kinds: fn(&Report) -> Kinds<'_>, by_calls: bool) -> Sheet {
        let numbers: [KindNumber; KIND_NUMBERS] = [
            ("answered %", |calls| percent(answered(calls), calls.calls)),
            ("mean ms", |calls| calls.latency.mean),
            ("p99 ms", |calls| calls.latency.p99),
        ];
        let mut names: Vec<(u64, String)> = self.runs.first().map_or_else(Vec::new, |run| {
            let names = kinds(run).map(|(name, calls)| (calls.calls, name.clone()));
            names.collect()
        });
        if by_calls {
            names.sort_by_key(|(calls, _)| std::cmp::Reverse(*calls));
        }
        let names = names.into_iter().map(|(_, name)| name);
        let rows = names.flat_map(|name| {
            numbers.map(|(what, number)| {
                let title = format!("{name} {what}");
                let name = name.clone();
                let of: Box<dyn Fn(&Report) -> f64> = Box::new(move |run: &Report| {
                    let calls = kinds(run).find(|(found, _)| **found == name);
                    calls.map_or(0.0, |(_, calls)| number(calls))
                });
                (title, of)
            })
        });
        self.sheet(title, rows)
    }

    /// One row for each node.
    fn nodes(&self, title: &str, number: fn(&AtNode) -> f64) -> Sheet {
        let names: Vec<String> = self
            .runs
            .first()
            .map_or_else(Vec::new, |run| run.nodes.keys().cloned().collect());
        let rows = names.into_iter().map(|name| {
            let title = name.clone();
            let of: Box<dyn Fn(&Report) -> f64> =
                Box::new(move |run: &Report| run.nodes.get(&name).map_or(0.0, number));
            (title, of)
        });
        self.sheet(title, rows)
    }

    /// Where calls of each class of nodes ran, of one policy.
    fn places(&self, column: &Column<'_>) -> Sheet {
        let (from, to) = places(column);
        let mut head = vec!["from \\ ran at".to_owned()];
        head.extend(to.iter().map(|to| (*to).to_owned()));
        let row = |from: &&str| {
            let cell = |to: &&str| number(moved(column, from, to));
            std::iter::once((*from).to_owned())
                .chain(to.iter().map(cell))
                .collect()
        };
        Sheet {
            title: format!("Where calls ran: {}", column.name),
            head,
            rows: from.iter().map(row).collect(),
        }
    }

    /// All tables.
    pub fn sheets(&self) -> Vec<Sheet> {
        let mut sheets = vec![
            self.overview(),
            self.outcomes(),
            self.kinds("Functions", |run| Box::new(run.functions.iter()), false),
            self.kinds("Classes", |run| Box::new(run.classes.iter()), false),
            self.nodes("Calls that nodes ran", |node| node.ran as f64),
            self.nodes("Utilisation of nodes, %", |node| 100.0 * node.utilisation),
            self.nodes("Mean latency of nodes' users, ms", |node| node.mean),
        ];
        sheets.extend(self.columns().iter().map(|column| self.places(column)));
        sheets
    }

    /// For a terminal: what matters most.
    pub fn text(&self) -> String {
        let mut overview = self.overview();
        if let Some(corner) = overview.head.first_mut() {
            "all calls".clone_into(corner);
        }
        let mut functions = self.kinds("", |run| Box::new(run.functions.iter()), true);
        let (rows, shown) = (functions.rows.len(), FUNCTIONS_SHOWN * KIND_NUMBERS);
        functions.rows.truncate(shown);
        let more = rows.saturating_sub(shown) / KIND_NUMBERS;
        let more = match more {
            0 => String::new(),
            more => format!("and {more} more: --out has all\n"),
        };
        if let Some(corner) = functions.head.first_mut() {
            "functions".clone_into(corner);
        }
        format!(
            "{}\n\n{}\n{}{more}\ndigest {}\n",
            self.about(),
            overview.text(),
            functions.text(),
            self.digest()
        )
    }

    /// As Markdown, with `plots` that lie beside it: their titles and files.
    pub fn markdown(&self, plots: &[(String, String)]) -> String {
        let mut text = format!("# {}\n\n{}\n\n", self.scenario(), self.about());
        for sheet in self.sheets() {
            text.push_str(&sheet.markdown());
        }
        for (title, file) in plots {
            let _ = writeln!(text, "## {title}\n\n![{title}]({file})\n");
        }
        let _ = writeln!(text, "digest `{}`", self.digest());
        text
    }

    /// For machines: means by policy, every run, and the digest.
    pub fn json(&self) -> Value {
        let policies = self.columns().into_iter().map(|column| {
            let metrics = METRICS.iter().map(|metric| {
                let estimate = json!(column.estimate(metric.of));
                (metric.name.to_owned(), estimate)
            });
            json!({
                "policy": column.name,
                "runs": column.runs.len(),
                "metrics": metrics.collect::<Map<String, Value>>(),
            })
        });
        json!({
            "scenario": self.scenario(),
            "version": env!("CARGO_PKG_VERSION"),
            "policies": policies.collect::<Vec<_>>(),
            "runs": self.runs,
            "digest": self.digest(),
        })
    }

    /// As CSV: a line for all calls, each function, class and node of each run.
    pub fn csv(&self) -> String {
        let mut text = "policy,seed,kind,name,calls,answered,elsewhere,cold,mean-ms,p50-ms,p90-ms,\
                        p99-ms,p999-ms,most-ms,ran,guests,starts,utilisation\n"
            .to_owned();
        for run in &self.runs {
            let policy = run.policy.as_deref().unwrap_or("as written");
            let begin = format!("{},{}", quoted(policy), run.seed);
            calls_line(&mut text, &begin, "all", "", &run.all);
            for (name, calls) in &run.functions {
                calls_line(&mut text, &begin, "function", name, calls);
            }
            for (name, calls) in &run.classes {
                calls_line(&mut text, &begin, "class", name, calls);
            }
            for (name, node) in &run.nodes {
                let calls: u64 = node.outcomes.values().sum();
                let answered = node.outcomes.get("answered").copied().unwrap_or(0);
                let _ = writeln!(
                    text,
                    "{begin},node,{},{calls},{answered},,,{},,,,,,{},{},{},{}",
                    quoted(name),
                    node.mean,
                    node.ran,
                    node.guests,
                    node.starts,
                    node.utilisation
                );
            }
        }
        text
    }
}

/// A row of a table: its name, and its number of a run.
type Row<'a> = (String, Box<dyn Fn(&Report) -> f64 + 'a>);

/// A number of the calls of one kind, with its name.
type KindNumber = (&'static str, fn(&Calls) -> f64);

/// Calls by function or class.
type Kinds<'a> = Box<dyn Iterator<Item = (&'a String, &'a Calls)> + 'a>;

/// Classes of nodes where calls came, and where they ran.
pub(crate) fn places<'a>(column: &Column<'a>) -> (Vec<&'a str>, Vec<&'a str>) {
    let rows = column.runs.iter().flat_map(|run| &run.ran);
    let from: BTreeSet<&str> = rows.clone().map(|(from, _)| from.as_str()).collect();
    let to: BTreeSet<&str> = rows
        .flat_map(|(_, row)| row.keys().map(String::as_str))
        .collect();
    (from.into_iter().collect(), to.into_iter().collect())
}

/// Calls that came at one class of nodes and ran at another, a run.
pub(crate) fn moved(column: &Column<'_>, from: &str, to: &str) -> f64 {
    let count = |run: &Report| run.ran.get(from).and_then(|row| row.get(to)).copied();
    let sum: u64 = column.runs.iter().filter_map(count).sum();
    sum as f64 / column.runs.len().max(1) as f64
}

fn calls_line(text: &mut String, begin: &str, kind: &str, name: &str, calls: &Calls) {
    let times = &calls.latency;
    // Writing to a text never fails.
    let _ = writeln!(
        text,
        "{begin},{kind},{},{},{},{},{},{},{},{},{},{},{},,,,",
        quoted(name),
        calls.calls,
        answered(calls),
        calls.elsewhere,
        calls.cold,
        times.mean,
        times.p50,
        times.p90,
        times.p99,
        times.p999,
        times.most
    );
}

/// A cell of CSV (RFC 4180).
fn quoted(cell: &str) -> String {
    match cell.contains([',', '"', '\n', '\r']) {
        true => format!("\"{}\"", cell.replace('"', "\"\"")),
        false => cell.to_owned(),
    }
}

#[cfg(test)]
mod tests;
