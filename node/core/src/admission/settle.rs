//! Bringing everything to rest after an event: nobody waits who could run, and
//! nobody waits longer than it may.

use crate::pool::{Change, Eviction, Pool, Standing, Taken};
use crate::queue::{Fit, Look};
use crate::time::Time;
use crate::words::Phase;

use super::{Action, Admission, FunctionKey};

impl<T> Admission<T> {
    /// Brings everything to rest after an event: nobody waits who could run.
    pub(super) fn settle(&mut self, now: Time, actions: &mut Vec<Action<T>>) {
        // First, or a call might run after its caller was told that it waited
        // too long.
        self.expire_calls(now, actions);
        if !self.queue.is_empty() {
            self.run_waiting(now, actions);
        }
        self.settle_instances(now, actions);
    }

    /// The same where nothing but time can have changed since the last event for
    /// those who wait.
    pub(super) fn settle_again(&mut self, now: Time, actions: &mut Vec<Action<T>>) {
        match self.queue.next_give_up().is_some_and(|due| due <= now) {
            true => self.settle(now, actions),
            false => self.settle_instances(now, actions),
        }
    }

    fn settle_instances(&mut self, now: Time, actions: &mut Vec<Action<T>>) {
        // After those who wait, who may need what is about to stop.
        if self.pool.next_event().is_some_and(|due| due <= now) {
            self.pool.expire(now);
        }
        if !self.draining && self.pool.is_lacking() && !self.queue.has_contenders() {
            self.pool.prestart(now);
        }
        if self.pool.has_changes() {
            actions.extend(self.pool.changes().map(Action::from));
        }
    }

    /// Has those leave who waited as long as they may, but for those that a
    /// start is at hand for.
    pub(super) fn expire_calls(&mut self, now: Time, actions: &mut Vec<Action<T>>) {
        while let Some(due) = self.queue.due(now) {
            let promised = self.queue.promised(due.function);
            if due.may_stay && self.pool.covers(due.function, promised.saturating_add(1)) {
                self.queue.promise(due.ticket);
                continue;
            }
            let waited = self.queue.remove(due.ticket).expect("it is due");
            let phase = match waited.promised {
                true => Phase::Start,
                false => Phase::Queue,
            };
            actions.push(Action::Expired {
                token: self.token(waited),
                phase,
            });
        }
    }

    fn run_waiting(&mut self, now: Time, actions: &mut Vec<Action<T>>) {
        let Admission { pool, queue, .. } = self;
        while let Some(waited) = queue.pick(now, |function, look| judge(pool, function, look, now))
        {
            let Taken::Slot(mut slot) = pool.take(waited.function, waited.arrived, now) else {
                unreachable!("judged to run in this very state");
            };
            slot.charged = Some((waited.seat.class, waited.seat.cost));
            pool.count_waited(waited.function);
            actions.push(Action::Run {
                token: waited.token,
                slot,
            });
        }
    }
}

impl<T> From<Change> for Action<T> {
    fn from(change: Change) -> Self {
        match change {
            Change::Start { instance, function } => Action::Start { instance, function },
            Change::Stop { instance } => Action::Stop { instance },
        }
    }
}

/// Judges whether the oldest waiting call of a function can run, and starts
/// instances or stops those of others so that it soon can.
fn judge(pool: &mut Pool, key: FunctionKey, look: Look, now: Time) -> Fit {
    let verdict = loop {
        match pool.standing(key) {
            Standing::Runs => return Fit::Runs,
            Standing::Short => break Fit::Short,
            Standing::Settled => return Fit::Asleep,
            // Perhaps that is not enough for all that wait.
            Standing::Lacks { .. } if pool.start(key, now) => {}
            Standing::Lacks { served: true } => break Fit::Patient,
            Standing::Lacks { served: false } => break Fit::Short,
        }
    };
    match look {
        Look::Turn if pool.is_still() => pool.make_room(key, Eviction::LastResort),
        Look::Turn | Look::Head => pool.make_room(key, Eviction::Surplus),
        // One large call after the other would empty the pool for all of them
        // at once, though only the first can use the room.
        Look::Behind => {}
    }
    verdict
}
