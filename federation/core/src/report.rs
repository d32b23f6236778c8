//! What a node tells others of itself, and what may be believed of it.
//!
//! A report is a CBOR map. Fields that a reader does not know are skipped, and
//! those that a writer left out have defaults, so that versions can be mixed.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use weir_node_core::id::FunctionName;

use crate::coordinates::Coordinate;

/// Largest report in bytes, encoded.
pub const REPORT_BYTES: usize = 32 << 10;

/// Functions that one report tells of; the ones called most.
pub const OFFERS: usize = 256;

/// Labels, executors and regions that one report may have of each.
const WORDS: usize = 32;

/// Addresses of one kind that one report may name.
pub const ADDRESSES: usize = 8;

/// Longest such word in bytes.
const WORD_BYTES: usize = 256;

/// Processors that one machine may say it has, in thousandths of a core.
const CPU_MAX: u32 = 100_000_000;

/// Bytes of memory, or of disk, that one machine may say it has: 64 TiB.
const BYTES_MAX: u64 = 64 << 40;

/// Calls that one machine may say it runs, holds or has room for.
const CALLS_MAX: u32 = 10_000_000;

/// Longest service or start that one machine may say it measured: a day, in
/// microseconds.
const MICROS_MAX: u64 = 24 * 3_600 * 1_000_000;

/// What a node is for.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Serves its own users, in a zone; what it cannot hold spills.
    #[default]
    Edge,
    /// Takes what spills, in a region.
    Cloud,
}

/// How much a node has to do, and how much room it has.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Load {
    /// Processors that functions share, in thousandths of a core.
    pub cpu_total: u32,
    /// Those which no running call holds.
    pub cpu_free: u32,
    /// Memory that functions share, in bytes.
    pub memory_total: u64,
    /// That which no instance or call holds.
    pub memory_free: u64,
    /// Calls that run.
    pub running: u32,
    /// Calls that wait.
    pub waiting: u32,
    /// Processors that short calls of other nodes' users may take now, in
    /// thousandths of a core, beside those that they hold.
    pub guest_cpu: u32,
    /// The same for calls that are expected to run longer than a second.
    pub guest_cpu_long: u32,
    /// Bytes of disk that are free for code.
    pub disk_free: u64,
}

/// What is unusual about one function at a node: it has instances of it, or
/// calls, or no place left. Of all others a node says nothing: it can run what
/// it has the executor, the processor and the labels for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Offer {
    /// The function, as `name.namespace`.
    pub function: String,
    /// Calls that started instances could take at once, now.
    #[serde(default)]
    pub warm: u32,
    /// Calls that instances which could be started now could take, beside those.
    #[serde(default)]
    pub startable: u32,
    /// Whether the function's own bound there leaves no place, however idle the
    /// node is.
    #[serde(default)]
    pub full: bool,
    /// Calls that run.
    #[serde(default)]
    pub running: u32,
    /// How long a call runs, in microseconds, smoothed; 0 when it has not run.
    #[serde(default)]
    pub service_micros: u64,
    /// How long a start takes, in microseconds, smoothed; 0 when unknown.
    #[serde(default)]
    pub start_micros: u64,
}

