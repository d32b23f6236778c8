//! Our calls at a peer, and what more may go there.
//!
//! Only this moves under a view: what was sent to a peer since its last word
//! counts against the room that it has.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use weir_node_core::time::Time;

use crate::facts::Offered;
use crate::report::Load;

/// What one call takes of a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cost {
    /// Share of the peer's processors, in thousandths of a core; at least 1.
    pub cpu: u32,
    /// Whether it is expected to run longer than [`SHORT`].
    pub long: bool,
}

/// Calls of other nodes' users that run no longer are short: what they take is
/// free again before its owner misses it.
pub const SHORT: Duration = Duration::from_secs(1);

/// Calls that a peer without recent successes may hold of ours.
pub const FIRST_ALLOWANCE: u32 = 4;

/// Round trips from which calls are sent ahead of the places that they will
/// have: shorter ones cost less than a call that waits in vain.
const FAR: Duration = Duration::from_millis(5);

impl Cost {
    /// Calls for which there is room, of what is free for short ones and for
    /// long ones, in thousandths of a core.
    pub(crate) fn of(self, short: u32, long: u32) -> u32 {
        let free = if self.long { long } else { short };
        free / self.cpu.max(1)
    }
}

/// What a peer says of its room, as one node hears it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Word {
    /// How loaded it is.
    pub load: Load,
    /// Processors of our calls that were on their way there when it said so.
    pub under_way: u32,
}

/// Our calls at a peer, and what more may go there. Shared by all views, so
/// that a burst between two words of the peer does not herd to it.
#[derive(Debug)]
pub struct Window {
    /// Processors that the peer told of last, less what was sent since, for
    /// short calls and for long ones.
    open: [AtomicU32; 2],
    /// Calls of ours that it holds.
    held: AtomicU32,
    /// Calls of ours that it may hold.
    allowance: AtomicU32,
    /// When a call was sent there last, in nanoseconds.
    sent: AtomicU64,
}

fn take(from: &AtomicU32, amount: u32) -> bool {
    let less = |value: u32| value.checked_sub(amount);
    from.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less)
        .is_ok()
}

fn take_what_there_is(from: &AtomicU32, amount: u32) {
    let less = |value: u32| Some(value.saturating_sub(amount));
    let _ = from.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
}

fn give(to: &AtomicU32, amount: u32) {
    let more = |value: u32| Some(value.saturating_add(amount));
    let _ = to.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more);
}

impl Window {
    /// A peer of which `word` was heard, and which may hold `allowance` calls
    /// of ours.
    pub fn new(word: &Word, allowance: u32) -> Window {
        let window = Window {
            open: [AtomicU32::new(0), AtomicU32::new(0)],
            held: AtomicU32::new(0),
            allowance: AtomicU32::new(allowance),
            sent: AtomicU64::new(0),
        };
        window.renew(word);
        window
    }

    /// Takes what the peer says of its room now.
    pub fn renew(&self, word: &Word) {
        let said = [word.load.guest_cpu, word.load.guest_cpu_long];
        for (open, said) in self.open.iter().zip(said) {
            open.store(said.saturating_sub(word.under_way), Ordering::Relaxed);
        }
    }

    /// Takes it to be full, whatever it said.
    pub fn close(&self) {
        for open in &self.open {
            open.store(0, Ordering::Relaxed);
        }
    }

    /// Sets how many calls of ours it may hold.
    pub fn allow(&self, allowance: u32) {
        self.allowance.store(allowance, Ordering::Relaxed);
    }

    /// Calls of this cost that may be sent now.
    pub fn room(&self, cost: Cost) -> u32 {
        let allowance = self.allowance.load(Ordering::Relaxed);
        let free = allowance.saturating_sub(self.held.load(Ordering::Relaxed));
        let [short, long] = [&self.open[0], &self.open[1]].map(|open| open.load(Ordering::Relaxed));
        free.min(cost.of(short, long))
    }

    /// Whether a call of this cost may be sent now: quicker than [`Window::room`].
    pub(crate) fn has_room(&self, cost: Cost) -> bool {
        let open = &self.open[usize::from(cost.long)];
        open.load(Ordering::Relaxed) >= cost.cpu.max(1)
            && self.held() < self.allowance.load(Ordering::Relaxed)
    }

    /// Calls of ours that it holds.
    pub fn held(&self) -> u32 {
        self.held.load(Ordering::Relaxed)
    }

