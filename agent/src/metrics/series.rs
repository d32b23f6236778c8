//! What is counted of each function: atomics, reached without a lock.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use parking_lot::{Mutex, MutexGuard};
use weir_node::id::FunctionName;
use weir_node::invocation::{Start, Timing};
use weir_node::sharded::Sharded;

/// Upper bounds of the histograms, in seconds. The lower ones are for warm
/// WebAssembly, the upper ones for cold starts of what must be compiled.
pub const BOUNDS: [f64; 17] = [
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5,
    5.0, 10.0, 60.0,
];

/// The same in nanoseconds, as durations are measured.
const BOUND_NANOS: [u64; BOUNDS.len()] = {
    let mut nanos = [0; BOUNDS.len()];
    let mut index = 0;
    while index < BOUNDS.len() {
        // Rounded: 0.00025 s is not a binary fraction.
        nanos[index] = (BOUNDS[index] * 1e9 + 0.5) as u64;
        index += 1;
    }
    nanos
};

/// Statuses with a series of their own; every other one is counted under its
/// class (`4xx`), so that a function cannot make series at will.
pub const CODES: [u16; 30] = [
    200, 201, 202, 203, 204, 206, 301, 302, 303, 304, 307, 308, 400, 401, 403, 404, 405, 408, 409,
    410, 413, 415, 422, 429, 499, 500, 501, 502, 503, 504,
];
const CLASSES: [&str; 4] = ["2xx", "3xx", "4xx", "5xx"];
const SLOTS: usize = CODES.len() + CLASSES.len();

/// The status in logs and metrics of a call whose client went away.
pub const CLIENT_GONE: u16 = 499;

fn slot(code: u16) -> usize {
    // The most usual first.
    if code == 200 {
        return 0;
    }
    CODES.binary_search(&code).unwrap_or_else(|_| {
        CODES.len()
            + usize::from(code / 100)
                .saturating_sub(2)
                .min(CLASSES.len() - 1)
    })
}

fn code_text(slot: usize) -> String {
    match CODES.get(slot) {
        Some(code) => code.to_string(),
        None => CLASSES[slot - CODES.len()].to_owned(),
    }
}

/// Counts of durations by upper bound.
#[derive(Debug, Default)]
struct Buckets {
    counts: [AtomicU64; BOUNDS.len() + 1],
    nanos: AtomicU64,
}

impl Buckets {
    fn record(&self, duration: Duration) {
        let nanos = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        let bucket = BOUND_NANOS.partition_point(|bound| *bound < nanos);
        self.counts[bucket].fetch_add(1, Ordering::Relaxed);
        self.nanos.fetch_add(nanos, Ordering::Relaxed);
    }
}

/// What was counted of durations.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Histogram {
    /// The count in each bucket.
    pub buckets: [u64; BOUNDS.len() + 1],
    nanos: u64,
}

impl Histogram {
    fn add(&mut self, part: &Buckets) {
        for (sum, count) in self.buckets.iter_mut().zip(&part.counts) {
            *sum += count.load(Ordering::Relaxed);
        }
        self.nanos += part.nanos.load(Ordering::Relaxed);
    }

    /// The sum of all durations, in seconds.
    pub fn seconds(&self) -> f64 {
        self.nanos as f64 / 1e9
    }
}

/// How a call ended, as it is counted.
#[derive(Debug, Clone, Copy)]
pub struct Ended {
    /// The status that the caller saw, or would have seen.
    pub status: u16,
    /// Warm or cold, and where the time went; `None` when no code ran.
    pub ran: Option<(Start, Timing)>,
    /// From arrival to the beginning of the answer.
    pub took: Duration,
}

/// What some threads count of one function.
#[derive(Debug)]
pub struct Counts {
    codes: [AtomicU64; SLOTS],
    cold_starts: AtomicU64,
    queue: Buckets,
    start: Buckets,
    run: Buckets,
    by_code: Option<Box<[OnceLock<Box<Buckets>>; SLOTS]>>,
}

impl Counts {
    fn new(compatible: bool) -> Self {
        Counts {
            codes: std::array::from_fn(|_| AtomicU64::new(0)),
            cold_starts: AtomicU64::new(0),
            queue: Buckets::default(),
            start: Buckets::default(),
            run: Buckets::default(),
            by_code: compatible.then(|| Box::new(std::array::from_fn(|_| OnceLock::new()))),
        }
    }

    /// Counts a call.
    pub fn record(&self, ended: Ended) {
        let slot = slot(ended.status);
        self.codes[slot].fetch_add(1, Ordering::Relaxed);
        if let Some((start, timing)) = ended.ran {
            self.queue.record(timing.queued);
            self.run.record(timing.ran);
            if start == Start::Cold {
                self.cold_starts.fetch_add(1, Ordering::Relaxed);
                self.start.record(timing.started);
            }
        }
        if let Some(by_code) = &self.by_code {
            by_code[slot].get_or_init(Box::default).record(ended.took);
        }
    }
}

