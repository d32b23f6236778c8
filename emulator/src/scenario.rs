//! A scenario: nodes, links, functions, workloads and faults in one TOML file,
//! for virtual nodes in virtual time and for real nodes over shaped links alike.
//!
//! | file | what it is |
//! |---|---|
//! | `tree` | TOML whose every value knows its line and column; `--set` |
//! | `field` | what keys take; sections as tables of keys, read and explained by them |
//! | `quantity` | numbers within bounds |
//! | `world` | nodes, links, gossip, faults |
//! | `work` | functions, classes, workloads, policies |
//! | `law` | how long calls run, how large inputs and answers are |
//! | `arrivals` | when calls come |
//! | `trace` | published traces |
//! | `check` | what must hold between sections |
//! | `draw` | a picture of it |
//!
//! Every mistake is told at once, with its line and column.
//!
//! ```
//! use weir_emulator::scenario::{Scenario, Texts};
//!
//! let text = r#"
//!     [scenario]
//!     duration = "1m"
//!     [[node]]
//!     name = "edge"
//!     count = 3
//!     [[function]]
//!     name = "thumb"
//!     service = { exponential = { mean = "80ms" } }
//!     [[workload]]
//!     function = "thum"
//!     at = "edge-9"
//!     arrivals = { poisson = { rate = 5 } }
//! "#;
//! let files = Texts::from([("a.toml".into(), text.to_owned())]);
//! let mistakes = Scenario::read(&files, "a.toml", &[]).unwrap_err().to_string();
//! assert!(mistakes.contains("a.toml:11:16: no function is named thum; did you mean thumb?"));
//! assert!(mistakes.contains("a.toml:12:10: no node or class is named edge-9"));
//! ```

pub mod arrivals;
mod check;
pub mod draw;
pub mod field;
pub mod law;
mod quantity;
pub mod trace;
pub mod tree;
pub mod work;
pub mod world;

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use self::field::{Key, Line, Many, Of, Reading, Section, explain, key, needed};
use self::tree::{Mistakes, Origin, Table, Value, lay_over, parse, set};
use self::work::{Class, Function, Placing, Workload};
use self::world::{Fault, Gossip, Link, Matrix, Nodes, Topology};

/// Longest file of a scenario, traces included, in bytes.
pub const FILE_BYTES_MAX: u64 = 1 << 30;

/// Files that one scenario includes, those that included ones do among them.
const INCLUDES_MAX: usize = 64;

/// Where the files of a scenario are.
pub trait Files {
    /// The text of one.
    ///
    /// # Errors
    /// As reading a file has them.
    fn read(&self, path: &Path) -> io::Result<String>;
}

/// Files of this machine.
#[derive(Debug, Clone, Copy, Default)]
pub struct Disk;

impl Files for Disk {
    fn read(&self, path: &Path) -> io::Result<String> {
        if std::fs::metadata(path)?.len() > FILE_BYTES_MAX {
            let message = format!("it is longer than {FILE_BYTES_MAX} bytes");
            return Err(io::Error::other(message));
        }
        std::fs::read_to_string(path)
    }
}

/// Texts by the names of the files that they stand for.
pub type Texts = BTreeMap<PathBuf, String>;

impl Files for Texts {
    fn read(&self, path: &Path) -> io::Result<String> {
        let text = self.get(path).cloned();
        text.ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))
    }
}

/// `[scenario]`.
#[derive(Debug, Clone, PartialEq)]
pub struct Head {
    /// What it is called in reports; the name of its file by default.
    pub name: String,
    /// How long calls arrive.
    pub duration: Duration,
    /// How long nothing is counted at the beginning.
    pub warm_up: Duration,
    /// Seed of all chance, unless another one is given.
    pub seed: field::Whole<0, { u64::MAX >> 1 }>,
}

impl Default for Head {
    fn default() -> Head {
        Head {
            name: String::new(),
            duration: Duration::from_secs(60),
            warm_up: Duration::ZERO,
            seed: field::Whole(1),
        }
    }
}

impl Section for Head {
    const KEYS: &'static [Key<Self>] = &[
        key("name", |s| &mut s.name, "What it is called in reports."),
        needed("duration", |s| &mut s.duration, "How long calls arrive."),
        key(
            "warm-up",
            |s| &mut s.warm_up,
            "How long nothing is counted at the beginning.",
        ),
        key(
            "seed",
            |s| &mut s.seed,
            "Seed of all chance, unless another one is given.",
        ),
    ];

    fn check(&self, at: &Origin, mistakes: &mut Mistakes) {
        if self.warm_up >= self.duration {
            mistakes.add(at, "warm-up is not shorter than duration");
        }
    }
}

/// A scenario that was read and checked.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Scenario {
    /// Of the whole.
    pub head: Of<Head>,
    /// Classes of nodes; at least one.
    pub nodes: Many<Nodes>,
    /// Links between them; the last that fits counts.
    pub links: Many<Link>,
    /// Round trips between zones; any link counts before.
    pub matrix: Option<Of<Matrix>>,
    /// Links from a file; between the matrix and links of their own.
    pub topology: Option<Of<Topology>>,
    /// How nodes hear of each other.
    pub gossip: Of<Gossip>,
    /// QoS classes; one that is named `default` where none is written.
    pub classes: Many<Class>,
    /// Functions; at least one.
    pub functions: Many<Function>,
    /// Who calls what; at least one.
    pub workloads: Many<Workload>,
    /// What goes wrong.
    pub faults: Many<Fault>,
    /// How calls are placed; the last that fits counts.
    pub policies: Many<Placing>,
}

