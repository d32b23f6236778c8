//! Connections to an instance on which nothing is under way.
//!
//! A door has one runtime per core, with one thread each. A connection waits in
//! the list of the thread that used it last, and calls take what is in the list
//! of their own thread first: its socket is in that thread's poll set already,
//! and no lock is shared with another core. Only a thread without one takes what
//! another has left.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Mutex, MutexGuard};

use crate::idle::IdleTime;

/// Lists of one instance. Threads beyond as many share them, and still find their
/// own connections first.
const SHELVES: usize = 16;

/// How long a connection waits for its first call. Servers close those that ask
/// nothing, some soon, and what was sent into the close may have begun.
const UNUSED_IDLE_MAX: Duration = Duration::from_millis(100);

/// What is known of a connection's end.
pub(crate) trait Connection {
    /// Whether nothing that was read of it so far ends it. Costs no system call.
    fn is_open(&self) -> bool;

    /// Whether another call may be tried on it: the other side has neither closed
    /// it nor said anything unasked. Asks the system.
    fn is_usable(&self) -> bool;
}

/// A thread that makes calls, by a number of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Thread(u32);

impl Thread {
    /// The one that asks.
    pub(crate) fn here() -> Thread {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        thread_local! {
            static MINE: Thread = Thread(NEXT.fetch_add(1, Ordering::Relaxed));
        }
        MINE.with(|mine| *mine)
    }

    fn shelf(self) -> usize {
        self.0 as usize % SHELVES
    }
}

struct Entry<C> {
    connection: C,
    /// Who used it last.
    thread: Thread,
    /// When it was used last.
    since: Instant,
    /// Whether it carried a call.
    used: bool,
}

/// Those of a few threads, the one used last at the end. A cache line of its own.
#[repr(align(64))]
struct Shelf<C>(Mutex<Vec<Entry<C>>>);

impl<C> Shelf<C> {
    fn lock(&self) -> MutexGuard<'_, Vec<Entry<C>>> {
        self.0.lock()
    }
}

/// All of one instance; as many as it takes calls.
pub(crate) struct Resting<C> {
    shelves: [Shelf<C>; SHELVES],
    /// How long its server keeps them.
    pub(crate) idle_time: IdleTime,
}

impl<C> Default for Resting<C> {
    fn default() -> Self {
        Resting {
            shelves: std::array::from_fn(|_| Shelf(Mutex::default())),
            idle_time: IdleTime::default(),
        }
    }
}

impl<C: Connection> Resting<C> {
    /// Adds one that has carried no call yet.
    pub(crate) fn add_unused(&self, connection: C, here: Thread, now: Instant) {
        self.add(connection, here, now, false);
    }

    /// Takes one back whose call has ended.
    pub(crate) fn put_back(&self, connection: C, here: Thread, now: Instant) {
        self.add(connection, here, now, true);
    }

    fn add(&self, connection: C, thread: Thread, since: Instant, used: bool) {
        self.shelves[thread.shelf()].lock().push(Entry {
            connection,
            thread,
            since,
            used,
        });
    }

    /// One that may be used, and for how long nobody has. Where others can be
    /// made (`may_dial`), those are left out that the server may be closing.
    pub(crate) fn take(&self, here: Thread, now: Instant, may_dial: bool) -> Option<(C, Duration)> {
        let own = here.shelf();
        let others = (1..SHELVES).map(|step| (own + step) % SHELVES);
        let found = std::iter::once(own)
            .chain(others)
            .find_map(|at| self.take_from(&mut self.shelves[at].lock(), here, now, may_dial));
        if found.is_some() || may_dial {
            return found;
        }
        // Each call that was placed here has a connection; one that came back
        // meanwhile to a list that was looked at already must not be missed.
        let mut all = self.shelves.each_ref().map(Shelf::lock);
        all.iter_mut()
            .find_map(|shelf| self.take_from(shelf, here, now, may_dial))
    }

    fn take_from(
        &self,
        shelf: &mut Vec<Entry<C>>,
        here: Thread,
        now: Instant,
        may_dial: bool,
    ) -> Option<(C, Duration)> {
        loop {
            let own = shelf.iter().rposition(|entry| entry.thread == here);
            let at = own.or(shelf.len().checked_sub(1))?;
            let entry = shelf.remove(at);
            let idle = now.saturating_duration_since(entry.since);
            // What comes on a socket is told to the runtime that it belongs to,
            // and read there before anything is written.
            let is_known = own.is_some() && entry.used && self.idle_time.is_short(idle);
            let may_be_tried = match is_known {
                true => entry.connection.is_open(),
                false => entry.connection.is_usable(),
            };
            if !may_be_tried {
                if entry.used {
                    self.idle_time.closed(idle);
                }
                continue;
            }
            let in_time = self.idle_time.allows(idle) && (entry.used || idle <= UNUSED_IDLE_MAX);
            if !may_dial || in_time {
                return Some((entry.connection, idle));
            }
        }
    }

    /// Drops all.
    pub(crate) fn clear(&self) {
        for shelf in &self.shelves {
            let dropped = std::mem::take(&mut *shelf.lock());
            drop(dropped);
        }
    }
}

#[cfg(test)]
mod tests;
