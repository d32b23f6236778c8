//! What a peer said of itself, read once, and shared by all who heard it: the
//! views of a node, and the nodes of one process.

use std::hash::{BuildHasher, Hasher};
use std::sync::Arc;

use foldhash::quality::FixedState;
use libp2p_identity::PeerId;
use weir_node_core::id::{DEFAULT_NAMESPACE, FunctionName};

use crate::endpoint::Endpoint;
use crate::report::{Offer, Report};

/// What stands for a function's name in tables of peers. Two names are taken
/// for one where their hashes are equal; a member that seeks such names gains
/// nothing, for it may tell of any name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FunctionKey(u64);

impl FunctionKey {
    /// The key of a name.
    pub fn of(function: &FunctionName) -> FunctionKey {
        FunctionKey::by(function.name(), function.namespace.as_str())
    }

    /// As a number, the same in all nodes of one version.
    pub fn as_u64(self) -> u64 {
        self.0
    }

    /// The key of a name that is known to be one, as reports write it.
    fn read(text: &str) -> FunctionKey {
        let (name, namespace) = text.rsplit_once('.').unwrap_or((text, DEFAULT_NAMESPACE));
        FunctionKey::by(name, namespace)
    }

    fn by(name: &str, namespace: &str) -> FunctionKey {
        let mut hasher = FixedState::default().build_hasher();
        hasher.write(namespace.as_bytes());
        hasher.write_u8(b'.');
        hasher.write(name.as_bytes());
        FunctionKey(hasher.finish())
    }
}

/// What stands for a peer's id in tables: eight bytes of its key, or of the
/// digest of it, mixed. Whoever wants those of another has to make 2^64 keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PeerKey(u64);

impl PeerKey {
    /// As a number, the same in all nodes.
    pub fn as_u64(self) -> u64 {
        self.0
    }

    /// The key that is this number.
    pub(crate) fn by(number: u64) -> PeerKey {
        PeerKey(number)
    }

    /// The key of an id.
    pub fn of(id: &PeerId) -> PeerKey {
        let digest = id.as_ref().digest();
        let mut bytes = [0; 8];
        let from = digest.len().saturating_sub(8);
        let tail = digest.get(from..).unwrap_or_default();
        for (to, byte) in bytes.iter_mut().zip(tail) {
            *to = *byte;
        }
        // The golden ratio's share of 2^64: D. Knuth, "The Art of Computer
        // Programming", volume 3, section 6.4.
        PeerKey(u64::from_le_bytes(bytes).wrapping_mul(0x9e37_79b9_7f4a_7c15))
    }

    /// A number by which tables sort it in.
    pub(crate) fn hash(self) -> u64 {
        self.0
    }
}

/// The numbers of an [`Offer`] that decisions read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Offered {
    /// Calls of the function that may be sent there as far as it is concerned.
    pub room: u32,
    /// Whether a started instance waits for a call.
    pub is_warm: bool,
    /// How long a call runs, in microseconds; 0 when it has not run.
    pub service_micros: u64,
    /// How long a start takes, in microseconds; 0 when unknown.
    pub start_micros: u64,
}

impl Offered {
    fn by(offer: &Offer) -> Offered {
        Offered {
            room: match offer.full {
                true => 0,
                false => offer.warm.saturating_add(offer.startable).max(1),
            },
            is_warm: offer.warm > 0,
            service_micros: offer.service_micros,
            start_micros: offer.start_micros,
        }
    }
}

/// What a peer said of itself. What decisions read stands first.
#[derive(Debug)]
#[repr(C)]
pub struct Facts {
    /// Changes of what it can run, as its report counts them.
    pub(crate) counted: u64,
    /// Functions of which it told something unusual, in the order of their keys.
    told: Box<[(FunctionKey, Offered)]>,
    /// Processors that it has for other nodes' users, for short calls and for
    /// long ones, in thousandths of a core.
    pub(crate) guest_cpu: [u32; 2],
    /// In its own words.
    pub report: Arc<Report>,
    /// Where it takes calls.
    pub carriage: Arc<[Endpoint]>,
    /// Who.
    pub id: PeerId,
}

impl Facts {
    /// Reads a report that was checked.
    pub fn new(id: PeerId, report: Report) -> Facts {
        let offers = report.offers.iter().enumerate();
        let mut named: Vec<(FunctionKey, usize)> = offers
            .map(|(at, offer)| (FunctionKey::read(&offer.function), at))
            .collect();
        // The last word about a function counts.
        named.sort_unstable_by_key(|(key, at)| (*key, std::cmp::Reverse(*at)));
        named.dedup_by_key(|(key, _)| *key);
        Facts {
            id,
            counted: report.abilities,
            guest_cpu: [report.load.guest_cpu, report.load.guest_cpu_long],
            carriage: carriage(&report),
            told: named
                .into_iter()
                .map(|(key, at)| (key, Offered::by(&report.offers[at])))
                .collect(),
            report: Arc::new(report),
        }
    }

    /// What it told of a function; `None` when nothing is unusual about it.
    pub fn offered(&self, function: FunctionKey) -> Option<&Offered> {
        // Keys are spread evenly: the one that is sought is near its share of
        // the way. W. W. Peterson, "Addressing for random-access storage", IBM
        // Journal of Research and Development 1(2), 1957.
        let share = u128::from(function.0) * self.told.len() as u128;
        let mut at = (share >> 64) as usize;
        while self.told.get(at)?.0 < function {
            at += 1;
        }
        while at > 0 && self.told[at].0 > function {
            at -= 1;
        }
        let (key, offered) = self.told.get(at)?;
        (*key == function).then_some(offered)
    }
}

/// Where a peer takes calls, by its report.
pub fn carriage(report: &Report) -> Arc<[Endpoint]> {
    let addresses = report.carriage.iter();
    addresses.filter_map(|text| text.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::samples::{id, report};

    fn key(name: &str) -> FunctionKey {
        FunctionKey::of(&name.parse().expect("a name"))
    }

    #[test]
    fn a_function_is_found_by_any_form_of_its_name_and_the_last_word_counts() {
        let mut said = report();
        let offer = |name: &str, warm| Offer {
            function: name.to_owned(),
            warm,
            ..report().offers[0].clone()
        };
        said.offers = vec![offer("a.b", 1), offer("shout", 0), offer("a.b", 7)];
        let facts = Facts::new(id(1), said);
        assert_eq!(facts.offered(key("a.b")).map(|told| told.room), Some(10));
        let shout = facts.offered(key("shout.openfaas-fn"));
        assert_eq!(shout.map(|told| told.is_warm), Some(false));
        assert_eq!(facts.offered(key("b.a")), None);
    }

    #[test]
    fn a_function_without_a_place_has_no_room() {
        let mut said = report();
        said.offers[0].full = true;
        let facts = Facts::new(id(1), said);
        assert_eq!(facts.offered(key("shout")).map(|told| told.room), Some(0));
    }
}
