//! Calls whose bodies are not there whole: *open* calls. Their clients decide
//! how long they last, so together they hold at most a quarter of the node's
//! processors, and bodies that are kept in memory until they are whole have a
//! budget.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Share of the node's processors that open calls hold at most.
const SHARE: u32 = 4;

/// How long a body may take to be there whole before its call is open.
pub const WHOLE_WITHIN: Duration = Duration::from_millis(200);

/// How long a body is awaited before its rate says anything.
const RATE_AFTER: Duration = Duration::from_secs(2);

/// Time over which the rate of a body is looked at.
const RATE_OVER: Duration = Duration::from_secs(10);

/// Whether any call waits for a place on the node.
type Waits = Box<dyn Fn() -> bool + Send + Sync>;

/// The bounds of open calls, and of bodies in memory.
pub struct Gate {
    /// In thousandths of a core.
    places: Arc<Semaphore>,
    all: u32,
    waiting: AtomicUsize,
    others_wait: Waits,
    /// Bytes that may still be kept of bodies.
    memory: AtomicU64,
    /// Bytes in a second below which a body may be ended.
    rate: u64,
}

/// The right to be open, until this is dropped.
pub struct Open(#[expect(dead_code, reason = "held until it is dropped")] OwnedSemaphorePermit);

/// One that waits at the gate, until this is dropped.
struct Waiting<'a>(&'a Gate);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Gate {
    /// For a node of `cpu` thousandths of a core, with `memory` bytes for bodies.
    /// `others_wait` says whether any call waits for a place.
    pub fn new(cpu: u32, memory: u64, rate: u64, others_wait: Waits) -> Gate {
        let all = (cpu / SHARE).max(1);
        Gate {
            places: Arc::new(Semaphore::new(all as usize)),
            all,
            waiting: AtomicUsize::new(0),
            others_wait,
            memory: AtomicU64::new(memory),
            rate,
        }
    }

    /// Waits until an open call of a function that takes so much may begin, in
    /// the order in which they came.
    pub async fn enter(&self, cpu: u32) -> Option<Open> {
        self.waiting.fetch_add(1, Ordering::Relaxed);
        let _waiting = Waiting(self);
        let places = Arc::clone(&self.places);
        let permit = places.acquire_many_owned(cpu.clamp(1, self.all)).await;
        permit.ok().map(Open)
    }

    /// Whether a body that came so slowly is to end: only while a call waits.
    pub fn ends(&self, pace: &Pace) -> bool {
        pace.is_below(self.rate)
            && (self.waiting.load(Ordering::Relaxed) > 0 || (self.others_wait)())
    }

    /// Takes so many bytes of the budget of bodies; whether there were as many.
    pub fn keep(&self, bytes: u64) -> bool {
        let less = |left: u64| left.checked_sub(bytes);
        let kept = self
            .memory
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
        kept.is_ok()
    }

    /// Gives them back.
    pub fn give_back(&self, bytes: u64) {
        self.memory.fetch_add(bytes, Ordering::Relaxed);
    }
}

/// How fast a body comes while its reader waits for it.
#[derive(Debug, Default, Clone, Copy)]
pub struct Pace {
    bytes: u64,
    awaited: Duration,
}

impl Pace {
    /// Notes a piece that was awaited for so long; zero for not at all.
    pub fn note(&mut self, bytes: u64, awaited: Duration) {
        if self.awaited >= RATE_OVER {
            *self = Pace::default();
        }
        self.bytes = self.bytes.saturating_add(bytes);
        self.awaited = self.awaited.saturating_add(awaited);
    }

    fn is_below(self, rate: u64) -> bool {
        let rate = u128::from(rate).saturating_mul(self.awaited.as_millis()) / 1_000;
        self.awaited >= RATE_AFTER && u128::from(self.bytes) < rate
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;

    use super::*;

    fn gate(cpu: u32) -> (Arc<Gate>, Arc<AtomicBool>) {
        let waits = Arc::new(AtomicBool::new(false));
        let others = Arc::clone(&waits);
        let others_wait = Box::new(move || others.load(Ordering::Relaxed));
        (Arc::new(Gate::new(cpu, 100, 1_024, others_wait)), waits)
    }

    #[tokio::test]
    async fn open_calls_hold_a_quarter_and_the_rest_waits() {
        let (gate, _) = gate(2_000);
        let mut open = Vec::new();
        for _ in 0..5 {
            open.push(gate.enter(100).await);
        }
        let mut sixth = std::pin::pin!(gate.enter(100));
        assert!(futures_util::poll!(&mut sixth).is_pending());
        let slow = Pace {
            bytes: 0,
            awaited: RATE_AFTER,
        };
        assert!(gate.ends(&slow), "one waits");
        open.pop();
        assert!(futures_util::poll!(&mut sixth).is_ready());
        assert!(!gate.ends(&slow), "nobody waits");
        // One that takes more than a quarter may still be open, alone.
        drop(open);
        let (small, _) = self::gate(1_000);
        let large = small.enter(1_000).await;
        let mut other = std::pin::pin!(small.enter(1));
        assert!(futures_util::poll!(&mut other).is_pending());
        drop(large);
        assert!(futures_util::poll!(&mut other).is_ready());
    }

    #[test]
    fn a_slow_body_ends_while_calls_wait_and_not_before() {
        let (gate, waits) = gate(1_000);
        let pace = |bytes, seconds| Pace {
            bytes,
            awaited: Duration::from_secs(seconds),
        };
        assert!(!gate.ends(&pace(0, 5)));
        waits.store(true, Ordering::Relaxed);
        assert!(gate.ends(&pace(0, 5)) && gate.ends(&pace(5_119, 5)));
        assert!(!gate.ends(&pace(5_120, 5)), "it is fast enough");
        assert!(!gate.ends(&pace(0, 1)), "it has only begun");
        let mut pace = pace(1 << 20, 10);
        pace.note(1, Duration::from_secs(3));
        assert!(gate.ends(&pace), "what came long ago does not count");
    }

    #[test]
    fn memory_that_was_given_back_can_be_taken_again() {
        let (gate, _) = gate(1_000);
        assert!(gate.keep(60) && !gate.keep(60));
        gate.give_back(60);
        assert!(gate.keep(100));
    }
}
