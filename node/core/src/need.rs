//! What calls need of processors, learned from what they used, and when a
//! machine has more to run than it can.
//!
//! A function that declares nothing is accounted with a share that was guessed.
//! What it really needs is processor time by the time that its calls ran. Time
//! in which its threads could have run and did not is left out, where the
//! kernel tells it; threads that lived for a moment take that knowledge along.
//! What they waited shows as a need that falls as the node fills, and then more
//! calls would be let in, for which it falls again. So samples are kept by how
//! many calls ran beside, and the need is that of the [`PART`] of the time with
//! the fewest. A need is lowered below what was guessed only by [`LOWERING`] of
//! evidence: too high a share costs the function, too low a one costs all.

use std::collections::VecDeque;
use std::time::Duration;

use crate::function::FunctionSpec;
use crate::resources::Cpu;
use crate::time::Time;

/// The least share that is learned: a twentieth of a core.
pub const LEAST: Cpu = Cpu::millicores(50);

/// One part of so many of the time counts: that with the fewest calls beside.
const PART: f64 = 10.0;

/// Call time before which nothing is known.
const ENOUGH: Duration = Duration::from_millis(200);

/// Call time before which a share below the guessed one is not believed.
const LOWERING: Duration = Duration::from_secs(10);

/// Call time that is remembered; then all of it counts half.
const MEMORY: Duration = Duration::from_secs(120);

/// Kinds of crowds: 0 or 1 calls, 2 or 3, 4 to 7 and so on.
const LEVELS: usize = 12;

/// Over which time runnable threads are counted.
const CROWD_WINDOW: Duration = Duration::from_millis(200);

/// Shorter than this they are not seen for long enough.
const CROWD_LEAST: Duration = Duration::from_millis(100);

/// Runnable threads for each core from which on a machine is crowded.
const RUNNABLE_PER_CORE: f64 = 2.0;

/// What calls of one instance used in some time.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sample {
    /// Processor time.
    pub cpu: Duration,
    /// How long calls ran, all together.
    pub wall: Duration,
    /// How long its threads could have run and did not, as far as it is known.
    pub waited: Duration,
    /// Calls that ran on the node meanwhile, at a mean.
    pub beside: f64,
}

#[derive(Debug, Default, Clone, Copy)]
struct Level {
    cpu: Duration,
    wall: Duration,
}

impl Level {
    fn half(self) -> Level {
        let half = |time: Duration| time.checked_div(2).unwrap_or_default();
        Level {
            cpu: half(self.cpu),
            wall: half(self.wall),
        }
    }
}

/// What a call of one function needs, as far as it is known.
#[derive(Debug, Default, Clone)]
pub struct Need {
    levels: [Level; LEVELS],
}

impl Need {
    /// Learns from one sample.
    pub fn learn(&mut self, sample: Sample) {
        let wall = sample.wall.saturating_sub(sample.waited).max(sample.cpu);
        // The level is the binary logarithm of the number of calls.
        let calls = sample.beside.round().clamp(1.0, f64::from(u32::MAX)) as u32;
        let level = usize::try_from(calls.ilog2()).unwrap_or(LEVELS);
        let level = &mut self.levels[level.min(LEVELS - 1)];
        level.cpu = level.cpu.saturating_add(sample.cpu);
        level.wall = level.wall.saturating_add(wall);
        if self.wall() > MEMORY {
            for level in &mut self.levels {
                *level = level.half();
            }
        }
    }

    fn wall(&self) -> Duration {
        let walls = self.levels.iter().map(|level| level.wall);
        walls.fold(Duration::ZERO, Duration::saturating_add)
    }

    /// The share of processors that a call needs, at least [`LEAST`]; `None`
    /// while too little is known.
    pub fn cpu(&self) -> Option<Cpu> {
        let whole = self.wall();
        if whole < ENOUGH {
            return None;
        }
        let part = whole.as_secs_f64() / PART;
        let (mut cpu, mut left) = (0.0, part);
        for level in self.levels.iter().filter(|level| !level.wall.is_zero()) {
            let wall = level.wall.as_secs_f64();
            let taken = wall.min(left);
            cpu += level.cpu.as_secs_f64() * taken / wall;
            left -= taken;
        }
        let share = cpu / part;
        // At most a million, as for shares that are declared.
        let cpu = Cpu::millicores((share * 1000.0).round().clamp(1.0, 1e6) as u32);
        if whole < LOWERING && cpu < FunctionSpec::UNDECLARED_CPU {
            return None;
        }
        Some(cpu.max(LEAST))
    }
}

