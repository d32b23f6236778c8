//! The clock that interrupts guests: a thread that ticks while one runs.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// Time between ticks: how long a busy guest may keep a thread from others.
pub(crate) const TICK: Duration = Duration::from_millis(2);

/// Ticks without any guest until the thread parks. Long enough that a node
/// under load never parks it (waking it costs a system call), short enough
/// that an idle node soon sleeps.
const IDLE_TICKS: u32 = 25;

/// One guest, in the lower half of the activity word; entries so far are
/// counted in the upper half, so that guests shorter than a tick show too.
const ONE_RUNNING: u64 = 1;
const ONE_ENTRY: u64 = 1 << 32;
const RUNNING: u64 = ONE_ENTRY - 1;

/// Ticks, and how many guests are running.
pub(crate) struct Ticker {
    shared: Arc<Shared>,
    thread: JoinHandle<()>,
}

struct Shared {
    activity: AtomicU64,
    ticks: AtomicU64,
    parked: AtomicBool,
    stop: AtomicBool,
}

impl Ticker {
    /// Starts the thread; it parks at once.
    pub(crate) fn start(engine: &wasmtime::Engine) -> std::io::Result<Ticker> {
        let shared = Arc::new(Shared {
            activity: AtomicU64::new(0),
            ticks: AtomicU64::new(0),
            parked: AtomicBool::new(false),
            stop: AtomicBool::new(false),
        });
        let engine = engine.weak();
        let ours = shared.clone();
        let thread = thread::Builder::new()
            .name("weir-wasm-tick".to_owned())
            // It calls two functions.
            .stack_size(256 << 10)
            .spawn(move || {
                ours.run(&|| match engine.upgrade() {
                    Some(engine) => {
                        engine.increment_epoch();
                        true
                    }
                    None => false,
                });
            })?;
        Ok(Ticker { shared, thread })
    }

    /// Says that a guest runs on this thread until the result is dropped.
    pub(crate) fn enter(&self) -> Running<'_> {
        // Sequentially consistent, as the ticker's own two steps are: either
        // it sees this guest before it parks, or we see that it has parked.
        self.shared
            .activity
            .fetch_add(ONE_ENTRY + ONE_RUNNING, Ordering::SeqCst);
        if self.shared.parked.load(Ordering::SeqCst) {
            self.thread.thread().unpark();
        }
        Running(&self.shared)
    }

    /// Ticks so far.
    pub(crate) fn ticks(&self) -> u64 {
        self.shared.ticks.load(Ordering::Relaxed)
    }

    #[cfg(test)]
    fn is_parked(&self) -> bool {
        self.shared.parked.load(Ordering::SeqCst)
    }
}

impl Drop for Ticker {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        self.thread.thread().unpark();
    }
}

/// A guest is running; see [`Ticker::enter`].
pub(crate) struct Running<'a>(&'a Shared);

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.activity.fetch_sub(ONE_RUNNING, Ordering::SeqCst);
    }
}

impl Shared {
    fn run(&self, increment: &dyn Fn() -> bool) {
        let mut idle = IDLE_TICKS;
        let mut last = 0;
        while !self.stop.load(Ordering::SeqCst) {
            if idle >= IDLE_TICKS {
                self.park(last);
                idle = 0;
            }
            thread::sleep(TICK);
            self.ticks.fetch_add(1, Ordering::Relaxed);
            if !increment() {
                return;
            }
            let now = self.activity.load(Ordering::SeqCst);
            idle = if now == last && now & RUNNING == 0 {
                idle + 1
            } else {
                0
            };
            last = now;
        }
    }

    /// Waits until the activity is not `last` any more.
    fn park(&self, last: u64) {
        self.parked.store(true, Ordering::SeqCst);
        while self.activity.load(Ordering::SeqCst) == last && !self.stop.load(Ordering::SeqCst) {
            thread::park();
        }
        self.parked.store(false, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;

    /// Waits for a fact that another thread brings about.
    fn wait_for(fact: impl Fn() -> bool) {
        let start = Instant::now();
        while !fact() {
            assert!(start.elapsed() < Duration::from_secs(20), "it never came");
            thread::yield_now();
        }
    }

    #[test]
    fn ticker_runs_while_a_guest_runs_and_parks_after() {
        let engine = wasmtime::Engine::default();
        let ticker = Ticker::start(&engine).expect("a thread");
        wait_for(|| ticker.is_parked());
        let before = ticker.ticks();
        let running = ticker.enter();
        wait_for(|| ticker.ticks() > before + 2 * u64::from(IDLE_TICKS));
        assert!(!ticker.is_parked());
        drop(running);
        wait_for(|| ticker.is_parked());
    }
}
