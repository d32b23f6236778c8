//! Who is said to be congested, for decisions that read it without a lock.

use std::sync::Arc;

use arc_swap::{ArcSwapOption, Guard};
use parking_lot::Mutex;

use crate::congestion::Congestion;

/// What is said to be congested; read by each decision.
#[derive(Default)]
pub(in crate::dispatch) struct Congested {
    current: ArcSwapOption<Congestion>,
    /// Held while it is changed.
    changing: Mutex<()>,
}

impl Congested {
    pub(in crate::dispatch) fn load(&self) -> Guard<Option<Arc<Congestion>>> {
        self.current.load()
    }

    pub(in crate::dispatch) fn change<T>(&self, change: impl FnOnce(&mut Congestion) -> T) -> T {
        let _changing = self.changing.lock();
        let current = self.current.load_full();
        let mut next = current.as_deref().cloned().unwrap_or_default();
        let changed = change(&mut next);
        self.current.store(Some(Arc::new(next)));
        changed
    }
}
