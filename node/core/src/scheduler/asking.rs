//! What the shell is asked to do, in the words of the scheduler.

use std::time::Duration;

use crate::admission::{self, Pace};
use crate::time::Time;
use crate::words::Phase;

use super::{Action, Scheduler, Waiter};

/// Why a call waits no longer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GaveUp {
    /// Its deadline passed.
    Late {
        /// What it waited for.
        phase: Phase,
        /// How long it had.
        after: Duration,
    },
    /// It had no place for as long as it may wait.
    WaitedTooLong {
        /// How long a newcomer would wait, as far as anybody knows; no less than
        /// it waited itself.
        expected: Duration,
    },
    /// The start that it waited for is not there yet.
    NotStarted,
}

impl<T> Scheduler<T> {
    /// Passes on what admission asks for, and lets instances start as far as the
    /// gate is free.
    pub(super) fn ask(&mut self, now: Time, actions: &mut Vec<Action<T>>) {
        self.pass_on(now, actions);
        while let Some(instance) = self.gate.next() {
            match self.admission.being_started(instance) {
                Some(function) => {
                    self.gate.enter(instance);
                    actions.push(Action::Start { instance, function });
                }
                // Nobody wants it any more, so that it is not even begun.
                None => {
                    let asked = &mut self.asked;
                    self.admission.start_failed(instance, now, asked);
                    self.pass_on(now, actions);
                }
            }
        }
    }

    fn pass_on(&mut self, now: Time, actions: &mut Vec<Action<T>>) {
        if self.asked.is_empty() {
            return;
        }
        let mut asked = std::mem::take(&mut self.asked);
        for action in asked.drain(..) {
            actions.push(self.translated(action, now));
        }
        self.asked = asked;
    }

    fn translated(&mut self, action: admission::Action<Waiter<T>>, now: Time) -> Action<T> {
        match action {
            admission::Action::Run { token, slot } => Action::Run {
                token: token.token,
                slot,
            },
            admission::Action::Start { instance, function } => {
                Action::Prepare { instance, function }
            }
            admission::Action::Stop { instance } => Action::Stop { instance },
            admission::Action::Expired { token, phase } => {
                let why = self.gave_up(&token, phase, now);
                let token = self.token(token, now);
                Action::GaveUp { token, why }
            }
            admission::Action::CannotStart { token, instance } => Action::CannotStart {
                token: self.token(token, now),
                instance,
            },
            admission::Action::Removed { token } => Action::Removed {
                token: self.token(token, now),
            },
        }
    }

    /// What a call is told that waited in `phase` for as long as it may.
    fn gave_up(&self, waiter: &Waiter<T>, phase: Phase, now: Time) -> GaveUp {
        if now >= waiter.deadline {
            return GaveUp::Late {
                phase,
                after: waiter.deadline.since(waiter.arrived),
            };
        }
        match phase {
            Phase::Start => GaveUp::NotStarted,
            Phase::Queue | Phase::Run => {
                let pace = Pace {
                    service: self.service(waiter.function).mean,
                    elsewhere: self.elsewhere,
                };
                let (function, class) = (waiter.function, waiter.class);
                let expected = self.admission.expected_wait(function, class, pace);
                // What it waited in vain is a measurement too: the queue that it
                // leaves may look short.
                let waited = now.since(waiter.arrived);
                GaveUp::WaitedTooLong {
                    expected: expected.whole().max(waited),
                }
            }
        }
    }
}
