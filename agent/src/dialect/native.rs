//! Weir's own routes, for what OpenFaaS has no words for: artifacts, results
//! of asynchronous calls, and the node as a whole.

mod federation;

use std::sync::Arc;

use http::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use serde_json::json;
use weir_federation::copies::Found;
use weir_node::function::Scope;
use weir_node::id::{Digest, FunctionName, IdError, Receipt};
use weir_node::node::{CallResult, CallState, RolledBack};

use crate::door::Door;
use crate::door::headers::{self, CALL_ID, CALL_STATUS, WEIR_CALL_ID};
use crate::door::problem::{ERROR, Problem};
use crate::http::Connection;
use crate::http::body::{self, BodyLimits};
use crate::http::reply::Reply;
use crate::problems;

/// Answers a request below `/weir/`.
pub async fn answer(
    connection: &Arc<Connection<Door>>,
    request: Request<Incoming>,
) -> Response<Reply> {
    let door = &*connection.handler;
    let path = request.uri().path();
    let route = path.strip_prefix("/weir/v1/").unwrap_or_default();
    let (route, name) = route.split_once('/').unwrap_or((route, ""));
    // Who knows a call's id may read its result: it cannot be guessed.
    let answered = if route == "calls" && !name.is_empty() {
        match *request.method() {
            Method::GET => result(door, name, false).await,
            Method::HEAD => result(door, name, true).await,
            _ => Err(Problem::method("GET, HEAD")),
        }
    } else {
        match door.admit(&request) {
            Ok(()) if federation::speaks(route) => {
                return federation::answer(&connection.handler, request).await;
            }
            Ok(()) => return manage(door, route_of(route, name), request).await,
            Err(problem) => Err(problem),
        }
    };
    body::refuse(request.into_body());
    answered.unwrap_or_else(Problem::render)
}

/// What may be managed here.
enum Route {
    Status,
    Artifact(Result<Digest, String>),
    Rollback(Result<FunctionName, String>),
    Nothing,
}

fn route_of(route: &str, name: &str) -> Route {
    match (route, name) {
        ("status", "") => Route::Status,
        ("artifacts", hex) if !hex.is_empty() => {
            Route::Artifact(Digest::from_hex(hex).map_err(|error| error.to_string()))
        }
        ("rollback", name) if !name.is_empty() => {
            Route::Rollback(name.parse().map_err(|error: IdError| error.to_string()))
        }
        _ => Route::Nothing,
    }
}

async fn manage(door: &Door, route: Route, request: Request<Incoming>) -> Response<Reply> {
    let (parts, incoming) = request.into_parts();
    let answered = match (route, &parts.method) {
        (Route::Status, &Method::GET) => Ok(status(door)),
        (Route::Status, _) => Err(Problem::method("GET")),
        (Route::Artifact(Err(message)), _) => Err(Problem::bad_request(message)),
        (Route::Artifact(Ok(digest)), &Method::PUT) => {
            return put(door, digest, incoming)
                .await
                .unwrap_or_else(Problem::render);
        }
        (Route::Artifact(Ok(digest)), &Method::HEAD) => has(door, &digest),
        (Route::Artifact(Ok(_)), _) => Err(Problem::method("PUT, HEAD")),
        (Route::Rollback(Err(message)), _) => Err(Problem::bad_request(message)),
        (Route::Rollback(Ok(name)), &Method::POST) => roll_back(door, &name).await,
        (Route::Rollback(Ok(_)), _) => Err(Problem::method("POST")),
        (Route::Nothing, _) => Err(Problem::not_found(format!(
            "there is nothing at {:?}",
            parts.uri.path()
        ))),
    };
    body::refuse(incoming);
    answered.unwrap_or_else(Problem::render)
}

async fn put(door: &Door, digest: Digest, incoming: Incoming) -> Result<Response<Reply>, Problem> {
    let length = http_body::Body::size_hint(&incoming).exact();
    // The node bounds it, and knows by how much.
    let limits = BodyLimits {
        bytes: u64::MAX,
        gap: door.body.gap,
    };
    let (body, verdict) = body::bound(incoming, limits, true, None);
    let created =
        door.node
            .put_artifact(digest, length, body)
            .await
            .map_err(|error| match verdict.and_then(|verdict| verdict.fault()) {
                Some(fault) => Problem::body(fault, limits.bytes, "artifacts.max-bytes"),
                None => error.into(),
            })?;
    let mut response = Response::new(Reply::EMPTY);
    *response.status_mut() = if created {
        StatusCode::CREATED
    } else {
        StatusCode::OK
    };
    Ok(response)
}

async fn roll_back(door: &Door, name: &FunctionName) -> Result<Response<Reply>, Problem> {
    let spec = door.node.spec(name);
    let told = door.dispatch.as_ref();
    let told = told.filter(|_| spec.is_some_and(|spec| spec.scope != Scope::Node));
    let done = match door.node.roll_back(name, told.is_some()).await? {
        RolledBack::Kept(version) => json!({ "serves": version, "given_up": true }),
        RolledBack::Returned {
            to,
            as_version,
            at_once,
        } => {
            // Of one that takes the place of another it is told when it does.
            if let (Some(dispatch), true) = (told, at_once)
                && let Some(spec) = door.node.spec(name)
            {
                dispatch.announce(&spec).await?;
            }
            json!({ "to": to, "version": as_version })
        }
    };
    Ok(json_answer(StatusCode::OK, &done))
}

