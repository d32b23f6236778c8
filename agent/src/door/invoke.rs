//! A call of a function: from a request to an [`Invocation`], and from an
//! [`Answer`] to a response.

use std::io::Write as _;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use futures_util::future::Either;
use http::header::{AUTHORIZATION, CONTENT_LENGTH, EXPECT, HOST, HeaderValue, LOCATION};
use http::request::Parts;
use http::uri::PathAndQuery;
use http::{HeaderMap, Method, Request, Response, StatusCode, Uri, Version};
use http_body::{Frame, SizeHint};
use hyper::body::Incoming;
use tracing::debug;
use weir_federation::dispatch::Dispatch;
use weir_node::estimate::LONGEST_WAIT;
use weir_node::executor::{AnswerBody, Body, BodyError};
use weir_node::function::FunctionSpec;
use weir_node::id::{CallId, FunctionName, Receipt};
use weir_node::invocation::{Answer, Invocation, InvokeError, Phase, Refusal, Start, Timing};
use weir_node::node::Submission;
use weir_node::time::Time;

use super::headers::{
    self, CALL_ID, CALLBACK_URL, COPIES, DEADLINE, DFAAS_NODE, EXPLAIN, FORWARDED_FOR,
    FORWARDED_HOST, FORWARDED_PROTO, QOS, RAN_ON, SERVER, SERVER_TIMING, START, START_TIME,
    WEIR_CALL_ID,
};
use super::problem::Problem;
use super::session::Session;
use super::{Door, length, trace};
use crate::auth::Proof;
use crate::http::Connection;
use crate::http::body::{self, BodyFault, BodyLimits, Taken, Verdict};
use crate::http::gate::Open;
use crate::http::reply::Reply;
use crate::metrics::series::{CLIENT_GONE, Counts, Ended};

/// The longest deadline that means anything; a longer one is as good as none.
const LONGEST_DEADLINE: Duration = Duration::from_secs(366 * 24 * 3600);

/// By how much clocks of timers may be early.
const CLOCK_MARGIN: Duration = Duration::from_millis(5);

/// What a path says after the prefix that all calls share.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Target<'a> {
    /// The function as the caller spells it.
    pub spelled: &'a str,
    /// The path that the function sees; empty for its root.
    pub rest: &'a str,
}

impl<'a> Target<'a> {
    /// Splits `path` after `prefix`, which ends with a slash.
    pub fn parse(path: &'a str, prefix: &str) -> Result<Self, Problem> {
        let after = path.strip_prefix(prefix).unwrap_or_default();
        let end = after.find('/').unwrap_or(after.len());
        let (spelled, rest) = after.split_at(end);
        if spelled.is_empty() {
            let message = format!("the path names no function: call {prefix}NAME");
            return Err(Problem::bad_request(message));
        }
        Ok(Target { spelled, rest })
    }

    /// What the function sees as its address.
    fn uri(self, query: Option<&str>) -> Result<Uri, Problem> {
        if query.is_none() && matches!(self.rest, "" | "/") {
            return Ok(Uri::default());
        }
        let path = if self.rest.is_empty() { "/" } else { self.rest };
        let query_length = query.map_or(0, |query| query.len() + 1);
        let mut text = String::with_capacity(path.len() + query_length);
        text.push_str(path);
        if let Some(query) = query {
            text.push('?');
            text.push_str(query);
        }
        let path = PathAndQuery::from_maybe_shared(Bytes::from(text));
        // A part of a valid path is one; were it not, the caller wrote it.
        path.map(Uri::from)
            .map_err(|error| Problem::bad_request(format!("the path is not valid: {error}")))
    }
}

/// Everything about a call that outlives its request.
struct Caller {
    name: FunctionName,
    counts: Option<Arc<Counts>>,
    id: CallId,
    node_id: HeaderValue,
    /// The caller's own, or the node's.
    shown_id: HeaderValue,
    callers_id: Option<HeaderValue>,
    class: Option<String>,
    deadline: Option<Duration>,
    /// The deadline as the caller wrote it.
    deadline_text: Option<HeaderValue>,
    start_time: HeaderValue,
    explain: bool,
}