/// All that a node tells of itself at one moment.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// Which life of the node this is; raised to refute what others say of it.
    pub epoch: u64,
    /// Counts up with each report of one epoch.
    pub sequence: u64,
    /// What it is for.
    #[serde(default)]
    pub role: Role,
    /// The zone of an edge node.
    #[serde(default)]
    pub zone: Option<String>,
    /// The region of a cloud node.
    #[serde(default)]
    pub region: Option<String>,
    /// Its processor, as Rust names it: `x86_64`, `aarch64`.
    #[serde(default)]
    pub architecture: String,
    /// Its executors by name.
    #[serde(default)]
    pub executors: Vec<String>,
    /// Labels for placement.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// Whether it takes no new calls.
    #[serde(default)]
    pub draining: bool,
    /// Counts changes of what it can run: secrets, executors, labels. Whoever
    /// was told that it cannot run something may ask again when this changes.
    #[serde(default)]
    pub abilities: u64,
    /// How loaded it is.
    #[serde(default)]
    pub load: Load,
    /// Where it is.
    #[serde(default)]
    pub coordinate: Coordinate,
    /// Multiaddresses at which it can be linked to, in its own words.
    #[serde(default)]
    pub addresses: Vec<String>,
    /// `ADDRESS:PORT` at which it takes calls of peers; none when it cannot be
    /// dialled.
    #[serde(default)]
    pub carriage: Vec<String>,
    /// Whether this is the short form, for other zones: what it can run is
    /// left out.
    #[serde(default)]
    pub brief: bool,
    /// When it was forgotten last, in seconds since 1970, as far as it answers
    /// that: 0 for never.
    #[serde(default)]
    pub forgotten: u64,
    /// What it can run; at most [`OFFERS`].
    #[serde(default)]
    pub offers: Vec<Offer>,
}

/// Why a report is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Implausible {
    /// Too many bytes.
    #[error("a report of {0} bytes is larger than {REPORT_BYTES}")]
    Size(usize),
    /// Not CBOR, or not of this shape.
    #[error("a report that cannot be read: {0}")]
    Shape(String),
    /// A value that no honest node has.
    #[error("a report whose {0} is out of range")]
    Range(&'static str),
}

impl Load {
    /// Whether an honest node could say so.
    pub fn is_plausible(&self) -> bool {
        let mut clamped = *self;
        clamped.clamp();
        clamped == *self
    }

    /// Bounds every number to what a reader believes.
    fn clamp(&mut self) {
        self.cpu_total = self.cpu_total.min(CPU_MAX);
        let cpu = [
            &mut self.cpu_free,
            &mut self.guest_cpu,
            &mut self.guest_cpu_long,
        ];
        for free in cpu {
            *free = (*free).min(self.cpu_total);
        }
        self.memory_total = self.memory_total.min(BYTES_MAX);
        self.memory_free = self.memory_free.min(self.memory_total);
        self.disk_free = self.disk_free.min(BYTES_MAX);
        self.running = self.running.min(CALLS_MAX);
        self.waiting = self.waiting.min(CALLS_MAX);
    }
}

impl Offer {
    /// Bounds every number to what a reader believes.
    fn clamp(&mut self) {
        for calls in [&mut self.warm, &mut self.startable, &mut self.running] {
            *calls = (*calls).min(CALLS_MAX);
        }
        for micros in [&mut self.service_micros, &mut self.start_micros] {
            *micros = (*micros).min(MICROS_MAX);
        }
    }
}

impl Implausible {
    /// The word for metrics and logs.
    pub fn reason(&self) -> &'static str {
        match self {
            Implausible::Size(_) => "size",
            Implausible::Shape(_) => "shape",
            Implausible::Range(_) => "range",
        }
    }
}

impl Report {
    /// The bytes that are signed and sent.
    ///
    /// # Errors
    /// When they would be more than [`REPORT_BYTES`].
    pub fn encode(&self) -> Result<Vec<u8>, Implausible> {
        let bytes = cbor4ii::serde::to_vec(Vec::with_capacity(1 << 10), self);
        let bytes = bytes.map_err(|error| Implausible::Shape(error.to_string()))?;
        match bytes.len() <= REPORT_BYTES {
            true => Ok(bytes),
            false => Err(Implausible::Size(bytes.len())),
        }
    }

    /// Reads what another node sent, and believes only what can be.
    pub fn decode(bytes: &[u8]) -> Result<Report, Implausible> {
        if bytes.len() > REPORT_BYTES {
            return Err(Implausible::Size(bytes.len()));
        }
        let report: Report = cbor4ii::serde::from_slice(bytes)
            .map_err(|error| Implausible::Shape(error.to_string()))?;
        report.check()?;
        Ok(report)
    }

