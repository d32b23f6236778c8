//! WebSockets: a call whose connection becomes its function's.
//!
//! The handshake is a call like any other. Once the function has answered it
//! with 101, bytes pass both ways, and the call keeps its place, until one
//! side ends, the function's timeout is over, or the node stops.

use std::sync::Arc;
use std::time::Duration;

use http::header::{CONNECTION, HeaderValue, UPGRADE};
use http::request::Parts;
use http::{HeaderMap, Response, StatusCode, Version};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tracing::debug;
use weir_node::executor::AnswerBody;
use weir_node::function::{ArtifactKind, Protocol};
use weir_node::id::FunctionName;

use super::Door;
use crate::http::Connection;
use crate::http::reply::Reply;

/// The one protocol that is passed on.
const WEBSOCKET: HeaderValue = HeaderValue::from_static("websocket");

/// A caller that wants its connection to become a WebSocket.
pub struct Session {
    caller: OnUpgrade,
}

impl Session {
    /// Reads whether a request asks for one.
    pub fn asked(parts: &mut Parts) -> Option<Session> {
        let caller = parts.extensions.remove::<OnUpgrade>()?;
        let wanted = parts.headers.get(UPGRADE)?;
        let fits = wanted.as_bytes().eq_ignore_ascii_case(WEBSOCKET.as_bytes());
        (fits && parts.version == Version::HTTP_11).then_some(Session { caller })
    }

    /// Whether a function could answer that: others never see the wish.
    pub fn is_for(door: &Door, name: &FunctionName) -> bool {
        let Some(function) = door.node.function(name) else {
            return false;
        };
        let image = match function.spec.kind {
            ArtifactKind::ImageName | ArtifactKind::ImageArchive => true,
            ArtifactKind::SourceArchive => function.spec.container.image.is_some(),
            ArtifactKind::WasmModule
            | ArtifactKind::WasmComponent
            | ArtifactKind::WasmText
            | ArtifactKind::SimulatedModel => false,
        };
        image && function.spec.protocol == Protocol::Http
    }

    /// Puts the wish back among the headers that the function sees.
    pub fn ask(headers: &mut HeaderMap) {
        headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
        headers.insert(UPGRADE, WEBSOCKET);
    }

    /// Answers with 101 and joins the two sides for at most `left`. `ended`
    /// is called at the end.
    pub fn begin(
        self,
        connection: &Arc<Connection<Door>>,
        answer: Response<AnswerBody>,
        left: Duration,
        ended: impl FnOnce() + Send + 'static,
    ) -> Response<Reply> {
        let (mut parts, place) = answer.into_parts();
        let function = parts.extensions.remove::<OnUpgrade>();
        // Counted as open, and its request as running, as long as it lasts.
        let connection = Arc::clone(connection);
        tokio::spawn(async move {
            let joined = async {
                let function = function.ok_or("the function kept its connection")?;
                let (caller, function) =
                    tokio::try_join!(self.caller, function).map_err(|_| "a side left at once")?;
                let (mut caller, mut function) = (TokioIo::new(caller), TokioIo::new(function));
                let copied = tokio::io::copy_bidirectional(&mut caller, &mut function).await;
                copied.map(drop).map_err(|_| "a side broke off")
            };
            let outcome = tokio::select! {
                joined = joined => joined,
                () = tokio::time::sleep(left) => Err("the function's time is over"),
                () = connection.handler.stopping.cancelled() => Err("the node stops"),
            };
            debug!(peer = %connection.peer, ?outcome, "WebSocket ended");
            drop(place);
            ended();
        });
        parts.status = StatusCode::SWITCHING_PROTOCOLS;
        Self::ask(&mut parts.headers);
        Response::from_parts(parts, Reply::EMPTY)
    }
}
