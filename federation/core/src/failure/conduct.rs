//! What a link may bring in a second, and after how many lies it is cut.

use std::time::Duration;

use weir_node_core::time::Time;

/// Messages that a link may bring in a second; more are not looked at.
pub const MESSAGES_PER_SECOND_MAX: u32 = 2_000;

/// Bytes of messages that a link may bring in a second: those of the last
/// seconds are kept to be passed on.
pub const BYTES_PER_SECOND_MAX: usize = 4 << 20;

/// Messages that no honest member says, after which a link is cut.
pub const LIES_MAX: u32 = 16;

/// How a link behaves.
#[derive(Debug)]
pub struct Conduct {
    since: Time,
    messages: u32,
    bytes: usize,
    lies: u32,
}

impl Conduct {
    /// Of a link that brings its first message at `now`.
    pub fn new(now: Time) -> Conduct {
        Conduct {
            since: now,
            messages: 0,
            bytes: 0,
            lies: 0,
        }
    }

    /// Whether a message of so many bytes is looked at.
    pub fn may_bring(&mut self, bytes: usize, now: Time) -> bool {
        if now.since(self.since) >= Duration::from_secs(1) {
            (self.since, self.messages, self.bytes) = (now, 0, 0);
        }
        self.messages = self.messages.saturating_add(1);
        self.bytes = self.bytes.saturating_add(bytes);
        self.messages <= MESSAGES_PER_SECOND_MAX && self.bytes <= BYTES_PER_SECOND_MAX
    }

    /// Takes note of a message that no honest member says; whether the link is to
    /// be cut.
    pub fn lied(&mut self) -> bool {
        self.lies = self.lies.saturating_add(1);
        self.lies >= LIES_MAX
    }
}
