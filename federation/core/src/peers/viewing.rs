//! When decisions get a new view of the peers.

use std::time::Duration;

use weir_node_core::time::Time;

/// A view is made at most so often: many reports come together.
pub const VIEW_INTERVAL_MIN: Duration = Duration::from_millis(10);

/// A view is made at least so often: one that is out becomes a candidate again
/// by time alone.
pub const VIEW_INTERVAL_MAX: Duration = Duration::from_millis(250);

/// When the next one is due.
#[derive(Debug, Clone, Copy, Default)]
pub struct Viewing {
    made: Option<Time>,
    is_stale: bool,
}

impl Viewing {
    /// Takes note that the table of peers says something else than the last view.
    pub fn stale(&mut self) {
        self.is_stale = true;
    }

    /// Whether one is to be made at `now`; then it is taken as made.
    pub fn is_due(&mut self, now: Time) -> bool {
        let due = self.made.is_none_or(|made| {
            let age = now.since(made);
            age >= VIEW_INTERVAL_MAX || (self.is_stale && age >= VIEW_INTERVAL_MIN)
        });
        if due {
            (self.made, self.is_stale) = (Some(now), false);
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_view_is_made_soon_after_a_change_and_now_and_then() {
        let at = |milliseconds| Time::ZERO + Duration::from_millis(milliseconds);
        let mut viewing = Viewing::default();
        let cases = [
            ("the first one", 0, false, true),
            ("nothing has changed", 100, false, false),
            ("something has", 101, true, true),
            ("too soon after the last one", 110, true, false),
            ("it is not forgotten", 111, false, true),
            ("nothing has changed for long", 360, false, false),
            ("but time has passed", 361, false, true),
            ("and counts anew", 400, false, false),
        ];
        for (name, now, changes, due) in cases {
            if changes {
                viewing.stale();
            }
            assert_eq!(viewing.is_due(at(now)), due, "{name}");
        }
    }
}
