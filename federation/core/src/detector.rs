//! Whether a peer still answers on a connection that carries calls: a failure
//! detector, as plain state with time as an argument.
//!
//! While calls are out and nothing comes back, the connection is pinged. What
//! comes counts, be it a pong or anything else that the peer would not say
//! unheard. A node that is late itself cannot tell whether its peer is: its own
//! lateness stretches every limit.

use std::time::Duration;

use weir_node_core::time::Time;

/// Silence after which the peer is pinged while calls are out.
pub const PING_INTERVAL: Duration = Duration::from_millis(500);

/// A ping that nothing answers for so long: the peer is offered nothing new.
/// Three more pings' worth; one lost packet is sent again in less.
pub const UNANSWERED_AFTER: Duration = Duration::from_millis(1_500);

/// A ping that nothing answers for so long: the calls are lost.
pub const LOST_AFTER: Duration = Duration::from_secs(3);

/// Time between two looks at a connection with calls.
pub const LOOK_INTERVAL: Duration = Duration::from_millis(100);

/// Bytes in a second that the slowest link carries: a ping comes after what was
/// written before it.
const BYTES_PER_SECOND_MIN: u64 = 256 << 10;

/// Longest time that is granted for what was written before a ping.
const WRITTEN_WAIT_MAX: Duration = Duration::from_secs(5);

/// Whether the other side answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answering {
    /// It does, or nothing is asked of it.
    Yes,
    /// Not for a while: it is offered nothing new.
    NotNow,
    /// Not any more: its calls are lost.
    NoMore,
}

/// What was seen of a connection since the last look.
#[derive(Debug, Clone, Copy, Default)]
pub struct Seen {
    /// Whether calls are out on it.
    pub calls: bool,
    /// Whether the other side was heard.
    pub heard: bool,
    /// Bytes that were written since it was heard last.
    pub written: u64,
}

/// One connection.
#[derive(Debug)]
pub struct Detector {
    /// Since when there are calls and nothing was heard.
    silent_since: Time,
    looked: Time,
    /// By how much looks since then came late, together.
    late: Duration,
}

impl Detector {
    /// Calls begin at `now`.
    pub fn new(now: Time) -> Detector {
        Detector {
            silent_since: now,
            looked: now,
            late: Duration::ZERO,
        }
    }

    /// What a look at `now` tells; meant to come every [`LOOK_INTERVAL`].
    pub fn look(&mut self, now: Time, seen: Seen) -> Answering {
        let passed = now.since(self.looked);
        self.looked = now;
        if seen.heard || !seen.calls {
            (self.silent_since, self.late) = (now, Duration::ZERO);
            return Answering::Yes;
        }
        let late = passed.saturating_sub(LOOK_INTERVAL);
        self.late = self.late.saturating_add(late);
        let written = Duration::from_secs_f64(seen.written as f64 / BYTES_PER_SECOND_MIN as f64);
        let granted = PING_INTERVAL
            .saturating_add(self.late)
            .saturating_add(written.min(WRITTEN_WAIT_MAX));
        let silent = now.since(self.silent_since);
        match silent.saturating_sub(granted) {
            unanswered if unanswered >= LOST_AFTER => Answering::NoMore,
            unanswered if unanswered >= UNANSWERED_AFTER => Answering::NotNow,
            _ => Answering::Yes,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SILENCE: Seen = Seen {
        calls: true,
        heard: false,
        written: 0,
    };

    /// Looks `every` so often with the same thing to see, and says after how
    /// many milliseconds the peer was offered nothing new, and was lost.
    fn times(every: Duration, seen: Seen) -> (u128, u128) {
        let began = Time::ZERO;
        let mut detector = Detector::new(began);
        let (mut now, mut unanswered) = (began, None);
        loop {
            now = now + every;
            assert!(now < began + Duration::from_secs(600), "it is never lost");
            let after = now.since(began).as_millis();
            match detector.look(now, seen) {
                Answering::Yes => assert_eq!(unanswered, None),
                Answering::NotNow => _ = unanswered.get_or_insert(after),
                Answering::NoMore => return (unanswered.expect("it came first"), after),
            }
        }
    }

    #[test]
    fn a_ping_has_a_second_and_a_half_and_calls_three_seconds() {
        assert_eq!(times(LOOK_INTERVAL, SILENCE), (2_000, 3_500));
    }

    #[test]
    fn what_this_node_is_late_is_not_the_peers_fault() {
        // Each look comes twice as late as it should: half of the time counts.
        assert_eq!(times(2 * LOOK_INTERVAL, SILENCE), (4_000, 7_000));
        // It was stopped for a minute.
        let began = Time::ZERO;
        let mut detector = Detector::new(began);
        let after = began + Duration::from_secs(60);
        assert_eq!(detector.look(after, SILENCE), Answering::Yes);
        let soon = after + LOOK_INTERVAL;
        assert_eq!(detector.look(soon, SILENCE), Answering::Yes);
    }

    #[test]
    fn a_ping_behind_a_body_has_time_for_the_body() {
        let behind = |written| Seen { written, ..SILENCE };
        assert_eq!(times(LOOK_INTERVAL, behind(256 << 10)), (3_000, 4_500));
        assert_eq!(times(LOOK_INTERVAL, behind(u64::MAX)), (7_000, 8_500));
    }

    #[test]
    fn whoever_is_heard_or_not_asked_is_well() {
        let began = Time::ZERO;
        let mut detector = Detector::new(began);
        let heard = Seen {
            heard: true,
            ..SILENCE
        };
        let idle = Seen {
            calls: false,
            ..SILENCE
        };
        let mut now = began;
        for well in [heard, idle] {
            for _ in 0..100 {
                // One pong in each 1.9 s is enough.
                for _ in 0..19 {
                    now = now + LOOK_INTERVAL;
                    assert_eq!(detector.look(now, SILENCE), Answering::Yes);
                }
                now = now + LOOK_INTERVAL;
                assert_eq!(detector.look(now, well), Answering::Yes);
            }
        }
    }
}
