//! What was measured, as one table: rows, and the number of peers across.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use criterion::Criterion;

/// Numbers of peers.
pub(crate) const SIZES: [u32; 6] = [1, 10, 100, 1_000, 10_000, 100_000];

/// Samples of each measurement.
const SAMPLES: usize = 10;

/// What was measured: by row and number of peers.
#[derive(Default)]
pub(crate) struct Table(RefCell<Vec<(String, BTreeMap<u32, String>)>>);

impl Table {
    /// Fills a cell.
    pub(crate) fn put(&self, row: &str, size: u32, cell: String) {
        let mut rows = self.0.borrow_mut();
        if !rows.iter().any(|(name, _)| *name == row) {
            rows.push((row.to_owned(), BTreeMap::new()));
        }
        let found = rows.iter_mut().find(|(name, _)| *name == row);
        found.expect("it is there").1.insert(size, cell);
    }

    /// Prints it.
    pub(crate) fn print(&self) {
        let line = |name: &str, cells: Vec<String>| {
            let cells: String = cells.iter().map(|cell| format!("{cell:>11}")).collect();
            println!("{name:<34}{cells}");
        };
        println!();
        line("peers", SIZES.iter().map(u32::to_string).collect());
        for (name, cells) in self.0.borrow().iter() {
            let cell = |size| cells.get(size).cloned().unwrap_or_else(|| "-".to_owned());
            line(name, SIZES.iter().map(cell).collect());
        }
    }
}

/// A time in nanoseconds, with the unit that fits.
fn in_words(time: f64) -> String {
    match time {
        _ if time < 1e3 => format!("{time:.0} ns"),
        _ if time < 1e6 => format!("{:.2} us", time / 1e3),
        _ => format!("{:.2} ms", time / 1e6),
    }
}

/// Measures one act, which is done so many times and takes so long: nanoseconds of
/// one, which are put in the table too; `None` where it was not asked for.
pub(crate) fn measure(
    criterion: &mut Criterion,
    table: &Table,
    row: &str,
    size: u32,
    mut act: impl FnMut(u64) -> Duration,
) -> Option<f64> {
    let mut samples = Vec::new();
    criterion.bench_function(&format!("{row}/{size}"), |bencher| {
        bencher.iter_custom(|times| {
            let took = act(times);
            samples.push(took.as_nanos() as f64 / times as f64);
            took
        });
    });
    if samples.is_empty() {
        return None;
    }
    // The last ones are criterion's samples; those before them warmed it up.
    // The least is what the act costs where nobody else has the machine.
    let last = samples.split_off(samples.len().saturating_sub(SAMPLES));
    let least = last.into_iter().fold(f64::MAX, f64::min);
    table.put(row, size, in_words(least));
    Some(least)
}

/// What measures: briefly, for there is much to measure.
pub(crate) fn criterion() -> Criterion {
    Criterion::default()
        .sample_size(SAMPLES)
        .warm_up_time(Duration::from_millis(50))
        .measurement_time(Duration::from_millis(200))
        .without_plots()
}

/// How long it takes to act so often.
pub(crate) fn timed(times: u64, mut act: impl FnMut()) -> Duration {
    let began = Instant::now();
    for _ in 0..times {
        act();
    }
    began.elapsed()
}