impl Section for Scenario {
    const KEYS: &'static [Key<Self>] = &[
        needed("scenario", |s| &mut s.head, "Of the whole."),
        needed("node", |s| &mut s.nodes, "A class of nodes that are alike."),
        key(
            "link",
            |s| &mut s.links,
            "A way between nodes, classes, zones or regions.",
        ),
        key(
            "matrix",
            |s| &mut s.matrix,
            "Round trips between zones and regions.",
        ),
        key("topology", |s| &mut s.topology, "Links from a file."),
        key("gossip", |s| &mut s.gossip, "How nodes hear of each other."),
        key("class", |s| &mut s.classes, "A QoS class."),
        needed("function", |s| &mut s.functions, "A function."),
        needed("workload", |s| &mut s.workloads, "Who calls what."),
        key("fault", |s| &mut s.faults, "Something that goes wrong."),
        key(
            "policy",
            |s| &mut s.policies,
            "By what calls are placed; spill by default.",
        ),
    ];
}

/// One `--set`: its key and its value.
pub type Setting = (String, String);

impl Scenario {
    /// Reads a scenario from the file `path`, with what it includes, and changes
    /// what `settings` say.
    ///
    /// # Errors
    /// All mistakes that were found.
    pub fn read(files: &dyn Files, path: &str, settings: &[Setting]) -> Result<Scenario, Mistakes> {
        let mut mistakes = Mistakes::default();
        let mut included = Vec::new();
        let begin = Origin::File {
            path: path.into(),
            line: 1,
            column: 1,
        };
        let table = load(files, Path::new(path), &begin, &mut included, &mut mistakes);
        let Some(mut table) = table else {
            return Err(mistakes.in_order());
        };
        for (key, value) in settings {
            set(&mut table, key, value, &mut mistakes);
        }
        let mut reading = Reading { files, mistakes };
        let mut scenario: Scenario = field::read(&table, &begin, &mut reading);
        let mut mistakes = reading.mistakes;
        check::check(&scenario, &mut mistakes);
        if scenario.head.0.name.is_empty() {
            let stem = Path::new(path).file_stem().unwrap_or_default();
            scenario.head.0.name = stem.to_string_lossy().into_owned();
        }
        match mistakes.0.is_empty() {
            true => Ok(scenario),
            false => Err(mistakes.in_order()),
        }
    }

    /// Every key of a scenario, in the order in which they are documented.
    pub fn keys() -> Vec<Line> {
        let mut lines = vec![Line {
            key: INCLUDE.to_owned(),
            takes: "list of names of files".to_owned(),
            default: None,
            is_required: false,
            help: "Files that are read before this one, which may change what they say.",
        }];
        lines.extend(explain::<Scenario>(""));
        lines
    }

    /// Those lines as a text: what `weir scenario explain` prints.
    pub fn explained(lines: &[Line]) -> String {
        let mut text = String::new();
        for line in lines {
            let more = match (&line.default, line.is_required) {
                (_, true) => "; must be written".to_owned(),
                (Some(default), false) => format!("; {default} by default"),
                (None, false) => String::new(),
            };
            let Line {
                key, takes, help, ..
            } = line;
            text.push_str(&format!("{key}\n    {help}\n    Takes: {takes}{more}\n"));
        }
        text
    }

    /// The classes, at least the one that a node has without configuration.
    pub fn class_configs(&self) -> Vec<weir_node_core::class::ClassConfig> {
        let classes = self.classes.0.iter();
        let mut configs: Vec<_> = classes.map(|class| class.value.config()).collect();
        if configs.is_empty() {
            configs.push(weir_node_core::class::ClassConfig::default());
        }
        configs
    }
}

/// The key of included files.
const INCLUDE: &str = "include";

/// Reads a file and what it includes.
fn load(
    files: &dyn Files,
    path: &Path,
    at: &Origin,
    included: &mut Vec<PathBuf>,
    mistakes: &mut Mistakes,
) -> Option<Table> {
    if included.contains(&path.to_owned()) {
        mistakes.add(at, format!("{} is included twice", path.display()));
        return None;
    }
    if included.len() >= INCLUDES_MAX {
        mistakes.add(at, format!("more than {INCLUDES_MAX} files are included"));
        return None;
    }
    included.push(path.to_owned());
    let text = match files.read(path) {
        Ok(text) => text,
        Err(error) => {
            mistakes.add(at, format!("read {}: {error}", path.display()));
            return None;
        }
    };
    let mut table = parse(&path.to_string_lossy(), &text, mistakes)?;
    let Some(names) = table.remove(INCLUDE) else {
        return Some(table);
    };
    let trees = match names.value {
        Value::List(items) => items,
        Value::Text(_) | Value::Number(_) | Value::Truth(_) | Value::Table(_) => vec![names],
    };
    let mut whole = Table::new();
    for tree in trees {
        let Value::Text(name) = &tree.value else {
            let message = format!("expected the name of a file, found {}", tree.value.kind());
            mistakes.add(&tree.at, message);
            continue;
        };
        let path = field::beside(name, &tree.at);
        if let Some(below) = load(files, &path, &tree.at, included, mistakes) {
            lay_over(&mut whole, below);
        }
    }
    lay_over(&mut whole, table);
    Some(whole)
}

#[cfg(test)]
mod tests;