    /// Whether a call was sent there in the time `within` before `now`, so that
    /// what the peer says of itself may not count it yet.
    pub fn sent_within(&self, within: Duration, now: Time) -> bool {
        let sent = Time::from_nanos(self.sent.load(Ordering::Relaxed));
        sent != Time::ZERO && now.since(sent) < within
    }

    /// Takes the right to send one call; `None` when another was faster.
    pub fn reserve(
        self: &Arc<Self>,
        function: Option<&Arc<FunctionRoom>>,
        cost: Cost,
        now: Time,
    ) -> Option<Reserved> {
        let cpu = cost.cpu.max(1);
        let (own, other) = match cost.long {
            false => (&self.open[0], &self.open[1]),
            true => (&self.open[1], &self.open[0]),
        };
        if !take(own, cpu) {
            return None;
        }
        if function.is_some_and(|function| !take(&function.room, 1)) {
            give(own, cpu);
            return None;
        }
        let allowance = self.allowance.load(Ordering::Relaxed);
        let more = |held: u32| (held < allowance).then_some(held + 1);
        let held = self
            .held
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, more);
        if held.is_err() {
            give(own, cpu);
            if let Some(function) = function {
                give(&function.room, 1);
            }
            return None;
        }
        take_what_there_is(other, cpu);
        if let Some(function) = function {
            take_what_there_is(&function.warm, 1);
            function.held.fetch_add(1, Ordering::Relaxed);
        }
        self.sent.store(now.as_nanos(), Ordering::Relaxed);
        Some(Reserved {
            window: self.clone(),
            function: function.cloned(),
            cpu,
            ahead: false,
        })
    }

    /// Whether one more call may go there ahead of a place, of `most` that may.
    pub(crate) fn may_go_ahead(&self, function: &FunctionRoom, most: u32) -> bool {
        most > 0
            && self.held() < self.allowance.load(Ordering::Relaxed)
            && function.held() < function.capacity().saturating_add(most)
    }

    /// Takes the right to send one call ahead of a place, where the function's
    /// room there allows that ([`FunctionRoom::ahead`]).
    pub fn reserve_ahead(
        self: &Arc<Self>,
        function: &Arc<FunctionRoom>,
        most: u32,
        now: Time,
    ) -> Option<Reserved> {
        let allowance = self.allowance.load(Ordering::Relaxed);
        let more = |bound: u32| move |held: u32| (held < bound).then_some(held + 1);
        let held = &self.held;
        held.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more(allowance))
            .ok()?;
        let there = &function.held;
        let bound = function.capacity().saturating_add(most);
        if there
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, more(bound))
            .is_err()
        {
            held.fetch_sub(1, Ordering::Relaxed);
            return None;
        }
        self.sent.store(now.as_nanos(), Ordering::Relaxed);
        Some(Reserved {
            window: self.clone(),
            function: Some(function.clone()),
            cpu: 0,
            ahead: true,
        })
    }
}

/// Our calls of one function at a peer, and how many more may go there.
#[derive(Debug)]
pub struct FunctionRoom {
    /// Calls that the peer told of last, less what was sent since.
    room: AtomicU32,
    /// When it told that, in nanoseconds.
    told: AtomicU64,
    /// Calls of ours that it holds.
    held: AtomicU32,
    /// Calls of ours that it ran at once, or could have, when it spoke last.
    capacity: AtomicU32,
    /// Instances there that ran calls of ours and have no call of ours since: those
    /// that its next one finds warm.
    warm: AtomicU32,
    /// How long they run there, in microseconds, smoothed; 0 before the first.
    service_micros: AtomicU64,
}

impl FunctionRoom {
    /// A function of whose room nothing is known but that there may be some.
    pub fn new() -> FunctionRoom {
        FunctionRoom {
            room: AtomicU32::new(u32::MAX),
            told: AtomicU64::new(0),
            held: AtomicU32::new(0),
            capacity: AtomicU32::new(0),
            warm: AtomicU32::new(0),
            service_micros: AtomicU64::new(0),
        }
    }

    /// Takes what the peer said at `told`.
    pub fn renew(&self, room: u32, told: Time) {
        self.room.store(room, Ordering::Relaxed);
        self.told.store(told.as_nanos(), Ordering::Relaxed);
    }

    /// Takes how many calls of ours it can run at once, as far as it knows.
    pub fn learn_capacity(&self, calls: u32) {
        self.capacity.store(calls, Ordering::Relaxed);
    }

    /// Calls of ours that it ran at once, or could have, when it spoke last.
    pub fn capacity(&self) -> u32 {
        self.capacity.load(Ordering::Relaxed)
    }

