//! What a node tells others of itself, and what may be believed of it.
//!
//! A report is a CBOR map. Fields that a reader does not know are skipped, and
//! those that a writer left out have defaults, so that versions can be mixed.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use weir_node::id::FunctionName;

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

/// Processors that are believed of one machine, in thousandths of a core.
const MOST_CPU: u32 = 100_000_000;

/// Memory that is believed of one machine: 64 TiB.
const MOST_MEMORY: u64 = 64 << 40;

/// Calls that are believed of one machine, running, waiting or free.
const MOST_CALLS: u32 = 10_000_000;

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
    /// Calls of other nodes' users that it takes now, beside those it has.
    pub guests: u32,
}

/// What a node can do with one function.
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

    fn check(&self) -> Result<(), Implausible> {
        let load = &self.load;
        let calls = |count: &u32| *count <= MOST_CALLS;
        let short = |word: &String| word.len() <= WORD_BYTES;
        let name = |offer: &Offer| offer.function.parse::<FunctionName>().is_ok();
        let counts = |offer: &Offer| {
            let counts = [offer.warm, offer.startable, offer.running];
            counts.iter().all(calls)
        };
        let places = |words: &Vec<String>| words.len() <= ADDRESSES && words.iter().all(short);
        let labels = self.labels.iter();
        let facts = [
            ("epoch", self.epoch < u64::MAX / 2),
            (
                "cpu",
                load.cpu_free <= load.cpu_total && load.cpu_total <= MOST_CPU,
            ),
            (
                "memory",
                load.memory_free <= load.memory_total && load.memory_total <= MOST_MEMORY,
            ),
            (
                "calls",
                [load.running, load.waiting, load.guests].iter().all(calls),
            ),
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

#[cfg(test)]
pub(crate) mod tests {
    use libp2p_identity::PeerId;
    use proptest::prelude::*;

    use super::*;

    /// Some node's id.
    pub(crate) fn id(number: u8) -> PeerId {
        let mut seed = [number; 32];
        let key = libp2p_identity::Keypair::ed25519_from_bytes(&mut seed).expect("32 bytes");
        key.public().to_peer_id()
    }

    pub(crate) fn report() -> Report {
        Report {
            epoch: 1,
            sequence: 1,
            role: Role::Edge,
            zone: Some("lab".to_owned()),
            region: None,
            architecture: "x86_64".to_owned(),
            executors: vec!["wasm".to_owned()],
            labels: BTreeMap::from([("disk".to_owned(), "ssd".to_owned())]),
            draining: false,
            load: Load {
                cpu_total: 4_000,
                cpu_free: 3_000,
                memory_total: 8 << 30,
                memory_free: 4 << 30,
                running: 2,
                waiting: 0,
                guests: 16,
            },
            coordinate: Coordinate::default(),
            addresses: vec!["/ip4/192.0.2.1/tcp/4001".to_owned()],
            carriage: vec!["192.0.2.1:4002".to_owned()],
            brief: false,
            forgotten: 0,
            offers: vec![Offer {
                function: "shout.openfaas-fn".to_owned(),
                warm: 1,
                startable: 3,
                running: 0,
                service_micros: 900,
                start_micros: 120,
            }],
        }
    }

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
        check(|r| r.load.guests = u32::MAX, "calls");
        check(|r| r.coordinate.height = f64::INFINITY, "coordinate");
        check(|r| r.zone = Some("z".repeat(300)), "zone");
        check(|r| r.carriage = vec![String::new(); 99], "addresses");
        check(|r| r.epoch = u64::MAX, "epoch");
        check(|r| r.offers[0].function = "No Name".to_owned(), "function");
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