/// Reads what the door must know, and leaves what the function may see.
fn prepare(
    connection: &Connection<Door>,
    parts: &mut Parts,
    prefix: &str,
) -> Result<Caller, Problem> {
    let door = &*connection.handler;
    let uri = std::mem::take(&mut parts.uri);
    let target = Target::parse(uri.path(), prefix)?;
    let headers = &mut parts.headers;
    credentials(door, headers)?;
    let (name, counts) = resolve(door, target.spelled)?;
    parts.uri = target.uri(uri.query())?;
    // Functions see one protocol, whichever the client speaks.
    parts.version = Version::HTTP_11;
    headers::join_cookies(headers);
    let class = class(headers)?;
    let deadline = deadline(headers)?;
    let deadline_text = headers.get(DEADLINE).cloned();
    let callers_id = headers::callers_id(headers).cloned();
    let explain = headers.get(EXPLAIN).is_some_and(|value| value == "1");
    headers::strip_request(headers);
    trace::pass_on(headers, rand::random);
    let id = weir_node::clock::call_id();
    let node_id = HeaderValue::try_from(id.to_string()).expect("hexadecimal digits");
    let shown_id = callers_id.as_ref().unwrap_or(&node_id).clone();
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let now = now.unwrap_or_default().as_nanos();
    let start_time = HeaderValue::from(u64::try_from(now).unwrap_or(u64::MAX));
    headers.insert(CALL_ID, shown_id.clone());
    headers.insert(WEIR_CALL_ID, node_id.clone());
    headers.insert(START_TIME, start_time.clone());
    if let Some(authority) = uri.authority() {
        // HTTP/2 names the host in its address and not in a header.
        if !headers.contains_key(HOST)
            && let Ok(host) = HeaderValue::from_str(authority.as_str())
        {
            headers.insert(HOST, host);
        }
    }
    if !headers.contains_key(FORWARDED_HOST)
        && let Some(host) = headers.get(HOST).cloned()
    {
        headers.insert(FORWARDED_HOST, host);
    }
    if !headers.contains_key(FORWARDED_FOR) {
        headers.insert(FORWARDED_FOR, connection.forwarded_for.clone());
    }
    if !headers.contains_key(FORWARDED_PROTO) {
        let proto = if connection.encrypted {
            "https"
        } else {
            "http"
        };
        headers.insert(FORWARDED_PROTO, HeaderValue::from_static(proto));
    }
    Ok(Caller {
        name,
        counts,
        id,
        node_id,
        shown_id,
        callers_id,
        class,
        deadline,
        deadline_text,
        start_time,
        explain,
    })
}

/// Checks credentials where calls need them, and takes the node's own out of
/// the request: no function may learn what manages the node.
fn credentials(door: &Door, headers: &mut HeaderMap) -> Result<(), Problem> {
    if !headers.contains_key(AUTHORIZATION) {
        return match door.protect_functions {
            true => door.credentials.load().require(headers),
            false => Ok(()),
        };
    }
    let credentials = door.credentials.load();
    match credentials.check(headers) {
        Proof::Valid => {
            headers.remove(AUTHORIZATION);
            Ok(())
        }
        Proof::Wrong | Proof::Missing if door.protect_functions => credentials.require(headers),
        Proof::Wrong | Proof::Missing => Ok(()),
    }
}

/// The function that `spelled` names, and its series when it is deployed.
fn resolve(door: &Door, spelled: &str) -> Result<(FunctionName, Option<Arc<Counts>>), Problem> {
    if let Some(known) = door.metrics.board.recall(spelled) {
        return Ok((known.name, Some(known.counts)));
    }
    let name: FunctionName = spelled
        .parse()
        .map_err(|error| Problem::bad_request(format!("{error}")))?;
    // Nobody makes series by calling what is not there.
    let elsewhere = |dispatch: &Dispatch| dispatch.is_known(&name);
    let deployed = door.node.spec(&name).is_some() || door.dispatch.as_ref().is_some_and(elsewhere);
    let counts = deployed.then(|| door.metrics.board.learn(spelled, &name).counts);
    Ok((name, counts))
}

fn class(headers: &HeaderMap) -> Result<Option<String>, Problem> {
    let Some(value) = headers.get(QOS) else {
        return Ok(None);
    };
    let class = value.to_str().map_err(|_| {
        Problem::new(
            StatusCode::BAD_REQUEST,
            "class",
            "X-Weir-Qos is not plain text",
        )
    })?;
    Ok(Some(class.to_owned()))
}

fn deadline(headers: &HeaderMap) -> Result<Option<Duration>, Problem> {
    let Some(value) = headers.get(DEADLINE) else {
        return Ok(None);
    };
    let deadline = value.to_str().ok().and_then(parse_deadline);
    deadline.map(Some).ok_or_else(|| {
        let message = "X-Weir-Deadline is not a duration from arrival: write 200ms, 1.5s as \
                       1500ms, or milliseconds alone";
        Problem::new(StatusCode::BAD_REQUEST, "deadline", message)
    })
}

