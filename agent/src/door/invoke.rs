//! A call of a function: from a request to an [`Invocation`], and from an
//! [`Answer`] to a response.

mod caller;
mod watch;

use std::io::Write as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::future::Either;
use http::header::{CONTENT_LENGTH, EXPECT, HeaderValue, LOCATION};
use http::{HeaderMap, Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use weir_node::estimate::LONGEST_WAIT;
use weir_node::executor::{AnswerBody, Body};
use weir_node::function::FunctionSpec;
use weir_node::id::{FunctionName, Receipt};
use weir_node::invocation::{Answer, Invocation, InvokeError, Phase, Refusal, Timing};
use weir_node::node::{Submission, SubmitError};
use weir_node::time::Time;

pub use self::caller::Target;
use self::caller::prepare;
use self::watch::{Watch, WatchedStream};
use super::headers::{
    self, CALLBACK_URL, COPIES, DFAAS_NODE, EXPLAIN, RAN_ON, SERVER, SERVER_TIMING, START,
};
use super::problem::Problem;
use super::session::Session;
use super::{Door, length};
use crate::http::Connection;
use crate::http::body::{self, BodyFault, BodyLimits, Taken, Verdict};
use crate::http::gate::Open;
use crate::http::reply::Reply;
use crate::metrics::series::{CLIENT_GONE, Ended};

/// By how much clocks of timers may be early.
const CLOCK_MARGIN: Duration = Duration::from_millis(5);

/// The length that a request announces.
fn announced(headers: &HeaderMap) -> Option<u64> {
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// Whether a body that is not wanted is taken nevertheless: not when its
/// sender waits to be asked for it.
fn lingers(headers: &HeaderMap) -> bool {
    !headers.contains_key(EXPECT)
}

/// Answers a request without its body being read.
fn decline(door: &Door, problem: Problem, incoming: Incoming, linger: bool) -> Response<Reply> {
    if linger {
        body::refuse(incoming);
    }
    door.metrics.refuse(problem.word);
    problem.render()
}

/// Runs a call and waits for its answer.
pub async fn wait(
    connection: &Arc<Connection<Door>>,
    request: Request<Incoming>,
    prefix: &'static str,
) -> Response<Reply> {
    let door = &*connection.handler;
    let (arrived, began) = (Instant::now(), door.node.clock().now());
    let (mut parts, incoming) = request.into_parts();
    let linger = lingers(&parts.headers);
    let limits = door.body;
    if announced(&parts.headers).is_some_and(|length| length > limits.bytes) {
        let problem = Problem::too_large(limits.bytes, "http.body-bytes");
        return decline(door, problem, incoming, linger);
    }
    let is_head = parts.method == Method::HEAD;
    let session = Session::asked(&mut parts);
    let caller = match prepare(connection, &mut parts, prefix) {
        Ok(caller) => caller,
        Err(problem) => return decline(door, problem, incoming, linger),
    };
    length::announce_none(&mut parts, &incoming);
    let session = session.filter(|_| Session::is_for(door, &caller.name));
    if session.is_some() {
        Session::ask(&mut parts.headers);
    }
    let class = caller.class.as_deref();
    let by_class = || door.node.default_deadline(&caller.name, class);
    let deadline = caller.deadline.or_else(by_class);
    let watch = Watch {
        name: caller.name.clone(),
        id: caller.id,
        counts: caller.counts,
        arrived,
        ended: Some(Ended {
            status: CLIENT_GONE,
            ran: None,
            took: Duration::ZERO,
        }),
    };
    let invocation = Invocation {
        id: caller.id,
        function: caller.name,
        request: Request::from_parts(parts, Body::default()),
        class: caller.class,
        deadline: deadline.map(|deadline| began + deadline),
        persists_until: None,
    };
    let run = Running {
        invocation,
        is_session: session.is_some(),
        explain: caller.explain,
    };
    let (answered, fault) = run.begin(door, incoming, linger).await;
    let mut response = match answered {
        Ok((answer, open)) if answer.response.status() == StatusCode::SWITCHING_PROTOCOLS => {
            match session {
                Some(session) => switch(connection, (session, open), answer, watch),
                None => render(answer, watch, is_head),
            }
        }
        Ok((answer, _)) => render(answer, watch, is_head),
        Err(error) => {
            let asked = Asked {
                deadline: deadline.map(|deadline| began + deadline),
                text: caller.deadline_text.as_ref(),
                by_class: deadline.filter(|_| caller.deadline.is_none()),
            };
            let problem = asked.problem(door, &watch.name, (error, fault));
            door.metrics.refuse(problem.word);
            watch.end(problem.status, None);
            problem.render()
        }
    };
    let headers = response.headers_mut();
    if caller.explain {
        headers.insert(EXPLAIN, caller.marks.node_id.clone());
    }
    caller.marks.put(headers);
    if door.dispatch.is_some() {
        let ran_on = headers.get(RAN_ON).unwrap_or(&door.node_header).clone();
        headers.insert(DFAAS_NODE, ran_on);
        headers.insert(SERVER, door.server_header.clone());
    }
    response
}

/// By when a call was wanted.
struct Asked<'a> {
    deadline: Option<Time>,
    /// As the caller wrote it.
    text: Option<&'a HeaderValue>,
    /// The class's, where the caller wrote none.
    by_class: Option<Duration>,
}

impl Asked<'_> {
    /// What a caller is told whose call has no answer.
    fn problem(
        &self,
        door: &Door,
        name: &FunctionName,
        (error, fault): (InvokeError, Option<BodyFault>),
    ) -> Problem {
        let late = match &error {
            InvokeError::Late { phase, .. } => Some(self.whose_time_passed(door, name, *phase)),
            _ => None,
        };
        let mut problem = failure(error, fault, door.body);
        if let Some(message) = late {
            problem.message = message;
        }
        problem
    }

    /// What a caller is told whose call was not answered in time.
    fn whose_time_passed(&self, door: &Door, name: &FunctionName, phase: Phase) -> String {
        let during = match phase {
            Phase::Queue => "while the call waited for a free place",
            Phase::Start => "while an instance was started for it",
            Phase::Run => "and the function did not answer",
        };
        let now = door.node.clock().now();
        // A peer that ends a call at its deadline tells a little before.
        let passed = |deadline: &Time| *deadline <= now + CLOCK_MARGIN;
        let spec = door.node.spec(name);
        let by_deadline = self.deadline.as_ref().is_some_and(passed) || spec.is_none();
        match (self.text, self.by_class, spec) {
            (Some(text), _, _) if by_deadline => {
                let text = String::from_utf8_lossy(text.as_bytes());
                format!(
                    "the caller's deadline of {} (X-Weir-Deadline) passed {during}",
                    text.trim()
                )
            }
            (None, Some(deadline), _) if by_deadline => format!(
                "the deadline of {} that its class has (qos.deadline) passed {during}",
                humantime::format_duration(deadline)
            ),
            (_, _, Some(spec)) => format!(
                "the function's timeout of {} passed {during}",
                humantime::format_duration(spec.timeout)
            ),
            (_, _, None) => format!("the function's timeout passed {during}"),
        }
    }
}