    /// Bounds every number to what a reader believes, so that no setting or
    /// model of this node makes others refuse its report.
    pub fn clamp(&mut self) {
        self.load.clamp();
        self.labels
            .retain(|name, value| name.len() <= WORD_BYTES && value.len() <= WORD_BYTES);
        while self.labels.len() > WORDS {
            self.labels.pop_last();
        }
        self.executors.retain(|name| name.len() <= WORD_BYTES);
        self.executors.truncate(WORDS);
        self.offers.truncate(OFFERS);
        for offer in &mut self.offers {
            offer.clamp();
        }
    }

    /// Whether a reader would believe it.
    ///
    /// # Errors
    /// What it would not believe.
    pub fn check(&self) -> Result<(), Implausible> {
        let load = &self.load;
        let calls = |count: &u32| *count <= CALLS_MAX;
        let short = |word: &String| word.len() <= WORD_BYTES;
        let name = |offer: &Offer| offer.function.parse::<FunctionName>().is_ok();
        let counts = |offer: &Offer| {
            let counts = [offer.warm, offer.startable, offer.running];
            let times = [offer.service_micros, offer.start_micros];
            counts.iter().all(calls) && times.iter().all(|micros| *micros <= MICROS_MAX)
        };
        let places = |words: &Vec<String>| words.len() <= ADDRESSES && words.iter().all(short);
        let labels = self.labels.iter();
        let facts = [
            ("epoch", self.epoch < u64::MAX / 2),
            (
                "cpu",
                [load.cpu_free, load.guest_cpu, load.guest_cpu_long]
                    .iter()
                    .all(|free| *free <= load.cpu_total)
                    && load.cpu_total <= CPU_MAX,
            ),
            (
                "memory",
                load.memory_free <= load.memory_total && load.memory_total <= BYTES_MAX,
            ),
            ("disk", load.disk_free <= BYTES_MAX),
            ("calls", [load.running, load.waiting].iter().all(calls)),
            ("coordinate", self.coordinate.is_plausible()),
            (
                "addresses",
                places(&self.addresses) && places(&self.carriage),
            ),
            ("zone", self.zone.as_ref().is_none_or(short)),
            ("region", self.region.as_ref().is_none_or(short)),
            ("architecture", short(&self.architecture)),
            (
                "executors",
                self.executors.len() <= WORDS && self.executors.iter().all(short),
            ),
            (
                "labels",
                self.labels.len() <= WORDS && labels.into_iter().all(|(k, v)| short(k) && short(v)),
            ),
            ("number of functions", self.offers.len() <= OFFERS),
            (
                "function",
                self.offers.iter().all(|offer| name(offer) && counts(offer)),
            ),
        ];
        match facts.iter().find(|(_, holds)| !holds) {
            None => Ok(()),
            Some((what, _)) => Err(Implausible::Range(what)),
        }
    }

    /// Whether it tells more than one with this epoch and sequence did.
    pub fn is_newer_than(&self, epoch: u64, sequence: u64) -> bool {
        (self.epoch, self.sequence) > (epoch, sequence)
    }
}

/// What a role is called in settings.
impl std::str::FromStr for Role {
    type Err = String;

    fn from_str(text: &str) -> Result<Role, String> {
        match text {
            "edge" => Ok(Role::Edge),
            "cloud" => Ok(Role::Cloud),
            other => Err(format!("{other:?} is no role: write edge or cloud")),
        }
    }
}

impl std::fmt::Display for Role {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Role::Edge => "edge",
            Role::Cloud => "cloud",
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::samples::report;

    #[test]
    fn another_decoder_reads_what_is_sent() {
        let sent = report();
        let bytes = sent.encode().expect("it is short");
        let read: Report = serde_cbor::from_slice(&bytes).expect("it is CBOR");
        assert_eq!(read, sent);
        let theirs = serde_cbor::to_vec(&sent).expect("it can be encoded");
        assert_eq!(Report::decode(&theirs), Ok(sent));
    }