    /// Calls that may wait there for a place, each for one round trip at most,
    /// so that no place there is idle while the news of it travels.
    pub fn ahead(&self, round_trip: Duration) -> u32 {
        let Some(service) = self.service().filter(|_| round_trip >= FAR) else {
            return 0;
        };
        let share = round_trip.as_secs_f64() / service.as_secs_f64().max(1e-3);
        (f64::from(self.capacity()) * share.min(1.0)).ceil() as u32
    }

    /// Takes what a report of the peer says, if that is newer: `None` when the
    /// report does not name the function, whose bound is no obstacle then.
    pub(crate) fn refresh(&self, offered: Option<&Offered>, heard: Time) {
        if self.told.load(Ordering::Relaxed) < heard.as_nanos() {
            self.renew(room_of(offered), heard);
            if !offered.is_some_and(|offered| offered.is_warm) {
                self.warm.store(0, Ordering::Relaxed);
            }
        }
    }

    /// Takes note that an instance there has run a call of ours to its end.
    pub(crate) fn has_run(&self) {
        give(&self.warm, 1);
    }

    /// Whether a call that goes there now finds an instance that has just run one
    /// of ours. What the peer says of that in its reports is of a moment at which
    /// this one may have been busy.
    pub fn is_warm(&self) -> bool {
        self.warm.load(Ordering::Relaxed) > 0
    }

    /// Calls that may be sent now as far as the function is concerned.
    pub fn room(&self) -> u32 {
        self.room.load(Ordering::Relaxed)
    }

    /// Calls of ours that the peer holds.
    pub fn held(&self) -> u32 {
        self.held.load(Ordering::Relaxed)
    }

    /// Learns how long a call ran there.
    pub fn learn(&self, ran: Duration) {
        let sample = u64::try_from(ran.as_micros()).unwrap_or(u64::MAX).max(1);
        let next = |old: u64| {
            Some(match old {
                0 => sample,
                // An eighth, as round trips do for TCP (RFC 6298, section 2).
                old => old - old / 8 + sample / 8,
            })
        };
        let _ = self
            .service_micros
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, next);
    }

    /// The same as [`FunctionRoom::service`], in nanoseconds.
    pub(crate) fn service_nanos(&self) -> Option<u64> {
        match self.service_micros.load(Ordering::Relaxed) {
            0 => None,
            micros => Some(micros.saturating_mul(1_000)),
        }
    }

    /// How long calls run there; `None` before the first.
    pub fn service(&self) -> Option<Duration> {
        match self.service_micros.load(Ordering::Relaxed) {
            0 => None,
            micros => Some(Duration::from_micros(micros)),
        }
    }
}

impl Default for FunctionRoom {
    fn default() -> FunctionRoom {
        FunctionRoom::new()
    }
}

pub(crate) fn room_of(offered: Option<&Offered>) -> u32 {
    offered.map_or(u32::MAX, |offered| offered.room)
}

/// A call that a peer holds, until this is dropped.
#[derive(Debug)]
pub struct Reserved {
    window: Arc<Window>,
    function: Option<Arc<FunctionRoom>>,
    cpu: u32,
    ahead: bool,
}

impl Reserved {
    /// Whether it was sent ahead of the place that it will have.
    pub fn is_ahead(&self) -> bool {
        self.ahead
    }

    /// How long the function runs there; `None` before it has.
    pub fn service(&self) -> Option<Duration> {
        self.function.as_ref()?.service()
    }

    /// Processors of our calls of the function that were under way to the peer
    /// when it said that it held `held` of them beside this one.
    pub fn under_way(&self, held: u32, cpu: u32) -> u32 {
        let sent = self.function.as_ref().map_or(1, |function| function.held());
        sent.saturating_sub(1)
            .saturating_sub(held)
            .saturating_mul(cpu)
    }

