//! Code on its way here: who is asked for its parts and in which order, who is
//! left out, and how fast.

use std::fmt;
use std::ops::Range;
use std::time::Duration;

use libp2p_identity::PeerId;
use weir_node_core::time::Time;

#[cfg(test)]
mod tests;

/// Members that are asked for one part before the fetch is given up.
pub const HOLDERS_MAX: usize = 6;

/// How long members that are busy are asked again, and between which bounds the
/// pause before that is drawn.
pub const BUSY_FOR: Duration = Duration::from_secs(30);
const BUSY_PAUSE_MIN: Duration = Duration::from_millis(50);
const BUSY_PAUSE_MAX: Duration = Duration::from_millis(100);

/// How long one part may take to come.
pub const PART_TIMEOUT: Duration = Duration::from_secs(30);

/// How long layers would take to come before the engine is asked for them, and
/// how long that may take.
const LOOK_WORTH: Duration = Duration::from_secs(3);
const LOOK_TIMEOUT: Duration = Duration::from_secs(60);

/// A member that may have code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Holder {
    /// Who.
    pub id: PeerId,
    /// Whether it wrote the record, or keeps the code for others; one that only
    /// has a function of that name may have another version.
    pub keeps: bool,
    /// How far it is: the round trip, measured or expected.
    pub away: Duration,
}

/// Whom to ask for code: the [`HOLDERS_MAX`] most likely to have it, the
/// nearest first.
pub fn in_order(mut holders: Vec<Holder>) -> Vec<PeerId> {
    holders.sort_unstable_by_key(|holder| (!holder.keeps, holder.away, holder.id));
    holders.truncate(HOLDERS_MAX);
    holders.sort_unstable_by_key(|holder| (holder.away, holder.id));
    holders.into_iter().map(|holder| holder.id).collect()
}

/// What a member gave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Gave {
    /// Something else than the record says; what is said of it.
    Wrong(&'static str),
    /// Nothing: it does not have it, or not for this node.
    Absent,
    /// Nothing: it serves as many as it may.
    Busy,
    /// Nothing for [`PART_TIMEOUT`].
    Late,
    /// Nothing, and why.
    Failed(String),
}

/// What to do next for a part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Ask this one.
    Ask(PeerId),
    /// Wait, and look again: all that are left are busy.
    Pause(Duration),
    /// Nobody gives it: see [`Part::reasons`].
    GiveUp,
}

/// One part of code that is asked for: one member after the other, from the one
/// whose turn it is, and those that are busy again.
#[derive(Debug)]
pub struct Part {
    left: Vec<PeerId>,
    busy: Vec<PeerId>,
    until: Option<Time>,
    reasons: Vec<(PeerId, String)>,
}

impl Part {
    /// The part `turn` of code that `holders` may have.
    pub fn new(holders: &[PeerId], turn: usize) -> Part {
        let mut left = holders.to_vec();
        let first = turn % left.len().max(1);
        left.rotate_left(first);
        left.reverse();
        Part {
            left,
            busy: Vec::new(),
            until: None,
            reasons: Vec::new(),
        }
    }

    /// What to do now; `chance` is drawn anew each time.
    pub fn next(&mut self, now: Time, chance: u64) -> Step {
        if let Some(holder) = self.left.pop() {
            return Step::Ask(holder);
        }
        let until = *self.until.get_or_insert(now + BUSY_FOR);
        if self.busy.is_empty() || now >= until {
            let busy = std::mem::take(&mut self.busy).into_iter();
            self.reasons
                .extend(busy.map(|holder| (holder, "it is busy".to_owned())));
            return Step::GiveUp;
        }
        self.left = std::mem::take(&mut self.busy);
        self.left.reverse();
        let range = BUSY_PAUSE_MAX.saturating_sub(BUSY_PAUSE_MIN).as_nanos();
        let nanos = u128::from(chance) % range.max(1);
        let more = Duration::from_nanos(u64::try_from(nanos).unwrap_or(0));
        Step::Pause(BUSY_PAUSE_MIN.saturating_add(more))
    }

    /// One gave nothing good. Who does not have it or gives what is wrong is left
    /// out of `holders` from then on, and so is one who lets this node wait, if
    /// there are others.
    pub fn came(&mut self, from: PeerId, gave: Gave, holders: &mut Vec<PeerId>) {
        let (reason, stays) = match gave {
            Gave::Busy => {
                self.busy.push(from);
                return;
            }
            Gave::Wrong(reason) => (reason.to_owned(), false),
            Gave::Absent => ("it is not there".to_owned(), false),
            Gave::Failed(reason) => (reason, true),
            Gave::Late => {
                let reason = format!("nothing came within {PART_TIMEOUT:?}");
                (reason, holders.len() == 1)
            }
        };
        self.reasons.push((from, reason));
        if !stays {
            holders.retain(|other| *other != from);
        }
    }

    /// Why nobody gave it.
    pub fn reasons(&self) -> impl fmt::Display {
        let reasons = self.reasons.iter();
        let reasons: Vec<String> = reasons.map(|(who, why)| format!("{who}: {why}")).collect();
        match reasons.is_empty() {
            true => "no member that has it can be reached".to_owned(),
            false => reasons.join("; "),
        }
    }
}

/// How fast code comes, and how fast it may.
#[derive(Debug, Clone, Copy, Default)]
pub struct Pace {
    bytes: u64,
    took: Duration,
}

impl Pace {
    /// So many bytes came, which took so long.
    pub fn came(&mut self, bytes: u64, took: Duration) {
        self.bytes = self.bytes.saturating_add(bytes);
        self.took = self.took.saturating_add(took);
    }

    /// How long the layers behind `reached` would take to come at this pace, if
    /// that is so long that the engine is to be asked for them; it may take no
    /// longer itself.
    pub fn look_for(&self, sought: &[Range<u64>], reached: u64) -> Option<Duration> {
        let ahead = sought.iter();
        let ahead = ahead.map(|layer| layer.end.saturating_sub(layer.start.max(reached)));
        let ahead = ahead.fold(0_u64, u64::saturating_add);
        let takes = match self.bytes {
            0 => Duration::ZERO,
            bytes => {
                let seconds = self.took.as_secs_f64() * (ahead as f64 / bytes as f64);
                Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX)
            }
        };
        (takes >= LOOK_WORTH).then(|| takes.min(LOOK_TIMEOUT))
    }
}

/// Spaces what is fetched by a rate.
#[derive(Debug, Clone, Copy, Default)]
pub struct Spacing {
    next: Time,
}

impl Spacing {
    /// When `bytes` more may be fetched, at `rate` bytes a second.
    pub fn take(&mut self, bytes: u64, rate: u64, now: Time) -> Time {
        let at = now.max(self.next);
        let seconds = bytes as f64 / rate.max(1) as f64;
        let takes = Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX);
        self.next = at + takes;
        at
    }
}
