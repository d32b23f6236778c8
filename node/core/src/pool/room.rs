//! What there is room for: on instances that are ready or could be started, and of
//! what calls hold.

use crate::profile::Profile;
use crate::resources::Resources;

use super::{Function, FunctionKey, Pool};

/// Room for calls of one function.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Places {
    /// On instances that are ready.
    pub warm: u32,
    /// On instances that could be started, beside those.
    pub startable: u32,
    /// If the whole node had nothing else to do.
    pub most: u32,
}

/// How the oldest waiting call of a function stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Standing {
    /// It can run now.
    Runs,
    /// There is a place for it, but what it holds is not free.
    Short,
    /// Its function has as many instances as it may or needs, those being started
    /// included.
    Settled,
    /// Its function would have one more instance.
    Lacks {
        /// Whether it has any.
        served: bool,
    },
}

impl Pool {
    /// Whether a ready instance has a free place.
    pub fn has_place(&self, key: FunctionKey) -> bool {
        self.functions
            .get(key.0)
            .is_some_and(|function| !function.available.is_empty())
    }

    /// Whether what a call of this function holds is free.
    pub fn has_room(&self, key: FunctionKey) -> bool {
        self.has_room_for(key, 1)
    }

    /// Whether what so many calls of this function hold is free.
    pub fn has_room_for(&self, key: FunctionKey, calls: u32) -> bool {
        let free = self.ledger.free();
        self.functions.get(key.0).is_some_and(|function| {
            function.profile.call.times(calls).fits(free) && calls <= self.let_in(function)
        })
    }

    /// How many more calls of a function may begin as long as the machine has
    /// more to run than it can: of functions that declare nothing and use
    /// processors, as many as the node has cores. Fewer would leave all of the
    /// machine to whoever else crowds it.
    fn let_in(&self, function: &Function) -> u32 {
        match self.crowded && function.learned {
            true => self.cores().saturating_sub(self.learned_running),
            false => u32::MAX,
        }
    }

    /// Cores that the node gives to functions, a part of one counted whole.
    pub(super) fn cores(&self) -> u32 {
        self.ledger.capacity().cpu.as_millicores().div_ceil(1000)
    }

    /// Whether every instance that the function may have is there, and none has
    /// a place that is free, or will be and nobody waits for.
    pub fn is_full(&self, key: FunctionKey) -> bool {
        let function = self.functions.get(key.0);
        function.is_some_and(|function| {
            function.available.is_empty()
                && function.live() >= function.profile.max_instances
                && !self.covers(key, function.waiting.saturating_add(1))
        })
    }

    /// Whether an instance and a call on it would fit.
    pub fn has_room_to_start(&self, key: FunctionKey) -> bool {
        self.functions.get(key.0).is_some_and(|function| {
            (function.profile.instance + function.profile.call).fits(self.ledger.free())
                && self.let_in(function) > 0
        })
    }

    /// How the oldest waiting call of a function stands; settled when it was removed.
    pub(crate) fn standing(&self, key: FunctionKey) -> Standing {
        let Some(function) = self.functions.get(key.0) else {
            return Standing::Settled;
        };
        if !function.available.is_empty() {
            let room = function.profile.call.fits(self.ledger.free()) && self.let_in(function) > 0;
            return match room {
                true => Standing::Runs,
                false => Standing::Short,
            };
        }
        match function.covers(function.waiting) || !function.may_start() {
            true => Standing::Settled,
            false => Standing::Lacks {
                served: function.live() > 0,
            },
        }
    }

    /// For how many more calls of a function there is room, now and at most;
    /// `None` when it was removed. What waits is not taken off.
    pub fn places(&self, key: FunctionKey) -> Option<Places> {
        let function = self.functions.get(key.0)?;
        let Profile {
            instance,
            call,
            calls_per_instance: each,
            max_instances,
            ..
        } = function.profile;
        let free = self.ledger.free();
        let open = function.available.iter().filter_map(|id| {
            let instance = self.instances.get(id.key())?;
            Some(each.saturating_sub(instance.running))
        });
        let open = open.fold(0_u32, u32::saturating_add);
        let let_in = self.let_in(function);
        let warm = open.min(call.times_in(free)).min(let_in);
        let left = free
            .checked_sub(call.times(warm))
            .unwrap_or(Resources::ZERO);
        let new = max_instances.saturating_sub(function.live());
        Some(Places {
            warm,
            startable: calls_in(left, instance, call, each, new).min(let_in - warm),
            most: calls_in(self.ledger.capacity(), instance, call, each, max_instances),
        })
    }

    /// Whether the instances being started have places for `calls` calls.
    pub fn covers(&self, key: FunctionKey, calls: u32) -> bool {
        let function = self.functions.get(key.0);
        function.is_some_and(|function| function.covers(calls))
    }

    /// Whether the function has fewer instances than its maximum.
    pub fn may_start(&self, key: FunctionKey) -> bool {
        let function = self.functions.get(key.0);
        function.is_some_and(Function::may_start)
    }
}

/// Calls that fit into `room` on at most `instances` instances of `each` calls.
fn calls_in(
    room: Resources,
    instance: Resources,
    call: Resources,
    each: u32,
    instances: u32,
) -> u32 {
    let full = instance + call.times(each);
    let whole = match full.fits(room) {
        true => full.times_in(room).min(instances),
        false => 0,
    };
    let rest = room
        .checked_sub(full.times(whole))
        .and_then(|rest| rest.checked_sub(instance));
    let more = match rest {
        Some(rest) if whole < instances => call.times_in(rest).min(each),
        Some(_) | None => 0,
    };
    whole.saturating_mul(each).saturating_add(more)
}
