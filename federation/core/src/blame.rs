//! Where a function fails and does so nowhere else: evidence of the calls that
//! this node placed, here and at peers.
//!
//! Plain state. A node is blamed for a function when both it and the others
//! ended enough calls, it fails many, and several times as many as the others
//! do: bad input that is spread evenly blames nobody. Whoever is blamed gets
//! calls when nobody else has room, and one now and then to find out whether it
//! is well again.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use libp2p_identity::PeerId;
use weir_node_core::id::FunctionName;
use weir_node_core::time::Time;

use crate::endings::How;

/// Calls of so many parts of so long count, a minute together; the oldest part is
/// dropped as a whole.
const PARTS: usize = 6;
const PART: Duration = Duration::from_secs(10);

/// Calls that a node, and the others together, must have ended.
const CALLS_MIN: u32 = 20;

/// Share of its calls that a node must have failed.
const SHARE_MIN: f64 = 0.2;

/// How many times the others' share that must be.
const TIMES_OTHERS: f64 = 4.0;

/// Pause between two calls that find out whether a node is well again, the
/// first time; doubles while they fail.
const PROBE_FIRST: Duration = Duration::from_secs(1);

/// Longest such pause.
const PROBE_LONGEST: Duration = Duration::from_secs(8);

/// Functions of which evidence is kept; the one used longest ago goes first.
const FUNCTIONS: usize = 1_024;

/// Nodes of which evidence is kept, for each function.
const PLACES: usize = 64;

/// Where a call ran: at a peer, or here.
pub type Place = Option<PeerId>;

#[derive(Debug, Default, Clone, Copy)]
struct Count {
    calls: u32,
    failed: u32,
}

#[derive(Debug)]
struct Tally {
    parts: [Count; PARTS],
    /// The part that is counted in, since the start of time.
    part: u64,
    probe_at: Time,
    pause: Duration,
}

impl Tally {
    fn new(part: u64) -> Tally {
        Tally {
            parts: [Count::default(); PARTS],
            part,
            probe_at: Time::ZERO,
            pause: PROBE_FIRST,
        }
    }

    fn advance(&mut self, part: u64) {
        let passed = part.saturating_sub(self.part).min(PARTS as u64);
        for ahead in 1..=passed {
            self.parts[((self.part + ahead) % PARTS as u64) as usize] = Count::default();
        }
        self.part = self.part.max(part);
    }

    fn sum(&self) -> Count {
        let add = |sum: Count, part: &Count| Count {
            calls: sum.calls + part.calls,
            failed: sum.failed + part.failed,
        };
        self.parts.iter().fold(Count::default(), add)
    }
}

#[derive(Debug, Default)]
struct Function {
    places: BTreeMap<Place, Tally>,
    used: u64,
}

/// The evidence.
#[derive(Debug, Default)]
pub struct Evidence {
    functions: HashMap<FunctionName, Function>,
    uses: u64,
}

fn part_of(now: Time) -> u64 {
    now.since(Time::ZERO).as_secs() / PART.as_secs()
}

fn share(count: Count) -> f64 {
    f64::from(count.failed) / f64::from(count.calls.max(1))
}

impl Evidence {
    /// Whether no call failed lately: then there is nothing to look up, and
    /// calls that go well need not be told.
    pub fn is_empty(&self) -> bool {
        self.functions.is_empty()
    }

    /// Takes note of how a call of this node's own users ended where it ran.
    /// Where those of other nodes' users fail, their own nodes find out.
    pub fn learn(&mut self, function: &FunctionName, place: Place, how: How, now: Time) {
        self.note(function, place, how.is_failure(), now);
    }

    /// Takes note of how a call ended. Calls that go well are counted once a
    /// call of the function has failed.
    pub fn note(&mut self, function: &FunctionName, place: Place, failed: bool, now: Time) {
        self.uses += 1;
        let uses = self.uses;
        if !self.functions.contains_key(function) {
            if !failed {
                return;
            }
            if self.functions.len() >= FUNCTIONS {
                let oldest = self.functions.iter().min_by_key(|(_, known)| known.used);
                if let Some(oldest) = oldest.map(|(name, _)| name.clone()) {
                    self.functions.remove(&oldest);
                }
            }
        }
        let known = self.functions.entry(function.clone()).or_default();
        known.used = uses;
        if known.places.len() >= PLACES && !known.places.contains_key(&place) {
            return;
        }
        let part = part_of(now);
        let tally = known
            .places
            .entry(place)
            .or_insert_with(|| Tally::new(part));
        tally.advance(part);
        let count = &mut tally.parts[(part % PARTS as u64) as usize];
        count.calls = count.calls.saturating_add(1);
        if failed {
            count.failed = count.failed.saturating_add(1);
        } else {
            tally.pause = PROBE_FIRST;
        }
    }

