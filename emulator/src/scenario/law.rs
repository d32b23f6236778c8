//! Laws that numbers follow: how long calls run, how large their inputs and
//! answers are.

use std::time::Duration;

use weir_node_core::resources::Memory;

use super::field::{
    Field, Key, Line, Positive, Reading, Section, Times, Variant, explain_variants, key, needed,
    one_of, section_of,
};
use super::tree::{Mistakes, Origin, Tree, Value};

/// Samples that one law may be made of.
const SAMPLES_MAX: usize = 1_000_000;

/// How long calls of a function run on a node of speed 1.
#[derive(Debug, Clone, PartialEq)]
pub enum Service {
    /// Always as long.
    Constant(Constant),
    /// Evenly between two bounds.
    Uniform(Uniform),
    /// Without memory.
    Exponential(Exponential),
    /// Its logarithm is normal: many are short, few are long.
    LogNormal(LogNormal),
    /// A heavy tail.
    Pareto(Pareto),
    /// By the size of the input.
    BySize(BySize),
    /// As was measured.
    Samples(Samples),
}

impl Default for Service {
    fn default() -> Service {
        Service::Constant(Constant::default())
    }
}

/// Always as long.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Constant {
    /// That long.
    pub time: Duration,
}

impl Section for Constant {
    const KEYS: &'static [Key<Self>] = &[needed("time", |s| &mut s.time, "That long.")];
}

/// Evenly between two bounds.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Uniform {
    /// No shorter.
    pub least: Duration,
    /// No longer.
    pub most: Duration,
}

impl Section for Uniform {
    const KEYS: &'static [Key<Self>] = &[
        needed("least", |s| &mut s.least, "No shorter than this."),
        needed("most", |s| &mut s.most, "No longer than this."),
    ];

    fn check(&self, at: &Origin, mistakes: &mut Mistakes) {
        if self.least > self.most {
            mistakes.add(at, "least is more than most");
        }
    }
}

/// Exponential.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Exponential {
    /// The mean.
    pub mean: Duration,
}

impl Section for Exponential {
    const KEYS: &'static [Key<Self>] = &[needed("mean", |s| &mut s.mean, "The mean.")];
}

/// Log-normal.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct LogNormal {
    /// Half are shorter.
    pub median: Duration,
    /// Standard deviation of the natural logarithm.
    pub sigma: Sigma,
}

/// Standard deviation of a natural logarithm.
pub type Sigma = super::field::Real<0, 5_000>;

impl Section for LogNormal {
    const KEYS: &'static [Key<Self>] = &[
        needed("median", |s| &mut s.median, "Half of them are shorter."),
        needed(
            "sigma",
            |s| &mut s.sigma,
            "Standard deviation of the natural logarithm.",
        ),
    ];
}

/// Pareto (type I), cut off.
#[derive(Debug, Clone, PartialEq)]
pub struct Pareto {
    /// The scale: none is shorter.
    pub least: Duration,
    /// The shape; the mean is infinite without a cut at 1 or below.
    pub shape: Shape,
    /// What would be longer is that long.
    pub most: Duration,
}

/// Shape of a Pareto law.
pub type Shape = super::field::Real<100, 100_000>;

impl Default for Pareto {
    fn default() -> Pareto {
        Pareto {
            least: Duration::ZERO,
            shape: Shape::default(),
            most: Duration::from_secs(3_600),
        }
    }
}

impl Section for Pareto {
    const KEYS: &'static [Key<Self>] = &[
        needed("least", |s| &mut s.least, "The scale: none is shorter."),
        needed(
            "shape",
            |s| &mut s.shape,
            "The shape: the smaller, the heavier the tail.",
        ),
        key(
            "most",
            |s| &mut s.most,
            "What would be longer is that long.",
        ),
    ];

    fn check(&self, at: &Origin, mistakes: &mut Mistakes) {
        if self.least > self.most {
            mistakes.add(at, "least is more than most");
        }
    }
}

