//! `weir completions`: a script that lets a shell complete command lines.

use clap::{Args, CommandFactory as _};
use clap_complete::Shell;

use crate::output;

#[derive(Debug, Args)]
pub(super) struct CompletionsArguments {
    /// The shell
    #[arg(value_enum)]
    shell: Shell,
}

pub(super) fn completions(arguments: &CompletionsArguments) -> anyhow::Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(
        arguments.shell,
        &mut super::Cli::command(),
        "weir",
        &mut script,
    );
    Ok(output::write(&script)?)
}