    /// Where a function fails and does so nowhere else. A node of which it is
    /// time to find out whether it is well again is left out, once.
    pub fn failing(&mut self, function: &FunctionName, now: Time) -> Vec<Place> {
        let Some(known) = self.functions.get_mut(function) else {
            return Vec::new();
        };
        let part = part_of(now);
        let mut all = Count::default();
        for tally in known.places.values_mut() {
            tally.advance(part);
            let sum = tally.sum();
            all.calls += sum.calls;
            all.failed += sum.failed;
        }
        if all.failed == 0 {
            self.functions.remove(function);
            return Vec::new();
        }
        let mut failing = Vec::new();
        for (place, tally) in &mut known.places {
            let own = tally.sum();
            let others = Count {
                calls: all.calls - own.calls,
                failed: all.failed - own.failed,
            };
            let enough = own.calls >= CALLS_MIN && others.calls >= CALLS_MIN;
            let blamed = share(own) >= SHARE_MIN && share(own) >= TIMES_OTHERS * share(others);
            if !enough || !blamed {
                continue;
            }
            if now >= tally.probe_at {
                let first = tally.probe_at == Time::ZERO;
                tally.probe_at = now + tally.pause;
                tally.pause = tally.pause.saturating_mul(2).min(PROBE_LONGEST);
                // What brought it here was evidence enough.
                if !first {
                    continue;
                }
            }
            failing.push(*place);
        }
        failing
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::samples::id;

    fn at(milliseconds: u64) -> Time {
        Time::ZERO + Duration::from_millis(milliseconds)
    }

    fn name() -> FunctionName {
        "shout".parse().expect("a name")
    }

    /// `calls` at a place, of which every `nth` fails.
    fn play(evidence: &mut Evidence, place: Place, calls: u32, nth: u32, now: Time) {
        for call in 0..calls {
            evidence.note(&name(), place, call % nth == 0, now);
        }
    }

    #[test]
    fn who_fails_several_times_as_often_as_the_others_is_blamed() {
        let mut evidence = Evidence::default();
        play(&mut evidence, None, 20, 1, at(1));
        assert!(
            evidence.failing(&name(), at(1)).is_empty(),
            "nobody to compare with"
        );
        play(&mut evidence, Some(id(1)), 25, 25, at(1));
        assert_eq!(evidence.failing(&name(), at(1)), [None]);
    }

    #[test]
    fn failures_that_are_spread_evenly_blame_nobody() {
        let mut evidence = Evidence::default();
        play(&mut evidence, None, 100, 2, at(1));
        play(&mut evidence, Some(id(1)), 100, 3, at(1));
        assert!(evidence.failing(&name(), at(1)).is_empty());
    }

    #[test]
    fn few_failures_among_many_calls_blame_nobody() {
        let mut evidence = Evidence::default();
        play(&mut evidence, None, 100, 6, at(1));
        for _ in 0..100 {
            evidence.note(&name(), Some(id(1)), false, at(1));
        }
        assert!(evidence.failing(&name(), at(1)).is_empty());
    }

    #[test]
    fn one_call_now_and_then_finds_out_whether_it_is_well_again() {
        let mut evidence = Evidence::default();
        play(&mut evidence, Some(id(1)), 20, 1, at(1));
        play(&mut evidence, None, 30, 30, at(1));
        let mut probes = Vec::new();
        for tick in 0..400 {
            let now = at(10 + 50 * tick);
            if evidence.failing(&name(), now).is_empty() {
                evidence.note(&name(), Some(id(1)), true, now);
                probes.push(50 * tick / 1_000);
            }
        }
        assert_eq!(probes, [1, 3, 7, 15]);
    }

    #[test]
    fn what_is_old_counts_no_more() {
        let mut evidence = Evidence::default();
        play(&mut evidence, Some(id(1)), 20, 1, at(1));
        play(&mut evidence, None, 30, 30, at(1));
        assert_eq!(evidence.failing(&name(), at(1)).len(), 1);
        assert!(evidence.failing(&name(), at(70_000)).is_empty());
        assert!(evidence.is_empty(), "nothing is looked up any more");
    }

    #[test]
    fn a_call_that_only_waited_too_long_blames_nobody() {
        use weir_node_core::words::Phase;
        let cases = [
            ("it waited", How::Late(Phase::Queue), false),
            ("it was refused", How::NotTaken, false),
            ("it ran too long", How::Late(Phase::Run), true),
            ("it broke", How::Broke, true),
        ];
        for (name, how, blames) in cases {
            let mut evidence = Evidence::default();
            evidence.learn(&self::name(), None, how, at(1));
            assert_eq!(!evidence.is_empty(), blames, "{name}");
        }
    }

    #[test]
    fn evidence_is_bounded() {
        let mut evidence = Evidence::default();
        for number in 0..2 * FUNCTIONS {
            let name = format!("f{number}").parse().expect("a name");
            evidence.note(&name, None, true, at(1));
        }
        assert_eq!(evidence.functions.len(), FUNCTIONS);
        for number in 0..=255 {
            evidence.note(&name(), Some(id(number)), true, at(1));
        }
        assert_eq!(evidence.functions[&name()].places.len(), PLACES);
    }
}
