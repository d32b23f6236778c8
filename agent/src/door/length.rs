//! What a function is told of the length of a request's body. That must depend
//! neither on the version of HTTP nor on how quickly the body came.

use std::pin::Pin;
use std::task::{Context, Poll};

use http::header::{CONTENT_LENGTH, HeaderValue};
use http::request::Parts;
use http::{HeaderMap, Method};
use http_body::{Body as _, Frame, SizeHint};
use hyper::body::Incoming;
use weir_node::executor::{Body, BodyError};

/// Says that there is no body where its method would have one, as HTTP/2 clients
/// and nodes do and HTTP/1.1 clients need not.
pub fn announce_none(parts: &mut Parts, incoming: &Incoming) {
    let seldom_has = [Method::GET, Method::HEAD, Method::DELETE, Method::CONNECT];
    if incoming.is_end_stream() && !seldom_has.contains(&parts.method) {
        let none = HeaderValue::from_static("0");
        parts.headers.entry(CONTENT_LENGTH).or_insert(none);
    }
}

/// A body whose sender did not say how long it is stays one when all of it has
/// come.
pub fn as_announced(body: Body, headers: &HeaderMap) -> Body {
    match headers.contains_key(CONTENT_LENGTH) || body.is_end_stream() {
        true => body,
        false => Body::new(Unannounced(body)),
    }
}

struct Unannounced(Body);

impl http_body::Body for Unannounced {
    type Data = bytes::Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<bytes::Bytes>, BodyError>>> {
        Pin::new(&mut self.0).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let mut hint = SizeHint::new();
        hint.set_lower(self.0.size_hint().lower());
        hint
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::{BodyExt as _, Full};

    use super::*;

    #[test]
    fn only_a_body_whose_length_was_announced_has_one() {
        let body = || Body::new(Full::from("four").map_err(|never| match never {}));
        let mut headers = HeaderMap::new();
        let unknown = as_announced(body(), &headers).size_hint();
        assert_eq!((unknown.lower(), unknown.upper()), (4, None));
        headers.insert(CONTENT_LENGTH, HeaderValue::from_static("4"));
        assert_eq!(as_announced(body(), &headers).size_hint().exact(), Some(4));
    }
}
