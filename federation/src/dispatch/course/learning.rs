//! What a call's policy is told beside what every policy looks at: of the call
//! before it is decided about, and of each attempt when that has ended.

use http_body::Body as _;
use weir_federation_core::placement::Attempted;
use weir_node::executor::AnswerBody;
use weir_node::function::FunctionSpec;
use weir_node::id::FunctionName;
use weir_node::invocation::{Answer, Invocation, InvokeError, Timing};

use super::Course;
use crate::dispatch::offer;
use crate::policy::{Class, Ending, More};
use weir_federation_core::wanted::bring_time;

impl Course<'_> {
    /// What only some policies look at; of a call that runs here `alone`, little.
    pub(super) fn more<'b>(
        &self,
        usual: More<'b>,
        invocation: &'b Invocation,
        alone: bool,
    ) -> More<'b> {
        let (inner, name) = (self.inner, invocation.class.as_deref());
        let class = Class {
            name,
            key: self.placement.arrival().class,
            deadline: None,
        };
        let body_bytes = self.body_bytes;
        if alone {
            return More {
                class,
                body_bytes,
                ..usual
            };
        }
        let absent = self.spec.as_deref().filter(|_| self.absent);
        More {
            class: Class {
                deadline: inner.node.default_deadline(&invocation.function, name),
                ..class
            },
            body_bytes,
            fetch: absent.map(|_| bring_time(self.wanted().needs().code_bytes)),
            rate_max: self.spec.as_deref().and_then(FunctionSpec::max_rate),
            ..usual
        }
    }

    /// Tells the placement how an attempt ended that has an outcome.
    pub(super) fn attempted(
        &mut self,
        function: &FunctionName,
        outcome: &Result<Answer, InvokeError>,
    ) {
        let how = offer::how(outcome);
        let Some(ending) = how.ending() else {
            return;
        };
        let answer = outcome.as_ref().ok();
        let how = Attempted {
            function,
            ending,
            timing: answer.map(|answer| answer.timing).unwrap_or_default(),
            waited_in_vain: how.is_waited_in_vain(),
            sent_bytes: self.body_bytes.unwrap_or(0),
            answer_bytes: answer.map_or(0, |answer| match answer.response.body() {
                AnswerBody::Whole(bytes) => bytes.len() as u64,
                AnswerBody::Stream(body) => body.size_hint().lower(),
            }),
        };
        self.placement.attempted(&how, self.now());
    }

    /// The same of one that a peer did not take, or did not end.
    pub(super) fn in_vain(&mut self, function: &FunctionName, ending: Ending) {
        let how = Attempted {
            function,
            ending,
            timing: Timing::default(),
            waited_in_vain: false,
            sent_bytes: self.body_bytes.unwrap_or(0),
            answer_bytes: 0,
        };
        self.placement.attempted(&how, self.now());
    }
}