/// How many threads of a machine wanted a processor lately.
#[derive(Debug, Default)]
pub struct Crowd {
    seen: VecDeque<(Time, u32)>,
}

impl Crowd {
    /// Takes note of how many are runnable now, those that run included.
    pub fn see(&mut self, runnable: u32, now: Time) {
        let old = |(at, _): &(Time, u32)| now.since(*at) > CROWD_WINDOW;
        while self.seen.front().is_some_and(old) {
            self.seen.pop_front();
        }
        self.seen.push_back((now, runnable));
    }

    /// Whether they were more than twice the cores, for the whole of the last
    /// fifth of a second.
    pub fn is_crowded(&self, cores: u32, now: Time) -> bool {
        let Some((first, _)) = self.seen.front() else {
            return false;
        };
        if now.since(*first) < CROWD_LEAST {
            return false;
        }
        let runnable: u32 = self.seen.iter().map(|(_, count)| count).sum();
        let mean = f64::from(runnable) / self.seen.len() as f64;
        mean > RUNNABLE_PER_CORE * f64::from(cores.max(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn sample(cpu: f64, wall: f64, waited: f64, beside: f64) -> Sample {
        let time = Duration::from_secs_f64;
        Sample {
            cpu: time(cpu),
            wall: time(wall),
            waited: time(waited),
            beside,
        }
    }

    fn learned(samples: &[Sample]) -> Option<u32> {
        let mut need = Need::default();
        for sample in samples {
            need.learn(*sample);
        }
        need.cpu().map(Cpu::as_millicores)
    }

    #[test]
    fn time_that_threads_waited_for_processors_is_no_time_of_a_call() {
        let crowded = sample(0.2, 1.6, 1.4, 8.0);
        assert_eq!(learned(&[crowded; 4]), Some(1000));
    }

    #[test]
    fn what_few_calls_needed_counts_and_not_what_was_left_for_many() {
        let few = sample(0.18, 0.2, 0.0, 1.0);
        let many = sample(0.4, 3.2, 0.0, 16.0);
        // A tenth of 3.4 s is all of the few's and 0.14 s of the many's.
        assert_eq!(learned(&[few, many]), Some(581));
        assert_eq!(learned(&[few, few, many]), Some(900));
    }

    #[test]
    fn a_share_is_lowered_by_much_evidence_alone_and_never_below_the_least() {
        let sleeps = sample(0.001, 1.0, 0.0, 3.0);
        assert_eq!(learned(&[sleeps; 9]), None);
        assert_eq!(learned(&[sleeps; 11]), Some(LEAST.as_millicores()));
        assert_eq!(learned(&[sample(0.1, 0.1, 0.0, 1.0)]), None);
    }

    #[test]
    fn what_was_long_ago_is_outweighed() {
        let mut samples = vec![sample(1.0, 1.0, 0.0, 1.0); 100];
        samples.extend(vec![sample(0.2, 1.0, 0.0, 1.0); 1_000]);
        let now = learned(&samples).expect("much is known");
        assert!((200..300).contains(&now), "{now}");
    }

    #[test]
    fn a_moment_with_many_threads_is_no_crowd() {
        let at = |millis| Time::ZERO + Duration::from_millis(millis);
        let mut crowd = Crowd::default();
        assert!(!crowd.is_crowded(2, at(0)));
        crowd.see(90, at(0));
        assert!(!crowd.is_crowded(2, at(0)));
        crowd.see(5, at(100));
        crowd.see(5, at(300));
        assert!(crowd.is_crowded(2, at(300)), "the mean of the last is 5");
        crowd.see(1, at(350));
        crowd.see(1, at(400));
        assert!(!crowd.is_crowded(2, at(400)));
        assert!(!crowd.is_crowded(2, at(0) + SECOND));
    }
}
