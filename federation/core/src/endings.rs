//! How a call ended where it was placed, and what that says of the place.

use weir_node_core::words::Phase;

use crate::policy::Ending;

/// How a call ended where it ran, or was to run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum How {
    /// The function answered; whether it said itself that it failed.
    Answered {
        /// That.
        failed: bool,
    },
    /// The function ran, or was to run, and broke.
    Broke,
    /// The place lacks what the function needs.
    CannotRun,
    /// It did not end in time, in this phase.
    Late(Phase),
    /// It was not taken there.
    NotTaken,
    /// Who had it is lost.
    Lost,
    /// Its caller is to blame.
    Caller,
}

impl How {
    /// Whether that counts against the place, for this function.
    pub fn is_failure(self) -> bool {
        match self {
            How::Answered { failed } => failed,
            How::Broke | How::CannotRun | How::Late(Phase::Run | Phase::Start) => true,
            How::Late(Phase::Queue) | How::NotTaken | How::Lost | How::Caller => false,
        }
    }

    /// Whether it waited for a place in the queue in vain.
    pub fn is_waited_in_vain(self) -> bool {
        matches!(self, How::Late(Phase::Queue) | How::NotTaken)
    }

    /// What policies learn of it; `None` for what is its caller's doing.
    pub fn ending(self) -> Option<Ending> {
        match self {
            How::Answered { failed: false } => Some(Ending::Answered),
            How::Answered { failed: true } | How::Broke => Some(Ending::Failed),
            How::CannotRun | How::NotTaken => Some(Ending::Refused),
            How::Late(_) => Some(Ending::Late),
            How::Lost => Some(Ending::Lost),
            How::Caller => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_counts_against_a_place_and_what_policies_learn() {
        let cases = [
            (
                How::Answered { failed: false },
                false,
                Some(Ending::Answered),
            ),
            (How::Answered { failed: true }, true, Some(Ending::Failed)),
            (How::Broke, true, Some(Ending::Failed)),
            (How::CannotRun, true, Some(Ending::Refused)),
            (How::Late(Phase::Start), true, Some(Ending::Late)),
            (How::Late(Phase::Run), true, Some(Ending::Late)),
            (How::Late(Phase::Queue), false, Some(Ending::Late)),
            (How::NotTaken, false, Some(Ending::Refused)),
            (How::Lost, false, Some(Ending::Lost)),
            (How::Caller, false, None),
        ];
        for (how, against, ending) in cases {
            assert_eq!(how.is_failure(), against, "{how:?}");
            assert_eq!(how.ending(), ending, "{how:?}");
        }
    }
}
