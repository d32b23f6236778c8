//! The simulated executor: a function that is nothing but a model of the time
//! and memory it takes, and that takes them.
//!
//! Its artifact is a JSON document:
//! ```json
//! {"simulated": {
//!   "processor": {"name": "arm", "speed": 1e11, "cores": 4, "memory": 536870912},
//!   "workers": 4,
//!   "operations": {"offset": 4e6, "per-byte": 1e6},
//!   "memory": {"per-byte": 100},
//!   "output": "copy-input"
//! }}
//! ```
//! Functions that name one processor share it. See [`computer`](weir_node_core::computer) for the model.

use std::collections::HashMap;
use std::sync::{Arc, Weak};
use std::time::Instant;

use bytes::{Bytes, BytesMut};
use futures_util::future::BoxFuture;
use http_body_util::BodyExt;
use parking_lot::{Mutex, MutexGuard};
use serde::Deserialize;
use tokio::sync::{Notify, oneshot};
use weir_node_core::computer::{Computer, ComputerError, ContainerId, Model, Output, TaskId};

use super::{
    AnswerBody, Body, Call, CallError, Code, Executor, Instance, Profile, Setup, StartError, Unfit,
};
use crate::clock::Clock;
use crate::function::{FunctionSpec, Protocol};
use crate::resources::Resources;

/// Largest model document: it is a handful of numbers.
const MODEL_BYTES: u64 = 64 << 10;

/// Largest input of a simulated call, which is held whole to be copied.
const INPUT_BYTES: usize = 16 << 20;

/// Runs models instead of code.
pub struct Simulated {
    shared: Arc<Shared>,
}

struct Shared {
    clock: Clock,
    state: Mutex<State>,
    /// Told when a task came or went, so that the driver looks anew.
    changed: Notify,
}

#[derive(Default)]
struct State {
    computer: Computer,
    waiting: HashMap<TaskId, oneshot::Sender<()>>,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        // Every change of the computer is whole before it may panic.
        self.state.lock()
    }
}

impl Simulated {
    /// Starts the task that lets simulated time pass, on the present runtime.
    pub fn start() -> Self {
        let shared = Arc::new(Shared {
            clock: Clock::start(),
            state: Mutex::default(),
            changed: Notify::new(),
        });
        tokio::spawn(drive(Arc::downgrade(&shared)));
        Simulated { shared }
    }
}

/// Ends tasks when their time has come, until the executor is dropped.
async fn drive(shared: Weak<Shared>) {
    let mut ended = Vec::new();
    while let Some(shared) = shared.upgrade() {
        let changed = shared.changed.notified();
        let next = {
            let mut state = shared.state();
            let now = shared.clock.now();
            state.computer.advance(now, &mut ended);
            for task in ended.drain(..) {
                if let Some(done) = state.waiting.remove(&task) {
                    // Nobody waits any more when the caller just left.
                    let _ = done.send(());
                }
            }
            state
                .computer
                .next_end()
                .and_then(|time| shared.clock.instant(time))
        };
        match next {
            Some(at) => {
                let _ = tokio::time::timeout_at(at.into(), changed).await;
            }
            None => changed.await,
        }
    }
}

impl Drop for Simulated {
    fn drop(&mut self) {
        self.shared.changed.notify_one();
    }
}

fn read_model(code: &Code) -> Result<Model, String> {
    let path = code.path()?;
    let size = std::fs::metadata(path).map_err(|e| e.to_string())?.len();
    if size > MODEL_BYTES {
        return Err(format!(
            "a simulated model is at most {MODEL_BYTES} bytes, this has {size}"
        ));
    }
    parse(&std::fs::read(path).map_err(|e| e.to_string())?)
}

/// Reads a model document.
fn parse(document: &[u8]) -> Result<Model, String> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Document {
        simulated: Model,
    }
    let parsed: Result<Document, _> = serde_json::from_slice(document);
    let model = parsed.map_err(|error| format!("not a simulated model: {error}"))?;
    let model = model.simulated;
    model.check()?;
    Ok(model)
}

