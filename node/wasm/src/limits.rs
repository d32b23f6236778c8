//! What a guest may use of memory and processor.

use crate::CallError;
use crate::exchange::Exchange;
use crate::ticker::{TICK, Ticker};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::runtime::Handle;
use wasmtime::{ResourceLimiter, UpdateDeadline};

/// Ticks until a guest is first asked to give way. The first may come at
/// once, so that two make at least one whole.
pub(crate) const FIRST_TICKS: u64 = 2;

/// Processor time that a guest may be ahead of its share: without some, one
/// that runs for a few milliseconds would already be paused.
const BURST: Duration = Duration::from_millis(10);

/// Longest single pause; a guest that is further ahead is paused again.
const LONGEST_PAUSE: Duration = Duration::from_millis(250);

/// Elements that all tables of a guest may have together. Interpreters use
/// tens of thousands, each of 8 bytes.
const TABLE_ELEMENTS: usize = 1 << 20;

/// Instances, tables and memories in one sandbox: components made of many
/// modules have dozens.
const SANDBOX_PARTS: usize = 1_000;

/// Counts what a guest's memories and tables take together.
pub(crate) struct MemoryLimit {
    limit: u64,
    used: u64,
    elements: usize,
    exceeded: bool,
}

impl MemoryLimit {
    pub(crate) fn new(limit: u64) -> MemoryLimit {
        MemoryLimit {
            limit,
            used: 0,
            elements: 0,
            exceeded: false,
        }
    }

    /// Whether the guest asked for more than it may have. It was told so and
    /// may have coped; if it failed, this is why.
    pub(crate) fn was_exceeded(&self) -> bool {
        self.exceeded
    }

    pub(crate) fn limit(&self) -> u64 {
        self.limit
    }
}

impl ResourceLimiter for MemoryLimit {
    fn memory_growing(
        &mut self,
        current: usize,
        desired: usize,
        _maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        let used = self.used + desired.saturating_sub(current) as u64;
        if used > self.limit {
            self.exceeded = true;
            return Ok(false);
        }
        self.used = used;
        Ok(true)
    }

    fn memory_grow_failed(&mut self, _error: wasmtime::Error) -> wasmtime::Result<()> {
        self.exceeded = true;
        Ok(())
    }

    fn table_growing(
        &mut self,
        current: usize,
        desired: usize,
        _maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        let elements = self.elements + desired.saturating_sub(current);
        if elements > TABLE_ELEMENTS {
            return Ok(false);
        }
        self.elements = elements;
        Ok(true)
    }

    fn instances(&self) -> usize {
        SANDBOX_PARTS
    }

    fn tables(&self) -> usize {
        SANDBOX_PARTS
    }

    fn memories(&self) -> usize {
        SANDBOX_PARTS
    }
}

/// What happens to a guest at each tick that it runs into.
pub(crate) struct Meter {
    pub(crate) exchange: Arc<Exchange>,
    pub(crate) ticker: Arc<Ticker>,
    /// Where pauses are timed: the caller's runtime may be gone before them.
    pub(crate) pool: Handle,
    pub(crate) until: Instant,
    /// Thousandths of one processor; none is no limit.
    pub(crate) millicores: Option<u32>,
}

impl Meter {
    pub(crate) fn tick(&self) -> UpdateDeadline {
        let now = Instant::now();
        if now >= self.until {
            self.exchange.set_fault(CallError::TimedOut);
            return UpdateDeadline::Interrupt;
        }
        if let Some(pause) = self.pause(now) {
            self.exchange.set_busy();
            let _inside = self.pool.enter();
            return UpdateDeadline::YieldCustom(1, Box::pin(tokio::time::sleep(pause)));
        }
        // A guest that waited for input finds its deadline long past, though
        // it has hardly run.
        let ran = self.ticker.ticks() - self.exchange.processor().turn_tick();
        if ran < 1 {
            return UpdateDeadline::Continue(1);
        }
        self.exchange.set_busy();
        UpdateDeadline::Yield(1)
    }

    /// How long the guest has to pause to come back to its share.
    fn pause(&self, now: Instant) -> Option<Duration> {
        let millicores = self.millicores?;
        let elapsed = now.duration_since(self.exchange.processor().started());
        pause(self.exchange.processor().used(), elapsed, millicores)
            .map(|pause| pause.min(self.until.duration_since(now)))
    }
}

/// How long a guest that used so much of `elapsed` has to pause.
fn pause(used: Duration, elapsed: Duration, millicores: u32) -> Option<Duration> {
    let share = f64::from(millicores.max(1)) / 1_000.0;
    let excess = used.saturating_sub(BURST);
    let due = excess.div_f64(share).saturating_sub(elapsed);
    // Shorter pauses than a tick would only be timers.
    (due > TICK).then(|| due.min(LONGEST_PAUSE))
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn millis(count: u64) -> Duration {
        Duration::from_millis(count)
    }

    #[test]
    fn guest_within_its_share_is_not_paused() {
        assert_eq!(pause(millis(50), millis(100), 500), None);
        assert_eq!(pause(millis(10), millis(10), 100), None);
        assert_eq!(pause(millis(4), millis(4), 1), None);
    }

    #[test]
    fn guest_above_its_share_pauses_until_it_is_due() {
        assert_eq!(pause(millis(60), millis(60), 500), Some(millis(40)));
        assert_eq!(pause(millis(60), millis(60), 1), Some(LONGEST_PAUSE));
        assert_eq!(pause(millis(60), millis(60), 0), Some(LONGEST_PAUSE));
    }

    #[test]
    fn memories_count_together() {
        let mut limit = MemoryLimit::new(100);
        assert!(limit.memory_growing(0, 60, None).expect("it only counts"));
        assert!(limit.memory_growing(0, 40, None).expect("it only counts"));
        assert!(!limit.was_exceeded());
        assert!(!limit.memory_growing(40, 41, None).expect("it only counts"));
        assert!(limit.was_exceeded());
    }
}
