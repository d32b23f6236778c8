//! The door for members of the federation: calls that they send.

use std::sync::Arc;

use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use weir_federation::dispatch::Dispatch;
use weir_node::executor::AnswerBody;

use super::length;
use crate::http::body::{self, BodyLimits};
use crate::http::gate::Gate;
use crate::http::reply::Reply;
use crate::http::{Connection, Handler};

/// Answers members.
pub struct Guests {
    /// Where their calls go.
    pub dispatch: Dispatch,
    /// Bounds of a body.
    pub body: BodyLimits,
    /// Ends bodies that are too slow while calls wait. How many calls of a
    /// member are open is bounded where they came in.
    pub gate: Arc<Gate>,
}

impl Handler for Guests {
    async fn handle(
        connection: Arc<Connection<Self>>,
        request: Request<Incoming>,
    ) -> Response<Reply> {
        let guests = &*connection.handler;
        let Some(member) = connection.member else {
            let mut response = Response::new(Reply::EMPTY);
            *response.status_mut() = StatusCode::FORBIDDEN;
            return response;
        };
        let (parts, incoming) = request.into_parts();
        let (body, verdict) = body::bound(incoming, guests.body, false, Some(&guests.gate));
        let body = length::as_announced(body, &parts.headers);
        let received = guests
            .dispatch
            .receive(member, Request::from_parts(parts, body));
        let response = match &verdict {
            // A sender that breaks off ends its call.
            Some(verdict) => match verdict.look_out_during(received).await {
                Ok(response) => response,
                Err(_) => {
                    let mut response = Response::new(AnswerBody::Whole("".into()));
                    *response.status_mut() = StatusCode::BAD_REQUEST;
                    response
                }
            },
            None => received.await,
        };
        response.map(|body| match body {
            AnswerBody::Whole(bytes) => Reply::Whole(bytes),
            AnswerBody::Stream(body) => Reply::Stream(body),
        })
    }
}
