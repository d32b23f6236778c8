//! Instances that go and come back as their function's pauses say: see
//! [`crate::keep`].

use std::time::Duration;

use crate::keep::{Keeping, Pauses, Window};
use crate::profile::Profile;
use crate::time::Time;

use super::timers::Timer;
use super::{Function, FunctionKey, Pool};

/// What a function's pauses teach.
#[derive(Debug, Default)]
pub(super) struct Habit {
    pauses: Pauses,
    /// What they taught when it fell idle.
    window: Option<Window>,
    /// When an instance comes back.
    back_at: Option<Time>,
    /// Whether one did in this pause.
    came_back: bool,
}

impl Habit {
    /// That of a function without any, where its instances stay by it.
    pub(super) fn of(profile: &Profile) -> Option<Box<Habit>> {
        (profile.keeping == Keeping::Histogram).then(Box::default)
    }
}

impl Function {
    /// How long an instance stays that falls idle, or that came back.
    pub(super) fn stays(&self, came_back: bool) -> Duration {
        let window = self.habit.as_ref().and_then(|habit| habit.window);
        match (self.profile.keeping, window) {
            (Keeping::GreedyDual, _) => Duration::MAX,
            (Keeping::Fixed, _) | (Keeping::Histogram, None) => self.profile.keep_alive,
            (Keeping::Histogram, Some(window)) => match came_back || window.back_after.is_zero() {
                true => window.stays,
                false => Duration::ZERO,
            },
        }
    }

    /// Takes note that it is called: nothing has to come back any more. When
    /// something would have.
    pub(super) fn was_called(&mut self, now: Time) -> Option<Time> {
        let habit = self.habit.as_deref_mut()?;
        habit.pauses.called(now);
        habit.came_back = false;
        habit.back_at.take()
    }

    /// Takes note when its last call ended.
    pub(super) fn fell_idle(&mut self, now: Time) {
        let is_idle = self.running == 0 && self.waiting == 0;
        if let Some(habit) = self.habit.as_deref_mut().filter(|_| is_idle) {
            habit.pauses.fell_idle(now);
            habit.came_back = false;
            habit.window = habit.pauses.window();
        }
    }
}

impl Pool {
    /// Has an instance come back in time, of a function whose last one goes while
    /// it is idle.
    pub(super) fn expect_return(&mut self, key: FunctionKey) {
        let Some(function) = self.functions.get_mut(key.0) else {
            return;
        };
        let is_gone = function.live() == 0 && function.running == 0 && function.waiting == 0;
        let Some(habit) = function.habit.as_deref_mut().filter(|_| is_gone) else {
            return;
        };
        let window = habit.window.filter(|window| !window.back_after.is_zero());
        let due = window.zip(habit.pauses.idle_since());
        if let Some((window, since)) = due.filter(|_| habit.back_at.is_none() && !habit.came_back) {
            let due = since + window.back_after;
            habit.back_at = Some(due);
            self.timers.insert((due, Timer::Return(key)));
        }
    }

    /// Starts the instance that is expected back, where that takes nobody's room.
    pub(super) fn come_back(&mut self, key: FunctionKey, now: Time) {
        let Some(function) = self.functions.get_mut(key.0) else {
            return;
        };
        let is_gone = function.live() == 0;
        if let Some(habit) = function.habit.as_deref_mut() {
            habit.back_at = None;
            habit.came_back = true;
        }
        let started = if is_gone {
            self.start_one(key, now)
        } else {
            None
        };
        if let Some(instance) = started.and_then(|id| self.instances.get_mut(id.key())) {
            instance.came_back = true;
        }
    }

    /// Has none come back, of a function that is to have none or is no more.
    pub(super) fn expect_none(&mut self, key: FunctionKey) {
        let function = self.functions.get_mut(key.0);
        let habit = function.and_then(|function| function.habit.as_deref_mut());
        if let Some(due) = habit.and_then(|habit| habit.back_at.take()) {
            self.timers.remove(&(due, Timer::Return(key)));
        }
    }

    /// Has a function stay by its pauses, or no more; what was learned of it is
    /// kept where it did before.
    pub(super) fn change_habit(&mut self, key: FunctionKey) {
        self.expect_none(key);
        if let Some(function) = self.functions.get_mut(key.0) {
            let habit = Habit::of(&function.profile);
            function.habit = habit.map(|new| function.habit.take().unwrap_or(new));
        }
    }
}

#[cfg(test)]
mod tests;
