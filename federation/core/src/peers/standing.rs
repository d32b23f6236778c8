//! What calls and silence make of one peer: whether calls are sent to it, and
//! how many it may hold.

use std::time::Duration;

use weir_node_core::time::Time;

use crate::snapshot::{FIRST_ALLOWANCE, Word};

/// A suspicion that its peer does not refute for so long is a death.
pub const REFUTE_WITHIN: Duration = Duration::from_millis(1_500);

/// A peer that says nothing for so long is no candidate: several of the
/// slowest reports were lost.
pub const SILENT_AFTER: Duration = Duration::from_secs(75);

/// A peer that refused a call for which it claims to have room is taken to be
/// full for so long, and twice as long each time that it does so again.
pub(super) const FULL_FOR: Duration = Duration::from_millis(250);

/// The dead, and those who left, are remembered so long, so that an old report
/// that still travels does not raise them.
pub(super) const REMEMBERED: Duration = Duration::from_secs(600);

/// First pause before a peer that failed a call is tried again; doubles.
pub(super) const FIRST_PROBE: Duration = Duration::from_millis(500);

/// Longest such pause.
pub(super) const LONGEST_PROBE: Duration = Duration::from_secs(30);

/// Strikes that count: the pause after so many is [`LONGEST_PROBE`].
pub(super) const MOST_STRIKES: u8 = 7;

/// Calls in a row that go well and take a strike back.
pub(super) const FORGIVEN_AFTER: u8 = 16;

/// Calls that any peer may hold of ours.
pub(super) const MOST_ALLOWANCE: u32 = 4_096;

/// Whether calls are sent to a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// They are.
    In,
    /// Someone says that it is dead, and it has not answered that yet.
    Suspected {
        /// Since when.
        since: Time,
    },
    /// A call to it failed; it is tried again at `probe_at`.
    Out {
        /// Failures in a row.
        failures: u32,
        /// When one call may try.
        probe_at: Time,
    },
    /// It is dead, or left.
    Gone {
        /// Since when.
        since: Time,
        /// Whether it said so itself.
        left: bool,
    },
}

impl Standing {
    /// The word for listings and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Standing::In => "in",
            Standing::Suspected { .. } => "suspected",
            Standing::Out { .. } => "out",
            Standing::Gone { left: true, .. } => "left",
            Standing::Gone { left: false, .. } => "dead",
        }
    }
}

/// How a call that was sent to a peer went, as far as the peer is concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Met {
    /// It answered, and said how loaded it is.
    Answer(Option<Word>),
    /// It had no room for a call, and did not read its body.
    Full {
        /// What it said of itself.
        word: Option<Word>,
        /// Whether it claims to have room for such a call all the same.
        claims: bool,
    },
    /// It spoke of itself without a call: it answered a question, or refused a
    /// call for the function's sake.
    Told(Option<Word>),
    /// It answered a question that was asked to find out whether it does.
    Reached(Option<Word>),
    /// It failed the call.
    Failure(Fault),
}

/// What a peer failed in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// It could not be reached.
    Unreachable,
    /// A call broke off.
    Lost,
    /// It took a call, and said nothing until long after its deadline.
    Mute,
    /// It answered, and not as members do.
    Malformed,
    /// What it gave for an artifact was something else.
    WrongBytes,
    /// It said, or passed on, what no honest member says.
    Lies,
}

impl Fault {
    /// What it did, for listings.
    pub fn as_str(self) -> &'static str {
        match self {
            Fault::Unreachable => "cannot be reached",
            Fault::Lost => "broke calls off",
            Fault::Mute => "took calls and never answered",
            Fault::Malformed => "answered as no member does",
            Fault::WrongBytes => "gave wrong bytes for code",
            Fault::Lies => "said what no honest member says",
        }
    }

    /// Whether it is over once the peer answers at all.
    fn is_absence(self) -> bool {
        matches!(self, Fault::Unreachable | Fault::Lost)
    }

    /// Strikes that it counts. A machine may break down and come back as good
    /// as before; the rest is not forgotten at the next call that goes well.
    fn strikes(self) -> u8 {
        match self {
            Fault::Unreachable | Fault::Lost => 0,
            Fault::Mute | Fault::Malformed => 1,
            Fault::WrongBytes => 2,
            Fault::Lies => MOST_STRIKES,
        }
    }
}

/// What is made of a peer, beside what decisions see of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Peer {
    pub(super) standing: Standing,
    pub(super) silent: bool,
    pub(super) allowance: u32,
    /// Refusals in a row though it claimed room.
    pub(super) refusals: u8,
    /// What it failed in last, until that is forgiven.
    pub(super) fault: Option<Fault>,
    pub(super) strikes: u8,
    /// Calls that went well since the last strike came or went.
    pub(super) good: u8,
    /// Until when it is taken to be full after a refusal.
    pub(super) full_until: Option<Time>,
    /// Until when it may still answer the question whether it is back.
    pub(super) asked_until: Time,
}