/// A call whose body has been taken as far as it came.
struct Running {
    invocation: Invocation,
    /// Whether its connection may become its function's.
    is_session: bool,
    explain: bool,
}

impl Running {
    /// Takes its body, and runs it. What is returned beside what came of it is what
    /// was wrong with the body.
    async fn begin(
        self,
        door: &Door,
        incoming: Incoming,
        linger: bool,
    ) -> (
        Result<(Answer, Option<Open>), InvokeError>,
        Option<BodyFault>,
    ) {
        // It takes a place when its body is here, or may be waited for.
        match body::take(incoming, door.body, linger, &door.gate).await {
            Ok(taken) => {
                let verdict = taken.verdict.clone();
                let answered = self.answer(door, taken).await;
                (answered, verdict.and_then(|verdict| verdict.fault()))
            }
            Err(fault) => (Err(InvokeError::Body(fault.into())), Some(fault)),
        }
    }

    /// Runs it. What is returned beside the answer is its right to be open,
    /// where that is not bound to the body.
    async fn answer(
        mut self,
        door: &Door,
        taken: Taken,
    ) -> Result<(Answer, Option<Open>), InvokeError> {
        let verdict = taken.verdict;
        let mut open = match taken.open || self.is_session {
            true => {
                let claim = self.claim(door);
                Box::pin(enter(door, claim, verdict.as_ref())).await?
            }
            false => None,
        };
        if let Some(verdict) = &verdict
            && !self.is_session
            && let Some(open) = open.take()
        {
            verdict.hold(open);
        }
        let request = &mut self.invocation.request;
        *request.body_mut() = length::as_announced(taken.body, request.headers());
        let explain = self.explain.then(|| self.invocation.id.to_string());
        let call = match &door.dispatch {
            // A session is bound to this connection, and so to this node.
            Some(dispatch) if !self.is_session => {
                Either::Left(dispatch.invoke(self.invocation, explain))
            }
            Some(_) | None => {
                door.may_run_here(&self.invocation.function)?;
                Either::Right(door.node.invoke(self.invocation))
            }
        };
        let answered = match &verdict {
            // Boxed, so that calls whose bodies are here do not carry its room.
            Some(verdict) => match Box::pin(verdict.look_out_during(call)).await {
                Ok(answered) => answered,
                Err(fault) => Err(InvokeError::Body(fault.into())),
            },
            None => call.await,
        };
        answered.map(|answer| (answer, open))
    }

