//! When calls arrive.

use std::time::Duration;

use super::field::{
    Field, Key, Line, Reading, Section, Share, Times, Variant, explain, explain_variants, key,
    needed, one_of, section_of, wrong,
};
use super::law::Rate;
use super::trace::{self, Minutes, Timed};
use super::tree::{Mistakes, Origin, Tree, Value};

/// When calls arrive.
#[derive(Debug, Clone, PartialEq)]
pub enum Arrivals {
    /// As a clock ticks.
    Constant(Constant),
    /// With pauses evenly between two bounds.
    Uniform(super::law::Uniform),
    /// Independently of each other.
    Poisson(Poisson),
    /// Poisson that is switched on and off.
    OnOff(OnOff),
    /// Many at a time.
    Bursts(Bursts),
    /// By the time of day.
    Diurnal(Diurnal),
    /// At given moments.
    Timetable(Timetable),
    /// As counted by the minute, in the shape of Azure Functions 2019.
    Azure2019(Azure2019),
    /// As recorded one by one, in the shape of Azure Functions 2021.
    Azure2021(Azure2021),
}

impl Default for Arrivals {
    fn default() -> Arrivals {
        Arrivals::Constant(Constant::default())
    }
}

/// As a clock ticks.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Constant {
    /// Calls in a second.
    pub rate: Rate,
}

impl Section for Constant {
    const KEYS: &'static [Key<Self>] = &[needed("rate", |s| &mut s.rate, "Calls in a second.")];
}

/// Independently of each other.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Poisson {
    /// Calls in a second, in the mean.
    pub rate: Rate,
}

impl Section for Poisson {
    const KEYS: &'static [Key<Self>] = &[needed(
        "rate",
        |s| &mut s.rate,
        "Calls in a second, in the mean.",
    )];
}

/// An interrupted Poisson process: exponential times of both states.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct OnOff {
    /// Calls in a second while it is on.
    pub rate: Rate,
    /// Mean time that it is on.
    pub on: Duration,
    /// Mean time that it is off.
    pub off: Duration,
}

impl Section for OnOff {
    const KEYS: &'static [Key<Self>] = &[
        needed("rate", |s| &mut s.rate, "Calls in a second while it is on."),
        needed("on", |s| &mut s.on, "Mean time that it is on; exponential."),
        needed(
            "off",
            |s| &mut s.off,
            "Mean time that it is off; exponential.",
        ),
    ];

    fn check(&self, at: &Origin, mistakes: &mut Mistakes) {
        if self.on.is_zero() || self.off.is_zero() {
            mistakes.add(
                at,
                "on and off must be longer than nothing: poisson is always on",
            );
        }
    }
}

/// Poisson moments, at each of which a Poisson number of calls comes.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Bursts {
    /// Mean time between bursts.
    pub every: Duration,
    /// Mean number of calls of one.
    pub size: Times,
    /// Between two calls of one.
    pub spacing: Duration,
}

impl Section for Bursts {
    const KEYS: &'static [Key<Self>] = &[
        needed(
            "every",
            |s| &mut s.every,
            "Mean time between bursts; exponential.",
        ),
        needed(
            "size",
            |s| &mut s.size,
            "Mean number of calls of a burst; Poisson.",
        ),
        key(
            "spacing",
            |s| &mut s.spacing,
            "Time between two calls of a burst.",
        ),
    ];

    fn check(&self, at: &Origin, mistakes: &mut Mistakes) {
        if self.every.is_zero() {
            mistakes.add(at, "every must be longer than nothing");
        }
    }
}

/// Poisson, with a rate that goes up and down as a sine does.
#[derive(Debug, Clone, PartialEq)]
pub struct Diurnal {
    /// Calls in a second, in the mean of a period.
    pub rate: Rate,
    /// How far the rate goes from its mean, as a part of it.
    pub swing: Share,
    /// From peak to peak.
    pub period: Duration,
    /// When the first peak is.
    pub peak: Duration,
}

impl Default for Diurnal {
    fn default() -> Diurnal {
        Diurnal {
            rate: Rate::default(),
            swing: super::field::Real(0.5),
            period: Duration::from_secs(86_400),
            peak: Duration::from_secs(43_200),
        }
    }
}

