//! Which calls a node admits that is behind: the levels of DAGOR, one for each QoS
//! class, by how long its calls wait.

use std::time::Duration;

use weir_node_core::time::Time;

use crate::policy::{ClassKey, Memory, Which};

/// The level at which all calls are admitted.
pub const LEVEL_MAX: u8 = 128;

/// A level is worked out anew after so long, or so many calls (DAGOR, section 4.2).
const WINDOW: Duration = Duration::from_secs(1);
const WINDOW_CALLS: f64 = 2_000.0;

/// Mean time in the queue from which a node is behind: this, or as long as calls
/// run, whichever is more. A bound that does not scale with the run time sheds
/// where nobody is late.
const QUEUEING_MAX: Duration = Duration::from_millis(20);

/// By which part a level sinks, and by which it rises (DAGOR, algorithm 1).
const SINKS: f64 = 0.05;
const RISES: f64 = 0.01;

/// Classes whose level is kept; of more, those are forgotten whose calls ended
/// longest ago.
const CLASSES_MAX: usize = 64;

/// What a row holds of a class.
mod of_class {
    /// None where all calls are admitted.
    pub(super) const LEVEL: usize = 0;
    /// When its window began, in nanoseconds.
    pub(super) const SINCE: usize = 1;
    /// Calls in that.
    pub(super) const CALLS: usize = 2;
    /// How long they waited, in seconds.
    pub(super) const QUEUED: usize = 3;
    /// Those of them that ran.
    pub(super) const RAN: usize = 4;
    /// How long they ran, in seconds.
    pub(super) const TOOK: usize = 5;
}

/// Admission levels of a node by QoS class.
#[derive(Debug)]
pub struct Levels(Memory<6>);

impl Default for Levels {
    fn default() -> Levels {
        Levels(Memory::new(CLASSES_MAX))
    }
}

impl Levels {
    /// Takes note that a call of a class waited and ran so long; `None` where it did
    /// not run.
    pub fn note(&self, class: ClassKey, queued: Duration, ran: Option<Duration>, now: Time) {
        let which = Which::NODE.class(class);
        // Mostly nobody waits. What was not taken at once says nothing.
        if queued.is_zero() && (ran.is_none() || self.0.find(which).is_none()) {
            return;
        }
        let row = self.0.entry(which, now);
        let since = match row[of_class::SINCE].get() {
            Some(nanos) => Time::from_nanos(nanos as u64),
            None => {
                row[of_class::SINCE].set(now.as_nanos() as f64);
                now
            }
        };
        let calls = row[of_class::CALLS].add(1.0);
        let queued = row[of_class::QUEUED].add(queued.as_secs_f64());
        if let Some(ran) = ran {
            row[of_class::RAN].add(1.0);
            row[of_class::TOOK].add(ran.as_secs_f64());
        }
        if now.since(since) < WINDOW && calls < WINDOW_CALLS {
            return;
        }
        let of = |cell: usize| row[cell].get().unwrap_or_default();
        let ran = of(of_class::TOOK) / of(of_class::RAN).max(1.0);
        let is_behind = queued / calls > QUEUEING_MAX.as_secs_f64().max(ran);
        let most = f64::from(LEVEL_MAX);
        let level = row[of_class::LEVEL].get().unwrap_or(most);
        // By at least a step, so that the lowest levels rise too.
        let level = match is_behind {
            true => level * (1.0 - SINKS),
            false => level * (1.0 + RISES) + 1.0,
        };
        if level >= most && queued == 0.0 {
            return self.0.forget(which);
        }
        row[of_class::LEVEL].set(level.clamp(1.0, most));
        row[of_class::SINCE].set(now.as_nanos() as f64);
        for cell in [
            of_class::CALLS,
            of_class::QUEUED,
            of_class::RAN,
            of_class::TOOK,
        ] {
            row[cell].set(0.0);
        }
    }

    /// Which calls of a class are admitted: those whose lot is below this.
    pub fn level(&self, class: ClassKey) -> u8 {
        let row = self.0.find(Which::NODE.class(class));
        let level = row.and_then(|row| row[of_class::LEVEL].get());
        level.map_or(LEVEL_MAX, |level| level.round() as u8)
    }
}
