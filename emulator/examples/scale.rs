//! How quickly worlds of some sizes are played, and in how much memory: one line
//! for each, as CSV.
//!
//! ```text
//! cargo run --release -p weir-emulator --example scale -- [NODES[,FUNCTIONS[,PEERS[,CALLS]]]]...
//! cargo run --release -p weir-emulator --example scale -- --plot FILE.svg
//! ```
//!
//! The second draws the curve of 10 to 100,000 nodes, beside a bare heap and,
//! where `python3` has them, SimPy and salabim.

#[path = "scale/curve.rs"]
mod curve;
#[path = "scale/peers.rs"]
mod peers;

use std::process::ExitCode;
use std::time::Instant;

use weir_emulator::scenario::{Scenario, Texts};
use weir_emulator::simulate::simulate;

/// As in the program itself.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

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

/// Seconds that this process has had of processors; 0 where the system does not say.
fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // After the name, which may hold anything: fields 14 and 15 in hundredths.
    let fields = stat.rsplit(')').next().unwrap_or_default();
    let fields = fields.split_whitespace().skip(11).take(2);
    fields
        .filter_map(|field| field.parse::<f64>().ok())
        .sum::<f64>()
        / 100.0
}

fn main() -> ExitCode {
    let mut named: Vec<String> = std::env::args().skip(1).collect();
    if let [flag, file] = named.as_slice()
        && flag == "--plot"
    {
        return curve::draw(file);
    }
    if named.is_empty() {
        named.extend(SIZES.map(|size| size.map(|number| number.to_string()).join(",")));
    }
    println!(
        "nodes,functions,peers,calls,answered,elsewhere,events,seconds,cpu-seconds,\
         calls-a-cpu-second,most-kib,digest"
    );
    for size in &named {
        let mut numbers = SIZES[1];
        for (at, number) in size.split(',').enumerate() {
            let (Ok(number), Some(place)) = (number.parse(), numbers.get_mut(at)) else {
                eprintln!("{size}: expected NODES,FUNCTIONS,PEERS,CALLS, or --plot FILE");
                return ExitCode::from(2);
            };
            *place = number;
        }
        match play(numbers) {
            Ok(line) => println!("{line}"),
            Err(mistakes) => {
                eprintln!("{mistakes}");
                return ExitCode::FAILURE;
            }
        }
    }
    ExitCode::SUCCESS
}

/// Plays one world; its line.
fn play(size: [u64; 4]) -> Result<String, String> {
    let files = Texts::from([("scale.toml".into(), text(size))]);
    let scenario = Scenario::read(&files, "scale.toml", &[]);
    let scenario = scenario.map_err(|mistakes| mistakes.to_string())?;
    let (began, cpu) = (Instant::now(), cpu_seconds());
    let report = simulate(&scenario, 1, None);
    let (seconds, cpu) = (began.elapsed().as_secs_f64(), cpu_seconds() - cpu);
    let answered = report.all.outcomes.get("answered").copied().unwrap_or(0);
    let [nodes, functions, peers, _] = size;
    let (calls, elsewhere, events) = (report.all.calls, report.all.elsewhere, report.events);
    Ok(format!(
        "{nodes},{functions},{peers},{calls},{answered},{elsewhere},{events},{seconds:.2},\
         {cpu:.2},{:.0},{},{}",
        calls as f64 / cpu.max(0.01),
        most_memory(),
        &report.digest()[..16],
    ))
}
