//! How long an answer of a peer is waited for, and how long a call may wait at a
//! peer that has a place for it.

use std::time::Duration;

use weir_node_core::time::Time;

/// What an answer may take beyond its deadline on its way back: the peer's own
/// word that it was late says more than a timeout here.
pub const ANSWER_LATE: Duration = Duration::from_millis(500);

/// What a peer may take beyond a function's own time limit for a call without a
/// deadline: it waits there, and is started.
pub const BEYOND_TIMEOUT: Duration = Duration::from_secs(120);

/// How long a call whose body is sent once may wait at the peer that promised
/// it a place.
pub const PROMISED_WAIT: Duration = Duration::from_secs(5);

/// How long a peer's answer is waited for from `now` on: what is left of the
/// deadline ([`Time::NEVER`] for none), or what the function may take, and a
/// little for the way back.
pub fn patience(deadline: Time, timeout: Duration, round_trip: Duration, now: Time) -> Duration {
    let patience = match deadline == Time::NEVER {
        true => timeout.saturating_add(BEYOND_TIMEOUT),
        false => deadline.since(now).saturating_add(ANSWER_LATE),
    };
    patience.saturating_add(round_trip)
}

/// How long a call may wait at a peer for its place: where that was promised, for
/// it; where it was sent ahead of the place that will be free when it arrives, as
/// long as the way takes; else not at all. At least a millisecond, which is as
/// exact as it travels.
pub fn wait_there(is_promised: bool, is_ahead: bool, round_trip: Duration) -> Duration {
    match (is_promised, is_ahead) {
        (true, _) => PROMISED_WAIT,
        (false, true) => round_trip.max(Duration::from_millis(1)),
        (false, false) => Duration::ZERO,
    }
}

/// Whether a call that may wait so long at this node was promised its place
/// here: others wait for a round trip at most.
pub fn says_promised(wait: Duration) -> bool {
    wait >= PROMISED_WAIT
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn an_answer_is_waited_for_as_long_as_it_may_be_of_use() {
        let at = |seconds| Time::ZERO + Duration::from_secs(seconds);
        let far = Duration::from_millis(40);
        let cases = [
            ("until its deadline", at(5), SECOND, 3_540),
            ("its deadline has passed", at(1), SECOND, 540),
            (
                "without one, what it may take",
                Time::NEVER,
                SECOND,
                121_040,
            ),
        ];
        for (name, deadline, timeout, expected) in cases {
            let waits = patience(deadline, timeout, far, at(2));
            assert_eq!(waits, Duration::from_millis(expected), "{name}");
        }
        let longest = patience(Time::NEVER, Duration::MAX, Duration::MAX, at(2));
        assert_eq!(longest, Duration::MAX);
    }

    #[test]
    fn a_call_waits_at_a_peer_for_what_it_was_promised() {
        let ms = Duration::from_millis;
        let cases = [
            ("a place that is free", (false, false), ms(40), ms(0)),
            ("one that will be", (false, true), ms(40), ms(40)),
            ("one that will be, next door", (false, true), ms(0), ms(1)),
            ("one that is promised", (true, false), ms(40), PROMISED_WAIT),
            ("the same, ahead of it", (true, true), ms(40), PROMISED_WAIT),
        ];
        for (name, (is_promised, is_ahead), round_trip, expected) in cases {
            let waits = wait_there(is_promised, is_ahead, round_trip);
            assert_eq!(waits, expected, "{name}");
            assert_eq!(says_promised(waits), is_promised, "{name}");
        }
    }
}