/// One that was heard, and nothing else.
pub(super) const USUAL: Peer = Peer {
    standing: Standing::In,
    silent: false,
    allowance: FIRST_ALLOWANCE,
    refusals: 0,
    fault: None,
    strikes: 0,
    good: 0,
    full_until: None,
    asked_until: Time::ZERO,
};

impl Peer {
    /// When time alone changes something about it, which was heard at `heard`.
    pub(super) fn due(&self, heard: Time) -> Time {
        let over = match self.standing {
            Standing::Gone { since, .. } => since + REMEMBERED,
            Standing::Suspected { since } => since + REFUTE_WITHIN,
            Standing::In | Standing::Out { .. } => heard + REMEMBERED,
        };
        let gone = matches!(self.standing, Standing::Gone { .. });
        let silent = match gone || self.silent {
            true => Time::NEVER,
            false => heard + SILENT_AFTER,
        };
        let full = self.full_until.unwrap_or(Time::NEVER);
        over.min(silent).min(full)
    }

    /// Whether it is to be forgotten.
    pub(super) fn is_over(&self, heard: Time, now: Time) -> bool {
        match self.standing {
            Standing::Gone { since, .. } => now.since(since) >= REMEMBERED,
            Standing::In | Standing::Suspected { .. } | Standing::Out { .. } => {
                now.since(heard) >= REMEMBERED
            }
        }
    }

    /// Takes what a call met: the word that it heard with that, and whether the
    /// peer is taken to be full.
    pub(super) fn meet(&mut self, met: Met, now: Time) -> (Option<Word>, bool) {
        match met {
            Met::Told(word) => (self.learn(word), false),
            Met::Reached(word) => {
                if self.is_absent() {
                    self.standing = Standing::In;
                    self.forgive();
                }
                (self.learn(word), false)
            }
            Met::Answer(word) => {
                self.allowance = self.allowance.saturating_mul(2).min(MOST_ALLOWANCE);
                self.refusals = 0;
                self.forgive();
                if matches!(self.standing, Standing::Out { .. }) {
                    self.standing = Standing::In;
                }
                (self.learn(word), false)
            }
            Met::Full { word, claims } => {
                let word = self.learn(word);
                if claims {
                    self.refusals = self.refusals.saturating_add(1);
                    let pause = FULL_FOR.saturating_mul(1 << self.refusals.min(4));
                    self.full_until = Some(now + pause);
                }
                (word, claims)
            }
            Met::Failure(fault) => {
                self.fail(fault, now);
                (None, false)
            }
        }
    }

    pub(super) fn fail(&mut self, fault: Fault, now: Time) {
        self.fault = Some(fault);
        // Calls that it already had say nothing new, save of a liar.
        let out = matches!(self.standing, Standing::Out { probe_at, .. } if now < probe_at);
        if out && fault != Fault::Lies {
            return;
        }
        self.strikes = self
            .strikes
            .saturating_add(fault.strikes())
            .min(MOST_STRIKES);
        self.good = 0;
        let failures = match self.standing {
            Standing::Out { failures, .. } => failures.saturating_add(1),
            Standing::In | Standing::Suspected { .. } | Standing::Gone { .. } => 1,
        };
        self.allowance = FIRST_ALLOWANCE;
        if matches!(self.standing, Standing::In | Standing::Out { .. }) {
            let count = failures
                .max(u32::from(self.strikes))
                .min(u32::from(MOST_STRIKES));
            let pause = FIRST_PROBE.saturating_mul(1 << count.saturating_sub(1));
            self.standing = Standing::Out {
                failures,
                probe_at: now + pause.min(LONGEST_PROBE),
            };
        }
    }

    /// Whether it is out because it was away, and for nothing that it did.
    pub(super) fn is_absent(&self) -> bool {
        let out = matches!(self.standing, Standing::Out { .. });
        out && self.strikes == 0 && self.fault.is_some_and(Fault::is_absence)
    }

    /// Something says that it is back; whether that changes anything.
    pub(super) fn hurry(&mut self, now: Time) -> bool {
        if self.is_absent()
            && let Standing::Out { probe_at, .. } = &mut self.standing
        {
            *probe_at = now;
            return true;
        }
        false
    }

    /// A call went well.
    pub(super) fn forgive(&mut self) {
        if self.strikes == 0 {
            self.fault = None;
            return;
        }
        self.good += 1;
        if self.good >= FORGIVEN_AFTER {
            (self.good, self.strikes) = (0, self.strikes - 1);
        }
    }

    pub(super) fn learn(&mut self, word: Option<Word>) -> Option<Word> {
        if word.is_some() {
            self.full_until = None;
        }
        word
    }
}