/// A duration with its unit, or a plain number of milliseconds.
fn parse_deadline(text: &str) -> Option<Duration> {
    let text = text.trim();
    let deadline = if !text.is_empty() && text.bytes().all(|c| c.is_ascii_digit()) {
        Duration::from_millis(text.parse().ok()?)
    } else {
        humantime::parse_duration(text).ok()?
    };
    Some(deadline.min(LONGEST_DEADLINE))
}

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
    // It takes a place when its body is here, or may be waited for.
    let (answered, fault) = match body::take(incoming, limits, linger, &door.gate).await {
        Ok(taken) => {
            let verdict = taken.verdict.clone();
            let run = Running {
                invocation,
                is_session: session.is_some(),
                explain: caller.explain,
            };
            let answered = run.answer(door, taken).await;
            (answered, verdict.and_then(|verdict| verdict.fault()))
        }
        Err(fault) => (Err(InvokeError::Body(fault.into())), Some(fault)),
    };
    let mut response = match answered {
        Ok((answer, open)) if answer.response.status() == StatusCode::SWITCHING_PROTOCOLS => {
            match session {
                Some(session) => switch(connection, (session, open), answer, watch),
                None => render(answer, watch, is_head),
            }
        }
        Ok((answer, _)) => render(answer, watch, is_head),
        Err(error) => {
            let late = match &error {
                InvokeError::Late { phase, .. } => {
                    let asked = Asked {
                        deadline: deadline.map(|deadline| began + deadline),
                        text: caller.deadline_text.as_ref(),
                        by_class: deadline.filter(|_| caller.deadline.is_none()),
                    };
                    Some(asked.whose_time_passed(door, &watch.name, *phase))
                }
                _ => None,
            };
            let mut problem = failure(error, fault, limits);
            if let Some(message) = late {
                problem.message = message;
            }
            door.metrics.refuse(problem.word);
            watch.end(problem.status, None);
            problem.render()
        }
    };
    let headers = response.headers_mut();
    headers.insert(CALL_ID, caller.shown_id);
    headers.insert(START_TIME, caller.start_time);
    if caller.explain {
        headers.insert(EXPLAIN, caller.node_id.clone());
    }
    headers.insert(WEIR_CALL_ID, caller.node_id);
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

/// A call under way. However it ends, it is counted once: dropped before its
/// end, its client has gone away.
struct Watch {
    name: FunctionName,
    id: CallId,
    counts: Option<Arc<Counts>>,
    arrived: Instant,
    /// What to count when nothing else happens; `None` once counted.
    ended: Option<Ended>,
}

impl Watch {
    /// The answer is complete.
    fn end(mut self, status: StatusCode, ran: Option<(Start, Timing)>) {
        let took = self.arrived.elapsed();
        self.count(Ended {
            status: status.as_u16(),
            ran,
            took,
        });
    }

    /// The answer has begun; [`Watch::complete`] or the drop says how it ended.
    fn begun(mut self, status: StatusCode, ran: Option<(Start, Timing)>) -> Begun {
        let took = self.arrived.elapsed();
        self.ended = Some(Ended {
            status: CLIENT_GONE,
            ran,
            took,
        });
        Begun {
            watch: self,
            status,
        }
    }

    fn count(&mut self, ended: Ended) {
        if self.ended.take().is_none() {
            return;
        }
        if let Some(counts) = &self.counts {
            counts.record(ended);
        }
        debug!(
            function = %self.name,
            call = %self.id,
            status = ended.status,
            took = ?ended.took,
            "invocation"
        );
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        if let Some(mut ended) = self.ended {
            if ended.ran.is_none() {
                ended.took = self.arrived.elapsed();
            }
            self.count(ended);
        }
    }
}

/// A call whose answer has begun.
struct Begun {
    watch: Watch,
    status: StatusCode,
}

impl Begun {
    fn complete(mut self, status: StatusCode) {
        if let Some(ended) = self.watch.ended {
            self.watch.count(Ended {
                status: status.as_u16(),
                ..ended
            });
        }
    }
}

/// The rest of an answer, with the call that it belongs to.
struct WatchedStream {
    stream: Body,
    /// Why it broke, until what came before has had a turn to be sent: else the
    /// caller would get nothing of an answer that had begun.
    broken: Option<BodyError>,
    watch: Option<Begun>,
}