    #[test]
    fn fields_of_other_versions_do_no_harm() {
        let mut map = BTreeMap::new();
        map.insert("epoch", serde_cbor::Value::Integer(3));
        map.insert("sequence", serde_cbor::Value::Integer(4));
        map.insert("mood", serde_cbor::Value::Text("sunny".to_owned()));
        let bytes = serde_cbor::to_vec(&map).expect("it can be encoded");
        let read = Report::decode(&bytes).expect("what is left out has defaults");
        assert_eq!((read.epoch, read.sequence, read.role), (3, 4, Role::Edge));
        assert!(read.offers.is_empty());
    }

    #[test]
    fn lies_are_refused_by_name() {
        let check = |change: fn(&mut Report), what: &str| {
            let mut lie = report();
            change(&mut lie);
            let bytes = serde_cbor::to_vec(&lie).expect("it can be encoded");
            let refused = Report::decode(&bytes).expect_err(what);
            assert!(refused.to_string().contains(what), "{refused}");
        };
        check(|r| r.load.cpu_free = 5_000, "cpu");
        check(|r| r.load.memory_total = u64::MAX, "memory");
        check(|r| r.load.running = u32::MAX, "calls");
        check(|r| r.load.guest_cpu = 5_000, "cpu");
        check(|r| r.load.disk_free = u64::MAX, "disk");
        check(|r| r.coordinate.height = f64::INFINITY, "coordinate");
        check(|r| r.zone = Some("z".repeat(300)), "zone");
        check(|r| r.carriage = vec![String::new(); 99], "addresses");
        check(|r| r.epoch = u64::MAX, "epoch");
        check(|r| r.offers[0].function = "No Name".to_owned(), "function");
        check(|r| r.offers[0].startable = u32::MAX, "function");
        check(|r| r.offers[0].service_micros = u64::MAX, "function");
        check(|r| r.offers[0].start_micros = u64::MAX, "function");
        check(
            |r| r.offers = vec![r.offers[0].clone(); OFFERS + 1],
            "number of functions",
        );
        check(
            |r| r.labels = (0..99).map(|n| (n.to_string(), String::new())).collect(),
            "labels",
        );
    }

    #[test]
    fn newer_is_by_epoch_then_sequence() {
        let report = Report {
            epoch: 2,
            sequence: 5,
            ..report()
        };
        assert!(report.is_newer_than(1, 9) && report.is_newer_than(2, 4));
        assert!(!report.is_newer_than(2, 5) && !report.is_newer_than(3, 0));
    }

    proptest! {
        #[test]
        fn whatever_a_node_measures_others_believe_its_report(
            cpu in any::<[u32; 4]>(),
            bytes in any::<[u64; 3]>(),
            calls in any::<[u32; 2]>(),
            offers in prop::collection::vec((any::<[u32; 3]>(), any::<[u64; 2]>()), 0..OFFERS + 9),
            labels in prop::collection::btree_map("[a-z]{0,300}", "[a-z]{0,300}", 0..2 * WORDS),
        ) {
            let mut own = report();
            own.load = Load {
                cpu_total: cpu[0],
                cpu_free: cpu[1],
                memory_total: bytes[0],
                memory_free: bytes[1],
                running: calls[0],
                waiting: calls[1],
                guest_cpu: cpu[2],
                guest_cpu_long: cpu[3],
                disk_free: bytes[2],
            };
            own.labels = labels;
            own.offers = offers.iter().map(|(calls, micros)| Offer {
                warm: calls[0],
                startable: calls[1],
                running: calls[2],
                service_micros: micros[0],
                start_micros: micros[1],
                ..report().offers[0].clone()
            }).collect();
            own.clamp();
            prop_assert_eq!(own.check(), Ok(()));
        }

        #[test]
        fn nothing_that_arrives_ends_the_reader(bytes in prop::collection::vec(any::<u8>(), 0..2_000)) {
            let _ = Report::decode(&bytes);
        }

        #[test]
        fn damaged_reports_do_not_either(at in 0..400_usize, value in any::<u8>()) {
            let mut bytes = report().encode().expect("it is short");
            let at = at % bytes.len();
            bytes[at] = value;
            let _ = Report::decode(&bytes);
        }
    }
}
