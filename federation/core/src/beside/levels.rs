//! Which calls a node admits that is behind: the levels of DAGOR, one for each QoS
//! class, by how long its calls wait.

use std::collections::BTreeMap;
use std::time::Duration;

use weir_node_core::time::Time;

use crate::policy::ClassKey;

/// The level at which all calls are admitted.
pub const LEVEL_MAX: u8 = 128;

/// A level is worked out anew after so long, or so many calls (DAGOR, section 4.2).
const WINDOW: Duration = Duration::from_secs(1);
const WINDOW_CALLS: u32 = 2_000;

/// Mean time in the queue from which a node is behind: this, or as long as calls
/// run, whichever is more. A bound that does not scale with the run time sheds
/// where nobody is late.
const QUEUEING_MAX: Duration = Duration::from_millis(20);

/// By which part a level sinks, and by which it rises (DAGOR, algorithm 1).
const SINKS: f64 = 0.05;
const RISES: f64 = 0.01;

/// Classes whose level is kept; of more, none is.
const CLASSES_MAX: usize = 64;

#[derive(Debug)]
struct Level {
    level: f64,
    since: Time,
    calls: u32,
    queued: Duration,
    ran: Duration,
}

/// Admission levels of a node by QoS class. Plain state.
#[derive(Debug, Default)]
pub struct Levels(BTreeMap<ClassKey, Level>);

impl Levels {
    /// Takes note that a call of a class waited and ran so long.
    pub fn note(&mut self, class: ClassKey, queued: Duration, ran: Duration, now: Time) {
        if self.0.len() >= CLASSES_MAX && !self.0.contains_key(&class) {
            return;
        }
        let of = self.0.entry(class).or_insert(Level {
            level: f64::from(LEVEL_MAX),
            since: now,
            calls: 0,
            queued: Duration::ZERO,
            ran: Duration::ZERO,
        });
        of.calls = of.calls.saturating_add(1);
        of.queued = of.queued.saturating_add(queued);
        of.ran = of.ran.saturating_add(ran);
        if now.since(of.since) < WINDOW && of.calls < WINDOW_CALLS {
            return;
        }
        let most = QUEUEING_MAX.max(of.ran.checked_div(of.calls).unwrap_or_default());
        let is_behind = of.queued.checked_div(of.calls).unwrap_or_default() > most;
        // By at least a step, so that the lowest levels rise too.
        of.level = match is_behind {
            true => of.level * (1.0 - SINKS),
            false => of.level * (1.0 + RISES) + 1.0,
        };
        of.level = of.level.clamp(1.0, f64::from(LEVEL_MAX));
        (of.since, of.calls) = (now, 0);
        (of.queued, of.ran) = (Duration::ZERO, Duration::ZERO);
    }

    /// Which calls of a class are admitted: those whose lot is below this.
    pub fn level(&self, class: ClassKey) -> u8 {
        let level = self.0.get(&class).map(|of| of.level);
        level.map_or(LEVEL_MAX, |level| level.round() as u8)
    }
}
