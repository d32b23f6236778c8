//! The last log lines of each function.

use tokio::sync::broadcast;

use crate::id::CallId;

/// One line that a function wrote.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogLine {
    /// When.
    pub timestamp: jiff::Timestamp,
    /// In which call.
    pub call: CallId,
    /// What.
    pub text: String,
}

/// placeholder: being written
pub struct FunctionLog;

impl FunctionLog {
    /// Lines kept, oldest first.
    pub fn read(&self, _since: Option<jiff::Timestamp>, _tail: Option<usize>) -> Vec<LogLine> {
        unreachable!()
    }
    /// Lines from now on.
    pub fn follow(&self) -> broadcast::Receiver<LogLine> {
        unreachable!()
    }
}
