//! What is learned of a function: how long its calls run and its starts take, and
//! how often it was called just now.

use std::sync::Arc;
use std::time::Duration;

use crate::admission::FunctionKey;
use crate::estimate::{Estimate, Known, Samples};
use crate::rate::Rate;

/// How the code of a call ended, as far as it teaches something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ran {
    /// It began to answer after that.
    Answered(Duration),
    /// It ran out of time after that.
    TimedOut(Duration),
    /// It failed, however quickly.
    Failed,
}

/// What is known of a function beside what admission counts.
#[derive(Debug)]
pub(super) struct Function {
    pub(super) key: FunctionKey,
    /// Calls of the last second, where there is a bound.
    pub(super) rate: Rate,
    /// From the first one on.
    samples: Option<Box<Samples>>,
    pub(super) service: Estimate,
    pub(super) known: Arc<Known>,
}

impl Function {
    pub(super) fn new(key: FunctionKey) -> Self {
        Function {
            key,
            rate: Rate::default(),
            samples: None,
            service: Estimate::default(),
            known: Arc::default(),
        }
    }

    pub(super) fn learn(&mut self, ran: Ran, started: Option<Duration>) {
        if let Some(started) = started {
            self.known.learn_start(started);
        }
        match ran {
            Ran::Answered(took) => self.samples.get_or_insert_default().learn(took),
            Ran::TimedOut(took) => self.samples.get_or_insert_default().learn_at_least(took),
            Ran::Failed => return,
        }
        self.note_service();
    }

    /// Forgets how long calls ran: they do not run as they did.
    pub(super) fn forget_service(&mut self) {
        self.samples = None;
        self.note_service();
    }

    fn note_service(&mut self) {
        let samples = self.samples.as_ref();
        self.service = samples
            .map(|samples| samples.estimate())
            .unwrap_or_default();
        self.known.set_service(&self.service);
    }
}