    /// Gives the room back too: no word of the peer will, for it did not answer.
    pub fn give_back(self) {
        if self.ahead {
            return;
        }
        for open in &self.window.open {
            give(open, self.cpu);
        }
        if let Some(function) = &self.function {
            give(&function.room, 1);
        }
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        // Its room comes back with the peer's next word, not before.
        self.window.held.fetch_sub(1, Ordering::Relaxed);
        if let Some(function) = &self.function {
            function.held.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const COST: Cost = Cost {
        cpu: 1_000,
        long: false,
    };

    fn word(cpu: u32) -> Word {
        Word {
            load: Load {
                guest_cpu: cpu,
                guest_cpu_long: cpu / 2,
                ..Load::default()
            },
            under_way: 0,
        }
    }

    fn at(milliseconds: u64) -> Time {
        Time::ZERO + Duration::from_millis(milliseconds)
    }

    #[test]
    fn room_is_what_was_told_less_what_was_sent() {
        let window = Arc::new(Window::new(&word(3_500), 2));
        assert_eq!(window.room(COST), 2);
        let first = window.reserve(None, COST, at(1)).expect("room");
        let second = window.reserve(None, COST, at(2)).expect("room");
        assert!(
            window.reserve(None, COST, at(2)).is_none(),
            "more than it may hold"
        );
        drop(first);
        assert_eq!((window.held(), window.room(COST)), (1, 1));
        window.renew(&word(5_000));
        assert_eq!(window.room(COST), 1, "its allowance bounds it");
        drop(second);
        assert_eq!(window.room(COST), 2);
        assert!(window.sent_within(Duration::from_millis(5), at(6)));
        assert!(!window.sent_within(Duration::from_millis(5), at(8)));
    }

    #[test]
    fn long_calls_have_a_share_of_their_own() {
        let long = Cost { long: true, ..COST };
        let window = Arc::new(Window::new(&word(4_000), 9));
        assert_eq!((window.room(COST), window.room(long)), (4, 2));
        let _one = window.reserve(None, long, at(1)).expect("room");
        assert_eq!((window.room(COST), window.room(long)), (3, 1));
        let _two = window.reserve(None, COST, at(1)).expect("room");
        assert_eq!((window.room(COST), window.room(long)), (2, 0));
        assert!(window.reserve(None, long, at(1)).is_none());
    }

    #[test]
    fn a_reservation_that_fails_in_its_second_step_takes_nothing() {
        let window = Arc::new(Window::new(&word(2_000), 0));
        assert!(window.reserve(None, COST, at(1)).is_none());
        window.allow(9);
        assert_eq!(window.room(COST), 2, "the allowance was what it lacked");
        let function = Arc::new(FunctionRoom::new());
        function.renew(0, at(1));
        assert!(window.reserve(Some(&function), COST, at(1)).is_none());
        assert_eq!(window.room(COST), 2, "the function was what it lacked");
        function.renew(1, at(2));
        window.allow(0);
        assert!(window.reserve(Some(&function), COST, at(2)).is_none());
        assert_eq!(function.room(), 1);
    }

    #[test]
    fn what_was_under_way_when_a_peer_spoke_counts_against_its_word() {
        let window = Arc::new(Window::new(&word(0), 9));
        window.renew(&Word {
            under_way: 2_000,
            ..word(5_000)
        });
        assert_eq!(window.room(COST), 3);
    }

    #[test]
    fn what_a_call_gives_back_is_what_it_took() {
        let window = Arc::new(Window::new(&word(2_000), 9));
        let function = Arc::new(FunctionRoom::new());
        function.renew(2, at(1));
        let reserved = window.reserve(Some(&function), COST, at(1)).expect("room");
        assert_eq!(
            (window.room(COST), function.room(), function.held()),
            (1, 1, 1)
        );
        reserved.give_back();
        assert_eq!(
            (window.room(COST), function.room(), function.held()),
            (2, 2, 0)
        );
        assert_eq!(window.held(), 0);
    }

    #[test]
    fn calls_go_ahead_of_their_places_over_a_distance_alone() {
        let far = Duration::from_millis(50);
        let window = Arc::new(Window::new(&word(0), 9));
        let function = Arc::new(FunctionRoom::new());
        function.learn_capacity(4);
        assert_eq!(function.ahead(far), 0, "nobody knows how long calls run");
        function.learn(Duration::from_millis(100));
        assert_eq!(function.ahead(Duration::from_millis(1)), 0);
        assert_eq!(function.ahead(far), 2);
        let held: Vec<_> = (0..9)
            .filter_map(|_| window.reserve_ahead(&function, 2, at(1)))
            .collect();
        assert_eq!((held.len(), window.held(), function.held()), (6, 6, 6));
        drop(held);
        assert_eq!((window.held(), function.held()), (0, 0));
    }

    #[test]
    fn a_newer_report_overrides_what_was_known_of_a_function() {
        let function = FunctionRoom::new();
        function.renew(0, at(5));
        function.refresh(None, at(4));
        assert_eq!(function.room(), 0, "the report is older");
        function.refresh(None, at(6));
        assert_eq!(function.room(), u32::MAX, "it does not name the function");
    }
}
