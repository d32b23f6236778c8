//! Panics: counted wherever they happen, and kept to the work that they end.
//!
//! A panic is this program's own broken promise, in whichever thread it comes
//! up. It must end the one call that met it, and nothing beside: whoever runs
//! calls of others [contains](contain) each, and what runs for ever is begun
//! [again](rest). State that outlives a panic is behind locks that
//! ignore poison, since each change leaves sound numbers behind.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Once;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::Poll;
use std::time::Duration;

use futures_util::FutureExt as _;

/// Pause before work begins again that panicked: it may do so at once again.
const AGAIN_AFTER: Duration = Duration::from_secs(1);

static COUNT: AtomicU64 = AtomicU64::new(0);

/// Counts each panic of this process from now on. What was done with panics
/// before, such as printing them, is done as well.
pub fn watch() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            COUNT.fetch_add(1, Ordering::Relaxed);
            before(panic);
        }));
    });
}

/// Panics since [`watch`].
pub fn count() -> u64 {
    COUNT.load(Ordering::Relaxed)
}

/// Work that ended in a panic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("this node failed (a panic, which its standard error names)")]
pub struct Panicked;

/// Does work that may panic, and goes on if it does.
///
/// # Errors
/// When it panicked.
pub fn contain<T>(work: impl Future<Output = T>) -> impl Future<Output = Result<T, Panicked>> {
    // No `async`, which would keep the work twice.
    let caught = AssertUnwindSafe(work).catch_unwind();
    caught.map(|caught| caught.map_err(|_| Panicked))
}

/// The same for one poll of something that must not be polled again after that.
///
/// # Errors
/// When it panicked.
pub fn contain_poll<T>(poll: impl FnOnce() -> Poll<T>) -> Poll<Result<T, Panicked>> {
    match catch_unwind(AssertUnwindSafe(poll)) {
        Ok(polled) => polled.map(Ok),
        Err(_) => Poll::Ready(Err(Panicked)),
    }
}

/// Says that work panicked which goes on for ever, and rests a while before it
/// is begun again.
pub async fn rest(what: &'static str) {
    tracing::error!(what, "panicked, and is begun again");
    tokio::time::sleep(AGAIN_AFTER).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panic_ends_the_work_that_met_it_alone_and_is_counted() {
        watch();
        let before = count();
        let broken = contain(async { panic!("it breaks") });
        assert_eq!(broken.await, Err::<(), _>(Panicked));
        assert_eq!(contain(async { 7 }).await, Ok(7));
        let polled: Poll<Result<(), _>> = contain_poll(|| panic!("it breaks"));
        assert_eq!(polled, Poll::Ready(Err(Panicked)));
        assert_eq!(contain_poll(|| Poll::Ready(7)), Poll::Ready(Ok(7)));
        // Other tests of this process may panic on purpose too.
        assert!(count() >= before + 2);
    }
}