/// What is counted of one function. Each thread counts on its own.
#[derive(Debug)]
pub struct Series {
    /// Whether durations are counted by code too, as OpenFaaS dashboards want them.
    compatible: bool,
    parts: Sharded<Arc<Counts>>,
}

impl Series {
    fn new(compatible: bool) -> Self {
        Series {
            compatible,
            parts: Sharded::default(),
        }
    }

    /// Where this thread counts.
    pub fn here(&self) -> Arc<Counts> {
        let made = || Arc::new(Counts::new(self.compatible));
        self.parts.here_or(made).clone()
    }

    fn sum(&self, of: impl Fn(&Counts) -> &AtomicU64) -> u64 {
        let parts = self.parts.parts();
        parts.map(|part| of(part).load(Ordering::Relaxed)).sum()
    }

    fn histogram(&self, of: impl Fn(&Counts) -> &Buckets) -> Histogram {
        let mut all = Histogram::default();
        self.parts.parts().for_each(|part| all.add(of(part)));
        all
    }

    /// Calls by status, those that occurred.
    pub fn codes(&self) -> impl Iterator<Item = (String, u64)> {
        let counts = (0..SLOTS).map(|slot| (slot, self.sum(|part| &part.codes[slot])));
        counts
            .filter(|(_, count)| *count > 0)
            .map(|(slot, count)| (code_text(slot), count))
    }

    /// Durations by status, where they are kept.
    pub fn by_code(&self) -> impl Iterator<Item = (String, Histogram)> {
        (0..SLOTS).filter_map(|slot| {
            let mut all = None::<Histogram>;
            for part in self.parts.parts() {
                let by_code = part.by_code.as_ref();
                if let Some(part) = by_code.and_then(|by_code| by_code[slot].get()) {
                    all.get_or_insert_default().add(part);
                }
            }
            Some((code_text(slot), all?))
        })
    }

    /// Waiting for a place.
    pub fn queue(&self) -> Histogram {
        self.histogram(|part| &part.queue)
    }

    /// Waiting for a start; cold calls only.
    pub fn start(&self) -> Histogram {
        self.histogram(|part| &part.start)
    }

    /// In the code.
    pub fn run(&self) -> Histogram {
        self.histogram(|part| &part.run)
    }

    /// Calls that waited for a start.
    pub fn cold_starts(&self) -> u64 {
        self.sum(|part| &part.cold_starts)
    }
}

/// A function as the door knows it: its name, parsed, and what is counted.
#[derive(Debug, Clone)]
pub struct Known {
    /// Its name.
    pub name: FunctionName,
    /// Where this thread counts.
    pub counts: Arc<Counts>,
}

/// Spellings that one thread remembers; functions have two at most, so this
/// is reached only by a node with more functions than its bound allows.
const REMEMBERED: usize = 1 << 16;

/// What one thread remembers: functions by the name that callers spell, valid
/// in one epoch.
#[derive(Default)]
struct Memory {
    epoch: u64,
    known: HashMap<Box<str>, Known>,
}

thread_local! {
    static MEMORY: RefCell<Memory> = RefCell::default();
}

/// Epochs are unique in the process, so that threads which serve several
/// nodes (as tests have them) never mix them up.
static NEXT_EPOCH: AtomicU64 = AtomicU64::new(1);

/// The series of all deployed functions.
#[derive(Debug)]
pub struct Board {
    compatible: bool,
    /// Changes whenever a function is forgotten.
    epoch: AtomicU64,
    all: Mutex<BTreeMap<FunctionName, Arc<Series>>>,
}

impl Board {
    /// No functions yet; `compatible` also keeps what OpenFaaS dashboards read.
    pub fn new(compatible: bool) -> Self {
        Board {
            compatible,
            epoch: AtomicU64::new(NEXT_EPOCH.fetch_add(1, Ordering::Relaxed)),
            all: Mutex::default(),
        }
    }

