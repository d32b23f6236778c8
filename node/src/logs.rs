//! The last log lines of each function.

/// placeholder: being written
pub struct FunctionLog;