impl Section for Diurnal {
    const KEYS: &'static [Key<Self>] = &[
        needed(
            "rate",
            |s| &mut s.rate,
            "Calls in a second, in the mean of a period.",
        ),
        key(
            "swing",
            |s| &mut s.swing,
            "How far the rate goes from its mean, as a part of it.",
        ),
        key("period", |s| &mut s.period, "From peak to peak."),
        key("peak", |s| &mut s.peak, "When the first peak is."),
    ];

    fn check(&self, at: &Origin, mistakes: &mut Mistakes) {
        if self.period.is_zero() {
            mistakes.add(at, "period must be longer than nothing");
        }
    }
}

/// At given moments.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Timetable {
    /// Written in the scenario.
    pub times: Vec<Duration>,
    /// Or in a file, with one in each line: what comes after it is left.
    file: TimetableFile,
}

impl Timetable {
    /// All moments, the earliest first.
    pub fn all(&self) -> Vec<Duration> {
        let mut all = match self.times.is_empty() {
            true => self.file.0.clone(),
            false => self.times.clone(),
        };
        all.sort();
        all
    }
}

impl Section for Timetable {
    const KEYS: &'static [Key<Self>] = &[
        key("times", |s| &mut s.times, "The moments, from the start."),
        key(
            "file",
            |s| &mut s.file,
            "A file with a moment in seconds at the begin of each line.",
        ),
    ];

    fn check(&self, at: &Origin, mistakes: &mut Mistakes) {
        if self.times.is_empty() == self.file.0.is_empty() {
            mistakes.add(at, "write either times or a file, with at least one moment");
        }
    }
}

/// Moments of a timetable file.
#[derive(Debug, Clone, PartialEq, Default)]
struct TimetableFile(Vec<Duration>);

impl Field for TimetableFile {
    fn take(&mut self, tree: &Tree, reading: &mut Reading<'_>) {
        if let Some(moments) = read_file(tree, reading, trace::timetable) {
            self.0 = moments;
        }
    }

    fn takes(&self) -> String {
        "name of a file".to_owned()
    }

    fn show(&self) -> Option<String> {
        None
    }
}

/// Reads a file by `parse`, whose mistakes are told with the line of the file.
fn read_file<T>(
    tree: &Tree,
    reading: &mut Reading<'_>,
    parse: fn(&str) -> Result<T, trace::Malformed>,
) -> Option<T> {
    let Value::Text(name) = &tree.value else {
        wrong(tree, "the name of a file", &tree.value, reading);
        return None;
    };
    let text = reading.file(name, &tree.at)?;
    match parse(&text) {
        Ok(read) => Some(read),
        Err(error) => {
            reading.mistakes.add(&tree.at, format!("{name}:{error}"));
            None
        }
    }
}

/// Counts by the minute.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Azure2019 {
    /// By function.
    file: MinutesFile,
    /// Which function of the trace; its hash, or the beginning of it.
    pub function: String,
    /// How much quicker than it was recorded.
    pub quicker: Times,
}

impl Azure2019 {
    /// Calls in each minute of the function's trace.
    pub fn minutes(&self) -> &[u32] {
        let found = self
            .file
            .0
            .iter()
            .find(|of| of.function.starts_with(&self.function));
        found.map_or(&[], |of| &of.counts)
    }
}

impl Section for Azure2019 {
    const KEYS: &'static [Key<Self>] = &[
        needed(
            "file",
            |s| &mut s.file,
            "invocations_per_function_md.anon.d01.csv, or one of its shape.",
        ),
        key(
            "function",
            |s| &mut s.function,
            "HashFunction, or the beginning of it; without it the first line.",
        ),
        key(
            "quicker",
            |s| &mut s.quicker,
            "How many times as quickly as it was recorded.",
        ),
    ];

    fn check(&self, at: &Origin, mistakes: &mut Mistakes) {
        if self.minutes().is_empty() {
            let message = format!("the trace has no function {:?}", self.function);
            mistakes.add(at, message);
        }
    }
}

/// Rows of a trace that counts by the minute.
#[derive(Debug, Clone, PartialEq, Default)]
struct MinutesFile(Vec<Minutes>);

impl Field for MinutesFile {
    fn take(&mut self, tree: &Tree, reading: &mut Reading<'_>) {
        if let Some(rows) = read_file(tree, reading, trace::azure_2019) {
            self.0 = rows;
        }
    }

    fn takes(&self) -> String {
        "name of a file".to_owned()
    }

    fn show(&self) -> Option<String> {
        None
    }
}

