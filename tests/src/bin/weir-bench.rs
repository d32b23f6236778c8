//! Measures Weir and prints one table; see [`weir_tests::bench`].
//!
//! ```text
//! weir-bench [--quick] [--only LETTER]...   measures, all cases or these
//! weir-bench backend ADDRESS                is the server behind the proxy
//! ```
//!
//! Missed targets are printed as such and are no failure of this program.

use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use weir_tests::bench::cases::{CASES, Case};
use weir_tests::bench::{Bench, Plan, peers};
use weir_tests::node::program;

const USAGE: &str = "usage: weir-bench [--quick] [--only LETTER]... | weir-bench backend ADDRESS";

/// What the arguments ask for.
enum Task {
    Backend(std::net::SocketAddr),
    Measure(Plan, Vec<&'static Case>),
}

fn parse(mut arguments: impl Iterator<Item = String>) -> Result<Task> {
    let (mut plan, mut cases) = (Plan::FULL, Vec::new());
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "backend" => {
                let address = arguments.next().context(USAGE)?;
                return Ok(Task::Backend(address.parse().context("backend ADDRESS")?));
            }
            "--quick" => plan = Plan::QUICK,
            "--only" => {
                let letter = arguments.next().context(USAGE)?;
                let case = CASES
                    .iter()
                    .find(|case| letter == case.letter.to_string())
                    .with_context(|| format!("no case {letter}; there are a to t"))?;
                cases.push(case);
            }
            other => bail!("`{other}` is not known; {USAGE}"),
        }
    }
    if cases.is_empty() {
        cases.extend(CASES);
    }
    Ok(Task::Measure(plan, cases))
}

fn main() -> ExitCode {
    let task = match parse(std::env::args().skip(1)) {
        Ok(task) => task,
        Err(error) => {
            eprintln!("weir-bench: {error:#}");
            return ExitCode::from(2);
        }
    };
    match run(task) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("weir-bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(task: Task) -> Result<()> {
    match task {
        Task::Backend(address) => tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?
            .block_on(peers::serve(address)),
        Task::Measure(plan, cases) => {
            eprintln!(
                "measuring {}: {} repetitions on {} cores",
                program().display(),
                plan.repetitions,
                std::thread::available_parallelism()?
            );
            let runtime = tokio::runtime::Runtime::new()?;
            let table = runtime.block_on(Bench::new(plan).run(&cases));
            print!("{table}");
            Ok(())
        }
    }
}
