//! When a link on which heartbeats are sent is taken to be silent.

use std::time::Duration;

use weir_node_core::time::Time;

/// How often a link is heard.
pub const HEARTBEAT_INTERVAL: Duration = Duration::from_millis(500);

/// Silence that means something: two heartbeats were lost, and half of another.
pub const SILENT_AFTER: Duration = Duration::from_millis(1_250);

/// Time between two looks at a link on which a heartbeat is waited for.
pub const LOOK_INTERVAL: Duration = Duration::from_millis(100);

/// One wait for a heartbeat.
///
/// A node whose own timers fire late cannot tell whether its peer is late: what
/// its looks were late by is granted to the peer.
#[derive(Debug)]
pub struct Wait {
    since: Time,
    looked: Time,
    late: Duration,
}

impl Wait {
    /// It begins at `now`.
    pub fn new(now: Time) -> Wait {
        Wait {
            since: now,
            looked: now,
            late: Duration::ZERO,
        }
    }

    /// Whether the other side is silent at `now`; meant to be asked every
    /// [`LOOK_INTERVAL`]. `heard` is whether anything else was heard of it since
    /// the last look: who sends calls, or answers them, is not silent.
    pub fn is_over(&mut self, now: Time, heard: bool) -> bool {
        let passed = now.since(self.looked);
        self.looked = now;
        if heard {
            (self.since, self.late) = (now, Duration::ZERO);
            return false;
        }
        let late = passed.saturating_sub(LOOK_INTERVAL);
        self.late = self.late.saturating_add(late);
        now.since(self.since) >= SILENT_AFTER.saturating_add(self.late)
    }
}