/// By the size of the input.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct BySize {
    /// For an empty input.
    pub fixed: Duration,
    /// For each 1,024 bytes of it.
    pub per_kilobyte: Duration,
}

impl Section for BySize {
    const KEYS: &'static [Key<Self>] = &[
        key("fixed", |s| &mut s.fixed, "For an empty input."),
        needed(
            "per-kilobyte",
            |s| &mut s.per_kilobyte,
            "For each 1,024 bytes of input.",
        ),
    ];
}

/// As was measured: each value is as likely.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Samples {
    /// Written in the scenario.
    pub values: Vec<Duration>,
    /// Or in a file.
    file: SampleFile,
}

impl Samples {
    /// All of them; at least one.
    pub fn all(&self) -> &[Duration] {
        match self.values.is_empty() {
            true => &self.file.0,
            false => &self.values,
        }
    }
}

impl Section for Samples {
    const KEYS: &'static [Key<Self>] = &[
        key("values", |s| &mut s.values, "The values."),
        key(
            "file",
            |s| &mut s.file,
            "A file with one value in each line.",
        ),
    ];

    fn check(&self, at: &Origin, mistakes: &mut Mistakes) {
        if self.values.is_empty() == self.file.0.is_empty() {
            mistakes.add(at, "write either values or a file, with at least one value");
        }
    }
}

/// Durations that were read from a file.
#[derive(Debug, Clone, PartialEq, Default)]
struct SampleFile(Vec<Duration>);

impl Field for SampleFile {
    fn take(&mut self, tree: &Tree, reading: &mut Reading<'_>) {
        let Value::Text(name) = &tree.value else {
            return super::field::wrong(tree, "the name of a file", &tree.value, reading);
        };
        let Some(text) = reading.file(name, &tree.at) else {
            return;
        };
        let lines = text.lines().zip(1..).map(|(line, at)| (line.trim(), at));
        for (line, number) in lines.filter(|(line, _)| !line.is_empty() && !line.starts_with('#')) {
            match humantime::parse_duration(line) {
                Ok(time) if time <= super::field::TIME_MAX && self.0.len() < SAMPLES_MAX => {
                    self.0.push(time);
                }
                Ok(_) | Err(_) => {
                    let message = format!("{name}:{number}: {line:?} is no time as 40ms");
                    reading.mistakes.add(&tree.at, message);
                }
            }
        }
    }

    fn takes(&self) -> String {
        "name of a file".to_owned()
    }

    fn show(&self) -> Option<String> {
        None
    }
}

static SERVICES: &[Variant<Service>] = &[
    Variant {
        name: "constant",
        read: |t, r| Service::Constant(section_of(t, r)),
        explain: || super::field::explain::<Constant>(""),
        help: "Always as long; a time alone means the same.",
    },
    Variant {
        name: "uniform",
        read: |t, r| Service::Uniform(section_of(t, r)),
        explain: || super::field::explain::<Uniform>(""),
        help: "Evenly between two bounds.",
    },
    Variant {
        name: "exponential",
        read: |t, r| Service::Exponential(section_of(t, r)),
        explain: || super::field::explain::<Exponential>(""),
        help: "Without memory: the model of textbooks.",
    },
    Variant {
        name: "lognormal",
        read: |t, r| Service::LogNormal(section_of(t, r)),
        explain: || super::field::explain::<LogNormal>(""),
        help: "Many are short, few are long, as functions in clouds are.",
    },
    Variant {
        name: "pareto",
        read: |t, r| Service::Pareto(section_of(t, r)),
        explain: || super::field::explain::<Pareto>(""),
        help: "A heavy tail.",
    },
    Variant {
        name: "by-size",
        read: |t, r| Service::BySize(section_of(t, r)),
        explain: || super::field::explain::<BySize>(""),
        help: "In proportion to the size of the input.",
    },
    Variant {
        name: "samples",
        read: |t, r| Service::Samples(section_of(t, r)),
        explain: || super::field::explain::<Samples>(""),
        help: "As was measured: each value is as likely.",
    },
];