impl http_body::Body for WatchedStream {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if let Some(error) = self.broken.take() {
            return Poll::Ready(Some(Err(error)));
        }
        let frame = std::task::ready!(Pin::new(&mut self.stream).poll_frame(context));
        let failed = matches!(frame, Some(Err(_)));
        // Who asks for no more after the last piece has had all of it.
        if (failed || frame.is_none() || self.stream.is_end_stream())
            && let Some(begun) = self.watch.take()
        {
            let status = if failed {
                StatusCode::BAD_GATEWAY
            } else {
                begun.status
            };
            begun.complete(status);
        }
        if let Some(Err(error)) = frame {
            self.broken = Some(error);
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.stream.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.stream.size_hint()
    }
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
    let length = announced(&parts.headers);
    let linger = lingers(&parts.headers);
    if length.is_some_and(|length| length > limits.bytes) {
        let problem = Problem::too_large(limits.bytes, "http.async-body-bytes");
        return decline(door, problem, incoming, linger);
    }
    let callback = parts.headers.remove(CALLBACK_URL);
    let caller = match prepare(connection, &mut parts, prefix) {
        Ok(caller) => caller,
        Err(problem) => return decline(door, problem, incoming, linger),
    };
    length::announce_none(&mut parts, &incoming);
    let wrong = |_| {
        let message = "X-Callback-Url is not plain text: write an http or https URL";
        Problem::new(StatusCode::BAD_REQUEST, "callback", message)
    };
    let text = |value: &HeaderValue| value.to_str().map(str::to_owned);
    let callback = match callback.as_ref().map(text).transpose().map_err(wrong) {
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
        caller_id: caller.callers_id.as_ref().and_then(|id| text(id).ok()),
    };
    let mut response = match door.node.submit(submission).await {
        Ok(receipt) => accepted(&receipt),
        Err(error) => {
            let problem = match verdict.and_then(|verdict| verdict.fault()) {
                Some(fault) => Problem::body(fault, limits.bytes, "http.async-body-bytes"),
                None => error.into(),
            };
            door.metrics.refuse(problem.word);
            problem.render()
        }
    };
    let headers = response.headers_mut();
    headers.insert(CALL_ID, caller.shown_id);
    headers.insert(WEIR_CALL_ID, caller.node_id);
    headers.insert(START_TIME, caller.start_time);
    response
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
mod tests {
    use http_body_util::BodyExt as _;

    use super::*;
    use crate::metrics::series::Series;

    #[test]
    fn path_and_query_reach_the_function_unchanged() {
        let check = |path: &str, expected: &str, name: &str| {
            let uri: Uri = path.parse().expect("a path");
            let target = Target::parse(uri.path(), "/function/").expect("a function");
            assert_eq!(target.spelled, name, "{path}");
            let seen = target.uri(uri.query()).expect("valid");
            assert_eq!(seen.to_string(), expected, "{path}");
        };
        check("/function/hello", "/", "hello");
        check("/function/hello/", "/", "hello");
        check("/function/hello?a=b", "/?a=b", "hello");
        check(
            "/function/hello.shop/a/b%20c?d=%2F&e",
            "/a/b%20c?d=%2F&e",
            "hello.shop",
        );
        check("/function/hello//x", "//x", "hello");
        check("/function/hello/?", "/?", "hello");
    }

    #[test]
    fn empty_name_is_a_bad_request() {
        for path in ["/function/", "/function", "/function//x"] {
            let problem = Target::parse(path, "/function/").expect_err("no name");
            assert_eq!(problem.status, StatusCode::BAD_REQUEST, "{path}");
        }
    }

    #[test]
    fn deadline_is_a_duration_or_milliseconds() {
        let check = |text, millis: Option<u64>| {
            assert_eq!(
                parse_deadline(text),
                millis.map(Duration::from_millis),
                "{text}"
            );
        };
        check("200ms", Some(200));
        check("1m30s", Some(90_000));
        check("250", Some(250));
        check("0", Some(0));
        check("", None);
        check("-5", None);
        check("soon", None);
        check("99999999999999999999", None);
        assert_eq!(parse_deadline("900000years"), Some(LONGEST_DEADLINE));
    }

    #[test]
    fn timing_is_in_milliseconds() {
        let timing = Timing {
            fetched: Duration::ZERO,
            queued: Duration::ZERO,
            started: Duration::from_micros(1234),
            ran: Duration::from_micros(56),
        };
        let expected = "queue;dur=0.000, start;dur=1.234, run;dur=0.056";
        assert_eq!(server_timing(timing), expected);
    }