    /// What it would hold if it were open, in thousandths of a core, and how long
    /// it may wait for that.
    fn claim(&self, door: &Door) -> (u32, Duration) {
        let spec = door.node.spec(&self.invocation.function);
        let cpu = spec.and_then(|spec| spec.cpu);
        let cpu = cpu.unwrap_or(FunctionSpec::UNDECLARED_CPU).as_millicores();
        let now = door.node.clock().now();
        let left = self.invocation.deadline.map(|deadline| deadline.since(now));
        (
            cpu,
            left.map_or(LONGEST_WAIT, |left| left.min(LONGEST_WAIT)),
        )
    }
}

/// Waits until a call may be open, or until its body is here whole.
async fn enter(
    door: &Door,
    (cpu, patience): (u32, Duration),
    verdict: Option<&Verdict>,
) -> Result<Option<Open>, InvokeError> {
    let whole = async {
        match verdict {
            Some(verdict) => verdict.until_whole().await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        biased;
        open = door.gate.enter(cpu) => Ok(open),
        whole = whole => match whole {
            Ok(()) => Ok(None),
            Err(fault) => Err(InvokeError::Body(fault.into())),
        },
        () = tokio::time::sleep(patience) => {
            Err(door.node.refused(Refusal::TooManyOpen, patience))
        }
    }
}

/// What the caller is told of a call without an answer. When its own body was
/// at fault, that is the reason, whatever the function made of it.
fn failure(error: InvokeError, fault: Option<BodyFault>, limits: BodyLimits) -> Problem {
    let by_body = matches!(error, InvokeError::Body(_) | InvokeError::Failed(_));
    match fault {
        Some(fault) if by_body => Problem::body(fault, limits.bytes, "http.body-bytes"),
        _ => error.into(),
    }
}

/// Gives a caller's connection to its function.
fn switch(
    connection: &Arc<Connection<Door>>,
    (session, open): (Session, Option<Open>),
    mut answer: Answer,
    watch: Watch,
) -> Response<Reply> {
    let ran = Some((answer.start, answer.timing));
    let timeout = connection
        .handler
        .node
        .function(&watch.name)
        .map_or(Duration::ZERO, |function| function.spec.timeout);
    headers::strip_answer(answer.response.headers_mut());
    let ended = move || {
        drop(open);
        watch.end(StatusCode::SWITCHING_PROTOCOLS, ran);
    };
    let left = timeout.saturating_sub(answer.timing.ran);
    let mut response = session.begin(connection, answer.response, left, ended);
    let start = HeaderValue::from_static(answer.start.as_str());
    response.headers_mut().insert(START, start);
    response
}

fn render(answer: Answer, watch: Watch, is_head: bool) -> Response<Reply> {
    let (mut parts, body) = answer.response.into_parts();
    let ran = Some((answer.start, answer.timing));
    if parts.status.is_informational() {
        let message = format!(
            "the function answered with status {}, which is not the end of an answer",
            parts.status
        );
        let problem = Problem::new(StatusCode::BAD_GATEWAY, "function-failed", message);
        watch.end(problem.status, ran);
        return problem.render();
    }
    let headers = &mut parts.headers;
    headers::strip_answer(headers);
    let status = parts.status;
    let reply = match body {
        AnswerBody::Whole(bytes) if is_head => {
            if !headers.contains_key(CONTENT_LENGTH) && !bytes.is_empty() {
                headers.insert(CONTENT_LENGTH, HeaderValue::from(bytes.len()));
            }
            watch.end(status, ran);
            Reply::EMPTY
        }
        AnswerBody::Whole(bytes) => {
            // What is there is the length, whatever the function said.
            headers.remove(CONTENT_LENGTH);
            watch.end(status, ran);
            Reply::Whole(bytes)
        }
        AnswerBody::Stream(stream) if is_head => {
            drop(stream);
            watch.end(status, ran);
            Reply::EMPTY
        }
        AnswerBody::Stream(stream) => {
            let watched = WatchedStream {
                stream,
                broken: None,
                watch: Some(watch.begun(status, ran)),
            };
            Reply::Stream(Body::new(watched))
        }
    };
    headers.insert(START, HeaderValue::from_static(answer.start.as_str()));
    if let Some(Ok(node)) = answer.ran_on.as_deref().map(HeaderValue::try_from) {
        headers.insert(RAN_ON, node);
    }
    headers.append(SERVER_TIMING, server_timing(answer.timing));
    Response::from_parts(parts, reply)
}

/// The three times in milliseconds, to the microsecond.
fn server_timing(timing: Timing) -> HeaderValue {
    let mut text = Vec::with_capacity(64);
    let phases = [
        ("fetch;dur=", timing.fetched),
        ("queue;dur=", timing.queued),
        (", start;dur=", timing.started),
        (", run;dur=", timing.ran),
    ];
    // Code is fetched seldom.
    let skipped = usize::from(timing.fetched.is_zero());
    for (at, (name, duration)) in phases.into_iter().enumerate().skip(skipped) {
        if at == 1 && skipped == 0 {
            text.extend(b", ");
        }
        let micros = duration.as_micros();
        // Writing into a Vec cannot fail.
        let _ = write!(text, "{name}{}.{:03}", micros / 1000, micros % 1000);
    }
    HeaderValue::from_maybe_shared(Bytes::from(text)).expect("digits and punctuation")
}

fn text(value: &HeaderValue) -> Option<String> {
    value.to_str().ok().map(str::to_owned)
}

fn callback_url(value: &HeaderValue) -> Result<String, Problem> {
    text(value).ok_or_else(|| {
        let message = "X-Callback-Url is not plain text: write an http or https URL";
        Problem::new(StatusCode::BAD_REQUEST, "callback", message)
    })
}

/// Accepts a call to be run later.
pub async fn submit(
    connection: &Connection<Door>,
    request: Request<Incoming>,
    prefix: &'static str,
) -> Response<Reply> {
    let door = &*connection.handler;
    let arrived = door.node.clock().now();
    let (mut parts, incoming) = request.into_parts();
    let limits = BodyLimits {
        bytes: door.async_body_bytes,
        gap: door.body.gap,
    };
    let linger = lingers(&parts.headers);
    if announced(&parts.headers).is_some_and(|length| length > limits.bytes) {
        let problem = Problem::too_large(limits.bytes, "http.async-body-bytes");
        return decline(door, problem, incoming, linger);
    }
    let callback = parts.headers.remove(CALLBACK_URL);
    let caller = match prepare(connection, &mut parts, prefix) {
        Ok(caller) => caller,
        Err(problem) => return decline(door, problem, incoming, linger),
    };
    length::announce_none(&mut parts, &incoming);
    let callback = match callback.as_ref().map(callback_url).transpose() {
        Ok(callback) => callback,
        Err(problem) => return decline(door, problem, incoming, linger),
    };
    if door.dispatch.is_none()
        && let Err(error) = door.may_run_here(&caller.name)
    {
        return decline(door, error.into(), incoming, linger);
    }
    // The node counts the bytes as they come, and tells the same.
    let (body, verdict) = body::bound(incoming, limits, linger, None);
    let body = length::as_announced(body, &parts.headers);
    let submission = Submission {
        invocation: Invocation {
            id: caller.id,
            function: caller.name,
            request: Request::from_parts(parts, body),
            class: caller.class,
            deadline: caller.deadline.map(|deadline| arrived + deadline),
            // The node says when it is run.
            persists_until: None,
        },
        body_bytes: limits.bytes,
        callback,
        caller_id: caller.callers_id.as_ref().and_then(text),
    };
    let mut response = match door.node.submit(submission).await {
        Ok(receipt) => accepted(&receipt),
        Err(error) => {
            let problem = not_accepted(error, verdict.as_ref(), limits);
            door.metrics.refuse(problem.word);
            problem.render()
        }
    };
    caller.marks.put(response.headers_mut());
    response
}

/// What the caller is told of a call that was not accepted, for what its body did
/// where that was at fault.
fn not_accepted(error: SubmitError, verdict: Option<&Verdict>, limits: BodyLimits) -> Problem {
    match verdict.and_then(Verdict::fault) {
        Some(fault) => Problem::body(fault, limits.bytes, "http.async-body-bytes"),
        None => error.into(),
    }
}

fn accepted(receipt: &Receipt) -> Response<Reply> {
    let id = receipt.to_string();
    let mut response = Response::new(Reply::EMPTY);
    *response.status_mut() = StatusCode::ACCEPTED;
    let location = HeaderValue::try_from(format!("/weir/v1/calls/{id}"));
    let headers = response.headers_mut();
    headers.insert(LOCATION, location.expect("a path of plain text"));
    if let Some(copies) = receipt.nodes.len().checked_sub(1) {
        headers.insert(COPIES, HeaderValue::from(copies));
    }
    response
}

#[cfg(test)]
mod tests;
