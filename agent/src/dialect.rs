//! The list of dialects that the door speaks. Each one parses, calls the node
//! and renders; none knows another.

pub mod native;
pub mod openfaas;

use std::sync::Arc;

use http::{Request, Response};
use hyper::body::Incoming;

use crate::door::Door;
use crate::http::Connection;
use crate::http::reply::Reply;

/// Who answers a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    /// A call of a function by OpenFaaS's path, which is also our own.
    OpenFaasCall,
    /// The rest of the OpenFaaS gateway: management and asynchronous calls.
    OpenFaas,
    /// What OpenFaaS has no words for: artifacts, results, the node's status.
    Native,
}

impl Dialect {
    /// The dialect that a path belongs to.
    pub fn of(path: &str) -> Option<Dialect> {
        let first = path.strip_prefix('/')?;
        let first = first.split_once('/').map_or(first, |(first, _)| first);
        match first {
            "function" => Some(Dialect::OpenFaasCall),
            "async-function" | "system" => Some(Dialect::OpenFaas),
            "weir" => Some(Dialect::Native),
            _ => None,
        }
    }

    /// Answers a request of this dialect.
    pub async fn answer(
        self,
        connection: &Arc<Connection<Door>>,
        request: Request<Incoming>,
    ) -> Response<Reply> {
        match self {
            Dialect::OpenFaasCall => openfaas::call(connection, request).await,
            // Boxed, so that the frequent calls do not carry the room that the
            // rare ones need.
            Dialect::OpenFaas => Box::pin(openfaas::answer(connection, request)).await,
            Dialect::Native => Box::pin(native::answer(connection, request)).await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_part_of_the_path_decides() {
        let check = |path, expected| assert_eq!(Dialect::of(path), expected, "{path}");
        check("/function/a/b", Some(Dialect::OpenFaasCall));
        check("/function", Some(Dialect::OpenFaasCall));
        check("/async-function/a", Some(Dialect::OpenFaas));
        check("/system/functions", Some(Dialect::OpenFaas));
        check("/weir/v1/status", Some(Dialect::Native));
        check("/functions/a", None);
        check("/", None);
        check("*", None);
    }
}
