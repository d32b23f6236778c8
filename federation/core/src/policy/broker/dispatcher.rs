//! What dispatchers have in common: the brokers that predict when a call would be
//! done, instead of keeping weights.

use super::lines::WINDOW;
use super::table::{STALE, explored};
use super::{Destination, FAITHFUL, Lines, Sight};
use crate::policy::{Case, Ending, Outcome, Parameters, Which};
use crate::snapshot::PeerView;

/// The way to each node and back, in seconds, by the bytes of a body.
pub(in crate::policy) struct Links {
    lines: Lines,
    is_faithful: bool,
}

impl Links {
    /// Ways with the parameters [`WINDOW`], [`STALE`] and [`FAITHFUL`].
    pub(in crate::policy) fn new(parameters: &Parameters) -> Links {
        let is_faithful = parameters.flag(FAITHFUL.name);
        let stale = parameters.time(STALE.name).as_secs_f64();
        Links {
            lines: Lines::new(parameters.whole(WINDOW.name), stale, is_faithful),
            is_faithful,
        }
    }

    /// How long the way is expected to take, and how long ago it was measured.
    pub(in crate::policy) fn way(&self, sight: &Sight<'_>) -> (f64, f64) {
        let which = match self.is_faithful {
            true => sight.which,
            false => sight.node,
        };
        match self.lines.predict(which, sight.body_bytes, sight.now) {
            Some(known) => known,
            None if self.is_faithful => (0.0, f64::INFINITY),
            None => (sight.round_trip, f64::INFINITY),
        }
    }

    /// Learns from a call that was answered, or, where not `faithful`, from one that
    /// was lost or late.
    pub(in crate::policy) fn observe(&self, outcome: &Outcome<'_>) {
        let of_function = Which::of(outcome.function).class(outcome.class);
        let which = match self.is_faithful {
            true => of_function.at(outcome.to.as_ref()),
            false => Which::NODE.at(outcome.to.as_ref()),
        };
        let way = match outcome.ending {
            Ending::Answered => outcome.travelled(),
            Ending::Lost | Ending::Late if !self.is_faithful => outcome.took(),
            Ending::Failed | Ending::Refused | Ending::Lost | Ending::Late => return,
        };
        let sample = (outcome.sent_bytes as f64, way.as_secs_f64());
        self.lines.learn(which, sample, outcome.ended);
    }

    /// Whether they are as published.
    pub(in crate::policy) fn is_faithful(&self) -> bool {
        self.is_faithful
    }

    /// Allocates the table.
    pub(in crate::policy) fn open(&self) {
        self.lines.open();
    }
}

/// How long the one who ran it had a call, in seconds.
pub(in crate::policy) fn processing(outcome: &Outcome<'_>) -> f64 {
    outcome
        .took()
        .saturating_sub(outcome.travelled())
        .as_secs_f64()
}

/// What a destination would take for a call beside the way, as far as is known
/// without having tried, in seconds.
pub(in crate::policy) fn expected_work(sight: &Sight<'_>) -> f64 {
    (sight.expected - sight.round_trip).max(0.0)
}

/// How much longer a call takes for those of ours that are out there.
pub(in crate::policy) fn crowding(sight: &Sight<'_>) -> f64 {
    1.0 + f64::from(sight.held) / f64::from(sight.cores.max(1))
}

/// The least weight; as published, of equals the first, and nothing is explored.
pub(in crate::policy) fn soonest(
    all: &[Destination<'_>],
    case: &mut Case<'_>,
    is_faithful: bool,
    (explore, stale): (f64, f64),
) -> Option<usize> {
    if is_faithful {
        return least(all, case, false, |one| one.weight);
    }
    explored(all, case, explore, stale).or_else(|| least(all, case, true, |one| one.weight))
}

/// The destination for which a number is least, if one has a finite one; of equals
/// the first, or where `draws` is set, whichever chance decides.
pub(in crate::policy) fn least(
    all: &[Destination<'_>],
    case: &mut Case<'_>,
    draws: bool,
    of: impl Fn(&Destination<'_>) -> f64,
) -> Option<usize> {
    let mut least = None;
    let (mut best, mut alike) = (f64::INFINITY, 0.0);
    for (at, one) in all.iter().enumerate() {
        let number = of(one);
        if number < best {
            (least, best, alike) = (Some(at), number, 1.0);
        } else if draws && number == best && number.is_finite() {
            alike += 1.0;
            if case.chance() * alike < 1.0 {
                least = Some(at);
            }
        }
    }
    least
}

/// The greatest load that is published of a node, in percent.
const LOAD_MAX: f64 = 99.0;

/// How loaded a destination is, in percent of its cores; 0 for here, where a call runs
/// at once. As published, what it said of its busy cores within `stale` seconds, at
/// most 99, and 0 after that. Else with the calls that wait there and our own that are
/// out, and halved within `stale`.
pub(in crate::policy) fn load_of(
    peer: Option<&PeerView>,
    held: u32,
    now: f64,
    (stale, is_faithful): (f64, bool),
) -> f64 {
    let Some(peer) = peer else { return 0.0 };
    let load = peer.load();
    let total = f64::from(load.cpu_total.max(1));
    let busy = 1.0 - (f64::from(load.cpu_free) / total).min(1.0);
    let age = (now - super::seconds(peer.loaded())).max(0.0);
    if is_faithful {
        let is_news = age <= stale;
        return if is_news {
            (100.0 * busy).min(LOAD_MAX)
        } else {
            0.0
        };
    }
    let cores = total / 1_000.0;
    let told = busy + f64::from(load.waiting) / cores.max(1.0);
    let ours = f64::from(held) / cores.max(1.0);
    100.0 * (told * stale / (stale + age)).max(ours)
}
