//! What a call is told that has no answer.

use std::time::Duration;

use crate::clock;
use crate::estimate::retry_after;
use crate::executor::CallError;
use crate::id::FunctionName;
use crate::invocation::{InvokeError, Phase, Refusal, Timing};
use crate::node::FunctionState;
use crate::node::functions::Function;
use crate::node::instances::Fault;
use crate::scheduler::GaveUp;
use crate::time::Time;

/// What a call is told that waits no longer.
pub(super) fn gave_up(function: &Function, why: GaveUp) -> InvokeError {
    match why {
        GaveUp::Late { phase, after } => InvokeError::Late { phase, after },
        GaveUp::WaitedTooLong { expected } => refused(Refusal::WaitedTooLong, expected),
        GaveUp::NotStarted => {
            let version = function.current.load();
            InvokeError::CannotRun {
                function: version.spec.name.clone(),
                reason: match version.state() {
                    FunctionState::Failed(reason) => reason,
                    _ => "its code is still being made ready; try again".to_owned(),
                },
            }
        }
    }
}

/// What a call is told whose function does not start.
pub(super) fn cannot_start(function: &Function, reason: String, fault: Fault) -> InvokeError {
    InvokeError::CannotRun {
        function: function.current.load().spec.name.clone(),
        reason: match fault {
            Fault::Code => format!("{reason} (deploy it again)"),
            Fault::Instance | Fault::Node => reason,
        },
    }
}

/// Where the time of a call went before it was granted a place.
pub(super) fn waited(arrived: Time, for_start_since: Option<Time>, granted: Time) -> Timing {
    let since_start = for_start_since.unwrap_or(granted);
    Timing {
        fetched: Duration::ZERO,
        queued: since_start.since(arrived),
        started: granted.since(since_start),
        ran: Duration::ZERO,
    }
}

/// What its caller is told of a call that has no answer after `had`.
pub(super) fn invoke_error(
    (error, had): (CallError, Duration),
    function: FunctionName,
) -> InvokeError {
    match error {
        CallError::TimedOut => InvokeError::Late {
            phase: Phase::Run,
            after: had,
        },
        CallError::Failed(reason) | CallError::Lost(reason) => InvokeError::Failed(reason),
        CallError::Body(error) => InvokeError::Body(error),
        CallError::Unfit(reason) => InvokeError::Unfit(reason),
        CallError::NotStarted { reason, .. } => InvokeError::CannotRun { function, reason },
    }
}

/// A refusal, and when to come again: after what was expected to wait for,
/// which is zero when nobody knows.
pub(in crate::node) fn refused(reason: Refusal, expected: Duration) -> InvokeError {
    InvokeError::Refused {
        reason,
        retry_after: retry_after(expected, clock::chance()),
    }
}
