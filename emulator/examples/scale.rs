//! How quickly worlds of some sizes are played, and in how much memory: one line
//! for each, as CSV.
//!
//! ```text
//! cargo run --release -p weir-emulator --example scale -- [NODES[,FUNCTIONS[,PEERS[,CALLS]]]]...
//! ```

use std::process::ExitCode;
use std::time::Instant;

use weir_emulator::scenario::{Scenario, Texts};
use weir_emulator::simulate::simulate;

/// Sizes where none are named: nodes, functions, peers that each knows, and calls.
const SIZES: [[u64; 4]; 4] = [
    [1, 1, 0, 2_000_000],
    [10, 1, 9, 2_000_000],
    [100, 10, 99, 1_000_000],
    [1_000, 100, 999, 500_000],
];

/// Part of all processors that calls take.
const LOAD: f64 = 0.6;

fn text([nodes, functions, peers, calls]: [u64; 4]) -> String {
    // Two cores of 10 ms each: 200 calls a second and node at the most.
    let rate = LOAD * 200.0;
    let seconds = calls as f64 / (rate * nodes as f64);
    let mut text = format!(
        "scenario = {{ duration = \"{}ms\" }}\n[[node]]\nname = \"n\"\ncount = {nodes}\nzone = \"z\"\n\
         cores = 2\nmemory = \"64GiB\"\npeers = {}\n[[link]]\nbetween = [\"*\", \"*\"]\n\
         round-trip = \"10ms\"\n",
        (seconds * 1e3) as u64,
        peers.max(1),
    );
    for function in 0..functions {
        let rate = rate / functions as f64;
        text.push_str(&format!(
            "[[function]]\nname = \"f{function}\"\nmemory = \"1MiB\"\nservice = {{ exponential = \
             {{ mean = \"10ms\" }} }}\n[[workload]]\nfunction = \"f{function}\"\nat = \"*\"\n\
             arrivals = {{ poisson = {{ rate = {rate} }} }}\n"
        ));
    }
    text
}

/// Most memory that this process has held, in KiB; 0 where the system does not say.
fn most_memory() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let number = line.and_then(|line| line.trim().strip_suffix(" kB"));
    number.and_then(|number| number.parse().ok()).unwrap_or(0)
}

fn main() -> ExitCode {
    let named: Vec<String> = std::env::args().skip(1).collect();
    let mut sizes = Vec::new();
    for size in &named {
        let mut numbers = SIZES[1];
        for (at, number) in size.split(',').enumerate() {
            let (Ok(number), Some(place)) = (number.parse(), numbers.get_mut(at)) else {
                eprintln!("{size}: expected NODES,FUNCTIONS,PEERS,CALLS");
                return ExitCode::from(2);
            };
            *place = number;
        }
        sizes.push(numbers);
    }
    if sizes.is_empty() {
        sizes.extend(SIZES);
    }
    println!(
        "nodes,functions,peers,calls,answered,elsewhere,events,seconds,calls-a-second,most-kib,digest"
    );
    for size in sizes {
        let files = Texts::from([("scale.toml".into(), text(size))]);
        let scenario = match Scenario::read(&files, "scale.toml", &[]) {
            Ok(scenario) => scenario,
            Err(mistakes) => {
                eprintln!("{mistakes}");
                return ExitCode::FAILURE;
            }
        };
        let began = Instant::now();
        let report = simulate(&scenario, 1, None);
        let seconds = began.elapsed().as_secs_f64();
        let answered = report.all.outcomes.get("answered").copied().unwrap_or(0);
        let [nodes, functions, peers, _] = size;
        println!(
            "{nodes},{functions},{peers},{},{answered},{},{},{seconds:.2},{:.0},{},{}",
            report.all.calls,
            report.all.elsewhere,
            report.events,
            report.all.calls as f64 / seconds,
            most_memory(),
            &report.digest()[..16],
        );
    }
    ExitCode::SUCCESS
}