fn has(door: &Door, digest: &Digest) -> Result<Response<Reply>, Problem> {
    let size = door.node.artifact(digest);
    let size = size.ok_or_else(|| Problem::not_found(format!("this node has no {digest}")))?;
    let mut response = Response::new(Reply::EMPTY);
    response
        .headers_mut()
        .insert(CONTENT_LENGTH, HeaderValue::from(size));
    Ok(response)
}

fn status(door: &Door) -> Response<Reply> {
    let mut status = json!(door.node.status());
    status["problems"] = json!(problems::of(door));
    status["connections"] = json!(door.traffic.open());
    if let Some(dispatch) = &door.dispatch {
        status["federation"] = federation::status(dispatch);
    }
    json_answer(StatusCode::OK, &status)
}

fn json_answer(status: StatusCode, body: &serde_json::Value) -> Response<Reply> {
    let mut response = Response::new(Reply::from(body.to_string()));
    *response.status_mut() = status;
    let json = HeaderValue::from_static("application/json");
    response.headers_mut().insert(CONTENT_TYPE, json);
    response
}

async fn result(door: &Door, id: &str, is_head: bool) -> Result<Response<Reply>, Problem> {
    let id: Receipt = id
        .parse()
        .map_err(|error| Problem::bad_request(format!("{error}")))?;
    let found = match &door.dispatch {
        Some(dispatch) => dispatch.find(&id).await?,
        None => match door.node.call(id.call).await? {
            Some(state) => Found::State(state),
            None => Found::Unknown,
        },
    };
    let shown = HeaderValue::try_from(id.call.to_string()).expect("hexadecimal digits");
    let mut response = match found {
        Found::State(CallState::Pending) => json_answer(
            StatusCode::ACCEPTED,
            &json!({ "call": id.to_string(), "state": "pending" }),
        ),
        Found::State(CallState::Done(result)) => render(result, &shown),
        Found::Unknown => {
            let message =
                "no result is kept under this id: it is unknown here, or its time has passed";
            return Err(Problem::not_found(message));
        }
        Found::Unreachable => {
            let message = "the nodes that may keep this call cannot be asked now: try again";
            return Err(Problem::unavailable("unreachable", message));
        }
    };
    response.headers_mut().insert(WEIR_CALL_ID, shown);
    if is_head {
        if let Reply::Whole(bytes) = response.body() {
            let length = HeaderValue::from(bytes.len());
            response
                .headers_mut()
                .entry(CONTENT_LENGTH)
                .or_insert(length);
        }
        *response.body_mut() = Reply::EMPTY;
    }
    Ok(response)
}

fn render(result: CallResult, id: &HeaderValue) -> Response<Reply> {
    let mut response = Response::new(Reply::Stream(result.body));
    let kept = response.headers_mut();
    *kept = result.headers;
    headers::strip_answer(kept);
    // That of the body as it is kept is the right one.
    kept.insert(CONTENT_LENGTH, HeaderValue::from(result.body_bytes));
    kept.insert(CALL_STATUS, HeaderValue::from(result.status.as_u16()));
    let callers = result
        .caller_id
        .and_then(|id| HeaderValue::try_from(id).ok());
    kept.insert(CALL_ID, callers.unwrap_or_else(|| id.clone()));
    if let Some(Ok(word)) = result.error.map(HeaderValue::try_from) {
        kept.insert(ERROR, word);
    }
    response
}

#[cfg(test)]
mod tests {
    use http::HeaderMap;
    use http_body_util::{BodyExt as _, Full};
    use weir_node::executor::Body;

    use super::*;

    #[test]
    fn result_is_the_functions_answer_under_a_status_of_our_own() {
        let mut kept = HeaderMap::new();
        for (name, value) in [
            ("content-type", "text/css"),
            ("x-weir-node", "me"),
            ("content-length", "77"),
        ] {
            kept.insert(name, HeaderValue::from_static(value));
        }
        let result = CallResult {
            status: StatusCode::IM_A_TEAPOT,
            headers: kept,
            body: Body::new(Full::from("hi").map_err(|never| match never {})),
            body_bytes: 2,
            error: Some("late".to_owned()),
            ended_at: jiff::Timestamp::UNIX_EPOCH,
            attempts: 1,
            caller_id: Some("theirs".to_owned()),
        };
        let response = render(result, &HeaderValue::from_static("07"));
        let headers = response.headers();
        assert_eq!(response.status(), StatusCode::OK);
        assert_eq!(headers[CALL_ID], "theirs");
        assert_eq!(
            (&headers[CALL_STATUS], &headers[ERROR]),
            (
                &HeaderValue::from_static("418"),
                &HeaderValue::from_static("late")
            )
        );
        assert_eq!(
            (&headers[CONTENT_TYPE], &headers[CONTENT_LENGTH]),
            (
                &HeaderValue::from_static("text/css"),
                &HeaderValue::from_static("2")
            )
        );
        assert_eq!(headers.len(), 5);
    }

    #[test]
    fn artifact_is_named_by_its_digits() {
        let digest = Digest::of(b"x");
        assert!(matches!(
            route_of("artifacts", &digest.hex()),
            Route::Artifact(Ok(found)) if found == digest
        ));
        assert!(matches!(
            route_of("artifacts", "../x"),
            Route::Artifact(Err(_))
        ));
        assert!(matches!(route_of("artifacts", ""), Route::Nothing));
        assert!(matches!(route_of("status", "x"), Route::Nothing));
    }
}
