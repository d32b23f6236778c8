//! The words of a call's life that core and shell share.

use std::time::Duration;

/// Whether a call found warm code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Start {
    /// It ran on an instance that was ready.
    Warm,
    /// It waited for a start.
    Cold,
}

impl Start {
    /// `warm` or `cold`, as headers and metrics have it.
    pub fn as_str(self) -> &'static str {
        match self {
            Start::Warm => "warm",
            Start::Cold => "cold",
        }
    }
}

/// Where the time of a call went.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Timing {
    /// Waiting for code that another node had; zero when it was here.
    pub fetched: Duration,
    /// From arrival, or from then, until a place was free.
    pub queued: Duration,
    /// Waiting for an instance to start; zero when warm.
    pub started: Duration,
    /// From the hand-over to the code until its answer began.
    pub ran: Duration,
}

/// A resource or bound that was exhausted, as metrics and bodies name it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Refusal {
    /// The queue of the class is full.
    QueueFull,
    /// The node runs or holds as many calls as it may.
    TooManyCalls,
    /// It would most likely wait longer than it may.
    Overloaded,
    /// It waited for as long as it may without a free place.
    WaitedTooLong,
    /// The backlog of asynchronous calls is full.
    BacklogFull,
    /// The node is shutting down.
    Draining,
    /// The function is called more often than its label allows.
    RateLimit,
    /// There is no room here, and nobody else is asked.
    NoRoom,
    /// Neither this node nor any that may be asked has room.
    NobodyHasRoom,
    /// As many calls as may be open wait for the rest of their bodies.
    TooManyOpen,
}

impl Refusal {
    /// The word for metrics and `X-Weir-Error`.
    pub fn as_str(self) -> &'static str {
        match self {
            Refusal::QueueFull => "queue-full",
            Refusal::TooManyCalls => "too-many-calls",
            Refusal::Overloaded => "overloaded",
            Refusal::WaitedTooLong => "waited-too-long",
            Refusal::BacklogFull => "backlog-full",
            Refusal::Draining => "draining",
            Refusal::RateLimit => "rate-limit",
            Refusal::NoRoom => "no-room",
            Refusal::NobodyHasRoom => "no-room-anywhere",
            Refusal::TooManyOpen => "too-many-open",
        }
    }
}

/// A part of a call's life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Phase {
    /// Waiting for a free place.
    Queue,
    /// Waiting for an instance to start.
    Start,
    /// In the code.
    Run,
}
