//! Calls as they come: what becomes of one, what would, and the place that is kept
//! for one that is yet to be decided about.

use std::time::Duration;

use crate::admission::{self, Arrival, FunctionKey, Kind, Pace, Prospect, Seat, Slot, Ticket};
use crate::estimate::{Estimate, ExpectedWait, longest_wait, time_to_wait};
use crate::pool::LastUse;
use crate::time::Time;
use crate::words::Refusal;

use super::{Action, Charge, Scheduler, Waiter};

/// A call at the door.
#[derive(Debug, Clone, Copy)]
pub struct Request {
    /// Which function.
    pub function: FunctionKey,
    /// Its class, as an index into the configured ones.
    pub class: usize,
    /// Whether it waits for a place; else only for a start that is at hand.
    pub patient: bool,
    /// When it came; now, or before it was placed in vain.
    pub arrived: Time,
    /// The latest useful answer; [`Time::NEVER`] for none. See
    /// [`deadline_of`](crate::class::ClassConfig::deadline_of).
    pub deadline: Time,
    /// Until when it waits, where it was accepted to be run later; `None` when
    /// somebody waits for its answer.
    pub persists_until: Option<Time>,
    /// How long it may run.
    pub timeout: Duration,
    /// Most calls of its function in a second; `None` for any number, and for a
    /// call that was counted already.
    pub per_second: Option<u32>,
    /// Calls of this node that run elsewhere now: those places serve its queue
    /// too.
    pub elsewhere: u32,
}

/// What becomes of a call that arrives.
#[derive(Debug)]
pub enum Verdict {
    /// It runs now, on a warm instance.
    Run(Slot),
    /// It waits; its token comes back in an [`Action`], perhaps in one of this
    /// very event.
    Wait(Ticket),
    /// It is not taken.
    Refuse {
        /// Why.
        reason: Refusal,
        /// How long it would have to wait; zero when nobody knows.
        expected: Duration,
    },
    /// The function was removed.
    Unknown,
}

/// A place for a call that is yet to be decided about. It must be run on or given
/// to [`Scheduler::release`]; dropped, what it holds is lost until the node
/// restarts.
#[must_use = "what it holds is released by release or by finishing its slot alone"]
#[derive(Debug)]
pub struct Reserved {
    slot: Slot,
    before: LastUse,
    charge: Option<Charge>,
}

impl Reserved {
    /// The place, for its call to run on.
    pub fn run(self) -> Slot {
        self.slot
    }
}

/// What would become of a call that arrived now.
#[derive(Debug, Clone, Copy)]
pub struct Outlook {
    /// That.
    pub prospect: Prospect,
    /// How long it would wait for a place; zero for not at all, or when nothing
    /// is known. For a call that would be refused, how long it would have to.
    pub wait: Duration,
    /// How long it may wait for one.
    pub time_to_wait: Duration,
    /// How long calls of its function run.
    pub service: Estimate,
    /// How long starts of it take; zero before the first.
    pub start: Duration,
    /// Whether its function has every instance that it may have, and none has a
    /// free place.
    pub function_full: bool,
}

impl<T> Scheduler<T> {
    /// Takes a call in. `token` is asked for only when the call must wait, so
    /// that a warm call costs no channel.
    ///
    /// # Panics
    /// When the class is not one of the configured ones.
    pub fn arrive(
        &mut self,
        request: &Request,
        token: impl FnOnce() -> T,
        now: Time,
        actions: &mut Vec<Action<T>>,
    ) -> Verdict {
        self.take_in(request, None, token, now, actions)
    }

    /// Takes a call back in that left for a place elsewhere. It was taken once,
    /// so that nothing is refused: it has its seat, or a place.
    ///
    /// # Panics
    /// When the class is not one of the configured ones.
    pub fn come_back(
        &mut self,
        request: &Request,
        seat: Seat,
        token: impl FnOnce() -> T,
        now: Time,
        actions: &mut Vec<Action<T>>,
    ) -> Verdict {
        self.take_in(request, Some(seat), token, now, actions)
    }

    fn take_in(
        &mut self,
        request: &Request,
        seat: Option<Seat>,
        token: impl FnOnce() -> T,
        now: Time,
        actions: &mut Vec<Action<T>>,
    ) -> Verdict {
        self.elsewhere = request.elsewhere;
        let charge = match self.charge(request, seat.is_some(), now) {
            Ok(charge) => charge,
            Err(verdict) => return verdict,
        };
        if seat.is_none()
            && let Some(slot) = self.admission.arrive_warm(request.function, now)
        {
            return Verdict::Run(slot);
        }
        let arrival = self.arrival(request);
        let waiter = || Waiter {
            token: token(),
            function: request.function,
            class: request.class,
            arrived: request.arrived,
            deadline: request.deadline,
            charge,
        };
        let (admission, asked) = (&mut self.admission, &mut self.asked);
        let verdict = match seat {
            Some(seat) => admission.come_back(request.function, seat, waiter, now, asked),
            None => admission.arrive_cold(arrival, waiter, now, asked),
        };
        match verdict {
            admission::Verdict::Run(slot) => Verdict::Run(slot),
            admission::Verdict::Wait(ticket) => {
                self.ask(now, actions);
                Verdict::Wait(ticket)
            }
            admission::Verdict::Refuse(reason) => {
                self.give_back(request.function, charge, now);
                let expected =
                    self.admission
                        .expected_wait(request.function, request.class, arrival.pace);
                Verdict::Refuse {
                    reason,
                    expected: expected.whole(),
                }
            }
            admission::Verdict::Unknown => Verdict::Unknown,
        }
    }