impl Field for Service {
    fn take(&mut self, tree: &Tree, reading: &mut Reading<'_>) {
        if let Value::Text(_) = &tree.value {
            let mut time = Duration::ZERO;
            time.take(tree, reading);
            *self = Service::Constant(Constant { time });
        } else if let Some(service) = one_of(SERVICES, tree, reading) {
            *self = service;
        }
    }

    fn takes(&self) -> String {
        "time, or a table with one law".to_owned()
    }

    fn show(&self) -> Option<String> {
        None
    }

    fn below(&self) -> Vec<(String, Vec<Line>)> {
        explain_variants(SERVICES)
    }
}

/// How large something is.
#[derive(Debug, Clone, PartialEq)]
pub enum Size {
    /// Always as large.
    Constant(Memory),
    /// Evenly between two bounds.
    Uniform(UniformSize),
    /// Its logarithm is normal.
    LogNormal(LogNormalSize),
    /// So many times the input.
    OfInput(OfInput),
}

impl Default for Size {
    fn default() -> Size {
        Size::Constant(Memory::bytes(1_024))
    }
}

/// Evenly between two bounds.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct UniformSize {
    /// No smaller.
    pub least: Memory,
    /// No larger.
    pub most: Memory,
}

impl Section for UniformSize {
    const KEYS: &'static [Key<Self>] = &[
        needed("least", |s| &mut s.least, "No smaller than this."),
        needed("most", |s| &mut s.most, "No larger than this."),
    ];

    fn check(&self, at: &Origin, mistakes: &mut Mistakes) {
        if self.least > self.most {
            mistakes.add(at, "least is more than most");
        }
    }
}

/// Log-normal.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct LogNormalSize {
    /// Half are smaller.
    pub median: Memory,
    /// Standard deviation of the natural logarithm.
    pub sigma: Sigma,
}

impl Section for LogNormalSize {
    const KEYS: &'static [Key<Self>] = &[
        needed("median", |s| &mut s.median, "Half of them are smaller."),
        needed(
            "sigma",
            |s| &mut s.sigma,
            "Standard deviation of the natural logarithm.",
        ),
    ];
}

/// So many times the input.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct OfInput {
    /// How many.
    pub times: Times,
}

impl Section for OfInput {
    const KEYS: &'static [Key<Self>] = &[needed("times", |s| &mut s.times, "How many times.")];
}

static SIZES: &[Variant<Size>] = &[
    Variant {
        name: "uniform",
        read: |t, r| Size::Uniform(section_of(t, r)),
        explain: || super::field::explain::<UniformSize>(""),
        help: "Evenly between two bounds.",
    },
    Variant {
        name: "lognormal",
        read: |t, r| Size::LogNormal(section_of(t, r)),
        explain: || super::field::explain::<LogNormalSize>(""),
        help: "Many are small, few are large.",
    },
    Variant {
        name: "of-input",
        read: |t, r| Size::OfInput(section_of(t, r)),
        explain: || super::field::explain::<OfInput>(""),
        help: "In proportion to the input; of an answer alone.",
    },
];

impl Field for Size {
    fn take(&mut self, tree: &Tree, reading: &mut Reading<'_>) {
        if let Value::Text(_) | Value::Number(_) = &tree.value {
            let mut size = Memory::bytes(0);
            size.take(tree, reading);
            *self = Size::Constant(size);
        } else if let Some(size) = one_of(SIZES, tree, reading) {
            *self = size;
        }
    }

    fn takes(&self) -> String {
        "bytes, or a table with one law".to_owned()
    }

    fn show(&self) -> Option<String> {
        match self {
            Size::Constant(size) => size.show(),
            Size::Uniform(_) | Size::LogNormal(_) | Size::OfInput(_) => None,
        }
    }

    fn below(&self) -> Vec<(String, Vec<Line>)> {
        explain_variants(SIZES)
    }
}

/// Calls in a second.
pub type Rate = Positive;
