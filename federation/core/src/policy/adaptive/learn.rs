//! What `adaptive` learns from the end of an attempt.

use super::{
    Adaptive, BULK_BYTES, FADED, FAILURE_SHARE, REFUSAL_SHARE, Row, USUAL_SHARE, at, faded, in_ms,
    seconds,
};
use crate::policy::{Ending, Outcome, Which};

/// Where the time of an attempt went, in milliseconds.
struct Times {
    took: f64,
    ran: f64,
    /// Fetching, waiting and starting.
    beside: f64,
    way: f64,
}

impl Times {
    fn of(outcome: &Outcome<'_>) -> Times {
        let took = in_ms(outcome.took());
        let timing = outcome.timing;
        let there = [timing.fetched, timing.queued, timing.started];
        let there: f64 = there.into_iter().map(in_ms).sum();
        // What whoever ran it says is a part of what it took, whatever it says.
        let ran = in_ms(timing.ran).min(took);
        let beside = there.min(took - ran);
        Times {
            took,
            ran,
            beside,
            way: took - ran - beside,
        }
    }
}

impl Adaptive {
    pub(super) fn learn(&self, outcome: &Outcome<'_>) {
        let times = Times::of(outcome);
        let which = Which::of(outcome.function);
        let row = self
            .known
            .entry(which.at(outcome.to.as_ref()), outcome.ended);
        let now = seconds(outcome.ended);
        let seen = row[at::SEEN].get().unwrap_or(now);
        row[at::SEEN].set(now);
        let silence = (now - seen).max(0.0);
        let share = self.share.max(1.0 - faded(silence / self.forget));
        let fade = match faded(silence / self.recover) {
            over if over < FADED => 0.0,
            fade => fade,
        };
        let note = |cell: usize, sample: f64, share: f64| {
            row[cell].change(|old| {
                let old = old.unwrap_or_default() * fade;
                old + (sample - old) * share
            });
        };
        match outcome.ending {
            Ending::Answered => {
                self.learn_usual(outcome, &times);
                self.learn_times(outcome, row, &times, share);
                note(at::FAILED, 0.0, FAILURE_SHARE);
                note(at::REFUSED, 0.0, REFUSAL_SHARE);
            }
            // What fails at once says nothing of how soon it would be done.
            Ending::Failed => {
                let usual = self.known.entry(which, outcome.ended);
                let failed = |old: Option<f64>| {
                    let old = old.unwrap_or_default();
                    old + (1.0 - old) * USUAL_SHARE
                };
                usual[at::FAILED].change(failed);
                note(at::FAILED, 1.0, FAILURE_SHARE);
            }
            Ending::Refused => note(at::REFUSED, 1.0, REFUSAL_SHARE),
            Ending::Lost => note(at::FAILED, 1.0, FAILURE_SHARE),
            Ending::Late => {
                note(at::FAILED, 1.0, FAILURE_SHARE);
                // It would have taken longer still.
                let known = row[at::SERVICE].get();
                if known.is_none_or(|service| service < times.took) {
                    row[at::SERVICE].blend(times.took, share);
                }
            }
        }
    }

    /// What is usual of the function, wherever it ran.
    fn learn_usual(&self, outcome: &Outcome<'_>, times: &Times) {
        let usual = self.known.entry(Which::of(outcome.function), outcome.ended);
        usual[at::SERVICE].blend(times.ran, self.share);
        usual[at::WAY].blend(times.took, self.share);
        usual[at::FAILED].blend(0.0, USUAL_SHARE);
        usual[at::BYTES].blend(outcome.answer_bytes as f64, self.share);
    }

    fn learn_times(&self, outcome: &Outcome<'_>, row: &Row, times: &Times, share: f64) {
        let known = row[at::SERVICE].get().map(|service| {
            let rest = [at::BESIDE, at::WAY].map(|cell| row[cell].get());
            service + rest.into_iter().flatten().sum::<f64>()
        });
        let error = known.map_or(times.took / 2.0, |known| times.took - known);
        row[at::VARIANCE].blend(error * error, share);
        row[at::SERVICE].blend(times.ran, share);
        row[at::BESIDE].blend(times.beside, share);
        self.learn_way(outcome, row, times.way, share);
    }

    fn learn_way(&self, outcome: &Outcome<'_>, row: &Row, way: f64, share: f64) {
        let Some(peer) = &outcome.to else { return };
        let bytes = outcome.sent_bytes.saturating_add(outcome.answer_bytes);
        if bytes < BULK_BYTES {
            row[at::WAY].blend(way, share);
            return;
        }
        let beyond = (way - row[at::WAY].get().unwrap_or_default()).max(0.0);
        let of_peer = self.known.entry(Which::NODE.at(Some(peer)), outcome.ended);
        of_peer[at::BYTES].blend(beyond * 1e6 / bytes as f64, self.share);
    }
}
