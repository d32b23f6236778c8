//! A container that was started, and what it writes.

use std::sync::Arc;

use futures_util::future::BoxFuture;
use weir_docker::LogSink;

use super::super::{AnswerBody, Call, CallError, Instance, Usage};
use crate::id::CallId;
use crate::logs::FunctionLog;

/// A started container.
pub(super) struct Container(pub(super) weir_docker::Instance);

impl Instance for Container {
    fn invoke(
        &self,
        call: Call,
    ) -> BoxFuture<'static, Result<http::Response<AnswerBody>, CallError>> {
        let answer = self.0.invoke(weir_docker::Call {
            request: call.request,
            id: call.id.as_u128(),
            until: call.until,
        });
        Box::pin(async move {
            let response = answer.await.map_err(|error| match error {
                weir_docker::CallError::TimedOut => CallError::TimedOut,
                weir_docker::CallError::Failed(reason) => CallError::Failed(reason),
                weir_docker::CallError::Lost(reason) => CallError::Lost(reason),
                weir_docker::CallError::Body(error) => CallError::Body(error),
                weir_docker::CallError::Unfit(reason) => CallError::Unfit(reason),
                weir_docker::CallError::NotStarted { reason, request } => {
                    CallError::NotStarted { reason, request }
                }
            })?;
            Ok(response.map(|body| match body {
                weir_docker::AnswerBody::Whole(bytes) => AnswerBody::Whole(bytes),
                weir_docker::AnswerBody::Stream(body) => AnswerBody::Stream(body),
            }))
        })
    }

    fn lingers(&self) -> bool {
        true
    }

    fn usage(&self) -> BoxFuture<'_, Option<Usage>> {
        Box::pin(async {
            let weir_docker::Usage { cpu, waited } = self.0.usage().await?;
            Some(Usage { cpu, waited })
        })
    }

    fn ended(&self) -> Option<BoxFuture<'static, String>> {
        Some(Box::pin(self.0.ended()))
    }

    fn stop(&self) -> BoxFuture<'_, ()> {
        self.0.stop();
        Box::pin(async {})
    }
}

/// A function's log, as one container writes to it.
pub(super) struct Sink {
    pub(super) log: Arc<FunctionLog>,
    /// Stands for the calls, which share the container's output.
    pub(super) writer: CallId,
}

impl LogSink for Sink {
    fn write(&self, bytes: &[u8]) {
        self.log.write(self.writer, bytes);
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        self.log.flush(self.writer);
    }
}
