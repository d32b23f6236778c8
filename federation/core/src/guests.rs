//! What a node gives to calls of other nodes' users.
//!
//! Own users first: no guest starts while an own call lacks what it would
//! take. Short guests may have all that is free, since what they take is soon
//! free again; those that run long stay within a share of the node.
//!
//! What own calls held at most in the last ten seconds is not kept free for them:
//! by chance they hold all of a small node for a moment in any ten seconds, and
//! nobody could spill to it (measured in the simulator: see the scenario
//! `a_quarter_that_is_overloaded_spills_to_the_rest` of the emulator's tests).

/// A node's processors, in thousandths of a core.
#[derive(Debug, Clone, Copy, Default)]
pub struct Processors {
    /// All of them.
    pub total: u32,
    /// Those that no call holds.
    pub free: u32,
    /// Those that guests hold, or are about to.
    pub guests: u32,
    /// Those that guests hold which run long.
    pub guests_long: u32,
    /// Those that are promised to others.
    pub promised: u32,
}

/// Processors for one more guest that runs shortly, and for one that runs long,
/// where long ones may have `share` of the node (in `0.0..=1.0`).
pub fn room(processors: Processors, share: f64) -> [u32; 2] {
    let Processors {
        total,
        free,
        guests,
        guests_long,
        promised,
    } = processors;
    let left = free.min(total.saturating_sub(guests));
    let short = left.saturating_sub(promised);
    // A share of a few cores is not rounded to none.
    let share = (f64::from(total) * share / 1_000.0).ceil() * 1_000.0;
    let long = (share as u32).saturating_sub(guests_long);
    [short, short.min(long)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_guests_may_have_all_that_is_free_and_not_promised() {
        let eight = Processors {
            total: 8_000,
            free: 7_000,
            ..Processors::default()
        };
        assert_eq!(room(eight, 0.25), [7_000, 2_000]);
        let some = Processors {
            free: 4_000,
            guests: 3_000,
            guests_long: 1_000,
            promised: 500,
            ..eight
        };
        assert_eq!(room(some, 0.25), [3_500, 1_000]);
    }

    #[test]
    fn a_share_of_one_core_is_that_core() {
        let one = Processors {
            total: 1_000,
            free: 1_000,
            ..Processors::default()
        };
        assert_eq!(room(one, 0.1), [1_000, 1_000]);
        assert_eq!(room(one, 0.0), [1_000, 0]);
    }
}