    /// Counts a call against its function's rate, where that has a bound; what
    /// becomes of it when it is beyond. One that `returns` was counted once, and is
    /// let in.
    fn charge(
        &mut self,
        request: &Request,
        returns: bool,
        now: Time,
    ) -> Result<Option<Charge>, Verdict> {
        let Some(function) = self.function_mut(request.function) else {
            return Err(Verdict::Unknown);
        };
        let Some(per_second) = request.per_second else {
            return Ok(None);
        };
        let counted = match returns {
            true => Some(function.rate.take_again(now, per_second)),
            false => function.rate.take(now, per_second),
        };
        match counted {
            Some(counted) => Ok(Some(Charge {
                counted,
                per_second,
            })),
            None => Err(Verdict::Refuse {
                reason: match request.patient {
                    true => Refusal::RateLimit,
                    // Whoever asked may know of another place.
                    false => Refusal::NoRoom,
                },
                expected: function.rate.wait(now, per_second),
            }),
        }
    }

    /// How admission sees a call.
    fn arrival(&self, request: &Request) -> Arrival {
        let service = self.service(request.function);
        let longest = longest_wait(self.classes[request.class].max_wait, &service);
        let (leave, end) = match request.persists_until {
            Some(until) => (until.min(request.deadline), until.min(request.deadline)),
            None => {
                let left = request.deadline.since(request.arrived);
                let left = (request.deadline != Time::NEVER).then_some(left);
                let leave = request.arrived + time_to_wait(longest, left, &service);
                // A start may well take longer than the call that it is for.
                let started = request.arrived + request.timeout.max(longest);
                let end = match request.deadline {
                    Time::NEVER => started,
                    deadline => deadline,
                };
                (leave, end)
            }
        };
        Arrival {
            function: request.function,
            class: request.class,
            kind: match request.persists_until {
                Some(_) => Kind::Accepted,
                None => Kind::Awaited,
            },
            patient: request.patient,
            arrived: request.arrived,
            leave,
            end,
            pace: Pace {
                service: service.mean,
                elsewhere: request.elsewhere,
            },
        }
    }

    /// What would become of such a call; `None` when the function was removed.
    ///
    /// # Panics
    /// When the class is not one of the configured ones.
    pub fn prospect(&self, request: &Request, now: Time) -> Option<Outlook> {
        let function = self.function(request.function)?;
        let arrival = self.arrival(request);
        let mut prospect = self.admission.prospect(&arrival, now)?;
        let expected = match prospect {
            Prospect::Wait { expected } => expected,
            Prospect::Refuse(_) => {
                let Request {
                    function, class, ..
                } = *request;
                self.admission.expected_wait(function, class, arrival.pace)
            }
            Prospect::Warm | Prospect::Start => ExpectedWait::default(),
        };
        let mut wait = expected.whole();
        if let Some(per_second) = request.per_second
            && !function.rate.has_room(now, per_second)
        {
            prospect = Prospect::Refuse(Refusal::RateLimit);
            wait = function.rate.wait(now, per_second);
        }
        Some(Outlook {
            prospect,
            wait,
            time_to_wait: arrival.leave.since(now),
            service: function.service,
            start: function.known.start(),
            function_full: self.admission.is_full(request.function),
        })
    }

    /// The same, and the place on a warm instance where the call would run at
    /// once: it is kept until whoever decides about the call runs it there or
    /// [releases](Scheduler::release) it.
    ///
    /// # Panics
    /// When the class is not one of the configured ones.
    pub fn reserve(&mut self, request: &Request, now: Time) -> Option<(Outlook, Option<Reserved>)> {
        let outlook = self.prospect(request, now)?;
        if outlook.prospect != Prospect::Warm {
            return Some((outlook, None));
        }
        self.elsewhere = request.elsewhere;
        let taken = self.admission.reserve(request.function, now);
        let reserved = taken.map(|(slot, before)| {
            let function = self.function_mut(request.function);
            let charge = request.per_second.zip(function);
            let charge = charge.and_then(|(per_second, function)| {
                let counted = function.rate.take(now, per_second)?;
                Some(Charge {
                    counted,
                    per_second,
                })
            });
            Reserved {
                slot,
                before,
                charge,
            }
        });
        Some((outlook, reserved))
    }

    /// Takes a place back whose call runs elsewhere, or not at all: it is as if it
    /// had not come.
    pub fn release(&mut self, reserved: Reserved, now: Time, actions: &mut Vec<Action<T>>) {
        let Reserved {
            slot,
            before,
            charge,
        } = reserved;
        self.give_back(slot.function(), charge, now);
        self.admission.release((slot, before), now, &mut self.asked);
        self.ask(now, actions);
    }
}
