//! `weir config`: every setting, its value, and where that came from.

use clap::Args;
use serde_json::json;

use super::Global;
use super::run::{ConfigSource, defaults};
use crate::config::{default_file, reference};
use crate::output;

#[derive(Debug, Args)]
pub(super) struct ConfigArguments {
    #[command(flatten)]
    source: ConfigSource,
    /// Print a commented file with all defaults instead
    #[arg(long)]
    default: bool,
    /// Print the manual's table of settings instead
    #[arg(long, hide = true, conflicts_with = "default")]
    markdown: bool,
}

pub(super) fn config(global: &Global, arguments: &ConfigArguments) -> anyhow::Result<()> {
    if arguments.default {
        return Ok(output::write(default_file(defaults()).as_bytes())?);
    }
    if arguments.markdown {
        return Ok(output::write(reference(defaults()).as_bytes())?);
    }
    let values = arguments.source.load()?.values();
    if global.json() {
        let value = |(key, value, origin): &(String, String, crate::setting::Origin)| json!({ "key": key, "value": value, "origin": origin.to_string() });
        return Ok(output::json(&values.iter().map(value).collect())?);
    }
    let rows: Vec<_> = values
        .into_iter()
        .map(|(key, value, origin)| [key, value, origin.to_string()])
        .collect();
    Ok(output::line(&output::table(
        ["key", "value", "origin"],
        &rows,
    ))?)
}
