//! What came of a run.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde::Serialize;
use sha2::{Digest as _, Sha256};

use super::engine::Engine;
use super::series::Series;
use super::tally::{Cell, Histogram, OUTCOMES};

/// Nanoseconds of a millisecond.
const MILLISECOND: f64 = 1e6;

/// Nodes that a report lists one by one.
const NODES_LISTED: usize = 1_000;

/// Times in milliseconds.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Times {
    /// How many.
    pub count: u64,
    /// The mean.
    pub mean: f64,
    /// Half are shorter.
    pub p50: f64,
    /// 90 of 100 are.
    pub p90: f64,
    /// 99 of 100 are.
    pub p99: f64,
    /// 999 of 1,000 are.
    pub p999: f64,
    /// The longest.
    pub most: f64,
}

impl Times {
    fn of(histogram: &Histogram) -> Times {
        let below = |part: f64| histogram.below(part) as f64 / MILLISECOND;
        Times {
            count: histogram.count(),
            mean: histogram.mean() / MILLISECOND,
            p50: below(0.5),
            p90: below(0.9),
            p99: below(0.99),
            p999: below(0.999),
            most: histogram.most() as f64 / MILLISECOND,
        }
    }
}

/// Calls of one kind.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Calls {
    /// All, however they ended.
    pub calls: u64,
    /// By outcome, those that there were.
    pub outcomes: BTreeMap<&'static str, u64>,
    /// From a call to its answer, of those that were answered.
    pub latency: Times,
    /// From a call to its beginning to run, of the same.
    pub waits: Times,
    /// Those that waited for a start.
    pub cold: u64,
    /// Those that ran elsewhere than where they came.
    pub elsewhere: u64,
}

impl Calls {
    fn of(cell: &Cell) -> Calls {
        Calls {
            calls: cell.outcomes.iter().sum(),
            outcomes: outcomes(&cell.outcomes),
            latency: Times::of(&cell.latency),
            waits: Times::of(&cell.waits),
            cold: cell.cold,
            elsewhere: cell.elsewhere,
        }
    }
}

fn outcomes(counts: &[u64; OUTCOMES.len()]) -> BTreeMap<&'static str, u64> {
    let named = OUTCOMES.iter().zip(counts);
    let named = named.map(|((_, name), count)| (*name, *count));
    named.filter(|(_, count)| *count > 0).collect()
}

/// One node.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct AtNode {
    /// Calls of its users by outcome.
    pub outcomes: BTreeMap<&'static str, u64>,
    /// Mean latency of those that were answered, in milliseconds.
    pub mean: f64,
    /// Calls that were answered from there.
    pub ran: u64,
    /// Those of them that came elsewhere.
    pub guests: u64,
    /// Instances that it started.
    pub starts: u64,
    /// Part of its processors that was busy, from the beginning on.
    pub utilisation: f64,
}

/// What came of a run. The same scenario, seed and version give the same bytes.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Report {
    /// Name of the scenario.
    pub scenario: String,
    /// Of all chance.
    pub seed: u64,
    /// What stood in for the policies of the scenario.
    pub policy: Option<String>,
    /// When the last call ended, in seconds.
    pub seconds: f64,
    /// Events that were played.
    pub events: u64,
    /// Calls that were under way in the mean over time, after the warm-up and until
    /// the last one came.
    pub under_way: f64,
    /// All calls after the warm-up.
    pub all: Calls,
    /// By function.
    pub functions: BTreeMap<String, Calls>,
    /// By QoS class.
    pub classes: BTreeMap<String, Calls>,
    /// By node, of the first thousand.
    pub nodes: BTreeMap<String, AtNode>,
    /// Where answered calls ran: by class of the node where they came, by class
    /// of the node where they ran.
    pub ran: BTreeMap<String, BTreeMap<String, u64>>,
    /// Calls that were offered to neighbours.
    pub offers_to_neighbours: u64,
    /// Calls that were offered to regions.
    pub offers_to_regions: u64,
    /// Decisions that did not offer a call to a peer that it could have gone to, by
    /// what held it back, of those that there were.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub held_back: BTreeMap<&'static str, u64>,
    /// Jain's index of the parts of their users' calls that nodes answered.
    pub fairness: f64,
    /// Cost of busy cores.
    pub cost: f64,
    /// Energy of busy cores, in joules.
    pub energy: f64,
    /// Reports that were heard.
    pub gossip_messages: u64,
    /// Bytes of them.
    pub gossip_bytes: u64,
    /// Bytes of inputs and answers between nodes.
    pub body_bytes: u64,
    /// Bytes of code between nodes.
    pub code_bytes: u64,
    /// Latencies of answered calls in milliseconds, each with the part of them that
    /// were no longer; at most one for each hundredth.
    pub distribution: Vec<(f64, f64)>,
    /// By time.
    pub series: Series,
}

/// Of all points those where the part has grown by a hundredth or more, the first
/// and the last.
fn thinned(points: &[(u64, f64)]) -> Vec<(f64, f64)> {
    let mut kept: Vec<(f64, f64)> = Vec::new();
    for (at, (nanos, part)) in points.iter().enumerate() {
        let last = kept.last().map_or(-1.0, |(_, part)| *part);
        if part - last >= 0.01 || at + 1 == points.len() {
            kept.push((*nanos as f64 / MILLISECOND, *part));
        }
    }
    kept
}

