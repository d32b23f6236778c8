//! Function logs as OpenFaaS clients read them: one JSON object per line.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::stream;
use http::header::{CONTENT_TYPE, HeaderValue};
use http::{Response, StatusCode};
use http_body::Frame;
use http_body_util::StreamBody;
use serde::Serialize;
use tokio::sync::broadcast::{Receiver, error::RecvError};
use weir_node::executor::{Body, BodyError};
use weir_node::id::{CallId, FunctionName};
use weir_node::logs::LogLine;

use super::{Query, function_name, unknown};
use crate::door::Door;
use crate::door::problem::Problem;
use crate::http::Connection;
use crate::http::reply::Reply;

/// What is asked for.
#[derive(Debug, PartialEq, Eq)]
struct Wanted {
    name: FunctionName,
    instance: Option<String>,
    since: Option<jiff::Timestamp>,
    /// The last so many lines; `None` for all.
    tail: Option<usize>,
    follow: bool,
}

fn wrong(message: String) -> Problem {
    Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "bad-query", message)
}

impl Wanted {
    fn parse(query: Query<'_>) -> Result<Wanted, Problem> {
        let name = query.value("name");
        let name = name.ok_or_else(|| wrong("name the function: ?name=NAME".to_owned()))?;
        let namespace = query
            .namespace()
            .map_err(|problem| wrong(problem.message))?;
        let name = function_name(&name, namespace).map_err(|problem| wrong(problem.message))?;
        let since = query.value("since").map(|text| {
            text.parse::<jiff::Timestamp>().map_err(|_| {
                wrong(format!(
                    "since={text:?} is not a time: write 2026-01-31T12:00:00Z"
                ))
            })
        });
        let tail = query.value("tail").map(|text| {
            let lines: i64 = text
                .parse()
                .map_err(|_| wrong(format!("tail={text:?} is not a number of lines")))?;
            // Clients write 0 or -1 for all.
            Ok::<_, Problem>(usize::try_from(lines).ok().filter(|lines| *lines > 0))
        });
        Ok(Wanted {
            name,
            instance: query.value("instance"),
            since: since.transpose()?,
            tail: tail.transpose()?.flatten(),
            follow: query.flag("follow").map_err(wrong)?,
        })
    }
}

/// One line on the wire.
#[derive(Serialize)]
struct Line<'a> {
    name: &'a str,
    namespace: &'a str,
    instance: &'a str,
    timestamp: jiff::Timestamp,
    text: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    call: Option<CallId>,
}

/// What the lines of one answer have in common.
struct Source {
    name: FunctionName,
    instance: String,
}

impl Source {
    fn render(&self, line: &LogLine) -> Bytes {
        let line = Line {
            name: self.name.name(),
            namespace: self.name.namespace.as_str(),
            instance: &self.instance,
            timestamp: line.at,
            text: &line.text,
            call: line.call,
        };
        let mut text = serde_json::to_vec(&line).expect("plain data with text keys");
        text.push(b'\n');
        text.into()
    }

    /// Said in the log's own form, so that every client shows it.
    fn lost(&self, lines: u64) -> Bytes {
        let text =
            format!("[{lines} lines are missing here: they came faster than they were read]");
        let line = serde_json::json!({
            "name": self.name.name(),
            "namespace": self.name.namespace,
            "instance": self.instance,
            "timestamp": jiff::Timestamp::now(),
            "text": text,
        });
        format!("{line}\n").into()
    }
}