impl Executor for Simulated {
    fn name(&self) -> &'static str {
        "simulated"
    }

    fn check(&self, spec: &FunctionSpec, code: &Code) -> Result<(), Unfit> {
        if spec.protocol != Protocol::Stdio {
            return Err(Unfit(
                "a simulated function speaks the protocol stdio only".to_owned(),
            ));
        }
        read_model(code).map(|_| ()).map_err(Unfit)
    }

    fn profile(&self, spec: &FunctionSpec) -> Profile {
        // The model's own processors bound it: it holds nothing of the node.
        Profile {
            instance: Resources::ZERO,
            call: Resources::ZERO,
            calls_per_instance: spec.max.unwrap_or(u32::MAX),
            max_instances: 1,
            min_instances: spec.min.min(1),
            keep_alive: spec.keep_alive,
            keeping: spec.keeping.unwrap_or_default(),
        }
    }

    fn prepare(&self, _: Arc<FunctionSpec>, _: Code) -> BoxFuture<'_, Result<(), StartError>> {
        Box::pin(async { Ok(()) })
    }

    fn start(&self, setup: Setup) -> BoxFuture<'_, Result<Arc<dyn Instance>, StartError>> {
        Box::pin(async move {
            let model = read_model(&setup.code).map_err(StartError::Code)?;
            let output = model.output.clone();
            let now = self.shared.clock.now();
            let added = self.shared.state().computer.add(model, now);
            let container = added.map_err(|e| StartError::Code(e.to_string()))?;
            let shared = self.shared.clone();
            Ok(Arc::new(Simulation(Arc::new(Container {
                shared,
                container,
                output,
            }))) as Arc<dyn Instance>)
        })
    }

    fn describe(&self) -> serde_json::Value {
        let state = self.shared.state();
        let busy: serde_json::Map<_, _> = state
            .computer
            .busy()
            .map(|(name, busy)| (name.to_owned(), busy.into()))
            .collect();
        serde_json::json!({ "processors_busy_seconds": busy })
    }
}

/// An instance: a container of the simulated computer, which its calls share.
struct Simulation(Arc<Container>);

/// A container of the simulated computer.
struct Container {
    shared: Arc<Shared>,
    container: ContainerId,
    output: Output,
}

impl Drop for Container {
    fn drop(&mut self) {
        let now = self.shared.clock.now();
        self.shared.state().computer.remove(self.container, now);
        self.shared.changed.notify_one();
    }
}

/// A task that is given up unless it ended.
struct Running<'a> {
    shared: &'a Shared,
    task: TaskId,
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        let now = self.shared.clock.now();
        let mut state = self.shared.state();
        if state.waiting.remove(&self.task).is_some() {
            state.computer.cancel(self.task, now);
            self.shared.changed.notify_one();
        }
    }
}

impl Instance for Simulation {
    fn invoke(
        &self,
        call: Call,
    ) -> BoxFuture<'static, Result<http::Response<AnswerBody>, CallError>> {
        let container = self.0.clone();
        Box::pin(async move {
            let until: Instant = call.until;
            let run = async {
                let input = whole(call.request.into_body()).await?;
                container.take_time(input.len() as u64).await?;
                Ok(match &container.output {
                    Output::CopyInput => input,
                    Output::Fixed(text) => Bytes::from(text.clone()),
                })
            };
            let answer = tokio::time::timeout_at(until.into(), run).await;
            let output = answer.map_err(|_| CallError::TimedOut)??;
            Ok(http::Response::new(AnswerBody::Whole(output)))
        })
    }

    fn stop(&self) -> BoxFuture<'_, ()> {
        Box::pin(async {})
    }
}

/// Reads a body whole, up to [`INPUT_BYTES`].
async fn whole(mut body: Body) -> Result<Bytes, CallError> {
    let mut input = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame.map_err(CallError::Body)?.into_data() else {
            continue;
        };
        if input.len() + data.len() > INPUT_BYTES {
            let text = format!("a simulated function takes at most {INPUT_BYTES} bytes of input");
            return Err(CallError::Failed(text));
        }
        input.extend_from_slice(&data);
    }
    Ok(input.freeze())
}

impl Container {
    async fn take_time(&self, input_bytes: u64) -> Result<(), CallError> {
        let (ended, running) = {
            let mut state = self.shared.state();
            let arrived =
                state
                    .computer
                    .arrive(self.container, input_bytes, self.shared.clock.now());
            let task = arrived.map_err(|error| match error {
                ComputerError::Gone => not_started(&error.to_string()),
                ComputerError::Conflict(_)
                | ComputerError::TooLarge { .. }
                | ComputerError::QueueFull => CallError::Failed(error.to_string()),
            })?;
            let (done, ended) = oneshot::channel();
            state.waiting.insert(task, done);
            (
                ended,
                Running {
                    shared: &self.shared,
                    task,
                },
            )
        };
        self.shared.changed.notify_one();
        let outcome = ended.await;
        drop(running);
        outcome.map_err(|_| not_started("the simulated executor stopped"))
    }
}

fn not_started(reason: &str) -> CallError {
    CallError::NotStarted {
        reason: reason.to_owned(),
        request: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn model_document_says_what_is_wrong() {
        let check = |text: &str, part: &str| {
            let error = parse(text.as_bytes()).expect_err(text);
            assert!(error.contains(part), "{error}");
        };
        check("{}", "simulated");
        check(
            r#"{"simulated":{"processor":{"name":"a","speed":0,"cores":1,"memory":1},"workers":1,"operations":{}}}"#,
            "speed",
        );
        check(
            r#"{"simulated":{"processor":{"name":"a","speed":1,"cores":1,"memory":1},"workers":0,"operations":{}}}"#,
            "workers",
        );
        check(r#"{"simulated":{"wrokers":1}}"#, "wrokers");
    }
}
