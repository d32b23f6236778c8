//! `weir simulate`: a scenario in virtual time, under one policy or several.

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread;

use anyhow::Context as _;
use clap::Args;
use serde_json::json;
use weir_emulator::builtin;
use weir_emulator::plot;
use weir_emulator::report::{Comparison, page};
use weir_emulator::scenario::{Scenario, Setting};
use weir_emulator::simulate::report::Report;
use weir_emulator::sweep::{self, Run};

use super::Global;
use super::scenario::{read, setting, write};
use crate::output::{self, Progress};

#[derive(Debug, Args)]
pub(super) struct SimulateArguments {
    /// File of the scenario, or the name of one that comes with the program
    #[arg(required_unless_present = "list")]
    scenario: Option<String>,
    /// List the scenarios that come with the program
    #[arg(long, conflicts_with = "scenario")]
    list: bool,
    /// Policies to compare [default: those of the scenario]
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    policy: Vec<String>,
    /// Seed of all chance [default: the scenario's]
    #[arg(long)]
    seed: Option<u64>,
    /// Runs of each policy, each with the next seed
    #[arg(long, value_name = "COUNT", default_value_t = 1)]
    repeat: u64,
    /// Change a key of the scenario, such as scenario.duration=1m; may be repeated
    #[arg(long = "set", value_name = "KEY=VALUE", value_parser = setting)]
    settings: Vec<Setting>,
    /// Folder for the report as a page, Markdown, JSON and CSV, and its plots
    #[arg(long, value_name = "FOLDER")]
    out: Option<PathBuf>,
    /// Runs at a time; what they come to does not depend on it [default: all cores]
    #[arg(long, value_name = "COUNT")]
    threads: Option<NonZeroUsize>,
}

pub(super) fn simulate(global: &Global, arguments: &SimulateArguments) -> anyhow::Result<()> {
    let Some(name) = arguments.scenario.as_deref().filter(|_| !arguments.list) else {
        return list(global);
    };
    let scenario = read(name, &arguments.settings)?;
    let seed = arguments.seed.unwrap_or(scenario.head.0.seed.0);
    let runs = sweep::plan(&arguments.policy, seed, arguments.repeat)?;
    let threads = arguments.threads.map_or_else(cores, NonZeroUsize::get);
    let comparison = Comparison::new(play(&scenario, &runs, threads)?);
    if let Some(folder) = &arguments.out {
        write_all(folder, &comparison)?;
        output::note(&format!(
            "the report is {}",
            folder.join("report.html").display()
        ));
    }
    if global.json() {
        return Ok(output::json(&comparison.json())?);
    }
    let text = comparison.text();
    let lines: Vec<String> = text.lines().map(output::printable).collect();
    Ok(output::line(&lines.join("\n"))?)
}

/// Threads that this machine runs at once.
fn cores() -> usize {
    thread::available_parallelism().map_or(1, NonZeroUsize::get)
}

/// Plays all runs, so many at a time; what they come to is in their order.
fn play(scenario: &Scenario, runs: &[Run], threads: usize) -> anyhow::Result<Vec<Report>> {
    let progress = Progress::runs(&scenario.head.0.name, runs.len() as u64);
    let next = AtomicUsize::new(0);
    let mut reports: Vec<Option<Report>> = vec![None; runs.len()];
    thread::scope(|scope| {
        // Its bound is the number of runs.
        let (done, ended) = mpsc::channel();
        for _ in 0..threads.min(runs.len()) {
            let (done, next) = (done.clone(), &next);
            scope.spawn(move || {
                loop {
                    let at = next.fetch_add(1, Ordering::Relaxed);
                    let Some(run) = runs.get(at) else { break };
                    if done.send((at, run.play(scenario))).is_err() {
                        break;
                    }
                }
            });
        }
        drop(done);
        for (at, report) in ended {
            reports[at] = Some(report);
            progress.add(1);
        }
    });
    let all: Option<Vec<Report>> = reports.into_iter().collect();
    all.context("a run did not end")
}

/// Writes the report in all its shapes.
fn write_all(folder: &Path, comparison: &Comparison) -> anyhow::Result<()> {
    std::fs::create_dir_all(folder).with_context(|| format!("make {}", folder.display()))?;
    let plots = plot::all(comparison);
    let named = plots
        .iter()
        .map(|plot| (plot.title.clone(), plot.file.clone()));
    let named: Vec<(String, String)> = named.collect();
    let files = [
        ("report.html", page::html(comparison, &plots)),
        ("report.md", comparison.markdown(&named)),
        ("report.json", format!("{:#}\n", comparison.json())),
        ("results.csv", comparison.csv()),
        ("digest", format!("{}\n", comparison.digest())),
    ];
    for (name, text) in files {
        write(&folder.join(name), &text)?;
    }
    for plot in &plots {
        write(&folder.join(&plot.file), &plot.svg)?;
    }
    Ok(())
}

fn list(global: &Global) -> anyhow::Result<()> {
    if global.json() {
        let all = builtin::ALL.iter();
        let document = all.map(|one| json!({ "name": one.name, "about": one.about }));
        return Ok(output::json(&document.collect())?);
    }
    let rows = builtin::ALL.map(|one| [one.name, one.about].map(str::to_owned));
    Ok(output::line(&output::table(["name", "about"], &rows))?)
}
