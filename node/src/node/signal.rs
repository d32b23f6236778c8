//! Tells one who waits that something has changed, cheaply where nobody looks: a
//! call that finds it told already reads one flag and writes nothing.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering, fence};

use tokio::sync::Notify;

/// Something that changes with each call, for one who looks now and then.
#[derive(Debug, Default)]
pub(super) struct Signal {
    told: AtomicBool,
    notify: Notify,
}

impl Signal {
    /// Tells of a change that was made before.
    pub(super) fn tell(&self) {
        // Either what was told last has not been looked at, and this is seen then,
        // or it is told: see `wait`.
        fence(Ordering::SeqCst);
        if !self.told.load(Ordering::Relaxed) && !self.told.swap(true, Ordering::AcqRel) {
            self.notify.notify_one();
        }
    }

    /// Waits until there was a change since this was last waited for. One at a
    /// time.
    pub(super) async fn wait(&self) {
        self.notify.notified().await;
        self.told.store(false, Ordering::Relaxed);
        // What is looked at from now on includes each change that was not told.
        fence(Ordering::SeqCst);
    }
}

/// A [`Signal`] that is told only while somebody wants it.
#[derive(Debug, Default)]
pub(super) struct WantedSignal {
    wanted: AtomicUsize,
    signal: Signal,
}

impl WantedSignal {
    /// Somebody wants it from now on. What is looked at after this is either seen
    /// or told.
    pub(super) fn want(&self) {
        self.wanted.fetch_add(1, Ordering::SeqCst);
    }

    /// As many want it as before.
    pub(super) fn want_no_more(&self) {
        self.wanted.fetch_sub(1, Ordering::SeqCst);
    }

    /// Tells of a change that was made before, if anybody wants to know.
    pub(super) fn tell(&self) {
        fence(Ordering::SeqCst);
        if self.wanted.load(Ordering::Relaxed) > 0 {
            self.signal.tell();
        }
    }

    /// See [`Signal::wait`].
    pub(super) async fn wait(&self) {
        self.signal.wait().await;
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    #[test]
    fn what_changed_before_it_is_waited_for_is_told_once() {
        let signal = Signal::default();
        let is_told = || signal.wait().now_or_never().is_some();
        assert!(!is_told());
        signal.tell();
        signal.tell();
        assert!(is_told());
        assert!(!is_told());
        signal.tell();
        assert!(is_told());
    }

    #[test]
    fn whoever_gives_up_waiting_is_told_when_it_waits_again() {
        let signal = Signal::default();
        let mut waits = Box::pin(signal.wait());
        assert!((&mut waits).now_or_never().is_none());
        signal.tell();
        drop(waits);
        assert!(signal.wait().now_or_never().is_some());
    }

    #[test]
    fn nobody_is_told_what_nobody_wants() {
        let signal = WantedSignal::default();
        let is_told = || signal.wait().now_or_never().is_some();
        signal.tell();
        assert!(!is_told());
        signal.want();
        signal.want();
        signal.tell();
        assert!(is_told());
        signal.want_no_more();
        signal.tell();
        assert!(is_told());
        signal.want_no_more();
        signal.tell();
        assert!(!is_told());
    }
}
