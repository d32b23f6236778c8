//! The curve: worlds of 10 to 100,000 nodes, each in a process of its own, beside
//! others of the same run.

use std::fmt::Write as _;
use std::process::{Command, ExitCode};

use super::peers::{Choice, bare_heap, plain_loop};

/// Nodes, functions, peers that each knows, and calls.
const SIZES: [[u64; 4]; 5] = [
    [10, 1, 9, 1_000_000],
    [100, 1, 99, 300_000],
    [1_000, 1, 256, 200_000],
    [10_000, 1, 256, 200_000],
    [100_000, 1, 256, 200_000],
];

const SIZE: (f64, f64) = (640.0, 400.0);
const MARGIN: f64 = 56.0;

/// Measures, prints lines, and writes an SVG.
pub(super) fn draw(file: &str) -> ExitCode {
    let (mut ours, mut bytes, mut seconds) = (vec![], vec![], vec![]);
    let mut others: [(&str, Vec<(f64, f64)>); 3] = [
        ("bare heap, two choices", vec![]),
        ("plain loop, least loaded", vec![]),
        ("plain loop, round robin", vec![]),
    ];
    println!("what,nodes,calls-a-cpu-second,cpu-seconds,bytes-a-node");
    for size in SIZES {
        let nodes = size[0] as f64;
        let Some([cpu, rate, kib]) = measure(size) else {
            eprintln!("{size:?}: not measured");
            continue;
        };
        let each = kib * 1024.0 / nodes;
        println!("weir,{nodes},{rate},{cpu},{each:.0}");
        ours.push((nodes, rate));
        seconds.push((nodes, cpu / nodes));
        bytes.push((nodes, each));
        // In turn with ours: other work on the machine slows all of them alike.
        let rates = [
            bare_heap(size[0]),
            plain_loop(size[0], Choice::LeastLoaded),
            plain_loop(size[0], Choice::RoundRobin),
        ];
        for ((name, points), rate) in others.iter_mut().zip(rates) {
            println!("{name},{nodes},{rate:.0},,");
            points.push((nodes, rate));
        }
    }
    let mut lines = vec![("weir", ours)];
    lines.extend(others);
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/scale/queues.py");
    match Command::new("python3").arg(script).output() {
        Ok(output) => {
            for line in String::from_utf8_lossy(&output.stdout).lines() {
                println!(
                    "{},10,{},,",
                    line.split(',').next().unwrap_or(line),
                    after(line)
                );
                let name = if line.starts_with("simpy") {
                    "SimPy M/M/10"
                } else {
                    "salabim M/M/10"
                };
                if let Ok(rate) = after(line).parse() {
                    lines.push((name, vec![(10.0, rate)]));
                }
            }
        }
        Err(error) => eprintln!("python3: {error}"),
    }
    let mut svg = String::new();
    let height = SIZE.1 * 3.0;
    let _ = writeln!(
        svg,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {} {height}\" \
         font-family=\"sans-serif\" font-size=\"12\"><rect width=\"100%\" height=\"100%\" \
         fill=\"white\"/>",
        SIZE.0,
    );
    panel(&mut svg, 0.0, "calls a CPU-second", &lines);
    panel(&mut svg, SIZE.1, "bytes a node", &[("weir", bytes)]);
    panel(
        &mut svg,
        SIZE.1 * 2.0,
        "CPU-seconds a node",
        &[("weir", seconds)],
    );
    svg.push_str("</svg>\n");
    match std::fs::write(file, svg) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{file}: {error}");
            ExitCode::FAILURE
        }
    }
}

fn after(line: &str) -> &str {
    line.split_once(',').map_or("", |(_, rate)| rate)
}

/// Plays a world in a process of its own: CPU-seconds, calls in one, KiB.
fn measure(size: [u64; 4]) -> Option<[f64; 3]> {
    let size = size.map(|number| number.to_string()).join(",");
    let own = std::env::current_exe().ok()?;
    let output = Command::new(own).arg(size).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    let fields: Vec<&str> = text.lines().nth(1)?.split(',').collect();
    let number = |at: usize| fields.get(at)?.parse().ok();
    Some([number(8)?, number(9)?, number(10)?])
}

/// Lines over a number of nodes, both axes by powers of ten.
fn panel(svg: &mut String, top: f64, title: &str, lines: &[(&str, Vec<(f64, f64)>)]) {
    let values = lines.iter().flat_map(|(_, points)| points);
    let logs = values.map(|(_, value)| value.log10());
    let (low, high) = logs.fold((f64::MAX, f64::MIN), |(low, high), log| {
        (low.min(log), high.max(log))
    });
    let (low, high) = (low.floor(), high.ceil().max(low.floor() + 1.0));
    let x = |nodes: f64| MARGIN + (nodes.log10() - 1.0) / 4.0 * (SIZE.0 - 4.0 * MARGIN);
    let y = |log: f64| top + SIZE.1 - MARGIN - (log - low) / (high - low) * (SIZE.1 - 2.0 * MARGIN);
    let _ = writeln!(
        svg,
        "<text x=\"{MARGIN}\" y=\"{}\" font-size=\"15\">{title}</text>",
        top + 28.0
    );
    let right = SIZE.0 - 3.0 * MARGIN;
    for power in low as i32..=high as i32 {
        let at = y(f64::from(power));
        let _ = writeln!(
            svg,
            "<path d=\"M{MARGIN} {at:.1}H{right}\" stroke=\"#ddd\"/><text x=\"{}\" y=\"{:.1}\" \
             text-anchor=\"end\">1e{power}</text>",
            MARGIN - 6.0,
            at + 4.0,
        );
    }
    for power in 1..=5 {
        let nodes = 10_f64.powi(power);
        let _ = writeln!(
            svg,
            "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{nodes}</text>",
            x(nodes),
            top + SIZE.1 - MARGIN + 18.0,
        );
    }
    let colours = [
        "#0b62a4", "#7a7a7a", "#8e5aa8", "#b8860b", "#c0392b", "#27883e",
    ];
    for ((name, points), colour) in lines.iter().zip(colours) {
        let path: Vec<String> = points
            .iter()
            .map(|(nodes, value)| format!("{:.1} {:.1}", x(*nodes), y(value.log10())))
            .collect();
        let _ = writeln!(
            svg,
            "<path d=\"M{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"/>",
            path.join("L")
        );
        for (nodes, value) in points {
            let _ = writeln!(
                svg,
                "<circle cx=\"{:.1}\" cy=\"{:.1}\" r=\"3\" fill=\"{colour}\"/>",
                x(*nodes),
                y(value.log10())
            );
        }
        if let Some((nodes, value)) = points.last() {
            let _ = writeln!(
                svg,
                "<text x=\"{:.1}\" y=\"{:.1}\" fill=\"{colour}\">{name}</text>",
                x(*nodes) + 8.0,
                y(value.log10()) + 4.0
            );
        }
    }
}
