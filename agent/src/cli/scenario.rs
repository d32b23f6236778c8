//! `weir scenario`: what a scenario may say, whether one is right, and a picture
//! of it.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use clap::Subcommand;
use serde_json::json;
use weir_emulator::builtin;
use weir_emulator::scenario::field::Line;
use weir_emulator::scenario::tree::suggestion;
use weir_emulator::scenario::{Disk, Scenario, Setting, draw};

use super::Global;
use crate::output;

#[derive(Debug, Subcommand)]
pub(super) enum ScenarioCommand {
    /// Tell everything that is wrong in a scenario, with its line and column
    Check {
        /// File of the scenario, or the name of one that comes with the program
        scenario: String,
        /// Change a key, such as scenario.duration=1m; may be repeated
        #[arg(long = "set", value_name = "KEY=VALUE", value_parser = setting)]
        settings: Vec<Setting>,
    },
    /// Print every key that a scenario may have
    Explain {
        /// Only this key and those below it, such as node
        key: Option<String>,
    },
    /// Draw the nodes and links of a scenario as SVG
    Draw {
        /// File of the scenario, or the name of one that comes with the program
        scenario: String,
        /// File to write to [default: standard output]
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
    },
}

/// A `--set`.
pub(super) fn setting(text: &str) -> Result<Setting, String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("expected KEY=VALUE, such as scenario.duration=1m".to_owned()),
    }
}

/// Reads a scenario from its file, or one that comes with the program.
pub(super) fn read(name: &str, settings: &[Setting]) -> anyhow::Result<Scenario> {
    if let Some(builtin) = builtin::named(name) {
        return Ok(Scenario::read(&builtin.files(), &builtin.path(), settings)?);
    }
    if !Path::new(name).exists() {
        let known = builtin::ALL.iter().map(|one| one.name);
        let suggested = suggestion(name, known);
        bail!(
            "{name} is neither a file nor a scenario that comes with the program{suggested}; \
             see weir simulate --list"
        );
    }
    Ok(Scenario::read(&Disk, name, settings)?)
}

/// Writes a file of results.
pub(super) fn write(path: &Path, text: &str) -> anyhow::Result<()> {
    std::fs::write(path, text).with_context(|| format!("write {}", path.display()))
}

pub(super) fn scenario(global: &Global, command: &ScenarioCommand) -> anyhow::Result<()> {
    match command {
        ScenarioCommand::Check { scenario, settings } => check(global, scenario, settings),
        ScenarioCommand::Explain { key } => explain(global, key.as_deref()),
        ScenarioCommand::Draw { scenario, out } => {
            let svg = draw::svg(&read(scenario, &[])?);
            match out {
                Some(path) => write(path, &svg),
                None => Ok(output::write(svg.as_bytes())?),
            }
        }
    }
}

fn check(global: &Global, name: &str, settings: &[Setting]) -> anyhow::Result<()> {
    let scenario = read(name, settings)?;
    let nodes = scenario.nodes.0.iter().map(|class| class.value.count.0);
    let nodes: u64 = nodes.sum();
    let functions = scenario.functions.0.iter().map(|of| of.value.count.0);
    let functions: u64 = functions.sum();
    let [workloads, faults] = [scenario.workloads.0.len(), scenario.faults.0.len()];
    let document = json!({
        "scenario": scenario.head.0.name,
        "nodes": nodes,
        "functions": functions,
        "workloads": workloads,
        "faults": faults,
        "seconds": scenario.head.0.duration.as_secs_f64(),
    });
    let duration = humantime::format_duration(scenario.head.0.duration);
    let text = format!(
        "{name} is right: nodes {nodes}, functions {functions}, workloads {workloads}, faults \
         {faults}, duration {duration}"
    );
    global.answer(&document, &output::printable(&text))
}

/// Whether `line` is about `key` or what is below it; the brackets of lists may
/// be left out.
fn is_below(line: &Line, key: &str) -> bool {
    let [line, key] = [line.key.as_str(), key].map(|key| key.replace("[]", ""));
    let rest = line.strip_prefix(key.as_str());
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

fn explain(global: &Global, key: Option<&str>) -> anyhow::Result<()> {
    let mut lines = Scenario::keys();
    if let Some(key) = key {
        lines.retain(|line| is_below(line, key));
        if lines.is_empty() {
            bail!("a scenario has no key {key}; see weir scenario explain");
        }
    }
    if global.json() {
        let document = lines.iter().map(|line| {
            json!({
                "key": line.key,
                "takes": line.takes,
                "default": line.default,
                "required": line.is_required,
                "help": line.help,
            })
        });
        return Ok(output::json(&document.collect())?);
    }
    Ok(output::write(Scenario::explained(&lines).as_bytes())?)
}
