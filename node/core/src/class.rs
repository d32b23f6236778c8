//! QoS classes.

use std::time::Duration;

use crate::time::Time;

/// A QoS class: a named promise to callers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClassConfig {
    /// Its name, as `X-Weir-Qos` and `weir.qos` have it.
    pub name: String,
    /// Its weight: when several classes wait, each is served in proportion to
    /// its weight, so the lowest still gets its share. 1 to 1000.
    pub priority: u32,
    /// Longest wait in the queue; `None` for 5 s or twice the mean time that
    /// the function runs, whichever is more.
    pub max_wait: Option<Duration>,
    /// Most calls waiting at once.
    pub queue: usize,
    /// Deadline of a call that is waited for and names none; `None` for the
    /// function's timeout alone.
    pub deadline: Option<Duration>,
    /// The policy that places its calls in a federation; `None` for the
    /// node's.
    pub policy: Option<String>,
}

impl ClassConfig {
    /// The latest useful answer of a call that came at `arrived`: what its caller
    /// named, else what the class says; [`Time::NEVER`] for none. Nobody waits
    /// for what was `accepted` to be run later: it has the deadline that its
    /// caller named, and no other.
    pub fn deadline_of(&self, arrived: Time, named: Option<Time>, accepted: bool) -> Time {
        let by_class = || self.deadline.filter(|_| !accepted).map(|d| arrived + d);
        named.or_else(by_class).unwrap_or(Time::NEVER)
    }
}

impl Default for ClassConfig {
    fn default() -> Self {
        ClassConfig {
            name: "default".to_owned(),
            priority: 10,
            max_wait: None,
            queue: 1000,
            deadline: None,
            policy: None,
        }
    }
}