/// One by one, with how long each ran.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Azure2021 {
    file: TimedFile,
    /// Which function of the trace; the beginning of its hash.
    pub function: String,
    /// How much quicker than it was recorded.
    pub quicker: Times,
}

impl Azure2021 {
    /// Its calls, the earliest first: when each came since the first of the
    /// trace, and how long it ran.
    pub fn calls(&self) -> impl Iterator<Item = (Duration, Duration)> {
        let calls = self.file.0.iter();
        let calls = calls.filter(|call| call.function.starts_with(&self.function));
        calls.map(|call| (call.at, call.ran))
    }
}

impl Section for Azure2021 {
    const KEYS: &'static [Key<Self>] = &[
        needed(
            "file",
            |s| &mut s.file,
            "AzureFunctionsInvocationTraceForTwoWeeksJan2021.txt, or one of its shape.",
        ),
        key(
            "function",
            |s| &mut s.function,
            "The function's hash, or the beginning of it; without it all calls.",
        ),
        key(
            "quicker",
            |s| &mut s.quicker,
            "How many times as quickly as it was recorded.",
        ),
    ];

    fn check(&self, at: &Origin, mistakes: &mut Mistakes) {
        if self.calls().next().is_none() {
            let message = format!("the trace has no call of function {:?}", self.function);
            mistakes.add(at, message);
        }
    }
}

/// Rows of a trace of single calls.
#[derive(Debug, Clone, PartialEq, Default)]
struct TimedFile(Vec<Timed>);

impl Field for TimedFile {
    fn take(&mut self, tree: &Tree, reading: &mut Reading<'_>) {
        if let Some(rows) = read_file(tree, reading, trace::azure_2021) {
            self.0 = rows;
        }
    }

    fn takes(&self) -> String {
        "name of a file".to_owned()
    }

    fn show(&self) -> Option<String> {
        None
    }
}

static ARRIVALS: &[Variant<Arrivals>] = &[
    Variant {
        name: "constant",
        read: |t, r| Arrivals::Constant(section_of(t, r)),
        explain: || explain::<Constant>(""),
        help: "As a clock ticks.",
    },
    Variant {
        name: "uniform",
        read: |t, r| Arrivals::Uniform(section_of(t, r)),
        explain: || explain::<super::law::Uniform>(""),
        help: "With pauses evenly between two bounds.",
    },
    Variant {
        name: "poisson",
        read: |t, r| Arrivals::Poisson(section_of(t, r)),
        explain: || explain::<Poisson>(""),
        help: "Independently of each other.",
    },
    Variant {
        name: "on-off",
        read: |t, r| Arrivals::OnOff(section_of(t, r)),
        explain: || explain::<OnOff>(""),
        help: "An interrupted Poisson process.",
    },
    Variant {
        name: "bursts",
        read: |t, r| Arrivals::Bursts(section_of(t, r)),
        explain: || explain::<Bursts>(""),
        help: "Many at a time.",
    },
    Variant {
        name: "diurnal",
        read: |t, r| Arrivals::Diurnal(section_of(t, r)),
        explain: || explain::<Diurnal>(""),
        help: "By the time of day: Poisson with a rate that goes as a sine.",
    },
    Variant {
        name: "timetable",
        read: |t, r| Arrivals::Timetable(section_of(t, r)),
        explain: || explain::<Timetable>(""),
        help: "At given moments.",
    },
    Variant {
        name: "azure-2019",
        read: |t, r| Arrivals::Azure2019(section_of(t, r)),
        explain: || explain::<Azure2019>(""),
        help: "As counted by the minute; evenly by chance within each.",
    },
    Variant {
        name: "azure-2021",
        read: |t, r| Arrivals::Azure2021(section_of(t, r)),
        explain: || explain::<Azure2021>(""),
        help: "As recorded call by call, which run as long as they did.",
    },
];

impl Field for Arrivals {
    fn take(&mut self, tree: &Tree, reading: &mut Reading<'_>) {
        if let Some(arrivals) = one_of(ARRIVALS, tree, reading) {
            *self = arrivals;
        }
    }

    fn takes(&self) -> String {
        "table with one process".to_owned()
    }

    fn show(&self) -> Option<String> {
        None
    }

    fn below(&self) -> Vec<(String, Vec<Line>)> {
        explain_variants(ARRIVALS)
    }
}