    fn all(&self) -> MutexGuard<'_, BTreeMap<FunctionName, Arc<Series>>> {
        self.all.lock()
    }

    /// The function that `text` spells, if this thread has met it.
    pub fn recall(&self, text: &str) -> Option<Known> {
        let epoch = self.epoch.load(Ordering::Acquire);
        MEMORY.with_borrow(|memory| {
            let known = (memory.epoch == epoch).then(|| memory.known.get(text))?;
            known.cloned()
        })
    }

    /// Makes or finds the series of a function that is deployed.
    pub fn series(&self, name: &FunctionName) -> Arc<Series> {
        let mut all = self.all();
        let series = all
            .entry(name.clone())
            .or_insert_with(|| Arc::new(Series::new(self.compatible)));
        Arc::clone(series)
    }

    /// As [`Board::series`], and remembers it on this thread by the spelling
    /// `text`.
    pub fn learn(&self, text: &str, name: &FunctionName) -> Known {
        // Read first: what is forgotten meanwhile is then forgotten here too.
        let epoch = self.epoch.load(Ordering::Acquire);
        let series = self.series(name);
        let known = Known {
            name: name.clone(),
            counts: series.here(),
        };
        MEMORY.with_borrow_mut(|memory| {
            if memory.epoch != epoch || memory.known.len() >= REMEMBERED {
                memory.known.clear();
                memory.epoch = epoch;
            }
            memory.known.insert(text.into(), known.clone());
        });
        known
    }

    /// Forgets the functions that `gone` says, on all threads.
    pub fn forget(&self, gone: impl Fn(&FunctionName) -> bool) {
        let mut all = self.all();
        let before = all.len();
        all.retain(|name, _| !gone(name));
        if all.len() != before {
            let epoch = NEXT_EPOCH.fetch_add(1, Ordering::Relaxed);
            self.epoch.store(epoch, Ordering::Release);
        }
    }

    /// All series by name.
    pub fn list(&self) -> Vec<(FunctionName, Arc<Series>)> {
        let all = self.all();
        all.iter()
            .map(|(name, series)| (name.clone(), Arc::clone(series)))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ended(status: u16) -> Ended {
        let timing = Timing {
            fetched: Duration::ZERO,
            queued: Duration::ZERO,
            started: Duration::ZERO,
            ran: Duration::from_micros(100),
        };
        Ended {
            status,
            ran: Some((Start::Warm, timing)),
            took: Duration::from_millis(3),
        }
    }

    #[test]
    fn codes_are_sorted_for_the_search() {
        assert!(CODES.is_sorted());
    }

    #[test]
    fn unusual_status_is_counted_by_class() {
        let series = Series::new(false);
        for status in [200, 200, 418, 299, 599, 999, 499] {
            series.here().record(ended(status));
        }
        let codes: BTreeMap<_, _> = series.codes().collect();
        let expected = [("200", 2), ("2xx", 1), ("499", 1), ("4xx", 1), ("5xx", 2)];
        assert_eq!(
            codes,
            expected
                .map(|(code, count)| (code.to_owned(), count))
                .into()
        );
    }

    #[test]
    fn duration_falls_into_the_bucket_that_bounds_it() {
        let parts = [Buckets::default(), Buckets::default()];
        for micros in [0, 100, 101, 250, 59_000_000, 61_000_000] {
            parts[usize::from(micros == 0)].record(Duration::from_micros(micros));
        }
        let mut histogram = Histogram::default();
        parts.iter().for_each(|part| histogram.add(part));
        let buckets = histogram.buckets;
        assert_eq!((buckets[0], buckets[1]), (2, 2));
        assert_eq!((buckets[BOUNDS.len() - 1], buckets[BOUNDS.len()]), (1, 1));
        assert!((histogram.seconds() - 120.000451).abs() < 1e-9);
    }

    #[test]
    fn warm_call_adds_nothing_to_the_starts() {
        let series = Series::new(false);
        series.here().record(ended(200));
        assert_eq!(
            (series.cold_starts(), series.start().buckets.iter().sum()),
            (0, 0)
        );
    }

    #[test]
    fn durations_by_code_are_kept_on_demand() {
        let series = Series::new(true);
        series.here().record(ended(503));
        let by_code: Vec<_> = series.by_code().map(|(code, _)| code).collect();
        assert_eq!(by_code, ["503"]);
        let plain = Series::new(false);
        plain.here().record(ended(503));
        assert_eq!(plain.by_code().count(), 0);
    }

    #[test]
    fn removed_function_is_forgotten_and_starts_anew() {
        let board = Board::new(false);
        let name: FunctionName = "f".parse().expect("valid");
        assert!(board.recall("f").is_none());
        board.learn("f", &name).counts.record(ended(200));
        let alias = board.learn("f.openfaas-fn", &name);
        alias.counts.record(ended(200));
        let counted: Vec<_> = board.series(&name).codes().collect();
        assert_eq!(counted, [("200".to_owned(), 2)]);
        assert!(board.recall("f").is_some());
        board.forget(|gone| *gone == name);
        assert!(board.recall("f").is_none() && board.list().is_empty());
        board.learn("f", &name);
        assert_eq!(board.series(&name).codes().count(), 0);
    }

    #[test]
    fn two_boards_on_one_thread_do_not_mix() {
        let (one, two) = (Board::new(false), Board::new(false));
        one.learn("f", &"f".parse().expect("valid"));
        assert!(two.recall("f").is_none());
        assert!(one.recall("f").is_some());
    }
}
