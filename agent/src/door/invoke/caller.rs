//! What of a request is for the door, and what the function sees of it.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::header::{AUTHORIZATION, HOST, HeaderValue};
use http::request::Parts;
use http::uri::PathAndQuery;
use http::{HeaderMap, StatusCode, Uri, Version};
use weir_federation::dispatch::Dispatch;
use weir_node::id::{CallId, FunctionName};

use crate::auth::Proof;
use crate::door::headers::{
    self, CALL_ID, DEADLINE, EXPLAIN, FORWARDED_FOR, FORWARDED_HOST, FORWARDED_PROTO, QOS,
    START_TIME, WEIR_CALL_ID,
};
use crate::door::problem::Problem;
use crate::door::{Door, trace};
use crate::http::Connection;
use crate::metrics::series::Counts;

/// The longest deadline that means anything; a longer one is as good as none.
pub(super) const LONGEST_DEADLINE: Duration = Duration::from_secs(366 * 24 * 3600);

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
    pub(super) fn uri(self, query: Option<&str>) -> Result<Uri, Problem> {
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
pub(super) struct Caller {
    pub(super) name: FunctionName,
    pub(super) counts: Option<Arc<Counts>>,
    pub(super) id: CallId,
    pub(super) marks: Marks,
    pub(super) callers_id: Option<HeaderValue>,
    pub(super) class: Option<String>,
    pub(super) deadline: Option<Duration>,
    /// The deadline as the caller wrote it.
    pub(super) deadline_text: Option<HeaderValue>,
    pub(super) explain: bool,
}

/// What function and caller are told of which call this is.
#[derive(Clone)]
pub(super) struct Marks {
    pub(super) node_id: HeaderValue,
    /// The caller's own, or the node's.
    shown_id: HeaderValue,
    start_time: HeaderValue,
}

impl Marks {
    pub(super) fn put(self, headers: &mut HeaderMap) {
        headers.insert(CALL_ID, self.shown_id);
        headers.insert(WEIR_CALL_ID, self.node_id);
        headers.insert(START_TIME, self.start_time);
    }
}

/// Reads what the door must know, and leaves what the function may see.
pub(super) fn prepare(
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
    let marks = Marks {
        node_id,
        shown_id,
        start_time,
    };
    marks.clone().put(headers);
    forward(headers, &uri, connection);
    Ok(Caller {
        name,
        counts,
        id,
        marks,
        callers_id,
        class,
        deadline,
        deadline_text,
        explain,
    })
}

/// Tells the function by which host, from where and how it was called, unless whoever
/// passed the call on did.
fn forward(headers: &mut HeaderMap, uri: &Uri, connection: &Connection<Door>) {
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
pub(super) fn parse_deadline(text: &str) -> Option<Duration> {
    let text = text.trim();
    let deadline = if !text.is_empty() && text.bytes().all(|c| c.is_ascii_digit()) {
        Duration::from_millis(text.parse().ok()?)
    } else {
        humantime::parse_duration(text).ok()?
    };
    Some(deadline.min(LONGEST_DEADLINE))
}