    fn watch(series: &Arc<Series>) -> Watch {
        Watch {
            name: "f".parse().expect("valid"),
            id: CallId::new([0; 16]),
            counts: Some(series.here()),
            arrived: Instant::now(),
            ended: Some(Ended {
                status: CLIENT_GONE,
                ran: None,
                took: Duration::ZERO,
            }),
        }
    }

    fn series() -> Arc<Series> {
        let board = crate::metrics::series::Board::new(false);
        board.series(&"f".parse().expect("valid"))
    }

    fn counted(series: &Series) -> Vec<(String, u64)> {
        series.codes().collect()
    }

    #[test]
    fn call_that_is_dropped_counts_as_left_by_its_client() {
        let series = series();
        drop(watch(&series));
        assert_eq!(counted(&series), [("499".to_owned(), 1)]);
    }

    #[test]
    fn call_that_ends_counts_once() {
        let series = series();
        watch(&series).end(StatusCode::OK, None);
        assert_eq!(counted(&series), [("200".to_owned(), 1)]);
    }

    fn answer(response: Response<AnswerBody>) -> Answer {
        Answer {
            response,
            ran_on: None,
            start: Start::Warm,
            timing: Timing::default(),
        }
    }

    fn whole(text: &'static str) -> Response<AnswerBody> {
        Response::new(AnswerBody::Whole(Bytes::from_static(text.as_bytes())))
    }

    #[test]
    fn answer_of_a_function_keeps_its_status_and_headers() {
        let mut response = whole("hi");
        *response.status_mut() = StatusCode::IM_A_TEAPOT;
        response
            .headers_mut()
            .insert("x-mine", HeaderValue::from_static("1"));
        response
            .headers_mut()
            .insert("x-weir-start", HeaderValue::from_static("hot"));
        response
            .headers_mut()
            .insert(CONTENT_LENGTH, HeaderValue::from_static("99"));
        let rendered = render(answer(response), watch(&series()), false);
        let headers = rendered.headers();
        assert_eq!(rendered.status(), StatusCode::IM_A_TEAPOT);
        assert_eq!(
            (&headers["x-mine"], &headers[START]),
            (
                &HeaderValue::from_static("1"),
                &HeaderValue::from_static("warm")
            )
        );
        assert!(!headers.contains_key(CONTENT_LENGTH));
    }

    #[test]
    fn head_has_a_length_and_no_body() {
        let rendered = render(answer(whole("hello")), watch(&series()), true);
        assert_eq!(rendered.headers()[CONTENT_LENGTH], "5");
        assert!(matches!(rendered.body(), Reply::Whole(bytes) if bytes.is_empty()));
    }

    #[test]
    fn informational_status_is_no_answer() {
        let mut response = whole("");
        *response.status_mut() = StatusCode::PROCESSING;
        let rendered = render(answer(response), watch(&series()), false);
        assert_eq!(rendered.status(), StatusCode::BAD_GATEWAY);
    }

    fn stream(parts: Vec<Result<&'static str, &'static str>>) -> Response<AnswerBody> {
        let parts = parts.into_iter().map(|part| {
            let frame = part.map(|text| Frame::data(Bytes::from_static(text.as_bytes())));
            frame.map_err(BodyError::from)
        });
        let body = http_body_util::StreamBody::new(futures_util::stream::iter(parts));
        Response::new(AnswerBody::Stream(Body::new(body)))
    }

    #[tokio::test]
    async fn stream_is_counted_when_it_ends() {
        let series = series();
        let response = stream(vec![Ok("a"), Ok("b")]);
        let rendered = render(answer(response), watch(&series), false);
        assert!(counted(&series).is_empty());
        let Reply::Stream(body) = rendered.into_body() else {
            panic!("a stream")
        };
        assert_eq!(body.collect().await.expect("complete").to_bytes(), "ab");
        assert_eq!(counted(&series), [("200".to_owned(), 1)]);
    }

    #[tokio::test]
    async fn stream_that_breaks_counts_as_failed() {
        let series = series();
        let response = stream(vec![Ok("a"), Err("trap")]);
        let rendered = render(answer(response), watch(&series), false);
        let Reply::Stream(body) = rendered.into_body() else {
            panic!("a stream")
        };
        assert!(body.collect().await.is_err());
        assert_eq!(counted(&series), [("502".to_owned(), 1)]);
    }

    #[test]
    fn stream_that_nobody_reads_counts_as_left_by_its_client() {
        let series = series();
        drop(render(answer(stream(vec![Ok("a")])), watch(&series), false));
        assert_eq!(counted(&series), [("499".to_owned(), 1)]);
    }
}