/// Answers `/system/logs`.
pub(super) fn answer(
    connection: &Arc<Connection<Door>>,
    query: Query<'_>,
) -> Result<Response<Reply>, Problem> {
    let door = &*connection.handler;
    let wanted = Wanted::parse(query)?;
    let log = door
        .node
        .log(&wanted.name)
        .ok_or_else(|| unknown(&wanted.name))?;
    let (mut lines, receiver) = if wanted.follow {
        let (lines, receiver) = log.follow(wanted.since, wanted.tail);
        (lines, Some(receiver))
    } else {
        (log.read(wanted.since, wanted.tail), None)
    };
    // A follower must not keep the log of a removed function.
    drop(log);
    let source = Source {
        name: wanted.name,
        instance: door.node.id().to_owned(),
    };
    if wanted
        .instance
        .is_some_and(|instance| instance != source.instance)
    {
        lines.clear();
    }
    let reply = match receiver {
        Some(receiver) => follow(door, source, lines, receiver)?,
        None => {
            let text: Vec<u8> = lines.iter().flat_map(|line| source.render(line)).collect();
            Reply::from(text)
        }
    };
    let mut response = Response::new(reply);
    let kind = HeaderValue::from_static("application/x-ndjson");
    response.headers_mut().insert(CONTENT_TYPE, kind);
    Ok(response)
}

/// Sends `lines` and then what `receiver` brings, until the function is
/// removed, the client leaves, or the node stops.
fn follow(
    door: &Door,
    source: Source,
    lines: Vec<LogLine>,
    receiver: Receiver<LogLine>,
) -> Result<Reply, Problem> {
    let place = Arc::clone(&door.followers)
        .try_acquire_owned()
        .map_err(|_| {
            let message =
                "too many readers follow logs on this node: end one, or ask without follow";
            Problem::busy("too-many-followers", message)
        })?;
    let state = (
        source,
        VecDeque::from(lines),
        receiver,
        door.stopping.clone(),
        place,
    );
    let frames = stream::unfold(state, |mut state| async move {
        let (source, lines, receiver, stopping, _place) = &mut state;
        let bytes = match lines.pop_front() {
            Some(line) => source.render(&line),
            None => match stopping.run_until_cancelled(receiver.recv()).await? {
                Ok(line) => source.render(&line),
                Err(RecvError::Lagged(lines)) => source.lost(lines),
                Err(RecvError::Closed) => return None,
            },
        };
        Some((Ok::<_, BodyError>(Frame::data(bytes)), state))
    });
    Ok(Reply::Stream(Body::new(StreamBody::new(Box::pin(frames)))))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(query: &str, expected: Result<Wanted, u16>) {
        let wanted = Wanted::parse(Query(query)).map_err(|problem| problem.status.as_u16());
        assert_eq!(wanted, expected, "{query}");
    }

    #[test]
    fn query_says_what_is_wanted() {
        let name = || "f".parse().expect("valid");
        let all = || Wanted {
            name: name(),
            instance: None,
            since: None,
            tail: None,
            follow: false,
        };
        check("name=f", Ok(all()));
        check("name=f&namespace=openfaas-fn&tail=-1", Ok(all()));
        check(
            "name=f&tail=5&follow=1",
            Ok(Wanted {
                tail: Some(5),
                follow: true,
                ..all()
            }),
        );
        let since = "2026-01-31T12:00:00Z".parse().ok();
        check(
            "name=f&since=2026-01-31T12%3A00%3A00Z",
            Ok(Wanted { since, ..all() }),
        );
    }

    #[test]
    fn query_that_cannot_be_read_is_unprocessable() {
        for query in [
            "",
            "name=",
            "name=a/b",
            "name=f&since=yesterday",
            "name=f&tail=x",
            "name=f&follow=perhaps",
        ] {
            check(query, Err(422));
        }
    }

    #[test]
    fn line_is_one_json_object() {
        let source = Source {
            name: "f".parse().expect("valid"),
            instance: "node".to_owned(),
        };
        let line = LogLine {
            at: "2026-01-31T12:00:00Z".parse().expect("valid"),
            call: Some(CallId::new([1; 16])),
            text: "a\n\"b\"".into(),
        };
        let text = source.render(&line);
        assert_eq!(text.iter().filter(|c| **c == b'\n').count(), 1);
        let json: serde_json::Value = serde_json::from_slice(&text).expect("JSON");
        assert_eq!(json["text"], "a\n\"b\"");
        assert_eq!(json["namespace"], "openfaas-fn");
        assert_eq!(json["timestamp"], "2026-01-31T12:00:00Z");
    }
}