impl Report {
    pub(super) fn of(engine: &Engine<'_>, policy: Option<&str>, events: u64) -> Report {
        let (world, tally) = (engine.world, &engine.tally);
        let seconds = engine.now.as_nanos() as f64 / 1e9;
        let functions = world.functions.iter().zip(&tally.functions);
        let functions = functions.map(|(of, cell)| (of.name.qualified(), Calls::of(cell)));
        let classes = world.qos.iter().zip(&tally.classes);
        let classes = classes.map(|(class, cell)| (class.name.clone(), Calls::of(cell)));
        let mut nodes = BTreeMap::new();
        let (mut cost, mut energy) = (0.0, 0.0);
        let mut shares = Vec::new();
        for (at, (node, counted)) in (0_u32..).zip(engine.nodes.iter().zip(&tally.nodes)) {
            let class = world.class(at);
            // Thousandths of a core times nanoseconds.
            let core_seconds = node.busy as f64 / 1e12;
            cost += core_seconds / 3_600.0 * class.price.0;
            energy += core_seconds * class.watts.0;
            let calls = counted.outcomes.iter().sum::<u64>();
            let answered = counted.outcomes[0];
            if calls > 0 {
                shares.push(answered as f64 / calls as f64);
            }
            if nodes.len() < NODES_LISTED {
                let listed = AtNode {
                    outcomes: outcomes(&counted.outcomes),
                    mean: counted.latency as f64 / answered.max(1) as f64 / MILLISECOND,
                    ran: counted.ran,
                    guests: counted.guests,
                    starts: counted.starts,
                    utilisation: core_seconds / (class.cores.0 as f64 * seconds.max(1e-9)),
                };
                nodes.insert(world.name(at), listed);
            }
        }
        let mut ran: BTreeMap<String, BTreeMap<String, u64>> = BTreeMap::new();
        for (at, count) in tally
            .ran
            .iter()
            .enumerate()
            .filter(|(_, count)| **count > 0)
        {
            let name = |class: usize| world.classes[class].name.value.clone();
            let (from, to) = (at / world.classes.len(), at % world.classes.len());
            ran.entry(name(from)).or_default().insert(name(to), *count);
        }
        Report {
            scenario: engine.scenario.head.0.name.clone(),
            seed: engine.seed,
            policy: policy.map(str::to_owned),
            seconds,
            events,
            under_way: tally.under_way(),
            all: Calls::of(&tally.all),
            functions: functions.collect(),
            classes: classes.collect(),
            nodes,
            ran,
            offers_to_neighbours: tally.offers[0],
            offers_to_regions: tally.offers[1],
            held_back: tally.held_back.clone(),
            fairness: jain(&shares),
            cost,
            energy,
            gossip_messages: tally.gossip[0],
            gossip_bytes: tally.gossip[1],
            body_bytes: tally.body_bytes,
            code_bytes: tally.code_bytes,
            distribution: thinned(&tally.all.latency.distribution()),
            series: tally.series.clone(),
        }
    }

    /// As JSON, for machines; ends with a new line.
    pub fn json(&self) -> String {
        let mut json = serde_json::to_string_pretty(self).expect("a report can be written");
        json.push('\n');
        json
    }

    /// SHA-256 of the JSON, in hexadecimal digits.
    pub fn digest(&self) -> String {
        let mut digest = String::new();
        for byte in Sha256::digest(self.json()) {
            // Writing to a text never fails.
            let _ = write!(digest, "{byte:02x}");
        }
        digest
    }

    /// A table to be read.
    pub fn text(&self) -> String {
        let mut text = String::new();
        let rows = std::iter::once(("all", &self.all));
        let rows = rows.chain(
            self.functions
                .iter()
                .map(|(name, calls)| (name.as_str(), calls)),
        );
        let head = [
            "function",
            "calls",
            "answered",
            "elsewhere",
            "cold",
            "mean ms",
            "p50 ms",
            "p99 ms",
        ];
        let mut table: Vec<Vec<String>> = vec![head.map(str::to_owned).to_vec()];
        for (name, calls) in rows {
            let ms = |time: f64| format!("{time:.1}");
            table.push(vec![
                name.to_owned(),
                calls.calls.to_string(),
                calls
                    .outcomes
                    .get("answered")
                    .copied()
                    .unwrap_or(0)
                    .to_string(),
                calls.elsewhere.to_string(),
                calls.cold.to_string(),
                ms(calls.latency.mean),
                ms(calls.latency.p50),
                ms(calls.latency.p99),
            ]);
        }
        let widths: Vec<usize> = (0..head.len())
            .map(|column| {
                table
                    .iter()
                    .map(|row| row[column].chars().count())
                    .max()
                    .unwrap_or(0)
            })
            .collect();
        for row in table {
            for (column, cell) in row.iter().enumerate() {
                let width = widths[column];
                let _ = match column {
                    0 => write!(text, "{cell:<width$}"),
                    _ => write!(text, "  {cell:>width$}"),
                };
            }
            text.push('\n');
        }
        let _ = writeln!(text, "digest {}", self.digest());
        text
    }
}

/// R. Jain, D. Chiu, W. Hawe, "A Quantitative Measure of Fairness", DEC TR-301,
/// 1984: 1 where all have the same. Of nobody it is 1.
fn jain(shares: &[f64]) -> f64 {
    let sum: f64 = shares.iter().sum();
    let squares: f64 = shares.iter().map(|share| share * share).sum();
    match squares > 0.0 {
        true => sum * sum / (shares.len() as f64 * squares),
        false => 1.0,
    }
}
