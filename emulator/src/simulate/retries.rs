//! Users who call again, for their calls were not answered.

use super::calls::{Call, CallId, Ended};
use super::engine::Engine;
use super::events::Event;

impl Call {
    /// Whether its user calls again, for it ended so.
    pub(super) fn is_tried_again(&self, ended: Ended) -> bool {
        let is_answered = matches!(ended, Ended::Answered { .. });
        self.retries.0 > 0 && !is_answered && !self.is_orphan
    }
}

impl Engine<'_> {
    /// A user whose call was not answered calls again, after a pause.
    pub(super) fn call_again(&mut self, mut call: Call) {
        let (left, pause) = call.retries;
        call.retries.0 = left.saturating_sub(1);
        call.legs.clear();
        call.failing.clear();
        (call.running, call.reply) = (None, None);
        // Under a number of its own: what was planned of the one before is void.
        let call = self.calls.add(call);
        self.events.plan(self.now + pause, Event::Again { call });
    }

    /// It comes to its node again.
    pub(super) fn come_again(&mut self, id: CallId) {
        let Some(call) = self.calls.get(id) else {
            return;
        };
        let (node, function) = (call.origin, call.function);
        let class = (call.class, call.names_class);
        let leg = self.first_leg(node, function, class, self.now);
        self.calls.at(id).legs.push(leg);
        match self.nodes[node as usize].is_alive {
            true => self.decide(id),
            false => self.finish_leg(id, Ended::Unreachable),
        }
    }
}
